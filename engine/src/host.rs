//! The host that the packets pass: its devices, their addresses, and which way leads where.
//!
//! As little of a routing table as NAT needs: MASQUERADE and REDIRECT ask for a device's
//! address, destination NAT may change where a packet goes.

use crate::addr::Addr;
use crate::rules::Network;

/// A network device by its number (`ifindex`), from 1.
pub type DeviceIndex = u32;

/// Number of the loopback device.
pub const LOOPBACK: DeviceIndex = 1;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number; [`LOOPBACK`] is `lo`.
    pub index: DeviceIndex,
    /// Its name, as rules match it.
    pub name: String,
    /// Its addresses with their networks, the primary first.
    pub addresses: Vec<Network>,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To this host itself.
    Local,
    /// Out through a device.
    Out(DeviceIndex),
}

/// Devices and routes of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// All devices.
    pub devices: Vec<Device>,
    /// Where packets go that no device's network holds; `None`: out through the last device.
    pub default_route: Option<DeviceIndex>,
    /// Every packet is forwarded: the host has no address of its own (a tracker that only listens).
    pub forwards_everything: bool,
}

impl Host {
    /// A host with `lo` alone.
    #[must_use]
    pub fn loopback_only() -> Host {
        Host {
            devices: vec![Device {
                index: LOOPBACK,
                name: "lo".into(),
                addresses: vec![Network::v4([127, 0, 0, 1].into(), 8)],
            }],
            default_route: None,
            forwards_everything: false,
        }
    }

    /// The device of a number.
    #[must_use]
    pub fn device(&self, index: DeviceIndex) -> Option<&Device> {
        self.devices.iter().find(|d| d.index == index)
    }

    /// Is this one of the host's own addresses (or in the loopback network)?
    #[must_use]
    pub fn is_local(&self, address: Addr) -> bool {
        !self.forwards_everything
            && (address.as_v4().is_loopback()
                || self
                    .devices
                    .iter()
                    .any(|d| d.addresses.iter().any(|n| n.address == address)))
    }

    /// Where packets to `destination` go.
    #[must_use]
    pub fn route(&self, destination: Addr) -> Route {
        if self.is_local(destination) {
            return Route::Local;
        }
        let on_link = self
            .devices
            .iter()
            .flat_map(|d| d.addresses.iter().map(move |n| (d.index, n)))
            .filter(|(_, n)| n.contains(destination))
            .max_by_key(|(_, n)| n.mask)
            .map(|(index, _)| index);
        let index = on_link
            .or(self.default_route)
            .or_else(|| self.devices.last().map(|d| d.index))
            .unwrap_or(LOOPBACK);
        Route::Out(index)
    }

    /// The address that packets out of `device` get from MASQUERADE (`inet_select_addr`,
    /// universe scope): the device's own, or another device's where it has none of that scope.
    #[must_use]
    pub fn source_address(&self, device: DeviceIndex) -> Option<Addr> {
        let universe = |d: &Device| {
            d.addresses
                .iter()
                .map(|n| n.address)
                .find(|a| !a.as_v4().is_loopback() && !a.as_v4().is_link_local())
        };
        self.device(device)
            .and_then(universe)
            .or_else(|| self.devices.iter().find_map(universe))
    }
}

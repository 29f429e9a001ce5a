//! REDIRECT: destination NAT to this host itself.
//!
//! Source: `nf_nat_redirect_ipv4` (nf_nat_redirect.c).

use std::net::Ipv4Addr;

use super::hook::NatAt;
use super::range::{Manip, NatRange};
use crate::addr::Addr;
use crate::engine::Worker;
use crate::hook::HookPoint;
use crate::host::Host;
use crate::packet::{DropReason, Verdict};
use crate::rules::NatPorts;
use crate::table::FlowTable;
use crate::table::key::KeyV4;
use crate::table::slab::EntryId;
use crate::time::Nanos;

impl<T: FlowTable<KeyV4>> Worker<'_, T> {
    /// The target. A device without an address drops the packet.
    pub(crate) fn redirect(
        &mut self,
        id: EntryId,
        ports: &NatPorts,
        at: &NatAt,
        now: Nanos,
    ) -> Verdict {
        let Some(address) = own_address(&self.engine.host, at) else {
            return Verdict::Drop(DropReason::Nat);
        };
        let range = NatRange::one_address_and_ports(address, ports);
        self.nat_setup(id, &range, Manip::Destination, now)
    }
}

/// Of packets that this host sends, loopback; of others, the first address of the device
/// that they came in by.
fn own_address(host: &Host, at: &NatAt) -> Option<Addr> {
    if at.point == HookPoint::LocalOut {
        return Some(Addr::v4(Ipv4Addr::LOCALHOST));
    }
    let device = host.device(at.in_device?)?;
    device.addresses.first().map(|network| network.address)
}

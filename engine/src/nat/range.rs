//! What a NAT target asks for: addresses, ports, and how to choose among them.
//!
//! Source: `struct nf_nat_range2`, uapi `nf_nat.h`.

use bitflags::bitflags;

use crate::addr::Addr;
use crate::rules::{NatPorts, NatTo};
use crate::tuple::{Protocol, Tuple};

bitflags! {
    /// `NF_NAT_RANGE_*`; the bit numbers are the kernel's.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct NatFlags: u32 {
        /// The addresses of the range count.
        const MAP_IPS = 1;
        /// The ports of the range count.
        const PROTO_SPECIFIED = 2;
        /// `--random`. On this kernel the same as [`NatFlags::RANDOM_FULLY`].
        const RANDOM = 4;
        /// `--persistent`: a client gets one address whatever the destination.
        const PERSISTENT = 8;
        /// `--random-fully`.
        const RANDOM_FULLY = 16;
        /// Ports are shifted from a base.
        const OFFSET = 32;
        /// Addresses are mapped one to one.
        const NETMAP = 64;

        /// Either random flag.
        const RANDOM_ANY = Self::RANDOM.bits() | Self::RANDOM_FULLY.bits();
    }
}

/// Which end of a packet is rewritten (`enum nf_nat_manip_type`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Manip {
    /// The source: at `POST_ROUTING` and `LOCAL_IN`.
    Source,
    /// The destination: at `PRE_ROUTING` and `LOCAL_OUT`.
    Destination,
}

impl Manip {
    /// The other end.
    #[must_use]
    pub const fn other(self) -> Manip {
        match self {
            Manip::Source => Manip::Destination,
            Manip::Destination => Manip::Source,
        }
    }
}

/// Addresses and ports to choose from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatRange {
    /// How to choose.
    pub flags: NatFlags,
    /// First address (with [`NatFlags::MAP_IPS`]).
    pub min_addr: Addr,
    /// Last address, included.
    pub max_addr: Addr,
    /// First port or id, host order (with [`NatFlags::PROTO_SPECIFIED`]).
    pub min_port: u16,
    /// Last port or id, included.
    pub max_port: u16,
    /// Base of shifted ports (with [`NatFlags::OFFSET`]).
    pub base_port: u16,
}

/// What the user may say himself; the other flags follow from what the target was given.
const USER_FLAGS: NatFlags = NatFlags::RANDOM_ANY.union(NatFlags::PERSISTENT);

impl NatRange {
    /// Exactly one address, and no word about ports: the range of null bindings and NETMAP.
    #[must_use]
    pub fn one_address(address: Addr) -> NatRange {
        NatRange {
            flags: NatFlags::MAP_IPS,
            min_addr: address,
            max_addr: address,
            min_port: 0,
            max_port: 0,
            base_port: 0,
        }
    }

    /// One address with a target's ports: MASQUERADE and REDIRECT.
    #[must_use]
    pub fn one_address_and_ports(address: Addr, ports: &NatPorts) -> NatRange {
        NatRange::of(Some((address, address)), ports)
    }

    /// What SNAT or DNAT was given.
    #[must_use]
    pub fn of_target(to: &NatTo) -> NatRange {
        NatRange::of(to.addresses, &to.ports)
    }

    fn of(addresses: Option<(Addr, Addr)>, ports: &NatPorts) -> NatRange {
        let mut flags = ports.flags & USER_FLAGS;
        flags.set(NatFlags::MAP_IPS, addresses.is_some());
        flags.set(NatFlags::PROTO_SPECIFIED, ports.range.is_some());
        flags.set(
            NatFlags::OFFSET,
            ports.range.is_some() && ports.base.is_some(),
        );
        let (min_addr, max_addr) = addresses.unwrap_or_default();
        let (min_port, max_port) = ports.range.unwrap_or_default();
        NatRange {
            flags,
            min_addr,
            max_addr,
            min_port,
            max_port,
            base_port: ports.base.unwrap_or_default(),
        }
    }

    /// Is either random flag set? Then nothing is kept for being good already.
    #[must_use]
    pub fn is_random(&self) -> bool {
        self.flags.intersects(NatFlags::RANDOM_ANY)
    }

    /// Does the tuple's source satisfy the range (`nf_in_range`)?
    #[must_use]
    pub fn holds_source(&self, tuple: &Tuple) -> bool {
        let address_fits = !self.flags.contains(NatFlags::MAP_IPS)
            || (self.min_addr..=self.max_addr).contains(&tuple.src);
        let port_fits = !self.flags.contains(NatFlags::PROTO_SPECIFIED)
            || self.holds_port(tuple, Manip::Source);
        address_fits && port_fits
    }

    /// Is the port, id or key that `manip` rewrites within the range's ports
    /// (`l4proto_in_range`)? Protocols without any always pass.
    #[must_use]
    pub fn holds_port(&self, tuple: &Tuple, manip: Manip) -> bool {
        let key = match (tuple.protocol, manip) {
            (p, _) if p.is_icmp() => tuple.src_key,
            (p, Manip::Source) if p.has_ports() || p == Protocol::GRE => tuple.src_key,
            (p, Manip::Destination) if p.has_ports() || p == Protocol::GRE => tuple.dst_key,
            _ => return true,
        };
        (self.min_port..=self.max_port).contains(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Family;

    fn tuple(protocol: Protocol, src_key: u16, dst_key: u16) -> Tuple {
        Tuple {
            src: Addr::from_u32(0x0a00_0005),
            dst: Addr::from_u32(0xc633_6401),
            src_key,
            dst_key,
            family: Family::Ipv4,
            protocol,
        }
    }

    fn ports(min: u16, max: u16) -> NatRange {
        NatRange::of(
            None,
            &NatPorts {
                range: Some((min, max)),
                ..NatPorts::default()
            },
        )
    }

    #[test]
    fn a_range_is_tested_at_the_end_that_is_rewritten() {
        let range = ports(1000, 1999);
        let tcp = tuple(Protocol::TCP, 1500, 80);
        assert!(range.holds_port(&tcp, Manip::Source));
        assert!(!range.holds_port(&tcp, Manip::Destination));
        // ICMP has one id, whichever end is meant.
        let echo = tuple(Protocol::ICMP, 1500, 8 << 8);
        assert!(
            range.holds_port(&echo, Manip::Source) && range.holds_port(&echo, Manip::Destination)
        );
        assert!(range.holds_port(&tuple(Protocol(50), 0, 0), Manip::Source));
        assert!(!range.holds_port(&tuple(Protocol::GRE, 0, 0), Manip::Source));
    }

    #[test]
    fn both_ends_of_an_address_range_belong_to_it() {
        let mut range = NatRange::one_address(Addr::from_u32(0x0a00_0005));
        let t = tuple(Protocol::UDP, 1, 2);
        assert!(range.holds_source(&t));
        range.max_addr = Addr::from_u32(0x0a00_00ff);
        assert!(range.holds_source(&t));
        range.min_addr = Addr::from_u32(0x0a00_0006);
        assert!(!range.holds_source(&t));
    }

    #[test]
    fn a_target_sets_the_flags_of_what_it_was_given() {
        let to = NatTo {
            addresses: None,
            ports: NatPorts {
                range: Some((8000, 8009)),
                base: Some(80),
                flags: NatFlags::RANDOM | NatFlags::NETMAP,
            },
        };
        assert_eq!(
            NatRange::of_target(&to).flags,
            NatFlags::PROTO_SPECIFIED | NatFlags::OFFSET | NatFlags::RANDOM
        );
    }
}

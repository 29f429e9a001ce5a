//! What a NAT target asks for: addresses, ports, and how to choose among them.
//!
//! Source: `struct nf_nat_range2`, uapi `nf_nat.h`.

use bitflags::bitflags;

use crate::addr::Addr;

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

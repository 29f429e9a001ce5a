//! NETMAP: the network part of an address is replaced, the host part stays.
//!
//! Source: `netmap_tg4` (xt_NETMAP.c).

use std::net::Ipv4Addr;

use super::range::{Manip, NatRange};
use crate::addr::Addr;
use crate::packet::ipv4::Ipv4Header;
use crate::rules::Network;

/// The one address that the packet's end is mapped to.
pub(crate) fn netmap_range(
    header: &Ipv4Header,
    to: Ipv4Addr,
    prefix: u8,
    manip: Manip,
) -> NatRange {
    let old = match manip {
        Manip::Source => header.src,
        Manip::Destination => header.dst,
    };
    let network = Network::v4(to, prefix);
    let kept = old.to_u32() & !network.mask;
    NatRange::one_address(Addr::from_u32(kept | (to.to_bits() & network.mask)))
}

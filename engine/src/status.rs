//! What a connection is known to be ([`Status`]) and what a packet is to it ([`CtInfo`]).
//!
//! Source: uapi `nf_conntrack_common.h`; the bit numbers are the kernel's.

use bitflags::bitflags;

use crate::tuple::Direction;

bitflags! {
    /// Status bits of a connection (`enum ip_conntrack_status`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Status: u32 {
        /// Made because an expectation matched; fixed at creation.
        const EXPECTED = 1 << 0;
        /// A packet was accepted in the reply direction. Set only.
        const SEEN_REPLY = 1 << 1;
        /// Two-way traffic judged real; protects from early drop. Set only.
        const ASSURED = 1 << 2;
        /// Is, or has been, in the table.
        const CONFIRMED = 1 << 3;
        /// The source is rewritten in the original direction.
        const SRC_NAT = 1 << 4;
        /// The destination is rewritten in the original direction.
        const DST_NAT = 1 << 5;
        /// TCP sequence numbers are adjusted.
        const SEQ_ADJUST = 1 << 6;
        /// Source NAT is decided, be it for a null binding.
        const SRC_NAT_DONE = 1 << 7;
        /// Destination NAT is decided, be it for a null binding.
        const DST_NAT_DONE = 1 << 8;
        /// Removed or being removed. Whoever sets it is the one killer.
        const DYING = 1 << 9;
        /// Packets never refresh the timeout.
        const FIXED_TIMEOUT = 1 << 10;
        /// Not a connection but a carrier of settings.
        const TEMPLATE = 1 << 11;
        /// Clash resolution put the entry into the table by its reply key alone.
        const NAT_CLASH = 1 << 12;
        /// A helper was attached by name.
        const HELPER = 1 << 13;
        /// In the software flow table.
        const OFFLOAD = 1 << 14;
        /// Offloaded to hardware.
        const HW_OFFLOAD = 1 << 15;

        /// Either kind of address translation applies.
        const NAT_MASK = Self::SRC_NAT.bits() | Self::DST_NAT.bits();
        /// Both NAT decisions.
        const NAT_DONE_MASK = Self::SRC_NAT_DONE.bits() | Self::DST_NAT_DONE.bits();
    }
}

/// A packet's relation to its connection (`enum ip_conntrack_info`).
///
/// "Invalid" is no value of it: it is a packet without a connection that is not
/// [`CtInfo::Untracked`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum CtInfo {
    /// Original direction, and a reply had been seen before.
    Established = 0,
    /// Original direction of an expected connection, or an ICMP error about that side.
    Related = 1,
    /// Original direction, no reply seen: a first packet or a repetition of it.
    New = 2,
    /// Any packet that matched the reply tuple.
    EstablishedReply = 3,
    /// An ICMP error that matched the reply side.
    RelatedReply = 4,
    /// Not tracked, because a rule said so.
    Untracked = 7,
}

impl CtInfo {
    /// The direction of a packet of this relation (`CTINFO2DIR`).
    #[must_use]
    pub const fn direction(self) -> Direction {
        match self {
            CtInfo::Established | CtInfo::Related | CtInfo::New => Direction::Original,
            _ => Direction::Reply,
        }
    }

    /// An ICMP error, or the first packets of an expected connection.
    #[must_use]
    pub const fn is_related(self) -> bool {
        matches!(self, CtInfo::Related | CtInfo::RelatedReply)
    }
}

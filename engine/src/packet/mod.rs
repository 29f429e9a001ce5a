//! Packets: bytes as they came, and what the engine found out about them.

pub mod checksum;
pub mod crc32c;
pub mod ipv4;

use crate::event::Changes;
use crate::host::DeviceIndex;
use crate::status::CtInfo;
use crate::table::slab::EntryId;
use crate::zone::Zone;

/// Where a packet comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Sent by this host: passes `LOCAL_OUT` and `POST_ROUTING`, and where it leads back to this
    /// host `PRE_ROUTING` and `LOCAL_IN` as well.
    Local,
    /// Received from a device: passes `PRE_ROUTING`, then `LOCAL_IN` or `FORWARD` and `POST_ROUTING`.
    Device(DeviceIndex),
}

/// A packet on its way through the engine. The bytes start at the network header.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The bytes, rewritten in place. May be fewer than the packet had on the wire.
    pub bytes: &'a mut [u8],
    /// Where it comes from.
    pub origin: Origin,
    /// The capture cut it short: lengths come from the headers, checksums are not verified.
    pub truncated: bool,
    /// Its connection and relation to it, once the engine knows. After its path it is there to
    /// be read: the connection is not held any more.
    pub mark: Mark,
    /// What became of it, once it is through.
    pub verdict: Option<Verdict>,
}

impl<'a> Packet<'a> {
    /// A whole packet from somewhere.
    #[must_use]
    pub fn new(bytes: &'a mut [u8], origin: Origin) -> Packet<'a> {
        Packet {
            bytes,
            origin,
            truncated: false,
            mark: Mark::default(),
            verdict: None,
        }
    }
}

/// What tracking has attached to a packet (`skb->_nfct`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// The connection.
    pub connection: Option<EntryId>,
    /// The packet's relation to it; `None` with no connection is INVALID.
    pub ctinfo: Option<CtInfo>,
    /// The zone that a rule put it into (its template), until it is tracked.
    pub zone: Zone,
    /// What this packet changed about its connection, told at confirm (the kernel's event cache).
    pub changes: Changes,
}

impl Mark {
    /// No connection, and not because a rule wanted none.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.connection.is_none() && self.ctinfo != Some(CtInfo::Untracked)
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Goes on.
    Accept,
    /// Does not.
    Drop(DropReason),
}

/// Why a packet was dropped. Each is counted by itself ([`crate::stats::Fates`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// Its NAT tuple, or its own, was taken when it was confirmed, and the clash could not be resolved.
    Clash,
    /// The hash chain was longer than the limit drawn for it.
    ChainTooLong,
    /// Its connection was being removed.
    Dying,
    /// No room for another connection.
    TableFull,
    /// The protocol's tracker said so.
    Tracker,
    /// MASQUERADE or REDIRECT found no address, the output device changed, or the packet or
    /// what its ICMP error quotes cannot be rewritten.
    Nat,
    /// A rule or a chain's policy said so.
    Rule,
    /// Forwarding discards a packet whose time to live has run out.
    TtlExceeded,
}

impl DropReason {
    /// A word for it, as JSON and tables show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::Clash => "clash",
            DropReason::ChainTooLong => "chain_too_long",
            DropReason::Dying => "dying",
            DropReason::TableFull => "table_full",
            DropReason::Tracker => "tracker",
            DropReason::Nat => "nat",
            DropReason::Rule => "rule",
            DropReason::TtlExceeded => "ttl_exceeded",
        }
    }
}

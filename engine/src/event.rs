//! Events: what changed, told to whoever asks, as `conntrack -E` tells it; and clashes,
//! which the kernel hides.

use bitflags::bitflags;

use crate::status::Status;
use crate::table::key::FlowKey;
use crate::table::slab::{EntryId, Slab, Traffic};
use crate::time::Nanos;
use crate::tuple::{Direction, Protocol, Tuple};
use crate::zone::Zone;

bitflags! {
    /// Which kinds of events are wanted.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct EventMask: u32 {
        /// NEW, UPDATE and DESTROY.
        const CONNTRACK = 1;
        /// Every lost clash.
        const CLASH = 2;
    }
}

bitflags! {
    /// What about a connection changed with a packet (`enum ip_conntrack_events`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Changes: u32 {
        /// The first reply was seen.
        const REPLY = 1;
        /// It became ASSURED.
        const ASSURED = 2;
        /// The protocol's state changed.
        const PROTOINFO = 4;
    }
}

/// A connection as it was when something happened to it. Enough to print a line of `conntrack -L`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Place and life.
    pub id: EntryId,
    /// The tuple of the first packet.
    pub original: Tuple,
    /// The tuple of the answers, after NAT.
    pub reply: Tuple,
    /// Zone ids of the two directions.
    pub zones: (u16, u16),
    /// Status bits.
    pub status: Status,
    /// What is left of its time.
    pub remaining: Nanos,
    /// State of a protocol that has states (TCP's number); 0 for the others.
    pub state: u8,
    /// Packets and bytes of both directions, where they are counted.
    pub traffic: Option<[(u64, u64); 2]>,
}

impl Snapshot {
    /// The connection as it is now.
    #[must_use]
    pub fn of<K: FlowKey>(slab: &Slab<K>, id: EntryId, now: Nanos) -> Snapshot {
        let entry = slab.entry(id);
        let (original, reply) = (entry.key(Direction::Original), entry.key(Direction::Reply));
        let totals = |direction| slab.traffic(id, direction).map(Traffic::totals);
        Snapshot {
            id,
            original: original.tuple(),
            reply: reply.tuple(),
            zones: (original.zone(), reply.zone()),
            status: entry.status(),
            remaining: entry.remaining(now),
            state: match original.tuple().protocol {
                Protocol::TCP | Protocol::SCTP => slab.tracker(id).public_state(),
                // The cell may show the state of an earlier life of its place.
                _ => 0,
            },
            traffic: totals(Direction::Original)
                .zip(totals(Direction::Reply))
                .map(|(o, r)| [o, r]),
        }
    }

    /// The zone in which both ids are, if there is one.
    #[must_use]
    pub fn zone(&self) -> Zone {
        use crate::zone::ZoneDirections::{Both, Original, Reply};
        match self.zones {
            (original, reply) if original == reply => Zone {
                id: original,
                directions: Both,
            },
            (original, 0) => Zone {
                id: original,
                directions: Original,
            },
            (_, reply) => Zone {
                id: reply,
                directions: Reply,
            },
        }
    }
}

/// How a lost clash ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClashDecision {
    /// The packet went on as the winner's.
    Merged,
    /// The loser lives by its reply key alone, for a second.
    ReplyOnly,
    /// The packet was dropped.
    Dropped,
}

/// Something that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A connection was confirmed.
    New(Nanos, Snapshot),
    /// Something about it changed.
    Update(Nanos, Snapshot, Changes),
    /// It was removed. As in the kernel, a reply-only entry of clash resolution is told of
    /// here, though it never was NEW.
    Destroy(Nanos, Snapshot),
    /// A clash was lost.
    Clash {
        /// When.
        at: Nanos,
        /// Which of the loser's keys was taken.
        key: Direction,
        /// The connection that owns the key.
        winner: Snapshot,
        /// The connection that lost.
        loser: Snapshot,
        /// What was decided.
        decision: ClashDecision,
    },
}

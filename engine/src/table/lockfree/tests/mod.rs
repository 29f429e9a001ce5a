//! Tests of the table as a whole. Rare paths are made common by [`Narrow`](super::Narrow)
//! geometries and tables of one or two chains.

#[cfg(shuttle)]
mod abandoned;
#[cfg(loom)]
mod abandoned_orders;
#[cfg(not(any(loom, shuttle)))]
mod batches;
#[cfg(not(any(loom, shuttle)))]
mod clashes;
#[cfg(shuttle)]
mod few_switches;
#[cfg(not(any(loom, shuttle)))]
mod fill;
#[cfg(loom)]
mod handing_on;
#[cfg(any(loom, shuttle))]
mod history;
#[cfg(loom)]
mod interleavings;
#[cfg(not(any(loom, shuttle)))]
mod leaving;
#[cfg(any(loom, shuttle))]
mod lost;
#[cfg(not(any(loom, shuttle)))]
mod model;
#[cfg(shuttle)]
mod programs;
#[cfg(not(any(loom, shuttle)))]
mod race;
#[cfg(shuttle)]
mod rounds;
#[cfg(shuttle)]
mod stories;
#[cfg(shuttle)]
mod turns;

use super::{Geometry, Layout, LockfreeTable, LockfreeWorker};
use crate::addr::{Addr, Family};
use crate::table::hash::HashKey;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::{Entry, EntryId};
use crate::table::{Clash, ClashPolicy, ClashStep, Confirmed, FlowTable};
use crate::time::Nanos;
use crate::tuple::{Protocol, Tuple};

/// Answers every clash the same way, and remembers them.
#[derive(Debug)]
pub(super) struct Always {
    pub(super) step: ClashStep,
    pub(super) asked: Vec<Clash>,
}

impl Always {
    pub(super) fn new(step: ClashStep) -> Always {
        Always {
            step,
            asked: Vec::new(),
        }
    }
}

impl ClashPolicy<KeyV4> for Always {
    fn decide(&mut self, clash: &Clash, loser: &Entry<KeyV4>, winner: &Entry<KeyV4>) -> ClashStep {
        assert_eq!(
            loser.key(clash.key),
            winner.key(clash.winner_key),
            "the clash names the key that both have"
        );
        self.asked.push(*clash);
        match self.step {
            ClashStep::ReplyOnly if clash.at_reply_only => ClashStep::Drop,
            step => step,
        }
    }
}

/// A UDP key; `src` and `dst` are both an address and a port.
pub(super) fn key(src: u8, dst: u8, zone: u16) -> KeyV4 {
    let tuple = Tuple {
        src: Addr::from_u32(u32::from(src) + 0x0a00_0000),
        dst: Addr::from_u32(u32::from(dst) + 0x0a00_0000),
        src_key: u16::from(src),
        dst_key: u16::from(dst),
        family: Family::Ipv4,
        protocol: Protocol::UDP,
    };
    KeyV4::pack(&tuple, zone)
}

pub(super) fn table<G: Geometry>(
    heads: usize,
    entries: usize,
    overflow: usize,
) -> LockfreeTable<KeyV4, G> {
    let layout = Layout {
        entries_max: entries,
        slack: entries + 4,
        heads,
        overflow,
    };
    LockfreeTable::with_layout(layout, HashKey(1, 2), false)
}

/// Allocates and confirms; the entry's timeout is `timeout` from `now`.
pub(super) fn connect<G: Geometry>(
    table: &LockfreeTable<KeyV4, G>,
    worker: &mut LockfreeWorker,
    keys: (KeyV4, KeyV4),
    (now, timeout): (Nanos, Nanos),
    random: u32,
    policy: &mut Always,
) -> Option<(EntryId, Confirmed)> {
    let id = table.allocate(worker)?;
    let entry = table.slab().entry(id);
    entry.set_keys(keys.0, keys.1);
    entry.set_deadline(timeout);
    let confirmed = table.confirm(worker, id, now, random, policy);
    if matches!(confirmed, Confirmed::Inserted | Confirmed::ReplyOnly(_)) {
        assert!(!table.release(worker, id), "the table has it");
    }
    Some((id, confirmed))
}

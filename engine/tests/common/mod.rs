//! What the tests of tables by real threads share: keys, a clash policy, a generator.

// Included by path in several crates; each uses a part of it.
#![allow(unreachable_pub, dead_code)]

use clashtrack_engine::addr::{Addr, Family};
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::slab::{Entry, EntryId};
use clashtrack_engine::table::{Clash, ClashPolicy, ClashStep, Confirmed, FlowTable};
use clashtrack_engine::time::Nanos;
use clashtrack_engine::tuple::{Protocol, Tuple};

pub const NOW: Nanos = 1_000;
pub const LONG: Nanos = 1 << 40;

/// A UDP key; `src` and `dst` are both an address and a port.
pub fn key(src: u16, dst: u16) -> KeyV4 {
    let tuple = Tuple {
        src: Addr::from_u32(u32::from(src) + 0x0a00_0000),
        dst: Addr::from_u32(u32::from(dst) + 0x0a00_0000),
        src_key: src,
        dst_key: dst,
        family: Family::Ipv4,
        protocol: Protocol::UDP,
    };
    KeyV4::pack(&tuple, 0)
}

/// Answers every clash the same way.
#[derive(Clone, Copy, Debug)]
pub struct Always(pub ClashStep);

impl ClashPolicy<KeyV4> for Always {
    fn decide(&mut self, clash: &Clash, loser: &Entry<KeyV4>, winner: &Entry<KeyV4>) -> ClashStep {
        assert_eq!(
            loser.key(clash.key),
            winner.key(clash.winner_key),
            "the clash names the key that both have"
        );
        self.0
    }
}

/// Allocates and confirms. What it gives to hold is still held.
pub fn connect<T: FlowTable<KeyV4>>(
    table: &T,
    worker: &mut T::Worker,
    (original, reply): (KeyV4, KeyV4),
    step: ClashStep,
    prepare: impl FnOnce(EntryId),
) -> Option<(EntryId, Confirmed)> {
    let id = table.allocate(worker)?;
    let entry = table.slab().entry(id);
    entry.set_keys(original, reply);
    entry.set_deadline(LONG);
    prepare(id);
    Some((id, table.confirm(worker, id, NOW, 0, &mut Always(step))))
}

/// A small generator.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, below: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

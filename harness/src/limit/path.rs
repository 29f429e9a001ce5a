//! Accesses of the workloads that do more than one thing: a flood, a mixture, packets.

use std::ops::Range;
use std::sync::atomic::Ordering;

use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::prefetch::{Hint, prefetch};
use clashtrack_engine::tuple::Protocol;

use super::connect::write_rest;
use super::{Aim, DEPTH_MAX, Limit, Line, Place, Way};
use crate::workload::flows::Pair;
use crate::workload::mixed::{CONNECTS, LOOKUPS};

/// A packet: as many bytes as the workloads' have, with the key where they have their addresses.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Wire {
    key: KeyV4,
    rest: [u64; 8],
}

/// With the key the 64 bytes that are copied.
const COPIED: usize = 6;

/// A packet a key.
pub(super) fn wires(keys: &[KeyV4]) -> Vec<Wire> {
    let wire = |&key: &KeyV4| Wire { key, rest: [1; 8] };
    keys.iter().map(wire).collect()
}

/// The first packets' keys.
pub(super) fn originals(pairs: &[Pair]) -> Vec<KeyV4> {
    pairs.iter().map(|pair| pair.original).collect()
}

/// Puts packets in front of a worker.
pub(super) fn copied(ring: &mut Vec<Wire>, wires: &[Wire]) {
    ring.resize(wires.len(), Wire::default());
    for (place, wire) in ring.iter_mut().zip(wires) {
        place.key = wire.key;
        place.rest[..COPIED].copy_from_slice(&wire.rest[..COPIED]);
    }
}

/// An address, and the checksums of two headers, which lie in three words.
pub(super) fn rewritten(ring: &mut [Wire]) {
    for wire in std::hint::black_box(ring) {
        for word in &mut wire.rest[..3] {
            *word ^= 1;
        }
    }
}

/// The numbers of these places.
pub(super) fn numbered(numbers: &mut [u32; DEPTH_MAX], places: Range<usize>) -> &[u32] {
    let count = places.len();
    for (number, place) in numbers.iter_mut().zip(places) {
        *number = place as u32;
    }
    &numbers[..count]
}

impl Limit {
    /// The newcomer's bucket is read; whoever stands there ends, and the newcomer takes its entry.
    pub(super) fn evict_and_connect(&self, newcomers: &[Pair], hint: Hint) -> u64 {
        let mut aims = [[Aim::default(); 2]; DEPTH_MAX];
        for (aims, pair) in aims.iter_mut().zip(newcomers) {
            *aims = self.aim_both(pair, hint);
        }
        let mut victims = [0u32; DEPTH_MAX];
        // 0, but neither the compiler nor the processor knows: the victim is known when its bucket has been read.
        let never = std::hint::black_box(0);
        let (residents, heads) = (self.traffic.residents.len() as u64, self.heads.len() as u64);
        for (victim, aims) in victims.iter_mut().zip(&aims).take(newcomers.len()) {
            // Most places of a bucket are empty here; whoever stands in one may be any entry.
            let any = u64::from(aims[1].bucket) * residents / heads;
            *victim = any as u32 + (self.read_bucket(aims[0]) & never);
            self.ask_for_entry(*victim, hint);
        }
        let victims = &victims[..newcomers.len()];
        self.end(victims, Some(&aims), hint);
        self.insert(newcomers, victims, &aims)
    }

    /// In `mixed`: what stands between two batches of lookups, if anything; what was read, and how many operations it was.
    pub(super) fn between_lookups(
        &self,
        place: &mut Place,
        worker: usize,
        count: usize,
        way: Way,
    ) -> Option<(u64, usize)> {
        // Of a cycle: nine times ten lookups and a batch of new connections; at the end of it one of ends.
        const EACH: usize = LOOKUPS / CONNECTS + 1;
        const CYCLE: usize = EACH * CONNECTS + 1;
        let turn = place.turn % CYCLE;
        let is_end = turn == CYCLE - 1;
        if !is_end && turn % EACH != EACH - 1 {
            return None;
        }
        place.turn += 1;
        let newcomers = &self.traffic.newcomers;
        let mine = self.case.share(worker, newcomers.len());
        let from = if is_end {
            &mut place.ended
        } else {
            &mut place.made
        };
        if *from >= mine.len() {
            *from = 0;
        }
        let first = mine.start + *from;
        let part = first..(first + count).min(mine.end);
        *from += part.len();
        let mut read = 0u64;
        for at in part.clone().step_by(way.depth) {
            let part = at..(at + way.depth).min(part.end);
            // Entries of those that come and go lie behind those that stay.
            let residents = self.traffic.residents.len();
            let mut entries = [0u32; DEPTH_MAX];
            let entries = numbered(&mut entries, residents + part.start..residents + part.end);
            if is_end {
                self.end(entries, None, way.hint);
            } else {
                let pairs = &newcomers[part];
                read = read.wrapping_add(self.connect(pairs, entries, way.hint, false));
            }
        }
        Some((read, part.len()))
    }

    /// Packets of one connection, which all workers have.
    pub(super) fn ride(&self, packets: usize) -> u64 {
        let Some(pair) = self.traffic.residents.first() else {
            return 0;
        };
        let mut sum = 0u64;
        for number in 0..packets {
            let key = if number.is_multiple_of(2) {
                &pair.original
            } else {
                &pair.reply
            };
            let entry = self.read_bucket(self.aim(key));
            sum = sum.wrapping_add(self.read_entry(entry));
            if self.case.protocol == Protocol::TCP {
                under_lock(&self.trackers[0]);
            }
        }
        sum
    }

    /// Packets of any connections.
    pub(super) fn track(&self, ring: &[Wire], hint: Hint) -> u64 {
        let tcp = self.case.protocol == Protocol::TCP;
        let mut aims = [Aim::default(); DEPTH_MAX];
        for (aim, wire) in aims.iter_mut().zip(ring) {
            *aim = self.aim(&wire.key);
            prefetch(hint, &self.heads[aim.bucket as usize]);
        }
        let mut numbers = [0u32; DEPTH_MAX];
        for (number, aim) in numbers.iter_mut().zip(&aims).take(ring.len()) {
            *number = self.read_bucket(*aim);
            self.ask_for_entry(*number, hint);
        }
        let mut sum = 0u64;
        for &number in &numbers[..ring.len()] {
            sum = sum.wrapping_add(self.read_entry(number));
            if tcp {
                under_lock(&self.trackers[number as usize]);
            }
        }
        sum
    }
}

/// Takes the lock of a line, writes its words, and lets it go.
fn under_lock(line: &Line) {
    let backoff = crossbeam_utils::Backoff::new();
    // Acquire, with the release below: the words of the holder before. Failure relaxed: nothing is read.
    while line[0]
        .compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        backoff.spin();
    }
    write_rest(line);
    // Release: to the next acquire above.
    line[0].store(0, Ordering::Release);
}

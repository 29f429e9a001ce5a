//! Accesses of new connections and of those that end.

use std::sync::atomic::{AtomicU64, Ordering};

use clashtrack_engine::table::hash::bucket_of;
use clashtrack_engine::table::key::FlowKey;
use clashtrack_engine::table::prefetch::{Hint, prefetch};
use clashtrack_engine::tuple::Protocol;

use super::{Aim, DEPTH_MAX, Limit, Line};
use crate::workload::flows::Pair;

impl Limit {
    /// New connections in these entries, after the end of those that had them if `ends_others`.
    pub(super) fn connect(
        &self,
        newcomers: &[Pair],
        entries: &[u32],
        hint: Hint,
        ends_others: bool,
    ) -> u64 {
        let mut aims = [[Aim::default(); 2]; DEPTH_MAX];
        for ((aims, pair), &number) in aims.iter_mut().zip(newcomers).zip(entries) {
            *aims = self.aim_both(pair, hint);
            self.ask_for_entry(number, hint);
        }
        if ends_others {
            self.end(entries, None, hint);
        }
        self.insert(newcomers, entries, &aims)
    }

    pub(super) fn aim_both(&self, pair: &Pair, hint: Hint) -> [Aim; 2] {
        let aims = [self.aim(&pair.original), self.aim(&pair.reply)];
        for aim in aims {
            prefetch(hint, &self.heads[aim.bucket as usize]);
        }
        aims
    }

    pub(super) fn ask_for_entry(&self, number: u32, hint: Hint) {
        prefetch(hint, &self.entries[number as usize]);
        if self.case.protocol == Protocol::TCP {
            prefetch(hint, &self.trackers[number as usize]);
        }
    }

    /// The end of what is in these entries: each one's line and its two buckets, the first of which may be known.
    pub(super) fn end(&self, entries: &[u32], known: Option<&[[Aim; 2]]>, hint: Hint) {
        let mut ended = [[Aim::default(); 2]; DEPTH_MAX];
        for (at, (ended, &number)) in ended.iter_mut().zip(entries).enumerate() {
            // The one that ends has keys of its own: their places follow from its entry's line.
            // Relaxed: what another worker writes there leads somewhere too.
            let word = self.entries[number as usize][1].load(Ordering::Relaxed);
            let buckets = self.heads.len() as u32;
            *ended = [word, !word].map(|word| {
                let hash = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                Aim {
                    bucket: bucket_of(hash, buckets),
                    place: hash as u32 & 15,
                }
            });
            if let Some(known) = known {
                ended[0] = known[at][0];
            }
            for aim in ended {
                prefetch(hint, &self.heads[aim.bucket as usize]);
            }
        }
        for (&number, ended) in entries.iter().zip(&ended) {
            bump(&self.entries[number as usize][0]);
            for aim in ended {
                bump(&self.heads[aim.bucket as usize][0]);
            }
        }
    }

    pub(super) fn insert(&self, newcomers: &[Pair], entries: &[u32], aims: &[[Aim; 2]]) -> u64 {
        let mut sum = 0u64;
        for ((&number, pair), aims) in entries.iter().zip(newcomers).zip(aims) {
            let (entry, tracker) = (
                &self.entries[number as usize],
                &self.trackers[number as usize],
            );
            // Relaxed, all: plain contents of an entry; what makes them seen is bumped.
            for (word, value) in entry.iter().zip(words_of(pair)) {
                word.store(value, Ordering::Relaxed);
            }
            if self.case.protocol == Protocol::TCP {
                bump(&tracker[0]);
                write_rest(tracker);
            }
            for aim in aims {
                let line = &self.heads[aim.bucket as usize];
                sum = sum.wrapping_add(bump(&line[1 + aim.place as usize % 7]));
                sum = sum.wrapping_add(bump(&line[0]));
            }
            sum = sum.wrapping_add(bump(&entry[0]));
        }
        sum
    }
}

/// One locked operation, of the kind that tables publish with. It takes the line and writes it, but leaves the word as it is: numbers
/// of entries stay what they are.
#[inline]
fn bump(word: &AtomicU64) -> u64 {
    // Relaxed load, AcqRel exchange: what a table's own costs; nothing is read through it.
    let seen = word.load(Ordering::Relaxed);
    let _ = word.compare_exchange(seen, seen, Ordering::AcqRel, Ordering::Relaxed);
    seen
}

/// Seven words of a line.
pub(super) fn write_rest(line: &Line) {
    for word in &line[1..] {
        // Relaxed: written under a lock, or by the only one who knows of the line.
        word.store(1, Ordering::Relaxed);
    }
}

/// What is written into an entry's line.
pub(super) fn words_of(pair: &Pair) -> [u64; 8] {
    let [a, b] = pair.original.words();
    let [c, d] = pair.reply.words();
    [0, a, b, c, d, 1, 1, 1]
}

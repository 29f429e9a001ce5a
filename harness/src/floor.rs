//! The floor under clash resolution: the contended lines handed from core to core, and nothing else.
//!
//! Two workers who confirm one flow must come to one place in memory, or neither would know of the other: the line
//! that the flow's key leads to. One writes it first; the other one must fetch it from that one's core, and then
//! the winner's entry, to which it leads and which the winner wrote. No table resolves a clash without these two
//! trips of a cache line. How many a second the machine can make of them depends on the machine, the day, and on who else is on
//! it: so the floor is one more contender, and its rounds take turns with the tables'.
//!
//! | | the first one | whoever comes later |
//! |---|---|---|
//! | get ready | read the key, hash it, read the line it leads to; write an entry's line | the same |
//! | confirm | one exchange on the line | read the line, read the winner's entry |
//!
//! # Why it cannot flatter
//! A floor that is too slow makes tables look good. Therefore:
//! - it goes through the same flows in the same order, in the same batches, with the same meetings, timed by the same
//!   code (`workload::sweep`), on the same workers and cores;
//! - it has the fewest lines that can be: one for the key although a connection has two, one for the entry; one
//!   locked operation for the winner, none for the loser, where a table that locks, counts references or publishes in
//!   steps has more; a loser's own entry is used for its next flow at once, and so stays in its cache;
//! - its memory is of the lock-free table's kind and size ([`Array`], [`Layout`]), its places follow from the same
//!   keyed hash; nothing is removed between rounds (a round's number in the word tells old from new), so lines are
//!   where their last writer left them, while a table's have been through the hands of whoever emptied it;
//! - whether and how lines are asked for before they are confirmed is what the warm-up found fastest.
//!
//! Two flows that fall on one word take it from each other; the later one wins there. It is one flow in several hundred, in
//! both workers' hands alike.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::hash::{HashKey, bucket_of};
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::lockfree::Layout;
use clashtrack_engine::table::prefetch::{Hint, prefetch};
use clashtrack_engine::table::storage::Array;

use crate::limit::Line;
use crate::workload::flows;
use crate::workload::measure::{Contender, Round};
use crate::workload::race::RaceConfig;
use crate::workload::sweep::{self, Racer, sweep};
use crate::workload::tally::Tally;
use crate::workload::worker::{Cores, run_crew};

/// The floor's memory, and how it is gone through.
#[derive(Debug)]
pub struct Floor {
    config: RaceConfig,
    memory: Memory,
    hands: Vec<CachePadded<Hand>>,
    rounds: usize,
    /// How lines are asked for before they are confirmed; known after the warm-up.
    hint: Option<Hint>,
}

#[derive(Debug)]
struct Memory {
    hash_key: HashKey,
    heads: Array<Line>,
    entries: Array<Line>,
}

/// A word of a head line: which round's which flow was first there, and its entry.
///
/// | round 10 | flow 24 | entry 30 |
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u64);

/// Rounds that words tell apart; 0 is memory that was never used.
const ROUNDS: usize = (1 << 10) - 1;
const FLOW_BITS: u32 = 24;
const ENTRY_BITS: u32 = 30;
const _: () = assert!(
    flows::FLOWS_MAX <= 1 << FLOW_BITS,
    "a word can name any flow"
);

impl Word {
    fn new(round: usize, flow: usize, entry: usize) -> Word {
        let round = (round % ROUNDS) as u64 + 1;
        Word((round << FLOW_BITS | flow as u64) << ENTRY_BITS | entry as u64)
    }

    fn entry(self) -> usize {
        (self.0 & ((1 << ENTRY_BITS) - 1)) as usize
    }

    /// Of the same flow in the same round?
    fn is_of_flow_of(self, other: Word) -> bool {
        self.0 >> ENTRY_BITS == other.0 >> ENTRY_BITS
    }
}

/// A worker's own things.
#[derive(Debug, Default)]
struct Hand {
    /// Its entries: where they begin, and how many have been used in this round.
    first: usize,
    used: usize,
    tally: Tally,
    /// Flows in hand, and the bucket and place of each.
    batch: Vec<(usize, u32, u32)>,
    sum: u64,
}

impl Floor {
    /// Takes the memory.
    #[must_use]
    pub fn new(config: RaceConfig) -> Floor {
        let table = config.table();
        let layout = Layout::for_capacity(table.capacity);
        let hand = |worker| {
            CachePadded::new(Hand {
                first: worker * (config.flows + config.batch),
                batch: Vec::with_capacity(config.batch),
                ..Hand::default()
            })
        };
        Floor {
            hands: (0..config.workers).map(hand).collect(),
            memory: Memory {
                hash_key: table.hash_key,
                heads: Array::zeroed(layout.heads),
                entries: Array::zeroed(config.workers * (config.flows + config.batch)),
            },
            config,
            rounds: 0,
            hint: None,
        }
    }

    /// One round, with lines asked for in this way.
    fn race(&mut self, hint: Hint, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let (config, round) = (self.config, self.rounds);
        let keys: Vec<KeyV4> =
            flows::of_round(config.seed, round, config.workload.protocol, config.flows)
                .iter()
                .map(|tuple| KeyV4::pack(tuple, 0))
                .collect();
        self.rounds += 1;
        if self.rounds.is_multiple_of(ROUNDS) {
            self.memory.forget();
        }
        let memory = &self.memory;
        let run = run_crew(&mut self.hands, cores, interrupted, |number, hand, crew| {
            (hand.used, hand.tally) = (0, Tally::default());
            let mut handing = Handing {
                memory,
                config: &config,
                keys: &keys,
                round,
                hint,
                hand,
            };
            sweep(&mut handing, config.flows, config.batch, number, crew)
        });
        let mut result = Round {
            elapsed: sweep::elapsed(&run),
            pinned: run.pinned,
            chances: sweep::chances(&run),
            ..Round::default()
        };
        for hand in &self.hands {
            black_box(hand.sum);
            result.tally.add(&hand.tally);
        }
        result.operations = result.tally.offered;
        result
    }

    /// Touches the memory, and finds the fastest way: the fastest of several rounds each.
    fn warm_up(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Hint {
        const TRIES: usize = 3;
        let mut times: Vec<(Duration, Hint)> = Hint::ALL.map(|hint| (Duration::MAX, hint)).to_vec();
        for _ in 0..TRIES {
            for (best, hint) in &mut times {
                *best = self.race(*hint, cores, interrupted).elapsed.min(*best);
            }
        }
        let fastest = times.into_iter().min_by_key(|&(time, _)| time);
        fastest.map_or(Hint::None, |(_, hint)| hint)
    }
}

impl Memory {
    fn head(&self, bucket: u32, place: u32) -> &AtomicU64 {
        &self.heads[bucket as usize][place as usize]
    }

    fn forget(&mut self) {
        for word in self.heads.iter().flatten() {
            // Relaxed: nobody else is at work.
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl Contender for Floor {
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        match self.hint {
            Some(hint) => self.race(hint, cores, interrupted),
            None => {
                self.hint = Some(self.warm_up(cores, interrupted));
                Round::default()
            }
        }
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        Vec::new()
    }

    fn reset(&mut self) {}
}

/// One worker's part of a round.
struct Handing<'a> {
    memory: &'a Memory,
    config: &'a RaceConfig,
    keys: &'a [KeyV4],
    round: usize,
    hint: Hint,
    hand: &'a mut Hand,
}

impl Handing<'_> {
    fn word_of(&self, flow: usize, entry: usize) -> Word {
        Word::new(self.round, flow, entry)
    }
}

impl Racer for Handing<'_> {
    fn get_ready(&mut self, first: usize, count: usize) {
        let (memory, hand) = (self.memory, &mut *self.hand);
        hand.batch.clear();
        for flow in first..first + count {
            let hash = memory.hash_key.hash(&self.keys[flow]);
            let bucket = bucket_of(hash, memory.heads.len() as u32);
            prefetch(self.config.prefetch.reading, &memory.heads[bucket as usize]);
            // The next entry's line, if this flow is won.
            prefetch(
                Hint::Write,
                &memory.entries[hand.first + hand.used + flow - first],
            );
            hand.batch.push((flow, bucket, hash as u32 & 7));
        }
        let round = self.round;
        let tally = &mut hand.tally;
        hand.batch.retain(|&(flow, bucket, place)| {
            // Acquire: as a lookup must.
            let seen = Word(memory.head(bucket, place).load(Ordering::Acquire));
            let is_new = !seen.is_of_flow_of(Word::new(round, flow, 0));
            tally.found_at_lookup += u64::from(!is_new);
            is_new
        });
        tally.offered += hand.batch.len() as u64;
    }

    fn confirm(&mut self) {
        let batch = std::mem::take(&mut self.hand.batch);
        if self.hint != Hint::None {
            for &(_, bucket, _) in &batch {
                prefetch(self.hint, &self.memory.heads[bucket as usize]);
            }
        }
        for &(flow, bucket, place) in &batch {
            self.hand_over(flow, bucket, place);
        }
        self.hand.batch = batch;
    }
}

impl Handing<'_> {
    fn hand_over(&mut self, flow: usize, bucket: u32, place: u32) {
        let entry = self.hand.first + self.hand.used;
        let mine = self.word_of(flow, entry);
        let line = &self.memory.entries[entry];
        let words = self.keys[flow].words();
        for (at, word) in line.iter().enumerate() {
            // Relaxed: published by the exchange.
            word.store(words[at % words.len()], Ordering::Relaxed);
        }
        let head = self.memory.head(bucket, place);
        // Acquire, as below.
        let mut seen = Word(head.load(Ordering::Acquire));
        while !seen.is_of_flow_of(mine) {
            // AcqRel: the entry's line, as a table publishes it. Failure acquire: the winner's.
            match head.compare_exchange(seen.0, mine.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.hand.used += 1;
                    self.hand.tally.confirmed += 1;
                    return;
                }
                Err(now) => seen = Word(now),
            }
        }
        // Relaxed: behind the acquire of the word.
        let winners = self.memory.entries[seen.entry()][0].load(Ordering::Relaxed);
        self.hand.sum = self.hand.sum.wrapping_add(winners);
        self.hand.tally.resolved_same += 1;
        self.hand.tally.collided += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::Hints;
    use crate::workload::clash::CLASH;
    use clashtrack_engine::table::lockfree::Isa;

    fn floor(workers: usize, rounds: usize) -> (Floor, Vec<Round>) {
        let mut floor = Floor::new(RaceConfig {
            workload: CLASH,
            workers,
            batch: 32,
            flows: 3000,
            seed: 5,
            prefetch: Hints::default(),
            isa: Isa::default(),
        });
        let never = AtomicBool::new(false);
        let cores = Cores::available();
        let warm_up = floor.round(&cores, &never);
        assert_eq!(warm_up.operations, 0);
        let rounds = (0..rounds).map(|_| floor.round(&cores, &never)).collect();
        (floor, rounds)
    }

    #[test]
    fn every_flow_is_won_once_and_clashes_with_or_is_found_by_everybody_else() {
        let (_, rounds) = floor(2, 3);
        for round in rounds {
            let tally = round.tally;
            assert_eq!((tally.lost(), round.chances), (0, 3000), "{tally:?}");
            assert_eq!(tally.offered + tally.found_at_lookup, 6000);
            // Flows that share a word with another one may be won twice.
            assert!((3000..3200).contains(&tally.confirmed), "{tally:?}");
        }
    }

    #[test]
    fn alone_nobody_clashes() {
        let (_, rounds) = floor(1, 2);
        assert!(rounds.iter().all(|round| round.tally.collided == 0));
    }

    #[test]
    fn words_of_earlier_rounds_and_of_other_flows_are_told_apart() {
        let word = Word::new(7, 9, 11);
        assert!(word.is_of_flow_of(Word::new(7, 9, 12)));
        assert!(!word.is_of_flow_of(Word::new(8, 9, 11)));
        assert!(!word.is_of_flow_of(Word::new(7, 10, 11)));
        assert!(!Word(0).is_of_flow_of(Word::new(0, 0, 0)), "fresh memory");
        assert_eq!(word.entry(), 11);
        let last = Word::new(ROUNDS - 1, flows::FLOWS_MAX - 1, (1 << 30) - 1);
        assert_eq!(last.entry(), (1 << 30) - 1);
    }
}

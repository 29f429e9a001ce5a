//! The machine's own limit: a workload's memory accesses, as many of them under way as serves best, and no logic.
//!
//! A table's figure says little without the figure that the machine allows on that day, in that minute, on those
//! cores. So the limit is one more contender in every measurement: its rounds take turns with the tables', on the same
//! workers.
//!
//! | workload | a limit's operation | locked operations |
//! |---|---|---|
//! | `lookup-hit`, `zipf`, `skew`, `zones` | read the key, hash it; the bucket's line; the entry's line, whose number stood in the bucket | 0 |
//! | the same, batch 1 | the same, and the next key's place depends on the entry's line | 0 |
//! | `lookup-miss` | read the key, hash it; the bucket's line | 0 |
//! | `connect`, `hash-flood` | read both keys, hash them; write the entry's line and the tracker's (TCP), claim a slot and move the header in two buckets, publish the entry | 5, TCP 6 |
//! | `churn` | end the entry whose place is taken over: its line, its two buckets; then as `connect` | 8, TCP 9 |
//!
//! The clash workloads' is the [floor](crate::floor).
//!
//! # Why it cannot flatter
//! A limit that is too high makes tables look good. Therefore:
//! - its memory is the lock-free table's: the same kind ([`Array`], huge pages where the system grants them), as
//!   many bucket and entry lines ([`Layout::for_capacity`]), places chosen by the same keyed hash;
//! - keys come from the same array in the same order, so the same misses of the key array are in both;
//! - buckets hold 32-bit numbers, not pointers: processors prefetch along arrays of pointers, and one line seems to cost
//!   a tenth;
//! - the prefetch hint and the number of lines under way are those that a search on this very memory found best,
//!   with as many workers as the tables have, whatever hint and batch those use (`Limit::search`); a batch of 1 is serial in both;
//! - every load is summed up and the sum is used.
//!
//! Where two keys fall on one place of a bucket the later one wins there: about one key in ten then leads to another
//! entry. The limit touches a little less memory than a table, never more.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::hash::{HashKey, bucket_of};
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::lockfree::Layout;
use clashtrack_engine::table::prefetch::{Hint, prefetch};
use clashtrack_engine::table::storage::Array;
use clashtrack_engine::tuple::Protocol;

use crate::floor::Floor;
use crate::workload::case::{Case, Kind};
use crate::workload::churn::ROUND_OPERATIONS;
use crate::workload::flows::Pair;
use crate::workload::lookup::{ROUND_LOOKUPS, prefetch_keys};
use crate::workload::measure::{Contender, Round};
use crate::workload::traffic::Traffic;
use crate::workload::worker::{Cores, run_crew};

/// A cache line.
pub type Line = [AtomicU64; 8];

/// Numbers of lines under way that are tried.
pub const DEPTHS: [usize; 6] = [8, 16, 32, 64, 128, 256];
const DEPTH_MAX: usize = 256;

/// Operations of one try, and tries of each hint and depth, of which the fastest counts.
const TRY_OPERATIONS: usize = 1 << 14;
const TRIES: usize = 4;

/// The limit of a case; `None` where no pattern of accesses is the workload's.
#[must_use]
pub fn contender(case: &Case, traffic: &Arc<Traffic>) -> Option<Box<dyn Contender>> {
    match case.workload.kind {
        Kind::Connect | Kind::HashFlood | Kind::Churn => {
            Some(Box::new(Limit::new(case, Arc::clone(traffic))))
        }
        lookups if lookups.looks_up() => Some(Box::new(Limit::new(case, Arc::clone(traffic)))),
        Kind::Clash(clash) => Some(Box::new(Floor::new(case.race(clash)))),
        _ => None,
    }
}

/// The limit's memory and how it is gone through.
#[derive(Debug)]
pub struct Limit {
    case: Case,
    traffic: Arc<Traffic>,
    hash_key: HashKey,
    heads: Array<Line>,
    entries: Array<Line>,
    trackers: Array<Line>,
    /// Where each worker is.
    places: Vec<CachePadded<usize>>,
    /// Known after the warm-up.
    best: Option<Way>,
}

/// A hint, and how many operations are under way together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Way {
    hint: Hint,
    depth: usize,
}

/// An operation between two passes: the bucket and the place in it.
#[derive(Clone, Copy, Default)]
struct Aim {
    bucket: u32,
    place: u32,
}

impl Limit {
    /// Takes the memory and fills it.
    #[must_use]
    pub fn new(case: &Case, traffic: Arc<Traffic>) -> Limit {
        let table = case.table();
        let layout = Layout::for_capacity(table.capacity);
        let operations = match case.workload.kind {
            lookups if lookups.looks_up() => traffic.keys.len(),
            _ => case.connections,
        };
        let limit = Limit {
            hash_key: table.hash_key,
            heads: Array::zeroed(layout.heads),
            entries: Array::zeroed(layout.entries_max + layout.slack),
            trackers: Array::zeroed(layout.entries_max + layout.slack),
            places: (0..case.workers)
                .map(|worker| CachePadded::new(case.share(worker, operations).start))
                .collect(),
            best: (case.batch == 1).then_some(Way {
                hint: Hint::None,
                depth: 1,
            }),
            case: *case,
            traffic,
        };
        limit.fill();
        limit
    }

    fn aim(&self, key: &KeyV4) -> Aim {
        let hash = self.hash_key.hash(key);
        Aim {
            bucket: bucket_of(hash, self.heads.len() as u32),
            place: hash as u32 & 15,
        }
    }

    /// Writes where each key leads; every line that will be read is in memory then.
    fn fill(&self) {
        for (number, pair) in self.traffic.residents.iter().enumerate() {
            // Relaxed, all here: nobody else is at work.
            for (word, value) in self.entries[number].iter().zip(words_of(pair)) {
                word.store(value, Ordering::Relaxed);
            }
            for key in [&pair.original, &pair.reply] {
                let aim = self.aim(key);
                let word = &self.heads[aim.bucket as usize][aim.place as usize / 2];
                let shift = aim.place % 2 * 32;
                // Relaxed: as above.
                let kept = word.load(Ordering::Relaxed) & !(0xffff_ffff << shift);
                word.store(kept | (number as u64) << shift, Ordering::Relaxed);
            }
        }
        for line in self.heads.iter().chain(self.trackers.iter()) {
            // Relaxed: as above. Touches pages that no key leads to.
            line[7].fetch_add(0, Ordering::Relaxed);
        }
    }

    /// The fastest hint and depth for as many workers as the rounds have, who share the way to memory; each
    /// tried several times: the fastest try counts, because whatever else the machine does can only slow one down.
    fn search(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Way {
        let ways = Hint::ALL
            .into_iter()
            .flat_map(|hint| DEPTHS.map(|depth| Way { hint, depth }));
        let mut times: Vec<(Duration, Way)> = ways.map(|way| (Duration::MAX, way)).collect();
        for _ in 0..TRIES {
            for (best, way) in &mut times {
                let round = self.together(*way, cores, interrupted, |_| TRY_OPERATIONS);
                *best = round.elapsed.min(*best);
            }
        }
        let fastest = times.into_iter().min_by_key(|&(time, _)| time);
        fastest.expect("there are ways to try").1
    }

    /// All workers at once, each with as many operations as `wanted` says for it.
    fn together(
        &mut self,
        way: Way,
        cores: &Cores,
        interrupted: &AtomicBool,
        wanted: impl Fn(usize) -> usize + Sync,
    ) -> Round {
        let mut places = std::mem::take(&mut self.places);
        let this = &*self;
        let run = run_crew(&mut places, cores, interrupted, |worker, place, crew| {
            let (sum, done) = this.go(place, worker, wanted(worker), way, || crew.should_stop());
            black_box(sum);
            done
        });
        self.places = places;
        Round {
            elapsed: run.elapsed,
            pinned: run.pinned,
            operations: run.results.iter().sum(),
            ..Round::default()
        }
    }

    /// `wanted` operations from `place` on, around and around in the part of `worker`; returns a sum of all that was read,
    /// and how many operations there were.
    fn go(
        &self,
        place: &mut usize,
        worker: usize,
        wanted: usize,
        way: Way,
        stop: impl Fn() -> bool,
    ) -> (u64, u64) {
        let whole = match self.case.workload.kind {
            lookups if lookups.looks_up() => 0..self.traffic.keys.len(),
            _ => self.case.share(worker, self.case.connections),
        };
        // Serial operations are looked after in stretches.
        let stretch = if way.depth == 1 { 1024 } else { way.depth };
        let (mut sum, mut done) = (0u64, 0);
        while done < wanted && !stop() && !whole.is_empty() {
            if *place >= whole.end || *place < whole.start {
                *place = whole.start;
            }
            let part = *place..(*place + stretch).min(whole.end);
            *place = part.end;
            if self.case.workload.kind.looks_up() {
                let next = part.end..(part.end + stretch).min(whole.end);
                prefetch_keys(way.hint, &self.traffic.keys[next]);
            }
            done += part.len();
            let read = match self.case.workload.kind {
                lookups if lookups.looks_up() => {
                    let keys = &self.traffic.keys[part];
                    if way.depth == 1 {
                        self.serial(keys, lookups.finds())
                    } else {
                        self.look_up(keys, way.hint, lookups.finds())
                    }
                }
                _ if way.depth == 1 => part.map(|at| self.connect(at..at + 1, Hint::None)).sum(),
                _ => self.connect(part, way.hint),
            };
            sum = sum.wrapping_add(read);
        }
        (sum, done as u64)
    }

    fn look_up(&self, keys: &[KeyV4], hint: Hint, entries_too: bool) -> u64 {
        let mut aims = [Aim::default(); DEPTH_MAX];
        for (aim, key) in aims.iter_mut().zip(keys) {
            *aim = self.aim(key);
            prefetch(hint, &self.heads[aim.bucket as usize]);
        }
        let mut sum = 0u64;
        let mut numbers = [0u32; DEPTH_MAX];
        for (number, aim) in numbers.iter_mut().zip(&aims).take(keys.len()) {
            *number = self.read_bucket(*aim);
            if entries_too {
                prefetch(hint, &self.entries[*number as usize]);
            }
        }
        for &number in &numbers[..keys.len()] {
            sum = sum.wrapping_add(if entries_too {
                self.read_entry(number)
            } else {
                u64::from(number)
            });
        }
        sum
    }

    /// Each operation's key can be read only when what the one before found has arrived.
    fn serial(&self, keys: &[KeyV4], entries_too: bool) -> u64 {
        // 0, but neither the compiler nor the processor knows.
        let never = black_box(0usize);
        let mut sum = 0u64;
        let mut waits_for = 0;
        for at in 0..keys.len() {
            let number = self.read_bucket(self.aim(&keys[at + waits_for]));
            let read = if entries_too {
                self.read_entry(number)
            } else {
                u64::from(number)
            };
            waits_for = read as usize & never;
            sum = sum.wrapping_add(read);
        }
        sum
    }

    fn read_bucket(&self, aim: Aim) -> u32 {
        // Relaxed: numbers, written before the workers began.
        let word = self.heads[aim.bucket as usize][aim.place as usize / 2].load(Ordering::Relaxed);
        (word >> (aim.place % 2 * 32)) as u32
    }

    fn read_entry(&self, number: u32) -> u64 {
        // Relaxed: as above.
        self.entries[number as usize][7].load(Ordering::Relaxed)
    }

    /// New connections at these places, and for `churn` the end of those that had them.
    fn connect(&self, places: std::ops::Range<usize>, hint: Hint) -> u64 {
        let ends_others = self.case.workload.kind == Kind::Churn;
        let tcp = self.case.protocol == Protocol::TCP;
        let mut aims = [[Aim::default(); 2]; DEPTH_MAX];
        let mut ended = [[Aim::default(); 2]; DEPTH_MAX];
        let newcomers = &self.traffic.residents[places.clone()];
        for (number, (aims, pair)) in places.clone().zip(aims.iter_mut().zip(newcomers)) {
            *aims = [self.aim(&pair.original), self.aim(&pair.reply)];
            for aim in aims {
                prefetch(hint, &self.heads[aim.bucket as usize]);
            }
            prefetch(hint, &self.entries[number]);
            if tcp {
                prefetch(hint, &self.trackers[number]);
            }
        }
        if ends_others {
            for (number, ended) in places.clone().zip(&mut ended) {
                // The one that ends has keys of its own: their places follow from its entry's line.
                // Relaxed: this worker's own part of the entries.
                let word = self.entries[number][1].load(Ordering::Relaxed);
                let buckets = self.heads.len() as u32;
                *ended = [word, !word].map(|word| {
                    let hash = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    Aim {
                        bucket: bucket_of(hash, buckets),
                        place: hash as u32 & 15,
                    }
                });
                for aim in ended {
                    prefetch(hint, &self.heads[aim.bucket as usize]);
                }
            }
            for (number, ended) in places.clone().zip(&ended) {
                bump(&self.entries[number][0]);
                for aim in ended {
                    bump(&self.heads[aim.bucket as usize][0]);
                }
            }
        }
        let mut sum = 0u64;
        for (number, (aims, pair)) in places.zip(aims.iter().zip(newcomers)) {
            // Relaxed, all: this worker's own entry and tracker; what two workers share is bumped.
            for (word, value) in self.entries[number].iter().zip(words_of(pair)) {
                word.store(value, Ordering::Relaxed);
            }
            if tcp {
                bump(&self.trackers[number][0]);
                for word in &self.trackers[number][1..] {
                    // Relaxed: as above.
                    word.store(1, Ordering::Relaxed);
                }
            }
            for aim in aims {
                let line = &self.heads[aim.bucket as usize];
                sum = sum.wrapping_add(bump(&line[1 + aim.place as usize % 7]));
                sum = sum.wrapping_add(bump(&line[0]));
            }
            sum = sum.wrapping_add(bump(&self.entries[number][0]));
        }
        sum
    }
}

/// One locked operation, of the kind that tables publish with.
#[inline]
fn bump(word: &AtomicU64) -> u64 {
    // Relaxed load, AcqRel exchange: what a table's own costs; nothing is read through it.
    let seen = word.load(Ordering::Relaxed);
    let _ = word.compare_exchange(
        seen,
        seen.wrapping_add(1),
        Ordering::AcqRel,
        Ordering::Relaxed,
    );
    seen
}

/// What is written into an entry's line.
fn words_of(pair: &Pair) -> [u64; 8] {
    let [a, b] = pair.original.words();
    let [c, d] = pair.reply.words();
    [0, a, b, c, d, 1, 1, 1]
}

impl Contender for Limit {
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let Some(best) = self.best else {
            self.best = Some(self.search(cores, interrupted));
            return Round::default();
        };
        let case = self.case;
        self.together(best, cores, interrupted, |worker| {
            match case.workload.kind {
                Kind::Connect | Kind::HashFlood => case.share(worker, case.connections).len(),
                Kind::Churn => ROUND_OPERATIONS,
                _ => ROUND_LOOKUPS,
            }
        })
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        Vec::new()
    }

    fn reset(&mut self) {}
}

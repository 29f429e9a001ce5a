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
//! | `syn-flood` | look the newcomer's bucket up and end the entry that stands there: its line, this bucket and its other one; then as `connect`, in the entry that is free now | 8, TCP 9 |
//! | `mixed` | of a hundred batches ninety as `lookup-hit`, nine as `connect`, one that ends entries as `churn` does | 0, 5 or 6, 3 |
//! | `elephant` | the bucket's line and the entry's, always the same; TCP: take the tracker's lock, write its words, let it go: all workers want that line | 0, TCP 1 |
//! | `packets` | copy the packet's bytes, read the key there, as `lookup-hit`; TCP: the tracker's line locked and written; write address and checksums | 0, TCP 1 |
//! | `new-flows` | copy the packet's bytes, then as `connect`; write address and checksums | 5, TCP 6 |
//!
//! The clash workloads' is the [floor](crate::floor), and so is that of `clash-port`, where both workers come to one line for the reply
//! key. Three workloads have none: `exhaust`, because how many ports are asked for is the logic that it measures (whoever knows the free
//! ones asks for one); `expire`, which is offered connections at half of its own rate and waits in between; and `stall`, in which a
//! worker stands still.
//!
//! # Why it cannot flatter
//! A limit that is too high makes tables look good. Therefore:
//! - its memory is the lock-free table's: the same kind ([`Array`], huge pages where the system grants them), as
//!   many bucket and entry lines ([`Layout::for_capacity`]), places chosen by the same keyed hash;
//! - keys come from the same array in the same order, and each worker begins where the tables' worker does, so the same misses
//!   of the key array are in both, and no worker finds in the caches what another has just asked for;
//! - buckets hold 32-bit numbers, not pointers: processors prefetch along arrays of pointers, and one line seems to cost
//!   a tenth;
//! - the prefetch hint and the number of lines under way are those that a search on this very memory found best,
//!   with as many workers as the tables have, whatever hint and batch those use (`Limit::search`); a batch of 1 is serial in both;
//! - every load is summed up and the sum is used.
//!
//! Where two keys fall on one place of a bucket the later one wins there: about one key in ten then leads to another
//! entry. The limit touches a little less memory than a table, never more.

mod connect;
mod path;

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::hash::{HashKey, bucket_of};
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::lockfree::Layout;
use clashtrack_engine::table::prefetch::{Hint, prefetch};
use clashtrack_engine::table::storage::Array;

use self::connect::words_of;
use self::path::{Wire, copied, numbered, originals, rewritten, wires};
use crate::floor::Floor;
use crate::workload::case::{Case, Kind};
use crate::workload::churn::ROUND_OPERATIONS;
use crate::workload::clash::CLASH;
use crate::workload::flows;
use crate::workload::lookup::{ROUND_LOOKUPS, prefetch_keys};
use crate::workload::measure::{Contender, Round};
use crate::workload::traffic::Traffic;
use crate::workload::worker::{Cores, run_crew};

/// A cache line.
pub type Line = [AtomicU64; 8];

/// Numbers of lines under way that are tried.
pub const DEPTHS: [usize; 6] = [8, 16, 32, 64, 128, 256];
const DEPTH_MAX: usize = 256;

/// Operations of one try in the first heat of the search, and tries of each hint and depth in a heat.
const TRY_OPERATIONS: usize = 1 << 14;
const TRIES: usize = 4;

/// After so long a search ends with the best that it has. Of brief samples it is as much shorter as their rounds are.
const SEARCH: Duration = Duration::from_millis(300);

/// The limit of a case; `None` where no pattern of accesses is the workload's.
#[must_use]
pub fn contender(case: &Case, traffic: &Arc<Traffic>) -> Option<Box<dyn Contender>> {
    match case.workload.kind {
        Kind::Clash(clash) => Some(Box::new(Floor::new(case.race(clash)))),
        Kind::ClashPort => Some(Box::new(Floor::new(case.race(CLASH)))),
        kind => {
            let pattern = Pattern::of(kind)?;
            Some(Box::new(Limit::new(case, pattern, traffic)))
        }
    }
}

/// What a limit's operations are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pattern {
    LookUp { entries_too: bool },
    Connect,
    Churn,
    SynFlood,
    Mixed,
    Elephant,
    Packets,
    NewFlows,
}

impl Pattern {
    fn of(kind: Kind) -> Option<Pattern> {
        match kind {
            Kind::LookupHit | Kind::LookupMiss | Kind::Zipf | Kind::Skew | Kind::Zones => {
                Some(Pattern::LookUp {
                    entries_too: kind.finds(),
                })
            }
            Kind::Connect | Kind::HashFlood => Some(Pattern::Connect),
            Kind::Churn => Some(Pattern::Churn),
            Kind::SynFlood => Some(Pattern::SynFlood),
            Kind::Mixed => Some(Pattern::Mixed),
            Kind::Elephant => Some(Pattern::Elephant),
            Kind::Packets => Some(Pattern::Packets),
            Kind::NewFlows => Some(Pattern::NewFlows),
            Kind::Clash(_) | Kind::ClashPort | Kind::Exhaust | Kind::Expire | Kind::Stall => None,
        }
    }

    /// Goes through the keys, and not through connections.
    fn has_keys(self) -> bool {
        matches!(self, Pattern::LookUp { .. } | Pattern::Mixed)
    }

    /// Operations of a worker in a round; those of `connect` and `new-flows` are as many as it has connections.
    fn of_a_round(self, case: &Case, connections: usize) -> usize {
        match self {
            Pattern::LookUp { .. } => case.of_a_round(ROUND_LOOKUPS),
            Pattern::Connect | Pattern::NewFlows => connections,
            Pattern::Churn | Pattern::Mixed | Pattern::Elephant | Pattern::Packets => {
                case.of_a_round(ROUND_OPERATIONS)
            }
            Pattern::SynFlood => case.of_a_round(ROUND_OPERATIONS / 4),
        }
    }
}

/// The limit's memory and how it is gone through.
#[derive(Debug)]
pub struct Limit {
    case: Case,
    pattern: Pattern,
    traffic: Arc<Traffic>,
    hash_key: HashKey,
    heads: Array<Line>,
    entries: Array<Line>,
    trackers: Array<Line>,
    /// Packets with the keys of what they belong to, where packets come.
    wires: Vec<Wire>,
    /// Where each worker is.
    places: Vec<CachePadded<Place>>,
    /// Known after the warm-up.
    best: Option<Way>,
}

/// A hint, and how many operations are under way together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Way {
    hint: Hint,
    depth: usize,
}

/// Where a worker is.
#[derive(Clone, Debug, Default)]
struct Place {
    /// In its keys, connections or packets.
    at: usize,
    /// Batches that it has done: in `mixed` they say what comes next.
    turn: usize,
    /// Connections that it has made in `mixed`, and ended.
    made: usize,
    ended: usize,
    /// Packets in front of it.
    ring: Vec<Wire>,
}

/// An operation between two passes: the bucket and the place in it.
#[derive(Clone, Copy, Default)]
struct Aim {
    bucket: u32,
    place: u32,
}

impl Limit {
    /// Takes the memory and fills it.
    fn new(case: &Case, pattern: Pattern, traffic: &Arc<Traffic>) -> Limit {
        let table = case.table();
        let layout = Layout::for_capacity(table.capacity);
        let wires = match pattern {
            Pattern::Packets => wires(&flows::two_sweeps(case.seed, &traffic.residents)),
            Pattern::NewFlows => wires(&originals(&traffic.residents)),
            _ => Vec::new(),
        };
        let place = |worker| {
            CachePadded::new(Place {
                at: Limit::first(case, pattern, traffic, worker),
                ..Place::default()
            })
        };
        let serial = (case.batch == 1).then_some(Way {
            hint: Hint::None,
            depth: 1,
        });
        // Two lines that are always in reach: there is nothing to be asked for ahead.
        let at_hand = (pattern == Pattern::Elephant).then_some(Way {
            hint: Hint::None,
            depth: case.batch.min(DEPTH_MAX),
        });
        let limit = Limit {
            hash_key: table.hash_key,
            heads: Array::zeroed(layout.heads),
            entries: Array::zeroed(layout.entries_max + layout.slack),
            trackers: Array::zeroed(layout.entries_max + layout.slack),
            wires,
            places: (0..case.workers).map(place).collect(),
            best: serial.or(at_hand),
            case: *case,
            pattern,
            traffic: Arc::clone(traffic),
        };
        limit.fill();
        limit
    }

    /// What a worker goes through, around and around: all keys, or its part of the connections.
    fn whole(case: &Case, pattern: Pattern, traffic: &Traffic, worker: usize) -> Range<usize> {
        match pattern {
            Pattern::LookUp { .. } | Pattern::Mixed => 0..traffic.keys.len(),
            Pattern::Packets => 0..2 * traffic.residents.len(),
            Pattern::Elephant => 0..ROUND_OPERATIONS,
            Pattern::SynFlood => case.share(worker, traffic.newcomers.len()),
            Pattern::Connect | Pattern::Churn | Pattern::NewFlows => {
                case.share(worker, case.connections)
            }
        }
    }

    /// Where in it a worker begins: as the tables' workers, each at its own share. Side by side one would find in the caches what
    /// the other has just asked for.
    fn first(case: &Case, pattern: Pattern, traffic: &Traffic, worker: usize) -> usize {
        let whole = Limit::whole(case, pattern, traffic, worker);
        match pattern {
            Pattern::LookUp { .. } | Pattern::Mixed | Pattern::Packets => {
                case.share(worker, whole.len()).start
            }
            _ => whole.start,
        }
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

    /// The fastest hint and depth for as many workers as the rounds have, who share the way to memory. All are tried,
    /// then the better quarter of them again and for longer, until one is left. In each heat every one has several tries, in turns, of which the
    /// fastest counts, because whatever else the machine does can only slow one down.
    fn search(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Way {
        let ways = Hint::ALL
            .into_iter()
            .flat_map(|hint| DEPTHS.map(|depth| Way { hint, depth }));
        let mut ways: Vec<Way> = ways.collect();
        let mut operations = self.case.of_a_round(TRY_OPERATIONS);
        let longest = SEARCH / self.case.brevity();
        let begun = Instant::now();
        let in_time = || begun.elapsed() < longest;
        while ways.len() > 1 && in_time() {
            let mut times: Vec<(Duration, Way)> =
                ways.iter().map(|&way| (Duration::MAX, way)).collect();
            for turn in 0..TRIES {
                if turn > 0 && !in_time() {
                    break;
                }
                for (best, way) in &mut times {
                    let round = self.together(*way, cores, interrupted, |_| operations);
                    *best = round.elapsed.min(*best);
                }
            }
            times.sort_by_key(|&(time, _)| time);
            ways = times
                .iter()
                .map(|&(_, way)| way)
                .take(ways.len().div_ceil(4))
                .collect();
            operations *= 4;
        }
        ways[0]
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
            elapsed: run.time(self.case.workload.kind),
            pinned: run.pinned,
            operations: run.results.iter().sum(),
            ..Round::default()
        }
    }

    /// `wanted` operations from `place` on, around and around in the part of `worker`; returns a sum of all that was read,
    /// and how many operations there were.
    fn go(
        &self,
        place: &mut Place,
        worker: usize,
        wanted: usize,
        way: Way,
        stop: impl Fn() -> bool,
    ) -> (u64, u64) {
        let whole = Limit::whole(&self.case, self.pattern, &self.traffic, worker);
        // Serial operations are looked after in stretches; those of a mixture are as long as the others' batches.
        let stretch = match way.depth {
            1 if self.pattern == Pattern::Mixed => 16,
            1 => 1024,
            depth => depth,
        };
        let (mut sum, mut done) = (0u64, 0);
        while done < wanted && !stop() && !whole.is_empty() {
            if self.pattern == Pattern::Mixed
                && let Some((read, did)) = self.between_lookups(place, worker, stretch, way)
            {
                sum = sum.wrapping_add(read);
                done += did;
                continue;
            }
            if place.at >= whole.end || place.at < whole.start {
                place.at = whole.start;
            }
            let part = place.at..(place.at + stretch).min(whole.end);
            place.at = part.end;
            place.turn += 1;
            if self.pattern.has_keys() {
                let next = part.end..(part.end + stretch).min(whole.end);
                prefetch_keys(way.hint, &self.traffic.keys[next]);
            }
            done += part.len();
            let read = if way.depth == 1 {
                self.one_by_one(part, place, way)
            } else {
                self.together_at(part, place, way)
            };
            sum = sum.wrapping_add(read);
        }
        (sum, done as u64)
    }

    /// Operations that wait for each other.
    fn one_by_one(&self, part: Range<usize>, place: &mut Place, way: Way) -> u64 {
        match self.pattern {
            Pattern::LookUp { entries_too } => self.serial(&self.traffic.keys[part], entries_too),
            Pattern::Mixed => self.serial(&self.traffic.keys[part], true),
            _ => part
                .map(|at| self.together_at(at..at + 1, place, way))
                .fold(0, u64::wrapping_add),
        }
    }

    /// Operations that are under way together.
    fn together_at(&self, part: Range<usize>, place: &mut Place, way: Way) -> u64 {
        let traffic = &*self.traffic;
        match self.pattern {
            Pattern::LookUp { entries_too } => {
                self.look_up(&traffic.keys[part], way.hint, entries_too)
            }
            Pattern::Mixed => self.look_up(&traffic.keys[part], way.hint, true),
            Pattern::Connect | Pattern::Churn => {
                let mut entries = [0u32; DEPTH_MAX];
                let entries = numbered(&mut entries, part.clone());
                let ends = self.pattern == Pattern::Churn;
                self.connect(&traffic.residents[part], entries, way.hint, ends)
            }
            Pattern::NewFlows => {
                copied(&mut place.ring, &self.wires[part.clone()]);
                let mut entries = [0u32; DEPTH_MAX];
                let entries = numbered(&mut entries, part.clone());
                let read = self.connect(&traffic.residents[part], entries, way.hint, false);
                rewritten(&mut place.ring);
                read
            }
            Pattern::SynFlood => self.evict_and_connect(&traffic.newcomers[part], way.hint),
            Pattern::Elephant => self.ride(part.len()),
            Pattern::Packets => {
                copied(&mut place.ring, &self.wires[part]);
                let read = self.track(&place.ring, way.hint);
                rewritten(&mut place.ring);
                read
            }
        }
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
}

impl Contender for Limit {
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let Some(best) = self.best else {
            self.best = Some(self.search(cores, interrupted));
            return Round::default();
        };
        let case = self.case;
        let pattern = self.pattern;
        self.together(best, cores, interrupted, |worker| {
            pattern.of_a_round(&case, case.share(worker, case.connections).len())
        })
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        Vec::new()
    }

    fn reset(&mut self) {}
}

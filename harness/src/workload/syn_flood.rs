//! `syn-flood`: a full table, and nothing but first packets of flows that nobody will answer.
//!
//! # Model
//! The table holds as many connections as it may (`nf_conntrack_max`); one in [`ASSURED_ONE_IN`] is assured, the others
//! have seen one packet. SYNs from ever new sources come in batches, which are looked up first. For each new flow the
//! table is full, so somebody is evicted near its bucket (`early_drop`): nobody who is assured. Where nobody can be, the packet
//! is dropped. What is freed is used up before more is evicted. An operation is one such SYN. The table has been turned over once before
//! anything is timed. Afterwards all assured connections must be there, and as many others as there is room for.
//!
//! # What it does not measure
//! The shared count of connections that the whole path keeps; SYN cookies, and anything else that stands before a tracker.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_utils::CachePadded;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::status::Status;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::slab::Entry;
use clashtrack_engine::table::{FlowTable, Hit};

use super::anomaly;
use super::case::{Case, Kind, Workload};
use super::flows::Pair;
use super::hand::{Hand, LONG, NOW, filled};
use super::measure::{Contender, Round};
use super::pace::Pace;
use super::traffic::Traffic;
use super::worker::{Cores, Crew, run_crew};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "syn-flood",
    question: "The table is full of half-open connections: what does room for one more SYN cost?",
    kind: Kind::SynFlood,
};

/// One connection in so many is assured: early drop spares it.
pub const ASSURED_ONE_IN: usize = 10;
/// SYNs of a worker in a round.
const ROUND_SYNS: usize = 1 << 14;

/// A [`Contender`] over a table of type `T`.
#[derive(Debug)]
pub struct SynFloodContender<T: FlowTable<KeyV4>> {
    case: Case,
    table: T,
    traffic: Arc<Traffic>,
    assured: usize,
    hands: Vec<CachePadded<Flooder<T::Worker>>>,
    checker: T::Worker,
    turned_over: bool,
}

/// A worker that gets the flood.
#[derive(Debug)]
struct Flooder<W> {
    hand: Hand<W>,
    /// Where in its newcomers it goes on.
    next: usize,
    /// Places that evictions have freed and nobody has taken yet.
    room: u64,
    hits: Vec<Option<Hit>>,
    keys: Vec<KeyV4>,
    admitted: Vec<Pair>,
}

impl<T: FlowTable<KeyV4>> SynFloodContender<T> {
    /// Makes the table and fills it.
    #[must_use]
    pub fn new(case: &Case, traffic: Arc<Traffic>) -> SynFloodContender<T> {
        let table = T::new(&case.table());
        filled(&table, case, &traffic.residents, |number, id| {
            if number % ASSURED_ONE_IN == 0 {
                table.slab().entry(id).set_status(Status::ASSURED);
            }
        });
        let flooder = |number| {
            CachePadded::new(Flooder {
                hand: Hand::new(table.worker(), number, case.seed, case.protocol, case.batch),
                next: 0,
                room: 0,
                hits: vec![None; case.batch],
                keys: Vec::with_capacity(case.batch),
                admitted: Vec::with_capacity(case.batch),
            })
        };
        SynFloodContender {
            hands: (0..case.workers).map(flooder).collect(),
            checker: table.worker(),
            assured: traffic.residents.len().div_ceil(ASSURED_ONE_IN),
            turned_over: false,
            case: *case,
            table,
            traffic,
        }
    }

    /// # Panics
    /// If an assured connection was evicted, or more or fewer connections are there than the books say.
    fn check(&mut self, first: bool) -> anomaly::Anomalies {
        let (mut there, mut assured) = (0, 0);
        for (_, entry) in self.table.slab().confirmed() {
            there += 1;
            assured += usize::from(entry.status().contains(Status::ASSURED));
        }
        assert_eq!(
            assured,
            self.assured,
            "{}: early drop spares assured connections",
            T::NAME
        );
        let room: u64 = self.hands.iter().map(|flooder| flooder.room).sum();
        assert_eq!(
            there + room as usize,
            self.traffic.residents.len(),
            "{}: what was evicted and what came instead do not add up",
            T::NAME
        );
        if first {
            anomaly::check_connections(&self.table, &mut self.checker, NOW)
        } else {
            anomaly::Anomalies::default()
        }
    }
}

impl<T: FlowTable<KeyV4>> Contender for SynFloodContender<T> {
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let (table, case, newcomers) = (&self.table, &self.case, self.traffic.newcomers.as_slice());
        let first = !std::mem::replace(&mut self.turned_over, true);
        let run = run_crew(
            &mut self.hands,
            cores,
            interrupted,
            |number, flooder, crew| {
                let mine = &newcomers[case.share(number, newcomers.len())];
                let wanted = if first {
                    mine.len()
                } else {
                    case.of_a_round(ROUND_SYNS)
                };
                flooder.flood(table, mine, case.batch, wanted, crew)
            },
        );
        let mut round = Round {
            elapsed: run.time(self.case.workload.kind),
            pinned: run.pinned,
            operations: run.results.iter().sum(),
            ..Round::default()
        };
        for flooder in &mut self.hands {
            round.tally.add(&flooder.hand.take_tally(table));
        }
        round.anomalies = self.check(first);
        round
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        self.hands
            .iter()
            .map(|flooder| flooder.hand.stats())
            .collect()
    }

    fn reset(&mut self) {
        self.hands
            .iter_mut()
            .for_each(|flooder| flooder.hand.reset());
    }

    fn paces(&mut self) -> Vec<&mut Pace> {
        self.hands
            .iter_mut()
            .map(|flooder| &mut flooder.hand.pace)
            .collect()
    }
}

impl<W> Flooder<W> {
    /// `wanted` SYNs at least; returns how many it were.
    fn flood<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        newcomers: &[Pair],
        batch: usize,
        wanted: usize,
        crew: &Crew<'_>,
    ) -> u64 {
        let mut syns = 0;
        while syns < wanted && !newcomers.is_empty() && self.hand.pace.next(crew) {
            let end = (self.next + batch).min(newcomers.len());
            let pairs = &newcomers[self.next..end];
            self.next = if end == newcomers.len() { 0 } else { end };
            self.admit(table, pairs);
            let before = self.hand.tally.confirmed;
            self.hand
                .connect(table, &self.admitted, NOW, |_| LONG, |_, _| ());
            // Whoever was refused after all leaves the place to the next.
            self.room += self.admitted.len() as u64 - (self.hand.tally.confirmed - before);
            self.hand.pace.done(pairs.len());
            syns += pairs.len();
        }
        syns as u64
    }

    /// Looks a batch up, and makes room for those that nobody knows.
    fn admit<T: FlowTable<KeyV4, Worker = W>>(&mut self, table: &T, pairs: &[Pair]) {
        let Flooder {
            hand,
            room,
            hits,
            keys,
            admitted,
            ..
        } = self;
        let spared = Status::ASSURED | Status::DYING;
        let evictable = |entry: &Entry<KeyV4>| !entry.status().intersects(spared);
        keys.clear();
        keys.extend(pairs.iter().map(|pair| pair.original));
        admitted.clear();
        let hits = &mut hits[..pairs.len()];
        table.begin(&mut hand.worker);
        table.lookup_batch(&mut hand.worker, keys, NOW, hits);
        for (pair, hit) in pairs.iter().zip(hits.iter()) {
            if let Some(hit) = hit {
                hand.tally.found_at_lookup += 1;
                table.release(&mut hand.worker, hit.id);
                continue;
            }
            if *room == 0 {
                let dropped = table.early_drop(&mut hand.worker, &pair.original, NOW, &evictable);
                *room += u64::from(dropped.evicted);
                hand.counters.early_drop.add(u64::from(dropped.evicted));
                while let Some(id) = table.take_removed(&mut hand.worker) {
                    table.release(&mut hand.worker, id);
                }
            }
            if *room == 0 {
                hand.tally.offered += 1;
                hand.tally.dropped += 1;
                hand.counters.drop.increment();
                continue;
            }
            *room -= 1;
            admitted.push(*pair);
        }
        table.end(&mut hand.worker);
    }
}

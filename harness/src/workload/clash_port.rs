//! `clash-port`: two flows for which NAT has chosen one and the same tuple.
//!
//! # Model
//! For each place of a round every worker has a flow of its own (the clients' ports differ), and the search for a port
//! gives all of them the same free one toward the same server. Each worker looks its batch up and asks whether the
//! reply tuple is taken; where it is the search would go on, and the flow is not offered (`found`). Then all confirm:
//! the first has the tuple. The others' flows are different ones, so nothing can be merged, and with the reply tuple gone there is
//! no reply-only entry either: their packets are dropped, for TCP and UDP alike. Of the flows of one place exactly one is
//! confirmed, or the workload fails.
//!
//! # What it does not measure
//! How likely it is that two searches choose one port (`clash-nat` draws them).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_utils::CachePadded;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::{FlowTable, Hit};
use clashtrack_engine::tuple::Tuple;

use super::anomaly;
use super::case::{Case, Kind, Workload};
use super::flows::Pair;
use super::hand::{Hand, LONG, NOW};
use super::measure::{Contender, Round};
use super::sweep::{self, Racer, sweep};
use super::traffic::Traffic;
use super::worker::{Cores, run_crew};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "clash-port",
    question: "Two flows were given one NAT tuple: what does it cost that one of them is dropped?",
    kind: Kind::ClashPort,
};

const FIRST_PORT: u16 = 1024;
const PORTS: u32 = 65_536 - FIRST_PORT as u32;

/// The pair with the client's port moved on by the worker's number.
fn of_worker(pair: &Pair, worker: usize) -> Pair {
    let tuple = pair.original.tuple();
    let port = (u32::from(tuple.src_key - FIRST_PORT) + worker as u32) % PORTS;
    let moved = Tuple {
        src_key: FIRST_PORT + port as u16,
        ..tuple
    };
    Pair {
        original: KeyV4::pack(&moved, 0),
        reply: pair.reply,
    }
}

/// A [`Contender`] over a table of type `T`.
#[derive(Debug)]
pub struct ClashPortContender<T: FlowTable<KeyV4>> {
    case: Case,
    table: T,
    hands: Vec<CachePadded<Chooser<T::Worker>>>,
    checker: T::Worker,
}

/// A worker with its own flow for each place.
#[derive(Debug)]
struct Chooser<W> {
    hand: Hand<W>,
    pairs: Vec<Pair>,
    hits: Vec<Option<Hit>>,
    keys: Vec<KeyV4>,
    /// Those of the batch that will be confirmed.
    chosen: Vec<Pair>,
}

impl<T: FlowTable<KeyV4>> ClashPortContender<T> {
    /// Makes the table and the workers' flows.
    #[must_use]
    pub fn new(case: &Case, traffic: &Arc<Traffic>) -> ClashPortContender<T> {
        let table = T::new(&case.table());
        let chooser = |number| {
            CachePadded::new(Chooser {
                hand: Hand::new(table.worker(), number, case.seed, case.protocol, case.batch),
                pairs: traffic
                    .residents
                    .iter()
                    .map(|pair| of_worker(pair, number))
                    .collect(),
                hits: vec![None; case.batch],
                keys: Vec::with_capacity(case.batch),
                chosen: Vec::with_capacity(case.batch),
            })
        };
        ClashPortContender {
            hands: (0..case.workers).map(chooser).collect(),
            checker: table.worker(),
            case: *case,
            table,
        }
    }
}

impl<T: FlowTable<KeyV4>> Contender for ClashPortContender<T> {
    /// # Panics
    /// If two flows have one tuple, or none has it, on a table that promises one step for both keys.
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let (table, case) = (&self.table, &self.case);
        let run = run_crew(
            &mut self.hands,
            cores,
            interrupted,
            |number, chooser, crew| {
                let mut offer = Offer { table, chooser };
                sweep(&mut offer, case.connections, case.batch, number, crew)
            },
        );
        let mut round = Round {
            elapsed: sweep::elapsed(&run),
            pinned: run.pinned,
            chances: sweep::chances(&run),
            ..Round::default()
        };
        for chooser in &mut self.hands {
            round.tally.add(&chooser.hand.take_tally(table));
        }
        round.operations = round.tally.offered;
        let places = run
            .results
            .iter()
            .map(|swept| swept.reached)
            .max()
            .unwrap_or(0) as u64;
        assert!(
            !T::GUARANTEES.atomic_two_key || round.tally.confirmed == places,
            "{}: {} flows have the tuples of {places} places",
            T::NAME,
            round.tally.confirmed
        );
        round.anomalies = anomaly::check_connections(table, &mut self.checker, NOW);
        anomaly::remove_all(&self.table, &mut self.checker);
        round
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        self.hands
            .iter()
            .map(|chooser| chooser.hand.stats())
            .collect()
    }

    fn reset(&mut self) {
        self.hands
            .iter_mut()
            .for_each(|chooser| chooser.hand.reset());
    }
}

/// One worker's offers to a table.
struct Offer<'a, T: FlowTable<KeyV4>> {
    table: &'a T,
    chooser: &'a mut Chooser<T::Worker>,
}

impl<T: FlowTable<KeyV4>> Racer for Offer<'_, T> {
    fn get_ready(&mut self, first: usize, count: usize) {
        let table = self.table;
        let Chooser {
            hand,
            pairs,
            hits,
            keys,
            chosen,
        } = &mut *self.chooser;
        let pairs = &pairs[first..first + count];
        chosen.clear();
        chosen.extend_from_slice(pairs);
        let original = |pair: &Pair| pair.original;
        let reply = |pair: &Pair| pair.reply;
        table.begin(&mut hand.worker);
        // The packet itself, and then the tuple that NAT would give it.
        for key_of in [original as fn(&Pair) -> KeyV4, reply] {
            keys.clear();
            keys.extend(chosen.iter().map(key_of));
            let hits = &mut hits[..keys.len()];
            table.lookup_batch(&mut hand.worker, keys, NOW, hits);
            let mut hits = hits.iter();
            chosen.retain(|_| match hits.next() {
                Some(Some(hit)) => {
                    hand.counters.found.increment();
                    hand.tally.found_at_lookup += 1;
                    table.release(&mut hand.worker, hit.id);
                    false
                }
                _ => true,
            });
        }
        table.end(&mut hand.worker);
    }

    fn confirm(&mut self) {
        let Chooser { hand, chosen, .. } = &mut *self.chooser;
        hand.connect(self.table, chosen, NOW, |_| LONG, |_, _| ());
    }
}

//! `connect`: new connections into a table that was emptied.
//!
//! # Model
//! Connections behind source NAT: their reply tuple is not the inverse of the original one, so a table has
//! two keys to insert for each. For each batch a worker takes entries, writes keys, status, timeout and, for
//! TCP, the tracker's memory, confirms them by both keys and lets them go. A round fills the table from nothing
//! to all its connections, each worker with a part of them; with the clock stopped the table is checked, and each worker takes out
//! what it put in, so that entries come back to the core that had them. All memory was used by the warm-up before.
//!
//! # What it does not measure
//! The two lookups that come before in a packet's path, the search for a port, races for one tuple (see
//! [`clash`](super::clash)), and a table that stays full (see [`churn`](super::churn)).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_utils::CachePadded;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::slab::EntryId;

use super::anomaly;
use super::case::{Case, Kind, Workload};
use super::hand::{Hand, LONG, NOW};
use super::measure::{Contender, Round};
use super::pace::Pace;
use super::traffic::Traffic;
use super::worker::{Cores, run_crew};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "connect",
    question: "A new connection with NAT: what do making its entry and confirming both keys cost?",
    kind: Kind::Connect,
};

/// A worker's hand, and what it put in.
#[derive(Debug)]
struct Connector<W> {
    hand: Hand<W>,
    made: Vec<EntryId>,
}

impl<W> Connector<W> {
    /// Takes out what it put in. Returns how many of it were not there any more.
    fn take_out<T: FlowTable<KeyV4, Worker = W>>(&mut self, table: &T, batch: usize) -> u64 {
        let made = self.made.len() as u64;
        let batches = self.made.chunks(batch);
        let removed: u64 = batches.map(|ids| self.hand.expire(table, ids)).sum();
        self.made.clear();
        made - removed
    }
}

/// A [`Contender`] over a table of type `T`.
#[derive(Debug)]
pub struct ConnectContender<T: FlowTable<KeyV4>> {
    case: Case,
    table: T,
    traffic: Arc<Traffic>,
    crew: Vec<CachePadded<Connector<T::Worker>>>,
    /// For what happens at rest.
    checker: T::Worker,
    /// All connections are looked up by both keys in the first round; in later ones those that are taken out are counted.
    checked: bool,
}

impl<T: FlowTable<KeyV4>> ConnectContender<T> {
    /// Makes the table and the workers' parts.
    #[must_use]
    pub fn new(case: &Case, traffic: Arc<Traffic>) -> ConnectContender<T> {
        let table = T::new(&case.table());
        let connector = |number| {
            let worker = table.worker();
            CachePadded::new(Connector {
                hand: Hand::new(worker, number, case.seed, case.protocol, case.batch),
                made: Vec::with_capacity(case.share(number, traffic.residents.len()).len()),
            })
        };
        ConnectContender {
            crew: (0..case.workers).map(connector).collect(),
            checker: table.worker(),
            checked: false,
            case: *case,
            table,
            traffic,
        }
    }
}

impl<T: FlowTable<KeyV4>> Contender for ConnectContender<T> {
    /// # Panics
    /// If a connection of [`hash-flood`](super::hash_flood) is refused.
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let (table, case) = (&self.table, &self.case);
        let residents = self.traffic.residents.as_slice();
        let run = run_crew(&mut self.crew, cores, interrupted, |number, own, crew| {
            let mine = &residents[case.share(number, residents.len())];
            let Connector { hand, made } = &mut **own;
            for batch in mine.chunks(case.batch) {
                if !hand.pace.next(crew) {
                    break;
                }
                hand.connect(table, batch, NOW, |_| LONG, |_, id| made.push(id));
                hand.pace.done(batch.len());
            }
        });
        let mut round = Round {
            elapsed: run.time(self.case.workload.kind),
            pinned: run.pinned,
            ..Round::default()
        };
        for own in &mut self.crew {
            round.tally.add(&own.hand.take_tally(table));
        }
        round.operations = round.tally.offered;
        if case.workload.kind == Kind::HashFlood {
            assert_eq!(
                round.tally.dropped,
                0,
                "{}: keys that were built against an unkeyed hash were refused",
                T::NAME
            );
        }
        if !self.checked {
            round.anomalies = anomaly::check_connections(table, &mut self.checker, NOW);
            self.checked = true;
        }
        let emptied = run_crew(&mut self.crew, cores, interrupted, |_, own, _| {
            own.take_out(table, case.batch)
        });
        round.anomalies.vanished += emptied.results.iter().sum::<u64>();
        round
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        self.crew.iter().map(|own| own.hand.stats()).collect()
    }

    fn reset(&mut self) {
        self.crew.iter_mut().for_each(|own| own.hand.reset());
    }

    fn paces(&mut self) -> Vec<&mut Pace> {
        let paces = self.crew.iter_mut().map(|own| &mut own.hand.pace);
        paces.collect()
    }
}

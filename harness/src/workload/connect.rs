//! `connect`: new connections into a table that was emptied.
//!
//! # Model
//! Connections behind source NAT: their reply tuple is not the inverse of the original one, so a table has
//! two keys to insert for each. For each batch a worker takes entries, writes keys, status, timeout and, for
//! TCP, the tracker's memory, confirms them by both keys and lets them go. A round fills the table from nothing
//! to all its connections, each worker with a part of them; the table is checked and emptied
//! with the clock stopped. All memory was used by the warm-up before.
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

/// A [`Contender`] over a table of type `T`.
#[derive(Debug)]
pub struct ConnectContender<T: FlowTable<KeyV4>> {
    case: Case,
    table: T,
    traffic: Arc<Traffic>,
    hands: Vec<CachePadded<Hand<T::Worker>>>,
    /// For what happens at rest.
    checker: T::Worker,
    /// All connections are looked up by both keys in the first round; in later ones they are counted.
    checked: bool,
}

impl<T: FlowTable<KeyV4>> ConnectContender<T> {
    /// Makes the table and the workers' parts.
    #[must_use]
    pub fn new(case: &Case, traffic: Arc<Traffic>) -> ConnectContender<T> {
        let table = T::new(&case.table());
        let hand = |number| {
            let worker = table.worker();
            CachePadded::new(Hand::new(
                worker,
                number,
                case.seed,
                case.protocol,
                case.batch,
            ))
        };
        ConnectContender {
            hands: (0..case.workers).map(hand).collect(),
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
        let run = run_crew(&mut self.hands, cores, interrupted, |number, hand, crew| {
            let mine = &residents[case.share(number, residents.len())];
            for batch in mine.chunks(case.batch) {
                if !hand.pace.next(crew) {
                    break;
                }
                hand.connect(table, batch, NOW, |_| LONG, |_, _| ());
                hand.pace.done(batch.len());
            }
        });
        let mut round = Round {
            elapsed: run.time(self.case.workload.kind),
            pinned: run.pinned,
            ..Round::default()
        };
        for hand in &mut self.hands {
            round.tally.add(&hand.take_tally(table));
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
        let there = table.slab().confirmed().count() as u64;
        round.anomalies.vanished += round.tally.confirmed.saturating_sub(there);
        anomaly::remove_all(&self.table, &mut self.checker);
        round
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        self.hands.iter().map(|hand| hand.stats()).collect()
    }

    fn reset(&mut self) {
        self.hands.iter_mut().for_each(|hand| hand.reset());
    }

    fn paces(&mut self) -> Vec<&mut Pace> {
        self.hands.iter_mut().map(|hand| &mut hand.pace).collect()
    }
}

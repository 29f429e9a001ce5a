//! `churn`: a full table in which new connections take the place of the oldest ones.
//!
//! # Model
//! The table is filled with connections behind source NAT and turned over [`TURNOVERS`] times before
//! anything is timed, so that what ages has aged: chains, free lists, overflow. Then each worker, a batch at a
//! time, makes new connections as [`connect`](super::connect) does and takes as many out that are its oldest,
//! as expiry does. An operation is one of each. The table has as many connections all the time.
//!
//! # What it does not measure
//! The walk by which expiry finds the expired (see [`expire`](super::expire)); connections that end in
//! another order than they began.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_utils::CachePadded;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::slab::EntryId;

use super::anomaly;
use super::case::{Case, Kind, Workload};
use super::flows::Pair;
use super::hand::{Hand, LONG, NOW};
use super::measure::{Contender, Round};
use super::pace::Pace;
use super::traffic::Traffic;
use super::worker::{Cores, Crew, run_crew};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "churn",
    question: "A full table that has turned over ten times: what do a new connection and an old one's end cost, and how many bytes is a connection?",
    kind: Kind::Churn,
};

/// Times that every connection was replaced before anything is timed.
pub const TURNOVERS: usize = 10;

/// Operations of a worker in a round.
pub const ROUND_OPERATIONS: usize = 1 << 16;

/// A [`Contender`] over a table of type `T`.
#[derive(Debug)]
pub struct ChurnContender<T: FlowTable<KeyV4>> {
    case: Case,
    table: T,
    traffic: Arc<Traffic>,
    hands: Vec<CachePadded<Churner<T::Worker>>>,
    checker: T::Worker,
    turned_over: bool,
}

/// A worker with its part of the table's connections.
#[derive(Debug)]
struct Churner<W> {
    hand: Hand<W>,
    /// Its connections, in the order of their places in the traffic; `None` for one that the table refused.
    ids: Vec<Place>,
    /// How many it has made.
    made: usize,
    /// The oldest ones, whose places new ones have taken.
    oldest: Vec<EntryId>,
}

/// What a worker remembers of each place.
pub type Place = Option<EntryId>;

impl<T: FlowTable<KeyV4>> ChurnContender<T> {
    /// Makes the table and fills it.
    ///
    /// # Panics
    /// If the table has no room for the connections that it was made for.
    #[must_use]
    pub fn new(case: &Case, traffic: Arc<Traffic>) -> ChurnContender<T> {
        let table = T::new(&case.table());
        let churner = |number| {
            let share = case.share(number, traffic.residents.len());
            let mut churner = Churner {
                hand: Hand::new(table.worker(), number, case.seed, case.protocol, case.batch),
                ids: vec![None; share.len()],
                made: share.len(),
                oldest: Vec::with_capacity(case.batch),
            };
            let Churner { hand, ids, .. } = &mut churner;
            let residents = &traffic.residents[share];
            hand.fill(&table, residents, case.batch, |at, id| ids[at] = Some(id));
            hand.take_tally(&table);
            CachePadded::new(churner)
        };
        ChurnContender {
            hands: (0..case.workers).map(churner).collect(),
            checker: table.worker(),
            turned_over: false,
            case: *case,
            table,
            traffic,
        }
    }

    /// `operations` gives each worker's number of them for its number of connections.
    fn churn(
        &mut self,
        cores: &Cores,
        interrupted: &AtomicBool,
        operations: impl Fn(usize) -> usize + Sync,
    ) -> Round {
        let (table, case, traffic) = (&self.table, &self.case, &*self.traffic);
        let run = run_crew(
            &mut self.hands,
            cores,
            interrupted,
            |number, churner, crew| {
                let share = case.share(number, traffic.residents.len());
                let populations = [&traffic.residents[share.clone()], &traffic.newcomers[share]];
                let wanted = operations(churner.ids.len());
                churner.turn(table, populations, case.batch, wanted, crew)
            },
        );
        let mut round = Round {
            elapsed: run.time(self.case.workload.kind),
            pinned: run.pinned,
            ..Round::default()
        };
        for (missing, churner) in run.results.into_iter().zip(&mut self.hands) {
            let tally = churner.hand.take_tally(table);
            // Nobody but this worker removes its connections.
            round.anomalies.vanished += missing;
            round.tally.add(&tally);
        }
        round.operations = round.tally.offered;
        round
    }
}

impl<T: FlowTable<KeyV4>> Contender for ChurnContender<T> {
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        if self.turned_over {
            let wanted = self.case.of_a_round(ROUND_OPERATIONS);
            return self.churn(cores, interrupted, |_| wanted);
        }
        self.turned_over = true;
        let mut round = self.churn(cores, interrupted, |connections| TURNOVERS * connections);
        round.hit_lines = self.table.hit_lines();
        round.anomalies.add(anomaly::check_connections(
            &self.table,
            &mut self.checker,
            NOW,
        ));
        round
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        self.hands
            .iter()
            .map(|churner| churner.hand.stats())
            .collect()
    }

    fn reset(&mut self) {
        self.hands
            .iter_mut()
            .for_each(|churner| churner.hand.reset());
    }

    fn paces(&mut self) -> Vec<&mut Pace> {
        self.hands
            .iter_mut()
            .map(|churner| &mut churner.hand.pace)
            .collect()
    }
}

impl<W> Churner<W> {
    /// Replaces the oldest connections, `wanted` at least; returns how many of them were not there any more.
    fn turn<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        populations: [&[Pair]; 2],
        batch: usize,
        wanted: usize,
        crew: &Crew<'_>,
    ) -> u64 {
        let connections = self.ids.len();
        let (mut done, mut missing) = (0, 0);
        while connections > 0 && done < wanted && self.hand.pace.next(crew) {
            // Populations take turns: the connection that goes is not the one that comes.
            let newcomers = populations[self.made / connections % 2];
            let first = self.made % connections;
            let places = first..(first + batch).min(connections);
            self.oldest.clear();
            self.oldest
                .extend(self.ids[places.clone()].iter().flatten());
            let ids = &mut self.ids[places.clone()];
            ids.fill(None);
            self.hand.connect(
                table,
                &newcomers[places.clone()],
                NOW,
                |_| LONG,
                |number, id| ids[number] = Some(id),
            );
            missing += self.oldest.len() as u64 - self.hand.expire(table, &self.oldest);
            self.hand.pace.done(places.len());
            self.made += places.len();
            done += places.len();
        }
        missing
    }
}

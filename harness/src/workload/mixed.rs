//! `mixed`: 90 % lookups that hit, 9 % new connections, 1 % ends of connections.
//!
//! # Model
//! A full table of connections behind source NAT. Each worker goes through cycles of a hundred batches: ninety of lookups as
//! in [`lookup-hit`](super::lookup_hit), among them, evenly, nine of new connections as in [`connect`](super::connect),
//! and at the end one in which the oldest of those it made expire. So the table grows by eight batches a cycle; after a round of
//! [`CYCLES`] of them all that is new is taken out again with the clock stopped. An operation is one lookup, one connection
//! made or one ended.
//!
//! # What it does not measure
//! Lookups that wait for what a new connection changes: the connections that are asked for are not those that come and go.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_utils::CachePadded;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::status::Status;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::prefetch::Hint;
use clashtrack_engine::table::slab::EntryId;

use super::anomaly;
use super::case::{Case, Kind, Workload};
use super::flows::Pair;
use super::hand::{CONNECTED, Hand, LONG, NOW, filled};
use super::lookup::prefetch_keys;
use super::measure::{Contender, Round};
use super::pace::Pace;
use super::traffic::Traffic;
use super::worker::{Cores, Crew, run_crew};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "mixed",
    question: "90 % hits, 9 % new connections, 1 % ends: what does an operation of that mixture cost?",
    kind: Kind::Mixed,
};

/// Cycles of a round.
pub const CYCLES: usize = 16;
/// Batches of lookups in a cycle.
pub(crate) const LOOKUPS: usize = 90;
/// Batches of new connections.
pub(crate) const CONNECTS: usize = 9;

/// Connections that a worker makes in a round.
#[must_use]
pub const fn newcomers(batch: usize) -> usize {
    CYCLES * CONNECTS * batch
}

/// A [`Contender`] over a table of type `T`.
#[derive(Debug)]
pub struct MixedContender<T: FlowTable<KeyV4>> {
    case: Case,
    table: T,
    traffic: Arc<Traffic>,
    hands: Vec<CachePadded<Mixer<T::Worker>>>,
    checker: T::Worker,
    checked: bool,
}

/// A worker that does all three.
#[derive(Debug)]
struct Mixer<W> {
    hand: Hand<W>,
    /// Where in the keys it goes on.
    next: usize,
    statuses: Vec<Option<Status>>,
    /// How the keys to come are asked for.
    hint: Hint,
    /// What it has made, the oldest first.
    made: VecDeque<EntryId>,
    oldest: Vec<EntryId>,
}

/// What a worker did in a round.
#[derive(Clone, Copy, Default, Debug)]
struct Done {
    lookups: u64,
    hits: u64,
    ended: u64,
    /// Of the connections that it ended those that were not there any more.
    missing: u64,
}

impl<T: FlowTable<KeyV4>> MixedContender<T> {
    /// Makes the table and fills it.
    #[must_use]
    pub fn new(case: &Case, traffic: Arc<Traffic>) -> MixedContender<T> {
        let table = T::new(&case.table());
        filled(&table, case, &traffic.residents, |_, _| ());
        let mixer = |number| {
            CachePadded::new(Mixer {
                hand: Hand::new(table.worker(), number, case.seed, case.protocol, case.batch),
                next: case.share(number, traffic.keys.len()).start,
                statuses: vec![None; case.batch],
                hint: case.prefetch.reading,
                made: VecDeque::with_capacity(newcomers(case.batch)),
                oldest: Vec::with_capacity(case.batch),
            })
        };
        MixedContender {
            hands: (0..case.workers).map(mixer).collect(),
            checker: table.worker(),
            checked: false,
            case: *case,
            table,
            traffic,
        }
    }
}

impl<T: FlowTable<KeyV4>> Contender for MixedContender<T> {
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let (table, case, traffic) = (&self.table, &self.case, &*self.traffic);
        let run = run_crew(
            &mut self.hands,
            cores,
            interrupted,
            |number, mixer, crew| {
                let newcomers = &traffic.newcomers[case.share(number, traffic.newcomers.len())];
                mixer.mix(table, &traffic.keys, newcomers, case.batch, crew)
            },
        );
        let mut round = Round {
            elapsed: run.time(self.case.workload.kind),
            pinned: run.pinned,
            ..Round::default()
        };
        if !self.checked {
            self.checked = true;
            round.anomalies = anomaly::check_connections(table, &mut self.checker, NOW);
        }
        for (done, mixer) in run.results.into_iter().zip(&mut self.hands) {
            let tally = mixer.hand.take_tally(table);
            round.operations += done.lookups + tally.offered + done.ended;
            round.tally.add(&tally);
            round.anomalies.vanished += done.lookups - done.hits + done.missing;
            // With the clock stopped.
            while !mixer.made.is_empty() {
                let (ended, missing) = mixer.end_oldest(table, case.batch);
                debug_assert!(ended > 0);
                round.anomalies.vanished += missing;
            }
        }
        let there = table.slab().confirmed().count();
        let vanished = traffic.residents.len().saturating_sub(there);
        round.anomalies.vanished += vanished as u64;
        round
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        self.hands.iter().map(|mixer| mixer.hand.stats()).collect()
    }

    fn reset(&mut self) {
        self.hands.iter_mut().for_each(|mixer| mixer.hand.reset());
    }

    fn paces(&mut self) -> Vec<&mut Pace> {
        self.hands
            .iter_mut()
            .map(|mixer| &mut mixer.hand.pace)
            .collect()
    }
}

impl<W> Mixer<W> {
    fn mix<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        keys: &[KeyV4],
        newcomers: &[Pair],
        batch: usize,
        crew: &Crew<'_>,
    ) -> Done {
        let mut done = Done::default();
        let mut newcomers = newcomers.chunks(batch);
        for _ in 0..CYCLES {
            for turn in 1..=LOOKUPS {
                if !self.hand.pace.next(crew) {
                    return done;
                }
                let before = done.lookups;
                self.look_up(table, keys, batch, &mut done);
                self.hand.pace.done((done.lookups - before) as usize);
                if turn % (LOOKUPS / CONNECTS) == 0
                    && let Some(pairs) = newcomers.next()
                {
                    if !self.hand.pace.next(crew) {
                        return done;
                    }
                    let made = &mut self.made;
                    self.hand
                        .connect(table, pairs, NOW, |_| LONG, |_, id| made.push_back(id));
                    self.hand.pace.done(pairs.len());
                }
            }
            if !self.hand.pace.next(crew) {
                return done;
            }
            let (ended, missing) = self.end_oldest(table, batch);
            self.hand.pace.done(ended as usize);
            done.ended += ended;
            done.missing += missing;
        }
        done
    }

    fn look_up<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        keys: &[KeyV4],
        batch: usize,
        done: &mut Done,
    ) {
        let end = (self.next + batch).min(keys.len());
        let asked = &keys[self.next..end];
        self.next = if end == keys.len() { 0 } else { end };
        prefetch_keys(
            self.hint,
            &keys[self.next..(self.next + batch).min(keys.len())],
        );
        let statuses = &mut self.statuses[..asked.len()];
        table.begin(&mut self.hand.worker);
        table.status_batch(&mut self.hand.worker, asked, NOW, statuses);
        table.end(&mut self.hand.worker);
        done.lookups += asked.len() as u64;
        done.hits += statuses
            .iter()
            .filter(|&&status| status == Some(CONNECTED))
            .count() as u64;
    }

    /// How many were ended, and how many of them were not there any more.
    fn end_oldest<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        batch: usize,
    ) -> (u64, u64) {
        self.oldest.clear();
        self.oldest
            .extend(self.made.drain(..batch.min(self.made.len())));
        let ended = self.oldest.len() as u64;
        (ended, ended - self.hand.expire(table, &self.oldest))
    }
}

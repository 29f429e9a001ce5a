//! Lookups in a full table, of keys that are there or of keys that are not.

use std::hint::black_box;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_utils::CachePadded;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::status::Status;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::prefetch::{Hint, prefetch};

use super::anomaly::{self, Anomalies};
use super::case::{Case, Kind};
use super::hand::{CONNECTED, Hand, NOW, filled};
use super::measure::{Contender, Round};
use super::pace::Pace;
use super::traffic::Traffic;
use super::worker::{Cores, Crew, run_crew};
use super::zones;

/// Lookups of a worker in a round: some ten milliseconds, far more than starting together costs.
pub const ROUND_LOOKUPS: usize = 1 << 18;

/// A [`Contender`] over a table of type `T`.
#[derive(Debug)]
pub struct LookupContender<T: FlowTable<KeyV4>> {
    table: T,
    traffic: Arc<Traffic>,
    batch: usize,
    /// Lookups of a worker in a round.
    wanted: usize,
    /// What is looked up: keys that are there, but for `lookup-miss`.
    kind: Kind,
    hands: Vec<CachePadded<Looker<T::Worker>>>,
    /// For what happens at rest.
    checker: T::Worker,
    /// Connections of one zone must not be taken for another's: looked at once.
    checks_zones: bool,
    marker: PhantomData<T>,
}

/// A worker that looks up.
#[derive(Debug)]
struct Looker<W> {
    hand: Hand<W>,
    /// Where in the keys it goes on.
    next: usize,
    found: Vec<Option<Status>>,
    /// How the keys to come are asked for.
    hint: Hint,
}

/// What a worker saw in a round.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    lookups: u64,
    hits: u64,
    /// Sum of the status words read: known beforehand, so that nothing can be left out.
    statuses: u64,
}

impl<T: FlowTable<KeyV4>> LookupContender<T> {
    /// Makes the table and fills it.
    #[must_use]
    pub fn new(case: &Case, traffic: Arc<Traffic>) -> LookupContender<T> {
        let table = T::new(&case.table());
        filled(&table, case, &traffic.residents, |_, _| ());
        let looker = |number| {
            CachePadded::new(Looker {
                hand: Hand::new(table.worker(), number, case.seed, case.protocol, case.batch),
                next: match traffic.steered.as_slice() {
                    [] => case.share(number, traffic.keys.len()).start,
                    _ => 0,
                },
                found: vec![None; case.batch],
                hint: case.prefetch.reading,
            })
        };
        LookupContender {
            hands: (0..case.workers).map(looker).collect(),
            checker: table.worker(),
            checks_zones: case.workload.kind == Kind::Zones,
            batch: case.batch,
            wanted: case.of_a_round(ROUND_LOOKUPS),
            kind: case.workload.kind,
            table,
            traffic,
            marker: PhantomData,
        }
    }
}

impl<T: FlowTable<KeyV4>> LookupContender<T> {
    /// # Panics
    /// If the table finds a connection in a zone that has none.
    fn check_zones(&mut self) -> Anomalies {
        for key in self.traffic.residents.iter().flat_map(zones::in_nobodys) {
            let found = self.table.status(&mut self.checker, &key, NOW);
            assert_eq!(
                found,
                None,
                "{}: found in a zone without connections",
                T::NAME
            );
        }
        anomaly::check_connections(&self.table, &mut self.checker, NOW)
    }
}

impl<T: FlowTable<KeyV4>> Contender for LookupContender<T> {
    /// # Panics
    /// If the table finds a key that was never inserted, or a connection with another status than it was given.
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let (table, traffic, batch) = (&self.table, &*self.traffic, self.batch);
        let wanted = self.wanted as u64;
        let run = run_crew(
            &mut self.hands,
            cores,
            interrupted,
            |number, looker, crew| {
                let keys = traffic.keys_of(number);
                let wanted = traffic.part_of(number, wanted);
                if batch == 1 && looker.hand.pace.is_closed() {
                    looker.one_by_one(table, keys, wanted, crew)
                } else {
                    looker.in_batches(table, keys, batch, wanted, crew)
                }
            },
        );
        let mut round = Round {
            elapsed: run.time(self.kind),
            pinned: run.pinned,
            ..Round::default()
        };
        if std::mem::take(&mut self.checks_zones) {
            round.anomalies = self.check_zones();
        }
        let table = &self.table;
        for (seen, looker) in run.results.into_iter().zip(&mut self.hands) {
            looker.hand.take_tally(table);
            round.operations += seen.lookups;
            assert_eq!(
                seen.statuses,
                seen.hits * u64::from(CONNECTED.bits()),
                "{}: a lookup found a connection with another status than it was given",
                T::NAME
            );
            if self.kind != Kind::LookupMiss {
                round.anomalies.add(Anomalies {
                    vanished: seen.lookups - seen.hits,
                    ..Anomalies::default()
                });
            } else {
                assert_eq!(
                    seen.hits,
                    0,
                    "{}: a lookup found a key that was never inserted",
                    T::NAME
                );
            }
        }
        round
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        self.hands
            .iter()
            .map(|looker| looker.hand.stats())
            .collect()
    }

    fn reset(&mut self) {
        self.hands.iter_mut().for_each(|looker| looker.hand.reset());
    }

    fn paces(&mut self) -> Vec<&mut Pace> {
        self.hands
            .iter_mut()
            .map(|looker| &mut looker.hand.pace)
            .collect()
    }
}

/// Asks for the keys of the batch to come: to a packet path they are at hand, taken from packets a moment ago.
pub fn prefetch_keys(hint: Hint, keys: &[KeyV4]) {
    /// Keys of a line.
    const LINE: usize = 64 / size_of::<KeyV4>();
    for key in keys.iter().step_by(LINE) {
        prefetch(hint, key);
    }
}

impl<W> Looker<W> {
    fn in_batches<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        keys: &[KeyV4],
        batch: usize,
        wanted: u64,
        crew: &Crew<'_>,
    ) -> Seen {
        let mut seen = Seen::default();
        while seen.lookups < wanted && self.hand.pace.next(crew) {
            let end = (self.next + batch).min(keys.len());
            let asked = &keys[self.next..end];
            self.next = if end == keys.len() { 0 } else { end };
            prefetch_keys(
                self.hint,
                &keys[self.next..(self.next + batch).min(keys.len())],
            );
            let found = &mut self.found[..asked.len()];
            table.begin(&mut self.hand.worker);
            table.status_batch(&mut self.hand.worker, asked, NOW, found);
            table.end(&mut self.hand.worker);
            self.hand.pace.done(asked.len());
            // Without branches, and each status read: what a hit ends with.
            for status in found.iter() {
                seen.hits += u64::from(status.is_some());
                seen.statuses += u64::from(status.map_or(0, |status| status.bits()));
            }
            seen.lookups += asked.len() as u64;
        }
        seen
    }

    /// Each lookup waits for the one before.
    fn one_by_one<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        keys: &[KeyV4],
        wanted: u64,
        crew: &Crew<'_>,
    ) -> Seen {
        /// Looks at the stop flag once in so many lookups.
        const STRETCH: usize = 1024;
        // 0, but neither the compiler nor the processor knows: what is found must have arrived
        // before the place of the next key is known.
        let never = black_box(0usize);
        let mut seen = Seen::default();
        while seen.lookups < wanted && !crew.should_stop() {
            let end = (self.next + STRETCH).min(keys.len());
            let mut waits_for = 0;
            for at in self.next..end {
                let key = &keys[at + waits_for];
                table.begin(&mut self.hand.worker);
                if let Some(status) = table.status(&mut self.hand.worker, key, NOW) {
                    seen.hits += 1;
                    seen.statuses += u64::from(status.bits());
                    waits_for = status.bits() as usize & never;
                }
                table.end(&mut self.hand.worker);
            }
            seen.lookups += (end - self.next) as u64;
            self.next = if end == keys.len() { 0 } else { end };
        }
        seen
    }
}

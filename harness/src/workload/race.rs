//! The race: all workers offer the same new flows to one table, in the same order.
//!
//! ```text
//! each worker, for each batch of the round's flows
//!   look the whole batch up          found already? counted, and not offered
//!   make an unconfirmed entry each   its own reply tuple where NAT draws one
//!   meet the others                  bounded: who lags is not waited for long
//!   confirm the batch                of each flow one wins, the others clash
//! ```
//! There is no barrier for each flow: its cost would drown the race. Which part of that is timed: `sweep`.
//! After the round, with all workers at rest and the clock stopped, connections are checked ([`anomaly`]) and removed.

use std::sync::atomic::AtomicBool;

use crossbeam_utils::CachePadded;

use clashtrack_engine::clash::KernelClashPolicy;
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::stats::{ConntrackCounters, ConntrackStats};
use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::lockfree::Isa;
use clashtrack_engine::table::slab::EntryId;
use clashtrack_engine::table::{Confirmed, FlowTable, Hit, TableConfig};
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::{Direction, Tuple};

use super::anomaly;
use super::clash::{ClashWorkload, Translation};
use super::clash_nat;
use super::dns_pair;
use super::flows;
use super::measure::{Contender, Round};
use super::sweep::{self, Racer, sweep};
use super::tally::Tally;
use super::worker::{Cores, run_crew};
use crate::calibrate::Hints;

/// One race: what is raced, by how many, how large a round is.
#[derive(Clone, Copy, Debug)]
pub struct RaceConfig {
    /// What.
    pub workload: ClashWorkload,
    /// Workers; every flow is offered by all of them.
    pub workers: usize,
    /// Flows looked up before any of them is confirmed.
    pub batch: usize,
    /// Flows of a round.
    pub flows: usize,
    /// Seed of flows, NAT and chain limits.
    pub seed: u64,
    /// How the table asks for memory ahead.
    pub prefetch: Hints,
    /// The instructions that it uses, if it has vector code.
    pub isa: Isa,
}

/// Entries that a worker may keep in its own free list, with some to spare.
const ENTRIES_AT_HAND: usize = 256;
/// One batch in so many is confirmed one by one, and its winners are checked on the spot.
const ONE_BY_ONE_EVERY: u64 = 16;
/// The time of all packets: nothing expires during a race.
const NOW: Nanos = SECOND;

impl RaceConfig {
    /// How the table is made: as many buckets as flows, so that its load is that of a full kernel table;
    /// room for a loser of each flow a worker.
    #[must_use]
    pub fn table(&self) -> TableConfig {
        let mut rng = WorkerRng::new(self.seed, usize::MAX);
        let capacity =
            self.flows * self.workers + (self.workers + 1) * (self.batch + ENTRIES_AT_HAND);
        TableConfig {
            buckets: self.flows,
            workers: self.workers,
            prefetch: self.prefetch.reading,
            prefetch_write: self.prefetch.writing,
            isa: self.isa,
            ..TableConfig::new(capacity, HashKey(rng.next_u64(), rng.next_u64()))
        }
    }
}

/// A [`Contender`] over a table of type `T`.
#[derive(Debug)]
pub struct TableRace<T: FlowTable<KeyV4>> {
    config: RaceConfig,
    table: T,
    hands: Vec<CachePadded<Hand<T::Worker>>>,
    /// For what happens at rest.
    checker: T::Worker,
    rounds: usize,
}

/// What a flow came to in one worker's hands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It never got that far, or its packet was dropped.
    None,
    /// Its packet was accepted: the flow must be found afterwards.
    Accepted,
}

/// A worker's own things.
#[derive(Debug)]
struct Hand<W> {
    worker: W,
    rng: WorkerRng,
    counters: ConntrackCounters,
    before: ConntrackStats,
    tally: Tally,
    fates: Vec<Fate>,
    hits: Vec<Option<Hit>>,
    /// Unconfirmed entries of the batch, and beside them the flow of each.
    unconfirmed: Vec<EntryId>,
    flows: Vec<usize>,
    outcomes: Vec<Confirmed>,
    batches: u64,
}

impl<T: FlowTable<KeyV4>> TableRace<T> {
    /// Makes the table and the workers' parts.
    #[must_use]
    pub fn new(config: RaceConfig) -> TableRace<T> {
        let table = T::new(&config.table());
        let hand = |worker| {
            CachePadded::new(Hand {
                worker: table.worker(),
                // Round numbers are streams of their own under the same seed; workers count down from above.
                rng: WorkerRng::new(!config.seed, worker),
                counters: ConntrackCounters::default(),
                before: ConntrackStats::default(),
                tally: Tally::default(),
                fates: vec![Fate::None; config.flows],
                hits: vec![None; config.batch],
                unconfirmed: Vec::with_capacity(config.batch),
                flows: Vec::with_capacity(config.batch),
                outcomes: vec![Confirmed::Inserted; config.batch],
                batches: 0,
            })
        };
        TableRace {
            hands: (0..config.workers).map(hand).collect(),
            checker: table.worker(),
            rounds: 0,
            config,
            table,
        }
    }
}

impl<T: FlowTable<KeyV4>> Contender for TableRace<T> {
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let config = self.config;
        let flows = Flows::of_round(&config, self.rounds);
        self.rounds += 1;
        for hand in &mut self.hands {
            hand.tally = Tally::default();
            hand.fates.fill(Fate::None);
        }
        let table = &self.table;
        let run = run_crew(&mut self.hands, cores, interrupted, |number, hand, crew| {
            let mut offer = Offer {
                table,
                config: &config,
                flows: &flows,
                hand,
            };
            sweep(&mut offer, config.flows, config.batch, number, crew)
        });
        let mut result = Round {
            elapsed: sweep::elapsed(&run),
            pinned: run.pinned,
            chances: sweep::chances(&run),
            chains: table.chain_lengths(),
            ..Round::default()
        };
        for hand in &mut self.hands {
            result.tally.add(&hand.tally);
            result.tally.recycle_stalled += table.take_recycle_stalled(&mut hand.worker);
            let restarts = table.take_search_restarts(&mut hand.worker);
            hand.counters.search_restart.add(restarts);
        }
        result.operations = result.tally.offered;
        result.anomalies = anomaly::check_connections(table, &mut self.checker, NOW);
        result.anomalies.torn += result.tally.torn;
        result.anomalies.vanished += self.vanished_flows(&flows.originals);
        anomaly::remove_all(&self.table, &mut self.checker);
        result
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        self.hands
            .iter()
            .map(|hand| hand.counters.snapshot().since(&hand.before))
            .collect()
    }

    fn reset(&mut self) {
        for hand in &mut self.hands {
            hand.before = hand.counters.snapshot();
        }
    }
}

impl<T: FlowTable<KeyV4>> TableRace<T> {
    /// Flows of which a packet was accepted and that are not found any more.
    fn vanished_flows(&mut self, flows: &[KeyV4]) -> u64 {
        let mut vanished = 0;
        for (number, flow) in flows.iter().enumerate() {
            if self
                .hands
                .iter()
                .all(|hand| hand.fates[number] == Fate::None)
            {
                continue;
            }
            match self.table.lookup(&mut self.checker, flow, NOW) {
                Some(hit) => {
                    self.table.release(&mut self.checker, hit.id);
                }
                None => vanished += 1,
            }
        }
        vanished
    }
}

/// The flows of a round, as each worker needs them.
#[derive(Debug)]
struct Flows {
    tuples: Vec<Tuple>,
    originals: Vec<KeyV4>,
    /// Reply keys without NAT.
    inverses: Vec<KeyV4>,
}

impl Flows {
    fn of_round(config: &RaceConfig, round: usize) -> Flows {
        let tuples = flows::of_round(config.seed, round, config.workload.protocol, config.flows);
        Flows {
            originals: tuples.iter().map(|tuple| KeyV4::pack(tuple, 0)).collect(),
            inverses: tuples.iter().map(inverse).collect(),
            tuples,
        }
    }
}

/// One worker's offers to a table.
struct Offer<'a, T: FlowTable<KeyV4>> {
    table: &'a T,
    config: &'a RaceConfig,
    flows: &'a Flows,
    hand: &'a mut Hand<T::Worker>,
}

impl<T: FlowTable<KeyV4>> Racer for Offer<'_, T> {
    fn get_ready(&mut self, first: usize, count: usize) {
        self.table.begin(&mut self.hand.worker);
        self.look_up(first, count);
        self.make_entries(first, count);
    }

    fn confirm(&mut self) {
        let (table, hand) = (self.table, &mut *self.hand);
        hand.batches += 1;
        if hand.batches.is_multiple_of(ONE_BY_ONE_EVERY) {
            self.confirm_one_by_one();
        } else {
            self.confirm_together();
        }
        self.hand.settle(table);
        table.end(&mut self.hand.worker);
    }
}

impl<T: FlowTable<KeyV4>> Offer<'_, T> {
    fn look_up(&mut self, first: usize, count: usize) {
        let (table, hand) = (self.table, &mut *self.hand);
        let keys = &self.flows.originals[first..first + count];
        let hits = &mut hand.hits[..count];
        table.lookup_batch(&mut hand.worker, keys, NOW, hits);
        for (i, hit) in hits.iter().enumerate() {
            if let Some(hit) = hit {
                table.release(&mut hand.worker, hit.id);
                hand.tally.found_at_lookup += 1;
                hand.fates[first + i] = Fate::Accepted;
            }
        }
    }

    /// Makes an unconfirmed entry for each flow that was not found.
    fn make_entries(&mut self, first: usize, count: usize) {
        let (table, hand) = (self.table, &mut *self.hand);
        let workload = &self.config.workload;
        hand.unconfirmed.clear();
        hand.flows.clear();
        let status = workload.translation.status();
        let flows = self.flows;
        let originals = &flows.originals[first..first + count];
        let inverses = &flows.inverses[first..first + count];
        let those = originals.iter().zip(inverses).zip(&hand.hits);
        for (flow, ((original, inverse), hit)) in (first..).zip(those) {
            if hit.is_some() {
                continue;
            }
            hand.tally.offered += 1;
            let Some(id) = table.allocate(&mut hand.worker) else {
                // The table is full: its packet is dropped before it has an entry to confirm.
                hand.tally.dropped += 1;
                hand.counters.drop.increment();
                continue;
            };
            let reply = match workload.translation {
                Translation::Random => clash_nat::choose_reply(
                    table,
                    &mut hand.worker,
                    &mut hand.rng,
                    &hand.counters,
                    &flows.tuples[flow],
                    NOW,
                ),
                Translation::Backend => dns_pair::draw_reply(&flows.tuples[flow], &mut hand.rng),
                Translation::None => *inverse,
            };
            let entry = table.slab().entry(id);
            entry.set_keys(*original, reply);
            entry.set_deadline(workload.timeout);
            entry.put_status(status);
            hand.unconfirmed.push(id);
            hand.flows.push(flow);
        }
    }

    fn confirm_together(&mut self) {
        let (table, hand) = (self.table, &mut *self.hand);
        let outcomes = &mut hand.outcomes[..hand.unconfirmed.len()];
        table.confirm_batch(
            &mut hand.worker,
            &hand.unconfirmed,
            NOW,
            &mut hand.rng,
            &mut KernelClashPolicy,
            outcomes,
        );
    }

    /// The same, and each winner's other key is looked up at once: who was given to a connection must find it by both.
    fn confirm_one_by_one(&mut self) {
        let (table, hand) = (self.table, &mut *self.hand);
        // No `prepare_confirm`: the lookups have just asked for the same lines, and asking again takes them from whoever is ahead.
        for (outcome, &id) in hand.outcomes.iter_mut().zip(&hand.unconfirmed) {
            let reply = table.slab().entry(id).key(Direction::Reply);
            let random = hand.rng.next_u32();
            *outcome = table.confirm(&mut hand.worker, id, NOW, random, &mut KernelClashPolicy);
            if matches!(*outcome, Confirmed::Merged(_)) {
                match table.lookup(&mut hand.worker, &reply, NOW) {
                    Some(hit) => {
                        table.release(&mut hand.worker, hit.id);
                    }
                    None => hand.tally.torn += 1,
                }
            }
        }
    }
}

impl<W> Hand<W> {
    /// Counts what became of the unconfirmed entries, and lets go of the connections that their packets belong to, as `kfree_skb` does.
    #[inline(always)]
    fn settle<T: FlowTable<KeyV4, Worker = W>>(&mut self, table: &T) {
        let mut tally = Tally::default();
        let offered = self.unconfirmed.iter().zip(&self.flows);
        for ((&id, &flow), outcome) in offered.zip(&self.outcomes) {
            tally.count(outcome, &self.counters);
            let connection = match outcome {
                Confirmed::Refused(_) => continue,
                Confirmed::Merged(clash) => clash.winner,
                Confirmed::Inserted | Confirmed::ReplyOnly(_) => id,
            };
            table.release(&mut self.worker, connection);
            self.fates[flow] = Fate::Accepted;
        }
        self.tally.add(&tally);
    }
}

/// The reply key without NAT.
fn inverse(tuple: &Tuple) -> KeyV4 {
    // Only ICMP types may have no inverse; flows have ports.
    let inverse = tuple.invert().expect("a tuple with ports has an inverse");
    KeyV4::pack(&inverse, 0)
}

#[cfg(test)]
mod tests {
    use super::super::anomaly::Anomalies;
    use super::super::clash::CLASH;
    use super::super::clash_nat::CLASH_NAT;
    use super::super::clash_tcp::CLASH_TCP;
    use super::*;
    use crate::peer::dashmap::DashMapTable;
    use crate::peer::striped::StripedTable;
    use clashtrack_engine::table::lockfree::LockfreeTable;
    use clashtrack_engine::table::mutex::MutexTable;

    fn race<T: FlowTable<KeyV4>>(workload: ClashWorkload, workers: usize) -> Round {
        let mut race = TableRace::<T>::new(RaceConfig {
            workload,
            workers,
            batch: 32,
            flows: 3000,
            seed: 5,
            prefetch: Hints::default(),
            isa: Isa::default(),
        });
        let never = AtomicBool::new(false);
        race.round(&Cores::available(), &never);
        race.reset();
        let round = race.round(&Cores::available(), &never);
        let mut sum = ConntrackStats::default();
        race.per_cpu().iter().for_each(|worker| sum.add(worker));
        let tally = round.tally;
        assert_eq!(tally.lost(), 0, "{tally:?}");
        assert_eq!(tally.offered + tally.found_at_lookup, 3000 * workers as u64);
        assert_eq!(round.chances, 3000 * (workers as u64 - 1));
        assert_eq!(
            sum.clash_resolve,
            tally.resolved_same + tally.resolved_reply_only
        );
        assert_eq!(sum.insert_failed, tally.dropped);
        assert!(tally.collided <= round.chances);
        round
    }

    #[test]
    fn losers_without_nat_are_merged_and_nothing_else() {
        for workers in [2, 3] {
            for round in [
                race::<StripedTable<KeyV4>>(CLASH, workers),
                race::<MutexTable<KeyV4>>(CLASH, workers),
            ] {
                assert_eq!(round.tally.confirmed, 3000);
                assert_eq!(round.tally.resolved_reply_only + round.tally.dropped, 0);
                assert_eq!(round.anomalies, Anomalies::default());
            }
        }
        let dashmap = race::<DashMapTable<KeyV4>>(CLASH, 2);
        assert_eq!(dashmap.tally.confirmed, 3000);
    }

    #[test]
    fn both_answers_of_a_dns_pair_get_back_whichever_servers_were_drawn() {
        for round in [
            race::<LockfreeTable<KeyV4>>(dns_pair::DNS_PAIR, 2),
            race::<StripedTable<KeyV4>>(dns_pair::DNS_PAIR, 2),
        ] {
            let tally = round.tally;
            assert_eq!(tally.confirmed, 3000, "{tally:?}");
            assert_eq!(tally.dropped, 0, "{tally:?}");
            assert!(
                tally.resolved_reply_only > 0 && tally.resolved_same > 0,
                "{tally:?}"
            );
            assert_eq!(round.anomalies, Anomalies::default());
        }
    }

    #[test]
    fn losers_behind_random_source_nat_live_by_their_reply_key() {
        let round = race::<StripedTable<KeyV4>>(CLASH_NAT, 2);
        // Both draw the same of 64,512 ports once in twenty rounds; five times in one hardly ever.
        assert!(round.tally.resolved_same < 5, "{:?}", round.tally);
        assert_eq!(round.anomalies, Anomalies::default());
    }

    #[test]
    fn losers_of_tcp_are_dropped() {
        let round = race::<MutexTable<KeyV4>>(CLASH_TCP, 2);
        assert_eq!(round.tally.dropped, round.tally.collided);
        assert_eq!(
            round.tally.resolved_same + round.tally.resolved_reply_only,
            0
        );
        assert_eq!(round.anomalies, Anomalies::default());
    }

    #[test]
    fn one_worker_races_nobody() {
        let round = race::<StripedTable<KeyV4>>(CLASH, 1);
        assert_eq!((round.chances, round.tally.collided), (0, 0));
    }
}

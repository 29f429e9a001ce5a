//! A worker's own things in the measured workloads, and how it connects and expires in batches.

use clashtrack_engine::clash::KernelClashPolicy;
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::stats::{ConntrackCounters, ConntrackStats};
use clashtrack_engine::status::Status;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::slab::{EntryId, TrackerWords};
use clashtrack_engine::table::{ClashPolicy, Confirmed, FlowTable};
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::Protocol;

use super::case::Case;
use super::flows::Pair;
use super::pace::Pace;
use super::tally::Tally;

/// The time of all packets where none passes.
pub(super) const NOW: Nanos = SECOND;
/// A timeout that does not pass (`nf_conntrack_tcp_timeout_established`).
pub(super) const LONG: Nanos = 432_000 * SECOND;
/// What NAT set-up leaves in an entry behind source NAT.
const NAT: Status = Status::SRC_NAT.union(Status::SRC_NAT_DONE);
/// The status of a connection of these workloads, once it is in the table.
pub(super) const CONNECTED: Status = NAT.union(Status::CONFIRMED);

/// The state number of a first SYN (`TCP_CONNTRACK_SYN_SENT`).
const SYN_SENT: u8 = 1;
/// Window tracking of a first SYN, in the shape that matters here: seven words written.
const FIRST_WINDOW: TrackerWords = [1, 1, 1, 65_535, 0, 0, 0];

/// Fills a table with connections, before anything is timed. `kept` is told which connection has which entry.
///
/// # Panics
/// If the table has no room for the connections that it was made for.
pub(super) fn filled<T: FlowTable<KeyV4>>(
    table: &T,
    case: &Case,
    pairs: &[Pair],
    kept: impl FnMut(usize, EntryId),
) {
    let mut filler = Hand::new(
        table.worker(),
        usize::MAX,
        case.seed,
        case.protocol,
        case.batch,
    );
    filler.fill(table, pairs, case.batch, kept);
    table.leave(&mut filler.worker);
}

/// A worker's own things.
#[derive(Debug)]
pub(super) struct Hand<W> {
    pub(super) worker: W,
    pub(super) counters: ConntrackCounters,
    pub(super) tally: Tally,
    /// Connections that found no entry to be made of.
    pub(super) refused: u64,
    /// When its batches are due, in those workloads that can be offered at a rate.
    pub(super) pace: Pace,
    protocol: Protocol,
    rng: WorkerRng,
    before: ConntrackStats,
    unconfirmed: Vec<EntryId>,
    /// Which of the batch each of them is.
    numbers: Vec<usize>,
    outcomes: Vec<Confirmed>,
    removed: Vec<bool>,
}

impl<W> Hand<W> {
    pub(super) fn new(
        worker: W,
        number: usize,
        seed: u64,
        protocol: Protocol,
        batch: usize,
    ) -> Hand<W> {
        Hand {
            worker,
            counters: ConntrackCounters::default(),
            tally: Tally::default(),
            refused: 0,
            pace: Pace::default(),
            protocol,
            rng: WorkerRng::new(!seed, number),
            before: ConntrackStats::default(),
            unconfirmed: Vec::with_capacity(batch),
            numbers: Vec::with_capacity(batch),
            outcomes: Vec::with_capacity(batch),
            removed: Vec::with_capacity(batch),
        }
    }

    /// Counters since the last [`Hand::reset`].
    pub(super) fn stats(&self) -> ConntrackStats {
        self.counters.snapshot().since(&self.before)
    }

    pub(super) fn reset(&mut self) {
        self.before = self.counters.snapshot();
    }

    /// Takes the tally, with what the table counted for it, and the restarts of lookups into the counters.
    pub(super) fn take_tally<T: FlowTable<KeyV4, Worker = W>>(&mut self, table: &T) -> Tally {
        let restarts = table.take_search_restarts(&mut self.worker);
        self.counters.search_restart.add(restarts);
        self.tally.recycle_stalled += table.take_recycle_stalled(&mut self.worker);
        std::mem::take(&mut self.tally)
    }

    /// Connects a batch: an entry each, initialised as the first packet does it, then confirmed by
    /// both keys and let go. `kept` is told which entry each one that was inserted has.
    ///
    /// A UDP connection does not touch the line of the TCP tracker.
    pub(super) fn connect<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        batch: &[Pair],
        now: Nanos,
        mut timeout: impl FnMut(usize) -> Nanos,
        mut kept: impl FnMut(usize, EntryId),
    ) {
        table.begin(&mut self.worker);
        self.unconfirmed.clear();
        self.numbers.clear();
        for (number, pair) in batch.iter().enumerate() {
            let Some(id) = table.allocate(&mut self.worker) else {
                self.refused += 1;
                self.counters.drop.increment();
                continue;
            };
            let entry = table.slab().entry(id);
            entry.set_keys(pair.original, pair.reply);
            entry.put_status(NAT);
            entry.set_deadline(timeout(number));
            if self.protocol == Protocol::TCP {
                table
                    .slab()
                    .tracker(id)
                    .lock()
                    .store(FIRST_WINDOW, SYN_SENT);
            }
            self.unconfirmed.push(id);
            self.numbers.push(number);
        }
        self.outcomes
            .resize(self.unconfirmed.len(), Confirmed::Inserted);
        table.confirm_batch(
            &mut self.worker,
            &self.unconfirmed,
            now,
            &mut self.rng,
            &mut KernelClashPolicy,
            &mut self.outcomes,
        );
        let outcomes = self.unconfirmed.iter().zip(&self.outcomes);
        for ((&id, outcome), &number) in outcomes.zip(&self.numbers) {
            self.tally.offered += 1;
            self.tally.count(outcome, &self.counters);
            match *outcome {
                Confirmed::Inserted | Confirmed::ReplyOnly(_) => {
                    table.release(&mut self.worker, id);
                    kept(number, id);
                }
                Confirmed::Merged(clash) => {
                    table.release(&mut self.worker, clash.winner);
                }
                Confirmed::Refused(_) => {}
            }
        }
        table.end(&mut self.worker);
    }

    /// Connects all of `pairs`, before anything is timed, in batches. `kept` is told which entry each has.
    ///
    /// One whose chain is longer than the limit that was drawn for it tries again, with another one. Of a million connections that is one in some fifty fills.
    ///
    /// # Panics
    /// If the table has no room for them.
    pub(super) fn fill<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        pairs: &[Pair],
        batch: usize,
        mut kept: impl FnMut(usize, EntryId),
    ) {
        /// Limits drawn for one connection: a chain that is longer than all of them has no room.
        const TRIES: usize = 64;
        let mut refused = Vec::new();
        let mut is_in = vec![false; batch];
        for (number, some) in pairs.chunks(batch).enumerate() {
            let first = number * batch;
            is_in.fill(false);
            let keep = |at, id| {
                is_in[at] = true;
                kept(first + at, id);
            };
            self.connect(table, some, NOW, |_| LONG, keep);
            let missing = is_in[..some.len()].iter().enumerate();
            refused.extend(
                missing
                    .filter(|(_, is_in)| !**is_in)
                    .map(|(at, _)| first + at),
            );
        }
        for at in refused {
            let alone = std::slice::from_ref(&pairs[at]);
            let entry = (0..TRIES).find_map(|_| {
                let mut entry = None;
                self.connect(table, alone, NOW, |_| LONG, |_, id| entry = Some(id));
                entry
            });
            let Some(entry) = entry else {
                panic!(
                    "{} has no room for the connections that it was made for",
                    T::NAME
                )
            };
            kept(at, entry);
        }
    }

    /// Connects one, with a policy for clashes. The table lets others wait, or not, while it decides.
    pub(super) fn connect_with<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        pair: &Pair,
        policy: &mut dyn ClashPolicy<KeyV4>,
    ) {
        table.begin(&mut self.worker);
        if let Some(id) = table.allocate(&mut self.worker) {
            let entry = table.slab().entry(id);
            entry.set_keys(pair.original, pair.reply);
            entry.put_status(NAT);
            entry.set_deadline(LONG);
            let outcome = table.confirm(&mut self.worker, id, NOW, 0, policy);
            self.tally.offered += 1;
            self.tally.count(&outcome, &self.counters);
            match outcome {
                Confirmed::Inserted | Confirmed::ReplyOnly(_) => {
                    table.release(&mut self.worker, id);
                }
                Confirmed::Merged(clash) => {
                    table.release(&mut self.worker, clash.winner);
                }
                Confirmed::Refused(_) => {}
            }
        }
        table.end(&mut self.worker);
    }

    /// Takes connections out, as expiry does once it has found them. Returns how many it was that
    /// took out: all that nobody else did.
    pub(super) fn expire<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        ids: &[EntryId],
    ) -> u64 {
        table.begin(&mut self.worker);
        self.removed.resize(ids.len(), false);
        table.remove_batch(&mut self.worker, ids, &mut self.removed);
        let mut removed = 0;
        for (&id, _) in ids.iter().zip(&self.removed).filter(|(_, ours)| **ours) {
            table.release(&mut self.worker, id);
            removed += 1;
        }
        table.end(&mut self.worker);
        removed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::flows::translated;
    use super::*;
    use clashtrack_engine::table::hash::HashKey;
    use clashtrack_engine::table::lockfree::{Layout, LockfreeTable};

    #[test]
    fn a_fill_tries_again_what_a_short_limit_refused() {
        // One chain, which takes 18 to 28: 26 are in it in the end.
        let layout = Layout {
            entries_max: 64,
            slack: 64,
            heads: 1,
            overflow: 16,
        };
        let table = LockfreeTable::<KeyV4>::with_layout(layout, HashKey(1, 2), false);
        let pairs = translated(7, 0, Protocol::UDP, 13);
        let mut hand = Hand::new(table.worker(), 0, 7, Protocol::UDP, 4);
        let mut kept = vec![None; pairs.len()];
        hand.fill(&table, &pairs, 4, |at, id| kept[at] = Some(id));
        let tally = hand.take_tally(&table);
        assert_eq!(tally.confirmed, 13);
        assert!(
            hand.counters.snapshot().chaintoolong > 0,
            "none was refused"
        );
        for (pair, id) in pairs.iter().zip(&kept) {
            let hit = table.lookup(&mut hand.worker, &pair.reply, NOW);
            assert_eq!(hit.map(|hit| hit.id), *id);
            table.release(&mut hand.worker, id.expect("it is in"));
        }
        assert_eq!(kept.iter().flatten().collect::<HashSet<_>>().len(), 13);
    }
}

//! A thread's own part of the table: its pin, its free numbers, what it took out. How workers come and go: `leaving`.

mod leaving;

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use leaving::Orphan;

use super::bucket::Geometry;
use super::epoch::{Epochs, Limbo, Seat};
use super::overflow::OverflowPool;
use super::pool::Cache;
use super::{LockfreeTable, word::State};
use crate::sync::unchecked::Mutex;
use crate::sync::{AtomicU64, Ordering};
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;
use crate::table::slab::{Entry, EntryId};
use crate::time::Nanos;

/// What a table and its workers share beside the index and the slab.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) epochs: Epochs,
    /// Entries that may still be allocated. In a line of its own: the way to the seats, beside it, is read with every pin.
    quota: CachePadded<AtomicU64>,
    /// How many of them a worker takes or gives back at once.
    permits: u64,
    /// What workers left behind when they went. Locked by workers that come and go, and
    /// tried (never waited for) by one that has run out of numbers.
    orphans: Mutex<Vec<Orphan>>,
    /// Numbers that a limbo can come to hold.
    limbo_entries: usize,
    limbo_overflow: usize,
}

/// Permits that a worker takes from, or gives back to, the quota at once, at most. Few where
/// there are few in all: up to twice as many are one worker's, and no other can have them.
const PERMITS_MAX: usize = 128;
const PERMITS_SHARE: usize = 1024;

impl Shared {
    pub(super) fn new(entries_max: usize, limbo_entries: usize, limbo_overflow: usize) -> Shared {
        Shared {
            epochs: Epochs::new(),
            quota: CachePadded::new(AtomicU64::new(entries_max as u64)),
            permits: (entries_max / PERMITS_SHARE).clamp(1, PERMITS_MAX) as u64,
            orphans: Mutex::new(Vec::new()),
            limbo_entries,
            limbo_overflow,
        }
    }
}

/// What a worker of a [`LockfreeTable`] counted beside the engine's statistics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LockfreeCounters {
    /// Inserts tried again because the winner of the clash had gone when it was looked up.
    pub confirm_retry: u64,
    /// Inserts of others that this worker drove to their decision.
    pub helped: u64,
    /// Allocations refused although the quota allowed them: all free entries wait for a
    /// worker that stays pinned.
    pub recycle_stalled: u64,
    /// Overflow buckets that this worker linked into a chain.
    pub linked: u64,
    /// Overflow buckets that this worker took out again.
    pub unlinked: u64,
}

/// A thread's part of a [`LockfreeTable`]. Between `begin` and `end`, and while it holds a
/// hit, it is pinned: what it sees stays what it is.
#[derive(Debug)]
pub struct LockfreeWorker {
    shared: Arc<Shared>,
    seat: Seat,
    pinned: bool,
    /// Batches and calls under way.
    nested: u32,
    /// Hits and winners not released yet.
    held: u32,
    permits: u64,
    pub(super) entries: Cache,
    pub(super) overflow: Cache,
    pub(super) entry_limbo: Limbo,
    pub(super) overflow_limbo: Limbo,
    /// Removed by this worker and not released yet.
    owned: VecDeque<EntryId>,
    /// Of these, the ones that nobody asked it to remove.
    pub(super) removed: VecDeque<EntryId>,
    /// The time of the call under way, for inserts that replace the expired.
    pub(super) now: Nanos,
    /// The insert under way, as long as no slot has had a word of it: nobody else knows of it.
    pub(super) unshown: Option<EntryId>,
    /// Batches to come for which it reckons with others who confirm the same connections.
    pub(super) rivals: u8,
    pub(super) counters: LockfreeCounters,
    /// Of [`LockfreeCounters::recycle_stalled`], what has been told.
    told_stalled: u64,
}

impl LockfreeWorker {
    pub(super) fn new<K: FlowKey, G: Geometry, H: KeyHasher>(
        table: &LockfreeTable<K, G, H>,
    ) -> LockfreeWorker {
        const REMOVED: usize = 1024;
        let shared = &table.shared;
        let seat = shared.epochs.sit();
        let mut worker = LockfreeWorker {
            seat,
            pinned: false,
            nested: 0,
            held: 0,
            permits: 0,
            entries: table.entries.cache(seat.number()),
            overflow: table.index.overflow.free.cache(seat.number()),
            entry_limbo: Limbo::new(shared.limbo_entries),
            overflow_limbo: Limbo::new(shared.limbo_overflow),
            owned: VecDeque::with_capacity(REMOVED),
            removed: VecDeque::with_capacity(REMOVED),
            now: 0,
            unshown: None,
            rivals: 0,
            counters: LockfreeCounters::default(),
            told_stalled: 0,
            shared: Arc::clone(shared),
        };
        if let Some(orphan) = worker.next_orphan() {
            worker.adopt(orphan);
        }
        worker
    }

    /// Entries that it removed and has not given back.
    #[cfg(test)]
    pub(super) fn owned(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.owned.iter().copied()
    }

    /// Takes its share of everything beforehand, so that its calls touch nothing that
    /// only the pools share.
    #[cfg(all(test, any(loom, shuttle)))]
    pub(super) fn stock<K: FlowKey, G: Geometry, H: KeyHasher>(
        &mut self,
        table: &LockfreeTable<K, G, H>,
        entries: usize,
        overflow: usize,
    ) {
        self.entries.stock(&table.entries, entries);
        self.overflow.stock(&table.index.overflow.free, overflow);
        self.permits = entries as u64;
        // Relaxed: see `take_permit`.
        self.shared
            .quota
            .fetch_sub(entries as u64, Ordering::Relaxed);
    }

    /// [`LockfreeCounters::recycle_stalled`] since it was asked last.
    pub(super) fn take_recycle_stalled(&mut self) -> u64 {
        let before = std::mem::replace(&mut self.told_stalled, self.counters.recycle_stalled);
        self.counters.recycle_stalled - before
    }

    /// What it counted so far.
    #[must_use]
    pub fn counters(&self) -> LockfreeCounters {
        self.counters
    }

    /// Has it one of the odd seats? Of two that come one after the other, one has.
    pub(super) fn is_odd(&self) -> bool {
        self.seat.number() % 2 == 1
    }

    #[inline]
    pub(super) fn hold(&mut self) {
        debug_assert!(self.pinned);
        self.held += 1;
    }

    #[inline]
    pub(super) fn hold_many(&mut self, hits: u32) {
        debug_assert!(self.pinned);
        self.held += hits;
    }

    /// From here on `id` is this worker's to give back.
    pub(super) fn own(&mut self, id: EntryId) {
        self.owned.push_back(id);
    }

    /// Was `id` this worker's to give back? Not any more.
    #[inline(always)]
    pub(super) fn disown(&mut self, id: EntryId) -> bool {
        !self.owned.is_empty() && self.disown_one(id)
    }

    #[inline(never)]
    fn disown_one(&mut self, id: EntryId) -> bool {
        // A batch is given back in the order of its removals; else it is the last one most often.
        if self.owned.front() == Some(&id) {
            return self.owned.pop_front().is_some();
        }
        let found = self.owned.iter().rposition(|owned| *owned == id);
        found
            .and_then(|at| self.owned.swap_remove_back(at))
            .is_some()
    }

    fn take_permit(&mut self) -> bool {
        if self.permits > 0 {
            self.permits -= 1;
            return true;
        }
        // Relaxed, all: permits are numbers; what they allow is ordered by the pool and the epoch.
        let mut left = self.shared.quota.load(Ordering::Relaxed);
        loop {
            let some = left.min(self.shared.permits);
            if some == 0 {
                return false;
            }
            // Relaxed: permits are a number; the entries they stand for are ordered by the pool.
            match self.shared.quota.compare_exchange(
                left,
                left - some,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    self.permits = some - 1;
                    return true;
                }
                Err(now) => left = now,
            }
        }
    }

    fn give_permit(&mut self) {
        let some = self.shared.permits;
        self.permits += 1;
        if self.permits > 2 * (some - 1) {
            self.permits -= some;
            // Relaxed: see `take_permit`.
            self.shared.quota.fetch_add(some, Ordering::Relaxed);
        }
    }

    /// Looks for overflow buckets when the pool has none.
    #[cold]
    pub(super) fn reclaim_buckets(&mut self, pool: &OverflowPool) {
        self.seal();
        let now = self.shared.epochs.try_advance();
        self.give_ripe_buckets(pool, now);
        // Ends: there are as many orphans as workers have gone.
        while self.overflow.is_empty()
            && let Some(mut orphan) = self.next_orphan()
        {
            // What has waited long enough already is free, whoever took it out.
            while let Some(number) = orphan.overflow_limbo.ripe(now) {
                pool.give_ripe(&mut self.overflow, number);
            }
            self.adopt(orphan);
        }
    }

    fn give_ripe_buckets(&mut self, pool: &OverflowPool, now: u64) {
        while let Some(number) = self.overflow_limbo.ripe(now) {
            pool.give_ripe(&mut self.overflow, number);
        }
    }

    fn seal(&mut self) {
        if self.entry_limbo.open() + self.overflow_limbo.open() > 0 {
            let stamp = self.shared.epochs.stamp();
            self.entry_limbo.seal(stamp);
            self.overflow_limbo.seal(stamp);
        }
    }
}

/// Pins, and the way of entries from one life to the next.
impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    /// A batch or a call begins.
    #[inline]
    pub(super) fn begin_call(&self, worker: &mut LockfreeWorker) {
        debug_assert!(
            Arc::ptr_eq(&worker.shared, &self.shared),
            "a worker of another table"
        );
        if !worker.pinned {
            self.shared.epochs.pin(worker.seat);
            worker.pinned = true;
        }
        worker.nested += 1;
    }

    /// It is over.
    #[inline]
    pub(super) fn end_call(&self, worker: &mut LockfreeWorker) {
        debug_assert!(worker.nested > 0, "`end` belongs to a `begin`");
        worker.nested = worker.nested.saturating_sub(1);
        self.unpin_if_idle(worker);
    }

    /// Gives a hit back.
    #[inline(always)]
    pub(super) fn unhold(&self, worker: &mut LockfreeWorker) {
        debug_assert!(worker.held > 0, "a hit is given back once");
        worker.held = worker.held.saturating_sub(1);
        self.unpin_if_idle(worker);
    }

    #[inline(always)]
    fn unpin_if_idle(&self, worker: &mut LockfreeWorker) {
        if worker.nested == 0 && worker.held == 0 && worker.pinned {
            self.unpin(worker);
        }
    }

    #[inline(never)]
    fn unpin(&self, worker: &mut LockfreeWorker) {
        worker.seal();
        self.shared.epochs.unpin(worker.seat);
        worker.pinned = false;
        self.reclaim_some(worker);
    }

    /// [`LockfreeTable::reclaim`], if anything waits.
    #[inline]
    fn reclaim_some(&self, worker: &mut LockfreeWorker) {
        if !worker.entry_limbo.is_empty() || !worker.overflow_limbo.is_empty() {
            self.reclaim(worker);
        }
    }

    /// Brings home what nobody can hold any more.
    fn reclaim(&self, worker: &mut LockfreeWorker) {
        let now = self.shared.epochs.try_advance();
        while let Some(index) = worker.entry_limbo.ripe(now) {
            self.entries.give(&mut worker.entries, index);
        }
        worker.give_ripe_buckets(&self.index.overflow, now);
    }

    /// A fresh entry; `None` if the quota is used up, or nothing can be reused yet.
    #[inline]
    pub(super) fn begin_life(&self, worker: &mut LockfreeWorker) -> Option<EntryId> {
        if !worker.take_permit() {
            return None;
        }
        let index = match worker.entries.at_hand() {
            Some(index) => index,
            None => self.next_entries(worker)?,
        };
        // The lines of an entry to come: allocations come in batches, and TCP's tracker is
        // initialised with the entry, under its lock.
        if let Some(soon) = worker.entries.soon() {
            self.ask_for_entry(soon);
        }
        Some(self.slab.begin_life(index, 0))
    }

    #[inline]
    fn ask_for_entry(&self, index: u32) {
        self.slab.ask_for(self.write_hint, index);
    }

    /// An entry of the pool's next chunk, whose first ones nobody has asked for.
    #[cold]
    fn next_entries(&self, worker: &mut LockfreeWorker) -> Option<u32> {
        let Some(index) = self.entries.take(&mut worker.entries) else {
            return self.reclaim_entry(worker);
        };
        for &soon in worker.entries.very_soon() {
            self.ask_for_entry(soon);
        }
        Some(index)
    }

    /// Looks for an entry when the pool has none; gives the permit back if there is none.
    #[cold]
    fn reclaim_entry(&self, worker: &mut LockfreeWorker) -> Option<u32> {
        worker.seal();
        self.reclaim(worker);
        self.reclaim(worker);
        let mut free = self.entries.take(&mut worker.entries);
        // Ends: there are as many orphans as workers have gone.
        while free.is_none()
            && let Some(mut orphan) = worker.next_orphan()
        {
            let now = worker.shared.epochs.now();
            // What has waited long enough already is free, whoever took it out.
            while let Some(index) = orphan.entry_limbo.ripe(now) {
                self.entries.give(&mut worker.entries, index);
            }
            worker.adopt(orphan);
            free = self.entries.take(&mut worker.entries);
        }
        if free.is_none() {
            worker.counters.recycle_stalled += 1;
            worker.give_permit();
        }
        free
    }

    /// Ends a life that nobody ever saw.
    pub(super) fn end_unseen(&self, worker: &mut LockfreeWorker, id: EntryId) {
        self.end_unseen_life(worker, self.slab.entry(id), id);
    }

    /// The same, with the entry at hand.
    #[inline]
    pub(super) fn end_unseen_life(
        &self,
        worker: &mut LockfreeWorker,
        entry: &Entry<K>,
        id: EntryId,
    ) {
        end_life(entry, id);
        worker.give_permit();
        self.entries.give_unseen(&mut worker.entries, id.index());
    }

    /// Ends the life of an Aborted or Dying entry, all of whose pieces are cleared. For
    /// the one who is responsible: its inserter, or its remover.
    pub(super) fn retire(&self, worker: &mut LockfreeWorker, id: EntryId) {
        const OPEN_MAX: usize = 64;
        end_life(self.slab.entry(id), id);
        worker.give_permit();
        worker.entry_limbo.retire(id.index());
        if worker.entry_limbo.open() >= OPEN_MAX {
            worker.seal();
        }
        self.unpin_if_idle(worker);
    }
}

fn end_life<K: FlowKey>(entry: &Entry<K>, id: EntryId) {
    let word = entry.state_word();
    // Relaxed, both: a dead state is changed by its owner alone, and to a state that is as dead.
    let state = State(word.load(Ordering::Relaxed));
    debug_assert_eq!(state.generation(), id.generation());
    word.store(state.freed().0, Ordering::Relaxed);
}

//! How workers come and go: what one leaves behind, and who takes it over.
//!
//! Numbers that are free, or have waited long enough when it leaves, go to the pools. The rest (a
//! cache's remainder, and what somebody who is pinned may hold) is an [`Orphan`]: the next worker takes it
//! over, or one that has run out of numbers.

use super::super::LockfreeTable;
use super::super::bucket::Geometry;
use super::super::epoch::{GRACE, Limbo};
use super::super::pool::Cache;
use super::LockfreeWorker;
use crate::sync::Ordering;
use crate::table::FlowTable;
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;

/// What a worker that is gone left behind.
#[derive(Debug)]
pub(super) struct Orphan {
    entries: Cache,
    overflow: Cache,
    pub(super) entry_limbo: Limbo,
    pub(super) overflow_limbo: Limbo,
}

impl Orphan {
    fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.overflow.is_empty()
            && self.entry_limbo.is_empty()
            && self.overflow_limbo.is_empty()
    }
}

#[cfg(test)]
impl super::Shared {
    /// Workers that are gone and whose numbers nobody has taken over.
    #[allow(dead_code, reason = "its test is not run under the checkers")]
    pub(in super::super) fn orphans(&self) -> usize {
        self.orphans.lock().unwrap().len()
    }

    /// Free and waiting numbers of workers that are gone: entries, then overflow buckets.
    pub(in super::super) fn orphan_numbers(&self) -> [Vec<u32>; 4] {
        let orphans = self.orphans.lock().unwrap();
        let all =
            |numbers: &dyn Fn(&Orphan) -> Vec<u32>| orphans.iter().flat_map(numbers).collect();
        [
            all(&|o| o.entries.iter().collect()),
            all(&|o| o.entry_limbo.iter().collect()),
            all(&|o| o.overflow.iter().collect()),
            all(&|o| o.overflow_limbo.iter().collect()),
        ]
    }
}

impl Drop for LockfreeWorker {
    fn drop(&mut self) {
        self.give_back_all();
        self.shared.epochs.leave(self.seat);
    }
}

impl LockfreeWorker {
    /// What a worker that is gone left behind, if there is one.
    pub(super) fn next_orphan(&self) -> Option<Orphan> {
        self.shared.orphans.try_lock().ok()?.pop()
    }

    /// Takes it over. What waits there goes on waiting if nothing waits here; else it begins anew,
    /// for what waits is in the order of its epochs.
    pub(super) fn adopt(&mut self, mut orphan: Orphan) {
        self.entries.absorb(&mut orphan.entries);
        self.overflow.absorb(&mut orphan.overflow);
        let both = [
            (&mut self.entry_limbo, &mut orphan.entry_limbo),
            (&mut self.overflow_limbo, &mut orphan.overflow_limbo),
        ];
        for (own, others) in both {
            if own.is_empty() {
                std::mem::swap(own, others);
            } else if !others.is_empty() {
                own.absorb(others, self.shared.epochs.stamp());
            }
        }
    }

    /// Unpins, and lets what it took out wait.
    fn let_go(&mut self) {
        self.shared.epochs.unpin(self.seat);
        (self.pinned, self.nested, self.held) = (false, 0, 0);
        self.removed.clear();
        let mut entry_limbo = std::mem::take(&mut self.entry_limbo);
        for id in self.owned.drain(..) {
            entry_limbo.retire(id.index());
            self.permits += 1;
        }
        // From now on what it took out waits for others, not for whoever takes it over.
        self.entry_limbo = entry_limbo;
        self.seal();
        for _ in 0..GRACE {
            self.shared.epochs.try_advance();
        }
    }

    /// Unpins, and leaves all that it has at hand to the others.
    fn give_back_all(&mut self) {
        self.let_go();
        // Relaxed: see `take_permit`.
        let permits = std::mem::take(&mut self.permits);
        self.shared.quota.fetch_add(permits, Ordering::Relaxed);
        let orphan = Orphan {
            entries: std::mem::take(&mut self.entries),
            overflow: std::mem::take(&mut self.overflow),
            entry_limbo: std::mem::take(&mut self.entry_limbo),
            overflow_limbo: std::mem::take(&mut self.overflow_limbo),
        };
        // A worker that has left is dropped too.
        if orphan.is_empty() {
            return;
        }
        let mut orphans = self
            .shared
            .orphans
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        orphans.push(orphan);
    }
}

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    /// A new worker. What it takes over of one that is gone is looked through now: it may do nothing for long.
    pub(in super::super) fn welcome(&self) -> LockfreeWorker {
        let mut worker = LockfreeWorker::new(self);
        self.reclaim_some(&mut worker);
        worker
    }

    /// A worker leaves. What has waited long enough, as all has when nobody is pinned, goes to the pools, where
    /// everybody finds it.
    pub(in super::super) fn see_off(&self, worker: &mut LockfreeWorker) {
        while let Some(&id) = worker.owned.front() {
            self.release(worker, id);
        }
        worker.let_go();
        self.reclaim_some(worker);
        worker.give_back_all();
    }
}

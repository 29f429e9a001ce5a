//! The striped locks (`nf_conntrack_locks`, `nf_conntrack_double_lock`). Pair P2 and invariant I5 are in the
//! [head](super) of the table.

use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_utils::{Backoff, CachePadded};

/// A lock that spins, then yields.
#[derive(Debug, Default)]
pub(super) struct SpinLock(AtomicBool);

impl SpinLock {
    fn lock(&self) {
        let backoff = Backoff::new();
        // Acquire, P2: the chains as the holder before left them. Failure relaxed: nothing is read.
        while self
            .0
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            backoff.snooze();
        }
    }

    fn unlock(&self) {
        // Release, P2.
        self.0.store(false, Ordering::Release);
    }
}

/// The locks of two buckets, held (I5).
pub(super) struct LockPair<'a>(&'a SpinLock, Option<&'a SpinLock>);

impl<'a> LockPair<'a> {
    /// Takes two locks in the order of their numbers; equal numbers once.
    pub(super) fn lock(locks: &'a [CachePadded<SpinLock>], a: usize, b: usize) -> LockPair<'a> {
        let (first, second) = (a.min(b), a.max(b));
        locks[first].lock();
        if first == second {
            return LockPair(&locks[first], None);
        }
        locks[second].lock();
        LockPair(&locks[first], Some(&locks[second]))
    }
}

impl Drop for LockPair<'_> {
    fn drop(&mut self) {
        if let Some(second) = self.1 {
            second.unlock();
        }
        self.0.unlock();
    }
}

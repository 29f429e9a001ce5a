//! A checker's atomics for its tests, which tell each access before they make it: to [`counted`](super::counted)
//! under loom, to [`watched`](super::watched) under shuttle.

#[cfg(loom)]
use {super::counted::before, loom::sync::atomic};
#[cfg(shuttle)]
use {super::watched::before, shuttle::sync::atomic};

use super::Ordering;

/// The access that a thread is about to make.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(loom, expect(dead_code, reason = "loom's are only counted"))]
pub(crate) struct Access {
    /// Where the word is.
    pub(crate) address: usize,
    /// A store, or an exchange whether it succeeds or not; else a load.
    pub(crate) writes: bool,
}

/// The checker's, told.
#[derive(Debug, Default)]
pub struct AtomicU64(atomic::AtomicU64);

impl AtomicU64 {
    /// A word with this value.
    #[track_caller]
    #[must_use]
    pub fn new(value: u64) -> AtomicU64 {
        AtomicU64(atomic::AtomicU64::new(value))
    }

    fn tell(&self, writes: bool) {
        let address = std::ptr::from_ref(self).addr();
        before(Access { address, writes });
    }

    /// As std's.
    #[track_caller]
    pub fn load(&self, ordering: Ordering) -> u64 {
        self.tell(false);
        self.0.load(ordering)
    }

    /// As std's.
    #[track_caller]
    pub fn store(&self, value: u64, ordering: Ordering) {
        self.tell(true);
        self.0.store(value, ordering);
    }

    /// As std's.
    ///
    /// # Errors
    /// The value that was there instead of `current`.
    #[track_caller]
    pub fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.tell(true);
        self.0.compare_exchange(current, new, success, failure)
    }

    /// As [`AtomicU64::compare_exchange`]: the checkers know no failure without a cause.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.compare_exchange(current, new, success, failure)
    }

    /// As std's.
    #[track_caller]
    pub fn fetch_add(&self, value: u64, ordering: Ordering) -> u64 {
        self.tell(true);
        self.0.fetch_add(value, ordering)
    }

    /// As std's.
    #[track_caller]
    pub fn fetch_sub(&self, value: u64, ordering: Ordering) -> u64 {
        self.tell(true);
        self.0.fetch_sub(value, ordering)
    }
}

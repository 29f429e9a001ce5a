//! shuttle's atomics, with each access announced before it is made, so that a schedule can stop a thread before
//! or after its access to a certain word (`table/lockfree/tests/turns.rs`).

use std::cell::RefCell;
use std::collections::HashMap;

use shuttle::sync::atomic;

use super::Ordering;

/// The access that a thread is about to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// Where the word is.
    pub(crate) address: usize,
    /// A store, or an exchange whether it succeeds or not; else a load.
    pub(crate) writes: bool,
}

// shuttle runs all threads of an execution on the thread that started it.
thread_local! {
    static ANNOUNCED: RefCell<HashMap<usize, Access>> = RefCell::default();
}

/// The announced access of a thread that goes on now: it is made, and announced no more.
pub(crate) fn take(thread: usize) -> Option<Access> {
    ANNOUNCED.with_borrow_mut(|announced| announced.remove(&thread))
}

/// Nothing is announced: an execution begins.
pub(crate) fn forget() {
    ANNOUNCED.with_borrow_mut(HashMap::clear);
}

/// The access that a thread would make next.
pub(crate) fn peek(thread: usize) -> Option<Access> {
    ANNOUNCED.with_borrow(|announced| announced.get(&thread).copied())
}

/// shuttle's, announced.
#[derive(Debug, Default)]
pub struct AtomicU64(atomic::AtomicU64);

impl AtomicU64 {
    /// A word with this value.
    #[must_use]
    pub fn new(value: u64) -> AtomicU64 {
        AtomicU64(atomic::AtomicU64::new(value))
    }

    fn announce(&self, writes: bool) {
        // Outside an execution nobody schedules.
        if let Some(thread) = shuttle::current::get_current_task() {
            let address = std::ptr::from_ref(self).addr();
            ANNOUNCED.with_borrow_mut(|announced| {
                announced.insert(thread.into(), Access { address, writes });
            });
        }
    }

    /// As std's.
    pub fn load(&self, ordering: Ordering) -> u64 {
        self.announce(false);
        self.0.load(ordering)
    }

    /// As std's.
    pub fn store(&self, value: u64, ordering: Ordering) {
        self.announce(true);
        self.0.store(value, ordering);
    }

    /// As std's.
    ///
    /// # Errors
    /// The value that was there instead of `current`.
    pub fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.announce(true);
        self.0.compare_exchange(current, new, success, failure)
    }

    /// As [`AtomicU64::compare_exchange`]: shuttle knows no failure without a cause.
    ///
    /// # Errors
    /// As there.
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
    pub fn fetch_add(&self, value: u64, ordering: Ordering) -> u64 {
        self.announce(true);
        self.0.fetch_add(value, ordering)
    }

    /// As std's.
    pub fn fetch_sub(&self, value: u64, ordering: Ordering) -> u64 {
        self.announce(true);
        self.0.fetch_sub(value, ordering)
    }
}

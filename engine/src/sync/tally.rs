//! Atomics that keep a tally, for the exact gate: of locked operations, and of the cache lines
//! that were touched. Behind the feature `tally`; for real nothing of this is compiled.
//!
//! Locked is what x86-64 locks: every exchange, also one that fails, every `fetch_…`, a store
//! and a fence of `SeqCst`; a lock and its release (two exchanges of std's mutex). Elsewhere these
//! are the exclusive or far-atomic ones. A line is 64 bytes of memory that an atomic, a body's cell,
//! a lock, or a vector load of the table is in, each counted once an operation.
//!
//! Not seen: plain memory, as the packet's bytes, what only its worker reads (its lists of
//! free numbers, its generator), and what a lock guards; counts of references of `Arc`.
//!
//! Each thread keeps its own, and only while it is asked to.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{self, Ordering};
use std::sync::{LockResult, MutexGuard, TryLockError, TryLockResult};

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// What some operations did to memory that threads share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Locked operations.
    pub locked: u64,
    /// Lines touched: of each operation the distinct ones.
    pub lines: u64,
}

#[derive(Debug, Default)]
struct Keeper {
    so_far: Tally,
    /// Of the operation under way.
    lines: BTreeSet<usize>,
}

thread_local! {
    static KEEPER: RefCell<Option<Keeper>> = const { RefCell::new(None) };
}

/// From here on, on this thread.
pub fn begin() {
    KEEPER.with_borrow_mut(|keeper| *keeper = Some(Keeper::default()));
}

/// An operation is over: the next one's lines count anew.
pub fn next_operation() {
    KEEPER.with_borrow_mut(|keeper| {
        if let Some(keeper) = keeper {
            keeper.so_far.lines += keeper.lines.len() as u64;
            keeper.lines.clear();
        }
    });
}

/// What was done since [`begin`], which was the end of it.
pub fn end() -> Tally {
    next_operation();
    let keeper = KEEPER.with_borrow_mut(Option::take);
    keeper.map_or(Tally::default(), |keeper| keeper.so_far)
}

/// Notes an access to a value, and how many locked operations it takes.
fn note<T: ?Sized>(value: &T, locked: u64) {
    KEEPER.with_borrow_mut(|keeper| {
        if let Some(keeper) = keeper {
            keeper.so_far.locked += locked;
            let first = std::ptr::from_ref(value).addr();
            let last = first + size_of_val(value).max(1) - 1;
            keeper.lines.extend(first / LINE_BYTES..=last / LINE_BYTES);
        }
    });
}

/// Is a store or a fence of this ordering a locked operation?
fn is_locked(ordering: Ordering) -> bool {
    // SeqCst, only compared: the one that x86-64 makes an exchange of.
    matches!(ordering, Ordering::SeqCst)
}

/// Notes that a value was read otherwise than by the atomics in it.
pub fn seen<T>(value: &T) {
    note(value, 0);
}

/// std's, on the tally.
pub fn fence(ordering: Ordering) {
    KEEPER.with_borrow_mut(|keeper| {
        if let Some(keeper) = keeper {
            keeper.so_far.locked += u64::from(is_locked(ordering));
        }
    });
    atomic::fence(ordering);
}

macro_rules! on_the_tally {
    ($name:ident, $value:ty, $($fetch:ident)*) => {
        /// std's, on the tally.
        #[repr(transparent)]
        #[derive(Debug, Default)]
        pub struct $name(atomic::$name);

        impl $name {
            /// An atomic of this value.
            #[must_use]
            pub const fn new(value: $value) -> $name {
                $name(atomic::$name::new(value))
            }

            /// As std's.
            pub fn load(&self, ordering: Ordering) -> $value {
                note(self, 0);
                self.0.load(ordering)
            }

            /// As std's.
            pub fn store(&self, value: $value, ordering: Ordering) {
                note(self, u64::from(is_locked(ordering)));
                self.0.store(value, ordering);
            }

            /// As std's.
            pub fn swap(&self, value: $value, ordering: Ordering) -> $value {
                note(self, 1);
                self.0.swap(value, ordering)
            }

            /// As std's.
            ///
            /// # Errors
            /// The value that was there instead of `current`.
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                note(self, 1);
                self.0.compare_exchange(current, new, success, failure)
            }

            /// As [`Self::compare_exchange`]: without failures that have no cause, which would
            /// count otherwise each time.
            ///
            /// # Errors
            /// As there.
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            $(
                /// As std's.
                pub fn $fetch(&self, value: $value, ordering: Ordering) -> $value {
                    note(self, 1);
                    self.0.$fetch(value, ordering)
                }
            )*
        }

        impl From<$value> for $name {
            fn from(value: $value) -> $name {
                $name::new(value)
            }
        }
    };
}

on_the_tally!(AtomicBool, bool, fetch_or fetch_and);
on_the_tally!(AtomicU32, u32, fetch_add fetch_sub fetch_or fetch_and fetch_max fetch_min);
on_the_tally!(AtomicU64, u64, fetch_add fetch_sub fetch_or fetch_and fetch_max fetch_min);
on_the_tally!(AtomicUsize, usize, fetch_add fetch_sub fetch_or fetch_and fetch_max fetch_min);

/// std's, on the tally.
#[derive(Debug, Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

/// To take it, and to give it back.
const LOCKED_OF_A_MUTEX: u64 = 2;

impl<T> Mutex<T> {
    /// A lock around this value.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex(std::sync::Mutex::new(value))
    }

    /// As std's.
    ///
    /// # Errors
    /// If somebody panicked while it was theirs.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        note(self, LOCKED_OF_A_MUTEX);
        self.0.lock()
    }

    /// As std's.
    ///
    /// # Errors
    /// If it is somebody else's, or as [`Mutex::lock`].
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        let tried = self.0.try_lock();
        let failed = matches!(tried, Err(TryLockError::WouldBlock));
        note(self, if failed { 1 } else { LOCKED_OF_A_MUTEX });
        tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    #[derive(Default)]
    struct Line([AtomicU64; 8]);

    #[test]
    fn exchanges_and_strong_stores_and_fences_are_locked_and_loads_are_not() {
        let word = AtomicU64::new(1);
        // Relaxed: one thread.
        word.fetch_add(1, Ordering::Relaxed);
        begin();
        // Any that is not SeqCst: one thread.
        assert_eq!(word.load(Ordering::Relaxed), 2);
        word.store(3, Ordering::Release);
        fence(Ordering::Acquire);
        assert_eq!(
            end(),
            Tally {
                locked: 0,
                lines: 1
            }
        );
        begin();
        // Relaxed and SeqCst: what is counted.
        let failed = word.compare_exchange(7, 8, Ordering::Relaxed, Ordering::Relaxed);
        assert_eq!(failed, Err(3));
        word.swap(4, Ordering::Relaxed);
        word.fetch_sub(1, Ordering::Relaxed);
        // SeqCst: what is counted.
        word.store(5, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        assert_eq!(
            end(),
            Tally {
                locked: 5,
                lines: 1
            }
        );
        assert_eq!(end(), Tally::default(), "nobody asked");
    }

    #[test]
    fn a_line_counts_once_an_operation_and_once_again_in_the_next() {
        let lines = [Line::default(), Line::default(), Line::default()];
        begin();
        for word in &lines[0].0 {
            // Relaxed: one thread.
            word.load(Ordering::Relaxed);
        }
        // Relaxed: one thread.
        lines[2].0[7].store(1, Ordering::Relaxed);
        next_operation();
        // Relaxed: one thread.
        lines[0].0[0].load(Ordering::Relaxed);
        next_operation();
        seen(&lines);
        assert_eq!(end().lines, 2 + 1 + 3);
    }

    #[test]
    fn a_lock_is_two_locked_operations_and_one_that_is_not_got_is_one() {
        let lock = Mutex::new(());
        begin();
        let held = lock.lock().unwrap();
        assert!(lock.try_lock().is_err());
        assert_eq!(end().locked, 3);
        drop(held);
    }
}

//! The one door to atomics for the code that a checker runs: std's, or loom's with
//! `--cfg loom`, or shuttle's with `--cfg shuttle`. The lock-free table and the words of
//! entries that it depends on name no other. Atomics that no checker looks at are [`unchecked`].
//! With the feature `tally` both count what they do (`tally`).

#[cfg(all(test, loom))]
pub(crate) mod counted;
#[cfg(all(test, any(loom, shuttle)))]
pub(crate) mod hooked;
pub mod rounds;
#[cfg(feature = "tally")]
pub mod tally;
#[cfg(all(test, shuttle))]
pub(crate) mod watched;

#[cfg(all(test, loom))]
pub use counted::fence;
#[cfg(all(test, any(loom, shuttle)))]
pub use hooked::AtomicU64;
#[cfg(all(not(test), loom))]
pub use loom::sync::atomic::{AtomicU64, fence};
#[cfg(all(not(test), shuttle))]
pub use shuttle::sync::atomic::AtomicU64;
#[cfg(shuttle)]
pub use shuttle::sync::atomic::fence;
#[cfg(not(any(loom, shuttle)))]
pub use unchecked::{AtomicU64, fence};

/// What is the same under a checker: words that stand for themselves, and locks.
pub mod unchecked {
    #[cfg(feature = "tally")]
    pub use super::tally::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, fence};
    #[cfg(not(feature = "tally"))]
    pub use std::sync::Mutex;
    #[cfg(not(feature = "tally"))]
    pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, fence};
}

/// Tells the tally, where there is one, that a value was read otherwise than by its atomics: by vectors.
#[inline(always)]
pub fn seen<T>(value: &T) {
    #[cfg(feature = "tally")]
    tally::seen(value);
    #[cfg(not(feature = "tally"))]
    let _ = value;
}

#[cfg(all(test, loom))]
pub(crate) use loom::thread;
#[cfg(all(test, shuttle))]
pub(crate) use shuttle::thread;

pub use std::sync::atomic::Ordering;

/// A `SeqCst` fence for those who have just made a compare-and-exchange, or have just read
/// what somebody else's made. On x86-64 that instruction is locked, which is a full fence
/// already, and a value that was read is in memory for all: only the compiler must be held.
/// Elsewhere, and for checkers, a fence.
#[inline]
pub fn fence_after_exchange() {
    // SeqCst, for the compiler alone: later loads do not move up across it; the locked
    // instruction before it keeps the processor from that.
    #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    // SeqCst: of two threads that each write and then read the other's word, one sees it.
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, shuttle, miri)))))]
    fence(Ordering::SeqCst);
}

/// A checker runs this: few slots, workers and numbers at hand, plain memory.
pub const CHECKED: bool = cfg!(any(loom, shuttle));

/// Memory is made element by element, and each takes a checker or Miri long: room for few workers only.
pub const FEW_WORKERS: bool = CHECKED || cfg!(miri);

/// Cells of memory that one thread owns while it writes and that others read only after
/// it was handed to them. For real a relaxed atomic: a reader that was late reads nonsense
/// and finds out by the word that guards the cell. For loom a plain cell, so that reading
/// one without being handed it is reported as the race it would be.
macro_rules! body_cell {
    ($name:ident, $value:ty, $atomic:ident, $doc:literal) => {
        #[doc = $doc]
        #[cfg(not(loom))]
        #[derive(Debug, Default)]
        pub struct $name(unchecked::$atomic);

        #[cfg(not(loom))]
        impl $name {
            /// Reads it.
            #[inline]
            #[must_use]
            pub fn load(&self) -> $value {
                // Relaxed: whoever hands the cell over orders it.
                self.0.load(Ordering::Relaxed)
            }

            /// Writes it; only for its owner.
            #[inline]
            pub fn store(&self, value: $value) {
                // Relaxed: whoever hands the cell over orders it.
                self.0.store(value, Ordering::Relaxed);
            }
        }

        #[doc = $doc]
        #[cfg(loom)]
        #[derive(Debug, Default)]
        pub struct $name(loom::cell::UnsafeCell<$value>);

        // SAFETY: under loom every access is checked against all others; a conflict ends the run.
        #[cfg(loom)]
        unsafe impl Sync for $name {}

        #[cfg(loom)]
        impl $name {
            /// Reads it.
            #[must_use]
            pub fn load(&self) -> $value {
                // SAFETY: loom has just checked that nobody writes at the same time.
                self.0.with(|cell| unsafe { *cell })
            }

            /// Writes it; only for its owner.
            pub fn store(&self, value: $value) {
                // SAFETY: loom has just checked that nobody else is in there.
                self.0.with_mut(|cell| unsafe { *cell = value });
            }
        }
    };
}

body_cell!(
    BodyWord,
    u64,
    AtomicU64,
    "64 bits of a body that is handed over by some other word."
);
body_cell!(
    BodyHalf,
    u32,
    AtomicU32,
    "32 bits of a body that is handed over by some other word."
);

//! Counts the accesses that loom's atomics are about to make ([`hooked`](super::hooked)), so that a test can give a thread up for good
//! after its k-th one, and can bound what one call may take.
//!
//! Given up means unwound: nothing between a call of the table and its accesses cleans up on
//! the way (no guards, no locks), so that what a thread had in hand stays as it was at that
//! access. The cells of bodies ([`BodyWord`](super::BodyWord)) are not counted: they belong to
//! their owner until some word hands them over.

use std::cell::Cell;

use loom::sync::atomic;

use super::Ordering;
use super::hooked::Access;

/// What the unwinding of a thread that is given up carries.
#[derive(Debug)]
pub(crate) struct GivenUp;

/// Accesses of one thread.
#[derive(Clone, Copy, Debug)]
struct Steps {
    /// Of the call under way.
    of_call: u64,
    all: u64,
    /// Most of one call.
    bound: u64,
    /// The access that is not made any more.
    given_up_at: u64,
}

const UNBOUNDED: Steps = Steps {
    of_call: 0,
    all: 0,
    bound: u64::MAX,
    given_up_at: u64::MAX,
};

loom::thread_local! {
    static STEPS: Cell<Steps> = Cell::new(UNBOUNDED);
}

/// From here on this thread makes `bound` accesses a call at most, and is given up after `k`.
pub(crate) fn give_up_after(k: Option<u64>, bound: u64) {
    let given_up_at = k.unwrap_or(u64::MAX);
    STEPS.with(|steps| {
        steps.set(Steps {
            bound,
            given_up_at,
            ..UNBOUNDED
        });
    });
}

/// This thread is not given up, and takes what it needs.
pub(crate) fn go_on() {
    STEPS.with(|steps| steps.set(UNBOUNDED));
}

/// A call is over: the accesses that it made.
pub(crate) fn end_call() -> u64 {
    STEPS.with(|steps| {
        let now = steps.get();
        steps.set(Steps { of_call: 0, ..now });
        now.of_call
    })
}

fn step() {
    STEPS.with(|steps| {
        let now = steps.get();
        let is_over = now.all == now.given_up_at;
        if is_over || now.of_call == now.bound {
            // What is dropped on the way out makes accesses too.
            steps.set(UNBOUNDED);
        }
        if is_over {
            std::panic::resume_unwind(Box::new(GivenUp));
        }
        assert!(now.of_call < now.bound, "a call waits for another thread");
        steps.set(Steps {
            of_call: now.of_call + 1,
            all: now.all + 1,
            ..now
        });
    });
}

/// A thread is about to make this access, which counts.
pub(super) fn before(_: Access) {
    step();
}

/// loom's, counted.
#[track_caller]
pub fn fence(ordering: Ordering) {
    step();
    atomic::fence(ordering);
}

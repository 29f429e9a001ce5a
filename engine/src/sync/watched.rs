//! Announces the access that each thread is about to make by shuttle's atomics ([`hooked`](super::hooked)), so that a
//! schedule can stop it before or after one to a certain word (`table/lockfree/tests/turns.rs`).

use std::cell::RefCell;
use std::collections::HashMap;

use super::hooked::Access;

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

/// The running thread is about to make this access: announced.
pub(super) fn before(access: Access) {
    // Outside an execution nobody schedules.
    if let Some(thread) = shuttle::current::get_current_task() {
        ANNOUNCED.with_borrow_mut(|announced| announced.insert(thread.into(), access));
    }
}

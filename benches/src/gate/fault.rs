//! Faults made on purpose, by features: builds that the gate must refuse, as long as it is one.

use super::Subject;
use crate::operation::Pass;

/// The operation that is worse in such a build.
const FAULTY: &str = "does_a_lookup_that_finds_nothing_cost_less/miss_alone";

/// The subject's pass; in a faulty build, and of the faulty operation, with the fault.
pub(super) fn with_faults(subject: &Subject, pass: Pass) -> Pass {
    let is_faulty = cfg!(any(feature = "gate-slower", feature = "gate-one-more-lock"));
    if !is_faulty || subject.operation.name() != FAULTY {
        return pass;
    }
    let Pass {
        operations,
        mut run,
    } = pass;
    let worse = move || {
        run();
        if cfg!(feature = "gate-slower") {
            waste(operations);
        }
        if cfg!(feature = "gate-one-more-lock") {
            lock_once_more();
        }
    };
    Pass {
        operations,
        run: Box::new(worse),
    }
}

/// Some instructions for each operation: a twentieth of what a lookup takes.
fn waste(operations: u64) {
    for n in 0..operations {
        for step in 0..4 {
            std::hint::black_box(n + step);
        }
    }
}

/// One locked operation in a whole pass: the gate has no tolerance.
fn lock_once_more() {
    use clashtrack_engine::sync::{AtomicU64, Ordering};
    static WORD: AtomicU64 = AtomicU64::new(0);
    // Relaxed: nobody reads it.
    WORD.fetch_add(1, Ordering::Relaxed);
}

//! The kit on this crate's own tables, and on tables that break a promise on purpose.

use super::*;
use crate::table::hash::HashKey;
use crate::table::key::KeyV4;
use crate::table::lockfree::{Layout, LockfreeTable, Narrow, Wide};
use crate::table::mutex::MutexTable;

type Lockfree = LockfreeTable<KeyV4, Wide>;

/// More than a table must: removals are one step too.
fn strict(seed: u64) -> Options {
    Options {
        seed,
        removal: Removal::OneStep,
        ..Options::default()
    }
}

#[test]
fn the_reference_keeps_what_it_promises() {
    check::<KeyV4, _>(&strict(1), MutexTable::new).unwrap();
}

#[test]
fn the_lock_free_table_keeps_what_it_promises() {
    check::<KeyV4, _>(&strict(1), Lockfree::new).unwrap();
}

/// Few chains of few slots, so that overflow buckets come and go and helpers meet.
#[test]
fn the_lock_free_table_of_two_chains_is_linearizable() {
    let make = |heads, overflow| {
        move |config: &TableConfig| {
            let layout = Layout {
                entries_max: config.capacity,
                slack: 2048,
                heads,
                overflow,
            };
            LockfreeTable::<KeyV4, Narrow<2, 3, 2>>::with_layout(layout, HashKey(1, 2), false)
        }
    };
    for seed in [1, 2] {
        let options = strict(seed);
        linearizability::<KeyV4, _>(&options, make(1, 64)).unwrap();
        linearizability::<KeyV4, _>(&options, make(2, 64)).unwrap();
    }
}

#[test]
fn two_tables_that_answer_alike_have_one_digest_and_another_seed_has_another() {
    let options = Options::default();
    let of_mutex = digest::<KeyV4, _>(&options, MutexTable::new).unwrap();
    assert_eq!(digest::<KeyV4, _>(&options, Lockfree::new), Ok(of_mutex));
    assert_eq!(digest::<KeyV4, _>(&options, NonAtomic::new), Ok(of_mutex));
    let other = Options { seed: 2, ..options };
    assert_ne!(digest::<KeyV4, _>(&other, MutexTable::new), Ok(of_mutex));
}

//! The kit on this crate's own tables, and on tables that break a promise on purpose.

use super::*;
use crate::table::hash::HashKey;
use crate::table::key::{KeyV4, KeyV6};
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
    for seed in [1, 2] {
        linearizability::<KeyV4, _>(&strict(seed), few_chains(1)).unwrap();
        linearizability::<KeyV4, _>(&strict(seed), few_chains(2)).unwrap();
        linearizability::<KeyV6, _>(&strict(seed), few_chains(2)).unwrap();
    }
}

type FewSlots<K> = LockfreeTable<K, Narrow<2, 3, 2>>;

fn few_chains<K: FlowKey>(heads: usize) -> impl Fn(&TableConfig) -> FewSlots<K> {
    move |config| {
        let layout = Layout {
            entries_max: config.capacity,
            slack: 2048,
            heads,
            overflow: 64,
        };
        LockfreeTable::with_layout(layout, HashKey(1, 2), false)
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

#[test]
fn the_reference_keeps_what_it_promises_of_ipv6_too() {
    check::<KeyV6, _>(&strict(3), MutexTable::new).unwrap();
}

#[test]
fn the_lock_free_table_keeps_what_it_promises_of_ipv6_too() {
    check::<KeyV6, _>(&strict(3), LockfreeTable::<KeyV6, Wide>::new).unwrap();
}

/// The same programs: what a key is made of changes no answer.
#[test]
fn both_families_have_the_same_answers() {
    let options = Options::default();
    let of_ipv4 = digest::<KeyV4, _>(&options, Lockfree::new).unwrap();
    let of_ipv6 = digest::<KeyV6, _>(&options, LockfreeTable::<KeyV6, Wide>::new);
    assert_eq!(of_ipv6, Ok(of_ipv4));
}

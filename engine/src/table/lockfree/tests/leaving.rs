//! What workers leave behind when they go, and who gets it.

use super::super::{Layout, LockfreeTable, Narrow, Wide};
use super::{Always, connect, key, table};
use crate::table::hash::HashKey;
use crate::table::key::KeyV4;
use crate::table::{ClashStep, Confirmed, FlowTable};

/// Connects `count` connections whose keys are all different.
fn connect_some<G: super::Geometry>(
    table: &LockfreeTable<KeyV4, G>,
    worker: &mut super::LockfreeWorker,
    count: u8,
) {
    let mut policy = Always::new(ClashStep::Drop);
    for n in 0..count {
        let keys = (key(n, 250, 0), key(250, n, 0));
        let (_, made) = connect(table, worker, keys, (1, 1000), u32::MAX, &mut policy).unwrap();
        assert_eq!(made, Confirmed::Inserted);
    }
}

fn remove_all<G: super::Geometry>(
    table: &LockfreeTable<KeyV4, G>,
    worker: &mut super::LockfreeWorker,
) {
    let ids: Vec<_> = table.slab().confirmed().map(|(id, _)| id).collect();
    for id in ids {
        assert!(table.remove(worker, id) && table.release(worker, id));
    }
}

#[test]
fn what_a_worker_took_out_before_it_left_is_free_although_a_newcomer_does_nothing() {
    const ALL: usize = 200;
    let layout = Layout {
        entries_max: ALL,
        slack: 40,
        heads: 200,
        overflow: 40,
    };
    let table = LockfreeTable::<KeyV4, Wide>::with_layout(layout, HashKey(1, 2), false);
    let mut worker = table.worker();
    connect_some(&table, &mut worker, ALL as u8);
    // In one batch: nothing is used again before it is over.
    table.begin(&mut worker);
    remove_all(&table, &mut worker);
    table.end(&mut worker);
    table.leave(&mut worker);
    drop(worker);
    let idle = table.worker();
    let mut busy = table.worker();
    let got = std::iter::from_fn(|| table.allocate(&mut busy)).count();
    let kept_at_hand = 2 * (ALL + 40) / 32;
    assert!(got >= ALL - kept_at_hand, "{got} of {ALL}");
    drop(idle);
}

/// The same if somebody was pinned when it left: it waits, and whoever runs out finds it.
#[test]
fn what_had_to_wait_when_a_worker_left_is_found_by_who_runs_out() {
    const ALL: usize = 100;
    let layout = Layout {
        entries_max: ALL,
        slack: 10,
        heads: 100,
        overflow: 40,
    };
    let table = LockfreeTable::<KeyV4, Wide>::with_layout(layout, HashKey(1, 2), false);
    let (mut worker, mut pinned, mut busy) = (table.worker(), table.worker(), table.worker());
    connect_some(&table, &mut worker, ALL as u8);
    table.begin(&mut pinned);
    remove_all(&table, &mut worker);
    table.leave(&mut worker);
    table.end(&mut pinned);
    let got = std::iter::from_fn(|| table.allocate(&mut busy)).count();
    assert_eq!(got, ALL);
}

#[test]
fn workers_that_come_and_go_leave_nothing_of_their_own() {
    let table = table::<Wide>(10, 100, 4);
    for _ in 0..50 {
        let mut worker = table.worker();
        connect_some(&table, &mut worker, 10);
        remove_all(&table, &mut worker);
        table.leave(&mut worker);
    }
    assert!(table.shared.orphans() <= 1);
    table.assert_quiescent(&[], &[]);
}

/// Who is out of overflow buckets first comes upon a worker that left none.
#[test]
fn overflow_buckets_are_found_behind_a_worker_that_left_none() {
    let table = table::<Narrow<1, 1, 3>>(1, 40, 3);
    let mut busy = table.worker();
    let (mut first, mut last) = (table.worker(), table.worker());
    connect_some(&table, &mut first, 4);
    // Pinned meanwhile: the buckets have to wait.
    table.begin(&mut busy);
    remove_all(&table, &mut first);
    table.leave(&mut first);
    table.end(&mut busy);
    let id = table.allocate(&mut last).unwrap();
    table.discard(&mut last, id);
    table.leave(&mut last);
    assert_eq!(table.shared.orphans(), 2);
    connect_some(&table, &mut busy, 4);
}

//! The shapes of known bugs in others' connection tracking, on the tables of the engine.
//!
//! - The loser of a clash was used on although the packet had been handed to the winner:
//!   CVE-2022-49561 (`__nf_conntrack_confirm` and what came after it), CVE-2024-41040 (`tcf_ct_act`).
//! - A connection's two keys go in one after the other, so that one is seen without the
//!   other, and an answer is delivered to whoever took the other key meanwhile.

mod common;

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use clashtrack_engine::status::Status;
use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::lockfree::LockfreeTable;
use clashtrack_engine::table::mutex::MutexTable;
use clashtrack_engine::table::slab::{EntryId, Life};
use clashtrack_engine::table::{Clash, ClashStep, Confirmed, FlowTable, Hit, TableConfig};
use clashtrack_engine::tuple::Direction;
use common::{NOW, connect, key};

fn table<T: FlowTable<KeyV4>>() -> T {
    T::new(&TableConfig::new(4_096, HashKey(1, 2)))
}

fn find<T: FlowTable<KeyV4>>(table: &T, worker: &mut T::Worker, wanted: &KeyV4) -> Option<Hit> {
    let hit = table.lookup(worker, wanted, NOW);
    if let Some(hit) = hit {
        table.release(worker, hit.id);
    }
    hit
}

fn plain(n: u16) -> (KeyV4, KeyV4) {
    let original = key(n, 1_000);
    (original, original.inverse().expect("UDP has answers"))
}

/// Two packets of one new flow, each with an entry of its own, confirmed one after the other.
fn the_loser_is_handed_to_the_winner<T: FlowTable<KeyV4>>(flow: (KeyV4, KeyV4)) {
    let table = table::<T>();
    let mut worker = table.worker();
    let (winner, first) = connect(&table, &mut worker, flow, ClashStep::Merge, |_| {}).unwrap();
    assert_eq!(first, Confirmed::Inserted);
    let (loser, second) = connect(&table, &mut worker, flow, ClashStep::Merge, |id| {
        table.slab().entry(id).set_masquerade_device(77);
    })
    .unwrap();
    let Confirmed::Merged(Clash { winner: merged, .. }) = second else {
        panic!("the second packet merges, not {second:?}");
    };
    assert_eq!(merged, winner, "the packet goes on with the winner's entry");
    assert_ne!(merged, loser);
    // What the packet does from here on it does to the winner, and a lookup sees it.
    table.slab().entry(merged).set_status(Status::ASSURED);
    table.release(&mut worker, merged);
    table.release(&mut worker, winner);
    let hit = find(&table, &mut worker, &flow.1).expect("the winner is found");
    assert_eq!((hit.id, hit.direction), (winner, Direction::Reply));
    let found = table.slab().entry(hit.id);
    assert!(found.status().contains(Status::ASSURED));
    assert_eq!(
        found.masquerade_device(),
        0,
        "nothing of the loser's came along"
    );
    // The loser is nobody's: it cannot be removed, nor found when the winner has gone.
    let state = table.slab().entry(loser).state();
    assert!(state.life != Life::Confirmed || state.generation != loser.generation());
    assert!(!table.remove(&mut worker, loser));
    assert!(table.remove(&mut worker, winner));
    table.release(&mut worker, winner);
    assert_eq!(find(&table, &mut worker, &flow.0), None);
    assert_eq!(find(&table, &mut worker, &flow.1), None);
    table.leave(&mut worker);
}

/// Threads offer the same flows at once and count each packet on the entry that they were given.
fn every_packet_is_counted_on_the_entry_that_is_found<T: FlowTable<KeyV4> + Sync>() {
    const THREADS: u64 = 3;
    const FLOWS: u16 = 400;
    let table = table::<T>();
    let packets: Vec<AtomicU64> = (0..table.slab().capacity())
        .map(|_| AtomicU64::new(0))
        .collect();
    let barrier = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut worker = table.worker();
                for n in 0..FLOWS {
                    if n % 8 == 0 {
                        barrier.wait();
                    }
                    let (given, confirmed) =
                        connect(&table, &mut worker, plain(n), ClashStep::Merge, |_| {}).unwrap();
                    let mine = match confirmed {
                        Confirmed::Inserted => given,
                        Confirmed::Merged(clash) => clash.winner,
                        other => panic!("flow {n}: {other:?}"),
                    };
                    // Relaxed: a count, read when all threads have ended.
                    packets[mine.index() as usize].fetch_add(1, Ordering::Relaxed);
                    table.release(&mut worker, mine);
                }
                table.leave(&mut worker);
            });
        }
    });
    let mut worker = table.worker();
    for n in 0..FLOWS {
        let hit = find(&table, &mut worker, &plain(n).0).expect("each flow is in");
        // Relaxed: after all threads.
        let counted = packets[hit.id.index() as usize].load(Ordering::Relaxed);
        assert_eq!(
            counted, THREADS,
            "flow {n}: a packet went to the loser's entry"
        );
    }
    table.leave(&mut worker);
}

fn is_alive<T: FlowTable<KeyV4>>(table: &T, id: EntryId) -> bool {
    let state = table.slab().entry(id).state();
    state.life == Life::Confirmed && state.generation == id.generation()
}

/// Two inside hosts are translated to one outside key, so that they contend for the answers;
/// a third thread delivers answers: each to the one who owns both keys at that time.
fn an_answer_goes_to_an_owner_of_both_keys<T: FlowTable<KeyV4> + Sync>() {
    const ROUNDS: u64 = 4_000;
    let table = table::<T>();
    let (answer, ends) = (key(2_000, 500), AtomicU64::new(0));
    let delivered = std::thread::scope(|scope| {
        for host in 0..2 {
            let (table, ends) = (&table, &ends);
            scope.spawn(move || {
                let mut worker = table.worker();
                for _ in 0..ROUNDS {
                    let keys = (key(host, 2_000), answer);
                    let Some((id, confirmed)) =
                        connect(table, &mut worker, keys, ClashStep::Drop, |_| {})
                    else {
                        continue;
                    };
                    if confirmed == Confirmed::Inserted {
                        table.release(&mut worker, id);
                        assert!(table.remove(&mut worker, id), "nobody else removes it");
                        table.release(&mut worker, id);
                    }
                }
                table.leave(&mut worker);
                // Release: to the deliverer.
                ends.fetch_add(1, Ordering::Release);
            });
        }
        let deliverer = scope.spawn(|| {
            let (mut worker, mut delivered) = (table.worker(), 0u64);
            // Acquire: all of what the threads did is there when they have ended.
            while ends.load(Ordering::Acquire) < 2 {
                table.begin(&mut worker);
                if let Some(hit) = table.lookup(&mut worker, &answer, NOW) {
                    let entry = table.slab().entry(hit.id);
                    assert_eq!(entry.key(Direction::Reply), answer);
                    let original = entry.key(Direction::Original);
                    let owner = find(&table, &mut worker, &original).map(|hit| hit.id);
                    assert!(
                        owner == Some(hit.id) || !is_alive(&table, hit.id),
                        "{:?} had the answer's key and not its own: {owner:?}",
                        hit.id
                    );
                    table.release(&mut worker, hit.id);
                    delivered += 1;
                }
                table.end(&mut worker);
            }
            table.leave(&mut worker);
            delivered
        });
        deliverer.join().expect("the deliverer ends well")
    });
    assert_eq!(table.slab().confirmed().count(), 0);
    println!("{delivered} answers delivered");
}

/// A connection that cannot have its reply key must not be seen by its original key, not
/// for an instant.
fn a_connection_that_clashes_by_one_key_is_never_seen_by_the_other<T: FlowTable<KeyV4> + Sync>() {
    const ROUNDS: u64 = 10_000;
    let table = table::<T>();
    let answer = key(2_000, 500);
    let mut worker = table.worker();
    let (owner, _) = connect(
        &table,
        &mut worker,
        (key(9, 2_000), answer),
        ClashStep::Drop,
        |_| {},
    )
    .unwrap();
    table.release(&mut worker, owner);
    let wanted = key(1, 2_000);
    let over = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut worker = table.worker();
            for _ in 0..ROUNDS {
                let done = connect(
                    &table,
                    &mut worker,
                    (wanted, answer),
                    ClashStep::Drop,
                    |_| {},
                );
                assert!(matches!(done, Some((_, Confirmed::Refused(_))) | None));
            }
            table.leave(&mut worker);
            // Release: to the one who looks.
            over.store(1, Ordering::Release);
        });
        // Acquire: the end of the other thread.
        while over.load(Ordering::Acquire) == 0 {
            assert_eq!(find(&table, &mut worker, &wanted), None);
        }
    });
    table.leave(&mut worker);
}

macro_rules! regressions {
    ($($module:ident: $table:ty;)*) => {
        $(mod $module {
            use super::*;

            #[test]
            fn the_loser_of_a_clash_is_handed_to_the_winner() {
                the_loser_is_handed_to_the_winner::<$table>(plain(1));
            }

            #[test]
            fn the_loser_of_a_clash_with_nat_is_handed_to_the_winner() {
                the_loser_is_handed_to_the_winner::<$table>((key(1, 2_000), key(2_000, 500)));
            }

            #[test]
            fn every_packet_is_counted_on_the_entry_that_is_found() {
                super::every_packet_is_counted_on_the_entry_that_is_found::<$table>();
            }

            #[test]
            fn an_answer_goes_to_an_owner_of_both_keys() {
                super::an_answer_goes_to_an_owner_of_both_keys::<$table>();
            }

            #[test]
            fn a_connection_that_clashes_by_one_key_is_never_seen_by_the_other() {
                super::a_connection_that_clashes_by_one_key_is_never_seen_by_the_other::<$table>();
            }
        })*
    };
}

regressions! {
    lockfree: LockfreeTable<KeyV4>;
    mutex: MutexTable<KeyV4>;
}

//! Real threads at one table: races for the same flows, readers among writers. Each ends in an identity.

use super::*;

for_each_table!(race_adds_up_and_all_entries_come_back: mutex = MutexTable, striped = StripedTable, dashmap = DashMapTable, ahash = DashMapAhashTable, papaya = PapayaTable, scc = SccTable);
for_each_table!(a_connection_that_stays_is_found_while_others_come_and_go: mutex = MutexTable, striped = StripedTable, dashmap = DashMapTable, ahash = DashMapAhashTable, papaya = PapayaTable, scc = SccTable);
for_each_table!(nobody_finds_one_key_of_a_connection_without_the_other: mutex = MutexTable, striped = StripedTable);
for_each_table!(only_one_of_several_removers_wins: mutex = MutexTable, striped = StripedTable, dashmap = DashMapTable, ahash = DashMapAhashTable, papaya = PapayaTable, scc = SccTable);

#[derive(Debug, Default)]
struct Tally {
    offered: AtomicU64,
    confirmed: AtomicU64,
    same: AtomicU64,
    reply_only: AtomicU64,
    dropped: AtomicU64,
}

impl Tally {
    fn count(counter: &AtomicU64) {
        // Relaxed: read after the threads are joined.
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Aim: what a race leaves behind. Several threads offer the same flows in the same order, some
/// without NAT, some each with a reply tuple of its own; one barrier a round, so that they collide by
/// speed alone. At rest after each round every confirmed connection is looked up by its keys, then all is removed
/// by all threads together (each tries each), and every entry must be free.
fn race_adds_up_and_all_entries_come_back<T: FlowTable<KeyV4>>() {
    const FLOWS: u16 = 500;
    for threads in 2..=4usize {
        let table = T::new(&config(threads * FLOWS as usize + threads * 256, 256));
        let tally = Tally::default();
        let barrier = Barrier::new(threads);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (table, tally, barrier) = (&table, &tally, &barrier);
                scope.spawn(move || {
                    let mut worker = table.worker();
                    for round in 0..40 {
                        barrier.wait();
                        for number in 0..FLOWS {
                            offer(table, &mut worker, tally, thread, round, number);
                        }
                        barrier.wait();
                        if thread == 0 {
                            check_at_rest(table, &mut worker);
                        }
                        barrier.wait();
                        remove_all(table, &mut worker);
                        barrier.wait();
                        if thread == 0 {
                            assert_eq!(
                                free_places(table),
                                table.slab().capacity(),
                                "round {round}"
                            );
                        }
                    }
                });
            }
        });
        // Relaxed: the threads are joined.
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!(
            value(&tally.offered),
            value(&tally.confirmed)
                + value(&tally.same)
                + value(&tally.reply_only)
                + value(&tally.dropped),
            "{threads} threads: {tally:?}"
        );
        assert_eq!(
            value(&tally.confirmed),
            40 * u64::from(FLOWS),
            "each flow once: {tally:?}"
        );
    }
}

fn offer<T: FlowTable<KeyV4>>(
    table: &T,
    worker: &mut T::Worker,
    tally: &Tally,
    thread: usize,
    round: u16,
    number: u16,
) {
    let protocol = protocol(!number.is_multiple_of(4));
    let original = key(protocol, 0, number);
    // Even flows have one reply tuple, odd ones a tuple for each thread, as random source NAT draws.
    let reply_side = if number.is_multiple_of(2) {
        1
    } else {
        1 + thread as u32
    };
    let reply = key(protocol, reply_side, number ^ round);
    if let Some(hit) = table.lookup(worker, &original, SECOND) {
        table.release(worker, hit.id);
        return;
    }
    let id = unconfirmed(table, worker, original, reply, 30 * SECOND).expect("there is room");
    Tally::count(&tally.offered);
    match confirm(table, worker, id, SECOND, 0) {
        Confirmed::Inserted => Tally::count(&tally.confirmed),
        Confirmed::ReplyOnly(_) => Tally::count(&tally.reply_only),
        Confirmed::Refused(_) => Tally::count(&tally.dropped),
        Confirmed::Merged(clash) => {
            Tally::count(&tally.same);
            let winner = table.slab().entry(clash.winner);
            assert_eq!(
                winner.key(clash.winner_key),
                if clash.key == Direction::Original {
                    original
                } else {
                    reply
                }
            );
            table.release(worker, clash.winner);
        }
    }
}

/// No two confirmed connections own one key, and each is found by its keys; a reply-only one by its reply key.
fn check_at_rest<T: FlowTable<KeyV4>>(table: &T, worker: &mut T::Worker) {
    let mut owners = HashMap::new();
    for (id, entry) in table.slab().confirmed() {
        let reply_only = entry.status().contains(Status::NAT_CLASH);
        for direction in [Direction::Original, Direction::Reply] {
            if reply_only && direction == Direction::Original {
                continue;
            }
            let owned = entry.key(direction);
            let before = owners.insert(owned, id);
            assert_eq!(before, None, "{owned:?} has two owners");
            let hit = table
                .lookup(worker, &owned, SECOND)
                .expect("a confirmed connection is found");
            assert_eq!((hit.id, hit.direction), (id, direction));
            table.release(worker, hit.id);
        }
    }
}

fn remove_all<T: FlowTable<KeyV4>>(table: &T, worker: &mut T::Worker) {
    for (id, _) in table.slab().confirmed() {
        if table.remove(worker, id) {
            table.release(worker, id);
        }
    }
}

fn only_one_of_several_removers_wins<T: FlowTable<KeyV4>>() {
    let table = T::new(&config(512, 16));
    let removed = AtomicU64::new(0);
    let mut worker = table.worker();
    for number in 0..200 {
        let (original, reply) = (key(Protocol::UDP, 0, number), key(Protocol::UDP, 1, number));
        let id = unconfirmed(&table, &mut worker, original, reply, SECOND).unwrap();
        assert_eq!(confirm(&table, &mut worker, id, 0, 0), Confirmed::Inserted);
    }
    let ids: Vec<_> = table.slab().confirmed().map(|(id, _)| id).collect();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut worker = table.worker();
                for &id in &ids {
                    if table.remove(&mut worker, id) {
                        Tally::count(&removed);
                        assert!(table.release(&mut worker, id));
                    }
                }
            });
        }
    });
    assert_eq!(removed.into_inner(), 200);
    assert_eq!(free_places(&table), 512);
}

/// Confirms and removes connections `numbers`, over and over, until told to stop.
fn churn<T: FlowTable<KeyV4>>(table: &T, numbers: std::ops::Range<u16>, rounds: usize) {
    let mut worker = table.worker();
    for _ in 0..rounds {
        let ids: Vec<_> = numbers
            .clone()
            .map(|number| {
                let (original, reply) =
                    (key(Protocol::TCP, 0, number), key(Protocol::TCP, 1, number));
                let id = unconfirmed(table, &mut worker, original, reply, SECOND).unwrap();
                assert_eq!(confirm(table, &mut worker, id, 0, 0), Confirmed::Inserted);
                id
            })
            .collect();
        for id in ids {
            assert!(table.remove(&mut worker, id));
            table.release(&mut worker, id);
        }
    }
}

/// Aim: a reader that is carried off by a reused entry starts over and misses nothing. Few buckets, so that
/// entries go from chain to chain; what stays is at the far end of each chain.
fn a_connection_that_stays_is_found_while_others_come_and_go<T: FlowTable<KeyV4>>() {
    let table = T::new(&config(2048, 4));
    let mut worker = table.worker();
    for number in 0..20 {
        let (original, reply) = (key(Protocol::UDP, 0, number), key(Protocol::UDP, 1, number));
        let id = unconfirmed(&table, &mut worker, original, reply, SECOND).unwrap();
        assert_eq!(confirm(&table, &mut worker, id, 0, 0), Confirmed::Inserted);
    }
    std::thread::scope(|scope| {
        let writers = [0..12, 20..32].map(|numbers| {
            let table = &table;
            scope.spawn(move || churn(table, numbers, 4_000))
        });
        let mut worker = table.worker();
        while !writers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            for number in 0..20 {
                for side in 0..2 {
                    let hit = table.lookup(&mut worker, &key(Protocol::UDP, side, number), 0);
                    table.release(&mut worker, hit.expect("it was never removed").id);
                }
            }
        }
    });
    assert_eq!(free_places(&table), 2048 - 20);
}

/// A connection found by its reply key is found by its original key too, unless it is being removed; and the
/// other way round. (`dashmap` does not promise it.)
fn nobody_finds_one_key_of_a_connection_without_the_other<T: FlowTable<KeyV4>>() {
    let table = T::new(&config(2048, 4));
    std::thread::scope(|scope| {
        let writers = [0..2, 20..22].map(|numbers| {
            let table = &table;
            scope.spawn(move || churn(table, numbers, 30_000))
        });
        let mut worker = table.worker();
        while !writers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            for number in (0..2).chain(20..22) {
                for (first, second) in [(0, 1), (1, 0)] {
                    let wanted = key(Protocol::TCP, first, number);
                    let Some(one) = table.lookup(&mut worker, &wanted, 0) else {
                        continue;
                    };
                    let entry = table.slab().entry(one.id);
                    assert_ne!(
                        entry.state().life,
                        Life::Pending,
                        "found before it is confirmed"
                    );
                    assert_eq!(
                        entry.key(one.direction),
                        wanted,
                        "another life of the entry"
                    );
                    let other = table.lookup(&mut worker, &key(Protocol::TCP, second, number), 0);
                    let life = table.slab().entry(one.id).state().life;
                    if life == Life::Confirmed {
                        assert_eq!(other.map(|hit| hit.id), Some(one.id), "torn");
                    }
                    if let Some(hit) = other {
                        table.release(&mut worker, hit.id);
                    }
                    table.release(&mut worker, one.id);
                }
            }
        }
    });
}

//! Real threads on few keys. Each test ends in an accounting identity, in a look at every
//! connection by both of its keys, and in the check of what is at rest.

use std::collections::HashMap;
use std::sync::Barrier;

use super::super::{Geometry, LockfreeTable, LockfreeWorker, Narrow, Wide};
use super::{Always, connect, key, table};
use crate::status::Status;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::{EntryId, Life};
use crate::table::{ClashStep, Confirmed, FlowTable, Refusal};
use crate::time::Nanos;
use crate::tuple::Direction;

const NOW: Nanos = 1_000;
const LONG: Nanos = 1 << 40;

/// A small generator: seeds are printed by the tests that fail.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// What one thread did.
#[derive(Debug, Default)]
struct Tally {
    offered: u64,
    inserted: u64,
    reply_only: u64,
    merged: u64,
    dropped: u64,
    removed: u64,
    no_entry: u64,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.offered += other.offered;
        self.inserted += other.inserted;
        self.reply_only += other.reply_only;
        self.merged += other.merged;
        self.dropped += other.dropped;
        self.removed += other.removed;
        self.no_entry += other.no_entry;
    }
}

fn is_confirmed<G: Geometry>(table: &LockfreeTable<KeyV4, G>, id: EntryId) -> bool {
    let state = table.slab().entry(id).state();
    state.life == Life::Confirmed && state.generation == id.generation()
}

/// Finds a connection by one key and looks for it by the other: not found, although it was
/// confirmed before and still is, is a torn insert.
fn look_for_torn<G: Geometry>(
    table: &LockfreeTable<KeyV4, G>,
    worker: &mut LockfreeWorker,
    wanted: &KeyV4,
) {
    table.begin(worker);
    if let Some(hit) = table.lookup(worker, wanted, NOW) {
        let entry = table.slab().entry(hit.id);
        assert_eq!(entry.key(hit.direction), *wanted, "found by another key");
        let reply_only = entry.status().contains(Status::NAT_CLASH);
        if !reply_only {
            let other = entry.key(hit.direction.other());
            let again = table.lookup(worker, &other, NOW);
            let torn = again.map(|a| a.id) != Some(hit.id)
                && is_confirmed(table, hit.id)
                && !entry.is_expired(NOW);
            assert!(
                !torn,
                "{:?}: found by {wanted:?}, not by {other:?}: {again:?}",
                hit.id
            );
            if let Some(again) = again {
                table.release(worker, again.id);
            }
        }
        table.release(worker, hit.id);
    }
    table.end(worker);
}

/// At rest: every confirmed connection is found by all keys it owns, and no key has two owners.
fn assert_owners<G: Geometry>(table: &LockfreeTable<KeyV4, G>, worker: &mut LockfreeWorker) -> u64 {
    let mut owners: HashMap<KeyV4, EntryId> = HashMap::new();
    let confirmed: Vec<EntryId> = table.slab().confirmed().map(|(id, _)| id).collect();
    for &id in &confirmed {
        let entry = table.slab().entry(id);
        let reply_only = entry.status().contains(Status::NAT_CLASH);
        for direction in [Direction::Original, Direction::Reply] {
            if reply_only && direction == Direction::Original {
                continue;
            }
            let key = entry.key(direction);
            let before = owners.insert(key, id);
            assert!(before.is_none_or(|b| b == id), "{key:?} has two owners");
            let hit = table
                .lookup(worker, &key, 0)
                .expect("a confirmed connection is found");
            assert_eq!(hit.id, id);
            table.release(worker, hit.id);
        }
    }
    confirmed.len() as u64
}

fn offer<G: Geometry>(
    table: &LockfreeTable<KeyV4, G>,
    worker: &mut LockfreeWorker,
    random: &mut Random,
    keys: (KeyV4, KeyV4),
    tally: &mut Tally,
) {
    let step = [ClashStep::Merge, ClashStep::ReplyOnly, ClashStep::Drop][random.next(3) as usize];
    let mut policy = Always::new(step);
    // One in four has expired as soon as it is in: others replace it.
    let timeout = if random.next(4) == 0 { 0 } else { LONG };
    let Some((id, confirmed)) = connect(
        table,
        worker,
        keys,
        (NOW, timeout),
        random.next(1 << 32) as u32,
        &mut policy,
    ) else {
        tally.no_entry += 1;
        return;
    };
    tally.offered += 1;
    match confirmed {
        Confirmed::Inserted => tally.inserted += 1,
        Confirmed::ReplyOnly(clash) => {
            assert_ne!(clash.winner, id);
            tally.reply_only += 1;
        }
        Confirmed::Merged(clash) => {
            let winner = table.slab().entry(clash.winner);
            assert_eq!(winner.state().generation, clash.winner.generation(), "held");
            table.release(worker, clash.winner);
            tally.merged += 1;
        }
        Confirmed::Refused(refusal) => {
            assert_ne!(refusal, Refusal::Dying);
            tally.dropped += 1;
        }
    }
}

fn collect_removed<G: Geometry>(
    table: &LockfreeTable<KeyV4, G>,
    worker: &mut LockfreeWorker,
    tally: &mut Tally,
) {
    while let Some(id) = table.take_removed(worker) {
        assert!(table.slab().entry(id).status().contains(Status::DYING));
        assert!(table.release(worker, id));
        tally.removed += 1;
    }
}

/// One thread's random program.
fn mix<G: Geometry>(
    table: &LockfreeTable<KeyV4, G>,
    seed: u64,
    steps: usize,
) -> (Tally, LockfreeWorker) {
    let mut worker = table.worker();
    let mut random = Random(seed);
    let mut tally = Tally::default();
    let mut in_batch = false;
    for _ in 0..steps {
        let mut side = || random.next(4) as u8;
        let (a, b) = (key(side(), side(), 0), key(side(), side(), 0));
        match random.next(10) {
            0..4 => {
                let reply = if random.next(2) == 0 {
                    a.inverse().unwrap()
                } else {
                    b
                };
                offer(table, &mut worker, &mut random, (a, reply), &mut tally);
            }
            4..7 => {
                table.begin(&mut worker);
                if let Some(hit) = table.lookup(&mut worker, &a, NOW) {
                    if table.remove(&mut worker, hit.id) {
                        tally.removed += 1;
                        assert!(table.release(&mut worker, hit.id));
                    }
                    table.release(&mut worker, hit.id);
                }
                table.end(&mut worker);
            }
            7..9 => look_for_torn(table, &mut worker, &a),
            _ if random.next(50) == 0 => {
                table.early_drop(&mut worker, &a, NOW, &|entry| {
                    !entry.status().contains(Status::ASSURED)
                });
            }
            _ => {
                if in_batch {
                    table.end(&mut worker);
                } else {
                    table.begin(&mut worker);
                }
                in_batch = !in_batch;
            }
        }
        collect_removed(table, &mut worker, &mut tally);
    }
    if in_batch {
        table.end(&mut worker);
    }
    (tally, worker)
}

fn race<G: Geometry>(heads: usize, entries: usize, overflow: usize, seed: u64) {
    const THREADS: u64 = 4;
    const STEPS: usize = if cfg!(miri) { 100 } else { 15_000 };
    let table = table::<G>(heads, entries, overflow);
    let done: Vec<(Tally, LockfreeWorker)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let table = &table;
                scope.spawn(move || mix(table, seed * THREADS + thread, STEPS))
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("a thread ends well"))
            .collect()
    });
    let mut sum = Tally::default();
    for (tally, _) in &done {
        sum.add(tally);
    }
    let mut workers: Vec<LockfreeWorker> = done.into_iter().map(|(_, worker)| worker).collect();
    let live = assert_owners(&table, &mut workers[0]);
    assert_eq!(
        sum.offered,
        sum.inserted + sum.reply_only + sum.merged + sum.dropped,
        "seed {seed}: {sum:?}"
    );
    assert_eq!(
        sum.inserted + sum.reply_only,
        sum.removed + live,
        "seed {seed}: {sum:?}"
    );
    table.assert_quiescent(&workers.iter().collect::<Vec<_>>(), &[]);
    assert!(sum.inserted > 0 && sum.removed > 0, "seed {seed}: {sum:?}");
}

#[test]
fn racing_threads_leave_a_whole_table_of_single_slots() {
    for seed in 0..6 {
        race::<Narrow<1, 1, 3>>(2, 200, 12, seed);
    }
}

#[test]
fn racing_threads_leave_a_whole_table_with_few_overflow_buckets() {
    for seed in 10..16 {
        race::<Narrow<2, 2, 2>>(2, 200, 3, seed);
    }
}

#[test]
fn racing_threads_leave_a_whole_table_when_entries_are_short() {
    for seed in 20..26 {
        race::<Wide>(1, 12, 4, seed);
    }
}

#[test]
fn racing_threads_leave_a_whole_table_of_many_chains() {
    for seed in 30..33 {
        race::<Wide>(64, 1_000, 16, seed);
    }
}

/// Flows that all threads offer in the same order, batch by batch: the first one in wins,
/// and every other thread's packet gets to *its* entry (never to the loser's own, which is what
/// CVE-2022-49561 and CVE-2024-41040 were about).
fn same_flows<G: Geometry>(
    heads: usize,
    overflow: usize,
    flow: impl Fn(u32, usize) -> (KeyV4, KeyV4) + Sync,
) {
    const THREADS: usize = 3;
    const ROUNDS: u32 = if cfg!(miri) { 3 } else { 300 };
    const FLOWS: u32 = 16;
    let table = table::<G>(heads, 400, overflow);
    let barrier = Barrier::new(THREADS);
    let mut answers: Vec<(Vec<(EntryId, Confirmed)>, LockfreeWorker)> =
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (table, barrier, flow) = (&table, &barrier, &flow);
                    scope.spawn(move || {
                        let mut worker = table.worker();
                        let mut policy = Always::new(ClashStep::Merge);
                        let mut all = Vec::new();
                        for round in 0..ROUNDS {
                            barrier.wait();
                            table.begin(&mut worker);
                            let first = all.len();
                            for n in 0..FLOWS {
                                let keys = flow(n, thread);
                                let done =
                                    connect(table, &mut worker, keys, (NOW, LONG), 0, &mut policy)
                                        .expect("there is room");
                                all.push(done);
                            }
                            for (_, confirmed) in &all[first..] {
                                if let Confirmed::Merged(clash) = confirmed {
                                    table.release(&mut worker, clash.winner);
                                }
                            }
                            table.end(&mut worker);
                            barrier.wait();
                            if thread == round as usize % THREADS {
                                let ids: Vec<_> =
                                    table.slab().confirmed().map(|(id, _)| id).collect();
                                assert_eq!(ids.len(), FLOWS as usize, "each flow once");
                                for id in ids {
                                    assert!(table.remove(&mut worker, id));
                                    assert!(table.release(&mut worker, id));
                                }
                            }
                        }
                        (all, worker)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("a thread ends well"))
                .collect()
        });
    for i in 0..(ROUNDS * FLOWS) as usize {
        let inserted: Vec<EntryId> = answers
            .iter()
            .filter(|(all, _)| all[i].1 == Confirmed::Inserted)
            .map(|(all, _)| all[i].0)
            .collect();
        assert_eq!(inserted.len(), 1, "flow {i} has one winner");
        for (all, _) in &answers {
            match all[i].1 {
                Confirmed::Inserted => {}
                Confirmed::Merged(clash) => assert_eq!(clash.winner, inserted[0], "flow {i}"),
                other => panic!("flow {i}: {other:?}"),
            }
        }
    }
    let workers: Vec<_> = answers.drain(..).map(|(_, worker)| worker).collect();
    table.assert_quiescent(&workers.iter().collect::<Vec<_>>(), &[]);
}

#[test]
fn of_equal_flows_one_gets_in_and_the_others_get_its_entry() {
    same_flows::<Wide>(4, 8, |n, _| {
        let original = key(n as u8, 100, 0);
        (original, original.inverse().unwrap())
    });
}

#[test]
fn of_equal_nated_flows_one_gets_in_and_the_others_get_its_entry() {
    same_flows::<Wide>(4, 8, |n, _| {
        (key(n as u8, 100, 0), key(100, n as u8 + 50, 0))
    });
}

#[test]
fn of_crossing_flows_one_gets_in_whichever_key_comes_first() {
    same_flows::<Narrow<3, 7, 3>>(4, 96, |n, thread| {
        let (a, b) = (key(n as u8, 100, 0), key(n as u8 + 50, 101, 0));
        if thread % 2 == 0 { (a, b) } else { (b, a) }
    });
}

//! What every table must do, whatever it is made of: the same body runs on all of them.
//!
//! - against a plain model (two hash maps), one call after the other;
//! - `striped` against the reference to the step, chain limits and evictions included;
//! - real threads racing for the same flows, ending in the accounting identity.

use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use clashtrack::peer::dashmap::DashMapTable;
use clashtrack::peer::striped::StripedTable;
use clashtrack_engine::addr::Addr;
use clashtrack_engine::addr::Family;
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::status::Status;
use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::mutex::MutexTable;
use clashtrack_engine::table::slab::{Entry, EntryId, Life};
use clashtrack_engine::table::{
    Clash, ClashPolicy, ClashStep, Confirmed, FlowTable, REPLY_ONLY_TIMEOUT, Refusal, TableConfig,
};
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::{Direction, Protocol, Tuple};

/// One body, all tables.
macro_rules! for_each_table {
    ($body:ident: $($name:ident = $table:ident),* $(,)?) => {
        mod $body {
            use super::*;
            $(#[test] fn $name() { super::$body::<$table<KeyV4>>(); })*
        }
    };
}

for_each_table!(agrees_with_a_plain_model: mutex = MutexTable, striped = StripedTable, dashmap = DashMapTable);
for_each_table!(race_adds_up_and_all_entries_come_back: mutex = MutexTable, striped = StripedTable, dashmap = DashMapTable);
for_each_table!(an_expired_connection_is_removed_by_the_lookup_that_meets_it: mutex = MutexTable, striped = StripedTable, dashmap = DashMapTable);
for_each_table!(a_connection_that_stays_is_found_while_others_come_and_go: mutex = MutexTable, striped = StripedTable, dashmap = DashMapTable);
for_each_table!(nobody_finds_one_key_of_a_connection_without_the_other: mutex = MutexTable, striped = StripedTable);
for_each_table!(only_one_of_several_removers_wins: mutex = MutexTable, striped = StripedTable, dashmap = DashMapTable);

/// Merges where both keys are equal, else tries reply-only; protocols that may not clash drop.
struct Policy;

impl ClashPolicy<KeyV4> for Policy {
    fn decide(&mut self, clash: &Clash, loser: &Entry<KeyV4>, winner: &Entry<KeyV4>) -> ClashStep {
        let keys =
            |entry: &Entry<KeyV4>| (entry.key(Direction::Original), entry.key(Direction::Reply));
        if !keys(loser).0.tuple().protocol.allows_clash() {
            ClashStep::Drop
        } else if keys(loser) == keys(winner) {
            ClashStep::Merge
        } else if clash.at_reply_only {
            ClashStep::Drop
        } else {
            ClashStep::ReplyOnly
        }
    }
}

fn key(protocol: Protocol, side: u32, number: u16) -> KeyV4 {
    let tuple = Tuple {
        src: Addr::from_u32(0x0a00_0000 | side),
        dst: Addr::from_u32(0xc000_0201),
        src_key: number,
        dst_key: 53,
        family: Family::Ipv4,
        protocol,
    };
    KeyV4::pack(&tuple, 0)
}

fn config(capacity: usize, buckets: usize) -> TableConfig {
    TableConfig {
        buckets,
        ..TableConfig::new(capacity, HashKey(7, 11))
    }
}

/// Allocates an entry with these keys; nothing is confirmed.
fn unconfirmed<T: FlowTable<KeyV4>>(
    table: &T,
    worker: &mut T::Worker,
    original: KeyV4,
    reply: KeyV4,
    timeout: Nanos,
) -> Option<EntryId> {
    let id = table.allocate(worker)?;
    let entry = table.slab().entry(id);
    entry.set_keys(original, reply);
    entry.set_deadline(timeout);
    Some(id)
}

fn drain<T: FlowTable<KeyV4>>(table: &T, worker: &mut T::Worker) -> usize {
    let mut removed = 0;
    while let Some(id) = table.take_removed(worker) {
        assert!(table.release(worker, id), "nobody else holds it");
        removed += 1;
    }
    removed
}

fn free_places<T: FlowTable<KeyV4>>(table: &T) -> usize {
    (0..table.slab().capacity() as u32)
        .filter(|&index| table.slab().at(index).state().life == Life::Free)
        .count()
}

// ---------------------------------------------------------------- the plain model

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Protocol, original key, reply key: small numbers, so that they clash.
    Confirm(bool, u16, u16),
    Lookup(bool, u32, u16),
    Remove(bool, u32, u16),
    /// Time passes; what has expired is looked up, so that no table still holds it.
    Expire(Nanos),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (any::<bool>(), 0..6u16, 0..6u16).prop_map(|(p, o, r)| Op::Confirm(p, o, r)),
        3 => (any::<bool>(), 0..2u32, 0..6u16).prop_map(|(p, s, n)| Op::Lookup(p, s, n)),
        2 => (any::<bool>(), 0..2u32, 0..6u16).prop_map(|(p, s, n)| Op::Remove(p, s, n)),
        1 => (1..3 * SECOND).prop_map(Op::Expire),
    ];
    proptest::collection::vec(op, 1..120)
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct ModelConnection {
    keys: [KeyV4; 2],
    deadline: Nanos,
    reply_only: bool,
}

/// Keys to connections, and nothing else.
#[derive(Default, Debug)]
struct Model {
    owners: HashMap<KeyV4, usize>,
    connections: Vec<ModelConnection>,
}

const TIMEOUT: Nanos = 2 * SECOND;

impl Model {
    fn confirm(&mut self, original: KeyV4, reply: KeyV4, now: Nanos) -> &'static str {
        let loser = ModelConnection {
            keys: [original, reply],
            deadline: now + TIMEOUT,
            reply_only: false,
        };
        let Some(&first) = self
            .owners
            .get(&original)
            .or_else(|| self.owners.get(&reply))
        else {
            self.insert(loser);
            return "inserted";
        };
        if !original.tuple().protocol.allows_clash() {
            return "refused";
        }
        if self.connections[first].keys == loser.keys {
            return "merged";
        }
        match self.owners.get(&reply) {
            Some(&second) if self.connections[second].keys == loser.keys => "merged",
            Some(_) => "refused",
            None => {
                self.insert(ModelConnection {
                    deadline: now + REPLY_ONLY_TIMEOUT,
                    reply_only: true,
                    ..loser
                });
                "reply-only"
            }
        }
    }

    fn insert(&mut self, connection: ModelConnection) {
        let number = self.connections.len();
        self.connections.push(connection);
        if !connection.reply_only {
            self.owners.insert(connection.keys[0], number);
        }
        self.owners.insert(connection.keys[1], number);
    }

    fn find(&self, key: KeyV4) -> Option<ModelConnection> {
        self.owners.get(&key).map(|&n| self.connections[n])
    }

    fn remove(&mut self, key: KeyV4) -> bool {
        match self.owners.get(&key).copied() {
            Some(number) => {
                self.owners.retain(|_, owner| *owner != number);
                true
            }
            None => false,
        }
    }

    fn expire(&mut self, now: Nanos) {
        let connections = &self.connections;
        self.owners
            .retain(|_, owner| connections[*owner].deadline > now);
    }
}

fn outcome_name(outcome: Confirmed) -> &'static str {
    match outcome {
        Confirmed::Inserted => "inserted",
        Confirmed::Merged(_) => "merged",
        Confirmed::ReplyOnly(_) => "reply-only",
        Confirmed::Refused(_) => "refused",
    }
}

fn protocol(udp: bool) -> Protocol {
    if udp { Protocol::UDP } else { Protocol::TCP }
}

fn agrees_with_a_plain_model<T: FlowTable<KeyV4>>() {
    proptest!(ProptestConfig::with_cases(64), |(ops in ops())| {
        let table = T::new(&config(512, 64));
        let mut worker = table.worker();
        let mut model = Model::default();
        let mut now = SECOND;
        for op in ops {
            match op {
                Op::Confirm(udp, original, reply) => {
                    let p = protocol(udp);
                    let (original, reply) = (key(p, 0, original), key(p, 1, reply));
                    let id = unconfirmed(&table, &mut worker, original, reply, TIMEOUT).unwrap();
                    let outcome = table.confirm(&mut worker, id, now, 0, &mut Policy);
                    prop_assert_eq!(outcome_name(outcome), model.confirm(original, reply, now), "{:?}", op);
                    if let Confirmed::Merged(clash) = outcome {
                        prop_assert!(!table.release(&mut worker, clash.winner));
                    }
                }
                Op::Lookup(udp, side, number) => {
                    let wanted = key(protocol(udp), side, number);
                    let hit = table.lookup(&mut worker, &wanted, now);
                    let seen = hit.map(|hit| {
                        let entry = table.slab().entry(hit.id);
                        assert_eq!(entry.key(hit.direction), wanted);
                        ModelConnection {
                            keys: [entry.key(Direction::Original), entry.key(Direction::Reply)],
                            deadline: entry.deadline(),
                            reply_only: entry.status().contains(Status::NAT_CLASH),
                        }
                    });
                    prop_assert_eq!(seen, model.find(wanted), "{:?}", op);
                    if let Some(hit) = hit {
                        prop_assert!(!table.release(&mut worker, hit.id));
                    }
                }
                Op::Remove(udp, side, number) => {
                    let wanted = key(protocol(udp), side, number);
                    let removed = table.lookup(&mut worker, &wanted, now).is_some_and(|hit| {
                        let removed = table.remove(&mut worker, hit.id);
                        assert!(!table.remove(&mut worker, hit.id), "only once");
                        assert!(!table.release(&mut worker, hit.id), "the remover still holds it");
                        assert!(table.release(&mut worker, hit.id));
                        removed
                    });
                    prop_assert_eq!(removed, model.remove(wanted), "{:?}", op);
                }
                Op::Expire(dt) => {
                    now += dt;
                    for p in [Protocol::UDP, Protocol::TCP] {
                        for wanted in (0..2).flat_map(|side| (0..6).map(move |n| key(p, side, n))) {
                            if let Some(hit) = table.lookup(&mut worker, &wanted, now) {
                                table.release(&mut worker, hit.id);
                            }
                        }
                    }
                    drain(&table, &mut worker);
                    model.expire(now);
                }
            }
            let owners: std::collections::HashSet<_> = model.owners.values().collect();
            prop_assert_eq!(table.slab().confirmed().count(), owners.len());
        }
    });
}

// ---------------------------------------------------------------- striped and the reference

#[derive(Clone, Copy, PartialEq, Debug)]
enum Seen {
    Confirm(&'static str, Option<(Direction, Direction, KeyV4)>),
    TooLong,
    Lookup(Option<(Direction, KeyV4)>),
    Evicted(u32, Nanos),
}

/// A run of random calls on a table of few buckets, and all that could be seen of it.
fn walk<T: FlowTable<KeyV4>>(seed: u64, buckets: usize) -> (Vec<Seen>, Option<Vec<u64>>) {
    let mut rng = WorkerRng::new(seed, 0);
    let table = T::new(&config(1024, buckets));
    let mut worker = table.worker();
    let mut now = SECOND;
    let mut seen = Vec::new();
    for _ in 0..600 {
        let udp = rng.below(2) == 0;
        let number = rng.below(200) as u16;
        match rng.below(20) {
            0..12 => {
                let (original, reply) = (
                    key(protocol(udp), 0, number),
                    key(protocol(udp), 1, rng.below(400) as u16),
                );
                let timeout = SECOND * (1 + u64::from(rng.below(40)));
                let id = unconfirmed(&table, &mut worker, original, reply, timeout).unwrap();
                let outcome = table.confirm(&mut worker, id, now, rng.next_u32(), &mut Policy);
                let about = |clash: Clash| {
                    let winner = table.slab().entry(clash.winner).key(Direction::Reply);
                    Some((clash.key, clash.winner_key, winner))
                };
                seen.push(match outcome {
                    Confirmed::Inserted => Seen::Confirm("inserted", None),
                    Confirmed::ReplyOnly(clash) => Seen::Confirm("reply-only", about(clash)),
                    Confirmed::Refused(Refusal::Clash(clash)) => {
                        Seen::Confirm("refused", about(clash))
                    }
                    Confirmed::Refused(_) => Seen::TooLong,
                    Confirmed::Merged(clash) => {
                        let about = about(clash);
                        table.release(&mut worker, clash.winner);
                        Seen::Confirm("merged", about)
                    }
                });
            }
            12..18 => {
                let wanted = key(protocol(udp), rng.below(2), number);
                let hit = table.lookup(&mut worker, &wanted, now);
                seen.push(Seen::Lookup(hit.map(|hit| {
                    let reply = table.slab().entry(hit.id).key(Direction::Reply);
                    table.release(&mut worker, hit.id);
                    (hit.direction, reply)
                })));
            }
            18 => {
                let near = key(protocol(udp), 0, number);
                let drop = table.early_drop(&mut worker, &near, now, &|entry| {
                    entry.key(Direction::Original).tuple().src_key % 3 == 0
                });
                seen.push(Seen::Evicted(drop.evicted, now));
            }
            _ => now += u64::from(rng.below(2_000)) * 1_000_000,
        }
        drain(&table, &mut worker);
    }
    assert_eq!(
        table.take_search_restarts(&mut worker),
        0,
        "one thread is never carried off"
    );
    let chains = table.chain_lengths().map(|lengths| lengths.histogram);
    (seen, chains)
}

#[test]
fn striped_does_what_the_reference_does_step_by_step() {
    for seed in 0..40 {
        for buckets in [1, 3, 16, 2048] {
            let reference = walk::<MutexTable<KeyV4>>(seed, buckets);
            let striped = walk::<StripedTable<KeyV4>>(seed, buckets);
            assert_eq!(striped, reference, "seed {seed}, {buckets} buckets");
        }
    }
}

#[test]
fn the_reference_walk_meets_every_outcome() {
    let seen = walk::<MutexTable<KeyV4>>(1, 3).0;
    let met = |wanted: fn(&Seen) -> bool| seen.iter().any(wanted);
    assert!(met(|s| matches!(s, Seen::Confirm("inserted", _))));
    assert!(met(|s| matches!(s, Seen::Confirm("reply-only", _))));
    assert!(met(|s| matches!(s, Seen::Confirm("refused", _))));
    assert!(met(|s| matches!(s, Seen::TooLong)));
    assert!(met(|s| matches!(s, Seen::Lookup(Some(_)))));
    assert!(met(|s| matches!(s, Seen::Evicted(1.., _))));
}

// ---------------------------------------------------------------- real threads

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
    match table.confirm(worker, id, SECOND, 0, &mut Policy) {
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

fn an_expired_connection_is_removed_by_the_lookup_that_meets_it<T: FlowTable<KeyV4>>() {
    let table = T::new(&config(4, 4));
    let mut worker = table.worker();
    let (original, reply) = (key(Protocol::UDP, 0, 1), key(Protocol::UDP, 1, 1));
    let id = unconfirmed(&table, &mut worker, original, reply, SECOND).unwrap();
    assert_eq!(
        table.confirm(&mut worker, id, SECOND, 0, &mut Policy),
        Confirmed::Inserted
    );
    assert_eq!(table.lookup(&mut worker, &reply, 2 * SECOND), None);
    assert_eq!(table.take_removed(&mut worker), Some(id));
    assert!(table.slab().entry(id).status().contains(Status::DYING));
    assert_eq!(
        table.lookup(&mut worker, &original, SECOND),
        None,
        "by neither key"
    );
    assert!(table.release(&mut worker, id));
    assert_eq!(free_places(&table), 4);
}

fn only_one_of_several_removers_wins<T: FlowTable<KeyV4>>() {
    let table = T::new(&config(512, 16));
    let removed = AtomicU64::new(0);
    let mut worker = table.worker();
    for number in 0..200 {
        let (original, reply) = (key(Protocol::UDP, 0, number), key(Protocol::UDP, 1, number));
        let id = unconfirmed(&table, &mut worker, original, reply, SECOND).unwrap();
        assert_eq!(
            table.confirm(&mut worker, id, 0, 0, &mut Policy),
            Confirmed::Inserted
        );
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
                assert_eq!(
                    table.confirm(&mut worker, id, 0, 0, &mut Policy),
                    Confirmed::Inserted
                );
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
        assert_eq!(
            table.confirm(&mut worker, id, 0, 0, &mut Policy),
            Confirmed::Inserted
        );
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
        let writers = [0..8, 20..28].map(|numbers| {
            let table = &table;
            scope.spawn(move || churn(table, numbers, 4_000))
        });
        let mut worker = table.worker();
        while !writers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            for number in (0..8).chain(20..28) {
                for (first, second) in [(0, 1), (1, 0)] {
                    let Some(one) =
                        table.lookup(&mut worker, &key(Protocol::TCP, first, number), 0)
                    else {
                        continue;
                    };
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

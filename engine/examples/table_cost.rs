//! What one operation of the lock-free table costs: time, and (under callgrind) instructions.
//!
//! ```text
//! cargo run --release -p clashtrack-engine --example table_cost -- WORKLOAD CONNECTIONS OPERATIONS [FAMILY [HINT]]
//! WORKLOAD   hit | miss | hit1 | connect | remove
//! OPERATIONS lookups; connects and removals in rounds of all CONNECTIONS, three at least
//! FAMILY     4 | 6
//! HINT       how lines that will be written are asked for: t0 | t1 | nta | w | none
//! ```
//! Instructions: run it twice under `valgrind --tool=callgrind --toggle-collect='*timed*'`,
//! which counts the timed loop alone; divide by the operations.

use std::hint::black_box;
use std::net::Ipv6Addr;
use std::time::Instant;

use clashtrack_engine::addr::{Addr, Family};
use clashtrack_engine::clash::KernelClashPolicy;
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::status::Status;
use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::{FlowKey, KeyV4, KeyV6};
use clashtrack_engine::table::lockfree::{Hint, LockfreeTable, LockfreeWorker};
use clashtrack_engine::table::slab::EntryId;
use clashtrack_engine::table::{Confirmed, FlowTable, TableConfig};
use clashtrack_engine::time::SECOND;
use clashtrack_engine::tuple::{Protocol, Tuple};

type Table<K> = LockfreeTable<K>;
type Worker = LockfreeWorker;

const BATCH: usize = 64;
const CONNECT_BATCH: usize = 32;
const NOW: u64 = SECOND;
const LONG: u64 = 432_000 * SECOND;

/// Original and reply key of connection `n`, behind source NAT.
fn pair<K: FlowKey>(n: u32, generation: u16) -> (K, K) {
    let address = |number: u32| match K::FAMILY {
        Family::Ipv4 => Addr::from_u32(number),
        // 2001:db8::/32, of the documentation networks (RFC 3849).
        Family::Ipv6 => Addr::v6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number))),
    };
    let original = Tuple {
        src: address(0x0a00_0000 | n >> 8),
        dst: address(0xc633_6400 | n & 7),
        src_key: (n & 0xff) as u16 * 131 + 1024,
        dst_key: 443 + generation,
        family: K::FAMILY,
        protocol: Protocol::TCP,
    };
    let reply = Tuple {
        src: original.dst,
        dst: address(0xcb00_7100 | n >> 16),
        src_key: original.dst_key,
        dst_key: n as u16,
        ..original
    };
    (K::pack(&original, 0), K::pack(&reply, 0))
}

fn connect<K: FlowKey>(
    table: &Table<K>,
    worker: &mut Worker,
    pairs: &[(K, K)],
    ids: &mut Vec<EntryId>,
    rng: &mut WorkerRng,
) {
    let mut batch = [EntryId::new(0, 0); CONNECT_BATCH];
    for pairs in pairs.chunks(CONNECT_BATCH) {
        table.begin(worker);
        for (place, (original, reply)) in batch.iter_mut().zip(pairs) {
            let id = table.allocate(worker).expect("room for all");
            let entry = table.slab().entry(id);
            entry.set_keys(*original, *reply);
            entry.set_status(Status::SRC_NAT | Status::SRC_NAT_DONE);
            entry.set_deadline(LONG);
            let mut tracker = table.slab().tracker(id).lock();
            tracker.store([1, 1, 1, 65_535, 0, 0, 0], 1);
            drop(tracker);
            *place = id;
        }
        let batch = &batch[..pairs.len()];
        let mut outcomes = [Confirmed::Inserted; CONNECT_BATCH];
        let outcomes = &mut outcomes[..pairs.len()];
        table.confirm_batch(worker, batch, NOW, rng, &mut KernelClashPolicy, outcomes);
        for (&id, outcome) in batch.iter().zip(outcomes) {
            assert_eq!(*outcome, Confirmed::Inserted);
            table.release(worker, id);
            ids.push(id);
        }
        table.end(worker);
    }
}

#[inline(never)]
fn timed_connect<K: FlowKey>(
    table: &Table<K>,
    worker: &mut Worker,
    pairs: &[(K, K)],
    ids: &mut Vec<EntryId>,
    rng: &mut WorkerRng,
) -> u64 {
    connect(table, worker, pairs, ids, rng);
    pairs.len() as u64
}

#[inline(never)]
fn timed_remove<K: FlowKey>(table: &Table<K>, worker: &mut Worker, ids: &[EntryId]) -> u64 {
    let mut removed = 0;
    for batch in ids.chunks(CONNECT_BATCH) {
        table.begin(worker);
        let mut ours = [false; CONNECT_BATCH];
        let ours = &mut ours[..batch.len()];
        table.remove_batch(worker, batch, ours);
        for (&id, removed_it) in batch.iter().zip(ours) {
            removed += u64::from(*removed_it);
            table.release(worker, id);
        }
        table.end(worker);
    }
    removed
}

#[inline(never)]
fn timed_batches<K: FlowKey>(table: &Table<K>, worker: &mut Worker, keys: &[K]) -> u64 {
    let mut found: [Option<Status>; BATCH] = [None; BATCH];
    let mut seen = 0;
    for keys in keys.chunks(BATCH) {
        let found = &mut found[..keys.len()];
        table.begin(worker);
        table.status_batch(worker, keys, NOW, found);
        // Without branches: every status read counts.
        for status in found.iter() {
            seen += u64::from(status.map_or(0, |status| status.bits()) != 0);
        }
        table.end(worker);
    }
    seen
}

#[inline(never)]
fn timed_single<K: FlowKey>(table: &Table<K>, worker: &mut Worker, keys: &[K]) -> u64 {
    let never = black_box(0usize);
    let (mut seen, mut waits_for) = (0, 0);
    for i in 0..keys.len() {
        table.begin(worker);
        if let Some(hit) = table.lookup(worker, &keys[i + waits_for], NOW) {
            let status = table.slab().entry(hit.id).status().bits();
            waits_for = status as usize & never;
            seen += u64::from(status != 0);
            table.release(worker, hit.id);
        }
        table.end(worker);
    }
    seen
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.get(3).map(String::as_str) {
        Some("6") => measure::<KeyV6>(&arguments),
        _ => measure::<KeyV4>(&arguments),
    }
}

fn measure<K: FlowKey>(arguments: &[String]) {
    let number = |at: usize, otherwise: usize| {
        arguments
            .get(at)
            .and_then(|n| n.parse().ok())
            .unwrap_or(otherwise)
    };
    let workload = arguments.first().map_or("hit", String::as_str);
    let (connections, operations) = (number(1, 1_000_000), number(2, 2_000_000));
    let mut rng = WorkerRng::new(5, 0);
    let config = TableConfig::new(connections, HashKey(rng.next_u64(), rng.next_u64()));
    let mut table = Table::<K>::new(&config);
    if let Some(write) = arguments.get(4) {
        let hint = Hint::ALL.into_iter().find(|hint| hint.name() == write);
        table.set_prefetch(Hint::default(), hint.expect("one of t0, t1, nta, w, none"));
    }
    let mut worker = table.worker();
    let mut pairs: Vec<(K, K)> = (0..connections as u32).map(|n| pair(n, 0)).collect();
    let others: Vec<(K, K)> = (0..connections as u32).map(|n| pair(n, 1)).collect();
    for i in (1..pairs.len()).rev() {
        pairs.swap(i, rng.next_u32() as usize % (i + 1));
    }
    let keys: Vec<K> = (0..operations)
        .map(|_| {
            let of = if workload == "miss" { &others } else { &pairs };
            let (original, reply) = of[rng.next_u32() as usize % of.len()];
            if rng.next_u32() & 1 == 0 {
                original
            } else {
                reply
            }
        })
        .collect();
    let mut ids = Vec::with_capacity(connections);
    let report = |what: &str, done: u64, from: Instant| {
        let took = from.elapsed().as_nanos() as f64;
        println!("{what}: {:.1} ns, {done} operations", took / done as f64);
    };
    let before = resident_bytes();
    connect(&table, &mut worker, &pairs, &mut ids, &mut rng);
    println!(
        "resident: {:.1} B a connection",
        (resident_bytes() - before) as f64 / connections as f64
    );
    match workload {
        "hit" | "miss" | "hit1" => {
            for _ in 0..3 {
                let from = Instant::now();
                let seen = match workload {
                    "hit1" => timed_single(&table, &mut worker, &keys),
                    _ => timed_batches(&table, &mut worker, &keys),
                };
                let wanted = if workload == "miss" {
                    0
                } else {
                    operations as u64
                };
                assert_eq!(seen, wanted);
                report(workload, operations as u64, from);
            }
        }
        _ => {
            for turn in 0..(operations / connections).max(3) {
                let from = Instant::now();
                let removed = timed_remove(&table, &mut worker, &ids);
                assert_eq!(removed, ids.len() as u64);
                report("remove", removed, from);
                ids.clear();
                let pairs = if turn & 1 == 0 { &others } else { &pairs };
                let from = Instant::now();
                let done = timed_connect(&table, &mut worker, pairs, &mut ids, &mut rng);
                report("connect", done, from);
            }
        }
    }
}

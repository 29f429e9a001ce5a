//! What does a lookup cost, and what a connection's coming and going?
//!
//! One thread, nobody else: the price of the table itself, before any contention.
//!
//! Dimensions: the table; the connections in it (a few that fit the first caches, many that
//! do not). Reference: the `mutex` table, the plain chained hash under one lock.
//!
//! We would change the code if a table meant for the packet path cost more per lookup than
//! `mutex` does here, where its lock is never contended.

use std::hint::black_box;

use clashtrack_benches::{Filled, NOW, keys};
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::mutex::MutexTable;
use clashtrack_engine::tuple::Direction;
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};

/// Connections in the table: powers of two, so that an odd stride meets each once.
const CONNECTIONS: [u32; 2] = [1 << 10, 1 << 17];

/// Operations of one timed pass.
const OPERATIONS: u32 = 1 << 10;

/// Steps through the connections in an order that no prefetcher guesses (odd).
const STRIDE: u32 = 0x9E37_79B1;

fn lookup_hit<T: FlowTable<KeyV4>>(group: &mut BenchmarkGroup<'_, WallTime>) {
    for connections in CONNECTIONS {
        let mut filled: Filled<T> = Filled::new(connections);
        let wanted: Vec<_> = (0..connections)
            .map(|i| i.wrapping_mul(STRIDE) & (connections - 1))
            .map(|index| (keys(index).0, filled.ids[index as usize]))
            .collect();
        let mut passes = wanted.chunks_exact(OPERATIONS as usize).cycle();
        group.bench_function(BenchmarkId::new(T::NAME, connections), |bencher| {
            bencher.iter(|| {
                for (key, id) in passes.next().expect("a cycle has no end") {
                    let hit = filled
                        .table
                        .lookup(&mut filled.worker, black_box(key), NOW)
                        .expect("the connection is in the table");
                    assert_eq!((hit.id, hit.direction), (*id, Direction::Original));
                    filled.table.release(&mut filled.worker, hit.id);
                }
            });
        });
    }
}

fn connect_and_remove<T: FlowTable<KeyV4>>(group: &mut BenchmarkGroup<'_, WallTime>) {
    for connections in CONNECTIONS {
        let mut filled: Filled<T> = Filled::new(connections);
        let mut next = connections;
        group.bench_function(BenchmarkId::new(T::NAME, connections), |bencher| {
            bencher.iter(|| {
                for _ in 0..OPERATIONS {
                    let id = filled.connect(black_box(next));
                    filled.disconnect(id);
                    // Addresses 10.0.0.0/8, none of those that stay.
                    next = if next == (1 << 24) - 1 {
                        connections
                    } else {
                        next + 1
                    };
                }
            });
        });
    }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("what_does_a_lookup_hit_cost");
    group.throughput(Throughput::Elements(u64::from(OPERATIONS)));
    lookup_hit::<MutexTable<KeyV4>>(&mut group);
    group.finish();

    let mut group =
        criterion.benchmark_group("what_does_a_connection_cost_from_confirm_to_removal");
    group.throughput(Throughput::Elements(u64::from(OPERATIONS)));
    connect_and_remove::<MutexTable<KeyV4>>(&mut group);
    group.finish();
}

criterion_group! {
    name = group;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = benches
}
criterion_main!(group);

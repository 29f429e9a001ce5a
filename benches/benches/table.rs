//! What does a lookup cost, and what a connection's coming and going?
//!
//! One thread, nobody else: the price of the table itself, before any contention.
//!
//! Dimensions: the table (all that `clashtrack list` names); the connections in it (a few that
//! fit the first caches, many that do not). Reference: the `mutex` table, the plain chained
//! hash under one lock.
//!
//! We would change the code if a table meant for the packet path cost more per lookup than
//! `mutex` does here, where its lock is never contended.
//!
//! After these the single operations of the lock-free table: [`clashtrack_benches::table`].

use std::hint::black_box;
use std::marker::PhantomData;

use clashtrack::peer::{self, TABLES, TableVisitor};
use clashtrack_benches::operation::{bench_room, settings};
use clashtrack_benches::table::OPERATIONS as LOCKFREE;
use clashtrack_benches::{Filled, NOW, keys};
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;
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

/// One question, asked of one table.
trait Question {
    fn ask<T: FlowTable<KeyV4>>(group: &mut BenchmarkGroup<'_, WallTime>);
}

/// Asks each table in turn.
fn ask_all<Q: Question>(group: &mut BenchmarkGroup<'_, WallTime>) {
    struct Asking<'a, 'b, Q>(&'a mut BenchmarkGroup<'b, WallTime>, PhantomData<Q>);
    impl<Q: Question> TableVisitor for Asking<'_, '_, Q> {
        type Output = ();
        fn visit<T: FlowTable<KeyV4> + 'static>(self)
        where
            T::Worker: 'static,
        {
            Q::ask::<T>(self.0);
        }
    }
    group.throughput(Throughput::Elements(u64::from(OPERATIONS)));
    for table in TABLES {
        peer::visit(table.name, Asking::<Q>(group, PhantomData)).expect("a listed table exists");
    }
}

/// The original key of a connection that is in the table.
struct LookupHit;

impl Question for LookupHit {
    fn ask<T: FlowTable<KeyV4>>(group: &mut BenchmarkGroup<'_, WallTime>) {
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
}

/// A new connection confirmed, removed and given back.
struct ConnectAndRemove;

impl Question for ConnectAndRemove {
    fn ask<T: FlowTable<KeyV4>>(group: &mut BenchmarkGroup<'_, WallTime>) {
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
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("what_does_a_lookup_hit_cost");
    ask_all::<LookupHit>(&mut group);
    group.finish();

    let mut group =
        criterion.benchmark_group("what_does_a_connection_cost_from_confirm_to_removal");
    ask_all::<ConnectAndRemove>(&mut group);
    group.finish();

    bench_room(criterion, LOCKFREE);
}

criterion_group! {
    name = room;
    config = settings();
    targets = benches
}
criterion_main!(room);

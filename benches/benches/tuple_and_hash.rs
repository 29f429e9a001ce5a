//! What is paid before the table is asked: parsing, keys, hashes, checksums? The operations, their dimensions and which answer would
//! make us change the code: [`clashtrack_benches::tuple_and_hash`].

use clashtrack_benches::operation::{bench_room, settings};
use clashtrack_benches::tuple_and_hash::OPERATIONS;
use criterion::{Criterion, criterion_group, criterion_main};

fn benches(criterion: &mut Criterion) {
    bench_room(criterion, OPERATIONS);
}

criterion_group! {
    name = room;
    config = settings();
    targets = benches
}
criterion_main!(room);

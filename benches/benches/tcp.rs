//! What does the tracker of TCP cost a segment? The operations, their dimensions and which answer would
//! make us change the code: [`clashtrack_benches::tcp`].

use clashtrack_benches::operation::{bench_room, settings};
use clashtrack_benches::tcp::OPERATIONS;
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

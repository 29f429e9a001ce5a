//! What do whole packets cost, new and established, with and without NAT? The operations, their dimensions and which answer would
//! make us change the code: [`clashtrack_benches::packet_path`].

use clashtrack_benches::operation::{bench_room, settings};
use clashtrack_benches::packet_path::OPERATIONS;
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

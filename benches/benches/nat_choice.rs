//! What does the first packet of a flow pay for its NAT tuple? The operations, their dimensions and which answer would
//! make us change the code: [`clashtrack_benches::nat_choice`].

use clashtrack_benches::nat_choice::OPERATIONS;
use clashtrack_benches::operation::{bench_room, settings};
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

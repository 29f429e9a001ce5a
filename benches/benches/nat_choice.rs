//! What does the first packet of a flow pay for its NAT tuple? The operations, their dimensions and which answer would
//! make us change the code: [`clashtrack_benches::nat_choice`].

use clashtrack_benches::nat_choice::OPERATIONS;
use clashtrack_benches::operation::{bench_room, settings};
use criterion::{criterion_group, criterion_main};

criterion_group! {
    name = room;
    config = settings();
    targets = |criterion| bench_room(criterion, OPERATIONS)
}
criterion_main!(room);

//! What does the tracker of TCP cost a segment? The operations, their dimensions and which answer would
//! make us change the code: [`clashtrack_benches::tcp`].

use clashtrack_benches::operation::{bench_room, settings};
use clashtrack_benches::tcp::OPERATIONS;
use criterion::{criterion_group, criterion_main};

criterion_group! {
    name = room;
    config = settings();
    targets = |criterion| bench_room(criterion, OPERATIONS)
}
criterion_main!(room);

//! What does a race cost that both workers lose time to? Real threads, each pinned to a core and started
//! together, offer the same new flows to one table: the workloads `clash`, `clash-nat` and `clash-tcp` of the command.
//!
//! Dimensions: what becomes of the loser (merged, inserted by its reply key alone, dropped); the table. Workers: one a core,
//! two at least. Time is that of the offers alone, from the first worker's start to the last one's end, all workers' offers
//! counted. We would change the code if the lock-free table were slower here than the kernel's locks.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clashtrack::calibrate::Hints;
use clashtrack::peer::striped::StripedTable;
use clashtrack::workload::clash::{CLASH, ClashWorkload};
use clashtrack::workload::clash_nat::CLASH_NAT;
use clashtrack::workload::clash_tcp::CLASH_TCP;
use clashtrack::workload::measure::Contender;
use clashtrack::workload::race::{RaceConfig, TableRace};
use clashtrack::workload::worker::Cores;
use clashtrack_benches::operation::settings;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::lockfree::{Isa, LockfreeTable};
use clashtrack_engine::table::mutex::MutexTable;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};

/// Flows of a round; each worker offers all of them.
const FLOWS: usize = 1 << 13;

fn race<T: FlowTable<KeyV4> + 'static>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    workload: ClashWorkload,
) {
    let cores = Cores::available();
    let never = AtomicBool::new(false);
    let config = RaceConfig {
        workload,
        workers: cores.count().max(2),
        batch: 32,
        flows: FLOWS,
        seed: 1,
        prefetch: Hints::default(),
        isa: Isa::Auto,
    };
    let mut race = TableRace::<T>::new(config);
    group.throughput(Throughput::Elements((FLOWS * config.workers) as u64));
    group.bench_function(T::NAME, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut elapsed = Duration::ZERO;
            for _ in 0..rounds {
                let round = black_box(race.round(&cores, &never));
                assert_eq!(round.tally.lost(), 0, "{:?}", round.tally);
                assert!(!round.anomalies.any(), "{:?}", round.anomalies);
                let seen = round.tally.offered + round.tally.found_at_lookup;
                assert_eq!(seen, (FLOWS * config.workers) as u64, "{:?}", round.tally);
                elapsed += round.elapsed;
            }
            elapsed
        });
    });
}

fn benches(criterion: &mut Criterion) {
    for (question, workload) in [
        ("what_does_a_clash_cost_that_is_merged", CLASH),
        ("what_does_a_clash_cost_with_source_nat", CLASH_NAT),
        ("what_does_a_clash_cost_that_drops_the_loser", CLASH_TCP),
    ] {
        let mut group = criterion.benchmark_group(question);
        race::<LockfreeTable<KeyV4>>(&mut group, workload);
        race::<StripedTable<KeyV4>>(&mut group, workload);
        race::<MutexTable<KeyV4>>(&mut group, workload);
        group.finish();
    }
}

criterion_group! {
    name = room;
    config = settings();
    targets = benches
}
criterion_main!(room);

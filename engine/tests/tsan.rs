//! The lock-free table under ThreadSanitizer: `bash .ci/tsan`. As an ordinary test it is a
//! short race.
//!
//! Entries' own fields are atomics, in which the sanitizer sees no race. So each entry has
//! a plain cell beside it here: written by whoever allocated the entry, read by whoever found
//! it. The table alone orders the two, and the reuse of an entry after its last reader.
//!
//! A binary of its own, because std is not instrumented and its locks, channels, barriers and
//! test harness would give false reports: threads meet by own atomics, spawn and join only.
//! `RACE=planted` writes the cell after the entry was confirmed: that must be reported.

mod common;

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::lockfree::{
    Geometry, Layout, LockfreeTable, LockfreeWorker, Narrow, Wide,
};
use clashtrack_engine::table::slab::EntryId;
use clashtrack_engine::table::{ClashStep, Confirmed, FlowTable, Hit};
use common::{NOW, Random, connect, key};

/// A plain cell for each entry.
struct Bodies(Vec<UnsafeCell<[u64; 2]>>);

// SAFETY: a cell is written by the owner of an entry that nobody else can find yet, and read
// by those who found it: that the table keeps the two apart is what this test is about.
unsafe impl Sync for Bodies {}

impl Bodies {
    fn write(&self, id: EntryId, original: KeyV4) {
        let cell = self.0[id.index() as usize].get();
        // SAFETY: see `Sync`; the race that `RACE=planted` makes is what the sanitizer is to find.
        unsafe { *cell = body_of(original) };
    }

    fn read(&self, id: EntryId) -> [u64; 2] {
        let cell = self.0[id.index() as usize].get();
        // SAFETY: see `Sync`.
        unsafe { *cell }
    }
}

/// What the cell of a connection with this original key holds.
fn body_of(original: KeyV4) -> [u64; 2] {
    let words = original.words();
    let words = words.as_ref();
    [words[0], words[1]]
}

struct Shared<G: Geometry> {
    table: LockfreeTable<KeyV4, G>,
    bodies: Bodies,
    /// Threads that are there: they start together.
    ready: AtomicU64,
    threads: u64,
    planted: bool,
}

#[derive(Debug, Default)]
struct Tally {
    inserted: u64,
    removed: u64,
    hits: u64,
}

impl<G: Geometry> Shared<G> {
    fn check(&self, hit: Hit, wanted: &KeyV4) {
        let entry = self.table.slab().entry(hit.id);
        assert_eq!(entry.key(hit.direction), *wanted);
        let original = entry.key(clashtrack_engine::tuple::Direction::Original);
        assert_eq!(self.bodies.read(hit.id), body_of(original));
    }

    fn insert(&self, worker: &mut LockfreeWorker, random: &mut Random, tally: &mut Tally) {
        let (a, b) = (self.key(random), self.key(random));
        let reply = match random.below(2) {
            0 => a.inverse().expect("UDP has answers"),
            _ => b,
        };
        let step =
            [ClashStep::Merge, ClashStep::ReplyOnly, ClashStep::Drop][random.below(3) as usize];
        self.table.begin(worker);
        let done = connect(&self.table, worker, (a, reply), step, |id| {
            self.bodies.write(id, a);
        });
        match done {
            Some((id, Confirmed::Inserted | Confirmed::ReplyOnly(_))) => {
                tally.inserted += 1;
                if self.planted {
                    self.bodies.write(id, a);
                }
                self.table.release(worker, id);
            }
            Some((_, Confirmed::Merged(clash))) => {
                let winner = self.table.slab().entry(clash.winner);
                let original = winner.key(clashtrack_engine::tuple::Direction::Original);
                assert_eq!(self.bodies.read(clash.winner), body_of(original));
                self.table.release(worker, clash.winner);
            }
            Some((_, Confirmed::Refused(_))) | None => {}
        }
        self.table.end(worker);
    }

    fn key(&self, random: &mut Random) -> KeyV4 {
        key(random.below(4) as u16, random.below(4) as u16)
    }

    /// One thread's mix of calls.
    fn mix(&self, mut worker: LockfreeWorker, seed: u64, steps: u64) -> (Tally, LockfreeWorker) {
        let (mut random, mut tally) = (Random(seed), Tally::default());
        // Relaxed, both: only to start at about the same time.
        self.ready.fetch_add(1, Ordering::Relaxed);
        // Relaxed: as above.
        while self.ready.load(Ordering::Relaxed) < self.threads {
            std::thread::yield_now();
        }
        for _ in 0..steps {
            match random.below(10) {
                0..4 => self.insert(&mut worker, &mut random, &mut tally),
                4..6 => {
                    let wanted = self.key(&mut random);
                    self.table.begin(&mut worker);
                    if let Some(hit) = self.table.lookup(&mut worker, &wanted, NOW) {
                        self.check(hit, &wanted);
                        if self.table.remove(&mut worker, hit.id) {
                            tally.removed += 1;
                            self.table.release(&mut worker, hit.id);
                        }
                        self.table.release(&mut worker, hit.id);
                    }
                    self.table.end(&mut worker);
                }
                6..8 => {
                    let wanted = self.key(&mut random);
                    if let Some(hit) = self.table.lookup(&mut worker, &wanted, NOW) {
                        tally.hits += 1;
                        self.check(hit, &wanted);
                        self.table.release(&mut worker, hit.id);
                    }
                }
                _ => {
                    let wanted: [KeyV4; 4] = std::array::from_fn(|_| self.key(&mut random));
                    let mut hits = [None; 4];
                    self.table
                        .lookup_batch(&mut worker, &wanted, NOW, &mut hits);
                    for (hit, wanted) in hits.iter().zip(&wanted) {
                        if let Some(hit) = hit {
                            tally.hits += 1;
                            self.check(*hit, wanted);
                            self.table.release(&mut worker, hit.id);
                        }
                    }
                }
            }
        }
        (tally, worker)
    }
}

fn race<G: Geometry>(threads: u64, heads: usize, steps: u64, planted: bool) -> Tally {
    let layout = Layout {
        entries_max: 64,
        slack: 64,
        heads,
        overflow: 16,
    };
    // Leaked: the last drop of a shared pointer is ordered by a fence, which the sanitizer does not see.
    let shared: &'static Shared<G> = Box::leak(Box::new(Shared {
        table: LockfreeTable::with_layout(layout, HashKey(1, 2), false),
        bodies: Bodies((0..128).map(|_| UnsafeCell::default()).collect()),
        ready: AtomicU64::new(0),
        threads,
        planted,
    }));
    let workers: Vec<LockfreeWorker> = (0..threads).map(|_| shared.table.worker()).collect();
    let threads: Vec<_> = workers
        .into_iter()
        .zip(1..)
        .map(|(worker, seed)| std::thread::spawn(move || shared.mix(worker, seed, steps)))
        .collect();
    let mut sum = Tally::default();
    // All have ended before the first worker goes: it leaves what it has behind a lock of std's, and one that finds
    // that lock taken waits in code that is not instrumented.
    let done: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().expect("a thread ends well"))
        .collect();
    for (tally, worker) in done {
        drop(worker);
        sum.inserted += tally.inserted;
        sum.removed += tally.removed;
        sum.hits += tally.hits;
    }
    let live = shared.table.slab().confirmed().count() as u64;
    assert_eq!(sum.inserted, sum.removed + live, "{sum:?}");
    assert!(sum.inserted > 0 && sum.hits > 0, "{sum:?}");
    sum
}

fn main() {
    let planted = std::env::var("RACE").is_ok_and(|race| race == "planted");
    let steps = std::env::var("STEPS")
        .ok()
        .and_then(|steps| steps.parse().ok())
        .unwrap_or(5_000);
    let mut sum = Vec::new();
    for threads in 2..=4 {
        sum.push(race::<Wide>(threads, 4, steps, planted));
        sum.push(race::<Narrow<1, 1, 3>>(threads, 2, steps, planted));
        sum.push(race::<Narrow<2, 2, 2>>(threads, 1, steps, planted));
    }
    let inserted: u64 = sum.iter().map(|tally| tally.inserted).sum();
    let hits: u64 = sum.iter().map(|tally| tally.hits).sum();
    eprintln!("{inserted} inserts and {hits} hits by 2, 3 and 4 threads");
}

//! `expire`: connections whose time has come are removed while new ones are made.
//!
//! # Model
//! The table is filled with connections that all expire within a sample's time, evenly spread. A thread that is
//! no worker walks over the entries, a bounded stretch at a time ([`PASS_PLACES`], [`PASS_EXPIRED`]), and removes
//! what has expired. A *pass* is one such stretch: only within one does it keep anything from being reused. It makes
//! a few passes each time it wakes ([`PASSES_A_WAKE`]), then sleeps. Time is cut into slots: in every second one it works, in the others it
//! rests, so that both halves of the comparison see the same machine. Meanwhile each worker makes new
//! connections in batches that are due at fixed moments, at half the rate that it reached when nothing else
//! happened, and takes them out again once their time is noted. How long an insert took is counted from the moment at which its batch
//! was due (coordinated omission), so a worker that was held up pays for everything that had to wait.
//!
//! Workers have cores of their own by default and the expiry thread another one; with more workers than that they
//! share, and the figures hold the scheduler too.
//!
//! # Two clocks
//! A pass is timed by the thread's processor clock and by the wall clock. The first one stands while another thread of this
//! machine has the core, and is what a pass itself costs; but neither it nor any other clock in here stands while
//! a hypervisor gives the core to somebody else. So the longest pass of a whole run is now and then a hypervisor's: the
//! percentile beside it (99.9 % of the passes) is not. To tell them apart the thread makes *idle passes* while expiry rests: they take
//! as long as a pass does on average and touch no memory. Where the longest of them is as long as the longest pass, it is the machine that takes
//! so long. (They are fewer than the passes, and meet less.)
//!
//! # What it does not measure
//! Expiry of connections that live on because of their traffic; timeouts that differ between protocols. There is no limit beside
//! it: workers wait for their next batch to be due most of the time.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::slab::EntryId;
use clashtrack_engine::time::Nanos;

use super::anomaly;
use super::case::{Case, Kind, Workload};
use super::hand::{Hand, LONG, NOW};
use super::measure::{Contender, Round};
use super::traffic::Traffic;
use super::worker::{Cores, Crew, run_crew_in_roles};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "expire",
    question: "All connections expire while new ones come: what share of a core does removing them take, and do the new ones notice?",
    kind: Kind::Expire,
};

/// Entries that one pass of the expiry thread looks at, at most.
pub const PASS_PLACES: usize = 512;
/// Connections that one pass removes, at most.
pub const PASS_EXPIRED: usize = 32;
/// Passes that are due when the expiry thread wakes. To wake costs about as much as a pass.
pub const PASSES_A_WAKE: usize = 8;

/// Slots of a sample; the expiry thread works in every second one.
const SLOTS: u32 = 16;
/// A walk over the table is spread over this part of its slot.
const WALK_SHARE: f64 = 0.95;
/// Histogram bounds: 1 ns to 100 s, three digits.
const LONGEST: u64 = 100_000_000_000;

/// What a sample of `expire` saw, or all of them together.
#[derive(Clone, Debug)]
pub struct Expiry {
    /// Inserts, from the moment at which they were due, in nanoseconds: while expiry worked.
    pub with: Histogram<u64>,
    /// The same while it rested.
    pub without: Histogram<u64>,
    /// Processor time of the expiry thread while it worked.
    pub busy: Duration,
    /// Passes, in nanoseconds of the thread's processor time: what a pass holds up is bounded by its work.
    pub passes: Histogram<u64>,
    /// Passes that did nothing but take as long as the others do on average, by the same clock: what of the longest pass is the
    /// machine's.
    pub idle_passes: Histogram<u64>,
    /// The longest pass by the wall clock: others may have had the core meanwhile.
    pub longest_pass_wall: Duration,
    /// Wall time of the samples.
    pub elapsed: Duration,
    /// Connections that it removed.
    pub expired: u64,
    /// Connections that had not been removed when the time was over.
    pub left_over: u64,
    /// Inserts offered a second.
    pub offered_per_s: f64,
}

impl Expiry {
    fn nothing() -> Expiry {
        let histogram =
            || Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are in order");
        Expiry {
            with: histogram(),
            without: histogram(),
            busy: Duration::ZERO,
            passes: histogram(),
            idle_passes: histogram(),
            longest_pass_wall: Duration::ZERO,
            elapsed: Duration::ZERO,
            expired: 0,
            left_over: 0,
            offered_per_s: 0.0,
        }
    }

    /// Adds another sample.
    pub fn add(&mut self, other: &Expiry) {
        self.with += &other.with;
        self.without += &other.without;
        self.busy += other.busy;
        self.passes += &other.passes;
        self.idle_passes += &other.idle_passes;
        self.longest_pass_wall = self.longest_pass_wall.max(other.longest_pass_wall);
        self.elapsed += other.elapsed;
        self.expired += other.expired;
        self.left_over += other.left_over;
        self.offered_per_s = self.offered_per_s.max(other.offered_per_s);
    }

    /// Processor time of the expiry thread ÷ wall time.
    #[must_use]
    pub fn core_share(&self) -> f64 {
        self.busy.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// A [`Contender`] over a table of type `T`.
#[derive(Debug)]
pub struct ExpireContender<T: FlowTable<KeyV4>> {
    case: Case,
    table: T,
    traffic: Arc<Traffic>,
    crew: Vec<Member<T::Worker>>,
    checker: T::Worker,
    filler: Hand<T::Worker>,
    /// Time between two batches of a worker; known after the warm-up.
    interval: Option<Duration>,
}

/// What the threads are called: workers, and the expiry thread.
pub const ROLES: [&str; 2] = ["inserter", "expiry"];

/// Who works in a sample.
#[derive(Debug)]
enum Member<W> {
    Inserter(Box<Inserter<W>>),
    Reaper(Box<Hand<W>>),
}

impl<W> Member<W> {
    fn role(_: usize, member: &Member<W>) -> &'static str {
        match member {
            Member::Inserter(_) => ROLES[0],
            Member::Reaper(_) => ROLES[1],
        }
    }
}

/// A worker.
#[derive(Debug)]
struct Inserter<W> {
    hand: Hand<W>,
    /// The newest batch, to be taken out.
    newest: Vec<EntryId>,
    next: usize,
    seen: Expiry,
}

/// The moments of a sample.
#[derive(Clone, Copy, Debug)]
struct Clock {
    begun: Instant,
    whole: Duration,
}

impl Clock {
    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn slot(&self) -> Duration {
        self.whole / SLOTS
    }

    /// Does expiry work at this moment?
    fn is_at_work(&self, elapsed: Duration) -> bool {
        Clock::is_of_work(elapsed.as_nanos() / self.slot().as_nanos().max(1))
    }

    /// Does expiry work in this slot? The first one is one of rest, the last one of work.
    fn is_of_work(slot: u128) -> bool {
        slot % 2 == 1
    }
}

/// The table's time after so much of a sample.
fn table_time(elapsed: Duration) -> Nanos {
    NOW + elapsed.as_nanos() as Nanos
}

impl<T: FlowTable<KeyV4>> ExpireContender<T> {
    /// Makes the table and the crew.
    #[must_use]
    pub fn new(case: &Case, traffic: Arc<Traffic>) -> ExpireContender<T> {
        let table = T::new(&case.table());
        let hand = |number| {
            let worker = table.worker();
            Hand::new(worker, number, case.seed, case.protocol, case.batch)
        };
        let inserter = |number| {
            Member::Inserter(Box::new(Inserter {
                hand: hand(number),
                newest: Vec::with_capacity(case.batch),
                next: case.share(number, traffic.newcomers.len()).start,
                seen: Expiry::nothing(),
            }))
        };
        let mut crew: Vec<_> = (0..case.workers).map(inserter).collect();
        crew.push(Member::Reaper(Box::new(hand(usize::MAX - 1))));
        ExpireContender {
            crew,
            checker: table.worker(),
            filler: hand(usize::MAX),
            interval: None,
            case: *case,
            table,
            traffic,
        }
    }

    /// Fills the table with what expires in the first part of the sample: the last slot takes out what is left.
    fn fill(&mut self) {
        let spread = self.case.duration - self.case.duration / SLOTS * 2;
        let spread = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX).max(1);
        let mut rng = WorkerRng::new(self.case.seed, usize::MAX - 2);
        for batch in self.traffic.residents.chunks(self.case.batch) {
            let timeout = |_| rng.next_u64() % spread;
            self.filler
                .connect(&self.table, batch, NOW, timeout, |_, _| ());
        }
        self.filler.take_tally(&self.table);
    }

    /// Touches all memory, and finds the rate.
    fn warm_up(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        self.fill();
        self.half_capacity(cores, interrupted);
        self.interval = Some(self.half_capacity(cores, interrupted));
        for member in &mut self.crew {
            if let Member::Inserter(inserter) = member {
                inserter.hand.take_tally(&self.table);
            }
        }
        anomaly::remove_all(&self.table, &mut self.checker);
        Round::default()
    }

    /// How long a batch takes when nothing else happens; half the capacity is one batch in twice that time.
    fn half_capacity(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Duration {
        const BATCHES: u32 = 2000;
        let (table, case, traffic) = (&self.table, &self.case, &*self.traffic);
        let run = run_crew_in_roles(
            &mut self.crew,
            cores,
            interrupted,
            Member::role,
            |_, member, crew| {
                let Member::Inserter(inserter) = member else {
                    return;
                };
                for _ in 0..BATCHES {
                    if crew.should_stop() {
                        break;
                    }
                    inserter.insert(table, &traffic.newcomers, case.batch, NOW);
                    inserter.take_out_newest(table);
                }
            },
        );
        (2 * run.elapsed / BATCHES).max(Duration::from_nanos(1))
    }
}

impl<T: FlowTable<KeyV4>> Contender for ExpireContender<T> {
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let Some(interval) = self.interval else {
            return self.warm_up(cores, interrupted);
        };
        self.fill();
        let (table, case, traffic) = (&self.table, &self.case, &*self.traffic);
        let run = run_crew_in_roles(
            &mut self.crew,
            cores,
            interrupted,
            Member::role,
            |_, member, crew| {
                let clock = Clock {
                    begun: Instant::now(),
                    whole: case.duration,
                };
                match member {
                    Member::Inserter(inserter) => {
                        inserter.work(table, &traffic.newcomers, case.batch, interval, clock, crew);
                        None
                    }
                    Member::Reaper(hand) => Some(reap(table, hand, clock, crew)),
                }
            },
        );
        let mut round = Round {
            elapsed: run.elapsed,
            pinned: run.pinned,
            ..Round::default()
        };
        let mut expiry = run
            .results
            .into_iter()
            .flatten()
            .next()
            .unwrap_or_else(Expiry::nothing);
        for member in &mut self.crew {
            match member {
                Member::Inserter(inserter) => {
                    round.tally.add(&inserter.hand.take_tally(table));
                    expiry.with += &inserter.seen.with;
                    expiry.without += &inserter.seen.without;
                    inserter.seen = Expiry::nothing();
                }
                Member::Reaper(hand) => {
                    hand.take_tally(table);
                }
            }
        }
        expiry.elapsed = run.elapsed;
        expiry.offered_per_s = (case.batch * case.workers) as f64 / interval.as_secs_f64();
        expiry.left_over = table.slab().confirmed().count() as u64;
        round.operations = round.tally.offered;
        round.expiry = Some(expiry);
        anomaly::remove_all(table, &mut self.checker);
        round
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        self.crew
            .iter()
            .filter_map(|member| match member {
                Member::Inserter(inserter) => Some(inserter.hand.stats()),
                Member::Reaper(_) => None,
            })
            .collect()
    }

    fn reset(&mut self) {
        for member in &mut self.crew {
            match member {
                Member::Inserter(inserter) => inserter.hand.reset(),
                Member::Reaper(hand) => hand.reset(),
            }
        }
    }
}

impl<W> Inserter<W> {
    /// Makes a batch of new connections; they go out by the next call of `take_out_newest`.
    fn insert<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        newcomers: &[super::flows::Pair],
        batch: usize,
        now: Nanos,
    ) {
        let end = (self.next + batch).min(newcomers.len());
        let pairs = &newcomers[self.next..end];
        self.next = if end == newcomers.len() { 0 } else { end };
        let made = &mut self.newest;
        self.hand
            .connect(table, pairs, now, |_| LONG, |_, id| made.push(id));
    }

    fn take_out_newest<T: FlowTable<KeyV4, Worker = W>>(&mut self, table: &T) {
        self.hand.expire(table, &self.newest);
        self.newest.clear();
    }

    fn work<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        newcomers: &[super::flows::Pair],
        batch: usize,
        interval: Duration,
        clock: Clock,
        crew: &Crew<'_>,
    ) {
        let mut due = Duration::ZERO;
        while due < clock.whole && !crew.should_stop() {
            while clock.elapsed() < due {
                std::hint::spin_loop();
            }
            self.insert(table, newcomers, batch, table_time(due));
            let late = u64::try_from((clock.elapsed() - due).as_nanos()).unwrap_or(LONGEST);
            let histogram = if clock.is_at_work(due) {
                &mut self.seen.with
            } else {
                &mut self.seen.without
            };
            // The last batch of the traffic may be shorter.
            histogram.saturating_record_n(late, self.newest.len() as u64);
            self.take_out_newest(table);
            due += interval;
        }
    }
}

/// The expiry thread: in each slot of work one walk over the table, in passes that are spread over it. In the slots
/// between, after the first, it goes through the same motions with passes that touch no memory.
fn reap<T: FlowTable<KeyV4>>(
    table: &T,
    hand: &mut Hand<T::Worker>,
    clock: Clock,
    crew: &Crew<'_>,
) -> Expiry {
    let mut seen = Expiry::nothing();
    let capacity = table.slab().capacity();
    let mut expired = Vec::with_capacity(PASS_EXPIRED);
    let turns_per_ns = turns_per_ns();
    for slot in 1..SLOTS {
        let begun = thread_time();
        if !Clock::is_of_work(slot.into()) {
            let turns = (seen.passes.mean() * turns_per_ns) as u64;
            walk(capacity, slot, clock, crew, |from, _| {
                let (took, ()) = timed(|| idle(turns));
                seen.idle_passes.saturating_record(took);
                from + PASS_PLACES
            });
            continue;
        }
        walk(capacity, slot, clock, crew, |from, now| {
            let wall = Instant::now();
            let (took, next) = timed(|| {
                let next = pass(table, from, table_time(now), &mut expired);
                seen.expired += hand.expire(table, &expired);
                expired.clear();
                next
            });
            seen.passes.saturating_record(took);
            seen.longest_pass_wall = seen.longest_pass_wall.max(wall.elapsed());
            next
        });
        seen.busy += thread_time() - begun;
    }
    seen
}

/// A walk over `capacity` places, spread over its slot. `pass` does a stretch of it and says where the next one begins. A walk that is
/// not done when its slot is over ends there.
fn walk(
    capacity: usize,
    slot: u32,
    clock: Clock,
    crew: &Crew<'_>,
    mut pass: impl FnMut(usize, Duration) -> usize,
) {
    let whole = clock.slot().mul_f64(WALK_SHARE);
    let from = clock.slot() * slot;
    let due = |place: usize| from + whole.mul_f64(place as f64 / capacity as f64);
    let mut next = 0;
    // Asleep until so many places are due.
    let mut awaited = 0;
    while next < capacity && !crew.should_stop() {
        let now = clock.elapsed();
        if now >= from + clock.slot() {
            break;
        }
        if now < due(next.max(awaited)) {
            awaited = (next + PASSES_A_WAKE * PASS_PLACES).min(capacity);
            thread::park_timeout(due(awaited).saturating_sub(now));
            continue;
        }
        next = pass(next, now);
    }
}

/// How many nanoseconds of processor time `work` took, and what came of it.
fn timed<R>(work: impl FnOnce() -> R) -> (u64, R) {
    let before = thread_time();
    let result = work();
    let took = (thread_time() - before).as_nanos();
    (u64::try_from(took).unwrap_or(LONGEST), result)
}

/// Keeps the processor at it without touching memory: each turn waits for the one before.
fn idle(turns: u64) {
    let mut state = 1u64;
    for turn in 0..turns {
        state = black_box(state.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ turn);
    }
}

/// Turns of [`idle`] in a nanosecond.
fn turns_per_ns() -> f64 {
    const TURNS: u64 = 1 << 18;
    let (took, ()) = timed(|| idle(TURNS));
    TURNS as f64 / took.max(1) as f64
}

/// Finds the expired of one stretch; returns where the next one begins.
fn pass<T: FlowTable<KeyV4>>(
    table: &T,
    from: usize,
    now: Nanos,
    expired: &mut Vec<EntryId>,
) -> usize {
    for (id, entry) in table.slab().confirmed_in(from..from + PASS_PLACES) {
        if entry.is_expired(now) {
            expired.push(id);
            if expired.len() == PASS_EXPIRED {
                return id.index() as usize + 1;
            }
        }
    }
    from + PASS_PLACES
}

/// Processor time of the calling thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

//! `stall`: a worker is suspended inside confirm. Do the others go on?
//!
//! # Model
//! One worker confirms a connection whose original key is taken. The table asks its policy what is to become of it, at
//! the moment when both entries are known to be what they are: with the stripe's lock held where there are stripes,
//! pinned where there are epochs. The policy suspends the worker there for [`SUSPENSION`](super::case::SUSPENSION), as
//! a hypervisor or a scheduler might, and then lets it go on. Meanwhile the others look known connections up,
//! make new ones and take them out, all over the table; one of them begins with the very connection that is in the
//! suspended one's way: it takes it out and makes it again, so that wherever a lock is held, somebody comes to it.
//! Each finished operation is counted, and the longest time without one noted. A table is *hung* if somebody who tried
//! got nothing done for half of the time or more: on a busy machine a worker may lose its core for a while, but not for that long.
//!
//! What lookups and removals keep of their rate is each one's own: so many a second of the time spent in them, meanwhile and
//! before. New connections need entries, and are refused when those that wait for the suspended worker are used up; then
//! there is nothing left to remove, which is no slower removal.
//!
//! # What it does not measure
//! Suspension at other places of confirm (the table's own tests do that); how likely any of it is. There is no limit beside it: what is
//! looked at is whether others go on at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::slab::{Entry, EntryId};
use clashtrack_engine::table::{Clash, ClashPolicy, ClashStep, FlowTable, Hit};

use super::anomaly;
use super::case::{Case, Kind, Workload};
use super::flows::Pair;
use super::hand::{Hand, LONG, NOW};
use super::measure::{Contender, Round};
use super::traffic::Traffic;
use super::worker::{Cores, Crew, run_crew_in_roles};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "stall",
    question: "A worker is suspended inside confirm for two seconds: do the others go on?",
    kind: Kind::Stall,
};

/// A pause of this share of the suspension is a hang.
const HUNG_SHARE: f64 = 0.5;
/// Time before the suspension, as a share of it, in which the rate is taken for comparison.
const BEFORE_SHARE: u32 = 4;

/// What a suspension did to the others.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Stall {
    /// How long the worker was suspended.
    pub suspended: Duration,
    /// Operations that the others finished meanwhile.
    pub others_ops: u64,
    /// The longest time in which one of them, trying, finished none.
    pub longest_pause: Duration,
    /// That was half of the time or more.
    pub hung: bool,
    /// New connections that were refused, because entries waited to be recycled.
    pub recycle_stalled: u64,
    /// Lookups a second of the time that one of the others spent in them, meanwhile.
    pub lookups_per_s: f64,
    /// That ÷ the same before.
    pub lookups_kept: f64,
    /// Removals a second of the time that one of the others spent in them, meanwhile.
    pub removals_per_s: f64,
    /// That ÷ the same before.
    pub removals_kept: f64,
}

/// What goes on, for all to see.
#[derive(Debug, Default)]
struct Stage(AtomicU32);

const WAITING: u32 = 0;
const SUSPENDED: u32 = 1;
const OVER: u32 = 2;

impl Stage {
    fn set(&self, stage: u32) {
        // Relaxed: a sign that stands for itself; what workers share is the table's to order.
        self.0.store(stage, Ordering::Relaxed);
    }

    fn is(&self, stage: u32) -> bool {
        // Relaxed: as above.
        self.0.load(Ordering::Relaxed) == stage
    }
}

/// Suspends whoever asks it.
struct Suspend<'a> {
    stage: &'a Stage,
    time: Duration,
    suspended: Duration,
    interrupted: &'a AtomicBool,
}

impl ClashPolicy<KeyV4> for Suspend<'_> {
    fn decide(&mut self, _: &Clash, _: &Entry<KeyV4>, _: &Entry<KeyV4>) -> ClashStep {
        // A table that asks again is not suspended again.
        if self.suspended.is_zero() {
            let begun = Instant::now();
            self.stage.set(SUSPENDED);
            // In short sleeps, so that Ctrl-C is noticed. Relaxed: a flag that stands for itself.
            while begun.elapsed() < self.time && !self.interrupted.load(Ordering::Relaxed) {
                let left = self.time.saturating_sub(begun.elapsed());
                thread::park_timeout(left.min(Duration::from_millis(50)));
            }
            self.suspended = begun.elapsed();
        }
        ClashStep::Drop
    }
}

/// A [`Contender`] over a table of type `T`.
#[derive(Debug)]
pub struct StallContender<T: FlowTable<KeyV4>> {
    case: Case,
    table: T,
    traffic: Arc<Traffic>,
    crew: Vec<CachePadded<Member<T::Worker>>>,
    checker: T::Worker,
    /// The first round warms up: nobody is suspended.
    warm: bool,
}

/// What the threads are called: the one to be suspended, and the others.
pub const ROLES: [&str; 2] = ["suspended", "other"];

/// A worker; the first one is the one to be suspended.
#[derive(Debug)]
struct Member<W> {
    hand: Hand<W>,
    found: Vec<Option<Hit>>,
    made: Vec<EntryId>,
}

/// What one of the others did.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    operations: u64,
    lookups: Pace,
    removals: Pace,
    refused: u64,
    longest_pause: Duration,
    /// Of the operation under way when the stage ended: it belongs to the next one too.
    last_pause: Duration,
}

/// Operations of one kind, and the time spent in them.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    done: u64,
    time: Duration,
}

impl Pace {
    /// Times `work`, which says how many it did.
    fn note(&mut self, work: impl FnOnce() -> u64) -> u64 {
        let begun = Instant::now();
        let done = work();
        self.time += begun.elapsed();
        self.done += done;
        done
    }

    fn add(&mut self, other: Pace) {
        self.done += other.done;
        self.time += other.time;
    }

    fn per_s(&self) -> f64 {
        self.done as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

impl<T: FlowTable<KeyV4>> StallContender<T> {
    /// Makes the table and fills it.
    #[must_use]
    pub fn new(case: &Case, traffic: Arc<Traffic>) -> StallContender<T> {
        let table = T::new(&case.table());
        let hand = |number| {
            let worker = table.worker();
            Hand::new(worker, number, case.seed, case.protocol, case.batch)
        };
        let mut filler = hand(usize::MAX);
        for batch in traffic.residents.chunks(case.batch) {
            filler.connect(&table, batch, NOW, |_| LONG, |_, _| ());
        }
        table.leave(&mut filler.worker);
        let member = |number| {
            CachePadded::new(Member {
                hand: hand(number),
                found: vec![None; NEW],
                made: Vec::with_capacity(NEW),
            })
        };
        StallContender {
            crew: (0..case.workers).map(member).collect(),
            checker: table.worker(),
            warm: false,
            case: *case,
            table,
            traffic,
        }
    }
}

impl<T: FlowTable<KeyV4>> Contender for StallContender<T> {
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let time = if self.warm {
            self.case.duration
        } else {
            self.warm = true;
            Duration::ZERO
        };
        let (table, case, traffic) = (&self.table, &self.case, &*self.traffic);
        let stage = Stage::default();
        let run = run_crew_in_roles(
            &mut self.crew,
            cores,
            interrupted,
            |number, _| ROLES[number.min(1)],
            |number, member, crew| {
                if number == 0 {
                    let end = EndOnExit(&stage);
                    let suspended = member.be_suspended(table, traffic, time, end.0, interrupted);
                    drop(end);
                    (suspended, [Work::default(); 2])
                } else {
                    let share = case.share(number, case.connections);
                    let work = [WAITING, SUSPENDED].map(|at| {
                        let is_first = number == 1 && at == SUSPENDED;
                        let in_the_way = is_first.then_some(&traffic.residents[0]);
                        member.work(
                            table,
                            traffic,
                            share.clone(),
                            case.batch,
                            (&stage, at, in_the_way),
                            crew,
                        )
                    });
                    (Duration::ZERO, work)
                }
            },
        );
        let mut stall = Stall::default();
        let (mut lookups, mut removals) = ([Pace::default(); 2], [Pace::default(); 2]);
        for (suspended, work) in &run.results {
            stall.suspended += *suspended;
            stall.others_ops += work[1].operations;
            stall.recycle_stalled += work[1].refused;
            let pauses = [work[0].last_pause, work[1].longest_pause];
            stall.longest_pause = pauses.into_iter().fold(stall.longest_pause, Duration::max);
            for (at, work) in work.iter().enumerate() {
                lookups[at].add(work.lookups);
                removals[at].add(work.removals);
            }
        }
        stall.hung = stall.longest_pause >= stall.suspended.mul_f64(HUNG_SHARE);
        let kept = |pace: [Pace; 2]| pace[1].per_s() / pace[0].per_s().max(1e-9);
        (stall.lookups_per_s, stall.lookups_kept) = (lookups[1].per_s(), kept(lookups));
        (stall.removals_per_s, stall.removals_kept) = (removals[1].per_s(), kept(removals));
        let mut round = Round {
            elapsed: run.elapsed,
            pinned: run.pinned,
            ..Round::default()
        };
        for (member, (_, work)) in self.crew.iter_mut().zip(&run.results) {
            round.tally.add(&member.hand.take_tally(table));
            round.operations += work[0].operations + work[1].operations;
        }
        if !time.is_zero() {
            round.stall = Some(stall);
            round.anomalies = anomaly::check_connections(table, &mut self.checker, NOW);
        }
        round
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        self.crew.iter().map(|member| member.hand.stats()).collect()
    }

    fn reset(&mut self) {
        self.crew.iter_mut().for_each(|member| member.hand.reset());
    }
}

/// Tells the others that it is over, even if the worker panics.
struct EndOnExit<'a>(&'a Stage);

impl Drop for EndOnExit<'_> {
    fn drop(&mut self) {
        self.0.set(OVER);
    }
}

impl<W> Member<W> {
    /// Confirms a connection whose original key is taken, and is suspended in the middle. Returns for how long.
    fn be_suspended<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        traffic: &Traffic,
        time: Duration,
        stage: &Stage,
        interrupted: &AtomicBool,
    ) -> Duration {
        let (taken, free) = (&traffic.residents[0], &traffic.newcomers[0]);
        let before = Instant::now();
        while before.elapsed() < time / BEFORE_SHARE {
            thread::park_timeout(time / BEFORE_SHARE);
        }
        let mut policy = Suspend {
            stage,
            time,
            suspended: Duration::ZERO,
            interrupted,
        };
        self.hand.connect_with(
            table,
            &Pair {
                original: taken.original,
                reply: free.reply,
            },
            &mut policy,
        );
        policy.suspended
    }

    /// Works all over the table while `stage` lasts, or until it comes; at first on the connection `in_the_way`.
    fn work<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        traffic: &Traffic,
        share: std::ops::Range<usize>,
        batch: usize,
        (stage, at, in_the_way): (&Stage, u32, Option<&Pair>),
        crew: &Crew<'_>,
    ) -> Work {
        // The first newcomer is the suspended worker's.
        let (first, last) = (share.start.max(1), share.end.max(2));
        let mut work = Work::default();
        let refused_before = self.hand.refused;
        let begun = Instant::now();
        let mut finished = begun;
        let mut next = first;
        if let Some(pair) = in_the_way {
            self.make_again(table, pair);
            // Who had to wait for the end did nothing meanwhile.
            work.operations += u64::from(stage.is(at));
            finished = Instant::now();
            work.longest_pause = finished - begun;
        }
        while stage.is(at) && !crew.should_stop() {
            let places = next..(next + batch).min(last);
            next = if places.end == last {
                first
            } else {
                places.end
            };
            let known = &traffic.residents[places.clone()];
            let looked_up = work.lookups.note(|| self.look_up(table, known));
            let newcomers = &traffic.newcomers[places.start..places.end.min(places.start + NEW)];
            let made = &mut self.made;
            self.hand
                .connect(table, newcomers, NOW, |_| LONG, |_, id| made.push(id));
            let made = self.made.len() as u64;
            let removed = work.removals.note(|| self.hand.expire(table, &self.made));
            self.made.clear();
            work.operations += looked_up + made + removed;
            let now = Instant::now();
            work.last_pause = now - finished;
            work.longest_pause = work.longest_pause.max(work.last_pause);
            finished = now;
        }
        work.refused = self.hand.refused - refused_before;
        work
    }

    /// Takes a connection out and makes it again.
    fn make_again<T: FlowTable<KeyV4, Worker = W>>(&mut self, table: &T, pair: &Pair) {
        if let Some(hit) = table.lookup(&mut self.hand.worker, &pair.original, NOW) {
            table.release(&mut self.hand.worker, hit.id);
            self.hand.expire(table, &[hit.id]);
        }
        let again = std::slice::from_ref(pair);
        self.hand.connect(table, again, NOW, |_| LONG, |_, _| ());
    }

    fn look_up<T: FlowTable<KeyV4, Worker = W>>(&mut self, table: &T, known: &[Pair]) -> u64 {
        let mut keys = [known[0].original; NEW];
        let mut done = 0;
        for pairs in known.chunks(NEW) {
            for (key, pair) in keys.iter_mut().zip(pairs) {
                *key = pair.reply;
            }
            let found = &mut self.found[..pairs.len()];
            table.begin(&mut self.hand.worker);
            table.lookup_batch(&mut self.hand.worker, &keys[..found.len()], NOW, found);
            for hit in found.iter_mut().filter_map(Option::take) {
                table.release(&mut self.hand.worker, hit.id);
                done += 1;
            }
            table.end(&mut self.hand.worker);
        }
        done
    }
}

/// New connections for each batch of lookups, and keys looked up together.
const NEW: usize = 4;

//! Workers: one thread pinned to each core, started together, stopped together.
//!
//! A crew is made anew for each round (some ten microseconds) and lives exactly as long
//! as it, so that a panic of one worker cannot leave the others waiting: it raises the stop flag, the
//! others end, and the panic goes on in the caller with its cause.

use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use crossbeam_utils::{Backoff, CachePadded};

use super::case::Kind;

/// The cores that workers are pinned to.
#[derive(Clone, Debug)]
pub struct Cores {
    ids: Vec<CoreId>,
}

impl Cores {
    /// The cores this process may use.
    #[must_use]
    pub fn available() -> Cores {
        Cores {
            ids: core_affinity::get_core_ids().unwrap_or_default(),
        }
    }

    /// How many there are; 1 where the system does not tell.
    #[must_use]
    pub fn count(&self) -> usize {
        match self.ids.len() {
            0 => thread::available_parallelism().map_or(1, Into::into),
            n => n,
        }
    }

    /// Pins the calling thread; false where that cannot be.
    fn pin(&self, worker: usize) -> bool {
        match self.ids.len() {
            0 => false,
            n => core_affinity::set_for_current(self.ids[worker % n]),
        }
    }

    /// How `workers` workers sit on these cores, in words.
    #[must_use]
    pub fn describe(&self, workers: usize, pinned: bool) -> String {
        let cores = self.count();
        if workers == 1 {
            let pinned = if pinned {
                "pinned to a core"
            } else {
                "not pinned"
            };
            format!("1 worker, {pinned}, with nobody to race with: nothing can clash")
        } else if !pinned {
            format!(
                "{workers} workers, not pinned: this system does not let a thread choose its core, so figures vary more"
            )
        } else if workers > cores {
            format!(
                "{workers} workers on {cores} cores: more workers than cores, so they take turns and race less"
            )
        } else {
            format!("{workers} workers, each pinned to a core of its own ({cores} cores here)")
        }
    }
}

/// What a crew's workers share: the stop flags, and how far each one is.
#[derive(Debug)]
pub struct Crew<'a> {
    interrupted: &'a AtomicBool,
    failed: AtomicBool,
    arrived: AtomicUsize,
    progress: Box<[CachePadded<AtomicUsize>]>,
}

/// What a round of a crew came to.
#[derive(Clone, Debug)]
pub struct CrewRun<R> {
    /// From the first worker's start to the last one's end.
    pub elapsed: Duration,
    /// What a worker took for its own part, in the mean.
    pub mean: Duration,
    /// Whether every worker had a core of its choice.
    pub pinned: bool,
    /// What each worker returned.
    pub results: Vec<R>,
}

impl<R> CrewRun<R> {
    /// The time of a round of fixed work. Where workers have equal shares it is the mean of their own times: on a
    /// machine that takes a core away for some milliseconds, as virtual ones do, the end of the last one says more of
    /// that than of the table, and it does so the more, the longer the table's rounds are than the limit's. Where packets are steered, shares
    /// differ, and the end counts.
    #[must_use]
    pub fn time(&self, kind: Kind) -> Duration {
        if kind.steers() {
            self.elapsed
        } else {
            self.mean
        }
    }
}

/// Looks at a slower worker, without giving the core up, before the scheduler is asked. About 10 µs.
const MEETING_SPINS: usize = 256;
/// Times the scheduler is asked. A worker that is further behind is not waited for.
const MEETING_YIELDS: usize = 256;

impl Crew<'_> {
    /// Should the workers end?
    #[must_use]
    pub fn should_stop(&self) -> bool {
        // Relaxed: a flag that stands for itself; seen a batch later at worst.
        self.interrupted.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed)
    }

    /// Tells the others that `worker` has reached `step`, and waits a little for those that have not:
    /// bounded, so that a worker whose core was taken away does not stop the rest. One that is behind passes at once.
    pub fn meet(&self, worker: usize, step: usize) {
        // Relaxed: a pace, nothing is read through it.
        self.progress[worker].store(step, Ordering::Relaxed);
        let behind = |other: &CachePadded<AtomicUsize>| other.load(Ordering::Relaxed) < step;
        for wait in 0..MEETING_SPINS + MEETING_YIELDS {
            if !self.progress.iter().any(behind) || self.should_stop() {
                return;
            }
            if wait < MEETING_SPINS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }

    fn fail(&self) {
        // Relaxed: a flag that stands for itself.
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Waits until all workers are here, or one has failed.
    fn start_together(&self) {
        // Relaxed: what workers share was there before they were spawned.
        self.arrived.fetch_add(1, Ordering::Relaxed);
        let backoff = Backoff::new();
        while self.arrived.load(Ordering::Relaxed) < self.progress.len()
            && !self.failed.load(Ordering::Relaxed)
        {
            backoff.snooze();
        }
    }
}

/// Raises the crew's flag if the worker panics.
struct FailOnPanic<'a>(&'a Crew<'a>);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail();
        }
    }
}

/// Crews of one process take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `work` on one worker a state, each pinned, all started together; after other crews of this process.
///
/// # Panics
/// If a worker panics: with the worker's own cause, after the others have ended. If the system starts no thread.
pub fn run_crew<S: Send, R: Send>(
    states: &mut [S],
    cores: &Cores,
    interrupted: &AtomicBool,
    work: impl Fn(usize, &mut S, &Crew<'_>) -> R + Sync,
) -> CrewRun<R> {
    run_crew_in_roles(states, cores, interrupted, |_, _| ROLE, work)
}

/// What a worker's thread is called where all do the same.
pub const ROLE: &str = "worker";

/// The same where workers do different things: `role` is what a worker's thread is called, so that a profiler can tell them
/// apart. Of a name the system keeps 15 bytes.
///
/// # Panics
/// As [`run_crew`].
pub fn run_crew_in_roles<S: Send, R: Send>(
    states: &mut [S],
    cores: &Cores,
    interrupted: &AtomicBool,
    role: impl Fn(usize, &S) -> &'static str,
    work: impl Fn(usize, &mut S, &Crew<'_>) -> R + Sync,
) -> CrewRun<R> {
    // Two crews on one machine's cores would wait for each other at every start, each for the scheduler.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let crew = Crew {
        interrupted,
        failed: AtomicBool::new(false),
        arrived: AtomicUsize::new(0),
        progress: states.iter().map(|_| CachePadded::default()).collect(),
    };
    let joined: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = states
            .iter_mut()
            .enumerate()
            .map(|(worker, state)| {
                let (crew, work) = (&crew, &work);
                let thread = thread::Builder::new().name(role(worker, state).to_owned());
                let run = move || {
                    let _guard = FailOnPanic(crew);
                    let pinned = cores.pin(worker);
                    crew.start_together();
                    let begun = Instant::now();
                    let result = work(worker, state, crew);
                    (pinned, begun, Instant::now(), result)
                };
                thread.spawn_scoped(scope, run).unwrap_or_else(|error| {
                    // Those that were started must not wait for it.
                    crew.fail();
                    panic!("no thread for a worker: {error}")
                })
            })
            .collect();
        threads
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    let mut run = CrewRun {
        elapsed: Duration::ZERO,
        mean: Duration::ZERO,
        pinned: true,
        results: Vec::with_capacity(joined.len()),
    };
    let mut span: Option<(Instant, Instant)> = None;
    for outcome in joined {
        let (pinned, begun, ended, result) =
            outcome.unwrap_or_else(|cause| panic::resume_unwind(cause));
        run.pinned &= pinned;
        run.results.push(result);
        run.mean += ended - begun;
        span = Some(match span {
            None => (begun, ended),
            Some((first, last)) => (first.min(begun), last.max(ended)),
        });
    }
    if let Some((first, last)) = span {
        run.elapsed = last - first;
    }
    run.mean /= run.results.len().max(1) as u32;
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_works_on_its_own_state() {
        let mut states = [0, 0, 0];
        let never = AtomicBool::new(false);
        let run = run_crew(
            &mut states,
            &Cores::available(),
            &never,
            |worker, state, crew| {
                for step in 1..=10 {
                    crew.meet(worker, step);
                    *state += worker;
                }
                worker
            },
        );
        assert_eq!(states, [0, 10, 20]);
        assert_eq!(run.results, [0, 1, 2]);
    }

    #[test]
    fn a_workers_thread_has_the_name_of_its_role() {
        let never = AtomicBool::new(false);
        let role = |worker: usize, _: &()| ["first", "other"][worker];
        let name = |_, _: &mut (), _: &Crew<'_>| thread::current().name().map(str::to_owned);
        let cores = Cores::available();
        let run = run_crew_in_roles(&mut [(), ()], &cores, &never, role, name);
        let names: Vec<_> = run.results.iter().map(Option::as_deref).collect();
        assert_eq!(names, [Some("first"), Some("other")]);
    }

    #[test]
    fn a_workers_panic_ends_the_crew_with_its_cause() {
        let never = AtomicBool::new(false);
        let caught = panic::catch_unwind(|| {
            run_crew(
                &mut [(), ()],
                &Cores::available(),
                &never,
                |worker, (), crew| {
                    assert!(worker == 0, "the cause");
                    while !crew.should_stop() {
                        thread::yield_now();
                    }
                },
            )
        });
        let cause = caught.unwrap_err();
        assert_eq!(cause.downcast_ref::<&str>(), Some(&"the cause"));
    }

    #[test]
    fn one_worker_is_told_that_it_races_nobody() {
        let cores = Cores { ids: Vec::new() };
        for pinned in [true, false] {
            let said = cores.describe(1, pinned);
            assert!(said.starts_with("1 worker, "), "{said}");
            assert!(said.contains("nobody to race with"), "{said}");
        }
    }

    #[test]
    fn more_workers_than_cores_is_said() {
        let cores = Cores { ids: Vec::new() };
        assert!(
            cores
                .describe(1000, true)
                .contains("more workers than cores")
        );
        assert!(cores.describe(2, false).contains("not pinned"));
    }
}

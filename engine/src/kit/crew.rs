//! Threads that work in step, and end together when one of them fails or panics.

use std::any::Any;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crossbeam_utils::Backoff;

use super::Broken;

/// Why a thread ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It found something.
    Broken(Broken),
    /// Another one did.
    Other,
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Stop {
        Stop::Broken(broken)
    }
}

/// A barrier that lets everybody go when one thread will never come.
#[derive(Debug)]
pub(crate) struct Meeting {
    threads: usize,
    arrived: AtomicUsize,
    turn: AtomicUsize,
    failed: AtomicBool,
}

impl Meeting {
    fn new(threads: usize) -> Meeting {
        Meeting {
            threads,
            arrived: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        }
    }

    /// Waits, without sleeping, until all threads are here: they go on at the same moment. What each did before, all
    /// see after.
    pub(crate) fn wait(&self) -> Result<(), Stop> {
        // Acquire: pairs with the release of the turn below.
        let turn = self.turn.load(Ordering::Acquire);
        // AcqRel: the last one here has seen what all others did, and passes it on with the turn.
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            // Relaxed: the next one to count is let go by the turn below.
            self.arrived.store(0, Ordering::Relaxed);
            // Release: see above.
            self.turn.store(turn + 1, Ordering::Release);
        }
        let backoff = Backoff::new();
        // Acquire: as above.
        while self.turn.load(Ordering::Acquire) == turn {
            if self.has_failed() {
                return Err(Stop::Other);
            }
            backoff.snooze();
        }
        Ok(())
    }

    pub(crate) fn has_failed(&self) -> bool {
        // Relaxed: a flag that stands for itself.
        self.failed.load(Ordering::Relaxed)
    }

    fn fail(&self) {
        // Relaxed: a flag that stands for itself.
        self.failed.store(true, Ordering::Relaxed);
    }
}

/// Raises the flag when its thread panics.
struct FailOnPanic<'a>(&'a Meeting);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail();
        }
    }
}

/// Runs `work` on so many threads, each with its number; what they returned, in order.
pub(crate) fn crew<R: Send>(
    threads: usize,
    work: impl Fn(usize, &Meeting) -> Result<R, Stop> + Sync,
) -> Result<Vec<R>, Broken> {
    let meeting = Meeting::new(threads);
    let joined: Vec<_> = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|number| {
                let (meeting, work) = (&meeting, &work);
                scope.spawn(move || {
                    let _guard = FailOnPanic(meeting);
                    let done = work(number, meeting);
                    if done.is_err() {
                        meeting.fail();
                    }
                    done
                })
            })
            .collect();
        handles
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    let mut results = Vec::with_capacity(threads);
    let mut broken = None;
    for outcome in joined {
        match outcome {
            Ok(Ok(result)) => results.push(result),
            Ok(Err(Stop::Broken(found))) => broken = broken.or(Some(found)),
            Ok(Err(Stop::Other)) => {}
            Err(panic) => broken = Some(panicked(panic.as_ref())),
        }
    }
    match broken {
        Some(broken) => Err(broken),
        None => Ok(results),
    }
}

/// Runs `work` here; a panic of the table is a broken promise like any other.
pub(crate) fn catch<R>(work: impl FnOnce() -> Result<R, Broken>) -> Result<R, Broken> {
    panic::catch_unwind(panic::AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

fn panicked(panic: &(dyn Any + Send)) -> Broken {
    let cause = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message");
    Broken::new(format!("it panicked: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_lets_the_others_go_with_its_cause() {
        let done = crew(3, |number, meeting| -> Result<(), Stop> {
            meeting.wait()?;
            assert!(number != 1, "the cause");
            meeting.wait()
        });
        assert!(done.unwrap_err().what.contains("the cause"));
    }

    #[test]
    fn nobody_passes_before_all_are_there() {
        let counts: [AtomicUsize; 3] = Default::default();
        let seen = crew(3, |number, meeting| {
            for round in 1..=200 {
                // Relaxed: the meeting orders them.
                counts[number].store(round, Ordering::Relaxed);
                meeting.wait()?;
                // Relaxed: as above.
                let reached = |count: &AtomicUsize| count.load(Ordering::Relaxed) == round;
                let all = counts.iter().all(reached);
                meeting.wait()?;
                if !all {
                    return Ok(round);
                }
            }
            Ok(0)
        });
        assert_eq!(seen.unwrap(), [0, 0, 0]);
    }
}

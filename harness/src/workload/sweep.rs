//! How a worker of a race goes through a round's flows, and which part of its time counts.
//!
//! ```text
//! each worker, for each batch of the round's flows
//!   get ready     look the batch up, make what will be offered       timed
//!   meet          the others come to the same place                  not timed
//!   confirm       one wins, the others clash                         timed
//! ```
//! The same code takes tables and the [floor](crate::floor) through a round: the same flows in the same order, in the
//! same batches, with the same meetings.
//!
//! # Which time counts
//! A worker's own time before and after each meeting. Waiting for the others is the harness's business, and on a machine
//! that does other things too it is mostly the scheduler's; flows are drawn, connections checked and removed outside. A
//! round took the mean of its workers' times: what a rate is divided by is time in which all of them were at it. Whoever is kept waiting
//! *by the table*, at a lock or at a line that another core has, pays for it.

use std::time::{Duration, Instant};

use super::worker::{Crew, CrewRun};

/// Somebody who races.
pub(crate) trait Racer {
    /// Looks the flows `first..first + count` of the round up, and makes ready what will be confirmed.
    fn get_ready(&mut self, first: usize, count: usize);

    /// Confirms it.
    fn confirm(&mut self);
}

/// How far a worker came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Swept {
    /// Flows that it had in hand.
    pub(crate) reached: usize,
    /// Its time, waiting for meetings not counted.
    pub(crate) busy: Duration,
}

/// Goes through `flows` flows in batches, as worker `number`.
pub(crate) fn sweep(
    racer: &mut impl Racer,
    flows: usize,
    batch: usize,
    number: usize,
    crew: &Crew<'_>,
) -> Swept {
    let mut swept = Swept::default();
    let mut step = 0;
    while swept.reached < flows && !crew.should_stop() {
        let count = batch.min(flows - swept.reached);
        let begun = Instant::now();
        racer.get_ready(swept.reached, count);
        swept.busy += begun.elapsed();
        step += 1;
        crew.meet(number, step);
        let begun = Instant::now();
        racer.confirm();
        swept.busy += begun.elapsed();
        swept.reached += count;
    }
    // Those that lag need not wait for us any more.
    crew.meet(number, usize::MAX);
    swept
}

/// The time of a round: the mean of its workers'.
pub(crate) fn elapsed(run: &CrewRun<Swept>) -> Duration {
    let busy: Duration = run.results.iter().map(|swept| swept.busy).sum();
    busy / run.results.len().max(1) as u32
}

/// Chances to collide: for each flow the workers that had it in hand, less one.
pub(crate) fn chances(run: &CrewRun<Swept>) -> u64 {
    let reached = run.results.iter().map(|swept| swept.reached);
    let furthest = reached.clone().max().unwrap_or(0);
    (reached.sum::<usize>() - furthest) as u64
}

#[cfg(test)]
mod tests {
    use super::super::worker::{Cores, run_crew};
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// Writes down what it is asked for.
    #[derive(Default)]
    struct Scribe(Vec<(usize, usize)>, usize);

    impl Racer for Scribe {
        fn get_ready(&mut self, first: usize, count: usize) {
            self.0.push((first, count));
        }

        fn confirm(&mut self) {
            self.1 += 1;
        }
    }

    #[test]
    fn every_worker_has_every_flow_in_hand_once_in_batches() {
        let never = AtomicBool::new(false);
        let mut scribes = [Scribe::default(), Scribe::default()];
        let cores = Cores::available();
        let run = run_crew(&mut scribes, &cores, &never, |number, scribe, crew| {
            sweep(scribe, 70, 32, number, crew)
        });
        for (scribe, swept) in scribes.iter().zip(&run.results) {
            assert_eq!(scribe.0, [(0, 32), (32, 32), (64, 6)]);
            assert_eq!((scribe.1, swept.reached), (3, 70));
        }
        assert_eq!(chances(&run), 70);
    }

    fn run_of(reached: &[usize], busy_ms: u64) -> CrewRun<Swept> {
        let swept = |&reached| Swept {
            reached,
            busy: Duration::from_millis(busy_ms * reached as u64),
        };
        CrewRun {
            elapsed: Duration::from_secs(1),
            mean: Duration::from_secs(1),
            pinned: true,
            results: reached.iter().map(swept).collect(),
        }
    }

    #[test]
    fn a_worker_alone_at_the_end_of_the_list_has_no_chance_to_collide() {
        assert_eq!(chances(&run_of(&[10, 7], 1)), 7);
        assert_eq!(chances(&run_of(&[10, 7, 3], 1)), 10);
        assert_eq!(chances(&run_of(&[], 1)), 0);
    }

    #[test]
    fn a_round_took_the_mean_of_its_workers_times() {
        assert_eq!(elapsed(&run_of(&[10, 20], 2)), Duration::from_millis(30));
        assert_eq!(elapsed(&run_of(&[], 2)), Duration::ZERO);
    }
}

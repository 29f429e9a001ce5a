//! One case on one table that is sampled whenever somebody asks: what two processes need that take turns.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::case::Case;
use super::contest::Enter;
use super::measure::{Contender, Sample};
use super::traffic::Traffic;
use super::worker::Cores;
use crate::load::Ticks;
use crate::peer;

/// A table, filled and warmed up, that waits to be sampled.
pub struct OnDemand {
    contender: Box<dyn Contender>,
    cores: Cores,
    case: Case,
    pinned: bool,
}

impl std::fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnDemand")
            .field("case", &self.case)
            .finish_non_exhaustive()
    }
}

impl OnDemand {
    /// Makes the table and warms it up; `None` if there is no such table.
    ///
    /// # Panics
    /// If a worker panics.
    #[must_use]
    pub fn new(case: &Case, table: &str, interrupted: &AtomicBool) -> Option<OnDemand> {
        let cores = Cores::available();
        let traffic = Arc::new(Traffic::of(case));
        let mut contender = peer::visit(table, Enter(case, &traffic))?;
        let warm_up = contender.round(&cores, interrupted);
        contender.reset();
        Some(OnDemand {
            contender,
            cores,
            case: *case,
            pinned: warm_up.pinned,
        })
    }

    /// Whether every worker was pinned so far.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Rounds until the case's time is reached, one at least; fewer once `interrupted` is raised.
    ///
    /// # Panics
    /// If a worker panics: a table gave a wrong answer.
    pub fn sample(&mut self, interrupted: &AtomicBool) -> Sample {
        let begun = Ticks::now();
        let mut sample = Sample::NOTHING;
        loop {
            let round = self.contender.round(&self.cores, interrupted);
            sample.count(&round);
            self.pinned &= round.pinned;
            // A round that took no time at all, by a coarse clock, is followed by another one.
            let enough = sample.elapsed >= self.case.enough() && !sample.elapsed.is_zero();
            // Relaxed: a flag that stands for itself.
            if enough || interrupted.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
        }
        sample.disturbed = Ticks::disturbed_since(begun);
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Plan, connect, lookup_hit};
    use std::time::Duration;

    #[test]
    fn each_sample_has_its_own_work_and_its_books_balance() {
        let plan = Plan {
            connections: vec![500],
            workers: vec![1],
            duration: Some(Duration::from_millis(1)),
            ..Plan::new(&[lookup_hit::WORKLOAD, connect::WORKLOAD], &["lockfree"])
        };
        let never = AtomicBool::new(false);
        for case in plan.cases() {
            let mut table = OnDemand::new(&case, "lockfree", &never).expect("a listed table");
            for _ in 0..3 {
                let sample = table.sample(&never);
                assert!(sample.operations > 0 && !sample.elapsed.is_zero());
                assert_eq!(sample.tally.lost(), 0);
            }
        }
    }

    #[test]
    fn a_table_that_is_not_listed_is_none() {
        let plan = Plan::new(&[lookup_hit::WORKLOAD], &["lockfree"]);
        let never = AtomicBool::new(false);
        assert!(OnDemand::new(&plan.cases()[0], "hashmap", &never).is_none());
    }
}

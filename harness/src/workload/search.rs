//! The highest rate that keeps a limit: which rate is tried next.
//!
//! As RFC 2544 (26.1) searches the highest rate without loss, by halving: a rate between the highest that kept the limit and
//! the lowest that did not is tried until the two are within [`RESOLUTION`] of each other. The highest that kept it is tried again for a
//! longer time; if it fails then, the rate goes down step by step, each step twice as large, until one holds.

/// The search ends when the bounds are within this share of the upper one.
pub const RESOLUTION: f64 = 0.02;
/// The last trial takes so many times the time of the others.
pub const LONGER: u32 = 4;
/// The closed loop's rate times this is the first upper bound: what is measured may have had a bad moment.
const HEADROOM: f64 = 1.1;
/// Below this share of the closed loop's rate nobody looks any more.
const LOWEST: f64 = 1e-3;
/// Times that an upper bound is doubled that kept the limit.
const DOUBLINGS: u32 = 4;
/// Steps down that the long trials may take.
const STEPS_DOWN: u32 = 5;

/// A rate to try.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Trial {
    /// Operations a second.
    pub rate: f64,
    /// For [`LONGER`] times the time.
    pub is_long: bool,
}

/// Where a search is.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    /// Between a rate that kept the limit (or 0) and one that did not.
    Halving,
    /// Nothing has failed so far: the upper bound itself.
    AtTheTop,
    /// A long trial, after so many steps down.
    Verifying(u32),
    /// The last long trial kept the limit, or none did.
    Done { verified: bool },
}

/// A search.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Search {
    low: f64,
    high: f64,
    has_failed: bool,
    doublings: u32,
    lowest: f64,
    phase: Phase,
}

impl Search {
    /// Below some more than what the closed loop did a second.
    #[must_use]
    pub fn new(closed_loop_per_s: f64) -> Search {
        Search {
            low: 0.0,
            high: closed_loop_per_s * HEADROOM,
            has_failed: false,
            doublings: 0,
            lowest: closed_loop_per_s * LOWEST,
            phase: Phase::Halving,
        }
    }

    /// The rate to try; `None` when the search is over.
    #[must_use]
    pub fn next(&self) -> Option<Trial> {
        let (rate, is_long) = match self.phase {
            Phase::Halving => (f64::midpoint(self.low, self.high), false),
            Phase::AtTheTop => (self.high, false),
            Phase::Verifying(_) => (self.low, true),
            Phase::Done { .. } => return None,
        };
        Some(Trial { rate, is_long })
    }

    /// Whether the rate that [`Search::next`] named kept the limit.
    pub fn tell(&mut self, kept: bool) {
        let Some(trial) = self.next() else {
            return;
        };
        match (self.phase, kept) {
            (Phase::Halving, true) => {
                self.low = trial.rate;
                self.narrow();
            }
            (Phase::Halving, false) => {
                self.high = trial.rate;
                self.has_failed = true;
                self.narrow();
            }
            (Phase::AtTheTop, true) => {
                self.low = self.high;
                self.phase = if self.doublings < DOUBLINGS {
                    self.doublings += 1;
                    self.high *= 2.0;
                    Phase::Halving
                } else {
                    Phase::Verifying(0)
                };
            }
            (Phase::AtTheTop, false) => {
                self.has_failed = true;
                self.narrow();
            }
            (Phase::Verifying(_), true) => self.phase = Phase::Done { verified: true },
            (Phase::Verifying(steps), false) if steps < STEPS_DOWN => {
                self.low *= 1.0 - RESOLUTION * f64::from(1 << steps);
                self.phase = Phase::Verifying(steps + 1);
            }
            (Phase::Verifying(_), false) => self.phase = Phase::Done { verified: false },
            (Phase::Done { .. }, _) => {}
        }
    }

    fn narrow(&mut self) {
        let is_close = self.high - self.low <= RESOLUTION * self.high;
        self.phase = if self.high < self.lowest {
            self.low = 0.0;
            Phase::Done { verified: false }
        } else if !is_close {
            Phase::Halving
        } else if self.has_failed {
            Phase::Verifying(0)
        } else {
            Phase::AtTheTop
        };
    }

    /// The highest rate that kept the limit, also in a long trial; `None` if there was none, or the search is not over.
    #[must_use]
    pub fn found(&self) -> Option<f64> {
        match self.phase {
            Phase::Done { verified: true } => Some(self.low),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server's waiting time grows with its load as that of a queue does: service time ÷ (1 - load).
    fn p99_ns(rate: f64, capacity: f64) -> f64 {
        if rate >= capacity {
            f64::INFINITY
        } else {
            100.0 / (1.0 - rate / capacity)
        }
    }

    /// Searches; `kept` is asked for each trial. Returns all rates tried.
    fn searched(first: f64, mut kept: impl FnMut(Trial) -> bool) -> (Search, Vec<Trial>) {
        let (mut search, mut trials) = (Search::new(first), Vec::new());
        while let Some(trial) = search.next() {
            assert!(trials.len() < 60, "no end: {search:?}");
            trials.push(trial);
            search.tell(kept(trial));
        }
        (search, trials)
    }

    #[test]
    fn the_knee_is_found_within_the_resolution_wherever_it_is() {
        for (capacity, limit_ns) in [(1e6, 1000.0), (1e6, 110.0), (3e7, 1e5), (5e3, 101.0)] {
            let kept = |trial: Trial| p99_ns(trial.rate, capacity) <= limit_ns;
            // 100 / (1 - load) = limit
            let knee = capacity * (1.0 - 100.0 / limit_ns);
            let (search, trials) = searched(capacity, kept);
            let found = search.found().expect("there is a knee");
            assert!(
                found <= knee && found >= knee * (1.0 - RESOLUTION),
                "{found} {knee}"
            );
            assert!(trials.len() < 20, "{}", trials.len());
            let long: Vec<bool> = trials.iter().map(|t| t.is_long).collect();
            assert_eq!(long.iter().filter(|&&long| long).count(), 1);
            assert!(long[long.len() - 1], "the last trial is the long one");
        }
    }

    #[test]
    fn a_closed_loop_that_had_a_bad_moment_does_not_hide_a_higher_rate() {
        let (search, _) = searched(1e6, |trial| trial.rate <= 5e6);
        let found = search.found().unwrap();
        assert!((4.9e6..=5e6).contains(&found), "{found}");
        // Whatever keeps every rate ends the search too.
        assert!(searched(1e6, |_| true).0.found().unwrap() > 1e7);
    }

    #[test]
    fn a_limit_that_no_rate_keeps_ends_without_a_rate() {
        let (search, trials) = searched(1e6, |_| false);
        assert_eq!(search.found(), None);
        assert!(trials.len() <= 12, "{}", trials.len());
    }

    #[test]
    fn a_rate_that_does_not_hold_for_longer_goes_down_until_one_does() {
        let (search, trials) = searched(1e6, |trial| {
            trial.rate <= if trial.is_long { 7e5 } else { 8e5 }
        });
        let found = search.found().unwrap();
        assert!((6e5..=7e5).contains(&found), "{found}");
        assert!(trials.iter().filter(|t| t.is_long).count() > 1);
        let (search, _) = searched(1e6, |trial| !trial.is_long);
        assert_eq!(search.found(), None, "none is named that never held");
    }
}

//! The driver of the open loop: tables at given rates, or each at the highest rate that keeps a limit.
//!
//! ```text
//! --rate 1M,2M        for each rate, for each sample: A, B, C, the limit (closed loop) … a sample each
//! --rate max:p99=50us a sample of the closed loop; then trials of A, B, C in turns, until each one's search is over
//! ```
//! A sample is as long as one of the closed loop, but in one piece a table: cut into rounds only where a workload has to
//! empty its table, with the schedule's clock standing ([`pace`](super::pace)). So each sample has marks of its own for time that others
//! took. A trial that broke the limit while others used the machine is made once more.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::case::Case;
use super::contest::{self, Contest};
use super::measure::{Contender, Measurement, Round, Sample, is_raised};
use super::pace::{Offer, Offered};
use super::search::{LONGER, Search};
use super::worker::Cores;
use crate::load::Ticks;

/// How operations are offered to tables.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Demand {
    /// Each worker does one after the other (closed loop).
    #[default]
    AsFastAsPossible,
    /// At these rates, in operations a second of all workers together.
    Rates(Vec<usize>),
    /// At the highest rate that keeps a limit, whichever it is.
    Highest(Goal),
}

/// A limit on latency.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Goal {
    /// Of which percentile.
    pub percentile: Percentile,
    /// How long at most.
    pub latency: Duration,
}

impl Goal {
    /// Whether latencies keep it.
    #[must_use]
    pub fn is_kept_by(&self, latencies: &Histogram<u64>) -> bool {
        u128::from(self.percentile.of(latencies)) <= self.latency.as_nanos()
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "max:{}={:?}", self.percentile.name(), self.latency)
    }
}

/// Percentiles that are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Percentile {
    /// Half of all were not slower.
    P50,
    /// 90 %.
    P90,
    /// 99 %.
    P99,
    /// 99.9 %.
    P999,
    /// 99.99 %.
    P9999,
    /// The slowest of all.
    Max,
}

impl Percentile {
    /// All of them.
    pub const ALL: [Percentile; 6] = [
        Percentile::P50,
        Percentile::P90,
        Percentile::P99,
        Percentile::P999,
        Percentile::P9999,
        Percentile::Max,
    ];

    /// The name that `--rate` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Percentile::P50 => "p50",
            Percentile::P90 => "p90",
            Percentile::P99 => "p99",
            Percentile::P999 => "p99.9",
            Percentile::P9999 => "p99.99",
            Percentile::Max => "max",
        }
    }

    /// Its value.
    #[must_use]
    pub fn of(self, latencies: &Histogram<u64>) -> u64 {
        let share = match self {
            Percentile::P50 => 0.5,
            Percentile::P90 => 0.9,
            Percentile::P99 => 0.99,
            Percentile::P999 => 0.999,
            Percentile::P9999 => 0.9999,
            Percentile::Max => return latencies.max(),
        };
        latencies.value_at_quantile(share)
    }
}

/// What a table did when it was offered operations at a rate.
#[derive(Clone, Debug)]
pub struct OpenLoop {
    /// The rate asked for, in operations a second of all workers; of a search the one found, `None` if none kept the limit.
    pub rate: Option<f64>,
    /// All samples together.
    pub offered: Offered,
    /// How the rate was found.
    pub found: Option<Found>,
}

/// A search and its trials.
#[derive(Clone, Debug)]
pub struct Found {
    /// The limit.
    pub goal: Goal,
    /// In their order.
    pub trials: Vec<Tried>,
}

/// A trial.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The rate asked for.
    pub rate: f64,
    /// What was done.
    pub sample: Sample,
    /// Latencies.
    pub offered: Offered,
    /// The last one, which takes longer.
    pub is_long: bool,
    /// The rate was reached and the limit kept.
    pub kept: bool,
}

/// Less than this share of the rate asked for is called saturated.
pub const REACHED: f64 = 0.99;

/// Whether so many operations a second are clearly fewer than were asked for.
#[must_use]
pub fn is_saturated(asked: f64, did: f64) -> bool {
    did < asked * REACHED
}

/// Where and until when a sample is taken.
#[derive(Clone, Copy)]
pub(super) struct Conditions<'a> {
    pub(super) case: &'a Case,
    pub(super) cores: &'a Cores,
    pub(super) interrupted: &'a AtomicBool,
}

impl Conditions<'_> {
    /// One sample of one contender at a rate. `None` when it was interrupted, or cannot be offered anything.
    fn sample(
        self,
        contender: &mut dyn Contender,
        rate: f64,
        whole: Duration,
        mut add: impl FnMut(Round),
    ) -> Option<(Sample, Offered)> {
        let begun = Ticks::now();
        let workers = contender.paces().len();
        for (number, pace) in contender.paces().into_iter().enumerate() {
            pace.begin(Offer::of_worker(
                rate,
                number,
                workers,
                self.case.batch,
                whole,
            ));
        }
        let mut sample = Sample::NOTHING;
        while !is_raised(self.interrupted) {
            let round = contender.round(self.cores, self.interrupted);
            let idle = round.operations == 0;
            sample.count(&round);
            add(round);
            let mut paces = contender.paces();
            paces.iter_mut().for_each(|pace| pace.pause());
            if idle || paces.iter().all(|pace| pace.is_over()) {
                break;
            }
        }
        let parts: Vec<Offered> = contender
            .paces()
            .into_iter()
            .filter_map(super::pace::Pace::end)
            .collect();
        let mut offered = Offered::nothing();
        parts.iter().for_each(|part| offered.add(part));
        // Each worker's time on its schedule: between rounds it stands.
        let time: Duration = parts.iter().map(|part| part.time).sum();
        sample.elapsed = time / parts.len().max(1) as u32;
        sample.disturbed = Ticks::disturbed_since(begun);
        let measured = sample.operations > 0 && !is_raised(self.interrupted);
        measured.then_some((sample, offered))
    }
}

impl Contest {
    /// All samples of all tables at one rate; the limit takes its turn in the closed loop. `step` is called after each sample of a table.
    pub(super) fn at_rate(
        &mut self,
        rate: f64,
        conditions: Conditions<'_>,
        mut step: impl FnMut(&'static str),
    ) -> Vec<Measurement> {
        let case = conditions.case;
        let mut measurements: Vec<Measurement> = self
            .reset()
            .map(|blank| Measurement {
                open_loop: Some(OpenLoop {
                    rate: Some(rate),
                    offered: Offered::nothing(),
                    found: None,
                }),
                ..blank.clone()
            })
            .collect();
        for _ in 0..case.samples() {
            for ((contender, _), measurement) in self.entrants.iter_mut().zip(&mut measurements) {
                let sample = conditions.sample(&mut **contender, rate, case.duration, |round| {
                    measurement.add(round);
                });
                if let (Some((sample, offered)), Some(open)) = (sample, &mut measurement.open_loop)
                {
                    measurement.samples.push(sample);
                    open.offered.add(&offered);
                    step(measurement.table);
                }
            }
            let limit = self.limit_sample(conditions);
            measurements
                .iter_mut()
                .for_each(|measurement| measurement.limit.extend(limit));
        }
        self.counted(measurements)
    }

    /// Each table's highest rate that keeps the limit. `step` is called after each trial.
    pub(super) fn highest(
        &mut self,
        goal: Goal,
        conditions: Conditions<'_>,
        mut step: impl FnMut(&'static str),
    ) -> Vec<Measurement> {
        // What each can do when nobody waits is where the search begins, and when the limit has its turn.
        contest::sample(
            std::slice::from_mut(self),
            conditions.case.duration,
            conditions.cores,
            conditions.interrupted,
        );
        let limit = self
            .limit
            .as_mut()
            .map(|(_, samples)| std::mem::take(samples));
        let mut searches: Vec<Option<Searching>> = self
            .reset()
            .map(|measurement| {
                let closed = measurement.samples.pop()?;
                Some(Searching::new(goal, closed, measurement))
            })
            .collect();
        loop {
            let mut over = true;
            for ((contender, _), search) in self.entrants.iter_mut().zip(&mut searches) {
                if let Some(search) = search
                    .as_mut()
                    .filter(|_| !is_raised(conditions.interrupted))
                {
                    let tried = search.try_next(&mut **contender, conditions);
                    over &= !tried;
                    if tried {
                        step(search.measurement.table);
                    }
                }
            }
            if over {
                break;
            }
        }
        let measurements = searches
            .into_iter()
            .zip(&self.entrants)
            .map(|(search, (_, blank))| {
                let mut measurement = search.map_or_else(|| blank.clone(), Searching::finish);
                measurement.limit.extend(limit.iter().flatten());
                measurement
            });
        let measurements = measurements.collect();
        self.counted(measurements)
    }

    /// Every table's contender counts from 0 on; what the contest has of each.
    fn reset(&mut self) -> impl Iterator<Item = &mut Measurement> {
        self.entrants.iter_mut().map(|(contender, measurement)| {
            contender.reset();
            measurement
        })
    }

    /// With each table's counters; without those that were not measured.
    fn counted(&self, measurements: Vec<Measurement>) -> Vec<Measurement> {
        let mut counted = measurements;
        for (measurement, (contender, _)) in counted.iter_mut().zip(&self.entrants) {
            measurement.per_cpu = contender.per_cpu();
        }
        counted.retain(|measurement| !measurement.samples.is_empty());
        counted
    }
}

/// One table's search.
struct Searching {
    search: Search,
    goal: Goal,
    trials: Vec<Tried>,
    measurement: Measurement,
    /// The next trial is one that is made again.
    again: bool,
}

impl Searching {
    fn new(goal: Goal, closed: Sample, blank: &Measurement) -> Searching {
        Searching {
            search: Search::new(closed.operations as f64 / closed.elapsed.as_secs_f64()),
            goal,
            trials: Vec::new(),
            measurement: Measurement::new(blank.case, blank.table),
            again: false,
        }
    }

    /// False when the search is over.
    fn try_next(&mut self, contender: &mut dyn Contender, conditions: Conditions<'_>) -> bool {
        let Some(trial) = self.search.next() else {
            return false;
        };
        let times = if trial.is_long { LONGER } else { 1 };
        let whole = conditions.case.duration * times;
        let measurement = &mut self.measurement;
        let Some((sample, offered)) =
            conditions.sample(contender, trial.rate, whole, |round| measurement.add(round))
        else {
            return false;
        };
        let kept = !is_saturated(trial.rate, sample.ops_per_s())
            && self.goal.is_kept_by(&offered.latencies);
        self.again = !kept && sample.disturbed && !self.again;
        if !self.again {
            self.search.tell(kept);
        }
        self.trials.push(Tried {
            rate: trial.rate,
            sample,
            offered,
            is_long: trial.is_long,
            kept,
        });
        true
    }

    /// The last trial is the one that counts: the long one at the rate found, or the lowest that failed.
    fn finish(self) -> Measurement {
        let mut measurement = self.measurement;
        if let Some(last) = self.trials.last() {
            measurement.samples.push(last.sample);
            measurement.open_loop = Some(OpenLoop {
                rate: self.search.found(),
                offered: last.offered.clone(),
                found: Some(Found {
                    goal: self.goal,
                    trials: self.trials,
                }),
            });
        }
        measurement
    }
}

//! The open loop's part of a result: which rate was asked for, what was done, and how a search went.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::json::{RunResult, Spread};
use crate::workload::open_loop::{self, Found, OpenLoop, Percentile, Tried};
use crate::workload::search::RESOLUTION;

/// Percentiles of a histogram in nanoseconds.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency {
    /// Half of all were not slower.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// 99.99 %.
    pub p9999: u64,
    /// The slowest.
    pub max: u64,
}

impl Latency {
    /// Of a histogram.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        let value = |percentile: Percentile| percentile.of(histogram);
        Latency {
            p50: value(Percentile::P50),
            p90: value(Percentile::P90),
            p99: value(Percentile::P99),
            p999: value(Percentile::P999),
            p9999: value(Percentile::P9999),
            max: value(Percentile::Max),
        }
    }
}

/// What a table did when operations were offered at a rate.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct OpenLoopFigures {
    /// Operations a second that were asked for, all workers together; of a search the highest that kept the limit, null if none
    /// did.
    pub rate_per_s: Option<f64>,
    /// What was done: the median of `ops_per_s`.
    pub achieved_per_s: f64,
    /// That is less than 99 % of what was asked for.
    pub saturated: bool,
    /// Operations that were due and had not begun when a sample was given up. In `latency_ns` they have the time that
    /// they had waited by then.
    pub given_up: u64,
    /// Batches done: all operations of one have one latency, so p99.99 says something from 10 000 on.
    pub batches: u64,
    /// How the rate was found; null where it was given.
    pub search: Option<SearchFigures>,
}

/// The search for the highest rate that keeps a limit.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct SearchFigures {
    /// Which percentile is limited: p50, p90, p99, p99.9, p99.99 or max.
    pub percentile: String,
    /// Its limit.
    pub limit_ns: u64,
    /// The search ended when the highest rate that kept the limit and the lowest that did not were within this share.
    pub resolution: f64,
    /// All trials, in their order.
    pub trials: Vec<TrialFigures>,
}

/// One trial of a search.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct TrialFigures {
    /// Operations a second that were asked for.
    pub rate_per_s: f64,
    /// What was done.
    pub achieved_per_s: f64,
    /// Latencies.
    pub latency_ns: Latency,
    /// The rate was kept and the limit too.
    pub kept: bool,
    /// The last trial of a rate, which takes longer.
    pub long: bool,
    /// Steal or foreign load exceeded 5 % meanwhile.
    pub disturbed: bool,
}

impl OpenLoopFigures {
    /// With what was done a second, by sample.
    #[must_use]
    pub fn of(open: &OpenLoop, ops_per_s: &Spread) -> OpenLoopFigures {
        let unjudged = OpenLoopFigures {
            rate_per_s: open.rate,
            achieved_per_s: 0.0,
            saturated: false,
            given_up: open.offered.given_up,
            batches: open.offered.batches,
            search: open.found.as_ref().map(SearchFigures::of),
        };
        unjudged.judged(ops_per_s)
    }

    fn judged(mut self, ops_per_s: &Spread) -> OpenLoopFigures {
        self.achieved_per_s = ops_per_s.median;
        // A search that found nothing has a trial's samples, which failed by latency or by rate: its trials tell.
        self.saturated = self
            .rate_per_s
            .is_some_and(|rate| open_loop::is_saturated(rate, ops_per_s.median));
        self
    }

    /// Of one row in several launches.
    #[must_use]
    pub fn of_launches(launches: &[RunResult], ops_per_s: &Spread) -> Option<OpenLoopFigures> {
        let all: Option<Vec<&OpenLoopFigures>> =
            launches.iter().map(|r| r.open_loop.as_ref()).collect();
        let all = all?;
        let first = (*all.first()?).clone();
        let sums = OpenLoopFigures {
            given_up: all.iter().map(|open| open.given_up).sum(),
            batches: all.iter().map(|open| open.batches).sum(),
            ..first
        };
        Some(sums.judged(ops_per_s))
    }
}

impl SearchFigures {
    fn of(found: &Found) -> SearchFigures {
        SearchFigures {
            percentile: found.goal.percentile.name().to_owned(),
            limit_ns: u64::try_from(found.goal.latency.as_nanos()).unwrap_or(u64::MAX),
            resolution: RESOLUTION,
            trials: found.trials.iter().map(TrialFigures::of).collect(),
        }
    }
}

impl TrialFigures {
    fn of(tried: &Tried) -> TrialFigures {
        TrialFigures {
            rate_per_s: tried.rate,
            achieved_per_s: tried.sample.ops_per_s(),
            latency_ns: Latency::of(&tried.offered.latencies),
            kept: tried.kept,
            long: tried.is_long,
            disturbed: tried.sample.disturbed,
        }
    }
}

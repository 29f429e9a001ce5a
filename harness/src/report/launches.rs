//! Results of one row from several launches, made one.
//!
//! Samples are put one behind the other, counts are added, and percentiles are those of all that the launches recorded,
//! put together. What cannot be pooled from summaries is the worst of the launches where a bad value matters (pauses), else
//! their mean.

use clashtrack_engine::stats::ConntrackStats;

use super::histograms::{Histograms, Recorded};
use super::json::{
    Accounting, ClashFigures, Counters, ExpiryFigures, Maintenance, RunResult, Spread, StallFigures,
};
use super::open_loop::OpenLoopFigures;
use crate::workload::measure::UNSURE_BELOW;

impl RunResult {
    /// Whether both are of one workload, table, workers, batch, connections, protocol and rate.
    #[must_use]
    pub fn is_same_case(&self, other: &RunResult) -> bool {
        let case = |r: &RunResult| (r.workload, r.table, r.workers, r.batch, r.connections, r.l4);
        let rate = |r: &RunResult| r.open_loop.as_ref().map(|open| open.rate_per_s);
        case(self) == case(other) && rate(self) == rate(other)
    }

    /// One result of a row's launches, in their order; `None` of none.
    #[must_use]
    pub fn of_launches(launches: &[RunResult]) -> Option<RunResult> {
        let first = launches.first()?;
        let ns_per_op = joined(launches, |r| Some(&r.ns_per_op))?;
        let ops_per_s = joined(launches, |r| Some(&r.ops_per_s))?;
        let limit = each(launches, |r| r.limit_ns).map(|limits| Spread::of(limits).median);
        let limit_samples: Option<Vec<Vec<f64>>> = each(launches, |r| r.limit_samples_ns.clone());
        let limit_samples_ns = limit_samples.map(|samples| samples.concat());
        let limit_ns = match &limit_samples_ns {
            Some(samples) => Some(Spread::of(samples.clone()).median),
            None => limit,
        };
        let mut begin = 0;
        let mut disturbed_samples = Vec::new();
        for launch in launches {
            disturbed_samples.extend(launch.disturbed_samples.iter().map(|n| n + begin));
            begin += launch.ns_per_op.samples.len();
        }
        let mut anomalies = first.anomalies;
        launches[1..]
            .iter()
            .for_each(|r| anomalies.add(r.anomalies));
        let histograms = each(launches, |r| r.histograms.as_ref());
        let histograms = histograms.map(|all| Histograms::of_launches(&all));
        Some(RunResult {
            samples_by_launch: launches.iter().map(|r| r.ns_per_op.samples.len()).collect(),
            open_loop: OpenLoopFigures::of_launches(launches, &ops_per_s),
            limit_ratio: limit_ns
                .filter(|_| first.open_loop.is_none())
                .map(|limit| limit / ns_per_op.median),
            ops_per_s,
            ns_per_op,
            limit_ns,
            limit_samples_ns,
            latency_ns: histograms.as_ref().map(|h| h.latencies.latency()),
            bytes_per_connection: each(launches, |r| r.bytes_per_connection).map(|all| mean(&all)),
            two_line_hits: each(launches, |r| r.two_line_hits).map(|all| mean(&all)),
            recycle_stalled: launches.iter().map(|r| r.recycle_stalled).sum(),
            counters: Counters(sum(launches.iter().map(|r| &r.counters))),
            per_cpu: (0..first.per_cpu.len())
                .map(|cpu| Counters(sum(launches.iter().filter_map(|r| r.per_cpu.get(cpu)))))
                .collect(),
            accounting: each(launches, |r| r.accounting).map(|all| Accounting::sum(&all)),
            anomalies,
            clash: ClashFigures::of_launches(launches),
            maintenance: each(launches, |r| r.maintenance).map(|all| Maintenance {
                expired: all.iter().map(|m| m.expired).sum(),
                passes: all.iter().map(|m| m.passes).sum(),
            }),
            stall: each(launches, |r| r.stall).map(|all| StallFigures::of_launches(&all)),
            expiry: ExpiryFigures::of_launches(launches, histograms.as_ref()),
            disturbed_samples,
            histograms,
            ..first.clone()
        })
    }
}

/// A figure of each launch; `None` unless all have it.
fn each<'a, V>(
    launches: &'a [RunResult],
    figure: impl Fn(&'a RunResult) -> Option<V>,
) -> Option<Vec<V>> {
    launches.iter().map(figure).collect()
}

fn joined(
    launches: &[RunResult],
    spread: impl Fn(&RunResult) -> Option<&Spread>,
) -> Option<Spread> {
    let all: Option<Vec<&Spread>> = launches.iter().map(spread).collect();
    let samples = all?.into_iter().flat_map(|s| s.samples.iter().copied());
    Some(Spread::of(samples.collect()))
}

fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

fn sum<'a>(counters: impl Iterator<Item = &'a Counters>) -> ConntrackStats {
    let mut total = ConntrackStats::default();
    counters.for_each(|counters| total.add(&counters.0));
    total
}

impl Accounting {
    fn sum(all: &[Accounting]) -> Accounting {
        let sum = |count: fn(&Accounting) -> u64| all.iter().map(count).sum();
        Accounting {
            offered: sum(|a| a.offered),
            confirmed: sum(|a| a.confirmed),
            resolved_same: sum(|a| a.resolved_same),
            resolved_reply_only: sum(|a| a.resolved_reply_only),
            dropped: sum(|a| a.dropped),
            found_at_lookup: sum(|a| a.found_at_lookup),
            lost: all.iter().map(|a| a.lost).sum(),
        }
    }
}

impl ClashFigures {
    fn of_launches(launches: &[RunResult]) -> Option<ClashFigures> {
        let all: Vec<ClashFigures> = each(launches, |r| r.clash.clone())?;
        let rate = |spread: fn(&ClashFigures) -> &Spread| {
            joined(launches, |r| r.clash.as_ref().map(spread))
        };
        let means = |figure: &dyn Fn(&ClashFigures) -> Option<f64>| {
            let figures: Option<Vec<f64>> = all.iter().map(figure).collect();
            figures.map(|figures| mean(&figures))
        };
        let collided_share = means(&|c| Some(c.collided_share))?;
        Some(ClashFigures {
            collided_share,
            unsure: collided_share < UNSURE_BELOW,
            resolved_per_s: rate(|c| &c.resolved_per_s)?,
            confirmed_per_s: rate(|c| &c.confirmed_per_s)?,
            dropped_per_s: rate(|c| &c.dropped_per_s)?,
            floor_per_s: means(&|c| c.floor_per_s),
            chain_longest: all.iter().filter_map(|c| c.chain_longest).max(),
            chain_mean: means(&|c| c.chain_mean),
        })
    }
}

impl StallFigures {
    fn of_launches(all: &[StallFigures]) -> StallFigures {
        let means =
            |figure: fn(&StallFigures) -> f64| mean(&all.iter().map(figure).collect::<Vec<_>>());
        StallFigures {
            suspended_s: all.iter().map(|s| s.suspended_s).sum(),
            others_ops: all.iter().map(|s| s.others_ops).sum(),
            longest_pause_ms: all.iter().map(|s| s.longest_pause_ms).fold(0.0, f64::max),
            hung: all.iter().any(|s| s.hung),
            recycle_stalled: all.iter().map(|s| s.recycle_stalled).sum(),
            lookups_per_s: means(|s| s.lookups_per_s),
            lookups_kept: means(|s| s.lookups_kept),
            removals_per_s: means(|s| s.removals_per_s),
            removals_kept: means(|s| s.removals_kept),
        }
    }
}

impl ExpiryFigures {
    fn of_launches(
        launches: &[RunResult],
        histograms: Option<&Histograms>,
    ) -> Option<ExpiryFigures> {
        let all: Vec<ExpiryFigures> = each(launches, |r| r.expiry)?;
        let recorded = histograms?.expiry.as_ref()?;
        let p999 = |of: &Recorded| of.latency().p999;
        let means =
            |figure: fn(&ExpiryFigures) -> f64| mean(&all.iter().map(figure).collect::<Vec<_>>());
        let worst = |figure: fn(&ExpiryFigures) -> f64| all.iter().map(figure).fold(0.0, f64::max);
        Some(ExpiryFigures {
            core_share: means(|e| e.core_share),
            longest_pass_us: worst(|e| e.longest_pass_us),
            pass_p999_us: p999(&recorded.passes) as f64 / 1e3,
            longest_idle_pass_us: worst(|e| e.longest_idle_pass_us),
            longest_pass_wall_us: worst(|e| e.longest_pass_wall_us),
            insert_p999_ns_with: p999(&recorded.with),
            insert_p999_ns_without: p999(&recorded.without),
            offered_per_s: means(|e| e.offered_per_s),
            left_over: all.iter().map(|e| e.left_over).sum(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::open_loop::OpenLoop;
    use crate::workload::pace::Offered;
    use crate::workload::{Measurement, Plan, lookup_hit, measure::OF_EVERY_WORKLOAD};

    #[test]
    fn launches_keep_their_samples_apart_and_add_what_can_be_counted() {
        for measurement in OF_EVERY_WORKLOAD.iter() {
            let mut one = RunResult::of(measurement);
            one.disturbed_samples = vec![0];
            let samples = one.ns_per_op.samples.len();
            assert_eq!(one.samples_by_launch, [samples]);
            let both = RunResult::of_launches(&[one.clone(), one.clone()]).expect("a result");
            assert_eq!(both.samples_by_launch, [samples, samples]);
            assert_eq!(both.ns_per_op.samples.len(), 2 * samples);
            assert_eq!(both.ns_per_op.median, one.ns_per_op.median);
            assert_eq!(both.disturbed_samples, [0, samples]);
            assert_eq!(both.limit_ns, one.limit_ns);
            assert_eq!(both.lost(), 0);
            let total = |r: &RunResult| r.counters.0.named().iter().map(|(_, n)| n).sum::<u64>();
            assert_eq!(total(&both), 2 * total(&one));
            assert_eq!(both.per_cpu.len(), one.per_cpu.len());
            assert_eq!(both.clash.is_some(), one.clash.is_some());
            // A single launch is itself.
            assert_eq!(RunResult::of_launches(&[one.clone()]), Some(one));
        }
        assert_eq!(RunResult::of_launches(&[]), None);
    }

    fn offered(values: std::ops::RangeInclusive<u64>) -> RunResult {
        let mut recorded = Offered::nothing();
        values.for_each(|value| recorded.latencies.saturating_record(value));
        let plan = Plan::new(&[lookup_hit::WORKLOAD], &["lockfree"]);
        let mut measurement = Measurement::new(plan.cases()[0], "lockfree");
        measurement.open_loop = Some(OpenLoop {
            rate: Some(1e6),
            offered: recorded,
            found: None,
        });
        RunResult::of(&measurement)
    }

    /// Aim: a percentile of several launches is one of all their operations, however few the slow launch had. Method: 900
    /// operations of up to 900 ns and 100 of up to 1000 ns, whose union is each of 1 to 1000 ns once.
    #[test]
    fn percentiles_of_launches_are_those_of_all_their_operations() {
        let (fast, slow, union) = (offered(1..=900), offered(901..=1000), offered(1..=1000));
        let both = RunResult::of_launches(&[fast.clone(), slow.clone()]).expect("a result");
        assert_eq!(both.latency_ns, union.latency_ns);
        let latency = both.latency_ns.expect("known");
        assert_eq!((latency.p50, latency.p90, latency.max), (500, 900, 1000));
        // Of launches that recorded nothing nobody knows.
        let unknown = RunResult {
            histograms: None,
            ..slow
        };
        let both = RunResult::of_launches(&[fast, unknown]).expect("a result");
        assert_eq!(both.latency_ns, None);
    }
}

//! Conclusions that the spread of the samples does not bear.
//!
//! Two tables of one case are told apart when all samples of one are below all of the other. Five samples each do that
//! by chance once in 126 times (rank sum test, two-sided). Where they overlap no ranking is safe, however far apart the
//! medians are.

use super::json::RunResult;

/// A line for each two neighbours in the ranking of one case whose samples overlap.
#[must_use]
pub fn doubts(results: &[RunResult]) -> Vec<String> {
    let mut doubts = Vec::new();
    let ranked = |r: &&RunResult| r.stall.is_none() && r.expiry.is_none() && r.open_loop.is_none();
    let mut rest: Vec<&RunResult> = results.iter().filter(ranked).collect();
    while let Some(&first) = rest.first() {
        let (mut case, others): (Vec<&RunResult>, Vec<&RunResult>) =
            rest.into_iter().partition(|r| is_beside(r, first));
        rest = others;
        case.sort_by(|a, b| cost(a).0.total_cmp(&cost(b).0));
        for pair in case.windows(2) {
            let [better, worse] = [pair[0], pair[1]];
            let ((_, _, highest), (_, lowest, _)) = (cost(better), cost(worse));
            if highest >= lowest && better.ns_per_op.samples.len() > 1 {
                doubts.push(format!(
                    "{}, {} connections, {} workers: samples of {} and {} overlap, so which of them is faster is not \
                     safe to say; take more (--repeat) or wait for a quieter machine",
                    better.workload, better.connections, better.workers, better.table, worse.table
                ));
            }
        }
    }
    doubts
}

/// Another table in the same case.
fn is_beside(a: &RunResult, b: &RunResult) -> bool {
    let case = |r: &RunResult| (r.workload, r.workers, r.batch, r.connections, r.l4);
    case(a) == case(b)
}

/// What tables are ranked by, the lower the better: median, lowest and highest sample.
fn cost(result: &RunResult) -> (f64, f64, f64) {
    let of = |median: f64, min: f64, max: f64| (median, min, max);
    match &result.clash {
        // The most connections confirmed a second.
        Some(clash) => {
            let rate = &clash.confirmed_per_s;
            of(-rate.median, -rate.max, -rate.min)
        }
        None => {
            let ns = &result.ns_per_op;
            of(ns.median, ns.min, ns.max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Measurement, Plan, Sample, clash, connect, lookup_hit, tally};
    use std::time::Duration;

    /// A sample a number: so many microseconds for 1000 operations.
    fn result(workload: crate::workload::Workload, table: &'static str, us: &[u64]) -> RunResult {
        let case = Plan::new(&[workload], &[table]).cases()[0];
        let sample = |&us: &u64| Sample {
            elapsed: Duration::from_micros(us),
            operations: 1000,
            tally: tally::Tally {
                offered: 1000,
                confirmed: 1000,
                ..tally::Tally::default()
            },
            disturbed: false,
        };
        RunResult::of(&Measurement {
            samples: us.iter().map(sample).collect(),
            ..Measurement::new(case, table)
        })
    }

    #[test]
    fn tables_whose_samples_overlap_are_named_and_others_are_not() {
        for workload in [lookup_hit::WORKLOAD, clash::WORKLOAD] {
            let results = [
                result(workload, "lockfree", &[10, 11, 12]),
                result(workload, "striped", &[30, 31, 32]),
                result(workload, "mutex", &[31, 40, 50]),
            ];
            let doubts = doubts(&results);
            let [doubt] = doubts.as_slice() else {
                panic!("{doubts:?}");
            };
            assert!(
                doubt.contains("samples of striped and mutex overlap"),
                "{doubt}"
            );
            assert!(doubt.contains("--repeat"), "{doubt}");
        }
    }

    #[test]
    fn only_tables_of_one_case_are_compared_and_single_samples_say_nothing() {
        let results = [
            result(lookup_hit::WORKLOAD, "lockfree", &[10, 20]),
            result(connect::WORKLOAD, "striped", &[11, 19]),
        ];
        assert!(doubts(&results).is_empty());
        let single = [
            result(lookup_hit::WORKLOAD, "lockfree", &[10]),
            result(lookup_hit::WORKLOAD, "striped", &[10]),
        ];
        assert!(doubts(&single).is_empty());
    }
}

//! Results that may be compared, made one series: of one case, on one kind of machine, with the same settings.
//!
//! What must agree is what `clashtrack compare` asks for ([`crate::compare::file`]), and the optimisation the program was
//! built with. What was measured beside in the same command, how often, and with which seed, may differ.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use clashtrack_statistics::change::{self, POINTS_MIN};

use super::metric::{Better, Metric, by_name};
use super::store::Saved;
use crate::compare::file::{MEASURED, left_to_the_machine};
use crate::report::json::Spread;

/// What a result is of.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Case {
    /// Name of the workload.
    pub workload: String,
    /// Name of the table.
    pub table: String,
    /// Workers.
    pub workers: usize,
    /// Keys or connections together.
    pub batch: usize,
    /// Connections of the table, or flows of a round.
    pub connections: usize,
    /// Protocol of the connections.
    pub l4: String,
    /// Operations a second that were offered, where a rate was given.
    #[serde(default)]
    pub rate_per_s: Option<f64>,
}

/// A run, as far as the metric goes.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Point {
    /// Number of the run in the file.
    pub run: i64,
    /// When it was saved: RFC 3339, UTC.
    pub saved_at: String,
    /// The commit that the program was built from, where the build knew it.
    pub revision: Option<String>,
    /// The metric, of all samples of the run.
    #[serde(flatten)]
    pub value: Spread,
    /// Median of the machine's limit in the same run, where it was measured.
    pub limit_ns: Option<f64>,
    /// How many of the run's samples were taken while others used the machine.
    pub disturbed: usize,
    /// The run was ended by Ctrl-C.
    pub interrupted: bool,
}

/// A change between two points.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Change {
    /// Number of the first point after it, counted from 0.
    pub at: usize,
    /// When that one was saved.
    pub saved_at: String,
    /// Revision of the last point before it.
    pub last_revision: Option<String>,
    /// Revision of the first point after it.
    pub revision: Option<String>,
    /// Median of the runs' medians from the change before to this one.
    pub before: f64,
    /// The same from this one to the next.
    pub after: f64,
    /// `after` ÷ `before`; null where that was nothing.
    pub ratio: Option<f64>,
    /// Whether that is the better direction.
    pub better: bool,
    /// The machine's limit after ÷ before, by the same medians, where it was measured in all of these runs.
    pub limit_moved: Option<f64>,
    /// Share of random orders of the points that can be divided as well.
    pub p_value: f64,
}

/// A metric over runs that may be compared.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Series {
    /// What all of them are of.
    #[serde(flatten)]
    pub case: Case,
    /// The machine, as far as it must be the same.
    pub machine: Map<String, Value>,
    /// The settings that must be the same.
    pub settings: Map<String, Value>,
    /// In the order in which they were saved.
    pub points: Vec<Point>,
    /// Where the metric changed; none where there are too few points to judge.
    pub changes: Vec<Change>,
    /// Whether there were enough.
    pub judged: bool,
}

/// Fields of the machine that must agree.
const MACHINE: [&str; 5] = ["cpu", "vcpus", "kernel", "page_bytes", "opt_level"];

/// Settings that may differ: those which the case has, and how much was measured beside it.
const FREE: [&str; 9] = [
    "workloads",
    "tables",
    "workers",
    "batch",
    "connections",
    "l4",
    "seed",
    "repeat",
    "launches",
];

/// Series of a metric, in the order of their first results, each with its last `last` points. Results without the metric
/// are left out. `seed` is that of the permutation tests.
///
/// # Errors
/// A result that is none: its run, and what is wrong.
pub fn of(
    saved: &[Saved],
    metric: Metric,
    last: usize,
    seed: u64,
) -> Result<Vec<Series>, (i64, serde_json::Error)> {
    let mut all: Vec<Series> = Vec::new();
    for result in saved {
        let Some(point) = point(result, metric) else {
            continue;
        };
        let case = case(&result.result).map_err(|error| (result.run, error))?;
        let (machine, settings) = (machine(&result.machine), settings(&result.config));
        let alike = |series: &&mut Series| {
            series.case == case && series.machine == machine && series.settings == settings
        };
        match all.iter_mut().find(alike) {
            Some(series) => series.points.push(point),
            None => all.push(Series {
                case,
                machine,
                settings,
                points: vec![point],
                changes: Vec::new(),
                judged: false,
            }),
        }
    }
    for series in &mut all {
        let too_many = series.points.len().saturating_sub(last);
        series.points.drain(..too_many);
        series.judge(metric.better, seed);
    }
    Ok(all)
}

impl Series {
    fn judge(&mut self, better: Better, seed: u64) {
        let points = &self.points;
        let medians: Vec<f64> = points.iter().map(|point| point.value.median).collect();
        let limits: Option<Vec<f64>> = points.iter().map(|point| point.limit_ns).collect();
        let found = change::changes(&medians, seed);
        self.judged = medians.len() >= POINTS_MIN;
        let place = |number: usize| found.get(number).map_or(points.len(), |change| change.at);
        self.changes = found
            .iter()
            .enumerate()
            .map(|(number, change)| {
                let at = change.at;
                let begin = number.checked_sub(1).map_or(0, place);
                let end = place(number + 1);
                let sides = |figures: &[f64]| {
                    let median = |part: &[f64]| Spread::of(part.to_vec()).median;
                    (median(&figures[begin..at]), median(&figures[at..end]))
                };
                let (before, after) = sides(&medians);
                let moved = limits.as_deref().map(sides);
                Change {
                    at,
                    saved_at: points[at].saved_at.clone(),
                    last_revision: points[at - 1].revision.clone(),
                    revision: points[at].revision.clone(),
                    before,
                    after,
                    ratio: quotient(after, before),
                    better: (after < before) == (better == Better::Lower),
                    limit_moved: moved.and_then(|(before, after)| quotient(after, before)),
                    p_value: change.p_value,
                }
            })
            .collect();
    }
}

fn case(result: &Value) -> Result<Case, serde_json::Error> {
    let open_loop = &result["open_loop"];
    // A rate that was searched for is a figure, and the search a setting of the run.
    let given = open_loop["search"].is_null();
    Ok(Case {
        rate_per_s: open_loop["rate_per_s"].as_f64().filter(|_| given),
        ..Case::deserialize(result)?
    })
}

fn quotient(after: f64, before: f64) -> Option<f64> {
    (before != 0.0).then(|| after / before)
}

fn point(saved: &Saved, metric: Metric) -> Option<Point> {
    let result = &saved.result;
    let limit = by_name("limit_ns").and_then(|limit| limit.of(result));
    Some(Point {
        run: saved.run,
        saved_at: saved.saved_at.clone(),
        revision: saved.machine["revision"].as_str().map(str::to_owned),
        value: metric.of(result)?,
        limit_ns: limit.map(|limit| limit.median),
        disturbed: result["disturbed_samples"].as_array().map_or(0, Vec::len),
        interrupted: saved.interrupted,
    })
}

fn machine(machine: &Value) -> Map<String, Value> {
    let field = |name: &&str| (String::from(*name), machine[*name].clone());
    MACHINE.iter().map(field).collect()
}

fn settings(config: &Value) -> Map<String, Value> {
    let mut settings = config.as_object().cloned().unwrap_or_default();
    settings.retain(|name, _| !FREE.contains(&name.as_str()));
    // What the machine chose is no setting.
    if left_to_the_machine(&settings) {
        settings.retain(|name, _| !MEASURED.contains(&name.as_str()));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Run number `run`, which took `ns` an operation where the limit was `limit_ns`.
    fn saved(run: i64, ns: f64, limit_ns: Option<f64>) -> Saved {
        Saved {
            run,
            saved_at: format!("2026-01-01T00:00:{run:02}.000Z"),
            interrupted: false,
            machine: json!({"cpu": "A", "vcpus": 2, "kernel": "Linux 6.18", "revision": format!("r{run}")}),
            config: json!({"prefetch": "t0", "prefetch_asked": "auto", "duration_ms": 500.0, "seed": run}),
            result: json!({
                "workload": "lookup-hit", "table": "lockfree", "workers": 2, "batch": 64, "connections": 1000,
                "l4": "tcp", "ns_per_op": {"samples": [ns, ns + 1.0, ns - 1.0]},
                "limit_ns": limit_ns, "limit_samples_ns": null, "disturbed_samples": [1],
            }),
        }
    }

    fn series(saved: &[Saved], last: usize) -> Vec<Series> {
        of(saved, by_name("ns_per_op").unwrap(), last, 1).unwrap()
    }

    #[test]
    fn what_may_not_be_compared_is_another_series() {
        let mut runs: Vec<Saved> = (0..6).map(|run| saved(run, 50.0, None)).collect();
        runs[1].machine["cpu"] = json!("B");
        runs[2].config["duration_ms"] = json!(1.0);
        runs[3].result["workers"] = json!(1);
        // These may differ.
        runs[4].config["prefetch"] = json!("t1");
        runs[4].config["launches"] = json!(5);
        let found = series(&runs, 100);
        let numbers: Vec<Vec<i64>> = found
            .iter()
            .map(|series| series.points.iter().map(|point| point.run).collect())
            .collect();
        assert_eq!(numbers, [vec![0, 4, 5], vec![1], vec![2], vec![3]]);
        assert!(!found[0].judged);
    }

    #[test]
    fn a_rate_that_was_given_is_of_the_case_and_one_that_was_found_is_not() {
        let mut runs: Vec<Saved> = (0..4).map(|run| saved(run, 50.0, None)).collect();
        for (run, rate) in runs.iter_mut().zip([1e5, 2e5, 3e5, 4e5]) {
            let search = (rate > 2e5).then_some("found");
            run.result["open_loop"] = json!({"rate_per_s": rate, "search": search});
        }
        let rates: Vec<_> = series(&runs, 100)
            .iter()
            .map(|series| (series.case.rate_per_s, series.points.len()))
            .collect();
        assert_eq!(rates, [(Some(1e5), 1), (Some(2e5), 1), (None, 2)]);
    }

    #[test]
    fn a_hint_that_was_asked_for_is_a_setting() {
        let mut runs = [saved(0, 50.0, None), saved(1, 50.0, None)];
        for (run, hint) in runs.iter_mut().zip(["t0", "t1"]) {
            run.config = json!({"prefetch": hint, "prefetch_asked": hint});
        }
        assert_eq!(series(&runs, 100).len(), 2);
    }

    #[test]
    fn a_change_says_where_how_much_and_whether_the_machine_moved_too() {
        let ns = |run: i64| 50.0 + 10.0 * f64::from(u8::from(run >= 8)) + (run % 3) as f64;
        let limit = |run: i64| 20.0 * (1.0 + 0.5 * f64::from(u8::from(run >= 8)));
        let runs: Vec<Saved> = (0..16)
            .map(|run| saved(run, ns(run), Some(limit(run))))
            .collect();
        let found = series(&runs, 100);
        let [change] = found[0].changes.as_slice() else {
            panic!("{:?}", found[0].changes);
        };
        assert_eq!((change.at, change.better), (8, false));
        assert_eq!(change.last_revision.as_deref(), Some("r7"));
        assert_eq!(change.revision.as_deref(), Some("r8"));
        assert_eq!((change.before, change.after), (51.0, 61.0));
        assert_eq!(change.limit_moved, Some(1.5));
        // Of a rate, more would have been better.
        let mut rate = by_name("ns_per_op").unwrap();
        rate.better = Better::Higher;
        assert!(of(&runs, rate, 100, 1).unwrap()[0].changes[0].better);
    }

    #[test]
    fn the_last_points_are_the_last_ones() {
        let runs: Vec<Saved> = (0..16).map(|run| saved(run, 50.0, None)).collect();
        let found = series(&runs, 10);
        let points = &found[0].points;
        assert_eq!((points.len(), points[0].run), (10, 6));
        assert_eq!((points[0].disturbed, points[0].value.max), (1, 51.0));
    }

    #[test]
    fn a_result_that_is_none_is_named_by_its_run() {
        let mut run = saved(7, 50.0, None);
        run.result["workers"] = json!("two");
        let (number, error) = of(&[run], by_name("ns_per_op").unwrap(), 9, 1).unwrap_err();
        assert_eq!(number, 7);
        assert!(error.to_string().contains("invalid type"), "{error}");
    }
}

//! Results of `run` for people: a table a workload, per-CPU counters as `conntrack -S` prints them.

use std::fmt::Write as _;

use clashtrack_engine::stats::conntrack_s_line;

use super::grid::{Align, Grid};
use super::json::{Accounting, ClashFigures, RunResult, Spread};
use crate::cli::Format;

/// All results in one grid, as `--format csv` and `markdown` print it: CSV for programs, with the same
/// columns whatever was run and a bare number in each; Markdown for people.
#[must_use]
pub fn one_grid(results: &[RunResult], format: Format) -> String {
    if format == Format::Csv {
        return raw_grid(results).render(format);
    }
    let mut columns = vec![("workload", Align::Left)];
    columns.extend(columns_of(results, &Losers::ALL));
    let mut grid = Grid::new(columns);
    for result in results {
        let mut cells = vec![result.workload.to_owned()];
        cells.extend(cells_of(result, results, &Losers::ALL));
        grid.row(cells);
    }
    grid.render(format)
}

type RawColumn = (&'static str, fn(&RunResult) -> String);

/// The columns of CSV, whatever was run. Names and units are those of the JSON contract.
const RAW_COLUMNS: &[RawColumn] = &[
    ("workload", |r| r.workload.to_owned()),
    ("table", |r| r.table.to_owned()),
    ("l4", |r| r.l4.to_owned()),
    ("workers", |r| r.workers.to_string()),
    ("batch", |r| r.batch.to_string()),
    ("connections", |r| r.connections.to_string()),
    ("ops_per_s_median", |r| r.ops_per_s.median.to_string()),
    ("ops_per_s_min", |r| r.ops_per_s.min.to_string()),
    ("ops_per_s_max", |r| r.ops_per_s.max.to_string()),
    ("ns_per_op_median", |r| r.ns_per_op.median.to_string()),
    ("ns_per_op_min", |r| r.ns_per_op.min.to_string()),
    ("ns_per_op_max", |r| r.ns_per_op.max.to_string()),
    ("resolved_per_s_median", |r| {
        of_clash(r, |c| Some(c.resolved_per_s.median))
    }),
    ("resolved_per_s_min", |r| {
        of_clash(r, |c| Some(c.resolved_per_s.min))
    }),
    ("resolved_per_s_max", |r| {
        of_clash(r, |c| Some(c.resolved_per_s.max))
    }),
    ("confirmed_per_s_median", |r| {
        of_clash(r, |c| Some(c.confirmed_per_s.median))
    }),
    ("confirmed_per_s_min", |r| {
        of_clash(r, |c| Some(c.confirmed_per_s.min))
    }),
    ("confirmed_per_s_max", |r| {
        of_clash(r, |c| Some(c.confirmed_per_s.max))
    }),
    ("dropped_per_s_median", |r| {
        of_clash(r, |c| Some(c.dropped_per_s.median))
    }),
    ("dropped_per_s_min", |r| {
        of_clash(r, |c| Some(c.dropped_per_s.min))
    }),
    ("dropped_per_s_max", |r| {
        of_clash(r, |c| Some(c.dropped_per_s.max))
    }),
    ("offered", |r| of_accounting(r, |a| a.offered as i64)),
    ("confirmed", |r| of_accounting(r, |a| a.confirmed as i64)),
    ("resolved_same", |r| {
        of_accounting(r, |a| a.resolved_same as i64)
    }),
    ("resolved_reply_only", |r| {
        of_accounting(r, |a| a.resolved_reply_only as i64)
    }),
    ("dropped", |r| of_accounting(r, |a| a.dropped as i64)),
    ("found_at_lookup", |r| {
        of_accounting(r, |a| a.found_at_lookup as i64)
    }),
    ("lost", |r| of_accounting(r, |a| a.lost)),
    ("collided_share", |r| {
        of_clash(r, |c| Some(c.collided_share))
    }),
    ("unsure", |r| of_clash(r, |c| Some(c.unsure))),
    ("chain_longest", |r| of_clash(r, |c| c.chain_longest)),
    ("chain_mean", |r| of_clash(r, |c| c.chain_mean)),
    ("torn", |r| r.anomalies.torn.to_string()),
    ("double_owner", |r| r.anomalies.double_owner.to_string()),
    ("vanished", |r| r.anomalies.vanished.to_string()),
    ("samples", |r| r.ops_per_s.samples.len().to_string()),
    ("disturbed_samples", |r| {
        r.disturbed_samples.len().to_string()
    }),
];

/// Empty where the workload has no such figure, or the table.
fn of_clash<V: ToString>(r: &RunResult, figure: fn(&ClashFigures) -> Option<V>) -> String {
    r.clash
        .as_ref()
        .and_then(figure)
        .map_or_else(String::new, |value| value.to_string())
}

/// Empty where the workload confirms nothing.
fn of_accounting(r: &RunResult, count: fn(&Accounting) -> i64) -> String {
    r.accounting
        .as_ref()
        .map_or_else(String::new, |a| count(a).to_string())
}

fn raw_grid(results: &[RunResult]) -> Grid {
    let mut grid = Grid::new(RAW_COLUMNS.iter().map(|&(name, _)| (name, Align::Right)));
    for result in results {
        grid.row(RAW_COLUMNS.iter().map(|(_, cell)| cell(result)));
    }
    grid
}

/// A grid a workload, each with a closing sentence.
#[must_use]
pub fn by_workload(results: &[RunResult]) -> String {
    let mut text = String::new();
    let mut rest = results;
    while let Some(first) = rest.first() {
        let of_this = rest
            .iter()
            .take_while(|result| result.workload == first.workload)
            .count();
        let (group, others) = rest.split_at(of_this);
        let losers = Losers::of(first.workload);
        let mut grid = Grid::new(columns_of(results, &losers));
        for result in group {
            grid.row(cells_of(result, results, &losers));
        }
        let _ = writeln!(text, "{}", first.workload);
        text.push_str(&grid.render(Format::Table));
        text.push_str(&closing(group, results));
        text.push('\n');
        rest = others;
    }
    text
}

/// What losers of a clash can become, and which rate is the workload's own.
struct Losers {
    rates: &'static [Rate],
    counts: &'static [Count],
}

type Rate = (&'static str, fn(&ClashFigures) -> &Spread);
type Count = (&'static str, fn(&Accounting) -> u64);

const RESOLVED: Rate = ("resolved M/s", |clash| &clash.resolved_per_s);
const DROPPED: Rate = ("dropped M/s", |clash| &clash.dropped_per_s);
const MERGED_COUNT: Count = ("merged", |a| a.resolved_same);
const REPLY_ONLY_COUNT: Count = ("reply-only", |a| a.resolved_reply_only);
const DROPPED_COUNT: Count = ("dropped", |a| a.dropped);

impl Losers {
    const ALL: Losers = Losers {
        rates: &[RESOLVED, DROPPED],
        counts: &[MERGED_COUNT, REPLY_ONLY_COUNT, DROPPED_COUNT],
    };

    /// TCP has no resolution, so the rate that says something is that of its drops.
    fn of(workload: &str) -> Losers {
        Losers {
            rates: match workload {
                "clash-tcp" => &[DROPPED],
                _ => &[RESOLVED],
            },
            ..Losers::ALL
        }
    }
}

/// Columns that differ between results are shown; one that is the same everywhere is said once, above.
fn varies<V: PartialEq>(results: &[RunResult], field: impl Fn(&RunResult) -> V) -> bool {
    results
        .windows(2)
        .any(|two| field(&two[0]) != field(&two[1]))
}

fn columns_of(results: &[RunResult], losers: &Losers) -> Vec<(&'static str, Align)> {
    let mut columns = vec![("table", Align::Left)];
    let mut number = |name| columns.push((name, Align::Right));
    for (name, shown) in varying(results) {
        if shown {
            number(name);
        }
    }
    losers.rates.iter().for_each(|(name, _)| number(name));
    number("confirmed M/s");
    losers.counts.iter().for_each(|(name, _)| number(name));
    for name in [
        "found at lookup",
        "collided %",
        "longest chain",
        "mean chain",
    ] {
        number(name);
    }
    columns.push(("anomalies", Align::Left));
    columns
}

fn varying(results: &[RunResult]) -> [(&'static str, bool); 3] {
    [
        ("workers", varies(results, |r| r.workers)),
        ("batch", varies(results, |r| r.batch)),
        ("connections", varies(results, |r| r.connections)),
    ]
}

fn cells_of(result: &RunResult, results: &[RunResult], losers: &Losers) -> Vec<String> {
    let mut cells = vec![result.table.to_owned()];
    let values = [result.workers, result.batch, result.connections];
    for ((_, shown), value) in varying(results).into_iter().zip(values) {
        if shown {
            cells.push(value.to_string());
        }
    }
    let (Some(clash), Some(accounting)) = (&result.clash, &result.accounting) else {
        cells.resize(columns_of(results, losers).len(), String::new());
        return cells;
    };
    let rates = losers.rates.iter().map(|(_, rate)| rate(clash));
    cells.extend(rates.map(millions));
    cells.push(millions(&clash.confirmed_per_s));
    let counts = losers.counts.iter().map(|(_, count)| count(accounting));
    cells.extend(counts.map(|count| count.to_string()));
    cells.push(accounting.found_at_lookup.to_string());
    cells.push(format!(
        "{:.0}{}",
        clash.collided_share * 100.0,
        if clash.unsure { " unsure" } else { "" }
    ));
    let none = || "-".to_owned();
    cells.push(clash.chain_longest.map_or_else(none, |n| n.to_string()));
    cells.push(clash.chain_mean.map_or_else(none, |n| format!("{n:.2}")));
    cells.push(anomalies(result));
    cells
}

/// Median in millions, and half the distance between the extremes in percent of it.
fn millions(spread: &Spread) -> String {
    if spread.median == 0.0 {
        return "0".to_owned();
    }
    let half = (spread.max - spread.min) / 2.0 / spread.median * 100.0;
    format!("{:.3} ±{half:.0}%", spread.median / 1e6)
}

fn anomalies(result: &RunResult) -> String {
    let a = &result.anomalies;
    let parts: Vec<String> = [
        ("torn", a.torn),
        ("double owner", a.double_owner),
        ("vanished", a.vanished),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .map(|(name, count)| format!("{count} {name}"))
    .collect();
    if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join(", ")
    }
}

/// Which table got through the flows fastest, and by how much; and whose figures deserve doubt.
///
/// Tables are ranked by connections confirmed, one a flow on each of them. Connections offered would not do:
/// a table whose workers drift apart finds flows at lookup, which are offered by nobody.
fn closing(group: &[RunResult], results: &[RunResult]) -> String {
    let mut text = String::new();
    let confirmed = |r: &RunResult| r.clash.as_ref().map_or(0.0, |c| c.confirmed_per_s.median);
    let mut ranked: Vec<&RunResult> = group.iter().collect();
    ranked.sort_by(|a, b| confirmed(b).total_cmp(&confirmed(a)));
    if let [first, .., last] = ranked.as_slice()
        && confirmed(last) > 0.0
    {
        let _ = writeln!(
            text,
            "{} confirmed {:.2} times as many connections a second as {}.",
            whose(first, results),
            confirmed(first) / confirmed(last),
            whose(last, results),
        );
    }
    for result in group.iter().filter(|r| r.lost() != 0) {
        let _ = writeln!(
            text,
            "{}: {} of the connections offered are unaccounted for: these figures are wrong, please report it.",
            whose(result, results),
            result.lost(),
        );
    }
    if group
        .iter()
        .any(|r| r.clash.as_ref().is_some_and(|c| c.unsure))
    {
        text.push_str(
            "unsure: the workers met on fewer than 20 % of the flows, so the rates say little about clashes.\n",
        );
    }
    let disturbed: usize = group.iter().map(|r| r.disturbed_samples.len()).sum();
    let samples: usize = group.iter().map(|r| r.ops_per_s.samples.len()).sum();
    if disturbed > 0 {
        let _ = writeln!(
            text,
            "{disturbed} of {samples} samples were taken while others used more than 5 % of the machine."
        );
    }
    text
}

/// The table, with whatever else tells its result from the others.
fn whose(result: &RunResult, results: &[RunResult]) -> String {
    let values = [result.workers, result.batch, result.connections];
    let differing: Vec<String> = varying(results)
        .into_iter()
        .zip(values)
        .filter(|((_, shown), _)| *shown)
        .map(|((name, _), value)| format!("{name} {value}"))
        .collect();
    if differing.is_empty() {
        result.table.to_owned()
    } else {
        format!("{} ({})", result.table, differing.join(", "))
    }
}

/// The counters of one table as `conntrack -S` prints them, under a line that says whose they are.
#[must_use]
pub fn per_cpu(result: &RunResult, results: &[RunResult]) -> String {
    let mut text = format!(
        "conntrack -S, {} on {} (a line a worker):\n",
        result.workload,
        whose(result, results),
    );
    for (cpu, counters) in result.per_cpu.iter().enumerate() {
        let _ = writeln!(text, "{}", conntrack_s_line(cpu, &counters.0));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::anomaly::Anomalies;
    use crate::workload::clash::CLASH;
    use crate::workload::race::{RaceConfig, Tally};
    use crate::workload::{Measurement, Sample};
    use std::time::Duration;

    /// One sample of a second: so many flows confirmed, so many offered.
    fn result(table: &'static str, workers: usize, confirmed: u64, offered: u64) -> RunResult {
        let config = RaceConfig {
            workload: CLASH,
            workers,
            batch: 32,
            flows: 1000,
            seed: 1,
        };
        let tally = Tally {
            offered,
            confirmed,
            resolved_same: offered - confirmed,
            ..Tally::default()
        };
        RunResult::of(&Measurement {
            config,
            table,
            samples: vec![Sample {
                elapsed: Duration::from_secs(1),
                tally,
                disturbed: false,
            }],
            tally,
            chances: confirmed,
            anomalies: Anomalies::default(),
            chains: None,
            per_cpu: Vec::new(),
            pinned: true,
        })
    }

    #[test]
    fn a_table_that_finds_flows_at_lookup_is_not_ranked_lower_for_it() {
        // The mutex's second worker came late and found 800 of 1000 flows: 2 times slower, not 3.3.
        let group = [
            result("striped", 2, 1000, 2000),
            result("mutex", 2, 500, 600),
        ];
        let text = closing(&group, &group);
        let wanted = "striped confirmed 2.00 times as many connections a second as mutex.";
        assert!(text.starts_with(wanted), "{text}");
    }

    #[test]
    fn results_of_one_table_are_told_apart_by_what_differs() {
        let group = [
            result("striped", 1, 1000, 1000),
            result("striped", 2, 500, 1000),
        ];
        let text = closing(&group, &group);
        let wanted = "striped (workers 1) confirmed 2.00 times as many connections a second as striped (workers 2).";
        assert!(text.starts_with(wanted), "{text}");
        assert!(per_cpu(&group[1], &group).contains("clash on striped (workers 2)"));
    }

    #[test]
    fn lost_connections_are_not_passed_over_in_silence() {
        let mut group = [result("striped", 2, 1000, 2000)];
        assert!(!closing(&group, &group).contains("unaccounted"));
        group[0].accounting.as_mut().unwrap().lost = 7;
        let text = closing(&group, &group);
        assert!(
            text.contains("striped: 7 of the connections offered are unaccounted for"),
            "{text}"
        );
    }

    #[test]
    fn csv_of_nothing_measured_is_its_head() {
        let csv = one_grid(&[], Format::Csv);
        assert!(csv.starts_with("workload,table,l4,"), "{csv}");
        assert_eq!(csv.lines().count(), 1);
    }

    #[test]
    fn a_rate_is_in_millions_with_its_spread() {
        let spread = Spread::of(vec![1_000_000.0, 1_200_000.0, 1_100_000.0]);
        assert_eq!(millions(&spread), "1.100 ±9%");
        assert_eq!(millions(&Spread::of(Vec::new())), "0");
    }
}

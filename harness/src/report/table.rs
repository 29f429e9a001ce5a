//! Results of `run` for people: a table a workload, per-CPU counters as `conntrack -S` prints them.

use std::fmt::Write as _;

use clashtrack_engine::stats::conntrack_s_line;

use super::grid::{Align, Grid};
use super::json::{ClashFigures, RunResult, Spread};
use crate::cli::Format;

/// All results in one grid, as `--format csv` and `markdown` print it.
#[must_use]
pub fn one_grid(results: &[RunResult], format: Format) -> String {
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
        text.push_str(&closing(group));
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
type Count = (&'static str, fn(&super::json::Accounting) -> u64);

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

/// Who offered most, and by how much; and whose figures deserve doubt.
fn closing(group: &[RunResult]) -> String {
    let mut text = String::new();
    let mut ranked: Vec<&RunResult> = group.iter().collect();
    ranked.sort_by(|a, b| b.ops_per_s.median.total_cmp(&a.ops_per_s.median));
    if let [first, .., last] = ranked.as_slice() {
        let _ = writeln!(
            text,
            "{} took {:.2} times as many connections a second as {}.",
            first.table,
            first.ops_per_s.median / last.ops_per_s.median,
            last.table
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

/// The counters of one table as `conntrack -S` prints them, under a line that says whose they are.
#[must_use]
pub fn per_cpu(result: &RunResult) -> String {
    let mut text = format!(
        "conntrack -S, {} on {} (a line a worker):\n",
        result.workload, result.table
    );
    for (cpu, counters) in result.per_cpu.iter().enumerate() {
        let _ = writeln!(text, "{}", conntrack_s_line(cpu, &counters.0));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_in_millions_with_its_spread() {
        let spread = Spread::of(vec![1_000_000.0, 1_200_000.0, 1_100_000.0]);
        assert_eq!(millions(&spread), "1.100 ±9%");
        assert_eq!(millions(&Spread::of(Vec::new())), "0");
    }
}

//! Results of `run` for people: a table a workload, per-CPU counters as `conntrack -S` prints them.

use std::fmt::Write as _;

use clashtrack_engine::stats::conntrack_s_line;

use super::columns::{Column, columns_of, values, varying};
use super::doubt::doubts;
use super::grid::{Align, Grid};
use super::growth::growth;
use super::json::{Accounting, ClashFigures, RunResult};
use super::open_loop::{Latency, OpenLoopFigures};
use crate::cli::Format;

/// All results in one grid, as `--format csv` and `markdown` print it: CSV for programs, with the same
/// columns whatever was run and a bare number in each; Markdown for people.
#[must_use]
pub fn one_grid(results: &[RunResult], format: Format) -> String {
    if format == Format::Csv {
        return raw_grid(results).render(format);
    }
    let mut columns = vec![Column::new("workload", Align::Left, |r| {
        r.workload.to_owned()
    })];
    columns.extend(columns_of(results, results));
    drawn(&columns, results, format)
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
    ("floor_per_s", |r| of_clash(r, |c| c.floor_per_s)),
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
    ("limit_ns", |r| known(r.limit_ns)),
    ("limit_ratio", |r| known(r.limit_ratio)),
    ("bytes_per_connection", |r| known(r.bytes_per_connection)),
    ("two_line_hits", |r| known(r.two_line_hits)),
    ("recycle_stalled", |r| r.recycle_stalled.to_string()),
    ("hung", |r| known(r.stall.map(|s| s.hung))),
    ("longest_pause_ms", |r| {
        known(r.stall.map(|s| s.longest_pause_ms))
    }),
    ("lookups_kept", |r| known(r.stall.map(|s| s.lookups_kept))),
    ("removals_kept", |r| known(r.stall.map(|s| s.removals_kept))),
    ("others_ops", |r| known(r.stall.map(|s| s.others_ops))),
    ("expiry_core_share", |r| {
        known(r.expiry.map(|e| e.core_share))
    }),
    ("expiry_longest_pass_us", |r| {
        known(r.expiry.map(|e| e.longest_pass_us))
    }),
    ("expiry_pass_p999_us", |r| {
        known(r.expiry.map(|e| e.pass_p999_us))
    }),
    ("expiry_longest_idle_pass_us", |r| {
        known(r.expiry.map(|e| e.longest_idle_pass_us))
    }),
    ("expiry_longest_pass_wall_us", |r| {
        known(r.expiry.map(|e| e.longest_pass_wall_us))
    }),
    ("insert_p999_ns_with", |r| {
        known(r.expiry.map(|e| e.insert_p999_ns_with))
    }),
    ("insert_p999_ns_without", |r| {
        known(r.expiry.map(|e| e.insert_p999_ns_without))
    }),
    ("torn", |r| r.anomalies.torn.to_string()),
    ("double_owner", |r| r.anomalies.double_owner.to_string()),
    ("vanished", |r| r.anomalies.vanished.to_string()),
    ("samples", |r| r.ops_per_s.samples.len().to_string()),
    ("disturbed_samples", |r| {
        r.disturbed_samples.len().to_string()
    }),
    ("rate_per_s", |r| of_open_loop(r, |o| o.rate_per_s)),
    ("saturated", |r| of_open_loop(r, |o| Some(o.saturated))),
    ("latency_p50_ns", |r| of_latency(r, |l| l.p50)),
    ("latency_p90_ns", |r| of_latency(r, |l| l.p90)),
    ("latency_p99_ns", |r| of_latency(r, |l| l.p99)),
    ("latency_p999_ns", |r| of_latency(r, |l| l.p999)),
    ("latency_p9999_ns", |r| of_latency(r, |l| l.p9999)),
    ("latency_max_ns", |r| of_latency(r, |l| l.max)),
];

/// Empty in the closed loop.
fn of_open_loop<V: ToString>(r: &RunResult, figure: fn(&OpenLoopFigures) -> Option<V>) -> String {
    known(r.open_loop.as_ref().and_then(figure))
}

/// Empty where no latencies were measured.
fn of_latency(r: &RunResult, figure: fn(&Latency) -> u64) -> String {
    known(r.latency_ns.as_ref().map(figure))
}

/// Empty where there is no such figure.
fn known<V: ToString>(figure: Option<V>) -> String {
    figure.map_or_else(String::new, |value| value.to_string())
}

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
        let _ = writeln!(text, "{}", first.workload);
        text.push_str(&drawn(&columns_of(group, results), group, Format::Table));
        text.push_str(&closing(group, results));
        text.push_str(&growth(group));
        text.push('\n');
        rest = others;
    }
    text
}

fn drawn(columns: &[Column], rows: &[RunResult], format: Format) -> String {
    let mut grid = Grid::new(columns.iter().map(|column| (column.head, column.align)));
    for row in rows {
        grid.row(columns.iter().map(|column| (column.cell)(row)));
    }
    grid.render(format)
}

/// Which table got through the flows fastest, and by how much; and whose figures deserve doubt.
///
/// Clashing tables are ranked by connections confirmed, one a flow on each of them. Connections offered would not do:
/// a table whose workers drift apart finds flows at lookup, which are offered by nobody. The others are ranked by the
/// cost of an operation; a stall and a given rate rank nobody.
fn closing(group: &[RunResult], results: &[RunResult]) -> String {
    let mut text = String::new();
    let confirmed = |r: &RunResult| r.clash.as_ref().map(|c| c.confirmed_per_s.median);
    let ranked_here =
        |r: &&RunResult| r.stall.is_none() && r.expiry.is_none() && r.open_loop.is_none();
    let rate = |r: &RunResult| confirmed(r).unwrap_or(1e9 / r.ns_per_op.median);
    let mut ranked: Vec<&RunResult> = group.iter().filter(ranked_here).collect();
    ranked.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
    if let [first, .., last] = ranked.as_slice()
        && rate(last) > 0.0
    {
        let did = match first.clash {
            Some(_) => ("confirmed", "connections"),
            None => ("did", "operations"),
        };
        let _ = writeln!(
            text,
            "{} {} {:.2} times as many {} a second as {}.",
            whose(first, results),
            did.0,
            rate(first) / rate(last),
            did.1,
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
    for doubt in doubts(group) {
        let _ = writeln!(text, "unsafe: {doubt}.");
    }
    text.push_str(&open_loops(group, results));
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

/// What a search found, and where percentiles rest on few batches.
fn open_loops(group: &[RunResult], results: &[RunResult]) -> String {
    let mut text = String::new();
    let mut few = false;
    for result in group {
        let Some(open) = &result.open_loop else {
            continue;
        };
        few |= open.batches < 10_000;
        let Some(search) = &open.search else {
            continue;
        };
        let (whose, trials) = (whose(result, results), search.trials.len());
        let limit = format!(
            "{} at {} us or less",
            search.percentile,
            search.limit_ns as f64 / 1e3
        );
        let _ = match open.rate_per_s {
            Some(rate) => writeln!(
                text,
                "{whose} keeps {limit} up to {:.3} M/s ({trials} trials, to {:.0} %).",
                rate / 1e6,
                search.resolution * 100.0
            ),
            None => writeln!(
                text,
                "{whose} keeps {limit} at no rate that was tried ({trials} trials); the figures are those of the last."
            ),
        };
    }
    if few {
        text.push_str("p99.99 is of fewer than 10000 batches somewhere: close to the maximum there; a longer --duration tells more.\n");
    }
    text
}

/// The table, with whatever else tells its result from the others.
fn whose(result: &RunResult, results: &[RunResult]) -> String {
    let differing: Vec<String> = varying(results)
        .into_iter()
        .zip(values(result))
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
    use crate::calibrate::Hints;
    use crate::workload::tally::Tally;
    use crate::workload::{Case, Measurement, Sample, clash};
    use clashtrack_engine::tuple::Protocol;
    use std::time::Duration;

    /// One sample of a second: so many flows confirmed, so many offered.
    fn result(table: &'static str, workers: usize, confirmed: u64, offered: u64) -> RunResult {
        let case = Case {
            workload: clash::WORKLOAD,
            workers,
            batch: 32,
            connections: 1000,
            protocol: Protocol::UDP,
            duration: Duration::from_secs(1),
            repeat: 1,
            seed: 1,
            prefetch: Hints::default(),
            isa: clashtrack_engine::table::lockfree::Isa::default(),
            steer: crate::workload::steer::Steer::default(),
        };
        let tally = Tally {
            offered,
            confirmed,
            resolved_same: offered - confirmed,
            ..Tally::default()
        };
        let samples = vec![Sample {
            elapsed: Duration::from_secs(1),
            operations: offered,
            tally,
            disturbed: false,
        }];
        RunResult::of(&Measurement {
            samples,
            tally,
            chances: confirmed,
            ..Measurement::new(case, table)
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
}

//! Results of `run` for people: a table a workload, per-CPU counters as `conntrack -S` prints them.

use std::fmt::Write as _;

use clashtrack_engine::stats::conntrack_s_line;

use super::grid::{Align, Grid};
use super::json::{Accounting, ClashFigures, RunResult, Spread};
use crate::cli::Format;

/// All results in one grid, as `--format csv` and `markdown` print it.
#[must_use]
pub fn one_grid(results: &[RunResult], format: Format) -> String {
    let mut columns = vec![Column::new("workload", Align::Left, |r| {
        r.workload.to_owned()
    })];
    columns.extend(columns_of(results, results));
    drawn(&columns, results, format)
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
        text.push_str(&closing(group));
        text.push('\n');
        rest = others;
    }
    text
}

/// A column: its head, and what a result has there.
struct Column {
    head: &'static str,
    align: Align,
    cell: Box<dyn Fn(&RunResult) -> String>,
}

impl Column {
    fn new(
        head: &'static str,
        align: Align,
        cell: impl Fn(&RunResult) -> String + 'static,
    ) -> Column {
        Column {
            head,
            align,
            cell: Box::new(cell),
        }
    }

    fn number(head: &'static str, cell: impl Fn(&RunResult) -> String + 'static) -> Column {
        Column::new(head, Align::Right, cell)
    }

    /// Of figures that a result may not have.
    fn some<F: 'static>(
        head: &'static str,
        part: impl Fn(&RunResult) -> Option<F> + 'static,
        shown: impl Fn(F) -> String + 'static,
    ) -> Column {
        Column::number(head, move |r| {
            part(r).map_or_else(|| "-".to_owned(), &shown)
        })
    }
}

fn drawn(columns: &[Column], rows: &[RunResult], format: Format) -> String {
    let mut grid = Grid::new(columns.iter().map(|column| (column.head, column.align)));
    for row in rows {
        grid.row(columns.iter().map(|column| (column.cell)(row)));
    }
    grid.render(format)
}

/// Columns that differ between results are shown; one that is the same everywhere is said once, above.
fn varies<V: PartialEq>(results: &[RunResult], field: impl Fn(&RunResult) -> V) -> bool {
    results
        .windows(2)
        .any(|two| field(&two[0]) != field(&two[1]))
}

/// The columns of a group of results, out of all.
fn columns_of(group: &[RunResult], all: &[RunResult]) -> Vec<Column> {
    let mut columns = vec![Column::new("table", Align::Left, |r| r.table.to_owned())];
    if varies(all, |r| r.workers) {
        columns.push(Column::number("workers", |r| r.workers.to_string()));
    }
    if varies(all, |r| r.batch) {
        columns.push(Column::number("batch", |r| r.batch.to_string()));
    }
    if varies(all, |r| r.connections) {
        columns.push(Column::number("connections", |r| r.connections.to_string()));
    }
    if varies(group, |r| r.l4) {
        columns.push(Column::new("protocol", Align::Left, |r| r.l4.to_owned()));
    }
    let has = |part: fn(&RunResult) -> bool| group.iter().any(part);
    if has(|r| r.clash.is_none()) {
        columns.extend(speed_columns());
    }
    if has(|r| r.bytes_per_connection.is_some()) {
        let bytes = |bytes: f64| format!("{bytes:.0}");
        columns.push(Column::some(
            "bytes a connection",
            |r| r.bytes_per_connection,
            bytes,
        ));
    }
    if has(|r| r.stall.is_some()) {
        columns.extend(stall_columns());
    }
    if has(|r| r.expiry.is_some()) {
        columns.extend(expiry_columns());
    }
    if has(|r| r.clash.is_some()) {
        columns.extend(clash_columns(has(|r| r.workload != "clash-tcp")));
    }
    columns.push(Column::new("anomalies", Align::Left, anomalies));
    columns
}

fn speed_columns() -> Vec<Column> {
    vec![
        Column::number("ns an operation", |r| nanoseconds(&r.ns_per_op)),
        Column::number("M/s", |r| millions(&r.ops_per_s)),
        Column::some("limit ns", |r| r.limit_ns, |ns| format!("{ns:.1}")),
        Column::some(
            "of the limit",
            |r| r.limit_ratio,
            |ratio| format!("{ratio:.2}"),
        ),
    ]
}

fn stall_columns() -> Vec<Column> {
    vec![
        Column::some(
            "hung",
            |r| r.stall,
            |s| if s.hung { "yes" } else { "no" }.to_owned(),
        ),
        Column::some(
            "longest pause ms",
            |r| r.stall,
            |s| format!("{:.1}", s.longest_pause_ms),
        ),
        Column::some(
            "others' operations",
            |r| r.stall,
            |s| s.others_ops.to_string(),
        ),
        Column::some(
            "lookups kept",
            |r| r.stall,
            |s| format!("{:.2}", s.lookups_kept),
        ),
        Column::some("refused", |r| r.stall, |s| s.recycle_stalled.to_string()),
    ]
}

fn expiry_columns() -> Vec<Column> {
    vec![
        Column::some(
            "expiry % of a core",
            |r| r.expiry,
            |e| format!("{:.1}", e.core_share * 100.0),
        ),
        Column::some(
            "longest pass us",
            |r| r.expiry,
            |e| format!("{:.0}", e.longest_pass_us),
        ),
        Column::some(
            "insert p99.9 us with",
            |r| r.expiry,
            |e| format!("{:.1}", e.insert_p999_ns_with as f64 / 1e3),
        ),
        Column::some(
            "without",
            |r| r.expiry,
            |e| format!("{:.1}", e.insert_p999_ns_without as f64 / 1e3),
        ),
        Column::some("expired", |r| r.maintenance, |m| m.expired.to_string()),
    ]
}

type Count = (&'static str, fn(Accounting) -> u64);

/// TCP has no resolution, so where there is nothing else the rate that says something is that of its drops.
fn clash_columns(resolves: bool) -> Vec<Column> {
    let rate = |head, of: fn(&ClashFigures) -> &Spread| {
        Column::number(head, move |r| {
            r.clash
                .as_ref()
                .map_or_else(|| "-".to_owned(), |clash| millions(of(clash)))
        })
    };
    let mut columns = vec![if resolves {
        rate("resolved M/s", |clash| &clash.resolved_per_s)
    } else {
        rate("dropped M/s", |clash| &clash.dropped_per_s)
    }];
    columns.push(rate("confirmed M/s", |clash| &clash.confirmed_per_s));
    let counts: [Count; 4] = [
        ("merged", |a| a.resolved_same),
        ("reply-only", |a| a.resolved_reply_only),
        ("dropped", |a| a.dropped),
        ("found at lookup", |a| a.found_at_lookup),
    ];
    for (head, count) in counts {
        columns.push(Column::some(
            head,
            |r| r.accounting,
            move |a| count(a).to_string(),
        ));
    }
    columns.push(Column::some(
        "collided %",
        |r| r.clash.clone(),
        |clash| {
            let mark = if clash.unsure { " unsure" } else { "" };
            format!("{:.0}{mark}", clash.collided_share * 100.0)
        },
    ));
    let clash = |part: fn(&ClashFigures) -> Option<f64>| {
        move |r: &RunResult| r.clash.as_ref().and_then(part)
    };
    columns.push(Column::some(
        "longest chain",
        clash(|c| c.chain_longest.map(|n| n as f64)),
        |n| format!("{n:.0}"),
    ));
    columns.push(Column::some("mean chain", clash(|c| c.chain_mean), |n| {
        format!("{n:.2}")
    }));
    columns
}

/// Median, and half the distance between the extremes in percent of it.
fn nanoseconds(spread: &Spread) -> String {
    let half = (spread.max - spread.min) / 2.0 / spread.median.max(1e-9) * 100.0;
    format!("{:.1} ±{half:.0}%", spread.median)
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
            "{} did {:.2} times as many operations a second as {}.",
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

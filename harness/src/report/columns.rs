//! The columns of a grid of results: what each workload has to say, and how it is written.

use super::grid::Align;
use super::json::{Accounting, ClashFigures, RunResult, Spread};
use super::open_loop::{Latency, OpenLoopFigures};

/// A column: its head, and what a result has there.
pub(super) struct Column {
    pub(super) head: &'static str,
    pub(super) align: Align,
    pub(super) cell: Box<dyn Fn(&RunResult) -> String>,
}

impl Column {
    pub(super) fn new(
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

/// What differs between results is shown; what is the same everywhere is said once, above.
pub(super) fn varying(results: &[RunResult]) -> [(&'static str, bool); 4] {
    [
        ("workers", varies(results, |r| r.workers)),
        ("batch", varies(results, |r| r.batch)),
        ("connections", varies(results, |r| r.connections)),
        ("l4", varies_within(results)),
    ]
}

/// A result's value of each of these.
pub(super) fn values(result: &RunResult) -> [String; 4] {
    [
        result.workers.to_string(),
        result.batch.to_string(),
        result.connections.to_string(),
        result.l4.to_owned(),
    ]
}

fn varies<V: PartialEq>(results: &[RunResult], field: impl Fn(&RunResult) -> V) -> bool {
    results
        .windows(2)
        .any(|two| field(&two[0]) != field(&two[1]))
}

/// Each clash workload has a protocol of its own: what counts is whether one workload has two.
fn varies_within(results: &[RunResult]) -> bool {
    results
        .windows(2)
        .any(|two| two[0].workload == two[1].workload && two[0].l4 != two[1].l4)
}

/// The columns of a group of results, out of all.
pub(super) fn columns_of(group: &[RunResult], all: &[RunResult]) -> Vec<Column> {
    let mut columns = vec![Column::new("table", Align::Left, |r| r.table.to_owned())];
    for (at, (head, shown)) in varying(all).into_iter().enumerate() {
        if shown {
            columns.push(Column::number(head, move |r| values(r)[at].clone()));
        }
    }
    let has = |part: fn(&RunResult) -> bool| group.iter().any(part);
    if has(|r| r.clash.is_none() && r.open_loop.is_none()) {
        columns.extend(speed_columns());
    }
    if has(|r| r.open_loop.is_some()) {
        columns.extend(open_loop_columns());
    }
    if has(|r| r.bytes_per_connection.is_some()) {
        let bytes = |bytes: f64| format!("{bytes:.0}");
        columns.push(Column::some(
            "bytes a connection",
            |r| r.bytes_per_connection,
            bytes,
        ));
    }
    if has(|r| r.two_line_hits.is_some()) {
        columns.push(Column::some(
            "hits in two lines",
            |r| r.two_line_hits,
            |share| format!("{:.1} %", share * 100.0),
        ));
    }
    if has(|r| r.stall.is_some()) {
        columns.extend(stall_columns());
    }
    if has(|r| r.expiry.is_some()) {
        columns.extend(expiry_columns());
    }
    if has(|r| r.clash.is_some()) {
        let resolves = has(|r| r.clash.is_some() && r.workload != "clash-tcp");
        columns.extend(clash_columns(resolves));
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

/// A percentile's column.
type Percentile = (&'static str, fn(&Latency) -> u64);

fn open_loop_columns() -> Vec<Column> {
    let asked = |open: OpenLoopFigures| match open.rate_per_s {
        Some(rate) => format!("{:.3}", rate / 1e6),
        None => "no rate".to_owned(),
    };
    let done = |open: OpenLoopFigures| {
        let mark = if open.saturated { " saturated" } else { "" };
        format!("{:.3}{mark}", open.achieved_per_s / 1e6)
    };
    let mut columns = vec![
        Column::some("asked M/s", |r| r.open_loop.clone(), asked),
        Column::some("did M/s", |r| r.open_loop.clone(), done),
    ];
    let parts: [Percentile; 6] = [
        ("p50 us", |l| l.p50),
        ("p90 us", |l| l.p90),
        ("p99 us", |l| l.p99),
        ("p99.9 us", |l| l.p999),
        ("p99.99 us", |l| l.p9999),
        ("max us", |l| l.max),
    ];
    let latencies = parts.into_iter().map(|(head, part)| {
        let shown = move |latency: Latency| format!("{:.1}", part(&latency) as f64 / 1e3);
        Column::some(head, |r| r.latency_ns, shown)
    });
    columns.extend(latencies);
    columns
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
        Column::some(
            "removals kept",
            |r| r.stall,
            |s| format!("{:.2}", s.removals_kept),
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
            "longest idle pass us",
            |r| r.expiry,
            |e| format!("{:.0}", e.longest_idle_pass_us),
        ),
        Column::some(
            "pass p99.9 us",
            |r| r.expiry,
            |e| format!("{:.0}", e.pass_p999_us),
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
    columns.push(Column::some(
        "of the floor",
        |r| r.clash.clone(),
        move |clash| {
            let did = if resolves {
                clash.resolved_per_s.median
            } else {
                clash.dropped_per_s.median
            };
            let of = |floor: f64| format!("{:.2}", did / floor);
            clash.floor_per_s.map_or_else(|| "-".to_owned(), of)
        },
    ));
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

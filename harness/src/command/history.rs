//! `clashtrack history`: a metric over saved runs, and where it changed.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use clashtrack_statistics::change::{FALSE_ALARMS, PART_MIN, PERMUTATIONS, POINTS_MIN};

use super::{Globals, values};
use crate::cli::Format;
use crate::error::Error;
use crate::history;
use crate::history::metric::{self, Better, METRICS, Metric};
use crate::history::series::{self, Change, Point, Series};
use crate::history::store::{Saved, Store, Wanted};
use crate::report::envelope::{Envelope, Nothing};
use crate::report::grid::{Align, Grid};

const AFTER_HELP: &str = "\
`clashtrack run … --save` keeps a run; this shows a metric over the runs that were kept. A series is of one workload, table,
workers, batch, connections and protocol, on one kind of machine (processor, vCPUs, kernel, page size, optimisation), with the
same settings but seed, repeats and launches: what `compare` would let be compared.

Metrics: ns_per_op, limit_ratio, limit_ns, ops_per_s, bytes_per_connection, resolved_per_s, confirmed_per_s, dropped_per_s,
rate_per_s, two_line_hits, latency_p50_ns, latency_p90_ns, latency_p99_ns, latency_p999_ns, latency_p9999_ns, latency_max_ns. Machines drift: limit_ratio is
the machine's own limit ÷ the time of an operation, each sample with the limit measured beside it in its own run.

Change points are those of E-divisive with a permutation test (Matteson and James 2014; Daly et al. 2020): the series is divided
where its parts differ most, if at most 1 in 100 of 999 random orders of its points can be divided as well, and each part again.
So a series that did not change shows a change in 1 of 100 cases; fewer than 10 runs are not judged; a change shows from its third run on.

Examples:
  clashtrack run lookup-hit connect --save
  clashtrack history
  clashtrack history --metric limit_ratio --workload lookup-hit --table lockfree
  clashtrack history --metric bytes_per_connection --last 50 --json";

/// What `history` takes.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct HistoryArgs {
    /// What to follow; see below
    #[arg(long, value_name = "METRIC", default_value = metric::DEFAULT)]
    pub metric: String,
    /// Workloads to show [default: all that were saved]
    #[arg(long = "workload", value_name = "WORKLOAD", value_delimiter = ',')]
    pub workloads: Vec<String>,
    /// Tables to show [default: all that were saved]
    #[arg(long = "table", value_name = "TABLE", value_delimiter = ',')]
    pub tables: Vec<String>,
    /// Runs of each series, the last ones
    #[arg(long, value_name = "N", default_value = "200")]
    pub last: String,
    /// Where runs were saved [default: $CLASHTRACK_HISTORY, else .clashtrack/history.sqlite]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Seed of the permutation tests, where the user gave none.
const DEFAULT_SEED: u64 = 1;

/// Looking for changes takes the square of this for each random order.
const LAST_MAX: usize = 2000;

#[derive(Serialize, Debug)]
struct Config<'a> {
    file: String,
    metric: &'static str,
    better: Better,
    workloads: &'a [String],
    tables: &'a [String],
    last: usize,
    method: &'static str,
    false_alarms: f64,
    permutations: usize,
    part_min: usize,
    points_min: usize,
    seed: u64,
}

/// Shows.
///
/// # Errors
/// [`Error::Argument`] for a metric, workload or table that is not there; [`Error::Input`] and [`Error::File`] for a file that
/// is no history; [`Error::Output`] when stdout cannot be written.
pub fn run(args: &HistoryArgs, globals: &Globals) -> Result<ExitCode, Error> {
    let metric = known(&args.metric)?;
    let last = last(&args.last)?;
    let path = args.file.clone().unwrap_or_else(history::default_file);
    let store = Store::to_read(&path)?;
    let saved = results(&store, args)?;
    let seed = globals.seed.unwrap_or(DEFAULT_SEED);
    let series = series::of(&saved, metric, last, seed).map_err(|(run, error)| Error::Input {
        place: format!("{}: run {run}", path.display()),
        problem: format!("this is no result: {error}"),
        remedy: "delete that run, or name another file".to_owned(),
    })?;
    if series.is_empty() {
        return Err(measured_nowhere(metric, &saved));
    }
    match globals.format {
        Format::Json => {
            let config = Config {
                file: path.display().to_string(),
                metric: metric.name,
                better: metric.better,
                workloads: &args.workloads,
                tables: &args.tables,
                last,
                method: "e-divisive",
                false_alarms: FALSE_ALARMS,
                permutations: PERMUTATIONS,
                part_min: PART_MIN,
                points_min: POINTS_MIN,
                seed,
            };
            Envelope::new("history", config, &series, Nothing {}).print()?;
        }
        Format::Table => print(&text(&series, metric))?,
        format => print(&grid(&series, metric).render(format))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn known(name: &str) -> Result<Metric, Error> {
    metric::by_name(name).ok_or_else(|| Error::Argument {
        flag: "--metric",
        problem: format!("there is no metric `{name}`"),
        remedy: format!("write one of {}", names(METRICS.iter())),
    })
}

fn names<'a>(metrics: impl Iterator<Item = &'a Metric>) -> String {
    metrics.map(|m| m.name).collect::<Vec<_>>().join(", ")
}

fn last(word: &str) -> Result<usize, Error> {
    let last = values::size("--last", word)?;
    if (1..=LAST_MAX).contains(&last) {
        return Ok(last);
    }
    Err(Error::Argument {
        flag: "--last",
        problem: format!("{last} is out of range"),
        remedy: format!("write a number from 1 to {LAST_MAX}"),
    })
}

/// The results that are wanted. A name that the file does not have is more likely a slip than a wish for nothing.
fn results(store: &Store, args: &HistoryArgs) -> Result<Vec<Saved>, Error> {
    let wanted = Wanted {
        workloads: args.workloads.clone(),
        tables: args.tables.clone(),
    };
    let there = [
        ("--workload", &wanted.workloads, store.workloads()?),
        ("--table", &wanted.tables, store.tables()?),
    ];
    for (flag, asked, there) in there {
        if there.is_empty() {
            return Err(Error::Input {
                place: store.path().display().to_string(),
                problem: "no result was ever saved in it".to_owned(),
                remedy: "`clashtrack run … --save` keeps results there".to_owned(),
            });
        }
        if let Some(name) = asked.iter().find(|name| !there.contains(name)) {
            return Err(Error::Argument {
                flag,
                problem: format!("{} has no result of `{name}`", store.path().display()),
                remedy: format!("write one of {}", there.join(", ")),
            });
        }
    }
    store.results(&wanted)
}

fn measured_nowhere(metric: Metric, saved: &[Saved]) -> Error {
    let measured = METRICS
        .iter()
        .filter(|metric| saved.iter().any(|row| metric.of(&row.result).is_some()));
    let (problem, remedy) = if saved.is_empty() {
        let problem = "no result is of these workloads and these tables".to_owned();
        (problem, "leave --workload or --table out".to_owned())
    } else {
        let problem = format!("none of the {} results has {}", saved.len(), metric.name);
        (problem, format!("write one of {}", names(measured)))
    };
    Error::Argument {
        flag: "--metric",
        problem,
        remedy,
    }
}

fn print(text: &str) -> Result<(), Error> {
    io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(Error::Output)
}

type Column = (&'static str, Align, fn(&Series, usize) -> String);

/// Columns of CSV and Markdown: a row a point.
const COLUMNS: [Column; 21] = [
    ("workload", Align::Left, |s, _| s.case.workload.clone()),
    ("table", Align::Left, |s, _| s.case.table.clone()),
    ("workers", Align::Right, |s, _| s.case.workers.to_string()),
    ("batch", Align::Right, |s, _| s.case.batch.to_string()),
    ("connections", Align::Right, |s, _| {
        s.case.connections.to_string()
    }),
    ("l4", Align::Left, |s, _| s.case.l4.clone()),
    ("rate_per_s", Align::Right, |s, _| {
        optional(s.case.rate_per_s)
    }),
    ("cpu", Align::Left, |s, _| word(&s.machine["cpu"])),
    ("vcpus", Align::Right, |s, _| word(&s.machine["vcpus"])),
    ("run", Align::Right, |s, at| s.points[at].run.to_string()),
    ("saved_at", Align::Left, |s, at| {
        s.points[at].saved_at.clone()
    }),
    ("revision", Align::Left, |s, at| {
        s.points[at].revision.clone().unwrap_or_default()
    }),
    ("median", Align::Right, |s, at| {
        s.points[at].value.median.to_string()
    }),
    ("min", Align::Right, |s, at| {
        s.points[at].value.min.to_string()
    }),
    ("max", Align::Right, |s, at| {
        s.points[at].value.max.to_string()
    }),
    ("samples", Align::Right, |s, at| {
        s.points[at].value.samples.len().to_string()
    }),
    ("disturbed", Align::Right, |s, at| {
        s.points[at].disturbed.to_string()
    }),
    ("limit_ns", Align::Right, |s, at| {
        optional(s.points[at].limit_ns)
    }),
    ("change_ratio", Align::Right, |s, at| {
        optional(change_at(s, at).and_then(|change| change.ratio))
    }),
    ("change_p_value", Align::Right, |s, at| {
        optional(change_at(s, at).map(|change| change.p_value))
    }),
    ("limit_moved", Align::Right, |s, at| {
        optional(change_at(s, at).and_then(|change| change.limit_moved))
    }),
];

fn optional(number: Option<f64>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

/// A value without the quotes that JSON puts around words.
fn word(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        value => value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned),
    }
}

fn change_at(series: &Series, at: usize) -> Option<&Change> {
    series.changes.iter().find(|change| change.at == at)
}

fn grid(all: &[Series], metric: Metric) -> Grid {
    let head = COLUMNS.map(|(name, align, _)| {
        // The unit is in the metric's name.
        let name = match name {
            "median" => metric.name,
            name => name,
        };
        (name, align)
    });
    let mut grid = Grid::new(head);
    for series in all {
        for at in 0..series.points.len() {
            grid.row(COLUMNS.iter().map(|(_, _, cell)| cell(series, at)));
        }
    }
    grid
}

/// What people see: a grid a series, its shape in a line above, its changes below.
fn text(all: &[Series], metric: Metric) -> String {
    let better = match metric.better {
        Better::Lower => "lower is better",
        Better::Higher => "higher is better",
    };
    let mut text = format!("{}, {better}\n", metric.name);
    for series in all {
        text.push('\n');
        text.push_str(&head(series));
        text.push_str(&points(series, metric).render(Format::Table));
        if series.changes.is_empty() {
            text.push_str(if series.judged {
                "no change\n"
            } else {
                "too few runs to look for changes: ten are needed\n"
            });
        }
        for change in &series.changes {
            text.push_str(&sentence(change));
        }
    }
    text
}

fn head(series: &Series) -> String {
    let case = &series.case;
    let rate = case
        .rate_per_s
        .map_or_else(String::new, |rate| format!(", {rate} operations/s offered"));
    let mut text = format!(
        "{} on {}: workers {}, batch {}, connections {}, {}{rate}\n",
        case.workload, case.table, case.workers, case.batch, case.connections, case.l4
    );
    let machine: Vec<String> = ["cpu", "vcpus", "kernel"]
        .iter()
        .zip(["", " vCPUs", ""])
        .map(|(name, unit)| format!("{}{unit}", word(&series.machine[*name])))
        .collect();
    let settings: Vec<String> = series
        .settings
        .iter()
        .map(|(name, value)| format!("{name} {}", word(value)))
        .collect();
    let _ = writeln!(text, "{}; {}", machine.join(", "), settings.join(", "));
    text
}

fn points(series: &Series, metric: Metric) -> Grid {
    let limits = metric.name != "limit_ns" && series.points.iter().any(|p| p.limit_ns.is_some());
    let mut columns = vec![
        ("saved at (UTC)", Align::Left),
        ("revision", Align::Left),
        (metric.name, Align::Right),
        ("spread", Align::Right),
    ];
    if limits {
        columns.push(("limit_ns", Align::Right));
    }
    columns.extend([("disturbed", Align::Right), ("", Align::Left)]);
    let largest = series.points.iter().map(|point| point.value.median);
    let largest = largest.fold(0.0, f64::max);
    let mut grid = Grid::new(columns);
    for (at, point) in series.points.iter().enumerate() {
        let mut cells = vec![
            seconds(&point.saved_at),
            point.revision.clone().unwrap_or_else(|| "-".to_owned()),
            figure(point.value.median),
            spread(point),
        ];
        if limits {
            cells.push(point.limit_ns.map_or_else(|| "-".to_owned(), figure));
        }
        cells.push(match point.disturbed {
            0 => "-".to_owned(),
            disturbed => format!("{disturbed}/{}", point.value.samples.len()),
        });
        let mark = match change_at(series, at) {
            None => "",
            Some(change) if change.better => " <- better",
            Some(_) => " <- worse",
        };
        cells.push(format!("{}{mark}", bar(point.value.median, largest)));
        grid.row(cells);
    }
    grid
}

/// `2026-01-31 23:59:58` of the same with `T`, parts of a second and `Z`.
fn seconds(saved_at: &str) -> String {
    saved_at
        .chars()
        .take(19)
        .collect::<String>()
        .replace('T', " ")
}

/// Half of what lies between the extremes, relative to the median.
fn spread(point: &Point) -> String {
    let value = &point.value;
    if value.samples.len() < 2 || value.median == 0.0 {
        return "-".to_owned();
    }
    let half = (value.max - value.min) / 2.0 / value.median;
    format!("±{:.0}%", half * 100.0)
}

/// Four digits, or all that stand before the point.
fn figure(number: f64) -> String {
    let decimals = match number.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 3,
    };
    format!("{number:.decimals$}")
}

/// As long as the figure is large: 30 for the largest.
fn bar(number: f64, largest: f64) -> String {
    if largest <= 0.0 {
        return String::new();
    }
    "#".repeat((number / largest * 30.0).round() as usize)
}

fn sentence(change: &Change) -> String {
    let revision = |name: &Option<String>| name.clone().unwrap_or_else(|| "unknown".to_owned());
    let by = change.ratio.map_or_else(String::new, |ratio| {
        format!(" ({:+.1} %)", (ratio - 1.0) * 100.0)
    });
    let limit = change.limit_moved.map_or_else(String::new, |moved| {
        format!(
            "; the machine's limit moved by {:+.1} %",
            (moved - 1.0) * 100.0
        )
    });
    format!(
        "{} from {}, after {}, to {}: {} -> {}{by}, p {:.3}{limit}\n",
        if change.better { "better" } else { "worse" },
        seconds(&change.saved_at),
        revision(&change.last_revision),
        revision(&change.revision),
        figure(change.before),
        figure(change.after),
        change.p_value,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_metric() {
        for metric in METRICS {
            assert!(AFTER_HELP.contains(metric.name), "{}", metric.name);
        }
    }

    #[test]
    fn figures_have_four_digits_or_all_before_the_point() {
        let said = [0.0, 0.8765, 12.345, 123.45, 1234567.8].map(figure);
        assert_eq!(said, ["0.000", "0.876", "12.35", "123.5", "1234568"]);
    }

    #[test]
    fn the_largest_has_the_longest_bar() {
        assert_eq!(bar(5.0, 5.0).len(), 30);
        assert_eq!(bar(2.5, 5.0).len(), 15);
        assert_eq!(bar(0.0, 0.0), "");
    }
}

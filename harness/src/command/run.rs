//! `clashtrack run`: races workloads on tables and prints what it measured; without a
//! subcommand, the main job: the three clash workloads on four tables, in about ten seconds.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{Globals, values};
use crate::cli::Format;
use crate::error::{EXIT_INTERRUPTED, EXIT_NO, Error};
use crate::interrupt;
use crate::peer::{DEFAULT_TABLES, TABLES};
use crate::report::envelope::{Envelope, Nothing};
use crate::report::json::RunResult;
use crate::report::machine::Machine;
use crate::report::table;
use crate::workload::flows::FLOWS_MAX;
use crate::workload::worker::Cores;
use crate::workload::{self, Measured, Plan, WORKLOADS};

const AFTER_HELP: &str = "\
Every flow is offered by all workers at once; one wins, the others clash. Sizes are written
as 64k or 1M, times as 500ms or 10s; lists with commas; 1k..16M doubles from 1k to 16M.

Examples:
  clashtrack run clash --table striped,dashmap
  clashtrack run clash clash-tcp --workers 2,4 --batch 1,32 --format csv
  clashtrack run clash-nat --connections 1k..64k --seed 7 --json";

/// The seed of a run whose user gave none.
pub const DEFAULT_SEED: u64 = 1;

/// Time of a sample in the main job: with its untimed checks, nine races take about 10 s.
const MAIN_JOB_DURATION: &str = "80ms";

const WORKERS_MAX: usize = 1024;
const BATCH_MAX: usize = 4096;
const REPEAT_MAX: usize = 10_000;
/// Memory of an entry, its tracker and its part of the largest index, with some to spare.
const ENTRY_BYTES: usize = 320;

/// What `run` takes.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct RunArgs {
    /// Workloads to run, in this order (see `clashtrack list`)
    #[arg(value_name = "WORKLOAD", required = true)]
    pub workloads: Vec<String>,
    /// Tables to run them on [default: lockfree,striped,mutex,dashmap]
    #[arg(long = "table", value_name = "TABLE", value_delimiter = ',')]
    pub tables: Vec<String>,
    /// Workers, one pinned to each core [default: all cores, two at least]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub workers: Vec<String>,
    /// Flows of a round
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "64k")]
    pub connections: Vec<String>,
    /// Flows that a worker looks up before it confirms any of them
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "32")]
    pub batch: Vec<String>,
    /// Time of one sample
    #[arg(long, value_name = "TIME", default_value = "500ms")]
    pub duration: String,
    /// Samples of each workload on each table
    #[arg(long, value_name = "N", default_value = "5")]
    pub repeat: String,
}

impl RunArgs {
    /// What the command does without arguments.
    fn main_job() -> RunArgs {
        RunArgs {
            workloads: WORKLOADS.iter().map(|w| w.name.to_owned()).collect(),
            tables: Vec::new(),
            workers: Vec::new(),
            connections: vec!["64k".to_owned()],
            batch: vec!["32".to_owned()],
            duration: MAIN_JOB_DURATION.to_owned(),
            repeat: "5".to_owned(),
        }
    }

    /// The resolved plan.
    ///
    /// # Errors
    /// [`Error::Argument`] for whatever cannot be honoured.
    fn plan(&self, globals: &Globals, cores: &Cores) -> Result<Plan, Error> {
        let workloads = self.workloads.iter().map(|name| {
            workload::by_name(name).ok_or_else(|| Error::Argument {
                flag: "WORKLOAD",
                problem: format!("there is no workload `{name}`"),
                remedy: format!(
                    "write one of {}",
                    names(WORKLOADS.iter().map(|workload| workload.name))
                ),
            })
        });
        let tables = self.tables.iter().map(|name| {
            let table = TABLES.iter().find(|table| table.name == name);
            table
                .map(|table| table.name)
                .ok_or_else(|| Error::Argument {
                    flag: "--table",
                    problem: format!("there is no table `{name}`"),
                    remedy: format!(
                        "write one of {}",
                        names(TABLES.iter().map(|table| table.name))
                    ),
                })
        });
        let mut plan = Plan {
            workloads: workloads.collect::<Result<_, _>>()?,
            tables: tables.collect::<Result<_, _>>()?,
            workers: bounded("--workers", &self.workers, WORKERS_MAX)?,
            batches: bounded("--batch", &self.batch, BATCH_MAX)?,
            connections: bounded("--connections", &self.connections, FLOWS_MAX)?,
            duration: values::duration("--duration", &self.duration)?,
            repeat: bounded("--repeat", std::slice::from_ref(&self.repeat), REPEAT_MAX)?[0],
            seed: globals.seed.unwrap_or(DEFAULT_SEED),
        };
        if plan.tables.is_empty() {
            plan.tables = DEFAULT_TABLES.to_vec();
        }
        if plan.workers.is_empty() {
            plan.workers = vec![cores.count().max(2)];
        }
        check_memory(&plan)?;
        Ok(plan)
    }
}

/// Sizes from 1 to `most`.
fn bounded(flag: &'static str, words: &[String], most: usize) -> Result<Vec<usize>, Error> {
    let sizes = values::sizes(flag, words)?;
    match sizes.iter().find(|&&size| size == 0 || size > most) {
        None => Ok(sizes),
        Some(size) => Err(Error::Argument {
            flag,
            problem: format!("{size} is out of range"),
            remedy: format!("write a number from 1 to {most}"),
        }),
    }
}

fn names(all: impl Iterator<Item = &'static str>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

/// All tables of a race are in memory together: refuse what would be killed for want of memory.
fn check_memory(plan: &Plan) -> Result<(), Error> {
    let largest = |list: &[usize]| list.iter().copied().max().unwrap_or(0);
    let entries = largest(&plan.connections) * largest(&plan.workers) * plan.tables.len();
    let needed = entries.saturating_mul(ENTRY_BYTES) as u64;
    match Machine::memory_available() {
        Some(available) if needed > available => Err(Error::Argument {
            flag: "--connections",
            problem: format!(
                "{} tables with room for {} flows of {} workers take about {} MB, and {} MB are free",
                plan.tables.len(),
                largest(&plan.connections),
                largest(&plan.workers),
                needed / 1_000_000,
                available / 1_000_000,
            ),
            remedy: "write fewer connections, workers or tables".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The plan as the JSON shows it.
#[derive(Serialize, Debug)]
struct Config<'a> {
    workloads: Vec<&'static str>,
    tables: &'a [&'static str],
    workers: &'a [usize],
    batch: &'a [usize],
    connections: &'a [usize],
    duration_ms: f64,
    repeat: usize,
    seed: u64,
    cores: usize,
    pinned: bool,
}

/// Runs the workloads and prints the results.
///
/// # Errors
/// [`Error::Argument`] for a workload, table or number that cannot be honoured, before anything
/// is run; [`Error::Output`] when stdout cannot be written.
pub fn run(args: &RunArgs, globals: &Globals) -> Result<ExitCode, Error> {
    let cores = Cores::available();
    let plan = args.plan(globals, &cores)?;
    carry_out(&plan, globals, &cores).map(|(code, _)| code)
}

/// The main job, and what to try next.
///
/// # Errors
/// [`Error::Output`] when stdout cannot be written.
pub fn main_job(globals: &Globals) -> Result<ExitCode, Error> {
    let cores = Cores::available();
    let plan = RunArgs::main_job().plan(globals, &cores)?;
    let (code, interrupted) = carry_out(&plan, globals, &cores)?;
    if globals.format == Format::Table && !globals.quiet && !interrupted {
        print(TRY_NEXT)?;
    }
    Ok(code)
}

const TRY_NEXT: &str = "
Try next:
  clashtrack run clash --table striped,dashmap --batch 1,32   # does looking up in batches change the race?
  clashtrack run clash-nat --seed 7 --json                    # other traffic, every sample, all counters
  clashtrack hooks                                            # where in a packet's path confirm stands
";

fn carry_out(plan: &Plan, globals: &Globals, cores: &Cores) -> Result<(ExitCode, bool), Error> {
    let interrupted = interrupt::flag();
    let bar = progress_bar(plan, globals);
    let measured = workload::measure(plan, interrupted, |workload, table| {
        bar.set_message(format!("{workload} on {table}"));
        bar.inc(1);
    });
    bar.finish_and_clear();
    let results: Vec<RunResult> = measured.measurements.iter().map(RunResult::of).collect();
    let pinned = measured.measurements.iter().all(|m| m.pinned);
    match globals.format {
        Format::Json => envelope(plan, cores, &measured, pinned, &results)?,
        Format::Csv | Format::Markdown => print(&table::one_grid(&results, globals.format))?,
        Format::Table => print(&text(plan, cores, &measured, pinned, &results))?,
    }
    let code = if measured.interrupted {
        ExitCode::from(EXIT_INTERRUPTED)
    } else if results.iter().any(|result| result.lost() != 0) {
        // The books do not balance: it ran, and is not to be believed.
        ExitCode::from(EXIT_NO)
    } else {
        ExitCode::SUCCESS
    };
    Ok((code, measured.interrupted))
}

fn envelope(
    plan: &Plan,
    cores: &Cores,
    measured: &Measured,
    pinned: bool,
    results: &[RunResult],
) -> Result<(), Error> {
    let config = Config {
        workloads: plan
            .workloads
            .iter()
            .map(|workload| workload.name)
            .collect(),
        tables: &plan.tables,
        workers: &plan.workers,
        batch: &plan.batches,
        connections: &plan.connections,
        duration_ms: plan.duration.as_secs_f64() * 1e3,
        repeat: plan.repeat,
        seed: plan.seed,
        cores: cores.count(),
        pinned,
    };
    let machine = Machine {
        load: measured.load,
        ..Machine::here()
    };
    Envelope::new("run", config, results, Nothing {})
        .with_machine(machine)
        .with_interrupted(measured.interrupted)
        .print()
}

/// For people: how it was measured, the grids, the counters of the first table.
fn text(
    plan: &Plan,
    cores: &Cores,
    measured: &Measured,
    pinned: bool,
    results: &[RunResult],
) -> String {
    let mut text = String::new();
    for &workers in &plan.workers {
        text.push_str(&cores.describe(workers, pinned));
        text.push('\n');
    }
    text.push_str(&format!(
        "{} flows a round, batches of {}, {} of {:?}, seed {}; rounds of the tables take turns\n\n",
        joined(&plan.connections),
        joined(&plan.batches),
        counted(plan.repeat, "sample"),
        plan.duration,
        plan.seed,
    ));
    text.push_str(&table::by_workload(results));
    if let Some(first) = plan.tables.first() {
        for result in results.iter().filter(|result| result.table == *first) {
            text.push_str(&table::per_cpu(result, results));
        }
    }
    if plan.tables.len() > 1 && !results.is_empty() {
        text.push_str("The other tables' counters are under per_cpu in what --json prints.\n");
    }
    if measured.interrupted {
        text.push_str(if results.is_empty() {
            "Interrupted before the first sample: nothing was measured.\n"
        } else {
            "Interrupted: this is what was measured so far.\n"
        });
    }
    text
}

/// `1 sample`, `2 samples`.
fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

fn joined(numbers: &[usize]) -> String {
    let words: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    words.join(", ")
}

fn print(text: &str) -> Result<(), Error> {
    io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(Error::Output)
}

fn progress_bar(plan: &Plan, globals: &Globals) -> ProgressBar {
    if globals.quiet || !io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{msg:24} {bar:40} {pos}/{len} samples, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(plan.steps()).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ColorChoice;

    fn globals() -> Globals {
        Globals {
            json: false,
            format: Format::Table,
            color: ColorChoice::Never,
            quiet: true,
            seed: None,
        }
    }

    fn said(change: impl FnOnce(&mut RunArgs)) -> String {
        let mut args = RunArgs::main_job();
        change(&mut args);
        args.plan(&globals(), &Cores::available())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_main_job_is_all_workloads_on_all_tables_with_two_workers_at_least() {
        let plan = RunArgs::main_job()
            .plan(&globals(), &Cores::available())
            .unwrap();
        assert_eq!(plan.workloads.len(), 3);
        assert_eq!(plan.tables, ["lockfree", "striped", "mutex", "dashmap"]);
        assert!(plan.workers[0] >= 2);
        assert_eq!(plan.seed, DEFAULT_SEED);
    }

    #[test]
    fn what_cannot_be_honoured_is_said_with_what_can() {
        let words = |word: &str| vec![word.to_owned()];
        let text = said(|args| args.workloads = words("lookup-hit"));
        assert!(
            text.contains("`lookup-hit`") && text.contains("clash-nat"),
            "{text}"
        );
        let text = said(|args| args.tables = words("hashmap"));
        assert!(
            text.contains("`hashmap`") && text.contains("striped"),
            "{text}"
        );
        let text = said(|args| args.workers = words("0"));
        assert!(text.starts_with("--workers: 0 is out of range"), "{text}");
        let text = said(|args| args.connections = words("1G"));
        assert!(text.contains("from 1 to 16777216"), "{text}");
        let text = said(|args| args.repeat = "0".to_owned());
        assert!(text.starts_with("--repeat:"), "{text}");
    }

    #[test]
    fn an_interrupt_before_the_first_sample_is_not_called_a_measurement() {
        let cores = Cores::available();
        let plan = RunArgs::main_job().plan(&globals(), &cores).unwrap();
        let measured = Measured {
            measurements: Vec::new(),
            load: None,
            interrupted: true,
        };
        let text = text(&plan, &cores, &measured, true, &[]);
        assert!(
            text.ends_with("Interrupted before the first sample: nothing was measured.\n"),
            "{text}"
        );
        assert!(!text.contains("other tables"), "{text}");
    }

    #[test]
    fn a_plan_that_does_not_fit_into_memory_is_refused() {
        let text = said(|args| {
            args.connections = vec!["16M".to_owned()];
            args.workers = vec!["1000".to_owned()];
        });
        assert!(text.contains("MB are free"), "{text}");
    }
}

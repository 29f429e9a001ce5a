//! `clashtrack run`: measures workloads on tables and prints what it saw; without a
//! subcommand, the main job: the three clash workloads on four tables, in about ten seconds.

pub(super) mod against;
mod args;
mod child;
mod large;
mod launches;
mod memory;
mod rate;
mod save;
mod text;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

pub(super) use self::args::AUTO;
use self::args::Order;
pub use self::args::{DEFAULT_SEED, RunArgs};
pub use self::save::SaveArgs;
use super::Globals;
use crate::cli::Format;
use crate::error::{EXIT_INTERRUPTED, EXIT_NO, Error};
use crate::history::store::Store;
use crate::interrupt;
use crate::load::Load;
use crate::report::doubt;
use crate::report::envelope::{Envelope, Nothing};
use crate::report::json::RunResult;
use crate::report::machine::{Machine, Tuning};
use crate::report::table;
use crate::workload::worker::Cores;
use crate::workload::{self, Case, Measured, Plan, answers};

/// What a plan came to, in however many processes.
#[derive(Debug)]
struct Outcome {
    results: Vec<RunResult>,
    load: Option<Load>,
    tuning: Tuning,
    pinned: bool,
    interrupted: bool,
}

impl Outcome {
    /// The machine that it was measured on.
    fn machine(&self) -> Machine {
        Machine {
            load: self.load,
            tuning: Some(self.tuning),
            ..Machine::here()
        }
    }
}

/// The plan as the JSON shows it.
#[derive(Serialize, Debug)]
struct Config<'a> {
    workloads: Vec<&'static str>,
    tables: &'a [&'static str],
    workers: Vec<usize>,
    batch: Vec<usize>,
    connections: Vec<usize>,
    l4: Vec<&'static str>,
    isa: &'static str,
    prefetch: &'static str,
    prefetch_write: &'static str,
    prefetch_asked: String,
    steer: &'static str,
    rate: Option<String>,
    duration_ms: f64,
    repeat: usize,
    launches: usize,
    seed: u64,
    cores: usize,
    pinned: bool,
}

/// The values that a plan's cases have, each once, in order.
fn used<V: PartialEq>(plan: &Plan, value: impl Fn(&Case) -> V) -> Vec<V> {
    let mut values = Vec::new();
    for value in plan.cases().iter().map(value) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

/// Runs the workloads and prints the results.
///
/// # Errors
/// [`Error::Answers`] for a table that gives other answers than the reference;
/// [`Error::Argument`] for a workload, table or number that cannot be honoured, before anything
/// is run; [`Error::Output`] when stdout cannot be written.
pub fn run(args: &RunArgs, globals: &Globals) -> Result<ExitCode, Error> {
    let cores = Cores::available();
    let order = args.order()?;
    let plan = args.plan(globals, &cores)?;
    if args.memory_only {
        return memory::print_growth(&plan, &cores);
    }
    if args.against.on_demand {
        return against::serve_samples(&plan, &args.against);
    }
    if let Some(revision) = &args.against.against {
        return against::run(revision, args, &plan, globals);
    }
    let store = args.save.open()?;
    carry_out(&plan, order, globals, &cores, store).map(|(code, _)| code)
}

/// The main job, and what to try next.
///
/// # Errors
/// [`Error::Output`] when stdout cannot be written.
pub fn main_job(globals: &Globals) -> Result<ExitCode, Error> {
    let cores = Cores::available();
    let args = RunArgs::main_job();
    let plan = args.plan(globals, &cores)?;
    let (code, interrupted) = carry_out(&plan, args.order()?, globals, &cores, None)?;
    if globals.format == Format::Table && !globals.quiet && !interrupted {
        print(TRY_NEXT)?;
    }
    Ok(code)
}

const TRY_NEXT: &str = "
Try next:
  clashtrack run clash --table lockfree,papaya,scc            # other concurrent maps in the same race
  clashtrack run clash --table striped,dashmap --batch 1,32   # does looking up in batches change the race?
  clashtrack run clash-nat --seed 7 --json                    # other traffic, every sample, all counters
  clashtrack hooks                                            # where in a packet's path confirm stands
";

fn carry_out(
    plan: &Plan,
    order: Order,
    globals: &Globals,
    cores: &Cores,
    store: Option<Store>,
) -> Result<(ExitCode, bool), Error> {
    answers::compare(&plan.tables, plan.seed)?;
    let bar = progress_bar(plan, order, globals);
    let mut outcome = if order.launches > 1 {
        in_launches(plan, order, &bar)?
    } else {
        here(plan, &bar)?
    };
    bar.finish_and_clear();
    if !order.with_histograms {
        for result in &mut outcome.results {
            result.histograms = None;
        }
    }
    warn_of_stalls(&outcome.results);
    if globals.format != Format::Table && !globals.quiet {
        // For people it stands in the text.
        for doubt in doubt::doubts(&outcome.results) {
            eprintln!("clashtrack: warning: {doubt}");
        }
    }
    let config = config(plan, order, cores, &outcome);
    let machine = outcome.machine();
    // Kept before it is printed: a reader who goes away takes nothing with him. And printed, should that fail.
    let kept = store.map_or(Ok(()), |mut store| {
        let about = (plan.seed, outcome.interrupted);
        save::keep(
            &mut store,
            &config,
            &machine,
            &outcome.results,
            about,
            globals,
        )
    });
    match globals.format {
        Format::Json => Envelope::new("run", config, &outcome.results, Nothing {})
            .with_machine(machine)
            .with_interrupted(outcome.interrupted)
            .print()?,
        Format::Csv | Format::Markdown => {
            print(&table::one_grid(&outcome.results, globals.format))?;
        }
        Format::Table => print(&text::text(plan, order, cores, &outcome))?,
    }
    kept?;
    let code = if outcome.interrupted {
        ExitCode::from(EXIT_INTERRUPTED)
    } else if outcome.results.iter().any(|result| result.lost() != 0) {
        // The books do not balance: it ran, and is not to be believed.
        ExitCode::from(EXIT_NO)
    } else {
        ExitCode::SUCCESS
    };
    Ok((code, outcome.interrupted))
}

/// Measures in this process, but for what needs others.
fn here(plan: &Plan, bar: &ProgressBar) -> Result<Outcome, Error> {
    let interrupted = interrupt::flag();
    let (here, large) = large::split(plan);
    let mut measured = here.map_or_else(Measured::nothing, |here| {
        workload::measure(&here, interrupted, |workload, table| {
            bar.set_message(format!("{workload} on {table}"));
            bar.inc(1);
        })
    });
    if !measured.interrupted {
        memory::measure(plan, &mut measured.measurements, interrupted)?;
    }
    let children = large::measure(plan, &large, interrupted, |table| {
        bar.set_message(format!("{table}, in a process of its own"));
    })?;
    let mut results: Vec<RunResult> = measured.measurements.iter().map(RunResult::of).collect();
    results.extend(children.results);
    // Each workload's together, as they are without children.
    let place = |result: &RunResult| {
        plan.workloads
            .iter()
            .position(|w| w.name == result.workload)
    };
    results.sort_by_key(place);
    Ok(Outcome {
        results,
        load: measured.load,
        tuning: Tuning::new(plan.isa, plan.prefetch, measured.resident),
        pinned: !children.unpinned && measured.measurements.iter().all(|m| m.pinned),
        interrupted: measured.interrupted || children.interrupted,
    })
}

/// Measures in fresh processes.
fn in_launches(plan: &Plan, order: Order, bar: &ProgressBar) -> Result<Outcome, Error> {
    let launches = order.launches;
    let launched = launches::measure(plan, launches, interrupt::flag(), |number| {
        bar.set_message(format!("launch {number} of {launches}"));
        bar.set_position(number as u64 - 1);
    })?;
    Ok(Outcome {
        results: launched.results,
        load: launched.load,
        tuning: Tuning::with_share(plan.isa, plan.prefetch, launched.huge_page_share),
        pinned: launched.pinned,
        interrupted: launched.interrupted,
    })
}

/// On stderr, whatever the format: such connections were lost to a suspended worker, not to a full table.
fn warn_of_stalls(results: &[RunResult]) {
    for result in results.iter().filter(|r| r.recycle_stalled > 0) {
        eprintln!(
            "clashtrack: warning: {} on {}: {} connections were refused because a suspended worker held up \
             the reuse of entries (recycle_stalled)",
            result.workload, result.table, result.recycle_stalled
        );
    }
}

fn config<'a>(plan: &'a Plan, order: Order, cores: &Cores, outcome: &Outcome) -> Config<'a> {
    Config {
        workloads: plan
            .workloads
            .iter()
            .map(|workload| workload.name)
            .collect(),
        tables: &plan.tables,
        workers: used(plan, |case| case.workers),
        batch: used(plan, |case| case.batch),
        connections: used(plan, |case| case.connections),
        l4: used(plan, |case| case.protocol.name()),
        isa: plan.isa.resolved().name(),
        prefetch: plan.prefetch.reading.name(),
        prefetch_write: plan.prefetch.writing.name(),
        prefetch_asked: if order.prefetch_measured {
            AUTO.to_owned()
        } else {
            plan.prefetch.words()
        },
        steer: plan.steer.name(),
        rate: rate::asked(&plan.demand),
        duration_ms: used(plan, |case| case.duration)[0].as_secs_f64() * 1e3,
        repeat: used(plan, Case::samples)[0],
        launches: order.launches,
        seed: plan.seed,
        cores: cores.count(),
        pinned: outcome.pinned,
    }
}

fn print(text: &str) -> Result<(), Error> {
    io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(Error::Output)
}

fn progress_bar(plan: &Plan, order: Order, globals: &Globals) -> ProgressBar {
    if globals.quiet || !io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let (steps, what) = match order.launches {
        1 => (plan.steps(), "samples"),
        launches => (launches as u64, "launches"),
    };
    let template = format!("{{msg:24}} {{bar:40}} {{pos}}/{{len}} {what}, {{eta}} left");
    let style =
        ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(steps).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

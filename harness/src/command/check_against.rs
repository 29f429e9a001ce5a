//! `clashtrack check-against WORKLOAD`: the comparison of `run --against` itself, measured.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::run::against::{self, AgainstArgs, SAMPLE, Terms, this_program, words_of};
use super::run::{AUTO, RunArgs};
use super::{Globals, values};
use crate::against::check::{self, Done, Kind, Settings, State, Tally};
use crate::against::duel::duel;
use crate::against::side::Side;
use crate::cli::Format;
use crate::compare::paired::{self, Row};
use crate::error::{EXIT_INTERRUPTED, EXIT_NO, Error};
use crate::interrupt;
use crate::report::envelope::{Envelope, Nothing};
use crate::report::grid::{Align, Grid};
use crate::report::machine::Machine;
use crate::workload::worker::Cores;
use crate::workload::{Case, Plan};

const AFTER_HELP: &str = "\
Every comparison is one of `run --against`, by the same code, but that both sides are this very program. Equals: any alarm is a
false one, and 2 % of them may be. Slowed: one side does eleven batches where it counts ten, and 90 % of them must be found.

What was done is kept in the state file, a line a comparison: Ctrl-C, or --for, ends it, and the same command goes on.
It wants a quiet machine, as every comparison does.

Exit codes: 0 all done and both bounds kept, or not all done yet; 1 a bound cannot be kept any more; 2 for a state file of other
settings.

Examples:
  clashtrack check-against lookup-hit --state check.state
  clashtrack check-against connect --connections 64k --equals 20 --slowed 5 --state connect.state
  clashtrack check-against lookup-hit --state check.state --for 50s --json";

/// What `check-against` takes.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct CheckAgainstArgs {
    /// Workload to compare (see `clashtrack list`)
    #[arg(value_name = "WORKLOAD")]
    pub workload: String,
    /// File that keeps what was done; made when missing, gone on with when there
    #[arg(long, value_name = "FILE")]
    pub state: PathBuf,
    /// Table to compare it on
    #[arg(long, value_name = "TABLE", default_value = against::TABLE)]
    pub table: String,
    /// Comparisons of this program with itself
    #[arg(long, value_name = "N", default_value = "200")]
    pub equals: String,
    /// Comparisons with a side that is slower by a tenth
    #[arg(long, value_name = "N", default_value = "50")]
    pub slowed: String,
    /// Ends after this time, with the comparison that is under way
    #[arg(long = "for", value_name = "TIME")]
    pub at_most: Option<String>,
    /// How much slower is still well [default: 3%]
    #[arg(long, value_name = "PERCENT")]
    pub threshold: Option<String>,
    /// Workers, one pinned to each core [default: by workload]
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,
    /// Connections of the table, or flows of a round [default: by workload]
    #[arg(long, value_name = "N")]
    pub connections: Option<String>,
    /// Time of a sample [default: 10ms]
    #[arg(long, value_name = "TIME")]
    pub duration: Option<String>,
    /// Pairs of samples of a launch [default: 20]
    #[arg(long, value_name = "N")]
    pub repeat: Option<String>,
    /// Fresh processes of each side, a comparison [default: 5]
    #[arg(long, value_name = "N")]
    pub launches: Option<String>,
    /// How the table asks for memory ahead: t0, t1, nta, w, none; auto measures once, and goes on with what the file has
    #[arg(long, value_name = "HINT", default_value = "auto")]
    pub prefetch: String,
}

/// All of it resolved.
#[derive(Debug)]
struct Check {
    plan: Plan,
    case: Case,
    table: &'static str,
    terms: Terms,
    /// Equals and slowed.
    wanted: [usize; 2],
    at_most: Option<Duration>,
}

impl CheckAgainstArgs {
    fn check(&self, globals: &Globals) -> Result<Check, Error> {
        let list = |word: &Option<String>| word.iter().cloned().collect();
        let before = check::settings_of(&self.state)?;
        let args = RunArgs {
            workloads: vec![self.workload.clone()],
            tables: vec![self.table.clone()],
            workers: list(&self.workers),
            connections: list(&self.connections),
            duration: self.duration.clone(),
            repeat: self.repeat.clone(),
            launches: self.launches.clone(),
            prefetch: match before {
                // Measured again, it might come out otherwise.
                Some(settings) if self.prefetch == AUTO => settings.prefetch,
                _ => self.prefetch.clone(),
            },
            against: AgainstArgs {
                threshold: self.threshold.clone(),
                ..AgainstArgs::default()
            },
            ..RunArgs::main_job()
        };
        let plan = args.plan(globals, &Cores::available())?;
        let [case] = plan.cases()[..] else {
            return Err(Error::Argument {
                flag: "WORKLOAD",
                problem: format!("`{}` comes to several cases", self.workload),
                remedy: "say one number of workers and of connections".to_owned(),
            });
        };
        Ok(Check {
            case,
            table: plan.tables[0],
            terms: Terms::of(&args, &plan)?,
            wanted: [
                values::size("--equals", &self.equals)?,
                values::size("--slowed", &self.slowed)?,
            ],
            at_most: match &self.at_most {
                Some(word) => Some(values::duration("--for", word)?),
                None => None,
            },
            plan,
        })
    }
}

impl Check {
    fn settings(&self) -> Settings {
        let machine = Machine::here();
        Settings {
            workload: self.case.workload.name.to_owned(),
            table: self.table.to_owned(),
            workers: self.case.workers,
            batch: self.case.batch,
            connections: self.case.connections,
            launches: self.terms.schedule.launches,
            pairs: self.terms.schedule.pairs,
            sample_ms: self.plan.duration.unwrap_or(SAMPLE).as_secs_f64() * 1e3,
            threshold: self.terms.threshold,
            prefetch: self.plan.prefetch.reading.name().to_owned(),
            revision: machine.revision.map(str::to_owned),
            cpu: machine.cpu,
        }
    }

    fn tallies(&self, done: &[Done]) -> [Tally; 2] {
        let [equals, slowed] = self.wanted;
        [
            Tally::of(Kind::Equals, equals, done),
            Tally::of(Kind::Slowed, slowed, done),
        ]
    }

    /// One comparison; `None` when Ctrl-C ended it before it was whole.
    fn compare(&self, kind: Kind, number: usize) -> Result<Option<Done>, Error> {
        let base = this_program(Vec::new())?;
        let new = match kind {
            Kind::Equals => this_program(Vec::new())?,
            Kind::Slowed => Side {
                name: "this program, slowed".to_owned(),
                ..this_program(vec!["--eleven-for-ten".to_owned()])?
            },
        };
        // No two comparisons have a launch's seed in common.
        let first = number * self.terms.schedule.launches;
        let words = |launch| words_of(&self.plan, &self.case, self.table, first + launch);
        let duel = duel(
            [&base, &new],
            self.terms.schedule,
            words,
            interrupt::flag(),
            || (),
        )?;
        let seed = self.plan.seed.wrapping_add(number as u64);
        let row = Row::of(&duel).filter(|_| !duel.interrupted);
        Ok(row.map(|row| {
            let compared = &paired::compare(&[row], self.terms.threshold, seed)[0];
            Done::of(kind, &duel, compared)
        }))
    }
}

/// Compares until all is done, the time is over, or Ctrl-C; prints what came of it.
///
/// # Errors
/// [`Error::Argument`] for what cannot be honoured; [`Error::File`] and [`Error::Input`] for the state file;
/// [`Error::Environment`] when this program cannot be started or sampled; [`Error::Output`] when stdout cannot be written.
pub fn run(args: &CheckAgainstArgs, globals: &Globals) -> Result<ExitCode, Error> {
    let begun = Instant::now();
    let check = args.check(globals)?;
    let mut state = State::open(&args.state, &check.settings())?;
    let bar = progress_bar(&check, &state, globals);
    let interrupted = interrupt::flag();
    // Relaxed: a flag that stands for itself.
    let stopped = || interrupted.load(Ordering::Relaxed);
    let time_over = || check.at_most.is_some_and(|time| begun.elapsed() >= time);
    while !stopped() && !time_over() {
        let [equals, slowed] = check.tallies(&state.done);
        let Some(kind) = check::next(&equals, &slowed) else {
            break;
        };
        if let Some(done) = check.compare(kind, state.done.len())? {
            state.add(done)?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let tallies = check.tallies(&state.done);
    print(&check, &tallies, stopped(), globals)?;
    Ok(if tallies.iter().any(Tally::has_failed) {
        ExitCode::from(EXIT_NO)
    } else if stopped() {
        ExitCode::from(EXIT_INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    })
}

#[derive(Serialize, Debug)]
struct Config {
    #[serde(flatten)]
    settings: Settings,
    alarms_at_most: f64,
    found_at_least: f64,
    seed: u64,
}

fn print(
    check: &Check,
    tallies: &[Tally; 2],
    interrupted: bool,
    globals: &Globals,
) -> Result<(), Error> {
    if globals.format == Format::Json {
        let config = Config {
            settings: check.settings(),
            alarms_at_most: check::ALARMS_AT_MOST,
            found_at_least: check::FOUND_AT_LEAST,
            seed: check.plan.seed,
        };
        return Envelope::new("check-against", config, tallies, Nothing {})
            .with_interrupted(interrupted)
            .print();
    }
    let mut text = grid(tallies).render(globals.format);
    if globals.format == Format::Table {
        text.push_str(&notes(check, tallies));
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).map_err(Error::Output)
}

type Column = (&'static str, Align, fn(&Tally) -> String);

const COLUMNS: [Column; 10] = [
    ("sides", Align::Left, |tally| name(tally.kind).to_owned()),
    ("wanted", Align::Right, |tally| tally.wanted.to_string()),
    ("done", Align::Right, |tally| tally.done.to_string()),
    ("worse", Align::Right, |tally| tally.worse.to_string()),
    ("bound", Align::Right, |tally| match tally.kind {
        Kind::Equals => format!("<= {}", tally.bound),
        Kind::Slowed => format!(">= {}", tally.bound),
    }),
    ("better", Align::Right, |tally| tally.better.to_string()),
    ("same", Align::Right, |tally| tally.same.to_string()),
    ("unsure", Align::Right, |tally| tally.unsure.to_string()),
    ("ratio", Align::Right, |tally| digits(tally.ratio_mean)),
    ("ratio_sd", Align::Right, |tally| digits(tally.ratio_sd)),
];

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Equals => "equals",
        Kind::Slowed => "slowed",
    }
}

fn digits(figure: Option<f64>) -> String {
    figure.map_or_else(String::new, |figure| format!("{figure:.4}"))
}

fn grid(tallies: &[Tally]) -> Grid {
    let mut grid = Grid::new(COLUMNS.iter().map(|&(name, align, _)| (name, align)));
    for tally in tallies {
        grid.row(COLUMNS.iter().map(|(_, _, cell)| cell(tally)));
    }
    grid
}

fn notes(check: &Check, tallies: &[Tally; 2]) -> String {
    let Settings {
        workload,
        table,
        workers,
        batch,
        connections,
        launches,
        pairs,
        sample_ms,
        threshold,
        ..
    } = check.settings();
    let mut text = format!(
        "\n{workload} on {table}, {workers} workers, batches of {batch}, {connections} connections; each comparison of {launches} \
         launches of both sides, {pairs} pairs of samples of {sample_ms} ms in each; threshold {:.1} %.\n\
         equals: this program against itself; slowed: eleven batches done where ten are counted.\n",
        threshold * 100.0
    );
    if tallies.iter().any(Tally::has_failed) {
        text.push_str("A bound is not kept: do not trust this comparison here.\n");
    } else if tallies.iter().all(Tally::is_complete) {
        text.push_str("Both bounds are kept.\n");
    } else {
        text.push_str("Not all done: the same command goes on.\n");
    }
    text
}

fn progress_bar(check: &Check, state: &State, globals: &Globals) -> ProgressBar {
    if globals.quiet || !io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} comparisons, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(check.wanted.iter().sum::<usize>() as u64).with_style(style);
    bar.set_position(state.done.len() as u64);
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn check_of(words: &[&str]) -> Result<Check, Error> {
        let cli = Cli::parse_from(["clashtrack", "check-against"].iter().chain(words));
        let Some(Command::CheckAgainst(args)) = &cli.command else {
            panic!("a check-against command");
        };
        args.check(&Globals::from(&cli.globals))
    }

    #[test]
    fn a_file_that_is_there_decides_the_prefetch_hint() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let state = path.display().to_string();
        let words = [
            "lookup-hit",
            "--connections",
            "500",
            "--state",
            &state,
            "--prefetch",
        ];
        let first = check_of(&[&words[..], &["w"]].concat()).expect("a check");
        State::open(&path, &first.settings()).expect("made");
        let second = check_of(&[&words[..], &["auto"]].concat()).expect("a check");
        assert_eq!(second.settings(), first.settings());
        State::open(&path, &second.settings()).expect("the same settings");
    }

    #[test]
    fn what_cannot_be_honoured_is_said() {
        for (words, wanted) in [
            (&["nothing"][..], "lookup-hit"),
            (&["lookup-hit", "--table", "hashmap"], "striped"),
            (&["lookup-hit", "--threshold", "3"], "--threshold"),
            (&["lookup-hit", "--connections", "1k..4k"], "several cases"),
            (&["lookup-hit", "--for", "soon"], "--for"),
        ] {
            let more = ["--state", "/nowhere/state", "--prefetch", "t0"];
            let said = check_of(&[words, &more].concat()).unwrap_err().to_string();
            assert!(said.contains(wanted), "{said}");
        }
    }
}

//! `clashtrack run … --against GIT-REV`: this program's samples in turns with those of another revision's.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::args::RunArgs;
use super::child;
use crate::against::duel::{Duel, Pair, Schedule, duel};
use crate::against::revision;
use crate::against::serve::{Counting, serve};
use crate::against::side::Side;
use crate::calibrate::Hints;
use crate::cli::Format;
use crate::command::{Globals, compare, values};
use crate::compare::paired::{self, PAIRED_LAUNCH_SD, Row};
use crate::compare::{Compared, FALSE_ALARMS, Verdict};
use crate::error::{EXIT_INTERRUPTED, EXIT_NO, Error};
use crate::interrupt;
use crate::report::envelope::{Envelope, Nothing};
use crate::workload::{Case, Kind, Plan};

/// What `run` takes for comparing two revisions.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "Comparing with another revision")]
pub struct AgainstArgs {
    /// Build that revision and take its samples in turns with this program's (lockfree alone unless --table says otherwise)
    #[arg(long, value_name = "GIT-REV")]
    pub against: Option<String>,
    /// With --against: how much slower is still well [default: 3%]
    #[arg(long, value_name = "PERCENT", requires = "against")]
    pub threshold: Option<String>,
    /// In a process that is sampled: measure one case on one table whenever a line says so
    #[arg(long, hide = true)]
    pub on_demand: bool,
    /// There: count ten batches where eleven are done, a slow-down that is known
    #[arg(long, hide = true, requires = "on_demand")]
    pub eleven_for_ten: bool,
}

/// Slower by more than this is too slow, unless `--threshold` says otherwise.
const THRESHOLD: f64 = 0.03;
/// Fresh processes of each side, unless `--launches` says otherwise.
const LAUNCHES: usize = 5;
/// Pairs of samples of a launch, unless `--repeat` says otherwise.
const PAIRS: usize = 20;
/// Time of a sample, unless `--duration` says otherwise: many short ones in turns tell more than a few long ones.
pub(crate) const SAMPLE: Duration = Duration::from_millis(10);
/// The table that is compared unless others are named: what changes between revisions is the engine.
pub(crate) const TABLE: &str = "lockfree";

/// In the process that is sampled.
///
/// # Errors
/// [`Error::Argument`] for more than one case or table; [`Error::Output`] when nobody reads the samples.
pub(super) fn serve_samples(plan: &Plan, args: &AgainstArgs) -> Result<ExitCode, Error> {
    let (cases, tables) = (plan.cases(), &plan.tables);
    let ([case], [table]) = (cases.as_slice(), tables.as_slice()) else {
        return Err(Error::Argument {
            flag: "--on-demand",
            problem: format!("{} cases on {} tables", cases.len(), tables.len()),
            remedy: "say one workload, one table, and one of everything else".to_owned(),
        });
    };
    let counting = if args.eleven_for_ten {
        Counting::TenOfEleven
    } else {
        Counting::All
    };
    let (input, output) = (io::stdin().lock(), io::stdout().lock());
    serve(case, table, counting, interrupt::flag(), input, output)?;
    Ok(ExitCode::SUCCESS)
}

/// A row of what `--json` prints: `compare`'s, and the samples.
#[derive(Serialize, Debug)]
struct AgainstRow<'a> {
    #[serde(flatten)]
    compared: &'a Compared,
    /// Nanoseconds an operation: those of the other revision, in the order in which they were taken.
    base_ns_per_op: Vec<f64>,
    /// This program's, each one taken beside the base's of the same place.
    new_ns_per_op: Vec<f64>,
    samples_by_launch: Vec<usize>,
}

#[derive(Serialize, Debug)]
struct Config<'a> {
    against: &'a str,
    base_revision: &'a str,
    new_revision: &'a str,
    threshold: f64,
    confidence: f64,
    correction: &'static str,
    launch_sd: f64,
    launches: usize,
    pairs: usize,
    prefetch: &'static str,
    isa: &'static str,
    seed: u64,
    pinned: bool,
}

/// How samples of two sides are compared: what was asked for, else this comparison's own defaults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) threshold: f64,
    pub(crate) schedule: Schedule,
}

impl Terms {
    /// Of arguments and the plan that was made of them.
    ///
    /// # Errors
    /// [`Error::Argument`] for a threshold or a number of launches that is none.
    pub(crate) fn of(args: &RunArgs, plan: &Plan) -> Result<Terms, Error> {
        Ok(Terms {
            threshold: match &args.against.threshold {
                Some(word) => values::percent("--threshold", word)?,
                None => THRESHOLD,
            },
            schedule: Schedule {
                launches: args.launches_or(LAUNCHES)?,
                pairs: plan.repeat.unwrap_or(PAIRS),
            },
        })
    }
}

/// What is compared, with all of it resolved.
#[derive(Debug)]
struct Plans<'a> {
    plan: &'a Plan,
    terms: Terms,
}

/// Builds the other revision, measures both, and prints.
///
/// # Errors
/// [`Error::Environment`] for a debug build, a revision that cannot be built, or one that cannot be sampled; [`Error::Argument`]
/// for a threshold that is none; [`Error::Output`] when stdout cannot be written.
pub(super) fn run(
    against: &str,
    args: &RunArgs,
    plan: &Plan,
    globals: &Globals,
) -> Result<ExitCode, Error> {
    let plans = Plans {
        plan,
        terms: Terms::of(args, plan)?,
    };
    let (commit, program) = revision::program_of(against, |commit| tell_building(commit, globals))?;
    let base = Side {
        name: format!("revision {}", commit.short()),
        program,
        more: Vec::new(),
    };
    let new = this_program(Vec::new())?;
    let rows: Vec<(Case, &'static str)> = plan
        .cases()
        .into_iter()
        .flat_map(|case| plan.tables.iter().map(move |&table| (case, table)))
        .collect();
    let bar = progress_bar(&rows, plans.terms.schedule, globals);
    let mut duels = Vec::new();
    for (case, table) in &rows {
        bar.set_message(format!("{} on {table}", case.workload.name));
        let words = |launch| words_of(plan, case, table, launch);
        let one = duel(
            [&base, &new],
            plans.terms.schedule,
            words,
            interrupt::flag(),
            || {
                bar.inc(1);
            },
        )?;
        let stopped = one.interrupted;
        duels.push(one);
        if stopped {
            break;
        }
    }
    bar.finish_and_clear();
    check_revision(&duels, commit.short())?;
    print(against, &plans, &duels, globals)
}

/// This very program as a side, with more words.
pub(crate) fn this_program(more: Vec<String>) -> Result<Side, Error> {
    let program = std::env::current_exe().map_err(|source| Error::File {
        action: "find",
        path: "the program itself".into(),
        source,
    })?;
    Ok(Side {
        name: "this program".to_owned(),
        program,
        more,
    })
}

/// What both sides are started with: one case on one table, nothing left to defaults that revisions might differ in.
pub(crate) fn words_of(plan: &Plan, case: &Case, table: &str, launch: usize) -> Vec<String> {
    let clashes = matches!(case.workload.kind, Kind::Clash(_));
    let one = Plan {
        workloads: vec![case.workload],
        workers: vec![case.workers],
        batches: vec![case.batch],
        protocols: if clashes {
            Vec::new()
        } else {
            vec![case.protocol]
        },
        duration: Some(match (plan.duration, case.workload.kind) {
            // A sample of these is a whole, as long as it has to be.
            (None, Kind::Expire | Kind::Stall) => case.duration,
            (None, _) => SAMPLE,
            (Some(duration), _) => duration,
        }),
        repeat: None,
        // The program of another revision may know of one hint only.
        prefetch: Hints::same(plan.prefetch.reading),
        ..plan.clone()
    };
    // The hash key comes from the seed: drawn anew for each launch, the same for both sides.
    let seed = plan.seed.wrapping_add(launch as u64);
    let mut words = child::words(&one, &[case.connections], &[table], seed);
    words.push("--on-demand".to_owned());
    words
}

/// The program that was built must be that commit's: another build may have overwritten it meanwhile.
fn check_revision(duels: &[Duel], wanted: &str) -> Result<(), Error> {
    for said in duels.iter().filter_map(|duel| duel.revisions[0].as_ref()) {
        if !said.starts_with(wanted) {
            return Err(Error::Environment {
                problem: format!("the program that was built says that it is {said}, not {wanted}"),
                remedy: "was another revision built at the same time? run it again".to_owned(),
            });
        }
    }
    Ok(())
}

/// On a terminal: it may take minutes.
pub(crate) fn tell_building(commit: &str, globals: &Globals) {
    if !globals.quiet && io::stderr().is_terminal() {
        eprintln!("clashtrack: building revision {commit} (minutes the first time)");
    }
}

fn print(
    against: &str,
    plans: &Plans<'_>,
    duels: &[Duel],
    globals: &Globals,
) -> Result<ExitCode, Error> {
    let rows: Vec<Row<'_>> = duels.iter().filter_map(Row::of).collect();
    let compared = paired::compare(&rows, plans.terms.threshold, plans.plan.seed);
    let interrupted = duels.iter().any(|duel| duel.interrupted);
    match globals.format {
        Format::Json => {
            envelope(against, plans, duels, &rows, &compared)
                .with_interrupted(interrupted)
                .print()?;
        }
        format => {
            let mut text = if compared.is_empty() {
                String::new()
            } else {
                compare::grid(&compared, format).render(format)
            };
            if format == Format::Table {
                text.push_str(&notes(plans, duels, &compared));
                if interrupted {
                    text.push_str("Interrupted: this is what was measured so far.\n");
                }
            }
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).map_err(Error::Output)?;
        }
    }
    Ok(if interrupted {
        ExitCode::from(EXIT_INTERRUPTED)
    } else if compared.iter().any(|row| row.verdict == Verdict::Worse) {
        ExitCode::from(EXIT_NO)
    } else {
        ExitCode::SUCCESS
    })
}

fn envelope<'a>(
    against: &'a str,
    plans: &Plans<'_>,
    duels: &'a [Duel],
    rows: &[Row<'_>],
    compared: &'a [Compared],
) -> Envelope<Config<'a>, Vec<AgainstRow<'a>>, Nothing> {
    let [base_revision, new_revision] = revisions(duels);
    let plan = plans.plan;
    let config = Config {
        against,
        base_revision,
        new_revision,
        threshold: plans.terms.threshold,
        confidence: 1.0 - FALSE_ALARMS,
        correction: "holm",
        launch_sd: PAIRED_LAUNCH_SD,
        launches: plans.terms.schedule.launches,
        pairs: plans.terms.schedule.pairs,
        prefetch: plan.prefetch.reading.name(),
        isa: plan.isa.resolved().name(),
        seed: plan.seed,
        pinned: duels.iter().all(|duel| duel.pinned),
    };
    let samples = |row: &Row<'_>, side: fn(&Pair) -> f64| -> Vec<f64> {
        row.launches.iter().flatten().map(side).collect()
    };
    let results = rows
        .iter()
        .zip(compared)
        .map(|(row, compared)| AgainstRow {
            compared,
            base_ns_per_op: samples(row, |pair| pair.base),
            new_ns_per_op: samples(row, |pair| pair.new),
            samples_by_launch: row.launches.iter().map(Vec::len).collect(),
        })
        .collect();
    Envelope::new("run", config, results, Nothing {})
}

/// Of base and new, as the programs say.
fn revisions(duels: &[Duel]) -> [&str; 2] {
    let of = |side: usize| {
        let said = duels
            .iter()
            .find_map(|duel| duel.revisions[side].as_deref());
        said.unwrap_or("unknown")
    };
    [of(0), of(1)]
}

fn notes(plans: &Plans<'_>, duels: &[Duel], compared: &[Compared]) -> String {
    let [base, new] = revisions(duels);
    let mut text = format!(
        "\nratio: time of an operation, this program ({new}) / revision {base}, above 1 is slower; threshold {:.1} %.\n",
        plans.terms.threshold * 100.0
    );
    if new.ends_with("+changes") {
        text.push_str("+changes: this program was built with changes that are not committed.\n");
    }
    if base == new {
        text.push_str("Both are of one commit, without changes: any difference is noise, or the place that code has.\n");
    }
    text.push_str(&format!(
        "Samples of both were taken in turns, {} pairs in each of {} launches of both; intervals hold together at {:.0} % (Holm's \
         correction).\n",
        plans.terms.schedule.pairs,
        plans.terms.schedule.launches,
        (1.0 - FALSE_ALARMS) * 100.0
    ));
    let sum = |count: fn(&Compared) -> usize| compared.iter().map(count).sum::<usize>();
    let disturbed = sum(|row| row.disturbed_samples[0]);
    if disturbed > 0 {
        text.push_str(&format!(
            "{disturbed} of {} pairs were taken while others used more than 5 % of the machine.\n",
            sum(|row| row.samples[0])
        ));
    }
    if !duels.iter().all(|duel| duel.pinned) {
        text.push_str(
            "Workers were not pinned: this system does not let a thread choose its core.\n",
        );
    }
    text
}

fn progress_bar(
    rows: &[(Case, &'static str)],
    schedule: Schedule,
    globals: &Globals,
) -> ProgressBar {
    if globals.quiet || !io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{msg:24} {bar:40} {pos}/{len} pairs, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let pairs = rows.len() * schedule.launches * schedule.pairs;
    let bar = ProgressBar::new(pairs as u64).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::against::protocol::Subject;
    use crate::cli::{Cli, Command};
    use crate::workload::worker::Cores;
    use crate::workload::{clash, connect, lookup_hit};

    #[test]
    fn a_sides_words_are_read_as_one_case_on_one_table() {
        let workloads = [lookup_hit::WORKLOAD, connect::WORKLOAD, clash::WORKLOAD];
        let plan = Plan {
            seed: 7,
            connections: vec![1000],
            ..Plan::new(&workloads, &["lockfree", "striped"])
        };
        for case in plan.cases() {
            let words = words_of(&plan, &case, "striped", 2);
            let line = ["clashtrack".to_owned()].into_iter().chain(words);
            let cli = Cli::try_parse_from(line).expect("a side understands it");
            let Some(Command::Run(args)) = &cli.command else {
                panic!("a run");
            };
            assert!(args.against.on_demand);
            let globals = Globals::from(&cli.globals);
            let again = args.plan(&globals, &Cores::available()).expect("a plan");
            let [one] = again.cases().try_into().expect("one case");
            assert_eq!(again.tables, ["striped"]);
            assert_eq!(one.seed, 9, "a seed for each launch");
            assert_eq!(one.duration, SAMPLE);
            let same = |case: &Case| {
                let Case {
                    workload,
                    workers,
                    batch,
                    connections,
                    protocol,
                    ..
                } = *case;
                (workload, workers, batch, connections, protocol)
            };
            assert_eq!(same(&one), same(&case));
        }
    }

    #[test]
    fn what_json_prints_is_what_the_schema_says() {
        let pair = Pair {
            base: 10.0,
            new: 12.0,
            disturbed: true,
        };
        let plan = Plan::new(&[lookup_hit::WORKLOAD], &["lockfree"]);
        let plans = Plans {
            plan: &plan,
            terms: Terms {
                threshold: THRESHOLD,
                schedule: Schedule {
                    launches: 2,
                    pairs: 3,
                },
            },
        };
        let subject = Subject {
            workload: "lookup-hit".to_owned(),
            table: "lockfree".to_owned(),
            workers: 1,
            batch: 64,
            connections: 1000,
            l4: "tcp".to_owned(),
            pinned: true,
        };
        let duels = [Duel {
            subject: Some(subject),
            launches: vec![vec![pair; 3], vec![pair; 2]],
            revisions: [Some("abc".to_owned()), Some("abc+changes".to_owned())],
            pinned: true,
            interrupted: true,
        }];
        let rows: Vec<Row<'_>> = duels.iter().filter_map(Row::of).collect();
        let compared = paired::compare(&rows, THRESHOLD, 1);
        let mut out = Vec::new();
        envelope("main", &plans, &duels, &rows, &compared)
            .with_interrupted(true)
            .write(&mut out)
            .expect("written");
        let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        let schema = include_str!("../../../schema/clashtrack-1.json");
        let schema = serde_json::from_str(schema).expect("the schema is JSON");
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let errors: Vec<_> = validator
            .iter_errors(&value)
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
        let row = &value["results"][0];
        assert_eq!(row["verdict"], "worse");
        assert_eq!(row["samples_by_launch"], serde_json::json!([3, 2]));
        assert_eq!(row["new_ns_per_op"].as_array().map(Vec::len), Some(5));
        let mut without = value.clone();
        without["results"][0]["ratio"].take();
        assert!(!validator.is_valid(&without), "the schema looks at it");
        let text = notes(&plans, &duels, &compared);
        for wanted in ["+changes", "3 pairs in each of 2 launches", "5 of 5 pairs"] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }

    #[test]
    fn a_program_of_another_commit_is_noticed() {
        let duel = |said: &str| Duel {
            subject: None,
            launches: Vec::new(),
            revisions: [Some(said.to_owned()), None],
            pinned: true,
            interrupted: false,
        };
        check_revision(&[duel("abc123")], "abc123").expect("that is it");
        let said = check_revision(&[duel("def456")], "abc123").unwrap_err();
        assert!(said.to_string().contains("def456"), "{said}");
    }
}

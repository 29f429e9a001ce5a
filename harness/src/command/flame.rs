//! `clashtrack flame`: where a workload's time goes, as a picture.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::Globals;
use super::run::against::tell_building;
use super::values::{self, unknown};
use crate::against::revision;
use crate::error::Error;
use crate::flame::record::{self, Control};
use crate::flame::{draw, fold, names::Names};
use crate::peer::TABLES;
use crate::workload::measure::profile;
use crate::workload::{self, Case, Plan, WORKLOADS};

const AFTER_HELP: &str = "\
Needs Linux and perf. Samples are of the processor clock, taken while the workload is measured, not while its table is
filled. A build with frame pointers is recorded with less to copy:
  RUSTFLAGS=-Cforce-frame-pointers=yes cargo build --release --target-dir target/flame

Beside F.svg stands F.folded: one line a stack, with its nanoseconds. It is what --base takes.
With --base, F.svg has the widths of the new profile and F.reverse.svg those of the base; red grew, blue shrank. --against does the
same with another revision: it is built (minutes the first time; target/against keeps it) and records itself, with the same flags.
With --per-role, F.ROLE.svg and F.ROLE.folded stand beside, one for each thing that workers of this workload do.

Examples:
  clashtrack flame lookup-hit
  clashtrack flame clash --table striped -o striped.svg
  clashtrack flame lookup-hit --against main
  clashtrack flame expire --per-role
  clashtrack flame connect --duration 5s --workers 1 -o connect.svg";

/// The table of a graph that names none.
const DEFAULT_TABLE: &str = "lockfree";
const DEFAULT_SEED: u64 = 1;
const WORKERS_MAX: usize = 1000;

/// What `flame` takes.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct FlameArgs {
    /// Workload to look into (see `clashtrack list`)
    #[arg(value_name = "WORKLOAD")]
    pub workload: String,
    /// Table to run it on
    #[arg(long, value_name = "TABLE", default_value = DEFAULT_TABLE)]
    pub table: String,
    /// Where to write the picture [default: WORKLOAD.svg]
    #[arg(short = 'o', long, value_name = "F.svg")]
    pub output: Option<PathBuf>,
    /// An older profile (its .folded file) to draw the difference to
    #[arg(long, value_name = "FOLDED")]
    pub base: Option<PathBuf>,
    /// Another revision to draw the difference to: it is built, and recorded first
    #[arg(long, value_name = "GIT-REV", conflicts_with = "base")]
    pub against: Option<String>,
    /// Beside the graph of all, one for each role that workers have (expire and stall)
    #[arg(long)]
    pub per_role: bool,
    /// Time to look at
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub duration: String,
    /// Workers, one pinned to each core [default: by workload]
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,
    /// Connections of the table, or flows of a round [default: by workload]
    #[arg(long, value_name = "N")]
    pub connections: Option<String>,
    /// In the process that is looked at: perf's two pipes
    #[arg(long, hide = true, num_args = 2, value_names = ["COMMANDS", "ACKNOWLEDGEMENTS"])]
    pub measured: Vec<PathBuf>,
}

impl FlameArgs {
    /// The one case to look at, and its table.
    fn case(&self, globals: &Globals) -> Result<(Case, &'static str), Error> {
        let workload = workload::by_name(&self.workload).ok_or_else(|| {
            let known = WORKLOADS.iter().map(|workload| workload.name);
            unknown("WORKLOAD", "workload", &self.workload, known)
        })?;
        let table = TABLES.iter().find(|table| table.name == self.table);
        let table = table.ok_or_else(|| {
            let known = TABLES.iter().map(|table| table.name);
            unknown("--table", "table", &self.table, known)
        })?;
        let size = |flag, word: &Option<String>| match word {
            None => Ok(Vec::new()),
            Some(word) => values::size(flag, word).map(|size| vec![size]),
        };
        let plan = Plan {
            workers: size("--workers", &self.workers)?,
            connections: size("--connections", &self.connections)?,
            duration: Some(values::duration("--duration", &self.duration)?),
            seed: globals.seed.unwrap_or(DEFAULT_SEED),
            ..Plan::new(&[workload], &[table.name])
        };
        let cases = plan.cases();
        let case = cases.first().copied().ok_or_else(|| Error::Argument {
            flag: "WORKLOAD",
            problem: format!("`{}` comes to nothing", workload.name),
            remedy: "name another one".to_owned(),
        })?;
        let least = workload.kind.workers_min();
        check("--workers", case.workers, least, WORKERS_MAX)?;
        check(
            "--connections",
            case.connections,
            1,
            workload::flows::FLOWS_MAX,
        )?;
        if self.per_role && workload.kind.roles().len() < 2 {
            let has_roles = |workload: &&workload::Workload| workload.kind.roles().len() > 1;
            let known = WORKLOADS.iter().filter(has_roles).map(|w| w.name);
            return Err(Error::Argument {
                flag: "--per-role",
                problem: format!("all workers of {} do the same", workload.name),
                remedy: format!(
                    "leave it out; workers have roles in {}",
                    known.collect::<Vec<_>>().join(", ")
                ),
            });
        }
        Ok((case, table.name))
    }

    fn output(&self) -> PathBuf {
        let default = || PathBuf::from(format!("{}.svg", self.workload));
        self.output.clone().unwrap_or_else(default)
    }
}

fn check(flag: &'static str, size: usize, least: usize, most: usize) -> Result<(), Error> {
    if (least..=most).contains(&size) {
        return Ok(());
    }
    Err(Error::Argument {
        flag,
        problem: format!("{size} is out of range"),
        remedy: format!("write a number from {least} to {most}"),
    })
}

/// Records, folds and draws.
///
/// # Errors
/// [`Error::Argument`] for a name or number that cannot be honoured; [`Error::Environment`] where perf cannot record, with what
/// to install or to set; [`Error::File`] for what cannot be read or written.
pub fn run(args: &FlameArgs, globals: &Globals) -> Result<ExitCode, Error> {
    let (case, table) = args.case(globals)?;
    if let [commands, acknowledgements] = args.measured.as_slice() {
        let control = Control {
            commands: commands.clone(),
            acknowledgements: acknowledgements.clone(),
        };
        profile(&case, table, |look| control.tell(look))?;
        return Ok(ExitCode::SUCCESS);
    }
    // Read, or built and recorded, before anything else is measured: what is wrong with it is known at once.
    let base = match (&args.base, &args.against) {
        (Some(path), _) => Some((read_folded(path)?, "the base".to_owned())),
        (None, Some(revision)) => Some(record_revision(revision, args, &case, table, globals)?),
        (None, None) => None,
    };
    let roles = record_workload(args, &case, table)?;
    let folded = fold::together(&roles);
    let lines = fold::lines(&folded);
    if lines.is_empty() {
        return Err(Error::Environment {
            problem: "perf took no sample of the workers".to_owned(),
            remedy: "look longer: --duration 10s".to_owned(),
        });
    }
    let svg = args.output();
    let mut title = format!("{} on {table}", case.workload.name);
    let mut written = vec![svg.clone(), svg.with_extension("folded")];
    match &base {
        None => write(&svg, &draw_or(draw::graph(&title, &lines), &svg)?)?,
        Some((base, name)) => {
            title = format!("{title}, against {name}");
            let forth = draw::difference(&title, base, &lines, false);
            write(&svg, &draw_or(forth, &svg)?)?;
            let reverse = svg.with_extension("reverse.svg");
            let back = draw::difference(&title, &lines, base, true);
            write(&reverse, &draw_or(back, &reverse)?)?;
            written.push(reverse);
        }
    }
    write_folded(&written[1], &lines)?;
    if args.per_role {
        // A thread's first moments have the process's name.
        let known = |role: &str| case.workload.kind.roles().contains(&role);
        for (role, folded) in roles.iter().filter(|(role, _)| known(role)) {
            let title = format!("{} on {table}: {role}", case.workload.name);
            let lines = fold::lines(folded);
            let picture = svg.with_extension(format!("{role}.svg"));
            write(&picture, &draw_or(draw::graph(&title, &lines), &picture)?)?;
            let text = picture.with_extension("folded");
            write_folded(&text, &lines)?;
            written.extend([picture, text]);
        }
    }
    tell(
        &title,
        Duration::from_nanos(folded.values().sum()),
        &written,
    )
}

/// The words that say what is looked at, in this program or another one.
fn words(args: &FlameArgs, case: &Case, table: &str) -> Vec<String> {
    let mut words = vec!["flame".to_owned(), args.workload.clone()];
    let mut say = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    say("--table", table.to_owned());
    say("--duration", args.duration.clone());
    say("--workers", case.workers.to_string());
    say("--connections", case.connections.to_string());
    say("--seed", case.seed.to_string());
    words
}

/// The stacks of another revision, and what to call it. It records itself: its own program knows its names best.
fn record_revision(
    revision: &str,
    args: &FlameArgs,
    case: &Case,
    table: &str,
    globals: &Globals,
) -> Result<(Vec<String>, String), Error> {
    let building = |commit: &str| tell_building(commit, globals);
    let (commit, program) = revision::program_of(revision, building)?;
    let folder = temporary_folder()?;
    let svg = folder.path().join("base.svg");
    let name = format!("revision {}", commit.short());
    let failed = |said: String| Error::Environment {
        problem: format!("{name} draws no flame graph: {said}"),
        remedy: "does that revision have `flame`, this workload and this table?".to_owned(),
    };
    let recorded = std::process::Command::new(&program)
        .args(words(args, case, table))
        .arg("--output")
        .arg(&svg)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !recorded.status.success() {
        let said = String::from_utf8_lossy(&recorded.stderr);
        return Err(failed(said.trim().to_owned()));
    }
    Ok((read_folded(&svg.with_extension("folded"))?, name))
}

fn temporary_folder() -> Result<tempfile::TempDir, Error> {
    tempfile::tempdir().map_err(|source| Error::File {
        action: "make a folder in",
        path: std::env::temp_dir(),
        source,
    })
}

fn write_folded(path: &Path, lines: &[String]) -> Result<(), Error> {
    write(path, (lines.join("\n") + "\n").as_bytes())
}

fn record_workload(
    args: &FlameArgs,
    case: &Case,
    table: &'static str,
) -> Result<BTreeMap<String, fold::Folded>, Error> {
    let folder = temporary_folder()?;
    let control = Control::new(folder.path())?;
    let mut words = words(args, case, table);
    words.push("--measured".to_owned());
    for pipe in [&control.commands, &control.acknowledgements] {
        words.push(pipe.display().to_string());
    }
    let script = record::record(folder.path(), &control, &words)?;
    Ok(fold::by_role(&script, &mut Names::of_this_program()?))
}

/// The lines of a folded file, each of which ends with a number.
fn read_folded(path: &Path) -> Result<Vec<String>, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let is_stack = |line: &str| {
        let count = line.rsplit_once(' ').map(|(_, count)| count.parse::<u64>());
        matches!(count, Some(Ok(_)))
    };
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let bad = lines.iter().position(|line| !is_stack(line));
    let bad = bad.or(lines.is_empty().then_some(0));
    match bad {
        None => Ok(lines),
        Some(number) => Err(Error::Input {
            place: format!("{}:{}", path.display(), number + 1),
            problem: "no folded stack (`outer;inner 123`) is here".to_owned(),
            remedy: "give --base a .folded file, as `flame` writes it".to_owned(),
        }),
    }
}

fn draw_or(drawn: io::Result<Vec<u8>>, path: &Path) -> Result<Vec<u8>, Error> {
    drawn.map_err(|source| Error::File {
        action: "draw",
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    std::fs::write(path, bytes).map_err(|source| Error::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn tell(title: &str, time: Duration, written: &[PathBuf]) -> Result<ExitCode, Error> {
    let files: Vec<String> = written
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    writeln!(
        io::stdout().lock(),
        "{title}: {:.2} s of processor time, stacks by {}\n{}",
        time.as_secs_f64(),
        if cfg!(frame_pointers) {
            "frame pointers"
        } else {
            "copies (no frame pointers in this build)"
        },
        files.join("\n")
    )
    .map_err(Error::Output)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn case_of(words: &[&str]) -> Result<(Case, &'static str), Error> {
        let cli = Cli::parse_from(["clashtrack", "flame"].iter().chain(words));
        let Some(Command::Flame(args)) = cli.command else {
            panic!("a flame command");
        };
        args.case(&Globals::from(&cli.globals))
    }

    #[test]
    fn the_table_is_lockfree_unless_named() {
        let (case, table) = case_of(&["lookup-hit", "--connections", "4k"]).unwrap();
        assert_eq!(
            (case.workload.name, case.connections, table),
            ("lookup-hit", 4000, "lockfree")
        );
        let (_, table) = case_of(&["clash", "--table", "striped"]).unwrap();
        assert_eq!(table, "striped");
    }

    #[test]
    fn what_cannot_be_honoured_is_said_with_what_could_be() {
        for (words, wanted) in [
            (&["nothing"][..], "lookup-hit"),
            (&["clash", "--table", "hashmap"], "striped"),
            (&["clash", "--workers", "0"], "from 1"),
            (&["clash", "--per-role"], "expire"),
            (&["lookup-hit", "--duration", "soon"], "--duration"),
        ] {
            let said = case_of(words).unwrap_err().to_string();
            assert!(said.contains(wanted), "{said}");
        }
    }

    #[test]
    fn a_base_that_is_no_folded_file_is_refused_with_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base.folded");
        std::fs::write(&path, "a;b 1\n<svg>\n").unwrap();
        let said = read_folded(&path).unwrap_err().to_string();
        assert!(said.contains("base.folded:2"), "{said}");
        std::fs::write(&path, "").unwrap();
        assert!(read_folded(&path).is_err());
        std::fs::write(&path, "a;b 1\n").unwrap();
        assert_eq!(read_folded(&path).unwrap(), ["a;b 1"]);
    }
}

//! `clashtrack submit-form`: measures this machine and writes the one file to send in.
//!
//! The file holds what the command's own `calibrate` and `run` print as JSON, each from processes of its own. It names the
//! processor, the kernel and the build; nothing of it names a host, a user or a folder.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use serde::Serialize;
use serde_json::Value;

use super::Globals;
use crate::cli::Format;
use crate::error::{EXIT_INTERRUPTED, EXIT_NO, Error};
use crate::report::envelope::{Envelope, Nothing};
use crate::workload::worker::Cores;

const AFTER_HELP: &str = "\
Measures for about a quarter of an hour: prefetch hints, then lookups, connects, churn and the races with one worker, half
and all of the cores, each in three fresh processes. Leave the machine alone meanwhile; what else ran on it is in the file.
The file names processor, kernel and build; it has no host, user or folder names. Read it before you send it: it is text.

Examples:
  clashtrack submit-form
  clashtrack submit-form --out epyc-64.json --launches 5";

/// What `submit-form` takes.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct SubmitFormArgs {
    /// File to write; it must not be there yet
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = "clashtrack-submission.json"
    )]
    pub out: PathBuf,
    /// Fresh processes for each measurement
    #[arg(long, value_name = "N", default_value = "3")]
    pub launches: String,
    /// As of `run`, for a trial [default: by workload]
    #[arg(long, value_name = "TIME")]
    pub duration: Option<String>,
    /// As of `run`, for a trial [default: by workload]
    #[arg(long, value_name = "N")]
    pub connections: Option<String>,
}

/// What is measured: the races need two workers.
const ALONE: [&str; 4] = ["lookup-hit", "lookup-miss", "connect", "churn"];
const RACES: [&str; 3] = ["clash", "clash-nat", "clash-tcp"];

#[derive(Serialize, Debug)]
struct Config {
    commands: Vec<String>,
}

/// Measures and writes.
///
/// # Errors
/// [`Error::Argument`] when the file is there; [`Error::Environment`] when a part fails; [`Error::File`] when it cannot be
/// written; [`Error::Output`] when stdout cannot be written.
pub fn run(args: &SubmitFormArgs, globals: &Globals) -> Result<ExitCode, Error> {
    if args.out.exists() {
        return Err(Error::Argument {
            flag: "--out",
            problem: format!("{} is there already", args.out.display()),
            remedy: "name another file, or move that one away".to_owned(),
        });
    }
    let commands = commands(args, globals, Cores::available().count());
    let mut results = Vec::new();
    let mut interrupted = false;
    for words in &commands {
        if !globals.quiet {
            // A note: whoever cannot read it misses nothing.
            let _ = writeln!(io::stderr(), "clashtrack {}", words.join(" "));
        }
        let (value, code) = measured(words)?;
        interrupted |= code == i32::from(EXIT_INTERRUPTED);
        results.push(value);
        if interrupted {
            break;
        }
    }
    let config = Config {
        commands: commands.iter().map(|words| words.join(" ")).collect(),
    };
    let form =
        Envelope::new("submit-form", config, results, Nothing {}).with_interrupted(interrupted);
    let mut text = Vec::new();
    form.write(&mut text).map_err(Error::Output)?;
    fs::write(&args.out, &text).map_err(|source| Error::File {
        action: "write",
        path: args.out.clone(),
        source,
    })?;
    if globals.format == Format::Json {
        form.print()?;
    } else if !globals.quiet {
        let said = format!(
            "{} is written: {} kB. Read it, and attach it to an issue of this project.\n",
            args.out.display(),
            text.len().div_ceil(1000)
        );
        let mut out = io::stdout().lock();
        out.write_all(said.as_bytes()).map_err(Error::Output)?;
    }
    Ok(if interrupted {
        ExitCode::from(EXIT_INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    })
}

/// The command lines that measure, in order.
fn commands(args: &SubmitFormArgs, globals: &Globals, cores: usize) -> Vec<Vec<String>> {
    let mut numbers = vec![1, cores / 2, cores];
    numbers.retain(|&workers| workers > 0);
    numbers.dedup();
    let runs = [(&ALONE[..], 1), (&RACES[..], 2)].map(|(workloads, least)| {
        let workers: Vec<String> = numbers
            .iter()
            .filter(|&&workers| workers >= least)
            .map(ToString::to_string)
            .collect();
        let mut words = vec!["run".to_owned()];
        words.extend(workloads.iter().map(|&name| name.to_owned()));
        // A machine of one core races with two workers all the same: the default.
        if !workers.is_empty() {
            words.extend(["--workers".to_owned(), workers.join(",")]);
        }
        words.extend(["--launches".to_owned(), args.launches.clone()]);
        if let Some(duration) = &args.duration {
            words.extend(["--duration".to_owned(), duration.clone()]);
        }
        if let Some(connections) = &args.connections {
            words.extend(["--connections".to_owned(), connections.clone()]);
        }
        words
    });
    let calibrate = vec!["calibrate".to_owned()];
    let mut commands: Vec<Vec<String>> = [calibrate].into_iter().chain(runs).collect();
    for words in &mut commands {
        words.push("--json".to_owned());
        if globals.quiet {
            words.push("--quiet".to_owned());
        }
        if let Some(seed) = globals.seed {
            words.extend(["--seed".to_owned(), seed.to_string()]);
        }
    }
    commands
}

/// What this command prints with these words, and its exit code. Its progress and notes are the user's to see.
fn measured(words: &[String]) -> Result<(Value, i32), Error> {
    let failed = |problem: String| Error::Environment {
        problem: format!("`clashtrack {}`: {problem}", words.join(" ")),
        remedy: "try it alone, to see what is wrong".to_owned(),
    };
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let ran = [0, i32::from(EXIT_NO), i32::from(EXIT_INTERRUPTED)];
    let code = output.status.code().filter(|code| ran.contains(code));
    let code = code.ok_or_else(|| failed(output.status.to_string()))?;
    let value =
        serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
    Ok((value, code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command as Subcommand};
    use clap::Parser;

    fn lines(cores: usize) -> Vec<String> {
        let cli =
            Cli::try_parse_from(["clashtrack", "submit-form", "--seed", "3"]).expect("parsed");
        let Some(Subcommand::SubmitForm(args)) = &cli.command else {
            panic!("another subcommand");
        };
        let commands = commands(args, &Globals::from(&cli.globals), cores);
        for words in &commands {
            let line = ["clashtrack".to_owned()]
                .into_iter()
                .chain(words.iter().cloned());
            Cli::try_parse_from(line).expect("a command that is understood");
        }
        commands.iter().map(|words| words.join(" ")).collect()
    }

    #[test]
    fn one_worker_half_and_all_of_the_cores_are_measured_and_races_only_where_there_are_two() {
        let large = lines(64);
        assert!(large[1].contains("--workers 1,32,64") && large[1].contains("--launches 3"));
        assert!(large[2].contains("--workers 32,64") && large[2].contains("--seed 3"));
        assert!(lines(2)[1].contains("--workers 1,2"));
        let small = lines(1);
        assert!(small[1].contains("--workers 1 ") && !small[2].contains("--workers"));
    }
}

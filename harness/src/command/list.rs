//! `clashtrack list`: the workloads with the questions they answer, the tables, the scenarios.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::Globals;
use crate::cli::Format;
use crate::error::Error;
use crate::peer::TABLES;
use crate::report::envelope::{Envelope, Nothing};
use crate::report::grid::{Align, Grid};
use crate::workload::{WORKLOADS, Workload};

const AFTER_HELP: &str = "\
Examples:
  clashtrack list
  clashtrack list --json";

/// A workload and the question it answers.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct WorkloadInfo {
    /// What `run` takes.
    pub name: &'static str,
    /// What its figures answer.
    pub question: &'static str,
}

/// The workloads.
fn workloads() -> Vec<WorkloadInfo> {
    let info = |workload: &Workload| WorkloadInfo {
        name: workload.name,
        question: workload.question,
    };
    WORKLOADS.iter().map(info).collect()
}

/// The tables.
fn tables() -> Vec<&'static str> {
    TABLES.iter().map(|table| table.name).collect()
}

/// The scenarios that `simulate` knows by name.
pub const SCENARIOS: &[&str] = &[];

/// What `list` takes: nothing of its own.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct ListArgs {}

/// What stands beside the envelope's keys.
#[derive(Serialize, Debug)]
struct Beside {
    workloads: Vec<WorkloadInfo>,
    tables: Vec<&'static str>,
    scenarios: &'static [&'static str],
}

/// Prints the lists.
///
/// # Errors
/// [`Error::Output`] when stdout cannot be written.
pub fn run(_args: &ListArgs, globals: &Globals) -> Result<ExitCode, Error> {
    if globals.json {
        let beside = Beside {
            workloads: workloads(),
            tables: tables(),
            scenarios: SCENARIOS,
        };
        let none: [Nothing; 0] = [];
        Envelope::new("list", Nothing {}, none, beside).print()?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut grid = Grid::new([
        ("kind", Align::Left),
        ("name", Align::Left),
        ("question", Align::Left),
    ]);
    for workload in WORKLOADS {
        grid.row(["workload", workload.name, workload.question]);
    }
    for table in TABLES {
        grid.row(["table", table.name, table.about]);
    }
    for scenario in SCENARIOS {
        grid.row(["scenario", scenario, ""]);
    }
    grid.print(globals.format)?;
    if globals.format == Format::Table && !globals.quiet {
        // A note, not a result: whoever cannot read it misses nothing.
        let _ = writeln!(io::stderr(), "\nTry: clashtrack hooks");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_workload_asks_a_question() {
        let mut names: Vec<_> = WORKLOADS.iter().map(|w| w.name).chain(tables()).collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        assert!(WORKLOADS.iter().all(|w| w.question.ends_with('?')));
    }
}

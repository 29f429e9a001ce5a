//! Bytes a connection: what a table of `churn` adds to a process's resident memory.
//!
//! Each table is measured in a process of its own, so that no other table's memory, given back or not, is
//! in the figure. The child draws its traffic, notes its memory, makes and fills the table, turns it over as
//! `churn` does, and notes its memory again; everything that the table took is in the difference: entries, trackers
//! that were touched, index, free lists, what waits to be reused. The one thing of ours that grows with it, the list of
//! the connections' entries, is taken off.

use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;

use crate::error::Error;
use crate::interrupt;
use crate::memory::Resident;
use crate::peer::{self, TableVisitor};
use crate::workload::churn::{ChurnContender, Place};
use crate::workload::measure::Contender;
use crate::workload::traffic::Traffic;
use crate::workload::worker::Cores;
use crate::workload::{Case, Kind, Measurement, Plan};

/// Fewer connections than this are lost in what a process and a table have anyway.
const CONNECTIONS_MIN: usize = 100_000;

/// Measures the memory of every table of `churn`, each in a child process.
///
/// # Errors
/// [`Error::Environment`] when a child cannot be started, or fails.
pub(super) fn measure(
    plan: &Plan,
    measurements: &mut [Measurement],
    interrupted: &AtomicBool,
) -> Result<(), Error> {
    for measurement in measurements {
        let case = measurement.case;
        // Relaxed: a flag that stands for itself.
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        if case.workload.kind == Kind::Churn && case.connections >= CONNECTIONS_MIN {
            measurement.bytes_per_connection = in_child(plan, &case, measurement.table)?;
        }
    }
    Ok(())
}

fn in_child(plan: &Plan, case: &Case, table: &str) -> Result<Option<f64>, Error> {
    let failed = |problem: String| Error::Environment {
        problem: format!("the memory of {table} cannot be measured: {problem}"),
        remedy: "a process of this program must be able to start another one".to_owned(),
    };
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let output = Command::new(program)
        .args(["run", case.workload.name, "--memory-only", "--table", table])
        .args(["--workers", &case.workers.to_string()])
        .args(["--connections", &case.connections.to_string()])
        .args(["--batch", &case.batch.to_string()])
        .args(["--l4", case.protocol.name()])
        .args(["--prefetch", &plan.prefetch.words()])
        .args(["--seed", &case.seed.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(said.trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
}

/// The child's part: prints bytes a connection of the plan's one table, or nothing where the system does not tell.
///
/// # Errors
/// [`Error::Output`] when stdout cannot be written.
pub(super) fn print_growth(plan: &Plan, cores: &Cores) -> Result<ExitCode, Error> {
    for case in plan.cases().iter().take(1) {
        let growth = plan
            .tables
            .first()
            .and_then(|table| peer::visit(table, Grow { case, cores }));
        if let Some(Some(bytes)) = growth {
            writeln!(io::stdout().lock(), "{bytes}").map_err(Error::Output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct Grow<'a> {
    case: &'a Case,
    cores: &'a Cores,
}

impl TableVisitor for Grow<'_> {
    type Output = Option<f64>;

    fn visit<T: FlowTable<KeyV4> + 'static>(self) -> Option<f64>
    where
        T::Worker: 'static,
    {
        let traffic = Arc::new(Traffic::of(self.case));
        let before = Resident::now()?;
        let mut contender = ChurnContender::<T>::new(self.case, traffic);
        contender.round(self.cores, interrupt::flag());
        let after = Resident::now()?;
        let ours = self.case.connections * size_of::<Place>();
        let grown = after.resident as f64 - before.resident as f64 - ours as f64;
        Some(grown / self.case.connections as f64)
    }
}

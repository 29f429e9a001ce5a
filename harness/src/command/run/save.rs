//! `--save`: keeps a run for `clashtrack history`.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use crate::command::Globals;
use crate::error::Error;
use crate::history;
use crate::history::store::{Run, Store};
use crate::report::json::RunResult;
use crate::report::machine::Machine;

/// Whether a run is kept, and where.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct SaveArgs {
    /// Keep the results for `clashtrack history`, in this file [default: $CLASHTRACK_HISTORY, else .clashtrack/history.sqlite]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub save: Option<Option<PathBuf>>,
}

impl SaveArgs {
    /// Opens the file, if one was asked for. What is wrong with it is said here, before anything is measured.
    ///
    /// # Errors
    /// As for [`Store::to_save`].
    pub(super) fn open(&self) -> Result<Option<Store>, Error> {
        let Some(file) = &self.save else {
            return Ok(None);
        };
        let path = file.clone().unwrap_or_else(history::default_file);
        Store::to_save(&path).map(Some)
    }
}

/// Keeps what was measured, and says where. Results whose books do not balance are not to be believed: they are not kept.
///
/// # Errors
/// [`Error::File`] when it cannot be written.
pub(super) fn keep(
    store: &mut Store,
    config: &impl Serialize,
    machine: &Machine,
    results: &[RunResult],
    (seed, interrupted): (u64, bool),
    globals: &Globals,
) -> Result<(), Error> {
    let kept: Vec<&RunResult> = results.iter().filter(|result| result.lost() == 0).collect();
    let path = store.path().display().to_string();
    let said = if kept.is_empty() {
        format!("nothing was saved in {path}: there is no result to keep")
    } else {
        let number = store.save(&Run {
            machine,
            config,
            results: &kept,
            seed,
            interrupted,
        })?;
        format!(
            "saved in {path}: run {number}, {} of {} results; `clashtrack history` shows them",
            kept.len(),
            results.len()
        )
    };
    if !globals.quiet {
        // A note: whoever cannot read it misses nothing.
        let _ = writeln!(io::stderr(), "clashtrack: {said}");
    }
    Ok(())
}

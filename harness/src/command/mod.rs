//! The subcommands, a file each.
//!
//! A file `name.rs` holds `NameArgs` (what the command line says) and
//! `run(&NameArgs, &Globals) -> Result<ExitCode, Error>`. Results go to stdout through
//! `write!` and [`Error::Output`], so that a closed pipe ends the command quietly (`println!`
//! would panic there); progress and notes go to stderr.

pub mod calibrate;
pub mod check_against;
pub mod compare;
pub mod completions;
pub mod flame;
pub mod history;
pub mod hooks;
pub mod list;
pub mod man;
pub mod replay;
pub mod run;
pub mod set;
pub mod simulate;
pub mod submit_form;
pub mod values;

use std::io::IsTerminal;

use clap::ColorChoice;

use crate::cli::{Format, GlobalArgs};

#[cfg(doc)]
use crate::error::Error;

/// The flags of every subcommand, resolved.
#[derive(Clone, Debug)]
pub struct Globals {
    /// One JSON object on stdout (`--json` or `--format json`).
    pub json: bool,
    /// How results are printed; [`Format::Json`] exactly when `json`.
    pub format: Format,
    /// As `--color` says; [`Globals::colors`] is the answer.
    pub color: ColorChoice,
    /// Neither progress nor notes on stderr.
    pub quiet: bool,
    /// The user's seed; without one each command has a fixed one of its own, which it prints.
    pub seed: Option<u64>,
}

impl From<&GlobalArgs> for Globals {
    fn from(args: &GlobalArgs) -> Globals {
        let json = args.json || args.format == Format::Json;
        Globals {
            json,
            format: if json { Format::Json } else { args.format },
            color: args.color,
            quiet: args.quiet,
            seed: args.seed,
        }
    }
}

impl Globals {
    /// Whether to colour what goes to `stream` (stdout or stderr).
    #[must_use]
    pub fn colors(&self, stream: &impl IsTerminal) -> bool {
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
                stream.is_terminal()
                    && set("NO_COLOR").is_none()
                    && set("TERM").is_none_or(|term| term != "dumb")
            }
        }
    }
}

//! `clashtrack completions SHELL`: a completion script from the one definition.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Globals;
use crate::cli::Cli;
use crate::error::Error;

const AFTER_HELP: &str = "\
Examples:
  clashtrack completions bash > ~/.local/share/bash-completion/completions/clashtrack
  clashtrack completions fish > ~/.config/fish/completions/clashtrack.fish";

/// What `completions` takes.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct CompletionsArgs {
    /// The shell to write for
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the completion script.
///
/// # Errors
/// [`Error::Output`] when stdout cannot be written.
pub fn run(args: &CompletionsArgs, _globals: &Globals) -> Result<ExitCode, Error> {
    // Into memory first: clap_complete panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "clashtrack", &mut script);
    io::stdout().write_all(&script).map_err(Error::Output)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_has_a_script_that_knows_the_subcommands() {
        for &shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "clashtrack", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("hooks"), "{shell}");
        }
    }
}

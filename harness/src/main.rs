//! The `clashtrack` command: parse, dispatch, exit code. All else is in the library.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clashtrack::cli::Cli;
use clashtrack::error::EXIT_CANNOT;

fn main() -> ExitCode {
    // Bad use ends here with 2, `--help` and `--version` with 0: clap's own codes are ours.
    match Cli::parse().run() {
        Ok(code) => code,
        // Whoever read our output has seen enough (`clashtrack list | head -1`).
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            // Nowhere is left to say that stderr is closed.
            let _ = writeln!(io::stderr(), "clashtrack: {error}");
            ExitCode::from(EXIT_CANNOT)
        }
    }
}

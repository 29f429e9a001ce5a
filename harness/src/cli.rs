//! The command line, as clap sees it. Help, completions and man pages come from here.

use std::process::ExitCode;

use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};

use crate::command::{self, Globals};
use crate::error::Error;

/// Ends `--help` and the man page of the command itself.
const AFTER_HELP: &str = "\
Examples:
  clashtrack
  clashtrack --seed 7 --json
  clashtrack run clash-nat --table striped,dashmap
  clashtrack hooks --format markdown
  clashtrack simulate --connect 127.0.0.1:8080 --rules nat.rules
  clashtrack replay capture.pcap

Exit codes:
  0    done, or whoever read the output closed it
  1    it ran, and the answer is no
  2    bad use, bad input, or an environment that cannot
  130  ended by Ctrl-C, with what was measured so far printed";

/// Races connection-tracking and NAT engines, says which connections will time out, and replays captures
#[derive(Parser, Debug, Clone)]
#[command(name = "clashtrack", version, after_long_help = AFTER_HELP)]
#[command(subcommand_required = false, max_term_width = 100)]
pub struct Cli {
    /// Flags that every subcommand takes.
    #[command(flatten)]
    pub globals: GlobalArgs,
    /// What to do; without one, the main job.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The flags that every subcommand takes, as written.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Output and seed")]
pub struct GlobalArgs {
    /// Print one JSON object (short for --format json)
    #[arg(long, global = true, conflicts_with = "format")]
    pub json: bool,
    /// How results are printed
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    pub format: Format,
    /// Colours: auto is off when NO_COLOR is set, TERM is dumb or the output is no terminal
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    pub color: ColorChoice,
    /// No progress and no notes on stderr
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Seed of everything that is drawn: the same seed gives the same traffic
    #[arg(long, global = true, value_name = "N")]
    pub seed: Option<u64>,
}

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people at a terminal.
    Table,
    /// One object, schema `clashtrack/1`.
    Json,
    /// Comma-separated, a head line first.
    Csv,
    /// For pasting into a page.
    Markdown,
}

/// The subcommands, alphabetical. A new one takes a line here, one in `Command::run`, and
/// its `pub mod` in `command/mod.rs`.
#[derive(Subcommand, Debug, Clone)]
pub enum Command {
    /// Measure what a cache line costs here, by prefetch hint and lines under way
    Calibrate(command::calibrate::CalibrateArgs),
    /// Measure the comparison of `run --against` itself: false alarms, and slow-downs found
    CheckAgainst(command::check_against::CheckAgainstArgs),
    /// Compare two results of `run`: which rows are slower, and how sure that is
    Compare(command::compare::CompareArgs),
    /// Print a completion script for a shell
    Completions(command::completions::CompletionsArgs),
    /// Draw where a workload's time goes: a flame graph, of its measured phase alone
    Flame(command::flame::FlameArgs),
    /// Show a metric over the runs that were saved, and where it changed
    History(command::history::HistoryArgs),
    /// Print the hooks a packet passes, with their priorities
    Hooks(command::hooks::HooksArgs),
    /// List workloads with their questions, tables and scenarios
    List(command::list::ListArgs),
    /// Print a man page, or write all of them into a folder
    Man(command::man::ManArgs),
    /// Feed a capture through the tracker and print the connections it ends with
    Replay(command::replay::ReplayArgs),
    /// Measure workloads on tables: rates, what became of the losers of races, the machine's limit
    Run(command::run::RunArgs),
    /// Predict which connections will time out: virtual time, the real engine
    Simulate(command::simulate::SimulateArgs),
    /// Measure this machine and write the one file to send in
    SubmitForm(command::submit_form::SubmitFormArgs),
}

impl Command {
    fn run(&self, globals: &Globals) -> Result<ExitCode, Error> {
        match self {
            Command::Calibrate(args) => command::calibrate::run(args, globals),
            Command::CheckAgainst(args) => command::check_against::run(args, globals),
            Command::Compare(args) => command::compare::run(args, globals),
            Command::Completions(args) => command::completions::run(args, globals),
            Command::Flame(args) => command::flame::run(args, globals),
            Command::History(args) => command::history::run(args, globals),
            Command::Hooks(args) => command::hooks::run(args, globals),
            Command::List(args) => command::list::run(args, globals),
            Command::Man(args) => command::man::run(args, globals),
            Command::Replay(args) => command::replay::run(args, globals),
            Command::Run(args) => command::run::run(args, globals),
            Command::Simulate(args) => command::simulate::run(args, globals),
            Command::SubmitForm(args) => command::submit_form::run(args, globals),
        }
    }
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// Whatever ends the command with exit code 2.
    pub fn run(&self) -> Result<ExitCode, Error> {
        let globals = Globals::from(&self.globals);
        match &self.command {
            Some(command) => command.run(&globals),
            None => command::run::main_job(&globals),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_use_exits_with_2() {
        let error = Cli::try_parse_from(["clashtrack", "--no-such-flag"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn help_exits_with_0() {
        let help = Cli::try_parse_from(["clashtrack", "--help"]).unwrap_err();
        assert_eq!(help.exit_code(), 0);
    }

    #[test]
    fn global_flags_stand_before_or_after_the_subcommand() {
        for words in [
            ["clashtrack", "--json", "hooks"],
            ["clashtrack", "hooks", "--json"],
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            assert!(Globals::from(&cli.globals).json, "{words:?}");
        }
    }

    #[test]
    fn every_subcommand_is_described_and_they_stand_in_alphabetical_order() {
        let command = Cli::command();
        let names: Vec<_> = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        assert!(names.is_sorted(), "{names:?}");
        for subcommand in command.get_subcommands() {
            assert!(
                subcommand.get_about().is_some(),
                "{}",
                subcommand.get_name()
            );
        }
    }

    #[test]
    fn help_lists_the_exit_codes() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("Exit codes:"), "{help}");
    }
}

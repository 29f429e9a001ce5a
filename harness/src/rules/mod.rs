//! Rules as users have them, iptables commands and `iptables-save` files, made into the
//! engine's [`Ruleset`].
//!
//! A rule passes through here in this order: words → options and their values → [`Command`]
//! → chains → [`Ruleset`]. Nothing that a rule says is ignored: what cannot be honoured is a
//! [`RuleError`] that points at the word.
//!
//! | understood | |
//! |---|---|
//! | tables | nat, raw; of a file's other tables a note is kept |
//! | commands | `-A`, `-I`, `-N`, `-P … ACCEPT` |
//! | matches | `-p -s -d -i -o`, `-m tcp udp udplite sctp` (ports), `multiport`, `icmp`, `addrtype` (LOCAL), `comment`, each with `!` |
//! | targets | SNAT, DNAT, MASQUERADE, REDIRECT, NETMAP, ACCEPT, RETURN, chains (`-j`, `-g`), LOG, NFLOG; in raw NOTRACK and CT (`--notrack`, zones) |
//!
//! Sources: iptables(8), iptables-extensions(8), iptables-save(8); the checks are those of
//! `xtables` and of the kernel's `ip_tables.c` (`mark_source_chains`, `xt_check_target`).

mod chains;
mod conditions;
mod error;
mod fit;
mod lower;
mod names;
mod options;
mod parse;
mod print;
mod rule;
mod save;
mod target;
mod values;
mod words;

use clashtrack_engine::rules::Ruleset;

use chains::Tables;
pub use error::{Place, RuleError};
pub use rule::{Action, Command, Rule, Table, Target};

/// The rules that were loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedRules {
    /// The engine's form.
    pub ruleset: Ruleset,
    /// What was left out and why, one line each, for stderr.
    pub notes: Vec<String>,
}

/// Understands one iptables command, as typed into a shell; the word `iptables` in front
/// may be missing.
///
/// Chains are not looked up: that they exist is seen by [`RulesetBuilder::command`].
///
/// ```
/// use clashtrack::rules::{Action, parse_command};
///
/// let command = parse_command("iptables -t nat -A POSTROUTING -p tcp -j MASQUERADE")?;
/// let Action::Append(rule) = command.action else { panic!("-A appends") };
/// assert_eq!(rule.to_save_line("POSTROUTING"), "-A POSTROUTING -p tcp -j MASQUERADE");
/// # Ok::<(), clashtrack::rules::RuleError>(())
/// ```
///
/// # Errors
///
/// What is not understood, or could not be honoured. The place is `--rule:1`.
pub fn parse_command(rule: &str) -> Result<Command, RuleError> {
    parse::command(rule)
        .map(|parsed| parsed.command)
        .map_err(|fault| fault.in_text(rule, Place::Command(1)))
}

/// Understands one rule line of an `iptables-save` file, `-A CHAIN …`, in the section of
/// `table`.
///
/// # Errors
///
/// As [`parse_command`].
pub fn parse_save_line(line: &str, table: Table) -> Result<Command, RuleError> {
    parse::save_line(line, table)
        .map(|parsed| parsed.command)
        .map_err(|fault| fault.in_text(line, Place::Command(1)))
}

/// Builds one ruleset from commands and files, in the order given: each adds to what the
/// ones before it left, as commands typed one after the other do. (So a file does not empty
/// a table first, as `iptables-restore` does without `--noflush`.)
#[derive(Debug)]
pub struct RulesetBuilder {
    tables: Tables,
    commands: usize,
    notes: Vec<String>,
}

impl Default for RulesetBuilder {
    fn default() -> RulesetBuilder {
        RulesetBuilder::new()
    }
}

impl RulesetBuilder {
    /// No rules, and no NAT hooks.
    #[must_use]
    pub fn new() -> RulesetBuilder {
        RulesetBuilder {
            tables: Tables::new(),
            commands: 0,
            notes: Vec::new(),
        }
    }

    /// Carries out one command, as typed into a shell.
    ///
    /// # Errors
    ///
    /// What is not understood or could not be honoured; a chain that does not exist; a
    /// target that its chain's packets may not meet; jumps that go round in a circle.
    pub fn command(&mut self, rule: &str) -> Result<(), RuleError> {
        self.commands += 1;
        let place = Place::Command(self.commands);
        let parsed = parse::command(rule).map_err(|fault| fault.in_text(rule, place.clone()))?;
        let table = parsed.command.table;
        self.tables.apply(parsed, rule, &place)?;
        self.tables.check(table)
    }

    /// Loads a file in the form of `iptables-save`. `path` is for messages alone.
    ///
    /// # Errors
    ///
    /// As [`RulesetBuilder::command`], and what is not such a file: a rule outside of a
    /// table, a table without COMMIT.
    pub fn save_file(&mut self, text: &str, path: &str) -> Result<(), RuleError> {
        save::load(text, path, &mut self.tables, &mut self.notes)
    }

    /// The rules in the engine's form.
    ///
    /// # Errors
    ///
    /// A rule of the raw table that the engine has no form for.
    pub fn finish(self) -> Result<ParsedRules, RuleError> {
        Ok(ParsedRules {
            ruleset: self.tables.into_ruleset()?,
            notes: self.notes,
        })
    }
}

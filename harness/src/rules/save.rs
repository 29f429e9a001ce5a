//! Files in the form of `iptables-save`.
//!
//! ```text
//! # a comment
//! *nat                               a table begins
//! :POSTROUTING ACCEPT [0:0]          a base chain, its policy, its counters
//! :DOCKER - [0:0]                    a chain of the user's own
//! [12:720] -A POSTROUTING …          a rule, with its counters or without
//! COMMIT                             the table ends
//! ```

use std::ops::Range;

use super::chains::Tables;
use super::error::{Fault, Place, RuleError};
use super::fit;
use super::parse::{self, Parsed};
use super::rule::{Action, Command, Table};
use super::values::is_number;
use super::words::Word;

/// Tables that are left out, and said so.
const TABLES_LEFT_OUT: &[&str] = &["filter", "mangle", "security"];

/// Targets and policies that drop packets.
const DROPPING: &[&str] = &["DROP", "REJECT"];

/// Targets that change what tracking, NAT or routing see of a packet.
const ALTERING: &[&str] = &[
    "CONNMARK",
    "DSCP",
    "ECN",
    "HL",
    "MARK",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TOS",
    "TPROXY",
    "TTL",
];

/// The section that the reader is in.
enum Section {
    /// Between tables.
    Outside,
    /// A table that is loaded.
    Loaded(Table),
    /// A table that is left out.
    LeftOut(LeftOut),
}

/// What a table that is left out would have done.
struct LeftOut {
    name: String,
    line: usize,
    rules: usize,
    dropping: usize,
    altering: usize,
}

/// Loads a file.
pub(super) fn load(
    text: &str,
    path: &str,
    tables: &mut Tables,
    notes: &mut Vec<String>,
) -> Result<(), RuleError> {
    let mut reader = Reader {
        path,
        tables,
        notes,
        section: Section::Outside,
        opened: Vec::new(),
    };
    let mut last = (1, "");
    for (index, line) in text.lines().enumerate() {
        last = (index + 1, line);
        reader.line(index + 1, line)?;
    }
    if matches!(reader.section, Section::Outside) {
        return Ok(());
    }
    let (number, line) = last;
    let end = line.len();
    Err(Fault::at(
        &(end..end),
        "the file ends inside a table: COMMIT is missing",
    )
    .help("end the table with a line that reads COMMIT; the file may have been cut off")
    .in_text(line, reader.place(number)))
}

/// Reads line by line.
struct Reader<'a> {
    path: &'a str,
    tables: &'a mut Tables,
    notes: &'a mut Vec<String>,
    section: Section,
    /// Tables of this file so far.
    opened: Vec<String>,
}

impl Reader<'_> {
    fn place(&self, line: usize) -> Place {
        Place::File {
            path: self.path.to_owned(),
            line,
        }
    }

    fn line(&mut self, number: usize, line: &str) -> Result<(), RuleError> {
        let text = line.trim();
        let start = line.len() - line.trim_start().len();
        let whole = start..start + text.len();
        let first = text.chars().next();
        let done = match (first, &mut self.section) {
            (None, _) => Ok(()),
            (Some('#'), _) => comment(text, &whole),
            (Some('*'), _) => self.open(number, &text[1..], &whole),
            (_, Section::Outside) => Err(Fault::at(&whole, "this line stands outside of a table")
                .help("a table begins with a line such as *nat and ends with COMMIT; is this a file of iptables-save?")),
            (_, Section::LeftOut(left_out)) => {
                if text == "COMMIT" {
                    self.notes.push(left_out.note(self.path));
                    self.section = Section::Outside;
                } else {
                    left_out.count(text);
                }
                Ok(())
            }
            (_, &mut Section::Loaded(table)) if text == "COMMIT" => {
                self.section = Section::Outside;
                return self.tables.check(table);
            }
            (Some(':'), &mut Section::Loaded(table)) => self.chain(number, line, table),
            (_, &mut Section::Loaded(table)) => self.rule(number, line, start, table),
        };
        done.map_err(|fault| fault.in_text(line, self.place(number)))
    }

    /// `*nat`
    fn open(&mut self, number: usize, name: &str, span: &Range<usize>) -> Result<(), Fault> {
        if !matches!(self.section, Section::Outside) {
            return Err(
                Fault::at(span, "a table begins before the one above has ended")
                    .help("write COMMIT at the end of each table"),
            );
        }
        let name = name.trim();
        if self.opened.iter().any(|opened| opened == name) {
            return Err(Fault::at(
                span,
                format!("table `{name}` is in this file a second time"),
            )
            .help("iptables-restore would forget the first: put all its rules into one"));
        }
        self.opened.push(name.to_owned());
        self.section = match name {
            "nat" => Section::Loaded(Table::Nat),
            "raw" => Section::Loaded(Table::Raw),
            _ if TABLES_LEFT_OUT.contains(&name) => Section::LeftOut(LeftOut {
                name: name.to_owned(),
                line: number,
                rules: 0,
                dropping: 0,
                altering: 0,
            }),
            _ => {
                return Err(
                    Fault::at(span, format!("table `{name}` does not exist")).help(
                        "tables are nat and raw; filter, mangle and security are left out with a note",
                    ),
                );
            }
        };
        if let Section::Loaded(table) = self.section {
            self.tables.mark_used(table);
        }
        Ok(())
    }

    /// `:CHAIN POLICY [packets:bytes]`
    fn chain(&mut self, number: usize, line: &str, table: Table) -> Result<(), Fault> {
        let words = super::words::split(line, super::words::Quoting::Save)?;
        let whole = words
            .first()
            .map_or(0..line.len(), |word| word.span.start..line.len());
        let (name, policy) = match words.as_slice() {
            [name, policy] => (name, policy),
            [name, policy, counters] if is_counters(&counters.text) => (name, policy),
            [_, _, wrong, ..] => {
                return Err(Fault::at(
                    &wrong.span,
                    format!("`{}` is not expected here", wrong.text),
                )
                .help("a chain's line reads `:CHAIN POLICY [packets:bytes]`"));
            }
            _ => {
                return Err(Fault::at(&whole, "the chain's policy is missing").help(
                    "write `:CHAIN ACCEPT [0:0]`, or `:CHAIN - [0:0]` for a chain of your own",
                ));
            }
        };
        let name = Word {
            text: name.text.trim_start_matches(':').to_owned(),
            // The colon is the first byte of the word: the span stays on a character.
            span: name.span.start + 1..name.span.end,
            quoted: name.quoted,
        };
        let base = table
            .base_chains()
            .iter()
            .any(|&(base, _)| base == name.text);
        if base {
            return match policy.text.as_str() {
                "-" => Ok(()),
                _ => fit::check_policy(policy, table),
            };
        }
        fit::check_chain_name(&name)?;
        if policy.text != "-" {
            return Err(Fault::at(
                &policy.span,
                format!("chain `{}` is a user's own, and has no policy", name.text),
            )
            .help("write `-` in place of the policy"));
        }
        if self.tables.has_user_chain(table, &name.text) {
            // Made by a command or file before: this one adds to it.
            return Ok(());
        }
        let parsed = Parsed {
            command: Command {
                table,
                chain: name.text,
                action: Action::NewChain,
            },
            chain: name.span.clone(),
            position: name.span.clone(),
            target: name.span,
        };
        let place = self.place(number);
        self.tables.apply(parsed, line, &place).map_err(into_fault)
    }

    /// `[packets:bytes] -A CHAIN …`
    fn rule(&mut self, number: usize, line: &str, start: usize, table: Table) -> Result<(), Fault> {
        // Counters become blanks, so that all spans are those of the line.
        let mut text = line.to_owned();
        if line[start..].starts_with('[') {
            let end = line.find(']').map_or(line.len(), |at| at + 1);
            if !is_counters(&line[start..end]) {
                return Err(Fault::at(&(start..end), "these are no counters")
                    .help("counters read [packets:bytes]"));
            }
            text.replace_range(start..end, &" ".repeat(end - start));
        }
        let parsed = parse::save_line(&text, table)?;
        let place = self.place(number);
        self.tables.apply(parsed, line, &place).map_err(into_fault)
    }
}

/// What [`Tables::apply`] says of this very line.
fn into_fault(error: RuleError) -> Fault {
    Fault {
        span: error.span,
        message: error.message,
        help: error.help,
    }
}

/// A comment may betray that the rules are not for IPv4.
fn comment(text: &str, span: &Range<usize>) -> Result<(), Fault> {
    if text.contains("ip6tables-save") {
        return Err(Fault::at(
            span,
            "the file is one of ip6tables, which is not supported yet",
        )
        .help("only IPv4 rules, those of iptables-save, are understood"));
    }
    Ok(())
}

fn is_counters(text: &str) -> bool {
    text.strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .and_then(|text| text.split_once(':'))
        .is_some_and(|(packets, bytes)| is_number(packets) && is_number(bytes))
}

impl LeftOut {
    /// Takes one line of the table into account.
    fn count(&mut self, text: &str) {
        let mut words = text.split_whitespace();
        if text.starts_with(':') {
            let policy = words.nth(1).unwrap_or_default();
            self.dropping += usize::from(DROPPING.contains(&policy));
            return;
        }
        self.rules += 1;
        let target = words
            .skip_while(|&word| word != "-j" && word != "--jump")
            .nth(1)
            .unwrap_or_default();
        self.dropping += usize::from(DROPPING.contains(&target));
        self.altering += usize::from(ALTERING.contains(&target));
    }

    fn note(&self, path: &str) -> String {
        let LeftOut { name, line, .. } = self;
        let rules = counted(self.rules, "rule");
        let mut note = format!(
            "{path}:{line}: table `{name}` is left out ({rules}): only nat and raw count here"
        );
        let effects = [
            (self.dropping, "would drop packets"),
            (self.altering, "would alter packets"),
        ];
        for (count, effect) in effects {
            if count > 0 {
                let what = counted(count, "rule or policy");
                note.push_str(&format!("; {what} {effect}"));
            }
        }
        note
    }
}

fn counted(count: usize, what: &str) -> String {
    match (count, what) {
        (1, _) => format!("1 {what}"),
        (_, "rule or policy") => format!("{count} rules or policies"),
        _ => format!("{count} {what}s"),
    }
}

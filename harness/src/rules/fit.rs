//! Whether the words of a rule fit together, once all are read.

use clashtrack_engine::tuple::Protocol;

use super::error::Fault;
use super::names;
use super::options::Opt;
use super::parse::{ActionDraft, Parsed, Parser};
use super::rule::{Action, Command, Rule, Table, Target};
use super::values;
use super::words::Word;

/// Longest name of a chain (`XT_EXTENSION_MAXNAMELEN` − 1).
const CHAIN_NAME_MAX: usize = 28;

impl Parser<'_> {
    /// All words are read: do they fit together?
    pub(super) fn finish(mut self) -> Result<Parsed, Fault> {
        self.check_waiting()?;
        let Some(action) = self.action.take() else {
            return Err(if self.words.is_empty() {
                Fault::at(&(self.end..self.end), "the rule is empty")
            } else {
                let first = self.words[0].span.start;
                Fault::at(&(first..self.end), "the rule does not say what to do")
            }
            .help("begin with -A CHAIN (or -I, -N, -P): -t nat -A POSTROUTING …"));
        };
        let table = self.check_table(&action)?;
        if !matches!(action.kind, Opt::Append | Opt::Insert) {
            return self.finish_chain(table, action);
        }
        self.check_protocol()?;
        self.check_devices(&action.chain)?;
        let chain_span = action.chain.span.clone();
        let target_span = self
            .target
            .as_ref()
            .map_or_else(|| chain_span.clone(), |target| target.span().clone());
        let target = match self.target.take() {
            Some(target) => target.finish(table, &self.matches)?,
            None => Target::None,
        };
        let rule = Rule {
            matches: self.matches,
            comments: self.comments,
            target,
        };
        let position_span = action
            .extra
            .as_ref()
            .map_or_else(|| chain_span.clone(), |word| word.span.clone());
        let action_done = match (action.kind, &action.extra) {
            (Opt::Append, _) => Action::Append(rule),
            (_, Some(position)) => Action::Insert(values::position(position)?, rule),
            (_, None) => Action::Insert(1, rule),
        };
        Ok(Parsed {
            command: Command {
                table,
                chain: action.chain.text,
                action: action_done,
            },
            chain: chain_span,
            position: position_span,
            target: target_span,
        })
    }

    /// `-N` and `-P`.
    fn finish_chain(self, table: Table, action: ActionDraft) -> Result<Parsed, Fault> {
        if let Some(word) = &self.rule_option {
            return Err(Fault::at(
                &word.span,
                format!(
                    "`{}` cannot stand beside `{}`",
                    word.text, action.option.text
                ),
            )
            .help("rules are added with -A or -I"));
        }
        if let Some(policy) = &action.extra {
            check_policy(policy, table)?;
        }
        let done = match action.kind {
            Opt::Policy => Action::PolicyAccept,
            _ => Action::NewChain,
        };
        let span = action.chain.span;
        Ok(Parsed {
            command: Command {
                table,
                chain: action.chain.text,
                action: done,
            },
            chain: span.clone(),
            position: span.clone(),
            target: span,
        })
    }

    fn check_table(&self, action: &ActionDraft) -> Result<Table, Fault> {
        if let Some(table) = self.file_table {
            return Ok(table);
        }
        let help = "rules of the nat table (-t nat) and the raw table (-t raw) are understood";
        let Some(word) = &self.table else {
            return Err(Fault::at(
                &action.chain.span,
                "without -t the rule is one of the filter table, which is not modelled",
            )
            .help(help));
        };
        match word.text.as_str() {
            "nat" => Ok(Table::Nat),
            "raw" => Ok(Table::Raw),
            "filter" | "mangle" | "security" => Err(Fault::at(
                &word.span,
                format!("table `{}` is not modelled", word.text),
            )
            .help(help)),
            _ => Err(
                Fault::at(&word.span, format!("table `{}` does not exist", word.text)).help(help),
            ),
        }
    }

    /// Ports need a protocol that has them, and so on.
    fn check_protocol(&self) -> Result<(), Fault> {
        let protocol = self
            .matches
            .protocol
            .as_ref()
            .filter(|protocol| !protocol.negated)
            .map(|protocol| protocol.value);
        let name = protocol.and_then(names::protocol_name);
        for word in &self.loaded {
            let own = word.text.as_str();
            if matches!(own, "multiport" | "addrtype" | "comment") || name == Some(own) {
                continue;
            }
            return Err(
                Fault::at(&word.span, format!("match `{own}` needs `-p {own}`"))
                    .help(format!("write -p {own} before -m {own}")),
            );
        }
        if let Some(word) = &self.ports
            && !protocol.is_some_and(Protocol::has_ports)
        {
            let fault = if name == Some("dccp") {
                Fault::at(
                    &word.span,
                    "connection tracking does not see the ports of DCCP",
                )
            } else {
                Fault::at(
                    &word.span,
                    format!("`{}` needs a protocol that has ports", word.text),
                )
            };
            return Err(fault.help("write -p tcp, udp, udplite or sctp"));
        }
        if let Some(word) = &self.icmp
            && name != Some("icmp")
        {
            return Err(
                Fault::at(&word.span, format!("`{}` needs `-p icmp`", word.text))
                    .help("write -p icmp"),
            );
        }
        Ok(())
    }

    /// Where a packet has no such device, iptables refuses to ask for it.
    fn check_devices(&self, chain: &Word) -> Result<(), Fault> {
        let wrong = match chain.text.as_str() {
            "POSTROUTING" | "OUTPUT" => &self.in_device,
            "PREROUTING" | "INPUT" => &self.out_device,
            _ => return Ok(()),
        };
        let Some(option) = wrong else {
            return Ok(());
        };
        Err(Fault::at(
            &option.span,
            format!("`{}` cannot be asked in {}", option.text, chain.text),
        )
        .help("-i is for PREROUTING and INPUT, -o for POSTROUTING and OUTPUT"))
    }
}

/// A chain's name that could be written back.
pub(super) fn check_chain_name(word: &Word) -> Result<(), Fault> {
    let name = word.text.as_str();
    let strange = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\');
    let problem = if name.is_empty() {
        "a chain's name is missing".to_owned()
    } else if name.len() > CHAIN_NAME_MAX {
        format!("chain name `{name}` is longer than {CHAIN_NAME_MAX} characters")
    } else if name.starts_with(['-', '!']) || name.contains(strange) {
        format!("`{name}` cannot be the name of a chain")
    } else {
        return Ok(());
    };
    Err(Fault::at(&word.span, problem)
        .help("write a name such as POSTROUTING, or a chain of your own"))
}

/// A base chain's policy: ACCEPT, as iptables demands of the nat table.
pub(super) fn check_policy(word: &Word, table: Table) -> Result<(), Fault> {
    let fault = match (word.text.as_str(), table) {
        ("ACCEPT", _) => return Ok(()),
        ("DROP", Table::Nat) => Fault::at(
            &word.span,
            "the nat table is not for filtering: its policy cannot be DROP",
        ),
        ("DROP", Table::Raw) => Fault::at(
            &word.span,
            "a raw table that drops packets cannot be honoured",
        ),
        (other, _) => Fault::at(&word.span, format!("policy `{other}` is not understood")),
    };
    Err(fault.help("the policy must be ACCEPT"))
}

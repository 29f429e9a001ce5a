//! From words to a [`Command`]: walks the options and hands their values on.

use std::ops::Range;

use clashtrack_engine::rules::RuleMatch;

use super::error::Fault;
use super::fit::check_chain_name;
use super::options::{self, Found, Named, Opt, Owner, Spec, Takes};
use super::rule::{Command, Table};
use super::target::TargetDraft;
use super::values;
use super::words::{self, Quoting, Word};

/// What may be asked of packets, for messages.
pub(super) const UNDERSTOOD: &str =
    "rules may use -p -s -d -i -o, -m tcp|udp|icmp|sctp|udplite|multiport|addrtype|comment";

/// A command with the places of the words that may yet prove wrong.
#[derive(Debug)]
pub(super) struct Parsed {
    /// The command.
    pub(super) command: Command,
    /// The chain's name.
    pub(super) chain: Range<usize>,
    /// The position of `-I`, or the chain's name.
    pub(super) position: Range<usize>,
    /// The target's name, or the chain's.
    pub(super) target: Range<usize>,
}

/// Understands a rule as typed into a shell.
pub(super) fn command(text: &str) -> Result<Parsed, Fault> {
    let words = words::split(text, Quoting::Shell)?;
    let first = without_program(&words)?;
    Parser::new(&words[first..], text.len(), None).run()
}

/// Understands a line of `iptables-save`, without its counters, in a table's section.
pub(super) fn save_line(text: &str, table: Table) -> Result<Parsed, Fault> {
    let words = words::split(text, Quoting::Save)?;
    Parser::new(&words, text.len(), Some(table)).run()
}

/// How many words come before the options: `sudo`, `iptables`.
fn without_program(words: &[Word]) -> Result<usize, Fault> {
    let sudo = usize::from(words.first().is_some_and(|word| word.text == "sudo"));
    let Some(program) = words.get(sudo) else {
        return Ok(sudo);
    };
    let name = program
        .text
        .rsplit_once('/')
        .map_or(program.text.as_str(), |(_, name)| name);
    match name {
        "iptables" | "iptables-legacy" | "iptables-nft" => Ok(sudo + 1),
        _ if name.starts_with("ip6tables") => {
            Err(Fault::at(&program.span, "ip6tables is not supported yet")
                .help("only IPv4 rules, those of iptables, are understood"))
        }
        _ if name.starts_with(['-', '!']) => Ok(sudo),
        _ => Err(Fault::at(
            &program.span,
            format!("`{name}` is not a command of iptables"),
        )
        .help("a rule reads: iptables -t nat -A CHAIN …; the word iptables may be left out")),
    }
}

/// What is to be done to a chain, as far as it is known.
#[derive(Debug)]
pub(super) struct ActionDraft {
    pub(super) kind: Opt,
    pub(super) option: Word,
    pub(super) chain: Word,
    /// The position of `-I`, the policy of `-P`.
    pub(super) extra: Option<Word>,
}

/// An option in hand: its word, its description, and whether `!` stood before it.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) word: Word,
    pub(super) spec: &'static Spec,
    /// Its full long name.
    pub(super) long: &'static str,
    pub(super) attached: Option<Word>,
    pub(super) negation: Option<Range<usize>>,
}

/// The walk over the words of one rule.
#[derive(Debug)]
pub(super) struct Parser<'a> {
    pub(super) words: &'a [Word],
    pub(super) next: usize,
    /// Length of the text, where an error points that nothing was there.
    pub(super) end: usize,
    pub(super) file_table: Option<Table>,
    pub(super) table: Option<Word>,
    pub(super) action: Option<ActionDraft>,
    pub(super) matches: RuleMatch,
    pub(super) comments: Vec<String>,
    pub(super) loaded: Vec<Word>,
    /// `-m` that still waits for the option without which it says nothing.
    pub(super) waiting: Option<Word>,
    pub(super) seen: Vec<Opt>,
    /// The first option that only makes sense in a rule.
    pub(super) rule_option: Option<Word>,
    pub(super) in_device: Option<Word>,
    pub(super) out_device: Option<Word>,
    pub(super) ports: Option<Word>,
    pub(super) icmp: Option<Word>,
    pub(super) target: Option<TargetDraft>,
}

impl<'a> Parser<'a> {
    fn new(words: &'a [Word], end: usize, file_table: Option<Table>) -> Parser<'a> {
        Parser {
            words,
            next: 0,
            end,
            file_table,
            table: None,
            action: None,
            matches: RuleMatch::default(),
            comments: Vec::new(),
            loaded: Vec::new(),
            waiting: None,
            seen: Vec::new(),
            rule_option: None,
            in_device: None,
            out_device: None,
            ports: None,
            icmp: None,
            target: None,
        }
    }

    fn run(mut self) -> Result<Parsed, Fault> {
        let mut negation = None;
        while let Some(word) = self.take() {
            if word.text == "!" && !word.quoted {
                if negation.replace(word.span.clone()).is_some() {
                    return Err(Fault::at(&word.span, "`!` is given twice").help("remove one"));
                }
                continue;
            }
            let given = self.option(word, negation.take())?;
            self.check_repetition(&given)?;
            self.honour(given)?;
        }
        if let Some(span) = negation {
            return Err(Fault::at(&span, "`!` has nothing to negate")
                .help("`!` stands before an option: ! -d 192.0.2.1"));
        }
        self.finish()
    }

    fn take(&mut self) -> Option<Word> {
        let word = self.words.get(self.next)?;
        self.next += 1;
        Some(word.clone())
    }

    /// The next word, if `wanted` likes it.
    fn take_if(&mut self, wanted: impl FnOnce(&Word) -> bool) -> Option<Word> {
        let word = self.words.get(self.next).filter(|word| wanted(word))?;
        self.next += 1;
        Some(word.clone())
    }

    /// Which option is this word?
    fn option(&self, word: Word, negation: Option<Range<usize>>) -> Result<Given, Fault> {
        let (word, attached, spec, long) = if word.text.starts_with("--") {
            let (word, attached) = match word.split_at_equals() {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            let (spec, long) = self.long_option(&word)?;
            (word, attached, spec, long)
        } else if let Some(letter) = word.text.strip_prefix('-').and_then(|t| t.chars().next()) {
            let (word, attached) = match word.split_after_letter() {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            let Some(spec) = options::by_letter(letter) else {
                return Err(not_understood(&word));
            };
            (word, attached, spec, spec.long[0])
        } else {
            return Err(
                Fault::at(&word.span, format!("`{}` is not expected here", word.text))
                    .help("options begin with a dash; a value with spaces needs quotes"),
            );
        };
        if let Some(value) = attached.as_ref().filter(|_| spec.takes == Takes::Nothing) {
            return Err(
                Fault::at(&value.span, format!("`{}` takes no value", word.text))
                    .help(format!("remove `{}`", value.text)),
            );
        }
        if let Some(span) = negation.as_ref().filter(|_| !spec.negatable) {
            return Err(
                Fault::at(span, format!("`!` cannot stand before `{}`", word.text))
                    .help("remove it"),
            );
        }
        Ok(Given {
            word,
            spec,
            long,
            attached,
            negation,
        })
    }

    fn long_option(&self, word: &Word) -> Result<(&'static Spec, &'static str), Fault> {
        let protocol = self
            .matches
            .protocol
            .as_ref()
            .filter(|protocol| !protocol.negated)
            .and_then(|protocol| super::names::protocol_name(protocol.value));
        let named = Named {
            matches: &self.loaded,
            protocol,
            target: self.target.as_ref().map(TargetDraft::name),
        };
        match options::by_name(&word.text[2..], &named) {
            Found::One(spec, long) => Ok((spec, long)),
            Found::Ambiguous(names) => Err(Fault::at(
                &word.span,
                format!("`{}` is short for more than one option", word.text),
            )
            .help(format!("write one of --{}", names.join(", --")))),
            Found::Unknown(None) => Err(not_understood(word)),
            Found::Unknown(Some(owner)) => Err(misplaced(word, owner)),
        }
    }

    fn check_repetition(&mut self, given: &Given) -> Result<(), Fault> {
        let Given { word, spec, .. } = given;
        if self.seen.contains(&spec.opt) && !spec.repeatable {
            return Err(
                Fault::at(&word.span, format!("`{}` is given twice", word.text)).help(
                    "a rule can ask for it once: put both values into one, or write two rules",
                ),
            );
        }
        self.seen.push(spec.opt);
        Ok(())
    }

    /// The value of an option. Takes an old-style `!` in front of it into account.
    pub(super) fn value(&mut self, given: &mut Given) -> Result<Word, Fault> {
        if let Some(value) = given.attached.take() {
            return Ok(value);
        }
        if given.spec.negatable
            && let Some(word) = self.take_if(|word| word.text == "!" && !word.quoted)
            && given.negation.replace(word.span.clone()).is_some()
        {
            return Err(Fault::at(&word.span, "`!` is given twice").help("remove one"));
        }
        let free = given.spec.takes == Takes::Text;
        let option = &given.word;
        match self.take() {
            Some(word) if free || word.quoted || !is_option(&word.text) => Ok(word),
            Some(word) => Err(Fault::at(
                &option.span,
                format!(
                    "`{}` needs a value, and `{}` follows",
                    option.text, word.text
                ),
            )
            .help(format!("write the value after `{}`", option.text))),
            None => Err(
                Fault::at(&option.span, format!("`{}` needs a value", option.text))
                    .help(format!("write the value after `{}`", option.text)),
            ),
        }
    }

    /// Does what an option says.
    fn honour(&mut self, mut given: Given) -> Result<(), Fault> {
        match given.spec.opt {
            Opt::Append | Opt::Insert | Opt::NewChain | Opt::Policy => self.action(given),
            Opt::OtherCommand => Err(Fault::at(
                &given.word.span,
                format!("command `{}` is not understood", given.word.text),
            )
            .help("rules are loaded with -A, -I, -N and -P; what should not be there is left out")),
            Opt::Table => self.table(given),
            Opt::NoEffect => Ok(()),
            Opt::Wait => {
                if given.attached.is_none() {
                    self.take_if(|word| values::is_number(&word.text));
                }
                Ok(())
            }
            Opt::WaitInterval => self.value(&mut given).map(drop),
            Opt::Counters => self.counters(given),
            Opt::Ipv6 => Err(
                Fault::at(&given.word.span, "IPv6 rules are not supported yet")
                    .help("only IPv4 rules, those of iptables, are understood"),
            ),
            _ => {
                self.rule_option.get_or_insert_with(|| given.word.clone());
                match given.spec.owner {
                    Owner::Targets(_) => {
                        let value = match given.spec.takes {
                            Takes::Nothing => None,
                            _ => Some(self.value(&mut given)?),
                        };
                        match &mut self.target {
                            Some(target) => target.option(given.spec.opt, given.long, value),
                            None => Err(not_understood(&given.word)),
                        }
                    }
                    _ => self.condition(given),
                }
            }
        }
    }

    fn action(&mut self, mut given: Given) -> Result<(), Fault> {
        if let Some(action) = &self.action {
            return Err(Fault::at(
                &given.word.span,
                format!(
                    "`{}` and `{}` cannot be in one command",
                    action.option.text, given.word.text
                ),
            )
            .help("write two commands"));
        }
        let chain = self.value(&mut given)?;
        check_chain_name(&chain)?;
        let extra = match given.spec.opt {
            Opt::Insert => self.take_if(|word| values::is_number(&word.text)),
            Opt::Policy => {
                let policy = self.take_if(|word| !is_option(&word.text));
                if policy.is_none() {
                    return Err(Fault::at(&given.word.span, "`-P` needs a policy")
                        .help("write -P CHAIN ACCEPT"));
                }
                policy
            }
            _ => None,
        };
        self.action = Some(ActionDraft {
            kind: given.spec.opt,
            option: given.word,
            chain,
            extra,
        });
        Ok(())
    }

    fn table(&mut self, mut given: Given) -> Result<(), Fault> {
        if self.file_table.is_some() {
            return Err(
                Fault::at(&given.word.span, "`-t` cannot be used in a file of rules")
                    .help("the table is the one of the line that begins with `*`"),
            );
        }
        self.table = Some(self.value(&mut given)?);
        Ok(())
    }

    /// `-c PACKETS BYTES`: read, and of no effect.
    fn counters(&mut self, mut given: Given) -> Result<(), Fault> {
        let first = self.value(&mut given)?;
        let number = |text: &str| values::is_number(text);
        let fine = match first.text.split_once(',') {
            Some((packets, bytes)) => number(packets) && number(bytes),
            None => number(&first.text) && self.take_if(|word| number(&word.text)).is_some(),
        };
        if fine {
            return Ok(());
        }
        Err(Fault::at(
            &first.span,
            "`-c` needs a number of packets and one of bytes",
        )
        .help("write -c 0 0, or leave it out"))
    }
}

fn is_option(text: &str) -> bool {
    text.len() > 1 && text.starts_with('-')
}

fn not_understood(word: &Word) -> Fault {
    Fault::at(
        &word.span,
        format!("option `{}` is not understood", word.text),
    )
    .help(format!("{UNDERSTOOD}; nothing that a rule says is ignored"))
}

fn misplaced(word: &Word, owner: Owner) -> Fault {
    let help = match owner {
        Owner::Matches(names) if names.contains(&"tcp") => {
            "write -p tcp (or udp, udplite, sctp) before it".to_owned()
        }
        Owner::Matches(names) => format!("write -m {} before it", names.join(" or -m ")),
        Owner::Targets(names) => {
            format!(
                "it belongs to -j {}, which stands before it",
                names.join(", -j ")
            )
        }
        Owner::Iptables => "remove it".to_owned(),
    };
    Fault::at(
        &word.span,
        format!("option `{}` is not known at this place", word.text),
    )
    .help(help)
}

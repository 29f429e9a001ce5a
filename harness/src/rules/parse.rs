//! From words to a [`Command`]: walks the options and hands their values on.

use std::ops::Range;

use clashtrack_engine::rules::{Not, RuleMatch};

use super::error::Fault;
use super::options::{self, Found, Named, Opt, Owner, Spec, Takes};
use super::rule::{Action, Command, Rule, Table};
use super::target::{TargetDraft, target_name};
use super::values;
use super::words::{self, Quoting, Word};

/// Longest name of a chain (`XT_EXTENSION_MAXNAMELEN` − 1).
const CHAIN_NAME_MAX: usize = 28;

/// Longest comment (`XT_MAX_COMMENT_LEN` − 1), in bytes.
const COMMENT_MAX: usize = 255;

/// What may be asked of packets, for messages.
const UNDERSTOOD: &str =
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

/// What is to be done to a chain, as far as it is known.
#[derive(Debug)]
struct ActionDraft {
    kind: Opt,
    option: Word,
    chain: Word,
    /// The position of `-I`, the policy of `-P`.
    extra: Option<Word>,
}

/// An option in hand: its word, its description, and whether `!` stood before it.
#[derive(Debug)]
struct Given {
    word: Word,
    spec: &'static Spec,
    /// Its full long name.
    long: &'static str,
    attached: Option<Word>,
    negation: Option<Range<usize>>,
}

/// The walk over the words of one rule.
#[derive(Debug)]
struct Parser<'a> {
    words: &'a [Word],
    next: usize,
    /// Length of the text, where an error points that nothing was there.
    end: usize,
    file_table: Option<Table>,
    table: Option<Word>,
    action: Option<ActionDraft>,
    matches: RuleMatch,
    comments: Vec<String>,
    loaded: Vec<Word>,
    /// `-m` that still waits for the option without which it says nothing.
    waiting: Option<Word>,
    seen: Vec<Opt>,
    /// The first option that only makes sense in a rule.
    rule_option: Option<Word>,
    in_device: Option<Word>,
    out_device: Option<Word>,
    ports: Option<Word>,
    icmp: Option<Word>,
    target: Option<TargetDraft>,
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
    fn value(&mut self, given: &mut Given) -> Result<Word, Fault> {
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

    /// An option that asks something of the packet, or names a match or target.
    fn condition(&mut self, mut given: Given) -> Result<(), Fault> {
        let value = self.value(&mut given)?;
        let negated = given.negation.is_some();
        let option = given.word.clone();
        if self.waiting.is_some() && matches!(given.spec.owner, Owner::Matches(_)) {
            self.satisfy_waiting(given.spec);
        }
        match given.spec.opt {
            Opt::Match => self.load(value),
            Opt::Jump => self.jump(&option, value, false),
            Opt::Goto => self.jump(&option, value, true),
            Opt::Protocol => {
                match values::protocol(&value)? {
                    Some(protocol) => {
                        self.matches.protocol = Some(not(negated, protocol));
                    }
                    None if negated => return Err(never(&value)),
                    None => {}
                }
                Ok(())
            }
            Opt::Source | Opt::Destination => {
                let networks = values::networks(&value)?;
                if negated && networks.len() > 1 {
                    return Err(Fault::at(
                        &value.span,
                        "`!` cannot stand before a list of networks",
                    )
                    .help(
                        "write the networks one by one, each in a rule that returns or accepts",
                    ));
                }
                let slot = match given.spec.opt {
                    Opt::Source => &mut self.matches.src,
                    _ => &mut self.matches.dst,
                };
                *slot = Some(not(negated, networks));
                Ok(())
            }
            Opt::InDevice => {
                self.matches.in_device = Some(not(negated, values::device(&value)?));
                self.in_device = Some(option);
                Ok(())
            }
            Opt::OutDevice => {
                self.matches.out_device = Some(not(negated, values::device(&value)?));
                self.out_device = Some(option);
                Ok(())
            }
            Opt::Comment => self.comment(value),
            _ => self.extension(&given, option, &value),
        }
    }

    /// An option of a match extension.
    fn extension(&mut self, given: &Given, option: Word, value: &Word) -> Result<(), Fault> {
        let negated = given.negation.is_some();
        let ports = match given.spec.opt {
            Opt::SourcePort | Opt::DestinationPort => vec![values::port_match(value)?],
            Opt::SourcePorts | Opt::DestinationPorts | Opt::EitherPorts => {
                values::multiport(value)?
            }
            Opt::IcmpType => {
                match values::icmp_type(value)? {
                    Some(icmp) => self.matches.icmp = Some(not(negated, icmp)),
                    None if negated => return Err(never(value)),
                    None => {}
                }
                self.icmp = Some(option);
                return Ok(());
            }
            _ => {
                if value.text != "LOCAL" {
                    return Err(Fault::at(
                        &value.span,
                        format!("address type `{}` is not understood", value.text),
                    )
                    .help("addrtype may ask for LOCAL alone"));
                }
                let slot = match given.spec.opt {
                    Opt::SourceType => &mut self.matches.src_is_local,
                    _ => &mut self.matches.dst_is_local,
                };
                *slot = Some(not(negated, ()));
                return Ok(());
            }
        };
        let slot = match given.spec.opt {
            Opt::SourcePort | Opt::SourcePorts => &mut self.matches.src_ports,
            Opt::DestinationPort | Opt::DestinationPorts => &mut self.matches.dst_ports,
            _ => &mut self.matches.either_port,
        };
        if slot.replace(not(negated, ports)).is_some() {
            return Err(Fault::at(
                &option.span,
                format!(
                    "`{}` asks for ports that this rule asks for already",
                    option.text
                ),
            )
            .help("keep one of the two options, with all ports in it"));
        }
        self.ports.get_or_insert(option);
        Ok(())
    }

    fn comment(&mut self, value: Word) -> Result<(), Fault> {
        if value.text.len() > COMMENT_MAX {
            return Err(Fault::at(
                &value.span,
                format!("a comment has at most {COMMENT_MAX} bytes"),
            )
            .help("shorten it"));
        }
        if value.text.contains(char::is_control) {
            return Err(
                Fault::at(&value.span, "a comment is one line of plain text")
                    .help("remove line breaks, tabs and control characters"),
            );
        }
        self.comments.push(value.text);
        Ok(())
    }

    /// `-m NAME`.
    fn load(&mut self, name: Word) -> Result<(), Fault> {
        if !options::MATCHES.contains(&name.text.as_str()) {
            return Err(Fault::at(
                &name.span,
                format!("match `{}` is not understood", name.text),
            )
            .help(format!(
                "{UNDERSTOOD}; remove it if it is true of all your packets"
            )));
        }
        self.check_waiting()?;
        if matches!(name.text.as_str(), "multiport" | "addrtype" | "comment") {
            self.waiting = Some(name.clone());
        }
        self.loaded.push(name);
        Ok(())
    }

    /// An option of the match that waits has come.
    fn satisfy_waiting(&mut self, spec: &Spec) {
        let Owner::Matches(owners) = spec.owner else {
            return;
        };
        if self
            .waiting
            .as_ref()
            .is_some_and(|word| owners.contains(&word.text.as_str()))
        {
            self.waiting = None;
        }
    }

    fn check_waiting(&self) -> Result<(), Fault> {
        let Some(word) = &self.waiting else {
            return Ok(());
        };
        let wanted = match word.text.as_str() {
            "multiport" => "--sports, --dports or --ports",
            "addrtype" => "--src-type or --dst-type",
            _ => "--comment",
        };
        Err(Fault::at(
            &word.span,
            format!("match `{}` asks for nothing", word.text),
        )
        .help(format!("write {wanted} after it")))
    }

    fn jump(&mut self, option: &Word, name: Word, goto: bool) -> Result<(), Fault> {
        if self.target.is_some() {
            return Err(
                Fault::at(&option.span, "a rule has one target, and this is a second")
                    .help("write two rules"),
            );
        }
        target_name(&name, goto)?;
        self.target = Some(TargetDraft::new(name, goto));
        Ok(())
    }

    /// All words are read: do they fit together?
    fn finish(mut self) -> Result<Parsed, Fault> {
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
            None => super::rule::Target::None,
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
        let name = protocol.and_then(super::names::protocol_name);
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
            && !protocol.is_some_and(clashtrack_engine::tuple::Protocol::has_ports)
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

fn not<T>(negated: bool, value: T) -> Not<T> {
    Not { negated, value }
}

fn is_option(text: &str) -> bool {
    text.len() > 1 && text.starts_with('-')
}

fn never(word: &Word) -> Fault {
    Fault::at(
        &word.span,
        format!("no packet is other than `{}`", word.text),
    )
    .help("the rule would never apply: remove it, or remove `!`")
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

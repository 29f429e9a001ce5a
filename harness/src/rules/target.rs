//! Targets and their options.

use std::net::Ipv4Addr;
use std::ops::Range;

use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::rules::{NatPorts, NatTo, RuleMatch};
use clashtrack_engine::tuple::Protocol;
use clashtrack_engine::zone::{Zone, ZoneDirections};

use super::error::Fault;
use super::fit::check_chain_name;
use super::options::{self, Opt};
use super::rule::{Table, Target};
use super::values;
use super::words::Word;

/// A target, as far as it is known.
#[derive(Debug)]
pub(super) struct TargetDraft {
    name: Word,
    goto: bool,
    to: Option<(NatTo, Word)>,
    ports: Option<((u16, u16), Word)>,
    flags: NatFlags,
    netmap: Option<(Ipv4Addr, u8)>,
    notrack: bool,
    zone: Option<Zone>,
    log: Vec<(String, Option<String>)>,
}

/// Refuses the name of a target that is known not to be understood, and what cannot be
/// the name of a chain.
pub(super) fn target_name(name: &Word, goto: bool) -> Result<(), Fault> {
    let text = name.text.as_str();
    let standard = options::TARGETS.contains(&text) || options::FOREIGN_TARGETS.contains(&text);
    if goto && standard {
        return Err(
            Fault::at(&name.span, format!("`-g {text}`: this is no chain"))
                .help(format!("write -j {text}, or the name of a chain")),
        );
    }
    if options::FOREIGN_TARGETS.contains(&text) {
        return Err(
            Fault::at(&name.span, format!("target `{text}` is not understood")).help(format!(
                "targets are {}, and chains of your own",
                options::TARGETS
                    .iter()
                    .filter(|&&target| target != "DROP")
                    .copied()
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
        );
    }
    check_chain_name(name)
}

impl TargetDraft {
    pub(super) fn new(name: Word, goto: bool) -> TargetDraft {
        TargetDraft {
            name,
            goto,
            to: None,
            ports: None,
            flags: NatFlags::empty(),
            netmap: None,
            notrack: false,
            zone: None,
            log: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name.text
    }

    pub(super) fn span(&self) -> &Range<usize> {
        &self.name.span
    }

    /// An option of this target, with its value where it takes one.
    pub(super) fn option(
        &mut self,
        opt: Opt,
        long: &str,
        value: Option<Word>,
    ) -> Result<(), Fault> {
        match (opt, value) {
            (Opt::Random, _) => self.flags |= NatFlags::RANDOM,
            (Opt::RandomFully, _) => self.flags |= NatFlags::RANDOM_FULLY,
            (Opt::Persistent, _) => self.flags |= NatFlags::PERSISTENT,
            (Opt::NoTrack, _) => self.notrack = true,
            (Opt::ToSource, Some(word)) => self.to = Some((values::nat_to(&word, false)?, word)),
            (Opt::ToDestination, Some(word)) => {
                self.to = Some((values::nat_to(&word, true)?, word));
            }
            (Opt::ToPorts, Some(word)) => self.ports = Some((values::nat_ports(&word)?, word)),
            (Opt::NetmapTo, Some(word)) => self.netmap = Some(values::netmap(&word)?),
            (Opt::Zone, Some(word)) => self.zone(&word, ZoneDirections::Both)?,
            (Opt::ZoneOriginal, Some(word)) => self.zone(&word, ZoneDirections::Original)?,
            (Opt::ZoneReply, Some(word)) => self.zone(&word, ZoneDirections::Reply)?,
            (_, value) => self.log_option(long, value)?,
        }
        Ok(())
    }

    fn zone(&mut self, word: &Word, directions: ZoneDirections) -> Result<(), Fault> {
        let id = values::zone(word)?;
        if self.zone.replace(Zone { id, directions }).is_some() {
            return Err(
                Fault::at(&word.span, "a packet has one zone, and this is a second")
                    .help("write one of --zone, --zone-orig, --zone-reply"),
            );
        }
        Ok(())
    }

    fn log_option(&mut self, long: &str, value: Option<Word>) -> Result<(), Fault> {
        if let Some(word) = &value
            && word.text.contains(char::is_control)
        {
            return Err(Fault::at(&word.span, "the value is one line of plain text")
                .help("remove line breaks, tabs and control characters"));
        }
        self.log
            .push((long.to_owned(), value.map(|word| word.text)));
        Ok(())
    }

    /// The target, once all words are read.
    pub(super) fn finish(self, table: Table, matches: &RuleMatch) -> Result<Target, Fault> {
        if self.goto {
            return Ok(Target::Goto(self.name.text));
        }
        self.check_ports(matches)?;
        match self.name.text.as_str() {
            "ACCEPT" => Ok(Target::Accept),
            "RETURN" => Ok(Target::Return),
            "DROP" => Err(self.drop_refused(table)),
            "SNAT" | "DNAT" | "MASQUERADE" | "REDIRECT" | "NETMAP" => {
                self.only_in(table, Table::Nat)?;
                self.finish_nat()
            }
            "NOTRACK" => {
                self.only_in(table, Table::Raw)?;
                Ok(Target::NoTrack)
            }
            "CT" => {
                self.only_in(table, Table::Raw)?;
                match (self.notrack, self.zone) {
                    (true, None) => Ok(Target::NoTrack),
                    (false, Some(zone)) => Ok(Target::Zone(zone)),
                    (true, Some(_)) => Err(Fault::at(
                        self.span(),
                        "what is not tracked has no zone: CT has both --notrack and a zone",
                    )
                    .help("keep one of the two")),
                    (false, None) => {
                        Err(self.needs("--notrack, --zone, --zone-orig or --zone-reply"))
                    }
                }
            }
            "LOG" | "NFLOG" => Ok(Target::Log {
                name: self.name.text,
                options: self.log,
            }),
            _ => Ok(Target::Jump(self.name.text)),
        }
    }

    fn finish_nat(self) -> Result<Target, Fault> {
        let ports = NatPorts {
            range: self.ports.as_ref().map(|&(range, _)| range),
            base: None,
            flags: self.flags,
        };
        let with_flags = |(mut to, _): (NatTo, Word)| {
            to.ports.flags = self.flags;
            to
        };
        match (self.name.text.as_str(), self.to.clone(), self.netmap) {
            ("SNAT", Some(to), _) => Ok(Target::Snat(with_flags(to))),
            ("DNAT", Some(to), _) => Ok(Target::Dnat(with_flags(to))),
            ("MASQUERADE", ..) => Ok(Target::Masquerade(ports)),
            ("REDIRECT", ..) => Ok(Target::Redirect(ports)),
            ("NETMAP", _, Some((to, prefix))) => Ok(Target::Netmap { to, prefix }),
            ("SNAT", ..) => Err(self.needs("--to-source")),
            ("DNAT", ..) => Err(self.needs("--to-destination")),
            _ => Err(self.needs("--to")),
        }
    }

    /// Ports (for ICMP: ids) can be chosen where the rule names a protocol that has them.
    fn check_ports(&self, matches: &RuleMatch) -> Result<(), Fault> {
        let to = self.to.as_ref().filter(|(to, _)| to.ports.range.is_some());
        let Some(word) = to
            .map(|(_, word)| word)
            .or(self.ports.as_ref().map(|(_, word)| word))
        else {
            return Ok(());
        };
        let fine = matches.protocol.as_ref().is_some_and(|protocol| {
            !protocol.negated
                && (protocol.value.has_ports()
                    || matches!(protocol.value, Protocol::DCCP | Protocol::ICMP))
        });
        if fine {
            return Ok(());
        }
        Err(Fault::at(
            &word.span,
            format!(
                "target `{}` is given ports, and the rule no protocol that has them",
                self.name()
            ),
        )
        .help("write -p tcp, udp, udplite, sctp, dccp or icmp, or leave the ports out"))
    }

    fn only_in(&self, table: Table, wanted: Table) -> Result<(), Fault> {
        if table == wanted {
            return Ok(());
        }
        Err(Fault::at(
            self.span(),
            format!(
                "target `{}` cannot be used in the {} table",
                self.name(),
                table.name()
            ),
        )
        .help(format!("it belongs to the {} table", wanted.name())))
    }

    fn drop_refused(&self, table: Table) -> Fault {
        match table {
            Table::Nat => Fault::at(
                self.span(),
                "the nat table is not for filtering: DROP cannot be used in it",
            )
            .help("iptables refuses it too; drop packets in the filter table, which is not modelled"),
            Table::Raw => Fault::at(
                self.span(),
                "a raw table that drops packets cannot be honoured",
            )
            .help("of the raw table NOTRACK and CT are understood; leave the rule out if no packet of yours meets it"),
        }
    }

    fn needs(&self, options: &str) -> Fault {
        Fault::at(
            self.span(),
            format!("target `{}` needs {options}", self.name()),
        )
        .help(format!("write it after -j {}", self.name()))
    }
}

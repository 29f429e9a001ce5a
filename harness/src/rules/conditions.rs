//! What a rule asks of packets: the options of matches, and `-m` and `-j` that name them.

use clashtrack_engine::rules::Not;

use super::error::Fault;
use super::options::{self, Opt, Owner, Spec};
use super::parse::{Given, Parser, UNDERSTOOD};
use super::target::{TargetDraft, target_name};
use super::values;
use super::words::Word;

/// Longest comment (`XT_MAX_COMMENT_LEN` − 1), in bytes.
const COMMENT_MAX: usize = 255;

impl Parser<'_> {
    /// An option that asks something of the packet, or names a match or target.
    pub(super) fn condition(&mut self, mut given: Given) -> Result<(), Fault> {
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
            Opt::InDevice | Opt::OutDevice => {
                let device = values::device(&value)?;
                if negated && device.prefix && device.name.is_empty() {
                    return Err(never(&value));
                }
                let (slot, place) = match given.spec.opt {
                    Opt::InDevice => (&mut self.matches.in_device, &mut self.in_device),
                    _ => (&mut self.matches.out_device, &mut self.out_device),
                };
                *slot = Some(not(negated, device));
                *place = Some(option);
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

    pub(super) fn check_waiting(&self) -> Result<(), Fault> {
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
}

fn not<T>(negated: bool, value: T) -> Not<T> {
    Not { negated, value }
}

fn never(word: &Word) -> Fault {
    Fault::at(
        &word.span,
        format!("no packet is other than `{}`", word.text),
    )
    .help("the rule would never apply: remove it, or remove `!`")
}

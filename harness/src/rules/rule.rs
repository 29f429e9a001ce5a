//! A rule as iptables writes it: chains still by name, targets without effect still there.

use std::net::Ipv4Addr;

use clashtrack_engine::hook::HookPoint;
use clashtrack_engine::rules::{NatPorts, NatTo, RuleMatch};
use clashtrack_engine::zone::Zone;

/// The tables whose rules connection tracking and NAT obey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `nat`.
    Nat,
    /// `raw`.
    Raw,
}

impl Table {
    /// Its name in `-t` and `*`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Table::Nat => "nat",
            Table::Raw => "raw",
        }
    }

    /// The chains that exist from the start, by their hooks.
    #[must_use]
    pub const fn base_chains(self) -> &'static [(&'static str, HookPoint)] {
        match self {
            Table::Nat => &[
                ("PREROUTING", HookPoint::PreRouting),
                ("INPUT", HookPoint::LocalIn),
                ("OUTPUT", HookPoint::LocalOut),
                ("POSTROUTING", HookPoint::PostRouting),
            ],
            Table::Raw => &[
                ("PREROUTING", HookPoint::PreRouting),
                ("OUTPUT", HookPoint::LocalOut),
            ],
        }
    }
}

/// A command of iptables, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// `-t`.
    pub table: Table,
    /// The chain it is about.
    pub chain: String,
    /// What is to be done to the chain.
    pub action: Action,
}

/// What a [`Command`] does to its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `-A`: a rule at the end.
    Append(Rule),
    /// `-I`: a rule at a place, from 1.
    Insert(usize, Rule),
    /// `-N`: the chain comes to be.
    NewChain,
    /// `-P CHAIN ACCEPT`: the only policy that these tables may have.
    PolicyAccept,
}

/// A rule: what it asks of a packet, and what becomes of the packet.
///
/// Displays in `iptables-save` form, without the `-A CHAIN` in front; [`Rule::to_save_line`]
/// gives the whole line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it asks of a packet.
    pub matches: RuleMatch,
    /// `-m comment --comment`.
    pub comments: Vec<String>,
    /// What it does.
    pub target: Target,
}

/// What a rule does, by the names of iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// No `-j`: the rule only counts, the walk goes on.
    None,
    /// `-j LOG`, `-j NFLOG`: the walk goes on.
    Log {
        /// `LOG` or `NFLOG`.
        name: String,
        /// Its options as given, by their long names without dashes.
        options: Vec<(String, Option<String>)>,
    },
    /// `-j ACCEPT`.
    Accept,
    /// `-j RETURN`.
    Return,
    /// `-j SNAT --to-source`.
    Snat(NatTo),
    /// `-j DNAT --to-destination`.
    Dnat(NatTo),
    /// `-j MASQUERADE`.
    Masquerade(NatPorts),
    /// `-j REDIRECT`.
    Redirect(NatPorts),
    /// `-j NETMAP --to`.
    Netmap {
        /// The network that addresses are mapped to.
        to: Ipv4Addr,
        /// Length of its prefix.
        prefix: u8,
    },
    /// `-j CT --notrack`, `-j NOTRACK`.
    NoTrack,
    /// `-j CT --zone`, `--zone-orig`, `--zone-reply`.
    Zone(Zone),
    /// `-j CHAIN`.
    Jump(String),
    /// `-g CHAIN`.
    Goto(String),
}

impl Target {
    /// The name that stands behind `-j` or `-g`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Target::None => "",
            Target::Log { name, .. } | Target::Jump(name) | Target::Goto(name) => name,
            Target::Accept => "ACCEPT",
            Target::Return => "RETURN",
            Target::Snat(_) => "SNAT",
            Target::Dnat(_) => "DNAT",
            Target::Masquerade(_) => "MASQUERADE",
            Target::Redirect(_) => "REDIRECT",
            Target::Netmap { .. } => "NETMAP",
            Target::NoTrack | Target::Zone(_) => "CT",
        }
    }

    /// May it stand in a chain that packets reach from this hook (the `hooks` of the
    /// kernel's `xt_target`)?
    #[must_use]
    pub fn allowed_at(&self, hook: HookPoint) -> bool {
        match self {
            Target::Snat(_) => matches!(hook, HookPoint::PostRouting | HookPoint::LocalIn),
            Target::Dnat(_) | Target::Redirect(_) => {
                matches!(hook, HookPoint::PreRouting | HookPoint::LocalOut)
            }
            Target::Masquerade(_) => hook == HookPoint::PostRouting,
            _ => true,
        }
    }

    /// Where it may stand, for a message.
    pub(super) fn allowed_chains(&self) -> &'static str {
        match self {
            Target::Snat(_) => "POSTROUTING and INPUT",
            Target::Dnat(_) | Target::Redirect(_) => "PREROUTING and OUTPUT",
            Target::Masquerade(_) => "POSTROUTING",
            _ => "every chain",
        }
    }
}

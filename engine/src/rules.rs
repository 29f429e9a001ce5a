//! Rules as a caller loads them: raw (no tracking, zones) and NAT chains.
//!
//! A rule is a match and a target. Chains are walked from the top; the first rule whose
//! match holds decides, unless its target sends the walk elsewhere. Only the *first*
//! packet of a connection ever meets a NAT rule (`nf_nat_inet_fn`).

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use crate::addr::Addr;
use crate::nat::range::NatFlags;
use crate::tuple::Protocol;
use crate::zone::Zone;

/// All rules of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The raw table's `PREROUTING` and `OUTPUT` rules (priority −300): one list for both,
    /// told apart by the device that a packet there does not have.
    pub raw: Vec<RawRule>,
    /// NAT chain of `PRE_ROUTING` (destination).
    pub prerouting: Option<ChainIndex>,
    /// NAT chain of `LOCAL_IN` (source).
    pub input: Option<ChainIndex>,
    /// NAT chain of `LOCAL_OUT` (destination).
    pub output: Option<ChainIndex>,
    /// NAT chain of `POST_ROUTING` (source).
    pub postrouting: Option<ChainIndex>,
    /// All NAT chains, the four above and those that rules jump to.
    pub chains: Vec<Chain>,
    /// NAT hooks exist though no chain has a rule (`nft`'s empty nat chain): connections
    /// get null bindings.
    pub nat_hooks: bool,
}

/// Place of a chain in [`Ruleset::chains`].
pub type ChainIndex = usize;

/// A list of NAT rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Its name, for messages.
    pub name: String,
    /// Its rules, in order.
    pub rules: Vec<NatRule>,
    /// A base chain's policy: drop what no rule decided. Chains of users have none.
    pub policy_drop: bool,
}

/// A rule of a NAT chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatRule {
    /// When it applies.
    pub matches: RuleMatch,
    /// What it does.
    pub target: NatTarget,
}

/// A rule of the raw table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRule {
    /// When it applies.
    pub matches: RuleMatch,
    /// What it does.
    pub target: RawTarget,
}

/// What a raw rule does (the CT target).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawTarget {
    /// `-j NOTRACK`, `-j CT --notrack`: the packet is UNTRACKED.
    NoTrack,
    /// `-j CT --zone…`: the connection is made, and looked for, in this zone.
    Zone(Zone),
}

/// What a NAT rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatTarget {
    /// Leave it: the walk ends, a null binding follows.
    Accept,
    /// The packet is dropped.
    Drop,
    /// `-j SNAT`: new source.
    Snat(NatTo),
    /// `-j DNAT`: new destination.
    Dnat(NatTo),
    /// `-j MASQUERADE`: new source, the output device's address.
    Masquerade(NatPorts),
    /// `-j REDIRECT`: new destination, this host.
    Redirect(NatPorts),
    /// `-j NETMAP --to`: the network part is replaced one to one, `prefix` bits long.
    Netmap {
        /// Network to map to.
        to: Ipv4Addr,
        /// Length of the network part.
        prefix: u8,
    },
    /// Go through another chain, and come back if it decides nothing.
    Jump(ChainIndex),
    /// Go through another chain; what it does not decide is not decided here either.
    Goto(ChainIndex),
    /// Back to the calling chain (in a base chain: the policy).
    Return,
}

/// `--to-source`, `--to-destination`: addresses, ports and how to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatTo {
    /// First and last address; `None` leaves the address.
    pub addresses: Option<(Addr, Addr)>,
    /// Ports and flags.
    pub ports: NatPorts,
}

/// `--to-ports`, `--random`, `--random-fully`, `--persistent`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatPorts {
    /// First and last port (or id); `None` leaves it to the port search's classes.
    pub range: Option<(u16, u16)>,
    /// First port of a shifted range (`DNAT --to-destination :a-b/base`).
    pub base: Option<u16>,
    /// RANDOM, `RANDOM_FULLY`, PERSISTENT, as the user said. The other bits are set by the target.
    pub flags: NatFlags,
}

/// What a rule asks of a packet. The default matches every packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleMatch {
    /// `-p`.
    pub protocol: Option<Not<Protocol>>,
    /// `-s`: any of these networks.
    pub src: Option<Not<Vec<Network>>>,
    /// `-d`: any of these networks.
    pub dst: Option<Not<Vec<Network>>>,
    /// `--sport`, `--sports`: any of these ranges. Never matches a protocol without ports.
    pub src_ports: Option<Not<Vec<RangeInclusive<u16>>>>,
    /// `--dport`, `--dports`.
    pub dst_ports: Option<Not<Vec<RangeInclusive<u16>>>>,
    /// `multiport --ports`: either port is in a range.
    pub either_port: Option<Not<Vec<RangeInclusive<u16>>>>,
    /// `-i`. Where there is no input device its name is the empty one, as in
    /// `ip_packet_match`: `! -i docker0` holds at OUTPUT, and so does an empty name.
    pub in_device: Option<Not<DevicePattern>>,
    /// `-o`. Where there is no output device its name is the empty one.
    pub out_device: Option<Not<DevicePattern>>,
    /// `--icmp-type`: type, and codes of it.
    pub icmp: Option<Not<(u8, RangeInclusive<u8>)>>,
    /// `-m addrtype --dst-type LOCAL`: the destination is this host's.
    pub dst_is_local: Option<Not<()>>,
    /// `-m addrtype --src-type LOCAL`.
    pub src_is_local: Option<Not<()>>,
}

/// A condition, or its opposite (`! -d …`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Not<T> {
    /// `!` stood before it.
    pub negated: bool,
    /// The condition.
    pub value: T,
}

impl<T> Not<T> {
    /// The condition itself.
    pub fn is(value: T) -> Not<T> {
        Not {
            negated: false,
            value,
        }
    }

    /// Does it hold, given what `test` says of the condition?
    pub fn holds(&self, test: impl FnOnce(&T) -> bool) -> bool {
        test(&self.value) != self.negated
    }
}

/// An address with the bits of it that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Address; bits outside the mask are ignored.
    pub address: Addr,
    /// Mask, host order. iptables allows masks with holes.
    pub mask: u32,
}

impl Network {
    /// The network of the first `prefix` bits (0 to 32) of an address.
    #[must_use]
    pub fn v4(address: Ipv4Addr, prefix: u8) -> Network {
        let mask = if prefix == 0 {
            0
        } else {
            u32::MAX << (32 - u32::from(prefix.min(32)))
        };
        Network {
            address: Addr::v4(address),
            mask,
        }
    }

    /// Is the address in it?
    #[must_use]
    pub fn contains(&self, address: Addr) -> bool {
        (address.to_u32() ^ self.address.to_u32()) & self.mask == 0
    }
}

/// A device name, or the beginning of one (`eth+`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePattern {
    /// The name, or its beginning.
    pub name: String,
    /// A `+` stood at its end.
    pub prefix: bool,
}

impl DevicePattern {
    /// Does a device of this name match?
    #[must_use]
    pub fn matches(&self, device: &str) -> bool {
        if self.prefix {
            device.starts_with(&self.name)
        } else {
            device == self.name
        }
    }
}

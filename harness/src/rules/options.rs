//! The options of iptables that are understood, and when each may stand.
//!
//! As in iptables, an option of a match or target is known once `-m`, `-p` or `-j` has
//! named its owner, and a long option may be shortened as long as one option remains.

use super::words::Word;

/// What an option means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opt {
    Table,
    Append,
    Insert,
    NewChain,
    Policy,
    OtherCommand,
    Protocol,
    Source,
    Destination,
    InDevice,
    OutDevice,
    Match,
    Jump,
    Goto,
    Wait,
    WaitInterval,
    NoEffect,
    Counters,
    Ipv6,
    SourcePort,
    DestinationPort,
    SourcePorts,
    DestinationPorts,
    EitherPorts,
    IcmpType,
    SourceType,
    DestinationType,
    Comment,
    ToSource,
    ToDestination,
    ToPorts,
    NetmapTo,
    Random,
    RandomFully,
    Persistent,
    NoTrack,
    Zone,
    ZoneOriginal,
    ZoneReply,
    Log,
}

/// What must have been named for an option to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Nothing: the option is iptables' own.
    Iptables,
    /// One of these matches, by `-m` or by `-p`.
    Matches(&'static [&'static str]),
    /// One of these targets.
    Targets(&'static [&'static str]),
}

/// The value of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// None.
    Nothing,
    /// One word.
    Value,
    /// One word, which may begin with a dash.
    Text,
    /// A number, if one follows.
    MaybeNumber,
}

/// An option.
#[derive(Debug)]
pub(super) struct Spec {
    /// Its long names, without dashes.
    pub(super) long: &'static [&'static str],
    /// Its letter.
    pub(super) short: Option<char>,
    /// Its value.
    pub(super) takes: Takes,
    /// `!` may stand before it.
    pub(super) negatable: bool,
    /// It may be given more than once.
    pub(super) repeatable: bool,
    /// Who knows it.
    pub(super) owner: Owner,
    /// What it means.
    pub(super) opt: Opt,
}

const PORT_MATCHES: Owner = Owner::Matches(&["tcp", "udp", "udplite", "sctp", "dccp"]);
const MULTIPORT: Owner = Owner::Matches(&["multiport"]);
const ADDRTYPE: Owner = Owner::Matches(&["addrtype"]);

const fn own(
    long: &'static [&'static str],
    short: Option<char>,
    takes: Takes,
    negatable: bool,
    opt: Opt,
) -> Spec {
    Spec {
        long,
        short,
        takes,
        negatable,
        repeatable: matches!(opt, Opt::Match | Opt::NoEffect),
        owner: Owner::Iptables,
        opt,
    }
}

const fn of_match(long: &'static [&'static str], negatable: bool, owner: Owner, opt: Opt) -> Spec {
    let comment = matches!(opt, Opt::Comment);
    Spec {
        long,
        short: None,
        takes: if comment { Takes::Text } else { Takes::Value },
        negatable,
        repeatable: comment,
        owner,
        opt,
    }
}

const fn of_target(
    long: &'static [&'static str],
    takes: Takes,
    targets: &'static [&'static str],
    opt: Opt,
) -> Spec {
    Spec {
        long,
        short: None,
        takes,
        negatable: false,
        repeatable: matches!(opt, Opt::Log),
        owner: Owner::Targets(targets),
        opt,
    }
}

/// All options.
#[rustfmt::skip]
static SPECS: &[Spec] = &[
    own(&["table"], Some('t'), Takes::Value, false, Opt::Table),
    own(&["append"], Some('A'), Takes::Value, false, Opt::Append),
    own(&["insert"], Some('I'), Takes::Value, false, Opt::Insert),
    own(&["new-chain"], Some('N'), Takes::Value, false, Opt::NewChain),
    own(&["policy"], Some('P'), Takes::Value, false, Opt::Policy),
    own(&["delete"], Some('D'), Takes::Nothing, false, Opt::OtherCommand),
    own(&["check"], Some('C'), Takes::Nothing, false, Opt::OtherCommand),
    own(&["replace"], Some('R'), Takes::Nothing, false, Opt::OtherCommand),
    own(&["list"], Some('L'), Takes::Nothing, false, Opt::OtherCommand),
    own(&["list-rules"], Some('S'), Takes::Nothing, false, Opt::OtherCommand),
    own(&["flush"], Some('F'), Takes::Nothing, false, Opt::OtherCommand),
    own(&["zero"], Some('Z'), Takes::Nothing, false, Opt::OtherCommand),
    own(&["delete-chain"], Some('X'), Takes::Nothing, false, Opt::OtherCommand),
    own(&["rename-chain"], Some('E'), Takes::Nothing, false, Opt::OtherCommand),
    own(&["protocol", "proto"], Some('p'), Takes::Value, true, Opt::Protocol),
    own(&["source", "src"], Some('s'), Takes::Value, true, Opt::Source),
    own(&["destination", "dst"], Some('d'), Takes::Value, true, Opt::Destination),
    own(&["in-interface"], Some('i'), Takes::Value, true, Opt::InDevice),
    own(&["out-interface"], Some('o'), Takes::Value, true, Opt::OutDevice),
    own(&["match"], Some('m'), Takes::Value, false, Opt::Match),
    own(&["jump"], Some('j'), Takes::Value, false, Opt::Jump),
    own(&["goto"], Some('g'), Takes::Value, false, Opt::Goto),
    own(&["wait"], Some('w'), Takes::MaybeNumber, false, Opt::Wait),
    own(&["wait-interval"], Some('W'), Takes::Value, false, Opt::WaitInterval),
    own(&["verbose"], Some('v'), Takes::Nothing, false, Opt::NoEffect),
    own(&["ipv4"], Some('4'), Takes::Nothing, false, Opt::NoEffect),
    own(&["ipv6"], Some('6'), Takes::Nothing, false, Opt::Ipv6),
    own(&["set-counters"], Some('c'), Takes::Value, false, Opt::Counters),

    of_match(&["sport", "source-port"], true, PORT_MATCHES, Opt::SourcePort),
    of_match(&["dport", "destination-port"], true, PORT_MATCHES, Opt::DestinationPort),
    of_match(&["sports", "source-ports"], true, MULTIPORT, Opt::SourcePorts),
    of_match(&["dports", "destination-ports"], true, MULTIPORT, Opt::DestinationPorts),
    of_match(&["ports"], true, MULTIPORT, Opt::EitherPorts),
    of_match(&["icmp-type"], true, Owner::Matches(&["icmp"]), Opt::IcmpType),
    of_match(&["src-type"], true, ADDRTYPE, Opt::SourceType),
    of_match(&["dst-type"], true, ADDRTYPE, Opt::DestinationType),
    of_match(&["comment"], false, Owner::Matches(&["comment"]), Opt::Comment),

    of_target(&["to-source"], Takes::Value, &["SNAT"], Opt::ToSource),
    of_target(&["to-destination"], Takes::Value, &["DNAT"], Opt::ToDestination),
    of_target(&["to-ports"], Takes::Value, &["MASQUERADE", "REDIRECT"], Opt::ToPorts),
    of_target(&["to"], Takes::Value, &["NETMAP"], Opt::NetmapTo),
    of_target(&["random"], Takes::Nothing, &["SNAT", "DNAT", "MASQUERADE", "REDIRECT"], Opt::Random),
    of_target(&["random-fully"], Takes::Nothing, &["SNAT", "MASQUERADE"], Opt::RandomFully),
    of_target(&["persistent"], Takes::Nothing, &["SNAT", "DNAT"], Opt::Persistent),
    of_target(&["notrack"], Takes::Nothing, &["CT"], Opt::NoTrack),
    of_target(&["zone"], Takes::Value, &["CT"], Opt::Zone),
    of_target(&["zone-orig"], Takes::Value, &["CT"], Opt::ZoneOriginal),
    of_target(&["zone-reply"], Takes::Value, &["CT"], Opt::ZoneReply),
    of_target(&["log-level"], Takes::Value, &["LOG"], Opt::Log),
    of_target(&["log-prefix"], Takes::Text, &["LOG"], Opt::Log),
    of_target(&["log-tcp-sequence"], Takes::Nothing, &["LOG"], Opt::Log),
    of_target(&["log-tcp-options"], Takes::Nothing, &["LOG"], Opt::Log),
    of_target(&["log-ip-options"], Takes::Nothing, &["LOG"], Opt::Log),
    of_target(&["log-uid"], Takes::Nothing, &["LOG"], Opt::Log),
    of_target(&["log-macdecode"], Takes::Nothing, &["LOG"], Opt::Log),
    of_target(&["nflog-group"], Takes::Value, &["NFLOG"], Opt::Log),
    of_target(&["nflog-prefix"], Takes::Text, &["NFLOG"], Opt::Log),
    of_target(&["nflog-range"], Takes::Value, &["NFLOG"], Opt::Log),
    of_target(&["nflog-size"], Takes::Value, &["NFLOG"], Opt::Log),
    of_target(&["nflog-threshold"], Takes::Value, &["NFLOG"], Opt::Log),
];

/// Matches that `-m` may name.
pub(super) const MATCHES: &[&str] = &[
    "tcp",
    "udp",
    "udplite",
    "sctp",
    "dccp",
    "icmp",
    "multiport",
    "addrtype",
    "comment",
];

/// Targets that are understood.
pub(super) const TARGETS: &[&str] = &[
    "ACCEPT",
    "DROP",
    "RETURN",
    "SNAT",
    "DNAT",
    "MASQUERADE",
    "REDIRECT",
    "NETMAP",
    "NOTRACK",
    "CT",
    "LOG",
    "NFLOG",
];

/// Targets of iptables that are not: named as such, they are not taken for missing chains.
pub(super) const FOREIGN_TARGETS: &[&str] = &[
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CLUSTERIP",
    "CONNMARK",
    "CONNSECMARK",
    "DNPT",
    "DSCP",
    "ECN",
    "FULLCONENAT",
    "HL",
    "HMARK",
    "IDLETIMER",
    "LED",
    "MARK",
    "MIRROR",
    "NFQUEUE",
    "QUEUE",
    "RATEEST",
    "REJECT",
    "SAME",
    "SECMARK",
    "SET",
    "SNPT",
    "SYNPROXY",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TPROXY",
    "TRACE",
    "TTL",
    "ULOG",
];

/// The matches and the target that a rule has named so far.
#[derive(Debug)]
pub(super) struct Named<'a> {
    /// By `-m`.
    pub(super) matches: &'a [Word],
    /// By `-p`.
    pub(super) protocol: Option<&'static str>,
    /// By `-j`.
    pub(super) target: Option<&'a str>,
}

impl Named<'_> {
    fn knows(&self, owner: Owner, with_protocol: bool) -> bool {
        match owner {
            Owner::Iptables => true,
            Owner::Matches(names) => {
                self.matches
                    .iter()
                    .any(|word| names.contains(&word.text.as_str()))
                    || (with_protocol && self.protocol.is_some_and(|name| names.contains(&name)))
            }
            Owner::Targets(names) => self.target.is_some_and(|name| names.contains(&name)),
        }
    }
}

/// The option of a letter.
pub(super) fn by_letter(letter: char) -> Option<&'static Spec> {
    SPECS.iter().find(|spec| spec.short == Some(letter))
}

/// What a long option may be.
#[derive(Debug)]
pub(super) enum Found {
    /// This one, by its full name.
    One(&'static Spec, &'static str),
    /// It is short for more than one; their names.
    Ambiguous(Vec<&'static str>),
    /// None that is known at this place. If it is known elsewhere, there.
    Unknown(Option<Owner>),
}

/// The option of a long name or an unmistakable beginning of one. What `-m` and `-j` named
/// is asked first, what follows from `-p` then: iptables loads a protocol's match only when
/// it meets an option that nobody else knows.
pub(super) fn by_name(name: &str, named: &Named<'_>) -> Found {
    for with_protocol in [false, true] {
        let known = || {
            SPECS
                .iter()
                .filter(|spec| named.knows(spec.owner, with_protocol))
                .flat_map(|spec| spec.long.iter().map(move |&long| (spec, long)))
        };
        if let Some((spec, long)) = known().find(|&(_, long)| long == name) {
            return Found::One(spec, long);
        }
        let longer: Vec<_> = known().filter(|(_, long)| long.starts_with(name)).collect();
        match longer.as_slice() {
            [] => {}
            &[(spec, long), ref others @ ..]
                if !name.is_empty()
                    && others.iter().all(|&(other, _)| std::ptr::eq(other, spec)) =>
            {
                return Found::One(spec, long);
            }
            _ => return Found::Ambiguous(longer.into_iter().map(|(_, long)| long).collect()),
        }
    }
    let elsewhere = SPECS.iter().find(|spec| spec.long.contains(&name));
    Found::Unknown(elsewhere.map(|spec| spec.owner))
}

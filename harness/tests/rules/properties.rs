//! Properties of the rule parser: printing and parsing undo each other, and no text at all
//! makes it panic.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use clashtrack::rules::{
    Action, Rule, RuleError, RulesetBuilder, Table, Target, parse_command, parse_save_line,
};
use clashtrack_engine::addr::Addr;
use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::rules::{DevicePattern, NatPorts, NatTo, Network, Not, RuleMatch};
use clashtrack_engine::tuple::Protocol;
use clashtrack_engine::zone::{Zone, ZoneDirections};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn not<T: std::fmt::Debug + Clone>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Not<T>> {
    (any::<bool>(), value).prop_map(|(negated, value)| Not { negated, value })
}

fn network() -> impl Strategy<Value = Network> {
    // Any mask, holes included; iptables clears the bits outside of it.
    let mask = prop_oneof![
        (0..=32u8).prop_map(|prefix| Network::v4(Ipv4Addr::UNSPECIFIED, prefix).mask),
        any::<u32>(),
    ];
    (any::<u32>(), mask).prop_map(|(address, mask)| Network {
        address: Addr::from_u32(address & mask),
        mask,
    })
}

/// `!` goes with one network alone.
fn networks() -> impl Strategy<Value = Not<Vec<Network>>> {
    (any::<bool>(), vec(network(), 1..4)).prop_map(|(negated, value)| Not {
        negated: negated && value.len() == 1,
        value,
    })
}

fn device() -> impl Strategy<Value = Not<DevicePattern>> {
    // `! -i +` is refused: at least one character stays.
    not(("[a-z!'\"\\-][a-z0-9.:\"'\\\\_-]{0,13}", any::<bool>())
        .prop_map(|(name, prefix)| DevicePattern { name, prefix }))
}

fn port_range() -> impl Strategy<Value = RangeInclusive<u16>> {
    (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a.min(b)..=a.max(b))
}

/// Seven ranges fill the 15 places of multiport, but for one.
fn ports() -> impl Strategy<Value = Option<Not<Vec<RangeInclusive<u16>>>>> {
    option::of(not(vec(port_range(), 1..=7)))
}

fn matches() -> impl Strategy<Value = RuleMatch> {
    let general = (
        option::of(networks()),
        option::of(networks()),
        option::of(device()),
        option::of(device()),
        option::of(not(Just(()))),
        option::of(not(Just(()))),
    );
    let protocol = prop_oneof![
        Just((None, false, false)),
        Just((Some(Not::is(Protocol::ICMP)), false, true)),
        prop::sample::select(vec![
            Protocol::TCP,
            Protocol::UDP,
            Protocol::SCTP,
            Protocol::UDPLITE
        ])
        .prop_map(|p| (Some(Not::is(p)), true, false)),
        not((1..=255u8).prop_map(Protocol)).prop_map(|p| (Some(p), false, false)),
    ];
    let icmp = not((
        0..255u8,
        prop_oneof![Just(0..=255), any::<u8>().prop_map(|code| code..=code)],
    ));
    (
        general,
        protocol,
        ports(),
        ports(),
        ports(),
        option::of(icmp),
    )
        .prop_map(
            |(general, (protocol, has_ports, is_icmp), src, dst, either, icmp)| RuleMatch {
                protocol,
                src: general.0,
                dst: general.1,
                in_device: general.2,
                out_device: general.3,
                src_is_local: general.4,
                dst_is_local: general.5,
                src_ports: src.filter(|_| has_ports),
                dst_ports: dst.filter(|_| has_ports),
                either_port: either.filter(|_| has_ports),
                icmp: icmp.filter(|_| is_icmp),
            },
        )
}

fn nat_ports(has_base: bool, allowed: NatFlags) -> impl Strategy<Value = NatPorts> {
    (
        option::of(port_range()),
        option::of(1..=u16::MAX),
        any::<u32>(),
    )
        .prop_map(move |(range, base, flags)| NatPorts {
            range: range.as_ref().map(|range| (*range.start(), *range.end())),
            base: base.filter(|_| has_base && range.is_some()),
            flags: NatFlags::from_bits_truncate(flags) & allowed,
        })
}

fn nat_to(has_base: bool, allowed: NatFlags) -> impl Strategy<Value = NatTo> {
    let addresses = (any::<u32>(), any::<u32>())
        .prop_map(|(a, b)| (Addr::from_u32(a.min(b)), Addr::from_u32(a.max(b))));
    (option::of(addresses), nat_ports(has_base, allowed)).prop_map(|(addresses, ports)| NatTo {
        // Without ports there must be an address.
        addresses: addresses.or((ports.range.is_none()).then_some(Default::default())),
        ports,
    })
}

fn chain_name() -> impl Strategy<Value = String> {
    "[a-z][A-Za-z0-9_:.&~+-]{0,27}"
}

/// A target, and the table that it belongs to.
fn target() -> impl Strategy<Value = (Target, Table)> {
    let (random, fully, persistent) = (
        NatFlags::RANDOM,
        NatFlags::RANDOM_FULLY,
        NatFlags::PERSISTENT,
    );
    let zone = (
        any::<u16>(),
        prop::sample::select(vec![
            ZoneDirections::Both,
            ZoneDirections::Original,
            ZoneDirections::Reply,
        ]),
    );
    let nat = prop_oneof![
        Just(Target::None),
        Just(Target::Accept),
        Just(Target::Return),
        nat_to(false, random | fully | persistent).prop_map(Target::Snat),
        nat_to(true, random | persistent).prop_map(Target::Dnat),
        nat_ports(false, random | fully).prop_map(Target::Masquerade),
        nat_ports(false, random).prop_map(Target::Redirect),
        network().prop_map(|network| {
            let prefix = network.mask.leading_ones() as u8;
            let to = Ipv4Addr::from_bits(
                network.address.to_u32() & Network::v4(Ipv4Addr::UNSPECIFIED, prefix).mask,
            );
            Target::Netmap { to, prefix }
        }),
        chain_name().prop_map(Target::Jump),
        chain_name().prop_map(Target::Goto),
        "[^\\pC]{0,20}".prop_map(|prefix| Target::Log {
            name: "LOG".into(),
            options: vec![
                ("log-prefix".into(), Some(prefix)),
                ("log-uid".into(), None)
            ],
        }),
    ];
    let raw = prop_oneof![
        Just(Target::NoTrack),
        zone.prop_map(|(id, directions)| Target::Zone(Zone { id, directions })),
    ];
    prop_oneof![
        3 => nat.prop_map(|target| (target, Table::Nat)),
        1 => raw.prop_map(|target| (target, Table::Raw)),
    ]
}

fn rules() -> impl Strategy<Value = (Rule, Table)> {
    (matches(), vec("[^\\pC]{0,30}", 0..3), target()).prop_map(
        |(mut matches, comments, (target, table))| {
            let has_ports = match &target {
                Target::Snat(to) | Target::Dnat(to) => to.ports.range.is_some(),
                Target::Masquerade(ports) | Target::Redirect(ports) => ports.range.is_some(),
                _ => false,
            };
            if has_ports {
                matches.protocol = Some(Not::is(Protocol::TCP));
                matches.icmp = None;
            }
            let rule = Rule {
                matches,
                comments,
                target,
            };
            (rule, table)
        },
    )
}

/// Valid lines to break.
const SEEDS: &[&str] = &[
    "iptables -t nat -A POSTROUTING -p tcp -d 127.0.0.1 --dport 8080 -j SNAT --to-source 127.0.0.1:40000",
    "sudo iptables -w 5 -t nat -I PREROUTING 1 ! -i lo -p tcp -m multiport --dports 80,443,1:2 -j DNAT --to-destination 10.0.0.1-10.0.0.9:5000-5999/8000",
    "-t nat -A OUTPUT -p icmp --icmp-type echo-request -m addrtype --dst-type LOCAL -m comment --comment \"a 'b' \\\" c\" -j REDIRECT",
    "-t raw -A PREROUTING -s 10.0.0.0/255.0.255.0,192.0.2.1 -j CT --zone-orig 0x1f",
    "*nat\n:POSTROUTING ACCEPT [0:0]\n:web - [0:0]\n[1:2] -A POSTROUTING -j web\n-A web -d 10.0.0.0/8 -j NETMAP --to 10.1.0.0/16\nCOMMIT\n# end",
    "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j REJECT\nCOMMIT",
];

/// A seed with some of its characters replaced, taken out, doubled.
fn mutations() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(String::new()),
        Just("!".into()),
        Just("-".into()),
        Just("--".into()),
        Just(" ".into()),
        Just("\"".into()),
        Just("'".into()),
        Just("\\".into()),
        Just(":".into()),
        Just("/".into()),
        Just(",".into()),
        Just("=".into()),
        Just("[".into()),
        Just("\n".into()),
        Just("99999999999999999999".into()),
        Just("ä".into()),
        any::<char>().prop_map(String::from),
    ];
    let edit = (any::<prop::sample::Index>(), 0..4usize, piece);
    (prop::sample::select(SEEDS), vec(edit, 1..6)).prop_map(|(seed, edits)| {
        let mut text: Vec<char> = seed.chars().collect();
        for (at, removed, piece) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, piece.chars());
        }
        text.into_iter().collect()
    })
}

/// An error's span must lie in its text, or the message could not be drawn.
fn check(result: Result<(), RuleError>) {
    if let Err(error) = result {
        assert!(error.text.get(error.span.clone()).is_some(), "{error:?}");
        assert!(!error.to_string().is_empty());
    }
}

fn feed(text: &str) {
    check(parse_command(text).map(drop));
    for table in [Table::Nat, Table::Raw] {
        check(parse_save_line(text, table).map(drop));
    }
    let mut builder = RulesetBuilder::new();
    check(builder.command(text));
    check(builder.save_file(text, "file"));
    check(builder.save_file(&format!("*nat\n:web - [0:0]\n{text}\nCOMMIT\n"), "file"));
    check(builder.finish().map(drop));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn parsing_what_was_printed_gives_the_rule_back((rule, table) in rules(), chain in chain_name()) {
        let line = rule.to_save_line(&chain);
        let command = parse_save_line(&line, table)
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&command.chain, &chain);
        prop_assert_eq!(command.action, Action::Append(rule), "{}", line);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*|[ -~\\n]*") {
        feed(&text);
    }

    #[test]
    fn no_row_of_words_makes_the_parser_panic(
        words in vec(prop::sample::select(vec![
            "-t", "nat", "raw", "-A", "POSTROUTING", "PREROUTING", "-I", "3", "-p", "tcp", "icmp", "!",
            "-m", "multiport", "addrtype", "comment", "--comment", "--dport", "--dports", "80:90", ":", ",",
            "-j", "-g", "SNAT", "CT", "NETMAP", "LOG", "--to", "--zone", "--to-source", "1.2.3.4/5", "::",
            "1.2.3.4:5-6/7", "--src-type", "LOCAL", "--icmp-type", "8/", "-i", "+", "-c", "''", "--", "-",
        ]), 0..14)
    ) {
        feed(&words.join(" "));
    }

    #[test]
    fn no_broken_rule_makes_the_parser_panic(text in mutations()) {
        feed(&text);
    }
}

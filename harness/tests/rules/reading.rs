//! What rules mean: commands and `iptables-save` files, and the engine's form of them.

use std::net::Ipv4Addr;

use clashtrack::rules::{
    Action, ParsedRules, Rule, RulesetBuilder, Table, Target, parse_command, parse_save_line,
};
use clashtrack_engine::addr::Addr;
use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::rules::{
    DevicePattern, NatPorts, NatRule, NatTarget, NatTo, Network, Not, RawTarget,
};
use clashtrack_engine::tuple::Protocol;
use clashtrack_engine::zone::{Zone, ZoneDirections};

const ARTICLE: &str = "iptables -t nat -A POSTROUTING -p tcp -d 127.0.0.1 --dport 8080 -j SNAT --to-source 127.0.0.1:40000";

fn load(commands: &[&str]) -> ParsedRules {
    let mut builder = RulesetBuilder::new();
    for command in commands {
        if let Err(error) = builder.command(command) {
            panic!("{error}");
        }
    }
    builder.finish().unwrap_or_else(|error| panic!("{error}"))
}

fn load_file(text: &str) -> ParsedRules {
    let mut builder = RulesetBuilder::new();
    if let Err(error) = builder.save_file(text, "rules.txt") {
        panic!("{error}");
    }
    builder.finish().unwrap_or_else(|error| panic!("{error}"))
}

fn rule(command: &str) -> Rule {
    match parse_command(command)
        .unwrap_or_else(|error| panic!("{error}"))
        .action
    {
        Action::Append(rule) | Action::Insert(_, rule) => rule,
        other => panic!("{command}: {other:?}"),
    }
}

fn nat(rest: &str) -> Rule {
    rule(&format!("-t nat -A X {rest}"))
}

fn postrouting(rules: &ParsedRules) -> &[NatRule] {
    let index = rules.ruleset.postrouting.expect("a POSTROUTING chain");
    &rules.ruleset.chains[index].rules
}

fn v4(text: &str) -> Addr {
    Addr::v4(text.parse::<Ipv4Addr>().unwrap())
}

fn targets(rules: &[NatRule]) -> Vec<&NatTarget> {
    rules.iter().map(|rule| &rule.target).collect()
}

#[test]
fn the_articles_rule_becomes_one_snat_rule_of_postrouting() {
    let rules = load(&[ARTICLE]);
    let [only] = postrouting(&rules) else {
        panic!("one rule")
    };
    assert_eq!(only.matches.protocol, Some(Not::is(Protocol::TCP)));
    let server = Network::v4(Ipv4Addr::LOCALHOST, 32);
    assert_eq!(only.matches.dst, Some(Not::is(vec![server])));
    assert_eq!(only.matches.dst_ports, Some(Not::is(vec![8080..=8080])));
    assert_eq!(
        only.target,
        NatTarget::Snat(NatTo {
            addresses: Some((v4("127.0.0.1"), v4("127.0.0.1"))),
            ports: NatPorts {
                range: Some((40000, 40000)),
                base: None,
                flags: NatFlags::empty(),
            },
        })
    );
    assert!(rules.ruleset.nat_hooks);
    assert!(rules.notes.is_empty());
}

#[test]
fn the_program_before_a_rule_may_be_written_in_several_ways_or_not_at_all() {
    let bare = ARTICLE.strip_prefix("iptables ").unwrap();
    let expected = parse_command(bare).unwrap();
    for program in [
        "iptables",
        "iptables-legacy",
        "iptables-nft",
        "sudo iptables",
        "sudo /usr/sbin/iptables -w",
        "iptables -w 5 -W 100",
        "iptables --wait=5 -v -4",
        "'iptables'",
    ] {
        let command = format!("{program} {bare}");
        assert_eq!(parse_command(&command).as_ref(), Ok(&expected), "{command}");
    }
}

#[test]
fn spellings_of_one_rule_are_the_same_rule() {
    let expected = parse_command(ARTICLE).unwrap();
    for spelling in [
        "--table nat --append POSTROUTING --protocol tcp --destination 127.0.0.1/32 --destination-port 8080 --jump SNAT --to-source 127.0.0.1:40000",
        "-tnat -APOSTROUTING -ptcp -d127.0.0.1 --dport=8080 -jSNAT --to-source=127.0.0.1:40000",
        "-t nat -A POSTROUTING -p 6 -m tcp --dst 127.0.0.1/255.255.255.255 --dport http-alt -j SNAT --to 127.0.0.1:40000-40000",
        "-j SNAT --to-source '127.0.0.1:40000' -p TCP -m tcp --dport 8080:8080 -d \"127.0.0.1\" -t nat -A POSTROUTING",
        "-t nat -A POSTROUTING -p tcp -d 127.0.0.1 \\\n  -m multiport --dport 8080 -j SNAT --to-source 127.0.0.1:40000 # as before",
        "-c 1 2 -t nat -A POSTROUTING -p tcp -d 127.0.0.1 --dport 8080 -j SNAT --to-source 127.0.0.1:40000",
    ] {
        assert_eq!(
            parse_command(spelling).as_ref(),
            Ok(&expected),
            "{spelling}"
        );
    }
}

#[test]
fn commands_build_one_ruleset_in_the_order_that_iptables_gives() {
    let rules = load(&[
        "-t nat -N web",
        "-t nat -P POSTROUTING ACCEPT",
        "-t nat -A POSTROUTING -j MASQUERADE",
        "-t nat -I POSTROUTING -j web",
        "-t nat -I POSTROUTING 2 -s 10.0.0.0/8 -j ACCEPT",
        "-t nat -I POSTROUTING 4 -j RETURN",
    ]);
    let web = rules
        .ruleset
        .chains
        .iter()
        .position(|c| c.name == "web")
        .unwrap();
    assert_eq!(
        targets(postrouting(&rules)),
        [
            &NatTarget::Jump(web),
            &NatTarget::Accept,
            &NatTarget::Masquerade(NatPorts::default()),
            &NatTarget::Return,
        ]
    );
}

#[test]
fn a_list_of_networks_is_as_many_rules() {
    let rules =
        load(&["-t nat -A POSTROUTING -s 10.0.0.1,10.1.0.0/16 -d 192.0.2.1,192.0.2.2 -j ACCEPT"]);
    let pairs: Vec<_> = postrouting(&rules)
        .iter()
        .map(|rule| {
            let side = |c: &Option<Not<Vec<Network>>>| c.as_ref().unwrap().value.clone();
            (side(&rule.matches.src), side(&rule.matches.dst))
        })
        .collect();
    let (a, b) = (
        Network::v4([10, 0, 0, 1].into(), 32),
        Network::v4([10, 1, 0, 0].into(), 16),
    );
    let (c, d) = (
        Network::v4([192, 0, 2, 1].into(), 32),
        Network::v4([192, 0, 2, 2].into(), 32),
    );
    assert_eq!(
        pairs,
        [
            (vec![a], vec![c]),
            (vec![a], vec![d]),
            (vec![b], vec![c]),
            (vec![b], vec![d]),
        ]
    );
}

#[test]
fn negation_is_understood_before_the_option_and_before_the_value() {
    for (new, old) in [
        ("! -d 192.0.2.1", "-d ! 192.0.2.1"),
        ("! -p tcp", "-p ! tcp"),
        ("! -i eth0", "-i ! eth0"),
        ("-p tcp ! --dport 80", "-p tcp --dport ! 80"),
        (
            "-p icmp ! --icmp-type 8",
            "-p icmp --icmp-type ! echo-request",
        ),
        (
            "-m addrtype ! --dst-type LOCAL",
            "-m addrtype --dst-type ! LOCAL",
        ),
    ] {
        let (new, old) = (nat(new), nat(old));
        assert_eq!(new, old);
        assert_ne!(new.matches, Default::default());
    }
    assert!(nat("! -d 192.0.2.1").matches.dst.unwrap().negated);
}

#[test]
fn networks_have_prefixes_masks_and_no_bits_outside_of_them() {
    let network = |text: &str| nat(&format!("-s {text}")).matches.src.unwrap().value[0];
    assert_eq!(network("10.1.2.3/8"), Network::v4([10, 0, 0, 0].into(), 8));
    assert_eq!(
        network("10.1.2.3/255.255.0.0"),
        Network::v4([10, 1, 0, 0].into(), 16)
    );
    assert_eq!(network("10.1.2.3/0"), Network::v4([0, 0, 0, 0].into(), 0));
    let holes = network("10.1.2.3/255.0.0.255");
    assert_eq!((holes.address, holes.mask), (v4("10.0.0.3"), 0xff00_00ff));
}

#[test]
fn port_ranges_may_be_open_and_services_have_names() {
    let ports = |text: &str| {
        nat(&format!("-p udp --sport {text}"))
            .matches
            .src_ports
            .unwrap()
            .value
    };
    assert_eq!(ports("53"), [53..=53]);
    assert_eq!(ports("domain"), [53..=53]);
    assert_eq!(ports("1000:2000"), [1000..=2000]);
    assert_eq!(ports(":1023"), [0..=1023]);
    assert_eq!(ports("1024:"), [1024..=65535]);
    let both = nat("-p tcp -m multiport --ports ssh,http:https")
        .matches
        .either_port
        .unwrap();
    assert_eq!(both.value, [22..=22, 80..=443]);
}

#[test]
fn icmp_types_are_numbers_codes_or_names() {
    let icmp = |text: &str| {
        let rule = nat(&format!("-p icmp --icmp-type {text}"));
        rule.matches.icmp.map(|icmp| icmp.value)
    };
    assert_eq!(icmp("8"), Some((8, 0..=255)));
    assert_eq!(icmp("echo-request"), Some((8, 0..=255)));
    assert_eq!(icmp("3/3"), Some((3, 3..=3)));
    assert_eq!(icmp("port-unreachable"), Some((3, 3..=3)));
    assert_eq!(icmp("any"), None);
}

#[test]
fn nat_targets_take_addresses_ports_and_flags() {
    let to = |addresses: Option<(&str, &str)>, range, base, flags| NatTo {
        addresses: addresses.map(|(first, last)| (v4(first), v4(last))),
        ports: NatPorts { range, base, flags },
    };
    let none = NatFlags::empty();
    for (text, expected) in [
        (
            "-p tcp -j SNAT --to-source 192.0.2.1-192.0.2.4:1000-2000 --random-fully --persistent",
            Target::Snat(to(
                Some(("192.0.2.1", "192.0.2.4")),
                Some((1000, 2000)),
                None,
                NatFlags::RANDOM_FULLY | NatFlags::PERSISTENT,
            )),
        ),
        (
            "-j SNAT --to 192.0.2.1 --random",
            Target::Snat(to(
                Some(("192.0.2.1", "192.0.2.1")),
                None,
                None,
                NatFlags::RANDOM,
            )),
        ),
        (
            "-p udp -j DNAT --to-destination :8080",
            Target::Dnat(to(None, Some((8080, 8080)), None, none)),
        ),
        (
            "-p tcp -j DNAT --to-destination 10.0.0.1:5000-5999/8000",
            Target::Dnat(to(
                Some(("10.0.0.1", "10.0.0.1")),
                Some((5000, 5999)),
                Some(8000),
                none,
            )),
        ),
        (
            "-p tcp -j MASQUERADE --to-ports 1024-2048 --random",
            Target::Masquerade(NatPorts {
                range: Some((1024, 2048)),
                base: None,
                flags: NatFlags::RANDOM,
            }),
        ),
        (
            "-p tcp -j REDIRECT --to-port 3128",
            Target::Redirect(NatPorts {
                range: Some((3128, 3128)),
                base: None,
                flags: none,
            }),
        ),
        (
            "-j NETMAP --to 10.9.8.7/24",
            Target::Netmap {
                to: Ipv4Addr::new(10, 9, 8, 0),
                prefix: 24,
            },
        ),
    ] {
        assert_eq!(nat(text).target, expected, "{text}");
    }
}

#[test]
fn rules_without_effect_leave_the_walk_as_it_is() {
    let rules = load(&[
        "-t nat -A POSTROUTING -p tcp",
        "-t nat -A POSTROUTING -j LOG --log-prefix 'nat: ' --log-level 4",
        "-t nat -A POSTROUTING -m comment --comment \"what goes out\" -j MASQUERADE",
        "-t nat -A POSTROUTING -j NFLOG --nflog-group 5",
    ]);
    assert_eq!(
        targets(postrouting(&rules)),
        [&NatTarget::Masquerade(NatPorts::default())]
    );
}

#[test]
fn a_nat_table_without_rules_has_hooks_all_the_same() {
    let empty = load_file("*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n");
    assert!(empty.ruleset.nat_hooks);
    assert_eq!(empty.ruleset.postrouting, None);
    assert!(!load(&[]).ruleset.nat_hooks);
    assert!(
        !load_file("*raw\n:OUTPUT ACCEPT\nCOMMIT\n")
            .ruleset
            .nat_hooks
    );
}

#[test]
fn any_device_is_no_condition() {
    let rules = load(&["-t nat -A POSTROUTING -o + -j MASQUERADE"]);
    assert_eq!(postrouting(&rules)[0].matches, Default::default());
}

#[test]
fn raw_rules_keep_to_their_hooks() {
    let rules = load(&[
        "-t raw -A PREROUTING -j NOTRACK",
        "-t raw -A PREROUTING ! -i eth0 -j CT --zone 7",
        "-t raw -A OUTPUT -j CT --zone-reply 0x10",
        "-t raw -A OUTPUT -p udp -j ACCEPT",
        "-t raw -A OUTPUT ! -o eth0 -j CT --notrack",
    ]);
    // A packet that was received has no output device (its name is empty), one that is sent
    // no input device.
    let zone = |id, directions| RawTarget::Zone(Zone { id, directions });
    let expected = [
        (RawTarget::NoTrack, "eth1", ""),
        (zone(7, ZoneDirections::Both), "eth1", ""),
        (zone(16, ZoneDirections::Reply), "", "eth1"),
        (zone(0, ZoneDirections::Both), "", "eth1"),
        (RawTarget::NoTrack, "", "eth1"),
    ];
    assert_eq!(rules.ruleset.raw.len(), expected.len());
    for (rule, (target, in_device, out_device)) in rules.ruleset.raw.iter().zip(expected) {
        let holds = |condition: &Option<Not<DevicePattern>>, device: &str| {
            condition
                .as_ref()
                .is_none_or(|c| c.holds(|pattern| pattern.matches(device)))
        };
        let at = |input, output| {
            holds(&rule.matches.in_device, input) && holds(&rule.matches.out_device, output)
        };
        assert_eq!(rule.target, target);
        assert!(at(in_device, out_device), "{rule:?}");
        assert!(!at(out_device, in_device), "the other hook: {rule:?}");
    }
}

#[test]
fn jumps_in_raw_are_fine_as_long_as_they_lead_nowhere() {
    let mut builder = RulesetBuilder::new();
    for command in [
        "-t raw -N a",
        "-t raw -N b",
        "-t raw -A a -j b",
        "-t raw -A PREROUTING -j a",
    ] {
        builder.command(command).unwrap();
    }
    let mut other = RulesetBuilder::new();
    for command in [
        "-t raw -N a",
        "-t raw -A a -j NOTRACK",
        "-t raw -A PREROUTING -j a",
    ] {
        other.command(command).unwrap();
    }
    assert_eq!(builder.finish().unwrap().ruleset.raw, []);
    let error = other.finish().unwrap_err();
    assert_eq!(&error.text[error.span.clone()], "a");
}

#[test]
fn a_docker_file_is_understood_and_the_filter_table_left_out_with_a_note() {
    let text = include_str!("../data/rules/docker.rules");
    let rules = load_file(text);
    assert_eq!(
        rules.notes,
        [
            "rules.txt:8: table `filter` is left out (12 rules): only nat and raw count here; \
             2 rules or policies would drop packets"
        ]
    );
    let set = &rules.ruleset;
    let docker = set
        .chains
        .iter()
        .position(|chain| chain.name == "DOCKER")
        .unwrap();
    let chain = |index: Option<usize>| targets(&set.chains[index.unwrap()].rules);
    assert_eq!(chain(set.prerouting), [&NatTarget::Jump(docker)]);
    assert_eq!(chain(set.output), [&NatTarget::Jump(docker)]);
    assert_eq!(set.input, None);
    let masquerade = NatTarget::Masquerade(NatPorts::default());
    assert_eq!(chain(set.postrouting), [&masquerade, &masquerade]);
    assert!(matches!(
        chain(Some(docker)).as_slice(),
        [NatTarget::Return, NatTarget::Dnat(_), NatTarget::Dnat(_)]
    ));
    let local = &set.chains[set.output.unwrap()].rules[0].matches;
    assert_eq!(local.dst_is_local, Some(Not::is(())));
    assert!(local.dst.as_ref().unwrap().negated);
}

#[test]
fn a_home_routers_file_is_understood() {
    let rules = load_file(include_str!("../data/rules/router.rules"));
    assert_eq!(rules.notes.len(), 1, "{:?}", rules.notes);
    assert!(rules.notes[0].contains("`mangle`"), "{:?}", rules.notes);
    assert!(
        rules.notes[0].contains("would alter packets"),
        "{:?}",
        rules.notes
    );
    assert_eq!(rules.ruleset.raw.len(), 3);
    let outgoing = rules
        .ruleset
        .chains
        .iter()
        .position(|c| c.name == "outgoing")
        .unwrap();
    assert_eq!(targets(postrouting(&rules)), [&NatTarget::Goto(outgoing)]);
    assert!(matches!(
        targets(&rules.ruleset.chains[outgoing].rules).as_slice(),
        [
            NatTarget::Return,
            NatTarget::Snat(_),
            NatTarget::Masquerade(_)
        ]
    ));
}

/// Files that iptables-save wrote have their matches in its order: printing gives the line back.
#[test]
fn printed_rules_are_the_lines_that_iptables_save_wrote() {
    for text in [
        include_str!("../data/rules/docker.rules"),
        include_str!("../data/rules/router.rules"),
    ] {
        let mut table = None;
        for line in text.lines() {
            match line {
                "*nat" => table = Some(Table::Nat),
                "*raw" => table = Some(Table::Raw),
                "COMMIT" => table = None,
                _ => {}
            }
            let (Some(table), Some(at)) = (table, line.find("-A ")) else {
                continue;
            };
            let line = &line[at..];
            let command = parse_save_line(line, table).unwrap();
            let Action::Append(rule) = command.action else {
                panic!("{line}")
            };
            assert_eq!(rule.to_save_line(&command.chain), line);
        }
    }
}

#[test]
fn commands_and_files_add_to_each_other() {
    let mut builder = RulesetBuilder::new();
    builder.command("-t nat -N web").unwrap();
    builder.command("-t nat -A web -j ACCEPT").unwrap();
    builder
        .save_file(
            "*nat\r\n:web - [0:0]\r\n-A web -j RETURN\r\nCOMMIT\r\n",
            "a",
        )
        .unwrap();
    builder.command("-t nat -A POSTROUTING -j web").unwrap();
    let rules = builder.finish().unwrap();
    let web = rules
        .ruleset
        .chains
        .iter()
        .find(|c| c.name == "web")
        .unwrap();
    assert_eq!(
        targets(&web.rules),
        [&NatTarget::Accept, &NatTarget::Return]
    );
}

/// `count` chains, each jumping to the next.
fn row_of_chains(count: usize) -> String {
    let mut text = String::from("*nat\n");
    for i in 0..count {
        text.push_str(&format!(":c{i} - [0:0]\n"));
    }
    text.push_str("-A POSTROUTING -j c0\n");
    for i in 1..count {
        text.push_str(&format!("-A c{} -j c{i}\n", i - 1));
    }
    text.push_str("COMMIT\n");
    text
}

#[test]
fn jumps_may_not_lead_so_deep_that_a_packets_walk_runs_out_of_stack() {
    assert_eq!(load_file(&row_of_chains(255)).ruleset.chains.len(), 259);
    for count in [256, 50_000] {
        let error = RulesetBuilder::new()
            .save_file(&row_of_chains(count), "rules.txt")
            .unwrap_err();
        assert!(error.message.contains("256 chains deep"), "{error}");
    }

    // Each jump by itself is a short way, seen from the base chain.
    let late = "*nat\n".to_owned()
        + &row_of_chains(200)
            .replace("*nat\n", "")
            .replace("COMMIT\n", "")
        + &row_of_chains(100)
            .replace("*nat\n", "")
            .replace("COMMIT\n", "")
            .replace('c', "d")
        + "-A d99 -j c0\nCOMMIT\n";
    let error = RulesetBuilder::new()
        .save_file(&late, "rules.txt")
        .unwrap_err();
    assert_eq!(error.text, "-A d99 -j c0");
}

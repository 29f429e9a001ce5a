//! What is chosen: kept tuples, null bindings, reuse by source, addresses.

use super::*;

#[test]
fn cases_62_and_63_a_null_binding_changes_a_taken_source_port_within_its_class() {
    for protocol in [TCP, UDP] {
        for (port, class) in [
            (70, 1..=511),
            (511, 1..=511),
            (512, 600..=1023),
            (700, 600..=1023),
            (1024, 1024..=65535),
            (40_000, 1024..=65535),
        ] {
            let engine = engine(no_rules());
            let mut lab = Lab::new(&engine);
            occupy(&mut lab, protocol, 1, port, ESTABLISHED);
            let own = tuple(protocol, (GATEWAY, port), (SERVER, 80));
            let sent = lab.send(&own);
            let new_port = sent.tuple().src_key;
            assert_eq!(
                (sent.confirmed, sent.found),
                (true, 3),
                "{protocol:?} {port}"
            );
            assert!(
                new_port != port && class.contains(&new_port),
                "{protocol:?} {port} became {new_port}"
            );
            assert!(
                lab.status(sent.id)
                    .contains(Status::SRC_NAT | Status::NAT_DONE_MASK)
            );
        }
    }
}

#[test]
fn a_free_tuple_gets_null_bindings_that_change_nothing() {
    let engine = engine(no_rules());
    let mut lab = Lab::new(&engine);
    let own = tuple(TCP, (GATEWAY, 40_000), (SERVER, 80));
    let sent = lab.send(&own);
    assert_eq!((sent.confirmed, sent.found, sent.tuple()), (true, 0, own));
    assert_eq!(
        lab.status(sent.id) & (Status::NAT_MASK | Status::NAT_DONE_MASK),
        Status::NAT_DONE_MASK
    );
}

#[test]
fn nothing_happens_without_nat_hooks() {
    let engine = engine(Ruleset::default());
    let mut lab = Lab::new(&engine);
    let sent = lab.send(&client(TCP, 1));
    assert_eq!(lab.status(sent.id), Status::CONFIRMED);
}

#[test]
fn case_64_a_client_port_is_translated_to_what_it_was_translated_to_before() {
    let engine = engine(snat(None));
    let mut lab = Lab::new(&engine);
    occupy(&mut lab, TCP, 1, 70, ESTABLISHED);
    let to_server = |port| tuple(TCP, (CLIENT, 70), (SERVER, port));
    let moved = lab.send(&to_server(80));
    assert!(moved.tuple().src_key != 70 && moved.tuple().src_key < 512);
    // Port 70 would be free towards this one.
    let reused = lab.send(&to_server(5001));
    assert_eq!(
        (reused.tuple().src_key, reused.found),
        (moved.tuple().src_key, 0)
    );
    // Not another client's, and not another protocol's.
    assert_eq!(
        lab.send(&tuple(TCP, ([10, 0, 0, 6], 70), (SERVER, 5002)))
            .tuple()
            .src_key,
        70
    );
    assert_eq!(
        lab.send(&tuple(UDP, (CLIENT, 70), (SERVER, 5001)))
            .tuple()
            .src_key,
        70
    );
}

#[test]
fn a_translation_that_is_freed_is_no_longer_reused() {
    let engine = engine(snat(None));
    let mut lab = Lab::new(&engine);
    occupy(&mut lab, TCP, 1, 70, ESTABLISHED);
    let to_server = |port| tuple(TCP, (CLIENT, 70), (SERVER, port));
    let moved = lab.send(&to_server(80));
    let now = lab.now;
    assert!(lab.worker.kill(moved.id, now));
    assert_eq!(lab.send(&to_server(5001)).tuple().src_key, 70);
}

#[test]
fn an_unconfirmed_connections_translation_is_reused_too() {
    let engine = engine(snat(Some((20_000, 29_999))));
    let mut lab = Lab::new(&engine);
    let mut bytes = bytes_of(&client(UDP, 1));
    let parked = lab.begin(&client(UDP, 1));
    lab.both_hooks(&mut bytes, parked, CtInfo::New, HookPoint::LocalOut);
    let mut elsewhere = client(UDP, 1);
    elsewhere.dst_key = 81;
    assert_eq!(
        lab.send(&elsewhere).tuple().src_key,
        tuple_of(&bytes).src_key
    );
}

#[test]
fn case_65_random_changes_a_free_port_and_snat_to_the_same_address_is_no_nat() {
    let own = tuple(TCP, (GATEWAY, 40_000), (SERVER, 80));
    for flags in [NatFlags::RANDOM, NatFlags::RANDOM_FULLY] {
        let engine = engine(snat_with(NatPorts {
            flags,
            ..NatPorts::default()
        }));
        let sent = Lab::new(&engine).send(&own);
        assert!(sent.tuple().src_key != 40_000 && sent.tuple().src_key >= 1024);
    }
    let engine = engine(snat(None));
    let mut lab = Lab::new(&engine);
    let sent = lab.send(&own);
    let status = lab.status(sent.id);
    assert_eq!(sent.tuple(), own);
    assert!(status.contains(Status::SRC_NAT_DONE) && !status.contains(Status::SRC_NAT));
}

#[test]
fn case_67_a_rule_does_not_reach_a_connection_that_is_confirmed() {
    let engine = engine(snat(Some((40_000, 40_000))));
    let mut lab = Lab::new(&engine);
    let t = client(TCP, 1);
    let id = lab.begin(&t);
    assert!(lab.confirm(id));
    let mut bytes = bytes_of(&t);
    assert_eq!(
        lab.both_hooks(&mut bytes, id, CtInfo::New, HookPoint::LocalOut),
        Verdict::Accept
    );
    assert_eq!((lab.status(id), tuple_of(&bytes)), (Status::CONFIRMED, t));
}

#[test]
fn case_68_the_address_of_a_range_depends_on_hosts_alone() {
    for flags in [NatFlags::empty(), NatFlags::PERSISTENT] {
        let first = Addr::v4([203, 0, 113, 1].into());
        let last = Addr::v4([203, 0, 113, 254].into());
        let engine = engine(rule(
            HookPoint::PostRouting,
            NatTarget::Snat(NatTo {
                addresses: Some((first, last)),
                ports: NatPorts {
                    flags,
                    ..NatPorts::default()
                },
            }),
        ));
        let mut lab = Lab::new(&engine);
        let mut address = |port, server| {
            lab.forward(&tuple(TCP, (CLIENT, port), (server, 80)))
                .tuple()
                .src
        };
        let chosen = address(1000, SERVER);
        assert!((first..=last).contains(&chosen));
        assert_eq!(address(1001, SERVER), chosen);
        let elsewhere: Vec<Addr> = (1..40)
            .map(|n| address(1000 + u16::from(n), [9, 9, 9, n]))
            .collect();
        assert_eq!(
            elsewhere.iter().all(|a| *a == chosen),
            flags == NatFlags::PERSISTENT
        );
    }
}

#[test]
fn pings_of_one_id_from_two_clients_leave_with_different_ids() {
    let engine = engine(masquerade());
    let mut lab = Lab::new(&engine);
    let ping = |n| tuple(Protocol::ICMP, ([10, 0, 0, n], 7), (SERVER, 8 << 8));
    let first = lab.forward(&ping(5));
    let second = lab.forward(&ping(6));
    assert_eq!(first.tuple().src_key, 7);
    assert_ne!(second.tuple().src_key, 7);
    assert!(second.confirmed && sums_are_right(&second.bytes));
}

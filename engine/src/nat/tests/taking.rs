//! When a tuple is taken: occupiers, eviction, crossing flows, zones, and what is counted.

use super::*;

#[test]
fn case_55_second_client_to_one_server_is_dropped_when_snat_has_one_port() {
    let engine = engine(snat(Some((40_000, 40_000))));
    let mut lab = Lab::new(&engine);
    let first = lab.send(&client(TCP, 1));
    assert_eq!((first.confirmed, first.found), (true, 0));
    assert_eq!(first.tuple().src_key, 40_000);
    assert!(sums_are_right(&first.bytes));
    lab.close(first.id, ESTABLISHED, 2);

    let second = lab.send(&client(TCP, 2));
    assert_eq!(
        second.verdict,
        Verdict::Accept,
        "running out is no error before confirm"
    );
    assert_eq!((second.confirmed, second.found), (false, 0));
    // Another server is no clash.
    let mut elsewhere = client(TCP, 2);
    elsewhere.dst_key = 81;
    assert!(lab.send(&elsewhere).confirmed);
}

#[test]
fn case_56_udp_and_older_kernels_count_found_where_tcp_does_not() {
    let engine_udp = engine(snat(Some((40_000, 40_000))));
    let mut lab = Lab::new(&engine_udp);
    assert!(lab.send(&client(UDP, 1)).confirmed);
    let second = lab.send(&client(UDP, 2));
    assert_eq!((second.confirmed, second.found), (false, 1));

    let mut article = engine(snat(Some((40_000, 40_000))));
    article.sysctls.kernel = KernelVersion::Article;
    let mut lab = Lab::new(&article);
    let first = lab.send(&client(TCP, 1));
    lab.close(first.id, TIME_WAIT, 2);
    lab.tcp_end = 1000;
    let second = lab.send(&client(TCP, 2));
    assert_eq!(
        (second.confirmed, second.found),
        (false, 1),
        "nobody is evicted"
    );
}

#[test]
fn case_57_a_full_range_costs_exactly_so_many_tries() {
    for (size, tcp, udp) in [
        (1, 0, 1),
        (4, 0, 4),
        (32, 0, 32),
        (33, 1, 33),
        (128, 96, 128),
        (200, 128, 248),
    ] {
        for (protocol, found) in [(TCP, tcp), (UDP, udp)] {
            let engine = engine(snat(Some((20_000, 19_999 + size))));
            let mut lab = Lab::new(&engine);
            for n in 0..size {
                occupy(&mut lab, protocol, n, 20_000 + n, ESTABLISHED);
            }
            let sent = lab.send(&client(protocol, 1000));
            assert_eq!(
                (sent.confirmed, sent.found),
                (false, found),
                "{protocol:?}, {size} ports"
            );
            assert!(
                (20_000..20_000 + size).contains(&sent.tuple().src_key),
                "the last one tried"
            );
        }
    }
}

#[test]
fn a_small_range_is_searched_whole_so_its_last_free_port_is_found() {
    for size in [1u16, 4, 32, 33, 128] {
        let engine = engine(snat(Some((20_000, 19_999 + size))));
        let mut lab = Lab::new(&engine);
        let mut ports: Vec<u16> = (0..size)
            .map(|n| lab.send(&client(UDP, n)).tuple().src_key)
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, (20_000..20_000 + size).collect::<Vec<_>>());
    }
}

/// Does a new connection whose first segment ends at `end` get the one port that a
/// connection in `state`, ended at 2, holds?
fn takes_over(state: u8, end: u32, mend: impl Fn(&Lab<'_>, EntryId)) -> bool {
    let engine = engine(snat(Some((40_000, 40_000))));
    let mut lab = Lab::new(&engine);
    let old = occupy(&mut lab, TCP, 1, 40_000, state);
    mend(&lab, old);
    lab.tcp_end = end;
    let sent = lab.send(&client(TCP, 2));
    assert_eq!(sent.found, 0, "this path does not count");
    assert_eq!(
        engine.table.slab().is_current(old),
        !sent.confirmed,
        "killed and freed, or not touched"
    );
    sent.confirmed
}

#[test]
fn cases_58_and_59_a_closing_connection_makes_room_for_one_ahead_of_it_in_sequence_space() {
    for state in [TIME_WAIT, CLOSE, 9] {
        for ahead in [1, 2, 3, 100, 0x7fff_ffff] {
            assert!(
                takes_over(state, 2 + ahead, |_, _| {}),
                "state {state}, {ahead} ahead"
            );
        }
        for behind in [0u32, 1, 5, 0x7fff_ffff, 0x8000_0000] {
            assert!(
                !takes_over(state, 2u32.wrapping_sub(behind), |_, _| {}),
                "state {state}, {behind} behind"
            );
        }
    }
}

#[test]
fn case_60_only_closing_source_translated_connections_with_a_moving_timeout_make_room() {
    for state in [1, 2, ESTABLISHED, FIN_WAIT, 5, 6] {
        assert!(!takes_over(state, 100, |_, _| {}), "state {state}");
    }
    let fixed = |lab: &Lab<'_>, id| {
        lab.entry(id).set_status(Status::FIXED_TIMEOUT);
    };
    assert!(!takes_over(TIME_WAIT, 100, fixed));

    // Not translated at its source: it is the gateway's own connection from that port.
    let engine = engine(snat(Some((40_000, 40_000))));
    let mut lab = Lab::new(&engine);
    let own = lab.begin(&tuple(TCP, (GATEWAY, 40_000), (SERVER, 80)));
    lab.close(own, TIME_WAIT, 2);
    assert!(lab.confirm(own));
    lab.tcp_end = 100;
    assert!(!lab.send(&client(TCP, 2)).confirmed);
}

#[test]
fn a_connection_that_owns_the_tuple_by_its_original_side_is_never_evicted() {
    let engine = engine(snat(Some((40_000, 40_000))));
    let mut lab = Lab::new(&engine);
    // The server began: its original tuple is what our answers would carry.
    let theirs = lab.begin(&tuple(TCP, (SERVER, 80), (GATEWAY, 40_000)));
    lab.entry(theirs).set_status(Status::SRC_NAT);
    lab.close(theirs, TIME_WAIT, 2);
    assert!(lab.confirm(theirs));
    lab.tcp_end = 100;
    assert!(!lab.send(&client(TCP, 2)).confirmed);
}

#[test]
fn an_occupier_whose_time_has_come_is_no_occupier() {
    let engine = engine(snat(Some((40_000, 40_000))));
    let mut lab = Lab::new(&engine);
    occupy(&mut lab, TCP, 1, 40_000, CLOSE);
    lab.now += 121 * SECOND;
    lab.tcp_end = 1;
    let sent = lab.send(&client(TCP, 2));
    assert_eq!((sent.confirmed, sent.found), (true, 0));
}

#[test]
fn case_61_only_the_last_tries_of_a_round_may_evict() {
    let engine = engine(snat(Some((20_000, 20_199))));
    let mut lab = Lab::new(&engine);
    for n in 0..200 {
        occupy(&mut lab, TCP, n, 20_000 + n, TIME_WAIT);
    }
    lab.tcp_end = 100;
    let sent = lab.send(&client(TCP, 1000));
    assert_eq!((sent.confirmed, sent.found), (true, 96));
}

/// Two first packets that cross: the second is begun, and through destination NAT, before the
/// first is confirmed.
fn crossing(protocol: Protocol) -> (Tuple, Tuple, u64, bool) {
    let engine = engine(no_rules());
    let mut lab = Lab::new(&engine);
    let t = tuple(protocol, (GATEWAY, 1000), (SERVER, 2000));
    let back = t.invert().unwrap();
    let (a, b) = (lab.begin(&t), lab.begin(&back));
    let (mut a_bytes, mut b_bytes) = (bytes_of(&t), bytes_of(&back));
    let out = NatAt {
        point: HookPoint::LocalOut,
        in_device: None,
        out_device: None,
    };
    lab.hook(&mut a_bytes, a, CtInfo::New, out);
    lab.hook(&mut b_bytes, b, CtInfo::New, out);
    lab.hook(&mut a_bytes, a, CtInfo::New, leaving_by(WAN));
    assert!(lab.confirm(a));
    lab.hook(&mut b_bytes, b, CtInfo::New, leaving_by(WAN));
    let reply = lab.entry(b).key(Direction::Reply).tuple();
    (tuple_of(&b_bytes), reply, lab.found(), lab.confirm(b))
}

#[test]
fn case_73_a_crossed_udp_pair_keeps_its_ports() {
    let (sent, reply, found, confirmed) = crossing(UDP);
    assert_eq!(sent, tuple(UDP, (SERVER, 2000), (GATEWAY, 1000)));
    assert_eq!((reply, found), (sent.invert().unwrap(), 1));
    assert!(!confirmed, "a clash for its resolution to merge");
}

#[test]
fn case_77_a_crossed_tcp_pair_gets_another_port_and_clashes_all_the_same() {
    let (sent, _, found, confirmed) = crossing(TCP);
    assert_ne!(sent.src_key, 2000);
    assert_eq!((found, confirmed), (2, false));
}

#[test]
fn case_74_two_udp_flows_parked_before_source_nat_get_the_same_fixed_port() {
    let engine = engine(snat(Some((40_000, 40_000))));
    let mut lab = Lab::new(&engine);
    let (a, b) = (lab.begin(&client(UDP, 1)), lab.begin(&client(UDP, 2)));
    for (id, n) in [(a, 1), (b, 2)] {
        let mut bytes = bytes_of(&client(UDP, n));
        lab.both_hooks(&mut bytes, id, CtInfo::New, HookPoint::LocalOut);
        assert_eq!(tuple_of(&bytes).src_key, 40_000);
    }
    // Neither was confirmed when the other chose: nothing was found.
    assert_eq!(
        (lab.found(), lab.confirm(a), lab.confirm(b)),
        (0, true, false)
    );
}

#[test]
fn the_same_flow_twice_is_not_taken_by_itself() {
    let engine = engine(snat(Some((40_000, 40_000))));
    let mut lab = Lab::new(&engine);
    let (first, twin) = (lab.begin(&client(UDP, 1)), lab.begin(&client(UDP, 1)));
    let mut bytes = bytes_of(&client(UDP, 1));
    lab.both_hooks(&mut bytes, first, CtInfo::New, HookPoint::LocalOut);
    assert!(lab.confirm(first));
    let mut again = bytes_of(&client(UDP, 1));
    lab.both_hooks(&mut again, twin, CtInfo::New, HookPoint::LocalOut);
    assert_eq!((lab.found(), again), (0, bytes));
}

#[test]
fn case_98_a_protocol_without_ports_is_searched_in_vain() {
    for protocol in [Protocol::GRE, Protocol(50), Protocol(253)] {
        let engine = engine(snat(None));
        let mut lab = Lab::new(&engine);
        let flow = |n| tuple(protocol, ([10, 0, 0, n], 0), (SERVER, 0));
        assert!(lab.forward(&flow(5)).confirmed);
        let second = lab.forward(&flow(6));
        assert_eq!((second.confirmed, second.found), (false, 1), "{protocol:?}");
        assert_eq!(second.tuple().src, Addr::v4(GATEWAY.into()));
    }
}

#[test]
fn zones_part_what_would_be_taken_unless_the_answers_share_one() {
    let occupied = |directions| {
        let engine = engine(snat(Some((40_000, 40_000))));
        let mut lab = Lab::new(&engine);
        assert!(lab.send(&client(UDP, 1)).confirmed);
        lab.zone = Zone { id: 5, directions };
        let sent = lab.send(&client(UDP, 2));
        (sent.confirmed, sent.found)
    };
    assert_eq!(occupied(ZoneDirections::Both), (true, 0));
    assert_eq!(occupied(ZoneDirections::Reply), (true, 0));
    assert_eq!(occupied(ZoneDirections::Original), (false, 1));
}

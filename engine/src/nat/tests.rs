//! NAT as conformance asks for it: first packets on a gateway with a reference table. Numbers
//! in names are those of the kernel's observed cases.

use proptest::prelude::*;

use super::hook::NatAt;
use super::lab::*;
use super::range::NatFlags;
use crate::addr::Addr;
use crate::config::KernelVersion;
use crate::hook::HookPoint;
use crate::packet::checksum::{checksum, fold, pseudo_header_v4, sum};
use crate::packet::ipv4::Ipv4Header;
use crate::packet::{DropReason, Verdict};
use crate::rules::{NatPorts, NatTarget, NatTo, Ruleset};
use crate::status::{CtInfo, Status};
use crate::table::FlowTable;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::EntryId;
use crate::time::SECOND;
use crate::tuple::{Direction, Protocol, Tuple};
use crate::zone::{Zone, ZoneDirections};

const TCP: Protocol = Protocol::TCP;
const UDP: Protocol = Protocol::UDP;
const ESTABLISHED: u8 = 3;
const FIN_WAIT: u8 = 4;
const TIME_WAIT: u8 = 7;
const CLOSE: u8 = 8;

fn snat(range: Option<(u16, u16)>) -> Ruleset {
    rule(HookPoint::PostRouting, NatTarget::Snat(to(GATEWAY, range)))
}

fn snat_with(ports: NatPorts) -> Ruleset {
    let target = NatTo {
        ports,
        ..to(GATEWAY, None)
    };
    rule(HookPoint::PostRouting, NatTarget::Snat(target))
}

/// The n-th client, on a port outside all ranges of these tests.
fn client(protocol: Protocol, n: u16) -> Tuple {
    let [n1, n0] = n.to_be_bytes();
    tuple(protocol, ([10, 1, n1, n0], 50_000), (SERVER, 80))
}

/// A confirmed connection of another client to the same server, translated to `port`.
fn occupy(lab: &mut Lab<'_>, protocol: Protocol, n: u16, port: u16, state: u8) -> EntryId {
    let id = lab.begin(&client(protocol, n));
    let reply = tuple(protocol, (SERVER, 80), (GATEWAY, port));
    lab.entry(id).set_reply(KeyV4::pack(&reply, 0));
    lab.entry(id)
        .set_status(Status::SRC_NAT | Status::SRC_NAT_DONE | Status::DST_NAT_DONE);
    lab.close(id, state, 2);
    assert!(lab.confirm(id));
    id
}

fn sums_are_right(bytes: &[u8]) -> bool {
    let header = Ipv4Header::parse(bytes, false).unwrap();
    let l4 = header.l4(bytes);
    let pseudo = match header.protocol {
        Protocol::ICMP => 0,
        p => pseudo_header_v4(header.src.to_u32(), header.dst.to_u32(), p.0, l4.len()),
    };
    fold(sum(&bytes[..header.l4_offset])) == 0xffff && fold(sum(l4) + pseudo) == 0xffff
}

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

fn dnat(ports: NatPorts) -> Ruleset {
    let target = NatTo {
        ports,
        ..to([172, 16, 0, 9], None)
    };
    rule(HookPoint::PreRouting, NatTarget::Dnat(target))
}

#[test]
fn case_66_dnat_into_a_range_takes_its_first_port_unless_that_is_taken() {
    let range = NatPorts {
        range: Some((8000, 8009)),
        ..NatPorts::default()
    };
    let engine_range = engine(dnat(range));
    let mut lab = Lab::new(&engine_range);
    let first = lab.forward(&tuple(TCP, (CLIENT, 1234), (SERVER, 80)));
    assert_eq!(
        first.tuple(),
        tuple(TCP, (CLIENT, 1234), ([172, 16, 0, 9], 8000))
    );
    assert_eq!(
        lab.forward(&tuple(TCP, (CLIENT, 1235), (SERVER, 80)))
            .tuple()
            .dst_key,
        8000
    );
    let same_port = lab.forward(&tuple(TCP, (CLIENT, 1234), (SERVER, 81)));
    assert_eq!((same_port.tuple().dst_key, same_port.found), (8001, 0));

    let engine_plain = engine(dnat(NatPorts::default()));
    let mut lab = Lab::new(&engine_plain);
    assert!(
        lab.forward(&tuple(TCP, (CLIENT, 1234), (SERVER, 80)))
            .confirmed
    );
    // Taken, and still the port is not changed: the source's null binding finds another one.
    let taken = lab.forward(&tuple(TCP, (CLIENT, 1234), ([198, 51, 100, 2], 80)));
    assert_eq!(taken.tuple().dst_key, 80);
    assert!(taken.confirmed && taken.tuple().src_key != 1234);
}

#[test]
fn a_shifted_port_range_keeps_the_distance_from_its_base() {
    let engine = engine(dnat(NatPorts {
        range: Some((8000, 8009)),
        base: Some(80),
        flags: NatFlags::empty(),
    }));
    let mut lab = Lab::new(&engine);
    for (old, new) in [(80, 8000), (83, 8003), (91, 8001), (79, 8005)] {
        // 79 is 65535 ports above the base, and 65535 mod 10 is 5.
        let sent = lab.forward(&tuple(UDP, (CLIENT, 1234), (SERVER, old)));
        assert_eq!(sent.tuple().dst_key, new, "from {old}");
    }
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

fn masquerade() -> Ruleset {
    rule(
        HookPoint::PostRouting,
        NatTarget::Masquerade(NatPorts::default()),
    )
}

fn leaving_by(device: u32) -> NatAt {
    NatAt {
        point: HookPoint::PostRouting,
        in_device: None,
        out_device: Some(device),
    }
}

#[test]
fn case_69_a_masqueraded_connection_that_leaves_by_another_device_is_killed() {
    let engine = engine(masquerade());
    let mut lab = Lab::new(&engine);
    let t = client(UDP, 1);
    let sent = lab.forward(&t);
    assert_eq!(sent.tuple().src, Addr::v4(GATEWAY.into()));
    // Answers may come and go as they like, and so may packets by the same device.
    let mut bytes = bytes_of(&t);
    assert_eq!(
        lab.hook(&mut bytes, sent.id, CtInfo::Established, leaving_by(WAN)),
        Verdict::Accept
    );
    assert_eq!(tuple_of(&bytes), sent.tuple());
    let mut reply = bytes_of(&sent.tuple().invert().unwrap());
    assert_eq!(
        lab.hook(
            &mut reply,
            sent.id,
            CtInfo::EstablishedReply,
            leaving_by(LAN)
        ),
        Verdict::Accept
    );
    let verdict = lab.hook(
        &mut bytes_of(&t),
        sent.id,
        CtInfo::Established,
        leaving_by(LAN),
    );
    assert_eq!(verdict, Verdict::Drop(DropReason::Nat));
    assert!(!engine.table.slab().is_current(sent.id));
}

#[test]
fn masquerade_without_an_address_drops_and_leaves_a_dhcp_client_alone() {
    let mut without = engine(masquerade());
    for device in &mut without.host.devices {
        device.addresses.retain(|a| a.address.as_v4().is_loopback());
    }
    let mut lab = Lab::new(&without);
    assert_eq!(
        lab.forward(&client(UDP, 1)).verdict,
        Verdict::Drop(DropReason::Nat)
    );
    let dhcp = tuple(UDP, ([0, 0, 0, 0], 68), ([255, 255, 255, 255], 67));
    let sent = lab.forward(&dhcp);
    assert_eq!((sent.confirmed, sent.tuple()), (true, dhcp));
}

#[test]
fn redirect_leads_to_this_host() {
    let ports = NatPorts {
        range: Some((3128, 3128)),
        ..NatPorts::default()
    };
    let incoming = engine(rule(
        HookPoint::PreRouting,
        NatTarget::Redirect(ports.clone()),
    ));
    let sent = Lab::new(&incoming).forward(&tuple(TCP, (CLIENT, 1234), (SERVER, 80)));
    assert_eq!(
        sent.tuple(),
        tuple(TCP, (CLIENT, 1234), ([10, 0, 0, 1], 3128))
    );

    let own = engine(rule(
        HookPoint::LocalOut,
        NatTarget::Redirect(ports.clone()),
    ));
    let sent = Lab::new(&own).send(&tuple(TCP, (GATEWAY, 1234), (SERVER, 80)));
    assert_eq!(
        sent.tuple(),
        tuple(TCP, (GATEWAY, 1234), ([127, 0, 0, 1], 3128))
    );

    let mut without = engine(rule(HookPoint::PreRouting, NatTarget::Redirect(ports)));
    without.host.devices[1].addresses.clear();
    assert_eq!(
        Lab::new(&without).forward(&client(TCP, 1)).verdict,
        Verdict::Drop(DropReason::Nat)
    );
}

#[test]
fn netmap_replaces_the_network_and_keeps_the_host() {
    let target = NatTarget::Netmap {
        to: [172, 16, 4, 99].into(),
        prefix: 24,
    };
    let sources = engine(rule(HookPoint::PostRouting, target.clone()));
    let sent = Lab::new(&sources).forward(&tuple(UDP, (CLIENT, 1), (SERVER, 2)));
    assert_eq!(sent.tuple(), tuple(UDP, ([172, 16, 4, 5], 1), (SERVER, 2)));
    let destinations = engine(rule(HookPoint::PreRouting, target));
    let sent = Lab::new(&destinations).forward(&tuple(UDP, (CLIENT, 1), (SERVER, 2)));
    assert_eq!(sent.tuple(), tuple(UDP, (CLIENT, 1), ([172, 16, 4, 1], 2)));
}

#[test]
fn a_rule_or_a_policy_may_drop_and_accept_ends_in_a_null_binding() {
    let dropping = engine(rule(HookPoint::PostRouting, NatTarget::Drop));
    assert_eq!(
        Lab::new(&dropping).send(&client(TCP, 1)).verdict,
        Verdict::Drop(DropReason::Rule)
    );
    let mut policy = snat(None);
    policy.chains[0].rules.clear();
    policy.chains[0].policy_drop = true;
    let policy = engine(policy);
    assert_eq!(
        Lab::new(&policy).send(&client(TCP, 1)).verdict,
        Verdict::Drop(DropReason::Rule)
    );
    let accepting = engine(rule(HookPoint::PostRouting, NatTarget::Accept));
    let mut lab = Lab::new(&accepting);
    let sent = lab.send(&client(TCP, 1));
    assert!(sent.confirmed && lab.status(sent.id).contains(Status::NAT_DONE_MASK));
}

/// An ICMP "port unreachable" from `from` to `receiver` about a packet.
fn unreachable(from: [u8; 4], receiver: [u8; 4], about: &[u8]) -> Vec<u8> {
    let mut icmp = vec![3, 3, 0, 0, 0, 0, 0, 0];
    icmp.extend(&about[..about.len().min(28)]);
    let check = checksum(&icmp, 0);
    icmp[2..4].copy_from_slice(&check.to_be_bytes());
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ipv4(from, receiver, 64)
        .write(&mut bytes, etherparse::IpNumber::ICMP, &icmp)
        .unwrap();
    bytes
}

#[test]
fn case_70_an_icmp_error_comes_back_as_if_the_client_had_never_been_translated() {
    for protocol in [TCP, UDP, Protocol::ICMP] {
        let engine = engine(snat(Some((40_000, 40_000))));
        let mut lab = Lab::new(&engine);
        let t = match protocol {
            Protocol::ICMP => tuple(protocol, (CLIENT, 7), (SERVER, 8 << 8)),
            _ => client(protocol, 1),
        };
        let sent = lab.forward(&t);
        let receiver = sent.tuple().src.as_v4().octets();
        let mut error = unreachable([9, 9, 9, 9], receiver, &sent.bytes);
        let verdict = lab.both_hooks(
            &mut error,
            sent.id,
            CtInfo::RelatedReply,
            HookPoint::PreRouting,
        );
        assert_eq!(verdict, Verdict::Accept);

        let header = Ipv4Header::parse(&error, false).unwrap();
        assert_eq!(
            (header.src, header.dst),
            (Addr::v4([9, 9, 9, 9].into()), t.src)
        );
        assert!(sums_are_right(&error), "{protocol:?}");
        let quoted = &error[28..];
        let inner = Ipv4Header::parse(quoted, true).unwrap();
        assert_eq!(inner.tuple(quoted), Some(t), "{protocol:?}");
        assert_eq!(fold(sum(&quoted[..20])), 0xffff);
    }
}

#[test]
fn an_icmp_error_with_a_wrong_sum_and_a_redirect_across_nat_are_dropped() {
    let engine = engine(snat(Some((40_000, 40_000))));
    let mut lab = Lab::new(&engine);
    let sent = lab.forward(&client(UDP, 1));
    let error = unreachable([9, 9, 9, 9], GATEWAY, &sent.bytes);
    let at = NatAt {
        point: HookPoint::PreRouting,
        in_device: Some(WAN),
        out_device: None,
    };
    let mut wrong = error.clone();
    wrong[22] ^= 1;
    assert_eq!(
        lab.hook(&mut wrong, sent.id, CtInfo::RelatedReply, at),
        Verdict::Drop(DropReason::Nat)
    );
    let mut redirect = error.clone();
    redirect[20] = 5;
    redirect[22..24].fill(0);
    let check = checksum(&redirect[20..], 0);
    redirect[22..24].copy_from_slice(&check.to_be_bytes());
    assert_eq!(
        lab.hook(&mut redirect, sent.id, CtInfo::RelatedReply, at),
        Verdict::Drop(DropReason::Nat)
    );
    // Nothing to translate at this place: accepted as it is.
    let mut untouched = error.clone();
    assert_eq!(
        lab.hook(
            &mut untouched,
            sent.id,
            CtInfo::RelatedReply,
            leaving_by(LAN)
        ),
        Verdict::Accept
    );
    assert_eq!(untouched, error);
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

/// One of the translations that a property test draws.
fn rulesets() -> impl Strategy<Value = Ruleset> {
    let ports = || prop::option::of((1u16..60_000, 0u16..300).prop_map(|(p, n)| (p, p + n)));
    let flags = prop_oneof![
        Just(NatFlags::empty()),
        Just(NatFlags::RANDOM),
        Just(NatFlags::PERSISTENT)
    ];
    (ports(), ports(), flags, any::<u8>(), any::<[bool; 2]>()).prop_map(
        |(src, dst, flags, span, which)| {
            let target = |first: [u8; 4], range| NatTo {
                addresses: Some((
                    Addr::v4(first.into()),
                    Addr::from_u32(u32::from_be_bytes(first) + u32::from(span)),
                )),
                ports: NatPorts {
                    range,
                    base: None,
                    flags,
                },
            };
            let mut rules = rule(
                HookPoint::PostRouting,
                NatTarget::Snat(target([203, 0, 113, 1], src)),
            );
            let other = rule(
                HookPoint::PreRouting,
                NatTarget::Dnat(target([172, 16, 0, 1], dst)),
            );
            rules.chains.extend(other.chains);
            rules.postrouting = which[0].then_some(0);
            rules.prerouting = which[1].then_some(1);
            rules.nat_hooks = true;
            rules
        },
    )
}

proptest! {
    #[test]
    fn the_answer_to_a_translated_packet_reaches_the_client_as_it_expects_it(
        rules in rulesets(), protocol in prop_oneof![Just(TCP), Just(UDP), Just(Protocol::ICMP)],
        src in any::<(u32, u16)>(), dst in any::<(u32, u16)>(),
    ) {
        let engine = engine(rules);
        let mut lab = Lab::new(&engine);
        let mut t = tuple(protocol, (src.0.to_be_bytes(), src.1), (dst.0.to_be_bytes(), dst.1));
        if protocol == Protocol::ICMP {
            t.dst_key = 8 << 8;
        }
        prop_assume!(t.src != t.dst);
        let sent = lab.forward(&t);
        prop_assert!(sent.confirmed);
        prop_assert!(sums_are_right(&sent.bytes));

        // The first packet's own later copies are translated alike.
        let mut again = bytes_of(&t);
        lab.both_hooks(&mut again, sent.id, CtInfo::Established, HookPoint::PreRouting);
        prop_assert_eq!(&again, &sent.bytes);

        let answer = sent.tuple().invert().unwrap();
        prop_assert_eq!(lab.entry(sent.id).key(Direction::Reply).tuple(), answer);
        let mut bytes = bytes_of(&answer);
        let verdict = lab.both_hooks(&mut bytes, sent.id, CtInfo::EstablishedReply, HookPoint::PreRouting);
        prop_assert_eq!(verdict, Verdict::Accept);
        prop_assert_eq!(tuple_of(&bytes), t.invert().unwrap());
        prop_assert!(sums_are_right(&bytes));
    }
}

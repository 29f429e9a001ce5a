//! Packets of a connection, both ways, and ICMP errors about them.

use super::*;

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
fn an_icmp_error_is_translated_whatever_length_the_quoted_header_claims() {
    for length in [0u16, 10, 24, 9000] {
        let engine = engine(snat(Some((40_000, 40_000))));
        let mut lab = Lab::new(&engine);
        let t = client(UDP, 1);
        let sent = lab.forward(&t);
        let mut about = sent.bytes.clone();
        about[2..4].copy_from_slice(&length.to_be_bytes());
        let mut error = unreachable([9, 9, 9, 9], GATEWAY, &about);
        let verdict = lab.both_hooks(
            &mut error,
            sent.id,
            CtInfo::RelatedReply,
            HookPoint::PreRouting,
        );
        assert_eq!(verdict, Verdict::Accept, "{length}");
        assert!(sums_are_right(&error), "{length}");
        assert_eq!(error[28 + 12..28 + 16], t.src.octets()[..4], "{length}");
        assert_eq!(error[28 + 20..28 + 22], t.src_key.to_be_bytes(), "{length}");
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

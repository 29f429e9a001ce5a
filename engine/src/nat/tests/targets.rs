//! Targets: DNAT, MASQUERADE, REDIRECT, NETMAP, and rules that drop.

use super::*;

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

//! Cases 82–88 and 94: a full table, expired entries, untracked packets, zones, fixed timeouts.

use crate::lab::{A, B, LAN, LOCALHOST, Lab, WAN, in_words};
use crate::packets::{ACK, FIN, SYN};
use crate::packets::{ip, segment, udp};
use clashtrack_engine::event::Event;
use clashtrack_engine::expire::GcState;
use clashtrack_engine::packet::{DropReason, Origin, Verdict};
use clashtrack_engine::rules::{Network, Not, RawRule, RawTarget, RuleMatch, Ruleset};
use clashtrack_engine::status::CtInfo;
use clashtrack_engine::time::SECOND;
use clashtrack_engine::tuple::Direction;
use clashtrack_engine::zone::{Zone, ZoneDirections};

fn flow(client: u16) -> Vec<u8> {
    udp((A, client), (B, 53), 4)
}

/// Sends a flow of two-way traffic until it is ASSURED.
fn assured(lab: &mut Lab, client: u16) {
    lab.send(LAN, segment(SYN, 1, 0).packet((A, client), (B, 80)));
    lab.send(WAN, segment(SYN | ACK, 9, 2).packet((B, 80), (A, client)));
    lab.send(LAN, segment(ACK, 2, 10).packet((A, client), (B, 80)));
}

fn full_lab(max: usize, fill: impl Fn(&mut Lab, u16)) -> Lab {
    let mut lab = Lab::with(Ruleset::default(), |config| {
        config.sysctls.max = max;
        config.table.buckets = max / 16;
    });
    (0..max as u16).for_each(|i| fill(&mut lab, 1000 + i));
    assert_eq!(lab.engine.count(), max);
    lab.moved();
    lab
}

#[test]
fn case_82_a_full_table_makes_room_by_dropping_unassured_connections_of_a_bucket() {
    if !crate::KERNEL_CHAINS {
        return;
    }
    let max = 64;
    let mut lab = full_lab(max, |lab, client| {
        lab.send(LAN, flow(client));
    });
    assert!(lab.send(LAN, flow(9000)).accepted());
    let moved = lab.moved();
    let [("early_drop", evicted)] = moved[..] else {
        panic!("{moved:?}")
    };
    assert!(evicted > 1, "all of the bucket's: {evicted}");
    assert_eq!(lab.engine.count(), max - evicted as usize + 1);
    assert!(lab.ct_of(&flow(9000)).is_some());
}

#[test]
fn case_83_assured_connections_are_spared_until_the_collector_takes_closable_ones() {
    let max = 200;
    let mut lab = full_lab(max, assured);
    assert_eq!(
        lab.send(LAN, flow(9000)).verdict,
        Verdict::Drop(DropReason::TableFull)
    );
    assert_eq!(lab.moved(), [("drop", 1)]);
    assert_eq!(lab.engine.count(), max);

    // Ten of them close; the packet that found the table full asked for them.
    for client in 1000..1010 {
        lab.send(LAN, segment(FIN | ACK, 2, 10).packet((A, client), (B, 80)));
        lab.send(WAN, segment(FIN | ACK, 10, 3).packet((B, 80), (A, client)));
    }
    let mut gc = GcState::default();
    let run = lab.worker.gc(&mut gc, usize::MAX, lab.now);
    assert_eq!(
        (run.expired, run.evicted, lab.engine.count()),
        (0, 10, max - 10)
    );
    assert!(lab.moved().is_empty(), "not counted as early_drop");
    assert!(lab.send(LAN, flow(9000)).accepted());
    let again = lab.worker.gc(&mut gc, usize::MAX, lab.now);
    assert_eq!(again.evicted, 0, "nobody found it full since");
}

#[test]
fn case_83_the_collector_takes_closable_ones_only_while_the_table_is_95_percent_full() {
    let max = 200;
    let mut lab = full_lab(max, assured);
    assert!(!lab.send(LAN, flow(9000)).accepted());
    for client in 1000..1050 {
        lab.send(LAN, segment(FIN | ACK, 2, 10).packet((A, client), (B, 80)));
    }
    let run = lab.worker.gc(&mut GcState::default(), usize::MAX, lab.now);
    assert_eq!((run.evicted, lab.engine.count()), (11, 189));
}

#[test]
fn case_84_no_limit_with_zero_and_no_95_percent_rule_below_a_hundred() {
    let mut lab = Lab::with(Ruleset::default(), |config| config.sysctls.max = 0);
    for client in 1000..1500 {
        assert!(lab.send(LAN, flow(client)).accepted());
    }
    assert_eq!(lab.engine.count(), 500);

    let mut lab = full_lab(50, assured);
    assert!(!lab.send(LAN, flow(9000)).accepted());
    lab.send(LAN, segment(FIN | ACK, 2, 10).packet((A, 1000), (B, 80)));
    let run = lab.worker.gc(&mut GcState::default(), usize::MAX, lab.now);
    assert_eq!((run.evicted, lab.engine.count()), (0, 50));
}

#[test]
fn case_85_an_expired_entry_is_removed_by_the_lookup_that_meets_it() {
    let mut lab = Lab::new();
    lab.send(LAN, flow(1000));
    lab.send(WAN, udp((B, 53), (A, 1000), 4));
    lab.wait(30.0);
    assert_eq!(lab.engine.count(), 1, "nobody has looked");
    lab.worker.take_events();
    assert_eq!(lab.send(LAN, flow(1000)).ctinfo, Some(CtInfo::New));
    assert_eq!(lab.engine.count(), 1);
    let events = lab.worker.take_events();
    assert!(
        matches!(events[..], [Event::Destroy(..), Event::New(..)]),
        "{events:?}"
    );
    assert_eq!(in_words(&lab.ct_of(&flow(1000)).unwrap()), "30 [UNREPLIED]");
    assert!(lab.moved().is_empty());
}

#[test]
fn the_collector_removes_what_nobody_looks_for() {
    let mut lab = Lab::new();
    for client in 1000..1600 {
        lab.send(LAN, flow(client));
    }
    lab.wait(30.0);
    let mut gc = GcState::default();
    let mut runs = 0;
    while lab.engine.count() > 0 {
        let run = lab.worker.gc(&mut gc, 1000, lab.now);
        assert!(run.expired <= 257, "a run is bounded: {run:?}");
        if run.expired == 257 && lab.engine.count() > 0 {
            assert_eq!(run.delay, SECOND / 250, "and the next one a tick later");
        }
        runs += 1;
        assert!(runs < 100);
    }
    assert_eq!(lab.engine.engine_stats().expired, 600);
}

fn raw(matches: RuleMatch, target: RawTarget) -> Ruleset {
    Ruleset {
        raw: vec![RawRule { matches, target }],
        ..Ruleset::default()
    }
}

#[test]
fn case_86_a_notrack_packet_has_no_connection_and_is_not_invalid() {
    let mut lab = Lab::with(raw(RuleMatch::default(), RawTarget::NoTrack), |_| {});
    let sent = lab.send(LAN, flow(1000));
    assert_eq!(
        (sent.accepted(), sent.ctinfo),
        (true, Some(CtInfo::Untracked))
    );
    assert_eq!((lab.engine.count(), lab.moved().len()), (0, 0));
    assert_eq!(lab.engine.fates().accepted_untracked, 1);
}

#[test]
fn a_fragment_that_this_host_sends_is_neither_tracked_nor_counted() {
    let mut lab = Lab::new();
    let mut fragment = flow(1000);
    fragment[6] = 0x20;
    let local = Origin::Local;
    let sent = lab.send(local, fragment.clone());
    assert_eq!((sent.accepted(), sent.ctinfo), (true, None));
    assert_eq!((lab.engine.count(), lab.moved().len()), (0, 0));
    fragment[7] = 3;
    lab.send(local, fragment);
    assert!(lab.moved().is_empty());
}

/// Packets of clients in 10.0.0.0/28 go into a zone.
fn zoned(directions: ZoneDirections) -> Ruleset {
    let src = Some(Not::is(vec![Network::v4(ip(10, 0, 0, 0), 28)]));
    let target = RawTarget::Zone(Zone { id: 5, directions });
    raw(
        RuleMatch {
            src,
            ..RuleMatch::default()
        },
        target,
    )
}

#[test]
fn case_87_one_tuple_in_two_zones_is_two_connections() {
    // The same packet from two devices, of which one's packets are put into a zone.
    let pattern = clashtrack_engine::rules::DevicePattern {
        name: "lan".into(),
        prefix: false,
    };
    let matches = RuleMatch {
        in_device: Some(Not::is(pattern)),
        ..RuleMatch::default()
    };
    let zone = Zone {
        id: 5,
        directions: ZoneDirections::Both,
    };
    let mut lab = Lab::with(raw(matches, RawTarget::Zone(zone)), |_| {});
    assert_eq!(lab.send(LAN, flow(1000)).ctinfo, Some(CtInfo::New));
    assert_eq!(lab.send(WAN, flow(1000)).ctinfo, Some(CtInfo::New));
    assert_eq!(lab.engine.count(), 2);
    let mut zones: Vec<_> = lab
        .engine
        .connections(lab.now)
        .iter()
        .map(|ct| ct.zones)
        .collect();
    zones.sort_unstable();
    assert_eq!(zones, [(0, 0), (5, 5)]);
}

#[test]
fn case_88_a_zone_of_one_direction_leaves_the_other_keys_to_clash() {
    let mut lab = Lab::with(zoned(ZoneDirections::Original), |_| {});
    assert!(lab.send(LAN, flow(1000)).accepted());
    let ct = lab.engine.connections(lab.now)[0];
    assert_eq!(ct.zones, (5, 0));
    // Its answer, which no rule puts into the zone, finds it by the reply key.
    let answer = udp((B, 53), (A, 1000), 4);
    assert_eq!(
        lab.send(WAN, answer.clone()).ctinfo,
        Some(CtInfo::EstablishedReply)
    );
    assert_eq!(
        lab.find(&crate::packets::tuple(&answer)).unwrap().1,
        Direction::Reply
    );
}

#[test]
fn the_zone_of_an_output_rule_ends_where_the_packet_was_tracked() {
    // The first fragment that this host sends to itself: let pass at LOCAL_OUT, where a rule put it
    // into a zone; tracked at PRE_ROUTING, where none does.
    let no_device = clashtrack_engine::rules::DevicePattern {
        name: String::new(),
        prefix: false,
    };
    let matches = RuleMatch {
        in_device: Some(Not::is(no_device)),
        ..RuleMatch::default()
    };
    let zone = Zone {
        id: 5,
        directions: ZoneDirections::Both,
    };
    let mut lab = Lab::with(raw(matches, RawTarget::Zone(zone)), |_| {});
    let mut fragment = udp((LOCALHOST, 1000), (LOCALHOST, 53), 4);
    fragment[6] = 0x20;
    assert!(lab.send(Origin::Local, fragment).accepted());
    let zones: Vec<_> = lab
        .engine
        .connections(lab.now)
        .iter()
        .map(|ct| ct.zones)
        .collect();
    assert_eq!(zones, [(0, 0)]);
}

#[test]
fn case_94_a_fixed_timeout_is_not_refreshed_but_traffic_is_counted() {
    let mut lab = Lab::with(Ruleset::default(), |config| {
        config.sysctls.acct = true;
        config.table.acct = true;
    });
    lab.send(LAN, flow(1000));
    let tuple = crate::packets::tuple(&flow(1000));
    assert!(
        lab.worker
            .fix_timeout(&tuple, Zone::DEFAULT, 50 * SECOND, lab.now)
    );
    lab.wait(10.0);
    lab.send(LAN, flow(1000));
    let ct = lab.ct_of(&flow(1000)).unwrap();
    assert_eq!(ct.remaining, 40 * SECOND);
    assert_eq!(ct.traffic.unwrap()[0], (2, 2 * 32));
}

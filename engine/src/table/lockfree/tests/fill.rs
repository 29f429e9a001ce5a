//! What the documented fill promises, counted; and what a table does that has nothing left.

use super::super::{LockfreeTable, Wide};
use super::{Always, connect, key, table};
use crate::addr::{Addr, Family};
use crate::table::hash::HashKey;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::EntryId;
use crate::table::{ClashStep, Confirmed, FlowTable, Refusal, TableConfig};
use crate::tuple::{Protocol, Tuple};

/// Connections with NAT: all keys different.
fn translated(number: u32) -> (KeyV4, KeyV4) {
    let original = Tuple {
        src: Addr::from_u32(0x0a00_0000 | number >> 12),
        dst: Addr::from_u32(0xc633_6401),
        src_key: (number & 0xfff) as u16,
        dst_key: 443,
        family: Family::Ipv4,
        protocol: Protocol::TCP,
    };
    let reply = Tuple {
        src: original.dst,
        dst: Addr::from_u32(0xcb00_7100 | number >> 12),
        src_key: original.dst_key,
        dst_key: original.src_key,
        ..original
    };
    (KeyV4::pack(&original, 0), KeyV4::pack(&reply, 0))
}

#[test]
fn at_the_documented_fill_hits_read_two_lines_after_many_turnovers() {
    const CONNECTIONS: u32 = 30_000;
    const TURNOVERS: u32 = 10;
    let table: LockfreeTable<KeyV4> =
        FlowTable::new(&TableConfig::new(CONNECTIONS as usize, HashKey(5, 6)));
    let mut worker = table.worker();
    let mut policy = Always::new(ClashStep::Drop);
    let mut ids = std::collections::VecDeque::new();
    for number in 0..(TURNOVERS + 1) * CONNECTIONS {
        if ids.len() == CONNECTIONS as usize {
            let oldest: EntryId = ids.pop_front().unwrap();
            assert!(table.remove(&mut worker, oldest) && table.release(&mut worker, oldest));
        }
        let keys = translated(number);
        let made = connect(&table, &mut worker, keys, (1, 1 << 40), 0, &mut policy);
        let (id, Confirmed::Inserted) = made.expect("one has gone") else {
            panic!("refused: {made:?}");
        };
        ids.push_back(id);
    }
    let lines = table.hit_lines().expect("it counts them");
    assert_eq!(lines.keys, 2 * u64::from(CONNECTIONS), "each has two keys");
    let share = lines.share_in_two();
    println!("{:.2} % of the hits read two lines", share * 100.0);
    assert!(share >= 0.94, "{share}");
    // What was used at the fullest, and little more: a table's memory follows from that.
    let used = table.entries.touched();
    assert!(used < CONNECTIONS as usize + 3 * 1024, "{used} entries");
}

#[test]
fn the_slack_is_a_setting_and_a_parked_worker_uses_it_up_and_nothing_else() {
    const CAPACITY: usize = 100;
    for slack in [50, 300] {
        let mut config = TableConfig::new(CAPACITY, HashKey(1, 2));
        config.slack = Some(slack);
        let table: LockfreeTable<KeyV4> = FlowTable::new(&config);
        let (mut worker, mut parked) = (table.worker(), table.worker());
        let mut policy = Always::new(ClashStep::Drop);
        let stays = translated(0);
        connect(&table, &mut worker, stays, (1, 100), 0, &mut policy).expect("room");
        // Parked inside a batch, for as long as it takes.
        table.begin(&mut parked);
        let mut turns = 0;
        while let Some((id, confirmed)) = connect(
            &table,
            &mut worker,
            translated(turns + 1),
            (1, 100),
            0,
            &mut policy,
        ) {
            assert_eq!(confirmed, Confirmed::Inserted);
            assert!(table.remove(&mut worker, id) && table.release(&mut worker, id));
            turns += 1;
        }
        assert_eq!(turns as usize, CAPACITY + slack - 1, "slack {slack}");
        assert_eq!(table.take_recycle_stalled(&mut worker), 1);
        assert_eq!(table.take_recycle_stalled(&mut worker), 0, "told once");
        let hit = table.lookup(&mut worker, &stays.1, 1).expect("it stays");
        table.release(&mut worker, hit.id);
        table.end(&mut parked);
        let again = connect(&table, &mut worker, translated(7), (1, 100), 0, &mut policy);
        assert!(again.is_some(), "it recovers");
        table.assert_quiescent(&[&worker, &parked], &[]);
    }
}

#[test]
fn without_overflow_buckets_an_insert_is_refused_and_others_go_on() {
    // One chain of 7, and one bucket to make it longer.
    let table = table::<Wide>(1, 40, 1);
    let mut worker = table.worker();
    let mut policy = Always::new(ClashStep::Drop);
    let mut ids = Vec::new();
    let connect = |worker: &mut _, n: u8, policy: &mut Always| {
        let keys = (key(n, 200, 0), key(200, n, 0));
        connect(&table, worker, keys, (1, 100), u32::MAX, policy).expect("entries enough")
    };
    for n in 0..14 {
        let (id, confirmed) = connect(&mut worker, n, &mut policy);
        assert_eq!(confirmed, Confirmed::Inserted, "{n}");
        ids.push(id);
    }
    let (_, refused) = connect(&mut worker, 14, &mut policy);
    assert_eq!(refused, Confirmed::Refused(Refusal::Full));
    for n in 0..14 {
        let hit = table.lookup(&mut worker, &key(n, 200, 0), 1);
        let hit = hit.expect("nothing else is disturbed");
        table.release(&mut worker, hit.id);
    }
    let gone = ids[3];
    assert!(table.remove(&mut worker, gone) && table.release(&mut worker, gone));
    let (_, confirmed) = connect(&mut worker, 14, &mut policy);
    assert_eq!(confirmed, Confirmed::Inserted, "it recovers");
    table.assert_quiescent(&[&worker], &[]);
}

#[test]
fn what_workers_that_are_gone_left_behind_is_there_for_the_next_one() {
    const CONNECTIONS: u32 = 300;
    // Room for twice what is there at a time, and the least slack; each round's workers go.
    let config = TableConfig::new(2 * CONNECTIONS as usize, HashKey(7, 8));
    let table: LockfreeTable<KeyV4> = FlowTable::new(&config);
    let mut policy = Always::new(ClashStep::Drop);
    for round in 0..100 {
        let mut maker = table.worker();
        let mut ids = Vec::new();
        table.begin(&mut maker);
        for number in 0..CONNECTIONS {
            let keys = translated(round * CONNECTIONS + number);
            let made = connect(&table, &mut maker, keys, (1, 1 << 40), 0, &mut policy);
            let Some((id, Confirmed::Inserted)) = made else {
                panic!("round {round}, connection {number}: {made:?}");
            };
            ids.push(id);
        }
        table.end(&mut maker);
        drop(maker);
        let mut ender = table.worker();
        table.begin(&mut ender);
        for id in ids {
            assert!(table.remove(&mut ender, id) && table.release(&mut ender, id));
        }
        table.end(&mut ender);
    }
}

/// Each worker keeps some numbers at hand; the last one gets its entries all the same.
#[test]
fn each_of_many_workers_on_a_small_table_gets_its_share() {
    const CAPACITY: usize = 1_000;
    const WORKERS: usize = 200;
    let config = TableConfig {
        workers: WORKERS,
        ..TableConfig::new(CAPACITY, HashKey(5, 6))
    };
    let table: LockfreeTable<KeyV4> = FlowTable::new(&config);
    let mut workers: Vec<_> = (0..WORKERS).map(|_| table.worker()).collect();
    for worker in &mut workers {
        for _ in 0..CAPACITY / WORKERS {
            assert!(table.allocate(worker).is_some());
        }
        assert_eq!(worker.counters().recycle_stalled, 0);
    }
}

/// Sums that come round would make a small table of a capacity that no table has.
#[test]
fn a_capacity_that_no_table_has_is_refused() {
    let quarter_more_is_nothing = usize::MAX / 5 * 4 + 4;
    for (capacity, slack) in [
        (usize::MAX, None),
        (quarter_more_is_nothing, None),
        (100, Some(usize::MAX - 50)),
    ] {
        let config = TableConfig {
            slack,
            ..TableConfig::new(capacity, HashKey(5, 6))
        };
        let make = || <LockfreeTable<KeyV4> as FlowTable<KeyV4>>::new(&config);
        let panic = std::panic::catch_unwind(make).unwrap_err();
        let text = panic.downcast_ref::<String>().expect("a message");
        assert!(text.contains("a slot can name"), "{text}");
    }
}

//! One thread against a plain map: every answer must be the map's. What is at rest is
//! checked at the end of each program, and entries and buckets go through many lives.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::{Geometry, Layout, LockfreeTable, LockfreeWorker, Narrow, Wide};
use super::{Always, connect, key, table};
use crate::status::Status;
use crate::table::hash::HashKey;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::EntryId;
use crate::table::{Clash, ClashStep, Confirmed, FlowTable, Hit, REPLY_ONLY_TIMEOUT, Refusal};
use crate::time::Nanos;
use crate::tuple::Direction;

#[derive(Clone, Debug)]
enum Op {
    Connect {
        keys: (KeyV4, KeyV4),
        timeout: Nanos,
        random: u32,
        step: ClashStep,
    },
    Discard,
    Lookup(KeyV4),
    Remove(KeyV4),
    /// By an id that was given out once.
    RemoveOld(usize),
    Wait(Nanos),
    EarlyDrop(KeyV4),
    BeginOrEnd,
}

fn keys() -> impl Strategy<Value = KeyV4> {
    (0u8..5, 0u8..5, 0u16..2).prop_map(|(src, dst, zone)| key(src, dst, zone))
}

fn connections() -> impl Strategy<Value = (KeyV4, KeyV4)> {
    prop_oneof![
        keys().prop_map(|original| (original, original.inverse().unwrap())),
        (keys(), keys()),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let step = prop_oneof![
        Just(ClashStep::Merge),
        Just(ClashStep::ReplyOnly),
        Just(ClashStep::Drop)
    ];
    let timeout = prop_oneof![4 => Just(1_000_000_000_000), 1 => 0u64..1_000];
    prop_oneof![
        8 => (connections(), timeout, any::<u32>(), step)
            .prop_map(|(keys, timeout, random, step)| Op::Connect { keys, timeout, random, step }),
        1 => Just(Op::Discard),
        4 => keys().prop_map(Op::Lookup),
        5 => keys().prop_map(Op::Remove),
        1 => any::<usize>().prop_map(Op::RemoveOld),
        1 => (0u64..2_000).prop_map(Op::Wait),
        1 => keys().prop_map(Op::EarlyDrop),
        2 => Just(Op::BeginOrEnd),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Owner {
    hit: Hit,
    deadline: Nanos,
}

/// The table as a map. Expired connections may be there or not: they count as absent.
struct Run<'t, G: Geometry> {
    table: &'t LockfreeTable<KeyV4, G>,
    worker: LockfreeWorker,
    owners: HashMap<KeyV4, Owner>,
    ids: Vec<EntryId>,
    now: Nanos,
    in_batch: bool,
    refused_for_room: usize,
}

impl<'t, G: Geometry> Run<'t, G> {
    fn new(table: &'t LockfreeTable<KeyV4, G>) -> Run<'t, G> {
        Run {
            table,
            worker: table.worker(),
            owners: HashMap::new(),
            ids: Vec::new(),
            now: 1,
            in_batch: false,
            refused_for_room: 0,
        }
    }

    fn owner(&self, key: &KeyV4) -> Option<Hit> {
        let owner = self.owners.get(key)?;
        (owner.deadline > self.now).then_some(owner.hit)
    }

    fn own(&mut self, key: KeyV4, id: EntryId, direction: Direction, deadline: Nanos) {
        let hit = Hit { id, direction };
        let before = self.owners.insert(key, Owner { hit, deadline });
        assert!(
            before.is_none_or(|b| b.deadline <= self.now || b.hit.id == id),
            "{key:?} had an owner"
        );
    }

    fn forget(&mut self, id: EntryId) {
        self.owners.retain(|_, owner| owner.hit.id != id);
    }

    fn run(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Connect {
                    keys,
                    timeout,
                    random,
                    step,
                } => self.connect(*keys, *timeout, *random, *step),
                Op::Discard => {
                    if let Some(id) = self.table.allocate(&mut self.worker) {
                        self.table.discard(&mut self.worker, id);
                    }
                }
                Op::Lookup(key) => self.lookup(key),
                Op::Remove(key) => {
                    if let Some(hit) = self.owner(key) {
                        self.remove(hit.id, true);
                    }
                }
                Op::RemoveOld(which) => {
                    if !self.ids.is_empty() {
                        let id = self.ids[which % self.ids.len()];
                        let lives = self.owners.values().find(|o| o.hit.id == id).copied();
                        match lives {
                            Some(owner) if owner.deadline <= self.now => {}
                            lives => self.remove(id, lives.is_some()),
                        }
                    }
                }
                Op::Wait(time) => self.now += time,
                Op::EarlyDrop(key) => self.early_drop(key),
                Op::BeginOrEnd => self.begin_or_end(),
            }
            self.collect_removed(None);
        }
        if self.in_batch {
            self.begin_or_end();
        }
        for key in self.owners.keys().copied().collect::<Vec<_>>() {
            self.lookup(&key);
        }
        self.table.assert_quiescent(&[&self.worker], &[]);
    }

    fn begin_or_end(&mut self) {
        if self.in_batch {
            self.table.end(&mut self.worker);
        } else {
            self.table.begin(&mut self.worker);
        }
        self.in_batch = !self.in_batch;
    }

    fn lookup(&mut self, key: &KeyV4) {
        let wanted = self.owner(key);
        let found = self.table.lookup(&mut self.worker, key, self.now);
        assert_eq!(found, wanted, "lookup of {key:?}");
        let mut hits = [None];
        self.table
            .lookup_batch(&mut self.worker, &[*key], self.now, &mut hits);
        assert_eq!(hits[0], wanted, "batch lookup of {key:?}");
        for hit in found.into_iter().chain(hits.into_iter().flatten()) {
            assert!(
                !self.table.release(&mut self.worker, hit.id),
                "a hit frees nothing"
            );
        }
    }

    fn remove(&mut self, id: EntryId, lives: bool) {
        assert_eq!(self.table.remove(&mut self.worker, id), lives);
        if lives {
            assert!(!self.table.remove(&mut self.worker, id), "one killer only");
            assert!(self.table.slab().entry(id).status().contains(Status::DYING));
            assert!(self.table.release(&mut self.worker, id));
            assert!(!self.table.slab().is_current(id));
            self.forget(id);
        }
    }

    fn early_drop(&mut self, key: &KeyV4) {
        let owned = self.owners.values().any(|o| o.deadline > self.now);
        let dropped = self
            .table
            .early_drop(&mut self.worker, key, self.now, &|_| true);
        assert_eq!(
            dropped.evicted > 0,
            owned,
            "with one or two chains all are near"
        );
        let evicted = self.collect_removed(Some(()));
        assert_eq!(evicted, dropped.evicted);
    }

    /// What was removed on the way must have expired, unless it was evicted. How many had not.
    fn collect_removed(&mut self, evicting: Option<()>) -> u32 {
        let mut alive = 0;
        while let Some(id) = self.table.take_removed(&mut self.worker) {
            let expired = self.table.slab().entry(id).is_expired(self.now);
            assert!(
                expired || evicting.is_some(),
                "{id:?} was removed and had not expired"
            );
            alive += u32::from(!expired);
            assert!(self.table.release(&mut self.worker, id));
            self.forget(id);
        }
        alive
    }

    fn connect(&mut self, keys: (KeyV4, KeyV4), timeout: Nanos, random: u32, step: ClashStep) {
        let mut policy = Always::new(step);
        let time = (self.now, timeout);
        let Some((id, confirmed)) = connect(
            self.table,
            &mut self.worker,
            keys,
            time,
            random,
            &mut policy,
        ) else {
            return;
        };
        self.ids.push(id);
        let clash = self.expected_clash(id, keys, &[Direction::Original, Direction::Reply], false);
        let deadline = self.now + timeout;
        // Before the map is brought up to date: it is asked what had expired.
        self.collect_removed(None);
        match (confirmed, clash) {
            (Confirmed::Inserted, None) => {
                self.own(keys.0, id, Direction::Original, deadline);
                // A tuple that is its own inverse is found as the reply, as in the kernel.
                self.own(keys.1, id, Direction::Reply, deadline);
                assert_eq!(self.table.slab().entry(id).deadline(), deadline);
            }
            (Confirmed::Merged(seen), Some(clash)) if step == ClashStep::Merge => {
                assert_eq!(seen, clash);
                assert!(!self.table.release(&mut self.worker, seen.winner));
            }
            (Confirmed::Refused(Refusal::Clash(seen)), Some(clash)) => match step {
                ClashStep::Merge => {
                    assert_eq!(clash.winner, id, "only a clash with itself is not merged");
                }
                ClashStep::Drop => assert_eq!(seen, clash),
                ClashStep::ReplyOnly => {
                    let again = self.expected_clash(id, keys, &[Direction::Reply], true);
                    assert!(again == Some(seen) || clash.winner == id);
                }
            },
            (Confirmed::ReplyOnly(seen), Some(clash)) if step == ClashStep::ReplyOnly => {
                assert_eq!(seen, clash);
                assert_eq!(
                    self.expected_clash(id, keys, &[Direction::Reply], true),
                    None
                );
                self.own(keys.1, id, Direction::Reply, self.now + REPLY_ONLY_TIMEOUT);
            }
            (Confirmed::Refused(Refusal::ChainTooLong | Refusal::Full), _) => {
                self.refused_for_room += 1;
            }
            (confirmed, clash) => panic!("{keys:?}: {confirmed:?}, expected clash {clash:?}"),
        }
        if !matches!(confirmed, Confirmed::Inserted | Confirmed::ReplyOnly(_)) {
            assert!(
                !self.table.slab().is_current(id),
                "the loser was given back"
            );
        }
    }

    fn expected_clash(
        &self,
        id: EntryId,
        keys: (KeyV4, KeyV4),
        order: &[Direction],
        at_reply_only: bool,
    ) -> Option<Clash> {
        if keys.0 == keys.1 && keys.0.inverse() != Some(keys.0) {
            return Some(Clash {
                winner: id,
                key: Direction::Reply,
                winner_key: Direction::Original,
                at_reply_only: false,
            });
        }
        order.iter().find_map(|&key| {
            let hit = self.owner(if key == Direction::Original {
                &keys.0
            } else {
                &keys.1
            })?;
            Some(Clash {
                winner: hit.id,
                key,
                winner_key: hit.direction,
                at_reply_only,
            })
        })
    }
}

fn check<G: Geometry>(heads: usize, overflow: usize, ops: &[Op]) {
    let table = table::<G>(heads, 40, overflow);
    Run::new(&table).run(ops);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_chain_of_single_slots_answers_as_a_map(ops in prop::collection::vec(ops(), 1..150)) {
        check::<Narrow<1, 1, 3>>(1, 5, &ops);
        check::<Narrow<1, 1, 3>>(2, 5, &ops);
    }

    #[test]
    fn two_chains_with_overflow_answer_as_a_map(ops in prop::collection::vec(ops(), 1..150)) {
        check::<Narrow<2, 3, 2>>(2, 4, &ops);
        check::<Narrow<3, 2, 3>>(1, 3, &ops);
    }

    #[test]
    fn full_buckets_answer_as_a_map(ops in prop::collection::vec(ops(), 1..200)) {
        check::<Wide>(1, 6, &ops);
        check::<Wide>(2, 1, &ops);
        check::<Wide>(1, 0, &ops);
    }
}

#[test]
fn entries_and_buckets_come_home_after_many_lives() {
    let table = table::<Narrow<1, 2, 3>>(2, 8, 6);
    let mut worker = table.worker();
    let mut policy = Always::new(ClashStep::Drop);
    let mut inserted = 0;
    for round in 0..5_000u32 {
        table.begin(&mut worker);
        let keys = (key((round % 7) as u8, 10, 0), key(11, (round % 7) as u8, 0));
        if let Some((_, Confirmed::Inserted)) =
            connect(&table, &mut worker, keys, (1, 100), u32::MAX, &mut policy)
        {
            inserted += 1;
        }
        if round % 3 == 2 {
            let some = table.slab().confirmed().nth(round as usize % 5);
            if let Some((id, _)) = some {
                assert!(table.remove(&mut worker, id));
                assert!(table.release(&mut worker, id));
            }
        }
        table.end(&mut worker);
    }
    assert!(inserted > 1_000, "{inserted}");
    let counters = worker.counters();
    assert!(
        counters.linked > 100 && counters.unlinked > 100,
        "{counters:?}"
    );
    table.assert_quiescent(&[&worker], &[]);
    table.leave(&mut worker);
    table.assert_quiescent(&[&worker], &[]);
    drop(worker);
    table.assert_quiescent(&[], &[]);
}

#[test]
fn a_table_that_was_full_takes_connections_again_when_some_go() {
    let table = table::<Wide>(4, 10, 8);
    let mut worker = table.worker();
    let mut policy = Always::new(ClashStep::Drop);
    let mut ids = Vec::new();
    table.begin(&mut worker);
    for i in 0..10u8 {
        let keys = (key(i, 100, 0), key(100, i, 0));
        let (id, confirmed) =
            connect(&table, &mut worker, keys, (1, 100), 0, &mut policy).expect("there is room");
        assert_eq!(confirmed, Confirmed::Inserted);
        ids.push(id);
    }
    assert_eq!(table.allocate(&mut worker), None, "the table is full");
    assert_eq!(worker.counters().recycle_stalled, 0);
    // In the same batch: the slack stands in for what may not be reused yet.
    for round in 0..10u8 {
        let oldest = ids.remove(0);
        assert!(table.remove(&mut worker, oldest) && table.release(&mut worker, oldest));
        let keys = (key(round, 200, 0), key(200, round, 0));
        let (id, confirmed) =
            connect(&table, &mut worker, keys, (1, 100), 0, &mut policy).expect("one has gone");
        assert_eq!(confirmed, Confirmed::Inserted);
        ids.push(id);
    }
    table.end(&mut worker);
    table.assert_quiescent(&[&worker], &[]);
}

#[test]
fn a_worker_that_stays_pinned_stops_reuse_and_nothing_else() {
    let table = table::<Wide>(4, 10, 8);
    let (mut worker, mut stalled) = (table.worker(), table.worker());
    let mut policy = Always::new(ClashStep::Drop);
    table.begin(&mut stalled);
    let keys = (key(1, 2, 0), key(2, 1, 0));
    let mut turns = 0;
    while let Some((id, confirmed)) = connect(&table, &mut worker, keys, (1, 100), 0, &mut policy) {
        assert_eq!(confirmed, Confirmed::Inserted);
        assert!(table.remove(&mut worker, id) && table.release(&mut worker, id));
        turns += 1;
        assert!(turns < 1_000, "a pinned worker does not stop reuse");
    }
    assert_eq!(turns, 24, "all entries and the slack were used");
    assert_eq!(worker.counters().recycle_stalled, 1);
    assert_eq!(table.lookup(&mut worker, &keys.0, 1), None);
    table.end(&mut stalled);
    assert!(connect(&table, &mut worker, keys, (1, 100), 0, &mut policy).is_some());
    table.assert_quiescent(&[&worker, &stalled], &[]);
}

/// What one worker gave back it may keep at hand, but not so much that a table is full for the others.
#[test]
fn connections_that_one_worker_removed_leave_room_for_another() {
    for capacity in [10, 64, 300, 5_000] {
        let table = LockfreeTable::<KeyV4, Wide>::with_layout(
            Layout::for_capacity(capacity),
            HashKey(1, 2),
            false,
        );
        let (mut one, mut other) = (table.worker(), table.worker());
        let all = |worker: &mut LockfreeWorker| -> Vec<EntryId> {
            std::iter::from_fn(|| table.allocate(worker)).collect()
        };
        let ids = all(&mut one);
        assert_eq!(ids.len(), capacity);
        for id in ids {
            table.discard(&mut one, id);
        }
        let room = all(&mut other).len();
        assert!(
            room >= capacity - capacity / 50,
            "{room} of {capacity} entries for the other one"
        );
    }
}

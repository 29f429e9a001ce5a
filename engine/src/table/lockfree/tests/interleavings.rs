//! Two and three threads with a few calls each, in every interleaving and every outcome of
//! the memory model that loom finds. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p clashtrack-engine --lib --release interleavings`.
//!
//! Each execution's answers are compared with all sequential orders of the same calls on a
//! map; then what is at rest is checked. loom reports a read of an entry's keys that
//! nothing ordered after their writing. All keys of a scenario have one tag, so that every
//! comparison goes to the entry. A scenario names answers that must occur in some execution.
//!
//! Stock loom 0.7.3 leaves some executions out: it keeps one last access of an atomic, so
//! that of "load, load, compare-and-swap" by two threads not all orders are tried. What passes here
//! is strong evidence, not proof. `LOOM_MAX_PREEMPTIONS` and `LOOM_MAX_DURATION` (seconds) widen the search.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use loom::model::Builder;

use super::super::canonical::{Oriented, Place};
use super::super::{Geometry, Layout, LockfreeTable, LockfreeWorker, Narrow};
use super::Always;
use crate::addr::{Addr, Family};
use crate::table::hash::HashKey;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::EntryId;
use crate::table::{ClashStep, Confirmed, FlowTable, Refusal};
use crate::time::Nanos;
use crate::tuple::{Protocol, Tuple};

const NOW: Nanos = 1_000;
const LONG: Nanos = 1 << 40;
const HASH: HashKey = HashKey(1, 2);
const TAG: u16 = 0x1234;

/// Canonical keys of a scenario.
const CANONS: u8 = 12;

/// A key of a scenario: canonical key `canon` (of chain `canon % heads`), as it is or inverted.
type Name = (u8, u8);

/// The keys of one number of chains: each canonical key in the chain of its number, in the order of numbers,
/// all of one tag.
fn keys_of(heads: u32) -> &'static [KeyV4] {
    static KEYS: [OnceLock<Vec<KeyV4>>; 3] = [const { OnceLock::new() }; 3];
    KEYS[heads as usize - 1].get_or_init(|| {
        (0..u32::from(CANONS))
            .map(|canon| {
                (0..u32::MAX)
                    .map(|n| {
                        let tuple = Tuple {
                            src: Addr::from_u32(canon << 24 | n & 0xff_ffff),
                            dst: Addr::from_u32(u32::MAX),
                            src_key: 1,
                            dst_key: 2,
                            family: Family::Ipv4,
                            protocol: Protocol::UDP,
                        };
                        KeyV4::pack(&tuple, 0)
                    })
                    .find(|key| {
                        let place = Place::of(key, HASH, heads);
                        place.bucket == canon % heads && place.tag == TAG
                    })
                    .expect("one in 2^17 keys has this tag and this chain")
            })
            .inspect(|key| assert_eq!(Oriented::new(key).canon, *key))
            .collect()
    })
}

fn key(heads: u32, name: Name) -> KeyV4 {
    let canon = keys_of(heads)[name.0 as usize];
    match name.1 {
        0 => canon,
        _ => canon.inverse().expect("UDP has answers"),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Op {
    Connect {
        uid: u32,
        original: Name,
        reply: Name,
        step: ClashStep2,
        expires: bool,
        random: u32,
    },
    Look(Name),
    Remove(Name),
    /// By the id of an earlier life.
    RemoveUid(u32),
}

/// [`ClashStep`] that can be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ClashStep2 {
    Drop,
    ReplyOnly,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Inserted,
    ReplyOnly,
    Clash(u32),
    NoRoom,
    NoEntry,
    Found(Option<u32>),
    Removed(Option<u32>),
    RemovedUid(bool),
}

/// A connection with NAT.
fn nat(uid: u32, original: Name, reply: Name) -> Op {
    Op::Connect {
        uid,
        original,
        reply,
        step: ClashStep2::Drop,
        expires: false,
        random: u32::MAX,
    }
}

/// One without.
fn plain(uid: u32, canon: u8) -> Op {
    nat(uid, (canon, 0), (canon, 1))
}

fn or_reply_only(mut op: Op) -> Op {
    if let Op::Connect { step, .. } = &mut op {
        *step = ClashStep2::ReplyOnly;
    }
    op
}

/// Has expired as soon as it is in.
fn expired(mut op: Op) -> Op {
    if let Op::Connect { expires, .. } = &mut op {
        *expires = true;
    }
    op
}

/// With the smallest limit that may be drawn.
fn short(mut op: Op) -> Op {
    if let Op::Connect { random, .. } = &mut op {
        *random = 0;
    }
    op
}

fn look(canon: u8) -> Op {
    Op::Look((canon, 0))
}

fn remove(canon: u8) -> Op {
    Op::Remove((canon, 0))
}

// ---------------------------------------------------------------- the map

type Map = BTreeMap<Name, u32>;

/// The map after an operation that gave this answer; `None` if it cannot have.
fn apply(map: &Map, op: &Op, answer: &Answer) -> Option<Map> {
    let mut next = map.clone();
    match (op, answer) {
        (
            Op::Connect {
                uid,
                original,
                reply,
                expires,
                ..
            },
            Answer::Inserted,
        ) => {
            for name in [original, reply] {
                if map.contains_key(name) {
                    return None;
                }
                // An expired one may vanish at once.
                if !expires {
                    next.insert(*name, *uid);
                }
            }
            Some(next)
        }
        (Op::Connect { uid, reply, .. }, Answer::ReplyOnly) => {
            next.insert(*reply, *uid).is_none().then_some(next)
        }
        (
            Op::Connect {
                original, reply, ..
            },
            Answer::Clash(winner),
        ) => [original, reply]
            .iter()
            .any(|name| map.get(name) == Some(winner))
            .then_some(next),
        (Op::Connect { .. }, Answer::NoRoom | Answer::NoEntry) => Some(next),
        (Op::Look(name), Answer::Found(found)) => (map.get(name) == found.as_ref()).then_some(next),
        (Op::Remove(name), Answer::Removed(removed)) => {
            if map.get(name) != removed.as_ref() {
                return None;
            }
            next.retain(|_, owner| Some(*owner) != *removed);
            Some(next)
        }
        (Op::RemoveUid(uid), Answer::RemovedUid(removed)) => {
            let lives = map.values().any(|owner| owner == uid);
            next.retain(|_, owner| owner != uid);
            (lives == *removed).then_some(next)
        }
        _ => unreachable!("an answer of its operation"),
    }
}

type History = Vec<(Op, Answer)>;

/// Is there an order of the threads' operations that gives these answers, and then those of `after`?
fn explained(
    map: &Map,
    threads: &[History],
    at: &mut Vec<usize>,
    after: &History,
    seen: &mut HashSet<(Map, Vec<usize>)>,
) -> bool {
    if !seen.insert((map.clone(), at.clone())) {
        return false;
    }
    if threads.iter().zip(at.iter()).all(|(t, at)| t.len() == *at) {
        let mut map = map.clone();
        return after
            .iter()
            .all(|(op, answer)| apply(&map, op, answer).map(|next| map = next).is_some());
    }
    (0..threads.len()).any(|thread| {
        let Some((op, answer)) = threads[thread].get(at[thread]) else {
            return false;
        };
        let Some(next) = apply(map, op, answer) else {
            return false;
        };
        at[thread] += 1;
        let found = explained(&next, threads, at, after, seen);
        at[thread] -= 1;
        found
    })
}

// ---------------------------------------------------------------- scenarios

#[derive(Clone)]
struct Scenario {
    name: &'static str,
    heads: u32,
    before: Vec<Op>,
    threads: Vec<Vec<Op>>,
    /// Entries, and overflow buckets, that each thread has at hand.
    entries: usize,
    overflow: usize,
    /// Threads pin for each call, so that what goes is used again; else they stay pinned.
    epochs: bool,
    /// Refusals for want of room are right.
    may_be_full: bool,
    /// (thread, operation, answer) that some execution must give.
    sees: Vec<(usize, usize, Answer)>,
    never: Vec<(usize, usize, Answer)>,
}

fn scenario(name: &'static str, heads: u32, before: Vec<Op>, threads: Vec<Vec<Op>>) -> Scenario {
    Scenario {
        name,
        heads,
        before,
        threads,
        entries: 3,
        overflow: 0,
        epochs: false,
        may_be_full: false,
        sees: Vec::new(),
        never: Vec::new(),
    }
}

impl Scenario {
    fn overflow(mut self, each: usize) -> Self {
        self.overflow = each;
        self
    }

    fn recycling(mut self, entries: usize) -> Self {
        self.epochs = true;
        self.entries = entries;
        self
    }

    fn may_be_full(mut self) -> Self {
        self.may_be_full = true;
        self
    }

    fn sees(mut self, thread: usize, op: usize, answers: &[Answer]) -> Self {
        self.sees
            .extend(answers.iter().map(|a| (thread, op, a.clone())));
        self
    }

    fn never(mut self, thread: usize, op: usize, answer: Answer) -> Self {
        self.never.push((thread, op, answer));
        self
    }

    /// All executions that loom finds.
    fn check<G: Geometry>(self) {
        let mut builder = Builder::new();
        builder.max_branches = 20_000;
        builder.preemption_bound = builder.preemption_bound.or(Some(2));
        let enough = Duration::from_secs(15);
        builder.max_duration = builder.max_duration.or(Some(enough));
        keys_of(self.heads);
        let census: Arc<Mutex<HashMap<Vec<Vec<Answer>>, u64>>> = Arc::default();
        let (run, seen) = (self.clone(), Arc::clone(&census));
        builder.check(move || run.execute::<G>(&seen));
        let census = census.lock().unwrap();
        let executions: u64 = census.values().sum();
        println!(
            "{}: {executions} executions, {} outcomes",
            self.name,
            census.len()
        );
        for (thread, op, answer) in &self.sees {
            assert!(
                census
                    .keys()
                    .any(|outcome| outcome[*thread].get(*op) == Some(answer)),
                "{}: thread {thread} never got {answer:?} from operation {op}",
                self.name
            );
        }
    }

    /// One execution.
    fn execute<G: Geometry>(&self, census: &Mutex<HashMap<Vec<Vec<Answer>>, u64>>) {
        let threads = self.threads.len();
        let layout = Layout {
            entries_max: self.entries * threads + self.before.len(),
            slack: 0,
            heads: self.heads as usize,
            // One more than the first thread may need beforehand.
            overflow: self.overflow * (threads + 1),
        };
        let table = Arc::new(LockfreeTable::<KeyV4, G>::with_layout(layout, HASH, false));
        let mut workers: Vec<LockfreeWorker> = (0..threads)
            .map(|thread| {
                let mut worker = table.worker();
                let before = if thread == 0 { self.before.len() } else { 0 };
                let links = if thread == 0 { 2 } else { 1 } * self.overflow;
                worker.stock(&table, self.entries + before, links);
                worker
            })
            .collect();
        let mut first = workers.remove(0);
        let before: Vec<Answer> = self.call_all(&table, &mut first, &self.before);
        let map = self
            .before
            .iter()
            .zip(&before)
            .fold(Map::new(), |map, (op, answer)| {
                apply(&map, op, answer).expect("alone")
            });
        let ids: HashMap<u32, EntryId> = table
            .slab()
            .confirmed()
            .map(|(id, entry)| (entry.masquerade_device(), id))
            .collect();
        if !self.epochs {
            table.begin(&mut first);
            workers.iter_mut().for_each(|worker| table.begin(worker));
        }
        let handles: Vec<_> = workers
            .into_iter()
            .enumerate()
            .map(|(i, mut worker)| {
                let (table, scenario, ids) = (Arc::clone(&table), self.clone(), ids.clone());
                loom::thread::spawn(move || {
                    let ops = &scenario.threads[i + 1];
                    let answers = scenario.call_with(&table, &mut worker, ops, &ids);
                    (answers, worker)
                })
            })
            .collect();
        let mut answers = vec![self.call_with(&table, &mut first, &self.threads[0], &ids)];
        let mut workers = vec![first];
        for handle in handles {
            let (answer, worker) = handle.join().unwrap();
            answers.push(answer);
            workers.push(worker);
        }
        if !self.epochs {
            workers.iter_mut().for_each(|worker| table.end(worker));
        }
        self.judge(&table, &mut workers, &map, &answers);
        *census.lock().unwrap().entry(answers).or_default() += 1;
    }

    /// Compares with the map, and looks at what is at rest.
    fn judge<G: Geometry>(
        &self,
        table: &LockfreeTable<KeyV4, G>,
        workers: &mut [LockfreeWorker],
        map: &Map,
        answers: &[Vec<Answer>],
    ) {
        let looks: Vec<Op> = (0..CANONS)
            .flat_map(|c| [Op::Look((c, 0)), Op::Look((c, 1))])
            .collect();
        let found = self.call_all(table, &mut workers[0], &looks);
        let after: History = looks.into_iter().zip(found).collect();
        let histories: Vec<History> = self
            .threads
            .iter()
            .zip(answers)
            .map(|(ops, answers)| ops.iter().cloned().zip(answers.iter().cloned()).collect())
            .collect();
        for (thread, op, answer) in &self.never {
            assert_ne!(&answers[*thread][*op], answer, "{}", self.name);
        }
        let full = answers
            .iter()
            .flatten()
            .any(|a| matches!(a, Answer::NoRoom | Answer::NoEntry));
        assert!(self.may_be_full || !full, "{}: {answers:?}", self.name);
        let mut at = vec![0; histories.len()];
        assert!(
            explained(map, &histories, &mut at, &after, &mut HashSet::new()),
            "{}: no order explains {histories:#?}\nthen {after:?}",
            self.name
        );
        table.assert_quiescent(&workers.iter().collect::<Vec<_>>(), &[]);
    }

    fn call_all<G: Geometry>(
        &self,
        table: &LockfreeTable<KeyV4, G>,
        worker: &mut LockfreeWorker,
        ops: &[Op],
    ) -> Vec<Answer> {
        self.call_with(table, worker, ops, &HashMap::new())
    }

    fn call_with<G: Geometry>(
        &self,
        table: &LockfreeTable<KeyV4, G>,
        worker: &mut LockfreeWorker,
        ops: &[Op],
        ids: &HashMap<u32, EntryId>,
    ) -> Vec<Answer> {
        ops.iter()
            .map(|op| {
                let answer = self.call(table, worker, op, ids);
                while let Some(id) = table.take_removed(worker) {
                    assert!(table.release(worker, id));
                }
                answer
            })
            .collect()
    }

    fn call<G: Geometry>(
        &self,
        table: &LockfreeTable<KeyV4, G>,
        worker: &mut LockfreeWorker,
        op: &Op,
        ids: &HashMap<u32, EntryId>,
    ) -> Answer {
        // Ids stand for connections by a number that no memory model reorders.
        let uid_of = |id: EntryId| table.slab().entry(id).masquerade_device();
        table.begin(worker);
        let answer = match op {
            Op::Connect {
                uid,
                original,
                reply,
                step,
                expires,
                random,
            } => {
                let Some(id) = table.allocate(worker) else {
                    table.end(worker);
                    return Answer::NoEntry;
                };
                let entry = table.slab().entry(id);
                entry.set_keys(key(self.heads, *original), key(self.heads, *reply));
                entry.set_deadline(if *expires { 0 } else { LONG });
                entry.set_masquerade_device(*uid);
                let mut policy = Always::new(match step {
                    ClashStep2::Drop => ClashStep::Drop,
                    ClashStep2::ReplyOnly => ClashStep::ReplyOnly,
                });
                match table.confirm(worker, id, NOW, *random, &mut policy) {
                    Confirmed::Inserted => Answer::Inserted,
                    Confirmed::ReplyOnly(_) => Answer::ReplyOnly,
                    Confirmed::Refused(Refusal::Clash(clash)) => {
                        Answer::Clash(uid_of(clash.winner))
                    }
                    Confirmed::Refused(_) => Answer::NoRoom,
                    Confirmed::Merged(_) => unreachable!("the policy never merges"),
                }
            }
            Op::Look(name) => {
                let hit = table.lookup(worker, &key(self.heads, *name), NOW);
                Answer::Found(hit.map(|hit| {
                    let uid = uid_of(hit.id);
                    let entry = table.slab().entry(hit.id);
                    assert_eq!(entry.key(hit.direction), key(self.heads, *name));
                    table.release(worker, hit.id);
                    uid
                }))
            }
            Op::Remove(name) => loop {
                let Some(hit) = table.lookup(worker, &key(self.heads, *name), NOW) else {
                    break Answer::Removed(None);
                };
                let uid = uid_of(hit.id);
                let removed = table.remove(worker, hit.id);
                if removed {
                    assert!(table.release(worker, hit.id));
                }
                table.release(worker, hit.id);
                if removed {
                    break Answer::Removed(Some(uid));
                }
            },
            Op::RemoveUid(uid) => {
                let removed = ids.get(uid).is_some_and(|id| table.remove(worker, *id));
                if removed {
                    assert!(table.release(worker, ids[uid]));
                }
                Answer::RemovedUid(removed)
            }
        };
        table.end(worker);
        answer
    }
}

use Answer::{Clash, Found, Inserted, Removed, RemovedUid};

fn found(uid: u32) -> Answer {
    Found(Some(uid))
}

const A: Name = (0, 0);
const B: Name = (1, 0);
const C: Name = (2, 0);
const D: Name = (3, 0);

/// Three slots, no overflow.
type Three = Narrow<3, 1, 0>;
type Two = Narrow<2, 1, 0>;
type One = Narrow<1, 1, 0>;

macro_rules! interleavings {
    ($($(#[$meta:meta])* $name:ident: $geometry:ty = $scenario:expr;)*) => {
        $(
            $(#[$meta])*
            #[test]
            fn $name() {
                let mut scenario: Scenario = $scenario;
                scenario.name = stringify!($name);
                scenario.check::<$geometry>();
            }
        )*
    };
}

fn two(heads: u32, before: Vec<Op>, a: Vec<Op>, b: Vec<Op>) -> Scenario {
    scenario("", heads, before, vec![a, b])
}

fn three(heads: u32, before: Vec<Op>, a: Vec<Op>, b: Vec<Op>, c: Vec<Op>) -> Scenario {
    scenario("", heads, before, vec![a, b, c])
}

interleavings! {
    equal_flows_one_gets_in: Two = two(1, vec![], vec![plain(1, 0)], vec![plain(2, 0)])
        .sees(0, 0, &[Inserted, Clash(2)]).sees(1, 0, &[Inserted, Clash(1)]);
    equal_flows_and_a_look: Two = two(1, vec![], vec![plain(1, 0)], vec![plain(2, 0), Op::Look((0, 1))])
        .sees(1, 1, &[found(1), found(2)]);
    equal_nated_flows_one_gets_in: Two = two(2, vec![], vec![nat(1, A, B)], vec![nat(2, A, B)])
        .sees(0, 0, &[Inserted, Clash(2)]);
    crossing_flows_one_gets_in: Two = two(2, vec![], vec![nat(1, A, B)], vec![nat(2, B, A)])
        .sees(0, 0, &[Inserted, Clash(2)]).sees(1, 0, &[Inserted, Clash(1)]);
    crossing_flows_in_one_chain: Three = two(1, vec![], vec![nat(1, A, B)], vec![nat(2, B, A)])
        .may_be_full();
    flows_with_one_key_in_common: Three = two(2, vec![], vec![nat(1, A, B)], vec![nat(2, C, B)])
        .sees(0, 0, &[Inserted, Clash(2)]);
    the_two_orientations_of_a_key_are_two: Three = two(1, vec![],
        vec![nat(1, A, C)], vec![nat(2, (0, 1), D)]).may_be_full();
    a_plain_flow_against_half_of_it: Three = two(2, vec![], vec![plain(1, 0)], vec![nat(2, (0, 1), B)])
        .sees(0, 0, &[Inserted, Clash(2)]);
    both_keys_appear_at_once: Two = two(2, vec![], vec![nat(1, A, B)], vec![look(1), look(0), look(1)])
        .sees(1, 0, &[found(1), Found(None)]).sees(1, 2, &[found(1), Found(None)]);
    a_failing_insert_is_never_seen: Two = two(2, vec![plain(9, 1)], vec![nat(1, A, B)], vec![look(0), look(1)])
        .never(1, 0, found(1));
    insert_against_remove: Two = two(2, vec![plain(9, 1)], vec![nat(1, A, B)], vec![remove(1)])
        .sees(0, 0, &[Inserted, Clash(9)]);
    remove_and_insert_against_looks: Two = two(2, vec![nat(9, A, B)],
        vec![remove(1)], vec![look(0), look(1), nat(1, B, A)])
        .sees(1, 2, &[Inserted, Clash(9)]);
    one_of_two_removals_is_the_one: Two = two(2, vec![nat(9, A, B)],
        vec![remove(0), plain(1, 0)], vec![remove(1), plain(2, 1)])
        .sees(0, 0, &[Removed(Some(9)), Removed(None)]);
    a_helper_meets_an_abort: Three = two(2, vec![plain(9, 1)], vec![nat(1, A, B)], vec![plain(2, 0)]);
    a_helper_meets_an_abort_and_a_removal: Three = two(2, vec![plain(9, 1)],
        vec![nat(1, A, B)], vec![remove(1), nat(2, A, D)]);
    a_word_under_an_old_header_proves_nothing: Three = two(2, vec![plain(9, 3)],
        vec![nat(1, A, B), plain(5, 5)], vec![remove(3), plain(2, 0)]).may_be_full();
    a_slot_is_used_again: Two = two(1, vec![plain(9, 0)], vec![plain(1, 1)], vec![remove(0), plain(2, 1)])
        .sees(0, 0, &[Inserted, Clash(2)]);
    the_only_slot_is_used_again: One = two(1, vec![plain(9, 0)],
        vec![remove(0), plain(1, 1)], vec![look(0), look(1)]);
    two_inserts_do_not_both_miss_each_other: One = two(2, vec![],
        vec![plain(1, 0), look(1)], vec![plain(2, 1), look(0)]);
    two_removals_do_not_both_miss_each_other: One = two(2, vec![plain(8, 0), plain(9, 1)],
        vec![remove(0), look(1)], vec![remove(1), look(0)]);
    an_expired_connection_is_replaced: Two = two(2, vec![expired(nat(9, A, B))],
        vec![plain(1, 0)], vec![look(0), look(1), look(0)]);
    two_replace_one_expired_connection: Two = two(2, vec![expired(nat(9, A, B))],
        vec![plain(1, 0)], vec![nat(2, B, A)]).sees(0, 0, &[Inserted, Clash(2)]);
    no_room_is_said: Two = two(1, vec![plain(8, 1)], vec![nat(1, A, C)], vec![plain(2, 0)]).may_be_full();

    // The second stage of a clash: the same entry, another attempt.
    two_losers_come_in_by_their_reply_keys: Three = two(2, vec![plain(9, 0)],
        vec![or_reply_only(nat(1, A, B))], vec![or_reply_only(nat(2, A, D))])
        .may_be_full().sees(0, 0, &[Answer::ReplyOnly]).sees(1, 0, &[Answer::ReplyOnly]);
    two_losers_want_one_reply_key: Three = two(2, vec![plain(9, 0)],
        vec![or_reply_only(nat(1, A, B))], vec![or_reply_only(nat(2, A, B))])
        .may_be_full().sees(0, 0, &[Answer::ReplyOnly, Clash(2)]);
    a_loser_and_the_removal_of_its_winner: Three = two(2, vec![plain(9, 0)],
        vec![or_reply_only(nat(1, A, B))], vec![remove(0), look(0), look(1)])
        .may_be_full().sees(0, 0, &[Inserted, Answer::ReplyOnly]);
    a_reply_only_entry_is_not_found_by_its_original_key: Three = two(2, vec![plain(9, 3)],
        vec![or_reply_only(nat(1, A, D)), look(0)], vec![plain(2, 0), look(0)]).may_be_full();
    a_late_helper_meets_the_next_attempt: Three = two(2, vec![plain(9, 1)],
        vec![or_reply_only(nat(1, B, C))], vec![plain(2, 2), look(1)]).may_be_full();

    // Reuse: pins for each call, and few entries.
    an_old_id_removes_nobody_else: Two = two(1, vec![plain(9, 0)],
        vec![remove(0), plain(1, 1)], vec![Op::RemoveUid(9)])
        .recycling(0).may_be_full().sees(0, 1, &[Inserted]).sees(1, 0, &[RemovedUid(true), RemovedUid(false)]);
    a_reader_meets_a_recycled_entry: Two = two(1, vec![plain(9, 0)],
        vec![remove(0), plain(1, 1)], vec![look(0), look(1)])
        .recycling(0).may_be_full().sees(0, 1, &[Inserted]);
    a_reader_meets_the_other_orientation: Three = two(1, vec![nat(9, A, C)],
        vec![remove(0), nat(1, (0, 1), (2, 1))], vec![look(0), Op::Look((0, 1))])
        .recycling(0).may_be_full().sees(0, 1, &[Inserted]);

    // Three threads.
    three_equal_flows: Three = three(1, vec![], vec![plain(1, 0)], vec![plain(2, 0)], vec![plain(3, 0)]);
    crossing_flows_and_a_reader: Three = three(2, vec![],
        vec![nat(1, A, B)], vec![nat(2, B, A)], vec![look(1), look(0)]);
    a_ring_of_flows: Three = three(3, vec![], vec![nat(1, A, B)], vec![nat(2, B, C)], vec![nat(3, C, A)]);
    a_late_helper: Three = three(2, vec![plain(9, 1)], vec![nat(1, A, B)], vec![plain(2, 0)], vec![remove(1)]);
    insert_remove_insert: Three = three(2, vec![], vec![nat(1, A, B)], vec![remove(1)], vec![nat(2, A, B)]);
    a_loser_its_winner_and_a_third: Three = three(2, vec![plain(9, 0)],
        vec![or_reply_only(nat(1, A, B))], vec![remove(0)], vec![plain(2, 1)]).may_be_full();

    // Overflow: 9 lives in the head bucket, 8 in the first overflow bucket.
    two_link_one_bucket: Narrow<1, 2, 1> = two(1, vec![plain(9, 0)], vec![plain(1, 1)], vec![plain(2, 2)]).overflow(2);
    two_link_two_buckets: Narrow<1, 1, 2> = two(1, vec![plain(9, 0)], vec![plain(1, 1)], vec![plain(2, 2)]).overflow(2);
    linking_against_unlinking: Narrow<1, 1, 3> = two(1, vec![plain(9, 0), plain(8, 1)],
        vec![remove(1)], vec![plain(2, 2)]).overflow(3);
    a_claim_in_a_bucket_that_goes: Narrow<1, 2, 1> = two(1, vec![plain(9, 0), plain(8, 1)],
        vec![remove(1)], vec![plain(2, 2)]).overflow(3);
    a_claim_in_a_bucket_that_comes_back: Narrow<1, 3, 1> = two(1, vec![plain(9, 0), plain(8, 1)],
        vec![plain(1, 2)], vec![remove(1), plain(2, 3)]).overflow(3);
    two_unlink: Narrow<1, 1, 2> = two(1, vec![plain(9, 0), plain(8, 1), plain(7, 2)],
        vec![remove(1)], vec![remove(2), look(0)]).overflow(3);
    a_look_into_a_bucket_that_goes: Narrow<1, 1, 1> = two(1, vec![plain(9, 0), plain(8, 1)],
        vec![remove(1)], vec![look(1), look(0)]).overflow(2)
        .sees(1, 0, &[found(8), Found(None)]).sees(1, 1, &[found(9)]);
    a_look_into_a_bucket_that_comes_back: Narrow<1, 2, 1> = two(1, vec![plain(9, 0), plain(8, 1)],
        vec![remove(1), plain(1, 2)], vec![look(2), look(1)]).overflow(3);
    a_bucket_that_is_not_needed_is_swept: Narrow<1, 1, 1> = two(1, vec![plain(9, 0)],
        vec![plain(1, 1)], vec![remove(0)]).overflow(2);
    an_abort_unlinks: Narrow<1, 2, 1> = two(2, vec![plain(9, 0), plain(8, 3)],
        vec![nat(1, C, D)], vec![plain(2, 4)]).overflow(3).sees(0, 0, &[Clash(8)]);
    unlinking_against_a_helper: Narrow<1, 2, 1> = two(2, vec![plain(9, 1), plain(8, 5)],
        vec![nat(1, A, D)], vec![remove(5), plain(2, 0)]).overflow(3);
    a_helper_uses_the_limit_of_the_owner: Narrow<1, 3, 2> = two(2,
        vec![plain(9, 1), plain(8, 3), plain(7, 5), plain(6, 7), plain(5, 9)],
        vec![nat(1, A, (11, 0))], vec![short(plain(2, 0))]).overflow(3)
        .sees(1, 0, &[Inserted, Clash(1)]).never(0, 0, Answer::NoRoom);
    a_bucket_goes_to_the_other_chain: Narrow<1, 1, 1> = two(2, vec![plain(9, 0), plain(8, 2), plain(7, 1)],
        vec![remove(2), plain(1, 3)], vec![look(2), look(3)]).overflow(1).recycling(1).may_be_full();
    linking_unlinking_and_a_reader: Narrow<1, 2, 1> = three(1, vec![plain(9, 0), plain(8, 1)],
        vec![remove(1)], vec![plain(2, 2)], vec![look(2), look(0)]).overflow(3);
}

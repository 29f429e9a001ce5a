//! Programs of a few calls by a few threads, and the judgement on what came of them: every
//! answer is compared with all sequential orders of the same calls on a map, and then what is
//! at rest is checked. For `interleavings` (loom) and
//! `programs` (shuttle). All keys have one tag, so that every comparison goes to the entry.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};

use super::super::canonical::{Oriented, Place};
use super::super::{Geometry, Layout, LockfreeTable, LockfreeWorker};
use super::Always;
use crate::addr::{Addr, Family};
use crate::sync::thread;
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
pub(super) const CANONS: u8 = 12;

/// A key of a scenario: canonical key `canon` (of chain `canon % heads`), as it is or inverted.
pub(super) type Name = (u8, u8);

/// The keys of one number of chains: each canonical key in the chain of its number, in the order of numbers,
/// all of one tag.
pub(super) fn keys_of(heads: u32) -> &'static [KeyV4] {
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
pub(super) enum Op {
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
pub(super) enum ClashStep2 {
    Drop,
    ReplyOnly,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Answer {
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
pub(super) fn nat(uid: u32, original: Name, reply: Name) -> Op {
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
pub(super) fn plain(uid: u32, canon: u8) -> Op {
    nat(uid, (canon, 0), (canon, 1))
}

pub(super) fn or_reply_only(mut op: Op) -> Op {
    if let Op::Connect { step, .. } = &mut op {
        *step = ClashStep2::ReplyOnly;
    }
    op
}

/// Has expired as soon as it is in.
pub(super) fn expired(mut op: Op) -> Op {
    if let Op::Connect { expires, .. } = &mut op {
        *expires = true;
    }
    op
}

/// With the smallest limit that may be drawn.
pub(super) fn short(mut op: Op) -> Op {
    if let Op::Connect { random, .. } = &mut op {
        *random = 0;
    }
    op
}

pub(super) fn look(canon: u8) -> Op {
    Op::Look((canon, 0))
}

pub(super) fn remove(canon: u8) -> Op {
    Op::Remove((canon, 0))
}

// ---------------------------------------------------------------- the map

pub(super) type Map = BTreeMap<Name, u32>;

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

pub(super) type History = Vec<(Op, Answer)>;

/// Is there an order of the threads' operations that gives these answers, and then those of `after`?
pub(super) fn explained(
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
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) heads: u32,
    pub(super) before: Vec<Op>,
    pub(super) threads: Vec<Vec<Op>>,
    /// Entries, and overflow buckets, that each thread has at hand.
    pub(super) entries: usize,
    pub(super) overflow: usize,
    /// Threads pin for each call, so that what goes is used again; else they stay pinned.
    pub(super) epochs: bool,
    /// Refusals for want of room are right.
    pub(super) may_be_full: bool,
    /// (thread, operation, answer) that some execution must give.
    pub(super) sees: Vec<(usize, usize, Answer)>,
    pub(super) never: Vec<(usize, usize, Answer)>,
}

pub(super) fn scenario(
    name: &'static str,
    heads: u32,
    before: Vec<Op>,
    threads: Vec<Vec<Op>>,
) -> Scenario {
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

/// What a scenario starts from.
pub(super) struct SetUp<G: Geometry> {
    pub(super) table: Arc<LockfreeTable<KeyV4, G>>,
    pub(super) workers: Vec<LockfreeWorker>,
    pub(super) map: Map,
    /// Of the connections that are there.
    pub(super) ids: HashMap<u32, EntryId>,
}

impl Scenario {
    pub(super) fn overflow(mut self, each: usize) -> Self {
        self.overflow = each;
        self
    }

    pub(super) fn recycling(mut self, entries: usize) -> Self {
        self.epochs = true;
        self.entries = entries;
        self
    }

    pub(super) fn may_be_full(mut self) -> Self {
        self.may_be_full = true;
        self
    }

    pub(super) fn sees(mut self, thread: usize, op: usize, answers: &[Answer]) -> Self {
        self.sees
            .extend(answers.iter().map(|a| (thread, op, a.clone())));
        self
    }

    pub(super) fn never(mut self, thread: usize, op: usize, answer: Answer) -> Self {
        self.never.push((thread, op, answer));
        self
    }

    /// The table, with what is there before the threads start, and a worker for each of
    /// `workers` threads; the first one has done what comes before.
    pub(super) fn set_up<G: Geometry>(&self, workers: usize) -> SetUp<G> {
        let layout = Layout {
            entries_max: (self.entries * workers + self.before.len()).max(1),
            slack: 0,
            heads: self.heads as usize,
            // One more than the first thread may need beforehand.
            overflow: self.overflow * (workers + 1),
        };
        let table = Arc::new(LockfreeTable::<KeyV4, G>::with_layout(layout, HASH, false));
        let mut workers: Vec<LockfreeWorker> = (0..workers)
            .map(|thread| {
                let mut worker = table.worker();
                let before = if thread == 0 { self.before.len() } else { 0 };
                let links = if thread == 0 { 2 } else { 1 } * self.overflow;
                worker.stock(&table, self.entries + before, links);
                worker
            })
            .collect();
        let before: Vec<Answer> = self.call_all(&table, &mut workers[0], &self.before);
        let map = self
            .before
            .iter()
            .zip(&before)
            .fold(Map::new(), |map, (op, answer)| {
                apply(&map, op, answer).expect("alone")
            });
        let ids = table
            .slab()
            .confirmed()
            .map(|(id, entry)| (entry.masquerade_device(), id))
            .collect();
        SetUp {
            table,
            workers,
            map,
            ids,
        }
    }

    /// One execution.
    pub(super) fn execute<G: Geometry>(&self, census: &Mutex<HashMap<Vec<Vec<Answer>>, u64>>) {
        let SetUp {
            table,
            mut workers,
            map,
            ids,
        } = self.set_up::<G>(self.threads.len());
        let mut first = workers.remove(0);
        if !self.epochs {
            table.begin(&mut first);
            workers.iter_mut().for_each(|worker| table.begin(worker));
        }
        let handles: Vec<_> = workers
            .into_iter()
            .enumerate()
            .map(|(i, mut worker)| {
                let (table, scenario, ids) = (Arc::clone(&table), self.clone(), ids.clone());
                thread::spawn(move || {
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
    pub(super) fn judge<G: Geometry>(
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

    pub(super) fn call_all<G: Geometry>(
        &self,
        table: &LockfreeTable<KeyV4, G>,
        worker: &mut LockfreeWorker,
        ops: &[Op],
    ) -> Vec<Answer> {
        self.call_with(table, worker, ops, &HashMap::new())
    }

    pub(super) fn call_with<G: Geometry>(
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
                let confirmed = table.confirm(worker, id, NOW, *random, &mut policy);
                if matches!(confirmed, Confirmed::Inserted | Confirmed::ReplyOnly(_)) {
                    table.release(worker, id);
                }
                match confirmed {
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

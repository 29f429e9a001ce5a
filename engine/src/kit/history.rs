//! Short programs of real threads on few keys, with all that they saw: the table must behave as if each step
//! happened at one moment.
//!
//! Each thread counts its steps where the others can read it, and notes before each call how far they were: so it is
//! known what had returned before, without a shared clock, which would put the threads in order and hide what is looked for.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use super::calls::{self, Always, Outcome, Uid, Witness};
use super::crew::{Meeting, Stop, crew};
use super::linearize::{Event, Map, Step, TUPLES, apply, describe, explain, tuple_of};
use super::name::Name;
use super::{Broken, Options, Removal, Violation, require};
use crate::random::WorkerRng;
use crate::table::hash::HashKey;
use crate::table::key::FlowKey;
use crate::table::slab::EntryId;
use crate::table::{ClashStep, FlowTable, TableConfig};
use crate::time::{Nanos, SECOND};

/// Calls of a thread in a history.
const CALLS: u32 = 8;
/// Entries: many more than live at once, as some wait to be used again.
const CAPACITY: usize = 4096;
const NOW: Nanos = SECOND;
const LONG: Nanos = 1 << 40;
/// Empty turns between two calls at most, so that threads meet in ever other places.
const PAUSE: u32 = 60;

/// [`Options::histories`] histories of [`Options::threads`] threads on one table; each must have an explanation.
///
/// # Errors
/// The first [`Violation`], with the history, or one that says that nothing was inserted at all.
pub fn linearizability<K: FlowKey, T: FlowTable<K>>(
    options: &Options,
    make: impl Fn(&TableConfig) -> T,
) -> Result<(), Violation> {
    record::<K, T>(options, &make)
        .map_err(|broken| broken.of::<K, T>("linearizability", options.seed))
}

/// What all threads share.
struct Shared<'t, T> {
    table: &'t T,
    seed: u64,
    removal: Removal,
    /// Steps that have returned, of each thread.
    returned: Vec<CachePadded<AtomicUsize>>,
    /// Where each thread puts what it recorded.
    recorded: Vec<Mutex<Vec<Event>>>,
    /// Where a history begins.
    first: Mutex<Map>,
}

fn record<K: FlowKey, T: FlowTable<K>>(
    options: &Options,
    make: &impl Fn(&TableConfig) -> T,
) -> Result<(), Broken> {
    let threads = options.threads.clamp(2, 4);
    let config = TableConfig {
        buckets: 2,
        ..TableConfig::new(CAPACITY, HashKey(7, 11))
    };
    let table = make(&config);
    let shared = Shared {
        table: &table,
        seed: options.seed,
        removal: options.removal,
        returned: (0..threads).map(|_| CachePadded::default()).collect(),
        recorded: (0..threads).map(|_| Mutex::default()).collect(),
        first: Mutex::default(),
    };
    let inserted = crew(threads, |thread, meeting| {
        let mut recorder = Recorder::<K, T> {
            shared: &shared,
            worker: table.worker(),
            thread,
            rng: WorkerRng::new(options.seed, thread),
            events: Vec::new(),
            ids: Vec::new(),
            next_uid: thread as Uid + 1,
            inserted: 0,
            kit: std::marker::PhantomData,
        };
        for history in 0..options.histories {
            recorder.history(history, meeting)?;
        }
        table.leave(&mut recorder.worker);
        Ok(recorder.inserted)
    })?;
    require!(
        options.histories == 0 || inserted.iter().sum::<u64>() > 0,
        "nothing was ever confirmed by both keys, so nothing was shown"
    );
    calls::all_free(&table)
}

/// A thread with its part of the history.
struct Recorder<'t, K: FlowKey, T: FlowTable<K>> {
    shared: &'t Shared<'t, T>,
    worker: T::Worker,
    thread: usize,
    rng: WorkerRng,
    events: Vec<Event>,
    /// Ids that this thread has met, of connections that may be gone.
    ids: Vec<(Uid, EntryId)>,
    next_uid: Uid,
    inserted: u64,
    kit: std::marker::PhantomData<K>,
}

fn locked<V>(mutex: &Mutex<V>) -> std::sync::MutexGuard<'_, V> {
    // A panic elsewhere ends the run; what is behind the lock is whole at any time.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl<K: FlowKey, T: FlowTable<K>> Recorder<'_, K, T> {
    fn history(&mut self, number: usize, meeting: &Meeting) -> Result<(), Stop> {
        if self.thread == 0 {
            self.begin()?;
        }
        meeting.wait()?;
        let calls = 2 + self.rng.below(CALLS - 1);
        let in_batch = self.rng.below(2) == 0;
        if in_batch {
            self.shared.table.begin(&mut self.worker);
        }
        for _ in 0..calls {
            for _ in 0..self.rng.below(PAUSE) {
                std::hint::spin_loop();
            }
            self.call()?;
        }
        if in_batch {
            self.shared.table.end(&mut self.worker);
        }
        self.hand_in();
        meeting.wait()?;
        if self.thread == 0 {
            self.judge(number)?;
        }
        meeting.wait()
    }

    /// Some connections that are there before the others begin.
    fn begin(&mut self) -> Result<(), Broken> {
        for _ in 0..self.rng.below(3) {
            self.connect()?;
        }
        let map = std::mem::take(&mut self.events)
            .iter()
            .try_fold(Map::default(), |map, event| apply(&map, event.step))
            .ok_or_else(|| Broken::new("one thread alone got a wrong answer".to_owned()))?;
        *locked(&self.shared.first) = map;
        for returned in &self.shared.returned {
            // Relaxed: the others see it after the meeting.
            returned.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    fn name(&mut self) -> Name {
        Name {
            inverse: self.rng.below(2) == 0,
            ..tuple_of(self.rng.below(u32::from(TUPLES)) as u16)
        }
    }

    fn call(&mut self) -> Result<(), Broken> {
        match self.rng.below(10) {
            0..4 => self.connect(),
            4..7 => self.look(),
            7 | 8 => self.remove(),
            _ => self.remove_by_id(),
        }
    }

    /// How far all threads are, by what is known here: before a call.
    fn seen(&self) -> Vec<usize> {
        let of_thread = |(thread, returned): (usize, &CachePadded<AtomicUsize>)| {
            if thread == self.thread {
                return self.events.len();
            }
            // Acquire: pairs with the release in `note`: what had returned there comes before what is called here.
            returned.load(Ordering::Acquire)
        };
        self.shared
            .returned
            .iter()
            .enumerate()
            .map(of_thread)
            .collect()
    }

    /// A call has returned with these steps.
    fn note(&mut self, after: &[usize], steps: impl IntoIterator<Item = Step>) {
        self.events.extend(steps.into_iter().map(|step| Event {
            step,
            after: after.to_vec(),
        }));
        // Release: see `seen`.
        self.shared.returned[self.thread].store(self.events.len(), Ordering::Release);
    }

    fn connect(&mut self) -> Result<(), Broken> {
        let original = self.name();
        let other = self.name();
        // Tables differ about a connection both of whose keys are one: there is none here.
        let reply = if self.rng.below(2) == 0 || other == original {
            original.answer()
        } else {
            other
        };
        let steps = [ClashStep::Merge, ClashStep::ReplyOnly, ClashStep::Drop];
        let step = steps[self.rng.below(3) as usize];
        let uid = self.next_uid;
        self.next_uid += self.shared.returned.len() as Uid;
        let random = self.rng.next_u32();
        let mut witness = Witness::new(Always(step));
        let after = self.seen();
        let (id, outcome) = calls::connect::<K, T, _>(
            self.shared.table,
            &mut self.worker,
            (uid, [original, reply]),
            (NOW, LONG),
            random,
            &mut witness,
        )?;
        let clashes = witness.met.iter().map(|(clash, winner)| {
            let name = [original, reply][clash.key.index()];
            Step::Clash(name, *winner)
        });
        let insert = match outcome {
            Outcome::Inserted => Some(Step::Insert(uid, [original, reply])),
            Outcome::ReplyOnly(_) => Some(Step::InsertReply(uid, reply)),
            Outcome::Merged(_) | Outcome::Refused(_) | Outcome::NoRoom => None,
        };
        self.note(&after, clashes.chain(insert));
        self.inserted += u64::from(outcome == Outcome::Inserted);
        if let (Some(_), Some(id)) = (insert, id) {
            self.ids.push((uid, id));
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), Broken> {
        let name = self.name();
        let in_batch = self.rng.below(2) == 0;
        let after = self.seen();
        let found = calls::look::<K, T>(self.shared.table, &mut self.worker, name, NOW, in_batch)?;
        self.note(&after, [Step::Look(name, found.map(|(_, uid)| uid))]);
        if let Some((hit, uid)) = found {
            self.ids.push((uid, hit.id));
            self.shared.table.release(&mut self.worker, hit.id);
        }
        Ok(())
    }

    /// What a lookup finds, while it is held.
    fn remove(&mut self) -> Result<(), Broken> {
        let name = self.name();
        let after = self.seen();
        let found = calls::look::<K, T>(self.shared.table, &mut self.worker, name, NOW, false)?;
        self.note(&after, [Step::Look(name, found.map(|(_, uid)| uid))]);
        if let Some((hit, uid)) = found {
            self.remove_connection(uid, hit.id);
            self.shared.table.release(&mut self.worker, hit.id);
        }
        Ok(())
    }

    /// By an id that may be of an earlier life of its entry.
    fn remove_by_id(&mut self) -> Result<(), Broken> {
        if self.ids.is_empty() {
            return self.look();
        }
        let (uid, id) = self.ids[self.rng.below(self.ids.len() as u32) as usize];
        self.remove_connection(uid, id);
        Ok(())
    }

    fn remove_connection(&mut self, uid: Uid, id: EntryId) {
        let after = self.seen();
        let removed = calls::remove::<K, T>(self.shared.table, &mut self.worker, id);
        match (removed, self.shared.removal) {
            (true, Removal::KeyByKey) => self.note(&after, [Step::Claim(uid), Step::Gone(uid)]),
            _ => self.note(&after, [Step::Remove(uid, removed)]),
        }
    }

    fn hand_in(&mut self) {
        // Of the last histories a few: old ids are worth a try, the newest most.
        let old = self.ids.len().saturating_sub(4);
        self.ids.drain(..old);
        *locked(&self.shared.recorded[self.thread]) = std::mem::take(&mut self.events);
    }

    /// At rest: looks at every key once more, asks for an explanation, and empties the table.
    fn judge(&mut self, number: usize) -> Result<(), Broken> {
        let recorded = self.shared.recorded.iter();
        let mut threads: Vec<Vec<Event>> = recorded
            .map(|events| std::mem::take(&mut *locked(events)))
            .collect();
        let ends: Vec<usize> = threads.iter().map(Vec::len).collect();
        for name in (0..TUPLES).flat_map(|number| {
            let name = tuple_of(number);
            [name, name.answer()]
        }) {
            let found = calls::look::<K, T>(self.shared.table, &mut self.worker, name, NOW, false)?;
            if let Some((hit, _)) = found {
                self.shared.table.release(&mut self.worker, hit.id);
            }
            threads[0].push(Event {
                step: Step::Look(name, found.map(|(_, uid)| uid)),
                after: ends.clone(),
            });
        }
        let first = *locked(&self.shared.first);
        if let Err(unexplained) = explain(first, &threads) {
            return Err(Broken {
                what: format!(
                    "history {number} of seed {}: no order of the calls explains the answers",
                    self.shared.seed
                ),
                history: describe(first, &threads, &unexplained),
            });
        }
        let ids: Vec<_> = self
            .shared
            .table
            .slab()
            .confirmed()
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            calls::remove::<K, T>(self.shared.table, &mut self.worker, id);
        }
        calls::drain(self.shared.table, &mut self.worker, |_| ())?;
        Ok(())
    }
}

//! One thread, random calls, a plain model beside them: the table must give the model's answers.
//!
//! A program that goes wrong is made shorter, call by call, as long as it still goes wrong.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};

use super::calls::{self, Outcome, Uid, Witness};
use super::crew::catch;
use super::model::{Connection, Model};
use super::name::Name;
use super::{Broken, Options, Violation, require};
use crate::clash::KernelClashPolicy;
use crate::random::WorkerRng;
use crate::status::Status;
use crate::table::hash::HashKey;
use crate::table::key::FlowKey;
use crate::table::slab::EntryId;
use crate::table::{FlowTable, Hit, TableConfig};
use crate::time::{Nanos, SECOND};
use crate::tuple::Direction;

const CALLS: usize = 120;
const NUMBERS: u32 = 5;
const TIMEOUT: Nanos = 2 * SECOND;
/// Room for all connections of a program, so that no answer depends on how a table counts its entries.
const CAPACITY: usize = 512;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Call {
    Connect([Name; 2]),
    Discard,
    Look(Name, Batch),
    /// What a lookup finds, and once more by its id.
    Remove(Name),
    /// By the id of the n-th connection made, if it is one of the past.
    RemovePast(usize),
    /// Time passes; what has expired is looked up.
    Wait(Nanos),
    EarlyDrop(Name),
    /// Begins a batch, or ends it.
    BeginOrEnd,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Batch {
    Alone,
    OfOne,
}

/// What is drawn: early drops only where answers need not be those of another table.
fn program(rng: &mut WorkerRng, with_early_drop: bool) -> Vec<Call> {
    let length = 1 + rng.below(CALLS as u32) as usize;
    let mut draw = || match rng.below(if with_early_drop { 23 } else { 22 }) {
        0..8 => Call::Connect(keys(rng)),
        8 => Call::Discard,
        9..12 => Call::Look(name(rng), Batch::Alone),
        12..14 => Call::Look(name(rng), Batch::OfOne),
        14..18 => Call::Remove(name(rng)),
        18 => Call::RemovePast(rng.below(CALLS as u32) as usize),
        19..21 => Call::Wait(1 + rng.next_u64() % (3 * SECOND / 2)),
        21 => Call::BeginOrEnd,
        _ => Call::EarlyDrop(name(rng)),
    };
    (0..length).map(|_| draw()).collect()
}

fn name(rng: &mut WorkerRng) -> Name {
    Name {
        tcp: rng.below(2) == 0,
        number: rng.below(NUMBERS) as u16,
        inverse: rng.below(3) == 0,
        zone: u16::from(rng.below(8) == 0),
    }
}

/// A connection's keys: half without NAT, half answered at another key of its protocol.
fn keys(rng: &mut WorkerRng) -> [Name; 2] {
    let original = name(rng);
    let other = Name {
        tcp: original.tcp,
        ..name(rng)
    };
    // Tables differ about a connection both of whose keys are one: there is none here.
    if rng.below(2) == 0 || other == original {
        return [original, original.answer()];
    }
    [original, other]
}

/// Random programs on fresh tables; see the [kit](super).
///
/// # Errors
/// The first [`Violation`], with the shortest program found that leads to it.
pub fn conformance<K: FlowKey, T: FlowTable<K>>(
    options: &Options,
    make: impl Fn(&TableConfig) -> T,
) -> Result<(), Violation> {
    for case in 0..options.cases {
        let mut rng = WorkerRng::new(options.seed, case);
        let program = program(&mut rng, true);
        let attempt = |program: &[Call]| catch(|| run::<K, T>(&make, case, program).map(|_| ()));
        if let Err(broken) = attempt(&program) {
            let (program, broken) = shorten(program, broken, attempt);
            let mut history = String::new();
            for call in &program {
                // Writing to a string does not fail.
                let _ = writeln!(history, "  {call:?}");
            }
            let what = format!("case {case}: {}", broken.what);
            return Err(Broken { what, history }.of::<K, T>("conformance", options.seed));
        }
    }
    Ok(())
}

/// One number that stands for all answers to the same programs without early drops: two tables that
/// differ in any answer, entry numbers aside, give two. For a comparison that wants to be sure before it measures.
///
/// # Errors
/// As [`conformance()`].
pub fn digest<K: FlowKey, T: FlowTable<K>>(
    options: &Options,
    make: impl Fn(&TableConfig) -> T,
) -> Result<u64, Violation> {
    // Not `RandomState`: the same number in every process.
    let mut hasher = DefaultHasher::new();
    for case in 0..options.cases {
        let program = program(&mut WorkerRng::new(!options.seed, case), false);
        let answers = catch(|| run::<K, T>(&make, case, &program))
            .map_err(|broken| broken.of::<K, T>("digest", options.seed))?;
        hasher.write(answers.as_bytes());
    }
    Ok(hasher.finish())
}

/// Leaves calls out as long as what remains still goes wrong.
fn shorten(
    mut program: Vec<Call>,
    mut broken: Broken,
    attempt: impl Fn(&[Call]) -> Result<(), Broken>,
) -> (Vec<Call>, Broken) {
    loop {
        let before = program.len();
        let mut at = 0;
        while at < program.len() {
            let mut shorter = program.clone();
            shorter.remove(at);
            match attempt(&shorter) {
                Err(still) => (program, broken) = (shorter, still),
                Ok(()) => at += 1,
            }
        }
        if program.len() == before {
            return (program, broken);
        }
    }
}

/// Runs a program; all answers as text.
fn run<K: FlowKey, T: FlowTable<K>>(
    make: &impl Fn(&TableConfig) -> T,
    case: usize,
    program: &[Call],
) -> Result<String, Broken> {
    // Few buckets where a table asks for them, so that chains are long.
    let config = TableConfig {
        buckets: [1, 3, 64][case % 3],
        ..TableConfig::new(CAPACITY, HashKey(7, 11))
    };
    let table = make(&config);
    let mut run = Run {
        worker: table.worker(),
        table: &table,
        model: Model::default(),
        now: SECOND,
        past: Vec::new(),
        in_batch: false,
        rng: WorkerRng::new(case as u64, 0),
        answers: String::new(),
        kit: std::marker::PhantomData::<K>,
    };
    for call in program {
        run.call(*call).map_err(|broken| Broken {
            what: format!("{call:?}: {}", broken.what),
            ..broken
        })?;
    }
    run.finish()?;
    Ok(run.answers)
}

struct Run<'t, K: FlowKey, T: FlowTable<K>> {
    table: &'t T,
    worker: T::Worker,
    model: Model,
    now: Nanos,
    /// Every connection that ever got an entry: uid and id.
    past: Vec<(Uid, EntryId)>,
    in_batch: bool,
    rng: WorkerRng,
    answers: String,
    kit: std::marker::PhantomData<K>,
}

impl<K: FlowKey, T: FlowTable<K>> Run<'_, K, T> {
    fn call(&mut self, call: Call) -> Result<(), Broken> {
        match call {
            Call::Connect(keys) => self.connect(keys)?,
            Call::Discard => {
                if let Some(id) = self.table.allocate(&mut self.worker) {
                    self.table.discard(&mut self.worker, id);
                }
            }
            Call::Look(name, batch) => self.look(name, batch)?,
            Call::Remove(name) => self.remove(name)?,
            Call::RemovePast(which) => self.remove_past(which)?,
            Call::Wait(time) => self.wait(time)?,
            Call::EarlyDrop(name) => self.early_drop(name)?,
            Call::BeginOrEnd => self.begin_or_end(),
        }
        self.expect_no_removal()?;
        let live = self.table.slab().confirmed();
        let live = live
            .filter(|(_, entry)| !entry.is_expired(self.now))
            .count();
        require!(
            live == self.model.len(),
            "{live} connections are confirmed, {} should be",
            self.model.len()
        );
        Ok(())
    }

    fn answer(&mut self, answer: &impl std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = write!(self.answers, "{answer:?};");
    }

    fn connect(&mut self, keys: [Name; 2]) -> Result<(), Broken> {
        let uid = self.past.len() as Uid + 1;
        let mut witness = Witness::new(KernelClashPolicy);
        let (id, outcome) = calls::connect::<K, T, _>(
            self.table,
            &mut self.worker,
            (uid, keys),
            (self.now, TIMEOUT),
            self.rng.next_u32(),
            &mut witness,
        )?;
        let id = id.ok_or_else(|| Broken::new("there is room, and no entry".to_owned()))?;
        self.past.push((uid, id));
        if outcome == Outcome::NoRoom {
            require!(
                T::GUARANTEES.bounded_chain,
                "there is room, and the connection was refused for want of it"
            );
            return Ok(());
        }
        let expected = self.model.confirm(uid, keys, self.now, TIMEOUT);
        require!(
            outcome == expected,
            "connection {uid} became {outcome:?}, and {expected:?} is right"
        );
        if !matches!(outcome, Outcome::Inserted | Outcome::ReplyOnly(_)) {
            require!(
                !self.table.slab().is_current(id),
                "the loser was not given back"
            );
        }
        self.answer(&outcome);
        Ok(())
    }

    fn look(&mut self, name: Name, batch: Batch) -> Result<(), Broken> {
        let in_batch = batch == Batch::OfOne;
        let found = calls::look::<K, T>(self.table, &mut self.worker, name, self.now, in_batch)?;
        let seen = found.map(|(hit, uid)| {
            let entry = self.table.slab().entry(hit.id);
            let expected = self.model.find(name).map(|(connection, _)| connection);
            let keys = [Direction::Original, Direction::Reply].map(|d| entry.key(d));
            let connection = Connection {
                uid,
                // Compared as the table's keys; a difference has the model's names beside it.
                keys: expected.map_or([name; 2], |c| c.keys),
                deadline: entry.deadline(),
                reply_only: entry.status().contains(Status::NAT_CLASH),
            };
            let same_keys = expected.is_none_or(|c| keys == c.keys.map(Name::key::<K>));
            (connection, hit.direction, same_keys)
        });
        let expected = self
            .model
            .find(name)
            .map(|(connection, direction)| (connection, direction, true));
        require!(
            seen == expected,
            "a lookup found {seen:?}, and {expected:?} is right"
        );
        self.look_at_status(name, found.map(|(hit, _)| hit), in_batch)?;
        if let Some((hit, _)) = found {
            require!(
                !self.table.release(&mut self.worker, hit.id),
                "giving a hit back freed a connection that is in the table"
            );
        }
        self.answer(&seen.map(|(connection, direction, _)| (connection.uid, direction)));
        Ok(())
    }

    /// The other way to ask: it must find the same, and hold nothing.
    fn look_at_status(
        &mut self,
        name: Name,
        found: Option<Hit>,
        in_batch: bool,
    ) -> Result<(), Broken> {
        let key = name.key();
        let status = if in_batch {
            let mut statuses = [None];
            self.table
                .status_batch(&mut self.worker, &[key], self.now, &mut statuses);
            statuses[0]
        } else {
            self.table.status(&mut self.worker, &key, self.now)
        };
        let expected = found.map(|hit| self.table.slab().entry(hit.id).status());
        require!(
            status == expected,
            "the status of {name:?} was given as {status:?}, and {expected:?} is right"
        );
        Ok(())
    }

    fn remove(&mut self, name: Name) -> Result<(), Broken> {
        let found = calls::look::<K, T>(self.table, &mut self.worker, name, self.now, false)?;
        let Some((hit, uid)) = found else {
            require!(
                self.model.find(name).is_none(),
                "nothing was found to remove"
            );
            return Ok(());
        };
        let removed = self.table.remove(&mut self.worker, hit.id);
        require!(removed, "connection {uid} was found and not removed");
        require!(
            !self.table.remove(&mut self.worker, hit.id),
            "connection {uid} was removed twice"
        );
        // Once for the hit and once for the removal, in whichever order the table counts them.
        let freed = [(); 2].map(|()| self.table.release(&mut self.worker, hit.id));
        require!(
            freed[0] != freed[1],
            "a hit and a removal were given back, and that freed {freed:?}"
        );
        require!(
            !self.table.slab().is_current(hit.id),
            "connection {uid} was freed and lives on"
        );
        require!(
            self.model.remove(uid),
            "connection {uid} was removed, which had gone before"
        );
        Ok(())
    }

    fn remove_past(&mut self, which: usize) -> Result<(), Broken> {
        let Some(&(uid, id)) = self.past.get(which) else {
            return Ok(());
        };
        let lives = self.table.slab().is_current(id);
        if lives && self.table.slab().entry(id).is_expired(self.now) {
            // A table may leave what has expired to others: nothing is promised about it.
            return Ok(());
        }
        let removed = calls::remove::<K, T>(self.table, &mut self.worker, id);
        let expected = self.model.remove(uid);
        require!(
            removed == expected,
            "removing connection {uid} by its id gave {removed}, its entry was current: {lives}"
        );
        self.answer(&removed);
        Ok(())
    }

    fn wait(&mut self, time: Nanos) -> Result<(), Broken> {
        self.now += time;
        for name in self.model.names() {
            let live = self.model.find(name);
            // Whichever is asked first meets what has expired.
            if name.number.is_multiple_of(2) {
                let status = self.table.status(&mut self.worker, &name.key(), self.now);
                require!(
                    status.is_none() || live.is_some_and(|(c, _)| c.deadline > self.now),
                    "the status {status:?} of {name:?} was given when its time was up"
                );
            }
            let found = calls::look::<K, T>(self.table, &mut self.worker, name, self.now, false)?;
            if let Some((hit, uid)) = found {
                self.table.release(&mut self.worker, hit.id);
                require!(
                    live.is_some_and(|(c, _)| c.uid == uid && c.deadline > self.now),
                    "connection {uid} was found when its time was up"
                );
            }
        }
        let now = self.now;
        let mut early = None;
        calls::drain(self.table, &mut self.worker, |entry| {
            if !entry.is_expired(now) {
                early = Some(entry.masquerade_device());
            }
        })?;
        require!(
            early.is_none(),
            "connection {early:?} was removed before its time"
        );
        self.model.expire(self.now);
        Ok(())
    }

    /// A table may look for room where it likes; what it removes must be what it was allowed to.
    fn early_drop(&mut self, name: Name) -> Result<(), Broken> {
        let allowed = |uid: Uid| uid.is_multiple_of(3);
        let drop = self
            .table
            .early_drop(&mut self.worker, &name.key(), self.now, &|entry| {
                allowed(entry.masquerade_device())
            });
        let mut evicted = Vec::new();
        let now = self.now;
        calls::drain(self.table, &mut self.worker, |entry| {
            if !entry.is_expired(now) {
                evicted.push(entry.masquerade_device());
            }
        })?;
        require!(
            evicted.len() == drop.evicted as usize,
            "it says that it evicted {}, and evicted {evicted:?}",
            drop.evicted
        );
        for uid in evicted {
            require!(
                allowed(uid),
                "connection {uid} was evicted against the rule"
            );
            require!(
                self.model.remove(uid),
                "connection {uid} was evicted, which had gone before"
            );
        }
        Ok(())
    }

    fn begin_or_end(&mut self) {
        if self.in_batch {
            self.table.end(&mut self.worker);
        } else {
            self.table.begin(&mut self.worker);
        }
        self.in_batch = !self.in_batch;
    }

    /// What a call removed by itself must have expired.
    fn expect_no_removal(&mut self) -> Result<(), Broken> {
        let now = self.now;
        let mut early = None;
        calls::drain(self.table, &mut self.worker, |entry| {
            if !entry.is_expired(now) {
                early = Some(entry.masquerade_device());
            }
        })?;
        require!(
            early.is_none(),
            "connection {early:?} was removed, and nobody asked for it"
        );
        Ok(())
    }

    /// All lookups once more; then everything goes, and must come back.
    fn finish(&mut self) -> Result<(), Broken> {
        if self.in_batch {
            self.begin_or_end();
        }
        for name in self.model.names() {
            self.look(name, Batch::OfOne)?;
        }
        let ids: Vec<_> = self.table.slab().confirmed().map(|(id, _)| id).collect();
        for id in ids {
            require!(
                calls::remove::<K, T>(self.table, &mut self.worker, id),
                "{id:?} is confirmed and cannot be removed"
            );
        }
        self.expect_no_removal()?;
        self.table.leave(&mut self.worker);
        calls::all_free(self.table)
    }
}

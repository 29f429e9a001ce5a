//! Real threads that race for the same flows: what becomes of them must add up, and all entries must come back.

use std::collections::HashMap;

use super::calls::{self, Outcome, Uid};
use super::crew::{Meeting, Stop, crew};
use super::name::Name;
use super::{Broken, Options, Violation, require};
use crate::clash::KernelClashPolicy;
use crate::status::Status;
use crate::table::hash::HashKey;
use crate::table::key::FlowKey;
use crate::table::{FlowTable, TableConfig};
use crate::time::{Nanos, SECOND};
use crate::tuple::Direction;

const FLOWS: u16 = 500;
const NOW: Nanos = SECOND;
const TIMEOUT: Nanos = 30 * SECOND;

/// What became of what a thread offered.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    offered: u64,
    confirmed: u64,
    resolved_same: u64,
    resolved_reply_only: u64,
    dropped: u64,
    removed: u64,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.offered += other.offered;
        self.confirmed += other.confirmed;
        self.resolved_same += other.resolved_same;
        self.resolved_reply_only += other.resolved_reply_only;
        self.dropped += other.dropped;
        self.removed += other.removed;
    }
}

/// Several threads offer the same flows in the same order, some without NAT, some each with a reply tuple of its own;
/// one barrier a round, so that they collide by speed alone. At rest after each round every confirmed connection is looked
/// up by its keys; then all threads try to remove each, and every entry must be free.
///
/// # Errors
/// The first [`Violation`] found.
pub fn accounting<K: FlowKey, T: FlowTable<K>>(
    options: &Options,
    make: impl Fn(&TableConfig) -> T,
) -> Result<(), Violation> {
    for threads in 2..=options.threads.clamp(2, 4) {
        race::<K, T>(threads, options.rounds, &make).map_err(|broken| {
            let what = format!("{threads} threads: {}", broken.what);
            Broken { what, ..broken }.of::<K, T>("accounting", options.seed)
        })?;
    }
    Ok(())
}

fn race<K: FlowKey, T: FlowTable<K>>(
    threads: usize,
    rounds: usize,
    make: &impl Fn(&TableConfig) -> T,
) -> Result<(), Broken> {
    // A loser of each flow a thread, and what workers keep at hand.
    let capacity = threads * (usize::from(FLOWS) + 256);
    let config = TableConfig {
        buckets: 256,
        ..TableConfig::new(capacity, HashKey(7, 11))
    };
    let table = make(&config);
    let tallies = crew(threads, |thread, meeting| {
        let mut racer = Racer {
            table: &table,
            worker: table.worker(),
            thread,
            tally: Tally::default(),
            kit: std::marker::PhantomData::<K>,
        };
        for round in 0..rounds {
            racer.round(round as u16, meeting)?;
        }
        table.leave(&mut racer.worker);
        Ok(racer.tally)
    })?;
    let mut sum = Tally::default();
    tallies.iter().for_each(|tally| sum.add(tally));
    require!(
        sum.offered == sum.confirmed + sum.resolved_same + sum.resolved_reply_only + sum.dropped,
        "what was offered does not add up: {sum:?}"
    );
    require!(
        sum.confirmed == rounds as u64 * u64::from(FLOWS),
        "of {rounds} rounds of {FLOWS} flows each flow is confirmed by both keys once: {sum:?}"
    );
    require!(
        sum.removed == sum.confirmed + sum.resolved_reply_only,
        "what was put in and what was taken out differ: {sum:?}"
    );
    Ok(())
}

struct Racer<'t, K: FlowKey, T: FlowTable<K>> {
    table: &'t T,
    worker: T::Worker,
    thread: usize,
    tally: Tally,
    kit: std::marker::PhantomData<K>,
}

impl<K: FlowKey, T: FlowTable<K>> Racer<'_, K, T> {
    fn round(&mut self, round: u16, meeting: &Meeting) -> Result<(), Stop> {
        meeting.wait()?;
        for number in 0..FLOWS {
            if number.is_multiple_of(32) {
                self.table.begin(&mut self.worker);
            }
            self.offer(round, number)?;
            if number % 32 == 31 || number == FLOWS - 1 {
                self.table.end(&mut self.worker);
            }
        }
        meeting.wait()?;
        if self.thread == 0 {
            self.check_at_rest()?;
        }
        meeting.wait()?;
        let ids: Vec<_> = self.table.slab().confirmed().map(|(id, _)| id).collect();
        for id in ids {
            self.tally.removed +=
                u64::from(calls::remove::<K, T>(self.table, &mut self.worker, id));
        }
        meeting.wait()?;
        if self.thread == 0 {
            calls::all_free(self.table)?;
        }
        Ok(())
    }

    fn offer(&mut self, round: u16, number: u16) -> Result<(), Broken> {
        let original = Name {
            tcp: number.is_multiple_of(4),
            ..Name::udp(number)
        };
        // Even flows have one reply tuple, odd ones a tuple for each thread, as random source NAT draws.
        let side = if number.is_multiple_of(2) {
            0
        } else {
            self.thread
        };
        let reply = Name {
            number: (number ^ (round & 0x3ff)) + 1024 * (1 + side as u16),
            ..original.answer()
        };
        let found = calls::look::<K, T>(
            self.table,
            &mut self.worker,
            original,
            NOW,
            number.is_multiple_of(3),
        )?;
        if let Some((hit, _)) = found {
            self.table.release(&mut self.worker, hit.id);
            return Ok(());
        }
        self.tally.offered += 1;
        let uid = self.tally.offered as Uid * 4 + self.thread as Uid;
        let outcome = calls::connect_patiently::<K, T, _>(
            self.table,
            &mut self.worker,
            (uid, [original, reply]),
            (NOW, TIMEOUT),
            KernelClashPolicy,
        )?;
        match outcome {
            Outcome::Inserted => self.tally.confirmed += 1,
            Outcome::Merged(_) => self.tally.resolved_same += 1,
            Outcome::ReplyOnly(_) => self.tally.resolved_reply_only += 1,
            Outcome::Refused(_) | Outcome::NoRoom => self.tally.dropped += 1,
        }
        Ok(())
    }

    /// No two confirmed connections own one key, and each is found by its keys; a reply-only one by its reply key.
    fn check_at_rest(&mut self) -> Result<(), Broken> {
        let mut owners = HashMap::new();
        for (id, entry) in self.table.slab().confirmed() {
            let uid = entry.masquerade_device();
            let reply_only = entry.status().contains(Status::NAT_CLASH);
            for direction in [Direction::Original, Direction::Reply] {
                if reply_only && direction == Direction::Original {
                    continue;
                }
                let owned = entry.key(direction);
                if let Some(other) = owners.insert(owned, uid) {
                    return Err(Broken::new(format!(
                        "{owned:?} has two owners, connections {other} and {uid}"
                    )));
                }
                let hit = self.table.lookup(&mut self.worker, &owned, NOW);
                require!(
                    hit.is_some_and(|hit| hit.id == id && hit.direction == direction),
                    "connection {uid} is confirmed, and a lookup of its {direction:?} key gives {hit:?}"
                );
                self.table.release(&mut self.worker, id);
            }
        }
        Ok(())
    }
}

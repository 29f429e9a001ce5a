//! Threads that connect and remove, and one that looks.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::calls::{self, Outcome, Uid};
use super::crew::{Meeting, Stop, crew};
use super::name::Name;
use super::{Broken, Options, Violation, require};
use crate::clash::KernelClashPolicy;
use crate::table::hash::HashKey;
use crate::table::key::FlowKey;
use crate::table::slab::Life;
use crate::table::{FlowTable, TableConfig};
use crate::time::{Nanos, SECOND};

/// Connections that stay.
const STAY: u16 = 20;
/// Connections that each of two threads makes and removes, over and over.
const COME_AND_GO: u16 = 12;
const NOW: Nanos = SECOND;
const LONG: Nanos = 1 << 40;
/// Few, so that entries go from chain to chain and what stays is at the far end of each.
const BUCKETS: usize = 4;

/// Two threads connect and remove, a third one looks: what stays is always found; if the table
/// promises it, nobody finds one key of a connection that lives without the other.
///
/// # Errors
/// The first [`Violation`] found.
pub fn readers<K: FlowKey, T: FlowTable<K>>(
    options: &Options,
    make: impl Fn(&TableConfig) -> T,
) -> Result<(), Violation> {
    let rounds = options.rounds * 100 / usize::from(COME_AND_GO);
    watch::<K, T>(rounds, &make).map_err(|broken| broken.of::<K, T>("readers", options.seed))
}

fn keys(number: u16) -> [Name; 2] {
    let original = Name::udp(number);
    [original, original.answer()]
}

fn watch<K: FlowKey, T: FlowTable<K>>(
    rounds: usize,
    make: &impl Fn(&TableConfig) -> T,
) -> Result<(), Broken> {
    let config = TableConfig {
        buckets: BUCKETS,
        ..TableConfig::new(2048, HashKey(7, 11))
    };
    let table = make(&config);
    let mut worker = table.worker();
    for number in 0..STAY {
        connect::<K, T>(&table, &mut worker, number)?;
    }
    let writers = AtomicUsize::new(2);
    crew(3, |thread, meeting| {
        meeting.wait()?;
        if thread == 0 {
            return look_on::<K, T>(&table, &writers, meeting);
        }
        let first = STAY + COME_AND_GO * (thread as u16 - 1);
        let done = come_and_go::<K, T>(&table, first, rounds, meeting);
        // Relaxed: a flag that stands for itself.
        writers.fetch_sub(1, Ordering::Relaxed);
        done
    })?;
    let ids: Vec<_> = table.slab().confirmed().map(|(id, _)| id).collect();
    require!(
        ids.len() == usize::from(STAY),
        "{STAY} connections should be left, and {} are",
        ids.len()
    );
    for id in ids {
        calls::remove::<K, T>(&table, &mut worker, id);
    }
    table.leave(&mut worker);
    calls::all_free(&table)
}

fn connect<K: FlowKey, T: FlowTable<K>>(
    table: &T,
    worker: &mut T::Worker,
    number: u16,
) -> Result<(), Broken> {
    let outcome = calls::connect_patiently::<K, T, _>(
        table,
        worker,
        (Uid::from(number) + 1, keys(number)),
        (NOW, LONG),
        KernelClashPolicy,
    )?;
    require!(
        outcome == Outcome::Inserted,
        "nobody else has the keys of connection {number}, and it became {outcome:?}"
    );
    Ok(())
}

fn come_and_go<K: FlowKey, T: FlowTable<K>>(
    table: &T,
    first: u16,
    rounds: usize,
    meeting: &Meeting,
) -> Result<(), Stop> {
    let mut worker = table.worker();
    let numbers = first..first + COME_AND_GO;
    for _ in 0..rounds {
        if meeting.has_failed() {
            return Err(Stop::Other);
        }
        for number in numbers.clone() {
            connect::<K, T>(table, &mut worker, number)?;
        }
        for number in numbers.clone() {
            let found = calls::look::<K, T>(table, &mut worker, keys(number)[1], NOW, false)?;
            let Some((hit, _)) = found else {
                return Err(Broken::new(format!(
                    "the thread that confirmed connection {number} does not find it"
                ))
                .into());
            };
            let removed = calls::remove::<K, T>(table, &mut worker, hit.id);
            table.release(&mut worker, hit.id);
            require!(removed, "connection {number} was removed by somebody else");
        }
    }
    table.leave(&mut worker);
    Ok(())
}

fn look_on<K: FlowKey, T: FlowTable<K>>(
    table: &T,
    writers: &AtomicUsize,
    meeting: &Meeting,
) -> Result<(), Stop> {
    let mut worker = table.worker();
    // Relaxed: a flag that stands for itself. Ends: the writers' rounds are bounded.
    while writers.load(Ordering::Relaxed) > 0 && !meeting.has_failed() {
        table.begin(&mut worker);
        for number in 0..STAY {
            for name in keys(number) {
                let found =
                    calls::look::<K, T>(table, &mut worker, name, NOW, number.is_multiple_of(2))?;
                let Some((hit, _)) = found else {
                    return Err(Broken::new(format!("{name:?} stays, and was not found")).into());
                };
                table.release(&mut worker, hit.id);
            }
        }
        table.end(&mut worker);
        if T::GUARANTEES.atomic_two_key {
            for number in (STAY..STAY + 2).chain(STAY + COME_AND_GO..STAY + COME_AND_GO + 2) {
                look_for_torn::<K, T>(table, &mut worker, number)?;
            }
        }
    }
    table.leave(&mut worker);
    Ok(())
}

/// Finds a connection by one key and looks for it by the other: not found, although it was confirmed before and
/// still is, is a torn insert.
fn look_for_torn<K: FlowKey, T: FlowTable<K>>(
    table: &T,
    worker: &mut T::Worker,
    number: u16,
) -> Result<(), Broken> {
    let [original, reply] = keys(number);
    for (first, second) in [(original, reply), (reply, original)] {
        let Some((hit, _)) = calls::look::<K, T>(table, worker, first, NOW, false)? else {
            continue;
        };
        let entry = table.slab().entry(hit.id);
        require!(
            entry.state().life != Life::Pending,
            "{first:?} was found before its connection was confirmed"
        );
        let other = calls::look::<K, T>(table, worker, second, NOW, false)?;
        let still = entry.state().life == Life::Confirmed;
        require!(
            !still || other.is_some_and(|(other, _)| other.id == hit.id),
            "{first:?} was found, and {second:?} of the same connection was not: {other:?}"
        );
        if let Some((other, _)) = other {
            table.release(worker, other.id);
        }
        table.release(worker, hit.id);
    }
    Ok(())
}

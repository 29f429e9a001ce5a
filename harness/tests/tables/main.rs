//! What every table must do, whatever it is made of: the same body runs on all of them.
//!
//! [`kit`](mod@kit): the engine's public checks; [`expiry`]: what a lookup does with what has expired;
//! [`reference`](mod@reference): `striped` against `mutex`.

use clashtrack::peer::dashmap::{DashMapAhashTable, DashMapTable};
use clashtrack::peer::papaya::PapayaTable;
use clashtrack::peer::scc::SccTable;
use clashtrack::peer::striped::StripedTable;
use clashtrack_engine::addr::Addr;
use clashtrack_engine::addr::Family;
use clashtrack_engine::clash::KernelClashPolicy;
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::status::Status;
use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::lockfree::LockfreeTable;
use clashtrack_engine::table::mutex::MutexTable;
use clashtrack_engine::table::slab::{EntryId, Life};
use clashtrack_engine::table::{Clash, Confirmed, FlowTable, Refusal, TableConfig};
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::{Direction, Protocol, Tuple};

/// One body, all tables.
macro_rules! for_each_table {
    ($body:ident: $($name:ident = $table:ident),* $(,)?) => {
        mod $body {
            use super::*;
            $(#[test] fn $name() { super::$body::<$table<KeyV4>>(); })*
        }
    };
}

mod expiry;
mod kit;
mod reference;

fn protocol(udp: bool) -> Protocol {
    if udp { Protocol::UDP } else { Protocol::TCP }
}

fn key(protocol: Protocol, side: u32, number: u16) -> KeyV4 {
    let tuple = Tuple {
        src: Addr::from_u32(0x0a00_0000 | side),
        dst: Addr::from_u32(0xc000_0201),
        src_key: number,
        dst_key: 53,
        family: Family::Ipv4,
        protocol,
    };
    KeyV4::pack(&tuple, 0)
}

fn config(capacity: usize, buckets: usize) -> TableConfig {
    TableConfig {
        buckets,
        ..TableConfig::new(capacity, HashKey(7, 11))
    }
}

/// Allocates an entry with these keys; nothing is confirmed.
fn unconfirmed<T: FlowTable<KeyV4>>(
    table: &T,
    worker: &mut T::Worker,
    original: KeyV4,
    reply: KeyV4,
    timeout: Nanos,
) -> Option<EntryId> {
    let id = table.allocate(worker)?;
    let entry = table.slab().entry(id);
    entry.set_keys(original, reply);
    entry.set_deadline(timeout);
    Some(id)
}

/// Confirms an entry and lets go of it: what is in the table is held by the table alone. A winner is still held.
fn confirm<T: FlowTable<KeyV4>>(
    table: &T,
    worker: &mut T::Worker,
    id: EntryId,
    now: Nanos,
    random: u32,
) -> Confirmed {
    let outcome = table.confirm(worker, id, now, random, &mut KernelClashPolicy);
    if let Confirmed::Inserted | Confirmed::ReplyOnly(_) = outcome {
        table.release(worker, id);
    }
    outcome
}

fn drain<T: FlowTable<KeyV4>>(table: &T, worker: &mut T::Worker) -> usize {
    let mut removed = 0;
    while let Some(id) = table.take_removed(worker) {
        assert!(table.release(worker, id), "nobody else holds it");
        removed += 1;
    }
    removed
}

fn free_places<T: FlowTable<KeyV4>>(table: &T) -> usize {
    (0..table.slab().capacity() as u32)
        .filter(|&index| table.slab().at(index).state().life == Life::Free)
        .count()
}

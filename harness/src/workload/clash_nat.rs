//! `clash-nat`: UDP behind `SNAT --random-fully` to one address. Each worker draws a source port of its
//! own for the flow: the original key clashes, the reply keys differ, so the loser lives on by its reply key alone.

use clashtrack_engine::addr::Addr;
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::stats::ConntrackCounters;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::{Direction, Protocol, Tuple};

use super::case::{Kind, Workload};
use super::clash::{ClashWorkload, Translation};

/// What sets it apart.
pub const CLASH_NAT: ClashWorkload = ClashWorkload {
    name: "clash-nat",
    protocol: Protocol::UDP,
    timeout: 30 * SECOND,
    translation: Translation::Random,
};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: CLASH_NAT.name,
    question: "The same behind random SNAT: how many losers live on by their reply key alone?",
    kind: Kind::Clash(CLASH_NAT),
};

/// 203.0.113.1, of the documentation networks (RFC 5737).
const TRANSLATED: Addr = Addr::from_u32(0xcb00_7101);
/// Ports of the class that clients' ports are in.
const FIRST_PORT: u16 = 1024;
const PORTS: u32 = 65_536 - FIRST_PORT as u32;
/// Ports tried one after the other before the last one is taken as it is (`max_attempts` of the kernel's search).
const ATTEMPTS: u32 = 128;

/// Chooses the reply tuple of a flow as the kernel's port search does in its first round: from a random port
/// on, the first whose reply tuple nobody else owns; `found` counts those that somebody does. Nothing is
/// reserved: another worker may choose the same until one of them confirms.
pub(super) fn choose_reply<T: FlowTable<KeyV4>>(
    table: &T,
    worker: &mut T::Worker,
    rng: &mut WorkerRng,
    counters: &ConntrackCounters,
    original: &Tuple,
    now: Nanos,
) -> KeyV4 {
    let offset = rng.below(PORTS);
    let mut attempt = 0;
    loop {
        let port = FIRST_PORT + ((offset + attempt) % PORTS) as u16;
        let reply = KeyV4::pack(
            &Tuple {
                src: original.dst,
                dst: TRANSLATED,
                src_key: original.dst_key,
                dst_key: port,
                ..*original
            },
            0,
        );
        let Some(hit) = table.lookup(worker, &reply, now) else {
            return reply;
        };
        // The same flow, confirmed by another worker: confirm will see to it.
        let same_flow = table.slab().entry(hit.id).key(Direction::Original).tuple() == *original;
        table.release(worker, hit.id);
        if same_flow {
            return reply;
        }
        counters.found.increment();
        attempt += 1;
        if attempt == ATTEMPTS {
            return reply;
        }
    }
}

//! The lock-free table alone, one thread: the price of its operations before any contention.
//!
//! Dimensions: none here; 4096 connections, which fit the second cache, so that the figures are those of the
//! code and not of memory. (The bench of this room asks all tables, at two sizes, as well.) We would change the code if
//! a batch did not make a lookup cheaper, or if one of two merged flows cost more than a confirm.

use std::hint::black_box;

use clashtrack_engine::addr::{Addr, Family};
use clashtrack_engine::clash::KernelClashPolicy;
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::status::Status;
use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::lockfree::{Isa, LockfreeTable};
use clashtrack_engine::table::slab::EntryId;
use clashtrack_engine::table::{Confirmed, FlowTable, TableConfig};
use clashtrack_engine::tuple::{Protocol, Tuple};

use crate::operation::{Operation, Pass, next_operation};
use crate::{Filled, NOW, TIMEOUT, keys};

/// Connections in the table.
const CONNECTIONS: u32 = 1 << 12;
/// Keys looked up together.
const LOOKUPS: usize = 64;
/// Connections confirmed together.
const CONNECTS: usize = 32;

/// The operations of this room.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        question: "does_a_batch_make_a_lookup_cheaper",
        variant: "hit_of_64",
        has_vectors: true,
        prepare: |isa| in_batches(isa, 0, true),
    },
    Operation {
        question: "does_a_batch_make_a_lookup_cheaper",
        variant: "hit_alone",
        has_vectors: true,
        prepare: hit_alone,
    },
    Operation {
        question: "does_a_lookup_that_finds_nothing_cost_less",
        variant: "miss_of_64",
        has_vectors: true,
        prepare: |isa| in_batches(isa, CONNECTIONS, false),
    },
    Operation {
        question: "does_a_lookup_that_finds_nothing_cost_less",
        variant: "miss_alone",
        has_vectors: true,
        prepare: miss_alone,
    },
    Operation {
        question: "what_does_an_entry_cost_that_is_never_confirmed",
        variant: "allocate_and_discard",
        has_vectors: false,
        prepare: allocate_and_discard,
    },
    Operation {
        question: "does_a_batch_make_a_connection_cheaper",
        variant: "confirm_and_remove_32",
        has_vectors: true,
        prepare: connect_batch,
    },
    Operation {
        question: "does_a_batch_make_a_connection_cheaper",
        variant: "confirm_and_remove_alone",
        has_vectors: true,
        prepare: connect_alone,
    },
    Operation {
        question: "what_does_losing_a_race_cost",
        variant: "merge_into_the_winner",
        has_vectors: true,
        prepare: |isa| clash(isa, Loser::Same),
    },
    Operation {
        question: "what_does_losing_a_race_cost",
        variant: "insert_by_the_reply_key_alone",
        has_vectors: true,
        prepare: |isa| clash(isa, Loser::OtherReply),
    },
    Operation {
        question: "what_does_losing_a_race_cost",
        variant: "drop_a_tcp_loser",
        has_vectors: true,
        prepare: |isa| clash(isa, Loser::Tcp),
    },
];

type Table = LockfreeTable<KeyV4>;

fn filled(isa: Isa) -> Filled<Table> {
    let capacity = CONNECTIONS as usize * 5 / 4;
    let config = TableConfig {
        isa,
        ..TableConfig::new(capacity, HashKey(0x0123, 0x4567))
    };
    Filled::with(&config, CONNECTIONS)
}

/// Statuses of 64 keys at once, all of them found, or none.
fn in_batches(isa: Isa, from: u32, hits: bool) -> Pass {
    let mut filled = filled(isa);
    let wanted: Vec<KeyV4> = (0..512)
        .map(|n| keys(from + n * 7 % CONNECTIONS).0)
        .collect();
    let mut found = [None; LOOKUPS];
    Pass::new(wanted.len(), move || {
        let (table, worker) = (&filled.table, &mut filled.worker);
        for batch in wanted.chunks(LOOKUPS) {
            table.begin(worker);
            table.status_batch(worker, black_box(batch), NOW, &mut found);
            table.end(worker);
            assert!(found.iter().all(|status| status.is_some() == hits));
            next_operation();
        }
    })
}

fn hit_alone(isa: Isa) -> Pass {
    let mut filled = filled(isa);
    let wanted: Vec<(KeyV4, EntryId)> = (0..512)
        .map(|n| n * 7 % CONNECTIONS)
        .map(|n| (keys(n).1, filled.ids[n as usize]))
        .collect();
    Pass::new(wanted.len(), move || {
        let (table, worker) = (&filled.table, &mut filled.worker);
        for (key, id) in &wanted {
            table.begin(worker);
            let hit = table.lookup(worker, black_box(key), NOW);
            let hit = hit.expect("the connection is in the table");
            assert_eq!(hit.id, *id);
            table.release(worker, hit.id);
            table.end(worker);
            next_operation();
        }
    })
}

fn miss_alone(isa: Isa) -> Pass {
    let mut filled = filled(isa);
    let unknown: Vec<KeyV4> = (0..512).map(|n| keys(CONNECTIONS + n).0).collect();
    Pass::new(unknown.len(), move || {
        let (table, worker) = (&filled.table, &mut filled.worker);
        for key in &unknown {
            table.begin(worker);
            assert!(table.lookup(worker, black_box(key), NOW).is_none());
            table.end(worker);
            next_operation();
        }
    })
}

fn allocate_and_discard(isa: Isa) -> Pass {
    let mut filled = filled(isa);
    Pass::new(512, move || {
        let (table, worker) = (&filled.table, &mut filled.worker);
        for _ in 0..512 {
            let id = table.allocate(worker).expect("the table has room");
            table.discard(worker, black_box(id));
            next_operation();
        }
    })
}

fn connect_alone(isa: Isa) -> Pass {
    let mut filled = filled(isa);
    Pass::new(256, move || {
        for n in 0..256 {
            filled.table.begin(&mut filled.worker);
            let id = filled.connect(black_box(CONNECTIONS + n));
            filled.disconnect(id);
            filled.table.end(&mut filled.worker);
            next_operation();
        }
    })
}

fn connect_batch(isa: Isa) -> Pass {
    let mut filled = filled(isa);
    let mut rng = WorkerRng::new(5, 0);
    Pass::new(8 * CONNECTS, move || {
        let (table, worker) = (&filled.table, &mut filled.worker);
        for batch in 0..8 {
            table.begin(worker);
            let ids: [EntryId; CONNECTS] = std::array::from_fn(|n| {
                let id = table.allocate(worker).expect("the table has room");
                let (original, reply) = keys(CONNECTIONS + (batch * CONNECTS + n) as u32);
                let entry = table.slab().entry(id);
                entry.set_keys(original, reply);
                entry.set_deadline(TIMEOUT);
                id
            });
            let mut outcomes = [Confirmed::Inserted; CONNECTS];
            let policy = &mut KernelClashPolicy;
            table.confirm_batch(worker, &ids, NOW, &mut rng, policy, &mut outcomes);
            for (&id, outcome) in ids.iter().zip(outcomes) {
                assert_eq!(outcome, Confirmed::Inserted);
                table.release(worker, id);
            }
            let mut removed = [false; CONNECTS];
            table.remove_batch(worker, &ids, &mut removed);
            for (&id, removed) in ids.iter().zip(removed) {
                assert!(removed);
                table.release(worker, id);
            }
            table.end(worker);
            next_operation();
        }
    })
}

/// Who comes second, with an original key that is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loser {
    /// UDP with both of the winner's keys.
    Same,
    /// UDP with a reply key of its own.
    OtherReply,
    /// TCP, which allows no clash.
    Tcp,
}

/// A second flow with the original key of one that is there: confirmed, told what became of it, and taken out again where
/// it went in.
fn clash(isa: Isa, loser: Loser) -> Pass {
    let mut filled = filled(isa);
    let protocol = if loser == Loser::Tcp {
        Protocol::TCP
    } else {
        Protocol::UDP
    };
    let flows: Vec<[KeyV4; 3]> = (0..256).map(|n| flow(n, protocol)).collect();
    for [original, reply, _] in &flows {
        let (_, confirmed) = offer(&mut filled, *original, *reply);
        assert_eq!(confirmed, Confirmed::Inserted);
    }
    Pass::new(flows.len(), move || {
        for [original, reply, other] in &flows {
            filled.table.begin(&mut filled.worker);
            let reply = if loser == Loser::OtherReply {
                other
            } else {
                reply
            };
            let (id, confirmed) = offer(&mut filled, black_box(*original), *reply);
            let (table, worker) = (&filled.table, &mut filled.worker);
            match (loser, confirmed) {
                (Loser::Same, Confirmed::Merged(clash)) => {
                    table.release(worker, clash.winner);
                }
                (Loser::OtherReply, Confirmed::ReplyOnly(_)) => {
                    assert!(table.slab().entry(id).status().contains(Status::NAT_CLASH));
                    assert!(table.remove(worker, id));
                    table.release(worker, id);
                }
                (Loser::Tcp, Confirmed::Refused(_)) => {}
                (_, other) => panic!("a wrong answer to a clash: {other:?}"),
            }
            table.end(worker);
            next_operation();
        }
    })
}

/// Original key, reply key, and another reply key as source NAT may draw it.
fn flow(n: u32, protocol: Protocol) -> [KeyV4; 3] {
    let original = Tuple {
        src: Addr::from_u32(0x0b00_0000 + n),
        dst: Addr::from_u32(0xc000_0202),
        src_key: 5_000,
        dst_key: 53,
        family: Family::Ipv4,
        protocol,
    };
    let reply = original.invert().expect("it has an inverse");
    let translated = Tuple {
        dst: Addr::from_u32(0xcb00_7101),
        dst_key: 1_024 + n as u16,
        ..reply
    };
    [original, reply, translated].map(|tuple| KeyV4::pack(&tuple, 0))
}

/// Allocates and confirms; what was inserted is released, so that the table alone holds it.
fn offer(filled: &mut Filled<Table>, original: KeyV4, reply: KeyV4) -> (EntryId, Confirmed) {
    let (table, worker) = (&filled.table, &mut filled.worker);
    let id = table.allocate(worker).expect("the table has room");
    let entry = table.slab().entry(id);
    entry.set_keys(original, reply);
    entry.set_deadline(TIMEOUT);
    let confirmed = table.confirm(worker, id, NOW, 0, &mut KernelClashPolicy);
    if matches!(confirmed, Confirmed::Inserted | Confirmed::ReplyOnly(_)) {
        table.release(worker, id);
    }
    (id, confirmed)
}

//! What the benches share: the operations that are measured, and tables filled with connections
//! whose keys are known.
//!
//! A bench here is a question, and a test: it knows the right answer of each operation it
//! times and fails on another. `cargo bench -- --test` runs each once.
//!
//! One list of operations, two meters: criterion takes their time (`cargo bench`), and the exact
//! gate counts their instructions, locked operations and cache lines (`cargo bench --features gate
//! --bench instructions`). A module
//! a room of the engine: [`tuple_and_hash`], [`table`], [`nat_choice`], [`tcp`], [`packet_path`].

#![forbid(unsafe_code)]

pub mod gate;
pub mod gateway;
pub mod nat_choice;
pub mod operation;
pub mod packet_path;
pub mod packets;
pub mod table;
pub mod tcp;
pub mod tuple_and_hash;

use std::net::Ipv4Addr;

use clashtrack_engine::addr::{Addr, Family};
use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::slab::{Entry, EntryId};
use clashtrack_engine::table::{Clash, ClashPolicy, ClashStep, Confirmed, FlowTable, TableConfig};
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::{Protocol, Tuple};

/// The moment at which all of a bench happens.
pub const NOW: Nanos = 1_000 * SECOND;

/// How long every connection has to live: longer than a bench.
pub const TIMEOUT: Nanos = 432_000 * SECOND;

/// Drops every loser. The benches' connections never clash, so it is never asked.
#[derive(Debug)]
pub struct NoClash;

impl<K: FlowKey> ClashPolicy<K> for NoClash {
    fn decide(&mut self, _clash: &Clash, _loser: &Entry<K>, _winner: &Entry<K>) -> ClashStep {
        ClashStep::Drop
    }
}

/// The keys of connection number `index`, original and reply: a TCP client of its own
/// address, one server, no NAT.
///
/// # Panics
/// Never: a TCP tuple has an inverse.
#[must_use]
pub fn keys(index: u32) -> (KeyV4, KeyV4) {
    let original = Tuple {
        src: Addr::from_u32(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + index),
        dst: Addr::v4(Ipv4Addr::new(192, 0, 2, 1)),
        src_key: 40_000,
        dst_key: 443,
        family: Family::Ipv4,
        protocol: Protocol::TCP,
    };
    let reply = original.invert().expect("a TCP tuple has an inverse");
    (KeyV4::pack(&original, 0), KeyV4::pack(&reply, 0))
}

/// A table with connections 0 to `ids.len() - 1` in it, and one thread's part of it.
#[derive(Debug)]
pub struct Filled<T: FlowTable<KeyV4>> {
    /// The table.
    pub table: T,
    /// This thread's part.
    pub worker: T::Worker,
    /// Entry of each connection.
    pub ids: Vec<EntryId>,
}

impl<T: FlowTable<KeyV4>> Filled<T> {
    /// Makes a table with room for `connections` and a quarter more, as many buckets as
    /// entries, and confirms that many.
    ///
    /// # Panics
    /// When the table refuses one.
    #[must_use]
    pub fn new(connections: u32) -> Filled<T> {
        let capacity = connections as usize + connections as usize / 4;
        let config = TableConfig::new(capacity, HashKey(0x0123, 0x4567));
        Filled::with(&config, connections)
    }

    /// The same with a table of the caller's choice.
    ///
    /// # Panics
    /// When the table refuses one.
    #[must_use]
    pub fn with(config: &TableConfig, connections: u32) -> Filled<T> {
        let table = T::new(config);
        let worker = table.worker();
        let mut filled = Filled {
            table,
            worker,
            ids: Vec::with_capacity(connections as usize),
        };
        for index in 0..connections {
            let id = filled.connect(index);
            filled.ids.push(id);
        }
        filled
    }

    /// Confirms connection number `index`.
    ///
    /// # Panics
    /// When the table refuses it.
    pub fn connect(&mut self, index: u32) -> EntryId {
        let (original, reply) = keys(index);
        let id = self
            .table
            .allocate(&mut self.worker)
            .expect("the table has room");
        let entry = self.table.slab().entry(id);
        entry.set_keys(original, reply);
        entry.set_deadline(TIMEOUT);
        let confirmed = self
            .table
            .confirm(&mut self.worker, id, NOW, index, &mut NoClash);
        assert_eq!(confirmed, Confirmed::Inserted, "connection {index}");
        // Ours, not the table's: as a packet that leaves gives its connection back.
        let freed = self.table.release(&mut self.worker, id);
        assert!(!freed, "the table holds connection {index}");
        id
    }

    /// Removes a connection and gives its entry back.
    ///
    /// # Panics
    /// When it was not in the table.
    pub fn disconnect(&mut self, id: EntryId) {
        assert!(self.table.remove(&mut self.worker, id), "{id:?}");
        let freed = self.table.release(&mut self.worker, id);
        assert!(freed, "nobody else holds {id:?}");
    }
}

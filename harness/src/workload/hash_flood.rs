//! `hash-flood`: connections whose keys were built to meet in few buckets of a hash without a secret.
//!
//! # Model
//! An attacker has this code and knows all of the table but its secret. He takes the table's own hash with a secret that
//! everybody knows ([`KNOWN`]), and sends first packets of which both keys fall into one part in [`CROWDING`] of the buckets by
//! it (his client's ports and servers are his to choose; the NAT box's ports he finds by trying). Then
//! everything is as in [`connect`](super::connect), and is to be read beside it: with a secret the keys spread as any
//! others, no connection is refused and the cost is the same. A refused connection (`chaintoolong`) fails the workload.
//!
//! # What it does not measure
//! An attacker who learns the secret by timing (see the engine's `table::hash`); hashers of other maps, which have a
//! secret of their own.

use std::collections::HashSet;

use clashtrack_engine::addr::Addr;
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::table::hash::{HashKey, bucket_of};
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::tuple::{Protocol, Tuple};

use super::case::{Kind, Workload};
use super::flows::{self, Pair};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "hash-flood",
    question: "Keys built to share buckets of an unkeyed hash: do new connections notice?",
    kind: Kind::HashFlood,
};

/// The secret of a table that has none.
pub const KNOWN: HashKey = HashKey(0, 0);
/// The keys fall into one part in so many of the buckets, of any number of buckets.
pub const CROWDING: u32 = 64;

/// 203.0.113.0/24, of the documentation networks (RFC 5737): the NAT box's addresses.
const TRANSLATED: u32 = 0xcb00_7100;
const FIRST_PORT: u32 = 1024;

/// `count` connections that all differ in both keys, and crowd together under [`KNOWN`].
#[must_use]
pub fn pairs(seed: u64, protocol: Protocol, count: usize) -> Vec<Pair> {
    let mut rng = WorkerRng::new(!seed, usize::MAX - 3);
    let mut replies = HashSet::with_capacity(count);
    let crowded = |tuple: &Tuple| {
        let key = KeyV4::pack(tuple, 0);
        // Tables that hash both directions alike hash the smaller tuple.
        (bucket_of(KNOWN.hash(&key.canonical().0), CROWDING) == 0).then_some(key)
    };
    let port = |rng: &mut WorkerRng| (FIRST_PORT + rng.below(65_536 - FIRST_PORT)) as u16;
    // Each has a client of its own, so that originals all differ.
    let tuples = flows::of_round(seed, 0, protocol, count);
    let pair = |mut tuple: Tuple| {
        let original = loop {
            tuple.src_key = port(&mut rng);
            tuple.dst_key = port(&mut rng);
            if let Some(key) = crowded(&tuple) {
                break key;
            }
        };
        let reply = loop {
            let reply = Tuple {
                src: tuple.dst,
                dst: Addr::from_u32(TRANSLATED + 1 + rng.below(254)),
                src_key: tuple.dst_key,
                dst_key: port(&mut rng),
                ..tuple
            };
            if let Some(key) = crowded(&reply)
                && replies.insert(key)
            {
                break key;
            }
        };
        Pair { original, reply }
    };
    tuples.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::super::hand::{Hand, LONG, NOW};
    use super::*;
    use clashtrack_engine::table::lockfree::LockfreeTable;
    use clashtrack_engine::table::{FlowTable, TableConfig};

    /// How many of 5000 such connections a table with this secret refuses.
    fn refused(secret: HashKey) -> u64 {
        let pairs = pairs(1, Protocol::TCP, 5000);
        let table = LockfreeTable::<KeyV4>::new(&TableConfig::new(6000, secret));
        let mut hand = Hand::new(table.worker(), 0, 1, Protocol::TCP, 32);
        for batch in pairs.chunks(32) {
            hand.connect(&table, batch, NOW, |_| LONG, |_, _| ());
        }
        hand.take_tally(&table).dropped
    }

    #[test]
    fn a_table_without_a_secret_refuses_what_was_built_against_it_and_one_with_a_secret_nothing() {
        assert!(refused(KNOWN) > 1000);
        assert_eq!(
            refused(HashKey(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210)),
            0
        );
    }
}

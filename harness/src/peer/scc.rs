//! A map of fine-grained bucket locks, two inserts: `scc` behind [`TwoInserts`].
//!
//! # Memory
//! ```text
//! scc::HashMap<key, Place>   buckets of 32 keys with a byte of hash each, overflow in lists
//! ```
//!
//! # Reclamation
//! A key that is removed is dropped in its bucket, under the bucket's lock. Only bucket arrays and lists are reclaimed
//! later, and the array, made for the capacity, stays. There is no guard to keep for a batch.
//!
//! # Progress
//! Blocking: one bucket at a time, never two. A lookup takes its bucket's lock for reading.
//!
//! # Sources
//! `scc` 3. Its `HashIndex` reads without locks, for tables that are read much more than written; see docs/peers.md.

use ::scc::HashMap;
use ::scc::hash_map::Entry;

use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::FlowKey;

use super::two_inserts::{ConcurrentMap, KeyedHasher, MapHasher, MapKey, Place, TwoInserts};

/// `scc`.
pub type SccTable<K> = TwoInserts<K, HashMap<MapKey<K>, Place, KeyedHasher>>;

impl<K: FlowKey> ConcurrentMap<K> for HashMap<MapKey<K>, Place, KeyedHasher> {
    const NAME: &'static str = "scc";
    const STAYS: bool = true;
    const LOCK_FREE: bool = false;
    type Pin<'a> = ();

    fn new(keys: usize, secret: HashKey) -> Self {
        HashMap::with_capacity_and_hasher(keys, KeyedHasher::new(secret))
    }

    fn pin(&self) {}

    fn get<R>(&self, (): &(), key: &MapKey<K>, found: impl FnOnce(Place) -> R) -> Option<R> {
        self.read_sync(key, |_, place| found(*place))
    }

    fn insert<R>(
        &self,
        (): &(),
        key: MapKey<K>,
        place: Place,
        taken: impl FnOnce(Place) -> R,
    ) -> Result<(), R> {
        match self.entry_sync(key) {
            Entry::Vacant(vacant) => {
                vacant.insert_entry(place);
                Ok(())
            }
            Entry::Occupied(occupied) => Err(taken(*occupied.get())),
        }
    }

    fn remove(&self, (): &(), key: &MapKey<K>, place: Place) {
        self.remove_if_sync(key, |owner| *owner == place);
    }
}

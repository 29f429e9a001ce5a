//! A map of fine-grained bucket locks whose readers take none, two inserts: `scc` behind [`TwoInserts`].
//!
//! # Memory
//! ```text
//! scc::HashIndex<key, Place>   buckets of 32 keys with a byte of hash each, overflow in lists
//! ```
//!
//! # Reclamation
//! A guard keeps what a reader looks at. One is made for the lookups of a batch, and one for all that a confirm or a
//! removal does. The place of a removed key is used again by a later insert into its bucket when no reader can see it any
//! more: nothing is put off to another time. The bucket array is made for the capacity, and stays.
//!
//! # Progress
//! A lookup waits for nobody. Inserting and removing block: one bucket at a time, never two.
//!
//! # Sources
//! `scc` 3. Its `HashMap` locks a bucket for reading too: a quarter slower for lookups here, and no faster for the rest.

use ::scc::hash_index::Entry;
use ::scc::{Guard, HashIndex};

use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::FlowKey;

use super::two_inserts::{ConcurrentMap, KeyedHasher, MapHasher, MapKey, Place, TwoInserts};

/// `scc`.
pub type SccTable<K> = TwoInserts<K, HashIndex<MapKey<K>, Place, KeyedHasher>>;

impl<K: FlowKey> ConcurrentMap<K> for HashIndex<MapKey<K>, Place, KeyedHasher> {
    const NAME: &'static str = "scc";
    const STAYS: bool = false;
    const LOCK_FREE: bool = false;
    type Pin<'a> = Guard;

    fn new(keys: usize, _workers: usize, secret: HashKey) -> Self {
        HashIndex::with_capacity_and_hasher(keys, KeyedHasher::new(secret))
    }

    fn pin(&self) -> Guard {
        Guard::new()
    }

    fn get<R>(&self, pin: &Guard, key: &MapKey<K>, found: impl FnOnce(Place) -> R) -> Option<R> {
        self.peek(key, pin).map(|place| found(*place))
    }

    fn insert<R>(
        &self,
        _: &Guard,
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

    fn remove(&self, _: &Guard, key: &MapKey<K>, place: Place) {
        self.remove_if_sync(key, |owner| *owner == place);
    }
}

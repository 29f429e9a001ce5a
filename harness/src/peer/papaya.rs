//! A lock-free map, two inserts: `papaya` behind [`TwoInserts`].
//!
//! # Memory
//! ```text
//! papaya::HashMap<key, Place>   one table of pointers; a key and its place are an allocation of their own (malloc)
//! ```
//!
//! # Reclamation
//! A guard keeps what the map took out until it is dropped. One is made for the lookups of a batch, and one for
//! all that a confirm or a removal does (nested guards of one thread are a counter). What was taken out is freed in
//! batches of 32, inside the calls that take out: at most 31 a thread wait, and those are let go when the worker leaves.
//! A guard that a worker could hold from `begin` to `end` must be one that may change threads (`OwnedGuard`), and
//! takes a lock for whatever it retires; the thread's own is faster.
//!
//! # Progress
//! Lock-free. What is removed leaves its slot used up until the table is copied, also when it never holds more than its
//! capacity: writers share that work out in steps of 64 keys (`ResizeMode::Blocking` was no faster here).
//!
//! # Sources
//! `papaya`, its guide on guards; `seize`, which reclaims for it.

use ::papaya::{Guard, HashMap, LocalGuard};

use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::FlowKey;

use super::two_inserts::{ConcurrentMap, KeyedHasher, MapHasher, MapKey, Place, TwoInserts};

/// `papaya`.
pub type PapayaTable<K> = TwoInserts<K, HashMap<MapKey<K>, Place, KeyedHasher>>;

impl<K: FlowKey> ConcurrentMap<K> for HashMap<MapKey<K>, Place, KeyedHasher> {
    const NAME: &'static str = "papaya";
    const STAYS: bool = false;
    const LOCK_FREE: bool = true;
    type Pin<'a> = LocalGuard<'a>;

    fn new(keys: usize, _workers: usize, secret: HashKey) -> Self {
        HashMap::with_capacity_and_hasher(keys, KeyedHasher::new(secret))
    }

    fn pin(&self) -> LocalGuard<'_> {
        self.guard()
    }

    fn get<R>(
        &self,
        pin: &LocalGuard<'_>,
        key: &MapKey<K>,
        found: impl FnOnce(Place) -> R,
    ) -> Option<R> {
        HashMap::get(self, key, pin).map(|place| found(*place))
    }

    fn insert<R>(
        &self,
        pin: &LocalGuard<'_>,
        key: MapKey<K>,
        place: Place,
        taken: impl FnOnce(Place) -> R,
    ) -> Result<(), R> {
        self.try_insert(key, place, pin)
            .map(|_| ())
            .map_err(|occupied| taken(*occupied.current))
    }

    fn remove(&self, pin: &LocalGuard<'_>, key: &MapKey<K>, place: Place) {
        // What it found instead is of no interest: the key has another owner.
        let _ = self.remove_if(key, |_, owner| *owner == place, pin);
    }

    fn collect(&self) {
        self.guard().flush();
    }
}

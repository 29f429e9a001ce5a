//! A sharded map, two inserts: [`DashMap`] behind [`TwoInserts`].
//!
//! # Memory
//! ```text
//! DashMap<key, Place>   shards: the next power of two from 4 x workers or processors, each a lock and a hash map
//! ```
//!
//! # Progress
//! Blocking: one shard at a time, never two. A lookup takes its shard's lock for reading.
//!
//! # Sources
//! `dashmap`. Its own default hasher is the standard library's `RandomState`, which is SipHash-1-3 too; the second
//! row, `dashmap@ahash`, has the fast hasher that people who care give it.

use ::dashmap::DashMap;
use ::dashmap::mapref::entry::Entry;

use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::FlowKey;

use super::two_inserts::{ConcurrentMap, KeyedHasher, MapHasher, MapKey, Place, TwoInserts};

/// `dashmap`.
pub type DashMapTable<K> = TwoInserts<K, DashMap<MapKey<K>, Place, KeyedHasher>>;

/// `dashmap@ahash`.
pub type DashMapAhashTable<K> = TwoInserts<K, DashMap<MapKey<K>, Place, ahash::RandomState>>;

/// A hasher that a row of its own has.
pub trait Row: MapHasher {
    /// The row's name.
    const NAME: &'static str;
}

impl Row for KeyedHasher {
    const NAME: &'static str = "dashmap";
}

impl Row for ahash::RandomState {
    const NAME: &'static str = "dashmap@ahash";
}

impl<K: FlowKey, S: Row> ConcurrentMap<K> for DashMap<MapKey<K>, Place, S> {
    const NAME: &'static str = S::NAME;
    const STAYS: bool = true;
    const LOCK_FREE: bool = false;
    type Pin<'a> = ();

    fn new(keys: usize, workers: usize, secret: HashKey) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let shards = (4 * workers.max(processors)).next_power_of_two();
        DashMap::with_capacity_and_hasher_and_shard_amount(keys, S::new(secret), shards)
    }

    fn pin(&self) {}

    fn get<R>(&self, (): &(), key: &MapKey<K>, found: impl FnOnce(Place) -> R) -> Option<R> {
        DashMap::get(self, key).map(|place| found(*place))
    }

    fn insert<R>(
        &self,
        (): &(),
        key: MapKey<K>,
        place: Place,
        taken: impl FnOnce(Place) -> R,
    ) -> Result<(), R> {
        match self.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(place);
                Ok(())
            }
            Entry::Occupied(occupied) => Err(taken(*occupied.get())),
        }
    }

    fn remove(&self, (): &(), key: &MapKey<K>, place: Place) {
        self.remove_if(key, |_, owner| *owner == place);
    }
}

//! A connection table as people write it: a sharded map from key to connection, and two inserts.
//!
//! Any number of threads may do anything at once; each call on the map is atomic, the two
//! inserts of a confirm together are not. Between them a reader finds the connection by its original
//! key and not by its reply key, and another worker's packet may be given to a connection that is
//! taken back a moment later. That window is what the anomaly counters look for.
//!
//! # Memory
//! ```text
//! DashMap<key, u32>   shards: the next power of two from 4 x processors, each a lock and a hash map
//! value               | entry number 31 | direction 1 |
//! ```
//! Keys, status and references are in the slab's entry, the same as in the other tables; its `aux` counts references.
//!
//! # States
//! ```text
//! Pending --first insert--> Pending, found --second insert--> Confirmed --remove, expiry--> Dying --> Free
//!                                 \------- second key taken: first one taken back ------------------> Free
//! ```
//!
//! # Invariants
//! - I1 an entry whose number is in the map has a reference of the map's: while a shard's lock is held, a number
//!   read from it can be acquired.
//! - I2 only a Confirmed entry can be removed by another thread, so nobody takes an entry away between its two inserts.
//!
//! # Linearization
//! Each insert, lookup and removal of one key: at the shard's lock. Confirm and remove as wholes: not at all.
//!
//! # Pairs
//! - The shards' locks order the map; the slab's P1 (state) the entries.
//!
//! # Progress
//! Blocking: one shard at a time, never two.
//!
//! # Sources
//! `dashmap`. The hash is keyed as in the other tables (SipHash-1-3); capacity is reserved up front.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, Hasher};

use ::dashmap::DashMap;
use ::dashmap::mapref::entry::Entry as MapEntry;
use siphasher::sip::SipHasher13;

use clashtrack_engine::status::Status;
use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::FlowKey;
use clashtrack_engine::table::mutex::EVICTION_RANGE;
use clashtrack_engine::table::slab::{Entry, EntryId, FreeCache, Life, Slab};
use clashtrack_engine::table::{
    Clash, ClashPolicy, ClashStep, Confirmed, EarlyDrop, FlowTable, Guarantees, Hit, Refusal,
    TableConfig, make_reply_only,
};
use clashtrack_engine::time::Nanos;
use clashtrack_engine::tuple::Direction;

/// Places of the slab that an early drop looks at: what 8 buckets of a full kernel table hold.
const EVICTION_PLACES: usize = 2 * EVICTION_RANGE;

/// A key that hashes by its words, as the other tables hash it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct MapKey<K>(K);

impl<K: FlowKey> Hash for MapKey<K> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for word in self.0.words().as_ref() {
            hasher.write_u64(*word);
        }
    }
}

/// Makes hashers that know the table's secret.
#[derive(Clone, Copy, Debug)]
struct KeyedHasher(HashKey);

impl BuildHasher for KeyedHasher {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0.0, self.0.1)
    }
}

/// An entry's number and which of its keys it is, in 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place(u32);

impl Place {
    fn new(index: u32, direction: Direction) -> Place {
        Place(index << 1 | direction as u32)
    }

    fn index(self) -> u32 {
        self.0 >> 1
    }

    fn direction(self) -> Direction {
        match self.0 & 1 {
            0 => Direction::Original,
            _ => Direction::Reply,
        }
    }
}

/// A table over a [`DashMap`]. See the [module](self).
#[derive(Debug)]
pub struct DashMapTable<K: FlowKey> {
    slab: Slab<K>,
    hash_key: HashKey,
    map: DashMap<MapKey<K>, Place, KeyedHasher>,
}

/// A thread's part of a [`DashMapTable`].
#[derive(Debug, Default)]
pub struct DashMapWorker {
    cache: FreeCache,
    removed: VecDeque<EntryId>,
}

impl<K: FlowKey> FlowTable<K> for DashMapTable<K> {
    type Worker = DashMapWorker;

    const NAME: &'static str = "dashmap";
    const GUARANTEES: Guarantees = Guarantees {
        atomic_two_key: false,
        lock_free: false,
        bounded_chain: false,
    };

    fn new(config: &TableConfig) -> DashMapTable<K> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        DashMapTable {
            slab: Slab::new(config.capacity, config.acct),
            hash_key: config.hash_key,
            map: DashMap::with_capacity_and_hasher_and_shard_amount(
                2 * config.capacity,
                KeyedHasher(config.hash_key),
                (4 * processors).next_power_of_two(),
            ),
        }
    }

    fn slab(&self) -> &Slab<K> {
        &self.slab
    }

    fn worker(&self) -> DashMapWorker {
        DashMapWorker {
            cache: FreeCache::new(),
            removed: VecDeque::with_capacity(64),
        }
    }

    fn leave(&self, worker: &mut DashMapWorker) {
        self.slab.flush(&mut worker.cache);
    }

    fn allocate(&self, worker: &mut DashMapWorker) -> Option<EntryId> {
        self.slab.allocate(&mut worker.cache)
    }

    fn discard(&self, worker: &mut DashMapWorker, id: EntryId) {
        self.slab.release(&mut worker.cache, id);
    }

    /// A connection between its two inserts is found, though it is not confirmed yet.
    fn lookup(&self, worker: &mut DashMapWorker, key: &K, now: Nanos) -> Option<Hit> {
        let id = {
            let found = self.map.get(&MapKey(*key))?;
            let place = *found;
            let id = self.id_of(place);
            if !self.slab.entry(id).is_expired(now) {
                // The shard is locked, so the map still has its reference (I1).
                self.slab.acquire_held(id);
                return Some(Hit {
                    id,
                    direction: place.direction(),
                });
            }
            id
        };
        self.kill(worker, id);
        None
    }

    fn confirm(
        &self,
        worker: &mut DashMapWorker,
        id: EntryId,
        now: Nanos,
        _random: u32,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Confirmed {
        let entry = self.slab.entry(id);
        if entry.status().contains(Status::DYING) {
            self.discard(worker, id);
            return Confirmed::Refused(Refusal::Dying);
        }
        let relative = entry.deadline();
        // Before the first insert: from then on others may look at it.
        entry.set_deadline(now.saturating_add(relative));
        if let Err(clash) = self.insert(id, Direction::Original, false, policy) {
            return self.resolve(worker, id, now, clash, policy);
        }
        if let Err(clash) = self.insert(id, Direction::Reply, false, policy) {
            self.take_out(id, Direction::Original);
            return self.resolve(worker, id, now, clash, policy);
        }
        self.publish(id);
        Confirmed::Inserted
    }

    fn remove(&self, _worker: &mut DashMapWorker, id: EntryId) -> bool {
        if !self.slab.change_life(id, Life::Confirmed, Life::Dying) {
            return false;
        }
        self.slab.entry(id).set_status(Status::DYING);
        self.take_out(id, Direction::Original);
        self.take_out(id, Direction::Reply);
        true
    }

    /// True only where that freed a connection that had been confirmed: one that was taken back between its two
    /// inserts was given back by its confirm already.
    fn release(&self, worker: &mut DashMapWorker, id: EntryId) -> bool {
        self.slab.release_life(&mut worker.cache, id) == Some(Life::Dying)
    }

    /// There are no buckets to look through: it looks at some places of the slab, beginning where
    /// the hash says, and stops after the first eviction.
    fn early_drop(
        &self,
        worker: &mut DashMapWorker,
        key: &K,
        now: Nanos,
        evictable: &dyn Fn(&Entry<K>) -> bool,
    ) -> EarlyDrop {
        let places = self.slab.capacity();
        let first = (self.hash_key.hash(key) % places as u64) as usize;
        for index in (0..EVICTION_PLACES.min(places)).map(|i| (first + i) % places) {
            let entry = self.slab.at(index as u32);
            let state = entry.state();
            let id = EntryId {
                index: index as u32,
                generation: state.generation,
            };
            if state.life != Life::Confirmed {
                continue;
            }
            if entry.is_expired(now) {
                self.kill(worker, id);
            } else if evictable(entry) && self.kill(worker, id) {
                return EarlyDrop { evicted: 1 };
            }
        }
        EarlyDrop::default()
    }

    fn take_removed(&self, worker: &mut DashMapWorker) -> Option<EntryId> {
        worker.removed.pop_front()
    }
}

impl<K: FlowKey> DashMapTable<K> {
    /// The life that a place read under its shard's lock stands for (I1).
    fn id_of(&self, place: Place) -> EntryId {
        EntryId {
            index: place.index(),
            generation: self.slab.at(place.index()).state().generation,
        }
    }

    /// Inserts one key. On a clash the policy is asked while the shard's lock is held, so that the
    /// winner is there (I1); after [`ClashStep::Merge`] it is held for the caller.
    fn insert(
        &self,
        id: EntryId,
        key: Direction,
        at_reply_only: bool,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Result<(), (Clash, ClashStep)> {
        let entry = self.slab.entry(id);
        match self.map.entry(MapKey(entry.key(key))) {
            MapEntry::Vacant(vacant) => {
                vacant.insert(Place::new(id.index, key));
                Ok(())
            }
            // Both keys of a connection may be one: then it is in already.
            MapEntry::Occupied(occupied) if occupied.get().index() == id.index => Ok(()),
            MapEntry::Occupied(occupied) => {
                let place = *occupied.get();
                let clash = Clash {
                    winner: self.id_of(place),
                    key,
                    winner_key: place.direction(),
                    at_reply_only,
                };
                let step = policy.decide(&clash, entry, self.slab.entry(clash.winner));
                if step == ClashStep::Merge {
                    self.slab.acquire_held(clash.winner);
                }
                Err((clash, step))
            }
        }
    }

    /// Takes a key out of the map if it is this entry's.
    fn take_out(&self, id: EntryId, key: Direction) {
        let key = MapKey(self.slab.entry(id).key(key));
        self.map
            .remove_if(&key, |_, place| place.index() == id.index);
    }

    fn publish(&self, id: EntryId) {
        // The table's own reference, beside the caller's.
        self.slab.acquire_held(id);
        self.slab.entry(id).set_status(Status::CONFIRMED);
        let confirmed = self.slab.change_life(id, Life::Pending, Life::Confirmed);
        debug_assert!(
            confirmed,
            "nobody removes an entry that is not confirmed (I2)"
        );
    }

    /// Removes an entry on the way; the worker reports it.
    fn kill(&self, worker: &mut DashMapWorker, id: EntryId) -> bool {
        let killed = self.remove(worker, id);
        if killed {
            worker.removed.push_back(id);
        }
        killed
    }

    /// Does what the policy said; no key of the loser is in the map.
    fn resolve(
        &self,
        worker: &mut DashMapWorker,
        id: EntryId,
        now: Nanos,
        (clash, step): (Clash, ClashStep),
        policy: &mut dyn ClashPolicy<K>,
    ) -> Confirmed {
        match step {
            ClashStep::Merge => {
                self.discard(worker, id);
                Confirmed::Merged(clash)
            }
            ClashStep::ReplyOnly if !clash.at_reply_only => {
                make_reply_only(self.slab.entry(id), now);
                match self.insert(id, Direction::Reply, true, policy) {
                    Ok(()) => {
                        self.publish(id);
                        Confirmed::ReplyOnly(clash)
                    }
                    Err(again) => self.resolve(worker, id, now, again, policy),
                }
            }
            _ => {
                self.discard(worker, id);
                Confirmed::Refused(Refusal::Clash(clash))
            }
        }
    }
}

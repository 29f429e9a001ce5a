//! A connection table as people write it: a concurrent map from key to connection, and two inserts.
//!
//! Any number of threads may do anything at once; each call on the map is atomic, the two
//! inserts of a confirm together are not. Between them a reader finds the connection by its original
//! key and not by its reply key, and another worker's packet may be given to a connection that is
//! taken back a moment later. That window is what the anomaly counters look for.
//!
//! The map is a [`ConcurrentMap`]: [`dashmap`](super::dashmap), [`papaya`](super::papaya), [`scc`](super::scc).
//!
//! # Memory
//! ```text
//! map: key -> Place     | generation 29 | 0 2 | entry number 32 | direction 1 |
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
//! - I1 an entry whose place is in the map has a reference of the map's: it is given back after its places are out.
//!   Where a map keeps a key's place while it calls us ([`ConcurrentMap::STAYS`]), that entry can be acquired there
//!   and then. Where it does not, the life that the place names is acquired or, if it is over, the map is asked again.
//! - I2 only a Confirmed entry can be removed by another thread, so nobody takes an entry away between its two inserts.
//!
//! # Linearization
//! Each insert, lookup and removal of one key: where the map has it. Confirm and remove as wholes: not at all.
//!
//! # Pairs
//! - The map orders its keys and places; the slab's P1 (state) the entries.
//!
//! # Progress
//! The map's.
//!
//! # Sources
//! The crates' own guides. The hash is keyed as in the other tables ([`Folded`]) unless the name says
//! otherwise; capacity is reserved up front.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, Hasher};

use clashtrack_engine::status::Status;
use clashtrack_engine::table::hash::{Folded, HashKey, KeyHasher};
use clashtrack_engine::table::key::FlowKey;
use clashtrack_engine::table::mutex::EVICTION_RANGE;
use clashtrack_engine::table::slab::{Entry, EntryId, FreeCache, Life, Slab};
use clashtrack_engine::table::{
    Clash, ClashPolicy, ClashStep, Confirmed, EarlyDrop, FlowTable, Guarantees, Hit, Refusal,
    TableConfig, make_reply_only,
};
use clashtrack_engine::time::{Nanos, is_past};
use clashtrack_engine::tuple::Direction;

/// Places of the slab that an early drop looks at: what 8 buckets of a full kernel table hold.
const EVICTION_PLACES: usize = 2 * EVICTION_RANGE;

/// A key that hashes by its words, as the other tables hash it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapKey<K>(K);

impl<K: FlowKey> Hash for MapKey<K> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for word in self.0.words().as_ref() {
            hasher.write_u64(*word);
        }
    }
}

/// Makes the hashers of a map, with or without the table's secret.
pub trait MapHasher: BuildHasher + Clone + Send + Sync + 'static {
    /// For a table with this secret.
    fn new(secret: HashKey) -> Self;
}

/// The other tables' hash, under the table's secret.
pub type KeyedHasher = Folded;

impl MapHasher for Folded {
    fn new(secret: HashKey) -> Folded {
        Folded::with_key(secret)
    }
}

/// `ahash` under the table's secret.
impl MapHasher for ahash::RandomState {
    fn new(HashKey(a, b): HashKey) -> ahash::RandomState {
        ahash::RandomState::with_seeds(a, b, !a, !b)
    }
}

/// A life of an entry, and which of its keys it is, in 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place(u64);

const GENERATION_SHIFT: u32 = 35;

impl Place {
    fn new(id: EntryId, direction: Direction) -> Place {
        Place(
            u64::from(id.generation()) << GENERATION_SHIFT
                | u64::from(id.index()) << 1
                | direction as u64,
        )
    }

    fn id(self) -> EntryId {
        EntryId::new((self.0 >> 1) as u32, (self.0 >> GENERATION_SHIFT) as u32)
    }

    fn direction(self) -> Direction {
        match self.0 & 1 {
            0 => Direction::Original,
            _ => Direction::Reply,
        }
    }
}

/// What the table asks of a map from keys to [`Place`]s.
pub trait ConcurrentMap<K: FlowKey>: Send + Sync {
    /// The name of the table, as `--table` takes it.
    const NAME: &'static str;
    /// While `get` and `insert` call back with a key's place, it stays in the map: nobody takes it out.
    const STAYS: bool;
    /// No call waits for another thread.
    const LOCK_FREE: bool;
    /// What keeps the map's memory in place for some calls of one thread. Made once for the lookups of a batch, and
    /// once for all that another call does.
    type Pin<'a>
    where
        Self: 'a;

    /// An empty map with room for so many keys, for so many threads at one time.
    fn new(keys: usize, workers: usize, secret: HashKey) -> Self;
    /// Pins.
    fn pin(&self) -> Self::Pin<'_>;
    /// What `found` makes of the place of a key.
    fn get<R>(
        &self,
        pin: &Self::Pin<'_>,
        key: &MapKey<K>,
        found: impl FnOnce(Place) -> R,
    ) -> Option<R>;
    /// Puts a key in, if it is not there.
    ///
    /// # Errors
    /// What `taken` makes of the place that the key has already.
    fn insert<R>(
        &self,
        pin: &Self::Pin<'_>,
        key: MapKey<K>,
        place: Place,
        taken: impl FnOnce(Place) -> R,
    ) -> Result<(), R>;
    /// Takes a key out if this is its place.
    fn remove(&self, pin: &Self::Pin<'_>, key: &MapKey<K>, place: Place);
    /// Frees what waits to be freed, as far as that can be done now: a worker leaves.
    fn collect(&self) {}
}

/// A table over a [`ConcurrentMap`]. See the [module](self).
#[derive(Debug)]
pub struct TwoInserts<K: FlowKey, M> {
    slab: Slab<K>,
    hash_key: HashKey,
    map: M,
}

/// A thread's part of a [`TwoInserts`].
#[derive(Debug, Default)]
pub struct TwoInsertsWorker {
    cache: FreeCache,
    removed: VecDeque<EntryId>,
}

/// What an insert met where its key was taken.
enum Met {
    /// Itself: both keys of a connection may be one.
    Itself,
    /// An entry whose life is over: its key is out by now.
    Gone,
    /// The winner, and what the policy said.
    Clash(Clash, ClashStep),
}

impl<K: FlowKey, M: ConcurrentMap<K>> FlowTable<K> for TwoInserts<K, M> {
    type Worker = TwoInsertsWorker;

    const NAME: &'static str = M::NAME;
    const GUARANTEES: Guarantees = Guarantees {
        atomic_two_key: false,
        lock_free: M::LOCK_FREE,
        bounded_chain: false,
    };

    fn new(config: &TableConfig) -> Self {
        TwoInserts {
            slab: Slab::new(config.capacity, config.acct),
            hash_key: config.hash_key,
            map: M::new(2 * config.capacity, config.workers, config.hash_key),
        }
    }

    fn slab(&self) -> &Slab<K> {
        &self.slab
    }

    fn worker(&self) -> TwoInsertsWorker {
        TwoInsertsWorker {
            cache: FreeCache::new(),
            removed: VecDeque::with_capacity(64),
        }
    }

    fn leave(&self, worker: &mut TwoInsertsWorker) {
        self.slab.flush(&mut worker.cache);
        self.map.collect();
    }

    fn allocate(&self, worker: &mut TwoInsertsWorker) -> Option<EntryId> {
        self.slab.allocate(&mut worker.cache)
    }

    fn discard(&self, worker: &mut TwoInsertsWorker, id: EntryId) {
        self.slab.release(&mut worker.cache, id);
    }

    /// A connection between its two inserts is found, though it is not confirmed yet.
    fn lookup(&self, worker: &mut TwoInsertsWorker, key: &K, now: Nanos) -> Option<Hit> {
        self.find(worker, &self.map.pin(), key, now)
    }

    fn lookup_batch(
        &self,
        worker: &mut TwoInsertsWorker,
        keys: &[K],
        now: Nanos,
        hits: &mut [Option<Hit>],
    ) {
        let pin = self.map.pin();
        for (hit, key) in hits.iter_mut().zip(keys) {
            *hit = self.find(worker, &pin, key, now);
        }
    }

    fn status(&self, worker: &mut TwoInsertsWorker, key: &K, now: Nanos) -> Option<Status> {
        self.read_status(worker, &self.map.pin(), key, now)
    }

    fn status_batch(
        &self,
        worker: &mut TwoInsertsWorker,
        keys: &[K],
        now: Nanos,
        statuses: &mut [Option<Status>],
    ) {
        let pin = self.map.pin();
        for (status, key) in statuses.iter_mut().zip(keys) {
            *status = self.read_status(worker, &pin, key, now);
        }
    }

    fn confirm(
        &self,
        worker: &mut TwoInsertsWorker,
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
        let pin = &self.map.pin();
        if let Err(clash) = self.insert(worker, pin, id, Direction::Original, false, policy) {
            return self.resolve(worker, pin, id, now, clash, policy);
        }
        if let Err(clash) = self.insert(worker, pin, id, Direction::Reply, false, policy) {
            self.take_out(pin, id, Direction::Original);
            return self.resolve(worker, pin, id, now, clash, policy);
        }
        self.publish(id);
        Confirmed::Inserted
    }

    fn remove(&self, _worker: &mut TwoInsertsWorker, id: EntryId) -> bool {
        if !self.slab.change_life(id, Life::Confirmed, Life::Dying) {
            return false;
        }
        self.slab.entry(id).set_status(Status::DYING);
        let pin = &self.map.pin();
        self.take_out(pin, id, Direction::Original);
        self.take_out(pin, id, Direction::Reply);
        true
    }

    /// True only where that freed a connection that had been confirmed: one that was taken back between its two
    /// inserts was given back by its confirm already.
    fn release(&self, worker: &mut TwoInsertsWorker, id: EntryId) -> bool {
        self.slab.release_life(&mut worker.cache, id) == Some(Life::Dying)
    }

    /// There are no buckets to look through: it looks at some places of the slab, beginning where
    /// the hash says, and stops after the first eviction.
    fn early_drop(
        &self,
        worker: &mut TwoInsertsWorker,
        key: &K,
        now: Nanos,
        evictable: &dyn Fn(&Entry<K>) -> bool,
    ) -> EarlyDrop {
        let places = self.slab.capacity();
        let first = (self.hash_key.hash(key) % places as u64) as usize;
        for index in (0..EVICTION_PLACES.min(places)).map(|i| (first + i) % places) {
            let entry = self.slab.at(index as u32);
            let state = entry.state();
            let id = EntryId::new(index as u32, state.generation);
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

    fn take_removed(&self, worker: &mut TwoInsertsWorker) -> Option<EntryId> {
        worker.removed.pop_front()
    }
}

impl<K: FlowKey, M: ConcurrentMap<K>> TwoInserts<K, M> {
    fn find(
        &self,
        worker: &mut TwoInsertsWorker,
        pin: &M::Pin<'_>,
        key: &K,
        now: Nanos,
    ) -> Option<Hit> {
        // Ends: each further turn is caused by a removal since the map was asked.
        loop {
            let (place, held) = self
                .map
                .get(pin, &MapKey(*key), |place| (place, self.hold(place)))?;
            if !held {
                continue;
            }
            let id = place.id();
            if !self.slab.entry(id).is_expired(now) {
                return Some(Hit {
                    id,
                    direction: place.direction(),
                });
            }
            self.kill(worker, id);
            self.release(worker, id);
            return None;
        }
    }

    /// The status of the connection that owns a key, without a reference wherever that is right.
    fn read_status(
        &self,
        worker: &mut TwoInsertsWorker,
        pin: &M::Pin<'_>,
        key: &K,
        now: Nanos,
    ) -> Option<Status> {
        let seen = self.map.get(pin, &MapKey(*key), |place| self.peek(place))?;
        match seen {
            Some((status, deadline)) if !is_past(deadline, now) => Some(status),
            // Not confirmed yet, over, or expired: as a lookup has it.
            _ => {
                let hit = self.find(worker, pin, key, now)?;
                let status = self.slab.entry(hit.id).status();
                self.release(worker, hit.id);
                Some(status)
            }
        }
    }

    /// Status and deadline of a confirmed connection. Where the place stays in the map meanwhile so does the entry
    /// (I1); where it does not, what was read counts only if it was of one life.
    #[inline]
    fn peek(&self, place: Place) -> Option<(Status, Nanos)> {
        let entry = self.slab.entry(place.id());
        let read = || (entry.status(), entry.deadline());
        if M::STAYS {
            return Some(read()).filter(|(status, _)| status.contains(Status::CONFIRMED));
        }
        self.slab.read_confirmed(place.id(), read)
    }

    /// Takes a reference of the life that a place names (I1); false if it is over.
    fn hold(&self, place: Place) -> bool {
        if M::STAYS {
            self.slab.acquire_held(place.id());
            return true;
        }
        self.slab.acquire_current(place.id())
    }

    /// Inserts one key. On a clash the policy is asked while the winner is sure to be there (I1); after
    /// [`ClashStep::Merge`] it is held for the caller.
    fn insert(
        &self,
        worker: &mut TwoInsertsWorker,
        pin: &M::Pin<'_>,
        id: EntryId,
        key: Direction,
        at_reply_only: bool,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Result<(), (Clash, ClashStep)> {
        let map_key = MapKey(self.slab.entry(id).key(key));
        // Ends: each further turn is caused by a removal since the insert met its key.
        loop {
            let met = self.map.insert(pin, map_key, Place::new(id, key), |owner| {
                self.meet(worker, id, key, at_reply_only, owner, policy)
            });
            match met {
                Ok(()) | Err(Met::Itself) => return Ok(()),
                Err(Met::Gone) => {}
                Err(Met::Clash(clash, step)) => return Err((clash, step)),
            }
        }
    }

    /// Asks the policy about the owner of a key that `id` wants.
    fn meet(
        &self,
        worker: &mut TwoInsertsWorker,
        id: EntryId,
        key: Direction,
        at_reply_only: bool,
        owner: Place,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Met {
        let winner = owner.id();
        if winner == id {
            return Met::Itself;
        }
        if !M::STAYS && !self.slab.acquire_current(winner) {
            return Met::Gone;
        }
        let clash = Clash {
            winner,
            key,
            winner_key: owner.direction(),
            at_reply_only,
        };
        let step = policy.decide(&clash, self.slab.entry(id), self.slab.entry(winner));
        match (step, M::STAYS) {
            (ClashStep::Merge, true) => self.slab.acquire_held(winner),
            (ClashStep::Merge, false) | (_, true) => {}
            (_, false) => {
                self.release(worker, winner);
            }
        }
        Met::Clash(clash, step)
    }

    /// Takes a key out of the map if it is this entry's.
    fn take_out(&self, pin: &M::Pin<'_>, id: EntryId, key: Direction) {
        let entry = self.slab.entry(id);
        self.map
            .remove(pin, &MapKey(entry.key(key)), Place::new(id, key));
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
    fn kill(&self, worker: &mut TwoInsertsWorker, id: EntryId) -> bool {
        let killed = self.remove(worker, id);
        if killed {
            worker.removed.push_back(id);
        }
        killed
    }

    /// Does what the policy said; no key of the loser is in the map.
    fn resolve(
        &self,
        worker: &mut TwoInsertsWorker,
        pin: &M::Pin<'_>,
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
                match self.insert(worker, pin, id, Direction::Reply, true, policy) {
                    Ok(()) => {
                        self.publish(id);
                        Confirmed::ReplyOnly(clash)
                    }
                    Err(again) => self.resolve(worker, pin, id, now, again, policy),
                }
            }
            _ => {
                self.discard(worker, id);
                Confirmed::Refused(Refusal::Clash(clash))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_gives_back_the_life_and_the_direction_it_was_made_of() {
        for direction in [Direction::Original, Direction::Reply] {
            let id = EntryId::new(u32::MAX >> 1, (1 << 29) - 1);
            let place = Place::new(id, direction);
            assert_eq!((place.id(), place.direction()), (id, direction));
        }
    }
}

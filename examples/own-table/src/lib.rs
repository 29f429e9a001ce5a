//! A connection table of one's own: one lock around a map from key to connection.
//!
//! Many may look at once, one may write, and a writer puts in both keys under the lock: nobody sees one without the
//! other. What it costs is seen when it is raced (`cargo run --release`).
//!
//! What a [`FlowTable`] must do is said at the trait; where connections live, how references are counted and numbers
//! reused is the [`Slab`]'s business. What is left for a table is to find them.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use clashtrack_engine::status::Status;
use clashtrack_engine::table::key::FlowKey;
use clashtrack_engine::table::slab::{Entry, EntryId, FreeCache, Life, Slab};
use clashtrack_engine::table::{
    Clash, ClashPolicy, ClashStep, Confirmed, EarlyDrop, FlowTable, Guarantees, Hit, Refusal,
    TableConfig, make_reply_only,
};
use clashtrack_engine::time::Nanos;
use clashtrack_engine::tuple::Direction;

type Owners<K> = HashMap<K, Hit>;

/// The table. An entry in the map has a reference of the map's, so while the lock is held it is there.
#[derive(Debug)]
pub struct RwLockTable<K: FlowKey> {
    slab: Slab<K>,
    owners: RwLock<Owners<K>>,
}

/// A thread's part: free numbers at hand, and what its calls removed by themselves.
#[derive(Debug, Default)]
pub struct RwLockWorker {
    cache: FreeCache,
    removed: VecDeque<EntryId>,
}

impl<K: FlowKey> RwLockTable<K> {
    fn read(&self) -> RwLockReadGuard<'_, Owners<K>> {
        // No call panics half-way, so the map is whole even if one did.
        self.owners.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Owners<K>> {
        self.owners.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who owns a key that this entry wants.
    fn clash(
        &self,
        owners: &Owners<K>,
        id: EntryId,
        key: Direction,
        at_reply_only: bool,
    ) -> Option<Clash> {
        let owner = owners.get(&self.slab.entry(id).key(key))?;
        Some(Clash {
            winner: owner.id,
            key,
            winner_key: owner.direction,
            at_reply_only,
        })
    }

    /// Puts an entry in by these keys; from here on it is found.
    fn publish(&self, owners: &mut Owners<K>, id: EntryId, directions: &[Direction]) {
        let entry = self.slab.entry(id);
        // The map's own reference, beside the caller's.
        self.slab.acquire_held(id);
        for &direction in directions {
            owners
                .entry(entry.key(direction))
                .or_insert(Hit { id, direction });
        }
        entry.set_status(Status::CONFIRMED);
        self.slab.change_life(id, Life::Pending, Life::Confirmed);
    }

    /// Takes an entry out; true for the one caller who did it, who has the map's reference now.
    fn take_out(&self, owners: &mut Owners<K>, id: EntryId) -> bool {
        if !self.slab.change_life(id, Life::Confirmed, Life::Dying) {
            return false;
        }
        let entry = self.slab.entry(id);
        entry.set_status(Status::DYING);
        for direction in [Direction::Original, Direction::Reply] {
            let key = entry.key(direction);
            // A connection that came in by its reply key alone does not own its original key.
            if owners.get(&key).is_some_and(|owner| owner.id == id) {
                owners.remove(&key);
            }
        }
        true
    }

    /// Does what the policy says about a clash, all under the one lock.
    fn resolve(
        &self,
        owners: &mut Owners<K>,
        worker: &mut RwLockWorker,
        id: EntryId,
        now: Nanos,
        clash: Clash,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Confirmed {
        let entry = self.slab.entry(id);
        match policy.decide(&clash, entry, self.slab.entry(clash.winner)) {
            ClashStep::Merge => {
                self.slab.acquire_held(clash.winner);
                self.discard(worker, id);
                Confirmed::Merged(clash)
            }
            ClashStep::ReplyOnly if !clash.at_reply_only => {
                match self.clash(owners, id, Direction::Reply, true) {
                    Some(again) => self.resolve(owners, worker, id, now, again, policy),
                    None => {
                        make_reply_only(entry, now);
                        self.publish(owners, id, &[Direction::Reply]);
                        Confirmed::ReplyOnly(clash)
                    }
                }
            }
            ClashStep::ReplyOnly | ClashStep::Drop => {
                self.discard(worker, id);
                Confirmed::Refused(Refusal::Clash(clash))
            }
        }
    }
}

impl<K: FlowKey> FlowTable<K> for RwLockTable<K> {
    type Worker = RwLockWorker;

    const NAME: &'static str = "rwlock";
    const GUARANTEES: Guarantees = Guarantees {
        atomic_two_key: true,
        lock_free: false,
        bounded_chain: false,
    };

    fn new(config: &TableConfig) -> RwLockTable<K> {
        RwLockTable {
            slab: Slab::new(config.capacity, config.acct),
            owners: RwLock::new(HashMap::with_capacity(2 * config.capacity)),
        }
    }

    fn slab(&self) -> &Slab<K> {
        &self.slab
    }

    fn worker(&self) -> RwLockWorker {
        RwLockWorker::default()
    }

    fn leave(&self, worker: &mut RwLockWorker) {
        self.slab.flush(&mut worker.cache);
    }

    fn allocate(&self, worker: &mut RwLockWorker) -> Option<EntryId> {
        self.slab.allocate(&mut worker.cache)
    }

    fn discard(&self, worker: &mut RwLockWorker, id: EntryId) {
        self.slab.release(&mut worker.cache, id);
    }

    fn lookup(&self, worker: &mut RwLockWorker, key: &K, now: Nanos) -> Option<Hit> {
        let hit = {
            let owners = self.read();
            let hit = *owners.get(key)?;
            if !self.slab.entry(hit.id).is_expired(now) {
                self.slab.acquire_held(hit.id);
                return Some(hit);
            }
            hit
        };
        if self.take_out(&mut self.write(), hit.id) {
            worker.removed.push_back(hit.id);
        }
        None
    }

    fn confirm(
        &self,
        worker: &mut RwLockWorker,
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
        let both = [Direction::Original, Direction::Reply];
        let mut owners = self.write();
        let clash = both
            .iter()
            .find_map(|&key| self.clash(&owners, id, key, false));
        if let Some(clash) = clash {
            return self.resolve(&mut owners, worker, id, now, clash, policy);
        }
        entry.set_deadline(now.saturating_add(entry.deadline()));
        self.publish(&mut owners, id, &both);
        Confirmed::Inserted
    }

    fn remove(&self, _worker: &mut RwLockWorker, id: EntryId) -> bool {
        self.take_out(&mut self.write(), id)
    }

    fn release(&self, worker: &mut RwLockWorker, id: EntryId) -> bool {
        self.slab.release(&mut worker.cache, id)
    }

    /// It looks through the map until it finds one that may go: nothing here knows what is near a key.
    fn early_drop(
        &self,
        worker: &mut RwLockWorker,
        _key: &K,
        now: Nanos,
        evictable: &dyn Fn(&Entry<K>) -> bool,
    ) -> EarlyDrop {
        let mut owners = self.write();
        let victim = owners.values().map(|hit| hit.id).find(|&id| {
            let entry = self.slab.entry(id);
            !entry.is_expired(now) && evictable(entry)
        });
        let Some(victim) = victim else {
            return EarlyDrop::default();
        };
        if !self.take_out(&mut owners, victim) {
            return EarlyDrop::default();
        }
        worker.removed.push_back(victim);
        EarlyDrop { evicted: 1 }
    }

    fn take_removed(&self, worker: &mut RwLockWorker) -> Option<EntryId> {
        worker.removed.pop_front()
    }
}

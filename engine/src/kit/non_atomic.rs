//! A table that keeps every promise but one: it inserts one key after the other, with a pause between them that is long
//! enough to be seen. [`linearizability`](super::linearizability()) must find it out; a check that does not is worth nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_utils::Backoff;

use crate::status::Status;
use crate::table::key::FlowKey;
use crate::table::slab::{Entry, EntryId, FreeCache, Life, Slab};
use crate::table::{
    Clash, ClashPolicy, ClashStep, Confirmed, EarlyDrop, FlowTable, Guarantees, Hit, Refusal,
    TableConfig, make_reply_only,
};
use crate::time::Nanos;
use crate::tuple::Direction;

/// The negative control. It promises what it does not keep.
#[derive(Debug)]
pub struct NonAtomic<K: FlowKey> {
    slab: Slab<K>,
    owners: Mutex<HashMap<K, Hit>>,
}

/// A thread's part of a [`NonAtomic`].
#[derive(Debug, Default)]
pub struct NonAtomicWorker {
    cache: FreeCache,
    removed: VecDeque<EntryId>,
}

impl<K: FlowKey> NonAtomic<K> {
    fn owners(&self) -> MutexGuard<'_, HashMap<K, Hit>> {
        // No call panics half-way.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts one key in, or asks the policy about its owner, which is held for the caller after a merge.
    fn insert(
        &self,
        id: EntryId,
        direction: Direction,
        at_reply_only: bool,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Result<(), (Clash, ClashStep)> {
        let entry = self.slab.entry(id);
        let mut owners = self.owners();
        let Some(owner) = owners.get(&entry.key(direction)).copied() else {
            owners.insert(entry.key(direction), Hit { id, direction });
            return Ok(());
        };
        if owner.id == id {
            return Ok(());
        }
        let clash = Clash {
            winner: owner.id,
            key: direction,
            winner_key: owner.direction,
            at_reply_only,
        };
        let step = policy.decide(&clash, entry, self.slab.entry(owner.id));
        if step == ClashStep::Merge {
            self.slab.acquire_held(owner.id);
        }
        Err((clash, step))
    }

    fn take_out(&self, owners: &mut HashMap<K, Hit>, id: EntryId) {
        let entry = self.slab.entry(id);
        for key in [entry.key(Direction::Original), entry.key(Direction::Reply)] {
            if owners.get(&key).is_some_and(|owner| owner.id == id) {
                owners.remove(&key);
            }
        }
    }

    fn publish(&self, id: EntryId) {
        // The table's own reference, beside the caller's.
        self.slab.acquire_held(id);
        self.slab.entry(id).set_status(Status::CONFIRMED);
        self.slab.change_life(id, Life::Pending, Life::Confirmed);
    }
}

impl<K: FlowKey> FlowTable<K> for NonAtomic<K> {
    type Worker = NonAtomicWorker;

    const NAME: &'static str = "non-atomic";
    const GUARANTEES: Guarantees = Guarantees {
        atomic_two_key: true,
        lock_free: false,
        bounded_chain: false,
    };

    fn new(config: &TableConfig) -> NonAtomic<K> {
        NonAtomic {
            slab: Slab::new(config.capacity, config.acct),
            owners: Mutex::new(HashMap::with_capacity(2 * config.capacity)),
        }
    }

    fn slab(&self) -> &Slab<K> {
        &self.slab
    }

    fn worker(&self) -> NonAtomicWorker {
        NonAtomicWorker::default()
    }

    fn leave(&self, worker: &mut NonAtomicWorker) {
        self.slab.flush(&mut worker.cache);
    }

    fn allocate(&self, worker: &mut NonAtomicWorker) -> Option<EntryId> {
        self.slab.allocate(&mut worker.cache)
    }

    fn discard(&self, worker: &mut NonAtomicWorker, id: EntryId) {
        self.slab.release(&mut worker.cache, id);
    }

    fn lookup(&self, worker: &mut NonAtomicWorker, key: &K, now: Nanos) -> Option<Hit> {
        let mut owners = self.owners();
        let hit = *owners.get(key)?;
        let entry = self.slab.entry(hit.id);
        if !entry.is_expired(now) {
            self.slab.acquire_held(hit.id);
            return Some(hit);
        }
        if self.slab.change_life(hit.id, Life::Confirmed, Life::Dying) {
            entry.set_status(Status::DYING);
            self.take_out(&mut owners, hit.id);
            worker.removed.push_back(hit.id);
        }
        None
    }

    fn confirm(
        &self,
        worker: &mut NonAtomicWorker,
        id: EntryId,
        now: Nanos,
        _random: u32,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Confirmed {
        let entry = self.slab.entry(id);
        let relative = entry.deadline();
        entry.set_deadline(now.saturating_add(relative));
        let mut inserted = self.insert(id, Direction::Original, false, policy);
        if inserted.is_ok() {
            // Here is what is wrong: bounded, and long enough for others to look in.
            let pause = Backoff::new();
            while !pause.is_completed() {
                pause.snooze();
            }
            inserted = self.insert(id, Direction::Reply, false, policy);
        }
        let Err((first, mut step)) = inserted else {
            self.publish(id);
            return Confirmed::Inserted;
        };
        self.take_out(&mut self.owners(), id);
        let mut clash = first;
        if step == ClashStep::ReplyOnly {
            make_reply_only(entry, now);
            match self.insert(id, Direction::Reply, true, policy) {
                Ok(()) => {
                    self.publish(id);
                    return Confirmed::ReplyOnly(first);
                }
                Err(again) => (clash, step) = again,
            }
        }
        self.discard(worker, id);
        match step {
            ClashStep::Merge => Confirmed::Merged(clash),
            ClashStep::ReplyOnly | ClashStep::Drop => Confirmed::Refused(Refusal::Clash(clash)),
        }
    }

    fn remove(&self, _worker: &mut NonAtomicWorker, id: EntryId) -> bool {
        let mut owners = self.owners();
        if !self.slab.change_life(id, Life::Confirmed, Life::Dying) {
            return false;
        }
        self.slab.entry(id).set_status(Status::DYING);
        self.take_out(&mut owners, id);
        true
    }

    fn release(&self, worker: &mut NonAtomicWorker, id: EntryId) -> bool {
        self.slab.release_life(&mut worker.cache, id) == Some(Life::Dying)
    }

    /// It never makes room.
    fn early_drop(
        &self,
        _worker: &mut NonAtomicWorker,
        _key: &K,
        _now: Nanos,
        _evictable: &dyn Fn(&Entry<K>) -> bool,
    ) -> EarlyDrop {
        EarlyDrop::default()
    }

    fn take_removed(&self, worker: &mut NonAtomicWorker) -> Option<EntryId> {
        worker.removed.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Options, accounting, conformance, linearizability};
    use super::*;
    use crate::table::key::KeyV4;

    #[test]
    fn a_table_that_inserts_one_key_after_the_other_passes_all_but_the_histories() {
        let options = Options::default();
        conformance::<KeyV4, _>(&options, NonAtomic::new).unwrap();
        let few = Options {
            rounds: 5,
            ..options
        };
        accounting::<KeyV4, _>(&few, NonAtomic::new).unwrap();
        let violation = linearizability::<KeyV4, _>(&options, NonAtomic::new).unwrap_err();
        let text = violation.to_string();
        assert!(text.contains("no order of the calls"), "{text}");
        assert!(text.contains("thread 1:"), "{text}");
    }
}

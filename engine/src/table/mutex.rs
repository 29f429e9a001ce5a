//! One lock around a plain chained hash: the kernel's table without its concurrency.
//!
//! The reference that the others are tested against: chains, their limit, the order of
//! the two walks, early drop and the collection of expired entries are the kernel's, one
//! step after the other, with nobody looking on.
//!
//! # Memory
//! ```text
//! Mutex ─▶ chains: Vec<VecDeque<Node>>     head first, as hlist_nulls_add_head_rcu has it
//! Node { entry number, direction }         keys stay in the slab's entry
//! ```
//! # Linearization
//! Every operation takes effect at some moment while it holds the lock.
//!
//! # Progress
//! Blocking: one thread at a time.
//!
//! # Sources
//! `__nf_conntrack_confirm`, `____nf_conntrack_find`, `early_drop_list` (nf_conntrack_core.c).

use std::collections::VecDeque;
use std::sync::MutexGuard;

use super::hash::{HashKey, bucket_of};
use super::key::FlowKey;
use super::slab::{Entry, EntryId, FreeCache, Life, Slab};
use super::{
    ChainLengths, Clash, ClashPolicy, ClashStep, Confirmed, EarlyDrop, FlowTable, Guarantees, Hit,
    Refusal, TableConfig, kernel_chain_limit,
};
use crate::status::Status;
use crate::sync::unchecked::Mutex;
use crate::time::Nanos;
use crate::tuple::Direction;

/// Buckets that an early drop looks through (`NF_CT_EVICTION_RANGE`).
pub const EVICTION_RANGE: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Node {
    id: EntryId,
    direction: Direction,
}

/// The reference table. See the [module](self).
#[derive(Debug)]
pub struct MutexTable<K: FlowKey> {
    slab: Slab<K>,
    hash_key: HashKey,
    buckets: u32,
    chains: Mutex<Chains>,
}

type Chains = Vec<VecDeque<Node>>;

/// A thread's part of a [`MutexTable`].
#[derive(Debug, Default)]
pub struct MutexWorker {
    cache: FreeCache,
    removed: VecDeque<EntryId>,
}

impl<K: FlowKey> MutexTable<K> {
    fn lock(&self) -> MutexGuard<'_, Chains> {
        // A panic of another worker ends the run; until then the chains are whole (no call panics half-way).
        self.chains
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn bucket(&self, key: &K) -> usize {
        bucket_of(self.hash_key.hash(key), self.buckets) as usize
    }

    fn key_of(&self, node: Node) -> K {
        self.slab.entry(node.id).key(node.direction)
    }

    /// Unlinks both nodes and hands the entry, with the table's reference, to `worker`.
    fn kill(&self, chains: &mut Chains, worker: &mut MutexWorker, id: EntryId) -> bool {
        if !self.unlink(chains, id) {
            return false;
        }
        worker.removed.push_back(id);
        true
    }

    fn unlink(&self, chains: &mut Chains, id: EntryId) -> bool {
        let entry = self.slab.entry(id);
        if !self.slab.change_life(id, Life::Confirmed, Life::Dying) {
            return false;
        }
        entry.set_status(Status::DYING);
        for direction in [Direction::Original, Direction::Reply] {
            chains[self.bucket(&entry.key(direction))].retain(|node| node.id != id);
        }
        true
    }

    /// First node of the chain that owns `key`, and how many were passed before it.
    /// `Err` when more than `limit` were passed.
    fn find(&self, chain: &VecDeque<Node>, key: &K, limit: usize) -> Result<Option<Node>, Refusal> {
        for (passed, &node) in chain.iter().enumerate() {
            if self.key_of(node) == *key {
                return Ok(Some(node));
            }
            if passed > limit {
                return Err(Refusal::ChainTooLong);
            }
        }
        Ok(None)
    }

    fn publish(&self, chains: &mut Chains, id: EntryId, nodes: &[Direction]) {
        let entry = self.slab.entry(id);
        // The table's own reference, beside the caller's.
        self.slab.acquire_held(id);
        for &direction in nodes {
            chains[self.bucket(&entry.key(direction))].push_front(Node { id, direction });
        }
        entry.set_status(Status::CONFIRMED);
        let confirmed = self.slab.change_life(id, Life::Pending, Life::Confirmed);
        debug_assert!(confirmed, "an unconfirmed entry is its worker's own");
    }

    fn give_back(&self, worker: &mut MutexWorker, id: EntryId) {
        let freed = self.slab.release(&mut worker.cache, id);
        debug_assert!(freed, "an unconfirmed entry has one owner");
    }
}

impl<K: FlowKey> FlowTable<K> for MutexTable<K> {
    type Worker = MutexWorker;

    const NAME: &'static str = "mutex";
    const GUARANTEES: Guarantees = Guarantees {
        atomic_two_key: true,
        lock_free: false,
        bounded_chain: true,
    };

    fn new(config: &TableConfig) -> MutexTable<K> {
        let buckets = config.buckets.clamp(1, 1 << 31);
        MutexTable {
            slab: Slab::new(config.capacity, config.acct),
            hash_key: config.hash_key,
            buckets: buckets as u32,
            chains: Mutex::new(vec![VecDeque::new(); buckets]),
        }
    }

    fn slab(&self) -> &Slab<K> {
        &self.slab
    }

    fn worker(&self) -> MutexWorker {
        MutexWorker {
            cache: FreeCache::new(),
            removed: VecDeque::with_capacity(64),
        }
    }

    fn leave(&self, worker: &mut MutexWorker) {
        self.slab.flush(&mut worker.cache);
    }

    fn allocate(&self, worker: &mut MutexWorker) -> Option<EntryId> {
        self.slab.allocate(&mut worker.cache)
    }

    fn discard(&self, worker: &mut MutexWorker, id: EntryId) {
        self.give_back(worker, id);
    }

    fn lookup(&self, worker: &mut MutexWorker, key: &K, now: Nanos) -> Option<Hit> {
        let mut chains = self.lock();
        let bucket = self.bucket(key);
        let mut at = 0;
        while let Some(&node) = chains[bucket].get(at) {
            let entry = self.slab.entry(node.id);
            if entry.is_expired(now) {
                self.kill(&mut chains, worker, node.id);
                continue;
            }
            if self.key_of(node) == *key {
                self.slab.acquire_held(node.id);
                return Some(Hit {
                    id: node.id,
                    direction: node.direction,
                });
            }
            at += 1;
        }
        None
    }

    fn confirm(
        &self,
        worker: &mut MutexWorker,
        id: EntryId,
        now: Nanos,
        random: u32,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Confirmed {
        let entry = self.slab.entry(id);
        let mut chains = self.lock();
        if entry.status().contains(Status::DYING) {
            self.give_back(worker, id);
            return Confirmed::Refused(Refusal::Dying);
        }
        let limit = kernel_chain_limit(random);
        for key in [Direction::Original, Direction::Reply] {
            let wanted = entry.key(key);
            match self.find(&chains[self.bucket(&wanted)], &wanted, limit) {
                Ok(None) => {}
                Ok(Some(node)) => {
                    let clash = Clash {
                        winner: node.id,
                        key,
                        winner_key: node.direction,
                        at_reply_only: false,
                    };
                    return self.resolve(&mut chains, worker, id, now, clash, policy);
                }
                Err(refusal) => {
                    self.give_back(worker, id);
                    return Confirmed::Refused(refusal);
                }
            }
        }
        entry.set_deadline(now.saturating_add(entry.deadline()));
        self.publish(&mut chains, id, &[Direction::Original, Direction::Reply]);
        Confirmed::Inserted
    }

    fn remove(&self, _worker: &mut MutexWorker, id: EntryId) -> bool {
        self.unlink(&mut self.lock(), id)
    }

    fn release(&self, worker: &mut MutexWorker, id: EntryId) -> bool {
        self.slab.release(&mut worker.cache, id)
    }

    fn early_drop(
        &self,
        worker: &mut MutexWorker,
        key: &K,
        now: Nanos,
        evictable: &dyn Fn(&Entry<K>) -> bool,
    ) -> EarlyDrop {
        let mut chains = self.lock();
        let first = self.bucket(key);
        for bucket in
            (0..EVICTION_RANGE.min(chains.len())).map(|i| (first + i) % self.buckets as usize)
        {
            let mut evicted = 0;
            for node in chains[bucket].clone() {
                let entry = self.slab.entry(node.id);
                if entry.is_expired(now) {
                    self.kill(&mut chains, worker, node.id);
                } else if evictable(entry) && self.kill(&mut chains, worker, node.id) {
                    evicted += 1;
                }
            }
            if evicted > 0 {
                return EarlyDrop { evicted };
            }
        }
        EarlyDrop::default()
    }

    fn take_removed(&self, worker: &mut MutexWorker) -> Option<EntryId> {
        worker.removed.pop_front()
    }

    fn chain_lengths(&self) -> Option<ChainLengths> {
        let mut lengths = ChainLengths::default();
        for chain in self.lock().iter() {
            lengths.count(chain.len());
        }
        Some(lengths)
    }
}

impl<K: FlowKey> MutexTable<K> {
    /// Clash resolution under the lock, as the kernel does it under both bucket locks
    /// (`nf_ct_resolve_clash`).
    fn resolve(
        &self,
        chains: &mut Chains,
        worker: &mut MutexWorker,
        id: EntryId,
        now: Nanos,
        clash: Clash,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Confirmed {
        let entry = self.slab.entry(id);
        match policy.decide(&clash, entry, self.slab.entry(clash.winner)) {
            ClashStep::Merge => {
                self.slab.acquire_held(clash.winner);
                self.give_back(worker, id);
                Confirmed::Merged(clash)
            }
            ClashStep::ReplyOnly if !clash.at_reply_only => {
                let wanted = entry.key(Direction::Reply);
                // The reply chain is walked without a limit here, as in the kernel.
                match self.find(&chains[self.bucket(&wanted)], &wanted, usize::MAX) {
                    Ok(Some(node)) => {
                        let again = Clash {
                            winner: node.id,
                            key: Direction::Reply,
                            winner_key: node.direction,
                            at_reply_only: true,
                        };
                        self.resolve(chains, worker, id, now, again, policy)
                    }
                    _ => {
                        super::make_reply_only(entry, now);
                        self.publish(chains, id, &[Direction::Reply]);
                        Confirmed::ReplyOnly(clash)
                    }
                }
            }
            _ => {
                self.give_back(worker, id);
                Confirmed::Refused(Refusal::Clash(clash))
            }
        }
    }
}

//! The kernel's table in user space: writers take striped spin locks in order, readers take
//! none and start over when a reused entry has carried them to another chain.
//!
//! Any number of threads may look up, confirm and remove at once. Two writers of one chain
//! exclude each other; a reader is never kept waiting.
//!
//! # Memory
//! ```text
//! heads   [AtomicU32; buckets]        link to the first node of a chain
//! next    [AtomicU32; 2 x capacity]   link from node to node, beside the slab
//! locks   [SpinLock; 1024]            one cache line each; bucket b belongs to lock b % 1024
//!
//! link    | 0 | entry number 30 | direction 1 |   a node: one of the two of an entry
//!         | 1 | bucket number 31              |   end marker ("nulls") of that bucket's chain
//! ```
//! Keys, status and references are in the slab's entry; its `aux` counts references: one is
//! the table's, one each is a hit's.
//!
//! # States (who moves an entry, and where)
//! ```text
//! Pending --confirm, under both locks--> Confirmed --remove, expiry, early drop--> Dying --last reference--> Free
//! ```
//! A dying entry stays linked, and is still found, until its killer has both locks.
//!
//! # Invariants
//! - I1 `heads` and the `next` of a linked node change only under the lock of its bucket.
//! - I2 a new node goes to the head: a link leads to a node that was linked earlier, so a
//!   chain has no cycle.
//! - I3 a linked entry has at least one reference: its killer owns the table's, and
//!   gives it back only after both nodes are unlinked. Under a chain's lock its entries are
//!   therefore not reused.
//! - I4 the `next` of an unlinked node is left as it is until its entry's next life links it:
//!   a reader that stands on it goes on along the old chain or, later, along another one, whose
//!   end marker tells him.
//! - I5 two locks are taken in the order of their numbers; equal numbers once.
//!
//! # Linearization
//! - L1 confirm: the state change Pending to Confirmed in `StripedTable::publish`; both nodes
//!   are linked before it, and a reader believes neither without it.
//! - L2 lookup, hit: the successful `Slab::acquire_current`; miss: the load of the end marker of the chain
//!   that was searched.
//! - L3 remove: the unlinking of each node (as in the kernel: between the two, the connection is
//!   found by one key and it is dying).
//!
//! # Pairs
//! - P1 release: `StripedTable::link_at_head` and `StripedTable::unlink_node` store a link <-> acquire: a
//!   reader follows it: the fields of the node's entry and its own `next`.
//! - P2 release: `LockPair` dropped <-> acquire: `SpinLock::lock`: the chains as the last holder left them.
//! - The slab's P1 (state) carries the keys.
//!
//! # Progress
//! Lookup: lock-free, it starts over only when another thread has reused an entry meanwhile. All
//! else: blocking on at most two locks, held for two chain walks. The locks yield to the scheduler after some
//! spinning, which the kernel need not do (nobody takes its processor away under a lock).
//!
//! # Reclamation
//! None: entries are reused at once (`SLAB_TYPESAFE_BY_RCU`). Who follows an old link meets some life of some
//! entry; the generation in the entry's state tells whether it is the one whose key was read.
//!
//! # Sources
//! `____nf_conntrack_find`, `__nf_conntrack_confirm`, `nf_conntrack_double_lock`, `early_drop_list` (nf_conntrack_core.c),
//! `hlist_nulls` (rculist_nulls.h). Where we differ: chains are linked one way, so unlinking walks the chain; the
//! kernel takes a reference first and compares the key again, we take it for the life that was compared; the number
//! of buckets is fixed.

mod link;
mod lock;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_utils::CachePadded;

use clashtrack_engine::status::Status;
use clashtrack_engine::table::hash::{HashKey, bucket_of};
use clashtrack_engine::table::key::FlowKey;
use clashtrack_engine::table::mutex::EVICTION_RANGE;
use clashtrack_engine::table::slab::{Entry, EntryId, FreeCache, Life, Slab};
use clashtrack_engine::table::{
    ChainLengths, Clash, ClashPolicy, ClashStep, Confirmed, EarlyDrop, FlowTable, Guarantees, Hit,
    Refusal, TableConfig, kernel_chain_limit, make_reply_only,
};
use clashtrack_engine::time::Nanos;
use clashtrack_engine::tuple::Direction;

use link::{Link, Node};
use lock::{LockPair, SpinLock};

/// Locks of a table (`CONNTRACK_LOCKS`).
pub const LOCKS: usize = 1024;

/// Entries at most: a node's number has 31 bits, one of them is the direction.
pub const CAPACITY_MAX: usize = 1 << 30;

/// The kernel's table. See the [module](self).
#[derive(Debug)]
pub struct StripedTable<K: FlowKey> {
    slab: Slab<K>,
    hash_key: HashKey,
    buckets: u32,
    heads: Box<[AtomicU32]>,
    next: Box<[AtomicU32]>,
    locks: Box<[CachePadded<SpinLock>]>,
}

/// A thread's part of a [`StripedTable`].
#[derive(Debug, Default)]
pub struct StripedWorker {
    cache: FreeCache,
    removed: VecDeque<EntryId>,
    search_restarts: u64,
}

/// What confirm found out under the locks, for afterwards.
enum Outcome {
    Inserted,
    Merged(Clash),
    ReplyOnly(Clash),
    Refused(Refusal),
}

impl<K: FlowKey> FlowTable<K> for StripedTable<K> {
    type Worker = StripedWorker;

    const NAME: &'static str = "striped";
    const GUARANTEES: Guarantees = Guarantees {
        atomic_two_key: true,
        lock_free: false,
        bounded_chain: true,
    };

    /// # Panics
    /// If the capacity is 0 or beyond [`CAPACITY_MAX`].
    fn new(config: &TableConfig) -> StripedTable<K> {
        assert!(
            config.capacity <= CAPACITY_MAX,
            "a striped table holds at most {CAPACITY_MAX} entries, not {}",
            config.capacity
        );
        let buckets = config.buckets.clamp(1, 1 << 31) as u32;
        let end = |bucket| AtomicU32::new(Link::End { bucket }.pack());
        StripedTable {
            slab: Slab::new(config.capacity, config.acct),
            hash_key: config.hash_key,
            buckets,
            heads: (0..buckets).map(end).collect(),
            // Never followed before its node is linked; any end will do.
            next: (0..2 * config.capacity).map(|_| end(0)).collect(),
            locks: (0..LOCKS).map(|_| CachePadded::default()).collect(),
        }
    }

    fn slab(&self) -> &Slab<K> {
        &self.slab
    }

    fn worker(&self) -> StripedWorker {
        StripedWorker {
            cache: FreeCache::new(),
            removed: VecDeque::with_capacity(64),
            search_restarts: 0,
        }
    }

    fn leave(&self, worker: &mut StripedWorker) {
        self.slab.flush(&mut worker.cache);
    }

    fn allocate(&self, worker: &mut StripedWorker) -> Option<EntryId> {
        self.slab.allocate(&mut worker.cache)
    }

    fn discard(&self, worker: &mut StripedWorker, id: EntryId) {
        self.give_back(worker, id);
    }

    fn lookup(&self, worker: &mut StripedWorker, key: &K, now: Nanos) -> Option<Hit> {
        let bucket = self.bucket(key);
        // Not bounded: each new start is another thread's reuse of an entry (see Progress).
        loop {
            let mut link = self.head(bucket);
            let end = loop {
                let node = match link {
                    Link::Node(node) => node,
                    Link::End { bucket } => break bucket,
                };
                if let Some(hit) = self.try_hit(worker, node, key, now) {
                    return Some(hit);
                }
                link = self.next(node);
            };
            if end == bucket {
                return None;
            }
            worker.search_restarts += 1;
        }
    }

    fn confirm(
        &self,
        worker: &mut StripedWorker,
        id: EntryId,
        now: Nanos,
        random: u32,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Confirmed {
        match self.confirm_locked(id, now, random, policy) {
            Outcome::Inserted => Confirmed::Inserted,
            Outcome::ReplyOnly(clash) => Confirmed::ReplyOnly(clash),
            Outcome::Merged(clash) => {
                self.give_back(worker, id);
                Confirmed::Merged(clash)
            }
            Outcome::Refused(refusal) => {
                self.give_back(worker, id);
                Confirmed::Refused(refusal)
            }
        }
    }

    fn remove(&self, _worker: &mut StripedWorker, id: EntryId) -> bool {
        if !self.slab.change_life(id, Life::Confirmed, Life::Dying) {
            return false;
        }
        let entry = self.slab.entry(id);
        entry.set_status(Status::DYING);
        let original = self.bucket(&entry.key(Direction::Original));
        let reply = self.bucket(&entry.key(Direction::Reply));
        let _locks = self.lock_two(original, reply);
        self.unlink_node(original, id.index(), Direction::Original);
        self.unlink_node(reply, id.index(), Direction::Reply);
        true
    }

    fn release(&self, worker: &mut StripedWorker, id: EntryId) -> bool {
        self.slab.release(&mut worker.cache, id)
    }

    fn early_drop(
        &self,
        worker: &mut StripedWorker,
        key: &K,
        now: Nanos,
        evictable: &dyn Fn(&Entry<K>) -> bool,
    ) -> EarlyDrop {
        let first = self.bucket(key);
        for i in 0..(EVICTION_RANGE as u32).min(self.buckets) {
            let bucket = ((u64::from(first) + u64::from(i)) % u64::from(self.buckets)) as u32;
            let evicted = self.evict_chain(worker, bucket, now, evictable);
            if evicted > 0 {
                return EarlyDrop { evicted };
            }
        }
        EarlyDrop::default()
    }

    fn take_removed(&self, worker: &mut StripedWorker) -> Option<EntryId> {
        worker.removed.pop_front()
    }

    fn take_search_restarts(&self, worker: &mut StripedWorker) -> u64 {
        std::mem::take(&mut worker.search_restarts)
    }

    /// Each chain is counted under its lock; chains are counted one after the other.
    fn chain_lengths(&self) -> Option<ChainLengths> {
        let mut lengths = ChainLengths::default();
        for bucket in 0..self.buckets {
            let _lock = self.lock_two(bucket, bucket);
            lengths.count(self.chain(bucket).count());
        }
        Some(lengths)
    }
}

impl<K: FlowKey> StripedTable<K> {
    fn bucket(&self, key: &K) -> u32 {
        bucket_of(self.hash_key.hash(key), self.buckets)
    }

    fn head(&self, bucket: u32) -> Link {
        // Acquire, P1.
        Link::unpack(self.heads[bucket as usize].load(Ordering::Acquire))
    }

    fn next(&self, node: Node) -> Link {
        // Acquire, P1.
        Link::unpack(self.next[node.place()].load(Ordering::Acquire))
    }

    /// The nodes of a chain, for the holder of its lock (I3: they stay what they are).
    fn chain(&self, bucket: u32) -> impl Iterator<Item = Node> + '_ {
        let node_of = |link| match link {
            Link::Node(node) => Some(node),
            Link::End { .. } => None,
        };
        std::iter::successors(node_of(self.head(bucket)), move |&node| {
            node_of(self.next(node))
        })
    }

    /// Looks at one node for a reader: takes a reference if the node owns `key`; removes its
    /// entry if its time has come.
    fn try_hit(&self, worker: &mut StripedWorker, node: Node, key: &K, now: Nanos) -> Option<Hit> {
        let entry = self.slab.at(node.index);
        let state = entry.state();
        let id = EntryId::new(node.index, state.generation);
        match state.life {
            Life::Free | Life::Pending => return None,
            Life::Confirmed if entry.is_expired(now) => {
                self.kill(worker, id);
                return None;
            }
            // A dying entry is found until it is unlinked, as in the kernel.
            Life::Confirmed | Life::Dying => {}
        }
        // The key belongs to this life if the reference can still be had for it.
        (entry.key(node.direction) == *key && self.slab.acquire_current(id)).then_some(Hit {
            id,
            direction: node.direction,
        })
    }

    /// Removes an entry on the way; the worker reports it. Its key need not be right: only the
    /// life counts.
    fn kill(&self, worker: &mut StripedWorker, id: EntryId) -> bool {
        let killed = self.remove(worker, id);
        if killed {
            worker.removed.push_back(id);
        }
        killed
    }

    /// Evicts what may be evicted of one chain, without its lock. A walk that is carried to another
    /// chain ends there: early drop takes what it meets, as in the kernel.
    fn evict_chain(
        &self,
        worker: &mut StripedWorker,
        bucket: u32,
        now: Nanos,
        evictable: &dyn Fn(&Entry<K>) -> bool,
    ) -> u32 {
        let mut evicted = 0;
        let mut link = self.head(bucket);
        while let Link::Node(node) = link {
            let entry = self.slab.at(node.index);
            let state = entry.state();
            let id = EntryId::new(node.index, state.generation);
            if state.life == Life::Confirmed {
                if entry.is_expired(now) {
                    self.kill(worker, id);
                } else if evictable(entry) && self.kill(worker, id) {
                    evicted += 1;
                }
            }
            // The killed entry is ours, so its link still leads on (I4).
            link = self.next(node);
        }
        evicted
    }

    fn lock_two(&self, a: u32, b: u32) -> LockPair<'_> {
        LockPair::lock(&self.locks, a as usize % LOCKS, b as usize % LOCKS)
    }

    /// The walks and the insert, under both locks.
    fn confirm_locked(
        &self,
        id: EntryId,
        now: Nanos,
        random: u32,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Outcome {
        let entry = self.slab.entry(id);
        let keys = [entry.key(Direction::Original), entry.key(Direction::Reply)];
        let buckets = keys.map(|key| self.bucket(&key));
        let limit = kernel_chain_limit(random);
        let _locks = self.lock_two(buckets[0], buckets[1]);
        if entry.status().contains(Status::DYING) {
            return Outcome::Refused(Refusal::Dying);
        }
        for direction in [Direction::Original, Direction::Reply] {
            let at = direction.index();
            match self.find_locked(buckets[at], &keys[at], limit) {
                Ok(None) => {}
                Ok(Some(owner)) => {
                    let clash = self.clash(owner, direction, false);
                    return self.resolve(id, now, buckets[1], clash, policy);
                }
                Err(refusal) => return Outcome::Refused(refusal),
            }
        }
        entry.set_deadline(now.saturating_add(entry.deadline()));
        self.publish(
            id,
            &[
                (Direction::Original, buckets[0]),
                (Direction::Reply, buckets[1]),
            ],
        );
        Outcome::Inserted
    }

    /// First node of a locked chain that owns `key`; `Err` when more than `limit` were passed before it.
    fn find_locked(&self, bucket: u32, key: &K, limit: usize) -> Result<Option<Node>, Refusal> {
        for (passed, node) in self.chain(bucket).enumerate() {
            if self.slab.at(node.index).key(node.direction) == *key {
                return Ok(Some(node));
            }
            if passed > limit {
                return Err(Refusal::ChainTooLong);
            }
        }
        Ok(None)
    }

    /// The clash with the owner of a node in a locked chain.
    fn clash(&self, owner: Node, key: Direction, at_reply_only: bool) -> Clash {
        Clash {
            winner: EntryId::new(owner.index, self.slab.at(owner.index).state().generation),
            key,
            winner_key: owner.direction,
            at_reply_only,
        }
    }

    /// `nf_ct_resolve_clash`, under both locks.
    fn resolve(
        &self,
        id: EntryId,
        now: Nanos,
        reply_bucket: u32,
        clash: Clash,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Outcome {
        let entry = self.slab.entry(id);
        match policy.decide(&clash, entry, self.slab.entry(clash.winner)) {
            ClashStep::Merge => {
                // The winner is linked, so it has the table's reference (I3).
                self.slab.acquire_held(clash.winner);
                Outcome::Merged(clash)
            }
            ClashStep::ReplyOnly if !clash.at_reply_only => {
                let wanted = entry.key(Direction::Reply);
                // The reply chain is walked without a limit here, as in the kernel.
                match self.find_locked(reply_bucket, &wanted, usize::MAX) {
                    Ok(Some(owner)) => {
                        let again = self.clash(owner, Direction::Reply, true);
                        self.resolve(id, now, reply_bucket, again, policy)
                    }
                    _ => {
                        make_reply_only(entry, now);
                        self.publish(id, &[(Direction::Reply, reply_bucket)]);
                        Outcome::ReplyOnly(clash)
                    }
                }
            }
            _ => Outcome::Refused(Refusal::Clash(clash)),
        }
    }

    /// Links nodes at the heads of their locked chains, then confirms the entry (L1).
    fn publish(&self, id: EntryId, nodes: &[(Direction, u32)]) {
        for &(direction, bucket) in nodes {
            let node = Node {
                index: id.index(),
                direction,
            };
            self.link_at_head(bucket, node);
        }
        // The table's own reference, beside the caller's.
        self.slab.acquire_held(id);
        self.slab.entry(id).set_status(Status::CONFIRMED);
        let confirmed = self.slab.change_life(id, Life::Pending, Life::Confirmed);
        debug_assert!(confirmed, "an unconfirmed entry is its worker's own");
    }

    fn link_at_head(&self, bucket: u32, node: Node) {
        let head = &self.heads[bucket as usize];
        // Relaxed: we hold the bucket's lock (P2).
        let first = head.load(Ordering::Relaxed);
        // Release, P1: a reader that stands on this place from an earlier life goes on to `first`.
        self.next[node.place()].store(first, Ordering::Release);
        // Release, P1: the node's own link before the way to it.
        head.store(Link::Node(node).pack(), Ordering::Release);
    }

    /// Takes a node out of a locked chain, if it is in it (a reply-only entry has one node).
    fn unlink_node(&self, bucket: u32, index: u32, direction: Direction) {
        let wanted = Link::Node(Node { index, direction }).pack();
        let mut from = &self.heads[bucket as usize];
        loop {
            // Acquire, P1 (the lock alone would do).
            let seen = from.load(Ordering::Acquire);
            let Link::Node(node) = Link::unpack(seen) else {
                return;
            };
            let next = &self.next[node.place()];
            if seen == wanted {
                // Relaxed: under the lock. Release, P1: the node behind was published by somebody else, perhaps.
                from.store(next.load(Ordering::Relaxed), Ordering::Release);
                return;
            }
            from = next;
        }
    }

    fn give_back(&self, worker: &mut StripedWorker, id: EntryId) {
        let freed = self.slab.release(&mut worker.cache, id);
        debug_assert!(freed, "an unconfirmed entry has one owner");
    }
}

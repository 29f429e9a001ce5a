//! The lock-free table: any number of threads look up, confirm and remove at once, and no
//! operation waits for another thread.
//!
//! The truth about a connection is ONE word, the state of its entry. Slots in buckets are
//! only an index to entries. An insert makes its slots *official* one after the other, in
//! the order of their canonical keys, while its entry is Pending (lookups take Pending for
//! absent); then one CAS Pending → Confirmed makes all its keys visible at once. A slot
//! becomes official by a CAS on the chain's header, from the very header value under which
//! the whole chain was searched for an equal key: so inserts of one chain are one after the
//! other without a lock. Whoever meets a Pending equal key drives that insert to its decision
//! first, always towards larger keys: no waiting, and no circle. (An insert that has its original key second looks
//! first, without a step of its own, whether that one is owned: the usual clash behind NAT.) Removing is a CAS
//! Confirmed → Dying; clearing slots is mere cleanup. Lookups write nothing, unless what they
//! find has expired: then they remove it.
//!
//! # Memory
//! ```text
//! heads     64 B  | header | s0 | s1 | s2 | s3 | s4 | s5 | s6 |      positions 0..6
//! ext        8 B  | link |                                          one a head, touched if header.overflow > 0
//! overflow  64 B  | link | s7 .............................. |      positions 7..13, 14..20, 21..27
//! entry     64 B  in the slab: state, both keys, deadline, status …
//! header          | version 32 | overflow 2 | FROZEN 1 | INIT 1 | valid 28 |   valid: position is official
//! slot            | tag 16 | covers 2 | role 1 | generation 19 | index 26 |
//! link            | tag 32 | bucket 32 |
//! state           | aux 32 | generation 29 | life 3 |
//! ```
//! All valid bits of a chain are in its one header, so one CAS commits a slot anywhere in the
//! chain: that bounds it to 28. The words' legal values are in `word`.
//!
//! Size: two slots for each of `capacity` connections (NAT) fill [`FILL_PERCENT`] of the head
//! slots. At that fill, after ten turnovers, 5.5 % of the slots live in overflow, and 94.4 % of the hits
//! read one bucket line and one entry line ([`FlowTable::hit_lines`] counts them). The slab has a
//! quarter more entries than `capacity` for what waits to be reused ([`SLACK_DIVISOR`],
//! [`TableConfig::slack`]). Numbers that were never used are used last (`pool`), so slack that was not
//! needed is not touched. A connection's bytes of resident memory, a million of them with NAT and turned over ten times:
//! ```text
//! entry 64 | tracker 64, TCP only | head bucket 33.2 | ext 4.2 | overflow 5 | pools, limbo, last huge pages 4
//! ```
//!
//! # States
//! ```text
//!           allocate (owner)             all pieces official (anyone)              remove (one winner)
//! Free(g-1) ------> Pending(g, attempt) ------> Confirmed(g) ------> Dying(g)
//!   ^                 |        ^                                         |
//!   |        clash or |        | owner, all pieces cleared: the next     |
//!   |  no room (any-  |        | attempt, perhaps by the reply key alone |
//!   |  one)           v        |                                         |
//!   +---- retire -- Aborted(g, winner)                                   |
//!   +------------------------------ retire (winner) --------------------+
//! ```
//! Each step but the owner's own is a CAS on the whole word. "Free" may be reused when its
//! grace period is over.
//!
//! *Attempts* are how an entry keeps its [`EntryId`] when it is tried again. The Pending
//! word of each attempt is different (its number is in it), so that a helper of an earlier
//! one finds its insert decided; and the pieces of the earlier one are cleared, which locks
//! its helpers out of the chains (I6), before the next one begins. A leftover word of the
//! original key of an entry that came in by its reply key alone is told by that bit of the state.
//!
//! # Invariants
//! - I1 a slot word is written by its owner alone. Claiming (CAS from EMPTY) owns it; the
//!   header CAS that sets the bit gives it to the chain, where it is constant; the one that
//!   clears the bit gives it to the clearer, who stores EMPTY. Nobody empties a word that is not his, be its entry dead.
//!   A bucket too has one owner: the pool, a worker, one link word, or a limbo.
//! - I2 while a header value stands (its version never repeats), official words do not change.
//! - I3 a key has at most one official slot of an entry that is Pending or Confirmed: the CAS is
//!   made from the header under which every official word was seen dead or unequal.
//! - I4 a piece becomes official at most once an attempt: the attempt is seen undecided after the header was read.
//! - I5 Confirmed ⇒ all pieces are official; the bit of an entry that lives is never cleared.
//! - I6 once clearing a piece has returned, it does not become official (in that attempt): a
//!   helper has an older header, and fails, or sees that the attempt is over. Clearing makes
//!   a new version even if it finds nothing. A piece that never had a word in a slot needs no
//!   clearing: nobody can have begun to help it.
//! - I7 no body is read unless its state said alive, and the right life, within this pin.
//! - I8 while a header stands its first `overflow` link words are constant: a linked word is
//!   changed only from a value read while it was linked, after the CAS that unlinked it; values do not recur.
//! - I9 an official slot is in a linked bucket, which stays where it is while the bit is set.
//! - I10 a bucket is in at most one link word; behind the linked ones it has a pinned thread that answers for it.
//!
//! # Linearization
//! - L1 confirm: the CAS Pending → Confirmed, by whoever made it.
//! - L2 clash: the load that saw the winner Confirmed.
//! - L3 lookup hit: the load of the state. L4 remove: the CAS Confirmed → Dying.
//! - L5 miss: some moment within, at which nobody owned the key: one owner throughout would
//!   have had one slot throughout, in the way of the scan.
//!
//! After L1 and L4 a `SeqCst` fence (on x86-64 the locked instruction is one): else "insert A, look up B" and "insert B, look up A" might both miss.
//!
//! # Pairs
//! - P1 release: the store of Pending, and every CAS of a state <-> acquire: every load of a
//!   state: the body; the official slots that a decision stands on.
//! - P2 release: the claim of a slot <-> acquire: its load: the body of the entry behind it.
//! - P3 release: every CAS of a header <-> acquire: its load: words, links and decisions behind
//!   each bit; that an insert was aborted, after its clearing. All its writes are CASes, so release sequences do not break.
//! - P4 release: every CAS of a link <-> acquire: its load: the bucket's words are EMPTY, or what was put there since.
//! - P5 release: emptying a slot <-> acquire: the claim of it: the header of the emptier.
//!
//! # Progress
//! Lookup: wait-free, 28 slots at most (a batch of n: n times that), but for the removal of
//! an expired connection that it finds. Confirm, remove, early
//! drop: lock-free; a retry means that somebody else changed the header of that chain,
//! which each operation does a bounded number of times. Allocate, release: lock-free
//! (`pool`, `epoch`). A thread that stops while pinned holds up the reuse of entries: others
//! go on until the slack is used, and are then refused and counted
//! ([`LockfreeCounters::recycle_stalled`]). Its tentative words keep their slots occupied. What a worker took out in its last
//! batch waits in its limbo until it makes a call again, or leaves.
//!
//! # What a lookup costs
//! Two dependent lines. A batch hashes all keys and asks for all heads, compares whole buckets
//! (`scan`) and asks for the entries of the right tag, then reads the entries; what goes on into
//! overflow is asked for in between, and settled last. Words that a vector compare found are
//! read again by an acquire load (P2). Hints for reading and writing, and the instructions, are
//! settings.
//!
//! # What a connect and a removal cost
//! Locked instructions of a connect: two claims, two headers, one state; of a removal one state, two headers,
//! one status bit. A batch (`batch`) hashes the keys once, asks for the heads of all, then for the overflow
//! buckets of chains that go on, and then does one after the other; the order of each one's steps is
//! that of an operation alone. Who has lost to others does the half of a batch first that they do last (`rivals`). Where there are vectors, one compare tells an insert that a
//! bucket holds no equal tag.
//!
//! # Reclamation
//! Who may hold a reference to an entry or an overflow bucket: a pinned worker. Workers are
//! pinned in a batch ([`FlowTable::begin`]), in any other call, and while they hold a hit.
//! Retired entries and buckets wait in the worker's limbo until nobody is pinned who could
//! have met them (`epoch`). Reference counts are not used.
//! An entry that no slot ever named (never confirmed, or a clash seen before a slot was
//! claimed) is reused at once. Generations make what outlives that harmless: 19 bits in slots,
//! 29 in ids. What it means when they or versions come round, and after how long, is said in `word`.
//!
//! # Checked by
//! One thread against a map on tiny geometries (`tests/model.rs`), real threads with an
//! accounting identity (`tests/race.rs`), loom (`tests/interleavings.rs`, `tests/handing_on.rs`), shuttle
//! (`tests/programs.rs`, `tests/few_switches.rs`, `tests/stories.rs`; `tests/rounds.rs` with fields of few bits); threads
//! given up after each of their accesses, under both (`tests/abandoned*.rs`). Each ends in
//! `quiescent.rs`. Memory orderings stand on loom alone. docs/mutations.md lists what these were seen to notice.
//!
//! # Where it differs from the kernel
//! Its chain limit is 18 to 28 positions, drawn for each insert. A matching expired entry is
//! replaced at confirm instead of clashing (between the two steps the key is absent). A NATed connection both of whose keys are one key is refused as a clash with itself.
//!
//! # Sources
//! The idea that a status decides and others help: Harris, Fraser, Pratt, *A practical
//! multi-word compare-and-swap operation* (2002). Cache-line buckets with a versioned header:
//! Li et al., MemC3 (2013). What a confirm means: `__nf_conntrack_confirm`, `nf_ct_resolve_clash` (nf_conntrack_core.c).

mod batch;
mod bucket;
mod canonical;
mod chain;
mod epoch;
mod insert;
mod install;
mod lookup;
mod overflow;
mod pool;
mod prefetch;
#[cfg(test)]
mod quiescent;
mod remove;
mod rivals;
mod scan;
mod side_by_side;
#[cfg(test)]
mod tests;
mod word;
mod worker;

use std::sync::Arc;

pub use bucket::{Geometry, Narrow, Wide};
pub use prefetch::Hint;
pub use scan::Isa;
pub use worker::{LockfreeCounters, LockfreeWorker};

use bucket::Index;
use canonical::Pieces;
use pool::Pool;
use scan::Available;
use word::{ENTRIES_MAX, Slot, State};
use worker::Shared;

use super::hash::{Folded, HashKey, KeyHasher};
use super::key::FlowKey;
use super::slab::{Entry, EntryId, Slab};
use super::{
    ChainLengths, ClashPolicy, Confirmed, EarlyDrop, FlowTable, Guarantees, Hit, HitLines,
    TableConfig,
};
use crate::random::WorkerRng;
use crate::status::Status;
use crate::sync::{AtomicU64, Ordering};
use crate::time::Nanos;
use crate::tuple::Direction;

/// Head slots in use when `capacity` connections with NAT are in the table: the highest at which 94 %
/// of the hits read two lines after ten turnovers (at 50 it is 96.1 %, at 58 93.3 %). Beyond it memory is
/// won slowly and time lost fast: at 80 % a connection is 20 B smaller, but 16 % of the slots live
/// in overflow, and a connect costs twice as much.
pub const FILL_PERCENT: usize = 55;

/// The slab has `capacity / SLACK_DIVISOR` entries more, for those that wait for their grace period,
/// unless [`TableConfig::slack`] says how many.
pub const SLACK_DIVISOR: usize = 4;

/// Chains with connections that an early drop looks through (`NF_CT_EVICTION_RANGE`).
const EVICTION_RANGE: u32 = 8;

/// Chains that it passes at most: a table much larger than its limit of connections has many empty ones.
const EVICTION_REACH: u32 = 1024;

/// How much of everything a table has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Connections at most, unconfirmed ones included.
    pub entries_max: usize,
    /// Entries beside them that may wait to be reused.
    pub slack: usize,
    /// Head buckets.
    pub heads: usize,
    /// Overflow buckets.
    pub overflow: usize,
}

impl Layout {
    /// For `capacity` connections, all of them with NAT.
    #[must_use]
    pub fn for_capacity(capacity: usize) -> Layout {
        // Small tables too: workers keep some numbers at hand.
        const SLACK_MIN: usize = 2048;
        const OVERFLOW_MIN: usize = 2048;
        // Saturating, here and below: a capacity that wraps round would be taken for a small one, not refused.
        let heads = capacity
            .saturating_mul(2 * 100)
            .div_ceil(bucket::SLOTS * FILL_PERCENT)
            .max(1);
        Layout {
            entries_max: capacity,
            slack: (capacity / SLACK_DIVISOR).max(SLACK_MIN),
            heads,
            // At this fill about an eighth of the chains own one after many turnovers.
            overflow: heads / 4 + OVERFLOW_MIN,
        }
    }

    /// The same with room for what so many workers keep at hand, which the others cannot have.
    #[must_use]
    pub fn for_workers(self, workers: usize) -> Layout {
        let at_hand = workers.saturating_mul(pool::AT_HAND);
        let entries_left = ENTRIES_MAX.saturating_sub(self.entries_max);
        Layout {
            slack: self.slack.max(at_hand.min(entries_left)),
            overflow: self.overflow.max(self.heads / 4 + at_hand),
            ..self
        }
    }
}

/// The lock-free table. See the [module](self).
#[derive(Debug)]
pub struct LockfreeTable<K: FlowKey, G: Geometry = Wide, H: KeyHasher = Folded> {
    slab: Slab<K>,
    index: Index<G>,
    entries: Pool,
    shared: Arc<Shared>,
    hasher: H,
    /// For lines that are read.
    hint: Hint,
    /// For lines that will be changed.
    write_hint: Hint,
    /// As it is used: never [`Isa::Auto`].
    isa: Available,
}

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    /// A table of this layout.
    ///
    /// # Panics
    /// If there is no head bucket, more than 2^26 - 2 entries, or no memory.
    #[must_use]
    pub fn with_layout(layout: Layout, hash_key: HashKey, acct: bool) -> Self {
        let entries = layout.entries_max.saturating_add(layout.slack);
        assert!(
            entries <= ENTRIES_MAX,
            "a slot can name {ENTRIES_MAX} entries, not {entries}"
        );
        assert!(
            layout.heads > 0 && layout.heads < 1 << 31,
            "a table has 1 to 2^31 - 1 buckets, not {}",
            layout.heads
        );
        LockfreeTable {
            slab: Slab::without_pool(entries, acct),
            index: Index::new(layout.heads, layout.overflow),
            entries: Pool::new(entries),
            shared: Arc::new(Shared::new(layout.entries_max, entries, layout.overflow)),
            hasher: H::with_key(hash_key),
            hint: Hint::default(),
            write_hint: Hint::default(),
            isa: Isa::Auto.available(),
        }
    }

    /// Chooses how lines are asked for ahead of use: those that will be read, and those that
    /// will be changed.
    pub fn set_prefetch(&mut self, reading: Hint, writing: Hint) {
        (self.hint, self.write_hint) = (reading, writing);
    }

    /// Chooses the instructions of lookups; [`Isa::Scalar`] is taken for what the machine has not.
    pub fn set_isa(&mut self, isa: Isa) {
        self.isa = isa.available();
    }

    /// The instructions that lookups use: never [`Isa::Auto`].
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa.isa()
    }

    fn hashing(&self) -> (H, u32) {
        (self.hasher, self.index.heads.len() as u32)
    }

    fn state_word(&self, id: EntryId) -> &AtomicU64 {
        self.slab.entry(id).state_word()
    }

    /// Original and reply key of an entry of the caller's own, or one seen alive in this pin (I7).
    #[inline]
    fn keys_of(&self, id: EntryId) -> [K; 2] {
        let entry = self.slab.entry(id);
        [entry.key(Direction::Original), entry.key(Direction::Reply)]
    }

    /// The pieces of an entry whose state was seen alive in this pin (I7).
    #[inline]
    fn pieces_of(&self, id: EntryId, state: State) -> Pieces {
        let [original, reply] = self.keys_of(id);
        if state.is_reply_only() {
            return Pieces::reply_only(&reply, self.hashing());
        }
        Pieces::of(&original, &reply, self.hashing())
            .expect("a clash with itself is refused at the door")
    }

    /// Confirmed entries that the slots of a chain lead to, each slot once.
    fn entries_of_chain(&self, bucket: u32) -> impl Iterator<Item = EntryId> + '_ {
        let chain = self.index.chain(bucket);
        let links = chain.walk(chain.header().overflow());
        chain
            .buckets(links)
            .flat_map(|(bucket, _, used)| &bucket.slots[..used])
            .filter_map(|word| {
                // Acquire, P2; then P1.
                let slot = Slot(word.load(Ordering::Acquire));
                if slot.is_free() {
                    return None;
                }
                let word = self.slab.at(slot.index()).state_word();
                // Acquire, P1.
                let state = State(word.load(Ordering::Acquire));
                (state.is_confirmed() && slot.is_of(state))
                    .then_some(EntryId::new(slot.index(), state.generation()))
            })
    }
}

impl<K: FlowKey, G: Geometry, H: KeyHasher> FlowTable<K> for LockfreeTable<K, G, H> {
    type Worker = LockfreeWorker;

    const NAME: &'static str = "lockfree";
    const GUARANTEES: Guarantees = Guarantees {
        atomic_two_key: true,
        lock_free: true,
        bounded_chain: true,
    };
    /// With the slack, as many entries as a slot can name.
    const CAPACITY_MAX: usize = ENTRIES_MAX / (SLACK_DIVISOR + 1) * SLACK_DIVISOR;
    const WORKERS_MAX: usize = epoch::WORKERS_MAX;

    /// `config.buckets` is not asked: the number follows from the capacity ([`Layout::for_capacity`]).
    fn new(config: &TableConfig) -> Self {
        let mut layout = Layout::for_capacity(config.capacity).for_workers(config.workers);
        layout.slack = config.slack.unwrap_or(layout.slack);
        let mut table = LockfreeTable::with_layout(layout, config.hash_key, config.acct);
        table.set_prefetch(config.prefetch, config.prefetch_write);
        table.set_isa(config.isa);
        table
    }

    #[inline]
    fn slab(&self) -> &Slab<K> {
        &self.slab
    }

    fn worker(&self) -> LockfreeWorker {
        self.welcome()
    }

    fn leave(&self, worker: &mut LockfreeWorker) {
        self.see_off(worker);
    }

    #[inline]
    fn begin(&self, worker: &mut LockfreeWorker) {
        self.begin_call(worker);
    }

    #[inline]
    fn end(&self, worker: &mut LockfreeWorker) {
        self.end_call(worker);
    }

    #[inline]
    fn allocate(&self, worker: &mut LockfreeWorker) -> Option<EntryId> {
        self.begin_life(worker)
    }

    fn discard(&self, worker: &mut LockfreeWorker, id: EntryId) {
        self.end_unseen(worker, id);
    }

    #[inline]
    fn lookup(&self, worker: &mut LockfreeWorker, key: &K, now: Nanos) -> Option<Hit> {
        self.begin_call(worker);
        let hit = self.find_one(worker, key, now);
        self.end_call(worker);
        hit
    }

    fn lookup_batch(
        &self,
        worker: &mut LockfreeWorker,
        keys: &[K],
        now: Nanos,
        hits: &mut [Option<Hit>],
    ) {
        self.begin_call(worker);
        self.find_batch(worker, keys, now, hits);
        self.end_call(worker);
    }

    fn status_batch(
        &self,
        worker: &mut LockfreeWorker,
        keys: &[K],
        now: Nanos,
        found: &mut [Option<Status>],
    ) {
        self.begin_call(worker);
        self.find_batch(worker, keys, now, found);
        self.end_call(worker);
    }

    fn prepare_confirm(&self, _worker: &mut LockfreeWorker, ids: &[EntryId]) {
        self.prefetch_confirms(ids);
    }

    fn confirm(
        &self,
        worker: &mut LockfreeWorker,
        id: EntryId,
        now: Nanos,
        random: u32,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Confirmed {
        self.begin_call(worker);
        let confirmed = self.confirm_pinned(worker, id, now, random, policy);
        self.end_call(worker);
        confirmed
    }

    fn confirm_batch(
        &self,
        worker: &mut LockfreeWorker,
        ids: &[EntryId],
        now: Nanos,
        rng: &mut WorkerRng,
        policy: &mut dyn ClashPolicy<K>,
        outcomes: &mut [Confirmed],
    ) {
        self.begin_call(worker);
        self.confirm_many(worker, ids, (now, rng), policy, outcomes);
        self.end_call(worker);
    }

    fn remove_batch(&self, worker: &mut LockfreeWorker, ids: &[EntryId], removed: &mut [bool]) {
        self.begin_call(worker);
        self.kill_many(worker, ids, removed);
        self.end_call(worker);
    }

    fn prepare_remove(&self, worker: &mut LockfreeWorker, ids: &[EntryId]) {
        self.begin_call(worker);
        self.prefetch_removals(ids);
        self.end_call(worker);
    }

    fn remove(&self, worker: &mut LockfreeWorker, id: EntryId) -> bool {
        self.begin_call(worker);
        let removed = self.kill(worker, id);
        self.end_call(worker);
        removed
    }

    #[inline(always)]
    fn release(&self, worker: &mut LockfreeWorker, id: EntryId) -> bool {
        if worker.disown(id) {
            self.retire(worker, id);
            return true;
        }
        self.unhold(worker);
        false
    }

    fn early_drop(
        &self,
        worker: &mut LockfreeWorker,
        key: &K,
        now: Nanos,
        evictable: &dyn Fn(&Entry<K>) -> bool,
    ) -> EarlyDrop {
        self.begin_call(worker);
        let first = self.probe(key).bucket();
        let heads = self.index.heads.len() as u32;
        let (mut evicted, mut used) = (0, 0);
        for bucket in (0..EVICTION_REACH.min(heads)).map(|i| (first + i) % heads) {
            if self.index.chain(bucket).header().valid() == 0 {
                continue;
            }
            used += 1;
            for id in self.entries_of_chain(bucket) {
                let entry = self.slab.entry(id);
                let expired = entry.is_expired(now);
                if !expired && !evictable(entry) {
                    continue;
                }
                let removed = self.reap(worker, id);
                evicted += u32::from(removed && !expired);
            }
            if evicted > 0 || used == EVICTION_RANGE {
                break;
            }
        }
        self.end_call(worker);
        EarlyDrop { evicted }
    }

    fn take_removed(&self, worker: &mut LockfreeWorker) -> Option<EntryId> {
        worker.removed.pop_front()
    }

    fn take_recycle_stalled(&self, worker: &mut LockfreeWorker) -> u64 {
        worker.take_recycle_stalled()
    }

    /// Of each chain at its moment, by its official slots: exact at rest.
    fn hit_lines(&self) -> Option<HitLines> {
        let mut lines = HitLines::default();
        for bucket in 0..self.index.heads.len() as u32 {
            self.index.chain(bucket).count_hit_lines(&mut lines);
        }
        Some(lines)
    }

    /// Official positions of each chain, read one after the other while others go on.
    fn chain_lengths(&self) -> Option<ChainLengths> {
        let mut lengths = ChainLengths::default();
        for bucket in 0..self.index.heads.len() as u32 {
            lengths.count(self.index.chain(bucket).header().valid().count_ones() as usize);
        }
        Some(lengths)
    }
}

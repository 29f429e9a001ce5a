//! Tables: where a connection is found by either of its two keys.
//!
//! [`FlowTable`] is the contract that every table keeps, ours and the peers in the harness:
//! look up, *confirm* a connection with two keys (atomically or not at all), insert by the
//! reply key alone, remove, walk. A table says which guarantees it gives ([`Guarantees`]);
//! the harness measures whether it keeps them.
//!
//! ```text
//! allocate ─▶ entry Pending, one worker's own ─▶ keys, NAT, tracker written
//!    │                                              │ confirm
//!    │ discard                                      ├─▶ Confirmed         both keys found from here on
//!    ▼                                              ├─▶ Merged(winner)    clash, same flow: entry given back
//!   free                                            ├─▶ ReplyOnly         clash on the original key alone
//!                                                   └─▶ Refused(reason)   entry given back
//! lookup ─▶ Hit, held ─▶ release
//! remove / expiry / early drop ─▶ the one killer gets the entry, tells the world, gives it back with `release`
//! ```
//!
//! The default is [`lockfree`]; [`mutex`] is the plain reference. A new table goes into a module
//! of its own beside them, or into a crate of its own.

mod entry;
pub mod hash;
pub mod key;
mod key_v6;
pub mod lockfree;
pub mod mutex;
pub mod prefetch;
pub mod slab;
pub mod storage;
mod tracker;

use key::FlowKey;
use slab::{Entry, EntryId, Slab};

use crate::random::WorkerRng;
use crate::status::Status;
use crate::time::{Nanos, SECOND};
use crate::tuple::Direction;

/// What a table promises, printed beside its figures and checked by the anomaly counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guarantees {
    /// Both keys of a connection appear in one step; nobody sees one without the other.
    pub atomic_two_key: bool,
    /// No operation waits for another thread.
    pub lock_free: bool,
    /// Insertion refuses chains beyond a bound.
    pub bounded_chain: bool,
}

/// A connection found by one of its keys. It stays this life of the entry until it is
/// given back with [`FlowTable::release`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit {
    /// The connection.
    pub id: EntryId,
    /// Whose key was found.
    pub direction: Direction,
}

/// What a clash policy wants done when a key is taken at confirm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClashStep {
    /// The packet adopts the winner's entry.
    Merge,
    /// Try to insert by the reply key alone (only an answer to a first clash).
    ReplyOnly,
    /// The packet is dropped.
    Drop,
}

/// A key that is taken at confirm, and by whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clash {
    /// The entry that owns the key (the winner). Held for the caller after a merge, and only then.
    pub winner: EntryId,
    /// Which of the loser's keys is taken.
    pub key: Direction,
    /// Which of the winner's keys it is.
    pub winner_key: Direction,
    /// False at the first clash, true when the reply-only insert found its key taken too.
    pub at_reply_only: bool,
}

/// Decides what becomes of the loser of a clash (the engine's is in [`crate::clash`]).
/// Called by the table at the moment when both entries are known to be what they are.
pub trait ClashPolicy<K: FlowKey> {
    /// The step to take. [`ClashStep::ReplyOnly`] given at [`Clash::at_reply_only`] means drop.
    fn decide(&mut self, clash: &Clash, loser: &Entry<K>, winner: &Entry<K>) -> ClashStep;
}

/// Why a confirm was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A key was taken and the policy said drop.
    Clash(Clash),
    /// A chain was longer than the limit drawn for this insert.
    ChainTooLong,
    /// The entry was marked dying before it was confirmed.
    Dying,
    /// The table has no room (fixed capacity, overflow used up).
    Full,
}

/// What became of a confirm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Confirmed {
    /// Both keys are in the table.
    Inserted,
    /// The packet now belongs to the winner, which is held for the caller; the loser was given back.
    Merged(Clash),
    /// The loser is in the table by its reply key alone.
    ReplyOnly(Clash),
    /// Nothing was inserted; the loser was given back.
    Refused(Refusal),
}

/// What an early drop did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EarlyDrop {
    /// Live connections removed to make room. 0 is a failure.
    pub evicted: u32,
}

/// Lengths of the chains of a table at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChainLengths {
    /// `histogram[n]` is the number of chains of n nodes.
    pub histogram: Vec<u64>,
}

impl ChainLengths {
    /// The longest chain.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.histogram.iter().rposition(|&n| n > 0).unwrap_or(0)
    }

    /// Nodes per chain that has any.
    #[must_use]
    pub fn mean_of_used(&self) -> f64 {
        let (chains, nodes) = self
            .histogram
            .iter()
            .enumerate()
            .skip(1)
            .fold((0u64, 0u64), |(c, n), (len, &k)| {
                (c + k, n + k * len as u64)
            });
        if chains == 0 {
            0.0
        } else {
            nodes as f64 / chains as f64
        }
    }
}

/// How many cache lines lookups read that find what they look for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HitLines {
    /// Keys that can be found.
    pub keys: u64,
    /// Of these, the ones that are found by one line of the index and the line with the
    /// connection's keys, and nothing else.
    pub in_two: u64,
}

impl HitLines {
    /// The part of all keys that two lines are enough for; 1 for an empty table.
    #[must_use]
    pub fn share_in_two(self) -> f64 {
        if self.keys == 0 {
            return 1.0;
        }
        self.in_two as f64 / self.keys as f64
    }
}

impl ChainLengths {
    /// Counts one chain of `length` nodes.
    pub fn count(&mut self, length: usize) {
        if self.histogram.len() <= length {
            self.histogram.resize(length + 1, 0);
        }
        self.histogram[length] += 1;
    }
}

/// The kernel's chain limit, drawn anew for each insert: 50 to 79, uniform
/// (`MIN_CHAINLEN` and `MAX_CHAINLEN` in nf_conntrack_core.c). A chain is too long for an
/// insert when *more than* this many nodes were passed without a match.
#[must_use]
pub fn kernel_chain_limit(random: u32) -> usize {
    const SHORTEST: usize = 50;
    const SPREAD: u64 = 30;
    SHORTEST + ((u64::from(random) * SPREAD) >> 32) as usize
}

/// Turns an unconfirmed entry into one that lives by its reply key alone: a second from
/// `now`, whatever traffic it sees (`nf_ct_resolve_clash_harder`).
pub fn make_reply_only<K: FlowKey>(entry: &Entry<K>, now: Nanos) {
    entry.set_deadline(now.saturating_add(REPLY_ONLY_TIMEOUT));
    entry.set_status(Status::FIXED_TIMEOUT | Status::NAT_CLASH);
}

/// How long an entry lives that clash resolution inserted by its reply key alone.
pub const REPLY_ONLY_TIMEOUT: Nanos = SECOND;

/// How a table is made.
#[derive(Clone, Debug)]
pub struct TableConfig {
    /// Entries at most, unconfirmed ones included.
    pub capacity: usize,
    /// Hash buckets wanted (`nf_conntrack_buckets`); a table may round or ignore it.
    pub buckets: usize,
    /// Threads that will work on it at one time; a table may divide itself by it.
    pub workers: usize,
    /// The secret of the hash.
    pub hash_key: hash::HashKey,
    /// Keep traffic counters.
    pub acct: bool,
    /// Entries beside `capacity` that may wait to be reused, for a table where a worker that
    /// stops in the middle of a batch holds up their reuse: so many inserts of others go on
    /// meanwhile. `None` is the table's own default. Memory is touched only when they are needed.
    pub slack: Option<usize>,
    /// How a table that asks for memory ahead of its use does so, for what it will read.
    pub prefetch: prefetch::Hint,
    /// The same for what it will change.
    pub prefetch_write: prefetch::Hint,
    /// The instructions that a table with vector code uses.
    pub isa: lockfree::Isa,
}

impl TableConfig {
    /// As the kernel sizes itself: as many buckets as entries. For one worker.
    #[must_use]
    pub fn new(capacity: usize, hash_key: hash::HashKey) -> TableConfig {
        TableConfig {
            capacity,
            buckets: capacity,
            workers: 1,
            hash_key,
            acct: false,
            slack: None,
            prefetch: prefetch::Hint::default(),
            prefetch_write: prefetch::Hint::Write,
            isa: lockfree::Isa::Auto,
        }
    }
}

/// A table of connections by key. See the [module](self) for the life of an entry.
///
/// `Worker` is what one thread brings along (free numbers at hand, removed entries to
/// report); each thread makes its own and uses it for all its calls.
pub trait FlowTable<K: FlowKey>: Send + Sync {
    /// A thread's own part.
    type Worker: Send;

    /// The name that `--table` takes.
    const NAME: &'static str;
    /// What this table promises.
    const GUARANTEES: Guarantees;
    /// The largest [`TableConfig::capacity`] it can be made with. By default what two nodes an
    /// entry allow that are numbered in 31 bits.
    const CAPACITY_MAX: usize = 1 << 30;
    /// Workers that it can have at one time.
    const WORKERS_MAX: usize = usize::MAX;

    /// Makes a table. Memory is taken here, not on the data path.
    fn new(config: &TableConfig) -> Self
    where
        Self: Sized;

    /// Where the connections live.
    fn slab(&self) -> &Slab<K>;

    /// A thread's own part.
    fn worker(&self) -> Self::Worker;

    /// The thread is done: what it kept at hand is for others again. Everything that it held
    /// must have been given back.
    fn leave(&self, worker: &mut Self::Worker);

    /// A batch of calls begins: the place to pin an epoch.
    fn begin(&self, _worker: &mut Self::Worker) {}

    /// The batch is over; nothing found in it is held any more, but for what was not released.
    fn end(&self, _worker: &mut Self::Worker) {}

    /// A fresh entry, Pending, the caller's own; `None` when there is no room.
    fn allocate(&self, worker: &mut Self::Worker) -> Option<EntryId>;

    /// Gives back an entry that was never confirmed.
    fn discard(&self, worker: &mut Self::Worker, id: EntryId);

    /// Finds the connection that owns `key`. Expired ones are not found; a table that
    /// removes them on the way reports them through [`FlowTable::take_removed`].
    fn lookup(&self, worker: &mut Self::Worker, key: &K, now: Nanos) -> Option<Hit>;

    /// [`FlowTable::lookup`] of many keys; `hits[i]` is the answer to `keys[i]`.
    fn lookup_batch(
        &self,
        worker: &mut Self::Worker,
        keys: &[K],
        now: Nanos,
        hits: &mut [Option<Hit>],
    ) {
        for (hit, key) in hits.iter_mut().zip(keys) {
            *hit = self.lookup(worker, key, now);
        }
    }

    /// The status of the connection that owns `key`, with nothing held afterwards: what a reader
    /// wants who does nothing else with it. Finds what [`FlowTable::lookup`] finds; a table that
    /// counts references may do without.
    fn status(&self, worker: &mut Self::Worker, key: &K, now: Nanos) -> Option<Status> {
        let hit = self.lookup(worker, key, now)?;
        let status = self.slab().entry(hit.id).status();
        self.release(worker, hit.id);
        Some(status)
    }

    /// [`FlowTable::status`] of many keys; `statuses[i]` is the answer to `keys[i]`.
    fn status_batch(
        &self,
        worker: &mut Self::Worker,
        keys: &[K],
        now: Nanos,
        statuses: &mut [Option<Status>],
    ) {
        const TOGETHER: usize = 64;
        let mut hits = [None; TOGETHER];
        for (keys, statuses) in keys.chunks(TOGETHER).zip(statuses.chunks_mut(TOGETHER)) {
            let hits = &mut hits[..keys.len()];
            self.lookup_batch(worker, keys, now, hits);
            for (status, hit) in statuses.iter_mut().zip(hits) {
                *status = hit.map(|hit| {
                    let status = self.slab().entry(hit.id).status();
                    self.release(worker, hit.id);
                    status
                });
            }
        }
    }

    /// Says that these entries, whose keys are set, will be confirmed soon: a table may ask
    /// for the memory that it will need. Never needed, and changes nothing.
    fn prepare_confirm(&self, _worker: &mut Self::Worker, _ids: &[EntryId]) {}

    /// Says that these connections will be removed soon: a table may ask for the memory that
    /// it will need. Never needed, and changes nothing.
    fn prepare_remove(&self, _worker: &mut Self::Worker, _ids: &[EntryId]) {}

    /// Puts a Pending entry into the table by both keys, or asks `policy` about the clash.
    ///
    /// The caller goes on holding the entry: after [`Confirmed::Inserted`] and
    /// [`Confirmed::ReplyOnly`] he gives it back with [`FlowTable::release`] as if he had looked it
    /// up; after [`Confirmed::Merged`] he holds the winner instead; after [`Confirmed::Refused`] nothing.
    ///
    /// `random` draws the chain limit of this insert. The deadline becomes absolute and
    /// [`Status::CONFIRMED`](crate::status::Status::CONFIRMED) is set by the table, in the step that makes the keys visible.
    fn confirm(
        &self,
        worker: &mut Self::Worker,
        id: EntryId,
        now: Nanos,
        random: u32,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Confirmed;

    /// [`FlowTable::confirm`] of many, one after the other in this order: `outcomes[i]` is what became of
    /// `ids[i]`, and says what the caller holds of it. Each draws its own random number. A connection
    /// may clash with one that came before it in the same batch, and `policy` is asked as for one alone.
    ///
    /// As many are confirmed as the shorter of the two slices has.
    fn confirm_batch(
        &self,
        worker: &mut Self::Worker,
        ids: &[EntryId],
        now: Nanos,
        rng: &mut WorkerRng,
        policy: &mut dyn ClashPolicy<K>,
        outcomes: &mut [Confirmed],
    ) {
        self.prepare_confirm(worker, ids);
        for (outcome, &id) in outcomes.iter_mut().zip(ids) {
            *outcome = self.confirm(worker, id, now, rng.next_u32(), policy);
        }
    }

    /// [`FlowTable::remove`] of many, one after the other: `removed[i]` says whether it was this call that took
    /// `ids[i]` out, and the caller holds it then.
    ///
    /// As many are removed as the shorter of the two slices has.
    fn remove_batch(&self, worker: &mut Self::Worker, ids: &[EntryId], removed: &mut [bool]) {
        self.prepare_remove(worker, ids);
        for (removed, &id) in removed.iter_mut().zip(ids) {
            *removed = self.remove(worker, id);
        }
    }

    /// Takes a confirmed connection out. True for the one caller who did it; he holds the
    /// entry now and gives it back with [`FlowTable::release`].
    fn remove(&self, worker: &mut Self::Worker, id: EntryId) -> bool;

    /// Gives back a hit, a winner, or a removed entry. True where that freed it.
    fn release(&self, worker: &mut Self::Worker, id: EntryId) -> bool;

    /// Makes room near `key`: removes connections that `evictable` allows
    /// (`early_drop`), reports them through [`FlowTable::take_removed`].
    fn early_drop(
        &self,
        worker: &mut Self::Worker,
        key: &K,
        now: Nanos,
        evictable: &dyn Fn(&Entry<K>) -> bool,
    ) -> EarlyDrop;

    /// The next entry that this worker's calls removed by themselves (expired on the way,
    /// evicted): the caller holds it as after [`FlowTable::remove`].
    fn take_removed(&self, worker: &mut Self::Worker) -> Option<EntryId>;

    /// How often a lookup was carried off to another chain and started over since it was
    /// asked last (`search_restart`).
    fn take_search_restarts(&self, _worker: &mut Self::Worker) -> u64 {
        0
    }

    /// How often [`FlowTable::allocate`] found no entry only because all that are free wait for a worker
    /// that stopped in the middle of a batch, since it was asked last (`recycle_stalled`).
    fn take_recycle_stalled(&self, _worker: &mut Self::Worker) -> u64 {
        0
    }

    /// Lines that hits read now, counted over all keys of the table; `None` where it is not known.
    fn hit_lines(&self) -> Option<HitLines> {
        None
    }

    /// Chain lengths now; `None` for a table that has no chains to count.
    fn chain_lengths(&self) -> Option<ChainLengths> {
        None
    }
}

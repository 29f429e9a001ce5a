//! Lookup: loads only. One key; many at a time are in `side_by_side`.

use std::hint::select_unpredictable;

use super::LockfreeTable;
use super::bucket::{Bucket, Geometry};
use super::canonical::Place;
use super::scan::{Matcher, Scalar, Work};
use super::word::{Header, Link, Slot, State};
use super::worker::LockfreeWorker;
use crate::sync::Ordering;
use crate::table::Hit;
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;
use crate::table::slab::{Entry, EntryId};
use crate::time::{Nanos, is_past};
use crate::tuple::Direction;

/// Where and what to look for. Which orientation of the canonical key is wanted is no part of it:
/// the entry's keys say so.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Probe {
    bucket: u32,
    hash: u64,
}

impl Probe {
    /// The head bucket.
    pub(super) fn bucket(&self) -> u32 {
        self.bucket
    }
}

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    #[inline(always)]
    pub(super) fn probe(&self, key: &K) -> Probe {
        let (canon, _) = key.canonical();
        let (hasher, buckets) = self.hashing();
        let hash = hasher.hash(&canon);
        Probe {
            bucket: Place::bucket(hash, buckets),
            hash,
        }
    }

    /// [`FlowTable::lookup`](crate::table::FlowTable::lookup), pinned.
    #[inline]
    pub(super) fn find_one(&self, worker: &mut LockfreeWorker, key: &K, now: Nanos) -> Option<Hit> {
        let table = self;
        self.isa.run(FindOne {
            table,
            worker,
            key,
            now,
        })
    }

    #[inline(always)]
    fn find_one_by<S: Matcher>(
        &self,
        worker: &mut LockfreeWorker,
        key: &K,
        now: Nanos,
    ) -> Option<Hit> {
        let probe = self.probe(key);
        let head = self.head_of(&probe);
        let candidates = S::candidates(head, probe.hash, G::HEAD_SLOTS);
        let mut hit = None;
        if candidates.is_empty() {
            // Acquire and after the scan, as in `find`.
            if Header(head.word.load(Ordering::Acquire)).overflow() == 0 {
                S::leave();
                return None;
            }
        } else {
            let slot = candidates.first(head);
            if !slot.is_free() {
                hit = check_entry::<S, K>(entry_at(self.slab.entries(), slot), slot, key, now);
            }
        }
        S::leave();
        let hit = match hit {
            Some(hit) => hit,
            None => self.find_and_reap(worker, key, &probe, now)?,
        };
        worker.hold();
        Some(hit)
    }

    /// The connection that owns `key`, not held. One that has expired is removed
    /// on the way, as the kernel's lookup does (`nf_ct_gc_expired`).
    #[inline]
    pub(super) fn find_and_reap(
        &self,
        worker: &mut LockfreeWorker,
        key: &K,
        probe: &Probe,
        now: Nanos,
    ) -> Option<Hit> {
        // Ends: each further turn removed a connection, or saw that somebody else did.
        loop {
            let hit = self.find(key, probe)?;
            if !self.slab.entry(hit.id).is_expired(now) {
                return Some(hit);
            }
            self.reap(worker, hit.id);
        }
    }

    /// The confirmed connection that owns `key`, expired or not.
    ///
    /// Valid bits are not asked: a confirmed entry with this key is right whatever slot led to it.
    pub(super) fn find(&self, key: &K, probe: &Probe) -> Option<Hit> {
        let find_in = |bucket: &Bucket, used| {
            Scalar::candidates(bucket, probe.hash, used)
                .slots(bucket)
                .find_map(|slot| check_owner(self.slab.at(slot.index()), slot.index(), key))
        };
        let head = self.head_of(probe);
        if let Some(hit) = find_in(head, G::HEAD_SLOTS) {
            return Some(hit);
        }
        // Acquire, P3, and after the head's slots; in which order they are loaded does not matter
        // (an owner's bucket stays linked as long as it owns the key, I9).
        let overflow = Header(head.word.load(Ordering::Acquire)).overflow();
        let mut word = &self.index.ext[probe.bucket as usize];
        for _ in 0..overflow {
            // Acquire, P4: the bucket is empty, or what was put into it since.
            let number = Link(word.load(Ordering::Acquire)).bucket()?;
            let bucket = self.index.overflow.bucket(number);
            if let Some(hit) = find_in(bucket, G::OVERFLOW_SLOTS) {
                return Some(hit);
            }
            word = &bucket.word;
        }
        None
    }

    /// The head bucket of a probe.
    #[inline(always)]
    fn head_of(&self, probe: &Probe) -> &Bucket {
        head_at(&self.index.heads, probe.bucket)
    }
}

/// [`LockfreeTable::find_one`] as a piece of work.
struct FindOne<'a, K: FlowKey, G: Geometry, H: KeyHasher> {
    table: &'a LockfreeTable<K, G, H>,
    worker: &'a mut LockfreeWorker,
    key: &'a K,
    now: Nanos,
}

impl<K: FlowKey, G: Geometry, H: KeyHasher> Work for FindOne<'_, K, G, H> {
    type Outcome = Option<Hit>;

    #[inline(always)]
    fn by<S: Matcher>(self) -> Option<Hit> {
        self.table.find_one_by::<S>(self.worker, self.key, self.now)
    }
}

/// The head bucket of a number that [`bucket_of`](crate::table::hash::bucket_of) made.
#[inline(always)]
pub(super) fn head_at(heads: &[Bucket], bucket: u32) -> &Bucket {
    debug_assert!((bucket as usize) < heads.len());
    // SAFETY: `bucket_of(hash, n)` is less than n, and `probe` gives it the number of heads.
    unsafe { heads.get_unchecked(bucket as usize) }
}

/// The entry that a word of a bucket leads to.
#[inline(always)]
pub(super) fn entry_at<K: FlowKey>(entries: &[Entry<K>], slot: Slot) -> &Entry<K> {
    debug_assert!(!slot.is_free() && (slot.index() as usize) < entries.len());
    // SAFETY: a word that is not free was made by `Slot::new` from an id of this table's slab,
    // whose numbers are below its size; nobody writes anything else into a slot (I1).
    unsafe { slot.entry_in(entries) }
}

#[inline(always)]
fn state_of<K: FlowKey>(entry: &Entry<K>) -> State {
    // Acquire, P1: the linearization point of a hit; only after it the body may be read.
    State(entry.state_word().load(Ordering::Acquire))
}

/// Is the entry that a slot led to confirmed, and the owner of `key`? Expired or not. In which life the slot was
/// written is not asked: whoever is confirmed with this key owns it.
#[inline(always)]
pub(super) fn check_owner<K: FlowKey>(entry: &Entry<K>, index: u32, key: &K) -> Option<Hit> {
    let state = state_of(entry);
    if !state.is_confirmed() {
        return None;
    }
    let mut owned = Scalar::owned(entry, key);
    if state.is_reply_only() {
        // Not by its original key.
        owned &= 2;
    }
    hit_of(index, state, owned)
}

/// The same for one that came in by both keys and has not expired: nearly all.
#[inline(always)]
pub(super) fn check_entry<S: Matcher, K: FlowKey>(
    entry: &Entry<K>,
    slot: Slot,
    key: &K,
    now: Nanos,
) -> Option<Hit> {
    let state = state_of(entry);
    if !state.is_confirmed_by_both() {
        return None;
    }
    // A confirmed one always has the status bit that `is_expired` asks for.
    let owned = S::owned(entry, key);
    hit_of(slot.index(), state, owned).filter(|_| !is_past(entry.deadline(), now))
}

#[inline(always)]
fn hit_of(index: u32, state: State, owned: u8) -> Option<Hit> {
    if owned == 0 {
        return None;
    }
    Some(Hit {
        id: EntryId::new(index, state.generation()),
        // Without a branch: which direction it is cannot be predicted.
        direction: select_unpredictable(owned & 2 != 0, Direction::Reply, Direction::Original),
    })
}

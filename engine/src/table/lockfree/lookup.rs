//! Lookup: loads only, alone or many at a time.

use std::hint::select_unpredictable;

use super::LockfreeTable;
use super::bucket::{Bucket, Geometry};
use super::canonical::{Pieces, Place, canonical};
use super::prefetch::{Hint, prefetch};
#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
use super::scan::{Avx2, Avx512};
use super::scan::{Isa, Matcher, Scalar, bits};
use super::word::{Link, Slot, State, Wanted};
use super::worker::LockfreeWorker;
use crate::sync::Ordering;
use crate::table::Hit;
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;
use crate::table::slab::EntryId;
use crate::time::Nanos;
use crate::tuple::Direction;

/// Where and what to look for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Probe {
    bucket: u32,
    wanted: Wanted,
}

impl Probe {
    /// The head bucket.
    pub(super) fn bucket(&self) -> u32 {
        self.bucket
    }
}

/// Keys whose memory is asked for at the same time.
const BATCH: usize = 64;

/// What the head bucket says of a key of a batch, in one word: the pass that reads the
/// entries has no more than this.
///
/// | word | meaning |
/// |---|---|
/// | UNINIT | nobody has the key |
/// | EMPTY | nothing in the head bucket, but the chain goes on |
/// | a piece | a slot of the right tag |
type Candidate = Slot;

const MISS: Candidate = Slot::UNINIT;
const BEYOND: Candidate = Slot::EMPTY;

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    #[inline]
    pub(super) fn probe(&self, key: &K) -> Probe {
        let (canon, covers) = canonical(key);
        let (hasher, buckets) = self.hashing();
        let place = Place::of(&canon, hasher, buckets);
        Probe {
            bucket: place.bucket,
            wanted: Wanted::new(place.tag, covers),
        }
    }

    /// [`FlowTable::lookup`](crate::table::FlowTable::lookup), pinned.
    #[inline]
    pub(super) fn find_one(&self, worker: &mut LockfreeWorker, key: &K, now: Nanos) -> Option<Hit> {
        let probe = self.probe(key);
        match self.isa {
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            Isa::Avx2 => self.find_and_reap::<Avx2>(worker, key, &probe, now),
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            Isa::Avx512 => self.find_and_reap::<Avx512>(worker, key, &probe, now),
            _ => self.find_and_reap::<Scalar>(worker, key, &probe, now),
        }
    }

    /// The connection that owns `key`, held for the caller. One that has expired is removed
    /// on the way, as the kernel's lookup does (`nf_ct_gc_expired`).
    #[inline]
    fn find_and_reap<S: Matcher>(
        &self,
        worker: &mut LockfreeWorker,
        key: &K,
        probe: &Probe,
        now: Nanos,
    ) -> Option<Hit> {
        // Ends: each further turn removed a connection, or saw that somebody else did.
        loop {
            let found = self.find_by::<S>(key, probe);
            S::leave();
            let hit = found?;
            if !self.slab.entry(hit.id).is_expired(now) {
                worker.hold();
                return Some(hit);
            }
            self.reap(worker, hit.id);
        }
    }

    /// The confirmed connection that owns `key`, expired or not.
    pub(super) fn find(&self, key: &K, probe: &Probe) -> Option<Hit> {
        self.find_by::<Scalar>(key, probe)
    }

    /// Valid bits are not asked: a confirmed entry with this key is right whatever slot led to it.
    #[inline]
    fn find_by<S: Matcher>(&self, key: &K, probe: &Probe) -> Option<Hit> {
        let chain = self.index.chain(probe.bucket);
        let in_head = self.find_in::<S>(chain.head(), G::HEAD_SLOTS, key, probe);
        if in_head.is_some() {
            return in_head;
        }
        // The header after the head's slots; in which order they are loaded does not matter
        // (an owner's bucket stays linked as long as it owns the key, I9).
        let overflow = chain.header().overflow();
        if overflow == 0 {
            return None;
        }
        let links = chain.walk(overflow);
        chain
            .buckets(links)
            .skip(1)
            .find_map(|(bucket, _, used)| self.find_in::<S>(bucket, used, key, probe))
    }

    #[inline]
    fn find_in<S: Matcher>(
        &self,
        bucket: &Bucket,
        used: usize,
        key: &K,
        probe: &Probe,
    ) -> Option<Hit> {
        candidates::<S>(bucket, used, probe.wanted).find_map(|slot| self.check(slot, key))
    }

    /// Is the slot's entry confirmed, in this life, and the owner of `key`?
    #[inline]
    fn check(&self, slot: Slot, key: &K) -> Option<Hit> {
        let entry = self.slab.at(slot.index());
        // Acquire, P1: the linearization point of a hit; only after it the body may be read.
        let state = State(entry.state_word().load(Ordering::Acquire));
        if !state.is_confirmed() || !slot.is_of(state) {
            return None;
        }
        // Without branches: which direction it is cannot be predicted.
        let is_reply = entry.key(Direction::Reply) == *key;
        let is_original = (entry.key(Direction::Original) == *key) & !state.is_reply_only();
        (is_reply | is_original).then(|| Hit {
            id: EntryId {
                index: slot.index(),
                generation: state.generation(),
            },
            direction: select_unpredictable(is_reply, Direction::Reply, Direction::Original),
        })
    }

    /// [`FlowTable::lookup_batch`](crate::table::FlowTable::lookup_batch), pinned: all keys
    /// are hashed, then all buckets read, then all entries, each asked for a pass ahead.
    pub(super) fn find_batch(
        &self,
        worker: &mut LockfreeWorker,
        keys: &[K],
        now: Nanos,
        hits: &mut [Option<Hit>],
    ) {
        match self.isa {
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            Isa::Avx2 => self.find_batch_by::<Avx2>(worker, keys, now, hits),
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            Isa::Avx512 => self.find_batch_by::<Avx512>(worker, keys, now, hits),
            _ => self.find_batch_by::<Scalar>(worker, keys, now, hits),
        }
    }

    /// A copy of the code for each hint: no prefetch asks which one it is.
    fn find_batch_by<S: Matcher>(
        &self,
        worker: &mut LockfreeWorker,
        keys: &[K],
        now: Nanos,
        hits: &mut [Option<Hit>],
    ) {
        const T0: u8 = Hint::T0 as u8;
        const T1: u8 = Hint::T1 as u8;
        const NTA: u8 = Hint::Nta as u8;
        const WRITE: u8 = Hint::Write as u8;
        const NONE: u8 = Hint::None as u8;
        for (keys, hits) in keys.chunks(BATCH).zip(hits.chunks_mut(BATCH)) {
            match self.hint {
                Hint::T0 => self.find_side_by_side::<S, T0>(worker, keys, now, hits),
                Hint::T1 => self.find_side_by_side::<S, T1>(worker, keys, now, hits),
                Hint::Nta => self.find_side_by_side::<S, NTA>(worker, keys, now, hits),
                Hint::Write => self.find_side_by_side::<S, WRITE>(worker, keys, now, hits),
                Hint::None => self.find_side_by_side::<S, NONE>(worker, keys, now, hits),
            }
        }
    }

    /// At most [`BATCH`] keys.
    #[inline]
    fn find_side_by_side<S: Matcher, const HINT: u8>(
        &self,
        worker: &mut LockfreeWorker,
        keys: &[K],
        now: Nanos,
        hits: &mut [Option<Hit>],
    ) {
        let hint = const { Hint::ALL[HINT as usize] };
        let mut probes = [Probe::default(); BATCH];
        let probes = &mut probes[..keys.len()];
        for (probe, key) in probes.iter_mut().zip(keys) {
            *probe = self.probe(key);
            prefetch(hint, self.index.chain(probe.bucket).head());
        }
        let mut candidates = [MISS; BATCH];
        let candidates = &mut candidates[..keys.len()];
        let mut beyond = false;
        for (probe, candidate) in probes.iter().zip(candidates.iter_mut()) {
            *candidate = self.read_head::<S>(probe);
            if candidate.is_free() {
                beyond |= *candidate == BEYOND;
            } else {
                prefetch(hint, self.slab.at(candidate.index()));
            }
        }
        S::leave();
        if beyond {
            self.prefetch_beyond(probes, candidates);
        }
        let mut held = 0;
        for (((key, hit), probe), candidate) in keys
            .iter()
            .zip(hits)
            .zip(probes.iter())
            .zip(candidates.iter())
        {
            if *candidate == MISS {
                *hit = None;
                continue;
            }
            let found = (*candidate != BEYOND).then(|| self.check(*candidate, key));
            *hit = match found.flatten() {
                Some(found) if !self.slab.entry(found.id).is_expired(now) => {
                    held += 1;
                    Some(found)
                }
                // Another slot has it, or it is to be removed.
                _ => self.find_and_reap::<Scalar>(worker, key, probe, now),
            };
        }
        worker.hold_many(held);
    }

    /// [`FlowTable::prepare_remove`](crate::table::FlowTable::prepare_remove), pinned: entries first, then the buckets
    /// that their keys lead to.
    pub(super) fn prefetch_removes(&self, ids: &[EntryId]) {
        for &id in ids {
            prefetch(self.hint, self.slab.entry(id));
        }
        for &id in ids {
            // Acquire, P1: the keys of a life that is confirmed (I7).
            let state = State(self.state_word(id).load(Ordering::Acquire));
            if state.is_confirmed() && state.generation() == id.generation {
                self.prefetch_heads(&self.pieces_of(id, state));
            }
        }
    }

    #[inline]
    fn read_head<S: Matcher>(&self, probe: &Probe) -> Candidate {
        let chain = self.index.chain(probe.bucket);
        if let Some(slot) = candidates::<S>(chain.head(), G::HEAD_SLOTS, probe.wanted).next() {
            return slot;
        }
        // After the scan, as in `find`.
        if chain.header().overflow() == 0 {
            MISS
        } else {
            BEYOND
        }
    }

    /// Chains that go on: their links, then their first overflow buckets.
    #[cold]
    fn prefetch_beyond(&self, probes: &[Probe], candidates: &[Candidate]) {
        let beyond = || {
            let all = probes.iter().zip(candidates);
            all.filter(|(_, candidate)| **candidate == BEYOND)
                .map(|(probe, _)| probe.bucket)
        };
        self.prefetch_links(self.hint, beyond());
        self.prefetch_overflow(self.hint, beyond());
    }

    fn prefetch_links(&self, hint: Hint, buckets: impl Iterator<Item = u32>) {
        for bucket in buckets {
            prefetch(hint, &self.index.ext[bucket as usize]);
        }
    }

    fn prefetch_overflow(&self, hint: Hint, buckets: impl Iterator<Item = u32>) {
        for bucket in buckets {
            // Relaxed: only to know which line to ask for.
            let link = Link(self.index.ext[bucket as usize].load(Ordering::Relaxed));
            if let Some(number) = link.bucket() {
                prefetch(hint, self.index.overflow.bucket(number));
            }
        }
    }

    /// Asks for the head buckets of pieces, to change them.
    #[inline]
    pub(super) fn prefetch_heads(&self, pieces: &Pieces<K>) {
        for piece in pieces.iter() {
            prefetch(self.write_hint, self.index.chain(piece.place.bucket).head());
        }
    }

    /// [`FlowTable::prepare_confirm`](crate::table::FlowTable::prepare_confirm).
    pub(super) fn prefetch_confirms(&self, ids: &[EntryId]) {
        for ids in ids.chunks(BATCH / 2) {
            self.prefetch_chains(ids);
        }
    }

    /// [`FlowTable::prepare_remove`](crate::table::FlowTable::prepare_remove).
    pub(super) fn prefetch_removals(&self, ids: &[EntryId]) {
        for ids in ids.chunks(BATCH / 2) {
            for &id in ids {
                prefetch(self.write_hint, self.slab.entry(id));
            }
            self.prefetch_chains(ids);
        }
    }

    /// Asks for the chains of entries, to change them: for all heads, then for the links and
    /// the overflow buckets of those that have any. At most `BATCH / 2` entries.
    ///
    /// Keys of entries that are not the caller's may be of another life, or of two: then the
    /// wrong lines are asked for.
    fn prefetch_chains(&self, ids: &[EntryId]) {
        let mut buckets = [0; BATCH];
        let mut count = 0;
        for &id in ids {
            let entry = self.slab.entry(id);
            for direction in [Direction::Original, Direction::Reply] {
                let bucket = self.probe(&entry.key(direction)).bucket;
                prefetch(self.write_hint, self.index.chain(bucket).head());
                buckets[count] = bucket;
                count += 1;
            }
        }
        let goes_on = |bucket: &u32| self.index.chain(*bucket).header().overflow() > 0;
        let mut long = 0;
        for at in 0..count {
            let bucket = buckets[at];
            buckets[long] = bucket;
            long += usize::from(goes_on(&bucket));
        }
        let long = &buckets[..long];
        self.prefetch_links(self.hint, long.iter().copied());
        self.prefetch_overflow(self.write_hint, long.iter().copied());
    }
}

/// Words of the first `used` slots of a bucket that match, read again: what has changed
/// since it was compared was not an owner's.
#[inline(always)]
fn candidates<S: Matcher>(
    bucket: &Bucket,
    used: usize,
    wanted: Wanted,
) -> impl Iterator<Item = Slot> {
    bits(S::matches(bucket, wanted) & ((1 << used) - 1)).filter_map(move |at| {
        // Acquire, P2.
        let slot = Slot(bucket.slots[at].load(Ordering::Acquire));
        wanted.matches(slot).then_some(slot)
    })
}

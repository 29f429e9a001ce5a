//! Lookup: loads only, alone or many at a time.

use std::hint::select_unpredictable;

use super::LockfreeTable;
use super::bucket::{Bucket, Geometry, SLOTS};
use super::canonical::{Pieces, Place};
use super::prefetch::{Hint, prefetch};
use super::scan::{Avx2, Avx512, Isa, Matcher, Scalar, bits};
use super::word::{Covers, Header, Link, Slot, State, Wanted};
use super::worker::LockfreeWorker;
use crate::sync::Ordering;
use crate::table::Hit;
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;
use crate::table::slab::{Entry, EntryId};
use crate::time::{Nanos, is_past};
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

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    #[inline(always)]
    pub(super) fn probe(&self, key: &K) -> Probe {
        let (canon, is_inverted) = key.canonical();
        let (hasher, buckets) = self.hashing();
        let place = Place::of(&canon, hasher, buckets);
        Probe {
            bucket: place.bucket,
            wanted: Wanted::new(place.tag, 1 + Covers::from(is_inverted)),
        }
    }

    /// [`FlowTable::lookup`](crate::table::FlowTable::lookup), pinned.
    #[inline]
    pub(super) fn find_one(&self, worker: &mut LockfreeWorker, key: &K, now: Nanos) -> Option<Hit> {
        let probe = self.probe(key);
        match self.isa {
            Isa::Avx2 => self.find_and_reap::<Avx2>(worker, key, &probe, now),
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
        check_entry(self.slab.at(slot.index()), slot, key)
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
            Isa::Avx2 => self.find_batch_by::<Avx2>(worker, keys, now, hits),
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
        // Arrays that are zeroes at first, and pointers instead of numbers: less to do a key.
        let mut heads: [Option<&Bucket>; BATCH] = [None; BATCH];
        let mut probes = [Probe::default(); BATCH];
        for ((head, probe), key) in heads.iter_mut().zip(&mut probes).zip(keys) {
            *probe = self.probe(key);
            let found = self.index.chain(probe.bucket).head();
            prefetch(hint, found);
            *head = Some(found);
        }
        let mut entries: [Option<&Entry<K>>; BATCH] = [None; BATCH];
        let mut slots = [Slot::UNINIT; BATCH];
        let (mut beyond, mut count) = ([0u8; BATCH], 0);
        for (i, head) in heads.iter().enumerate().take(keys.len()) {
            let Some(head) = *head else { break };
            if let Some(slot) = candidates::<S>(head, G::HEAD_SLOTS, probes[i].wanted).next() {
                let entry = self.slab.at(slot.index());
                prefetch(hint, entry);
                (entries[i], slots[i]) = (Some(entry), slot);
                continue;
            }
            // Acquire and after the scan, as in `find_by`.
            if Header(head.word.load(Ordering::Acquire)).overflow() > 0 {
                beyond[count] = i as u8;
                count += 1;
            }
        }
        S::leave();
        let beyond = &beyond[..count];
        if !beyond.is_empty() {
            self.prefetch_beyond(&probes, beyond);
        }
        let mut held = 0;
        for (i, (key, hit)) in keys.iter().zip(hits.iter_mut()).enumerate().take(BATCH) {
            *hit = match entries[i] {
                None => None,
                Some(entry) => match check_entry(entry, slots[i], key) {
                    // A confirmed one always has the status bit that `is_expired` asks for.
                    Some(found) if !is_past(entry.deadline(), now) => {
                        held += 1;
                        Some(found)
                    }
                    // Another slot has it, or it is to be removed.
                    _ => self.find_and_reap::<Scalar>(worker, key, &probes[i], now),
                },
            };
        }
        worker.hold_many(held);
        for &i in beyond {
            let i = usize::from(i);
            hits[i] = self.find_and_reap::<S>(worker, &keys[i], &probes[i], now);
        }
    }

    /// Chains that go on: their links, then their first overflow buckets.
    fn prefetch_beyond(&self, probes: &[Probe; BATCH], beyond: &[u8]) {
        let mut buckets = [0; BATCH];
        let buckets = &mut buckets[..beyond.len()];
        for (bucket, &i) in buckets.iter_mut().zip(beyond) {
            *bucket = probes[usize::from(i)].bucket;
        }
        self.prefetch_links(self.hint, buckets);
        self.prefetch_overflow(self.hint, buckets);
    }

    fn prefetch_links(&self, hint: Hint, buckets: &[u32]) {
        for &bucket in buckets {
            prefetch(hint, &self.index.ext[bucket as usize]);
        }
    }

    fn prefetch_overflow(&self, hint: Hint, buckets: &[u32]) {
        for &bucket in buckets {
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
            self.prefetch_chains_if(ids, |_| true);
        }
    }

    /// [`FlowTable::prepare_remove`](crate::table::FlowTable::prepare_remove), pinned.
    pub(super) fn prefetch_removals(&self, ids: &[EntryId]) {
        for ids in ids.chunks(BATCH / 2) {
            for &id in ids {
                prefetch(self.write_hint, self.slab.entry(id));
            }
            self.prefetch_chains_if(ids, |id| {
                // Acquire, P1: the keys of a life that is confirmed (I7).
                let state = State(self.state_word(id).load(Ordering::Acquire));
                state.is_confirmed() && state.generation() == id.generation
            });
        }
    }

    /// Asks for the chains of entries, to change them: for all heads, then for the links and
    /// the overflow buckets of those that have any. At most `BATCH / 2` entries.
    fn prefetch_chains_if(&self, ids: &[EntryId], is_readable: impl Fn(EntryId) -> bool) {
        let mut buckets = [0; BATCH];
        let mut count = 0;
        for &id in ids.iter().filter(|id| is_readable(**id)) {
            let entry = self.slab.entry(id);
            for direction in [Direction::Original, Direction::Reply] {
                let bucket = self.probe(&entry.key(direction)).bucket;
                prefetch(self.write_hint, self.index.chain(bucket).head());
                buckets[count] = bucket;
                count += 1;
            }
        }
        // One or two: reading a header now would wait for it, and confirm reads it soon enough.
        const FEW: usize = 4;
        if ids.len() < FEW {
            return;
        }
        let goes_on = |bucket: &u32| self.index.chain(*bucket).header().overflow() > 0;
        let mut long = 0;
        for at in 0..count {
            let bucket = buckets[at];
            buckets[long] = bucket;
            long += usize::from(goes_on(&bucket));
        }
        let long = &buckets[..long];
        self.prefetch_links(self.hint, long);
        self.prefetch_overflow(self.write_hint, long);
    }
}

/// [`LockfreeTable::check`] of the slot's entry.
#[inline(always)]
fn check_entry<K: FlowKey>(entry: &Entry<K>, slot: Slot, key: &K) -> Option<Hit> {
    // Acquire, P1: the linearization point of a hit; only after it the body may be read.
    let state = State(entry.state_word().load(Ordering::Acquire));
    if !(state.is_confirmed() & slot.is_of(state)) {
        return None;
    }
    // Without branches: which direction it is cannot be predicted.
    let is_reply = entry.key(Direction::Reply) == *key;
    let is_original = (entry.key(Direction::Original) == *key) & !state.is_reply_only();
    let owned = u8::from(is_reply) << 1 | u8::from(is_original);
    if owned == 0 {
        return None;
    }
    Some(Hit {
        id: EntryId {
            index: slot.index(),
            generation: state.generation(),
        },
        direction: select_unpredictable(owned & 2 != 0, Direction::Reply, Direction::Original),
    })
}

/// Words of the first `used` slots of a bucket that match, read again: what has changed
/// since it was compared was not an owner's.
#[inline(always)]
fn candidates<S: Matcher>(
    bucket: &Bucket,
    used: usize,
    wanted: Wanted,
) -> impl Iterator<Item = Slot> {
    let all = S::matches(bucket, wanted);
    let matches = if used == SLOTS {
        all
    } else {
        all & ((1 << used) - 1)
    };
    bits(matches).filter_map(move |at| {
        // Acquire, P2.
        let slot = Slot(bucket.slots[at].load(Ordering::Acquire));
        wanted.matches(slot).then_some(slot)
    })
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::super::bucket::Wide;
    use super::super::tests::key;
    use super::super::{Isa, Layout};
    use super::*;
    use crate::clash::KernelClashPolicy;
    use crate::table::hash::{HashKey, Sip13};
    use crate::table::key::KeyV4;
    use crate::table::{Confirmed, FlowTable};

    #[test]
    fn every_hint_and_instruction_set_finds_the_same_also_under_siphash() {
        // Long chains: 100 connections, 10 heads.
        let layout = Layout {
            entries_max: 128,
            slack: 128,
            heads: 10,
            overflow: 40,
        };
        let mut table =
            LockfreeTable::<KeyV4, Wide, Sip13>::with_layout(layout, HashKey(1, 2), false);
        let mut worker = table.worker();
        let ids: Vec<_> = (0..100)
            .map(|n| {
                let id = table.allocate(&mut worker).unwrap();
                table
                    .slab()
                    .entry(id)
                    .set_keys(key(n, 200, 0), key(200, n, 0));
                table.slab().entry(id).set_deadline(1000);
                let confirmed = table.confirm(&mut worker, id, 0, 0, &mut KernelClashPolicy);
                assert_eq!(confirmed, Confirmed::Inserted);
                table.release(&mut worker, id);
                id
            })
            .collect();
        let keys: Vec<_> = (0..=255).map(|n| key(200, n, 0)).collect();
        for isa in Isa::ALL {
            for hint in Hint::ALL {
                table.set_isa(isa);
                table.set_prefetch(hint, hint);
                let mut hits = [None; 256];
                table.lookup_batch(&mut worker, &keys, 1, &mut hits);
                for (n, (hit, key)) in hits.iter().zip(&keys).enumerate() {
                    let id = ids.get(n).copied();
                    assert_eq!(hit.map(|hit| hit.id), id, "{isa:?} {hint:?} key {n}");
                    let alone = table.lookup(&mut worker, key, 1);
                    assert_eq!(alone, *hit);
                    for hit in [*hit, alone].into_iter().flatten() {
                        assert_eq!(hit.direction, Direction::Reply);
                        table.release(&mut worker, hit.id);
                    }
                }
            }
        }
    }
}

//! Lookup: loads only, alone or many at a time.

use super::LockfreeTable;
use super::bucket::Geometry;
use super::canonical::{Oriented, Pieces, Place};
use super::prefetch::{Hint, prefetch};
use super::scan::{bits, scan};
use super::word::{Link, Pattern, Slot, State};
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
    pattern: Pattern,
}

impl Probe {
    /// The head bucket.
    pub(super) fn bucket(&self) -> u32 {
        self.bucket
    }
}

/// Keys whose memory is asked for at the same time.
const BATCH: usize = 64;

/// A key of a batch between two passes.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Nobody has it.
    Miss,
    /// This slot of the head bucket has the right tag.
    Candidate(Slot),
    /// Nothing in the head bucket, but the chain goes on.
    Beyond,
}

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    #[inline]
    pub(super) fn probe(&self, key: &K) -> Probe {
        let oriented = Oriented::new(key);
        let (hasher, buckets) = self.hashing();
        let place = Place::of(&oriented.canon, hasher, buckets);
        Probe {
            bucket: place.bucket,
            pattern: Pattern::new(place.tag, oriented.covers),
        }
    }

    /// The connection that owns `key`, held for the caller. One that has expired is removed
    /// on the way, as the kernel's lookup does (`nf_ct_gc_expired`).
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
                worker.hold();
                return Some(hit);
            }
            self.reap(worker, hit.id);
        }
    }

    /// The confirmed connection that owns `key`, expired or not.
    ///
    /// Valid bits are not asked: a confirmed entry with this key is right whatever slot led to it.
    pub(super) fn find(&self, key: &K, probe: &Probe) -> Option<Hit> {
        let chain = self.index.chain(probe.bucket);
        let scanned = scan(chain.head(), G::HEAD_SLOTS, probe.pattern);
        let in_head = bits(scanned.matches).find_map(|at| self.check(scanned.slots[at], key));
        if in_head.is_some() {
            return in_head;
        }
        // The links after the head's slots; in which order they are loaded does not matter
        // (an owner's bucket stays linked as long as it owns the key, I9).
        let links = chain.walk(chain.header().overflow());
        chain.buckets(links).skip(1).find_map(|(bucket, _, used)| {
            let scanned = scan(bucket, used, probe.pattern);
            bits(scanned.matches).find_map(|at| self.check(scanned.slots[at], key))
        })
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
        let direction = if entry.key(Direction::Reply) == *key {
            Direction::Reply
        } else if entry.key(Direction::Original) == *key && !state.is_reply_only() {
            Direction::Original
        } else {
            return None;
        };
        Some(Hit {
            id: EntryId {
                index: slot.index(),
                generation: state.generation(),
            },
            direction,
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
        let hint = self.hint;
        for (keys, hits) in keys.chunks(BATCH).zip(hits.chunks_mut(BATCH)) {
            let mut probes = [Probe::default(); BATCH];
            let mut stages = [Stage::Miss; BATCH];
            for (probe, key) in probes.iter_mut().zip(keys) {
                *probe = self.probe(key);
                prefetch(hint, self.index.chain(probe.bucket).head());
            }
            let mut beyond = false;
            for (probe, stage) in probes.iter().zip(&mut stages).take(keys.len()) {
                *stage = self.read_head(probe, hint);
                beyond |= matches!(stage, Stage::Beyond);
            }
            if beyond {
                self.prefetch_overflow(&probes[..keys.len()], &stages, hint);
            }
            for (i, (key, hit)) in keys.iter().zip(hits).enumerate() {
                let candidate = match stages[i] {
                    Stage::Miss => {
                        *hit = None;
                        continue;
                    }
                    Stage::Candidate(slot) => self.check(slot, key),
                    Stage::Beyond => None,
                };
                *hit = match candidate {
                    Some(found) if !self.slab.entry(found.id).is_expired(now) => {
                        worker.hold();
                        Some(found)
                    }
                    // Another slot has it, or it is to be removed.
                    _ => self.find_and_reap(worker, key, &probes[i], now),
                };
            }
        }
    }

    /// Asks for the head buckets of pieces.
    #[inline]
    pub(super) fn prefetch_heads(&self, pieces: &Pieces<K>) {
        for piece in pieces.iter() {
            prefetch(self.hint, self.index.chain(piece.place.bucket).head());
        }
    }

    /// [`FlowTable::prepare_confirm`](crate::table::FlowTable::prepare_confirm).
    pub(super) fn prefetch_confirms(&self, ids: &[EntryId]) {
        for &id in ids {
            let entry = self.slab.entry(id);
            for direction in [Direction::Original, Direction::Reply] {
                let bucket = self.probe(&entry.key(direction)).bucket;
                prefetch(self.hint, self.index.chain(bucket).head());
            }
        }
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
    fn read_head(&self, probe: &Probe, hint: Hint) -> Stage {
        let chain = self.index.chain(probe.bucket);
        let scanned = scan(chain.head(), G::HEAD_SLOTS, probe.pattern);
        if let Some(at) = bits(scanned.matches).next() {
            let slot = scanned.slots[at];
            prefetch(hint, self.slab.at(slot.index()));
            return Stage::Candidate(slot);
        }
        // After the scan, as in `find`.
        if chain.header().overflow() == 0 {
            return Stage::Miss;
        }
        prefetch(hint, &self.index.ext[probe.bucket as usize]);
        Stage::Beyond
    }

    #[cold]
    fn prefetch_overflow(&self, probes: &[Probe], stages: &[Stage], hint: Hint) {
        for (probe, _) in probes
            .iter()
            .zip(stages)
            .filter(|(_, stage)| matches!(stage, Stage::Beyond))
        {
            // Relaxed: only to know which line to ask for.
            let link = Link(self.index.ext[probe.bucket as usize].load(Ordering::Relaxed));
            if let Some(number) = link.bucket() {
                prefetch(hint, self.index.overflow.bucket(number));
            }
        }
    }
}

//! Many confirms, or removals, in one call: keys are hashed once, and the memory that all of them need
//! is on its way before the first one begins.
//!
//! Passes over at most [`BATCH`] connections ask for the head buckets; then for the links of chains that go
//! on; then for their first overflow buckets. After that each is confirmed, or removed, as if it came alone, one after
//! the other: a connection may clash with one that came before it in the same batch.

use super::LockfreeTable;
use super::bucket::Geometry;
use super::canonical::{Pieces, Place};
use super::prefetch::prefetch;
use super::word::Link;
use super::worker::LockfreeWorker;
use crate::random::WorkerRng;
use crate::sync::Ordering;
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;
use crate::table::slab::EntryId;
use crate::table::{ClashPolicy, Confirmed};
use crate::time::Nanos;

/// Connections whose memory is asked for at the same time.
const BATCH: usize = 32;

/// Fewer connections than this are not worth a pass of their own: confirm reads the same lines soon enough.
const FEW: usize = 4;

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    /// [`FlowTable::confirm_batch`](crate::table::FlowTable::confirm_batch), pinned.
    pub(super) fn confirm_many(
        &self,
        worker: &mut LockfreeWorker,
        ids: &[EntryId],
        (now, rng): (Nanos, &mut WorkerRng),
        policy: &mut dyn ClashPolicy<K>,
        outcomes: &mut [Confirmed],
    ) {
        for (ids, outcomes) in ids.chunks(BATCH).zip(outcomes.chunks_mut(BATCH)) {
            let mut places = [[Place::default(); 2]; BATCH];
            for (places, &id) in places.iter_mut().zip(ids) {
                *places = self.ask_for_heads(id);
            }
            self.ask_for_what_is_behind(&places[..ids.len()]);
            for ((&id, &places), outcome) in ids.iter().zip(&places).zip(outcomes) {
                let [original, reply] = self.keys_of(id);
                let pieces = Pieces::placed(&original, &reply, places);
                let draw = (now, rng.next_u32());
                *outcome = self.confirm_pieces(worker, id, &pieces, draw, policy);
            }
        }
    }

    /// [`FlowTable::remove_batch`](crate::table::FlowTable::remove_batch), pinned.
    pub(super) fn kill_many(
        &self,
        worker: &mut LockfreeWorker,
        ids: &[EntryId],
        removed: &mut [bool],
    ) {
        for (ids, removed) in ids.chunks(BATCH).zip(removed.chunks_mut(BATCH)) {
            for &id in ids {
                prefetch(self.write_hint, self.slab.entry(id));
            }
            let mut places = [[Place::default(); 2]; BATCH];
            let mut states = [None; BATCH];
            let mut count = 0;
            for (at, &id) in ids.iter().enumerate() {
                states[at] = self.confirmed_state(id);
                if states[at].is_some() {
                    places[at] = self.ask_for_heads(id);
                    count = at + 1;
                }
            }
            self.ask_for_what_is_behind(&places[..count]);
            for (at, removed) in removed.iter_mut().enumerate().take(ids.len()) {
                let id = ids[at];
                *removed = states[at].is_some_and(|state| {
                    let pieces = self.pieces_at(id, state, places[at]);
                    self.kill_seen(worker, id, state, &pieces)
                });
            }
        }
    }

    /// The places of an entry's keys, which may be read; their head buckets are asked for, to change them.
    #[inline]
    fn ask_for_heads(&self, id: EntryId) -> [Place; 2] {
        let [original, reply] = self.keys_of(id);
        let places = Place::of_both(&original, &reply, self.hashing());
        for place in places {
            prefetch(self.write_hint, self.index.chain(place.bucket).head());
        }
        places
    }

    /// Asks for the head buckets of pieces, to change them.
    #[inline]
    pub(super) fn prefetch_heads(&self, pieces: &Pieces<K>) {
        for piece in pieces.iter() {
            prefetch(self.write_hint, self.index.chain(piece.place.bucket).head());
        }
    }

    /// Asks for links and overflow buckets of the chains that have any.
    fn ask_for_what_is_behind(&self, places: &[[Place; 2]]) {
        if places.len() < FEW {
            return;
        }
        let (mut long, mut count) = ([0; 2 * BATCH], 0);
        for place in places.as_flattened() {
            long[count] = place.bucket;
            // Counted, not branched on: one chain in eight goes on.
            count += usize::from(self.index.chain(place.bucket).header().overflow() > 0);
        }
        let long = &long[..count];
        for &bucket in long {
            prefetch(self.hint, &self.index.ext[bucket as usize]);
        }
        for &bucket in long {
            // Relaxed: only to know which line to ask for.
            let link = Link(self.index.ext[bucket as usize].load(Ordering::Relaxed));
            if let Some(number) = link.bucket() {
                prefetch(self.write_hint, self.index.overflow.bucket(number));
            }
        }
    }
}

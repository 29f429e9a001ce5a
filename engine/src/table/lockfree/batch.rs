//! Many confirms, or removals, in one call: keys are hashed once, and the memory that all of them need
//! is on its way before the first one begins.
//!
//! Passes over at most [`BATCH`] connections ask for the head buckets; then for the links of chains that go
//! on; then for their first overflow buckets. After that each is confirmed, or removed, as if it came alone, one after
//! the other: a connection may clash with one that came before it in the same batch. Who meets others at the same connections asks ahead
//! once more, between one confirm and the next: what has come by then may have been taken away again.

use super::LockfreeTable;
use super::bucket::Geometry;
use super::canonical::{Pieces, SelfClash};
use super::prefetch::{Hint, prefetch};
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

/// Batches for which somebody who was not the first to confirm a connection reckons with others at the same ones. Without
/// them, asking for lines of one's own costs two workers a tenth of their connects.
const RIVALS_LAST: u8 = 16;

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
            let mut all = [const { Err(SelfClash) }; BATCH];
            for (pieces, &id) in all.iter_mut().zip(ids) {
                *pieces = self.pieces_to_confirm(id);
                if let Ok(pieces) = pieces {
                    self.prefetch_heads(pieces);
                }
            }
            self.ask_for_what_is_behind(&all[..ids.len()]);
            worker.rivals = worker.rivals.saturating_sub(1);
            let mut is_behind = false;
            for (at, (&id, outcome)) in ids.iter().zip(outcomes).enumerate() {
                if worker.rivals > 0 {
                    self.ask_for_the_next(&all[at..ids.len()], is_behind);
                }
                let draw = (now, rng.next_u32());
                *outcome = self.confirm_pieces(worker, id, &all[at], draw, policy);
                is_behind = *outcome != Confirmed::Inserted;
                if is_behind {
                    worker.rivals = RIVALS_LAST;
                }
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
            let mut all = [const { Err(SelfClash) }; BATCH];
            let mut states = [None; BATCH];
            for ((pieces, state), &id) in all.iter_mut().zip(&mut states).zip(ids) {
                *state = self.confirmed_state(id);
                if let Some(state) = *state {
                    let alive = self.pieces_of(id, state);
                    self.prefetch_heads(&alive);
                    *pieces = Ok(alive);
                }
            }
            self.ask_for_what_is_behind(&all[..ids.len()]);
            let seen = all.iter().zip(states);
            for ((removed, &id), (pieces, state)) in removed.iter_mut().zip(ids).zip(seen) {
                *removed = match (pieces, state) {
                    (Ok(pieces), Some(state)) => self.kill_seen(worker, id, state, pieces),
                    _ => false,
                };
            }
        }
    }

    /// Asks for the head buckets of pieces, to change them.
    #[inline]
    pub(super) fn prefetch_heads(&self, pieces: &Pieces<K>) {
        for piece in pieces.iter() {
            prefetch(self.write_hint, self.index.chain(piece.bucket).head());
        }
    }

    /// Asks, before the first of these is confirmed, for what the next ones will need of the other cores.
    ///
    /// Others are confirming the same connections. Who is ahead of them has read the next chain as they have: it must
    /// be his alone to be changed. Who has just lost will lose more: he reads what they have changed, and the
    /// connections of theirs that it leads to.
    #[inline]
    fn ask_for_the_next(&self, these: &[Result<Pieces<K>, SelfClash>], is_behind: bool) {
        /// So far ahead that the one who is ahead has been there already.
        const CHAIN_AHEAD: usize = 4;
        /// So far that the chain has come, and the connection will have.
        const OWNER_AHEAD: usize = 2;
        if self.write_hint == Hint::None {
            return;
        }
        if !is_behind {
            // Not the table's own hint: that one is the best for lines which no other core has.
            if let Some(Ok(next)) = these.get(1) {
                for piece in next.iter() {
                    prefetch(Hint::Write, self.index.chain(piece.bucket).head());
                }
            }
            return;
        }
        if let Some(Ok(later)) = these.get(CHAIN_AHEAD) {
            prefetch(Hint::T0, self.index.chain(later.original().bucket).head());
        }
        if let Some(Ok(soon)) = these.get(OWNER_AHEAD) {
            let head = self.index.chain(soon.original().bucket).head();
            let seen = self.isa.candidates(head, soon.original().tag());
            if let Some(slot) = seen.slots(head).next() {
                prefetch(Hint::T0, self.slab.at(slot.index()));
            }
        }
    }

    /// Asks for links and overflow buckets of the chains that have any.
    fn ask_for_what_is_behind(&self, all: &[Result<Pieces<K>, SelfClash>]) {
        if all.len() < FEW {
            return;
        }
        let (mut long, mut count) = ([0; 2 * BATCH], 0);
        for piece in all.iter().flatten().flat_map(Pieces::iter) {
            let bucket = piece.bucket;
            long[count] = bucket;
            // Counted, not branched on: one chain in eight goes on.
            count += usize::from(self.index.chain(bucket).header().overflow() > 0);
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

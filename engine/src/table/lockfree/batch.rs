//! Many confirms, or removals, in one call: keys are hashed once, and the memory that all of them need
//! is on its way before the first one begins.
//!
//! Passes over at most [`BATCH`] connections ask for the head buckets; then for the links of chains that go
//! on; then for their first overflow buckets. After that each is confirmed, or removed, as if it came alone, one after
//! the other: a connection may clash with one that came before it in the same batch. Who meets others at the same connections
//! goes through them in another order, and asks ahead once more (`rivals`): what has come may have been taken away again.

use super::LockfreeTable;
use super::bucket::Geometry;
use super::canonical::{Pieces, SelfClash};
use super::insert::Offer;
use super::prefetch::{Hint, prefetch, prefetch_at};
use super::rivals::Order;
use super::scan::Candidates;
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
pub(super) const BATCH: usize = 32;

/// Connections whose chains are looked at together.
const AT_A_GLANCE: usize = 4;

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
            let mut all = [const { Err(SelfClash) }; BATCH];
            let all = &mut all[..ids.len()];
            let mut order = Order::of(worker, ids.len());
            self.make_pieces(ids, &order, all);
            order.keep_equals_in_order(all);
            self.ask_for_what_is_behind(&all[order.early.clone()]);
            let asks_late = self.write_hint != Hint::None;
            for (part, asks) in [(order.early, false), (order.late, asks_late)] {
                let those = all[part.clone()].chunks(AT_A_GLANCE);
                let ids = ids[part.clone()].chunks(AT_A_GLANCE);
                let outcomes = outcomes[part].chunks_mut(AT_A_GLANCE);
                let mut ahead = those.clone();
                if asks {
                    self.ask_for_heads_of_rivals(ahead.next().unwrap_or_default());
                }
                for ((these, ids), outcomes) in those.zip(ids).zip(outcomes) {
                    if asks {
                        self.ask_for_heads_of_rivals(ahead.next().unwrap_or_default());
                    }
                    let offers = these.iter().zip(ids).zip(self.glances(these, asks));
                    for (((pieces, &id), seen), outcome) in offers.zip(outcomes) {
                        let offer = Offer { id, pieces, seen };
                        let draw = (now, rng.next_u32());
                        self.confirm_offer(worker, offer, draw, policy, outcome);
                        worker.meet(*outcome != Confirmed::Inserted);
                    }
                }
            }
        }
    }

    /// The pieces of a batch; asks for the heads of its early part.
    ///
    /// Not inlined: the registers are all its own.
    #[inline(never)]
    fn make_pieces(&self, ids: &[EntryId], order: &Order, all: &mut [Result<Pieces, SelfClash>]) {
        let hint = order.hint(self.write_hint);
        for (at, (pieces, &id)) in all.iter_mut().zip(ids).enumerate() {
            *pieces = self.pieces_to_confirm(id);
            if let Ok(pieces) = pieces
                && order.early.contains(&at)
            {
                self.prefetch_heads(hint, pieces);
            }
        }
    }

    /// A glance at each of these; asks for the connections that they lead to, if told to.
    #[inline(always)]
    fn glances(
        &self,
        these: &[Result<Pieces, SelfClash>],
        asks: bool,
    ) -> [Candidates; AT_A_GLANCE] {
        let mut seen = [Candidates::NONE; AT_A_GLANCE];
        for (seen, pieces) in seen.iter_mut().zip(these) {
            let Ok(pieces) = pieces else { continue };
            *seen = self.glance(pieces);
            if asks {
                self.ask_for_owner(pieces, *seen);
            }
        }
        seen
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
                    self.prefetch_heads(self.write_hint, &alive);
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
    pub(super) fn prefetch_heads(&self, hint: Hint, pieces: &Pieces) {
        for piece in pieces.iter() {
            prefetch_at(hint, &self.index.heads, piece.bucket as usize);
        }
    }

    /// Asks for links and overflow buckets of the chains that have any.
    fn ask_for_what_is_behind(&self, all: &[Result<Pieces, SelfClash>]) {
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

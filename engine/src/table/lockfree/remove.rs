//! Taking connections out.

use super::LockfreeTable;
use super::bucket::{Bucket, Geometry};
use super::canonical::{Piece, Pieces};
use super::chain::{Chain, Change, Links};
use super::word::{Slot, State};
use super::worker::LockfreeWorker;
use crate::status::Status;
use crate::sync::{Ordering, fence_after_exchange};
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;
use crate::table::slab::EntryId;

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    /// Removes a confirmed connection; true for the one caller who did it, who must give
    /// it back. The caller is pinned.
    pub(super) fn kill(&self, worker: &mut LockfreeWorker, id: EntryId) -> bool {
        let Some(state) = self.confirmed_state(id) else {
            return false;
        };
        let pieces = self.pieces_of(id, state);
        self.prefetch_heads(self.write_hint, &pieces);
        self.kill_seen(worker, id, state, &pieces)
    }

    /// The state of this life, if it is confirmed: from here on its keys may be read in this pin (I7).
    #[inline]
    pub(super) fn confirmed_state(&self, id: EntryId) -> Option<State> {
        // Acquire, P1: if it is confirmed, its keys.
        let state = State(self.state_word(id).load(Ordering::Acquire));
        let is_alive = state.is_confirmed() && state.generation() == id.generation();
        is_alive.then_some(state)
    }

    /// Removes a connection that was seen confirmed in this pin, if it still is.
    #[inline]
    pub(super) fn kill_seen(
        &self,
        worker: &mut LockfreeWorker,
        id: EntryId,
        state: State,
        pieces: &Pieces,
    ) -> bool {
        // AcqRel: one killer; what was done to the entry before is his to see. Failure: somebody else was first.
        let killed = self.state_word(id).compare_exchange(
            state.0,
            state.dying().0,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if killed.is_err() {
            return false;
        }
        // Ours first: a lookup whose own insert or removal comes later does not find it.
        // Theirs first: our later lookups see what they did. (See the head: store buffering.)
        fence_after_exchange();
        self.slab.entry(id).set_status(Status::DYING);
        self.clear_all(worker, id, pieces);
        worker.own(id);
        true
    }

    /// Removes a connection that nobody asked to remove, and remembers to report it.
    pub(super) fn reap(&self, worker: &mut LockfreeWorker, id: EntryId) -> bool {
        let killed = self.kill(worker, id);
        if killed {
            worker.removed.push_back(id);
        }
        killed
    }

    /// After this no piece of a dead entry is official, and none can become it.
    pub(super) fn clear_all(&self, worker: &mut LockfreeWorker, id: EntryId, pieces: &Pieces) {
        for piece in pieces.iter() {
            self.clear(worker, id, piece);
        }
    }

    #[inline]
    fn clear(&self, worker: &mut LockfreeWorker, id: EntryId, piece: &Piece) {
        let chain = self.index.chain(piece.bucket);
        let mine = piece.slot(id);
        // Ends: each further turn is caused by a header that somebody else changed.
        loop {
            let h = chain.header();
            let Some(links) = chain.links(h) else {
                continue;
            };
            let mut clear = where_is(chain.head(), G::HEAD_SLOTS, mine);
            if links.count() > 0 {
                clear |= where_beyond(chain, links, mine);
            }
            let clear = clear & h.valid();
            let change = Change {
                set: 0,
                clear,
                trim: true,
            };
            // Also if there is nothing to clear: the new version locks out helpers that are
            // late, which have an older header or will see that the entry is dead (I6).
            if chain.change(worker, h, &links, change) {
                return;
            }
        }
    }
}

/// Which positions behind the head hold this word.
#[inline(never)]
fn where_beyond<G: Geometry>(chain: Chain<'_, G>, links: Links, mine: Slot) -> u32 {
    (1..links.count() + 1).fold(0, |mask, at| {
        let (bucket, first, used) = chain.nth_bucket(&links, at);
        mask | where_is(bucket, used, mine) << first
    })
}

/// Which of the first `used` slots of a bucket hold this word.
#[inline]
fn where_is(bucket: &Bucket, used: usize, mine: Slot) -> u32 {
    // Without branches: which slot it is cannot be predicted.
    let slots = bucket.slots.iter().take(used).enumerate();
    slots.fold(0, |mask, (i, word)| {
        // Acquire, P2: as in a scan.
        mask | u32::from(word.load(Ordering::Acquire) == mine.0) << i
    })
}

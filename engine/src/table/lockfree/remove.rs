//! Taking connections out.

use super::LockfreeTable;
use super::bucket::Geometry;
use super::canonical::{Piece, Pieces};
use super::chain::Change;
use super::scan::{bits, scan};
use super::word::State;
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
        let word = self.state_word(id);
        // Acquire, P1: if it is confirmed, its keys.
        let state = State(word.load(Ordering::Acquire));
        if !state.is_confirmed() || state.generation() != id.generation {
            return false;
        }
        let pieces = self.pieces_of(id, state);
        self.prefetch_heads(&pieces);
        // AcqRel: one killer; what was done to the entry before is his to see. Failure: somebody else was first.
        let killed = word.compare_exchange(
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
        self.clear_all(worker, id, &pieces);
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
    pub(super) fn clear_all(&self, worker: &mut LockfreeWorker, id: EntryId, pieces: &Pieces<K>) {
        for piece in pieces.iter() {
            self.clear(worker, id, piece);
        }
    }

    fn clear(&self, worker: &mut LockfreeWorker, id: EntryId, piece: &Piece<K>) {
        let chain = self.index.chain(piece.place.bucket);
        let mine = piece.slot(id);
        // Ends: each further turn is caused by a header that somebody else changed.
        loop {
            let h = chain.header();
            let Some(links) = chain.links(h) else {
                continue;
            };
            let mut clear = 0;
            for (bucket, first, used) in chain.buckets(links) {
                let scanned = scan(bucket, used, piece.pattern());
                clear |= bits(scanned.matches & (h.valid() >> first))
                    .filter(|at| scanned.slots[*at] == mine)
                    .fold(0, |mask, at| mask | 1 << (first + at));
            }
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

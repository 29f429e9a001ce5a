//! Making pieces official, and with them an insert: the code that its owner and all of its
//! helpers run alike.

use super::LockfreeTable;
use super::bucket::{Bucket, Geometry};
use super::canonical::{Piece, Pieces, are_alike};
use super::chain::{Chain, Change, Claim, Lengthened, Links, Proposal};
use super::lookup::check_entry;
use super::scan::{Candidates, Scalar, bits, scan};
use super::word::{Abort, Header, Slot, State};
use super::worker::LockfreeWorker;
use crate::sync::{AtomicU64, Ordering};
use crate::table::Hit;
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;
use crate::table::slab::{Entry, EntryId};
use crate::time::Nanos;
use crate::tuple::Direction;

/// An insert under way: the entry, and the Pending state that stands for this attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Insert<'t> {
    pub(super) id: EntryId,
    /// Its state.
    pub(super) word: &'t AtomicU64,
    pub(super) pending: State,
}

/// What came of one look at the chain.
enum Step {
    /// The chain, or something met in it, changed.
    Again,
    /// The piece is official.
    Official,
    /// The insert is decided, and not by us confirming it.
    Decided,
}

/// What a slot of the right tag turned out to be.
enum Met<'t> {
    /// Of an entry that is dead, or in another life.
    Dead,
    /// Of another key.
    Other,
    /// Of an equal piece whose insert is not decided.
    Pending(Insert<'t>),
    /// Of an equal piece.
    Confirmed(EntryId),
}

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    /// Drives an insert to its decision. Anybody may call it, with the pieces of the
    /// insert, while pinned since before `pending` was read.
    ///
    /// Calls itself by way of [`LockfreeTable::install`] when it meets another insert; each
    /// time at a larger key, so no deeper than there are threads inserting.
    #[inline(always)]
    pub(super) fn finish(&self, worker: &mut LockfreeWorker, insert: Insert<'_>, pieces: &Pieces) {
        for piece in pieces.iter() {
            if !self.install(worker, insert, piece) {
                return;
            }
        }
        // AcqRel, P1: keys become visible, with all that made them official. Failure: somebody else decided.
        let _ = insert.word.compare_exchange(
            insert.pending.0,
            insert.pending.confirmed().0,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    /// Slots of the head bucket that may be of who owns the original key of a connection which is about to be confirmed.
    #[inline(always)]
    pub(super) fn glance(&self, pieces: &Pieces) -> Candidates {
        let piece = pieces.original();
        let head = self.index.chain(piece.bucket).head();
        self.isa.candidates(head, piece.tag())
    }

    /// Who that is: what a lookup of that key would find, and a clash before anything was written. `None` says nothing:
    /// the insert itself looks further, and helps and replaces.
    #[inline(always)]
    pub(super) fn owner_at_a_glance(
        &self,
        entry: &Entry<K>,
        now: Nanos,
        pieces: &Pieces,
        seen: Candidates,
    ) -> Option<Hit> {
        if seen.is_empty() {
            return None;
        }
        let head = self.index.chain(pieces.original().bucket).head();
        let wanted = entry.key(Direction::Original);
        // The first one nearly always.
        let slot = seen.first(head);
        if !slot.is_free()
            && let Some(owner) =
                check_entry::<Scalar, K>(self.slab.at(slot.index()), slot, &wanted, now)
        {
            return Some(owner);
        }
        self.owner_among(&wanted, now, head, seen)
    }

    #[inline(never)]
    fn owner_among(&self, wanted: &K, now: Nanos, head: &Bucket, seen: Candidates) -> Option<Hit> {
        seen.slots(head).find_map(|slot| {
            check_entry::<Scalar, K>(self.slab.at(slot.index()), slot, wanted, now)
        })
    }

    /// Makes one piece official; false if the insert is decided without it.
    #[inline(always)]
    fn install(&self, worker: &mut LockfreeWorker, insert: Insert<'_>, piece: &Piece) -> bool {
        let chain = self.index.chain(piece.bucket);
        let mine = piece.slot(insert.id);
        let mut claim = None;
        let h = chain.header();
        // The usual insert: its owner is the only one who knows of it, and the head alone is the chain, with
        // room and without an equal piece. The same steps as in `look`, which goes on from wherever this ends.
        if h.overflow() == 0
            && worker.unshown == Some(insert.id)
            && self.has_no_match(chain.head(), piece)
        {
            claim = chain.claim_at_head(h, insert.pending.limit(), mine);
            if let Some(claim) = claim {
                worker.unshown = None;
                if chain.make_official(h, claim) {
                    return true;
                }
            }
        }
        self.install_by_looking(worker, insert, (piece, mine), chain, claim)
    }

    /// Looks at the chain until the piece is official, or the insert decided.
    #[inline(never)]
    fn install_by_looking(
        &self,
        worker: &mut LockfreeWorker,
        insert: Insert<'_>,
        (piece, mine): (&Piece, Slot),
        chain: Chain<'_, G>,
        mut claim: Option<Claim>,
    ) -> bool {
        // What goes from one look at the chain to the next, beside the claim.
        let mut proposal = None;
        // Ends: each further turn is caused by a header that somebody else changed, finitely
        // often for each operation of his, or by an insert that we finished.
        let official = loop {
            let carried = (&mut claim, &mut proposal);
            match self.look(worker, insert, (piece, mine), chain, carried) {
                Step::Again => {}
                Step::Official => break true,
                Step::Decided => break false,
            }
        };
        if let Some(claim) = claim {
            chain.unclaim(claim);
        }
        chain.sweep(worker, proposal);
        official
    }

    /// One look at the chain, and the step that follows from it.
    #[inline]
    fn look<'i>(
        &self,
        worker: &mut LockfreeWorker,
        insert: Insert<'_>,
        (piece, mine): (&Piece, Slot),
        chain: Chain<'i, G>,
        (claimed, proposal): (&mut Option<Claim>, &mut Option<Proposal<'i>>),
    ) -> Step {
        let h = chain.header();
        let Some(links) = chain.links(h) else {
            return Step::Again;
        };
        if let Some(claim) = *claimed
            && chain.home(&links, claim.position) != Some(claim.home)
        {
            chain.unclaim(claim);
            *claimed = None;
        }
        let dead = if links.count() == 0 && self.has_no_match(chain.head(), piece) {
            0
        } else {
            match self.search(worker, insert, (piece, mine), chain, (h, links)) {
                Ok(dead) => dead,
                Err(step) => return step,
            }
        };
        // Acquire; after the header: an insert that was aborted and cleared before `h` is seen here.
        if insert.word.load(Ordering::Acquire) != insert.pending.0 {
            return Step::Decided;
        }
        if claimed.is_none() {
            *claimed = chain.claim(h, &links, insert.pending.limit(), mine);
            if claimed.is_some() && worker.unshown == Some(insert.id) {
                worker.unshown = None;
            }
        }
        let Some(claim) = *claimed else {
            return self.make_room(worker, insert, chain, (h, links), proposal);
        };
        let change = Change {
            set: 1 << claim.position,
            clear: dead,
            trim: dead != 0,
        };
        if !chain.change(worker, h, &links, change) {
            return Step::Again;
        }
        // The word is the chain's now.
        *claimed = None;
        Step::Official
    }

    /// Looks for an equal piece among the official positions. `Ok` with the dead ones of
    /// the same tag if there is none.
    #[inline(never)]
    fn search(
        &self,
        worker: &mut LockfreeWorker,
        insert: Insert<'_>,
        (piece, mine): (&Piece, Slot),
        chain: Chain<'_, G>,
        (h, links): (Header, Links),
    ) -> Result<u32, Step> {
        let links = &links;
        let mut dead = 0;
        for at in 0..links.count() + 1 {
            let (bucket, first, used) = chain.nth_bucket(links, at);
            if self.has_no_match(bucket, piece) {
                continue;
            }
            let scanned = scan(bucket, used, piece.pattern());
            for at in bits(scanned.matches & (h.valid() >> first)) {
                let slot = scanned.slots[at];
                if slot == mine {
                    // Under a header that has gone the word may be a later claim on a slot
                    // that was cleared: official only if `h` still stands.
                    let stands = chain.header() == h;
                    return Err(if stands { Step::Official } else { Step::Again });
                }
                match self.judge(slot, insert, piece) {
                    Met::Other => {}
                    Met::Dead => dead |= 1 << (first + at),
                    Met::Pending(other) => {
                        worker.counters.helped += 1;
                        let pieces = self.pieces_of(other.id, other.pending);
                        self.finish(worker, other, &pieces);
                        return Err(Step::Again);
                    }
                    Met::Confirmed(winner) => {
                        if self.slab.entry(winner).is_expired(worker.now) {
                            self.reap(worker, winner);
                            return Err(Step::Again);
                        }
                        self.abort(worker, insert, Abort::Clash(winner.index()));
                        return Err(Step::Decided);
                    }
                }
            }
        }
        Ok(dead)
    }

    /// Sees at once, where there are vectors, that no word of a bucket can be of an equal piece. The
    /// compare is after the load of the header (acquire) and before its CAS (release), and while that
    /// header stands official words do not change: as good as reading them one by one.
    #[inline(always)]
    fn has_no_match(&self, bucket: &Bucket, piece: &Piece) -> bool {
        self.isa.sees_none(bucket, piece.tag())
    }

    /// What a slot of the right tag stands for.
    fn judge(&self, slot: Slot, insert: Insert<'_>, piece: &Piece) -> Met<'_> {
        let entry = self.slab.at(slot.index());
        // Acquire, P1: the body may be read only after the state said that it is this life's.
        let state = State(entry.state_word().load(Ordering::Acquire));
        if !self.is_alive(slot, state) {
            return Met::Dead;
        }
        // Ours do not change: whoever drives this insert is pinned since before he read its state (I7).
        let wanted = self.slab.entry(insert.id).key(piece.role());
        if !are_alike(&wanted, &entry.key(slot.role())) {
            return Met::Other;
        }
        let id = EntryId::new(slot.index(), state.generation());
        if state.is_pending() {
            Met::Pending(Insert {
                id,
                word: entry.state_word(),
                pending: state,
            })
        } else {
            Met::Confirmed(id)
        }
    }

    /// Does the slot stand for a piece of an entry that is pending or confirmed?
    fn is_alive(&self, slot: Slot, state: State) -> bool {
        slot.is_of(state)
            && (state.is_pending() || state.is_confirmed())
            // A leftover of an earlier attempt; an official one would have been cleared first.
            && !(state.is_reply_only() && slot.role() == Direction::Original)
    }

    /// No position could be claimed: clears dead ones, or lengthens the chain, or gives up.
    #[inline(never)]
    fn make_room<'i>(
        &self,
        worker: &mut LockfreeWorker,
        insert: Insert<'_>,
        chain: Chain<'i, G>,
        (h, links): (Header, Links),
        proposal: &mut Option<Proposal<'i>>,
    ) -> Step {
        let links = &links;
        let dead = self.dead_positions(chain, h, links);
        if dead != 0 {
            let change = Change {
                set: 0,
                clear: dead,
                trim: true,
            };
            chain.change(worker, h, links, change);
            return Step::Again;
        }
        let mut why = Abort::TooLong;
        if links.positions::<G>() < insert.pending.limit() && h.overflow() < G::OVERFLOW_MAX {
            match chain.lengthen(worker, h, links, proposal) {
                Lengthened::LookAgain => return Step::Again,
                Lengthened::NoBucket => why = Abort::NoRoom,
            }
        }
        if chain.header() != h {
            return Step::Again;
        }
        self.abort(worker, insert, why);
        Step::Decided
    }

    /// Official positions whose entries are dead. Looked for only when room is short: it
    /// costs a line for each entry.
    fn dead_positions(&self, chain: Chain<'_, G>, h: Header, links: &Links) -> u32 {
        bits(h.valid())
            .filter(|position| {
                let Some(home) = chain.home(links, *position) else {
                    return false;
                };
                // Acquire, P2 and P1: as in a scan.
                let slot = Slot(chain.slot(home).load(Ordering::Acquire));
                if slot.is_free() {
                    // Only under a header that has gone.
                    return false;
                }
                let word = self.slab.at(slot.index()).state_word();
                // Acquire, P1.
                !self.is_alive(slot, State(word.load(Ordering::Acquire)))
            })
            .fold(0, |mask, position| mask | 1 << position)
    }

    fn abort(&self, worker: &LockfreeWorker, insert: Insert<'_>, why: Abort) {
        if worker.unshown == Some(insert.id) {
            // Relaxed: no slot led anybody here. A locked operation would hold up the lines of the next clash.
            insert
                .word
                .store(insert.pending.aborted(why).0, Ordering::Relaxed);
            return;
        }
        // AcqRel: the decision carries what it was made from. Failure: somebody else decided.
        let _ = insert.word.compare_exchange(
            insert.pending.0,
            insert.pending.aborted(why).0,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }
}

//! Others who confirm the same connections at the same time: how a batch keeps out of their way.
//!
//! Packets of one flow that several cores have in hand come in the same order to all of them. Who confirms them in that
//! order meets the others at each: a chain that one is about to change has just been read by the next, and both wait for
//! its line, connection after connection. Therefore a worker that has lost reckons with rivals for some batches to come, and
//! parts them:
//!
//! ```text
//!                    early: chains asked for to be changed    late: chains, and what they lead to, asked for to be read
//! in an even seat    first half, mostly won                   second half, mostly lost
//! in an odd seat     second half, mostly won                  first half, mostly lost
//! ```
//! Each finds the other's half done. Of more than two some still walk side by side, as without parts. What is late is asked
//! for a few connections ahead and no more: a line that is read too soon is taken from somebody who is about to change it.

use std::ops::Range;

use super::LockfreeTable;
use super::batch::BATCH;
use super::bucket::Geometry;
use super::canonical::{Pieces, SelfClash};
use super::prefetch::{Hint, prefetch_at};
use super::scan::Candidates;
use super::worker::LockfreeWorker;
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;

/// Batches for which a worker that was not the first to confirm a connection reckons with others at the same ones. Without
/// them, asking for lines of one's own costs two workers a tenth of their connects.
const RIVALS_LAST: u8 = 16;

/// Fewer connections than this are not worth a pass of their own.
const FEW: usize = 8;

/// In which order the connections of a batch are confirmed.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) early: Range<usize>,
    /// Empty where no rivals are reckoned with.
    pub(super) late: Range<usize>,
    has_rivals: bool,
}

impl Order {
    /// The order of one more batch, of `count` connections.
    #[inline]
    pub(super) fn of(worker: &mut LockfreeWorker, count: usize) -> Order {
        let has_rivals = worker.rivals > 0;
        worker.rivals -= u8::from(has_rivals);
        let is_parted = has_rivals && count >= FEW;
        let middle = if is_parted { count / 2 } else { count };
        let (first, second) = (0..middle, middle..count);
        let (early, late) = if is_parted && worker.is_odd() {
            (second, first)
        } else {
            (first, second)
        };
        Order {
            early,
            late,
            has_rivals,
        }
    }

    /// How to ask for the chains of the early part, in place of the table's own hint, which is the best for lines
    /// that no other core has.
    #[inline]
    pub(super) fn hint(&self, own: Hint) -> Hint {
        if self.has_rivals && own != Hint::None {
            Hint::Write
        } else {
            own
        }
    }

    /// Equal keys of one batch are confirmed in their order: if both parts have a chain in common, the first half goes first.
    #[inline]
    pub(super) fn keep_equals_in_order(&mut self, all: &[Result<Pieces, SelfClash>]) {
        if self.early.start > 0 && !are_apart(&all[self.early.clone()], &all[self.late.clone()]) {
            std::mem::swap(&mut self.early, &mut self.late);
        }
    }
}

impl LockfreeWorker {
    /// Somebody else had confirmed a connection before, or not.
    #[inline(always)]
    pub(super) fn meet(&mut self, a_rival: bool) {
        if a_rival {
            self.rivals = RIVALS_LAST;
        }
    }
}

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    /// Asks for chains that others have changed.
    #[inline(always)]
    pub(super) fn ask_for_heads_of_rivals(&self, all: &[Result<Pieces, SelfClash>]) {
        for pieces in all.iter().flatten() {
            let bucket = pieces.original().bucket;
            prefetch_at(Hint::T0, &self.index.heads, bucket as usize);
        }
    }

    /// Asks for the connection of another that a chain leads to.
    #[inline(always)]
    pub(super) fn ask_for_owner(&self, pieces: &Pieces, seen: Candidates) {
        if !seen.is_empty() {
            let head = self.index.chain(pieces.original().bucket).head();
            let slot = seen.first(head);
            if !slot.is_free() {
                prefetch_at(Hint::T0, self.slab.entries(), slot.index() as usize);
            }
        }
    }
}

/// Have these no chain in common?
fn are_apart(some: &[Result<Pieces, SelfClash>], others: &[Result<Pieces, SelfClash>]) -> bool {
    let mut chains = [u32::MAX; BATCH];
    let mut count = 0;
    for pieces in some.iter().flatten() {
        for piece in pieces.iter() {
            chains[count] = piece.bucket;
            count += 1;
        }
    }
    // A row is compared side by side, without a branch for each.
    const ROW: usize = BATCH / 2;
    let rows = chains[..count.next_multiple_of(ROW)].chunks_exact(ROW);
    let is_known = |bucket| {
        let mut rows = rows.clone();
        rows.any(|row| row.iter().fold(false, |is, chain| is | (*chain == bucket)))
    };
    let mut pieces = others.iter().flatten().flat_map(Pieces::iter);
    !pieces.any(|piece| is_known(piece.bucket))
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::super::Wide;
    use super::super::tests::{key, table};
    use super::*;
    use crate::clash::KernelClashPolicy;
    use crate::random::WorkerRng;
    use crate::table::key::KeyV4;
    use crate::table::slab::EntryId;
    use crate::table::{Confirmed, FlowTable, Refusal};

    const MANY: u8 = 32;

    type Table = LockfreeTable<KeyV4, Wide>;

    /// Offers connections of these keys, one each, as somebody who has just lost one.
    fn confirm(
        table: &Table,
        worker: &mut LockfreeWorker,
        names: &[u8],
    ) -> (Vec<EntryId>, Vec<Confirmed>) {
        let ids: Vec<_> = names
            .iter()
            .map(|&n| {
                let id = table.allocate(worker).unwrap();
                let entry = table.slab().entry(id);
                entry.set_keys(key(n, 200, 0), key(200, n, 0));
                entry.set_deadline(1000);
                id
            })
            .collect();
        let mut outcomes = vec![Confirmed::Refused(Refusal::Full); names.len()];
        let mut rng = WorkerRng::new(1, 0);
        worker.meet(true);
        table.begin(worker);
        table.confirm_batch(
            worker,
            &ids,
            5,
            &mut rng,
            &mut KernelClashPolicy,
            &mut outcomes,
        );
        for (&id, outcome) in ids.iter().zip(&outcomes) {
            let held = match outcome {
                Confirmed::Merged(clash) => clash.winner,
                _ => id,
            };
            table.release(worker, held);
        }
        table.end(worker);
        (ids, outcomes)
    }

    #[test]
    fn two_who_come_one_after_the_other_begin_at_different_halves() {
        let table: Table = table(1 << 10, 200, 10);
        let (mut even, mut odd) = (table.worker(), table.worker());
        let parts = |worker: &mut LockfreeWorker, count| {
            let order = Order::of(worker, count);
            (order.early, order.late)
        };
        assert_eq!(parts(&mut even, 32), (0..32, 32..32), "no rivals yet");
        even.meet(true);
        odd.meet(true);
        assert_eq!(parts(&mut even, 31), (0..15, 15..31));
        assert_eq!(parts(&mut odd, 31), (15..31, 0..15));
        assert_eq!(parts(&mut odd, 7), (0..7, 7..7), "few");
        for _ in 0..RIVALS_LAST {
            parts(&mut odd, 32);
        }
        assert_eq!(parts(&mut odd, 32), (0..32, 32..32), "forgotten again");
    }

    #[test]
    fn a_parted_batch_finds_what_somebody_else_has_confirmed_and_confirms_the_rest() {
        for seat in [0, 1] {
            let table: Table = table(1 << 10, 200, 10);
            let mut workers = [table.worker(), table.worker()];
            let all: Vec<u8> = (0..MANY).collect();
            let some: Vec<u8> = (0..MANY).filter(|n| n % 3 == 0).collect();
            let (won, _) = confirm(&table, &mut workers[1 - seat], &some);
            let (_, outcomes) = confirm(&table, &mut workers[seat], &all);
            for (n, outcome) in outcomes.iter().enumerate() {
                match outcome {
                    Confirmed::Merged(clash) => assert_eq!(clash.winner, won[n / 3]),
                    outcome => assert_eq!((n % 3 > 0, *outcome), (true, Confirmed::Inserted)),
                }
            }
            let [one, other] = &workers;
            table.assert_quiescent(&[one, other], &[]);
        }
    }

    #[test]
    fn equal_keys_of_one_batch_are_confirmed_in_their_order_whoever_does_it() {
        for seat in [0, 1] {
            let table: Table = table(1 << 10, 200, 10);
            let mut workers = [table.worker(), table.worker()];
            // The last one is the first one again.
            let mut names: Vec<u8> = (0..MANY).collect();
            names[MANY as usize - 1] = 0;
            let (ids, outcomes) = confirm(&table, &mut workers[seat], &names);
            let (last, others) = outcomes.split_last().unwrap();
            assert!(others.iter().all(|outcome| *outcome == Confirmed::Inserted));
            assert!(
                matches!(last, Confirmed::Merged(clash) if clash.winner == ids[0]),
                "{last:?}"
            );
        }
    }
}

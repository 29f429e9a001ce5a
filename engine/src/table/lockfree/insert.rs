//! Confirming: an insert by both keys, what a clash makes of it, and the insert by the
//! reply key alone.

use super::LockfreeTable;
use super::bucket::Geometry;
use super::canonical::{Pieces, SelfClash};
use super::install::Insert;
use super::lookup::check_owner;
use super::scan::Candidates;
use super::word::{Abort, Attempt, State};
use super::worker::LockfreeWorker;
use crate::status::Status;
use crate::sync::{CHECKED, Ordering, fence_after_exchange};
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;
use crate::table::slab::{Entry, EntryId};
use crate::table::{Clash, ClashPolicy, ClashStep, Confirmed, Hit, Refusal, make_reply_only};
use crate::time::Nanos;
use crate::tuple::Direction;

/// Attempts of one stage of a confirm: each further one because the winner of the clash was
/// gone when it was looked up, so somebody else made progress each time. Few under a
/// checker: there the last one comes soon.
const ATTEMPTS_MAX: u8 = if CHECKED { 2 } else { 8 };

/// An entry that is to be confirmed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer<'a> {
    pub(super) id: EntryId,
    pub(super) pieces: &'a Result<Pieces, SelfClash>,
    /// What a [`glance`](LockfreeTable::glance) at its chain has shown.
    pub(super) seen: Candidates,
}

/// A confirm under way.
#[derive(Debug)]
struct Confirm<'t, K: FlowKey> {
    id: EntryId,
    entry: &'t Entry<K>,
    now: Nanos,
    /// The entry's timeout, relative, and its status before: what it has again after a refusal.
    timeout: Nanos,
    status: Status,
    /// Positions of a chain that may be claimed.
    limit: usize,
    /// Attempts of this life so far, of both stages.
    attempts: u8,
    /// A word of it was in some slot: others may know of it.
    shown: bool,
}

/// By which keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    BothKeys,
    ReplyOnly,
}

/// The limit of one insert: the upper third of what a chain can hold, drawn anew for
/// each, as the kernel draws from the upper third of its own (`kernel_chain_limit`).
fn draw_limit<G: Geometry>(random: u32) -> usize {
    let spread = G::POSITIONS * 10 / 28 + 1;
    let shortest = G::POSITIONS + 1 - spread;
    shortest + ((u64::from(random) * spread as u64) >> 32) as usize
}

/// The clash of a loser's `key` with the connection that a lookup of it would find.
fn clash_of(owner: Hit, key: Direction, stage: Stage) -> Clash {
    Clash {
        winner: owner.id,
        key,
        winner_key: owner.direction,
        at_reply_only: stage == Stage::ReplyOnly,
    }
}

/// Why an insert did not get in.
#[derive(Clone, Copy)]
enum Lost {
    /// A connection owns a key: the policy is asked.
    To(Clash),
    /// Dropped, without asking anybody.
    Refused(Refusal),
}

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    /// [`FlowTable::confirm`](crate::table::FlowTable::confirm), pinned.
    #[inline(always)]
    pub(super) fn confirm_pinned(
        &self,
        worker: &mut LockfreeWorker,
        id: EntryId,
        now: Nanos,
        random: u32,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Confirmed {
        let pieces = &self.pieces_to_confirm(id);
        let mut seen = Candidates::NONE;
        if let Ok(pieces) = pieces {
            if !pieces.is_one() {
                // Both at once: the second one is there when the first one is done.
                self.prefetch_heads(self.write_hint, pieces);
            }
            seen = self.glance(pieces);
        }
        let mut outcome = Confirmed::Inserted;
        let offer = Offer { id, pieces, seen };
        self.confirm_offer(worker, offer, (now, random), policy, &mut outcome);
        outcome
    }

    /// The pieces of an entry that is about to be confirmed.
    #[inline]
    pub(super) fn pieces_to_confirm(&self, id: EntryId) -> Result<Pieces, SelfClash> {
        let [original, reply] = self.keys_of(id);
        Pieces::of(&original, &reply, self.hashing())
    }

    /// Confirms an entry, at a time, with a random number for its limit.
    ///
    /// What most confirms come to is one function; what goes wrong is in others. The outcome is written where it
    /// shall be: a copy of what has just been written in parts waits for them.
    #[inline(always)]
    pub(super) fn confirm_offer(
        &self,
        worker: &mut LockfreeWorker,
        Offer { id, pieces, seen }: Offer<'_>,
        (now, random): (Nanos, u32),
        policy: &mut dyn ClashPolicy<K>,
        outcome: &mut Confirmed,
    ) {
        worker.now = now;
        let entry = self.slab.entry(id);
        let status = entry.status();
        let pieces = match pieces {
            Ok(pieces) if !status.contains(Status::DYING) => pieces,
            hopeless => {
                *outcome = self.refuse_hopeless(worker, id, hopeless.is_err());
                return;
            }
        };
        let mut confirm = Confirm {
            id,
            entry,
            now,
            timeout: entry.deadline(),
            status,
            limit: draw_limit::<G>(random),
            attempts: 0,
            shown: false,
        };
        if let Some(owner) = self.owner_at_a_glance(entry, now, pieces, seen) {
            let clash = clash_of(owner, Direction::Original, Stage::BothKeys);
            match policy.decide(&clash, entry, self.slab.entry(owner.id)) {
                ClashStep::Merge => {
                    // Nobody can hold a reference to the loser: it needs no grace period.
                    self.end_unseen_life(worker, entry, id);
                    worker.hold();
                    *outcome = Confirmed::Merged(clash);
                }
                ClashStep::Drop => {
                    self.end_unseen_life(worker, entry, id);
                    *outcome = Confirmed::Refused(Refusal::Clash(clash));
                }
                ClashStep::ReplyOnly => {
                    *outcome = self.confirm_by_reply(worker, confirm, clash, policy);
                }
            }
            return;
        }
        match self.insert(worker, &mut confirm, pieces, Stage::BothKeys) {
            Ok(()) => {
                // The caller goes on holding it, as if he had looked it up.
                worker.hold();
                *outcome = Confirmed::Inserted;
            }
            Err(lost) => *outcome = self.resolve(worker, confirm, lost, policy),
        }
    }

    /// Refuses a dying entry, or one that would clash with itself: nobody else has seen it.
    #[cold]
    #[inline(never)]
    fn refuse_hopeless(
        &self,
        worker: &mut LockfreeWorker,
        id: EntryId,
        is_self_clash: bool,
    ) -> Confirmed {
        self.end_unseen(worker, id);
        Confirmed::Refused(if is_self_clash {
            Refusal::Clash(Clash {
                winner: id,
                key: Direction::Reply,
                winner_key: Direction::Original,
                at_reply_only: false,
            })
        } else {
            Refusal::Dying
        })
    }

    /// What becomes of an insert that did not get in.
    #[inline(never)]
    fn resolve(
        &self,
        worker: &mut LockfreeWorker,
        confirm: Confirm<'_, K>,
        lost: Lost,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Confirmed {
        let first = match lost {
            Lost::To(clash) => clash,
            Lost::Refused(refusal) => {
                self.give_up(worker, &confirm);
                return Confirmed::Refused(refusal);
            }
        };
        let loser = confirm.entry;
        match policy.decide(&first, loser, self.slab.entry(first.winner)) {
            ClashStep::Merge => self.merge(worker, &confirm, first),
            ClashStep::Drop => {
                self.give_up(worker, &confirm);
                Confirmed::Refused(Refusal::Clash(first))
            }
            ClashStep::ReplyOnly => self.confirm_by_reply(worker, confirm, first, policy),
        }
    }

    /// The second stage: by the reply key alone.
    #[inline(never)]
    fn confirm_by_reply(
        &self,
        worker: &mut LockfreeWorker,
        mut confirm: Confirm<'_, K>,
        first: Clash,
        policy: &mut dyn ClashPolicy<K>,
    ) -> Confirmed {
        let loser = confirm.entry;
        // The reply chain is taken without a limit here, as in the kernel.
        confirm.limit = G::POSITIONS;
        let reply = Pieces::reply_only(&loser.key(Direction::Reply), self.hashing());
        let refusal = match self.insert(worker, &mut confirm, &reply, Stage::ReplyOnly) {
            Ok(()) => {
                worker.hold();
                return Confirmed::ReplyOnly(first);
            }
            Err(Lost::To(again)) => {
                match policy.decide(&again, loser, self.slab.entry(again.winner)) {
                    ClashStep::Merge => return self.merge(worker, &confirm, again),
                    _ => Refusal::Clash(again),
                }
            }
            Err(Lost::Refused(refusal)) => refusal,
        };
        self.give_up(worker, &confirm);
        Confirmed::Refused(refusal)
    }

    fn merge(
        &self,
        worker: &mut LockfreeWorker,
        confirm: &Confirm<'_, K>,
        clash: Clash,
    ) -> Confirmed {
        worker.hold();
        self.give_up(worker, confirm);
        Confirmed::Merged(clash)
    }

    /// The loser's life ends.
    fn give_up(&self, worker: &mut LockfreeWorker, confirm: &Confirm<'_, K>) {
        if confirm.shown {
            self.retire(worker, confirm.id);
        } else {
            // Nobody can hold a reference: it needs no grace period.
            self.end_unseen(worker, confirm.id);
        }
    }

    /// Inserts, or says which key is taken and by whom. After an error the entry is as it
    /// was before; if others have seen it, it must be retired, or inserted again.
    #[inline(always)]
    fn insert(
        &self,
        worker: &mut LockfreeWorker,
        confirm: &mut Confirm<'_, K>,
        pieces: &Pieces,
        stage: Stage,
    ) -> Result<(), Lost> {
        match self.attempt(worker, confirm, pieces, stage) {
            Ok(()) => Ok(()),
            Err(why) => self.insert_again(worker, confirm, pieces, stage, why),
        }
    }

    /// Finds out who was in the way of the first attempt, and tries again where he has gone since.
    #[inline(never)]
    fn insert_again(
        &self,
        worker: &mut LockfreeWorker,
        confirm: &mut Confirm<'_, K>,
        pieces: &Pieces,
        stage: Stage,
        mut why: Abort,
    ) -> Result<(), Lost> {
        let keys: &[Direction] = match stage {
            Stage::BothKeys => &[Direction::Original, Direction::Reply],
            Stage::ReplyOnly => &[Direction::Reply],
        };
        for attempt in 1..=ATTEMPTS_MAX {
            let seen = match why {
                Abort::TooLong => return Err(Lost::Refused(Refusal::ChainTooLong)),
                Abort::NoRoom => return Err(Lost::Refused(Refusal::Full)),
                Abort::Clash(index) => index,
            };
            let clash = self.clash_with_seen(worker, confirm.id, seen, keys[0], stage);
            let clash = clash.or_else(|| self.find_clash(worker, confirm.id, keys, stage));
            if let Some(clash) = clash {
                return Err(Lost::To(clash));
            }
            if attempt == ATTEMPTS_MAX {
                // Each time the winner had gone when it was looked up again: nobody to be merged with.
                let clash = self.clash_with(confirm.id, seen, keys, stage);
                return Err(Lost::Refused(Refusal::Clash(clash)));
            }
            worker.counters.confirm_retry += 1;
            match self.attempt(worker, confirm, pieces, stage) {
                Ok(()) => return Ok(()),
                Err(again) => why = again,
            }
        }
        unreachable!("the last attempt returns")
    }

    /// One attempt to get in, under a Pending state of its own.
    #[inline(always)]
    fn attempt(
        &self,
        worker: &mut LockfreeWorker,
        confirm: &mut Confirm<'_, K>,
        pieces: &Pieces,
        stage: Stage,
    ) -> Result<(), Abort> {
        let (id, entry) = (confirm.id, confirm.entry);
        let word = entry.state_word();
        confirm.attempts += 1;
        let pending = State::pending(
            id.generation(),
            Attempt {
                number: confirm.attempts,
                limit: confirm.limit,
                reply_only: stage == Stage::ReplyOnly,
            },
        );
        // All that holds once it is confirmed is written before: from the next store on
        // anybody may confirm it.
        entry.put_status(confirm.status | Status::CONFIRMED);
        match stage {
            Stage::BothKeys => entry.set_deadline(confirm.now.saturating_add(confirm.timeout)),
            Stage::ReplyOnly => make_reply_only(entry, confirm.now),
        }
        // Release, P1: keys and all other fields. A plain store: nobody changes a state that
        // is free, dead or not yet in any slot, but its owner.
        word.store(pending.0, Ordering::Release);
        // Not after an attempt that others knew of: a claim of a late helper of it is the same word, and
        // may lead somebody to this one, who then decides it.
        worker.unshown = (!confirm.shown).then_some(id);
        let insert = Insert { id, word, pending };
        self.finish(worker, insert, pieces);
        confirm.shown = worker.unshown.take().is_none();
        // Acquire, P1: what the decision was made from.
        let state = State(word.load(Ordering::Acquire));
        debug_assert!(!state.is_pending() && state.generation() == id.generation());
        let Some(why) = state.abort() else {
            // Confirmed, or somebody has removed it again since.
            // Ours first: see the fence in `kill`.
            fence_after_exchange();
            return Ok(());
        };
        // An insert that met the winner before it claimed a slot has nothing to clear, and nobody
        // who could help it late: who helps has read its word in a slot. That is the usual loser of a clash.
        if confirm.shown {
            self.clear_all(worker, id, pieces);
        }
        entry.put_status(confirm.status);
        entry.set_deadline(confirm.timeout);
        Err(why)
    }

    /// What looking `key` up again would find, if `seen` owns it now: a key has one owner (I3). `None`: it must be looked up.
    fn clash_with_seen(
        &self,
        worker: &LockfreeWorker,
        loser: EntryId,
        seen: u32,
        key: Direction,
        stage: Stage,
    ) -> Option<Clash> {
        let wanted = self.slab.entry(loser).key(key);
        let owner = self.slab.at(seen);
        let hit = check_owner(owner, seen, &wanted)?;
        (!owner.is_expired(worker.now)).then(|| clash_of(hit, key, stage))
    }

    /// Looks the keys up again, in this order: the first that is owned is the one that clashed.
    fn find_clash(
        &self,
        worker: &mut LockfreeWorker,
        loser: EntryId,
        keys: &[Direction],
        stage: Stage,
    ) -> Option<Clash> {
        let now = worker.now;
        keys.iter().find_map(|&key| {
            let wanted = self.slab.entry(loser).key(key);
            let hit = self.find_and_reap(worker, &wanted, &self.probe(&wanted), now)?;
            Some(clash_of(hit, key, stage))
        })
    }

    /// The clash as the table saw it, with a winner that has gone since: for the last attempt.
    fn clash_with(&self, loser: EntryId, winner: u32, keys: &[Direction], stage: Stage) -> Clash {
        // The winner was alive while we were pinned: it is still readable.
        let owner: &Entry<K> = self.slab.at(winner);
        let generation = owner.state().generation;
        let mine = self.slab.entry(loser);
        let pairs = keys
            .iter()
            .flat_map(|&key| [(key, Direction::Reply), (key, Direction::Original)]);
        let (key, winner_key) = pairs
            .into_iter()
            .find(|&(key, theirs)| mine.key(key) == owner.key(theirs))
            .unwrap_or((Direction::Reply, Direction::Reply));
        let owner = Hit {
            id: EntryId::new(winner, generation),
            direction: winner_key,
        };
        clash_of(owner, key, stage)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::super::bucket::{Narrow, Wide};
    use super::*;

    #[test]
    fn the_limit_is_drawn_from_the_upper_third_of_a_chain() {
        assert_eq!(draw_limit::<Wide>(0), 18);
        assert_eq!(draw_limit::<Wide>(u32::MAX), 28);
        assert_eq!(draw_limit::<Narrow<1, 1, 1>>(0), 2);
        assert_eq!(draw_limit::<Narrow<1, 1, 1>>(u32::MAX), 2);
        assert_eq!(draw_limit::<Narrow<1, 1, 3>>(u32::MAX), 4);
    }
}

//! What the checks do with a table: whole calls, with connections called by a number of their own.

use crossbeam_utils::Backoff;

use super::Broken;
use super::name::Name;
use super::require;
use crate::status::Status;
use crate::table::key::FlowKey;
use crate::table::slab::{Entry, EntryId, Life};
use crate::table::{Clash, ClashPolicy, ClashStep, Confirmed, FlowTable, Hit, Refusal};
use crate::time::Nanos;
use crate::tuple::Direction;

/// A connection's number in a check, never used twice; it is kept in the entry's device field. 0 is none.
pub(crate) type Uid = u32;

/// A clash with the winner's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Met {
    pub(crate) winner: Uid,
    pub(crate) key: Direction,
    pub(crate) winner_key: Direction,
    pub(crate) at_reply_only: bool,
}

/// What became of a connection that was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Inserted,
    Merged(Met),
    ReplyOnly(Met),
    Refused(Met),
    /// No entry, a chain too long, or the table is full.
    NoRoom,
}

/// Remembers what a policy was asked, and with whom the clash was: the winner may be gone when the confirm returns.
pub(crate) struct Witness<P> {
    policy: P,
    pub(crate) met: Vec<(Clash, Uid)>,
    wrong: Option<String>,
}

impl<P> Witness<P> {
    pub(crate) fn new(policy: P) -> Witness<P> {
        Witness {
            policy,
            met: Vec::new(),
            wrong: None,
        }
    }
}

impl<K: FlowKey, P: ClashPolicy<K>> ClashPolicy<K> for Witness<P> {
    fn decide(&mut self, clash: &Clash, loser: &Entry<K>, winner: &Entry<K>) -> ClashStep {
        if loser.key(clash.key) != winner.key(clash.winner_key) {
            let both = (loser.key(clash.key), winner.key(clash.winner_key));
            self.wrong = Some(format!("{clash:?} is about two keys: {both:?}"));
        }
        self.met.push((*clash, winner.masquerade_device()));
        self.policy.decide(clash, loser, winner)
    }
}

/// Always the same step, as far as it is one that may be taken.
pub(crate) struct Always(pub(crate) ClashStep);

impl<K: FlowKey> ClashPolicy<K> for Always {
    fn decide(&mut self, clash: &Clash, _: &Entry<K>, _: &Entry<K>) -> ClashStep {
        match self.0 {
            ClashStep::ReplyOnly if clash.at_reply_only => ClashStep::Drop,
            step => step,
        }
    }
}

/// Offers a connection and lets go of it: what is in the table is held by the table alone. Gives its id too, unless
/// there was no entry.
pub(crate) fn connect<K: FlowKey, T: FlowTable<K>, P: ClashPolicy<K>>(
    table: &T,
    worker: &mut T::Worker,
    (uid, keys): (Uid, [Name; 2]),
    (now, timeout): (Nanos, Nanos),
    random: u32,
    witness: &mut Witness<P>,
) -> Result<(Option<EntryId>, Outcome), Broken> {
    let Some(id) = table.allocate(worker) else {
        return Ok((None, Outcome::NoRoom));
    };
    let entry = table.slab().entry(id);
    require!(
        entry.state().life == Life::Pending && entry.status().is_empty() && entry.deadline() == 0,
        "a fresh entry is Pending without status and deadline, not {entry:?}"
    );
    entry.set_keys(keys[0].key(), keys[1].key());
    entry.set_deadline(timeout);
    entry.set_masquerade_device(uid);
    let confirmed = table.confirm(worker, id, now, random, witness);
    if let Some(wrong) = witness.wrong.take() {
        return Err(Broken::new(wrong));
    }
    let outcome = match confirmed {
        Confirmed::Inserted | Confirmed::ReplyOnly(_) => {
            // Others may remove it as soon as it is in; by the caller's hold it is this life until he lets go.
            require!(
                is_of_life(table, id) && entry.status().contains(Status::CONFIRMED),
                "connection {uid} is in the table, and not confirmed: {entry:?}"
            );
            table.release(worker, id);
            match confirmed {
                Confirmed::ReplyOnly(clash) => Outcome::ReplyOnly(witness.named(clash)?),
                _ => Outcome::Inserted,
            }
        }
        Confirmed::Merged(clash) => {
            let met = witness.named(clash)?;
            let winner = table.slab().entry(clash.winner);
            require!(
                is_of_life(table, clash.winner) && winner.masquerade_device() == met.winner,
                "connection {uid} was merged into {}, which is not held for it: {winner:?}",
                met.winner
            );
            require!(
                winner.key(clash.winner_key) == entry_key::<K>(keys, clash.key),
                "connection {uid} was merged into one with other keys: {winner:?}"
            );
            table.release(worker, clash.winner);
            Outcome::Merged(met)
        }
        Confirmed::Refused(Refusal::Clash(clash)) => Outcome::Refused(witness.named(clash)?),
        Confirmed::Refused(Refusal::ChainTooLong | Refusal::Full) => Outcome::NoRoom,
        Confirmed::Refused(Refusal::Dying) => {
            return Err(Broken::new(format!(
                "connection {uid} was refused as dying, and nobody marked it"
            )));
        }
    };
    Ok((Some(id), outcome))
}

/// [`connect`] that tries again when there is no room: a table that holds by epochs cannot use an entry again while another
/// worker is inside a batch, and that ends.
pub(crate) fn connect_patiently<K: FlowKey, T: FlowTable<K>, P: ClashPolicy<K> + Copy>(
    table: &T,
    worker: &mut T::Worker,
    connection: (Uid, [Name; 2]),
    times: (Nanos, Nanos),
    policy: P,
) -> Result<Outcome, Broken> {
    const TRIES: usize = 1_000_000;
    let backoff = Backoff::new();
    for _ in 0..TRIES {
        let mut witness = Witness::new(policy);
        let (_, outcome) = connect(table, worker, connection, times, u32::MAX, &mut witness)?;
        if outcome != Outcome::NoRoom {
            return Ok(outcome);
        }
        backoff.snooze();
    }
    Err(Broken::new(format!(
        "connection {} was refused {TRIES} times for want of room, and there is room",
        connection.0
    )))
}

/// What is held stays this life. A table that holds by epochs may show it as free already when somebody else has removed
/// it: then it is not used again before it is given back.
fn is_of_life<K: FlowKey, T: FlowTable<K>>(table: &T, id: EntryId) -> bool {
    table.slab().entry(id).state().generation == id.generation()
}

fn entry_key<K: FlowKey>(keys: [Name; 2], direction: Direction) -> K {
    keys[direction.index()].key()
}

impl<P> Witness<P> {
    /// The clash that a confirm returned: one that the policy was asked about.
    fn named(&self, clash: Clash) -> Result<Met, Broken> {
        let asked = self.met.iter().rev().find(|(met, _)| *met == clash);
        let Some((_, winner)) = asked else {
            return Err(Broken::new(format!(
                "a confirm returned {clash:?}, about which the policy was not asked, but about {:?}",
                self.met
            )));
        };
        Ok(Met {
            winner: *winner,
            key: clash.key,
            winner_key: clash.winner_key,
            at_reply_only: clash.at_reply_only,
        })
    }
}

/// Looks a key up, alone or as a batch of one; what is found is held for the caller.
pub(crate) fn look<K: FlowKey, T: FlowTable<K>>(
    table: &T,
    worker: &mut T::Worker,
    name: Name,
    now: Nanos,
    in_batch: bool,
) -> Result<Option<(Hit, Uid)>, Broken> {
    let key: K = name.key();
    let hit = if in_batch {
        let mut hits = [None];
        table.lookup_batch(worker, &[key], now, &mut hits);
        hits[0]
    } else {
        table.lookup(worker, &key, now)
    };
    let Some(hit) = hit else {
        return Ok(None);
    };
    let entry = table.slab().entry(hit.id);
    require!(
        is_of_life(table, hit.id) && entry.key(hit.direction) == key,
        "a lookup of {name:?} gave {hit:?}, which is {entry:?}"
    );
    Ok(Some((hit, entry.masquerade_device())))
}

/// Gives back what the table removed by itself. Each must be marked dying, and nobody else holds it.
pub(crate) fn drain<K: FlowKey, T: FlowTable<K>>(
    table: &T,
    worker: &mut T::Worker,
    mut met: impl FnMut(&Entry<K>),
) -> Result<u64, Broken> {
    let mut removed = 0;
    while let Some(id) = table.take_removed(worker) {
        let entry = table.slab().entry(id);
        require!(
            is_of_life(table, id) && entry.status().contains(Status::DYING),
            "{id:?} was reported as removed, and is {entry:?}"
        );
        met(entry);
        require!(
            table.release(worker, id),
            "{id:?} was reported as removed, and giving it back did not free it"
        );
        removed += 1;
    }
    Ok(removed)
}

/// Removes a connection that others may want to remove too; true if it was this call.
pub(crate) fn remove<K: FlowKey, T: FlowTable<K>>(
    table: &T,
    worker: &mut T::Worker,
    id: EntryId,
) -> bool {
    let removed = table.remove(worker, id);
    if removed {
        table.release(worker, id);
    }
    removed
}

/// At rest, with nothing held: every entry is free again.
pub(crate) fn all_free<K: FlowKey, T: FlowTable<K>>(table: &T) -> Result<(), Broken> {
    let capacity = table.slab().capacity() as u32;
    let kept: Vec<_> = (0..capacity)
        .map(|index| (index, table.slab().at(index).state()))
        .filter(|(_, state)| state.life != Life::Free)
        .collect();
    require!(
        kept.is_empty(),
        "everything was removed and given back, and {} of {capacity} entries are not free: {:?}",
        kept.len(),
        &kept[..kept.len().min(3)]
    );
    Ok(())
}

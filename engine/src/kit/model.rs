//! The plain model: names to connections, one call after the other, the kernel's decisions at a clash.

use std::collections::HashMap;

use super::calls::{Met, Outcome, Uid};
use super::name::Name;
use crate::table::REPLY_ONLY_TIMEOUT;
use crate::time::Nanos;
use crate::tuple::Direction;

/// A connection as it is seen through a lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Connection {
    pub(crate) uid: Uid,
    pub(crate) keys: [Name; 2],
    pub(crate) deadline: Nanos,
    pub(crate) reply_only: bool,
}

/// What the two connections of a clash are to each other.
enum Relation {
    /// One flow, or two that crossed.
    Mergeable,
    Different,
}

/// Names to connections, and nothing else.
#[derive(Default, Debug)]
pub(crate) struct Model {
    owners: HashMap<Name, (Uid, Direction)>,
    connections: HashMap<Uid, Connection>,
}

impl Model {
    /// Confirms as `nf_ct_resolve_clash` has it when a key is taken: the original key is looked at first.
    pub(crate) fn confirm(
        &mut self,
        uid: Uid,
        keys: [Name; 2],
        now: Nanos,
        timeout: Nanos,
    ) -> Outcome {
        let loser = Connection {
            uid,
            keys,
            deadline: now + timeout,
            reply_only: false,
        };
        let both = [Direction::Original, Direction::Reply];
        let Some(met) = both.iter().find_map(|&key| self.clash(keys, key, false)) else {
            self.insert(loser);
            return Outcome::Inserted;
        };
        if keys[0].tcp {
            return Outcome::Refused(met);
        }
        if let Relation::Mergeable = self.relation(keys, met.winner) {
            return Outcome::Merged(met);
        }
        match self.clash(keys, Direction::Reply, true) {
            None => {
                self.insert(Connection {
                    deadline: now + REPLY_ONLY_TIMEOUT,
                    reply_only: true,
                    ..loser
                });
                Outcome::ReplyOnly(met)
            }
            Some(again) => match self.relation(keys, again.winner) {
                Relation::Mergeable => Outcome::Merged(again),
                Relation::Different => Outcome::Refused(again),
            },
        }
    }

    fn clash(&self, keys: [Name; 2], key: Direction, at_reply_only: bool) -> Option<Met> {
        let (winner, winner_key) = *self.owners.get(&keys[key.index()])?;
        Some(Met {
            winner,
            key,
            winner_key,
            at_reply_only,
        })
    }

    fn relation(&self, keys: [Name; 2], winner: Uid) -> Relation {
        let theirs = self.connections[&winner].keys;
        if theirs == keys || theirs == [keys[1], keys[0]] {
            Relation::Mergeable
        } else {
            Relation::Different
        }
    }

    fn insert(&mut self, connection: Connection) {
        let [original, reply] = connection.keys;
        if !connection.reply_only {
            self.owners
                .insert(original, (connection.uid, Direction::Original));
        }
        self.owners
            .insert(reply, (connection.uid, Direction::Reply));
        self.connections.insert(connection.uid, connection);
    }

    /// The connection that owns a key, and whose key it is.
    pub(crate) fn find(&self, name: Name) -> Option<(Connection, Direction)> {
        let (uid, direction) = self.owners.get(&name)?;
        Some((self.connections[uid], *direction))
    }

    /// True if it was there.
    pub(crate) fn remove(&mut self, uid: Uid) -> bool {
        self.owners.retain(|_, (owner, _)| *owner != uid);
        self.connections.remove(&uid).is_some()
    }

    pub(crate) fn expire(&mut self, now: Nanos) {
        let gone = self.connections.values().filter(|c| c.deadline <= now);
        for uid in gone.map(|c| c.uid).collect::<Vec<_>>() {
            self.remove(uid);
        }
    }

    /// Connections that live.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn names(&self) -> Vec<Name> {
        let mut names: Vec<_> = self.owners.keys().copied().collect();
        names.sort_unstable();
        names
    }
}

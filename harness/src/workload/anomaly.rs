//! What broken atomicity looks like, with all workers at rest.
//!
//! A reply-only connection is judged by its reply key alone: its original key belongs to
//! the winner, by design.

use serde::Serialize;

use clashtrack_engine::status::Status;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::slab::{Entry, EntryId};
use clashtrack_engine::time::Nanos;
use clashtrack_engine::tuple::Direction;

/// Counts of what must not be.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Anomalies {
    /// A connection found by one of its keys and not by the other while it was confirmed.
    pub torn: u64,
    /// Two confirmed connections that own one key.
    pub double_owner: u64,
    /// A confirmed connection that no key finds, or one that a packet was given to and that is gone.
    pub vanished: u64,
}

impl Anomalies {
    /// Adds another count.
    pub fn add(&mut self, other: Anomalies) {
        self.torn += other.torn;
        self.double_owner += other.double_owner;
        self.vanished += other.vanished;
    }

    /// Whether there is any.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Anomalies::default()
    }
}

/// What a lookup says of one key of a connection.
enum Found {
    Itself,
    Another,
    Nothing,
}

/// Looks every confirmed connection up by its keys.
pub fn check_connections<T: FlowTable<KeyV4>>(
    table: &T,
    worker: &mut T::Worker,
    now: Nanos,
) -> Anomalies {
    let mut seen = Anomalies::default();
    for (id, entry) in table.slab().confirmed() {
        let mut by_key = |direction| find(table, worker, id, entry, direction, now);
        let reply = by_key(Direction::Reply);
        let original = if entry.status().contains(Status::NAT_CLASH) {
            None
        } else {
            Some(by_key(Direction::Original))
        };
        match (original, reply) {
            (_, Found::Another) | (Some(Found::Another), _) => seen.double_owner += 1,
            (None | Some(Found::Nothing), Found::Nothing) => seen.vanished += 1,
            (Some(Found::Nothing), Found::Itself) | (Some(Found::Itself), Found::Nothing) => {
                seen.torn += 1;
            }
            (None | Some(Found::Itself), Found::Itself) => {}
        }
    }
    seen
}

fn find<T: FlowTable<KeyV4>>(
    table: &T,
    worker: &mut T::Worker,
    id: EntryId,
    entry: &Entry<KeyV4>,
    direction: Direction,
    now: Nanos,
) -> Found {
    match table.lookup(worker, &entry.key(direction), now) {
        None => Found::Nothing,
        Some(hit) => {
            table.release(worker, hit.id);
            if hit.id == id {
                Found::Itself
            } else {
                Found::Another
            }
        }
    }
}

/// Removes every connection, so that the next round finds the table empty.
///
/// # Panics
/// If a confirmed connection cannot be removed: nobody else is at work.
pub fn remove_all<T: FlowTable<KeyV4>>(table: &T, worker: &mut T::Worker) {
    for (id, _) in table.slab().confirmed() {
        assert!(
            table.remove(worker, id),
            "a confirmed connection can be removed while nobody else is at work"
        );
        table.release(worker, id);
    }
    while let Some(id) = table.take_removed(worker) {
        table.release(worker, id);
    }
}

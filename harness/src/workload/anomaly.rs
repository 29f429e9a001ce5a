//! What broken atomicity looks like, with all workers at rest.
//!
//! A reply-only connection is judged by its reply key alone: its original key belongs to
//! the winner, by design.

use serde::{Deserialize, Serialize};

use clashtrack_engine::status::Status;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::slab::{Entry, EntryId};
use clashtrack_engine::time::Nanos;
use clashtrack_engine::tuple::Direction;

/// Counts of what must not be.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    use clashtrack_engine::clash::KernelClashPolicy;
    use clashtrack_engine::table::hash::HashKey;
    use clashtrack_engine::table::key::FlowKey;
    use clashtrack_engine::table::mutex::MutexTable;
    use clashtrack_engine::table::slab::Slab;
    use clashtrack_engine::table::{
        ClashPolicy, Confirmed, EarlyDrop, Guarantees, Hit, TableConfig,
    };
    use clashtrack_engine::tuple::{Protocol, Tuple};

    use super::super::flows;

    /// A [`MutexTable`] whose lookup lies about some keys.
    #[derive(Debug)]
    struct Lying {
        table: MutexTable<KeyV4>,
        /// What is found instead; `None`: nothing.
        lies: HashMap<KeyV4, Option<KeyV4>>,
    }

    impl FlowTable<KeyV4> for Lying {
        type Worker = <MutexTable<KeyV4> as FlowTable<KeyV4>>::Worker;
        const NAME: &'static str = "lying";
        const GUARANTEES: Guarantees = <MutexTable<KeyV4> as FlowTable<KeyV4>>::GUARANTEES;

        fn new(config: &TableConfig) -> Lying {
            Lying {
                table: FlowTable::new(config),
                lies: HashMap::new(),
            }
        }
        fn slab(&self) -> &Slab<KeyV4> {
            self.table.slab()
        }
        fn worker(&self) -> Self::Worker {
            self.table.worker()
        }
        fn leave(&self, worker: &mut Self::Worker) {
            self.table.leave(worker);
        }
        fn allocate(&self, worker: &mut Self::Worker) -> Option<EntryId> {
            self.table.allocate(worker)
        }
        fn discard(&self, worker: &mut Self::Worker, id: EntryId) {
            self.table.discard(worker, id);
        }
        fn lookup(&self, worker: &mut Self::Worker, key: &KeyV4, now: Nanos) -> Option<Hit> {
            match self.lies.get(key) {
                Some(None) => None,
                Some(Some(other)) => self.table.lookup(worker, other, now),
                None => self.table.lookup(worker, key, now),
            }
        }
        fn confirm(
            &self,
            worker: &mut Self::Worker,
            id: EntryId,
            now: Nanos,
            random: u32,
            policy: &mut dyn ClashPolicy<KeyV4>,
        ) -> Confirmed {
            self.table.confirm(worker, id, now, random, policy)
        }
        fn remove(&self, worker: &mut Self::Worker, id: EntryId) -> bool {
            self.table.remove(worker, id)
        }
        fn release(&self, worker: &mut Self::Worker, id: EntryId) -> bool {
            self.table.release(worker, id)
        }
        fn early_drop(
            &self,
            worker: &mut Self::Worker,
            key: &KeyV4,
            now: Nanos,
            evictable: &dyn Fn(&Entry<KeyV4>) -> bool,
        ) -> EarlyDrop {
            self.table.early_drop(worker, key, now, evictable)
        }
        fn take_removed(&self, worker: &mut Self::Worker) -> Option<EntryId> {
            self.table.take_removed(worker)
        }
    }

    /// What is seen of ten connections when lookups of those keys lie, given (key, found instead).
    fn seen(lies: impl Fn(&[(KeyV4, KeyV4)]) -> Vec<(KeyV4, Option<KeyV4>)>) -> Anomalies {
        let mut table = Lying::new(&TableConfig::new(64, HashKey(1, 2)));
        let mut worker = table.worker();
        let pairs: Vec<(KeyV4, KeyV4)> = flows::of_round(3, 0, Protocol::UDP, 10)
            .iter()
            .map(|tuple: &Tuple| {
                let reply = tuple.invert().expect("UDP has ports");
                (KeyV4::pack(tuple, 0), KeyV4::pack(&reply, 0))
            })
            .collect();
        for (original, reply) in &pairs {
            let id = table.allocate(&mut worker).expect("there is room");
            table.slab().entry(id).set_keys(*original, *reply);
            table.slab().entry(id).set_deadline(1000);
            let outcome = table.confirm(&mut worker, id, 1, 0, &mut KernelClashPolicy);
            assert_eq!(outcome, Confirmed::Inserted);
            table.release(&mut worker, id);
        }
        table.lies = lies(&pairs).into_iter().collect();
        let seen = check_connections(&table, &mut worker, 2);
        remove_all(&table, &mut worker);
        assert_eq!(table.slab().confirmed().count(), 0);
        seen
    }

    #[test]
    fn a_table_that_finds_everything_has_no_anomalies() {
        assert_eq!(seen(|_| Vec::new()), Anomalies::default());
    }

    #[test]
    fn a_connection_that_one_of_its_keys_does_not_find_is_torn() {
        let torn = Anomalies {
            torn: 2,
            ..Anomalies::default()
        };
        assert_eq!(
            seen(|pairs| vec![(pairs[3].0, None), (pairs[5].1, None)]),
            torn
        );
    }

    #[test]
    fn a_connection_that_no_key_finds_has_vanished() {
        let vanished = Anomalies {
            vanished: 1,
            ..Anomalies::default()
        };
        assert_eq!(
            seen(|pairs| vec![(pairs[3].0, None), (pairs[3].1, None)]),
            vanished
        );
    }

    #[test]
    fn a_key_that_finds_another_connection_has_two_owners() {
        let double_owner = Anomalies {
            double_owner: 1,
            ..Anomalies::default()
        };
        assert_eq!(
            seen(|pairs| vec![(pairs[3].1, Some(pairs[4].1))]),
            double_owner
        );
    }
}

//! What must hold of a table when no call is under way: asserted at the end of tests.

use std::collections::HashMap;

use super::LockfreeTable;
use super::bucket::{Geometry, overflow_needed};
use super::word::{Link, Slot, State};
use super::worker::LockfreeWorker;
use crate::sync::Ordering;
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;
use crate::table::slab::{EntryId, Life};

/// How often each number was met.
type Owners = HashMap<u32, Vec<&'static str>>;

fn count(owners: &mut Owners, what: &'static str, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        owners.entry(number).or_default().push(what);
    }
}

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    /// Asserts that official slots are the pieces of confirmed entries and all other words
    /// EMPTY, and that each entry and each overflow bucket is in exactly one place.
    ///
    /// `workers` are all there are; `in_hand` are entries that were allocated and not confirmed.
    pub(super) fn assert_quiescent(&self, workers: &[&LockfreeWorker], in_hand: &[EntryId]) {
        let mut buckets = Owners::new();
        let official: usize = (0..self.index.heads.len() as u32)
            .map(|bucket| self.assert_chain(bucket, &mut buckets))
            .sum();
        let wanted: usize = self
            .slab
            .confirmed()
            .map(|(id, _)| self.pieces_of(id, self.state(id.index())).iter().count())
            .sum();
        assert_eq!(
            official, wanted,
            "official slots are the pieces of confirmed entries"
        );
        self.assert_buckets(workers, buckets);
        self.assert_entries(workers, in_hand);
    }

    fn state(&self, index: u32) -> State {
        // Acquire: at rest, after everybody.
        State(self.slab.at(index).state_word().load(Ordering::Acquire))
    }

    fn assert_chain(&self, bucket: u32, owners: &mut Owners) -> usize {
        let chain = self.index.chain(bucket);
        let h = chain.header();
        let links = chain
            .links(h)
            .unwrap_or_else(|| panic!("{h:?} misses a link word"));
        assert!(
            overflow_needed::<G>(h.valid()) <= h.overflow(),
            "{h:?}: official beyond the chain"
        );
        let longer = chain.walk(h.overflow() + 1);
        assert_eq!(
            longer.positions::<G>(),
            links.positions::<G>(),
            "{h:?}: a bucket is left behind the linked ones"
        );
        count(owners, "linked", chain.overflow_numbers(&links));
        for position in 0..links.positions::<G>() {
            let home = chain.home(&links, position).unwrap();
            // Acquire: at rest.
            let slot = Slot(chain.slot(home).load(Ordering::Acquire));
            if !h.is_official(position) {
                assert_eq!(slot, Slot::EMPTY, "{h:?}: word left at position {position}");
                continue;
            }
            assert!(
                !slot.is_free(),
                "{h:?}: nothing at official position {position}"
            );
            let state = self.state(slot.index());
            assert!(
                state.is_confirmed() && slot.is_of(state),
                "{slot:?} is official, {state:?}"
            );
            let id = EntryId::new(slot.index(), state.generation());
            let pieces = self.pieces_of(id, state);
            assert!(
                pieces
                    .iter()
                    .any(|p| p.bucket == bucket && p.slot(id) == slot),
                "{slot:?} is no piece of its entry in this chain"
            );
        }
        h.valid().count_ones() as usize
    }

    fn assert_buckets(&self, workers: &[&LockfreeWorker], mut owners: Owners) {
        for number in self.waiting_buckets(workers) {
            let bucket = self.index.overflow.bucket(number);
            for word in &bucket.slots[..G::OVERFLOW_SLOTS] {
                // Acquire: at rest.
                let slot = Slot(word.load(Ordering::Acquire));
                assert_eq!(slot, Slot::EMPTY, "word left in retired bucket {number}");
            }
        }
        self.count_buckets(workers, &mut owners);
        for number in 0..self.index.overflow.len() as u32 {
            let places = owners.get(&number).map_or(&[][..], |places| places);
            assert_eq!(places.len(), 1, "overflow bucket {number} is in {places:?}");
        }
    }

    /// Overflow buckets that wait for their grace period.
    fn waiting_buckets(&self, workers: &[&LockfreeWorker]) -> Vec<u32> {
        let [_, _, _, mut waiting] = self.shared.orphan_numbers();
        for worker in workers {
            waiting.extend(worker.overflow_limbo.iter());
        }
        waiting
    }

    /// Where overflow buckets are that are in no chain.
    fn count_buckets(&self, workers: &[&LockfreeWorker], owners: &mut Owners) {
        let [_, _, free, _] = self.shared.orphan_numbers();
        count(owners, "free", self.index.overflow.free.at_rest());
        count(owners, "orphan", free);
        for worker in workers {
            count(owners, "cache", worker.overflow.iter());
        }
        let waiting = self.waiting_buckets(workers);
        for &number in &waiting {
            // A late publisher's, which comes home with it.
            let word = &self.index.overflow.bucket(number).word;
            // Acquire: at rest.
            let behind = Link(word.load(Ordering::Acquire)).bucket();
            count(owners, "behind", behind);
        }
        count(owners, "limbo", waiting);
    }

    /// What holds also when an operation was given up: no overflow bucket and no entry is in
    /// two places. (What the lost one had in hand is in none.)
    #[cfg(all(test, loom))]
    pub(super) fn assert_nothing_owned_twice(&self, workers: &[&LockfreeWorker]) {
        let mut buckets = Owners::new();
        for bucket in 0..self.index.heads.len() as u32 {
            let chain = self.index.chain(bucket);
            // One that was published, or unlinked, and left there.
            let links = chain.walk(chain.header().overflow() + 1);
            count(&mut buckets, "chain", chain.overflow_numbers(&links));
        }
        self.count_buckets(workers, &mut buckets);
        let entries = self.entry_owners(workers, &[]);
        for (what, owners) in [("overflow bucket", buckets), ("entry", entries)] {
            for (number, places) in owners {
                assert!(places.len() <= 1, "{what} {number} is in {places:?}");
            }
        }
    }

    /// Where entries are.
    fn entry_owners(&self, workers: &[&LockfreeWorker], in_hand: &[EntryId]) -> Owners {
        let mut owners = Owners::new();
        let [free, limbo, _, _] = self.shared.orphan_numbers();
        count(&mut owners, "free", self.entries.at_rest());
        count(&mut owners, "orphan", free);
        count(&mut owners, "orphan limbo", limbo);
        count(&mut owners, "in hand", in_hand.iter().map(|id| id.index()));
        for worker in workers {
            count(&mut owners, "cache", worker.entries.iter());
            count(&mut owners, "limbo", worker.entry_limbo.iter());
            count(&mut owners, "removed", worker.owned().map(EntryId::index));
        }
        count(
            &mut owners,
            "table",
            self.slab.confirmed().map(|(id, _)| id.index()),
        );
        owners
    }

    fn assert_entries(&self, workers: &[&LockfreeWorker], in_hand: &[EntryId]) {
        let owners = self.entry_owners(workers, in_hand);
        for index in 0..self.slab.capacity() as u32 {
            let places = owners.get(&index).map_or(&[][..], |places| places);
            assert_eq!(
                places.len(),
                1,
                "entry {index}, {:?}, is in {places:?}",
                self.slab.at(index).state()
            );
            let life = self.slab.at(index).state().life;
            let expected = match places[0] {
                "table" => Life::Confirmed,
                "removed" => Life::Dying,
                "in hand" => Life::Pending,
                _ => Life::Free,
            };
            // An orphan's removed entries are Dying until they are used again.
            assert!(
                life == expected || places[0].starts_with("orphan"),
                "entry {index}: {life:?} in {places:?}"
            );
        }
    }
}

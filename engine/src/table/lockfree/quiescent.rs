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
            .map(|(id, _)| self.pieces_of(id, self.state(id.index)).iter().count())
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
            let id = EntryId {
                index: slot.index(),
                generation: state.generation(),
            };
            let pieces = self.pieces_of(id, state);
            assert!(
                pieces
                    .iter()
                    .any(|p| p.place.bucket == bucket && p.slot(id) == slot),
                "{slot:?} is no piece of its entry in this chain"
            );
        }
        h.valid().count_ones() as usize
    }

    fn assert_buckets(&self, workers: &[&LockfreeWorker], mut owners: Owners) {
        let [_, _, free, limbo] = self.shared.orphan_numbers();
        count(&mut owners, "free", self.index.overflow.free.at_rest());
        count(&mut owners, "orphan", free);
        let mut waiting = limbo;
        for worker in workers {
            count(&mut owners, "cache", worker.overflow.iter());
            waiting.extend(worker.overflow_limbo.iter());
        }
        for &number in &waiting {
            let bucket = self.index.overflow.bucket(number);
            for word in &bucket.slots[..G::OVERFLOW_SLOTS] {
                // Acquire: at rest.
                let slot = Slot(word.load(Ordering::Acquire));
                assert_eq!(slot, Slot::EMPTY, "word left in retired bucket {number}");
            }
            // A late publisher's, which comes home with it.
            count(
                &mut owners,
                // Acquire: at rest.
                "behind",
                Link(bucket.word.load(Ordering::Acquire)).bucket(),
            );
        }
        count(&mut owners, "limbo", waiting);
        for number in 0..self.index.overflow.len() as u32 {
            let places = owners.get(&number).map_or(&[][..], |places| places);
            assert_eq!(places.len(), 1, "overflow bucket {number} is in {places:?}");
        }
    }

    fn assert_entries(&self, workers: &[&LockfreeWorker], in_hand: &[EntryId]) {
        let mut owners = Owners::new();
        let [free, limbo, _, _] = self.shared.orphan_numbers();
        count(&mut owners, "free", self.entries.at_rest());
        count(&mut owners, "orphan", free);
        count(&mut owners, "orphan limbo", limbo);
        count(&mut owners, "in hand", in_hand.iter().map(|id| id.index));
        for worker in workers {
            count(&mut owners, "cache", worker.entries.iter());
            count(&mut owners, "limbo", worker.entry_limbo.iter());
            count(&mut owners, "removed", worker.owned().map(|id| id.index));
        }
        count(
            &mut owners,
            "table",
            self.slab.confirmed().map(|(id, _)| id.index),
        );
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

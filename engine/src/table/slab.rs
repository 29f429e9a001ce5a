//! Where connections live: entries of fixed place, handed out by number and reused.
//!
//! Any thread may read any entry at any time; only the owner of an unconfirmed entry
//! writes its keys; status, deadline and tracker state of a confirmed one are changed by
//! whoever has a packet of it.
//!
//! # Memory
//! ```text
//! Entry<KeyV4>  64 B, one cache line, never moves
//! +----------+----------------+-------------+----------+--------+--------+--------+
//! | state 8  | original 16    | reply 16    | deadline | stream | status | device |
//! |          |                |             |        8 |      8 |      4 |      4 |
//! +----------+----------------+-------------+----------+--------+--------+--------+
//! state   | aux 32 | generation 29 | life 3 |
//!         aux belongs to the table: a reference count, or the winner of a clash
//! Tracker       64 B, same number: a lock word and seven words for the protocol
//! ```
//!
//! # States (`life`)
//! ```text
//! Free --allocate--> Pending --confirm--> Confirmed --remove--> Dying --last reference--> Free
//!                       \---------discard, clash, drop--------------------------------->/
//! ```
//! Allocate raises the generation, so that an [`EntryId`] kept from an earlier life is
//! found out. Who makes the step: allocate and discard the owner; confirm and remove
//! the table; the last step whoever drops the last reference.
//!
//! # Invariants
//! - I1 keys change only while the entry is Free or Pending, and only by its owner.
//! - I2 an entry number is in one place: a free list, a worker's hands, or the table.
//! - I3 `generation` grows by one a life; equal `EntryId`s are the same life (until the 29 bits wrap).
//!
//! # Pairs
//! - P1 release: the state change to Confirmed (by the table) <-> acquire: [`Slab::try_acquire`]
//!   and [`Entry::state`]: keys and all that the owner wrote before.
//! - P2 release: [`TrackerCell::lock`]'s guard dropped <-> acquire: the next `lock`: the tracker's words.
//! - P3 release: [`Slab::release`] of any reference <-> acquire: the load of whoever gives the
//!   last one back: nobody who held a reference still reads the life that ends.
//! - P4 release: the fence in [`Slab::allocate`] <-> acquire: the fence in [`Slab::read_confirmed`]:
//!   who reads a field of a life without holding it sees that the life before is over.
//!
//! # Progress
//! Reads are wait-free. [`Slab::allocate`] and freeing take a lock once in [`CACHE_BATCH`] calls.
//! A tracker's lock spins: it is held for some dozen instructions by whoever works on a
//! packet of that one connection, as `ct->lock` is in the kernel.
//!
//! # Sources
//! `struct nf_conn`, `SLAB_TYPESAFE_BY_RCU` and `refcount_inc_not_zero` in nf_conntrack_core.c.

pub use super::entry::{Entry, EntryId, EntryState, Life};
use super::entry::{GENERATION_MASK, ONE_REFERENCE};
use super::key::FlowKey;
use super::prefetch::{Hint, prefetch_at};
use super::storage::Array;
pub use super::tracker::{TrackerCell, TrackerGuard, TrackerWords, Traffic};
use crate::sync::unchecked::{Mutex, fence};
use crate::sync::{Ordering, rounds};
use crate::tuple::Direction;

/// How many numbers a worker's cache takes from, or gives back to, the shared pool at once.
pub const CACHE_BATCH: usize = 64;

/// Numbers that a cache holds at most, and other workers therefore cannot have.
pub const CACHE_MAX: usize = 2 * CACHE_BATCH;

/// Free entry numbers that one worker keeps at hand. One belongs to each table worker.
#[derive(Debug, Default)]
pub struct FreeCache {
    free: Vec<u32>,
}

impl FreeCache {
    /// An empty cache; its memory is reserved here, not on the data path.
    #[must_use]
    pub fn new() -> FreeCache {
        FreeCache {
            free: Vec::with_capacity(CACHE_MAX + 1),
        }
    }
}

/// All entries of a table.
#[derive(Debug)]
pub struct Slab<K: FlowKey> {
    entries: Array<Entry<K>>,
    trackers: Array<TrackerCell>,
    traffic: Option<Array<[Traffic; 2]>>,
    pool: Mutex<Vec<u32>>,
}

impl<K: FlowKey> Slab<K> {
    /// A slab of `capacity` entries, all free; `acct` adds traffic counters.
    ///
    /// # Panics
    /// If `capacity` is 0 or does not fit 2^31 entries.
    #[must_use]
    pub fn new(capacity: usize, acct: bool) -> Slab<K> {
        let mut slab = Slab::without_pool(capacity, acct);
        // Low numbers first: a table that is never full touches less memory.
        slab.pool = Mutex::new((0..capacity as u32).rev().collect());
        slab
    }

    /// A slab whose free numbers are kept by the table itself, which begins their lives
    /// with [`Slab::begin_life`].
    pub(super) fn without_pool(capacity: usize, acct: bool) -> Slab<K> {
        assert!(
            capacity > 0 && capacity < 1 << 31,
            "a slab holds 1 to 2^31 - 1 entries, not {capacity}"
        );
        Slab {
            entries: Array::zeroed(capacity),
            trackers: Array::zeroed(capacity),
            traffic: acct.then(|| Array::zeroed(capacity)),
            pool: Mutex::new(Vec::new()),
        }
    }

    /// Entries in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// All entries, by their numbers.
    #[inline]
    pub(super) fn entries(&self) -> &[Entry<K>] {
        &self.entries
    }

    /// The entry at a number.
    ///
    /// # Panics
    /// If the number is not of this slab.
    #[must_use]
    #[inline]
    pub fn entry(&self, id: EntryId) -> &Entry<K> {
        &self.entries[id.index() as usize]
    }

    /// The entry at a place, whatever life it is in.
    ///
    /// # Panics
    /// If the place is not of this slab.
    #[must_use]
    #[inline]
    pub fn at(&self, index: u32) -> &Entry<K> {
        &self.entries[index as usize]
    }

    /// The tracker's memory of an entry.
    ///
    /// # Panics
    /// If the number is not of this slab.
    #[must_use]
    #[inline]
    pub fn tracker(&self, id: EntryId) -> &TrackerCell {
        &self.trackers[id.index() as usize]
    }

    /// Asks for the memory of an entry and its tracker, ahead of use.
    #[inline]
    pub(super) fn ask_for(&self, hint: Hint, index: u32) {
        prefetch_at(hint, &self.entries, index as usize);
        prefetch_at(hint, &self.trackers, index as usize);
    }

    /// The traffic counters of an entry's direction, if they are kept.
    #[must_use]
    pub fn traffic(&self, id: EntryId, direction: Direction) -> Option<&Traffic> {
        self.traffic
            .as_ref()
            .map(|t| &t[id.index() as usize][direction.index()])
    }

    /// Is this still the life that the id was made for?
    #[must_use]
    pub fn is_current(&self, id: EntryId) -> bool {
        let state = self.entry(id).state();
        state.generation == id.generation() && state.life != Life::Free
    }

    /// What `read` makes of an entry that nobody holds, if the entry was Confirmed in this
    /// life all the while; else it may be of two lives, and is thrown away.
    pub fn read_confirmed<R>(&self, id: EntryId, read: impl FnOnce() -> R) -> Option<R> {
        let confirmed = || {
            let state = self.entry(id).state();
            state.generation == id.generation() && state.life == Life::Confirmed
        };
        if !confirmed() {
            return None;
        }
        let seen = read();
        // Acquire, P4: if a field was of the next life, this life's end is seen below.
        fence(Ordering::Acquire);
        confirmed().then_some(seen)
    }

    /// Takes a free entry: Pending, one reference (the caller's), status and deadline zero.
    /// `None` when all are in use.
    pub fn allocate(&self, cache: &mut FreeCache) -> Option<EntryId> {
        if cache.free.is_empty() {
            let mut pool = self
                .pool
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let keep = pool.len().saturating_sub(CACHE_BATCH);
            cache.free.extend(pool.drain(keep..));
        }
        let index = cache.free.pop()?;
        Some(self.begin_life(index, 1))
    }

    /// The next life of a free entry: Pending, status and deadline zero. The number must
    /// be the caller's own (I2).
    #[inline]
    pub(super) fn begin_life(&self, index: u32, aux: u32) -> EntryId {
        let entry = self.at(index);
        let generation = entry.state().generation.wrapping_add(1);
        let generation = generation & rounds::generation_bits(GENERATION_MASK);
        // Release, P4: the end of the life before comes before the fields of this one.
        fence(Ordering::Release);
        // Relaxed: the entry is ours alone (I2); publishing it is P1's business.
        entry.status.store(0, Ordering::Relaxed);
        entry.deadline.store(0, Ordering::Relaxed);
        entry.device.store(0, Ordering::Relaxed);
        if let Some(traffic) = &self.traffic {
            traffic[index as usize].iter().for_each(Traffic::reset);
        }
        let state = EntryState {
            aux,
            generation,
            life: Life::Pending,
        };
        // Release: a reader carried here by an old link must not pair the new life with old fields.
        entry.state.store(state.pack(), Ordering::Release);
        EntryId::new(index, generation)
    }

    /// Takes a reference, unless the entry is free or on its way there
    /// (`refcount_inc_not_zero`). The caller must check afterwards what it has got.
    #[must_use]
    pub fn try_acquire(&self, index: u32) -> Option<EntryId> {
        let state = &self.at(index).state;
        // Relaxed: only compared, by the exchange below.
        let mut seen = state.load(Ordering::Relaxed);
        loop {
            if seen < ONE_REFERENCE {
                return None;
            }
            // Acquire, P1: keys and fields of the life we now hold. Failure relaxed: tried again.
            match state.compare_exchange_weak(
                seen,
                seen + ONE_REFERENCE,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    return Some(EntryId::new(index, EntryState::unpack(seen).generation));
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Takes a reference to this life of an entry, or none at all. False when the life is over
    /// or the entry has no reference left.
    ///
    /// What the caller read of the entry between learning `id` from [`Entry::state`] and this
    /// call is then of this life: a later life begins only after the reference just taken is
    /// given back.
    #[must_use]
    pub fn acquire_current(&self, id: EntryId) -> bool {
        let state = &self.entry(id).state;
        // Relaxed: only compared, by the exchange below.
        let mut seen = state.load(Ordering::Relaxed);
        loop {
            if seen < ONE_REFERENCE || EntryState::unpack(seen).generation != id.generation() {
                return false;
            }
            // Acquire, P1: keys and fields of the life we now hold. Failure relaxed: tried again.
            match state.compare_exchange_weak(
                seen,
                seen + ONE_REFERENCE,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Adds a reference to an entry that the caller already holds one of.
    pub fn acquire_held(&self, id: EntryId) {
        // Relaxed: the caller's own reference keeps the life; nothing is read through this one yet.
        self.entry(id)
            .state
            .fetch_add(ONE_REFERENCE, Ordering::Relaxed);
    }

    /// Gives a reference back. The last one frees the entry; true if it was.
    pub fn release(&self, cache: &mut FreeCache, id: EntryId) -> bool {
        self.release_life(cache, id).is_some()
    }

    /// [`Slab::release`] that tells what the entry was when the last reference freed it:
    /// [`Life::Pending`] was never confirmed.
    pub fn release_life(&self, cache: &mut FreeCache, id: EntryId) -> Option<Life> {
        let entry = self.entry(id);
        // Release, P3: what we did with the entry comes before its next life.
        let before = entry.state.fetch_sub(ONE_REFERENCE, Ordering::Release);
        debug_assert!(before >= ONE_REFERENCE, "a reference is given back once");
        if before >> 32 != 1 {
            return None;
        }
        // Acquire, P3: what all others did with it comes before we free it.
        let state = EntryState::unpack(entry.state.load(Ordering::Acquire));
        // Relaxed: nobody takes a reference of an entry that has none; the pool's lock publishes.
        entry.state.store(
            EntryState {
                aux: 0,
                life: Life::Free,
                ..state
            }
            .pack(),
            Ordering::Relaxed,
        );
        cache.free.push(id.index());
        if cache.free.len() > CACHE_MAX {
            let mut pool = self
                .pool
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let keep = cache.free.len() - CACHE_BATCH;
            pool.extend(cache.free.drain(keep..));
        }
        Some(state.life)
    }

    /// Gives all numbers of a cache back to the shared pool: its worker leaves.
    pub fn flush(&self, cache: &mut FreeCache) {
        let mut pool = self
            .pool
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        pool.append(&mut cache.free);
    }

    /// Moves an entry from `from` to `to`; true if it was in `from` and in this life.
    /// One of several callers gets true.
    pub fn change_life(&self, id: EntryId, from: Life, to: Life) -> bool {
        let word = &self.entry(id).state;
        // Relaxed: only compared, by the exchange below.
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let state = EntryState::unpack(seen);
            if state.life != from || state.generation != id.generation() {
                return false;
            }
            let next = EntryState { life: to, ..state }.pack();
            // Release, P1: keys before Confirmed. Acquire: a remover sees what it removes.
            // Failure relaxed: looked at again.
            match word.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Walks all confirmed entries: one that is confirmed during the whole walk is met
    /// exactly once, in order of its place. Others may or may not be met.
    pub fn confirmed(&self) -> impl Iterator<Item = (EntryId, &Entry<K>)> + '_ {
        self.confirmed_in(0..self.capacity())
    }

    /// [`Slab::confirmed`] of some places; what lies beyond the slab is left out.
    pub fn confirmed_in(
        &self,
        places: std::ops::Range<usize>,
    ) -> impl Iterator<Item = (EntryId, &Entry<K>)> + '_ {
        let end = places.end.min(self.capacity());
        (places.start.min(end)..end).filter_map(|index| {
            let entry = &self.entries[index];
            let EntryState {
                generation, life, ..
            } = entry.state();
            let index = index as u32;
            (life == Life::Confirmed).then_some((EntryId::new(index, generation), entry))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::key::KeyV4;

    #[test]
    fn an_entry_number_of_an_earlier_life_is_found_out() {
        let slab = Slab::<KeyV4>::new(1, false);
        let mut cache = FreeCache::new();
        let first = slab.allocate(&mut cache).unwrap();
        assert!(slab.is_current(first));
        assert!(slab.release(&mut cache, first));
        assert!(!slab.is_current(first));
        let second = slab.allocate(&mut cache).unwrap();
        assert_eq!(second.index(), first.index());
        assert!(slab.is_current(second) && !slab.is_current(first));
    }

    #[test]
    fn no_entry_is_handed_out_twice_and_all_come_back() {
        let slab = Slab::<KeyV4>::new(300, false);
        let mut cache = FreeCache::new();
        for _ in 0..3 {
            let ids: Vec<_> = std::iter::from_fn(|| slab.allocate(&mut cache)).collect();
            let places: std::collections::HashSet<_> = ids.iter().map(|id| id.index()).collect();
            assert_eq!((ids.len(), places.len()), (300, 300));
            for id in ids {
                assert!(slab.release(&mut cache, id));
            }
        }
    }

    #[test]
    fn a_worker_that_leaves_takes_no_entry_with_it() {
        let slab = Slab::<KeyV4>::new(10, false);
        let mut leaving = FreeCache::new();
        let id = slab.allocate(&mut leaving).unwrap();
        assert!(slab.release(&mut leaving, id));
        let mut other = FreeCache::new();
        assert_eq!(
            slab.allocate(&mut other),
            None,
            "all ten are at the first worker's hand"
        );
        slab.flush(&mut leaving);
        assert_eq!(std::iter::from_fn(|| slab.allocate(&mut other)).count(), 10);
    }

    #[test]
    fn what_is_read_of_a_life_that_ended_meanwhile_is_thrown_away() {
        let slab = Slab::<KeyV4>::new(1, false);
        let mut cache = FreeCache::new();
        let id = slab.allocate(&mut cache).unwrap();
        assert_eq!(slab.read_confirmed(id, || ()), None, "not yet");
        assert!(slab.change_life(id, Life::Pending, Life::Confirmed));
        assert_eq!(slab.read_confirmed(id, || 7), Some(7));
        let read = || {
            assert!(slab.change_life(id, Life::Confirmed, Life::Dying));
            assert!(slab.release(&mut cache, id));
            let next = slab.allocate(&mut cache).unwrap();
            assert!(slab.change_life(next, Life::Pending, Life::Confirmed));
        };
        assert_eq!(slab.read_confirmed(id, read), None);
    }

    #[test]
    fn an_entry_stays_until_its_last_reference_goes() {
        let slab = Slab::<KeyV4>::new(1, false);
        let mut cache = FreeCache::new();
        let id = slab.allocate(&mut cache).unwrap();
        assert!(slab.change_life(id, Life::Pending, Life::Confirmed));
        assert_eq!(slab.try_acquire(id.index()), Some(id));
        assert!(slab.change_life(id, Life::Confirmed, Life::Dying));
        assert!(
            !slab.change_life(id, Life::Confirmed, Life::Dying),
            "one killer only"
        );
        assert!(!slab.release(&mut cache, id));
        assert!(slab.allocate(&mut cache).is_none());
        assert!(slab.release(&mut cache, id));
        assert_eq!(slab.try_acquire(id.index()), None);
        assert!(slab.allocate(&mut cache).is_some());
    }
}

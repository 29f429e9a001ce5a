//! Free numbers (entries, overflow buckets), handed out in rounds without a lock.
//!
//! Threads take and give numbers from caches of their own; only full *chunks* of them go
//! through shared memory: from and to a *shelf* of the thread's own, as long as there are any, so that neither the
//! shelf's lines nor those of what the numbers stand for go from core to core. Who finds his shelf empty takes from the others'.
//!
//! # Memory
//! ```text
//! Chunk   256 B | next 4 | depth 4 | count 4 | at most 61 numbers |
//! stack   | tag 32 | chunk + 1  32 |
//! shelf   three stacks: two of full chunks, one of blank ones
//! round   odd or even: which of the two is drained on all shelves; the other one is filled
//! fresh   numbers from here on were never used; for chunks likewise
//! ```
//! Memory that was never used is touched last: a fresh number is handed out only while fewer than
//! [`ROUND`] numbers wait in the stacks that are filled. So what a table touches is what it had in
//! use at its fullest, and about two rounds more; and numbers come back while the lines of what they
//! stand for are still in a cache.
//!
//! # Invariants
//! - I1 a number is in one place: not yet fresh, a chunk of a stack, a thread's cache, or in use.
//! - I2 a chunk is in one stack or in one thread's hands.
//! - I3 a number that is given back is not handed out again before the stacks that were
//!   drained at that time were found empty. So a number's generation wraps only after 2^29 *rounds*, which
//!   are [`ROUND`] allocations each in a large table: more than a day at five million a second.
//!   One whose last life nobody else knew of comes once in half a chunk of allocations instead: where all lose, it
//!   wraps after an hour.
//!
//! # Linearization
//! Push and pop: the CAS of the stack's head. Change of rounds: the CAS of `round`.
//!
//! # Pairs
//! - P1 release: the CAS that pushes a chunk <-> acquire: the load of the head that pops it:
//!   its numbers, and what their last owner did with what they stand for.
//!
//! # Progress
//! Lock-free: a CAS fails only because another one succeeded. A thread that stops holds
//! its caches and at most one chunk.
//!
//! # Sources
//! Treiber, *Systems Programming: Coping with Parallelism* (1986), with tagged heads. The
//! tag would have to come round by 2^32 changes while one pop is between two instructions.

use std::ops::Range;

use crossbeam_utils::CachePadded;

use super::epoch::WORKERS_MAX;
use super::prefetch::{Hint, prefetch};
use crate::sync::{AtomicU64, BodyHalf, CHECKED, Ordering, unchecked};
use crate::table::storage::{Array, Zeroed};

/// Numbers of a chunk. Few under a checker, so that chunks change hands there.
pub(super) const CHUNK: usize = if CHECKED { 2 } else { 61 };

/// Numbers that one thread keeps at hand, which no other can have: a chunk each of what it takes, gives, and was alone to see.
pub(super) const AT_HAND: usize = 3 * CHUNK;

#[repr(C, align(64))]
#[derive(Debug)]
struct Chunk {
    /// Chunk below in the stack, plus one.
    next: AtomicHalf,
    /// Chunks of the stack up to this one.
    depth: AtomicHalf,
    count: BodyHalf,
    numbers: [BodyHalf; CHUNK],
}

/// `next` and `depth` are read by threads that are about to lose the CAS: really atomic.
type AtomicHalf = unchecked::AtomicU32;

impl Default for Chunk {
    fn default() -> Chunk {
        Chunk {
            next: AtomicHalf::new(0),
            depth: AtomicHalf::new(0),
            count: BodyHalf::default(),
            numbers: std::array::from_fn(|_| BodyHalf::default()),
        }
    }
}

// SAFETY: atomic words only; zeroes are `default()`.
unsafe impl Zeroed for Chunk {}

/// Numbers of a round: a thousand, or a sixteenth of all where that is less.
const ROUND: usize = 1024;

/// A head of a stack of chunks.
#[derive(Debug, Default)]
struct Stack {
    head: AtomicU64,
}

impl Stack {
    fn depth(&self, chunks: &[Chunk]) -> usize {
        // Relaxed: an estimate that decides between two right ways.
        match (self.head.load(Ordering::Relaxed) as u32).checked_sub(1) {
            None => 0,
            Some(top) => chunks[top as usize].depth.load(Ordering::Relaxed) as usize,
        }
    }

    fn pop(&self, chunks: &[Chunk]) -> Option<u32> {
        // Acquire, P1: the chunk's link and contents.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let top = (head as u32).checked_sub(1)?;
            // Relaxed: if the chunk was popped meanwhile, this is nonsense and the tag makes the CAS fail.
            let below = chunks[top as usize].next.load(Ordering::Relaxed);
            let next = retagged(head, below);
            // AcqRel: keeps the releases of earlier pushes going. Failure acquire: as the load above.
            match self
                .head
                .compare_exchange(head, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => {
                    // Popped next most often, by the same thread.
                    if let Some(next) = below.checked_sub(1) {
                        prefetch(Hint::T0, &chunks[next as usize]);
                    }
                    return Some(top);
                }
                Err(now) => head = now,
            }
        }
    }

    fn push(&self, chunks: &[Chunk], chunk: u32) {
        // Relaxed: the value is only compared; the depth is an estimate.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let below = head as u32;
            let depth = match below.checked_sub(1) {
                None => 0,
                // Relaxed: an estimate.
                Some(top) => chunks[top as usize].depth.load(Ordering::Relaxed),
            };
            let ours = &chunks[chunk as usize];
            // Relaxed, both: published by the CAS.
            ours.next.store(below, Ordering::Relaxed);
            ours.depth.store(depth + 1, Ordering::Relaxed);
            // Release, P1: the chunk's contents. AcqRel keeps earlier releases going. Failure relaxed: only compared.
            match self.head.compare_exchange(
                head,
                retagged(head, chunk + 1),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

/// A thread's own stacks, which others take from when theirs are empty.
#[derive(Debug, Default)]
struct Shelf {
    full: [CachePadded<Stack>; 2],
    blank: CachePadded<Stack>,
}

/// Shelves of a pool. With more threads than that some share one.
const SHELVES: usize = if CHECKED { 2 } else { 16 };

/// A head of another chunk and the next tag.
fn retagged(head: u64, chunk_plus_one: u32) -> u64 {
    ((head >> 32).wrapping_add(1)) << 32 | u64::from(chunk_plus_one)
}

/// The next `count` numbers, or what is left of them below `end`.
fn take_range(next: &AtomicU64, end: u64, count: u64) -> Range<u32> {
    // Relaxed, all: what was never used has no history to order.
    let mut first = next.load(Ordering::Relaxed);
    loop {
        let last = (first + count).min(end);
        if first == last {
            return 0..0;
        }
        // Relaxed: as above.
        match next.compare_exchange(first, last, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return first as u32..last as u32,
            Err(now) => first = now,
        }
    }
}

/// All free numbers below a capacity.
#[derive(Debug)]
pub(super) struct Pool {
    chunks: Array<Chunk>,
    shelves: Box<[Shelf]>,
    /// Shelves from here on were never anybody's.
    shelves_used: unchecked::AtomicUsize,
    round: CachePadded<AtomicU64>,
    fresh: CachePadded<AtomicU64>,
    fresh_chunks: CachePadded<AtomicU64>,
    capacity: u32,
    /// Numbers that go from hand to hand at once: few where there are few, lest one thread has them all.
    chunk: usize,
    /// Chunks that make a round worth starting while fresh numbers are left.
    round_chunks: usize,
}

/// How far ahead of its allocation a number is named by [`Cache::soon`]: as many take about as long as a line from memory, or
/// from a core that wrote it.
const AHEAD: usize = 20;

/// Numbers that one thread has at hand. Its three parts change places, so that all have the same room.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The shelf that is its thread's.
    shelf: usize,
    taking: Vec<u32>,
    giving: Vec<u32>,
    /// Numbers whose last lives nobody else knew of.
    unseen: Vec<u32>,
}

impl Cache {
    pub(super) fn is_empty(&self) -> bool {
        self.taking.is_empty() && self.giving.is_empty() && self.unseen.is_empty()
    }

    /// The number that is taken after `AHEAD - 1` others.
    #[inline]
    pub(super) fn soon(&self) -> Option<u32> {
        let at = self.taking.len().checked_sub(AHEAD)?;
        self.taking.get(at).copied()
    }

    /// All that are taken before that one.
    pub(super) fn very_soon(&self) -> &[u32] {
        &self.taking[(self.taking.len() + 1).saturating_sub(AHEAD)..]
    }

    /// A number, if there is one at hand.
    #[inline]
    pub(super) fn at_hand(&mut self) -> Option<u32> {
        self.taking.pop()
    }

    /// All numbers in it.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let given = self.giving.iter().chain(&self.unseen);
        self.taking.iter().chain(given).copied()
    }

    /// Puts `count` numbers at hand, so that taking them later touches nothing shared.
    #[cfg(all(test, any(loom, shuttle)))]
    pub(super) fn stock(&mut self, pool: &Pool, count: usize) {
        while self.taking.len() < count {
            let number = pool.take(&mut Cache::default());
            self.taking.push(number.expect("enough for all workers"));
        }
    }

    /// Takes over what another thread left behind.
    pub(super) fn absorb(&mut self, other: &mut Cache) {
        self.giving.append(&mut other.taking);
        self.giving.append(&mut other.giving);
        self.giving.append(&mut other.unseen);
    }
}

impl Pool {
    /// Numbers 0 to `capacity - 1`, all free.
    pub(super) fn new(capacity: usize) -> Pool {
        let chunk = (capacity / 32).clamp(1, CHUNK);
        // Full chunks, and one in the hands of each worker.
        let count = capacity / chunk + WORKERS_MAX;
        Pool {
            chunks: Array::sparse(count),
            shelves: (0..SHELVES).map(|_| Shelf::default()).collect(),
            shelves_used: 1.into(),
            round: CachePadded::new(AtomicU64::new(0)),
            fresh: CachePadded::new(AtomicU64::new(0)),
            fresh_chunks: CachePadded::new(AtomicU64::new(0)),
            capacity: capacity as u32,
            chunk,
            round_chunks: (capacity / 16).min(ROUND) / chunk,
        }
    }

    /// An empty cache for the thread with this number; its memory is reserved here, not on the data path.
    pub(super) fn cache(&self, thread: usize) -> Cache {
        let shelf = thread % SHELVES;
        // Relaxed: who hears of what was put on the shelf has heard of the shelf.
        self.shelves_used.fetch_max(shelf + 1, Ordering::Relaxed);
        Cache {
            shelf,
            taking: Vec::with_capacity(2 * CHUNK),
            giving: Vec::with_capacity(2 * CHUNK),
            unseen: Vec::with_capacity(2 * CHUNK),
        }
    }

    /// A free number; `None` when none is left.
    #[inline]
    pub(super) fn take(&self, cache: &mut Cache) -> Option<u32> {
        if let Some(number) = cache.taking.pop() {
            return Some(number);
        }
        self.refill(cache);
        cache.taking.pop()
    }

    #[cold]
    fn refill(&self, cache: &mut Cache) {
        // Not for a few: each would be used again and again.
        if 2 * cache.unseen.len() > self.chunk {
            std::mem::swap(&mut cache.taking, &mut cache.unseen);
            return;
        }
        // Ends: each turn drains, starts a round that somebody filled, or falls through.
        loop {
            // Relaxed: a round that is over only costs the order of one chunk.
            let round = self.round.load(Ordering::Relaxed);
            let draining = round as usize & 1;
            if let Some(chunk) = self.pop_any(cache.shelf, |shelf| &shelf.full[draining]) {
                return self.unpack(cache, chunk);
            }
            let filled: usize = self
                .shelves_in_use()
                .iter()
                .map(|shelf| shelf.full[1 - draining].depth(&self.chunks))
                .sum();
            if filled <= self.round_chunks && self.take_fresh(cache) {
                return;
            }
            if filled == 0 {
                // What this thread gave back itself is the last resort: it breaks the rounds (I3).
                std::mem::swap(&mut cache.taking, &mut cache.giving);
                cache.taking.append(&mut cache.unseen);
                return;
            }
            // Relaxed, both: the stacks order their contents themselves; failing means that somebody else did it.
            let _ = self.round.compare_exchange(
                round,
                round.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    fn shelves_in_use(&self) -> &[Shelf] {
        // Relaxed: see `cache`.
        &self.shelves[..self.shelves_used.load(Ordering::Relaxed)]
    }

    /// A chunk of such a stack of this shelf, or of the next one that has any.
    fn pop_any(&self, own: usize, stack: impl Fn(&Shelf) -> &Stack) -> Option<u32> {
        let (before, from_own) = self.shelves_in_use().split_at(own);
        let mut shelves = from_own.iter().chain(before);
        shelves.find_map(|shelf| stack(shelf).pop(&self.chunks))
    }

    fn unpack(&self, cache: &mut Cache, chunk: u32) {
        let contents = &self.chunks[chunk as usize];
        let count = contents.count.load() as usize;
        cache
            .taking
            .extend(contents.numbers[..count].iter().map(BodyHalf::load));
        self.shelves[cache.shelf].blank.push(&self.chunks, chunk);
    }

    fn take_fresh(&self, cache: &mut Cache) -> bool {
        let fresh = take_range(&self.fresh, u64::from(self.capacity), self.chunk as u64);
        // Taken from the end: lowest first.
        cache.taking.extend(fresh.clone().rev());
        !fresh.is_empty()
    }

    /// A chunk with nothing in it; `None` if others have them all in hand for a moment.
    fn take_blank(&self, shelf: usize) -> Option<u32> {
        let used_before = self.pop_any(shelf, |shelf| &shelf.blank);
        used_before.or_else(|| take_range(&self.fresh_chunks, self.chunks.len() as u64, 1).next())
    }

    /// Gives a number back of whose last life nobody else knew: it stays with this thread, whose caches have what it
    /// stands for.
    #[inline]
    pub(super) fn give_unseen(&self, cache: &mut Cache, number: u32) {
        if cache.unseen.len() < self.chunk {
            cache.unseen.push(number);
        } else {
            self.give(cache, number);
        }
    }

    /// Gives a number back. It must be the caller's own (I1).
    pub(super) fn give(&self, cache: &mut Cache, number: u32) {
        debug_assert!(number < self.capacity);
        cache.giving.push(number);
        if cache.giving.len() >= self.chunk {
            self.spill(cache);
        }
    }

    #[cold]
    fn spill(&self, cache: &mut Cache) {
        // None blank: the cache keeps the numbers.
        while cache.giving.len() >= self.chunk
            && let Some(chunk) = self.take_blank(cache.shelf)
        {
            let contents = &self.chunks[chunk as usize];
            for (place, number) in contents
                .numbers
                .iter()
                .zip(cache.giving.drain(..self.chunk))
            {
                place.store(number);
            }
            contents.count.store(self.chunk as u32);
            // Relaxed: as in `refill`.
            let filling = 1 - (self.round.load(Ordering::Relaxed) as usize & 1);
            self.shelves[cache.shelf].full[filling].push(&self.chunks, chunk);
        }
    }

    /// Numbers that were ever handed out.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn touched(&self) -> usize {
        // Relaxed: one thread.
        self.fresh.load(Ordering::Relaxed) as usize
    }

    /// All numbers that are in no cache and in nobody's use. Only at rest.
    #[cfg(test)]
    pub(super) fn at_rest(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> =
            // Acquire, all: at rest, after everybody.
            (self.fresh.load(Ordering::Acquire) as u32..self.capacity).collect();
        for stack in self.shelves.iter().flat_map(|shelf| &shelf.full) {
            let mut at = stack.head.load(Ordering::Acquire) as u32;
            while let Some(chunk) = at.checked_sub(1) {
                let contents = &self.chunks[chunk as usize];
                let count = contents.count.load() as usize;
                numbers.extend(contents.numbers[..count].iter().map(BodyHalf::load));
                // Relaxed: behind the acquire of the head.
                at = contents.next.load(Ordering::Relaxed);
            }
        }
        numbers
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::sync::FEW_WORKERS;
    use std::collections::HashSet;

    #[test]
    fn all_numbers_come_out_once_and_come_back() {
        let pool = Pool::new(1000);
        let mut cache = pool.cache(0);
        for _ in 0..5 {
            let numbers: Vec<u32> = std::iter::from_fn(|| pool.take(&mut cache)).collect();
            assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 1000);
            assert_eq!(numbers.len(), 1000);
            for number in numbers {
                pool.give(&mut cache, number);
            }
        }
        assert_eq!(pool.at_rest().len() + cache.iter().count(), 1000);
    }

    #[test]
    fn a_number_given_back_waits_for_the_round_to_end() {
        // Whole chunks only: the cache keeps no remainder over the end of a round.
        let pool = Pool::new(32 * 31);
        let mut cache = pool.cache(0);
        let all: Vec<u32> = std::iter::from_fn(|| pool.take(&mut cache)).collect();
        for &number in &all {
            pool.give(&mut cache, number);
        }
        let mut taken = HashSet::new();
        for _ in 0..all.len() {
            let number = pool.take(&mut cache).unwrap();
            assert!(taken.insert(number), "{number} came twice in one round");
            pool.give(&mut cache, number);
        }
    }

    #[test]
    fn a_number_that_nobody_saw_stays_with_its_thread_and_comes_once_in_half_a_chunk() {
        let pool = Pool::new(32 * CHUNK);
        let (mut cache, mut uses) = (pool.cache(0), vec![0; 32 * CHUNK]);
        const STEPS: usize = 100 * CHUNK;
        for step in 0..STEPS {
            let number = pool.take(&mut cache).unwrap();
            uses[number as usize] += 1;
            // Now and then one is seen, and goes to all.
            if step % 7 == 0 {
                pool.give(&mut cache, number);
            } else {
                pool.give_unseen(&mut cache, number);
            }
        }
        let most = uses.iter().max().unwrap();
        assert!(*most <= STEPS / (CHUNK / 2), "{most} uses of one number");
        let used = uses.iter().filter(|count| **count > 0).count();
        assert!(used < 16 * CHUNK, "{used} numbers went through its hands");
        assert_eq!(pool.at_rest().len() + cache.iter().count(), 32 * CHUNK);
        // The last of all are what it kept, and no part of the cache had to grow for them.
        let left = std::iter::from_fn(|| pool.take(&mut cache)).count();
        assert_eq!(left, 32 * CHUNK);
        for part in [&cache.taking, &cache.giving, &cache.unseen] {
            assert_eq!(part.capacity(), 2 * CHUNK);
        }
    }

    #[test]
    fn a_thread_takes_from_its_own_shelf_first_and_then_from_the_others() {
        const EACH: usize = 16 * CHUNK;
        let pool = Pool::new(2 * EACH);
        let mut caches = [pool.cache(0), pool.cache(1)];
        let mut given: [HashSet<u32>; 2] = Default::default();
        for (cache, given) in caches.iter_mut().zip(&mut given) {
            given.extend((0..EACH).map(|_| pool.take(cache).unwrap()));
        }
        for (cache, given) in caches.iter_mut().zip(&given) {
            given.iter().for_each(|&number| pool.give(cache, number));
        }
        let [one, _] = &mut caches;
        let taken: Vec<u32> = (0..2 * EACH).map(|_| pool.take(one).unwrap()).collect();
        assert_eq!(HashSet::from_iter(taken[..EACH].iter().copied()), given[0]);
        assert_eq!(HashSet::from_iter(taken[EACH..].iter().copied()), given[1]);
        assert_eq!(pool.take(one), None);
    }

    #[test]
    fn threads_never_hold_one_number_twice() {
        const THREADS: usize = 4;
        const STEPS: usize = if FEW_WORKERS { 300 } else { 20_000 };
        let pool = Pool::new(300);
        let held: Vec<AtomicU64> = (0..300).map(|_| AtomicU64::new(0)).collect();
        let caches: Vec<Cache> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|seed| {
                    let (pool, held) = (&pool, &held);
                    scope.spawn(move || {
                        let mut cache = pool.cache(seed);
                        let mut mine = Vec::new();
                        for step in 0..STEPS {
                            if (step * 7 + seed) % 11 < 6
                                && let Some(number) = pool.take(&mut cache)
                            {
                                // Relaxed: the read-modify-write alone tells two holders.
                                let before = held[number as usize].fetch_add(1, Ordering::Relaxed);
                                assert_eq!(before, 0, "{number} is held twice");
                                mine.push(number);
                            } else if let Some(number) = mine.pop() {
                                // Relaxed: as above.
                                held[number as usize].fetch_sub(1, Ordering::Relaxed);
                                pool.give(&mut cache, number);
                            }
                        }
                        for number in mine {
                            // Relaxed: as above.
                            held[number as usize].fetch_sub(1, Ordering::Relaxed);
                            pool.give(&mut cache, number);
                        }
                        cache
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let mut back = pool.at_rest();
        back.extend(caches.iter().flat_map(Cache::iter));
        assert_eq!(back.iter().collect::<HashSet<_>>().len(), 300);
        assert_eq!(back.len(), 300);
    }
}

//! Free numbers (entries, overflow buckets), handed out in rounds without a lock.
//!
//! Threads take and give numbers from caches of their own; only full *chunks* of them go
//! through shared memory.
//!
//! # Memory
//! ```text
//! Chunk   256 B | next 4 | depth 4 | count 4 | at most 61 numbers |
//! stack   | tag 32 | chunk + 1  32 |    two of full chunks, one of blank ones
//! round   odd or even: which stack is drained; the other one is filled
//! fresh   numbers from here on were never used; for chunks likewise
//! ```
//! Memory that was never used is touched last: a fresh number is handed out only while fewer than
//! [`ROUND`] numbers wait in the stack that is filled. So what a table touches is what it had in
//! use at its fullest, and about two rounds more; and numbers come back while the lines of what they
//! stand for are still in a cache.
//!
//! # Invariants
//! - I1 a number is in one place: not yet fresh, a chunk of a stack, a thread's cache, or in use.
//! - I2 a chunk is in one stack or in one thread's hands.
//! - I3 a number that is given back is not handed out again before the stack that was
//!   drained at that time is empty. So a number's generation wraps only after 2^29 *rounds*, which
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
use crate::sync::{AtomicU64, BodyHalf, CHECKED, Ordering};
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
type AtomicHalf = crate::sync::unchecked::AtomicU32;

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
                Ok(_) => return Some(top),
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
    full: [CachePadded<Stack>; 2],
    blank: CachePadded<Stack>,
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
    taking: Vec<u32>,
    giving: Vec<u32>,
    /// Numbers whose last lives nobody else knew of.
    unseen: Vec<u32>,
}

impl Cache {
    /// An empty cache; its memory is reserved here, not on the data path.
    pub(super) fn new() -> Cache {
        Cache {
            taking: Vec::with_capacity(2 * CHUNK),
            giving: Vec::with_capacity(2 * CHUNK),
            unseen: Vec::with_capacity(2 * CHUNK),
        }
    }

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
            full: Default::default(),
            blank: CachePadded::default(),
            round: CachePadded::new(AtomicU64::new(0)),
            fresh: CachePadded::new(AtomicU64::new(0)),
            fresh_chunks: CachePadded::new(AtomicU64::new(0)),
            capacity: capacity as u32,
            chunk,
            round_chunks: (capacity / 16).min(ROUND) / chunk,
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
            let (draining, filling) = (
                &self.full[round as usize & 1],
                &self.full[1 - (round as usize & 1)],
            );
            if let Some(chunk) = draining.pop(&self.chunks) {
                return self.unpack(cache, chunk);
            }
            let filled = filling.depth(&self.chunks);
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

    fn unpack(&self, cache: &mut Cache, chunk: u32) {
        let contents = &self.chunks[chunk as usize];
        let count = contents.count.load() as usize;
        cache
            .taking
            .extend(contents.numbers[..count].iter().map(BodyHalf::load));
        self.blank.push(&self.chunks, chunk);
    }

    fn take_fresh(&self, cache: &mut Cache) -> bool {
        let fresh = take_range(&self.fresh, u64::from(self.capacity), self.chunk as u64);
        // Taken from the end: lowest first.
        cache.taking.extend(fresh.clone().rev());
        !fresh.is_empty()
    }

    /// A chunk with nothing in it; `None` if others have them all in hand for a moment.
    fn take_blank(&self) -> Option<u32> {
        let used_before = self.blank.pop(&self.chunks);
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
            && let Some(chunk) = self.take_blank()
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
            self.full[filling].push(&self.chunks, chunk);
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
        for stack in &self.full {
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
    use std::collections::HashSet;

    #[test]
    fn all_numbers_come_out_once_and_come_back() {
        let pool = Pool::new(1000);
        let mut cache = Cache::new();
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
        let mut cache = Cache::new();
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
        let (mut cache, mut uses) = (Cache::new(), vec![0; 32 * CHUNK]);
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
    fn threads_never_hold_one_number_twice() {
        const THREADS: usize = 4;
        let pool = Pool::new(300);
        let held: Vec<AtomicU64> = (0..300).map(|_| AtomicU64::new(0)).collect();
        let caches: Vec<Cache> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|seed| {
                    let (pool, held) = (&pool, &held);
                    scope.spawn(move || {
                        let mut cache = Cache::new();
                        let mut mine = Vec::new();
                        for step in 0..20_000usize {
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

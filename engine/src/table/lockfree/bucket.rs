//! Buckets and the index made of them: all words that lead from a key to entries.

use std::fmt;
use std::marker::PhantomData;

use super::overflow::OverflowPool;
use super::word::{Header, Link, Slot, VALID_BITS};
use crate::sync::{AtomicU64, CHECKED, Ordering};
use crate::table::storage::{Array, Zeroed};

/// Slots of a bucket. Few under a checker: each one is an object that it keeps track of.
pub(super) const SLOTS: usize = if CHECKED { 3 } else { 7 };

/// How many slots of a bucket are used, and how many overflow buckets a chain may have.
/// [`Wide`] is the real one; tests take [`Narrow`] ones, where rare paths are common.
pub trait Geometry: Send + Sync + fmt::Debug + 'static {
    /// Slots used of a head bucket: 1 to 7.
    const HEAD_SLOTS: usize;
    /// Slots used of an overflow bucket: 1 to 7.
    const OVERFLOW_SLOTS: usize;
    /// Overflow buckets of a chain at most: 0 to 3.
    const OVERFLOW_MAX: usize;
    /// Positions of a chain at most.
    const POSITIONS: usize = {
        let positions = Self::HEAD_SLOTS + Self::OVERFLOW_SLOTS * Self::OVERFLOW_MAX;
        assert!(Self::HEAD_SLOTS >= 1 && Self::HEAD_SLOTS <= SLOTS);
        assert!(Self::OVERFLOW_SLOTS >= 1 && Self::OVERFLOW_SLOTS <= SLOTS);
        assert!(Self::OVERFLOW_MAX <= LINKS_MAX && positions <= VALID_BITS);
        positions
    };
}

/// Overflow buckets that a header can count.
pub(super) const LINKS_MAX: usize = 3;

/// All 7 slots of all buckets, 3 overflow buckets: chains of up to 28.
#[derive(Debug)]
pub struct Wide;

impl Geometry for Wide {
    const HEAD_SLOTS: usize = SLOTS;
    const OVERFLOW_SLOTS: usize = SLOTS;
    const OVERFLOW_MAX: usize = LINKS_MAX;
}

/// `HEAD` slots of a head bucket, `OVERFLOW` of an overflow bucket, `LINKS` overflow buckets.
#[derive(Debug)]
pub struct Narrow<const HEAD: usize, const OVERFLOW: usize, const LINKS: usize>;

impl<const HEAD: usize, const OVERFLOW: usize, const LINKS: usize> Geometry
    for Narrow<HEAD, OVERFLOW, LINKS>
{
    const HEAD_SLOTS: usize = HEAD;
    const OVERFLOW_SLOTS: usize = OVERFLOW;
    const OVERFLOW_MAX: usize = LINKS;
}

/// Overflow buckets up to the last one that has an official position.
pub(super) fn overflow_needed<G: Geometry>(valid: u32) -> usize {
    match valid >> G::HEAD_SLOTS {
        0 => 0,
        beyond => beyond.ilog2() as usize / G::OVERFLOW_SLOTS + 1,
    }
}

/// One cache line: a word of the chain and seven slots. In a head bucket the word is the
/// header; in an overflow bucket it is the link to the next one.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) word: AtomicU64,
    pub(super) slots: [AtomicU64; SLOTS],
}

const _: () = assert!(
    CHECKED || size_of::<Bucket>() == 64,
    "a bucket is one cache line"
);

// SAFETY: atomics only; zeroes are `default()`.
unsafe impl Zeroed for Bucket {}

/// All chains of a table: head buckets, their first links, and the pool of overflow buckets.
#[derive(Debug)]
pub(super) struct Index<G> {
    pub(super) heads: Array<Bucket>,
    pub(super) ext: Array<AtomicU64>,
    pub(super) overflow: OverflowPool,
    geometry: PhantomData<G>,
}

impl<G: Geometry> Index<G> {
    /// `heads` empty chains; `overflow` buckets in reserve.
    pub(super) fn new(heads: usize, overflow: usize) -> Index<G> {
        const { assert!(G::POSITIONS <= VALID_BITS) };
        let index = Index {
            heads: Array::zeroed(heads),
            ext: Array::zeroed(heads),
            overflow: OverflowPool::new(overflow),
            geometry: PhantomData,
        };
        for (head, ext) in index.heads.iter().zip(index.ext.iter()) {
            // Relaxed, all: whoever shares the table with another thread orders it.
            head.word.store(Header::FIRST.0, Ordering::Relaxed);
            for slot in &head.slots[..G::HEAD_SLOTS] {
                slot.store(Slot::EMPTY.0, Ordering::Relaxed);
            }
            // Relaxed: as above.
            ext.store(Link::FRESH.0, Ordering::Relaxed);
        }
        index
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_buckets_needed_are_those_up_to_the_last_official_position() {
        assert_eq!(overflow_needed::<Wide>(0x7f), 0);
        assert_eq!(overflow_needed::<Wide>(1 << 7), 1);
        assert_eq!(overflow_needed::<Wide>(1 << 13), 1);
        assert_eq!(overflow_needed::<Wide>(1 << 14), 2);
        assert_eq!(overflow_needed::<Wide>(1 << 27 | 1), 3);
        assert_eq!(overflow_needed::<Narrow<1, 2, 3>>(0b10), 1);
        assert_eq!(overflow_needed::<Narrow<1, 2, 3>>(0b1000), 2);
    }
}

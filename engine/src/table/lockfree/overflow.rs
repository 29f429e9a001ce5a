//! The pool of overflow buckets.
//!
//! A bucket has exactly one owner: the pool or a worker's cache, one worker (private), one
//! link word, or a worker's limbo. It goes through limbo whenever it was in a link word,
//! linked or not: somebody with an old header may have followed the word and put a claim
//! into it. The grace period is what makes its slots EMPTY again: claims and clearings are
//! undone by their pinned owners, and nobody else ever stores there.

use super::bucket::Bucket;
use super::pool::{Cache, Pool};
use super::word::{Link, Slot};
use crate::sync::Ordering;
use crate::table::storage::Array;

/// Overflow buckets and which of them are free.
#[derive(Debug)]
pub(super) struct OverflowPool {
    buckets: Array<Bucket>,
    pub(super) free: Pool,
}

impl OverflowPool {
    pub(super) fn new(count: usize) -> OverflowPool {
        OverflowPool {
            buckets: Array::zeroed(count),
            free: Pool::new(count),
        }
    }

    #[inline]
    pub(super) fn bucket(&self, number: u32) -> &Bucket {
        &self.buckets[number as usize]
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// A private bucket: all slots EMPTY, no next.
    pub(super) fn take(&self, cache: &mut Cache, slots: usize) -> Option<u32> {
        let number = self.free.take(cache)?;
        let bucket = self.bucket(number);
        // Relaxed, all: nobody else can reach the bucket; the CAS that publishes it orders them.
        for slot in &bucket.slots[..slots] {
            match Slot(slot.load(Ordering::Relaxed)) {
                // Never used: pages are touched here for the first time.
                Slot::UNINIT => slot.store(Slot::EMPTY.0, Ordering::Relaxed),
                word => assert_eq!(word, Slot::EMPTY, "a free overflow bucket is empty"),
            }
        }
        // Relaxed: a free bucket is its taker's alone.
        bucket.word.store(Link::FRESH.0, Ordering::Relaxed);
        Some(number)
    }

    /// Gives back a bucket that nobody ever saw.
    pub(super) fn give_private(&self, cache: &mut Cache, number: u32) {
        self.free.give(cache, number);
    }

    /// Gives back a bucket whose grace period is over, and with it the one that a late
    /// publisher may have left behind it: nobody can reach either.
    pub(super) fn give_ripe(&self, cache: &mut Cache, number: u32) {
        // Relaxed: the epoch ordered all that was done to it.
        let left_behind = Link(self.bucket(number).word.load(Ordering::Relaxed)).bucket();
        if let Some(next) = left_behind {
            // Relaxed: as above.
            self.bucket(number)
                .word
                .store(Link::FRESH.0, Ordering::Relaxed);
            self.free.give(cache, next);
        }
        self.free.give(cache, number);
    }
}

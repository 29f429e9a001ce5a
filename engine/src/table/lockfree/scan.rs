//! Looking through the slots of one bucket. This file is what a vector version takes the
//! place of: same signature, and the scalar one stays for the checkers and as the twin to
//! test against.

use super::bucket::{Bucket, SLOTS};
use super::word::{Pattern, Slot};
use crate::sync::Ordering;

/// The words of a bucket at the moments they were read, and which of them match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    /// Bit i: `slots[i]` matches.
    pub(super) matches: u32,
    pub(super) slots: [Slot; SLOTS],
}

/// Reads the first `used` slots of a bucket.
#[inline]
pub(super) fn scan(bucket: &Bucket, used: usize, pattern: Pattern) -> Scan {
    let mut scan = Scan {
        matches: 0,
        slots: [Slot::UNINIT; SLOTS],
    };
    for (i, word) in bucket.slots.iter().take(used).enumerate() {
        // Acquire, P2: who sees a word sees the body of the entry it was written for.
        let slot = Slot(word.load(Ordering::Acquire));
        scan.slots[i] = slot;
        scan.matches |= u32::from(pattern.matches(slot)) << i;
    }
    scan
}

/// The positions of the bits that are set, lowest first.
pub(super) fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(lowest)
    })
}

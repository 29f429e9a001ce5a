//! What an entry has beside its hot line: the protocol's memory, and traffic counters.
//!
//! The pair of the lock (P2) is at the head of [`slab`](super::slab).

use crossbeam_utils::Backoff;

use super::storage::Zeroed;
use crate::sync::Ordering;
use crate::sync::unchecked::{AtomicU32, AtomicU64};

/// The tracker's memory of a connection (TCP, later SCTP): seven words under a lock.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct TrackerCell {
    lock: AtomicU32,
    /// A copy of what a reader may want without the lock: the protocol's state number.
    public_state: AtomicU32,
    words: [AtomicU64; 7],
}

/// The seven words of a [`TrackerCell`], as a protocol packs them.
pub type TrackerWords = [u64; 7];

impl TrackerCell {
    /// Takes the lock, for reading and changing the words.
    pub fn lock(&self) -> TrackerGuard<'_> {
        let backoff = Backoff::new();
        // Acquire, P2: the words of the holder before. Failure relaxed: nothing is read.
        while self
            .lock
            .compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            backoff.spin();
        }
        TrackerGuard { cell: self }
    }

    /// The protocol's state number, without the lock.
    #[must_use]
    pub fn public_state(&self) -> u8 {
        // Relaxed: the number stands for itself (printing, eviction).
        self.public_state.load(Ordering::Relaxed) as u8
    }
}

/// Exclusive access to a tracker's words. The lock goes when it is dropped.
#[derive(Debug)]
pub struct TrackerGuard<'a> {
    cell: &'a TrackerCell,
}

impl TrackerGuard<'_> {
    /// Reads the words.
    #[must_use]
    pub fn load(&self) -> TrackerWords {
        // Relaxed: the lock orders them (P2).
        std::array::from_fn(|i| self.cell.words[i].load(Ordering::Relaxed))
    }

    /// Writes the words, and the state number that readers without the lock see.
    pub fn store(&mut self, words: TrackerWords, public_state: u8) {
        for (cell, word) in self.cell.words.iter().zip(words) {
            // Relaxed: the lock orders them (P2).
            cell.store(word, Ordering::Relaxed);
        }
        // Relaxed: see `public_state`.
        self.cell
            .public_state
            .store(u32::from(public_state), Ordering::Relaxed);
    }
}

impl Drop for TrackerGuard<'_> {
    fn drop(&mut self) {
        // Release, P2.
        self.cell.lock.store(0, Ordering::Release);
    }
}

/// Packets and bytes of one direction (`nf_conn_counter`).
#[derive(Debug, Default)]
pub struct Traffic {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    /// Adds packets and their bytes.
    pub fn add(&self, packets: u64, bytes: u64) {
        // Relaxed: statistics only.
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// (packets, bytes) so far.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        // Relaxed: statistics only.
        (
            self.packets.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }

    pub(super) fn reset(&self) {
        // Relaxed: the owner of a fresh entry.
        self.packets.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

// SAFETY: atomics only; zeroes are `default()`.
unsafe impl Zeroed for TrackerCell {}

// SAFETY: atomics only; zeroes are `default()`.
unsafe impl Zeroed for Traffic {}

//! An entry of the slab: its number and life, its state word, and the hot line of a connection.
//!
//! Memory picture, states, invariants and pairs are at the head of [`slab`](super::slab).

use std::fmt;

use super::key::{FlowKey, KeyV4};
use super::storage::Zeroed;
use crate::status::Status;
use crate::sync::unchecked::{AtomicU32, AtomicU64};
use crate::sync::{AtomicU64 as StateWord, CHECKED, Ordering};
use crate::time::{Nanos, is_past};
use crate::tuple::Direction;

/// A connection's number and life. A copy kept over time must be checked with
/// [`Slab::is_current`](super::slab::Slab::is_current) before it is believed.
///
/// | generation 32 | index 32 |
///
/// One word, not two fields: an id that is written in halves and read as a whole waits until the halves have left
/// the store buffer, and that is behind every line which another core still has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryId(u64);

impl EntryId {
    /// A life (29 bits) of a place in the slab.
    #[must_use]
    #[inline(always)]
    pub const fn new(index: u32, generation: u32) -> EntryId {
        EntryId((generation as u64) << 32 | index as u64)
    }

    /// Place in the slab.
    #[must_use]
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// Life of that place, 29 bits.
    #[must_use]
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryId({} in life {})", self.index(), self.generation())
    }
}

/// What an entry is to the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Life {
    /// In a free list.
    Free = 0,
    /// Being made by one worker; in no table.
    Pending = 1,
    /// In the table: found by its keys.
    Confirmed = 2,
    /// Taken out of the table, still in somebody's hands. Also shown for what a table
    /// refused and has not given back yet.
    Dying = 3,
}

/// The state word, unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryState {
    /// The table's own 32 bits (references, for tables that count them).
    pub aux: u32,
    /// Life number, 29 bits.
    pub generation: u32,
    /// What the entry is now.
    pub life: Life,
}

const LIFE_BITS: u32 = 3;
const GENERATION_BITS: u32 = 29;
pub(super) const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;
/// A reference, for tables that count them.
pub(super) const ONE_REFERENCE: u64 = 1 << 32;
const _: () = assert!(
    LIFE_BITS + GENERATION_BITS == 32,
    "life and generation fill the lower half"
);

impl EntryState {
    pub(super) fn unpack(word: u64) -> EntryState {
        let life = match word & ((1 << LIFE_BITS) - 1) {
            0 => Life::Free,
            1 => Life::Pending,
            2 => Life::Confirmed,
            _ => Life::Dying,
        };
        EntryState {
            aux: (word >> 32) as u32,
            generation: (word as u32) >> LIFE_BITS,
            life,
        }
    }

    pub(super) fn pack(self) -> u64 {
        u64::from(self.aux) << 32
            | u64::from(self.generation & GENERATION_MASK) << LIFE_BITS
            | self.life as u64
    }
}

/// The hot line of a connection: all that a lookup, NAT and most packets need.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Entry<K: FlowKey> {
    pub(super) state: StateWord,
    original: K::Cell,
    reply: K::Cell,
    pub(super) deadline: AtomicU64,
    pub(super) stream_since: AtomicU64,
    pub(super) status: AtomicU32,
    pub(super) device: AtomicU32,
}

const _: () = assert!(
    CHECKED || size_of::<Entry<KeyV4>>() == 64,
    "an IPv4 connection's hot part is one cache line"
);

impl<K: FlowKey> Default for Entry<K> {
    fn default() -> Entry<K> {
        Entry {
            state: StateWord::new(0),
            original: K::Cell::default(),
            reply: K::Cell::default(),
            deadline: AtomicU64::new(0),
            stream_since: AtomicU64::new(0),
            status: AtomicU32::new(0),
            device: AtomicU32::new(0),
        }
    }
}

// SAFETY: all fields are atomics and cells of them, for which all-zero bytes are a value
// (`FlowKey::Cell` is `Zeroed` by its bound), and that value is `default()`.
unsafe impl<K: FlowKey> Zeroed for Entry<K> {}

impl<K: FlowKey> Entry<K> {
    /// Where the original key is, in bytes: for those who compare keys by vectors.
    #[allow(dead_code, reason = "only where there are vectors")]
    pub(super) const KEYS_OFFSET: usize = std::mem::offset_of!(Entry<K>, original);
    /// The reply key follows it without a gap.
    #[allow(dead_code, reason = "as above")]
    pub(super) const KEYS_ARE_SIDE_BY_SIDE: bool =
        std::mem::offset_of!(Entry<K>, reply) == Self::KEYS_OFFSET + size_of::<K::Cell>();

    /// The state word itself, for a table that makes its own steps on it.
    #[inline]
    pub(super) fn state_word(&self) -> &StateWord {
        &self.state
    }

    /// Sets all bits to these. Only for the owner of an unconfirmed entry: a plain store.
    pub fn put_status(&self, status: Status) {
        // Relaxed: see `status`.
        self.status.store(status.bits(), Ordering::Relaxed);
    }

    /// The state word.
    #[must_use]
    pub fn state(&self) -> EntryState {
        // Acquire, P1: who sees Confirmed sees the keys and all that was written before.
        EntryState::unpack(self.state.load(Ordering::Acquire))
    }

    /// The key of one direction.
    #[must_use]
    #[inline]
    pub fn key(&self, direction: Direction) -> K {
        match direction {
            Direction::Original => K::load(&self.original),
            Direction::Reply => K::load(&self.reply),
        }
    }

    /// Sets both keys. Only for the owner of an unconfirmed entry (I1).
    #[inline]
    pub fn set_keys(&self, original: K, reply: K) {
        K::store(&self.original, original);
        K::store(&self.reply, reply);
    }

    /// Sets the reply key, as NAT does (`nf_conntrack_alter_reply`). Only for the owner of
    /// an unconfirmed entry (I1).
    pub fn set_reply(&self, reply: K) {
        K::store(&self.reply, reply);
    }

    /// The status bits.
    #[must_use]
    #[inline]
    pub fn status(&self) -> Status {
        // Relaxed: each bit stands for itself; what must be visible with CONFIRMED is ordered by `state`.
        Status::from_bits_retain(self.status.load(Ordering::Relaxed))
    }

    /// Sets bits; returns the bits as they were before. `test_and_set_bit` for one bit.
    pub fn set_status(&self, bits: Status) -> Status {
        // Relaxed: see `status`. A bit that is set already is not written: the line stays shared.
        let before = self.status();
        if before.contains(bits) {
            return before;
        }
        // Relaxed: as above; the one word orders concurrent setters by itself.
        Status::from_bits_retain(self.status.fetch_or(bits.bits(), Ordering::Relaxed))
    }

    /// Before confirm: the timeout, relative. After: the moment at which the entry has expired.
    #[must_use]
    #[inline]
    pub fn deadline(&self) -> Nanos {
        // Relaxed: a refresh that a reader misses costs at most one early expiry, as in the kernel.
        self.deadline.load(Ordering::Relaxed)
    }

    /// Sets the deadline (or, before confirm, the relative timeout) without asking the status.
    pub fn set_deadline(&self, deadline: Nanos) {
        // Relaxed: see `deadline`.
        self.deadline.store(deadline, Ordering::Relaxed);
    }

    /// Gives the connection `timeout` more from `now` (`nf_ct_refresh_acct`): not where the
    /// timeout is fixed; relative where it is not confirmed yet. May shorten.
    pub fn refresh(&self, now: Nanos, timeout: Nanos) {
        let status = self.status();
        if status.contains(Status::FIXED_TIMEOUT) {
            return;
        }
        let deadline = if status.contains(Status::CONFIRMED) {
            now.saturating_add(timeout)
        } else {
            timeout
        };
        if self.deadline() != deadline {
            self.set_deadline(deadline);
        }
    }

    /// What is left until it expires; 0 if it has. For an unconfirmed entry the whole timeout.
    #[must_use]
    pub fn remaining(&self, now: Nanos) -> Nanos {
        if self.status().contains(Status::CONFIRMED) {
            self.deadline().saturating_sub(now)
        } else {
            self.deadline()
        }
    }

    /// Confirmed, and its time is up (`nf_ct_is_expired`).
    #[must_use]
    #[inline]
    pub fn is_expired(&self, now: Nanos) -> bool {
        self.status().contains(Status::CONFIRMED) && is_past(self.deadline(), now)
    }

    /// UDP: the moment from which the exchange counts as a stream (`stream_ts`).
    #[must_use]
    pub fn stream_since(&self) -> Nanos {
        // Relaxed: written by the owner before confirm, constant after.
        self.stream_since.load(Ordering::Relaxed)
    }

    /// Sets [`Entry::stream_since`].
    pub fn set_stream_since(&self, at: Nanos) {
        // Relaxed: see `stream_since`.
        self.stream_since.store(at, Ordering::Relaxed);
    }

    /// The output device that MASQUERADE recorded; 0 is none (`nat->masq_index`).
    #[must_use]
    pub fn masquerade_device(&self) -> u32 {
        // Relaxed: written by the owner before confirm, constant after.
        self.device.load(Ordering::Relaxed)
    }

    /// Sets [`Entry::masquerade_device`].
    pub fn set_masquerade_device(&self, index: u32) {
        // Relaxed: see `masquerade_device`.
        self.device.store(index, Ordering::Relaxed);
    }
}

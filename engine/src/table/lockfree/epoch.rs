//! Epochs: who may still see what was taken out, and when nobody can any more.
//!
//! A worker is *pinned* while it may hold references into the table (a batch, usually).
//! What is taken out waits in the worker's own [`Limbo`], stamped with an epoch; two
//! epochs later nobody can hold it.
//!
//! # Memory
//! ```text
//! global   the epoch, from 2 on; grows by one
//! seat     one a worker, its own cache line: | 0, or the epoch it was pinned in |
//! Limbo    numbers in order of retirement, in bags of one epoch; the last bag may be open (no stamp yet)
//! ```
//! # Invariants
//! - I1 a bag's stamp is at least the seat's epoch of everybody who may hold something in it.
//! - I2 while such a holder is pinned, global does not get to the stamp + 2.
//! - I3 hence what has a stamp of e is free of references once global is e + 2.
//!
//! Proof. A holder reads global, writes its seat, then its fence F1, then meets the
//! reference. The retirer takes the reference out, then its fence F2, then reads the stamp.
//! The holder did not see it taken out, so F1 is before F2 in the one order of fences, and
//! the stamp is at least what the holder read (I1). Somebody advances from e + 1: he reads
//! global, then his fence F3, then all seats. Were F3 before F1, it would be before F2, and the
//! stamp would be e + 1 or more. So F1 is before F3, and he sees a seat of e or less and stops (I2).
//! A seat with an old epoch (read long before it was written) only stops more.
//!
//! # Pairs
//! - P1 release: unpinning, *and pinning*, store of the seat <-> acquire: the advancer's load:
//!   the end of the earlier pin. (Pinning too: a plain store does not continue the release
//!   sequence of the unpinning before it; an advancer that sees only the later store must
//!   still see the end of the earlier pin.)
//! - P2 release: the CAS that advances <-> acquire: [`Epochs::now`] of whoever reuses.
//!
//! # Progress
//! All wait-free, bounded by the number of seats. A worker that stops while pinned stops
//! the epoch: what is retired from then on waits, nothing else does.
//!
//! # Sources
//! Fraser, *Practical lock-freedom* (2004), as crossbeam-epoch has it; but with limbo lists
//! in the worker and the epoch in sight, so that nothing is allocated and a worker knows
//! when its own list is safe.

use std::collections::VecDeque;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, FEW_WORKERS, Ordering, fence, unchecked};

/// Workers of one table at one time.
pub(super) const WORKERS_MAX: usize = if FEW_WORKERS { 5 } else { 1024 };

const FIRST: u64 = 2;
const UNPINNED: u64 = 0;
/// Epochs that a bag waits.
pub(super) const GRACE: u64 = 2;

/// The epoch of a table and the seats of its workers.
#[derive(Debug)]
pub(super) struct Epochs {
    global: CachePadded<AtomicU64>,
    seats: Box<[CachePadded<AtomicU64>]>,
    /// 1 where somebody sits.
    taken: Box<[unchecked::AtomicU32]>,
    /// Seats from here on were never taken.
    used: unchecked::AtomicUsize,
}

/// A worker's place among the seats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat(usize);

impl Seat {
    /// Of those who sit at one time, nobody else has it.
    pub(super) fn number(self) -> usize {
        self.0
    }
}

impl Epochs {
    pub(super) fn new() -> Epochs {
        Epochs {
            global: CachePadded::new(AtomicU64::new(FIRST)),
            seats: (0..WORKERS_MAX)
                .map(|_| CachePadded::new(AtomicU64::new(UNPINNED)))
                .collect(),
            taken: (0..WORKERS_MAX).map(|_| 0.into()).collect(),
            used: 0.into(),
        }
    }

    /// Takes a seat.
    ///
    /// # Panics
    /// If all [`WORKERS_MAX`] are taken.
    pub(super) fn sit(&self) -> Seat {
        // Acquire: the last owner of the seat has unpinned. Failure relaxed: the next seat is tried.
        let free = self.taken.iter().position(|taken| {
            taken
                .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        });
        let seat =
            free.unwrap_or_else(|| panic!("a table has at most {WORKERS_MAX} workers at one time"));
        // SeqCst: in the one order with the fences of advancers, who must look at this seat
        // once its owner has pinned (the pin's fence comes later).
        self.used.fetch_max(seat + 1, Ordering::SeqCst);
        Seat(seat)
    }

    /// Leaves a seat, unpinned.
    pub(super) fn leave(&self, seat: Seat) {
        // Relaxed: the seat is ours.
        debug_assert_eq!(self.seats[seat.0].load(Ordering::Relaxed), UNPINNED);
        // Release: to the next owner of the seat.
        self.taken[seat.0].store(0, Ordering::Release);
    }

    /// From here on nothing that this worker can reach is reused.
    pub(super) fn pin(&self, seat: Seat) {
        // Relaxed: an old epoch is only more careful (I2 asks for at most).
        let now = self.global.load(Ordering::Relaxed);
        // Release, P1.
        self.seats[seat.0].store(now, Ordering::Release);
        // F1 of the proof: if ours is before an advancer's, it sees the seat; if after, we
        // see what was taken out before its epoch.
        fence(Ordering::SeqCst);
    }

    /// The worker holds nothing any more.
    pub(super) fn unpin(&self, seat: Seat) {
        // Release, P1: all that was done while pinned.
        self.seats[seat.0].store(UNPINNED, Ordering::Release);
    }

    /// The stamp for what was taken out before this call.
    pub(super) fn stamp(&self) -> u64 {
        // F2 of the proof: what was taken out is gone for all who pin after, or they are seen by the stamp.
        fence(Ordering::SeqCst);
        // Relaxed: the fence gives the bound that I2 needs.
        self.global.load(Ordering::Relaxed)
    }

    /// The epoch, for reuse.
    pub(super) fn now(&self) -> u64 {
        // Acquire, P2: all pins that had to end for this epoch to come are seen to have ended.
        self.global.load(Ordering::Acquire)
    }

    /// Advances the epoch if nobody is in an earlier one.
    pub(super) fn try_advance(&self) -> u64 {
        let now = self.now();
        // F3 of the proof.
        fence(Ordering::SeqCst);
        // SeqCst: see `sit`.
        let used = self.used.load(Ordering::SeqCst);
        for seat in &self.seats[..used] {
            // Acquire, P1: the end of an earlier pin.
            let pinned = seat.load(Ordering::Acquire);
            if pinned != UNPINNED && pinned != now {
                return now;
            }
        }
        // AcqRel, P2: hands on what the loads above have seen. Failure acquire: somebody else advanced.
        match self
            .global
            .compare_exchange(now, now + 1, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => now + 1,
            Err(later) => later,
        }
    }
}

/// Fewer numbers gone are not worth moving the others for.
const GONE_MIN: usize = 512;

/// Numbers, first in first out. What it touches of its memory is at most twice as much as it
/// held at one time: a ring would go through all of it.
#[derive(Debug, Default)]
struct Queue {
    numbers: Vec<u32>,
    /// Those before are gone.
    first: usize,
}

impl Queue {
    fn push(&mut self, number: u32) {
        self.numbers.push(number);
    }

    /// Room for so many at one time, so that it need not grow.
    fn with_capacity(numbers: usize) -> Queue {
        Queue {
            numbers: Vec::with_capacity(numbers + numbers.max(GONE_MIN)),
            first: 0,
        }
    }

    fn pop(&mut self) -> Option<u32> {
        let number = *self.numbers.get(self.first)?;
        self.first += 1;
        let left = self.numbers.len() - self.first;
        if left == 0 || (self.first >= GONE_MIN && self.first >= left) {
            self.numbers.copy_within(self.first.., 0);
            self.numbers.truncate(left);
            self.first = 0;
        }
        Some(number)
    }

    fn as_slice(&self) -> &[u32] {
        &self.numbers[self.first..]
    }
}

/// What one worker took out and may not reuse yet.
#[derive(Debug, Default)]
pub(super) struct Limbo {
    numbers: Queue,
    /// Epoch and size, oldest first.
    bags: VecDeque<(u64, usize)>,
    /// Numbers at the end that have no stamp yet.
    open: usize,
}

/// Different epochs that wait at the same time: GRACE of them, and the ones being filled.
/// More cannot be: an older bag is ripe and goes first, or the epoch stands and bags merge.
const BAGS: usize = 8;

impl Limbo {
    /// An empty limbo with room for `numbers`, so that it need not grow on the data path.
    pub(super) fn new(numbers: usize) -> Limbo {
        Limbo {
            numbers: Queue::with_capacity(numbers),
            bags: VecDeque::with_capacity(BAGS),
            open: 0,
        }
    }

    pub(super) fn retire(&mut self, number: u32) {
        self.numbers.push(number);
        self.open += 1;
    }

    pub(super) fn open(&self) -> usize {
        self.open
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.as_slice().is_empty()
    }

    /// Stamps what is open.
    pub(super) fn seal(&mut self, epoch: u64) {
        let count = std::mem::take(&mut self.open);
        if count == 0 {
            return;
        }
        match self.bags.back_mut() {
            // A stamp may be older than the one before it (relaxed loads): the later one is the careful one.
            Some((last, size)) if *last >= epoch => *size += count,
            _ => self.bags.push_back((epoch, count)),
        }
    }

    /// The oldest number that nobody can hold any more.
    pub(super) fn ripe(&mut self, now: u64) -> Option<u32> {
        let (epoch, left) = self.bags.front_mut()?;
        if now < *epoch + GRACE {
            return None;
        }
        *left -= 1;
        if *left == 0 {
            self.bags.pop_front();
        }
        self.numbers.pop()
    }

    /// Takes over what another worker left behind, as if taken out now.
    pub(super) fn absorb(&mut self, other: &mut Limbo, epoch: u64) {
        self.seal(epoch);
        let others = other.numbers.as_slice();
        self.open = others.len();
        self.numbers.numbers.extend_from_slice(others);
        *other = Limbo::default();
        self.seal(epoch);
    }

    /// All numbers in it.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.numbers.as_slice().iter().copied()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn what_a_pinned_worker_may_hold_is_not_ripe_until_it_unpins() {
        let epochs = Epochs::new();
        let (reader, remover) = (epochs.sit(), epochs.sit());
        epochs.pin(reader);
        epochs.pin(remover);
        let mut limbo = Limbo::new(1);
        limbo.retire(7);
        limbo.seal(epochs.stamp());
        epochs.unpin(remover);
        for _ in 0..5 {
            epochs.try_advance();
        }
        assert_eq!(limbo.ripe(epochs.now()), None);
        epochs.unpin(reader);
        epochs.try_advance();
        epochs.try_advance();
        assert_eq!(limbo.ripe(epochs.now()), Some(7));
        assert!(limbo.is_empty());
    }

    #[test]
    fn a_worker_that_pins_again_and_again_does_not_stop_the_epoch() {
        let epochs = Epochs::new();
        let seat = epochs.sit();
        let first = epochs.now();
        for _ in 0..10 {
            epochs.pin(seat);
            epochs.try_advance();
            epochs.unpin(seat);
        }
        assert_eq!(epochs.now(), first + 10);
    }

    #[test]
    fn a_limbo_keeps_its_order_and_touches_little_of_its_memory() {
        let mut limbo = Limbo::new(10_000);
        let mut next = 0;
        for number in 0..10_000 {
            limbo.retire(number);
            limbo.seal(FIRST);
            if number >= 700 {
                assert_eq!(limbo.ripe(FIRST + GRACE), Some(next));
                next += 1;
            }
            assert!(limbo.numbers.numbers.len() <= 2 * 701 + 512);
        }
        assert!(limbo.iter().eq(next..10_000));
    }

    #[test]
    fn seats_are_used_again() {
        let epochs = Epochs::new();
        for _ in 0..2 * WORKERS_MAX {
            let seat = epochs.sit();
            epochs.leave(seat);
        }
    }
}

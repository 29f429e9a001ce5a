//! Randomness as the engine sees it: a small generator a worker, seeded by the caller.
//!
//! Same seed, same packets, one worker: same bytes out.

use rand_core::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// A worker's random numbers (xoshiro256++). Not for secrets: the table's hash key
/// is the caller's to choose.
#[derive(Clone, Debug)]
pub struct WorkerRng(Xoshiro256PlusPlus);

impl WorkerRng {
    /// The generator of worker number `worker` under `seed`; each number gets a stream of its own.
    #[must_use]
    pub fn new(seed: u64, worker: usize) -> WorkerRng {
        // SplitMix inside `seed_from_u64` spreads neighbouring seeds apart.
        WorkerRng(Xoshiro256PlusPlus::seed_from_u64(
            seed ^ (worker as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        ))
    }

    /// 32 random bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// 64 random bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// 16 random bits (`get_random_u16`).
    #[inline]
    pub fn next_u16(&mut self) -> u16 {
        (self.0.next_u32() >> 16) as u16
    }

    /// A number in `0..bound`, as the kernel's `reciprocal_scale` draws it; 0 for a bound of 0.
    #[inline]
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(bound)) >> 32) as u32
    }
}

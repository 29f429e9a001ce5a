//! How far versions and generations count before they come round: for real as far as their
//! fields go. A test under shuttle makes it few, to see what coming round does
//! (`table/lockfree/tests/rounds.rs`; the word's own module says what that is).

#[cfg(not(all(test, shuttle)))]
mod whole {
    /// A version, as far as it counts.
    #[inline(always)]
    #[must_use]
    pub const fn version(next: u32) -> u32 {
        next
    }

    /// The bits that count of those in `field`: an entry's generation.
    #[inline(always)]
    #[must_use]
    pub const fn generation_bits(field: u32) -> u32 {
        field
    }

    /// The same of the generation in a slot.
    #[inline(always)]
    #[must_use]
    pub const fn slot_generation_bits(field: u32) -> u32 {
        field
    }
}

#[cfg(not(all(test, shuttle)))]
pub use whole::{generation_bits, slot_generation_bits, version};

#[cfg(all(test, shuttle))]
pub(crate) use few::{FewBits, came_round, generation_bits, slot_generation_bits, version, with};

#[cfg(all(test, shuttle))]
mod few {
    use std::cell::Cell;

    /// Bits that count.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct FewBits {
        pub(crate) version: u32,
        pub(crate) generation: u32,
        pub(crate) slot_generation: u32,
    }

    impl FewBits {
        /// All that there are.
        pub(crate) const WHOLE: FewBits = FewBits {
            version: 32,
            generation: 32,
            slot_generation: 32,
        };
    }

    /// Version of a chain that was never changed.
    const FIRST: u32 = 2;

    // shuttle runs all threads of an execution on the thread that started it.
    thread_local! {
        static BITS: Cell<FewBits> = const { Cell::new(FewBits::WHOLE) };
        static ROUNDS: Cell<u64> = const { Cell::new(0) };
    }

    /// Runs `test` with so few bits.
    pub(crate) fn with<R>(bits: FewBits, test: impl FnOnce() -> R) -> R {
        BITS.set(bits);
        ROUNDS.set(0);
        let result = test();
        BITS.set(FewBits::WHOLE);
        result
    }

    /// Has a chain been offered its first version again since [`with`] began? If not, no
    /// header had a value that an earlier one of the same chain had.
    pub(crate) fn came_round() -> bool {
        ROUNDS.get() > 0
    }

    fn mask(bits: u32) -> u32 {
        u32::MAX >> (32 - bits)
    }

    pub(crate) fn version(next: u32) -> u32 {
        let version = next & mask(BITS.get().version);
        if version == FIRST {
            ROUNDS.set(ROUNDS.get() + 1);
        }
        version
    }

    pub(crate) fn generation_bits(field: u32) -> u32 {
        field & mask(BITS.get().generation)
    }

    pub(crate) fn slot_generation_bits(field: u32) -> u32 {
        field & mask(BITS.get().slot_generation)
    }
}

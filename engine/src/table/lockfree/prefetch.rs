//! Asking the processor for a cache line before it is needed.

/// How a line is asked for. Which one is best is a property of the machine: on some the
/// first-level hint is dropped when many are under way, and is two to three times slower.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hint {
    /// Into all levels (`prefetcht0`).
    T0,
    /// Into the second level and beyond (`prefetcht1`).
    #[default]
    T1,
    /// Not at all.
    None,
}

/// Asks for the line of `target`. Does nothing where there is no such instruction.
#[inline(always)]
pub(super) fn prefetch<T>(hint: Hint, target: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let address = std::ptr::from_ref(target).cast::<i8>();
        match hint {
            // SAFETY: the instruction reads nothing into the program and cannot fault; SSE is part of x86-64.
            Hint::T0 => unsafe { _mm_prefetch::<_MM_HINT_T0>(address) },
            // SAFETY: as above.
            Hint::T1 => unsafe { _mm_prefetch::<_MM_HINT_T1>(address) },
            Hint::None => {}
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (hint, target);
}

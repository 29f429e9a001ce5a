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
    /// Past the caches that others share (`prefetchnta`).
    Nta,
    /// To be written (`prefetchw`).
    Write,
    /// Not at all.
    None,
}

impl Hint {
    /// All of them.
    pub const ALL: [Hint; 5] = [Hint::T0, Hint::T1, Hint::Nta, Hint::Write, Hint::None];

    /// The name that `--prefetch` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Hint::T0 => "t0",
            Hint::T1 => "t1",
            Hint::Nta => "nta",
            Hint::Write => "w",
            Hint::None => "none",
        }
    }
}

const LINE_BYTES: usize = 64;

/// Asks for all lines of `target`, which begins one if it is larger than that. Does nothing
/// where there is no such instruction.
#[inline(always)]
pub fn prefetch<T>(hint: Hint, target: &T) {
    prefetch_lines::<T>(hint, std::ptr::from_ref(target).cast());
}

#[inline(always)]
fn prefetch_lines<T>(hint: Hint, first: *const u8) {
    // One line, but for an IPv6 entry: the compiler knows.
    for line in 0..size_of::<T>().div_ceil(LINE_BYTES) {
        prefetch_line(hint, first.wrapping_add(line * LINE_BYTES));
    }
}

/// Asks for one of many, as [`prefetch`] does; no such one is no error, and asks for whatever is there.
#[inline(always)]
pub fn prefetch_at<T>(hint: Hint, all: &[T], index: usize) {
    prefetch_lines::<T>(hint, all.as_ptr().wrapping_add(index).cast());
}

#[inline(always)]
fn prefetch_line(hint: Hint, address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_NTA, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let address = address.cast::<i8>();
        match hint {
            // SAFETY: the instruction reads nothing into the program and cannot fault; SSE is part of x86-64.
            Hint::T0 => unsafe { _mm_prefetch::<_MM_HINT_T0>(address) },
            // SAFETY: as above.
            Hint::T1 => unsafe { _mm_prefetch::<_MM_HINT_T1>(address) },
            // SAFETY: as above.
            Hint::Nta => unsafe { _mm_prefetch::<_MM_HINT_NTA>(address) },
            Hint::Write => {
                // By name: the intrinsic becomes `prefetcht0` for a processor that is not known to have it.
                // SAFETY: it cannot fault, and changes neither memory nor flags; a processor without it does nothing.
                unsafe {
                    std::arch::asm!(
                        "prefetchw [{}]",
                        in(reg) address,
                        options(nostack, preserves_flags, readonly)
                    );
                };
            }
            Hint::None => {}
        }
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        use std::arch::asm;
        match hint {
            // SAFETY: a prefetch reads nothing into the program and cannot fault.
            Hint::T0 => unsafe {
                asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
            },
            // SAFETY: as above.
            Hint::T1 => unsafe {
                asm!("prfm pldl2keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
            },
            // SAFETY: as above.
            Hint::Nta => unsafe {
                asm!("prfm pldl1strm, [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
            },
            // SAFETY: as above.
            Hint::Write => unsafe {
                asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
            },
            Hint::None => {}
        }
    }
    #[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri))))]
    let _ = (hint, address);
}

//! Memory of tables: arrays of fixed length that start as zeroes and never move.
//!
//! Large ones lie in memory of their own, aligned to huge pages, with the system asked to
//! use them (`madvise(MADV_HUGEPAGE)`; a system that refuses gives small pages). Small
//! ones, and all of them under the checkers and Miri, are plain boxes. *Sparse* ones are
//! mapped too, in small pages. Pages are touched when they are first written, not here.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;

/// A type whose value of all-zero bytes is its default.
///
/// # Safety
/// All-zero bytes must be a valid value, the same as `Default::default()`, and the type
/// must need no drop.
pub unsafe trait Zeroed: Default {}

// SAFETY: an atomic of zero bytes is the number 0, its default.
unsafe impl Zeroed for std::sync::atomic::AtomicU64 {}
// SAFETY: a checker's is never made from zero bytes: its arrays are boxes of defaults (`PLAIN`).
// The tally's is std's in another coat.
#[cfg(any(loom, shuttle, feature = "tally"))]
unsafe impl Zeroed for crate::sync::AtomicU64 {}
// SAFETY: one atomic word (under loom, as above).
unsafe impl Zeroed for crate::sync::BodyWord {}
// SAFETY: one atomic word (under loom, as above).
unsafe impl Zeroed for crate::sync::BodyHalf {}
// SAFETY: as its elements.
unsafe impl<T: Zeroed, const N: usize> Zeroed for [T; N] where [T; N]: Default {}

/// x86-64 and common aarch64 huge pages.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// An object is at most `isize::MAX` bytes, and a mapping is a huge page longer than its array.
const BYTES_MAX: usize = isize::MAX as usize - HUGE_PAGE_BYTES;

/// No mapped memory: a checker's elements must be made one by one, Miri knows no madvise.
const PLAIN: bool = crate::sync::CHECKED || cfg!(miri);

/// An array of zeroed elements. It reads as a slice.
pub struct Array<T> {
    first: NonNull<T>,
    length: usize,
    memory: Memory,
}

/// What is asked of the system for mapped memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pages {
    Huge,
    Small,
}

/// Who gives the memory back.
enum Memory {
    /// The array's own drop: `first` and `length` came from a box.
    Boxed,
    /// The mapping's drop.
    Mapped(#[expect(dead_code, reason = "kept for its drop")] memmap2::MmapMut),
}

impl<T: Zeroed> Array<T> {
    /// An array of `length` elements, all default.
    ///
    /// # Panics
    /// If the system has no memory to give.
    #[must_use]
    pub fn zeroed(length: usize) -> Array<T> {
        let bytes = Array::<T>::bytes(length);
        if PLAIN || bytes < HUGE_PAGE_BYTES {
            return Array::boxed(length);
        }
        Array::mapped(length, bytes, Pages::Huge)
    }

    /// The same for an array of which little will ever be used: small pages, so that little is touched.
    ///
    /// # Panics
    /// As [`Array::zeroed`].
    #[must_use]
    pub fn sparse(length: usize) -> Array<T> {
        let bytes = Array::<T>::bytes(length);
        if PLAIN || bytes == 0 {
            return Array::boxed(length);
        }
        Array::mapped(length, bytes, Pages::Small)
    }

    /// What an array of `length` takes, for every way to make one: `mapped` relies on all of it.
    fn bytes(length: usize) -> usize {
        const { assert!(!std::mem::needs_drop::<T>() || PLAIN) };
        const { assert!(align_of::<T>() <= HUGE_PAGE_BYTES) };
        length
            .checked_mul(size_of::<T>())
            .filter(|bytes| *bytes <= BYTES_MAX)
            .expect("a table's memory is less than the address space")
    }

    fn boxed(length: usize) -> Array<T> {
        let boxed: Box<[T]> = (0..length).map(|_| T::default()).collect();
        Array {
            first: NonNull::from(Box::leak(boxed)).cast(),
            length,
            memory: Memory::Boxed,
        }
    }

    fn mapped(length: usize, bytes: usize, pages: Pages) -> Array<T> {
        let wanted = bytes + HUGE_PAGE_BYTES;
        let map = memmap2::MmapMut::map_anon(wanted)
            .unwrap_or_else(|error| panic!("no memory for a table of {wanted} bytes: {error}"));
        // Refused: the same memory in pages of the system's choice; slower or more, not wrong.
        #[cfg(target_os = "linux")]
        let _ = map.advise(match pages {
            Pages::Huge => memmap2::Advice::HugePage,
            Pages::Small => memmap2::Advice::NoHugePage,
        });
        #[cfg(not(target_os = "linux"))]
        let _ = pages;
        let base = map.as_ptr();
        let skip = base.align_offset(HUGE_PAGE_BYTES);
        assert!(skip < HUGE_PAGE_BYTES, "a mapping is byte-addressed");
        // SAFETY: `skip` is less than the huge page by which the mapping is longer than `bytes`.
        let first = unsafe { base.add(skip) };
        Array {
            first: NonNull::new(first.cast_mut())
                .expect("a mapping is not at address 0")
                .cast(),
            length,
            memory: Memory::Mapped(map),
        }
    }
}

impl<T> Array<T> {
    /// Does it lie in memory of its own, for which huge pages were asked?
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        matches!(self.memory, Memory::Mapped(_))
    }
}

impl<T> Deref for Array<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `first` is aligned (a huge page, or a box's own) and starts `length`
        // elements in memory that `self.memory` keeps alive and unmoved; mapped memory is
        // zeroes, which `Zeroed` makes valid values; no `&mut` to it is ever made.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        if matches!(self.memory, Memory::Boxed) {
            let slice = std::ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.length);
            // SAFETY: `boxed` leaked exactly this slice, and nobody else gives it back.
            drop(unsafe { Box::from_raw(slice) });
        }
    }
}

// SAFETY: `first` points into `memory`, which goes along; the elements may go, `T: Send`.
unsafe impl<T: Send> Send for Array<T> {}
// SAFETY: a shared array gives out nothing but `&T`.
unsafe impl<T: Sync> Sync for Array<T> {}

impl<T> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array({} elements)", self.length)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn mapped_and_boxed_arrays_are_the_same_to_their_users(
            length in 1usize..2_000,
            stores in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..100),
        ) {
            let boxed = Array::<AtomicU64>::boxed(length);
            let mapped = Array::<AtomicU64>::mapped(length, 8 * length, Pages::Huge);
            let sparse = Array::<AtomicU64>::sparse(length);
            prop_assert!(mapped.is_mapped() && sparse.is_mapped() && !boxed.is_mapped());
            prop_assert_eq!(mapped.as_ptr().align_offset(HUGE_PAGE_BYTES), 0);
            // Relaxed, all: one thread.
            let words = |array: &Array<AtomicU64>| -> Vec<u64> {
                array.iter().map(|word| word.load(Ordering::Relaxed)).collect()
            };
            prop_assert_eq!(words(&mapped), vec![0; length]);
            for (place, value) in stores {
                for array in [&boxed, &mapped, &sparse] {
                    // Relaxed: as above.
                    array[place.index(length)].store(value, Ordering::Relaxed);
                }
            }
            prop_assert_eq!(words(&mapped), words(&boxed));
            prop_assert_eq!(words(&sparse), words(&boxed));
        }
    }

    #[test]
    fn a_large_array_is_mapped_and_a_small_one_is_not() {
        assert!(Array::<AtomicU64>::zeroed(HUGE_PAGE_BYTES / 8).is_mapped());
        assert!(!Array::<AtomicU64>::zeroed(HUGE_PAGE_BYTES / 8 - 1).is_mapped());
    }

    /// With the huge page that a mapping is longer, this many bytes would wrap to a few, and the array
    /// would read far beyond them.
    #[test]
    fn an_array_as_large_as_the_address_space_is_refused() {
        for make in [Array::<AtomicU64>::zeroed, Array::<AtomicU64>::sparse] {
            for length in [usize::MAX / 8, (isize::MAX as usize) / 8] {
                let panic = std::panic::catch_unwind(|| make(length)).unwrap_err();
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                assert_eq!(
                    text,
                    Some("a table's memory is less than the address space")
                );
            }
        }
    }
}

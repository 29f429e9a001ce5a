//! Looking through the slots of one bucket.
//!
//! Two ways. [`scan`] reads the words one by one and keeps them: inserts and removals, which
//! decide by what they have read under one header. A [`Matcher`] says only where words of
//! one key are, and comes in vector versions: lookups, which read a candidate's word again
//! and believe the entry alone. Which one is chosen when the table is made ([`Isa`]); under
//! the checkers it is always [`Scalar`], against which the others are tested.
//!
//! Vector loads of words that others are writing are outside Rust's memory model, so they are
//! made by `asm!`, of which the compiler knows only that it reads memory. x86-64 never
//! tears an aligned word of 8 bytes inside a vector load from cached memory (all processors with
//! these instructions do so; the manuals promise it for whole loads of up to 16 bytes), and
//! orders loads after loads: each word is an acquire load, in no order among themselves. No
//! order is needed: an owner's slot is there all the time that it owns the key (L5).

use super::bucket::{Bucket, SLOTS};
use super::word::{Pattern, Slot, Wanted};
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
#[inline]
pub(super) fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(lowest)
    })
}

/// The instructions that lookups compare slots with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isa {
    /// One word after the other; on every machine.
    Scalar,
    /// Half a bucket at once (x86-64 with AVX2).
    Avx2,
    /// A bucket at once (x86-64 with AVX-512F).
    Avx512,
    /// The widest that this machine has.
    #[default]
    Auto,
}

impl Isa {
    /// All of them.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Auto];

    /// The name that `--isa` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Auto => "auto",
        }
    }

    /// Has this machine these instructions?
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar | Isa::Auto => true,
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            Isa::Avx2 => std::arch::is_x86_feature_detected!("avx2"),
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            Isa::Avx512 => std::arch::is_x86_feature_detected!("avx512f"),
            #[cfg(not(all(target_arch = "x86_64", not(any(loom, shuttle, miri)))))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// What is really used: [`Isa::Auto`] is the widest set there is, and one that the
    /// machine has not is [`Isa::Scalar`]. Never `Auto`.
    #[must_use]
    pub fn resolved(self) -> Isa {
        match self {
            Isa::Auto => [Isa::Avx512, Isa::Avx2]
                .into_iter()
                .find(|isa| isa.is_available())
                .unwrap_or(Isa::Scalar),
            isa if isa.is_available() => isa,
            _ => Isa::Scalar,
        }
    }
}

/// A way to compare the slots of a bucket with what one key wants.
pub(super) trait Matcher {
    /// Bit i: slot i held a word that matches. Slots of the bucket that the geometry does not use are compared too.
    fn matches(bucket: &Bucket, wanted: Wanted) -> u32;

    /// After the last one of a batch: leaves the processor as other code expects it.
    fn leave();
}

/// One word after the other.
#[derive(Debug)]
pub(super) struct Scalar;

impl Matcher for Scalar {
    #[inline(always)]
    fn matches(bucket: &Bucket, wanted: Wanted) -> u32 {
        // Without branches: which slot it is cannot be predicted.
        bucket.slots.iter().enumerate().fold(0, |mask, (i, word)| {
            // Acquire, P2: as in `scan`.
            let slot = Slot(word.load(Ordering::Acquire));
            mask | u32::from(wanted.matches(slot)) << i
        })
    }

    #[inline(always)]
    fn leave() {}
}

/// Where there are no vector instructions to use, [`Scalar`] under their names: never chosen
/// ([`Isa::is_available`]), and the rest of the table need not know.
#[cfg(not(all(target_arch = "x86_64", not(any(loom, shuttle, miri)))))]
pub(super) use self::{Scalar as Avx2, Scalar as Avx512};
#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
pub(super) use vector::{Avx2, Avx512};

#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
mod vector {
    use std::arch::asm;

    use super::{Bucket, Matcher, SLOTS, Wanted};

    const _: () = assert!(SLOTS == 7 && size_of::<Bucket>() == 64);

    /// Two loads of 32 bytes. Only where [`Isa::Avx2`](super::Isa::Avx2) is available.
    #[derive(Debug)]
    pub(in super::super) struct Avx2;

    impl Matcher for Avx2 {
        #[inline(always)]
        fn matches(bucket: &Bucket, wanted: Wanted) -> u32 {
            let (low, high): (u32, u32);
            // SAFETY: reads the 64 bytes of the bucket, which is aligned to them, and changes the
            // named registers alone. The instructions exist: whoever chose this matcher asked.
            // `readonly`: the compiler may move it across other plain reads, but not up across an
            // acquire load and not across a fence, so it stays within the lookup; what it says
            // of a slot is read again by an acquire load before anything is believed.
            unsafe {
                asm!(
                    "vmovq xmm0, {value}",
                    "vmovq xmm1, {mask}",
                    "vpbroadcastq ymm0, xmm0",
                    "vpbroadcastq ymm1, xmm1",
                    "vpand ymm2, ymm1, [{bucket}]",
                    "vpand ymm1, ymm1, [{bucket} + 32]",
                    "vpcmpeqq ymm2, ymm2, ymm0",
                    "vpcmpeqq ymm1, ymm1, ymm0",
                    "vmovmskpd {low:e}, ymm2",
                    "vmovmskpd {high:e}, ymm1",
                    value = in(reg) wanted.value(),
                    mask = in(reg) wanted.mask(),
                    bucket = in(reg) bucket,
                    low = lateout(reg) low,
                    high = lateout(reg) high,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _,
                    options(nostack, preserves_flags, readonly),
                );
            }
            // Lane 0 is the bucket's own word.
            (low >> 1) | (high << 3)
        }

        #[inline(always)]
        fn leave() {
            zero_upper_halves();
        }
    }

    /// One load of 64 bytes. Only where [`Isa::Avx512`](super::Isa::Avx512) is available.
    #[derive(Debug)]
    pub(in super::super) struct Avx512;

    impl Matcher for Avx512 {
        #[inline(always)]
        fn matches(bucket: &Bucket, wanted: Wanted) -> u32 {
            let lanes: u32;
            // SAFETY: as above.
            unsafe {
                asm!(
                    "vpbroadcastq zmm0, {value}",
                    "vpbroadcastq zmm1, {mask}",
                    "vpandq zmm1, zmm1, [{bucket}]",
                    "vpcmpeqq k1, zmm1, zmm0",
                    "kmovw {lanes:e}, k1",
                    value = in(reg) wanted.value(),
                    mask = in(reg) wanted.mask(),
                    bucket = in(reg) bucket,
                    lanes = lateout(reg) lanes,
                    out("xmm0") _, out("xmm1") _, out("k1") _,
                    options(nostack, preserves_flags, readonly),
                );
            }
            lanes >> 1
        }

        #[inline(always)]
        fn leave() {
            zero_upper_halves();
        }
    }

    /// Code compiled for any x86-64 runs slower on some processors while these are in use.
    #[inline(always)]
    fn zero_upper_halves() {
        // SAFETY: part of AVX, which both matchers have; all registers it changes are named.
        unsafe {
            asm!(
                "vzeroupper",
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nomem, nostack, preserves_flags),
            );
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::sync::AtomicU64;
    use proptest::prelude::*;

    /// Words that often match, and free ones.
    fn word() -> impl Strategy<Value = u64> {
        prop_oneof![
            Just(Slot::UNINIT.0),
            Just(Slot::EMPTY.0),
            any::<u64>(),
            (0u64..3, 0u64..4, any::<u32>())
                .prop_map(|(tag, covers, rest)| { tag << 48 | covers << 46 | u64::from(rest) }),
        ]
    }

    proptest! {
        #[test]
        fn every_matcher_finds_what_the_pattern_finds(
            words in proptest::array::uniform7(word()), header in any::<u64>(),
            tag in 0u16..3, covers in 1u8..=2,
        ) {
            let bucket = Bucket {
                word: AtomicU64::new(header),
                slots: words.map(AtomicU64::new),
            };
            let (wanted, pattern) = (Wanted::new(tag, covers), Pattern::new(tag, covers));
            let expected = scan(&bucket, SLOTS, pattern).matches;
            prop_assert_eq!(Scalar::matches(&bucket, wanted), expected);
            if Isa::Avx2.is_available() {
                prop_assert_eq!(Avx2::matches(&bucket, wanted), expected);
                Avx2::leave();
            }
            if Isa::Avx512.is_available() {
                prop_assert_eq!(Avx512::matches(&bucket, wanted), expected);
                Avx512::leave();
            }
        }
    }

    #[test]
    fn what_the_machine_has_not_is_never_chosen() {
        for isa in Isa::ALL {
            assert!(isa.resolved() != Isa::Auto && isa.resolved().is_available());
        }
        assert_eq!(Isa::Scalar.resolved(), Isa::Scalar);
    }
}

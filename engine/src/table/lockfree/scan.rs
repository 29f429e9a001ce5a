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
use super::word::{Pattern, Slot};
use crate::sync::Ordering;
use crate::table::key::FlowKey;
use crate::table::slab::Entry;
use crate::tuple::Direction;

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
    /// Half a bucket at once (x86-64 with AVX2, BMI1, BMI2 and LZCNT).
    Avx2,
    /// A bucket at once (the same with AVX-512F and BW).
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
            Isa::Avx2 => has_avx2(),
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            Isa::Avx512 => {
                has_avx2()
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
            }
            #[cfg(not(all(target_arch = "x86_64", not(any(loom, shuttle, miri)))))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// The same for the table's own use: proof that the machine was asked.
    pub(super) fn available(self) -> Available {
        Available(self.resolved())
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

/// AVX2 and the bit instructions that came with it: code of [`Isa::Avx2`] is compiled for all of them.
#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("bmi1")
        && std::arch::is_x86_feature_detected!("bmi2")
        && std::arch::is_x86_feature_detected!("lzcnt")
}

/// Keys that are looked up side by side.
pub(super) const BATCH: usize = 64;
/// Keys of them that are hashed together.
pub(super) const GROUP: usize = 16;

/// Slots of one bucket that may be what a lookup wants: bit `8 i + 15` stands for slot i, so that a
/// mask of bytes, as vector compares give it, needs no packing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Candidates(u64);

impl Candidates {
    /// The top bits of the slots' bytes; the bucket's own word has the lowest byte.
    const ALL: u64 = if SLOTS == 7 {
        0x8080_8080_8080_8000
    } else {
        0x8080_8000
    };

    pub(super) const NONE: Candidates = Candidates(0);

    /// None.
    #[inline(always)]
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those among the first `used` slots.
    #[inline(always)]
    fn among(self, used: usize) -> Candidates {
        if used == SLOTS {
            return self;
        }
        Candidates(self.0 & ((1 << (8 * used + 8)) - 1))
    }

    /// The word of the lowest one, read again; perhaps free by now, or another one. There must be one.
    #[inline(always)]
    pub(super) fn first(self, bucket: &Bucket) -> Slot {
        debug_assert!(!self.is_empty() && self.0 & !Candidates::ALL == 0);
        let at = (self.0.trailing_zeros() / 8) as usize - 1;
        // SAFETY: bits stand for the slots of a bucket: they are among `ALL`, which has one for each.
        let word = unsafe { bucket.slots.get_unchecked(at) };
        // Acquire, P2.
        Slot(word.load(Ordering::Acquire))
    }

    /// The words of these slots that are not free, read again, lowest first. Whether one leads to an owner
    /// says the entry alone.
    pub(super) fn slots(mut self, bucket: &Bucket) -> impl Iterator<Item = Slot> + '_ {
        std::iter::from_fn(move || {
            while !self.is_empty() {
                let slot = self.first(bucket);
                self.0 &= self.0 - 1;
                if !slot.is_free() {
                    return Some(slot);
                }
            }
            None
        })
    }
}

/// A way to compare the slots of a bucket, and the keys of an entry, with what a lookup wants.
pub(super) trait Matcher {
    /// The canonical forms of at most [`GROUP`] keys.
    fn canonical<K: FlowKey>(keys: &[K], canonical: &mut [K; GROUP]);

    /// The first `used` slots whose words have the tag of this hash, its lowest 16 bits: all pieces that do,
    /// and perhaps free words.
    fn candidates(bucket: &Bucket, hash: u64, used: usize) -> Candidates;

    /// After the last one of some calls: leaves the processor as code without vectors expects it.
    fn leave();

    /// Which of an entry's two keys `key` is: bit 0 the original, bit 1 the reply.
    fn owned<K: FlowKey>(entry: &Entry<K>, key: &K) -> u8;
}

/// One word after the other.
#[derive(Debug)]
pub(super) struct Scalar;

impl Matcher for Scalar {
    #[inline(always)]
    fn leave() {}

    #[inline(always)]
    fn canonical<K: FlowKey>(keys: &[K], canonical: &mut [K; GROUP]) {
        for (canonical, key) in canonical.iter_mut().zip(keys) {
            *canonical = key.canonical().0;
        }
    }

    #[inline(always)]
    fn candidates(bucket: &Bucket, hash: u64, used: usize) -> Candidates {
        // Without branches: which slot it is cannot be predicted.
        let all = bucket.slots.iter().enumerate().fold(0, |mask, (i, word)| {
            // Acquire, P2: as in `scan`.
            let slot = Slot(word.load(Ordering::Acquire));
            mask | u64::from(slot.tag() == hash as u16) << (8 * i + 15)
        });
        Candidates(all).among(used)
    }

    #[inline(always)]
    fn owned<K: FlowKey>(entry: &Entry<K>, key: &K) -> u8 {
        let is_original = entry.key(Direction::Original) == *key;
        let is_reply = entry.key(Direction::Reply) == *key;
        u8::from(is_reply) << 1 | u8::from(is_original)
    }
}

/// An instruction set that this machine has, and not [`Isa::Auto`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Available(Isa);

impl Available {
    pub(super) fn isa(self) -> Isa {
        self.0
    }

    /// Does a piece of work by the matcher of this set.
    #[inline(always)]
    pub(super) fn run<W: Work>(self, work: W) -> W::Outcome {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            // SAFETY: the machine has these instructions: `Isa::available` asked.
            Isa::Avx2 => unsafe { vector::run_avx2(work) },
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            // SAFETY: as above.
            Isa::Avx512 => unsafe { vector::run_avx512(work) },
            _ => work.by::<Scalar>(),
        }
    }
}

impl Available {
    /// Does one compare show that a bucket has no word of this tag? Without vectors nothing does.
    #[inline(always)]
    pub(super) fn sees_none(self, bucket: &Bucket, tag: u16) -> bool {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            Isa::Avx2 => vector::alone::<vector::Avx2>(bucket, tag).is_empty(),
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            Isa::Avx512 => vector::alone::<vector::Avx512>(bucket, tag).is_empty(),
            _ => {
                let _ = (bucket, tag);
                false
            }
        }
    }
}

impl Available {
    /// The slots of a bucket whose words have this tag, and perhaps free ones.
    #[inline(always)]
    pub(super) fn candidates(self, bucket: &Bucket, tag: u16) -> Candidates {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            Isa::Avx2 => vector::alone::<vector::Avx2>(bucket, tag),
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            Isa::Avx512 => vector::alone::<vector::Avx512>(bucket, tag),
            _ => Scalar::candidates(bucket, u64::from(tag), SLOTS),
        }
    }
}

/// A piece of work that is compiled for each instruction set.
pub(super) trait Work {
    /// What it brings.
    type Outcome;

    /// Does it by one matcher. To be `#[inline(always)]`: the caller is compiled for the instructions.
    fn by<S: Matcher>(self) -> Self::Outcome;
}

#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
mod vector {
    use std::arch::asm;
    use std::arch::x86_64::{__m128i, _mm_cvtsi64_si128};

    use super::{Bucket, Candidates, Entry, FlowKey, GROUP, Matcher, SLOTS, Scalar, Work};

    const _: () = assert!(SLOTS == 7 && size_of::<Bucket>() == 64);

    /// # Safety
    /// The machine has [`Isa::Avx2`](super::Isa::Avx2).
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
    pub(super) unsafe fn run_avx2<W: Work>(work: W) -> W::Outcome {
        work.by::<Avx2>()
    }

    /// # Safety
    /// The machine has [`Isa::Avx512`](super::Isa::Avx512).
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,avx512f,avx512bw")]
    pub(super) unsafe fn run_avx512<W: Work>(work: W) -> W::Outcome {
        work.by::<Avx512>()
    }

    /// The hash in a register where vectors find it.
    #[inline(always)]
    fn in_vector(hash: u64) -> __m128i {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_cvtsi64_si128(hash.cast_signed()) }
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

    /// One compare by itself. The matcher's instructions must be available, as for all of it.
    #[inline(always)]
    pub(super) fn alone<S: Matcher>(bucket: &Bucket, tag: u16) -> Candidates {
        let candidates = S::candidates(bucket, u64::from(tag), SLOTS);
        S::leave();
        candidates
    }

    /// Two loads of 32 bytes. Only where [`Isa::Avx2`](super::Isa::Avx2) is available.
    #[derive(Debug)]
    pub(super) struct Avx2;

    impl Matcher for Avx2 {
        #[inline(always)]
        fn leave() {
            zero_upper_halves();
        }

        /// The compiler's own vector code, in a caller that is compiled for these instructions.
        #[inline(always)]
        fn canonical<K: FlowKey>(keys: &[K], canonical: &mut [K; GROUP]) {
            K::canonical_batch(keys, canonical);
        }

        #[inline(always)]
        fn candidates(bucket: &Bucket, hash: u64, used: usize) -> Candidates {
            crate::sync::seen(bucket);
            let (low, high): (u64, u64);
            // `readonly`: the compiler may move it across other plain reads, but not up across an
            // acquire load and not across a fence, so it stays within the lookup; what it says
            // of a slot is read again by an acquire load before anything is believed.
            // SAFETY: reads the 64 bytes of the bucket, which is aligned to them, and changes the
            // named registers alone. The instructions exist: whoever chose this matcher asked.
            unsafe {
                asm!(
                    "vpbroadcastw ymm0, {hash}",
                    "vpcmpeqw ymm1, ymm0, [{bucket}]",
                    "vpcmpeqw ymm0, ymm0, [{bucket} + 32]",
                    "vpmovmskb {low:e}, ymm1",
                    "vpmovmskb {high:e}, ymm0",
                    hash = in(xmm_reg) in_vector(hash),
                    bucket = in(reg) bucket,
                    low = lateout(reg) low,
                    high = lateout(reg) high,
                    out("xmm0") _, out("xmm1") _,
                    options(nostack, preserves_flags, readonly),
                );
            }
            // The tag is the top 16 bits of a word: its byte 7 says whether it is equal.
            Candidates((high << 32 | low) & Candidates::ALL).among(used)
        }

        #[inline(always)]
        fn owned<K: FlowKey>(entry: &Entry<K>, key: &K) -> u8 {
            if !K::IS_16_PLAIN_BYTES {
                return Scalar::owned(entry, key);
            }
            const {
                let plain = size_of::<K>() == 16 && size_of::<K::Cell>() == 16;
                assert!(!K::IS_16_PLAIN_BYTES || plain && Entry::<K>::KEYS_ARE_SIDE_BY_SIDE);
            }
            crate::sync::seen(entry);
            let lanes: u32;
            // The entry's words may be written at the same time: each is then the old or the new one, as an
            // atomic load would give it, and the state that was loaded before says whether it counts.
            // SAFETY: reads 16 bytes of the key and 32 of the entry, where its two keys are side by side
            // (asserted above), and changes the named registers alone; the instructions exist.
            unsafe {
                asm!(
                    "vbroadcasti128 ymm0, [{key}]",
                    "vpcmpeqq ymm0, ymm0, [{entry} + {keys}]",
                    "vmovmskpd {lanes:e}, ymm0",
                    key = in(reg) key,
                    entry = in(reg) entry,
                    keys = const Entry::<K>::KEYS_OFFSET,
                    lanes = lateout(reg) lanes,
                    out("xmm0") _,
                    options(nostack, preserves_flags, readonly),
                );
            }
            // Both words of a key must be equal: bits 0 and 1 the original's, 2 and 3 the reply's.
            // Two bits for each of 16 cases.
            const OWNED: u32 = 1 << (2 * 0b0011)
                | 1 << (2 * 0b0111)
                | 1 << (2 * 0b1011)
                | 2 << (2 * 0b1100)
                | 2 << (2 * 0b1101)
                | 2 << (2 * 0b1110)
                | 3 << (2 * 0b1111);
            (OWNED >> (2 * lanes) & 3) as u8
        }
    }

    /// One load of 64 bytes. Only where [`Isa::Avx512`](super::Isa::Avx512) is available.
    #[derive(Debug)]
    pub(super) struct Avx512;

    impl Matcher for Avx512 {
        #[inline(always)]
        fn leave() {
            zero_upper_halves();
        }

        #[inline(always)]
        fn canonical<K: FlowKey>(keys: &[K], canonical: &mut [K; GROUP]) {
            Avx2::canonical(keys, canonical);
        }

        #[inline(always)]
        fn candidates(bucket: &Bucket, hash: u64, used: usize) -> Candidates {
            crate::sync::seen(bucket);
            let bytes: u64;
            // SAFETY: as above.
            unsafe {
                asm!(
                    "vpbroadcastw zmm0, {hash}",
                    "vpcmpeqb k1, zmm0, [{bucket}]",
                    "kmovq {bytes}, k1",
                    hash = in(xmm_reg) in_vector(hash),
                    bucket = in(reg) bucket,
                    bytes = lateout(reg) bytes,
                    out("xmm0") _, out("k1") _,
                    options(nostack, preserves_flags, readonly),
                );
            }
            // Byte 7 and byte 6 of a word: its tag.
            Candidates(bytes & bytes << 1 & Candidates::ALL).among(used)
        }

        #[inline(always)]
        fn owned<K: FlowKey>(entry: &Entry<K>, key: &K) -> u8 {
            Avx2::owned(entry, key)
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::super::word::Stem;
    #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
    use super::vector::{Avx2, Avx512};
    use super::*;
    use crate::sync::AtomicU64;
    use crate::table::key::KeyV4;
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
            for used in [SLOTS, 3] {
                let expected = scan(&bucket, used, Pattern::of(Stem::new(tag, covers, Direction::Original)));
                let expected: Vec<Slot> = bits(expected.matches).map(|i| expected.slots[i]).collect();
                let found = |candidates: Candidates| {
                    candidates.slots(&bucket).filter(|slot| slot.covers() & covers != 0).collect::<Vec<_>>()
                };
                prop_assert_eq!(&found(Scalar::candidates(&bucket, u64::from(tag), used)), &expected);
                #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
                {
                    if Isa::Avx2.is_available() {
                        prop_assert_eq!(&found(Avx2::candidates(&bucket, u64::from(tag), used)), &expected);
                    }
                    if Isa::Avx512.is_available() {
                        prop_assert_eq!(&found(Avx512::candidates(&bucket, u64::from(tag), used)), &expected);
                    }
                }
            }
        }

        #[test]
        fn every_matcher_knows_the_same_owner(words in proptest::array::uniform6(0u64..2)) {
            let [a, b, c, d, e, f] = words;
            let key = |a: u64, b: u64| {
                let cell = <KeyV4 as FlowKey>::Cell::default();
                cell[0].store(a);
                cell[1].store(b);
                KeyV4::load(&cell)
            };
            let entry = Entry::<KeyV4>::default();
            entry.set_keys(key(a, b), key(c, d));
            let key = key(e, f);
            let expected = u8::from((a, b) == (e, f)) | u8::from((c, d) == (e, f)) << 1;
            prop_assert_eq!(Scalar::owned(&entry, &key), expected);
            #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, miri))))]
            {
                if Isa::Avx2.is_available() {
                    prop_assert_eq!(Avx2::owned(&entry, &key), expected);
                }
                if Isa::Avx512.is_available() {
                    prop_assert_eq!(Avx512::owned(&entry, &key), expected);
                }
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

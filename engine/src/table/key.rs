//! The packed form of a tuple and its zone: what tables hash, compare and store. [`KeyV4`] and [`KeyV6`].

use std::fmt;
use std::hash::Hash;
use std::hint::select_unpredictable;

pub use super::key_v6::KeyV6;
use super::storage::Zeroed;
use crate::addr::{Addr, Family};
use crate::sync::BodyWord;
use crate::tuple::{Protocol, Tuple};

/// One of the two keys of a connection: a tuple, and the zone id of its direction.
///
/// Equal keys are equal tuples in the same zone: the kernel's `nf_ct_key_equal`.
pub trait FlowKey: Copy + Eq + Hash + fmt::Debug + Send + Sync + 'static {
    /// The family whose tuples this key can hold.
    const FAMILY: Family;
    /// The key as 64-bit words, for hashing.
    type Words: AsRef<[u64]>;
    /// A place for a key inside an [`Entry`](super::slab::Entry): words that a reader may
    /// load while the entry is being reused (it then finds out by the entry's state).
    type Cell: Zeroed + Send + Sync + fmt::Debug;
    /// A key and its cell are the same 16 bytes, and keys are equal when those are: they may be compared
    /// in one vector register.
    const IS_16_PLAIN_BYTES: bool = false;

    /// Packs a tuple. The tuple's family must be [`FlowKey::FAMILY`].
    fn pack(tuple: &Tuple, zone: u16) -> Self;
    /// The tuple that was packed.
    fn tuple(&self) -> Tuple;
    /// The zone id that was packed.
    fn zone(&self) -> u16;
    /// The key of a packet that answers one of this key, in the same zone: the packed
    /// [`Tuple::invert`]. `None` where no packet answers.
    fn inverse(&self) -> Option<Self> {
        Some(Self::pack(&self.tuple().invert()?, self.zone()))
    }
    /// Of this key and its [`inverse`](FlowKey::inverse) the one whose words are smaller, in
    /// order, and whether that is the inverse. The key itself where they are equal, or where
    /// there is no inverse.
    fn canonical(&self) -> (Self, bool) {
        match self.inverse() {
            Some(inverse) if inverse.words().as_ref() < self.words().as_ref() => (inverse, true),
            _ => (*self, false),
        }
    }
    /// [`FlowKey::canonical`] of many, without saying which were inverted; may be written for
    /// compilers to make vector code of. Lengths are equal.
    #[inline(always)]
    fn canonical_batch(keys: &[Self], canonical: &mut [Self]) {
        for (canonical, key) in canonical.iter_mut().zip(keys) {
            *canonical = key.canonical().0;
        }
    }
    /// The key's words.
    fn words(&self) -> Self::Words;
    /// Reads a cell.
    fn load(cell: &Self::Cell) -> Self;
    /// Writes a cell.
    fn store(cell: &Self::Cell, key: Self);
}

/// An IPv4 tuple and zone in 16 bytes.
///
/// ```text
/// word 0 | src 32 | dst 32 |
/// word 1 | src_key 16 | dst_key 16 | zone 16 | protocol 8 | 0 |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct KeyV4 {
    words: [u64; 2],
}

impl FlowKey for KeyV4 {
    const FAMILY: Family = Family::Ipv4;
    type Words = [u64; 2];
    type Cell = [BodyWord; 2];
    const IS_16_PLAIN_BYTES: bool = true;

    fn pack(t: &Tuple, zone: u16) -> KeyV4 {
        debug_assert_eq!(t.family, Family::Ipv4);
        KeyV4 {
            words: [
                u64::from(t.src.to_u32()) << 32 | u64::from(t.dst.to_u32()),
                u64::from(t.src_key) << 48
                    | u64::from(t.dst_key) << 32
                    | u64::from(zone) << 16
                    | u64::from(t.protocol.0) << 8,
            ],
        }
    }

    fn tuple(&self) -> Tuple {
        let [addresses, rest] = self.words;
        Tuple {
            src: Addr::from_u32((addresses >> 32) as u32),
            dst: Addr::from_u32(addresses as u32),
            src_key: (rest >> 48) as u16,
            dst_key: (rest >> 32) as u16,
            family: Family::Ipv4,
            protocol: Protocol((rest >> 8) as u8),
        }
    }

    fn zone(&self) -> u16 {
        (self.words[1] >> 16) as u16
    }

    #[inline]
    fn inverse(&self) -> Option<KeyV4> {
        let [addresses, rest] = self.words;
        if Protocol((rest >> 8) as u8).is_icmp() {
            return Some(KeyV4::pack(&self.tuple().invert()?, self.zone()));
        }
        // Addresses change places, and so do the keys; zone and protocol stay.
        const REST: u64 = u32::MAX as u64;
        Some(KeyV4 {
            words: [
                addresses.rotate_left(32),
                u64::from(((rest >> 32) as u32).rotate_left(16)) << 32 | rest & REST,
            ],
        })
    }

    #[inline(always)]
    fn canonical(&self) -> (KeyV4, bool) {
        if self.is_perhaps_icmp() {
            return self.canonical_of_any();
        }
        let [addresses, rest] = self.words;
        // `inverse`, and without branches: half of all packets go each way.
        let keys = (rest >> 32) as u32;
        let (addresses_back, keys_back) = (addresses.rotate_left(32), keys.rotate_left(16));
        let both = |addresses: u64, keys: u32| u128::from(addresses) << 64 | u128::from(keys);
        let is_less = both(addresses_back, keys_back) < both(addresses, keys);
        let keys = select_unpredictable(is_less, keys_back, keys);
        let words = [
            select_unpredictable(is_less, addresses_back, addresses),
            u64::from(keys) << 32 | rest & u64::from(u32::MAX),
        ];
        (KeyV4 { words }, is_less)
    }

    #[inline(always)]
    fn canonical_batch(keys: &[KeyV4], canonical: &mut [KeyV4]) {
        let mut perhaps_icmp = 0;
        // As `canonical`, in steps that all have a vector form.
        for (canonical, key) in canonical.iter_mut().zip(keys) {
            let [addresses, rest] = key.words;
            perhaps_icmp |= PERHAPS_ICMP >> (rest >> 8 & 63) & 1;
            let addresses_back = addresses.rotate_left(32);
            let rest_back = (rest >> 16 & 0xffff << 32)
                | (rest << 16 & 0xffff << 48)
                | rest & u64::from(u32::MAX);
            let is_less =
                (addresses_back < addresses) | ((addresses_back == addresses) & (rest_back < rest));
            let mask = u64::from(is_less).wrapping_neg();
            canonical.words = [
                addresses ^ (addresses ^ addresses_back) & mask,
                rest ^ (rest ^ rest_back) & mask,
            ];
        }
        if perhaps_icmp != 0 {
            for (canonical, key) in canonical.iter_mut().zip(keys) {
                if key.is_perhaps_icmp() {
                    *canonical = key.canonical_of_any().0;
                }
            }
        }
    }

    #[inline]
    fn words(&self) -> [u64; 2] {
        self.words
    }

    #[inline]
    fn load(cell: &Self::Cell) -> KeyV4 {
        // Ordered by the entry's state, which every reader checks before it believes the key.
        KeyV4 {
            words: [cell[0].load(), cell[1].load()],
        }
    }

    #[inline]
    fn store(cell: &Self::Cell, key: KeyV4) {
        // Only the owner of an unpublished entry writes; publishing it is the release.
        cell[0].store(key.words[0]);
        cell[1].store(key.words[1]);
    }
}

/// Bit p: protocol p, or one that is equal to it modulo 64, has types for keys.
const PERHAPS_ICMP: u64 = 1 << Protocol::ICMP.0 | 1 << Protocol::ICMPV6.0;

impl KeyV4 {
    #[inline(always)]
    fn is_perhaps_icmp(&self) -> bool {
        PERHAPS_ICMP >> (self.words[1] >> 8 & 63) & 1 != 0
    }

    /// [`FlowKey::canonical`] where types of messages may change instead of places.
    #[cold]
    fn canonical_of_any(&self) -> (KeyV4, bool) {
        match self.inverse() {
            Some(inverse) if inverse.words < self.words => (inverse, true),
            _ => (*self, false),
        }
    }
}

impl fmt::Debug for KeyV4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} zone={}", self.tuple(), self.zone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_a_tuple_loses_nothing(
            src in any::<u32>(), dst in any::<u32>(), src_key in any::<u16>(),
            dst_key in any::<u16>(), protocol in any::<u8>(), zone in any::<u16>(),
        ) {
            let tuple = Tuple {
                src: Addr::from_u32(src), dst: Addr::from_u32(dst), src_key, dst_key,
                family: Family::Ipv4, protocol: Protocol(protocol),
            };
            let key = KeyV4::pack(&tuple, zone);
            prop_assert_eq!((key.tuple(), key.zone()), (tuple, zone));
            prop_assert_eq!(
                key.inverse().map(|inverse| (inverse.tuple(), inverse.zone())),
                tuple.invert().map(|inverse| (inverse, zone))
            );
            let smaller = key.inverse().filter(|inverse| inverse.words < key.words);
            prop_assert_eq!(key.canonical(), (smaller.unwrap_or(key), smaller.is_some()));
            let cell = Default::default();
            KeyV4::store(&cell, key);
            prop_assert_eq!(KeyV4::load(&cell), key);
        }
    }
}

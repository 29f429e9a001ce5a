//! An IPv6 tuple and its zone, packed.
//!
//! Five words where IPv4 has two, so an entry is two cache lines. The first holds the state and
//! the original key: a packet of the original direction that does not match is told off there.
//!
//! ```text
//! Entry<KeyV6>  128 B
//! +---------+-------------+-------------+ +-------------+------------+----------+--------+--------+-------+
//! | state 8 | original 40 | reply 0..16 | | reply 16..40 | deadline 8 | stream 8 | status | device | 16    |
//! +---------+-------------+-------------+ +-------------+------------+----------+--------+--------+-------+
//! ```
//!
//! Source: `nf_ct_key_equal`, `nf_ct_invert_tuple` (nf_conntrack_core.c), `nf_conntrack_invert_icmpv6_tuple`.

use std::fmt;
use std::net::Ipv6Addr;

use super::key::FlowKey;
use super::slab::Entry;
use crate::addr::{Addr, Family};
use crate::sync::{BodyWord, CHECKED};
use crate::tuple::{Protocol, Tuple};

/// An IPv6 tuple and zone in 40 bytes.
///
/// ```text
/// word 0, 1 | src 128 |                                     most significant half first
/// word 2, 3 | dst 128 |
/// word 4    | src_key 16 | dst_key 16 | zone 16 | protocol 8 | 0 |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeyV6 {
    words: [u64; 5],
}

const _: () = assert!(size_of::<KeyV6>() == 40);
const _: () = assert!(
    CHECKED || size_of::<Entry<KeyV6>>() == 128,
    "an IPv6 connection's hot part is two cache lines"
);

impl FlowKey for KeyV6 {
    const FAMILY: Family = Family::Ipv6;
    type Words = [u64; 5];
    type Cell = [BodyWord; 5];

    fn pack(t: &Tuple, zone: u16) -> KeyV6 {
        debug_assert_eq!(t.family, Family::Ipv6);
        let rest = u64::from(t.src_key) << 48
            | u64::from(t.dst_key) << 32
            | u64::from(zone) << 16
            | u64::from(t.protocol.0) << 8;
        KeyV6::of(
            u128::from_be_bytes(t.src.octets()),
            u128::from_be_bytes(t.dst.octets()),
            rest,
        )
    }

    fn tuple(&self) -> Tuple {
        let rest = self.words[4];
        Tuple {
            src: Addr::v6(Ipv6Addr::from_bits(self.src())),
            dst: Addr::v6(Ipv6Addr::from_bits(self.dst())),
            src_key: (rest >> 48) as u16,
            dst_key: (rest >> 32) as u16,
            family: Family::Ipv6,
            protocol: self.protocol(),
        }
    }

    fn zone(&self) -> u16 {
        (self.words[4] >> 16) as u16
    }

    #[inline]
    fn inverse(&self) -> Option<KeyV6> {
        if self.protocol().is_icmp() {
            return Some(KeyV6::pack(&self.tuple().invert()?, self.zone()));
        }
        // Addresses change places, and so do the keys; zone and protocol stay.
        Some(KeyV6::of(self.dst(), self.src(), self.rest_back()))
    }

    #[inline]
    fn canonical(&self) -> (KeyV6, bool) {
        if self.protocol().is_icmp() {
            return self.canonical_icmp();
        }
        // `inverse`, and compared by what differs first.
        let (src, dst, rest_back) = (self.src(), self.dst(), self.rest_back());
        let is_less = (dst < src) | ((dst == src) & (rest_back < self.words[4]));
        if is_less {
            (KeyV6::of(dst, src, rest_back), true)
        } else {
            (*self, false)
        }
    }

    #[inline]
    fn words(&self) -> [u64; 5] {
        self.words
    }

    #[inline]
    fn load(cell: &Self::Cell) -> KeyV6 {
        // Ordered by the entry's state, which every reader checks before it believes the key.
        KeyV6 {
            words: std::array::from_fn(|i| cell[i].load()),
        }
    }

    #[inline]
    fn store(cell: &Self::Cell, key: KeyV6) {
        // Only the owner of an unpublished entry writes; publishing it is the release.
        for (cell, word) in cell.iter().zip(key.words) {
            cell.store(word);
        }
    }
}

impl KeyV6 {
    #[inline]
    fn of(src: u128, dst: u128, rest: u64) -> KeyV6 {
        KeyV6 {
            words: [
                (src >> 64) as u64,
                src as u64,
                (dst >> 64) as u64,
                dst as u64,
                rest,
            ],
        }
    }

    #[inline]
    fn src(&self) -> u128 {
        u128::from(self.words[0]) << 64 | u128::from(self.words[1])
    }

    #[inline]
    fn dst(&self) -> u128 {
        u128::from(self.words[2]) << 64 | u128::from(self.words[3])
    }

    #[inline]
    fn protocol(&self) -> Protocol {
        Protocol((self.words[4] >> 8) as u8)
    }

    /// The last word with the keys in each other's place.
    #[inline]
    fn rest_back(&self) -> u64 {
        let rest = self.words[4];
        u64::from(((rest >> 32) as u32).rotate_left(16)) << 32 | rest & u64::from(u32::MAX)
    }

    /// [`FlowKey::canonical`] where the types of messages change, not their places.
    #[cold]
    fn canonical_icmp(&self) -> (KeyV6, bool) {
        match self.inverse() {
            Some(inverse) if inverse.words < self.words => (inverse, true),
            _ => (*self, false),
        }
    }
}

impl fmt::Debug for KeyV6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} zone={}", self.tuple(), self.zone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All protocols alike, and those with a meaning of their own often; addresses that are one
    /// now and then, as on a host that talks to itself.
    fn tuples() -> impl Strategy<Value = Tuple> {
        let protocols = prop_oneof![any::<u8>(), prop::sample::select(vec![1u8, 6, 17, 58, 132])];
        let keys = (any::<u16>(), prop_oneof![any::<u16>(), 0x7f00u16..0x8f00]);
        (any::<u128>(), any::<Option<u128>>(), keys, protocols).prop_map(
            |(src, dst, (src_key, dst_key), protocol)| Tuple {
                src: Addr::v6(Ipv6Addr::from_bits(src)),
                dst: Addr::v6(Ipv6Addr::from_bits(dst.unwrap_or(src))),
                src_key,
                dst_key,
                family: Family::Ipv6,
                protocol: Protocol(protocol),
            },
        )
    }

    proptest! {
        #[test]
        fn packing_a_tuple_loses_nothing(tuple in tuples(), zone in any::<u16>()) {
            let key = KeyV6::pack(&tuple, zone);
            prop_assert_eq!((key.tuple(), key.zone()), (tuple, zone));
            let cell = Default::default();
            KeyV6::store(&cell, key);
            prop_assert_eq!(KeyV6::load(&cell), key);
        }

        #[test]
        fn keys_are_equal_only_where_tuple_and_zone_are(
            a in tuples(), b in tuples(), zones in any::<(u16, u16)>(),
        ) {
            let is_equal = KeyV6::pack(&a, zones.0) == KeyV6::pack(&b, zones.1);
            prop_assert_eq!(is_equal, a == b && zones.0 == zones.1);
        }

        #[test]
        fn the_inverse_is_that_of_the_tuple_and_its_inverse_the_key(
            tuple in tuples(), zone in any::<u16>(),
        ) {
            let key = KeyV6::pack(&tuple, zone);
            let inverse = key.inverse();
            prop_assert_eq!(
                inverse.map(|inverse| (inverse.tuple(), inverse.zone())),
                tuple.invert().map(|inverse| (inverse, zone))
            );
            if let Some(inverse) = inverse {
                prop_assert_eq!(inverse.inverse(), Some(key));
            }
        }

        #[test]
        fn a_key_and_its_inverse_have_one_canonical_key_the_smaller_of_both(
            tuple in tuples(), zone in any::<u16>(),
        ) {
            let key = KeyV6::pack(&tuple, zone);
            let smaller = key.inverse().filter(|inverse| inverse.words < key.words);
            prop_assert_eq!(key.canonical(), (smaller.unwrap_or(key), smaller.is_some()));
            if let Some(inverse) = key.inverse() {
                prop_assert_eq!(inverse.canonical().0, key.canonical().0);
            }
        }
    }

    #[test]
    fn only_paired_messages_of_icmpv6_have_an_inverse() {
        let message = |icmp_type: u8| Tuple {
            src: Addr::v6(Ipv6Addr::LOCALHOST),
            dst: Addr::v6(Ipv6Addr::UNSPECIFIED),
            src_key: 77,
            dst_key: u16::from(icmp_type) << 8 | 3,
            family: Family::Ipv6,
            protocol: Protocol::ICMPV6,
        };
        let answer = |icmp_type| {
            let inverse = KeyV6::pack(&message(icmp_type), 9).inverse()?;
            let tuple = inverse.tuple();
            // The id stays where it is, and so does the code.
            assert_eq!(
                (tuple.src_key, tuple.icmp_code(), inverse.zone()),
                (77, 3, 9)
            );
            assert_eq!(tuple.src, message(icmp_type).dst);
            Some(tuple.icmp_type())
        };
        let paired: Vec<_> = (0..=255)
            .filter_map(|t| answer(t).map(|a| (t, a)))
            .collect();
        assert_eq!(paired, [(128, 129), (129, 128), (139, 140), (140, 139)]);
    }
}

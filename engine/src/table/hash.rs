//! The keyed hashes of the tables.
//!
//! # Against whom
//! An attacker who knows this code but not the key must not be able to aim tuples at one
//! bucket. He sees no hash values; at best he times packets.
//!
//! | hasher | per IPv4 key | what is known |
//! |---|---|---|
//! | [`Folded`], the default | about 10 instructions, two of them multiplications | its first step is proven, the whole is not |
//! | [`Sip13`] | about 100 instructions | a pseudo-random function, as far as anybody knows |
//!
//! `Folded` multiplies the two words of a key, each with a secret added, into all 128 bits of
//! the product: one step of NH (Black et al., *UMAC: fast and secure message authentication*,
//! 1999). For any two different keys, chosen without knowledge of the secret, the products are
//! equal with a probability of 2^-64 at most: whole hashes cannot be made to collide by knowing the
//! code. NH is not uniform in single bits, and bucket and tag are some bits each; so the halves
//! are multiplied once more with secrets added and folded (high half xor low half), as wyhash
//! and ahash end. That this step spreads well is tested, not proven, and its secrets are made from
//! those of the first.
//!
//! What that leaves: somebody who can measure, packet by packet and over a network, *which* of
//! his own keys share a bucket may learn something about the secret in the end, which
//! SipHash would not give away. Chains are bounded (an insert beyond the bound is refused and
//! counted), so what he could win is refused inserts in the buckets he aims at, never time of
//! others. Who fears that takes a table with [`Sip13`]. It costs some 10 to 20 ns a lookup, and
//! twice that for a connection with two keys. The kernel uses SipHash-2-4 (`hash_conntrack_raw`).
//!
//! An IPv6 key has five words: each further pair, and the odd last word with 0, is xored into both halves
//! of the product before and multiplied again under the same secrets. Two keys collide on the way only if the
//! products of two different beginnings differ by just the xor of what follows: for one product the bound
//! above holds (a difference that is foreseen has a probability of some 2^-64), for the chain nothing is proven; and a sum
//! of products under the same secrets would be worse, as its terms could change places.
//! `tests/hash_of_ipv6.rs` tries the differences that such a chain might let through.
//!
//! The secret must be random: a low-entropy one (tests have them) proves nothing.

use std::fmt;
use std::hash::{BuildHasher, Hasher};

use siphasher::sip::SipHasher13;

use super::key::FlowKey;

/// The secret of a table's hash: 128 bits, drawn by the caller (the engine asks nobody
/// for randomness).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub u64, pub u64);

impl HashKey {
    /// The hash of a key by the default hasher, [`Folded`]: 64 bits, all of them usable.
    #[inline]
    #[must_use]
    pub fn hash<K: FlowKey>(self, key: &K) -> u64 {
        Folded::with_key(self).hash(key)
    }
}

/// The default hash, by its secret alone.
impl KeyHasher for HashKey {
    #[inline]
    fn with_key(key: HashKey) -> HashKey {
        key
    }

    #[inline]
    fn hash<K: FlowKey>(self, key: &K) -> u64 {
        Folded::with_key(self).hash(key)
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

/// A keyed hash of flow keys: what a table takes as its hasher.
pub trait KeyHasher: Copy + fmt::Debug + Send + Sync + 'static {
    /// The hash under this secret.
    fn with_key(key: HashKey) -> Self;
    /// The hash of a key: 64 bits, all of them usable.
    fn hash<K: FlowKey>(self, key: &K) -> u64;
}

/// SipHash-1-3. See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Sip13(HashKey);

impl KeyHasher for Sip13 {
    fn with_key(key: HashKey) -> Sip13 {
        Sip13(key)
    }

    fn hash<K: FlowKey>(self, key: &K) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0.0, self.0.1);
        for word in key.words().as_ref() {
            hasher.write_u64(*word);
        }
        hasher.finish()
    }
}

/// Two keyed multiplications, folded. See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Folded(HashKey);

/// Digits of pi: the secrets of the second step differ from those of the first.
const PI: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];

/// Both halves of the product: low, high.
#[inline]
fn multiply(a: u64, b: u64) -> (u64, u64) {
    let product = u128::from(a) * u128::from(b);
    (product as u64, (product >> 64) as u64)
}

impl Folded {
    /// A step of NH.
    #[inline]
    fn absorb(self, a: u64, b: u64) -> (u64, u64) {
        multiply(a.wrapping_add(self.0.0), b.wrapping_add(self.0.1))
    }

    #[inline]
    fn finish(self, (low, high): (u64, u64)) -> u64 {
        let (low, high) = multiply(
            low.wrapping_add(self.0.1 ^ PI[0]),
            high.wrapping_add(self.0.0 ^ PI[1]),
        );
        low ^ high
    }
}

impl KeyHasher for Folded {
    #[inline]
    fn with_key(key: HashKey) -> Folded {
        Folded(key)
    }

    #[inline]
    fn hash<K: FlowKey>(self, key: &K) -> u64 {
        let words = key.words();
        // A key of more than two words: each further pair goes into the halves of the product so far.
        let state = words.as_ref().chunks(2).fold((0, 0), |(low, high), pair| {
            self.absorb(pair[0] ^ low, pair.get(1).unwrap_or(&0) ^ high)
        });
        self.finish(state)
    }
}

/// [`Folded`] for maps that take a hasher of the standard library. A key must hand its
/// [`FlowKey::words`] to `write_u64`, two or more; its hash is then that of [`HashKey::hash`].
#[derive(Clone, Copy, Debug)]
pub struct FoldedHasher {
    hash: Folded,
    state: (u64, u64),
    /// The first word of a pair.
    first: Option<u64>,
}

impl Hasher for FoldedHasher {
    #[inline]
    fn finish(&self) -> u64 {
        let state = match self.first {
            None => self.state,
            Some(word) => self.hash.absorb(word ^ self.state.0, self.state.1),
        };
        self.hash.finish(state)
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        match self.first.take() {
            None => self.first = Some(word),
            Some(first) => {
                self.state = self.hash.absorb(first ^ self.state.0, word ^ self.state.1);
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
}

impl BuildHasher for Folded {
    type Hasher = FoldedHasher;

    #[inline]
    fn build_hasher(&self) -> FoldedHasher {
        FoldedHasher {
            hash: *self,
            state: (0, 0),
            first: None,
        }
    }
}

/// The bucket of a hash among `buckets`: `(hash >> 32) * buckets >> 32`, the kernel's
/// `reciprocal_scale`, not a remainder.
#[inline]
#[must_use]
pub fn bucket_of(hash: u64, buckets: u32) -> u32 {
    (((hash >> 32) * u64::from(buckets)) >> 32) as u32
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::addr::{Addr, Family};
    use crate::random::WorkerRng;
    use crate::table::key::KeyV4;
    use crate::tuple::{Protocol, Tuple};
    use proptest::prelude::*;

    fn key(src: u32, dst: u32, src_key: u16, dst_key: u16) -> KeyV4 {
        let tuple = Tuple {
            src: Addr::from_u32(src),
            dst: Addr::from_u32(dst),
            src_key,
            dst_key,
            family: Family::Ipv4,
            protocol: Protocol::TCP,
        };
        KeyV4::pack(&tuple, 0)
    }

    proptest! {
        #[test]
        fn a_map_and_a_table_hash_alike(
            secret in any::<(u64, u64)>(), src in any::<u32>(), port in any::<u16>(),
        ) {
            let (secret, key) = (HashKey(secret.0, secret.1), key(src, !src, port, 80));
            let mut hasher = Folded::with_key(secret).build_hasher();
            for word in key.words() {
                hasher.write_u64(word);
            }
            prop_assert_eq!(hasher.finish(), secret.hash(&key));
        }
    }

    /// How far the load of bins is from that of random throws, in standard deviations of chi square.
    fn excess<H: KeyHasher>(
        hash: H,
        keys: &[KeyV4],
        bin: impl Fn(u64) -> usize,
        bins: usize,
    ) -> f64 {
        let mut load = vec![0u32; bins];
        for key in keys {
            load[bin(hash.hash(key))] += 1;
        }
        let mean = keys.len() as f64 / bins as f64;
        let chi: f64 = load
            .iter()
            .map(|&n| (f64::from(n) - mean).powi(2) / mean)
            .sum();
        let free = (bins - 1) as f64;
        (chi - free) / (2.0 * free).sqrt()
    }

    /// Keys as traffic has them: everything regular.
    fn regular_keys() -> Vec<(&'static str, Vec<KeyV4>)> {
        const SERVER: u32 = 0xc633_6401;
        let n = 1 << 16;
        let all = |make: &dyn Fn(u32) -> KeyV4| (0..n).map(make).collect();
        vec![
            ("ports", all(&|i| key(0x0a00_0001, SERVER, i as u16, 443))),
            (
                "even ports",
                all(&|i| key(0x0a00_0001 + (i >> 15), SERVER, (i << 1) as u16, 443)),
            ),
            ("hosts", all(&|i| key(0x0a00_0000 + i, SERVER, 40_000, 443))),
            ("nets", all(&|i| key(i << 16, SERVER, 40_000, 443))),
            ("targets", all(&|i| key(0x0a00_0001, i << 8, 40_000, 443))),
            (
                "scan",
                all(&|i| key(0x0a00_0001, SERVER + (i >> 8), 40_000, (i & 255) as u16)),
            ),
            (
                "both ports",
                all(&|i| key(0x0a00_0001, SERVER, (i & 255) as u16, (i >> 8) as u16)),
            ),
        ]
    }

    #[test]
    fn regular_keys_spread_over_buckets_and_tags_like_random_ones() {
        let mut rng = WorkerRng::new(11, 0);
        for _ in 0..8 {
            let secret = HashKey(rng.next_u64(), rng.next_u64());
            for (name, keys) in regular_keys() {
                let hash = Folded::with_key(secret);
                for bins in [4096, 10_007] {
                    let far = excess(hash, &keys, |h| bucket_of(h, bins as u32) as usize, bins);
                    assert!(far.abs() < 6.0, "{name} over {bins} buckets: {far}");
                }
                let far = excess(hash, &keys, |h| h as usize & 0xfff, 4096);
                assert!(far.abs() < 6.0, "{name} over tags: {far}");
            }
        }
    }

    #[test]
    fn every_bit_of_a_key_changes_about_half_of_the_hash() {
        let mut rng = WorkerRng::new(12, 0);
        for bit in 0..96 {
            let mut changed = 0;
            for _ in 0..256 {
                let secret = HashKey(rng.next_u64(), rng.next_u64());
                let (a, b, ports) = (rng.next_u32(), rng.next_u32(), rng.next_u32());
                let flip = |at: u32| {
                    if bit / 32 == at {
                        1u32 << (bit % 32)
                    } else {
                        0
                    }
                };
                let with = |a: u32, b: u32, p: u32| key(a, b, (p >> 16) as u16, p as u16);
                let other = with(a ^ flip(0), b ^ flip(1), ports ^ flip(2));
                changed += (secret.hash(&with(a, b, ports)) ^ secret.hash(&other)).count_ones();
            }
            let mean = f64::from(changed) / 256.0;
            assert!(
                (mean - 32.0).abs() < 2.5,
                "bit {bit}: {mean} of 64 on average"
            );
        }
    }
}

//! The keyed hash of the tables.
//!
//! An attacker who knows this code but not the key must not be able to aim tuples at
//! one bucket. SipHash-1-3 is a pseudo-random function made for exactly that; the kernel
//! uses the slower SipHash-2-4 (`hash_conntrack_raw`) for the same reason.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::key::FlowKey;

/// The secret of a table's hash: 128 bits, drawn by the caller (the engine asks nobody
/// for randomness).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub u64, pub u64);

impl HashKey {
    /// The hash of a key: 64 bits, all of them usable.
    #[must_use]
    pub fn hash<K: FlowKey>(self, key: &K) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        for word in key.words().as_ref() {
            hasher.write_u64(*word);
        }
        hasher.finish()
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

/// The bucket of a hash among `buckets`: `(hash >> 32) * buckets >> 32`, the kernel's
/// `reciprocal_scale`, not a remainder.
#[must_use]
pub fn bucket_of(hash: u64, buckets: u32) -> u32 {
    (((hash >> 32) * u64::from(buckets)) >> 32) as u32
}

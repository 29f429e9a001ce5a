//! Which translated source a client's socket already has: connections by their *original* source.
//!
//! A client's port that was translated once is translated to the same port again where it
//! can be, so that peers behind NAT find each other. Connections are linked here when their
//! source NAT is decided, confirmed or not, and stay until they are freed.
//!
//! # Memory
//! ```text
//! stripes ─▶ Mutex ─▶ buckets ─▶ Vec<Link>        the most recent link is the last
//! Link { hash 32, entry number and life 64 }      keys stay in the slab's entry
//! ```
//! # Progress
//! Blocking, for the walk of one bucket: a bucket's stripe is locked while it is changed or walked.
//!
//! What is found is a hint: an entry may be freed, and even live again, between its last
//! packet and [`BySource::unlink`]. Callers check the entry's life, and test the tuple that
//! they make of it as they test any other.
//!
//! Source: `nf_nat_bysource`, `hash_by_src`, `find_appropriate_src` (nf_nat_core.c).

use std::sync::{MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;

use crate::addr::Addr;
use crate::sync::unchecked::Mutex;
use crate::table::hash::{HashKey, bucket_of};
use crate::table::key::FlowKey;
use crate::table::slab::EntryId;
use crate::tuple::Tuple;

/// Buckets at least, as in the kernel; never fewer than the table has, up to [`BUCKETS_MAX`].
const BUCKETS_MIN: usize = 1024;
/// Buckets at most (ours: 24 MiB of heads; beyond, chains grow longer).
const BUCKETS_MAX: usize = 1 << 20;
/// Locks (`CONNTRACK_LOCKS`).
const STRIPES: usize = 1024;
const _: () = assert!(BUCKETS_MIN >= STRIPES, "every stripe has a bucket");

#[derive(Clone, Copy, Debug)]
struct Link {
    /// Upper half of the source's hash: spares a look at entries of other sources.
    hash: u32,
    id: EntryId,
}

type Bucket = Vec<Link>;
/// Every 1024th bucket, under one lock.
type Stripe = CachePadded<Mutex<Box<[Bucket]>>>;

/// Connections by original source. See the [module](self).
#[derive(Debug)]
pub struct BySource {
    stripes: Box<[Stripe]>,
    buckets: u32,
    hash_key: HashKey,
}

impl BySource {
    /// An empty one for a table of `buckets` buckets.
    #[must_use]
    pub fn new(buckets: usize, hash_key: HashKey) -> BySource {
        let per_stripe = buckets.clamp(BUCKETS_MIN, BUCKETS_MAX).div_ceil(STRIPES);
        BySource {
            stripes: (0..STRIPES)
                .map(|_| CachePadded::new(Mutex::new(vec![Bucket::new(); per_stripe].into())))
                .collect(),
            buckets: (STRIPES * per_stripe) as u32,
            hash_key,
        }
    }

    /// Links a connection, before all others of its source.
    pub fn link<K: FlowKey>(&self, original: &K, reply: &K, id: EntryId) {
        let hash = self.hash(original, reply);
        self.with_bucket(hash, |bucket| {
            bucket.push(Link {
                hash: tag(hash),
                id,
            });
        });
    }

    /// Takes a connection's link away, if it is there. The keys are those it was linked with.
    pub fn unlink<K: FlowKey>(&self, original: &K, reply: &K, id: EntryId) {
        self.with_bucket(self.hash(original, reply), |bucket| {
            // From the end: short-lived connections are the most recent ones.
            if let Some(at) = bucket.iter().rposition(|link| link.id == id) {
                bucket.remove(at);
            }
        });
    }

    /// What `examine` makes of the first connection, the most recent first, that it makes
    /// anything of. It is asked about connections of the keys' source, and, rarely, others.
    pub fn find<K: FlowKey, R>(
        &self,
        original: &K,
        reply: &K,
        mut examine: impl FnMut(EntryId) -> Option<R>,
    ) -> Option<R> {
        let hash = self.hash(original, reply);
        self.with_bucket(hash, |bucket| {
            bucket
                .iter()
                .rev()
                .filter(|link| link.hash == tag(hash))
                .find_map(|link| examine(link.id))
        })
    }

    /// Hashes source address, source key and protocol; the zone only where both directions are in it.
    fn hash<K: FlowKey>(&self, original: &K, reply: &K) -> u64 {
        let zone = if original.zone() == reply.zone() {
            original.zone()
        } else {
            0
        };
        let source = Tuple {
            dst: Addr::UNSPECIFIED,
            dst_key: 0,
            ..original.tuple()
        };
        self.hash_key.hash(&K::pack(&source, zone))
    }

    fn with_bucket<R>(&self, hash: u64, work: impl FnOnce(&mut Bucket) -> R) -> R {
        let bucket = bucket_of(hash, self.buckets) as usize;
        let mut stripe: MutexGuard<'_, _> = self.stripes[bucket % STRIPES]
            .lock()
            // A bucket is whole at any moment: pushing and removing a link do not panic half-way.
            .unwrap_or_else(PoisonError::into_inner);
        work(&mut stripe[bucket / STRIPES])
    }
}

/// The half of a hash that does not choose the bucket.
fn tag(hash: u64) -> u32 {
    hash as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Family;
    use crate::table::key::KeyV4;
    use crate::tuple::Protocol;

    fn key(src_key: u16, dst: u32, zone: u16) -> KeyV4 {
        let tuple = Tuple {
            src: Addr::from_u32(1),
            dst: Addr::from_u32(dst),
            src_key,
            dst_key: 80,
            family: Family::Ipv4,
            protocol: Protocol::TCP,
        };
        KeyV4::pack(&tuple, zone)
    }

    fn id(index: u32) -> EntryId {
        EntryId::new(index, 1)
    }

    fn linked(by_source: &BySource, original: &KeyV4, reply: &KeyV4) -> Vec<u32> {
        let mut ids = Vec::new();
        by_source.find(original, reply, |id| {
            ids.push(id.index());
            None::<()>
        });
        ids
    }

    #[test]
    fn connections_of_one_source_are_found_most_recent_first_whatever_their_destination() {
        let by_source = BySource::new(1, HashKey(1, 2));
        let any = key(0, 0, 0);
        for (index, dst) in [(1, 100), (2, 200), (3, 300)] {
            by_source.link(&key(70, dst, 0), &any, id(index));
        }
        by_source.link(&key(71, 100, 0), &any, id(4));
        assert_eq!(linked(&by_source, &key(70, 999, 0), &any), [3, 2, 1]);
        assert_eq!(
            by_source.find(&key(70, 1, 0), &any, |id| Some(id.index())),
            Some(3)
        );
    }

    #[test]
    fn an_unlinked_connection_is_gone_and_unlinking_twice_is_harmless() {
        let by_source = BySource::new(1 << 40, HashKey(1, 2));
        let any = key(0, 0, 0);
        by_source.link(&key(70, 1, 0), &any, id(1));
        by_source.link(&key(70, 2, 0), &any, id(2));
        for _ in 0..2 {
            by_source.unlink(&key(70, 1, 0), &any, id(1));
            assert_eq!(linked(&by_source, &key(70, 1, 0), &any), [2]);
        }
    }

    #[test]
    fn a_zone_parts_sources_only_where_it_holds_for_both_directions() {
        let by_source = BySource::new(1, HashKey(1, 2));
        by_source.link(&key(70, 1, 5), &key(0, 0, 5), id(1));
        by_source.link(&key(70, 1, 5), &key(0, 0, 0), id(2));
        assert_eq!(linked(&by_source, &key(70, 1, 5), &key(0, 0, 5)), [1]);
        assert_eq!(linked(&by_source, &key(70, 1, 0), &key(0, 0, 0)), [2]);
    }
}

//! The hints of [`crate::table::prefetch`], as the table uses them, and what it asks for ahead of inserts and removals.

pub use crate::table::prefetch::Hint;
pub(super) use crate::table::prefetch::{prefetch, prefetch_at};

use super::LockfreeTable;
use super::bucket::Geometry;
use super::scan::BATCH;
use super::word::{Link, State};
use crate::sync::Ordering;
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;
use crate::table::slab::EntryId;
use crate::tuple::Direction;

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    fn prefetch_links(&self, hint: Hint, buckets: &[u32]) {
        for &bucket in buckets {
            prefetch(hint, &self.index.ext[bucket as usize]);
        }
    }

    fn prefetch_overflow(&self, hint: Hint, buckets: &[u32]) {
        for &bucket in buckets {
            // Relaxed: only to know which line to ask for.
            let link = Link(self.index.ext[bucket as usize].load(Ordering::Relaxed));
            if let Some(number) = link.bucket() {
                prefetch(hint, self.index.overflow.bucket(number));
            }
        }
    }

    /// [`FlowTable::prepare_confirm`](crate::table::FlowTable::prepare_confirm).
    pub(super) fn prefetch_confirms(&self, ids: &[EntryId]) {
        for ids in ids.chunks(BATCH / 2) {
            self.prefetch_chains_if(ids, |_| true);
        }
    }

    /// [`FlowTable::prepare_remove`](crate::table::FlowTable::prepare_remove), pinned.
    pub(super) fn prefetch_removals(&self, ids: &[EntryId]) {
        for ids in ids.chunks(BATCH / 2) {
            for &id in ids {
                prefetch(self.write_hint, self.slab.entry(id));
            }
            self.prefetch_chains_if(ids, |id| {
                // Acquire, P1: the keys of a life that is confirmed (I7).
                let state = State(self.state_word(id).load(Ordering::Acquire));
                state.is_confirmed() && state.generation() == id.generation()
            });
        }
    }

    /// Asks for the chains of entries, to change them: for all heads, then for the links and
    /// the overflow buckets of those that have any. At most `BATCH / 2` entries.
    fn prefetch_chains_if(&self, ids: &[EntryId], is_readable: impl Fn(EntryId) -> bool) {
        let mut buckets = [0; BATCH];
        let mut count = 0;
        for &id in ids.iter().filter(|id| is_readable(**id)) {
            let entry = self.slab.entry(id);
            for direction in [Direction::Original, Direction::Reply] {
                let bucket = self.probe(&entry.key(direction)).bucket();
                prefetch(self.write_hint, self.index.chain(bucket).head());
                buckets[count] = bucket;
                count += 1;
            }
        }
        // One or two: reading a header now would wait for it, and confirm reads it soon enough.
        const FEW: usize = 4;
        if ids.len() < FEW {
            return;
        }
        let goes_on = |bucket: &u32| self.index.chain(*bucket).header().overflow() > 0;
        let mut long = 0;
        for at in 0..count {
            let bucket = buckets[at];
            buckets[long] = bucket;
            long += usize::from(goes_on(&bucket));
        }
        let long = &buckets[..long];
        self.prefetch_links(self.hint, long);
        self.prefetch_overflow(self.write_hint, long);
    }
}

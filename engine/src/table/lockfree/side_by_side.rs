//! Lookup of many keys, side by side.
//!
//! ```text
//! hash a group, ask for its heads | the next group ...        canonical forms by vectors
//! look through the heads, ask for the entries                  chains that go on: for their links, then
//! look at the entries                                          for the buckets, then for those entries
//! ```
//! Each line is asked for one pass before it is read. The order of the loads of one key is that
//! of a lookup alone (`lookup`): head, header, link, overflow bucket, entry. What the
//! passes are not made for is looked up alone at the end.

use std::ops::Range;

use super::LockfreeTable;
use super::bucket::{Bucket, Geometry};
use super::canonical::Place;
use super::lookup::{check_entry, entry_at, head_at};
use super::prefetch::{Hint, prefetch};
use super::scan::{BATCH, GROUP, Matcher, Work};
use super::word::{Header, Link, Slot};
use super::worker::LockfreeWorker;
use crate::status::Status;
use crate::sync::Ordering;
use crate::table::Hit;
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;
use crate::table::slab::Entry;
use crate::time::Nanos;

impl<K: FlowKey, G: Geometry, H: KeyHasher> LockfreeTable<K, G, H> {
    /// Many keys at once, pinned: all are hashed, then all buckets read, then all entries, each asked
    /// for a pass ahead.
    pub(super) fn find_batch<W: Wish<K>>(
        &self,
        worker: &mut LockfreeWorker,
        keys: &[K],
        now: Nanos,
        found: &mut [Option<W>],
    ) {
        let table = self;
        self.isa.run(FindBatch {
            table,
            worker,
            keys,
            now,
            found,
        });
    }

    /// A copy of the code for each hint: no prefetch asks which one it is.
    #[inline(always)]
    fn find_batch_by<S: Matcher, W: Wish<K>>(
        &self,
        worker: &mut LockfreeWorker,
        keys: &[K],
        now: Nanos,
        found: &mut [Option<W>],
    ) {
        const T0: u8 = Hint::T0 as u8;
        const T1: u8 = Hint::T1 as u8;
        const NTA: u8 = Hint::Nta as u8;
        const WRITE: u8 = Hint::Write as u8;
        const NONE: u8 = Hint::None as u8;
        for (keys, found) in keys.chunks(BATCH).zip(found.chunks_mut(BATCH)) {
            match self.hint {
                Hint::T0 => self.find_side_by_side::<S, W, T0>(worker, keys, now, found),
                Hint::T1 => self.find_side_by_side::<S, W, T1>(worker, keys, now, found),
                Hint::Nta => self.find_side_by_side::<S, W, NTA>(worker, keys, now, found),
                Hint::Write => self.find_side_by_side::<S, W, WRITE>(worker, keys, now, found),
                Hint::None => self.find_side_by_side::<S, W, NONE>(worker, keys, now, found),
            }
        }
    }

    /// At most [`BATCH`] keys.
    #[inline(always)]
    fn find_side_by_side<S: Matcher, W: Wish<K>, const HINT: u8>(
        &self,
        worker: &mut LockfreeWorker,
        keys: &[K],
        now: Nanos,
        found: &mut [Option<W>],
    ) {
        let hint = const { Hint::ALL[HINT as usize] };
        // Indices below `count`, so that nothing is checked twice; what is loaded with acquire forbids
        // the compiler to keep addresses at hand, so they are fetched here.
        let count = keys.len().min(found.len()).min(BATCH);
        let (keys, found) = (&keys[..count], &mut found[..count]);
        let (all_heads, all_entries): (&[Bucket], &[Entry<K>]) =
            (&self.index.heads, self.slab.entries());
        let (hasher, buckets) = self.hashing();
        let mut heads = [head_at(all_heads, 0); BATCH];
        let mut hashes = [0; BATCH];
        // In groups: the first lines are under way while the next keys are hashed.
        let mut canonical = [keys[0]; GROUP];
        let groups = hashes.chunks_mut(GROUP).zip(heads.chunks_mut(GROUP));
        for ((hashes, heads), keys) in groups.zip(keys.chunks(GROUP)) {
            S::canonical(keys, &mut canonical);
            let places = hashes[..keys.len()]
                .iter_mut()
                .zip(&mut heads[..keys.len()]);
            for ((hash, head), key) in places.zip(&canonical[..keys.len()]) {
                *hash = hasher.hash(key);
                *head = head_at(all_heads, Place::bucket(*hash, buckets));
                prefetch(hint, *head);
            }
        }
        let mut flight = Flight {
            keys,
            hashes,
            entries: [&all_entries[0]; BATCH],
            slots: [Slot::EMPTY; BATCH],
        };
        // Chains that go on, and keys for which the passes were not made.
        let (mut beyond, mut others) = (Marked::default(), Marked::default());
        let mut asked = 0;
        for first in (0..count).step_by(GROUP) {
            #[expect(
                clippy::needless_range_loop,
                reason = "iterators cost ten instructions a key here"
            )]
            for i in first..count.min(first + GROUP) {
                let head = heads[i];
                let candidates = S::candidates(head, flight.hashes[i], G::HEAD_SLOTS);
                if candidates.is_empty() {
                    // Acquire and after the scan, as in `find`.
                    if Header(head.word.load(Ordering::Acquire)).overflow() > 0 {
                        beyond.add(i);
                        let bucket = Place::bucket(flight.hashes[i], buckets);
                        prefetch(hint, &self.index.ext[bucket as usize]);
                    }
                    continue;
                }
                let slot = candidates.first(head);
                if slot.is_free() {
                    // Free since it was compared, or always, and the tag is 0.
                    others.add(i);
                    continue;
                }
                let entry = entry_at(all_entries, slot);
                prefetch(hint, entry);
                (flight.entries[i], flight.slots[i]) = (entry, slot);
            }
            // What lies beyond is gone after step by step, each two groups after the one before.
            if first >= 2 * GROUP {
                self.ask_for_overflow(&flight, beyond.among(asked..asked + GROUP));
                asked += GROUP;
            }
        }
        let half = count / 2;
        let (early, late) = (beyond.among(0..asked), beyond.among(asked..BATCH));
        let mut held = settle::<S, K, W>(&flight, 0..half, now, found, &mut others);
        self.ask_for_overflow(&flight, late);
        let mut last = self.look_beyond::<S>(&mut flight, early, &mut others);
        held += settle::<S, K, W>(&flight, half..count, now, found, &mut others);
        last.add_all(self.look_beyond::<S>(&mut flight, late, &mut others));
        for i in last.iter() {
            held += settle::<S, K, W>(&flight, i..i + 1, now, found, &mut others);
        }
        S::leave();
        if W::HOLDS {
            worker.hold_many(held);
        }
        if !others.is_empty() {
            self.find_others::<W>(worker, keys, now, found, others);
        }
    }

    /// Keys that the passes were not made for.
    #[cold]
    #[inline(never)]
    fn find_others<W: Wish<K>>(
        &self,
        worker: &mut LockfreeWorker,
        keys: &[K],
        now: Nanos,
        found: &mut [Option<W>],
        others: Marked,
    ) {
        for i in others.iter() {
            let hit = self.find_and_reap(worker, &keys[i], &self.probe(&keys[i]), now);
            found[i] = hit.map(|hit| {
                if W::HOLDS {
                    worker.hold();
                }
                W::of(self.slab.entry(hit.id), hit)
            });
        }
    }

    /// Asks for the first overflow buckets of chains whose links were asked for.
    #[inline(always)]
    fn ask_for_overflow(&self, flight: &Flight<'_, K>, beyond: Marked) {
        if !beyond.is_empty() {
            self.ask_for_some_overflow(&flight.hashes, beyond);
        }
    }

    #[cold]
    #[inline(never)]
    fn ask_for_some_overflow(&self, hashes: &[u64; BATCH], beyond: Marked) {
        for i in beyond.iter() {
            let bucket = Place::bucket(hashes[i], self.hashing().1);
            // Relaxed: only to know which line to ask for.
            let link = Link(self.index.ext[bucket as usize].load(Ordering::Relaxed));
            if let Some(number) = link.bucket() {
                prefetch(self.hint, self.index.overflow.bucket(number));
            }
        }
    }

    /// Looks into those buckets and asks for the entries that they lead to: the keys that are returned.
    /// Where there are more buckets, the key is added to `others`; the rest is missed.
    #[inline(always)]
    fn look_beyond<'t, S: Matcher>(
        &'t self,
        flight: &mut Flight<'t, K>,
        beyond: Marked,
        others: &mut Marked,
    ) -> Marked {
        if beyond.is_empty() {
            return beyond;
        }
        let (found, more) = self.look_beyond_some::<S>(flight, beyond);
        others.add_all(more);
        found
    }

    #[cold]
    #[inline(never)]
    fn look_beyond_some<'t, S: Matcher>(
        &'t self,
        flight: &mut Flight<'t, K>,
        beyond: Marked,
    ) -> (Marked, Marked) {
        let (mut found, mut more) = (Marked::default(), Marked::default());
        for i in beyond.iter() {
            let hash = flight.hashes[i];
            let chain = self.index.chain(Place::bucket(hash, self.hashing().1));
            // The order of `find`: the head was looked through, then the header, the link, the bucket.
            let overflow = chain.header().overflow();
            let links = chain.walk(overflow.min(1));
            let Some((bucket, _, used)) = chain.buckets(links).nth(1) else {
                continue;
            };
            if let Some(slot) = S::candidates(bucket, hash, used).slots(bucket).next() {
                let entry = self.slab.at(slot.index());
                prefetch(self.hint, entry);
                (flight.entries[i], flight.slots[i]) = (entry, slot);
                found.add(i);
            } else if overflow > 1 {
                more.add(i);
            }
        }
        (found, more)
    }
}

/// [`LockfreeTable::find_batch`] as a piece of work.
struct FindBatch<'a, K: FlowKey, G: Geometry, H: KeyHasher, W> {
    table: &'a LockfreeTable<K, G, H>,
    worker: &'a mut LockfreeWorker,
    keys: &'a [K],
    now: Nanos,
    found: &'a mut [Option<W>],
}

impl<K: FlowKey, G: Geometry, H: KeyHasher, W: Wish<K>> Work for FindBatch<'_, K, G, H, W> {
    type Outcome = ();

    #[inline(always)]
    fn by<S: Matcher>(self) {
        self.table
            .find_batch_by::<S, W>(self.worker, self.keys, self.now, self.found);
    }
}

/// A batch between two passes.
#[derive(Debug)]
struct Flight<'t, K: FlowKey> {
    keys: &'t [K],
    hashes: [u64; BATCH],
    entries: [&'t Entry<K>; BATCH],
    /// EMPTY where nothing matches, or nothing yet.
    slots: [Slot; BATCH],
}

/// The last pass of a batch over `part` of it: what the entries say. Returns how many are found; what
/// needs a closer look is added to `others`.
#[inline(always)]
fn settle<S: Matcher, K: FlowKey, W: Wish<K>>(
    flight: &Flight<'_, K>,
    part: Range<usize>,
    now: Nanos,
    found: &mut [Option<W>],
    others: &mut Marked,
) -> u32 {
    let (first, many) = (part.start, part.len());
    // Of one length, so that nothing is checked for each key.
    let keys = &flight.keys[first..][..many];
    let entries = &flight.entries[first..][..many];
    let slots = &flight.slots[first..][..many];
    let found = &mut found[first..][..many];
    let mut count = 0;
    for i in 0..many {
        found[i] = if slots[i] == Slot::EMPTY {
            None
        } else if let Some(hit) = check_entry::<S, K>(entries[i], slots[i], &keys[i], now) {
            count += 1;
            Some(W::of(entries[i], hit))
        } else {
            // Another slot has it, or it is to be removed.
            others.add(first + i);
            None
        };
    }
    count
}

/// What a lookup of many keys is to bring.
pub(super) trait Wish<K: FlowKey>: Sized {
    /// The connection stays the same life until it is given back.
    const HOLDS: bool;
    /// Takes it from a hit and its entry.
    fn of(entry: &Entry<K>, hit: Hit) -> Self;
}

impl<K: FlowKey> Wish<K> for Hit {
    const HOLDS: bool = true;

    #[inline(always)]
    fn of(_: &Entry<K>, hit: Hit) -> Hit {
        hit
    }
}

impl<K: FlowKey> Wish<K> for Status {
    const HOLDS: bool = false;

    #[inline(always)]
    fn of(entry: &Entry<K>, _: Hit) -> Status {
        entry.status()
    }
}

/// Some of a batch's keys: a bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Marked(u64);

const _: () = assert!(BATCH <= u64::BITS as usize);

impl Marked {
    #[inline(always)]
    fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    fn add(&mut self, key: usize) {
        seldom();
        self.0 |= 1 << key;
    }

    #[inline(always)]
    fn add_all(&mut self, others: Marked) {
        self.0 |= others.0;
    }

    /// Those in a range that ends at 64 at most.
    #[inline(always)]
    fn among(self, keys: Range<usize>) -> Marked {
        let below = |key: usize| 1u64.checked_shl(key as u32).unwrap_or(0).wrapping_sub(1);
        Marked(self.0 & below(keys.end) & !below(keys.start))
    }

    fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let key = left.trailing_zeros() as usize;
            left &= left.checked_sub(1)?;
            Some(key)
        })
    }
}

/// The compiler lays out code for what does not come here.
#[cold]
#[inline(always)]
fn seldom() {}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::super::bucket::Wide;
    use super::super::tests::key;
    use super::super::{Isa, Layout};
    use super::*;
    use crate::clash::KernelClashPolicy;
    use crate::table::hash::{HashKey, Sip13};
    use crate::table::key::KeyV4;
    use crate::table::{Confirmed, FlowTable};
    use crate::tuple::Direction;

    #[test]
    fn every_hint_and_instruction_set_finds_the_same_also_under_siphash() {
        // Long chains: 100 connections, 10 heads.
        let layout = Layout {
            entries_max: 128,
            slack: 128,
            heads: 10,
            overflow: 40,
        };
        let mut table =
            LockfreeTable::<KeyV4, Wide, Sip13>::with_layout(layout, HashKey(1, 2), false);
        let mut worker = table.worker();
        let ids: Vec<_> = (0..100)
            .map(|n| {
                let id = table.allocate(&mut worker).unwrap();
                table
                    .slab()
                    .entry(id)
                    .set_keys(key(n, 200, 0), key(200, n, 0));
                table.slab().entry(id).set_deadline(1000);
                let confirmed = table.confirm(&mut worker, id, 0, 0, &mut KernelClashPolicy);
                assert_eq!(confirmed, Confirmed::Inserted);
                table.release(&mut worker, id);
                id
            })
            .collect();
        let keys: Vec<_> = (0..=255).map(|n| key(200, n, 0)).collect();
        for isa in Isa::ALL {
            for hint in Hint::ALL {
                table.set_isa(isa);
                table.set_prefetch(hint, hint);
                let mut hits = [None; 256];
                table.lookup_batch(&mut worker, &keys, 1, &mut hits);
                for (n, (hit, key)) in hits.iter().zip(&keys).enumerate() {
                    let id = ids.get(n).copied();
                    assert_eq!(hit.map(|hit| hit.id), id, "{isa:?} {hint:?} key {n}");
                    let alone = table.lookup(&mut worker, key, 1);
                    assert_eq!(alone, *hit);
                    for hit in [*hit, alone].into_iter().flatten() {
                        assert_eq!(hit.direction, Direction::Reply);
                        table.release(&mut worker, hit.id);
                    }
                }
            }
        }
    }
}

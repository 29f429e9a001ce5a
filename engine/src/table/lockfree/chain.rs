//! One chain: its header, its links, and the changes that everybody makes to it alike.

use super::bucket::{Bucket, Geometry, Index, LINKS_MAX, overflow_needed};
use super::scan::bits;
use super::word::{Header, Link, Pattern, Slot};
use super::worker::LockfreeWorker;
use crate::sync::{AtomicU64, Ordering};
use crate::table::HitLines;

/// The chain of a head bucket.
#[derive(Debug)]
pub(super) struct Chain<'i, G> {
    index: &'i Index<G>,
    /// Two words in all: a chain goes from hand to hand in registers.
    head: &'i Bucket,
}

impl<G> Clone for Chain<'_, G> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<G> Copy for Chain<'_, G> {}

/// The linked words of a chain under one header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    words: [Link; LINKS_MAX],
    count: usize,
}

impl Links {
    /// Of a chain that is its head alone.
    const NONE: Links = Links {
        words: [Link::FRESH; LINKS_MAX],
        count: 0,
    };

    /// Positions of the chain.
    pub(super) fn positions<G: Geometry>(&self) -> usize {
        G::HEAD_SLOTS + self.count * G::OVERFLOW_SLOTS
    }

    /// Linked buckets.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    #[inline]
    fn bucket(&self, depth: usize) -> u32 {
        self.words[depth]
            .bucket()
            .expect("a linked word holds a bucket (I8)")
    }
}

/// Where a position is: a bucket and a slot of it. A position alone does not say it, for
/// what is unlinked and linked again may be another bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Home {
    overflow: Option<u32>,
    slot: usize,
}

/// A slot that was claimed and is not official yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) position: usize,
    pub(super) home: Home,
}

/// A bucket that was put into a link word and is not linked yet, by whoever answers for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proposal<'i> {
    word: &'i AtomicU64,
    depth: usize,
    value: Link,
}

/// What became of an attempt to lengthen a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lengthened {
    /// By us or by somebody else, or the header changed: the chain must be looked at anew.
    LookAgain,
    /// There is no overflow bucket.
    NoBucket,
}

/// A change of a header.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change {
    /// Positions that become official.
    pub(super) set: u32,
    /// Positions that cease to be.
    pub(super) clear: u32,
    /// Take out the trailing overflow buckets that hold nothing official.
    pub(super) trim: bool,
}

impl<G: Geometry> Index<G> {
    #[inline]
    pub(super) fn chain(&self, bucket: u32) -> Chain<'_, G> {
        Chain {
            index: self,
            head: &self.heads[bucket as usize],
        }
    }
}

impl<'i, G: Geometry> Chain<'i, G> {
    #[inline]
    pub(super) fn head(self) -> &'i Bucket {
        self.head
    }

    /// Which head bucket it is.
    fn number(self) -> usize {
        let bytes = std::ptr::from_ref(self.head).addr() - self.index.heads.as_ptr().addr();
        bytes / size_of::<Bucket>()
    }

    #[inline]
    pub(super) fn header(self) -> Header {
        // Acquire, P3: official words, link words and decisions behind this header.
        Header(self.head().word.load(Ordering::Acquire))
    }

    /// The link word of a depth, given the ones above it.
    fn link_word(self, links: &Links, depth: usize) -> &'i AtomicU64 {
        match depth.checked_sub(1) {
            None => &self.index.ext[self.number()],
            Some(above) => &self.index.overflow.bucket(links.bucket(above)).word,
        }
    }

    /// Follows the links, at most `count`; ends where a bucket has gone.
    #[inline(never)]
    pub(super) fn walk(self, count: usize) -> Links {
        let mut links = Links::NONE;
        while links.count < count {
            // Acquire, P4: the bucket is empty, or what was put into it since.
            let link = Link(self.link_word(&links, links.count).load(Ordering::Acquire));
            if link.bucket().is_none() {
                break;
            }
            links.words[links.count] = link;
            links.count += 1;
        }
        links
    }

    /// The links under `h`, loaded after it. `None`: `h` does not stand any more.
    #[inline]
    pub(super) fn links(self, h: Header) -> Option<Links> {
        if h.overflow() == 0 {
            return Some(Links::NONE);
        }
        let links = self.walk(h.overflow());
        (links.count == h.overflow()).then_some(links)
    }

    /// The linked overflow buckets.
    #[cfg(test)]
    pub(super) fn overflow_numbers(self, links: &Links) -> Vec<u32> {
        (0..links.count).map(|depth| links.bucket(depth)).collect()
    }

    /// One of its buckets, of which there are one more than links, the head first: bucket, its first
    /// position, slots used.
    #[inline]
    pub(super) fn nth_bucket(self, links: &Links, at: usize) -> (&'i Bucket, usize, usize) {
        match at.checked_sub(1) {
            None => (self.head(), 0, G::HEAD_SLOTS),
            Some(depth) => (
                self.index.overflow.bucket(links.bucket(depth)),
                G::HEAD_SLOTS + depth * G::OVERFLOW_SLOTS,
                G::OVERFLOW_SLOTS,
            ),
        }
    }

    /// The buckets of the chain: bucket, its first position, slots used.
    pub(super) fn buckets(self, links: Links) -> impl Iterator<Item = (&'i Bucket, usize, usize)> {
        let overflow = (0..links.count).map(move |depth| {
            (
                self.index.overflow.bucket(links.bucket(depth)),
                G::HEAD_SLOTS + depth * G::OVERFLOW_SLOTS,
                G::OVERFLOW_SLOTS,
            )
        });
        std::iter::once((self.head(), 0, G::HEAD_SLOTS)).chain(overflow)
    }

    /// Counts, for each key that an official slot stands for, whether a lookup of it reads the
    /// head bucket and that slot's entry alone: it is the first slot there that has its tag.
    pub(super) fn count_hit_lines(self, lines: &mut HitLines) {
        let h = self.header();
        let Some(links) = self.links(h) else {
            return;
        };
        for (bucket, first, used) in self.buckets(links) {
            for at in bits(h.valid() >> first).take_while(|at| *at < used) {
                // Acquire, P2: as in a scan.
                let slot = Slot(bucket.slots[at].load(Ordering::Acquire));
                let alike = Pattern::alike(slot);
                let before = &bucket.slots[..at];
                // Acquire, P2.
                let hides = |word: &AtomicU64| alike.matches(Slot(word.load(Ordering::Acquire)));
                let is_first = first == 0 && !before.iter().any(hides);
                let keys = slot.key_count();
                lines.keys += keys;
                lines.in_two += if is_first { keys } else { 0 };
            }
        }
    }

    /// Where a position is under these links; `None` if it is not in the chain.
    #[inline]
    pub(super) fn home(self, links: &Links, position: usize) -> Option<Home> {
        if position < G::HEAD_SLOTS {
            return Some(Home {
                overflow: None,
                slot: position,
            });
        }
        Chain::<G>::home_beyond(*links, position - G::HEAD_SLOTS)
    }

    /// Links by value, here and where else they are followed: a copy for the few chains that go on keeps
    /// them in registers for the others.
    #[inline(never)]
    fn home_beyond(links: Links, beyond: usize) -> Option<Home> {
        let depth = beyond / G::OVERFLOW_SLOTS;
        (depth < links.count).then(|| Home {
            overflow: Some(links.bucket(depth)),
            slot: beyond % G::OVERFLOW_SLOTS,
        })
    }

    #[inline]
    pub(super) fn slot(self, home: Home) -> &'i AtomicU64 {
        match home.overflow {
            None => &self.head().slots[home.slot],
            Some(number) => &self.index.overflow.bucket(number).slots[home.slot],
        }
    }

    /// Claims the first free position below `limit` that is not official under `h`.
    #[inline]
    pub(super) fn claim(self, h: Header, links: &Links, limit: usize, mine: Slot) -> Option<Claim> {
        let positions = links.positions::<G>().min(limit);
        bits(!h.valid() & ((1 << positions) - 1)).find_map(|position| {
            let home = self.home(links, position)?;
            self.claim_home(Claim { position, home }, mine)
        })
    }

    /// [`Chain::claim`] in a chain that is its head alone under `h`.
    #[inline(always)]
    pub(super) fn claim_at_head(self, h: Header, limit: usize, mine: Slot) -> Option<Claim> {
        let positions = G::HEAD_SLOTS.min(limit);
        bits(!h.valid() & ((1 << positions) - 1)).find_map(|position| {
            let home = Home {
                overflow: None,
                slot: position,
            };
            self.claim_home(Claim { position, home }, mine)
        })
    }

    /// The claim, if its slot is empty.
    #[inline(always)]
    fn claim_home(self, claim: Claim, mine: Slot) -> Option<Claim> {
        let word = self.slot(claim.home);
        // Relaxed: only a look; the CAS decides.
        if Slot(word.load(Ordering::Relaxed)) != Slot::EMPTY {
            return None;
        }
        // AcqRel, P2 and P5: takes over the header of whoever emptied it, and hands the
        // entry's body on to whoever reads the word. Failure relaxed: the next one is tried.
        word.compare_exchange(Slot::EMPTY.0, mine.0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
            .then_some(claim)
    }

    /// Makes a claimed slot official under the successor of `h`, all else as it was; true if `h` still stood. [`Chain::change`] of one bit.
    #[inline(always)]
    pub(super) fn make_official(self, h: Header, claim: Claim) -> bool {
        self.move_header(h, h.valid() | 1 << claim.position, h.overflow())
    }

    /// Replaces the header `h`; true if it still stood.
    #[inline(always)]
    fn move_header(self, h: Header, valid: u32, overflow: usize) -> bool {
        // AcqRel, P3: all that this header stands on. Failure acquire: the header is loaded again anyway.
        let changed = self.head().word.compare_exchange(
            h.0,
            h.next(valid, overflow).0,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        changed.is_ok()
    }

    /// Gives a claim up.
    pub(super) fn unclaim(self, claim: Claim) {
        // Release, P5: as every emptying.
        self.slot(claim.home)
            .store(Slot::EMPTY.0, Ordering::Release);
    }

    /// Changes the header from `h`; true if it was still `h`. Then the words of cleared
    /// positions are ours to empty, and buckets that went out are ours to take out.
    #[inline(always)]
    pub(super) fn change(
        self,
        worker: &mut LockfreeWorker,
        h: Header,
        links: &Links,
        change: Change,
    ) -> bool {
        let valid = (h.valid() | change.set) & !change.clear;
        let overflow = if change.trim {
            h.overflow().min(overflow_needed::<G>(valid))
        } else {
            h.overflow()
        };
        if !self.move_header(h, valid, overflow) {
            return false;
        }
        for position in bits(change.clear) {
            let home = self
                .home(links, position)
                .expect("an official position is in the chain (I9)");
            // Release, P5: whoever claims the slot has our header behind it.
            self.slot(home).store(Slot::EMPTY.0, Ordering::Release);
        }
        if overflow < links.count {
            self.shorten(worker, *links, overflow);
        }
        true
    }

    /// Takes out the buckets behind the first `overflow`, which the header does not count any more.
    #[inline(never)]
    fn shorten(self, worker: &mut LockfreeWorker, links: Links, overflow: usize) {
        let links = &links;
        for depth in (overflow..links.count).rev() {
            // From the value read under `h`: reading again would find somebody's current proposal.
            self.take_out(worker, self.link_word(links, depth), links.words[depth]);
        }
    }

    /// Takes a bucket out of a link word; whoever succeeds retires it.
    fn take_out(self, worker: &mut LockfreeWorker, word: &AtomicU64, value: Link) {
        // AcqRel, P4: all that was done to the bucket goes with it. Failure: somebody adopted it, his business now.
        let taken = word.compare_exchange(
            value.0,
            value.taken_out().0,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if taken.is_ok()
            && let Some(number) = value.bucket()
        {
            worker.overflow_limbo.retire(number);
            worker.counters.unlinked += 1;
        }
    }

    /// Lengthens the chain by one bucket, from header `h`.
    pub(super) fn lengthen(
        self,
        worker: &mut LockfreeWorker,
        h: Header,
        links: &Links,
        proposal: &mut Option<Proposal<'i>>,
    ) -> Lengthened {
        let depth = links.count;
        let word = self.link_word(links, depth);
        // Acquire, P4.
        let seen = Link(word.load(Ordering::Acquire));
        let is_current = seen.bucket().is_some() && seen.tag() == h.version();
        if !is_current {
            // An outdated bucket is adopted: its value can never become linked again.
            let (number, private) = match seen.bucket() {
                Some(number) => (number, false),
                None => match self.take_bucket(worker) {
                    Some(number) => (number, true),
                    None => return Lengthened::NoBucket,
                },
            };
            let value = Link::new(h.version(), number);
            // The header is looked at again between allocation and publication: one bucket is
            // published under one version once (I8). AcqRel, P4: the bucket is empty. Failure: looked at again.
            let published = self.header() == h
                && word
                    .compare_exchange(seen.0, value.0, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok();
            if !published {
                if private {
                    self.index
                        .overflow
                        .give_private(&mut worker.overflow, number);
                }
                return Lengthened::LookAgain;
            }
            if proposal.is_some_and(|old| !std::ptr::eq(old.word, word)) {
                self.sweep(worker, proposal.take());
            }
            *proposal = Some(Proposal { word, depth, value });
        }
        let longer = h.next(h.valid(), h.overflow() + 1);
        let head = &self.head().word;
        // AcqRel, P3; failure acquire: looked at again.
        let linked = head.compare_exchange(h.0, longer.0, Ordering::AcqRel, Ordering::Acquire);
        if linked.is_ok() {
            worker.counters.linked += 1;
            // Linking somebody else's bucket says nothing about one of ours elsewhere.
            if !is_current {
                *proposal = None;
            }
        }
        Lengthened::LookAgain
    }

    fn take_bucket(self, worker: &mut LockfreeWorker) -> Option<u32> {
        let pool = &self.index.overflow;
        let bucket = pool.take(&mut worker.overflow, G::OVERFLOW_SLOTS);
        bucket.or_else(|| {
            worker.reclaim_buckets(pool);
            pool.take(&mut worker.overflow, G::OVERFLOW_SLOTS)
        })
    }

    /// Before an installer goes: a bucket that it published and nobody linked comes out again.
    #[inline]
    pub(super) fn sweep(self, worker: &mut LockfreeWorker, proposal: Option<Proposal<'i>>) {
        if let Some(proposal) = proposal {
            self.withdraw(worker, proposal);
        }
    }

    #[cold]
    fn withdraw(self, worker: &mut LockfreeWorker, proposal: Proposal<'i>) {
        let Proposal { word, depth, value } = proposal;
        // Acquire, and the header after the word: not linked now and its version has
        // passed, so it never will be.
        if word.load(Ordering::Acquire) == value.0 && self.header().overflow() <= depth {
            self.take_out(worker, word, value);
        }
    }
}

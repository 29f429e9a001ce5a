//! The packed words: header, slot, link and state, each with its predicates.
//!
//! ```text
//! header  | version 32 | overflow 2 | FROZEN 1 | INIT 1 | valid 28 |
//! slot    | tag 16 | covers 2 | role 1 | generation 19 | index 26 |
//! link    | tag 32 | bucket + 1  32 |
//! state   | aux 32 | generation 29 | life 3 |
//!          aux while Pending:             | attempt 8 | reply only 1 | 0 18 | limit 5 |
//!          aux while Confirmed and Dying: | 0 8       | reply only 1 | 0 23           |
//!          aux while Aborted:             the winner's index, or TOO_LONG, or NO_ROOM
//! ```
//!
//! # When a field comes round
//! Seen on fields of two and three bits, under shuttle (`tests/rounds.rs`).
//! - The *version* of a header, 32 bits (and the tags of links, which are versions): who loaded
//!   a header and has slept for a whole round takes the new one for it, and his CAS goes
//!   through: a key may get two owners, or a bit be set over an empty word. It takes 2^32
//!   changes of one chain within one pin. No entry that others saw is used again within a
//!   pin, and an attempt to get in changes one chain at most 24 times (2 pieces made official, 2
//!   cleared, 2 times dead ones cleared to make room, and 3 buckets linked again for each clearing
//!   that unlinked them), with at most 16 attempts a life. So it cannot happen with up to 2^23
//!   entries; with more, most entries of the table would have to go through one chain, 16 times
//!   each, while one thread sleeps in a batch.
//! - The *generation* in a slot, 19 bits: nothing. An official word is cleared before its entry is used
//!   again, and a lookup compares the whole key whatever word led it there.
//! - The generation of an entry, 29 bits: nothing to who is pinned. An id that is kept for
//!   2^29 lives of its entry, discarded ones included, names whoever lives there then.
//! - The number of an attempt, 8 bits, and epochs, 64 bits: they do not come round.

use std::fmt;

use crate::sync::rounds;
use crate::table::slab::EntryId;
use crate::tuple::Direction;

/// The header of a chain: which of its positions are official, and the version that makes
/// every change of it a different value.
///
/// | INIT | FROZEN | meaning |
/// |---|---|---|
/// | 0 | 0 | never used (a table that is being grown into) |
/// | 1 | 0 | in use |
/// | 1 | 1 | moved to a larger table; never changes again |
/// | 0 | 1 | cannot be: only a chain in use is frozen |
///
/// Capacity is fixed for now, so every chain is in use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Header(pub(super) u64);

/// Positions a header has valid bits for.
pub(super) const VALID_BITS: usize = 28;
const INIT: u64 = 1 << VALID_BITS;
const FROZEN: u64 = 1 << 29;
const OVERFLOW_SHIFT: u32 = 30;
const VERSION_SHIFT: u32 = 32;

impl Header {
    /// A chain in use, empty. Version 1 is left to link words that never were linked.
    pub(super) const FIRST: Header = Header(2 << VERSION_SHIFT | INIT);

    #[inline]
    pub(super) fn version(self) -> u32 {
        (self.0 >> VERSION_SHIFT) as u32
    }

    /// Linked overflow buckets.
    #[inline]
    pub(super) fn overflow(self) -> usize {
        (self.0 >> OVERFLOW_SHIFT & 3) as usize
    }

    /// Official positions, one bit each.
    #[inline]
    pub(super) fn valid(self) -> u32 {
        (self.0 & (INIT - 1)) as u32
    }

    #[cfg(test)]
    pub(super) fn is_official(self, position: usize) -> bool {
        self.valid() >> position & 1 == 1
    }

    /// The successor of this header, with other official positions and overflow buckets:
    /// always a new version.
    #[inline]
    pub(super) fn next(self, valid: u32, overflow: usize) -> Header {
        debug_assert!(u64::from(valid) < INIT && overflow < 4);
        let flags = self.0 & (INIT | FROZEN);
        let version = u64::from(rounds::version(self.version().wrapping_add(1)));
        Header(
            version << VERSION_SHIFT
                | (overflow as u64) << OVERFLOW_SHIFT
                | flags
                | u64::from(valid),
        )
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Header(v{} official={:#b} overflow={}{}{})",
            self.version(),
            self.valid(),
            self.overflow(),
            if self.0 & INIT == 0 { " uninit" } else { "" },
            if self.0 & FROZEN == 0 { "" } else { " frozen" },
        )
    }
}

/// A word of a slot: an index to an entry, and enough of its key to pass others by.
///
/// | value | meaning |
/// |---|---|
/// | 0 | UNINIT: memory that was never used |
/// | 1 | EMPTY: free to be claimed |
/// | other | one piece of one life of an entry |
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u64);

const INDEX_BITS: u32 = 26;
const SLOT_GENERATION_BITS: u32 = 19;
const ROLE: u64 = 1 << 45;
const COVERS_SHIFT: u32 = 46;
const TAG_SHIFT: u32 = 48;
const TAG: u64 = 0xffff << TAG_SHIFT;
/// The stored index is two more than the entry's, so that no piece is UNINIT or EMPTY.
const INDEX_BASE: u64 = 2;
/// Entries that a slot can name.
pub(super) const ENTRIES_MAX: usize = (1 << INDEX_BITS) - INDEX_BASE as usize;

const _: () = assert!(INDEX_BITS + SLOT_GENERATION_BITS == 45 && TAG_SHIFT == COVERS_SHIFT + 2);

#[inline(always)]
fn slot_generation_mask() -> u32 {
    rounds::slot_generation_bits((1 << SLOT_GENERATION_BITS) - 1)
}

/// Orientations of a canonical key that a piece stands for: bit 0 as it is, bit 1 inverted.
pub(super) type Covers = u8;
/// Both orientations: a connection without NAT.
pub(super) const COVERS_BOTH: Covers = 3;

/// What the words of a piece have in common in all lives of all entries: a slot's word without its entry.
///
/// | tag 16 | covers 2 | role 1 | 0 45 |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stem(u64);

impl Stem {
    #[inline]
    pub(super) fn new(tag: u16, covers: Covers, role: Direction) -> Stem {
        debug_assert!(covers != 0 && covers <= COVERS_BOTH);
        Stem(
            u64::from(tag) << TAG_SHIFT
                | u64::from(covers) << COVERS_SHIFT
                | if role == Direction::Reply { ROLE } else { 0 },
        )
    }

    #[inline]
    pub(super) fn tag(self) -> u16 {
        (self.0 >> TAG_SHIFT) as u16
    }

    /// Which key it stands for; the original one, if for both.
    pub(super) fn role(self) -> Direction {
        Slot(self.0).role()
    }

    /// The word of this piece of an entry.
    #[inline]
    pub(super) fn slot(self, id: EntryId) -> Slot {
        debug_assert!((id.index() as usize) < ENTRIES_MAX);
        Slot(
            self.0
                | u64::from(id.generation() & slot_generation_mask()) << INDEX_BITS
                | (u64::from(id.index()) + INDEX_BASE),
        )
    }
}

impl Slot {
    pub(super) const UNINIT: Slot = Slot(0);
    pub(super) const EMPTY: Slot = Slot(1);

    /// UNINIT or EMPTY.
    #[inline]
    pub(super) fn is_free(self) -> bool {
        self.0 <= Slot::EMPTY.0
    }

    /// The entry. Only for a word that is a piece.
    #[inline]
    pub(super) fn index(self) -> u32 {
        debug_assert!(!self.is_free());
        (self.0 & ((1 << INDEX_BITS) - 1)) as u32 - INDEX_BASE as u32
    }

    /// The element of this number.
    ///
    /// # Safety
    /// The word is a piece, and [`Slot::index`] is below the length of `all`.
    #[inline(always)]
    pub(super) unsafe fn entry_in<T>(self, all: &[T]) -> &T {
        // The base is taken off the address once, not off each number.
        let base = all.as_ptr().wrapping_sub(INDEX_BASE as usize);
        let stored = (self.0 & ((1 << INDEX_BITS) - 1)) as usize;
        // SAFETY: the address of the element, by the caller's promise.
        unsafe { &*base.wrapping_add(stored) }
    }

    /// The orientations that it stands for; none if it is free.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn covers(self) -> Covers {
        (self.0 >> COVERS_SHIFT & 3) as Covers
    }

    /// Hash bits of the key.
    #[inline]
    pub(super) fn tag(self) -> u16 {
        (self.0 >> TAG_SHIFT) as u16
    }

    /// Whose key: [`Direction::Reply`] is the second piece of a NATed connection.
    #[inline]
    pub(super) fn role(self) -> Direction {
        if self.0 & ROLE == 0 {
            Direction::Original
        } else {
            Direction::Reply
        }
    }

    /// Keys that it stands for.
    pub(super) fn key_count(self) -> u64 {
        u64::from((self.0 >> COVERS_SHIFT & 3).count_ones())
    }

    /// Is it of this life of its entry?
    #[inline]
    pub(super) fn is_of(self, state: State) -> bool {
        let generation = u64::from(slot_generation_mask()) << INDEX_BITS;
        (self.0 ^ state.0 << (INDEX_BITS - GENERATION_SHIFT)) & generation == 0
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Slot::UNINIT => f.write_str("Slot(uninit)"),
            Slot::EMPTY => f.write_str("Slot(empty)"),
            slot => write!(
                f,
                "Slot(entry {} life {} {:?} covers={:#b} tag={:#x})",
                slot.index(),
                (slot.0 >> INDEX_BITS) as u32 & slot_generation_mask(),
                slot.role(),
                slot.0 >> COVERS_SHIFT & 3,
                slot.tag(),
            ),
        }
    }
}

/// What a scan looks for: slots of one tag that cover at least one of some orientations.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pattern {
    tag: u64,
    covers: u64,
}

impl Pattern {
    /// Pieces that may be equal to one of this stem.
    #[inline]
    pub(super) fn of(stem: Stem) -> Pattern {
        Pattern {
            tag: stem.0 & TAG,
            covers: stem.0 & u64::from(COVERS_BOTH) << COVERS_SHIFT,
        }
    }

    /// All pieces that have the tag of this one.
    pub(super) fn alike(slot: Slot) -> Pattern {
        Pattern {
            tag: slot.0 & TAG,
            covers: u64::from(COVERS_BOTH) << COVERS_SHIFT,
        }
    }

    /// Free words never match: they cover nothing.
    #[inline]
    pub(super) fn matches(self, slot: Slot) -> bool {
        (slot.0 ^ self.tag) & TAG == 0 && slot.0 & self.covers != 0
    }
}

/// A word that may hold an overflow bucket: `ext` of a head bucket, `next` of an overflow
/// bucket. Its tag is the header version under which it was written, and only grows.
///
/// | word | meaning |
/// |---|---|
/// | 0 | never used (only in a table that is being grown into) |
/// | (tag, none) | the bucket was taken out; (1, none) is fresh |
/// | (tag, bucket), linked | one of the first `overflow` words of the chain |
/// | (tag, bucket), current | behind them, tag == header version: a header CAS may link it |
/// | (tag, bucket), outdated | behind them, other tag: waits to be adopted or taken out |
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Link(pub(super) u64);

impl Link {
    /// Nothing was ever linked here.
    pub(super) const FRESH: Link = Link(1 << 32);

    pub(super) fn new(tag: u32, bucket: u32) -> Link {
        Link(u64::from(tag) << 32 | (u64::from(bucket) + 1))
    }

    #[inline]
    pub(super) fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    pub(super) fn bucket(self) -> Option<u32> {
        (self.0 as u32).checked_sub(1)
    }

    /// This word without its bucket. Never 0 as a whole: a word that was used says so.
    #[inline]
    pub(super) fn taken_out(self) -> Link {
        Link(u64::from(self.tag()) << 32)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link(v{} {:?})", self.tag(), self.bucket())
    }
}

/// The state word of an entry as this table uses it. The slab's
/// [`EntryState`](crate::table::slab::EntryState) shows the same word to everybody else;
/// Aborted looks like Dying there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct State(pub(super) u64);

const FREE: u64 = 0;
const PENDING: u64 = 1;
const CONFIRMED: u64 = 2;
const DYING: u64 = 3;
const ABORTED: u64 = 4;
const LIFE_MASK: u64 = 7;
const GENERATION_SHIFT: u32 = 3;
const AUX_SHIFT: u32 = 32;
const ATTEMPT_SHIFT: u32 = 24;
const REPLY_ONLY: u32 = 1 << 23;
const LIMIT_MASK: u32 = 31;

/// What an insert brings along for its helpers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Attempt {
    /// Number of the try within one life of the entry: what tells a helper of an earlier try that it is over.
    pub(super) number: u8,
    /// Positions of a chain that may be claimed.
    pub(super) limit: usize,
    /// The original key stays out.
    pub(super) reply_only: bool,
}

impl Attempt {
    /// As the aux bits of a Pending state.
    #[inline]
    pub(super) fn aux(self) -> u32 {
        debug_assert!(self.limit <= LIMIT_MASK as usize);
        u32::from(self.number) << ATTEMPT_SHIFT
            | if self.reply_only { REPLY_ONLY } else { 0 }
            | self.limit as u32
    }
}

/// Why an insert ended without a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Abort {
    /// The entry of this index owned one of the keys.
    Clash(u32),
    /// No position below the limit was free.
    TooLong,
    /// No overflow bucket was left.
    NoRoom,
}

const TOO_LONG: u32 = u32::MAX;
const NO_ROOM: u32 = u32::MAX - 1;

impl State {
    pub(super) fn pending(generation: u32, attempt: Attempt) -> State {
        State::new(attempt.aux(), generation, PENDING)
    }

    fn new(aux: u32, generation: u32, life: u64) -> State {
        State(u64::from(aux) << AUX_SHIFT | u64::from(generation) << GENERATION_SHIFT | life)
    }

    fn aux(self) -> u32 {
        (self.0 >> AUX_SHIFT) as u32
    }

    #[inline]
    pub(super) fn generation(self) -> u32 {
        self.0 as u32 >> GENERATION_SHIFT
    }

    #[inline]
    pub(super) fn is_pending(self) -> bool {
        self.0 & LIFE_MASK == PENDING
    }

    #[inline]
    pub(super) fn is_confirmed(self) -> bool {
        self.0 & LIFE_MASK == CONFIRMED
    }

    /// Confirmed, and not by its reply key alone.
    #[inline]
    pub(super) fn is_confirmed_by_both(self) -> bool {
        const REPLY_ALONE: u64 = (REPLY_ONLY as u64) << AUX_SHIFT;
        self.0 & (REPLY_ALONE | LIFE_MASK) == CONFIRMED
    }

    /// Lives by its reply key alone (while Pending, Confirmed or Dying).
    #[inline]
    pub(super) fn is_reply_only(self) -> bool {
        self.aux() & REPLY_ONLY != 0
    }

    /// Positions that this Pending insert may use.
    #[inline]
    pub(super) fn limit(self) -> usize {
        debug_assert!(self.is_pending());
        (self.aux() & LIMIT_MASK) as usize
    }

    /// Why it was aborted, if it was.
    #[inline]
    pub(super) fn abort(self) -> Option<Abort> {
        (self.0 & LIFE_MASK == ABORTED).then(|| match self.aux() {
            TOO_LONG => Abort::TooLong,
            NO_ROOM => Abort::NoRoom,
            winner => Abort::Clash(winner),
        })
    }

    /// What this Pending state becomes when all its pieces are official.
    #[inline]
    pub(super) fn confirmed(self) -> State {
        debug_assert!(self.is_pending());
        State::new(self.aux() & REPLY_ONLY, self.generation(), CONFIRMED)
    }

    /// What this Pending state becomes when it cannot get in.
    #[inline]
    pub(super) fn aborted(self, why: Abort) -> State {
        debug_assert!(self.is_pending());
        let aux = match why {
            Abort::TooLong => TOO_LONG,
            Abort::NoRoom => NO_ROOM,
            Abort::Clash(winner) => winner,
        };
        State::new(aux, self.generation(), ABORTED)
    }

    /// What this Confirmed state becomes when it is removed.
    #[inline]
    pub(super) fn dying(self) -> State {
        debug_assert!(self.is_confirmed());
        State::new(self.aux(), self.generation(), DYING)
    }

    /// The end of this life.
    #[inline]
    pub(super) fn freed(self) -> State {
        State::new(0, self.generation(), FREE)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let life = match self.0 & LIFE_MASK {
            FREE => "free",
            PENDING => "pending",
            CONFIRMED => "confirmed",
            DYING => "dying",
            _ => "aborted",
        };
        write!(
            f,
            "State({life} life {} aux={:#x})",
            self.generation(),
            self.aux()
        )
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_slot_word_gives_back_what_was_put_in(
            tag in any::<u16>(), covers in 1u8..=3, reply in any::<bool>(),
            generation in 0u32..1 << 29, index in 0u32..ENTRIES_MAX as u32,
        ) {
            let role = if reply { Direction::Reply } else { Direction::Original };
            let slot = Stem::new(tag, covers, role).slot(EntryId::new(index, generation));
            prop_assert!(!slot.is_free());
            prop_assert_eq!((slot.index(), slot.role()), (index, role));
            let attempt = Attempt { number: 1, limit: 28, reply_only: false };
            prop_assert!(slot.is_of(State::pending(generation, attempt)));
            prop_assert!(!slot.is_of(State::pending((generation + 1) & ((1 << 29) - 1), attempt)));
            for wanted in 1..=3 {
                prop_assert_eq!(Pattern::of(Stem::new(tag, wanted, Direction::Original)).matches(slot), wanted & covers != 0);
                prop_assert!(!Pattern::of(Stem::new(tag ^ 1, wanted, Direction::Original)).matches(slot));
            }
        }

        #[test]
        fn a_state_keeps_its_life_and_says_why_it_ended(
            generation in 0u32..1 << 29, number in any::<u8>(), limit in 1usize..=28,
            reply_only in any::<bool>(), winner in 0u32..ENTRIES_MAX as u32,
        ) {
            let attempt = Attempt { number, limit, reply_only };
            let pending = State::pending(generation, attempt);
            prop_assert!(pending.is_pending() && !pending.is_confirmed());
            prop_assert_eq!((pending.limit(), pending.is_reply_only()), (limit, reply_only));
            let confirmed = pending.confirmed();
            prop_assert!(confirmed.is_confirmed() && !confirmed.is_pending());
            prop_assert_eq!(confirmed.is_reply_only(), reply_only);
            prop_assert!(!confirmed.dying().is_pending() && !confirmed.dying().is_confirmed());
            for why in [Abort::Clash(winner), Abort::TooLong, Abort::NoRoom] {
                prop_assert_eq!(pending.aborted(why).abort(), Some(why));
                prop_assert_eq!(pending.aborted(why).generation(), generation);
            }
        }
    }

    #[test]
    fn free_words_match_no_pattern() {
        for tag in [0, 1, u16::MAX] {
            assert!(
                !Pattern::of(Stem::new(tag, COVERS_BOTH, Direction::Original)).matches(Slot::EMPTY)
            );
            assert!(
                !Pattern::of(Stem::new(tag, COVERS_BOTH, Direction::Original))
                    .matches(Slot::UNINIT)
            );
        }
    }

    #[test]
    fn every_header_has_another_version() {
        let next = Header::FIRST.next(1 << 27 | 1, 3);
        assert_eq!(
            (next.version(), next.overflow(), next.valid()),
            (3, 3, 1 << 27 | 1)
        );
        assert!(next.is_official(0) && next.is_official(27) && !next.is_official(1));
        assert_eq!(Header(u64::MAX << 32 | INIT).next(0, 0).version(), 0);
    }
}

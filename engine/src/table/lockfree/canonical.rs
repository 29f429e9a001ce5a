//! Canonical keys and pieces: what a connection owns in the table.
//!
//! A key and its inverse are the two *orientations* of one canonical key, the smaller of
//! both. A connection without NAT owns both orientations with one slot; one with NAT owns
//! one orientation each of two canonical keys, with two. Two pieces are *equal* when their
//! canonical keys are and they cover a common orientation.

use super::word::{COVERS_BOTH, Covers, Pattern, Slot, Stem};
use crate::table::hash::KeyHasher;
use crate::table::key::FlowKey;
use crate::table::slab::EntryId;
use crate::tuple::Direction;

/// A key as the table sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Oriented<K> {
    /// The smaller of the key and its inverse.
    pub(super) canon: K,
    /// Which of the two it was: one bit. A key that is its own inverse is always bit 0.
    pub(super) covers: Covers,
}

impl<K: FlowKey> Oriented<K> {
    #[inline]
    pub(super) fn new(key: &K) -> Oriented<K> {
        let (canon, is_inverted) = key.canonical();
        Oriented {
            canon,
            covers: 1 + Covers::from(is_inverted),
        }
    }
}

/// Where a canonical key belongs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// Head bucket.
    pub(super) bucket: u32,
    /// Hash bits that the bucket does not depend on.
    pub(super) tag: u16,
}

impl Place {
    #[inline]
    pub(super) fn of<K: FlowKey, H: KeyHasher>(canon: &K, hasher: H, buckets: u32) -> Place {
        let hash = hasher.hash(canon);
        Place {
            bucket: Place::bucket(hash, buckets),
            tag: hash as u16,
        }
    }

    /// The head bucket, from the upper end of the hash; the tag is its lower end.
    #[inline(always)]
    pub(super) fn bucket(hash: u64, buckets: u32) -> u32 {
        ((u128::from(hash) * u128::from(buckets)) >> 64) as u32
    }
}

/// One slot's worth of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// A whole word, as it was written: see [`EntryId`].
    stem: Stem,
    /// Head bucket.
    pub(super) bucket: u32,
}

impl Piece {
    #[inline]
    fn new(covers: Covers, role: Direction, place: Place) -> Piece {
        Piece {
            stem: Stem::new(place.tag, covers, role),
            bucket: place.bucket,
        }
    }

    /// Hash bits that the bucket does not depend on.
    #[inline]
    pub(super) fn tag(&self) -> u16 {
        self.stem.tag()
    }

    /// Which of its connection's keys it stands for; the original one, if for both.
    pub(super) fn role(&self) -> Direction {
        self.stem.role()
    }

    /// The word of this piece of an entry.
    #[inline]
    pub(super) fn slot(&self, id: EntryId) -> Slot {
        self.stem.slot(id)
    }

    /// Slots that may be of an equal piece.
    #[inline]
    pub(super) fn pattern(&self) -> Pattern {
        Pattern::of(self.stem)
    }
}

/// Have these keys one canonical key?
pub(super) fn are_alike<K: FlowKey>(key: &K, other: &K) -> bool {
    key == other || key.inverse() == Some(*other)
}

/// The pieces of a connection in ascending order of canonical keys: the order in which
/// everybody installs them, so that helpers always go upwards and never in a circle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    /// Of the original key, of the reply key; twice the same one if there is one.
    pieces: [Piece; 2],
    count: usize,
    /// The second one comes first. Told apart here, not put in order: which it is cannot be predicted.
    reply_first: bool,
}

/// Both keys of a NATed connection are the same one: it would clash with itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SelfClash;

impl Pieces {
    /// The pieces of a connection of these keys; `table` is the hasher and the number of head buckets.
    #[inline(always)]
    pub(super) fn of<K: FlowKey, H: KeyHasher>(
        original: &K,
        reply: &K,
        (hasher, buckets): (H, u32),
    ) -> Result<Pieces, SelfClash> {
        let first = Oriented::new(original);
        let place = Place::of(&first.canon, hasher, buckets);
        if original
            .inverse()
            .is_some_and(|answer| is_equal(&answer, reply))
        {
            // Without NAT.
            let both = Piece::new(COVERS_BOTH, Direction::Original, place);
            return Ok(Pieces::one(both));
        }
        let second = Oriented::new(reply);
        if is_equal(&first.canon, &second.canon) {
            return Err(SelfClash);
        }
        let reply_first = is_less(&second.canon, &first.canon);
        let behind = Place::of(&second.canon, hasher, buckets);
        Ok(Pieces {
            pieces: [
                Piece::new(first.covers, Direction::Original, place),
                Piece::new(second.covers, Direction::Reply, behind),
            ],
            count: 2,
            reply_first,
        })
    }

    /// The piece of a connection that lives by its reply key alone.
    pub(super) fn reply_only<K: FlowKey, H: KeyHasher>(reply: &K, table: (H, u32)) -> Pieces {
        let key = Oriented::new(reply);
        let place = Place::of(&key.canon, table.0, table.1);
        Pieces::one(Piece::new(key.covers, Direction::Reply, place))
    }

    fn one(piece: Piece) -> Pieces {
        Pieces {
            pieces: [piece; 2],
            count: 1,
            reply_first: false,
        }
    }

    /// The piece that stands for the original key, if there is one that does.
    #[inline]
    pub(super) fn original(&self) -> &Piece {
        &self.pieces[0]
    }

    /// There is one alone.
    #[inline]
    pub(super) fn is_one(&self) -> bool {
        self.count == 1
    }

    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Piece> {
        (0..self.count).map(|at| &self.pieces[(at ^ usize::from(self.reply_first)) & 1])
    }
}

/// Equality word by word, in registers.
#[inline]
fn is_equal<K: FlowKey>(a: &K, b: &K) -> bool {
    let (a, b) = (a.words(), b.words());
    let mut words = a.as_ref().iter().zip(b.as_ref());
    words.all(|(a, b)| a == b)
}

/// The order of words, without a branch.
#[inline]
fn is_less<K: FlowKey>(a: &K, b: &K) -> bool {
    let (a, b) = (a.words(), b.words());
    let words = a.as_ref().iter().zip(b.as_ref());
    words
        .rev()
        .fold(false, |less, (a, b)| (a < b) | ((a == b) & less))
}

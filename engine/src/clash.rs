//! Clash resolution: somebody confirmed one of our keys first. What now?
//!
//! ```text
//! gate      the protocol allows it?          no ─▶ drop          (TCP, SCTP, ICMP)
//! stage 1   same flow, or the crossed one?  yes ─▶ merge: the packet adopts the winner's entry
//! stage 2   our reply key is free?          yes ─▶ reply-only: the entry lives a second by that key
//!           taken, by the same flow?        yes ─▶ merge
//!                                            no ─▶ drop
//! ```
//!
//! The table asks ([`ClashPolicy`]) at the moment when both entries are known to be what
//! they are; here is only the decision. The kernel keeps all of this to itself: an
//! [`Event::Clash`](crate::event::Event::Clash) tells who lost against whom.
//!
//! Source: `nf_ct_resolve_clash`, `__nf_ct_resolve_clash`, `nf_ct_resolve_clash_harder`,
//! `nf_ct_match`, `nf_ct_match_reverse` (nf_conntrack_core.c).

use crate::event::Snapshot;
use crate::table::key::FlowKey;
use crate::table::slab::{Entry, EntryId, Slab};
use crate::table::{Clash, ClashPolicy, ClashStep};
use crate::time::Nanos;
use crate::tuple::Direction;

/// What two connections that want one key are to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// Both tuples and zones are equal: two packets of one flow.
    Same,
    /// Each one's original is the other's reply: two hosts spoke first at the same time.
    Crossed,
    /// Different flows.
    Different,
}

/// Compares two connections by their keys (tuples and zones).
#[must_use]
pub fn relation<K: FlowKey>(a: &Entry<K>, b: &Entry<K>) -> Relation {
    let (a_original, a_reply) = (a.key(Direction::Original), a.key(Direction::Reply));
    let (b_original, b_reply) = (b.key(Direction::Original), b.key(Direction::Reply));
    if a_original == b_original && a_reply == b_reply {
        Relation::Same
    } else if a_original == b_reply && a_reply == b_original {
        Relation::Crossed
    } else {
        Relation::Different
    }
}

/// The step that the kernel takes at a clash.
#[must_use]
pub fn kernel_step<K: FlowKey>(clash: &Clash, loser: &Entry<K>, winner: &Entry<K>) -> ClashStep {
    if !loser
        .key(Direction::Original)
        .tuple()
        .protocol
        .allows_clash()
    {
        return ClashStep::Drop;
    }
    match relation(loser, winner) {
        Relation::Same | Relation::Crossed => ClashStep::Merge,
        Relation::Different if clash.at_reply_only => ClashStep::Drop,
        Relation::Different => ClashStep::ReplyOnly,
    }
}

/// [`kernel_step`] as a policy: for those who use a table without the engine.
#[derive(Clone, Copy, Debug)]
pub struct KernelClashPolicy;

impl<K: FlowKey> ClashPolicy<K> for KernelClashPolicy {
    fn decide(&mut self, clash: &Clash, loser: &Entry<K>, winner: &Entry<K>) -> ClashStep {
        kernel_step(clash, loser, winner)
    }
}

/// The same, remembering for the clash event who met whom.
#[derive(Debug)]
pub struct WitnessedPolicy<'a, K: FlowKey> {
    slab: &'a Slab<K>,
    loser: EntryId,
    now: Nanos,
    wants_snapshots: bool,
    /// The last clash met with (winner, loser) as they were then, if they are wanted.
    pub met: Option<(Clash, Snapshot, Snapshot)>,
}

impl<'a, K: FlowKey> WitnessedPolicy<'a, K> {
    /// A policy for one confirm. `wants_snapshots`: remember both sides.
    #[must_use]
    pub fn new(slab: &'a Slab<K>, loser: EntryId, now: Nanos, wants_snapshots: bool) -> Self {
        WitnessedPolicy {
            slab,
            loser,
            now,
            wants_snapshots,
            met: None,
        }
    }
}

impl<K: FlowKey> ClashPolicy<K> for WitnessedPolicy<'_, K> {
    fn decide(&mut self, clash: &Clash, loser: &Entry<K>, winner: &Entry<K>) -> ClashStep {
        if self.wants_snapshots {
            let snapshot = |id| Snapshot::of(self.slab, id, self.now);
            self.met = Some((*clash, snapshot(clash.winner), snapshot(self.loser)));
        }
        kernel_step(clash, loser, winner)
    }
}

//! Is a tuple taken? Three tests, all of the tuple that the *answers* would carry.
//!
//! | test | asked by | taken when |
//! |---|---|---|
//! | plain ([`Worker::is_taken`]) | most | another flow's connection owns the reply tuple; counts `found` |
//! | unchanged ([`Worker::is_taken_unchanged`]) | keeping a tuple as it is | as above, but for two flows that cross without NAT |
//! | harder ([`Worker::is_taken_harder`]) | the port search's last tries | as above, but closing TCP connections are evicted |
//!
//! An answer of "free" reserves nothing: between it and confirm another worker may take the
//! tuple.
//!
//! Source: `nf_conntrack_tuple_taken` (nf_conntrack_core.c); `nf_nat_used_tuple_new`,
//! `nf_nat_used_tuple_harder`, `nf_nat_may_kill`, `nf_seq_has_advanced` (nf_nat_core.c).

use crate::config::KernelVersion;
use crate::engine::Worker;
use crate::proto::tcp::{TcpConntrackState, nat_view};
use crate::status::Status;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::{EntryId, Slab};
use crate::table::{FlowTable, Hit};
use crate::time::Nanos;
use crate::tuple::{Direction, Protocol, Tuple};

/// The connection that a tuple is sought for, with its keys as they are now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeker {
    pub(crate) id: EntryId,
    pub(crate) original: KeyV4,
    pub(crate) reply: KeyV4,
}

impl Seeker {
    /// Zone ids of its two directions.
    fn zones(&self) -> (u16, u16) {
        (self.original.zone(), self.reply.zone())
    }

    pub(crate) fn of(slab: &Slab<KeyV4>, id: EntryId) -> Seeker {
        let entry = slab.entry(id);
        Seeker {
            id,
            original: entry.key(Direction::Original),
            reply: entry.key(Direction::Reply),
        }
    }

    /// The number of the connection's zone, whichever directions it holds for.
    pub(crate) fn zone_id(&self) -> u16 {
        match self.original.zone() {
            0 => self.reply.zone(),
            id => id,
        }
    }
}

/// The port search evicts only when this many attempts or fewer are left in its round
/// (`NF_NAT_HARDER_THRESH`).
pub(crate) const HARDER_ATTEMPTS: u32 = 32;

impl<T: FlowTable<KeyV4>> Worker<'_, T> {
    /// Does another flow's connection own the reply of `proposed`? Counts `found` if so.
    ///
    /// A connection of the same original tuple is the same flow, sent twice before either
    /// packet was confirmed: confirm merges the two. No further owner of the key needs to be
    /// looked for, because a table never holds a key twice.
    pub(crate) fn is_taken(&mut self, seeker: &Seeker, proposed: &Tuple, now: Nanos) -> bool {
        let Some(reply) = proposed.invert() else {
            return false;
        };
        let key = KeyV4::pack(&reply, seeker.reply.zone());
        let hit = self.engine.table.lookup(&mut self.table, &key, now);
        self.drain_removed(now);
        let Some(hit) = hit else {
            return false;
        };
        let owner = self.engine.table.slab().entry(hit.id);
        let same_flow = owner.key(Direction::Original) == seeker.original;
        self.put(hit.id);
        if !same_flow {
            self.counters.conntrack.found.increment();
        }
        !same_flow
    }

    /// May the connection keep its own tuple? Also where it is taken by a flow that merely
    /// crosses it: the two first packets met on the way, neither has NAT, and confirm makes
    /// one connection of them.
    pub(crate) fn is_taken_unchanged(
        &mut self,
        seeker: &Seeker,
        proposed: &Tuple,
        now: Nanos,
    ) -> bool {
        const USES_NAT: Status = Status::NAT_MASK.union(Status::SEQ_ADJUST);
        if !self.is_taken(seeker, proposed, now) {
            return false;
        }
        let slab = self.engine.table.slab();
        if !proposed.protocol.allows_clash() || slab.entry(seeker.id).status().intersects(USES_NAT)
        {
            return true;
        }
        let hit = self
            .find_in_zones(proposed, seeker.zones(), now)
            .or_else(|| self.find_in_zones(&proposed.invert()?, seeker.zones(), now));
        let Some(hit) = hit else {
            // It went away meanwhile.
            return false;
        };
        let other = slab.entry(hit.id);
        let crosses = !other.status().intersects(USES_NAT)
            && other.key(Direction::Original).tuple() == seeker.reply.tuple();
        self.put(hit.id);
        !crosses
    }

    /// The port search's test. With few attempts left in the round, a first TCP packet may
    /// take the place of a connection that is closing: its owner is removed. That path does
    /// not count `found`.
    pub(crate) fn is_taken_harder(
        &mut self,
        seeker: &Seeker,
        proposed: &Tuple,
        attempts_left: u32,
        now: Nanos,
    ) -> bool {
        if attempts_left > HARDER_ATTEMPTS
            || self.engine.sysctls.kernel == KernelVersion::Article
            || proposed.protocol != Protocol::TCP
        {
            return self.is_taken(seeker, proposed, now);
        }
        let ours = nat_view(self.engine.table.slab().tracker(seeker.id));
        if ours.state != TcpConntrackState::SynSent {
            return self.is_taken(seeker, proposed, now);
        }
        let found = proposed
            .invert()
            .and_then(|reply| self.find_in_zones(&reply, seeker.zones(), now));
        let Some(hit) = found else {
            return false;
        };
        let evicted = self.may_evict(hit, ours.original_end) && self.kill(hit.id, now);
        let offloaded = Status::OFFLOAD | Status::HW_OFFLOAD;
        let status = self.engine.table.slab().entry(hit.id).status();
        self.put(hit.id);
        !evicted || status.intersects(offloaded)
    }

    /// May the owner of a tuple be removed for a new connection whose first packet ends at
    /// sequence number `our_end`? It must be closing, have source NAT, and lie behind us in
    /// sequence space: its server then takes our SYN for a new connection.
    fn may_evict(&self, owner: Hit, our_end: u32) -> bool {
        let slab = self.engine.table.slab();
        let status = slab.entry(owner.id).status();
        let theirs = nat_view(slab.tracker(owner.id));
        owner.direction == Direction::Reply
            && theirs.state.is_closing_for_nat()
            && !status.intersects(Status::FIXED_TIMEOUT | Status::DYING)
            && status.contains(Status::SRC_NAT)
            && our_end.wrapping_sub(theirs.original_end).cast_signed() > 0
    }
}

/// Makes a tracker's memory that of a connection in a state, ended at `end`; the state's
/// number stands at the top of the last word too.
#[cfg(test)]
pub(crate) fn set_tcp_view(tracker: &crate::table::slab::TrackerCell, state: u8, end: u32) {
    let words = [u64::from(end) << 32, 0, 0, 0, 0, 0, u64::from(state) << 56];
    tracker.lock().store(words, state);
}

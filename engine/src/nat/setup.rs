//! Setting a connection's NAT up: once for each end, on its first packet.
//!
//! A connection that no rule wants changed gets a *null binding*: the same set-up with the
//! address it has as the range. It may still change the source port, where the tuple is taken.
//!
//! Running out of tuples is no error here. The first packet is accepted, and dropped at confirm.
//!
//! Source: `nf_nat_setup_info`, `__nf_nat_alloc_null_binding` (nf_nat_core.c).

use super::range::{Manip, NatRange};
use super::taken::Seeker;
use crate::engine::Worker;
use crate::packet::{DropReason, Verdict};
use crate::status::Status;
use crate::table::FlowTable;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::EntryId;
use crate::time::Nanos;
use crate::tuple::Direction;

impl Manip {
    /// The status bit that says that this end is rewritten, in the original direction.
    #[must_use]
    pub(crate) const fn nat_bit(self) -> Status {
        match self {
            Manip::Source => Status::SRC_NAT,
            Manip::Destination => Status::DST_NAT,
        }
    }

    /// The status bit that says that this end is decided.
    #[must_use]
    pub(crate) const fn done_bit(self) -> Status {
        match self {
            Manip::Source => Status::SRC_NAT_DONE,
            Manip::Destination => Status::DST_NAT_DONE,
        }
    }

    /// The bit that says whether packets of `direction` have this end rewritten: in replies
    /// the ends are the other way round.
    #[must_use]
    pub(crate) const fn nat_bit_of(self, direction: Direction) -> Status {
        match direction {
            Direction::Original => self.nat_bit(),
            Direction::Reply => self.other().nat_bit(),
        }
    }
}

impl<T: FlowTable<KeyV4>> Worker<'_, T> {
    /// Chooses the connection's tuple for one end and records it. Does nothing to a
    /// connection that is confirmed already.
    pub(crate) fn nat_setup(
        &mut self,
        id: EntryId,
        range: &NatRange,
        manip: Manip,
        now: Nanos,
    ) -> Verdict {
        let slab = self.engine.table.slab();
        let entry = slab.entry(id);
        let status = entry.status();
        if status.contains(Status::CONFIRMED) {
            return Verdict::Accept;
        }
        if status.contains(manip.done_bit()) {
            return Verdict::Drop(DropReason::Nat);
        }
        let seeker = Seeker::of(slab, id);
        // From the reply, so that source NAT sees what destination NAT did before.
        let Some(current) = seeker.reply.tuple().invert() else {
            return Verdict::Drop(DropReason::Nat);
        };
        let chosen = self.choose_tuple(&seeker, &current, range, manip, now);
        if chosen != current {
            let Some(reply) = chosen.invert() else {
                return Verdict::Drop(DropReason::Nat);
            };
            entry.set_reply(KeyV4::pack(&reply, seeker.reply.zone()));
            entry.set_status(manip.nat_bit());
            // The reply's bucket is another one now: on its way until the packet is confirmed.
            let table = &self.engine.table;
            table.prepare_confirm(&mut self.table, &[id]);
        }
        if manip == Manip::Source {
            // Both keys' zones, and the original key, are what they will be when it is unlinked.
            self.engine
                .by_source
                .link(&seeker.original, &seeker.reply, id);
        }
        entry.set_status(manip.done_bit());
        Verdict::Accept
    }

    /// Decides that no rule changes this end.
    pub(crate) fn null_binding(&mut self, id: EntryId, manip: Manip, now: Nanos) -> Verdict {
        let slab = self.engine.table.slab();
        let reply = slab.entry(id).key(Direction::Reply).tuple();
        let address = match manip {
            Manip::Source => reply.dst,
            Manip::Destination => reply.src,
        };
        self.nat_setup(id, &NatRange::one_address(address), manip, now)
    }
}

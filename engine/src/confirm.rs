//! Confirm, the last hook: race the unconfirmed connection into the shared table.
//!
//! Between choosing a NAT tuple and this moment nothing is reserved. Whoever comes second
//! with the same key learns of it here, and only here.
//!
//! | outcome | counters | packet |
//! |---|---|---|
//! | inserted | none | accepted |
//! | dying | `insert_failed` | dropped |
//! | chain too long | `chaintoolong`, `insert_failed` | dropped |
//! | clash resolved | `clash_resolve` | accepted |
//! | clash not resolved | `drop`, `insert_failed` | dropped |
//!
//! Source: `nf_confirm` (nf_conntrack_proto.c), `__nf_conntrack_confirm` (nf_conntrack_core.c).

use crate::clash::WitnessedPolicy;
use crate::engine::Worker;
use crate::event::{Changes, ClashDecision, Event, EventMask, Snapshot};
use crate::packet::ipv4::Ipv4Header;
use crate::packet::{DropReason, Packet, Verdict};
use crate::status::{CtInfo, Status};
use crate::table::key::KeyV4;
use crate::table::slab::EntryId;
use crate::table::{Clash, Confirmed, FlowTable, Refusal};
use crate::time::Nanos;
use crate::tuple::Direction;

impl<T: FlowTable<KeyV4>> Worker<'_, T> {
    /// The confirm hook.
    pub(crate) fn confirm_hook(
        &mut self,
        packet: &mut Packet<'_>,
        header: Option<&Ipv4Header>,
        now: Nanos,
    ) -> Verdict {
        let (Some(id), Some(ctinfo)) = (packet.mark.connection, packet.mark.ctinfo) else {
            return Verdict::Accept;
        };
        let entry = self.engine.table.slab().entry(id);
        if entry.status().contains(Status::CONFIRMED) {
            self.tell_changes(packet, id, now);
            return Verdict::Accept;
        }
        if ctinfo.direction() == Direction::Reply {
            // A packet made by this host about an unconfirmed connection (REJECT): not its first packet.
            return Verdict::Accept;
        }
        self.confirm(packet, header, id, now)
    }

    fn confirm(
        &mut self,
        packet: &mut Packet<'_>,
        header: Option<&Ipv4Header>,
        id: EntryId,
        now: Nanos,
    ) -> Verdict {
        let slab = self.engine.table.slab();
        // The table may give the entry back, and another worker take it at once: what must be
        // known of it afterwards is read before.
        let burial = self.burial(id);
        let mut policy =
            WitnessedPolicy::new(slab, id, now, self.engine.events.contains(EventMask::CLASH));
        let random = self.rng.next_u32();
        let outcome = self
            .engine
            .table
            .confirm(&mut self.table, id, now, random, &mut policy);
        let met = policy.met;
        self.changed_table = true;
        // NEW tells all that this packet did; no UPDATE follows it.
        packet.mark.changes = Changes::empty();
        match outcome {
            Confirmed::Inserted => {
                self.counters.engine.confirmed.increment();
                if self.engine.events.contains(EventMask::CONNTRACK) {
                    self.tell(Event::New(now, Snapshot::of(slab, id, now)));
                }
                Verdict::Accept
            }
            Confirmed::Merged(clash) => {
                self.counters.conntrack.clash_resolve.increment();
                self.counters.engine.resolved_same.increment();
                self.tell_clash(met, ClashDecision::Merged, now);
                self.bury(&burial);
                self.adopt(packet, header, clash);
                Verdict::Accept
            }
            Confirmed::ReplyOnly(_) => {
                self.counters.conntrack.clash_resolve.increment();
                self.counters.engine.resolved_reply_only.increment();
                self.tell_clash(met, ClashDecision::ReplyOnly, now);
                Verdict::Accept
            }
            Confirmed::Refused(refusal) => {
                if let Refusal::Clash(_) = refusal {
                    self.tell_clash(met, ClashDecision::Dropped, now);
                }
                self.bury(&burial);
                packet.mark.connection = None;
                self.refuse(refusal)
            }
        }
    }

    /// The packet goes on as one of the winner's; its relation to the connection stays what it was.
    fn adopt(&mut self, packet: &mut Packet<'_>, header: Option<&Ipv4Header>, clash: Clash) {
        let direction = packet
            .mark
            .ctinfo
            .map_or(Direction::Original, CtInfo::direction);
        let traffic = self.engine.table.slab().traffic(clash.winner, direction);
        if let (Some(traffic), Some(header)) = (traffic, header) {
            traffic.add(1, header.total_length as u64);
        }
        packet.mark.connection = Some(clash.winner);
    }

    fn refuse(&mut self, refusal: Refusal) -> Verdict {
        let counters = &self.counters.conntrack;
        counters.insert_failed.increment();
        Verdict::Drop(match refusal {
            Refusal::Clash(_) => {
                counters.drop.increment();
                DropReason::Clash
            }
            Refusal::ChainTooLong => {
                counters.chaintoolong.increment();
                DropReason::ChainTooLong
            }
            Refusal::Dying => DropReason::Dying,
            Refusal::Full => DropReason::TableFull,
        })
    }

    fn tell_changes(&mut self, packet: &mut Packet<'_>, id: EntryId, now: Nanos) {
        let changes = std::mem::take(&mut packet.mark.changes);
        let entry = self.engine.table.slab().entry(id);
        if entry.status().contains(Status::DYING) {
            // Its end has been told (a reset that answered the first SYN); nothing comes after that.
            return;
        }
        if !changes.is_empty() && self.engine.events.contains(EventMask::CONNTRACK) {
            let snapshot = Snapshot::of(self.engine.table.slab(), id, now);
            self.tell(Event::Update(now, snapshot, changes));
        }
    }

    fn tell_clash(
        &mut self,
        met: Option<(Clash, Snapshot, Snapshot)>,
        decision: ClashDecision,
        at: Nanos,
    ) {
        if let Some((clash, winner, loser)) = met {
            self.tell(Event::Clash {
                at,
                key: clash.key,
                winner,
                loser,
                decision,
            });
        }
    }
}

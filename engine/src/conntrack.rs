//! `conntrack_in`: find the packet's connection, or begin one; let its protocol judge it.
//!
//! A new connection is *unconfirmed*: an entry in this worker's hands that no table knows
//! yet and no other worker sees. It meets the world at confirm.
//!
//! Source: `nf_conntrack_in`, `resolve_normal_ct`, `init_conntrack`,
//! `nf_conntrack_handle_icmp` (nf_conntrack_core.c), `nf_conntrack_inet_error`
//! (`nf_conntrack_proto_icmp.c`).

use std::sync::atomic::Ordering;

use crate::engine::Worker;
use crate::event::Changes;
use crate::hook::HookPoint;
use crate::packet::ipv4::Ipv4Header;
use crate::packet::{DropReason, Mark, Packet, Verdict};
use crate::proto::icmp::{self, Precheck};
use crate::proto::{self, Action, Tracked};
use crate::status::{CtInfo, Status};
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::{Entry, EntryId};
use crate::table::{FlowTable, Hit};
use crate::time::Nanos;
use crate::tuple::{Direction, Protocol, Tuple};
use crate::zone::Zone;

/// Why a packet got no connection.
enum NoConnection {
    /// Nothing to build one from: the packet is INVALID.
    Invalid,
    /// No room for another.
    TableFull,
}

impl<T: FlowTable<KeyV4>> Worker<'_, T> {
    /// The hook at `PRE_ROUTING` and `LOCAL_OUT`. `found_before` is what the batch's lookup
    /// said of this packet's tuple; it is held, and used up here.
    pub(crate) fn conntrack_in(
        &mut self,
        packet: &mut Packet<'_>,
        header: Option<&Ipv4Header>,
        point: HookPoint,
        found_before: &mut Option<Option<Hit>>,
        now: Nanos,
    ) -> Verdict {
        if packet.mark.connection.is_some() || packet.mark.ctinfo == Some(CtInfo::Untracked) {
            return Verdict::Accept;
        }
        if point == HookPoint::LocalOut && header.is_some_and(Ipv4Header::is_fragment) {
            // A local socket that sends fragments itself: not tracked, not counted (`ipv4_conntrack_local`).
            return Verdict::Accept;
        }
        let Some(header) = header.filter(|h| h.fragment_offset == 0) else {
            self.counters.conntrack.invalid.increment();
            return Verdict::Accept;
        };
        if header.protocol == Protocol::ICMP && self.is_icmp_error(packet, header, point, now) {
            return Verdict::Accept;
        }
        loop {
            let (id, ctinfo) = match self.resolve(packet, header, found_before.take(), now) {
                Ok(resolved) => resolved,
                Err(NoConnection::Invalid) => {
                    self.counters.conntrack.invalid.increment();
                    return Verdict::Accept;
                }
                Err(NoConnection::TableFull) => {
                    self.counters.conntrack.drop.increment();
                    return Verdict::Drop(DropReason::TableFull);
                }
            };
            packet.mark.connection = Some(id);
            packet.mark.ctinfo = Some(ctinfo);
            match self.track(packet, header, id, ctinfo, point, now) {
                Some(verdict) => return verdict,
                None => self.let_go(&mut packet.mark),
            }
        }
    }

    /// Lets the protocol judge the packet. `None`: its connection was over, look up again.
    fn track(
        &mut self,
        packet: &mut Packet<'_>,
        header: &Ipv4Header,
        id: EntryId,
        ctinfo: CtInfo,
        point: HookPoint,
        now: Nanos,
    ) -> Option<Verdict> {
        let slab = self.engine.table.slab();
        let entry = slab.entry(id);
        let outcome = proto::track(&Tracked {
            sysctls: &self.engine.sysctls,
            entry,
            tracker: slab.tracker(id),
            traffic: slab.traffic(id, ctinfo.direction()),
            bytes: packet.bytes,
            header,
            truncated: packet.truncated,
            ctinfo,
            hook: point,
            now,
        });
        packet.mark.changes |= outcome.changes;
        match outcome.action {
            Action::Accept => {}
            Action::AcceptAndKill => {
                // The packet goes on with the dying entry.
                self.kill(id, now);
            }
            Action::Invalid => {
                self.let_go(&mut packet.mark);
                self.counters.conntrack.invalid.increment();
                return Some(Verdict::Accept);
            }
            Action::Reopen if self.kill(id, now) => return None,
            Action::Reopen => {
                // Somebody else is killing it at this moment.
                self.let_go(&mut packet.mark);
                self.counters.conntrack.invalid.increment();
                self.counters.conntrack.drop.increment();
                return Some(Verdict::Drop(DropReason::Tracker));
            }
        }
        if ctinfo == CtInfo::EstablishedReply
            && !entry
                .set_status(Status::SEEN_REPLY)
                .contains(Status::SEEN_REPLY)
        {
            packet.mark.changes |= Changes::REPLY;
        }
        Some(Verdict::Accept)
    }

    /// Takes the connection off a packet: gives its reference back, or, unconfirmed, the entry.
    pub(crate) fn let_go(&mut self, mark: &mut Mark) {
        if let Some(id) = mark.connection.take() {
            self.put(id);
        }
        *mark = Mark {
            zone: mark.zone,
            ..Mark::default()
        };
    }

    /// The connection of the packet's tuple, held, and the packet's relation to it.
    fn resolve(
        &mut self,
        packet: &Packet<'_>,
        header: &Ipv4Header,
        found_before: Option<Option<Hit>>,
        now: Nanos,
    ) -> Result<(EntryId, CtInfo), NoConnection> {
        let Some(tuple) = header.tuple(packet.bytes) else {
            self.drop_hint(found_before);
            return Err(NoConnection::Invalid);
        };
        let zone = packet.mark.zone;
        let found = match found_before.and_then(|hint| self.check_hint(hint, now)) {
            Some(answer) => answer,
            None => self.find(&tuple, zone, now),
        };
        match found {
            Some(hit) => Ok((
                hit.id,
                relation_of(self.engine.table.slab().entry(hit.id), hit.direction),
            )),
            None => Ok((self.begin_connection(&tuple, zone, now)?, CtInfo::New)),
        }
    }

    /// What the batch's lookup said, if it still holds.
    fn check_hint(&mut self, hint: Option<Hit>, now: Nanos) -> Option<Option<Hit>> {
        match hint {
            // Found then; still there?
            Some(hit) => {
                let entry = self.engine.table.slab().entry(hit.id);
                if entry.status().contains(Status::DYING) || entry.is_expired(now) {
                    self.put(hit.id);
                    return None;
                }
                Some(Some(hit))
            }
            // Missed then; an earlier packet of this batch may have changed that.
            None => (!self.changed_table).then_some(None),
        }
    }

    /// Gives back what the batch's lookup found and nobody needed.
    pub(crate) fn drop_hint(&mut self, hint: Option<Option<Hit>>) {
        if let Some(Some(hit)) = hint {
            self.put(hit.id);
        }
    }

    /// Looks a tuple up in a zone; the hit is held (`nf_conntrack_find_get`).
    pub(crate) fn find(&mut self, tuple: &Tuple, zone: Zone, now: Nanos) -> Option<Hit> {
        let ids = (
            zone.id_for(Direction::Original),
            zone.id_for(Direction::Reply),
        );
        self.find_in_zones(tuple, ids, now)
    }

    /// Looks a tuple up by the zone id of the original direction, then by that of the reply.
    pub(crate) fn find_in_zones(
        &mut self,
        tuple: &Tuple,
        (original, reply): (u16, u16),
        now: Nanos,
    ) -> Option<Hit> {
        let table = &self.engine.table;
        let mut hit = table.lookup(&mut self.table, &KeyV4::pack(tuple, original), now);
        if hit.is_none() && original != reply {
            hit = table.lookup(&mut self.table, &KeyV4::pack(tuple, reply), now);
        }
        self.drain_removed(now);
        hit
    }

    /// Makes an unconfirmed entry (`init_conntrack`).
    fn begin_connection(
        &mut self,
        tuple: &Tuple,
        zone: Zone,
        now: Nanos,
    ) -> Result<EntryId, NoConnection> {
        let inverse = tuple.invert().ok_or(NoConnection::Invalid)?;
        let original = KeyV4::pack(tuple, zone.id_for(Direction::Original));
        self.make_room(&original, now)?;
        let Some(id) = self.engine.table.allocate(&mut self.table) else {
            self.uncount();
            return Err(NoConnection::TableFull);
        };
        let reply = KeyV4::pack(&inverse, zone.id_for(Direction::Reply));
        self.engine.table.slab().entry(id).set_keys(original, reply);
        Ok(id)
    }

    /// Counts a new entry; where that is one too many, evicts others for it
    /// (`__nf_conntrack_alloc`, `early_drop`).
    fn make_room(&mut self, original: &KeyV4, now: Nanos) -> Result<(), NoConnection> {
        let max = self.engine.sysctls.max;
        // Relaxed: a number to compare with the limit; it orders nothing.
        let count = self.engine.count.fetch_add(1, Ordering::Relaxed) + 1;
        if max == 0 || count <= max {
            return Ok(());
        }
        let spared = Status::ASSURED | Status::DYING;
        let evictable = |entry: &Entry<KeyV4>| !entry.status().intersects(spared);
        let dropped = self
            .engine
            .table
            .early_drop(&mut self.table, original, now, &evictable);
        self.drain_removed(now);
        if dropped.evicted > 0 {
            self.counters
                .conntrack
                .early_drop
                .add(u64::from(dropped.evicted));
            self.changed_table = true;
            return Ok(());
        }
        // Relaxed: a wish for the next gc run.
        self.engine.early_drop_wanted.store(true, Ordering::Relaxed);
        self.uncount();
        Err(NoConnection::TableFull)
    }

    /// ICMP: errors belong to the connection whose packet they are about (`nf_conntrack_icmpv4_error`).
    /// True when the packet is done here.
    fn is_icmp_error(
        &mut self,
        packet: &mut Packet<'_>,
        header: &Ipv4Header,
        point: HookPoint,
        now: Nanos,
    ) -> bool {
        let verify =
            self.engine.sysctls.checksum && point == HookPoint::PreRouting && !packet.truncated;
        let related = match icmp::precheck(header, packet.bytes, verify) {
            Precheck::NotAnError => return false,
            Precheck::Failed => None,
            Precheck::Error { inner } => self.find_culprit(&inner, header, packet.mark.zone, now),
        };
        match related {
            Some(hit) => {
                packet.mark.connection = Some(hit.id);
                packet.mark.ctinfo = Some(match hit.direction {
                    Direction::Original => CtInfo::Related,
                    Direction::Reply => CtInfo::RelatedReply,
                });
            }
            None => self.counters.conntrack.error.increment(),
        }
        true
    }

    /// The connection that the embedded packet of an ICMP error belongs to, if the error
    /// goes to the one who sent that packet.
    fn find_culprit(
        &mut self,
        inner: &Tuple,
        outer: &Ipv4Header,
        zone: Zone,
        now: Nanos,
    ) -> Option<Hit> {
        let hit = self.find(&inner.invert()?, zone, now)?;
        let receiver = self
            .engine
            .table
            .slab()
            .entry(hit.id)
            .key(hit.direction)
            .tuple()
            .dst;
        if receiver == outer.dst {
            return Some(hit);
        }
        self.put(hit.id);
        None
    }
}

/// A packet's relation to the connection whose key it matched.
fn relation_of(entry: &Entry<KeyV4>, direction: Direction) -> CtInfo {
    let status = entry.status();
    match direction {
        Direction::Reply => CtInfo::EstablishedReply,
        Direction::Original if status.contains(Status::SEEN_REPLY) => CtInfo::Established,
        Direction::Original if status.contains(Status::EXPECTED) => CtInfo::Related,
        Direction::Original => CtInfo::New,
    }
}

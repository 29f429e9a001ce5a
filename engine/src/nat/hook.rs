//! The NAT hook: what happens to one packet at one of the four places where NAT looks at it.
//!
//! ```text
//! ICMP error about a connection      translate what it quotes, done
//! first packet, end not decided      rules, else null binding
//! otherwise                          masqueraded, and leaves by another device: drop
//! then                               rewrite this end, if the connection has it rewritten
//! ```
//! Rules are consulted for first packets only. A connection that began before a rule existed
//! is never translated by it.
//!
//! Source: `nf_nat_inet_fn`, `nf_nat_packet` (nf_nat_core.c), `nf_nat_ipv4_fn` (nf_nat_proto.c).

use super::icmp_error::{ErrorSubject, translate_error};
use super::netmap::netmap_range;
use super::range::{Manip, NatRange};
use super::rewrite::rewrite;
use super::rule_walk::{PacketFacts, WalkEnd};
use crate::engine::Worker;
use crate::hook::HookPoint;
use crate::host::DeviceIndex;
use crate::packet::ipv4::Ipv4Header;
use crate::packet::{DropReason, Packet, Verdict};
use crate::rules::NatTarget;
use crate::status::{CtInfo, Status};
use crate::table::FlowTable;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::EntryId;
use crate::time::Nanos;
use crate::tuple::Protocol;

/// Where a packet meets NAT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NatAt {
    /// The hook's place.
    pub(crate) point: HookPoint,
    /// The device that the packet came in by; none for packets of this host.
    pub(crate) in_device: Option<DeviceIndex>,
    /// The device that it leaves by, once it is routed.
    pub(crate) out_device: Option<DeviceIndex>,
}

impl<T: FlowTable<KeyV4>> Worker<'_, T> {
    /// The hook. `header` is the packet's as it is now; it is out of date afterwards.
    pub(crate) fn nat_hook(
        &mut self,
        packet: &mut Packet<'_>,
        header: &Ipv4Header,
        at: &NatAt,
        now: Nanos,
    ) -> Verdict {
        let (Some(id), Some(ctinfo)) = (packet.mark.connection, packet.mark.ctinfo) else {
            return Verdict::Accept;
        };
        if !self.engine.rules.has_nat() {
            return Verdict::Accept;
        }
        let manip = at.point.manip();
        if ctinfo.is_related() && header.protocol == Protocol::ICMP {
            return self.nat_error(packet, header, id, ctinfo, manip);
        }
        let may_be_first = matches!(ctinfo, CtInfo::New) || ctinfo.is_related();
        let status = self.engine.table.slab().entry(id).status();
        if may_be_first && !status.contains(manip.done_bit()) {
            let verdict = self.decide_nat(packet, header, id, at, now);
            if verdict != Verdict::Accept {
                return verdict;
            }
        } else if self.output_device_changed(id, ctinfo, at) {
            if let Some(traffic) = self.engine.table.slab().traffic(id, ctinfo.direction()) {
                traffic.add(1, header.total_length as u64);
            }
            self.kill(id, now);
            return Verdict::Drop(DropReason::Nat);
        }
        self.nat_packet(packet, header, id, ctinfo, manip)
    }

    /// Rules, and a null binding where none of them set anything up.
    fn decide_nat(
        &mut self,
        packet: &Packet<'_>,
        header: &Ipv4Header,
        id: EntryId,
        at: &NatAt,
        now: Nanos,
    ) -> Verdict {
        let engine = self.engine;
        let manip = at.point.manip();
        if let Some(chain) = engine.rules.nat_chain(at.point) {
            let facts = PacketFacts::new(
                packet.bytes,
                header,
                at.in_device,
                at.out_device,
                &engine.host,
            );
            let verdict = match engine.rules.walk(chain, &facts) {
                WalkEnd::Translate(target) => self.apply_target(target, id, header, at, now),
                WalkEnd::Accept => Verdict::Accept,
                WalkEnd::Drop => Verdict::Drop(DropReason::Rule),
            };
            let status = engine.table.slab().entry(id).status();
            if verdict != Verdict::Accept || status.contains(manip.done_bit()) {
                return verdict;
            }
        }
        self.null_binding(id, manip, now)
    }

    fn apply_target(
        &mut self,
        target: &NatTarget,
        id: EntryId,
        header: &Ipv4Header,
        at: &NatAt,
        now: Nanos,
    ) -> Verdict {
        let manip = at.point.manip();
        match target {
            NatTarget::Snat(to) => self.nat_setup(id, &NatRange::of_target(to), Manip::Source, now),
            NatTarget::Dnat(to) => {
                self.nat_setup(id, &NatRange::of_target(to), Manip::Destination, now)
            }
            NatTarget::Masquerade(ports) => self.masquerade(id, header, ports, at, now),
            NatTarget::Redirect(ports) => self.redirect(id, ports, at, now),
            NatTarget::Netmap { to, prefix } => {
                self.nat_setup(id, &netmap_range(header, *to, *prefix, manip), manip, now)
            }
            // The walk follows or ends at these by itself.
            NatTarget::Accept | NatTarget::Jump(_) | NatTarget::Goto(_) | NatTarget::Return => {
                Verdict::Accept
            }
            NatTarget::Drop => Verdict::Drop(DropReason::Rule),
        }
    }

    /// Rewrites this end of the packet, if its connection has it rewritten: to what packets
    /// of the opposite direction show, turned round.
    fn nat_packet(
        &self,
        packet: &mut Packet<'_>,
        header: &Ipv4Header,
        id: EntryId,
        ctinfo: CtInfo,
        manip: Manip,
    ) -> Verdict {
        let entry = self.engine.table.slab().entry(id);
        let direction = ctinfo.direction();
        if !entry.status().intersects(manip.nat_bit_of(direction)) {
            return Verdict::Accept;
        }
        let target = entry.key(direction.other()).tuple().invert();
        let rewritten =
            target.map(|target| rewrite(packet.bytes, header, &target, manip, packet.truncated));
        match rewritten {
            Some(Ok(())) => Verdict::Accept,
            _ => Verdict::Drop(DropReason::Nat),
        }
    }

    fn nat_error(
        &self,
        packet: &mut Packet<'_>,
        header: &Ipv4Header,
        id: EntryId,
        ctinfo: CtInfo,
        manip: Manip,
    ) -> Verdict {
        let entry = self.engine.table.slab().entry(id);
        let direction = ctinfo.direction();
        let subject = ErrorSubject {
            status: entry.status() & (Status::NAT_MASK | Status::NAT_DONE_MASK),
            direction,
            quoted: entry.key(direction.other()).tuple(),
        };
        match translate_error(packet.bytes, header, &subject, manip, packet.truncated) {
            Ok(()) => Verdict::Accept,
            Err(_) => Verdict::Drop(DropReason::Nat),
        }
    }
}

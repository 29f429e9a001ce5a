//! MASQUERADE: source NAT to the address of the device that the packet leaves by.
//!
//! The connection remembers the device; should its packets leave by another one later, the
//! connection is removed ([`Worker::output_device_changed`]).
//!
//! Source: `nf_nat_masquerade_ipv4` (nf_nat_masquerade.c), `nf_nat_oif_changed` (nf_nat.h).

use super::hook::NatAt;
use super::range::{Manip, NatRange};
use crate::addr::Addr;
use crate::engine::Worker;
use crate::hook::HookPoint;
use crate::packet::ipv4::Ipv4Header;
use crate::packet::{DropReason, Verdict};
use crate::rules::NatPorts;
use crate::status::{CtInfo, Status};
use crate::table::FlowTable;
use crate::table::key::KeyV4;
use crate::table::slab::EntryId;
use crate::time::Nanos;
use crate::tuple::Direction;

impl<T: FlowTable<KeyV4>> Worker<'_, T> {
    /// The target. A source of 0.0.0.0 (a DHCP client's) is left alone; a device without an
    /// address to give drops the packet.
    pub(crate) fn masquerade(
        &mut self,
        id: EntryId,
        header: &Ipv4Header,
        ports: &NatPorts,
        at: &NatAt,
        now: Nanos,
    ) -> Verdict {
        if header.src == Addr::UNSPECIFIED {
            return Verdict::Accept;
        }
        let leaving = at
            .out_device
            .and_then(|device| Some((device, self.engine.host.source_address(device)?)));
        let Some((device, address)) = leaving else {
            return Verdict::Drop(DropReason::Nat);
        };
        let entry = self.engine.table.slab().entry(id);
        if !entry.status().contains(Status::CONFIRMED) {
            entry.set_masquerade_device(device);
        }
        let range = NatRange::one_address_and_ports(address, ports);
        self.nat_setup(id, &range, Manip::Source, now)
    }

    /// Does a packet of a masqueraded connection leave by another device than the first one did?
    pub(crate) fn output_device_changed(&self, id: EntryId, ctinfo: CtInfo, at: &NatAt) -> bool {
        let recorded = self.engine.table.slab().entry(id).masquerade_device();
        at.point == HookPoint::PostRouting
            && ctinfo.direction() == Direction::Original
            && recorded != 0
            && at.out_device != Some(recorded)
    }
}

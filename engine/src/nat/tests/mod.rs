//! NAT as conformance asks for it: first packets on a gateway with a reference table. Numbers
//! in names are those of the kernel's observed cases.

mod choosing;
mod packets;
mod taking;
mod targets;

use proptest::prelude::*;

use super::hook::NatAt;
use super::lab::*;
use super::range::NatFlags;
use crate::addr::Addr;
use crate::config::KernelVersion;
use crate::hook::HookPoint;
use crate::packet::checksum::{checksum, fold, pseudo_header_v4, sum};
use crate::packet::ipv4::Ipv4Header;
use crate::packet::{DropReason, Verdict};
use crate::rules::{NatPorts, NatTarget, NatTo, Ruleset};
use crate::status::{CtInfo, Status};
use crate::table::FlowTable;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::EntryId;
use crate::time::SECOND;
use crate::tuple::{Direction, Protocol, Tuple};
use crate::zone::{Zone, ZoneDirections};

pub(super) const TCP: Protocol = Protocol::TCP;
pub(super) const UDP: Protocol = Protocol::UDP;
pub(super) const ESTABLISHED: u8 = 3;
pub(super) const FIN_WAIT: u8 = 4;
pub(super) const TIME_WAIT: u8 = 7;
pub(super) const CLOSE: u8 = 8;

pub(super) fn snat(range: Option<(u16, u16)>) -> Ruleset {
    rule(HookPoint::PostRouting, NatTarget::Snat(to(GATEWAY, range)))
}

pub(super) fn snat_with(ports: NatPorts) -> Ruleset {
    let target = NatTo {
        ports,
        ..to(GATEWAY, None)
    };
    rule(HookPoint::PostRouting, NatTarget::Snat(target))
}

/// The n-th client, on a port outside all ranges of these tests.
pub(super) fn client(protocol: Protocol, n: u16) -> Tuple {
    let [n1, n0] = n.to_be_bytes();
    tuple(protocol, ([10, 1, n1, n0], 50_000), (SERVER, 80))
}

/// A confirmed connection of another client to the same server, translated to `port`.
pub(super) fn occupy(
    lab: &mut Lab<'_>,
    protocol: Protocol,
    n: u16,
    port: u16,
    state: u8,
) -> EntryId {
    let id = lab.begin(&client(protocol, n));
    let reply = tuple(protocol, (SERVER, 80), (GATEWAY, port));
    lab.entry(id).set_reply(KeyV4::pack(&reply, 0));
    lab.entry(id)
        .set_status(Status::SRC_NAT | Status::SRC_NAT_DONE | Status::DST_NAT_DONE);
    lab.close(id, state, 2);
    assert!(lab.confirm(id));
    id
}

pub(super) fn sums_are_right(bytes: &[u8]) -> bool {
    let header = Ipv4Header::parse(bytes, false).unwrap();
    let l4 = header.l4(bytes);
    let pseudo = match header.protocol {
        Protocol::ICMP => 0,
        p => pseudo_header_v4(header.src.to_u32(), header.dst.to_u32(), p.0, l4.len()),
    };
    fold(sum(&bytes[..header.l4_offset])) == 0xffff && fold(sum(l4) + pseudo) == 0xffff
}

pub(super) fn masquerade() -> Ruleset {
    rule(
        HookPoint::PostRouting,
        NatTarget::Masquerade(NatPorts::default()),
    )
}

pub(super) fn leaving_by(device: u32) -> NatAt {
    NatAt {
        point: HookPoint::PostRouting,
        in_device: None,
        out_device: Some(device),
    }
}

//! A packet's path through the host: which hooks it passes, in which order.
//!
//! ```text
//! from a device:  PRE_ROUTING ─ route ┬ LOCAL_IN                        (for this host)
//!                                     └ FORWARD ─ POST_ROUTING          (passing through)
//! sent here:      LOCAL_OUT ─ route ─ POST_ROUTING ┬ out
//!                                                  └ PRE_ROUTING ─ …    (through `lo`, the same
//!                                                    packet, still carrying its connection)
//! ```
//! A packet can be stopped at any place ([`Worker::park`]) and sent on later
//! ([`Worker::resume`]), as a queue in the kernel would hold it: that is how races are
//! played out step by step.
//!
//! Source: `nf_hook_slow`; `ip_rcv`, `ip_forward`, `ip_local_out` for the order of places.

use crate::engine::Worker;
use crate::hook::{Hook, HookFunction, HookPoint, hooks_at};
use crate::host::{DeviceIndex, Host, LOOPBACK, Route};
use crate::nat::hook::NatAt;
use crate::nat::rule_walk::PacketFacts;
use crate::packet::ipv4::Ipv4Header;
use crate::packet::{DropReason, Mark, Origin, Packet, Verdict};
use crate::rules::RawTarget;
use crate::status::CtInfo;
use crate::table::key::KeyV4;
use crate::table::{FlowTable, Hit};
use crate::time::Nanos;
use crate::zone::Zone;

/// Where a packet is on its path.
#[derive(Clone, Debug)]
pub struct Journey {
    point: Option<HookPoint>,
    /// Hooks of this place that are behind it.
    passed: usize,
    in_device: Option<DeviceIndex>,
    out_device: Option<DeviceIndex>,
    /// It has left through `lo` and come back: it does not do so twice.
    came_back: bool,
}

/// A place to stop at: before the first hook of `point` with a priority above `priority`,
/// or at its end.
pub type Stop = (HookPoint, i32);

impl Journey {
    /// Starts at the packet's origin. What an earlier journey left in its mark is no longer
    /// held, so it is forgotten.
    ///
    /// In line always: left to the compiler, it is or is not by what changes elsewhere, at 30 instructions a packet.
    #[inline(always)]
    pub(crate) fn start(packet: &mut Packet<'_>, host: &Host) -> Journey {
        packet.mark = Mark::default();
        match packet.origin {
            Origin::Device(index) => Journey::at(HookPoint::PreRouting, Some(index), None),
            Origin::Local => {
                let out =
                    Ipv4Header::parse(packet.bytes, packet.truncated).map(|h| device_to(host, &h));
                Journey::at(HookPoint::LocalOut, None, out)
            }
        }
    }

    fn at(
        point: HookPoint,
        in_device: Option<DeviceIndex>,
        out_device: Option<DeviceIndex>,
    ) -> Journey {
        Journey {
            point: Some(point),
            passed: 0,
            in_device,
            out_device,
            came_back: false,
        }
    }

    /// Goes on to the place after this one, now that all hooks here are passed.
    fn next_point(&mut self, header: Option<&Ipv4Header>, host: &Host) -> Result<(), DropReason> {
        let came_back = self.came_back;
        *self = match self.point {
            Some(HookPoint::PreRouting) => match header.map(|h| (h, host.route(h.dst))) {
                Some((header, Route::Out(_))) if header.ttl <= 1 => {
                    return Err(DropReason::TtlExceeded);
                }
                Some((_, Route::Out(out))) => {
                    Journey::at(HookPoint::Forward, self.in_device, Some(out))
                }
                Some((_, Route::Local)) | None => {
                    Journey::at(HookPoint::LocalIn, self.in_device, None)
                }
            },
            Some(HookPoint::Forward) => Journey::at(HookPoint::PostRouting, None, self.out_device),
            // Destination NAT may have changed where it goes.
            Some(HookPoint::LocalOut) => {
                let out = header.map(|h| device_to(host, h)).or(self.out_device);
                Journey::at(HookPoint::PostRouting, None, out)
            }
            // A route may send what comes back through `lo` out through it again: the kernel goes
            // round until the time to live is used up, here the packet has left.
            Some(HookPoint::PostRouting) if self.out_device == Some(LOOPBACK) && !came_back => {
                Journey {
                    came_back: true,
                    ..Journey::at(HookPoint::PreRouting, Some(LOOPBACK), None)
                }
            }
            _ => Journey {
                point: None,
                ..self.clone()
            },
        };
        self.came_back |= came_back;
        Ok(())
    }
}

/// The device through which a packet that this host sends leaves.
fn device_to(host: &Host, header: &Ipv4Header) -> DeviceIndex {
    match host.route(header.dst) {
        Route::Local => LOOPBACK,
        Route::Out(index) => index,
    }
}

impl<T: FlowTable<KeyV4>> Worker<'_, T> {
    /// Sends a packet on its way, but only as far as `stop`. The journey to [`resume`](Worker::resume)
    /// it with, or `None` when it ended before (its verdict is set).
    ///
    /// A parked packet holds its connection; one that is never resumed never gives it back. It is
    /// resumed by the worker that parked it: that one answers to the table for what it holds.
    pub fn park(&mut self, packet: &mut Packet<'_>, stop: Stop, now: Nanos) -> Option<Journey> {
        self.engine.table.begin(&mut self.table);
        let mut journey = Journey::start(packet, &self.engine.host);
        let done = self.travel(packet, &mut journey, &mut None, Some(stop), now);
        self.engine.table.end(&mut self.table);
        (!done).then_some(journey)
    }

    /// Sends a packet that this worker parked on to the end of its path.
    pub fn resume(&mut self, packet: &mut Packet<'_>, mut journey: Journey, now: Nanos) {
        self.engine.table.begin(&mut self.table);
        self.travel(packet, &mut journey, &mut None, None, now);
        self.engine.table.end(&mut self.table);
    }

    /// Marks the unconfirmed connection of a parked packet as dying, as a clean-up of the
    /// namespace would (`nf_ct_iterate_cleanup_net`). True if it was not marked before.
    pub fn mark_dying(&mut self, packet: &Packet<'_>, now: Nanos) -> bool {
        packet.mark.connection.is_some_and(|id| self.kill(id, now))
    }

    /// Walks the path until its end (true) or until `stop`.
    pub(crate) fn travel(
        &mut self,
        packet: &mut Packet<'_>,
        journey: &mut Journey,
        found_before: &mut Option<Option<Hit>>,
        stop: Option<Stop>,
        now: Nanos,
    ) -> bool {
        if packet.bytes.first().is_some_and(|b| b >> 4 == 6) {
            self.counters.fates.accepted_other_family.increment();
            packet.verdict = Some(Verdict::Accept);
            return true;
        }
        let mut header = Ipv4Header::parse(packet.bytes, packet.truncated);
        let mut verdict = Verdict::Accept;
        while let Some(point) = journey.point {
            let next = hooks_at(point).nth(journey.passed);
            if is_stopped(stop, point, next) {
                return false;
            }
            verdict = match next {
                Some(hook) => {
                    journey.passed += 1;
                    self.run_hook(hook, packet, &mut header, journey, found_before, now)
                }
                None => match journey.next_point(header.as_ref(), &self.engine.host) {
                    Ok(()) => Verdict::Accept,
                    Err(reason) => Verdict::Drop(reason),
                },
            };
            if verdict != Verdict::Accept {
                break;
            }
        }
        self.finish(packet, verdict, now);
        true
    }

    fn run_hook(
        &mut self,
        hook: &Hook,
        packet: &mut Packet<'_>,
        header: &mut Option<Ipv4Header>,
        journey: &Journey,
        found_before: &mut Option<Option<Hit>>,
        now: Nanos,
    ) -> Verdict {
        match hook.function {
            HookFunction::Raw => {
                self.raw_hook(packet, header.as_ref(), journey);
                Verdict::Accept
            }
            HookFunction::ConntrackIn => {
                let verdict =
                    self.conntrack_in(packet, header.as_ref(), hook.point, found_before, now);
                // The template is used up, whatever came of it.
                packet.mark.zone = Zone::DEFAULT;
                verdict
            }
            HookFunction::DestinationNat | HookFunction::SourceNat => {
                let Some(before) = *header else {
                    return Verdict::Accept;
                };
                let at = NatAt {
                    point: hook.point,
                    in_device: journey.in_device,
                    out_device: journey.out_device,
                };
                let verdict = self.nat_hook(packet, &before, &at, now);
                // It may have rewritten addresses.
                *header = Ipv4Header::parse(packet.bytes, packet.truncated);
                verdict
            }
            HookFunction::Confirm => self.confirm_hook(packet, header.as_ref(), now),
        }
    }

    /// The raw table: NOTRACK, and the zone of connections to come.
    fn raw_hook(
        &mut self,
        packet: &mut Packet<'_>,
        header: Option<&Ipv4Header>,
        journey: &Journey,
    ) {
        let rules = &self.engine.rules.raw;
        if rules.is_empty() || packet.mark.connection.is_some() || packet.mark.ctinfo.is_some() {
            return;
        }
        let Some(header) = header else { return };
        let (input, output) = (journey.in_device, journey.out_device);
        let facts = PacketFacts::new(packet.bytes, header, input, output, &self.engine.host);
        let hit = rules.iter().find(|rule| rule.matches.matches(&facts));
        match hit.map(|rule| rule.target) {
            Some(RawTarget::NoTrack) => packet.mark.ctinfo = Some(CtInfo::Untracked),
            Some(RawTarget::Zone(zone)) => packet.mark.zone = zone,
            None => {}
        }
    }

    /// The packet is through: its connection is given back, its fate counted, once.
    fn finish(&mut self, packet: &mut Packet<'_>, verdict: Verdict, now: Nanos) {
        packet.verdict = Some(verdict);
        let fates = &self.counters.fates;
        let fate = match verdict {
            Verdict::Accept if packet.mark.connection.is_some() => &fates.accepted,
            Verdict::Accept if packet.mark.is_invalid() => &fates.accepted_invalid,
            Verdict::Accept => &fates.accepted_untracked,
            Verdict::Drop(DropReason::Clash) => &fates.dropped_clash,
            Verdict::Drop(DropReason::ChainTooLong) => &fates.dropped_chain_too_long,
            Verdict::Drop(DropReason::Dying) => &fates.dropped_dying,
            Verdict::Drop(DropReason::TableFull) => &fates.dropped_table_full,
            Verdict::Drop(DropReason::Tracker) => &fates.dropped_tracker,
            Verdict::Drop(DropReason::Nat) => &fates.dropped_nat,
            Verdict::Drop(DropReason::Rule) => &fates.dropped_rule,
            Verdict::Drop(DropReason::TtlExceeded) => &fates.dropped_ttl,
        };
        fate.increment();
        if let Some(id) = packet.mark.connection {
            self.put(id);
        }
        self.drain_removed(now);
    }
}

fn is_stopped(stop: Option<Stop>, point: HookPoint, next: Option<&'static Hook>) -> bool {
    stop.is_some_and(|(stop_point, priority)| {
        point == stop_point && next.is_none_or(|hook| hook.priority > priority)
    })
}

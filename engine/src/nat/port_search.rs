//! The port search: a bounded number of tries, and then the last one, taken or not.
//!
//! ```text
//! size of the range ≤ 128:   every port once, from the offset on
//!                   > 128:   128 tries from a random offset, then 64, 32, 16, 8 from others
//! ```
//! Nobody is told when all tries were taken: the connection keeps the last tuple tried, and
//! its first packet is dropped as a clash at confirm.
//!
//! Source: `nf_nat_l4proto_unique_tuple` (nf_nat_core.c).

use super::range::{Manip, NatFlags, NatRange};
use super::taken::Seeker;
use crate::engine::Worker;
use crate::table::FlowTable;
use crate::table::key::KeyV4;
use crate::time::Nanos;
use crate::tuple::{Protocol, Tuple};

/// Tries in the first round (`NF_NAT_MAX_ATTEMPTS`); each further round has half as many.
pub(crate) const ATTEMPTS_MAX: u32 = 128;
/// A round of fewer tries is the last.
const LAST_ROUND: u32 = 16;

/// The ports (ids) among which a search goes round, and where in the tuple they stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PortSpan {
    first: u16,
    /// How many; 65536 for all. An ICMP id range that is upside down wraps, as in the kernel.
    size: u32,
    place: Manip,
}

impl PortSpan {
    /// `None` where there is nothing to search: a protocol without ports, GRE without its
    /// helper, or a destination without a port range.
    fn of(tuple: &Tuple, range: &NatRange, manip: Manip) -> Option<PortSpan> {
        let specified = range.flags.contains(NatFlags::PROTO_SPECIFIED);
        let (min, max) = (range.min_port, range.max_port);
        match tuple.protocol {
            // The id is the same in both directions, so it is one place for both ends.
            Protocol::ICMP | Protocol::ICMPV6 => {
                let (min, max) = if specified { (min, max) } else { (0, u16::MAX) };
                Some(PortSpan {
                    first: min,
                    size: u32::from(max).wrapping_sub(min.into()).wrapping_add(1),
                    place: Manip::Source,
                })
            }
            p if p.has_ports() => {
                let (low, high) = match (specified, manip) {
                    (true, _) => (min.min(max), min.max(max)),
                    (false, Manip::Destination) => return None,
                    (false, Manip::Source) => port_class(tuple.src_key),
                };
                Some(PortSpan {
                    first: low,
                    size: u32::from(high - low) + 1,
                    place: manip,
                })
            }
            _ => None,
        }
    }

    fn current(&self, tuple: &Tuple) -> u16 {
        match self.place {
            Manip::Source => tuple.src_key,
            Manip::Destination => tuple.dst_key,
        }
    }

    fn put(&self, tuple: &mut Tuple, offset: u16) {
        let port = self
            .first
            .wrapping_add((u32::from(offset) % self.size) as u16);
        match self.place {
            Manip::Source => tuple.src_key = port,
            Manip::Destination => tuple.dst_key = port,
        }
    }
}

/// Ports of the same privilege as `port`: below 512 (which some services take for a
/// credential), below 1024, and the rest.
fn port_class(port: u16) -> (u16, u16) {
    match port {
        0..=511 => (1, 511),
        512..=1023 => (600, 1023),
        1024.. => (1024, 65535),
    }
}

impl<T: FlowTable<KeyV4>> Worker<'_, T> {
    /// The first free tuple that the search meets, or the last one that it tried.
    pub(crate) fn search_port(
        &mut self,
        seeker: &Seeker,
        mut tuple: Tuple,
        range: &NatRange,
        manip: Manip,
        now: Nanos,
    ) -> Tuple {
        let Some(span) = PortSpan::of(&tuple, range, manip) else {
            return tuple;
        };
        let mut offset = if range.flags.contains(NatFlags::OFFSET) {
            span.current(&tuple).wrapping_sub(range.base_port)
        } else if range.is_random() || manip == Manip::Source {
            self.rng.next_u16()
        } else {
            0
        };
        let mut attempts = span.size.min(ATTEMPTS_MAX);
        loop {
            for left in (1..=attempts).rev() {
                span.put(&mut tuple, offset);
                if !self.is_taken_harder(seeker, &tuple, left, now) {
                    return tuple;
                }
                offset = offset.wrapping_add(1);
            }
            if attempts >= span.size || attempts < LAST_ROUND {
                return tuple;
            }
            attempts /= 2;
            offset = self.rng.next_u16();
        }
    }
}

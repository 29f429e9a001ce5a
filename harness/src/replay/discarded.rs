//! Packets that the gateway discarded because their time to live had run out, and the
//! errors that it sent about them.
//!
//! The gateway's own "time exceeded" is in its capture like any other packet. In the kernel
//! it carries the connection of the packet that it is about from the start, so tracking
//! neither looks it up nor counts it (`icmp_glue_bits` calls `nf_ct_attach`; `nf_conntrack_in`
//! accepts a packet that has a connection). A replay must not look it up either: the
//! connection it is about may never have been confirmed.

use std::collections::VecDeque;

use clashtrack_engine::packet::ipv4::Ipv4Header;
use clashtrack_engine::tuple::{Protocol, Tuple};

/// Discarded packets that are remembered. The error follows its packet at once.
const REMEMBERED_MAX: usize = 64;

/// What an ICMP error quotes of a packet, enough to know it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Quoted {
    tuple: Tuple,
    /// The identification field of the IP header.
    ip_id: [u8; 2],
}

impl Quoted {
    fn of(bytes: &[u8]) -> Option<Quoted> {
        // An error quotes the beginning of a packet only.
        let header = Ipv4Header::parse(bytes, true)?;
        Some(Quoted {
            tuple: header.tuple(bytes)?,
            ip_id: [*bytes.get(4)?, *bytes.get(5)?],
        })
    }
}

/// The last packets that were discarded for their time to live.
#[derive(Clone, Debug, Default)]
pub(super) struct Discarded(VecDeque<Quoted>);

impl Discarded {
    /// This packet was discarded.
    pub(super) fn remember(&mut self, bytes: &[u8]) {
        if let Some(quoted) = Quoted::of(bytes) {
            if self.0.len() == REMEMBERED_MAX {
                self.0.pop_front();
            }
            self.0.push_back(quoted);
        }
    }

    /// Is this a "time exceeded" about one of them? Only who discarded a packet sends that.
    pub(super) fn is_reported_by(&self, header: &Ipv4Header, bytes: &[u8]) -> bool {
        const TIME_EXCEEDED: u8 = 11;
        const ICMP_HEADER_BYTES: usize = 8;
        if self.0.is_empty() || header.protocol != Protocol::ICMP || header.fragment_offset != 0 {
            return false;
        }
        let l4 = header.l4(bytes);
        l4.first() == Some(&TIME_EXCEEDED)
            && l4
                .get(ICMP_HEADER_BYTES..)
                .and_then(Quoted::of)
                .is_some_and(|quoted| self.0.contains(&quoted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(ip_id: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 9, 9, 9], 1)
            .udp(7, 8)
            .write(&mut bytes, &[0; 40])
            .unwrap();
        bytes[5] = ip_id;
        bytes
    }

    fn time_exceeded(about: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let why = etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit;
        etherparse::PacketBuilder::ipv4([10, 0, 0, 254], [10, 0, 0, 1], 64)
            .icmpv4(etherparse::Icmpv4Type::TimeExceeded(why))
            .write(&mut bytes, &about[..28])
            .unwrap();
        bytes
    }

    #[test]
    fn the_error_about_a_discarded_packet_is_known_and_others_are_not() {
        let mut discarded = Discarded::default();
        discarded.remember(&udp(5));
        for (about, known) in [(udp(5), true), (udp(6), false)] {
            let error = time_exceeded(&about);
            let header = Ipv4Header::parse(&error, false).unwrap();
            assert_eq!(discarded.is_reported_by(&header, &error), known);
        }
    }

    #[test]
    fn memory_of_discarded_packets_is_bounded() {
        let mut discarded = Discarded::default();
        for ip_id in 0..=255 {
            discarded.remember(&udp(ip_id));
        }
        assert_eq!(discarded.0.len(), REMEMBERED_MAX);
    }
}

//! Rewriting one end of a packet: address, port or id, and the checksums over them.
//!
//! Checksums are updated by what changed (RFC 1624), so a wrong one stays wrong, and a
//! packet that the capture cut short keeps a right one. SCTP's CRC is computed anew, and left
//! alone where bytes are missing.
//!
//! Writing the same end twice changes nothing the second time (loopback packets pass twice).
//!
//! Source: `nf_nat_ipv4_manip_pkt` and the `*_manip_pkt` functions of nf_nat_proto.c.

use super::range::Manip;
use crate::packet::checksum::{replace16, replace32};
use crate::packet::crc32c::crc32c;
use crate::packet::ipv4::{self, Ipv4Header};
use crate::tuple::{Protocol, Tuple};

/// The packet cannot be made what the connection needs it to be: it is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Untranslatable;

/// Bytes of a transport header that must be there to be rewritten; an ICMP error quotes as many.
const L4_BYTES_MIN: usize = 8;
/// Offsets of TCP's checksum, and the header length from which on it is there.
const TCP_CHECKSUM: usize = 16;
const TCP_HEADER_BYTES: usize = 20;
const UDP_CHECKSUM: usize = 6;
const SCTP_CHECKSUM: usize = 8;
const SCTP_HEADER_BYTES: usize = 12;
const ICMP_CHECKSUM: usize = 2;
const ICMP_ID: usize = 4;
const GRE_CALL_ID: usize = 6;

/// Writes the end `manip` of `target` into the packet. `bytes` start at the header that
/// `header` was read from; it may be a packet quoted in an ICMP error. `cut`: the capture cut
/// it short, so what is missing is nobody's fault.
pub(crate) fn rewrite(
    bytes: &mut [u8],
    header: &Ipv4Header,
    target: &Tuple,
    manip: Manip,
    cut: bool,
) -> Result<(), Untranslatable> {
    let (place, new_address) = match manip {
        Manip::Source => (ipv4::SRC, target.src.to_u32()),
        Manip::Destination => (ipv4::DST, target.dst.to_u32()),
    };
    let old_address = u32::from_be_bytes([
        bytes[place.start],
        bytes[place.start + 1],
        bytes[place.start + 2],
        bytes[place.start + 3],
    ]);
    // Only the first fragment has a transport header.
    if header.fragment_offset == 0 {
        let l4 = Transport {
            bytes: header.l4_mut(bytes),
            addresses: (old_address, new_address),
            target,
            manip,
            cut,
        };
        l4.rewrite(header.protocol)?;
    }
    let check = replace32(word(bytes, ipv4::CHECKSUM.start), old_address, new_address);
    put_word(bytes, ipv4::CHECKSUM.start, check);
    bytes[place].copy_from_slice(&new_address.to_be_bytes());
    Ok(())
}

/// The transport part, and what becomes of it.
struct Transport<'a> {
    bytes: &'a mut [u8],
    /// The address that changes, before and after: it is in the pseudo header.
    addresses: (u32, u32),
    target: &'a Tuple,
    manip: Manip,
    cut: bool,
}

impl Transport<'_> {
    fn rewrite(mut self, protocol: Protocol) -> Result<(), Untranslatable> {
        let has_keys = protocol.has_ports() || matches!(protocol, Protocol::ICMP | Protocol::GRE);
        if has_keys && self.bytes.len() < L4_BYTES_MIN && !self.cut {
            return Err(Untranslatable);
        }
        match protocol {
            Protocol::TCP if self.bytes.len() >= TCP_HEADER_BYTES => {
                let check = self.write_port(word(self.bytes, TCP_CHECKSUM));
                put_word(self.bytes, TCP_CHECKSUM, check);
            }
            Protocol::UDP | Protocol::UDPLITE if self.bytes.len() >= L4_BYTES_MIN => {
                self.rewrite_udp(protocol);
            }
            Protocol::SCTP => self.rewrite_sctp(),
            p if p.has_ports() => {
                self.write_port(0);
            }
            Protocol::ICMP => self.rewrite_icmp(),
            Protocol::GRE => return self.rewrite_gre(),
            _ => {}
        }
        Ok(())
    }

    /// Writes the port, as far as it is there; returns the checksum after the change of port
    /// and address.
    fn write_port(&mut self, check: u16) -> u16 {
        let (at, port) = match self.manip {
            Manip::Source => (0, self.target.src_key),
            Manip::Destination => (2, self.target.dst_key),
        };
        if self.bytes.len() < at + 2 {
            return check;
        }
        let old = word(self.bytes, at);
        put_word(self.bytes, at, port);
        let (old_address, new_address) = self.addresses;
        replace16(replace32(check, old_address, new_address), old, port)
    }

    /// UDP without a checksum (0) stays without; a sum that comes out as 0 is written as its
    /// other form. UDP-Lite always has one.
    fn rewrite_udp(&mut self, protocol: Protocol) {
        let old = word(self.bytes, UDP_CHECKSUM);
        let new = self.write_port(old);
        if old != 0 || protocol == Protocol::UDPLITE {
            put_word(
                self.bytes,
                UDP_CHECKSUM,
                if new == 0 { 0xffff } else { new },
            );
        }
    }

    fn rewrite_sctp(&mut self) {
        self.write_port(0);
        if self.bytes.len() < SCTP_HEADER_BYTES || self.cut {
            return;
        }
        let field = SCTP_CHECKSUM..SCTP_HEADER_BYTES;
        self.bytes[field.clone()].fill(0);
        let crc = crc32c(self.bytes.iter().copied());
        self.bytes[field].copy_from_slice(&crc.to_le_bytes());
    }

    /// The id of questions and answers; ICMP errors have none. Addresses are not summed.
    fn rewrite_icmp(&mut self) {
        let has_id = matches!(self.bytes.first(), Some(0 | 8 | 13..=18));
        if !has_id || self.bytes.len() < ICMP_ID + 2 {
            return;
        }
        let old = word(self.bytes, ICMP_ID);
        let check = replace16(word(self.bytes, ICMP_CHECKSUM), old, self.target.src_key);
        put_word(self.bytes, ICMP_CHECKSUM, check);
        put_word(self.bytes, ICMP_ID, self.target.src_key);
    }

    /// The call id of version 1 (PPTP) belongs to the destination; version 0 has no key;
    /// others are unknown.
    fn rewrite_gre(&mut self) -> Result<(), Untranslatable> {
        const VERSION: u8 = 0x07;
        if self.manip == Manip::Source {
            return Ok(());
        }
        match self.bytes.get(1).map(|flags| flags & VERSION) {
            None | Some(0) => Ok(()),
            Some(1) => {
                if self.bytes.len() >= GRE_CALL_ID + 2 {
                    put_word(self.bytes, GRE_CALL_ID, self.target.dst_key);
                }
                Ok(())
            }
            Some(_) => Err(Untranslatable),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put_word(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Addr, Family};
    use crate::packet::checksum::{checksum, fold, pseudo_header_v4, sum};
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn target(src: u32, dst: u32, keys: (u16, u16), protocol: Protocol) -> Tuple {
        Tuple {
            src: Addr::from_u32(src),
            dst: Addr::from_u32(dst),
            src_key: keys.0,
            dst_key: keys.1,
            family: Family::Ipv4,
            protocol,
        }
    }

    fn apply(bytes: &mut [u8], target: &Tuple, manip: Manip) -> Result<(), Untranslatable> {
        let header = Ipv4Header::parse(bytes, false).unwrap();
        rewrite(bytes, &header, target, manip, false)
    }

    /// All sums of a whole packet, computed anew.
    fn sums_are_right(bytes: &[u8]) -> bool {
        let header = Ipv4Header::parse(bytes, false).unwrap();
        let l4 = header.l4(bytes);
        let pseudo = match header.protocol {
            Protocol::ICMP => 0,
            p => pseudo_header_v4(header.src.to_u32(), header.dst.to_u32(), p.0, l4.len()),
        };
        fold(sum(&bytes[..header.l4_offset])) == 0xffff && fold(sum(l4) + pseudo) == 0xffff
    }

    fn packet(
        protocol: Protocol,
        ends: ([u8; 4], [u8; 4]),
        keys: (u16, u16),
        payload: &[u8],
    ) -> Vec<u8> {
        let builder = PacketBuilder::ipv4(ends.0, ends.1, 64);
        let mut bytes = Vec::new();
        match protocol {
            Protocol::TCP => builder
                .tcp(keys.0, keys.1, 7, 1024)
                .write(&mut bytes, payload),
            Protocol::UDP => builder.udp(keys.0, keys.1).write(&mut bytes, payload),
            _ => builder
                .icmpv4_echo_request(keys.0, 1)
                .write(&mut bytes, payload),
        }
        .unwrap();
        bytes
    }

    fn protocols() -> impl Strategy<Value = Protocol> {
        prop_oneof![
            Just(Protocol::TCP),
            Just(Protocol::UDP),
            Just(Protocol::ICMP)
        ]
    }

    proptest! {
        #[test]
        fn a_rewritten_packet_is_the_packet_that_would_have_been_built_so(
            protocol in protocols(), ends in any::<([u8; 4], [u8; 4])>(), keys in any::<(u16, u16)>(),
            new in any::<(u32, u32, u16, u16)>(), payload in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut bytes = packet(protocol, ends, keys, &payload);
            let t = target(new.0, new.1, (new.2, new.3), protocol);
            apply(&mut bytes, &t, Manip::Source).unwrap();
            prop_assert!(sums_are_right(&bytes), "after source: {bytes:x?}");
            apply(&mut bytes, &t, Manip::Destination).unwrap();
            prop_assert!(sums_are_right(&bytes), "after destination: {bytes:x?}");

            let new_ends = (t.src.as_v4().octets(), t.dst.as_v4().octets());
            let built = packet(protocol, new_ends, (new.2, new.3), &payload);
            prop_assert_eq!(bytes, built);
        }

        #[test]
        fn rewriting_twice_is_rewriting_once(
            protocol in protocols(), keys in any::<(u16, u16)>(), new in any::<(u32, u32, u16, u16)>(),
        ) {
            let mut bytes = packet(protocol, ([10, 0, 0, 1], [10, 0, 0, 2]), keys, b"payload");
            let t = target(new.0, new.1, (new.2, new.3), protocol);
            apply(&mut bytes, &t, Manip::Source).unwrap();
            let once = bytes.clone();
            apply(&mut bytes, &t, Manip::Source).unwrap();
            prop_assert_eq!(bytes, once);
        }

        #[test]
        fn no_bytes_make_rewriting_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..64), protocol in prop_oneof![Just(1u8), Just(6), Just(17), Just(47), Just(132), Just(136), any::<u8>()],
            source in any::<bool>(), cut in any::<bool>(), options in 5u8..8,
        ) {
            bytes[0] = 0x40 | options;
            bytes[9] = protocol;
            if let Some(header) = Ipv4Header::parse(&bytes, true) {
                let manip = if source { Manip::Source } else { Manip::Destination };
                let _ = rewrite(&mut bytes, &header, &target(1, 2, (3, 4), Protocol(protocol)), manip, cut);
            }
        }

        #[test]
        fn a_packet_that_was_cut_short_keeps_right_sums(
            protocol in prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP)], payload in proptest::collection::vec(any::<u8>(), 20..50),
            new in any::<(u32, u32, u16, u16)>(), kept in 40usize..48,
        ) {
            let mut whole = packet(protocol, ([10, 0, 0, 1], [10, 0, 0, 2]), (5, 6), &payload);
            let t = target(new.0, new.1, (new.2, new.3), protocol);
            let mut cut = whole[..kept].to_vec();
            let header = Ipv4Header::parse(&cut, true).unwrap();
            rewrite(&mut cut, &header, &t, Manip::Source, true).unwrap();
            apply(&mut whole, &t, Manip::Source).unwrap();
            prop_assert_eq!(&cut[..], &whole[..kept]);
        }
    }

    #[test]
    fn udp_without_a_checksum_stays_without_and_a_sum_of_zero_is_written_in_full() {
        let t = target(0x0a00_0009, 0, (4000, 0), Protocol::UDP);
        let mut bytes = packet(Protocol::UDP, ([10, 0, 0, 1], [10, 0, 0, 2]), (5, 6), b"x");
        bytes[26..28].fill(0);
        apply(&mut bytes, &t, Manip::Source).unwrap();
        assert_eq!(bytes[26..28], [0, 0]);
        assert_eq!(bytes[20..22], 4000u16.to_be_bytes());

        // The port that makes the sum come out as 0 is what the sum with port 0 shows.
        let mut bytes = packet(Protocol::UDP, ([10, 0, 0, 1], [10, 0, 0, 2]), (0, 6), b"x");
        let port = word(&bytes, 26);
        apply(
            &mut bytes,
            &target(0x0a00_0001, 0, (port, 0), Protocol::UDP),
            Manip::Source,
        )
        .unwrap();
        assert_eq!(bytes[26..28], [0xff, 0xff]);
        assert!(sums_are_right(&bytes));
    }

    #[test]
    fn quoted_tcp_of_eight_bytes_gets_its_port_and_fewer_bytes_are_refused() {
        let mut bytes = packet(Protocol::TCP, ([10, 0, 0, 1], [10, 0, 0, 2]), (5, 6), b"");
        let t = target(0x0a00_0009, 0, (4000, 0), Protocol::TCP);
        let header = Ipv4Header::parse(&bytes, true).unwrap();
        assert_eq!(
            rewrite(&mut bytes[..28], &header, &t, Manip::Source, false),
            Ok(())
        );
        assert_eq!(bytes[20..22], 4000u16.to_be_bytes());
        assert_eq!(
            rewrite(&mut bytes[..27], &header, &t, Manip::Source, false),
            Err(Untranslatable)
        );
        assert_eq!(
            rewrite(&mut bytes[..27], &header, &t, Manip::Source, true),
            Ok(())
        );
    }

    fn raw_packet(protocol: Protocol, l4: &[u8]) -> Vec<u8> {
        let mut bytes = vec![
            0x45,
            0,
            0,
            20 + l4.len() as u8,
            0,
            0,
            0,
            0,
            64,
            protocol.0,
            0,
            0,
        ];
        bytes.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        let check = checksum(&bytes, 0);
        put_word(&mut bytes, 10, check);
        bytes.extend(l4);
        bytes
    }

    #[test]
    fn sctp_gets_a_new_crc_over_the_whole_packet() {
        let mut bytes = raw_packet(
            Protocol::SCTP,
            &[0, 5, 0, 6, 1, 2, 3, 4, 9, 9, 9, 9, 3, 0, 0, 4],
        );
        apply(
            &mut bytes,
            &target(1, 0, (4000, 0), Protocol::SCTP),
            Manip::Source,
        )
        .unwrap();
        let mut l4 = bytes[20..].to_vec();
        assert_eq!(l4[..4], [0x0f, 0xa0, 0, 6]);
        let stored = u32::from_le_bytes(l4[8..12].try_into().unwrap());
        l4[8..12].fill(0);
        assert_eq!(stored, crc32c(l4));
    }

    #[test]
    fn gre_has_a_key_for_the_destination_of_version_one_only() {
        let t = target(1, 2, (0, 0x1234), Protocol::GRE);
        let gre = |version: u8| {
            raw_packet(
                Protocol::GRE,
                &[0x30, version, 0x88, 0x0b, 0, 0, 0xaa, 0xbb],
            )
        };
        let mut v1 = gre(1);
        apply(&mut v1, &t, Manip::Destination).unwrap();
        assert_eq!(v1[26..28], [0x12, 0x34]);
        let mut v0 = gre(0);
        apply(&mut v0, &t, Manip::Destination).unwrap();
        assert_eq!(v0[26..28], [0xaa, 0xbb]);
        assert_eq!(
            apply(&mut gre(2), &t, Manip::Destination),
            Err(Untranslatable)
        );
        assert_eq!(apply(&mut gre(2), &t, Manip::Source), Ok(()));
    }

    #[test]
    fn a_protocol_without_ports_gets_the_address_alone() {
        let mut bytes = raw_packet(Protocol(253), &[1, 2, 3]);
        apply(
            &mut bytes,
            &target(0xcb00_7101, 0, (0, 0), Protocol(253)),
            Manip::Source,
        )
        .unwrap();
        assert_eq!(bytes[12..16], [203, 0, 113, 1]);
        assert_eq!(bytes[20..], [1, 2, 3]);
        assert_eq!(fold(sum(&bytes[..20])), 0xffff);
    }
}

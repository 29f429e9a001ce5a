//! TCP segments as bytes: an IPv4 packet with right checksums, and back.
//!
//! As much of TCP as opening a connection needs. A receiver here does what a real one does:
//! it verifies both checksums, so a packet that NAT rewrote wrongly never arrives.
//!
//! Sources: RFC 791, RFC 9293; the options are those of a Linux SYN without timestamps.

use std::net::SocketAddrV4;

use clashtrack_engine::packet::checksum::{checksum, pseudo_header_v4};
use clashtrack_engine::packet::ipv4::Ipv4Header;
use clashtrack_engine::tuple::Protocol;

const IP_HEADER_BYTES: usize = 20;
const TCP_HEADER_BYTES: usize = 20;
const DONT_FRAGMENT: u8 = 0x40;
/// Linux's `ip_default_ttl`.
const TTL: u8 = 64;
/// A receive window that fits the field without scaling.
const WINDOW: u16 = 64_240;
/// MSS 1460, SACK permitted, window scale 7: both SYNs carry them.
const SYN_OPTIONS: [u8; 12] = [2, 4, 0x05, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7];

/// The control bits that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// A client's first segment.
    pub const SYN: Flags = Flags(0x02);
    /// A listener's answer to it.
    pub const SYN_ACK: Flags = Flags(0x12);
    /// Everything later.
    pub const ACK: Flags = Flags(0x10);
    /// A reset that answers a segment with an acknowledgement.
    pub const RST: Flags = Flags(0x04);
    /// A reset that answers a SYN.
    pub const RST_ACK: Flags = Flags(0x14);

    /// Is the RST bit set?
    #[must_use]
    pub const fn is_reset(self) -> bool {
        self.0 & Flags::RST.0 != 0
    }

    /// Is the SYN bit set?
    #[must_use]
    pub const fn is_syn(self) -> bool {
        self.0 & Flags::SYN.0 != 0
    }

    /// Is the ACK bit set?
    #[must_use]
    pub const fn is_ack(self) -> bool {
        self.0 & Flags::ACK.0 != 0
    }
}

/// A TCP segment without data, and its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Source address and port.
    pub src: SocketAddrV4,
    /// Destination address and port.
    pub dst: SocketAddrV4,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; 0 without the ACK bit.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
}

/// Why a packet is no segment that a host would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSegment {
    /// Not IPv4 with a whole TCP header.
    #[error("not an IPv4 packet with a whole TCP header")]
    Malformed,
    /// The checksum of the IP header or of the segment is wrong.
    #[error("a checksum is wrong")]
    Checksum,
}

impl Segment {
    /// The segment as an IPv4 packet.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let options: &[u8] = if self.flags.is_syn() {
            &SYN_OPTIONS
        } else {
            &[]
        };
        let tcp_bytes = TCP_HEADER_BYTES + options.len();
        let mut bytes = vec![0; IP_HEADER_BYTES + tcp_bytes];
        let (ip, tcp) = bytes.split_at_mut(IP_HEADER_BYTES);

        ip[0] = 0x45; // version 4, five words
        ip[2..4].copy_from_slice(&((IP_HEADER_BYTES + tcp_bytes) as u16).to_be_bytes());
        ip[6] = DONT_FRAGMENT;
        ip[8] = TTL;
        ip[9] = Protocol::TCP.0;
        ip[12..16].copy_from_slice(&self.src.ip().octets());
        ip[16..20].copy_from_slice(&self.dst.ip().octets());
        let header_check = checksum(ip, 0);
        ip[10..12].copy_from_slice(&header_check.to_be_bytes());

        tcp[0..2].copy_from_slice(&self.src.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.dst.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.to_be_bytes());
        tcp[12] = ((tcp_bytes / 4) as u8) << 4;
        tcp[13] = self.flags.0;
        tcp[14..16].copy_from_slice(&WINDOW.to_be_bytes());
        tcp[TCP_HEADER_BYTES..].copy_from_slice(options);
        let tcp_check = checksum(tcp, self.pseudo_header(tcp_bytes));
        tcp[16..18].copy_from_slice(&tcp_check.to_be_bytes());
        bytes
    }

    /// Reads a packet as a host does that receives it.
    ///
    /// # Errors
    /// [`BadSegment`]: what a host counts as a bad segment and discards.
    pub fn parse(bytes: &[u8]) -> Result<Segment, BadSegment> {
        let segment = Segment::read(bytes).ok_or(BadSegment::Malformed)?;
        let header = Ipv4Header::parse(bytes, false).ok_or(BadSegment::Malformed)?;
        let tcp = header.l4(bytes);
        // A sum over a right checksum comes out as zero.
        if checksum(&bytes[..header.l4_offset], 0) != 0
            || checksum(tcp, segment.pseudo_header(tcp.len())) != 0
        {
            return Err(BadSegment::Checksum);
        }
        Ok(segment)
    }

    fn read(bytes: &[u8]) -> Option<Segment> {
        let header = Ipv4Header::parse(bytes, false)?;
        let tcp: &[u8; TCP_HEADER_BYTES] = header.l4(bytes).first_chunk()?;
        if header.protocol != Protocol::TCP {
            return None;
        }
        let half = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
        Some(Segment {
            src: SocketAddrV4::new(header.src.as_v4(), half(0)),
            dst: SocketAddrV4::new(header.dst.as_v4(), half(2)),
            seq: word(4),
            ack: word(8),
            flags: Flags(tcp[13] & 0x17),
        })
    }

    fn pseudo_header(&self, tcp_bytes: usize) -> u64 {
        pseudo_header_v4(
            self.src.ip().to_bits(),
            self.dst.ip().to_bits(),
            Protocol::TCP.0,
            tcp_bytes,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segments() -> impl Strategy<Value = Segment> {
        let flags = prop_oneof![
            Just(Flags::SYN),
            Just(Flags::SYN_ACK),
            Just(Flags::ACK),
            Just(Flags::RST),
            Just(Flags::RST_ACK),
        ];
        (
            any::<(u32, u16)>(),
            any::<(u32, u16)>(),
            any::<(u32, u32)>(),
            flags,
        )
            .prop_map(|((src, sport), (dst, dport), (seq, ack), flags)| Segment {
                src: SocketAddrV4::new(src.into(), sport),
                dst: SocketAddrV4::new(dst.into(), dport),
                seq,
                ack,
                flags,
            })
    }

    proptest! {
        #[test]
        fn a_segment_comes_back_from_its_bytes(segment in segments()) {
            prop_assert_eq!(Segment::parse(&segment.to_bytes()), Ok(segment));
        }

        #[test]
        fn another_parser_finds_the_same_fields_and_right_checksums(segment in segments()) {
            let bytes = segment.to_bytes();
            let sliced = etherparse::SlicedPacket::from_ip(&bytes).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = sliced.net else { panic!("IPv4") };
            let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("TCP") };
            prop_assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
            prop_assert_eq!(tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), &[]).unwrap(), tcp.checksum());
            prop_assert_eq!((tcp.source_port(), tcp.destination_port()), (segment.src.port(), segment.dst.port()));
            prop_assert_eq!((tcp.syn(), tcp.ack(), tcp.rst()), (segment.flags.is_syn(), segment.flags.is_ack(), segment.flags.is_reset()));
        }

        #[test]
        fn a_flipped_bit_does_not_arrive(segment in segments(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = segment.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Segment::parse(&bytes).is_err(), "bit {} of byte {}", bit, at);
        }
    }
}

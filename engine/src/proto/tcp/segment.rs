//! A TCP segment as tracking sees it: lengths and flags checked once.
//!
//! After [`Segment::parse`] has returned `Some`, nothing about the segment can panic.
//! Lengths are those of the IP header, whatever a capture left of the packet.
//!
//! Source: `tcp_error`, `tcp_valid_flags`, `segment_seq_plus_len` (nf_conntrack_proto_tcp.c).

use bitflags::bitflags;

use super::state::TcpEvent;
use crate::packet::ipv4::Ipv4Header;

const MIN_HEADER_BYTES: usize = 20;

bitflags! {
    /// The flags of a TCP header (RFC 9293 3.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct HeaderFlags: u8 {
        /// No more data.
        const FIN = 0x01;
        /// Synchronize sequence numbers.
        const SYN = 0x02;
        /// Reset.
        const RST = 0x04;
        /// Push.
        const PSH = 0x08;
        /// The acknowledgement is one.
        const ACK = 0x10;
        /// The urgent pointer is one.
        const URG = 0x20;
        /// Congestion was experienced.
        const ECE = 0x40;
        /// Congestion window reduced.
        const CWR = 0x80;
    }
}

impl HeaderFlags {
    /// May these flags stand together (`tcp_valid_flags`; PSH, ECE and CWR do not matter)?
    #[must_use]
    pub fn are_valid(self) -> bool {
        const SYN: u8 = HeaderFlags::SYN.bits();
        const ACK: u8 = HeaderFlags::ACK.bits();
        const RST: u8 = HeaderFlags::RST.bits();
        const FIN: u8 = HeaderFlags::FIN.bits();
        const URG: u8 = HeaderFlags::URG.bits();
        let deciding = self - (Self::PSH | Self::ECE | Self::CWR);
        [
            SYN,
            SYN | URG,
            SYN | ACK,
            RST,
            RST | ACK,
            FIN | ACK,
            FIN | ACK | URG,
            ACK,
            ACK | URG,
        ]
        .contains(&deciding.bits())
    }

    fn event(self) -> TcpEvent {
        match self {
            f if f.contains(Self::RST) => TcpEvent::Rst,
            f if f.contains(Self::SYN | Self::ACK) => TcpEvent::SynAck,
            f if f.contains(Self::SYN) => TcpEvent::Syn,
            f if f.contains(Self::FIN) => TcpEvent::Fin,
            f if f.contains(Self::ACK) => TcpEvent::Ack,
            _ => TcpEvent::None,
        }
    }
}

/// Facts of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, whether the flag is set or not.
    pub ack: u32,
    /// The sequence number behind it: payload, SYN and FIN count.
    pub end: u32,
    /// Window as it stands in the header, not scaled.
    pub window: u16,
    /// Flags.
    pub flags: HeaderFlags,
    /// What it is to the state table.
    pub event: TcpEvent,
    /// The option bytes, as far as they are present.
    pub options: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Reads the segment. `None` where its 20 bytes are not there, its data offset is less
    /// than the header or beyond the packet, or its flags cannot stand together.
    #[must_use]
    pub fn parse(header: &Ipv4Header, bytes: &'a [u8]) -> Option<Segment<'a>> {
        let l4 = header.l4(bytes);
        let tcp: &[u8; MIN_HEADER_BYTES] = l4.first_chunk()?;
        let header_bytes = usize::from(tcp[12] >> 4) * 4;
        let payload_bytes = header.l4_length().checked_sub(header_bytes)?;
        let flags = HeaderFlags::from_bits_retain(tcp[13]);
        if header_bytes < MIN_HEADER_BYTES || !flags.are_valid() {
            return None;
        }
        let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
        let seq = word(4);
        let counted_flags = u32::from(flags.contains(HeaderFlags::SYN))
            + u32::from(flags.contains(HeaderFlags::FIN));
        Some(Segment {
            seq,
            ack: word(8),
            // An IP packet is less than 64 KiB: the cast loses nothing.
            end: seq.wrapping_add(payload_bytes as u32 + counted_flags),
            window: u16::from_be_bytes([tcp[14], tcp[15]]),
            flags,
            event: flags.event(),
            options: &l4[MIN_HEADER_BYTES..header_bytes.min(l4.len())],
        })
    }

    /// SYN is set.
    #[must_use]
    pub fn syn(&self) -> bool {
        self.flags.contains(HeaderFlags::SYN)
    }

    /// ACK is set.
    #[must_use]
    pub fn has_ack(&self) -> bool {
        self.flags.contains(HeaderFlags::ACK)
    }

    /// RST is set.
    #[must_use]
    pub fn rst(&self) -> bool {
        self.flags.contains(HeaderFlags::RST)
    }

    /// The window, at least 1: what a side is said to have offered by its first segment.
    #[must_use]
    pub fn window_or_one(&self) -> u32 {
        u32::from(self.window).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nine_sets_of_flags_are_valid_and_push_and_congestion_do_not_matter() {
        let valid: Vec<u8> = (0..=255u8)
            .filter(|&f| HeaderFlags::from_bits_retain(f).are_valid())
            .collect();
        assert_eq!(valid.len(), 9 * 8, "each with any of PSH, ECE and CWR");
        for (flags, name) in [
            (0x00, "NULL"),
            (0x01, "FIN"),
            (0x20, "URG"),
            (0x03, "SYN FIN"),
            (0x06, "SYN RST"),
            (0x08, "PSH"),
        ] {
            assert!(!valid.contains(&flags), "{name}");
        }
        for (flags, name) in [(0xc2, "SYN ECE CWR"), (0x18, "PSH ACK"), (0x22, "SYN URG")] {
            assert!(valid.contains(&flags), "{name}");
        }
    }

    #[test]
    fn the_first_flag_that_matters_names_the_event() {
        for (flags, event) in [
            (0x14, TcpEvent::Rst),
            (0x02, TcpEvent::Syn),
            (0x12, TcpEvent::SynAck),
            (0x11, TcpEvent::Fin),
            (0x38, TcpEvent::Ack),
            (0x08, TcpEvent::None),
        ] {
            assert_eq!(HeaderFlags::from_bits_retain(flags).event(), event);
        }
    }

    fn packet(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, 1000, 500)
            .ack(77)
            .fin()
            .options_raw(&[3, 3, 7, 0])
            .unwrap()
            .write(&mut bytes, payload)
            .unwrap();
        bytes
    }

    #[test]
    fn lengths_come_from_the_ip_header_when_the_capture_cut_the_packet() {
        let whole = packet(&[0; 100]);
        for kept in [44, 46, 144] {
            let bytes = &whole[..kept];
            let header = Ipv4Header::parse(bytes, true).unwrap();
            let segment = Segment::parse(&header, bytes).unwrap();
            assert_eq!(segment.end, 1000 + 100 + 1);
            assert_eq!((segment.seq, segment.ack, segment.window), (1000, 77, 500));
            let options_kept = (kept - 40).min(4);
            assert_eq!(segment.options, &[3, 3, 7, 0][..options_kept]);
        }
    }

    #[test]
    fn a_segment_whose_header_does_not_fit_is_none() {
        let parse = |bytes: &[u8]| {
            let header = Ipv4Header::parse(bytes, true).unwrap();
            Segment::parse(&header, bytes).is_some()
        };
        let good = packet(&[]);
        assert!(parse(&good));
        assert!(!parse(&good[..39]), "19 bytes of header");
        let mut small_offset = good.clone();
        small_offset[32] = 0x40;
        assert!(!parse(&small_offset));
        let mut far_offset = good;
        far_offset[32] = 0x70;
        assert!(!parse(&far_offset));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(mut bytes in proptest::collection::vec(any::<u8>(), 20..90), cut in any::<bool>()) {
            bytes[0] = 0x45;
            bytes[2] = 0;
            if let Some(header) = Ipv4Header::parse(&bytes, cut) {
                let _ = Segment::parse(&header, &bytes);
            }
        }
    }
}

//! The view of an IPv4 packet: lengths checked once, fields read where they are.
//!
//! After [`Ipv4Header::parse`] has returned `Some`, the whole network header is present and
//! `l4_offset <= total_length`; bytes beyond it must be asked for ([`Ipv4Header::l4`] returns
//! what is there, which may be less than `l4_length` if the capture was cut).
//!
//! Parsed by hand: on the fast path a general parser costs a third of the packet rate.
//! The tests hold it against `etherparse`.
//!
//! Source: RFC 791; `ipv4_get_l4proto` (nf_conntrack_core.c) for what tracking asks of it.

use std::ops::Range;

use crate::addr::{Addr, Family};
use crate::tuple::{Protocol, Tuple};

const MIN_HEADER_BYTES: usize = 20;
/// Field offsets.
pub const TTL: usize = 8;
/// Header checksum.
pub const CHECKSUM: Range<usize> = 10..12;
/// Source address.
pub const SRC: Range<usize> = 12..16;
/// Destination address.
pub const DST: Range<usize> = 16..20;

/// Facts of an IPv4 header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4Header {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Where the transport header starts: header length in bytes.
    pub l4_offset: usize,
    /// Bytes of the packet as its header says, the network header included.
    pub total_length: usize,
    /// Fragment offset in 8-byte units; not 0 for all fragments but the first.
    pub fragment_offset: u16,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Time to live.
    pub ttl: u8,
}

impl Ipv4Header {
    /// Reads the header. `None` where it is not IPv4, shorter than it says, or longer than the packet;
    /// unless it `may_be_cut`, also where bytes of the packet are missing.
    #[must_use]
    pub fn parse(bytes: &[u8], may_be_cut: bool) -> Option<Ipv4Header> {
        let header: &[u8; MIN_HEADER_BYTES] = bytes.first_chunk()?;
        let l4_offset = usize::from(header[0] & 0x0f) * 4;
        let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || l4_offset < MIN_HEADER_BYTES || bytes.len() < l4_offset {
            return None;
        }
        if total_length < l4_offset || (!may_be_cut && bytes.len() < total_length) {
            return None;
        }
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        let address = |at: usize| {
            Addr::from_u32(u32::from_be_bytes([
                header[at],
                header[at + 1],
                header[at + 2],
                header[at + 3],
            ]))
        };
        Some(Ipv4Header {
            src: address(SRC.start),
            dst: address(DST.start),
            protocol: Protocol(header[9]),
            l4_offset,
            total_length,
            fragment_offset: fragment & 0x1fff,
            more_fragments: fragment & 0x2000 != 0,
            ttl: header[TTL],
        })
    }

    /// One of several fragments, the first included (`ip_is_fragment`).
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.fragment_offset != 0 || self.more_fragments
    }

    /// Bytes of the transport part as the header says.
    #[must_use]
    pub fn l4_length(&self) -> usize {
        self.total_length - self.l4_offset
    }

    /// The transport part as far as it is present: padding behind the packet is left out,
    /// what a capture cut off is missing.
    #[must_use]
    pub fn l4<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[self.l4_offset..bytes.len().min(self.total_length)]
    }

    /// [`Ipv4Header::l4`], to be rewritten.
    pub fn l4_mut<'b>(&self, bytes: &'b mut [u8]) -> &'b mut [u8] {
        let end = bytes.len().min(self.total_length);
        &mut bytes[self.l4_offset..end]
    }

    /// The packet's tuple (`nf_ct_get_tuple`); `None` for a fragment that is not the first,
    /// for ports that are not there, and for GRE version 1 that is not PPTP's.
    #[must_use]
    pub fn tuple(&self, bytes: &[u8]) -> Option<Tuple> {
        if self.fragment_offset != 0 {
            return None;
        }
        let (src_key, dst_key) = self.l4_keys(self.l4(bytes))?;
        Some(Tuple {
            src: self.src,
            dst: self.dst,
            src_key,
            dst_key,
            family: Family::Ipv4,
            protocol: self.protocol,
        })
    }

    fn l4_keys(&self, l4: &[u8]) -> Option<(u16, u16)> {
        let word = |at: usize| Some(u16::from_be_bytes([*l4.get(at)?, *l4.get(at + 1)?]));
        match self.protocol {
            p if p.has_ports() => Some((word(0)?, word(2)?)),
            Protocol::ICMP => {
                // The whole 8-byte header must be there.
                l4.get(7)?;
                Some((word(4)?, word(0)?))
            }
            Protocol::GRE => self.gre_keys(l4),
            _ => Some((0, 0)),
        }
    }

    /// GRE: no keys but for version 1, which must be PPTP's; its source key comes from the
    /// PPTP helper's list, which is empty without the helper (`gre_pkt_to_tuple`).
    fn gre_keys(&self, l4: &[u8]) -> Option<(u16, u16)> {
        const VERSION: u8 = 0x07;
        const PPP: u16 = 0x880b;
        let Some(&[_, flags, p1, p0]) = l4.first_chunk::<4>() else {
            return Some((0, 0));
        };
        if flags & VERSION != 1 {
            return Some((0, 0));
        }
        if u16::from_be_bytes([p1, p0]) != PPP {
            return None;
        }
        let call_id = l4.get(6..8).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        Some((0, call_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_hand_made_parser_agrees_with_etherparse(
            src in any::<[u8; 4]>(), dst in any::<[u8; 4]>(), ttl in any::<u8>(),
            ports in any::<(u16, u16)>(), payload in proptest::collection::vec(any::<u8>(), 0..40), tcp in any::<bool>(),
        ) {
            let builder = etherparse::PacketBuilder::ipv4(src, dst, ttl);
            let mut bytes = Vec::new();
            if tcp {
                builder.tcp(ports.0, ports.1, 1, 1).write(&mut bytes, &payload).unwrap();
            } else {
                builder.udp(ports.0, ports.1).write(&mut bytes, &payload).unwrap();
            }
            let header = Ipv4Header::parse(&bytes, false).unwrap();
            let theirs = etherparse::Ipv4HeaderSlice::from_slice(&bytes).unwrap();
            prop_assert_eq!(header.total_length, usize::from(theirs.total_len()));
            prop_assert_eq!(header.l4_offset, theirs.slice().len());
            prop_assert_eq!(header.ttl, theirs.ttl());
            let tuple = header.tuple(&bytes).unwrap();
            prop_assert_eq!(tuple.src.as_v4(), theirs.source_addr());
            prop_assert_eq!(tuple.dst.as_v4(), theirs.destination_addr());
            prop_assert_eq!((tuple.src_key, tuple.dst_key), ports);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in any::<bool>()) {
            if let Some(header) = Ipv4Header::parse(&bytes, cut) {
                let _ = header.tuple(&bytes);
                let _ = header.l4(&bytes);
            }
        }
    }

    #[test]
    fn a_fragment_that_is_not_the_first_has_no_tuple() {
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ipv4([1; 4], [2; 4], 9)
            .udp(1, 2)
            .write(&mut bytes, &[0; 8])
            .unwrap();
        bytes[6] = 0x20; // more fragments, offset 0
        assert!(
            Ipv4Header::parse(&bytes, false)
                .unwrap()
                .tuple(&bytes)
                .is_some()
        );
        bytes[7] = 1;
        assert!(
            Ipv4Header::parse(&bytes, false)
                .unwrap()
                .tuple(&bytes)
                .is_none()
        );
    }
}

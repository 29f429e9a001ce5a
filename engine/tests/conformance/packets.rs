//! Packets for the cases, byte by byte, with checksums that are right.

use std::net::Ipv4Addr;

use clashtrack_engine::packet::checksum;
use clashtrack_engine::packet::ipv4::Ipv4Header;
use clashtrack_engine::tuple::{Protocol, Tuple};

/// An address from its four numbers.
pub const fn ip(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// A packet with an IPv4 header around a transport part.
pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: Protocol, l4: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol.0, 0, 0];
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    bytes.extend(l4);
    let length = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let check = checksum::checksum(&bytes[..20], 0);
    bytes[10..12].copy_from_slice(&check.to_be_bytes());
    bytes
}

fn pseudo(src: Ipv4Addr, dst: Ipv4Addr, protocol: Protocol, length: usize) -> u64 {
    checksum::pseudo_header_v4(src.to_bits(), dst.to_bits(), protocol.0, length)
}

/// TCP flags as bits.
pub const FIN: u8 = 1;
/// SYN.
pub const SYN: u8 = 2;
/// RST.
pub const RST: u8 = 4;
/// PSH.
pub const PSH: u8 = 8;
/// ACK.
pub const ACK: u8 = 16;
/// URG.
pub const URG: u8 = 32;
/// ECE.
pub const ECE: u8 = 64;
/// CWR.
pub const CWR: u8 = 128;

/// A TCP segment to be.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Flag bits.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window, unscaled.
    pub window: u16,
    /// Bytes of payload.
    pub length: usize,
}

/// A segment of these flags; window 65535, no payload.
pub fn segment(flags: u8, seq: u32, ack: u32) -> Segment {
    Segment {
        flags,
        seq,
        ack,
        window: 65535,
        length: 0,
    }
}

impl Segment {
    /// With payload.
    pub fn data(self, length: usize) -> Segment {
        Segment { length, ..self }
    }

    /// With another window.
    pub fn window(self, window: u16) -> Segment {
        Segment { window, ..self }
    }

    /// The packet.
    pub fn packet(&self, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Vec<u8> {
        let mut l4 = Vec::new();
        l4.extend(src.1.to_be_bytes());
        l4.extend(dst.1.to_be_bytes());
        l4.extend(self.seq.to_be_bytes());
        l4.extend(self.ack.to_be_bytes());
        l4.extend([0x50, self.flags]);
        l4.extend(self.window.to_be_bytes());
        l4.extend([0; 4]);
        l4.extend(std::iter::repeat_n(0x5a, self.length));
        let check = checksum::checksum(&l4, pseudo(src.0, dst.0, Protocol::TCP, l4.len()));
        l4[16..18].copy_from_slice(&check.to_be_bytes());
        ipv4(src.0, dst.0, Protocol::TCP, &l4)
    }
}

/// A UDP datagram.
pub fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), length: usize) -> Vec<u8> {
    let l4 = udp_l4(Protocol::UDP, src, dst, length);
    ipv4(src.0, dst.0, Protocol::UDP, &l4)
}

/// A UDP-Lite datagram with the sum that Linux 6.18 accepts (a pseudo header of protocol 17).
pub fn udplite(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), length: usize) -> Vec<u8> {
    let l4 = udp_l4(Protocol::UDP, src, dst, length);
    ipv4(src.0, dst.0, Protocol::UDPLITE, &l4)
}

fn udp_l4(
    summed_as: Protocol,
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    length: usize,
) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(src.1.to_be_bytes());
    l4.extend(dst.1.to_be_bytes());
    l4.extend((8 + length as u16).to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(std::iter::repeat_n(0x33, length));
    let check = checksum::checksum(&l4, pseudo(src.0, dst.0, summed_as, l4.len()));
    l4[6..8].copy_from_slice(&check.to_be_bytes());
    l4
}

/// An ICMP message: type, code, the four bytes after the checksum, the rest.
pub fn icmp(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    kind: u8,
    code: u8,
    rest: [u8; 4],
    body: &[u8],
) -> Vec<u8> {
    let mut l4 = vec![kind, code, 0, 0];
    l4.extend(rest);
    l4.extend(body);
    let check = checksum::checksum(&l4, 0);
    l4[2..4].copy_from_slice(&check.to_be_bytes());
    ipv4(src, dst, Protocol::ICMP, &l4)
}

/// An echo request (8) or reply (0), or another query.
pub fn query(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    icmp(src, dst, kind, 0, [high, low, 0, 1], &[7; 12])
}

/// "Port unreachable" about a packet.
pub fn unreachable(src: Ipv4Addr, dst: Ipv4Addr, about: &[u8]) -> Vec<u8> {
    icmp(src, dst, 3, 3, [0; 4], &about[..about.len().min(28)])
}

/// The tuple of a packet.
pub fn tuple(bytes: &[u8]) -> Tuple {
    Ipv4Header::parse(bytes, false)
        .expect("whole")
        .tuple(bytes)
        .expect("has a tuple")
}

/// Are all checksums of an IPv4 packet right (its own, and the transport's)?
pub fn checksums_hold(bytes: &[u8]) -> bool {
    let header = Ipv4Header::parse(bytes, false).expect("whole");
    let l4 = header.l4(bytes);
    let sum = match header.protocol {
        Protocol::TCP | Protocol::UDP => pseudo(
            header.src.as_v4(),
            header.dst.as_v4(),
            header.protocol,
            l4.len(),
        ),
        _ => 0,
    };
    checksum::checksum(&bytes[..header.l4_offset], 0) == 0 && checksum::checksum(l4, sum) == 0
}

//! Packets for the benches, byte by byte, with checksums that are right.

use std::net::Ipv4Addr;

use clashtrack_engine::packet::checksum;
use clashtrack_engine::packet::ipv4::Ipv4Header;
use clashtrack_engine::tuple::{Protocol, Tuple};

/// An address and a port.
pub type End = (Ipv4Addr, u16);

/// TCP flags as bits: FIN.
pub const FIN: u8 = 1;
/// SYN.
pub const SYN: u8 = 2;
/// ACK.
pub const ACK: u8 = 16;

/// A packet with an IPv4 header around a transport part; time to live 64.
#[must_use]
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

/// A UDP datagram with `length` bytes of payload.
#[must_use]
pub fn udp(src: End, dst: End, length: usize) -> Vec<u8> {
    let mut l4 = ports(src, dst);
    l4.extend((8 + length as u16).to_be_bytes());
    l4.extend([0, 0]);
    l4.resize(8 + length, 0x33);
    with_checksum(src.0, dst.0, Protocol::UDP, l4, 6)
}

/// A TCP segment without options; window 65535.
#[must_use]
pub fn tcp(src: End, dst: End, flags: u8, seq: u32, ack: u32, length: usize) -> Vec<u8> {
    let mut l4 = ports(src, dst);
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    l4.resize(20 + length, 0x5a);
    with_checksum(src.0, dst.0, Protocol::TCP, l4, 16)
}

fn ports(src: End, dst: End) -> Vec<u8> {
    let mut l4 = src.1.to_be_bytes().to_vec();
    l4.extend(dst.1.to_be_bytes());
    l4
}

fn with_checksum(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: Protocol,
    mut l4: Vec<u8>,
    at: usize,
) -> Vec<u8> {
    let pseudo = checksum::pseudo_header_v4(src.to_bits(), dst.to_bits(), protocol.0, l4.len());
    let check = checksum::checksum(&l4, pseudo);
    l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
    ipv4(src, dst, protocol, &l4)
}

/// The tuple of a packet.
///
/// # Panics
/// If the packet is not whole.
#[must_use]
pub fn tuple_of(bytes: &[u8]) -> Tuple {
    let header = Ipv4Header::parse(bytes, false).expect("a whole packet");
    header.tuple(bytes).expect("a packet with a tuple")
}

/// Are all checksums of a TCP or UDP packet right (its own, and the transport's)?
///
/// # Panics
/// If the packet is not whole.
#[must_use]
pub fn checksums_hold(bytes: &[u8]) -> bool {
    let header = Ipv4Header::parse(bytes, false).expect("a whole packet");
    let l4 = header.l4(bytes);
    let (src, dst) = (header.src.to_u32(), header.dst.to_u32());
    let pseudo = checksum::pseudo_header_v4(src, dst, header.protocol.0, l4.len());
    checksum::checksum(&bytes[..header.l4_offset], 0) == 0 && checksum::checksum(l4, pseudo) == 0
}

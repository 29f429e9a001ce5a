//! Link layers: where the network packet starts in a record, and what the link says about
//! the direction it travelled.
//!
//! Source: the registry of link types at tcpdump.org; IEEE 802.1Q and 802.1ad for tags;
//! RFC 826 for ARP.

use std::net::Ipv4Addr;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Broadcast or multicast: many stations take the frame.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

/// A link layer that can be taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkType {
    /// BSD loopback: the address family in the byte order of the machine (`LINKTYPE_NULL`, 0).
    Null,
    /// Ethernet, with or without 802.1Q tags (`LINKTYPE_ETHERNET`, 1).
    Ethernet,
    /// IP without any link header (`LINKTYPE_RAW`, 101, and the BSDs' 12 and 14).
    RawIp,
    /// IPv4 without any link header (`LINKTYPE_IPV4`, 228).
    RawIpv4,
    /// IPv6 without any link header (`LINKTYPE_IPV6`, 229).
    RawIpv6,
    /// OpenBSD loopback: the address family in network order (`LINKTYPE_LOOP`, 108).
    Loop,
    /// Linux "cooked" capture (`LINKTYPE_LINUX_SLL`, 113), as of the device `any`.
    Cooked,
    /// The same, version 2 (`LINKTYPE_LINUX_SLL2`, 276).
    Cooked2,
}

impl LinkType {
    /// All that are understood, for messages.
    pub const KNOWN_NAMES: &'static str =
        "Ethernet 1, raw IP 101, Linux cooked 113 and 276, loopback 0 and 108";

    /// The link type of a number in a file's header.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<LinkType> {
        Some(match number {
            0 => LinkType::Null,
            1 => LinkType::Ethernet,
            12 | 14 | 101 => LinkType::RawIp,
            108 => LinkType::Loop,
            113 => LinkType::Cooked,
            228 => LinkType::RawIpv4,
            229 => LinkType::RawIpv6,
            276 => LinkType::Cooked2,
            _ => return None,
        })
    }
}

/// What the link layer says about where a packet came from and went to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// Nothing (raw IP).
    Unknown,
    /// Both ends' addresses.
    Macs {
        /// Who sent the frame.
        source: Mac,
        /// Who was to take it.
        destination: Mac,
    },
    /// The capturing host sent it (cooked packet type 4).
    Sent,
    /// The capturing host received it, or overheard it (cooked packet types 0 to 3).
    Received,
    /// It never left the host.
    Loopback,
}

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network<'a> {
    /// An IPv4 packet, from its header; link padding may follow it.
    Ipv4(&'a [u8]),
    /// An IPv6 packet.
    Ipv6(&'a [u8]),
    /// An address resolution packet, if whole, and what its sender says of itself.
    Arp(Option<ArpClaim>),
    /// Something else, or less than a link header.
    Other,
}

/// "This address is mine": the sender's part of an ARP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArpClaim {
    /// Whose.
    pub mac: Mac,
    /// Which.
    pub address: Ipv4Addr,
}

/// A record, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Where it came from and went to.
    pub ends: Ends,
    /// What it carries.
    pub network: Network<'a>,
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and the number that was used for the outer tag before it.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

impl<'a> Frame<'a> {
    /// Takes a record's bytes apart. Never fails: what is too short carries [`Network::Other`].
    #[must_use]
    pub fn parse(link_type: LinkType, bytes: &'a [u8]) -> Frame<'a> {
        let parsed = match link_type {
            LinkType::Ethernet => ethernet(bytes),
            LinkType::Cooked => cooked(bytes),
            LinkType::Cooked2 => cooked2(bytes),
            LinkType::Null | LinkType::Loop => loopback(bytes),
            LinkType::RawIp => Some(Frame::bare(by_version(bytes))),
            LinkType::RawIpv4 => Some(Frame::bare(Network::Ipv4(bytes))),
            LinkType::RawIpv6 => Some(Frame::bare(Network::Ipv6(bytes))),
        };
        parsed.unwrap_or(Frame::bare(Network::Other))
    }

    const fn bare(network: Network<'a>) -> Frame<'a> {
        Frame {
            ends: Ends::Unknown,
            network,
        }
    }
}

fn by_version(bytes: &[u8]) -> Network<'_> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => Network::Ipv4(bytes),
        Some(6) => Network::Ipv6(bytes),
        _ => Network::Other,
    }
}

fn ethernet(bytes: &[u8]) -> Option<Frame<'_>> {
    let (destination, rest) = bytes.split_first_chunk::<6>()?;
    let (source, rest) = rest.split_first_chunk::<6>()?;
    let (ethertype, rest) = rest.split_first_chunk::<2>()?;
    let ends = if source == destination {
        // The loopback device is Ethernet with all addresses zero.
        Ends::Loopback
    } else {
        Ends::Macs {
            source: Mac(*source),
            destination: Mac(*destination),
        }
    };
    Some(Frame {
        ends,
        network: by_ethertype(u16::from_be_bytes(*ethertype), rest),
    })
}

fn by_ethertype(mut ethertype: u16, mut rest: &[u8]) -> Network<'_> {
    while TAGS.contains(&ethertype) {
        let Some((tag, behind)) = rest.split_first_chunk::<4>() else {
            return Network::Other;
        };
        ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        rest = behind;
    }
    match ethertype {
        ETHERTYPE_IPV4 => Network::Ipv4(rest),
        ETHERTYPE_IPV6 => Network::Ipv6(rest),
        ETHERTYPE_ARP => Network::Arp(arp(rest)),
        _ => Network::Other,
    }
}

/// The claim in an ARP packet for IPv4 over Ethernet; a probe (sender 0.0.0.0) claims nothing.
fn arp(bytes: &[u8]) -> Option<ArpClaim> {
    const IPV4_OVER_ETHERNET: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let (head, rest) = bytes.split_first_chunk::<6>()?;
    let (_operation, rest) = rest.split_first_chunk::<2>()?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let address = Ipv4Addr::from(*rest.first_chunk::<4>()?);
    (*head == IPV4_OVER_ETHERNET && !address.is_unspecified()).then_some(ArpClaim {
        mac: Mac(*mac),
        address,
    })
}

/// ```text
/// packet type 2 | device type 2 | address length 2 | address 8 | protocol 2
/// ```
fn cooked(bytes: &[u8]) -> Option<Frame<'_>> {
    let (head, rest) = bytes.split_first_chunk::<16>()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    Some(Frame {
        ends: cooked_ends(word(0), word(2)),
        network: by_ethertype(word(14), rest),
    })
}

/// ```text
/// protocol 2 | 0 2 | interface 4 | device type 2 | packet type 1 | address length 1 | address 8
/// ```
fn cooked2(bytes: &[u8]) -> Option<Frame<'_>> {
    let (head, rest) = bytes.split_first_chunk::<20>()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    Some(Frame {
        ends: cooked_ends(u16::from(head[10]), word(8)),
        network: by_ethertype(word(0), rest),
    })
}

fn cooked_ends(packet_type: u16, device_type: u16) -> Ends {
    const OUTGOING: u16 = 4;
    const ARPHRD_LOOPBACK: u16 = 772;
    match (packet_type, device_type) {
        (_, ARPHRD_LOOPBACK) => Ends::Loopback,
        (OUTGOING, _) => Ends::Sent,
        _ => Ends::Received,
    }
}

/// Four bytes of address family. Whose byte order does not matter: all numbers are below 256.
fn loopback(bytes: &[u8]) -> Option<Frame<'_>> {
    const AF_INET: u32 = 2;
    /// Linux, NetBSD and OpenBSD, FreeBSD, Darwin.
    const AF_INET6: [u32; 4] = [10, 24, 28, 30];
    let (family, rest) = bytes.split_first_chunk::<4>()?;
    let family = u32::from_be_bytes(*family).min(u32::from_le_bytes(*family));
    let network = match family {
        AF_INET => Network::Ipv4(rest),
        f if AF_INET6.contains(&f) => Network::Ipv6(rest),
        _ => Network::Other,
    };
    Some(Frame {
        ends: Ends::Loopback,
        network,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACKET: &[u8] = &[0x45, 0, 0, 20];
    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn ethernet_frame(behind: &[&[u8]]) -> Vec<u8> {
        [&[&B[..], &A[..]], behind].concat().concat()
    }

    #[test]
    fn ethernet_tells_both_ends() {
        let bytes = ethernet_frame(&[&[8, 0], PACKET]);
        let frame = Frame::parse(LinkType::Ethernet, &bytes);
        assert_eq!(frame.network, Network::Ipv4(PACKET));
        let ends = Ends::Macs {
            source: Mac(A),
            destination: Mac(B),
        };
        assert_eq!(frame.ends, ends);
    }

    #[test]
    fn tags_are_passed_over_one_or_two_deep() {
        let one = ethernet_frame(&[&[0x81, 0, 0, 7, 8, 0], PACKET]);
        let two = ethernet_frame(&[&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9, 8, 0], PACKET]);
        for bytes in [one, two] {
            let frame = Frame::parse(LinkType::Ethernet, &bytes);
            assert_eq!(frame.network, Network::Ipv4(PACKET));
        }
    }

    #[test]
    fn the_loopback_device_is_known_by_its_empty_addresses() {
        let bytes = [&[0; 12][..], &[8, 0], PACKET].concat();
        assert_eq!(
            Frame::parse(LinkType::Ethernet, &bytes).ends,
            Ends::Loopback
        );
    }

    #[test]
    fn cooked_captures_tell_the_direction_in_both_versions() {
        for (packet_type, ends) in [(0u8, Ends::Received), (3, Ends::Received), (4, Ends::Sent)] {
            let v1 = [&[0, packet_type, 0, 1, 0, 6][..], &[0; 8], &[8, 0], PACKET].concat();
            let v2 = [
                &[8, 0, 0, 0, 0, 0, 0, 2, 0, 1, packet_type, 6][..],
                &[0; 8],
                PACKET,
            ]
            .concat();
            for (link_type, bytes) in [(LinkType::Cooked, v1), (LinkType::Cooked2, v2)] {
                let frame = Frame::parse(link_type, &bytes);
                assert_eq!((frame.ends, frame.network), (ends, Network::Ipv4(PACKET)));
            }
        }
    }

    #[test]
    fn raw_and_loopback_links_find_the_packet() {
        for number in [12, 14, 101, 228] {
            let link_type = LinkType::from_number(number).unwrap();
            assert_eq!(
                Frame::parse(link_type, PACKET).network,
                Network::Ipv4(PACKET)
            );
        }
        for family in [[2, 0, 0, 0], [0, 0, 0, 2]] {
            let bytes = [&family[..], PACKET].concat();
            let frame = Frame::parse(LinkType::Null, &bytes);
            assert_eq!(
                (frame.ends, frame.network),
                (Ends::Loopback, Network::Ipv4(PACKET))
            );
        }
        let six = [0x60, 0, 0, 0];
        assert_eq!(
            Frame::parse(LinkType::RawIp, &six).network,
            Network::Ipv6(&six)
        );
    }

    #[test]
    fn an_arp_packet_claims_its_senders_address_and_a_probe_claims_none() {
        let arp = |address: [u8; 4]| {
            ethernet_frame(&[
                &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
                &A,
                &address,
                &B,
                &[10, 0, 0, 9],
            ])
        };
        let claim = ArpClaim {
            mac: Mac(A),
            address: [10, 0, 0, 1].into(),
        };
        let whole = arp([10, 0, 0, 1]);
        assert_eq!(
            Frame::parse(LinkType::Ethernet, &whole).network,
            Network::Arp(Some(claim))
        );
        let probe = arp([0; 4]);
        assert_eq!(
            Frame::parse(LinkType::Ethernet, &probe).network,
            Network::Arp(None)
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_link_parser_panic(number in 0u32..300, bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(link_type) = LinkType::from_number(number) {
                let _ = Frame::parse(link_type, &bytes);
            }
        }
    }
}

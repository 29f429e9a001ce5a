//! Which side of the gateway a captured packet was on: on its way in, or already through.
//!
//! It matters for packets whose time to live has run out. One that a gateway *received* with
//! TTL 1 was discarded there, before its connection could be confirmed; one that it *sent*
//! with TTL 1 has passed (`ip_forward` discards at TTL <= 1, before it decrements).
//!
//! Cooked captures say it themselves. On Ethernet the gateway must be found among the
//! addresses; [`Gateway`] learns as it goes, from three kinds of evidence:
//!
//! 1. ARP. A station says which addresses are its own. One that has spoken and takes packets
//!    for addresses that it has not claimed is a gateway, and so is one that sends packets from
//!    such addresses. A host with several addresses may use one before it has claimed it, so
//!    the two ends of a frame are compared by how many such packets they had.
//! 2. Where that is equal, time to live. Hosts send 32, 64, 128 or 255; a packet with another
//!    value has been forwarded, most often by the station that sent the frame. One packet
//!    proves nothing (traceroute), so the ends are compared by how many of each they sent.
//! 3. Nothing is known of either end: the packet counts as one on its way in.
//!
//! Between two gateways (a transit link) the capture cannot tell which of them tracks; a
//! user can ([`Gateway::with_mac`]).

use std::collections::HashMap;
use std::net::Ipv4Addr;

use clashtrack_engine::packet::ipv4::Ipv4Header;

use super::link::{ArpClaim, Ends, Mac};

/// Which part of its way a packet was on when it was captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leg {
    /// Towards the gateway: still to be forwarded. Also where nothing is known.
    In,
    /// Away from the gateway: forwarded already, or its own.
    Out,
    /// Within one host: never forwarded.
    Within,
}

/// Stations and addresses remembered at most; beyond, nothing new is learnt.
const REMEMBERED_MAX: usize = 65_536;

/// What has been learnt about the stations of a link.
#[derive(Debug, Default)]
pub struct Gateway {
    known: Option<Mac>,
    stations: HashMap<Mac, Station>,
    owners: HashMap<Ipv4Addr, Mac>,
}

#[derive(Debug, Default)]
struct Station {
    /// It has claimed an address by ARP.
    has_claimed: bool,
    /// Packets that it sent from, or took for, addresses that ARP does not show to be its own.
    foreign: u64,
    /// Packets that it sent with a time to live that no host starts with.
    forwarded: u64,
    /// Packets that it sent with one that hosts do start with.
    initial: u64,
}

impl Station {
    /// How much it looks like a gateway: by ARP, then by the balance of times to live.
    fn weight(&self) -> (u64, i64) {
        (self.foreign, self.forwarded as i64 - self.initial as i64)
    }
}

impl Gateway {
    /// The gateway is this station; nothing has to be learnt.
    #[must_use]
    pub fn with_mac(mac: Mac) -> Gateway {
        Gateway {
            known: Some(mac),
            ..Gateway::default()
        }
    }

    /// Learns from an ARP packet.
    pub fn claim(&mut self, claim: ArpClaim) {
        if self.known.is_some() {
            return;
        }
        if self.owners.len() < REMEMBERED_MAX {
            self.owners.insert(claim.address, claim.mac);
        }
        if let Some(station) = self.station(claim.mac) {
            station.has_claimed = true;
        }
    }

    /// Learns from a packet, and says which part of its way it was on.
    pub fn leg(&mut self, ends: Ends, header: &Ipv4Header) -> Leg {
        let (source, destination) = match ends {
            Ends::Unknown | Ends::Received => return Leg::In,
            Ends::Sent => return Leg::Out,
            Ends::Loopback => return Leg::Within,
            Ends::Macs {
                source,
                destination,
            } => (source, destination),
        };
        if let Some(known) = self.known {
            return if source == known { Leg::Out } else { Leg::In };
        }
        self.learn(source, destination, header);
        let weight = |mac: &Mac| self.stations.get(mac).map(Station::weight);
        let sender = weight(&source);
        // A group address is nobody's: what counts is whether a gateway sent it.
        let receiver = weight(&destination).unwrap_or_default();
        match sender {
            Some(sender) if sender > receiver && (sender.0 > 0 || sender.1 > 0) => Leg::Out,
            _ => Leg::In,
        }
    }

    fn learn(&mut self, source: Mac, destination: Mac, header: &Ipv4Header) {
        const INITIAL_TTLS: [u8; 4] = [32, 64, 128, 255];
        let from_foreign = self.is_foreign(source, header.src.as_v4());
        let initial = INITIAL_TTLS.contains(&header.ttl);
        if let Some(station) = self.station(source) {
            station.foreign += u64::from(from_foreign);
            station.initial += u64::from(initial);
            station.forwarded += u64::from(!initial);
        }
        let address = header.dst.as_v4();
        if destination.is_group() || address.is_multicast() || address.is_broadcast() {
            return;
        }
        let to_foreign = self.is_foreign(destination, address);
        if let Some(station) = self.station(destination) {
            station.foreign += u64::from(to_foreign);
        }
    }

    /// The station has said what is its own, and this is not among it.
    fn is_foreign(&self, mac: Mac, address: Ipv4Addr) -> bool {
        let speaks = self.stations.get(&mac).is_some_and(|s| s.has_claimed);
        speaks && self.owners.get(&address) != Some(&mac) && !address.is_unspecified()
    }

    fn station(&mut self, mac: Mac) -> Option<&mut Station> {
        if self.stations.len() >= REMEMBERED_MAX {
            return self.stations.get_mut(&mac);
        }
        Some(self.stations.entry(mac).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clashtrack_engine::addr::Addr;
    use clashtrack_engine::tuple::Protocol;

    const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
    const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const CLIENT_IP: [u8; 4] = [10, 0, 0, 11];
    const ROUTER_IP: [u8; 4] = [10, 0, 0, 1];
    const SERVER_IP: [u8; 4] = [198, 51, 100, 21];

    fn packet(src: [u8; 4], dst: [u8; 4], ttl: u8) -> Ipv4Header {
        Ipv4Header {
            src: Addr::v4(src.into()),
            dst: Addr::v4(dst.into()),
            protocol: Protocol::ICMP,
            l4_offset: 20,
            total_length: 28,
            fragment_offset: 0,
            more_fragments: false,
            ttl,
        }
    }

    fn between(source: Mac, destination: Mac) -> Ends {
        Ends::Macs {
            source,
            destination,
        }
    }

    #[test]
    fn arp_and_a_foreign_destination_prove_the_gateway_from_the_first_packet() {
        let mut gateway = Gateway::default();
        for (mac, address) in [(CLIENT, CLIENT_IP), (ROUTER, ROUTER_IP)] {
            gateway.claim(ArpClaim {
                mac,
                address: address.into(),
            });
        }
        let out = packet(CLIENT_IP, SERVER_IP, 1);
        assert_eq!(gateway.leg(between(CLIENT, ROUTER), &out), Leg::In);
        let back = packet(SERVER_IP, CLIENT_IP, 1);
        assert_eq!(gateway.leg(between(ROUTER, CLIENT), &back), Leg::Out);
    }

    #[test]
    fn without_arp_the_station_whose_packets_were_forwarded_is_the_gateway() {
        let mut gateway = Gateway::default();
        for _ in 0..3 {
            gateway.leg(between(CLIENT, ROUTER), &packet(CLIENT_IP, SERVER_IP, 64));
            gateway.leg(between(ROUTER, CLIENT), &packet(SERVER_IP, CLIENT_IP, 63));
        }
        let trace = packet(CLIENT_IP, SERVER_IP, 1);
        assert_eq!(gateway.leg(between(CLIENT, ROUTER), &trace), Leg::In);
        let last_hop = packet(SERVER_IP, CLIENT_IP, 1);
        assert_eq!(gateway.leg(between(ROUTER, CLIENT), &last_hop), Leg::Out);
    }

    #[test]
    fn a_client_that_only_traces_routes_is_not_taken_for_the_gateway() {
        let mut gateway = Gateway::default();
        gateway.leg(between(CLIENT, ROUTER), &packet(CLIENT_IP, SERVER_IP, 64));
        gateway.leg(between(ROUTER, CLIENT), &packet(SERVER_IP, CLIENT_IP, 63));
        let trace = packet(CLIENT_IP, SERVER_IP, 1);
        assert_eq!(gateway.leg(between(CLIENT, ROUTER), &trace), Leg::In);
    }

    #[test]
    fn a_gateway_that_the_user_names_is_believed() {
        let mut gateway = Gateway::with_mac(CLIENT);
        let packet = packet(CLIENT_IP, SERVER_IP, 64);
        assert_eq!(gateway.leg(between(CLIENT, ROUTER), &packet), Leg::Out);
        assert_eq!(gateway.leg(between(ROUTER, CLIENT), &packet), Leg::In);
    }

    #[test]
    fn what_the_capturing_host_sent_has_passed_and_a_bare_packet_has_not() {
        let mut gateway = Gateway::default();
        let packet = packet(SERVER_IP, CLIENT_IP, 1);
        assert_eq!(gateway.leg(Ends::Sent, &packet), Leg::Out);
        assert_eq!(gateway.leg(Ends::Received, &packet), Leg::In);
        assert_eq!(gateway.leg(Ends::Unknown, &packet), Leg::In);
        assert_eq!(gateway.leg(Ends::Loopback, &packet), Leg::Within);
    }
}

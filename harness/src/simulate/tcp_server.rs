//! The other end: a host that takes connections on every port, or on none.
//!
//! A SYN is answered with SYN/ACK, or with RST where nobody listens. Lost answers are not
//! repeated by its own timer: the client's next SYN brings another.
//!
//! Source: `tcp_v4_conn_request` (tcp_ipv4.c), `tcp_check_req` (tcp_minisocks.c),
//! `tcp_v4_send_reset`.

use std::collections::HashMap;
use std::net::SocketAddrV4;

use clashtrack_engine::random::WorkerRng;

use super::segment::{Flags, Segment};
use super::tcpext::HostCounters;

/// A connection as the listening side knows it: its own end, then the peer's.
type Ends = (SocketAddrV4, SocketAddrV4);

#[derive(Clone, Copy, Debug)]
struct Half {
    initial_seq: u32,
    peer_seq: u32,
    established: bool,
}

/// A host's listening side.
#[derive(Debug)]
pub struct Server {
    listens: bool,
    connections: HashMap<Ends, Half>,
    rng: WorkerRng,
}

impl Server {
    /// A server that answers every SYN, or one with nobody listening. `rng` draws its sequence numbers.
    #[must_use]
    pub fn new(listens: bool, rng: WorkerRng) -> Server {
        Server {
            listens,
            connections: HashMap::new(),
            rng,
        }
    }

    /// A segment arrives that belongs to no client of this host; gives the answer.
    pub fn receive(&mut self, segment: &Segment, counters: &mut HostCounters) -> Option<Segment> {
        if segment.flags.is_reset() {
            let ended = self.connections.remove(&(segment.dst, segment.src));
            if ended.is_some_and(|half| half.established) {
                counters.tcp.estab_resets += 1;
                counters.tcp.curr_estab -= 1;
            }
            return None;
        }
        let answer = if segment.flags.is_syn() && !segment.flags.is_ack() {
            self.on_syn(segment)
        } else {
            self.on_other(segment, counters)
        };
        if let Some(answer) = &answer {
            counters.tcp.out_segs += 1;
            counters.tcp.out_rsts += u64::from(answer.flags.is_reset());
        }
        answer
    }

    fn on_syn(&mut self, syn: &Segment) -> Option<Segment> {
        if !self.listens {
            return Some(reset(syn));
        }
        let rng = &mut self.rng;
        let half = self
            .connections
            .entry((syn.dst, syn.src))
            .or_insert_with(|| Half {
                initial_seq: rng.next_u32(),
                peer_seq: syn.seq,
                established: false,
            });
        if half.peer_seq != syn.seq {
            // Another client behind the same translated port. An open connection stays what it
            // is, and its peer is asked (a challenge ACK); a half-open one is the newer client's.
            if half.established {
                return Some(Segment {
                    src: syn.dst,
                    dst: syn.src,
                    seq: half.initial_seq.wrapping_add(1),
                    ack: half.peer_seq.wrapping_add(1),
                    flags: Flags::ACK,
                });
            }
            half.peer_seq = syn.seq;
        }
        // A repeated SYN gets the same answer again: a retransmission of it.
        Some(Segment {
            src: syn.dst,
            dst: syn.src,
            seq: half.initial_seq,
            ack: syn.seq.wrapping_add(1),
            flags: Flags::SYN_ACK,
        })
    }

    fn on_other(&mut self, segment: &Segment, counters: &mut HostCounters) -> Option<Segment> {
        let Some(half) = self.connections.get_mut(&(segment.dst, segment.src)) else {
            return Some(reset(segment));
        };
        let acknowledges = segment.flags == Flags::ACK
            && segment.ack == half.initial_seq.wrapping_add(1)
            && segment.seq == half.peer_seq.wrapping_add(1);
        if acknowledges && !half.established {
            half.established = true;
            counters.tcp.passive_opens += 1;
            counters.tcp.curr_estab += 1;
        }
        None
    }
}

/// The reset that answers a segment for which there is no socket (RFC 9293 3.10.7.1).
fn reset(segment: &Segment) -> Segment {
    let (seq, ack, flags) = if segment.flags.is_ack() {
        (segment.ack, 0, Flags::RST)
    } else {
        let syn = u32::from(segment.flags.is_syn());
        (0, segment.seq.wrapping_add(syn), Flags::RST_ACK)
    };
    Segment {
        src: segment.dst,
        dst: segment.src,
        seq,
        ack,
        flags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn segment(seq: u32, ack: u32, flags: Flags) -> Segment {
        Segment {
            src: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000),
            dst: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080),
            seq,
            ack,
            flags,
        }
    }

    #[test]
    fn a_handshake_opens_one_connection_however_often_the_syn_comes() {
        let mut counters = HostCounters::default();
        let mut server = Server::new(true, WorkerRng::new(1, 0));
        let syn = segment(9, 0, Flags::SYN);
        let first = server.receive(&syn, &mut counters).unwrap();
        let again = server.receive(&syn, &mut counters).unwrap();
        assert_eq!((first, first.ack, first.flags), (again, 10, Flags::SYN_ACK));
        let ack = segment(10, first.seq.wrapping_add(1), Flags::ACK);
        assert_eq!(server.receive(&ack, &mut counters), None);
        assert_eq!(server.receive(&ack, &mut counters), None);
        assert_eq!(
            (counters.tcp.passive_opens, counters.tcp.curr_estab),
            (1, 1)
        );
    }

    #[test]
    fn a_syn_is_reset_where_nobody_listens() {
        let mut counters = HostCounters::default();
        let mut server = Server::new(false, WorkerRng::new(1, 0));
        let answer = server
            .receive(&segment(9, 0, Flags::SYN), &mut counters)
            .unwrap();
        assert_eq!(
            (answer.seq, answer.ack, answer.flags),
            (0, 10, Flags::RST_ACK)
        );
        assert_eq!((counters.tcp.out_rsts, counters.tcp.out_segs), (1, 1));
    }

    #[test]
    fn a_segment_of_no_connection_is_reset_and_a_reset_is_not() {
        let mut counters = HostCounters::default();
        let mut server = Server::new(true, WorkerRng::new(1, 0));
        let answer = server
            .receive(&segment(9, 77, Flags::ACK), &mut counters)
            .unwrap();
        assert_eq!((answer.seq, answer.flags), (77, Flags::RST));
        assert_eq!(
            server.receive(&segment(9, 77, Flags::RST), &mut counters),
            None
        );
    }

    #[test]
    fn a_second_client_behind_the_port_of_an_open_connection_gets_no_syn_ack() {
        let mut counters = HostCounters::default();
        let mut server = Server::new(true, WorkerRng::new(1, 0));
        let first = server
            .receive(&segment(9, 0, Flags::SYN), &mut counters)
            .unwrap();
        server.receive(
            &segment(10, first.seq.wrapping_add(1), Flags::ACK),
            &mut counters,
        );
        let other = server
            .receive(&segment(500, 0, Flags::SYN), &mut counters)
            .unwrap();
        assert_eq!((other.flags, other.ack), (Flags::ACK, 10));
    }
}

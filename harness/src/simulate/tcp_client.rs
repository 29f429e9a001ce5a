//! A client's end of a connection, from connect() until it is established or given up.
//!
//! ```text
//! connect ─▶ SynSent ──SYN/ACK──▶ Established     stays open to the end
//!              │  ├─────RST─────▶ Failed(Refused)
//!              │  └──timer, out──▶ Failed(TimedOut)
//!              └─timer─▶ SYN again
//! ```
//! It neither sends nor keeps time: it says what to send and when to wake it.
//!
//! Source: `tcp_rcv_synsent_state_process` (tcp_input.c), `tcp_retransmit_timer` (tcp_timer.c).

use std::net::SocketAddrV4;

use clashtrack_engine::time::Nanos;

use super::schedule::{Expiry, SynRetries, SynTimer};
use super::segment::{Flags, Segment};
use super::tcpext::HostCounters;

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No answer to any SYN.
    TimedOut,
    /// The answer was a reset.
    Refused,
}

impl Failure {
    /// What connect() returns.
    #[must_use]
    pub const fn errno(self) -> &'static str {
        match self {
            Failure::TimedOut => "ETIMEDOUT",
            Failure::Refused => "ECONNREFUSED",
        }
    }
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// A SYN is on its way.
    SynSent,
    /// Open, since this moment.
    Established(Nanos),
    /// Given up, at this moment.
    Failed(Nanos, Failure),
}

/// What the client wants done after its timer fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Send this SYN again, and wake it after that time.
    SendAgain(Segment, Nanos),
    /// Nothing: it has given up, or was no longer waiting.
    Done,
}

/// One client.
#[derive(Clone, Debug)]
pub struct Client {
    local: SocketAddrV4,
    remote: SocketAddrV4,
    initial_seq: u32,
    opened_at: Nanos,
    timer: SynTimer,
    state: ClientState,
}

impl Client {
    /// connect(): counts it, and gives the first SYN with the time after which to wake the client.
    #[must_use]
    pub fn connect(
        local: SocketAddrV4,
        remote: SocketAddrV4,
        initial_seq: u32,
        limits: SynRetries,
        now: Nanos,
        counters: &mut HostCounters,
    ) -> (Client, Segment, Nanos) {
        let client = Client {
            local,
            remote,
            initial_seq,
            opened_at: now,
            timer: SynTimer::new(limits),
            state: ClientState::SynSent,
        };
        counters.tcp.active_opens += 1;
        counters.tcp.out_segs += 1;
        (client.clone(), client.syn(), client.timer.timeout())
    }

    /// Its own address and port.
    #[must_use]
    pub fn local(&self) -> SocketAddrV4 {
        self.local
    }

    /// Where it connects to, as it knows it.
    #[must_use]
    pub fn remote(&self) -> SocketAddrV4 {
        self.remote
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> ClientState {
        self.state
    }

    /// Time since connect().
    #[must_use]
    pub fn since_connect(&self, now: Nanos) -> Nanos {
        now - self.opened_at
    }

    /// Its timer fires.
    pub fn wake(&mut self, now: Nanos, counters: &mut HostCounters) -> Wake {
        if self.state != ClientState::SynSent {
            return Wake::Done; // answered meanwhile: the timer was stopped
        }
        counters.ext.timeouts += 1;
        match self.timer.expire(self.since_connect(now)) {
            Expiry::Retransmit => {
                counters.tcp.retrans_segs += 1;
                counters.ext.syn_retrans += 1;
                Wake::SendAgain(self.syn(), self.timer.timeout())
            }
            Expiry::GiveUp => {
                counters.ext.abort_on_timeout += 1;
                counters.tcp.attempt_fails += 1;
                self.state = ClientState::Failed(now, Failure::TimedOut);
                Wake::Done
            }
        }
    }

    /// A segment for it arrives; gives the answer, if there is one.
    pub fn receive(
        &mut self,
        segment: &Segment,
        now: Nanos,
        counters: &mut HostCounters,
    ) -> Option<Segment> {
        let answers_the_syn =
            segment.flags.is_ack() && segment.ack == self.initial_seq.wrapping_add(1);
        match self.state {
            // Of an older connection behind the same port: its owner is told that it is over.
            ClientState::SynSent if !answers_the_syn => {
                let resets = segment.flags.is_ack() && !segment.flags.is_reset();
                counters.tcp.out_segs += u64::from(resets);
                counters.tcp.out_rsts += u64::from(resets);
                resets.then(|| self.reset(segment.ack))
            }
            ClientState::SynSent if segment.flags.is_reset() => {
                counters.tcp.attempt_fails += 1;
                self.state = ClientState::Failed(now, Failure::Refused);
                None
            }
            ClientState::SynSent if segment.flags.is_syn() => {
                counters.tcp.curr_estab += 1;
                counters.tcp.out_segs += 1;
                self.state = ClientState::Established(now);
                Some(self.ack(segment.seq))
            }
            // The listener did not get the ACK, and asks again.
            ClientState::Established(_) if answers_the_syn && segment.flags.is_syn() => {
                counters.tcp.out_segs += 1;
                Some(self.ack(segment.seq))
            }
            _ => None,
        }
    }

    fn syn(&self) -> Segment {
        Segment {
            src: self.local,
            dst: self.remote,
            seq: self.initial_seq,
            ack: 0,
            flags: Flags::SYN,
        }
    }

    fn reset(&self, seq: u32) -> Segment {
        Segment {
            seq,
            flags: Flags::RST,
            ..self.syn()
        }
    }

    fn ack(&self, their_seq: u32) -> Segment {
        Segment {
            src: self.local,
            dst: self.remote,
            seq: self.initial_seq.wrapping_add(1),
            ack: their_seq.wrapping_add(1),
            flags: Flags::ACK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    use clashtrack_engine::time::SECOND;

    const LIMITS: SynRetries = SynRetries {
        retries: 6,
        linear: 0,
    };

    fn connected(counters: &mut HostCounters) -> (Client, Segment) {
        let local = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 41_000);
        let remote = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080);
        let (client, syn, timeout) = Client::connect(local, remote, u32::MAX, LIMITS, 0, counters);
        assert_eq!(timeout, SECOND);
        (client, syn)
    }

    fn answer(syn: &Segment, flags: Flags, ack: u32) -> Segment {
        Segment {
            src: syn.dst,
            dst: syn.src,
            seq: 5000,
            ack,
            flags,
        }
    }

    #[test]
    fn a_syn_ack_establishes_and_is_acknowledged_across_the_wrap_of_sequence_numbers() {
        let mut counters = HostCounters::default();
        let (mut client, syn) = connected(&mut counters);
        let ack = client
            .receive(&answer(&syn, Flags::SYN_ACK, 0), 3, &mut counters)
            .unwrap();
        assert_eq!((ack.seq, ack.ack, ack.flags), (0, 5001, Flags::ACK));
        assert_eq!(client.state(), ClientState::Established(3));
        assert_eq!(client.wake(SECOND, &mut counters), Wake::Done);
        assert_eq!(counters.ext.timeouts, 0);
    }

    #[test]
    fn an_answer_to_another_syn_does_not_end_the_waiting() {
        let mut counters = HostCounters::default();
        let (mut client, syn) = connected(&mut counters);
        let foreign = |flags| answer(&syn, flags, 77);
        assert_eq!(
            client.receive(&foreign(Flags::RST_ACK), 3, &mut counters),
            None
        );
        let reset = client
            .receive(&foreign(Flags::ACK), 3, &mut counters)
            .unwrap();
        assert_eq!((reset.seq, reset.flags), (77, Flags::RST));
        assert_eq!(client.state(), ClientState::SynSent);
    }

    #[test]
    fn a_reset_is_connection_refused() {
        let mut counters = HostCounters::default();
        let (mut client, syn) = connected(&mut counters);
        client.receive(&answer(&syn, Flags::RST_ACK, 0), 3, &mut counters);
        assert_eq!(client.state(), ClientState::Failed(3, Failure::Refused));
        assert_eq!(counters.tcp.attempt_fails, 1);
    }

    #[test]
    fn seven_unanswered_syns_count_as_the_live_kernel_counts_them() {
        let mut counters = HostCounters::default();
        let (mut client, _) = connected(&mut counters);
        let mut now = SECOND;
        while let Wake::SendAgain(_, timeout) = client.wake(now, &mut counters) {
            now += timeout;
        }
        assert_eq!(
            client.state(),
            ClientState::Failed(127 * SECOND, Failure::TimedOut)
        );
        assert_eq!((counters.ext.timeouts, counters.ext.syn_retrans), (7, 6));
        assert_eq!((counters.tcp.out_segs, counters.tcp.retrans_segs), (1, 6));
        assert_eq!(
            (counters.ext.abort_on_timeout, counters.tcp.attempt_fails),
            (1, 1)
        );
    }
}

//! The states of a TCP connection and the table that leads from one to the next.
//!
//! Source: `tcp_conntracks` and `get_conntrack_index` (nf_conntrack_proto_tcp.c),
//! uapi `nf_conntrack_tcp.h`.

use std::fmt;

use crate::tuple::Direction;

/// State of a TCP connection (`enum tcp_conntrack`); the numbers are the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum TcpConntrackState {
    /// No packet yet.
    #[default]
    None = 0,
    /// The first side sent a SYN.
    SynSent = 1,
    /// The other side answered it with a SYN/ACK.
    SynRecv = 2,
    /// The handshake is complete, or the connection was picked up from the middle.
    Established = 3,
    /// One side sent a FIN.
    FinWait = 4,
    /// That FIN was acknowledged.
    CloseWait = 5,
    /// Both sides sent a FIN.
    LastAck = 6,
    /// The last FIN was acknowledged.
    TimeWait = 7,
    /// A reset ended it.
    Close = 8,
    /// Both sides sent a SYN.
    SynSent2 = 9,
}

impl TcpConntrackState {
    /// All states, by number.
    pub const ALL: [TcpConntrackState; 10] = [
        Self::None,
        Self::SynSent,
        Self::SynRecv,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::LastAck,
        Self::TimeWait,
        Self::Close,
        Self::SynSent2,
    ];

    /// The state of a number (`TrackerCell::public_state` of a TCP connection); `None` (the
    /// state) for numbers that no state has.
    #[must_use]
    pub const fn from_number(number: u8) -> TcpConntrackState {
        if (number as usize) < Self::ALL.len() {
            Self::ALL[number as usize]
        } else {
            Self::None
        }
    }

    /// The kernel's number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name as `conntrack -L` prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::SynSent2 => "SYN_SENT2",
        }
    }

    /// May the NAT port search evict a connection in this state (number >= TIME_WAIT:
    /// TIME_WAIT, CLOSE and, by its number, SYN_SENT2)?
    #[must_use]
    pub const fn is_closing_for_nat(self) -> bool {
        self.number() >= Self::TimeWait.number()
    }

    /// May a full table drop a connection in this state although it is ASSURED
    /// (`tcp_can_early_drop`)? A reset is also believed in these states without looking
    /// at its numbers.
    #[must_use]
    pub const fn is_closable(self) -> bool {
        matches!(
            self,
            Self::FinWait | Self::CloseWait | Self::LastAck | Self::TimeWait | Self::Close
        )
    }
}

impl fmt::Display for TcpConntrackState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a segment is to the table (`enum tcp_bit_set`); the first flag that matches decides,
/// in the order RST, SYN, FIN, ACK.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum TcpEvent {
    /// SYN without ACK.
    Syn = 0,
    /// SYN with ACK.
    SynAck = 1,
    /// FIN.
    Fin = 2,
    /// ACK and none of the others.
    Ack = 3,
    /// RST.
    Rst = 4,
    /// None of the flags.
    None = 5,
}

impl TcpEvent {
    /// All events, by number.
    pub const ALL: [TcpEvent; 6] = [
        Self::Syn,
        Self::SynAck,
        Self::Fin,
        Self::Ack,
        Self::Rst,
        Self::None,
    ];

    /// The event of a number; `None` (the event) for numbers that no event has.
    #[must_use]
    pub const fn from_number(number: u8) -> TcpEvent {
        if (number as usize) < Self::ALL.len() {
            Self::ALL[number as usize]
        } else {
            Self::None
        }
    }
}

/// What the table says about an event in a state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transition {
    /// The connection moves to this state, if the segment holds.
    To(TcpConntrackState),
    /// The packet passes and changes nothing: it may be an attack, or we may be out of step.
    Ignore,
    /// The packet is INVALID.
    Invalid,
}

/// The table's answer to `event`, seen in `direction`, in `state`.
#[must_use]
pub const fn transition(
    direction: Direction,
    event: TcpEvent,
    state: TcpConntrackState,
) -> Transition {
    let table = match direction {
        Direction::Original => &ORIGINAL,
        Direction::Reply => &REPLY,
    };
    table[event as usize][state as usize]
}

type Table = [[Transition; 10]; 6];

// The columns' names are those of the states, as short as the table needs them.
const SS: Transition = Transition::To(TcpConntrackState::SynSent);
const SR: Transition = Transition::To(TcpConntrackState::SynRecv);
const ES: Transition = Transition::To(TcpConntrackState::Established);
const FW: Transition = Transition::To(TcpConntrackState::FinWait);
const CW: Transition = Transition::To(TcpConntrackState::CloseWait);
const LA: Transition = Transition::To(TcpConntrackState::LastAck);
const TW: Transition = Transition::To(TcpConntrackState::TimeWait);
const CL: Transition = Transition::To(TcpConntrackState::Close);
const S2: Transition = Transition::To(TcpConntrackState::SynSent2);
const IG: Transition = Transition::Ignore;
const IV: Transition = Transition::Invalid;

#[rustfmt::skip]
const ORIGINAL: Table = [
    //          NONE SS  SR  ES  FW  CW  LA  TW  CL  S2
    /* SYN    */ [SS, SS, IG, IG, IG, IG, IG, SS, SS, S2],
    /* SYNACK */ [IV, IV, SR, IV, IV, IV, IV, IV, IV, SR],
    /* FIN    */ [IV, IV, FW, FW, LA, LA, LA, TW, CL, IV],
    /* ACK    */ [ES, IV, ES, ES, CW, CW, TW, TW, CL, IV],
    /* RST    */ [IV, CL, CL, CL, CL, CL, CL, CL, CL, CL],
    /* none   */ [IV, IV, IV, IV, IV, IV, IV, IV, IV, IV],
];

#[rustfmt::skip]
const REPLY: Table = [
    //          NONE SS  SR  ES  FW  CW  LA  TW  CL  S2
    /* SYN    */ [IV, S2, IV, IV, IV, IV, IV, SS, IV, S2],
    /* SYNACK */ [IV, SR, IG, IG, IG, IG, IG, IG, IG, SR],
    /* FIN    */ [IV, IV, FW, FW, LA, LA, LA, TW, CL, IV],
    /* ACK    */ [IV, IG, SR, ES, CW, CW, TW, TW, CL, IG],
    /* RST    */ [IV, CL, CL, CL, CL, CL, CL, CL, CL, CL],
    /* none   */ [IV, IV, IV, IV, IV, IV, IV, IV, IV, IV],
];

#[cfg(test)]
mod tests {
    use super::*;

    /// One line an event, one word a cell, in the order of the states' numbers.
    fn assert_table(direction: Direction, cells: &str) {
        let rows: Vec<&str> = cells.lines().map(str::trim).collect();
        assert_eq!(rows.len(), TcpEvent::ALL.len());
        for (row, event) in rows.iter().zip(TcpEvent::ALL) {
            let words: Vec<&str> = row.split_whitespace().collect();
            assert_eq!(words.len(), TcpConntrackState::ALL.len(), "{row}");
            for (word, state) in words.iter().zip(TcpConntrackState::ALL) {
                let written = match transition(direction, event, state) {
                    Transition::Ignore => "IGN",
                    Transition::Invalid => "INV",
                    Transition::To(next) => next.name(),
                };
                assert_eq!(&written, word, "{direction:?} {event:?} in {state}");
            }
        }
    }

    #[test]
    fn every_cell_of_the_original_side_leads_where_the_kernel_says() {
        assert_table(
            Direction::Original,
            "SYN_SENT SYN_SENT IGN IGN IGN IGN IGN SYN_SENT SYN_SENT SYN_SENT2
             INV INV SYN_RECV INV INV INV INV INV INV SYN_RECV
             INV INV FIN_WAIT FIN_WAIT LAST_ACK LAST_ACK LAST_ACK TIME_WAIT CLOSE INV
             ESTABLISHED INV ESTABLISHED ESTABLISHED CLOSE_WAIT CLOSE_WAIT TIME_WAIT TIME_WAIT CLOSE INV
             INV CLOSE CLOSE CLOSE CLOSE CLOSE CLOSE CLOSE CLOSE CLOSE
             INV INV INV INV INV INV INV INV INV INV",
        );
    }

    #[test]
    fn every_cell_of_the_reply_side_leads_where_the_kernel_says() {
        assert_table(
            Direction::Reply,
            "INV SYN_SENT2 INV INV INV INV INV SYN_SENT INV SYN_SENT2
             INV SYN_RECV IGN IGN IGN IGN IGN IGN IGN SYN_RECV
             INV INV FIN_WAIT FIN_WAIT LAST_ACK LAST_ACK LAST_ACK TIME_WAIT CLOSE INV
             INV IGN SYN_RECV ESTABLISHED CLOSE_WAIT CLOSE_WAIT TIME_WAIT TIME_WAIT CLOSE IGN
             INV CLOSE CLOSE CLOSE CLOSE CLOSE CLOSE CLOSE CLOSE CLOSE
             INV INV INV INV INV INV INV INV INV INV",
        );
    }

    #[test]
    fn numbers_and_states_stand_for_each_other() {
        for (number, state) in TcpConntrackState::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(state.number()), number);
            assert_eq!(TcpConntrackState::from_number(number as u8), state);
        }
        assert_eq!(
            TcpConntrackState::from_number(10),
            TcpConntrackState::None,
            "a number of no state"
        );
        for (number, event) in TcpEvent::ALL.into_iter().enumerate() {
            assert_eq!(TcpEvent::from_number(number as u8), event);
        }
    }

    #[test]
    fn nat_and_the_collector_each_have_their_idea_of_closing() {
        let named = |f: fn(TcpConntrackState) -> bool| -> Vec<&str> {
            TcpConntrackState::ALL
                .into_iter()
                .filter(|&s| f(s))
                .map(TcpConntrackState::name)
                .collect()
        };
        assert_eq!(
            named(TcpConntrackState::is_closing_for_nat),
            ["TIME_WAIT", "CLOSE", "SYN_SENT2"]
        );
        assert_eq!(
            named(TcpConntrackState::is_closable),
            ["FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"]
        );
    }
}

//! What the tracker remembers of a TCP connection, and how it fits a tracker's seven words.
//!
//! # Memory
//! ```text
//! word 0 | original end 32        | original maxend 32                                |
//! word 1 | original maxwin 32     | original maxack 32                                |
//! word 2 | reply end 32           | reply maxend 32                                   |
//! word 3 | reply maxwin 32        | reply maxack 32                                   |
//! word 4 | last_seq 32            | last_ack 32                                       |
//! word 5 | last_end 32            | last_win 16 | last_wscale 8 | last_flags 8        |
//! word 6 | state 8 | last_dir 8 | last_event 8 | retrans 8 | scale 8, flags 8, of each side |
//! ```
//!
//! Source: `struct ip_ct_tcp` and `struct ip_ct_tcp_state` (nf_conntrack_tcp.h).

use bitflags::bitflags;

use super::state::{TcpConntrackState, TcpEvent};
use crate::table::slab::TrackerWords;
use crate::tuple::Direction;

bitflags! {
    /// Flags of one side, and of the last ignored SYN (`IP_CT_TCP_FLAG_*`, `IP_CT_EXP_*`);
    /// the bits are the kernel's, as ctnetlink shows them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct TcpFlags: u8 {
        /// The side's SYN offered a window scale.
        const WINDOW_SCALE = 0x01;
        /// The side's SYN permitted selective acknowledgements.
        const SACK_PERM = 0x02;
        /// The side sent the first FIN.
        const CLOSE_INIT = 0x04;
        /// Nothing the side sends is out of the window (picked up from the middle).
        const BE_LIBERAL = 0x08;
        /// The side sent data that the other has not acknowledged.
        const DATA_UNACKNOWLEDGED = 0x10;
        /// `maxack` holds a value.
        const MAXACK_SET = 0x20;
        /// In `last_flags`: a SYN was ignored in LAST_ACK, the next ACK may be a challenge.
        const CHALLENGE_EXPECTED = 0x40;
        /// In `last_flags`: both sides sent a SYN.
        const SIMULTANEOUS_OPEN = 0x80;
    }
}

/// What is known of one side. All numbers are sequence numbers but `maxwin` (bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpSide {
    /// End of the furthest segment the side has sent.
    pub end: u32,
    /// The furthest end that the other side's window allows.
    pub maxend: u32,
    /// The largest window the side has offered, scaled; 0 where it has sent nothing yet.
    pub maxwin: u32,
    /// The furthest acknowledgement the side has sent ([`TcpFlags::MAXACK_SET`]).
    pub maxack: u32,
    /// Window scale, 0 to 14.
    pub scale: u8,
    /// Flags.
    pub flags: TcpFlags,
}

/// All that is remembered of a connection. `last_*` is of the last segment that was
/// remembered for its event: in the window, or ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpState {
    /// State.
    pub state: TcpConntrackState,
    /// Both sides, by [`Direction::index`].
    pub sides: [TcpSide; 2],
    /// Its direction.
    pub last_dir: Direction,
    /// Its event.
    pub last_event: TcpEvent,
    /// Its sequence number.
    pub last_seq: u32,
    /// Its acknowledgement.
    pub last_ack: u32,
    /// The sequence number behind it.
    pub last_end: u32,
    /// Its window as it stood in the header.
    pub last_win: u16,
    /// Window scale of the last ignored SYN.
    pub last_wscale: u8,
    /// Options of the last ignored SYN, and what is expected because of it.
    pub last_flags: TcpFlags,
    /// How often the last ACK came again, unchanged.
    pub retrans: u8,
}

impl Default for TcpState {
    fn default() -> TcpState {
        TcpState {
            state: TcpConntrackState::None,
            sides: [TcpSide::default(); 2],
            last_dir: Direction::Original,
            last_event: TcpEvent::None,
            last_seq: 0,
            last_ack: 0,
            last_end: 0,
            last_win: 0,
            last_wscale: 0,
            last_flags: TcpFlags::empty(),
            retrans: 0,
        }
    }
}

impl TcpState {
    /// Packs it into a tracker's words.
    #[must_use]
    pub fn to_words(&self) -> TrackerWords {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let [o, r] = &self.sides;
        let [win_high, win_low] = self.last_win.to_be_bytes();
        [
            pair(o.end, o.maxend),
            pair(o.maxwin, o.maxack),
            pair(r.end, r.maxend),
            pair(r.maxwin, r.maxack),
            pair(self.last_seq, self.last_ack),
            pair(
                self.last_end,
                u32::from_be_bytes([win_high, win_low, self.last_wscale, self.last_flags.bits()]),
            ),
            u64::from_be_bytes([
                self.state.number(),
                self.last_dir as u8,
                self.last_event as u8,
                self.retrans,
                o.scale,
                o.flags.bits(),
                r.scale,
                r.flags.bits(),
            ]),
        ]
    }

    /// Reads it from a tracker's words. Words that no connection wrote give some state, and
    /// no panic.
    #[must_use]
    pub fn from_words(words: TrackerWords) -> TcpState {
        let high = |i: usize| (words[i] >> 32) as u32;
        let low = |i: usize| words[i] as u32;
        let [win_high, win_low, last_wscale, last_flags] = low(5).to_be_bytes();
        let [state, last_dir, last_event, retrans, sides @ ..] = words[6].to_be_bytes();
        let side = |first_word: usize, scale: u8, flags: u8| TcpSide {
            end: high(first_word),
            maxend: low(first_word),
            maxwin: high(first_word + 1),
            maxack: low(first_word + 1),
            scale,
            flags: TcpFlags::from_bits_retain(flags),
        };
        TcpState {
            state: TcpConntrackState::from_number(state),
            sides: [side(0, sides[0], sides[1]), side(2, sides[2], sides[3])],
            last_dir: match last_dir {
                0 => Direction::Original,
                _ => Direction::Reply,
            },
            last_event: TcpEvent::from_number(last_event),
            last_seq: high(4),
            last_ack: low(4),
            last_end: high(5),
            last_win: u16::from_be_bytes([win_high, win_low]),
            last_wscale,
            last_flags: TcpFlags::from_bits_retain(last_flags),
            retrans,
        }
    }

    /// One side.
    #[must_use]
    pub fn side(&self, direction: Direction) -> &TcpSide {
        &self.sides[direction.index()]
    }

    /// One side, to be changed.
    pub fn side_mut(&mut self, direction: Direction) -> &mut TcpSide {
        &mut self.sides[direction.index()]
    }
}

/// Bits of a side: four numbers, scale and flags.
const SIDE_BITS: usize = 4 * 32 + 8 + 8;
/// Bits of all `last_*`, the state and `retrans`.
const LAST_BITS: usize = 3 * 32 + 16 + 8 + 8 + 4 * 8;
const _: () = assert!(
    2 * SIDE_BITS + LAST_BITS == 8 * size_of::<TrackerWords>(),
    "a connection's memory fills the seven words, and no more"
);
const _: () = assert!(size_of::<TcpFlags>() == 1 && size_of::<TcpConntrackState>() == 1);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every memory there can be: states and events are those that exist.
    fn memories() -> impl Strategy<Value = TcpState> {
        let side = any::<(u32, u32, u32, u32, u8, u8)>().prop_map(
            |(end, maxend, maxwin, maxack, scale, flags)| TcpSide {
                end,
                maxend,
                maxwin,
                maxack,
                scale,
                flags: TcpFlags::from_bits_retain(flags),
            },
        );
        (
            [side.clone(), side],
            any::<(bool, u32, u32, u32, u16, u8, u8, u8)>(),
            0..10u8,
            0..6u8,
        )
            .prop_map(|(sides, last, state, event)| TcpState {
                state: TcpConntrackState::from_number(state),
                sides,
                last_dir: if last.0 {
                    Direction::Reply
                } else {
                    Direction::Original
                },
                last_event: TcpEvent::from_number(event),
                last_seq: last.1,
                last_ack: last.2,
                last_end: last.3,
                last_win: last.4,
                last_wscale: last.5,
                last_flags: TcpFlags::from_bits_retain(last.6),
                retrans: last.7,
            })
    }

    proptest! {
        #[test]
        fn packing_a_memory_into_words_loses_nothing(memory in memories()) {
            prop_assert_eq!(TcpState::from_words(memory.to_words()), memory);
        }

        #[test]
        fn words_of_any_content_are_read_without_a_panic(words in any::<[u64; 7]>()) {
            let _ = TcpState::from_words(words);
        }
    }
}

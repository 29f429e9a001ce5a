//! Does a segment lie in the window that the other side offered?
//!
//! Tracking sees both directions, so it knows what either side may send and acknowledge
//! (van Rooij, "Real Stateful TCP Packet Filtering in IP Filter"): four bounds, each with
//! its own verdict, and then the bookkeeping that the next segment is judged by. Timeouts
//! and ASSURED hang on that bookkeeping too.
//!
//! Sequence numbers are compared as they are on the wire; they are not translated (no
//! helper changes the length of a payload).
//!
//! Source: `tcp_in_window`, `tcp_init_sender` (nf_conntrack_proto_tcp.c).

use super::memory::{TcpFlags, TcpSide, TcpState};
use super::options::{furthest_sack, note_syn_options};
use super::segment::Segment;
use super::state::{TcpConntrackState, TcpEvent};
use crate::tuple::Direction;

/// An acknowledgement may lie this far behind at least (`MAXACKWINCONST`).
const ACK_WINDOW_MIN: u32 = 66_000;

/// Does sequence number `a` come before `b` (RFC 1982 arithmetic, as `before` has it)?
#[must_use]
pub fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Does sequence number `a` come after `b`?
#[must_use]
pub fn is_after(a: u32, b: u32) -> bool {
    is_before(b, a)
}

/// What the window check says of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowVerdict {
    /// It may move the connection.
    Fits,
    /// It passes, but moves nothing: an old segment again, or slightly too much data.
    Ignore,
    /// It is INVALID.
    Invalid,
}

/// The numbers of a segment as they are compared: those that say nothing are replaced.
#[derive(Clone, Copy)]
struct Numbers {
    seq: u32,
    end: u32,
    ack: u32,
    sack: u32,
}

/// Judges a segment, and learns from it. `memory.state` is the state before it.
/// `be_liberal` is the sysctl: whatever fails passes, and teaches nothing.
pub fn check(
    memory: &mut TcpState,
    segment: &Segment<'_>,
    direction: Direction,
    be_liberal: bool,
) -> WindowVerdict {
    let state = memory.state;
    let [original, reply] = &mut memory.sides;
    let (sender, receiver) = match direction {
        Direction::Original => (original, reply),
        Direction::Reply => (reply, original),
    };
    let sack = if receiver.flags.contains(TcpFlags::SACK_PERM) {
        furthest_sack(segment.ack, segment.options)
    } else {
        segment.ack
    };
    if learn_first_segment(sender, receiver, segment, sack, direction, state) {
        return WindowVerdict::Fits;
    }
    let numbers = comparable_numbers(sender, receiver, segment, sack, state);
    let liberal = be_liberal || sender.flags.contains(TcpFlags::BE_LIBERAL);
    match judge(sender, receiver, numbers) {
        WindowVerdict::Fits => {}
        _ if liberal => return WindowVerdict::Fits,
        verdict => return verdict,
    }
    learn(sender, receiver, segment, numbers);
    if segment.event == TcpEvent::Ack {
        count_repetition(memory, segment, direction, numbers);
    }
    WindowVerdict::Fits
}

/// The first segment of a side, or a SYN that replaces its first one, says where it starts.
/// True where nothing more can be checked (the SYN of a simultaneous open).
fn learn_first_segment(
    sender: &mut TcpSide,
    receiver: &mut TcpSide,
    segment: &Segment<'_>,
    sack: u32,
    direction: Direction,
    state: TcpConntrackState,
) -> bool {
    if sender.maxwin != 0 {
        let handshake = matches!(
            state,
            TcpConntrackState::SynSent | TcpConntrackState::SynRecv
        );
        if !(segment.syn() && handshake && is_after(segment.end, sender.end)) {
            return false;
        }
        begin_side(sender, receiver, segment, direction);
        return direction == Direction::Reply && !segment.has_ack();
    }
    if segment.syn() {
        begin_side(sender, receiver, segment, direction);
        return !segment.has_ack();
    }
    // Picked up from the middle, after a SYN that we did not see or believe.
    sender.end = segment.end;
    sender.maxwin = scaled(segment.window, sender.scale).max(1);
    sender.maxend = segment.end.wrapping_add(sender.maxwin);
    if receiver.maxwin == 0 {
        receiver.end = sack;
        receiver.maxend = sack;
    } else if sack == receiver.end.wrapping_add(1) {
        // The answer to a keep-alive that was one byte of data.
        receiver.end = receiver.end.wrapping_add(1);
    }
    false
}

/// A SYN or SYN/ACK begins its side (`tcp_init_sender`). Windows are scaled only where both
/// sides offer it (RFC 7323 2.2).
fn begin_side(
    sender: &mut TcpSide,
    receiver: &mut TcpSide,
    segment: &Segment<'_>,
    direction: Direction,
) {
    sender.end = segment.end;
    sender.maxend = segment.end;
    sender.maxwin = segment.window_or_one();
    note_syn_options(sender, segment.options);
    let both_scale = (sender.flags & receiver.flags).contains(TcpFlags::WINDOW_SCALE);
    if direction == Direction::Reply && !both_scale {
        sender.scale = 0;
        receiver.scale = 0;
    }
}

fn comparable_numbers(
    sender: &TcpSide,
    receiver: &TcpSide,
    segment: &Segment<'_>,
    sack: u32,
    state: TcpConntrackState,
) -> Numbers {
    let mut numbers = Numbers {
        seq: segment.seq,
        end: segment.end,
        ack: segment.ack,
        sack,
    };
    // Some stacks reset with ACK set and nothing acknowledged.
    if !segment.has_ack() || (segment.rst() && segment.ack == 0) {
        numbers.ack = receiver.end;
        numbers.sack = receiver.end;
    }
    // A reset that refuses a SYN has no sequence number to show.
    if segment.rst() && segment.seq == 0 && state == TcpConntrackState::SynSent {
        numbers.seq = sender.end;
        numbers.end = sender.end;
    }
    numbers
}

/// The four bounds, in the kernel's order.
fn judge(sender: &mut TcpSide, receiver: &TcpSide, numbers: Numbers) -> WindowVerdict {
    let Numbers { seq, end, sack, .. } = numbers;
    let oldest_end = sender.end.wrapping_sub(receiver.maxwin).wrapping_sub(1);
    let end_is_recent = is_after(end, oldest_end);
    let ack_window = sender.maxwin.max(ACK_WINDOW_MIN);
    let oldest_ack = receiver.end.wrapping_sub(ack_window).wrapping_sub(1);
    let ack_is_recent = is_after(sack, oldest_ack);
    let ack_is_of_sent = is_before(sack, receiver.end.wrapping_add(1));

    if !is_before(seq, sender.maxend.wrapping_add(1)) {
        let overshoot = end.wrapping_sub(sender.maxend).wrapping_add(1);
        let slightly = receiver.maxwin != 0 && overshoot <= receiver.maxwin;
        if !(slightly && end_is_recent && ack_is_recent && ack_is_of_sent) {
            return WindowVerdict::Invalid;
        }
        // Should the receiver take it after all, its acknowledgement must not look forged.
        sender.end = end;
        sender.flags |= TcpFlags::DATA_UNACKNOWLEDGED;
        return WindowVerdict::Ignore;
    }
    if !ack_is_of_sent {
        return WindowVerdict::Invalid;
    }
    if (receiver.maxwin != 0 && !end_is_recent) || !ack_is_recent {
        return WindowVerdict::Ignore;
    }
    WindowVerdict::Fits
}

/// What a segment in the window says of both sides.
fn learn(
    sender: &mut TcpSide,
    receiver: &mut TcpSide,
    segment: &Segment<'_>,
    Numbers { end, ack, sack, .. }: Numbers,
) {
    let window = if segment.syn() {
        u32::from(segment.window)
    } else {
        scaled(segment.window, sender.scale)
    };
    sender.maxwin = sender
        .maxwin
        .max(window.wrapping_add(sack.wrapping_sub(ack)));
    if is_after(end, sender.end) {
        sender.end = end;
        sender.flags |= TcpFlags::DATA_UNACKNOWLEDGED;
    }
    if segment.has_ack()
        && (!sender.flags.contains(TcpFlags::MAXACK_SET) || is_after(ack, sender.maxack))
    {
        sender.maxack = ack;
        sender.flags |= TcpFlags::MAXACK_SET;
    }

    if receiver.maxwin != 0 && is_after(end, sender.maxend) {
        let overshoot = end.wrapping_sub(sender.maxend);
        receiver.maxwin = receiver.maxwin.wrapping_add(overshoot);
    }
    let allowed = sack.wrapping_add(window);
    if is_after(allowed, receiver.maxend.wrapping_sub(1)) {
        // A closed window may still be probed with one byte.
        receiver.maxend = allowed.wrapping_add(u32::from(window == 0));
    }
    if ack == receiver.end {
        receiver.flags -= TcpFlags::DATA_UNACKNOWLEDGED;
    }
}

/// Counts how often the very same ACK came again.
fn count_repetition(
    memory: &mut TcpState,
    segment: &Segment<'_>,
    direction: Direction,
    Numbers { seq, end, ack, .. }: Numbers,
) {
    let last = (
        memory.last_dir,
        memory.last_seq,
        memory.last_ack,
        memory.last_end,
        memory.last_win,
    );
    if last == (direction, seq, ack, end, segment.window) {
        memory.retrans = memory.retrans.wrapping_add(1);
        return;
    }
    memory.last_dir = direction;
    memory.last_seq = seq;
    memory.last_ack = ack;
    memory.last_end = end;
    memory.last_win = segment.window;
    memory.retrans = 0;
}

fn scaled(window: u16, scale: u8) -> u32 {
    u32::from(window).wrapping_shl(u32::from(scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tcp::segment::HeaderFlags;
    use Direction::{Original, Reply};

    /// An established connection: the original side has sent up to 1000 and may send to
    /// 2000, the reply side up to 5000, to 6000; both offer 1000.
    fn established() -> TcpState {
        let side = |end: u32| TcpSide {
            end,
            maxend: end + 1000,
            maxwin: 1000,
            maxack: 0,
            ..TcpSide::default()
        };
        TcpState {
            state: TcpConntrackState::Established,
            sides: [side(1000), side(5000)],
            ..TcpState::default()
        }
    }

    fn data(seq: u32, bytes: u32, ack: u32) -> Segment<'static> {
        Segment {
            seq,
            ack,
            end: seq.wrapping_add(bytes),
            window: 1000,
            flags: HeaderFlags::ACK,
            event: TcpEvent::Ack,
            options: &[],
        }
    }

    fn verdict(segment: &Segment<'_>) -> WindowVerdict {
        check(&mut established(), segment, Original, false)
    }

    #[test]
    fn sequence_numbers_wrap_around() {
        assert!(is_before(u32::MAX, 0) && is_after(0, u32::MAX));
        assert!(!is_before(7, 7) && !is_after(7, 7));
    }

    #[test]
    fn data_fits_from_anywhere_up_to_the_right_edge() {
        assert_eq!(verdict(&data(1000, 100, 5000)), WindowVerdict::Fits);
        assert_eq!(verdict(&data(2000, 0, 5000)), WindowVerdict::Fits);
        assert_eq!(
            verdict(&data(1999, 500, 5000)),
            WindowVerdict::Fits,
            "starts inside, ends outside"
        );
    }

    #[test]
    fn data_beyond_the_edge_is_ignored_if_it_is_little_and_else_invalid() {
        let mut memory = established();
        let little = data(2001, 998, 5000); // overshoot 2999 - 2000 + 1
        assert_eq!(
            check(&mut memory, &little, Original, false),
            WindowVerdict::Ignore
        );
        assert_eq!(memory.sides[0].end, 2999, "its acknowledgement may come");
        assert!(
            memory.sides[0]
                .flags
                .contains(TcpFlags::DATA_UNACKNOWLEDGED)
        );
        assert_eq!(verdict(&data(2001, 999, 5000)), WindowVerdict::Invalid);
        assert_eq!(
            verdict(&data(2001, 10, 5001)),
            WindowVerdict::Invalid,
            "and acknowledges too much"
        );
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_invalid() {
        assert_eq!(verdict(&data(1000, 0, 5001)), WindowVerdict::Invalid);
    }

    #[test]
    fn old_data_and_very_old_acknowledgements_are_ignored() {
        let old_data = data(0, 0, 5000); // end must be after 1000 - 1000 - 1
        assert_eq!(verdict(&old_data), WindowVerdict::Fits);
        assert_eq!(
            verdict(&data(u32::MAX, 0, 5000)),
            WindowVerdict::Ignore,
            "one byte older"
        );
        let oldest = 5000u32.wrapping_sub(ACK_WINDOW_MIN);
        assert_eq!(verdict(&data(1000, 0, oldest)), WindowVerdict::Fits);
        assert_eq!(
            verdict(&data(1000, 0, oldest.wrapping_sub(1))),
            WindowVerdict::Ignore
        );
    }

    #[test]
    fn a_liberal_check_passes_everything_and_learns_nothing() {
        for segment in [data(9000, 10, 5000), data(1000, 0, 5001)] {
            let mut memory = established();
            assert_eq!(
                check(&mut memory, &segment, Original, true),
                WindowVerdict::Fits
            );
            assert_eq!(memory, established());

            memory.sides[0].flags |= TcpFlags::BE_LIBERAL;
            let before = memory;
            assert_eq!(
                check(&mut memory, &segment, Original, false),
                WindowVerdict::Fits
            );
            assert_eq!(memory, before);
            assert_eq!(
                check(&mut memory, &data(9000, 10, 1000), Reply, false),
                WindowVerdict::Invalid,
                "the other side is not liberal"
            );
        }
    }

    #[test]
    fn data_is_unacknowledged_until_all_of_it_is_acknowledged() {
        let mut memory = established();
        let unacknowledged =
            |m: &TcpState| m.sides[0].flags.contains(TcpFlags::DATA_UNACKNOWLEDGED);
        check(&mut memory, &data(1000, 100, 5000), Original, false);
        assert!(unacknowledged(&memory));
        check(&mut memory, &data(5000, 0, 1050), Reply, false);
        assert!(unacknowledged(&memory));
        check(&mut memory, &data(5000, 0, 1100), Reply, false);
        assert!(!unacknowledged(&memory));
    }

    #[test]
    fn a_closed_window_leaves_room_for_a_probe_of_one_byte() {
        let mut memory = established();
        let closed = Segment {
            window: 0,
            ..data(5000, 0, 2000)
        };
        memory.sides[0].end = 2000;
        check(&mut memory, &closed, Reply, false);
        assert_eq!(memory.sides[0].maxend, 2001);
    }

    #[test]
    fn a_selective_acknowledgement_counts_as_far_as_it_reaches() {
        let mut memory = established();
        let mut segment = data(1000, 0, 4900);
        let sack = [
            &[1u8, 1, 5, 10][..],
            &4950u32.to_be_bytes(),
            &5001u32.to_be_bytes(),
        ]
        .concat();
        segment.options = &sack;
        assert_eq!(
            check(&mut memory, &segment, Original, false),
            WindowVerdict::Fits,
            "the receiver never permitted it: not read"
        );
        memory.sides[1].flags |= TcpFlags::SACK_PERM;
        assert_eq!(
            check(&mut memory, &segment, Original, false),
            WindowVerdict::Invalid,
            "selects what was never sent"
        );
    }

    #[test]
    fn scaling_needs_both_sides() {
        let syn = |flags: HeaderFlags, options: &'static [u8]| Segment {
            flags,
            event: TcpEvent::SynAck,
            end: 101,
            options,
            ..data(100, 0, 1000)
        };
        let with = |options: &'static [u8]| {
            let mut memory = established();
            memory.state = TcpConntrackState::SynSent;
            memory.sides[0].scale = 7;
            memory.sides[0].flags = TcpFlags::WINDOW_SCALE;
            memory.sides[1] = TcpSide::default();
            let segment = syn(HeaderFlags::SYN | HeaderFlags::ACK, options);
            assert_eq!(
                check(&mut memory, &segment, Reply, false),
                WindowVerdict::Fits
            );
            (memory.sides[0].scale, memory.sides[1].scale)
        };
        assert_eq!(with(&[3, 3, 2, 0]), (7, 2));
        assert_eq!(with(&[]), (0, 0));
    }

    #[test]
    fn the_same_ack_again_is_counted_and_another_one_starts_anew() {
        let mut memory = established();
        for retrans in [0, 1, 2, 3] {
            check(&mut memory, &data(1000, 0, 5000), Original, false);
            assert_eq!(memory.retrans, retrans);
        }
        let other_window = Segment {
            window: 999,
            ..data(1000, 0, 5000)
        };
        check(&mut memory, &other_window, Original, false);
        assert_eq!(memory.retrans, 0);
    }

    #[test]
    fn a_reset_without_numbers_is_taken_for_the_answer_to_a_syn() {
        let mut memory = TcpState {
            state: TcpConntrackState::SynSent,
            ..established()
        };
        memory.sides[1] = TcpSide::default();
        let reset = Segment {
            flags: HeaderFlags::RST | HeaderFlags::ACK,
            event: TcpEvent::Rst,
            ..data(0, 0, 1000)
        };
        assert_eq!(
            check(&mut memory, &reset, Reply, false),
            WindowVerdict::Fits
        );
    }
}

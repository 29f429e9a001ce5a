//! The TCP tracker: from a segment and what is remembered to a state, a verdict and a timeout.
//!
//! A segment passes these steps, each its own module or function:
//! [`segment`] (lengths and flags) → `begin` for a first one → `decide` (the table of
//! [`state`] and its exceptions) → [`window`] → `settle` (timeout, ASSURED, removal).
//!
//! The tracker's cell is locked from the first read to the last write, so that segments of
//! one connection on several workers are seen one after the other (`ct->lock` in the kernel).
//!
//! Source: `nf_conntrack_tcp_packet` and its parts (nf_conntrack_proto_tcp.c, Linux 6.18);
//! RFC 9293, RFC 5961 (challenge ACK), RFC 1122 4.2.2.13 (reopening from TIME_WAIT).

pub mod memory;
pub mod options;
pub mod segment;
pub mod state;
#[cfg(test)]
mod tests;
pub mod window;

use self::memory::{TcpFlags, TcpSide, TcpState};
use self::options::note_syn_options;
use self::segment::Segment;
pub use self::state::{TcpConntrackState, TcpEvent};
use self::state::{Transition, transition};
use self::window::{WindowVerdict, is_before};
use super::{Action, Outcome, Tracked};
use crate::config::{Sysctls, TcpTimeouts};
use crate::event::Changes;
use crate::status::Status;
use crate::table::key::FlowKey;
use crate::table::slab::TrackerCell;
use crate::time::{Nanos, SECOND};
use crate::tuple::{Direction, Protocol};

/// A connection with less left than this is not cut short by invalid FINs and resets.
const CUT_REMAINING_MIN: Nanos = 120 * SECOND;

/// What the NAT port search asks of a TCP connection before it evicts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatView {
    /// State.
    pub state: TcpConntrackState,
    /// End of the furthest segment that the original side has sent.
    pub original_end: u32,
}

/// [`NatView`] of a TCP connection. Takes the cell's lock for some dozen instructions.
#[must_use]
pub fn nat_view(tracker: &TrackerCell) -> NatView {
    let memory = TcpState::from_words(tracker.lock().load());
    NatView {
        state: memory.state,
        original_end: memory.side(Direction::Original).end,
    }
}

/// A segment and what decides about it, besides what is remembered.
struct Arrival<'a> {
    segment: Segment<'a>,
    direction: Direction,
    status: Status,
    sysctls: &'a Sysctls,
}

impl Arrival<'_> {
    /// Established beyond doubt: a reset must then be exact (`nf_conntrack_tcp_established`).
    fn is_established(&self, memory: &TcpState) -> bool {
        memory.state == TcpConntrackState::Established && self.status.contains(Status::ASSURED)
    }

    /// The segment before was an `event` of the other side.
    fn answers(&self, memory: &TcpState, event: TcpEvent) -> bool {
        memory.last_event == event && memory.last_dir != self.direction
    }
}

/// A step from one state to another, which may be the same.
#[derive(Clone, Copy)]
struct Move {
    old: TcpConntrackState,
    new: TcpConntrackState,
}

/// What is to be done with a segment before its numbers are looked at.
enum Decision {
    /// It moves the connection if it is in the window.
    Check(Move),
    /// It moves the connection; the window says nothing about it.
    Believe(Move),
    /// It passes, and moves nothing.
    Ignore,
    Invalid,
    Reopen,
}

/// Tracks a segment.
pub fn track<K: FlowKey>(cx: &Tracked<'_, K>) -> Outcome {
    let Some(segment) = Segment::parse(cx.header, cx.bytes) else {
        return Outcome::INVALID;
    };
    if cx.verifies_checksum() && !cx.transport_checksum_holds(Protocol::TCP, usize::MAX) {
        return Outcome::INVALID;
    }
    let mut cell = cx.tracker.lock();
    // Read under the lock: of two segments on two workers one makes the connection ASSURED.
    let arrival = Arrival {
        segment,
        direction: cx.direction(),
        status: cx.entry.status(),
        sysctls: cx.sysctls,
    };
    let mut memory = if arrival.status.contains(Status::CONFIRMED) {
        TcpState::from_words(cell.load())
    } else if let Some(memory) = begin(&arrival) {
        memory
    } else {
        return Outcome::INVALID;
    };
    let outcome = advance(cx, &arrival, &mut memory);
    cell.store(memory.to_words(), memory.state.number());
    outcome
}

/// What is remembered of a connection that begins with this segment (`tcp_new`); `None`
/// where none can begin.
fn begin(arrival: &Arrival<'_>) -> Option<TcpState> {
    let segment = &arrival.segment;
    let mut memory = TcpState::default();
    let [original, reply] = &mut memory.sides;
    match transition(Direction::Original, segment.event, TcpConntrackState::None) {
        Transition::To(TcpConntrackState::SynSent) => {
            original.end = segment.end;
            original.maxend = segment.end;
            original.maxwin = segment.window_or_one();
            note_syn_options(original, segment.options);
        }
        Transition::To(_) if arrival.sysctls.tcp_loose => {
            // From the middle: no SYN told the window scale, so the window cannot be known.
            original.end = segment.end;
            original.maxwin = segment.window_or_one();
            original.maxend = segment.end.wrapping_add(original.maxwin);
            let unknown = TcpFlags::SACK_PERM | TcpFlags::BE_LIBERAL;
            original.flags = unknown;
            reply.flags = unknown;
        }
        _ => return None,
    }
    Some(memory)
}

fn advance<K: FlowKey>(
    cx: &Tracked<'_, K>,
    arrival: &Arrival<'_>,
    memory: &mut TcpState,
) -> Outcome {
    let step = match decide(arrival, memory) {
        Decision::Ignore => return Outcome::ACCEPT,
        Decision::Invalid => return Outcome::INVALID,
        Decision::Reopen => {
            return Outcome {
                action: Action::Reopen,
                changes: Changes::empty(),
            };
        }
        Decision::Believe(step) => step,
        Decision::Check(step) => {
            let liberal = cx.sysctls.tcp_be_liberal;
            match window::check(memory, &arrival.segment, arrival.direction, liberal) {
                WindowVerdict::Fits => step,
                WindowVerdict::Ignore => return Outcome::ACCEPT,
                WindowVerdict::Invalid => {
                    cut_short(cx, arrival, memory);
                    return Outcome::INVALID;
                }
            }
        }
    };
    settle(cx, arrival, memory, step)
}

/// The table's answer, and its exceptions.
fn decide(arrival: &Arrival<'_>, memory: &mut TcpState) -> Decision {
    let &Arrival {
        segment, direction, ..
    } = arrival;
    let old = memory.state;
    let new = match transition(direction, segment.event, old) {
        Transition::To(new) => new,
        Transition::Ignore => return ignore_or_resync(arrival, memory),
        Transition::Invalid => return Decision::Invalid,
    };
    match new {
        TcpConntrackState::SynSent if old >= TcpConntrackState::TimeWait => {
            if is_over(arrival, memory) {
                return Decision::Reopen;
            }
            return ignore_or_resync(arrival, memory);
        }
        TcpConntrackState::TimeWait
            if old == TcpConntrackState::LastAck
                && segment.event == TcpEvent::Ack
                && arrival.answers(memory, TcpEvent::Syn)
                && memory.last_flags.contains(TcpFlags::CHALLENGE_EXPECTED) =>
        {
            // A challenge ACK to the SYN that we ignored, not the ACK of the last FIN.
            memory.last_flags -= TcpFlags::CHALLENGE_EXPECTED;
            return Decision::Ignore;
        }
        TcpConntrackState::SynSent2 => memory.last_flags |= TcpFlags::SIMULTANEOUS_OPEN,
        TcpConntrackState::SynRecv
            if direction == Direction::Reply
                && segment.event == TcpEvent::Ack
                && memory.last_flags.contains(TcpFlags::SIMULTANEOUS_OPEN) =>
        {
            return Decision::Check(Move {
                old,
                new: TcpConntrackState::Established,
            });
        }
        TcpConntrackState::Close if segment.event == TcpEvent::Rst => {
            return decide_reset(arrival, memory);
        }
        _ => {}
    }
    Decision::Check(Move { old, new })
}

/// Did the connection end so that a SYN may begin another: by a FIN, or by a reset of the
/// SYN's own side just before?
fn is_over(arrival: &Arrival<'_>, memory: &TcpState) -> bool {
    let closed = memory
        .sides
        .iter()
        .any(|side| side.flags.contains(TcpFlags::CLOSE_INIT));
    closed || (memory.last_dir == arrival.direction && memory.last_event == TcpEvent::Rst)
}

/// A segment that the table ignores is remembered, for the answer may show that it was right
/// and we were not: a SYN/ACK that acknowledges an ignored SYN is believed.
fn ignore_or_resync(arrival: &Arrival<'_>, memory: &mut TcpState) -> Decision {
    let &Arrival {
        segment, direction, ..
    } = arrival;
    if segment.event == TcpEvent::SynAck
        && arrival.answers(memory, TcpEvent::Syn)
        && segment.ack == memory.last_end
    {
        memory.last_flags -= TcpFlags::CHALLENGE_EXPECTED;
        *memory.side_mut(direction.other()) = TcpSide {
            end: memory.last_end,
            maxend: memory.last_end,
            maxwin: u32::from(memory.last_win).max(1),
            scale: memory.last_wscale,
            flags: memory.last_flags,
            ..*memory.side(direction.other())
        };
        *memory.side_mut(direction) = TcpSide {
            flags: memory.side(direction).flags & TcpFlags::BE_LIBERAL,
            ..TcpSide::default()
        };
        return Decision::Check(Move {
            old: TcpConntrackState::SynSent,
            new: TcpConntrackState::SynRecv,
        });
    }

    memory.last_event = segment.event;
    memory.last_dir = direction;
    memory.last_seq = segment.seq;
    memory.last_end = segment.end;
    memory.last_win = segment.window;
    if segment.event == TcpEvent::Syn && direction == Direction::Original {
        let mut offered = TcpSide::default();
        note_syn_options(&mut offered, segment.options);
        memory.last_wscale = offered.scale;
        memory.last_flags = offered.flags;
        if memory.state == TcpConntrackState::LastAck {
            memory.last_flags |= TcpFlags::CHALLENGE_EXPECTED;
        }
    }
    if memory.state == TcpConntrackState::SynSent
        && segment.event == TcpEvent::Ack
        && direction == Direction::Reply
    {
        // A challenge ACK: the reset that answers it will carry this number.
        memory.last_ack = segment.ack;
    }
    Decision::Ignore
}

/// A reset would close the connection: is it exact enough, and must it be in the window?
fn decide_reset(arrival: &Arrival<'_>, memory: &TcpState) -> Decision {
    let &Arrival {
        segment,
        direction,
        status,
        sysctls,
    } = arrival;
    let old = memory.state;
    let mut step = Move {
        old,
        new: TcpConntrackState::Close,
    };
    if old.is_closable() {
        // The tuple may be in use again already; what is remembered is out of date.
        return Decision::Believe(step);
    }
    let other = memory.side(direction.other());
    if other.flags.contains(TcpFlags::MAXACK_SET) && memory.last_event != TcpEvent::Syn {
        let established = arrival.is_established(memory);
        if segment.seq == 0 && !established {
            // Most likely the answer to a SYN that passed as ignored.
            return Decision::Check(step);
        }
        if is_before(segment.seq, other.maxack) && !sysctls.tcp_ignore_invalid_rst {
            return Decision::Invalid;
        }
        let follows_data = memory.last_event == TcpEvent::Ack
            && memory.last_dir == direction
            && segment.seq == memory.last_end;
        if !established || segment.seq == other.maxack || follows_data {
            return Decision::Check(step);
        }
        // In the window but not exact: its receiver answers with a challenge ACK (RFC 5961 3.2).
        step.new = old;
    }
    let answers_ignored_syn =
        status.contains(Status::SEEN_REPLY) && arrival.answers(memory, TcpEvent::Syn);
    let answers_ack = !status.contains(Status::ASSURED) && memory.last_event == TcpEvent::Ack;
    if (answers_ignored_syn || answers_ack) && segment.ack == memory.last_end {
        return Decision::Believe(step);
    }
    if old == TcpConntrackState::SynSent
        && memory.last_event == TcpEvent::Ack
        && memory.last_dir == Direction::Reply
        && segment.seq == memory.last_ack
    {
        // It answers a challenge ACK that passed as ignored.
        return Decision::Believe(step);
    }
    Decision::Check(step)
}

/// Both sides try to end a connection that we have wrong numbers of: it need not live for days
/// (`nf_tcp_handle_invalid`).
fn cut_short<K: FlowKey>(cx: &Tracked<'_, K>, arrival: &Arrival<'_>, memory: &mut TcpState) {
    let ends = |event| matches!(event, TcpEvent::Fin | TcpEvent::Rst);
    let may_be_cut =
        arrival.status.contains(Status::ASSURED) && !arrival.status.contains(Status::FIXED_TIMEOUT);
    if !may_be_cut || !ends(arrival.segment.event) {
        return;
    }
    if memory.last_dir == arrival.direction || !ends(memory.last_event) {
        memory.last_event = arrival.segment.event;
        memory.last_dir = arrival.direction;
        return;
    }
    let remaining = cx.entry.remaining(cx.now);
    let unacknowledged = cx.sysctls.tcp.unacknowledged;
    if remaining >= CUT_REMAINING_MIN && remaining > unacknowledged {
        cx.entry.set_deadline(cx.now.saturating_add(unacknowledged));
    }
}

/// The segment is believed: state, timeout, ASSURED.
fn settle<K: FlowKey>(
    cx: &Tracked<'_, K>,
    arrival: &Arrival<'_>,
    memory: &mut TcpState,
    Move { old, new }: Move,
) -> Outcome {
    let event = arrival.segment.event;
    memory.last_event = event;
    memory.last_dir = arrival.direction;
    memory.state = new;
    let mut changes = Changes::empty();
    if old != new {
        changes |= Changes::PROTOINFO;
        if new == TcpConntrackState::FinWait {
            memory.side_mut(arrival.direction).flags |= TcpFlags::CLOSE_INIT;
        }
    }
    let outcome = |action, changes| Outcome { action, changes };
    let mut timeout = timeout(memory, event, cx.sysctls);
    if !arrival.status.contains(Status::SEEN_REPLY) {
        if event == TcpEvent::Rst {
            cx.account();
            return outcome(Action::AcceptAndKill, changes);
        }
        if event == TcpEvent::Syn && old == TcpConntrackState::SynSent {
            // A SYN that comes again buys no time: who repeats it for ever holds nothing for ever.
            return outcome(Action::Accept, changes);
        }
        if new == TcpConntrackState::Established {
            timeout = timeout.min(cx.sysctls.tcp.unacknowledged);
        }
    } else if !arrival.status.contains(Status::ASSURED)
        && matches!(
            old,
            TcpConntrackState::SynRecv | TcpConntrackState::Established
        )
        && new == TcpConntrackState::Established
    {
        cx.entry.set_status(Status::ASSURED);
        changes |= Changes::ASSURED;
    }
    cx.refresh(timeout);
    outcome(Action::Accept, changes)
}

/// How long a connection in `memory.state` may be silent after an `event`.
fn timeout(memory: &TcpState, event: TcpEvent, sysctls: &Sysctls) -> Nanos {
    let timeouts = &sysctls.tcp;
    let of_state = state_timeout(timeouts, memory.state);
    let unacknowledged = memory
        .sides
        .iter()
        .any(|side| side.flags.contains(TcpFlags::DATA_UNACKNOWLEDGED));
    if memory.retrans >= sysctls.tcp_max_retrans && of_state > timeouts.max_retrans {
        timeouts.max_retrans
    } else if event == TcpEvent::Rst && memory.state == TcpConntrackState::Established {
        // A reset that was not exact: soon over, unless a segment shows that it lives.
        timeouts.close
    } else if unacknowledged && of_state > timeouts.unacknowledged {
        timeouts.unacknowledged
    } else if memory.last_win == 0 && of_state > timeouts.max_retrans {
        timeouts.max_retrans
    } else {
        of_state
    }
}

/// The timeout of a state (`nf_conntrack_tcp_timeout_*`).
#[must_use]
pub fn state_timeout(timeouts: &TcpTimeouts, state: TcpConntrackState) -> Nanos {
    match state {
        // No connection is left in NONE; the kernel's array has the SYN_SENT value there.
        TcpConntrackState::None | TcpConntrackState::SynSent => timeouts.syn_sent,
        TcpConntrackState::SynRecv => timeouts.syn_recv,
        TcpConntrackState::Established => timeouts.established,
        TcpConntrackState::FinWait => timeouts.fin_wait,
        TcpConntrackState::CloseWait => timeouts.close_wait,
        TcpConntrackState::LastAck => timeouts.last_ack,
        TcpConntrackState::TimeWait => timeouts.time_wait,
        TcpConntrackState::Close => timeouts.close,
        TcpConntrackState::SynSent2 => timeouts.syn_sent2,
    }
}

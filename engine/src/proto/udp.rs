//! The UDP and UDP-Lite trackers: no states, but how long an exchange has gone on.
//!
//! A question and its answer within two seconds stay short-lived and expendable; whatever
//! goes on longer is a stream. UDP-Lite has no such patience: the first packet after an
//! answer makes it a stream.
//!
//! Source: `nf_conntrack_udp_packet`, `nf_conntrack_udplite_packet`, `udp_error`,
//! `udplite_error` (nf_conntrack_proto_udp.c); RFC 768, RFC 3828.

use super::{Outcome, Tracked};
use crate::status::Status;
use crate::table::key::FlowKey;
use crate::time::{Nanos, SECOND};
use crate::tuple::Protocol;

const HEADER_BYTES: usize = 8;

/// An exchange that is still active after this long is a stream.
const STREAM_AFTER: Nanos = 2 * SECOND;

/// The fields of a header that both protocols have: UDP's length or UDP-Lite's coverage, and
/// whether there is a checksum. `None` where the header is not there.
fn length_and_checksum<K: FlowKey>(cx: &Tracked<'_, K>) -> Option<(usize, bool)> {
    let header: &[u8; HEADER_BYTES] = cx.header.l4(cx.bytes).first_chunk()?;
    let length = u16::from_be_bytes([header[4], header[5]]);
    Some((usize::from(length), header[6..8] != [0, 0]))
}

/// Are length and checksum right?
fn is_sound<K: FlowKey>(cx: &Tracked<'_, K>) -> bool {
    let Some((length, has_checksum)) = length_and_checksum(cx) else {
        return false;
    };
    if !(HEADER_BYTES..=cx.header.l4_length()).contains(&length) {
        return false;
    }
    !has_checksum
        || !cx.verifies_checksum()
        || cx.transport_checksum_holds(Protocol::UDP, usize::MAX)
}

/// Are coverage and checksum right? The kernel computes the sum over UDP's pseudo header
/// (protocol 17) where the RFC asks for UDP-Lite's own number, and so do we: a datagram with
/// the RFC's sum is INVALID.
fn is_sound_lite<K: FlowKey>(cx: &Tracked<'_, K>) -> bool {
    let Some((coverage, has_checksum)) = length_and_checksum(cx) else {
        return false;
    };
    let covered = match coverage {
        0 => cx.header.l4_length(),
        some => some,
    };
    (HEADER_BYTES..=cx.header.l4_length()).contains(&covered)
        && has_checksum
        && (!cx.verifies_checksum() || cx.transport_checksum_holds(Protocol::UDP, covered))
}

/// Tracks a UDP datagram.
pub fn track<K: FlowKey>(cx: &Tracked<'_, K>) -> Outcome {
    if !is_sound(cx) {
        return Outcome::INVALID;
    }
    let status = cx.entry.status();
    if !status.contains(Status::CONFIRMED) {
        cx.entry
            .set_stream_since(cx.now.saturating_add(STREAM_AFTER));
    }
    if !status.contains(Status::SEEN_REPLY) || cx.now <= cx.entry.stream_since() {
        cx.refresh(cx.sysctls.udp_timeout);
        return Outcome::ACCEPT;
    }
    cx.refresh(cx.sysctls.udp_timeout_stream);
    cx.assure(status)
}

/// Tracks a UDP-Lite datagram.
pub fn track_lite<K: FlowKey>(cx: &Tracked<'_, K>) -> Outcome {
    if !is_sound_lite(cx) {
        return Outcome::INVALID;
    }
    let status = cx.entry.status();
    if !status.contains(Status::SEEN_REPLY) {
        cx.refresh(cx.sysctls.udp_timeout);
        return Outcome::ACCEPT;
    }
    cx.refresh(cx.sysctls.udp_timeout_stream);
    cx.assure(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Changes;
    use crate::hook::HookPoint;
    use crate::packet::checksum::{checksum, pseudo_header_v4};
    use crate::proto::testing::{Flow, ipv4, ports};
    use crate::tuple::Direction::{self, Original, Reply};

    /// A datagram with 4 bytes of data, any length field, and the checksum field given.
    fn datagram(protocol: Protocol, from: Direction, length: u16, check: u16) -> Vec<u8> {
        let mut l4 = ports(from).to_vec();
        l4.extend(length.to_be_bytes());
        l4.extend(check.to_be_bytes());
        l4.extend(*b"data");
        ipv4(from, protocol, &l4)
    }

    fn udp(from: Direction) -> Vec<u8> {
        datagram(Protocol::UDP, from, 12, 0)
    }

    /// With the sum over the first `covered` bytes and a pseudo header of `pseudo`.
    fn summed(protocol: Protocol, length: u16, covered: usize, pseudo: u8) -> Vec<u8> {
        let bytes = datagram(protocol, Original, length, 0);
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let pseudo = pseudo_header_v4(word(12), word(16), pseudo, 12);
        let check = checksum(&bytes[20..20 + covered], pseudo);
        datagram(protocol, Original, length, check)
    }

    fn at_pre_routing(bytes: &[u8]) -> bool {
        let mut flow = Flow::new();
        flow.hook = HookPoint::PreRouting;
        flow.accepts(bytes)
    }

    #[test]
    fn question_and_answer_within_two_seconds_stay_short_and_expendable() {
        let mut flow = Flow::new();
        for from in [Original, Reply, Original, Reply] {
            assert!(flow.accepts(&udp(from)));
            assert_eq!(
                (flow.left(), flow.status().contains(Status::ASSURED)),
                (30, false)
            );
            flow.wait(SECOND / 2);
        }
    }

    #[test]
    fn whoever_sends_after_two_seconds_makes_an_answered_exchange_a_stream() {
        for last in [Original, Reply] {
            let mut flow = Flow::new();
            flow.accepts(&udp(Original));
            flow.accepts(&udp(Reply));
            flow.wait(2 * SECOND);
            assert_eq!(
                flow.changes(&udp(last)),
                Changes::empty(),
                "two seconds are not more than two"
            );
            flow.wait(1);
            assert_eq!(flow.changes(&udp(last)), Changes::ASSURED);
            assert_eq!(flow.left(), 120);
            assert_eq!(flow.changes(&udp(last)), Changes::empty(), "once");
        }
    }

    #[test]
    fn a_first_answer_makes_no_stream_however_late_it_is() {
        let mut flow = Flow::new();
        flow.accepts(&udp(Original));
        flow.wait(3 * SECOND);
        flow.accepts(&udp(Reply));
        assert_eq!(flow.left(), 30);
        assert_eq!(flow.changes(&udp(Original)), Changes::ASSURED);
        assert_eq!(flow.left(), 120);
    }

    #[test]
    fn a_connection_known_by_its_reply_key_alone_is_never_assured() {
        let mut flow = Flow::new();
        flow.accepts(&udp(Original));
        flow.accepts(&udp(Reply));
        flow.set_status(Status::NAT_CLASH);
        flow.wait(3 * SECOND);
        assert_eq!(flow.changes(&udp(Reply)), Changes::empty());
        assert!(!flow.status().contains(Status::ASSURED));
    }

    #[test]
    fn lengths_that_do_not_fit_are_invalid() {
        for (length, fits) in [(12, true), (8, true), (7, false), (13, false), (0, false)] {
            let bytes = datagram(Protocol::UDP, Original, length, 0);
            assert_eq!(Flow::new().accepts(&bytes), fits, "{length}");
        }
        let short = ipv4(Original, Protocol::UDP, &udp(Original)[20..27]);
        assert!(!Flow::new().accepts(&short));
    }

    #[test]
    fn a_udp_checksum_may_be_left_out_but_not_be_wrong() {
        let right = summed(Protocol::UDP, 12, 12, 17);
        let mut wrong = right.clone();
        wrong[26] ^= 0x55;
        assert!(at_pre_routing(&right));
        assert!(at_pre_routing(&udp(Original)));
        assert!(!at_pre_routing(&wrong));
        assert!(Flow::new().accepts(&wrong), "not looked at elsewhere");
    }

    #[test]
    fn a_udplite_checksum_is_over_udps_pseudo_header_and_only_the_coverage() {
        for (length, covered) in [(0, 12), (12, 12), (8, 8), (10, 10)] {
            assert!(at_pre_routing(&summed(
                Protocol::UDPLITE,
                length,
                covered,
                17
            )));
            assert!(!at_pre_routing(&summed(
                Protocol::UDPLITE,
                length,
                covered,
                136
            )));
        }
    }

    #[test]
    fn udplite_needs_a_checksum_and_a_coverage_that_fits() {
        let accepts = |length, check| {
            Flow::new().accepts(&datagram(Protocol::UDPLITE, Original, length, check))
        };
        assert!(accepts(8, 1) && accepts(0, 1));
        assert!(!accepts(0, 0), "no checksum");
        assert!(!accepts(7, 1) && !accepts(13, 1));
    }

    #[test]
    fn udplite_is_a_stream_from_the_first_packet_after_an_answer() {
        let lite = |from| datagram(Protocol::UDPLITE, from, 0, 1);
        let mut flow = Flow::new();
        flow.accepts(&lite(Original));
        flow.accepts(&lite(Reply));
        assert_eq!(flow.left(), 30);
        assert_eq!(flow.changes(&lite(Original)), Changes::ASSURED);
        assert_eq!(flow.left(), 120);
    }
}

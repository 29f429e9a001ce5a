//! The ICMP tracker, and what an ICMP error is about.
//!
//! Queries (echo, timestamp, information, address mask) are connections of their own. An
//! error belongs to the connection whose packet it quotes: [`precheck`] finds that packet's
//! tuple; looking it up is the caller's business.
//!
//! Source: `nf_conntrack_icmp_packet`, `nf_conntrack_icmpv4_error`, `nf_conntrack_inet_error`
//! (nf_conntrack_proto_icmp.c); `ipv4_get_l4proto` (nf_conntrack_core.c); RFC 792.

use super::{Outcome, Tracked};
use crate::addr::Addr;
use crate::packet::checksum::checksum;
use crate::packet::ipv4::Ipv4Header;
use crate::table::key::FlowKey;
use crate::tuple::{Direction, Protocol, Tuple};

const HEADER_BYTES: usize = 8;

/// The last type that anybody uses (`NR_ICMP_TYPES`); beyond is an error.
const TYPE_MAX: u8 = 18;

/// Is this the type of a question: echo, timestamp, information, address mask?
const fn is_query(icmp_type: u8) -> bool {
    matches!(icmp_type, 8 | 13 | 15 | 17)
}

/// Is this the type of an error: unreachable, source quench, redirect, time exceeded,
/// parameter problem (`icmp_is_err`)?
#[must_use]
pub const fn is_error(icmp_type: u8) -> bool {
    matches!(icmp_type, 3 | 4 | 5 | 11 | 12)
}

/// Tracks an ICMP query or its answer. An answer does not end the connection.
pub fn track<K: FlowKey>(cx: &Tracked<'_, K>) -> Outcome {
    let original = cx.entry.key(Direction::Original).tuple();
    if !is_query(original.icmp_type()) {
        return Outcome::INVALID;
    }
    cx.refresh(cx.sysctls.icmp_timeout);
    Outcome::ACCEPT
}

/// What an ICMP packet is, before any connection is looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precheck {
    /// No error message: tracked like packets of other protocols.
    NotAnError,
    /// Too short, a wrong checksum, an unknown type, or an error about a packet that has no
    /// tuple. Counted as `error`; the packet is INVALID.
    Failed,
    /// An error message.
    Error {
        /// Tuple of the packet that it quotes, as that packet was (not inverted).
        inner: Tuple,
    },
}

/// Looks at an ICMP packet (`header.protocol` must be ICMP). `verify_checksum`: see
/// [`Tracked::verifies_checksum`].
#[must_use]
pub fn precheck(header: &Ipv4Header, bytes: &[u8], verify_checksum: bool) -> Precheck {
    let l4 = header.l4(bytes);
    let Some((&[icmp_type, ..], quoted)) = l4.split_first_chunk::<HEADER_BYTES>() else {
        return Precheck::Failed;
    };
    if (verify_checksum && checksum(l4, 0) != 0) || icmp_type > TYPE_MAX {
        return Precheck::Failed;
    }
    if !is_error(icmp_type) {
        return Precheck::NotAnError;
    }
    match quoted_header(quoted).and_then(|inner| inner.tuple(quoted)) {
        Some(inner) => Precheck::Error { inner },
        None => Precheck::Failed,
    }
}

/// The network header of a packet that an error quotes; `quoted` is what follows the ICMP
/// header. As trusting as the kernel, which asks for 20 bytes and for the transport header
/// to begin in what is there: routers quote with lengths that are not the packet's. Its
/// `total_length` is the number of bytes quoted.
#[must_use]
pub fn quoted_header(quoted: &[u8]) -> Option<Ipv4Header> {
    let header: &[u8; 20] = quoted.first_chunk()?;
    let l4_offset = usize::from(header[0] & 0x0f) * 4;
    if l4_offset > quoted.len() {
        return None;
    }
    let address =
        |at: usize| Addr::v4([header[at], header[at + 1], header[at + 2], header[at + 3]].into());
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    Some(Ipv4Header {
        src: address(12),
        dst: address(16),
        protocol: Protocol(header[9]),
        l4_offset,
        total_length: quoted.len(),
        fragment_offset: fragment & 0x1fff,
        more_fragments: fragment & 0x2000 != 0,
        ttl: header[8],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{Flow, ipv4, ports};
    use crate::status::Status;
    use crate::time::SECOND;
    use crate::tuple::Direction::{Original, Reply};
    use proptest::prelude::*;

    /// An ICMP message of a type, with the right checksum.
    fn message(from: Direction, icmp_type: u8, rest: &[u8]) -> Vec<u8> {
        let mut l4 = vec![icmp_type, 0, 0, 0];
        l4.extend(rest);
        let check = checksum(&l4, 0);
        l4[2..4].copy_from_slice(&check.to_be_bytes());
        ipv4(from, Protocol::ICMP, &l4)
    }

    fn check(bytes: &[u8]) -> Precheck {
        precheck(&Ipv4Header::parse(bytes, false).unwrap(), bytes, true)
    }

    /// An unreachable message from the server's side that quotes the start of `packet`.
    fn unreachable(packet: &[u8]) -> Vec<u8> {
        message(Reply, 3, &[&[0; 4], packet].concat())
    }

    #[test]
    fn question_and_answer_are_one_connection_that_is_never_assured() {
        let mut flow = Flow::new();
        assert!(flow.accepts(&message(Original, 8, &[0, 7, 0, 1])));
        assert_eq!(flow.left(), 30);
        flow.wait(9 * SECOND);
        for _ in 0..3 {
            assert!(flow.accepts(&message(Reply, 0, &[0, 7, 0, 1])));
            assert_eq!(flow.left(), 30);
        }
        assert!(flow.status().contains(Status::SEEN_REPLY));
        assert!(!flow.status().contains(Status::ASSURED));
    }

    #[test]
    fn an_answer_begins_no_connection() {
        for (question, answer) in [(8, 0), (13, 14), (15, 16), (17, 18)] {
            assert!(Flow::new().accepts(&message(Original, question, &[0; 4])));
            assert!(!Flow::new().accepts(&message(Original, answer, &[0; 4])));
        }
    }

    #[test]
    fn queries_and_unknown_types_up_to_eighteen_are_no_errors() {
        for icmp_type in (0..=TYPE_MAX).filter(|&t| !is_error(t)) {
            assert_eq!(
                check(&message(Original, icmp_type, &[0; 4])),
                Precheck::NotAnError
            );
        }
    }

    #[test]
    fn short_wrong_and_far_off_messages_fail() {
        assert_eq!(
            check(&message(Original, 8, &[])),
            Precheck::Failed,
            "4 bytes"
        );
        for icmp_type in [19, 40] {
            assert_eq!(
                check(&message(Original, icmp_type, &[0; 4])),
                Precheck::Failed
            );
        }
        let mut wrong = message(Original, 8, &[0; 4]);
        wrong[27] ^= 1;
        assert_eq!(check(&wrong), Precheck::Failed);
        let header = Ipv4Header::parse(&wrong, false).unwrap();
        assert_eq!(precheck(&header, &wrong, false), Precheck::NotAnError);
    }

    #[test]
    fn an_error_tells_the_tuple_of_the_packet_it_quotes() {
        let quoted = ipv4(
            Original,
            Protocol::UDP,
            &[&ports(Original)[..], &[0, 30]].concat(),
        );
        let tuple = Ipv4Header::parse(&quoted, true)
            .unwrap()
            .tuple(&quoted)
            .unwrap();
        for kept in [quoted.len(), 24] {
            let error = unreachable(&quoted[..kept]);
            assert_eq!(check(&error), Precheck::Error { inner: tuple });
        }
    }

    #[test]
    fn an_error_about_nothing_fails() {
        let quoted = ipv4(Original, Protocol::UDP, &ports(Original));
        assert_eq!(
            check(&unreachable(&quoted[..23])),
            Precheck::Failed,
            "half a port"
        );
        assert_eq!(
            check(&unreachable(&quoted[..19])),
            Precheck::Failed,
            "no header"
        );
        assert_eq!(check(&unreachable(&[])), Precheck::Failed);
        let mut fragment = quoted.clone();
        fragment[7] = 1;
        assert_eq!(check(&unreachable(&fragment)), Precheck::Failed);
        let mut options_missing = quoted;
        options_missing[0] = 0x4f;
        assert_eq!(check(&unreachable(&options_missing)), Precheck::Failed);
    }

    #[test]
    fn the_quoted_total_length_is_not_believed() {
        let mut quoted = ipv4(Original, Protocol::UDP, &ports(Original));
        quoted[2..4].fill(0);
        assert!(matches!(
            check(&unreachable(&quoted)),
            Precheck::Error { .. }
        ));
    }

    proptest! {
        #[test]
        fn no_quoted_bytes_make_the_check_panic(quoted in proptest::collection::vec(any::<u8>(), 0..64), kind in 0..20u8) {
            check(&message(Reply, kind, &quoted));
        }
    }
}

//! The SCTP tracker in its smallest form: an association begins with a lone INIT, and every
//! packet of it that has a chunk refreshes it.
//!
//! What the kernel has and this has not: the state table (every association stays CLOSED,
//! with CLOSED's timeout of ten seconds, and is never ASSURED), verification tags, the CRC32c
//! checksum. A connection that lives longer on the kernel expires early here.
//!
//! Source: `sctp_new`, `do_basic_checks` (nf_conntrack_proto_sctp.c); RFC 9260 3.

use super::{Outcome, Tracked};
use crate::event::Changes;
use crate::status::Status;
use crate::table::key::FlowKey;

const HEADER_BYTES: usize = 12;
const INIT: u8 = 1;

/// The number of CLOSED (`SCTP_CONNTRACK_CLOSED`), the only state that there is here.
pub const CLOSED: u8 = 1;

/// A packet's verification tag and its first chunk's type. `None` where header or chunk is not
/// there, or the chunk's length is 0.
fn tag_and_first_chunk(l4: &[u8]) -> Option<(u32, u8)> {
    let (header, chunks) = l4.split_first_chunk::<HEADER_BYTES>()?;
    let &[kind, _, length @ ..] = chunks.first_chunk::<4>()?;
    let tag = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    (u16::from_be_bytes(length) != 0).then_some((tag, kind))
}

/// Tracks an SCTP packet.
pub fn track<K: FlowKey>(cx: &Tracked<'_, K>) -> Outcome {
    let Some((tag, chunk)) = tag_and_first_chunk(cx.header.l4(cx.bytes)) else {
        return Outcome::INVALID;
    };
    let mut changes = Changes::empty();
    if !cx.entry.status().contains(Status::CONFIRMED) {
        // RFC 9260 8.5.1: an INIT has the tag 0.
        if chunk != INIT || tag != 0 {
            return Outcome::INVALID;
        }
        cx.tracker.lock().store([0; 7], CLOSED);
        changes = Changes::PROTOINFO;
    }
    cx.refresh(cx.sysctls.sctp_timeout_closed);
    Outcome {
        changes,
        ..Outcome::ACCEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::{Flow, ipv4, ports};
    use crate::time::SECOND;
    use crate::tuple::Direction::{self, Original, Reply};
    use crate::tuple::Protocol;

    fn packet(from: Direction, tag: u32, chunk: &[u8]) -> Vec<u8> {
        let l4 = [&ports(from)[..], &tag.to_be_bytes(), &[0; 4], chunk].concat();
        ipv4(from, Protocol::SCTP, &l4)
    }

    const INIT_CHUNK: [u8; 4] = [INIT, 0, 0, 4];
    const DATA_CHUNK: [u8; 4] = [0, 3, 0, 4];

    #[test]
    fn an_association_begins_with_an_init_without_a_tag() {
        let mut flow = Flow::new();
        assert!(flow.accepts(&packet(Original, 0, &INIT_CHUNK)));
        assert_eq!((flow.left(), flow.tracker().public_state()), (10, CLOSED));
        for (tag, chunk) in [(1, INIT_CHUNK), (0, DATA_CHUNK)] {
            assert!(!Flow::new().accepts(&packet(Original, tag, &chunk)));
        }
    }

    #[test]
    fn packets_without_a_whole_chunk_are_invalid() {
        for chunk in [&[][..], &[INIT, 0, 0], &[INIT, 0, 0, 0]] {
            assert!(!Flow::new().accepts(&packet(Original, 0, chunk)));
        }
    }

    #[test]
    fn every_later_packet_gives_ten_seconds() {
        let mut flow = Flow::new();
        flow.accepts(&packet(Original, 0, &INIT_CHUNK));
        flow.wait(4 * SECOND);
        assert!(flow.accepts(&packet(Reply, 9, &DATA_CHUNK)));
        assert_eq!(flow.left(), 10);
    }
}

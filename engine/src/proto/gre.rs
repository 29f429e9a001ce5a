//! The GRE tracker: a stream from the first packet after an answer on.
//!
//! The kernel copies the two timeouts into the entry when it is made, so that it keeps them
//! when the sysctl changes later; here an engine's settings never change.
//!
//! Source: `nf_conntrack_gre_packet` (nf_conntrack_proto_gre.c); the tuple's keys are read in
//! [`crate::packet::ipv4`].

use super::{Outcome, Tracked};
use crate::status::Status;
use crate::table::key::FlowKey;

/// Tracks a GRE packet.
pub fn track<K: FlowKey>(cx: &Tracked<'_, K>) -> Outcome {
    let status = cx.entry.status();
    if !status.contains(Status::SEEN_REPLY) {
        cx.refresh(cx.sysctls.gre_timeout);
        return Outcome::ACCEPT;
    }
    cx.refresh(cx.sysctls.gre_timeout_stream);
    cx.assure(status)
}

#[cfg(test)]
mod tests {
    use crate::event::Changes;
    use crate::proto::testing::{Flow, ipv4};
    use crate::status::Status;
    use crate::tuple::Direction::{Original, Reply};
    use crate::tuple::Protocol;

    #[test]
    fn the_first_packet_after_an_answer_makes_a_stream() {
        let gre = |from| ipv4(from, Protocol::GRE, &[0, 0, 8, 0]);
        let mut flow = Flow::new();
        assert!(flow.accepts(&gre(Original)) && flow.accepts(&gre(Reply)));
        assert_eq!(flow.left(), 30);
        assert_eq!(flow.changes(&gre(Original)), Changes::ASSURED);
        assert_eq!(flow.left(), 180);
        assert!(flow.status().contains(Status::ASSURED));
    }
}

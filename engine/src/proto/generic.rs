//! The tracker of all protocols that have none of their own: every packet gives more time.
//!
//! All packets of one protocol between two addresses are one connection; it is never ASSURED.
//!
//! Source: `nf_conntrack_handle_packet`, default case (nf_conntrack_core.c).

use super::{Outcome, Tracked};
use crate::table::key::FlowKey;

/// Tracks a packet.
pub fn track<K: FlowKey>(cx: &Tracked<'_, K>) -> Outcome {
    cx.refresh(cx.sysctls.generic_timeout);
    Outcome::ACCEPT
}

#[cfg(test)]
mod tests {
    use crate::proto::testing::{Flow, ipv4};
    use crate::status::Status;
    use crate::time::SECOND;
    use crate::tuple::Direction::{Original, Reply};
    use crate::tuple::Protocol;

    #[test]
    fn every_packet_gives_ten_minutes_and_none_makes_it_assured() {
        for protocol in [Protocol::DCCP, Protocol(253)] {
            let mut flow = Flow::new();
            for from in [Original, Reply, Original] {
                assert!(flow.accepts(&ipv4(from, protocol, &[])));
                assert_eq!(flow.left(), 600);
                flow.wait(5 * SECOND);
            }
            assert!(!flow.status().contains(Status::ASSURED));
        }
    }
}

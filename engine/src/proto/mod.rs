//! Trackers: what each protocol makes of a packet of a known or a new connection.
//!
//! A tracker sees the packet *before* SEEN_REPLY is set for it, so that the first answer
//! is told from the second. It changes the entry's timeout, status and tracker words;
//! removing entries is the caller's business ([`Action`]).

pub mod generic;
pub mod gre;
pub mod icmp;
pub mod sctp;
pub mod tcp;
#[cfg(test)]
mod testing;
pub mod udp;

use crate::config::Sysctls;
use crate::event::Changes;
use crate::hook::HookPoint;
use crate::packet::checksum::{checksum, pseudo_header_v4};
use crate::packet::ipv4::Ipv4Header;
use crate::status::{CtInfo, Status};
use crate::table::key::FlowKey;
use crate::table::slab::{Entry, TrackerCell, Traffic};
use crate::time::Nanos;
use crate::tuple::{Direction, Protocol};

/// What a tracker is given.
#[derive(Debug)]
pub struct Tracked<'a, K: FlowKey> {
    /// Settings.
    pub sysctls: &'a Sysctls,
    /// The connection's hot line.
    pub entry: &'a Entry<K>,
    /// The connection's tracker memory.
    pub tracker: &'a TrackerCell,
    /// Traffic counters of the packet's direction, where they are kept.
    pub traffic: Option<&'a Traffic>,
    /// The packet, from its network header.
    pub bytes: &'a [u8],
    /// Its network header.
    pub header: &'a Ipv4Header,
    /// The capture cut it short: checksums cannot be verified.
    pub truncated: bool,
    /// Its relation to the connection.
    pub ctinfo: CtInfo,
    /// Where it is.
    pub hook: HookPoint,
    /// Time.
    pub now: Nanos,
}

impl<K: FlowKey> Tracked<'_, K> {
    /// The packet's direction.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.ctinfo.direction()
    }

    /// Is the transport checksum to be verified here (`nf_conntrack_checksum` at `PRE_ROUTING`)?
    #[must_use]
    pub fn verifies_checksum(&self) -> bool {
        self.sysctls.checksum && self.hook == HookPoint::PreRouting && !self.truncated
    }

    /// Gives the connection more time, and counts the packet (`nf_ct_refresh_acct`).
    pub fn refresh(&self, timeout: Nanos) {
        self.entry.refresh(self.now, timeout);
        self.account();
    }

    /// Counts the packet without touching the timeout (`nf_ct_acct_update`).
    pub fn account(&self) {
        if let Some(traffic) = self.traffic {
            traffic.add(1, self.header.total_length as u64);
        }
    }

    /// Is the transport checksum right, over the first `covered` bytes (all, if there are
    /// fewer), with a pseudo header of `protocol`? The packet must be whole.
    fn transport_checksum_holds(&self, protocol: Protocol, covered: usize) -> bool {
        let l4 = self.header.l4(self.bytes);
        let pseudo = pseudo_header_v4(
            self.header.src.to_u32(),
            self.header.dst.to_u32(),
            protocol.0,
            self.header.l4_length(),
        );
        checksum(&l4[..covered.min(l4.len())], pseudo) == 0
    }

    /// Makes the connection ASSURED if it is not; one that only lives by its reply key never
    /// becomes it (`IPS_NAT_CLASH`: it expires soon). `status` is that before the packet.
    fn assure(&self, status: Status) -> Outcome {
        if status.contains(Status::NAT_CLASH)
            || self
                .entry
                .set_status(Status::ASSURED)
                .contains(Status::ASSURED)
        {
            return Outcome::ACCEPT;
        }
        Outcome {
            changes: Changes::ASSURED,
            ..Outcome::ACCEPT
        }
    }
}

/// Shows a packet to its protocol's tracker (`nf_conntrack_handle_packet`).
pub fn track<K: FlowKey>(cx: &Tracked<'_, K>) -> Outcome {
    match cx.header.protocol {
        Protocol::TCP => tcp::track(cx),
        Protocol::UDP => udp::track(cx),
        Protocol::UDPLITE => udp::track_lite(cx),
        Protocol::ICMP => icmp::track(cx),
        Protocol::GRE => gre::track(cx),
        Protocol::SCTP => sctp::track(cx),
        _ => generic::track(cx),
    }
}

/// What the tracker wants done with the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It goes on.
    Accept,
    /// It goes on; its connection is removed (a reset before any answer).
    AcceptAndKill,
    /// It is INVALID: goes on without its connection.
    Invalid,
    /// Its connection is over and this packet begins another: remove it and look up again.
    Reopen,
}

/// A tracker's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What to do.
    pub action: Action,
    /// What about the connection changed.
    pub changes: Changes,
}

impl Outcome {
    /// The packet goes on, nothing else.
    pub const ACCEPT: Outcome = Outcome {
        action: Action::Accept,
        changes: Changes::empty(),
    };
    /// INVALID.
    pub const INVALID: Outcome = Outcome {
        action: Action::Invalid,
        changes: Changes::empty(),
    };
}

//! `clash-tcp`: TCP without NAT. TCP's gate is shut: the loser's packet is dropped, and its sender
//! waits for its retransmission timer.

use clashtrack_engine::time::SECOND;
use clashtrack_engine::tuple::Protocol;

use super::case::{Kind, Workload};
use super::clash::{ClashWorkload, Translation};

/// What sets it apart. A SYN has 120 s.
pub const CLASH_TCP: ClashWorkload = ClashWorkload {
    name: "clash-tcp",
    protocol: Protocol::TCP,
    timeout: 120 * SECOND,
    translation: Translation::None,
};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: CLASH_TCP.name,
    question: "The same for TCP, which does not merge: how many first packets are dropped?",
    kind: Kind::Clash(CLASH_TCP),
};

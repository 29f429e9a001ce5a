//! `clash`: UDP without NAT. The loser's keys are the winner's, so its packet is merged.
//!
//! What the clash workloads have in common is described here by [`ClashWorkload`]; how they are
//! raced is in [`race`](super::race).

use clashtrack_engine::status::Status;
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::Protocol;

use super::case::{Kind, Workload};

/// What sets one clash workload apart from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClashWorkload {
    /// The name that `run` takes.
    pub name: &'static str,
    /// Protocol of the flows.
    pub protocol: Protocol,
    /// Timeout of a connection that has seen one packet.
    pub timeout: Nanos,
    /// Whether each worker draws a reply tuple of its own for a flow.
    pub translation: Translation,
}

/// NAT of a workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Translation {
    /// The reply tuple is the inverse of the original one.
    None,
    /// `SNAT --random-fully` to one address.
    Random,
    /// DNAT to one of several servers, drawn for each packet.
    Backend,
}

impl Translation {
    /// Status bits that NAT set-up leaves.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Translation::None => Status::empty(),
            Translation::Random => Status::SRC_NAT | Status::SRC_NAT_DONE,
            Translation::Backend => Status::DST_NAT | Status::DST_NAT_DONE,
        }
    }
}

/// What sets it apart.
pub const CLASH: ClashWorkload = ClashWorkload {
    name: "clash",
    protocol: Protocol::UDP,
    timeout: 30 * SECOND,
    translation: Translation::None,
};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: CLASH.name,
    question: "Two workers confirm one UDP flow at the same time: what does merging them cost?",
    kind: Kind::Clash(CLASH),
};

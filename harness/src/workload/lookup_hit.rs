//! `lookup-hit`: a packet of a connection that is there.
//!
//! # Model
//! A table filled with TCP connections behind source NAT, none of them older than the others.
//! Keys come from an array of two whole sweeps in random order, which every worker goes through from a
//! place of its own: a connection is asked for by one of its keys in one sweep and by the other in the
//! next. A hit ends with the connection's status read, whatever the table; nothing is held after it, so a table
//! that counts references is spared the two locked instructions where its guard keeps the entry alive. With a batch of 1 each
//! lookup waits for the one before: its key's place depends on the status that was read.
//!
//! # What it does not measure
//! Packets (parsing, tracking, rewriting), popular connections (all are asked for equally often), and
//! what else a program keeps in its caches.

use super::case::{Kind, Workload};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "lookup-hit",
    question: "A packet of a known connection: what does finding it by either key cost?",
    kind: Kind::LookupHit,
};

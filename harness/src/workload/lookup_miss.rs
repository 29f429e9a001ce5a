//! `lookup-miss`: the first packet of a flow that nobody knows.
//!
//! # Model
//! The same full table as [`lookup-hit`](super::lookup_hit)'s, and keys of as many other connections,
//! in the same two sweeps. Nothing is inserted.
//!
//! # What it does not measure
//! What follows a miss: see [`connect`](super::connect).

use super::case::{Kind, Workload};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "lookup-miss",
    question: "The first packet of a new flow: what does it cost to learn that nobody knows it?",
    kind: Kind::LookupMiss,
};

//! The engine's numbered conformance cases, on the lock-free table.
//!
//! The same files as `conformance/main.rs` runs on the reference table; the two cases about the
//! kernel's own chains (79, and 82's choice of buckets) are not for this table.

// Included by path in several crates; what one of them sees as unreachable another needs.
#![allow(unreachable_pub)]

#[path = "conformance/clash.rs"]
mod clash;
#[path = "conformance/lab.rs"]
mod lab;
#[path = "conformance/limits.rs"]
mod limits;
#[path = "conformance/nat.rs"]
mod nat;
#[path = "conformance/packets.rs"]
mod packets;
#[path = "conformance/ports.rs"]
mod ports;
#[path = "conformance/tcp.rs"]
mod tcp;
#[path = "conformance/udp_icmp.rs"]
mod udp_icmp;

/// Chains, their limit and early drop's choice of buckets are its own.
pub const KERNEL_CHAINS: bool = false;

/// The table under test.
pub type TestTable =
    clashtrack_engine::table::lockfree::LockfreeTable<clashtrack_engine::table::key::KeyV4>;

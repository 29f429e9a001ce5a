//! The numbered conformance cases: what Linux 6.18 does, packet by packet.
//!
//! Each case is a test named `case_NN_…`. They run here on the reference table; the
//! harness runs the same files on its own tables.

// Included by path in two crates; what one of them sees as unreachable the other needs.
#![allow(unreachable_pub)]

mod clash;
mod lab;
mod limits;
mod nat;
mod packets;
mod ports;
mod tcp;
mod udp_icmp;

/// Chains, their limit and early drop's choice of buckets are the kernel's.
pub const KERNEL_CHAINS: bool = true;

/// The table under test.
pub type TestTable =
    clashtrack_engine::table::mutex::MutexTable<clashtrack_engine::table::key::KeyV4>;

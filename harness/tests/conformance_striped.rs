//! The engine's numbered conformance cases, on the kernel's table in user space.
//!
//! The same files as `engine/tests/conformance` runs on the reference table.

// Included by path in two crates; what one of them sees as unreachable the other needs.
#![allow(unreachable_pub)]

#[path = "../../engine/tests/conformance/clash.rs"]
mod clash;
#[path = "../../engine/tests/conformance/lab.rs"]
mod lab;
#[path = "../../engine/tests/conformance/limits.rs"]
mod limits;
#[path = "../../engine/tests/conformance/nat.rs"]
mod nat;
#[path = "../../engine/tests/conformance/packets.rs"]
mod packets;
#[path = "../../engine/tests/conformance/ports.rs"]
mod ports;
#[path = "../../engine/tests/conformance/tcp.rs"]
mod tcp;
#[path = "../../engine/tests/conformance/udp_icmp.rs"]
mod udp_icmp;

/// Chains, their limit and early drop's choice of buckets are the kernel's.
pub const KERNEL_CHAINS: bool = true;

/// The table under test.
pub type TestTable = clashtrack::peer::striped::StripedTable<clashtrack_engine::table::key::KeyV4>;

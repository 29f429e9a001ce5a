//! Connection tracking and NAT, equal to Linux 6.18's packet by packet, in user space.
//!
//! Packets, a time and random numbers come in; verdicts, rewritten packets and counters go out. The engine
//! has no I/O, no clock, no threads and no randomness of its own, so that the same code runs in a race of real
//! threads, in a replayed capture, and in virtual time.
//!
//! # The life of a packet
//!
//! ```text
//!  rx batch (≤ 64)                                        one worker, pinned to one core, no shared state of its own
//!    │ parse              packet bytes → tuple, L4 facts                                packet
//!    │ lookup (batched)   hash all, ask for buckets, then entries, then compare         table
//!    │ conntrack in       found: ctinfo, else: a new unconfirmed entry, worker-local    conntrack
//!    │ track              the protocol's state machine, timeouts                        proto
//!    │ nat                first packet: a unique reply tuple; every packet: rewrite     nat
//!    │ confirm            race the unconfirmed entry into the shared table              confirm
//!    │    └ clash         somebody was first: same flow / reply-only / drop             clash
//!    ▼ verdict + rewritten bytes, and exactly one counter that says what became of it   stats
//! ```
//!
//! **Between choosing a NAT tuple and confirming it nothing is reserved.** Two workers may choose the same tuple, or hold the
//! same new flow; the port search may hand back a tuple that is in use. Both come to light at confirm, as a clash.
//! [`hook`] has the steps as a table, with the kernel's priorities.
//!
//! # The map
//!
//! What a connection is called:
//! - [`addr`], [`tuple`](mod@tuple), [`zone`]: addresses; a tuple and its inverse, one for each direction of a connection; the
//!   number that keeps equal tuples apart.
//! - [`status`]: a connection's flags, and a packet's relation to its connection (*ctinfo*).
//! - [`time`], [`random`]: nanoseconds that the caller passes in; a worker's seeded generator.
//!
//! What a packet meets, in this order:
//! - [`packet`]: the wire. Views check lengths once; behind them nothing can be out of bounds. Checksums are corrected by
//!   difference.
//! - [`hook`], [`path`]: which step runs where, and in which order; a packet's way through the host, which can be
//!   stopped at any place and gone on with, to play a race out step by step.
//! - [`conntrack`]: finds the packet's connection, or begins one that nobody else sees.
//! - [`table`]: where a connection is found by either of its keys, and the step that puts it there. The
//!   [`FlowTable`](table::FlowTable) trait is the contract; it is usable alone by those who want only a table.
//!   [`table::lockfree`] is the table to use, [`table::mutex`] the plain one that it is checked against.
//! - [`proto`]: one tracker a protocol: states, timeouts, what is invalid.
//! - [`nat`]: ranges, the search for a unique tuple, rewriting there and back.
//! - [`confirm`], [`clash`]: the unconfirmed connection is raced into the table; what becomes of the loser.
//! - [`expire`]: the end of connections, removed and given back; the collector, which the caller runs when it likes.
//!
//! What it is set up with, and what it tells:
//! - [`config`]: settings by their sysctl names and with their defaults.
//! - [`host`], [`rules`]: devices, addresses and routes; the rules of the raw and nat tables.
//! - [`stats`], [`event`]: the kernel's counters by its names, one block a worker; events, and every lost clash with both
//!   connections.
//! - [`engine`]: [`Engine`](engine::Engine), shared by all, and [`Worker`](engine::Worker), which belongs to one thread and
//!   whose `process` is the whole data path.
//!
//! # In use
//!
//! ```
//! use clashtrack_engine::config::Sysctls;
//! use clashtrack_engine::engine::{Engine, EngineConfig};
//! use clashtrack_engine::packet::{Origin, Packet, Verdict};
//! use clashtrack_engine::table::key::KeyV4;
//! use clashtrack_engine::table::lockfree::LockfreeTable;
//! use clashtrack_engine::time::SECOND;
//!
//! let config = EngineConfig::new(Sysctls::default(), 1);
//! let engine: Engine<LockfreeTable<KeyV4>> = Engine::new(config)?;
//! let mut worker = engine.worker()?;
//!
//! // An IPv4 packet of this host to itself: UDP, 127.0.0.1:1000 to 127.0.0.1:53, no payload.
//! let mut bytes = [
//!     0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x7c, 0xcf, 127, 0, 0, 1, 127, 0, 0, 1,
//!     0x03, 0xe8, 0, 53, 0, 8, 0, 0,
//! ];
//! let mut batch = [Packet::new(&mut bytes, Origin::Local)];
//! worker.process(&mut batch, 10 * SECOND);
//!
//! assert_eq!(batch[0].verdict, Some(Verdict::Accept));
//! let connections = engine.connections(11 * SECOND);
//! assert_eq!(connections[0].original.to_string(), "src=127.0.0.1 dst=127.0.0.1 sport=1000 dport=53");
//! assert_eq!(connections[0].remaining, 29 * SECOND);
//! # Ok::<(), clashtrack_engine::engine::EngineError>(())
//! ```
//!
//! Names are those of the kernel and of `conntrack` users. Facts come from reading and measuring it; no text of it is here.

// The table's checkers compile the table and what it stands on, no more: they are compiled often.
pub mod addr;
#[cfg(not(any(loom, shuttle)))]
pub mod clash;
#[cfg(not(any(loom, shuttle)))]
pub mod config;
#[cfg(not(any(loom, shuttle)))]
pub mod confirm;
#[cfg(not(any(loom, shuttle)))]
pub mod conntrack;
#[cfg(not(any(loom, shuttle)))]
pub mod engine;
#[cfg(not(any(loom, shuttle)))]
pub mod event;
#[cfg(not(any(loom, shuttle)))]
pub mod expire;
#[cfg(not(any(loom, shuttle)))]
pub mod hook;
#[cfg(not(any(loom, shuttle)))]
pub mod host;
#[cfg(all(any(test, feature = "kit"), not(any(loom, shuttle))))]
pub mod kit;
#[cfg(not(any(loom, shuttle)))]
pub mod nat;
#[cfg(not(any(loom, shuttle)))]
pub mod packet;
#[cfg(not(any(loom, shuttle)))]
pub mod path;
#[cfg(not(any(loom, shuttle)))]
pub mod proto;
pub mod random;
#[cfg(not(any(loom, shuttle)))]
pub mod rules;
#[cfg(not(any(loom, shuttle)))]
pub mod stats;
pub mod status;
pub mod sync;
pub mod table;
pub mod time;
pub mod tuple;
pub mod zone;

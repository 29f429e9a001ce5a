//! Flame graphs of workloads: recorded by perf, named and folded here, drawn by inferno.
//!
//! ```text
//! clashtrack flame W ─▶ perf record ─▶ clashtrack flame W --measured … ─▶ "enable", rounds, "disable"
//!        │                  │ samples, started and stopped by the workload over perf's control channel
//!        ▼                  ▼
//!    fold ◀── perf script: stacks as symbol+offset
//!     │  inlined functions named from the debug info       names
//!     ▼
//!    draw: SVG                                             draw
//! ```
//! The measured phase only: the table is made and filled before perf is told to look. Workers are threads of their own,
//! and the thread that checks their answers is left out.

pub mod draw;
pub mod fold;
pub mod names;
pub mod record;

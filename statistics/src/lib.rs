//! What of a measured difference is noise. It knows numbers only: no table, no file, no machine.
//!
//! ```text
//! draws      many draws of a figure ─▶ an interval, a chance
//! resample   samples of two files, by launch ─▶ draws of their ratio (hierarchical bootstrap)
//! student    launches of two programs that took turns ─▶ draws of their ratio (Student's t)
//! holm       a level for each of many intervals, so that they do not multiply false alarms
//! change     where a series changed (E-divisive, with a permutation test)
//! ```
//! A crate of its own, because it is compiled with optimisation for tests too: they draw by the hundred thousand.

pub mod change;
pub mod draws;
pub mod holm;
pub mod resample;
pub mod student;

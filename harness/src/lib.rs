//! The `clashtrack` suite.

#![forbid(unsafe_code)]

pub mod peer;

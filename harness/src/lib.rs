//! The `clashtrack` suite.

pub mod rules;

//! The `clashtrack` suite.

//! The `clashtrack` command.
fn main() {}

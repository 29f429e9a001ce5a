//! stub
/// x
#[derive(Debug)]
pub struct BySource;

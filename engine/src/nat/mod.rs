//! NAT: choosing a reply tuple on a connection's first packet, rewriting all of them.
pub mod by_source;
pub mod range;

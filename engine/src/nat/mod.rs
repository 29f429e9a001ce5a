//! NAT: choosing a reply tuple on a connection's first packet, rewriting all of them.
//!
//! ```text
//! hook ─┬─ icmp_error ── rewrite                     errors about a translated connection
//!       ├─ rule_walk ─▶ masquerade, redirect, netmap, or the rule's own range
//!       │                    └─▶ setup ─▶ choose ─┬─ by_source     what the client's port has already
//!       │  (no rule: null binding ─▶ setup)       ├─ address       which address of a range
//!       │                                         ├─ port_search   bounded tries; the last may be taken
//!       │                                         └─ taken         does somebody own the answer's tuple?
//!       └─ rewrite                                   every packet: address, port, checksums
//! ```
//! Nothing that is chosen here is reserved. The chosen tuple becomes the connection's own at
//! confirm, or clashes there.
//!
//! Sources: nf_nat_core.c, nf_nat_proto.c.

mod address;
pub mod by_source;
mod choose;
pub(crate) mod hook;
mod icmp_error;
mod masquerade;
mod netmap;
mod port_search;
pub mod range;
mod redirect;
mod rewrite;
pub(crate) mod rule_walk;
mod setup;
mod taken;

#[cfg(test)]
mod lab;
#[cfg(test)]
mod tests;

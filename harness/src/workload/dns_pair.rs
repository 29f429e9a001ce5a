//! `dns-pair`: the A and the AAAA query of one name, sent from one socket at one time.
//!
//! # Model
//! A resolver (glibc's, musl's) sends both queries from one UDP socket to the address of a DNS service, which destination NAT
//! maps to one of [`BACKENDS`] servers, drawn for each packet that finds no connection, as `kube-proxy`'s `statistic`
//! rules do. Each worker has one of the two packets (with more workers: a packet each): one flow. Who comes second meets the
//! other's connection: with the same server it is merged into it, with another one it lives on by its reply key alone, so that
//! both answers get back. None is dropped; where one is, as on kernels before 5.0, the resolver waits for five seconds.
//! How it is raced is in [`race`](super::race).
//!
//! # What it does not measure
//! The resolver's retry, which goes to a new connection; a socket for each query (`single-request-reopen`).

use clashtrack_engine::addr::Addr;
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::time::SECOND;
use clashtrack_engine::tuple::{Protocol, Tuple};

use super::case::{Kind, Workload};
use super::clash::{ClashWorkload, Translation};

/// What sets it apart.
pub const DNS_PAIR: ClashWorkload = ClashWorkload {
    name: "dns-pair",
    protocol: Protocol::UDP,
    timeout: 30 * SECOND,
    translation: Translation::Backend,
};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: DNS_PAIR.name,
    question: "A and AAAA from one socket, DNAT to one of four servers: do both answers get back?",
    kind: Kind::Clash(DNS_PAIR),
};

/// Servers behind the service's address.
pub const BACKENDS: u32 = 4;
/// The first of them: 192.0.2.1, of the documentation networks (RFC 5737).
const FIRST_BACKEND: u32 = 0xc000_0201;

/// The reply key of a flow whose server was drawn now.
pub(super) fn draw_reply(original: &Tuple, rng: &mut WorkerRng) -> KeyV4 {
    let reply = Tuple {
        src: Addr::from_u32(FIRST_BACKEND + rng.below(BACKENDS)),
        dst: original.src,
        src_key: original.dst_key,
        dst_key: original.src_key,
        ..*original
    };
    KeyV4::pack(&reply, 0)
}

//! `zones`: the same tuples, told apart by their zone alone.
//!
//! # Model
//! A full table of connections behind source NAT in [`ZONES`] zones (tenants, VRFs, network namespaces behind one
//! tracker), each zone with the very same tuples. Lookups are those of [`lookup-hit`](super::lookup_hit). Before anything
//! is timed each connection is looked up by both keys and must be found itself, not its double of another zone, and the
//! same tuples in a zone that has no connections must not be found.
//!
//! # What it does not measure
//! Zones of one direction only (`CT --zone-orig`); how a packet gets its zone (raw rules).

use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::tuple::Protocol;

use super::case::{Kind, Workload};
use super::flows::{self, Pair};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "zones",
    question: "Equal tuples in 64 zones: does a lookup stay as cheap where only the zone differs?",
    kind: Kind::Zones,
};

/// Zones, numbered from 1.
pub const ZONES: usize = 64;
/// A zone without connections.
const NOBODYS: u16 = ZONES as u16 + 1;

/// `count` connections, evenly over the zones.
pub(super) fn pairs(seed: u64, protocol: Protocol, count: usize) -> Vec<Pair> {
    let tuples = flows::translated(seed, 0, protocol, count.div_ceil(ZONES));
    let zones =
        (1..=ZONES as u16).flat_map(|zone| tuples.iter().map(move |pair| in_zone(pair, zone)));
    zones.take(count).collect()
}

/// The same keys in a zone that has no connections.
pub(super) fn in_nobodys(pair: &Pair) -> [KeyV4; 2] {
    let pair = in_zone(pair, NOBODYS);
    [pair.original, pair.reply]
}

fn in_zone(pair: &Pair, zone: u16) -> Pair {
    Pair {
        original: KeyV4::pack(&pair.original.tuple(), zone),
        reply: KeyV4::pack(&pair.reply.tuple(), zone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_tuple_is_there_once_a_zone() {
        let pairs = pairs(1, Protocol::UDP, 640);
        assert_eq!(pairs.len(), 640);
        let keys: HashSet<_> = pairs.iter().map(|pair| pair.original).collect();
        let tuples: HashSet<_> = keys.iter().map(FlowKey::tuple).collect();
        assert_eq!((keys.len(), tuples.len()), (640, 10));
    }
}

//! The flows of a round, and the connections of a filled table: the same for the same seed.

use std::collections::HashMap;

use clashtrack_engine::addr::{Addr, Family};
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::tuple::{Protocol, Tuple};

/// Flows of a round at most: each has a client address of its own in 10.0.0.0/8.
pub const FLOWS_MAX: usize = 1 << 24;

const CLIENTS: u32 = 0x0a00_0000;
/// 198.18.0.0/15, the benchmark network of RFC 2544.
const SERVERS: u32 = 0xc612_0000;
/// Servers at least; beyond, one for each [`FLOWS_A_SERVER`] flows, so that source NAT behind one address finds ports.
const SERVERS_MIN: usize = 64;
const FLOWS_A_SERVER: usize = 1024;

/// The original tuples of round `round`: `count` different ones.
///
/// `count` must not exceed [`FLOWS_MAX`].
#[must_use]
pub fn of_round(seed: u64, round: usize, protocol: Protocol, count: usize) -> Vec<Tuple> {
    debug_assert!(count <= FLOWS_MAX);
    let mut rng = WorkerRng::new(seed, round);
    let servers = (count / FLOWS_A_SERVER).max(SERVERS_MIN) as u32;
    let server_port = match protocol {
        Protocol::TCP => 443,
        _ => 53,
    };
    // An odd step through the 2^24 client addresses meets each once.
    let (step, start) = (rng.next_u32() | 1, rng.next_u32());
    (0..count as u32)
        .map(|i| Tuple {
            src: Addr::from_u32(CLIENTS | (i.wrapping_mul(step).wrapping_add(start) & 0x00ff_ffff)),
            dst: Addr::from_u32(SERVERS + rng.below(servers)),
            src_key: 1024 + rng.below(65_536 - 1024) as u16,
            dst_key: server_port,
            family: Family::Ipv4,
            protocol,
        })
        .collect()
}

/// The keys of a connection behind source NAT: both have to be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair {
    /// What the client sends.
    pub original: KeyV4,
    /// What the server answers to: an address and a port of the NAT box.
    pub reply: KeyV4,
}

/// 203.0.113.1, of the documentation networks (RFC 5737).
const TRANSLATED: Addr = Addr::from_u32(0xcb00_7101);
const FIRST_PORT: u32 = 1024;
const PORTS: u32 = 65_536 - FIRST_PORT;

/// `count` connections behind one address. Those of one population all differ in both keys, and so
/// do those of two (their servers listen on different ports). `count` must not exceed [`FLOWS_MAX`].
#[must_use]
pub fn translated(seed: u64, population: u16, protocol: Protocol, count: usize) -> Vec<Pair> {
    let mut tuples = of_round(seed, usize::from(population), protocol, count);
    // The next port of the address towards each server; they start anywhere.
    let mut next: HashMap<Addr, u32> = HashMap::new();
    let mut rng = WorkerRng::new(!seed, usize::from(population));
    let mut pairs = Vec::with_capacity(count);
    for tuple in &mut tuples {
        tuple.dst_key += population;
        let port = next.entry(tuple.dst).or_insert_with(|| rng.below(PORTS));
        *port = (*port + 1) % PORTS;
        let reply = Tuple {
            src: tuple.dst,
            dst: TRANSLATED,
            src_key: tuple.dst_key,
            dst_key: (FIRST_PORT + *port) as u16,
            ..*tuple
        };
        pairs.push(Pair {
            original: KeyV4::pack(tuple, 0),
            reply: KeyV4::pack(&reply, 0),
        });
    }
    pairs
}

/// Keys to look up: two sweeps over all connections, each in a random order of its own; the second
/// one asks for the other key of each connection. So each key is asked for once.
#[must_use]
pub fn two_sweeps(seed: u64, pairs: &[Pair]) -> Vec<KeyV4> {
    let mut rng = WorkerRng::new(seed, usize::MAX - 1);
    let mut order: Vec<(u32, bool)> = (0..pairs.len() as u32)
        .map(|i| (i, rng.next_u32() & 1 == 0))
        .collect();
    let mut keys = Vec::with_capacity(2 * pairs.len());
    for sweep in [false, true] {
        for at in (1..order.len()).rev() {
            order.swap(at, rng.below(at as u32 + 1) as usize);
        }
        keys.extend(order.iter().map(|&(i, reply)| {
            let pair = &pairs[i as usize];
            if reply == sweep {
                pair.original
            } else {
                pair.reply
            }
        }));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn one_seed_gives_the_same_flows_and_two_give_others() {
        let flows = |seed, round| of_round(seed, round, Protocol::UDP, 1000);
        assert_eq!(flows(1, 0), flows(1, 0));
        assert_ne!(flows(1, 0), flows(2, 0));
        assert_ne!(flows(1, 0), flows(1, 1), "each round has new flows");
    }

    #[test]
    fn the_flows_of_a_round_are_all_different() {
        let flows = of_round(7, 3, Protocol::TCP, 100_000);
        assert_eq!(flows.iter().collect::<HashSet<_>>().len(), 100_000);
    }

    #[test]
    fn connections_behind_one_address_share_no_key_within_or_between_populations() {
        let mut keys = HashSet::new();
        for population in [0, 1] {
            for pair in translated(3, population, Protocol::TCP, 100_000) {
                assert!(keys.insert(pair.original) && keys.insert(pair.reply));
            }
        }
    }

    #[test]
    fn two_sweeps_ask_for_every_key_once_and_for_every_connection_once_a_sweep() {
        let pairs = translated(3, 0, Protocol::UDP, 5000);
        let keys = two_sweeps(3, &pairs);
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), 10_000);
        let first: HashSet<_> = keys[..5000].iter().collect();
        let once = |pair: &Pair| first.contains(&pair.original) != first.contains(&pair.reply);
        assert!(pairs.iter().all(once));
    }
}

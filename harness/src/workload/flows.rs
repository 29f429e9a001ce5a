//! The flows of a round: new ones each round, the same for the same seed.

use clashtrack_engine::addr::{Addr, Family};
use clashtrack_engine::random::WorkerRng;
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
}

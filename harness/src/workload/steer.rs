//! Which worker a packet goes to: as a NIC decides it, as software does, or at random.
//!
//! Sources: *Receive side scaling* and *Verifying the RSS hash calculation* (Microsoft, Windows driver documentation) for
//! the Toeplitz hash, its key and its test vectors; `ethtool_rxfh_indir_default` (linux/ethtool.h) for the indirection table.

use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::tuple::Tuple;

/// How packets are spread over the workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Steer {
    /// By Toeplitz RSS of addresses and ports through an indirection table, as NICs do.
    #[default]
    Rss,
    /// By a keyed hash of the connection's canonical tuple, as software steering does.
    Hash,
    /// Each packet by itself.
    Random,
}

impl Steer {
    /// All of them.
    pub const ALL: [Steer; 3] = [Steer::Rss, Steer::Hash, Steer::Random];

    /// The name that `--steer` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Steer::Rss => "rss",
            Steer::Hash => "hash",
            Steer::Random => "random",
        }
    }
}

/// The key that most NIC drivers come with: Microsoft's.
pub const RSS_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Places of the indirection table: 128 with most NICs.
const INDIRECTION: u32 = 128;

/// The Toeplitz hash: for each bit of `input` that is set, the 32 bits of `key` from there on.
///
/// `key` must be four bytes longer than `input`; bits beyond it are 0.
#[must_use]
pub fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let byte = |at: usize| u64::from(key.get(at).copied().unwrap_or(0));
    let mut hash = 0;
    for (at, &bits) in input.iter().enumerate() {
        // 40 bits of the key: the windows of all eight bits of this byte.
        let window = (0..5).fold(0, |window, i| window << 8 | byte(at + i));
        for bit in (0..8).filter(|bit| bits & (0x80 >> bit) != 0) {
            hash ^= (window >> (8 - bit)) as u32;
        }
    }
    hash
}

/// The RSS hash of an IPv4 packet with ports: source and destination address, source and destination port.
#[must_use]
pub fn rss_hash(tuple: &Tuple) -> u32 {
    let mut input = [0; 12];
    input[..4].copy_from_slice(&tuple.src.as_v4().octets());
    input[4..8].copy_from_slice(&tuple.dst.as_v4().octets());
    input[8..10].copy_from_slice(&tuple.src_key.to_be_bytes());
    input[10..].copy_from_slice(&tuple.dst_key.to_be_bytes());
    toeplitz(&RSS_KEY, &input)
}

/// Sends packets to workers.
#[derive(Debug)]
pub struct Steering {
    steer: Steer,
    workers: usize,
    rng: WorkerRng,
    secret: HashKey,
}

impl Steering {
    /// To so many workers, of which there must be one at least.
    #[must_use]
    pub fn new(steer: Steer, workers: usize, seed: u64) -> Steering {
        let mut rng = WorkerRng::new(seed, usize::MAX - 2);
        Steering {
            steer,
            workers,
            secret: HashKey(rng.next_u64(), rng.next_u64()),
            rng,
        }
    }

    /// The worker of a packet with this key.
    pub fn worker(&mut self, key: &KeyV4) -> usize {
        match self.steer {
            Steer::Rss => (rss_hash(&key.tuple()) % INDIRECTION) as usize % self.workers,
            Steer::Hash => (self.secret.hash(&key.canonical().0) >> 32) as usize % self.workers,
            Steer::Random => self.rng.below(self.workers as u32) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clashtrack_engine::addr::{Addr, Family};
    use clashtrack_engine::tuple::Protocol;

    /// Destination, source, hash of the addresses alone, hash with the ports.
    type Vector = (([u8; 4], u16), ([u8; 4], u16), u32, u32);

    /// *Verifying the RSS hash calculation*, the table for IPv4.
    const VECTORS: [Vector; 5] = [
        (
            ([161, 142, 100, 80], 1766),
            ([66, 9, 149, 187], 2794),
            0x323e_8fc2,
            0x51cc_c178,
        ),
        (
            ([65, 69, 140, 83], 4739),
            ([199, 92, 111, 2], 14230),
            0xd718_262a,
            0xc626_b0ea,
        ),
        (
            ([12, 22, 207, 184], 38024),
            ([24, 19, 198, 95], 12898),
            0xd2d0_a5de,
            0x5c2b_394a,
        ),
        (
            ([209, 142, 163, 6], 2217),
            ([38, 27, 205, 30], 48228),
            0x8298_9176,
            0xafc7_327f,
        ),
        (
            ([202, 188, 127, 2], 1303),
            ([153, 39, 163, 191], 44251),
            0x5d18_09c5,
            0x10e8_28a2,
        ),
    ];

    fn key(src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> KeyV4 {
        let tuple = Tuple {
            src: Addr::v4(src.0.into()),
            dst: Addr::v4(dst.0.into()),
            src_key: src.1,
            dst_key: dst.1,
            family: Family::Ipv4,
            protocol: Protocol::TCP,
        };
        KeyV4::pack(&tuple, 0)
    }

    #[test]
    fn the_toeplitz_hash_is_that_of_microsofts_test_vectors() {
        for (dst, src, addresses, whole) in VECTORS {
            let input = [src.0, dst.0].concat();
            assert_eq!(toeplitz(&RSS_KEY, &input), addresses);
            assert_eq!(rss_hash(&key(src, dst).tuple()), whole);
        }
    }

    #[test]
    fn every_way_of_steering_uses_all_workers_and_all_but_random_keep_to_one_for_a_flow() {
        for steer in Steer::ALL {
            let mut steering = Steering::new(steer, 3, 1);
            let mut seen = [0; 3];
            for port in 0..3000 {
                let key = key(([10, 0, 0, 1], port), ([192, 0, 2, 1], 443));
                let worker = steering.worker(&key);
                seen[worker] += 1;
                if steer != Steer::Random {
                    assert_eq!(steering.worker(&key), worker, "{}", steer.name());
                }
            }
            assert!(seen.iter().all(|&n| n > 500), "{}: {seen:?}", steer.name());
        }
    }

    #[test]
    fn a_hash_of_the_canonical_tuple_sends_both_directions_to_one_worker() {
        let mut steering = Steering::new(Steer::Hash, 7, 1);
        for port in 0..100 {
            let (a, b) = (([10, 0, 0, 1], port), ([192, 0, 2, 1], 443));
            assert_eq!(steering.worker(&key(a, b)), steering.worker(&key(b, a)));
        }
    }
}

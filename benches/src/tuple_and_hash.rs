//! Tuple and hash: what is done with a packet's bytes before the table is asked.
//!
//! Dimensions: none; everything is in the first cache. We would change the code if parsing and
//! hashing together came near the cost of a lookup that misses the caches.

use std::hint::black_box;
use std::net::Ipv6Addr;

use clashtrack_engine::addr::{Addr, Family};
use clashtrack_engine::packet::checksum;
use clashtrack_engine::table::hash::{Folded, HashKey, KeyHasher, Sip13};
use clashtrack_engine::table::key::{FlowKey, KeyV4, KeyV6};
use clashtrack_engine::table::lockfree::Isa;
use clashtrack_engine::tuple::{Protocol, Tuple};

use crate::gateway::{SERVER, client};
use crate::keys;
use crate::operation::{Operation, Pass};
use crate::packets::{checksums_hold, tuple_of, udp};

/// Tuples of a pass.
const COUNT: usize = 256;

/// The operations of this room.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        question: "what_does_it_cost_to_find_a_packets_tuple",
        variant: "udp",
        has_vectors: false,
        prepare: parse,
    },
    Operation {
        question: "what_does_it_cost_to_invert_a_tuple",
        variant: "tcp",
        has_vectors: false,
        prepare: invert,
    },
    Operation {
        question: "what_does_it_cost_to_pack_a_key",
        variant: "ipv4",
        has_vectors: false,
        prepare: pack,
    },
    Operation {
        question: "what_does_a_hash_that_withstands_attackers_cost",
        variant: "folded_ipv4",
        has_vectors: false,
        prepare: |_| hash::<Folded, KeyV4>(key_v4),
    },
    Operation {
        question: "what_does_a_hash_that_withstands_attackers_cost",
        variant: "folded_ipv6",
        has_vectors: false,
        prepare: |_| hash::<Folded, KeyV6>(key_v6),
    },
    Operation {
        question: "what_does_a_hash_that_withstands_attackers_cost",
        variant: "sip13_ipv4",
        has_vectors: false,
        prepare: |_| hash::<Sip13, KeyV4>(key_v4),
    },
    Operation {
        question: "does_correcting_a_checksum_beat_summing_a_packet_again",
        variant: "correct_one_port",
        has_vectors: false,
        prepare: correct,
    },
    Operation {
        question: "does_correcting_a_checksum_beat_summing_a_packet_again",
        variant: "sum_1400_bytes",
        has_vectors: false,
        prepare: sum,
    },
];

fn key_v4(n: u32) -> KeyV4 {
    keys(n).0
}

fn key_v6(n: u32) -> KeyV6 {
    // 2001:db8::/32, of the documentation networks (RFC 3849).
    let address = |host: u32| Addr::v6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(host)));
    let tuple = Tuple {
        src: address(n + 2),
        dst: address(1),
        src_key: 40_000,
        dst_key: 443,
        family: Family::Ipv6,
        protocol: Protocol::TCP,
    };
    KeyV6::pack(&tuple, 0)
}

fn parse(_: Isa) -> Pass {
    let packets: Vec<Vec<u8>> = (0..COUNT)
        .map(|n| udp(client(n), (SERVER, 53), 40))
        .collect();
    Pass::new(COUNT, move || {
        for (n, bytes) in packets.iter().enumerate() {
            let tuple = tuple_of(black_box(bytes));
            assert_eq!((tuple.src_key, tuple.dst_key), (client(n).1, 53));
        }
    })
}

fn invert(_: Isa) -> Pass {
    let tuples: Vec<Tuple> = (0..COUNT as u32).map(|n| key_v4(n).tuple()).collect();
    Pass::new(COUNT, move || {
        for tuple in &tuples {
            let inverse = black_box(tuple)
                .invert()
                .expect("a TCP tuple has an inverse");
            assert_eq!((inverse.src, inverse.dst_key), (tuple.dst, tuple.src_key));
        }
    })
}

fn pack(_: Isa) -> Pass {
    let tuples: Vec<(Tuple, KeyV4)> = (0..COUNT as u32)
        .map(|n| (key_v4(n).tuple(), key_v4(n)))
        .collect();
    Pass::new(COUNT, move || {
        for (tuple, key) in &tuples {
            assert_eq!(KeyV4::pack(black_box(tuple), 0), *key);
        }
    })
}

/// Keys hashed one after the other, as the table does; the right answer is that of a first pass, and that no two
/// hashes are the same.
fn hash<H: KeyHasher, K: FlowKey>(key: impl Fn(u32) -> K) -> Pass {
    let hasher = H::with_key(HashKey(0x0123, 0x4567));
    let hashed: Vec<(K, u64)> = (0..COUNT as u32)
        .map(|n| (key(n), hasher.hash(&key(n))))
        .collect();
    let mut different: Vec<u64> = hashed.iter().map(|(_, hash)| *hash).collect();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), COUNT, "two keys have one hash");
    Pass::new(COUNT, move || {
        for (key, hash) in &hashed {
            assert_eq!(hasher.hash(black_box(key)), *hash);
        }
    })
}

/// A port is replaced, and the checksum corrected by the difference (RFC 1624).
fn correct(_: Isa) -> Pass {
    let mut bytes = udp(client(0), (SERVER, 53), 40);
    let mut port = client(0).1;
    Pass::new(COUNT, move || {
        for _ in 0..COUNT {
            let next = black_box(port ^ 0x1234);
            let old = u16::from_be_bytes([bytes[26], bytes[27]]);
            let check = checksum::replace16(old, port, next);
            bytes[20..22].copy_from_slice(&next.to_be_bytes());
            bytes[26..28].copy_from_slice(&check.to_be_bytes());
            port = next;
        }
        assert!(checksums_hold(&bytes), "the sum is wrong after corrections");
    })
}

fn sum(_: Isa) -> Pass {
    let bytes = udp(client(0), (SERVER, 53), 1400 - 28);
    Pass::new(1, move || {
        assert!(
            checksums_hold(black_box(&bytes)),
            "the sum of a packet is wrong"
        );
    })
}

//! The default hash over keys of five words: two pairs and an odd one, each pair xored into the
//! product of the pair before.
//!
//! Aim: an attacker who knows the code and not the secret gains nothing by the structure of
//! the chain. Method: for differences of two keys that such a structure might let through (a top
//! bit, words in each other's place, the same change in two pairs, the last word alone) count under how many
//! of many random secrets both keys have one bucket, or one tag, and compare with chance.

use std::hash::{BuildHasher, Hasher};
use std::net::Ipv6Addr;

use clashtrack_engine::addr::{Addr, Family};
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::table::hash::{Folded, HashKey, KeyHasher, bucket_of};
use clashtrack_engine::table::key::{FlowKey, KeyV6};
use clashtrack_engine::tuple::{Protocol, Tuple};
use proptest::prelude::*;

const BINS: u32 = 4096;

fn key(src: u128, dst: u128, ports: u32) -> KeyV6 {
    let tuple = Tuple {
        src: Addr::v6(Ipv6Addr::from_bits(src)),
        dst: Addr::v6(Ipv6Addr::from_bits(dst)),
        src_key: (ports >> 16) as u16,
        dst_key: ports as u16,
        family: Family::Ipv6,
        protocol: Protocol::UDP,
    };
    KeyV6::pack(&tuple, 0)
}

fn secret(rng: &mut WorkerRng) -> HashKey {
    HashKey(rng.next_u64(), rng.next_u64())
}

fn wide(rng: &mut WorkerRng) -> u128 {
    u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
}

proptest! {
    #[test]
    fn a_map_and_a_table_hash_alike(
        secret in any::<(u64, u64)>(), src in any::<u128>(), dst in any::<u128>(), ports in any::<u32>(),
    ) {
        let (secret, key) = (HashKey(secret.0, secret.1), key(src, dst, ports));
        let mut hasher = Folded::with_key(secret).build_hasher();
        for word in key.words() {
            hasher.write_u64(word);
        }
        prop_assert_eq!(hasher.finish(), secret.hash(&key));
    }
}

/// Two keys whose difference somebody chose.
type Pair = (KeyV6, KeyV6);

fn pairs(a: u128, b: u128, ports: u32) -> Vec<(&'static str, Pair)> {
    const TOP: u128 = 1 << 127;
    const TOP_LOW: u128 = 1 << 63;
    let whole = key(a, b, ports);
    let halves_swapped = |address: u128| address.rotate_left(64);
    vec![
        ("a top bit", (whole, key(a ^ TOP, b, ports))),
        (
            "both top bits of a pair",
            (whole, key(a ^ TOP ^ TOP_LOW, b, ports)),
        ),
        (
            "the same top bit of two pairs",
            (whole, key(a ^ TOP, b ^ TOP, ports)),
        ),
        (
            "all top bits",
            (whole, key(a ^ TOP ^ TOP_LOW, b ^ TOP ^ TOP_LOW, ports)),
        ),
        ("a lowest bit", (whole, key(a, b ^ 1, ports))),
        (
            "the same low bit of two pairs",
            (whole, key(a ^ 1, b ^ 1, ports)),
        ),
        ("addresses in each other's place", (whole, key(b, a, ports))),
        (
            "halves in each other's place",
            (whole, key(halves_swapped(a), b, ports)),
        ),
        (
            "one address twice, or its halves swapped",
            (
                key(a, a, ports),
                key(halves_swapped(a), halves_swapped(a), ports),
            ),
        ),
        ("the last word alone", (whole, key(a, b, ports ^ 1))),
        (
            "the top of the last word alone",
            (whole, key(a, b, ports ^ 1 << 31)),
        ),
        (
            "ports in each other's place",
            (whole, key(a, b, ports.rotate_left(16))),
        ),
        (
            "nothing but zeroes and one bit",
            (key(0, 0, 0), key(0, 0, 1)),
        ),
        (
            "zeroes, the bit in another pair",
            (key(1, 0, 0), key(0, 1, 0)),
        ),
        (
            "an address of one bits",
            (key(u128::MAX, b, ports), key(b, u128::MAX, ports)),
        ),
    ]
}

#[test]
fn no_difference_of_two_keys_shares_buckets_or_tags_more_often_than_chance() {
    const SECRETS: usize = 100_000;
    let mut rng = WorkerRng::new(21, 0);
    // A network's hosts, and a server: what an attacker can choose from.
    let (a, b) = (
        0x2001_0db8 << 96 | u128::from(rng.next_u64()),
        wide(&mut rng),
    );
    let expected = SECRETS as f64 / f64::from(BINS);
    for (name, (one, other)) in pairs(a, b, rng.next_u32()) {
        assert_ne!(one, other, "{name}");
        let (mut buckets, mut tags) = (0u32, 0u32);
        for _ in 0..SECRETS {
            let secret = secret(&mut rng);
            let (one, other) = (secret.hash(&one), secret.hash(&other));
            assert_ne!(one, other, "{name}: one hash");
            buckets += u32::from(bucket_of(one, BINS) == bucket_of(other, BINS));
            tags += u32::from((one ^ other).is_multiple_of(u64::from(BINS)));
        }
        for (what, shared) in [("buckets", buckets), ("tags", tags)] {
            let far = (f64::from(shared) - expected) / expected.sqrt();
            assert!(
                far.abs() < 6.0,
                "{name}: {shared} of {SECRETS} secrets give both the same of {BINS} {what}, {expected:.0} is chance"
            );
        }
    }
}

#[test]
fn every_bit_of_a_key_changes_about_half_of_the_hash() {
    let mut rng = WorkerRng::new(22, 0);
    for bit in 0..288 {
        let mut changed = 0;
        for _ in 0..256 {
            let secret = secret(&mut rng);
            let (src, dst, ports) = (wide(&mut rng), wide(&mut rng), rng.next_u32());
            let flipped = match bit {
                0..128 => key(src ^ 1 << bit, dst, ports),
                128..256 => key(src, dst ^ 1 << (bit - 128), ports),
                _ => key(src, dst, ports ^ 1 << (bit - 256)),
            };
            changed += (secret.hash(&key(src, dst, ports)) ^ secret.hash(&flipped)).count_ones();
        }
        let mean = f64::from(changed) / 256.0;
        assert!(
            (mean - 32.0).abs() < 2.5,
            "bit {bit}: {mean} of 64 on average"
        );
    }
}

/// Traffic as it is: hosts of a network one after the other, ports one after the other.
#[test]
fn regular_keys_spread_over_buckets_and_tags_like_random_ones() {
    const KEYS: u32 = 1 << 16;
    const NETWORK: u128 = 0x2001_0db8 << 96;
    const SERVER: u128 = NETWORK | 0xffff << 64 | 1;
    type Kind = (&'static str, fn(u32) -> KeyV6);
    let kinds: [Kind; 5] = [
        ("hosts", |i| {
            key(NETWORK | u128::from(i), SERVER, 40_000 << 16 | 443)
        }),
        ("networks", |i| {
            key(
                NETWORK | u128::from(i) << 64 | 7,
                SERVER,
                40_000 << 16 | 443,
            )
        }),
        ("ports", |i| key(NETWORK | 7, SERVER, i << 16 | 443)),
        ("both ports", |i| {
            key(NETWORK | 7, SERVER, (i & 255) << 16 | i >> 8)
        }),
        ("targets", |i| {
            key(NETWORK | 7, SERVER ^ u128::from(i) << 8, 40_000 << 16 | 443)
        }),
    ];
    let mut rng = WorkerRng::new(23, 0);
    for _ in 0..8 {
        let secret = secret(&mut rng);
        for (name, make) in kinds {
            let (mut buckets, mut tags) = (vec![0u32; BINS as usize], vec![0u32; BINS as usize]);
            for hash in (0..KEYS).map(|i| secret.hash(&make(i))) {
                buckets[bucket_of(hash, BINS) as usize] += 1;
                tags[(hash % u64::from(BINS)) as usize] += 1;
            }
            for (what, load) in [("buckets", buckets), ("tags", tags)] {
                let mean = f64::from(KEYS) / f64::from(BINS);
                let chi: f64 = load
                    .iter()
                    .map(|&n| (f64::from(n) - mean).powi(2) / mean)
                    .sum();
                let free = f64::from(BINS - 1);
                let far = (chi - free) / (2.0 * free).sqrt();
                assert!(
                    far.abs() < 6.0,
                    "{name} over {what}: {far} standard deviations"
                );
            }
        }
    }
}

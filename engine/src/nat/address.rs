//! Which address of a range a connection gets: a hash of who talks to whom, no load counting.
//!
//! The same client and server always get the same address, whatever the ports; with
//! `--persistent` a client gets one address for all servers. The choice can be compared
//! with a live kernel's.
//!
//! Source: `find_best_ips_proto` (nf_nat_core.c); `jhash2` after Bob Jenkins' public-domain
//! lookup3 (2006).

use super::range::{Manip, NatFlags, NatRange};
use crate::addr::{Addr, Family};
use crate::tuple::Tuple;

/// The address of `range` that the tuple's end gets.
pub(crate) fn choose_address(tuple: &Tuple, range: &NatRange, manip: Manip, zone_id: u16) -> Addr {
    let old = match manip {
        Manip::Source => tuple.src,
        Manip::Destination => tuple.dst,
    };
    if !range.flags.contains(NatFlags::MAP_IPS) {
        return old;
    }
    if range.min_addr == range.max_addr {
        return range.min_addr;
    }
    hashed_address(tuple, range, manip, zone_id)
}

fn hashed_address(tuple: &Tuple, range: &NatRange, manip: Manip, zone_id: u16) -> Addr {
    let persistent = range.flags.contains(NatFlags::PERSISTENT);
    let last = match tuple.family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 3,
    };
    let destination = tuple.dst.words_as_stored();
    let seed = if persistent {
        0
    } else {
        destination[last] ^ u32::from(zone_id)
    };
    let mut hash = jhash2(tuple.src.words_as_stored(), seed);
    let (min, max) = (
        range.min_addr.words_as_stored(),
        range.max_addr.words_as_stored(),
    );
    let mut chosen = [0; 4];
    // Below the range's last address in an earlier word: later words may be anything.
    let mut full_range = false;
    for word in 0..=last {
        let (low, span) = if full_range {
            (0, u32::MAX)
        } else {
            let (low, high) = (u32::from_be(min[word]), u32::from_be(max[word]));
            (low, high.wrapping_sub(low).wrapping_add(1))
        };
        let scaled = ((u64::from(hash) * u64::from(span)) >> 32) as u32;
        chosen[word] = low.wrapping_add(scaled).to_be();
        full_range |= chosen[word] != max[word];
        if !persistent {
            // For a destination the kernel reads the word that it has just written.
            hash ^= match manip {
                Manip::Source => destination[word],
                Manip::Destination => chosen[word],
            };
        }
    }
    address_of_words(chosen)
}

fn address_of_words(words: [u32; 4]) -> Addr {
    let mut bytes = [0; 16];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    Addr::v6(bytes.into())
}

/// Jenkins' hash of four words: one mixing round for three of them, a final one for the last.
fn jhash2(words: [u32; 4], seed: u32) -> u32 {
    const GOLDEN: u32 = 0xdead_beef;
    const BYTES: u32 = 16;
    let start = GOLDEN.wrapping_add(BYTES).wrapping_add(seed);
    let mut a = start.wrapping_add(words[0]);
    let mut b = start.wrapping_add(words[1]);
    let mut c = start.wrapping_add(words[2]);

    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);

    a = a.wrapping_add(words[3]);

    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuple::Protocol;
    use proptest::prelude::*;

    /// lookup3 for any number of words, written from Jenkins' description: rounds of three
    /// words, all but the last followed by `mix`, the last by `final`.
    fn lookup3(words: &[u32], initial: u32) -> u32 {
        const MIX: [u32; 6] = [4, 6, 8, 16, 19, 4];
        const FINAL: [u32; 7] = [14, 11, 25, 16, 4, 14, 24];
        let mut s = [0xdead_beef_u32
            .wrapping_add(words.len() as u32 * 4)
            .wrapping_add(initial); 3];
        let mut rest = words;
        loop {
            let (now, later) = rest.split_at(rest.len().min(3));
            for (sum, word) in s.iter_mut().zip(now) {
                *sum = sum.wrapping_add(*word);
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
            // Turn i works on x = s[i], y = s[i - 1], z = s[i + 1].
            for (turn, rotation) in MIX.into_iter().enumerate() {
                let (x, y, z) = (turn % 3, (turn + 2) % 3, (turn + 1) % 3);
                s[x] = s[x].wrapping_sub(s[y]) ^ s[y].rotate_left(rotation);
                s[y] = s[y].wrapping_add(s[z]);
            }
        }
        for (turn, rotation) in FINAL.into_iter().enumerate() {
            let (x, y) = ((turn + 2) % 3, (turn + 1) % 3);
            s[x] = (s[x] ^ s[y]).wrapping_sub(s[y].rotate_left(rotation));
        }
        s[2]
    }

    fn tuple(src: u32, dst: u32, ports: (u16, u16)) -> Tuple {
        Tuple {
            src: Addr::from_u32(src),
            dst: Addr::from_u32(dst),
            src_key: ports.0,
            dst_key: ports.1,
            family: Family::Ipv4,
            protocol: Protocol::TCP,
        }
    }

    fn addresses(min: u32, max: u32, flags: NatFlags) -> NatRange {
        NatRange {
            flags: NatFlags::MAP_IPS | flags,
            min_addr: Addr::from_u32(min),
            max_addr: Addr::from_u32(max),
            ..NatRange::one_address(Addr::UNSPECIFIED)
        }
    }

    proptest! {
        #[test]
        fn the_hash_is_jenkins_lookup3(words in any::<[u32; 4]>(), seed in any::<u32>()) {
            prop_assert_eq!(jhash2(words, seed), lookup3(&words, seed));
        }

        #[test]
        fn the_choice_is_in_the_range_and_no_port_moves_it(
            src in any::<u32>(), dst in any::<u32>(), ends in any::<(u32, u32)>(),
            ports in any::<(u16, u16)>(), persistent in any::<bool>(), other in any::<u32>(),
        ) {
            let (min, max) = (ends.0.min(ends.1), ends.0.max(ends.1));
            prop_assume!(max - min < u32::MAX);
            let flags = if persistent { NatFlags::PERSISTENT } else { NatFlags::empty() };
            let range = addresses(min, max, flags);
            let chosen = choose_address(&tuple(src, dst, (1, 2)), &range, Manip::Source, 0);
            prop_assert!((min..=max).contains(&chosen.to_u32()));
            prop_assert_eq!(chosen, choose_address(&tuple(src, dst, ports), &range, Manip::Source, 0));
            if persistent {
                prop_assert_eq!(chosen, choose_address(&tuple(src, other, ports), &range, Manip::Source, 9));
            }
        }

        #[test]
        fn an_ipv4_choice_scales_the_hash_of_source_and_destination(
            src in any::<[u8; 4]>(), dst in any::<[u8; 4]>(), last in 1u8..=255, zone in any::<u16>(),
        ) {
            let range = addresses(0x0a00_0000, 0x0a00_0000 + u32::from(last), NatFlags::empty());
            let t = tuple(u32::from_be_bytes(src), u32::from_be_bytes(dst), (1, 2));
            let seed = u32::from_ne_bytes(dst) ^ u32::from(zone);
            let hash = lookup3(&[u32::from_ne_bytes(src), 0, 0, 0], seed);
            let step = (u64::from(hash) * (u64::from(last) + 1)) >> 32;
            let wanted = Addr::from_u32(0x0a00_0000 + step as u32);
            prop_assert_eq!(choose_address(&t, &range, Manip::Source, zone), wanted);
            prop_assert_eq!(choose_address(&t, &range, Manip::Destination, zone), wanted);
        }
    }

    #[test]
    fn the_reference_hash_gives_jenkins_own_known_answers() {
        // From the self-test of lookup3.c: hashlittle of "Four score and seven
        // years ago" with 0 and 1, its words read with the lowest byte first.
        let words = |text: &[u8]| -> Vec<u32> {
            text.chunks(4)
                .map(|c| {
                    let mut w = [0; 4];
                    w[..c.len()].copy_from_slice(c);
                    u32::from_le_bytes(w)
                })
                .collect()
        };
        // 30 bytes: eight words, the last half full; only the length in the start differs.
        let text = words(b"Four score and seven years ago");
        let correction = 30u32.wrapping_sub(text.len() as u32 * 4);
        assert_eq!(lookup3(&text, correction), 0x1777_0551);
        assert_eq!(lookup3(&text, correction.wrapping_add(1)), 0xcd62_8161);
    }

    #[test]
    fn no_address_range_keeps_the_address_and_a_single_one_is_taken() {
        let t = tuple(1, 2, (3, 4));
        let mut range = NatRange::one_address(Addr::from_u32(7));
        assert_eq!(choose_address(&t, &range, Manip::Source, 0).to_u32(), 7);
        range.flags = NatFlags::empty();
        assert_eq!(choose_address(&t, &range, Manip::Source, 0).to_u32(), 1);
        assert_eq!(
            choose_address(&t, &range, Manip::Destination, 0).to_u32(),
            2
        );
    }
}

//! The Internet checksum: whole, and incrementally when a field changes.
//!
//! Sources: RFC 1071, RFC 1624 (eqn. 3).

/// One's complement sum of 16-bit words, not yet folded or inverted. Odd lengths are padded with zero.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut sum: u64 = words
        .iter()
        .map(|&w| u64::from(u16::from_be_bytes(w)))
        .sum();
    if let [last] = rest {
        sum += u64::from(*last) << 8;
    }
    sum
}

/// Folds a sum to 16 bits.
#[must_use]
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum over an IPv4 pseudo header (RFC 9293 3.1).
#[must_use]
pub fn pseudo_header_v4(src: u32, dst: u32, protocol: u8, l4_length: usize) -> u64 {
    let halves = |a: u32| u64::from(a >> 16) + u64::from(a & 0xffff);
    halves(src) + halves(dst) + u64::from(protocol) + l4_length as u64
}

/// The checksum of `bytes` after a pseudo header's sum (0 for none).
#[must_use]
pub fn checksum(bytes: &[u8], pseudo: u64) -> u16 {
    !fold(sum(bytes) + pseudo)
}

/// `old_check` after a 16-bit word changed from `old` to `new` (RFC 1624 eqn. 3).
#[must_use]
pub fn replace16(old_check: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!old_check) + u64::from(!old) + u64::from(new))
}

/// `old_check` after a 32-bit word changed from `old` to `new`.
#[must_use]
pub fn replace32(old_check: u16, old: u32, new: u32) -> u16 {
    let high = replace16(old_check, (old >> 16) as u16, (new >> 16) as u16);
    replace16(high, old as u16, new as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_incremental_update_is_the_whole_sum_again(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..60), at in any::<prop::sample::Index>(), new in any::<u32>(),
        ) {
            // Real checksums never cover all zeros (addresses and versions are in them), where
            // 0x0000 and 0xffff would both be right.
            bytes[0] |= 1;
            let at = at.index((bytes.len() - 4) / 2 + 1) * 2;
            prop_assume!(at > 0);
            let before = checksum(&bytes, 0);
            let old = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(replace32(before, old, new), checksum(&bytes, 0));
        }
    }
}

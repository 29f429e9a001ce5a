//! TCP options as far as tracking reads them: window scale, SACK permitted, SACK.
//!
//! The bytes given are those between the fixed header and the data. What a capture cut off
//! is missing at their end: options are read until the first that is not whole.
//!
//! Source: RFC 9293 3.1, RFC 7323, RFC 2018; `tcp_options` and `tcp_sack`
//! (nf_conntrack_proto_tcp.c).

use super::memory::{TcpFlags, TcpSide};
use super::window::is_after;

const END_OF_LIST: u8 = 0;
const NO_OPERATION: u8 = 1;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMP: u8 = 8;

/// Largest shift of a window (RFC 7323 2.3, `TCP_MAX_WSCALE`).
const WINDOW_SCALE_MAX: u8 = 14;

/// The timestamp option as everybody sends it, alone: two no-operations, kind, length.
const ALIGNED_TIMESTAMP: [u8; 4] = [NO_OPERATION, NO_OPERATION, TIMESTAMP, 10];
/// Bytes of it with its two values.
const ALIGNED_TIMESTAMP_BYTES: usize = 12;

/// The options that have a body, in order: kind and body. Ends at the end of the list, and at
/// the first option that is malformed or not whole.
fn bodies(mut options: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            match options {
                [] | [END_OF_LIST, ..] => return None,
                [NO_OPERATION, rest @ ..] => options = rest,
                [kind, length, rest @ ..] => {
                    let body_bytes = usize::from(*length).checked_sub(2)?;
                    let body = rest.get(..body_bytes)?;
                    options = &rest[body_bytes..];
                    return Some((*kind, body));
                }
                [_] => return None,
            }
        }
    })
}

/// Notes in `side` what the options of its SYN say. Without any option nothing changes;
/// with any, scale and flags (but for BE_LIBERAL) are those of these options alone.
pub fn note_syn_options(side: &mut TcpSide, options: &[u8]) {
    if options.is_empty() {
        return;
    }
    side.scale = 0;
    side.flags &= TcpFlags::BE_LIBERAL;
    for option in bodies(options) {
        match option {
            (SACK_PERMITTED, []) => side.flags |= TcpFlags::SACK_PERM,
            (WINDOW_SCALE, &[scale]) => {
                side.scale = scale.min(WINDOW_SCALE_MAX);
                side.flags |= TcpFlags::WINDOW_SCALE;
            }
            _ => {}
        }
    }
}

/// The furthest right edge of a SACK option's blocks, or `ack` if none is further. Only the
/// first SACK option counts; a lone aligned timestamp is passed over at once.
#[must_use]
pub fn furthest_sack(ack: u32, options: &[u8]) -> u32 {
    if options.len() == ALIGNED_TIMESTAMP_BYTES && options.starts_with(&ALIGNED_TIMESTAMP) {
        return ack;
    }
    let blocks = bodies(options).find_map(|(kind, body)| {
        let (blocks, rest) = body.as_chunks::<8>();
        (kind == SACK && rest.is_empty() && !blocks.is_empty()).then_some(blocks)
    });
    blocks.into_iter().flatten().fold(ack, |furthest, block| {
        let right_edge = u32::from_be_bytes([block[4], block[5], block[6], block[7]]);
        if is_after(right_edge, furthest) {
            right_edge
        } else {
            furthest
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn side_of(options: &[u8]) -> TcpSide {
        let mut side = TcpSide::default();
        note_syn_options(&mut side, options);
        side
    }

    #[test]
    fn scale_and_sack_are_read_between_other_options() {
        let side = side_of(&[
            2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0,
        ]);
        assert_eq!(side.scale, 7);
        assert_eq!(side.flags, TcpFlags::WINDOW_SCALE | TcpFlags::SACK_PERM);
    }

    #[test]
    fn a_scale_beyond_fourteen_is_fourteen() {
        assert_eq!(side_of(&[3, 3, 15]).scale, 14);
    }

    #[test]
    fn options_of_a_wrong_length_are_passed_over() {
        assert_eq!(side_of(&[3, 4, 7, 7, 4, 3, 0]).flags, TcpFlags::empty());
    }

    #[test]
    fn reading_ends_at_the_end_of_the_list_and_at_what_is_not_whole() {
        for cut in [&[0, 4, 2][..], &[3, 3], &[2, 1, 4, 2], &[2, 9, 4, 2], &[4]] {
            assert_eq!(side_of(cut).flags, TcpFlags::empty(), "{cut:?}");
        }
    }

    #[test]
    fn only_options_replace_what_a_side_had() {
        let before = TcpSide {
            scale: 3,
            flags: TcpFlags::WINDOW_SCALE | TcpFlags::BE_LIBERAL,
            ..TcpSide::default()
        };
        let mut side = before;
        note_syn_options(&mut side, &[]);
        assert_eq!(side, before);
        note_syn_options(&mut side, &[1, 1, 1, 1]);
        assert_eq!((side.scale, side.flags), (0, TcpFlags::BE_LIBERAL));
    }

    #[test]
    fn the_furthest_right_edge_of_a_sack_counts() {
        let mut option = vec![1, 1, 5, 18];
        for (left, right) in [(20u32, 30u32), (5, 10)] {
            option.extend(left.to_be_bytes());
            option.extend(right.to_be_bytes());
        }
        assert_eq!(furthest_sack(8, &option), 30);
        assert_eq!(furthest_sack(31, &option), 31);
        option[3] = 17; // not a whole number of blocks
        assert_eq!(furthest_sack(8, &option), 8);
    }

    #[test]
    fn a_lone_timestamp_is_no_sack() {
        let option = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(furthest_sack(8, &option), 8);
    }

    proptest! {
        #[test]
        fn no_options_make_the_readers_panic(options in proptest::collection::vec(any::<u8>(), 0..44)) {
            side_of(&options);
            let _ = furthest_sack(0, &options);
        }
    }
}

//! What the loser of a clash touches.

use super::super::Wide;
use super::super::canonical::Pieces;
use super::{Always, connect, key, table};
use crate::table::{ClashStep, Confirmed, FlowTable};

const HEADS: u32 = 64;

#[test]
fn a_loser_changes_no_chain_whichever_of_its_keys_comes_first() {
    let table = table::<Wide>(HEADS as usize, 300, 10);
    let mut worker = table.worker();
    let mut policy = Always::new(ClashStep::Drop);
    let mut original_second = 0;
    for n in 100..140 {
        let original = key(n, 200, 0);
        let winner = (original, key(200, n, 0));
        let (_, won) = connect(&table, &mut worker, winner, (5, 1000), 0, &mut policy).unwrap();
        assert_eq!(won, Confirmed::Inserted);
        let versions = || -> Vec<u32> {
            (0..HEADS)
                .map(|bucket| table.index.chain(bucket).header().version())
                .collect()
        };
        let before = versions();
        // Behind source NAT, with its reply to another address: a smaller one, then a larger one.
        let translated = if n % 2 == 0 { n - 100 } else { n + 100 };
        let loser = (original, key(200, translated, 0));
        let pieces = Pieces::of(&loser.0, &loser.1, table.hashing()).unwrap();
        let last = pieces.iter().last().unwrap();
        original_second += u32::from(std::ptr::eq(last, pieces.original()));
        let (_, lost) = connect(&table, &mut worker, loser, (5, 1000), 0, &mut policy).unwrap();
        assert!(matches!(lost, Confirmed::Refused(_)), "{lost:?}");
        assert_eq!(versions(), before, "loser {n}");
    }
    assert_eq!(original_second, 20);
}

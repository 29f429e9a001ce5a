//! What one step on a chain hands on to whoever sees it, for a step that a whole insert makes too deep in
//! a search. Run with `bash .ci/loom handing_on`.

use std::sync::Arc;

use loom::model::Builder;

use super::super::chain::Change;
use super::super::scan::scan;
use super::super::{Geometry, Narrow};
use super::history::{SetUp, keys_of, plain, scenario};
use crate::sync::thread;
use crate::table::FlowTable;

type Two = Narrow<2, 1, 0>;

/// A slot is cleared, and claimed again by somebody else. Who looks at the chain under the header from before
/// and meets the claim there, under a bit that was valid, sees that the header has changed when he looks again.
#[test]
fn a_claim_hands_on_the_header_that_emptied_its_slot() {
    let heads = 1;
    keys_of(heads);
    let scenario = scenario(
        "claim",
        heads,
        vec![plain(9, 0)],
        vec![vec![], vec![], vec![]],
    );
    let met = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let told = Arc::clone(&met);
    Builder::new().check(move || {
        let SetUp {
            table,
            mut workers,
            ids,
            ..
        } = scenario.set_up::<Two>(3);
        workers.iter_mut().for_each(|worker| table.begin(worker));
        let id = table.allocate(&mut workers[0]).expect("there is one");
        let keys = keys_of(heads);
        table.slab().entry(id).set_keys(keys[1], keys[2]);
        let pieces = table.pieces_to_confirm(id).expect("two keys");
        let piece = pieces.original();
        let (mine, pattern) = (piece.slot(id), piece.pattern());
        let before = table.index.chain(0).header();
        let cleared = before.valid();
        let position = cleared.trailing_zeros() as usize;
        assert_eq!((cleared.count_ones(), ids.len()), (1, 1));

        let mut clearing = workers.pop().expect("three");
        let remover = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                let chain = table.index.chain(0);
                let links = chain.links(before).expect("the head alone");
                let change = Change {
                    clear: cleared,
                    ..Change::default()
                };
                assert!(chain.change(&mut clearing, before, &links, change));
                clearing
            })
        };
        let claimer = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                let chain = table.index.chain(0);
                // As it would be under any header in which the slot is free: only this position.
                let free = chain.header();
                if free == before {
                    return;
                }
                let claim = chain.claim_at_head(free, Two::HEAD_SLOTS, mine);
                if let Some(claim) = claim
                    && claim.position != position
                {
                    chain.unclaim(claim);
                }
            })
        };
        let chain = table.index.chain(0);
        let seen = chain.header();
        let scanned = scan(chain.head(), Two::HEAD_SLOTS, pattern);
        let here = scanned.matches & seen.valid() & (1 << position) != 0;
        if here && scanned.slots[position] == mine {
            // Relaxed: a count, read when all is over.
            told.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert_ne!(chain.header(), seen, "a claim was taken for official");
        }
        workers.push(remover.join().unwrap());
        claimer.join().unwrap();
    });
    // Relaxed: as above.
    let met = met.load(std::sync::atomic::Ordering::Relaxed);
    assert!(met > 0, "nobody met the claim");
}

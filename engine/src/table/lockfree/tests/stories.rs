//! Single schedules that random ones hardly ever come by, told as turns that end at the words of the table. Each
//! is how one protection of the protocol would be missed; the mutation that takes it away is named.
//!
//! A story whose turns do not all end as they say is a failure: the table makes other accesses by now,
//! and the story would tell nothing any more.

use std::sync::Arc;

use super::super::{Geometry, Narrow};
use super::history::{Name, Op, Scenario, look, nat, or_reply_only, plain, remove, scenario};
use super::turns::Deed::{Loads, Writes};
use super::turns::Until::{After, Before, Called, End};
use super::turns::Word::{Header, Link, LinkBehind, OverflowSlot, Slot, State};
use super::turns::{Turn, Turns};

const A: Name = (0, 0);
const B: Name = (1, 0);

fn run(heads: u32, before: Vec<Op>, threads: Vec<Vec<Op>>) -> Scenario {
    scenario("", heads, before, threads).may_be_full()
}

/// One execution in these turns, of which the ones in `missed` are those that do not come about.
fn tell<G: Geometry>(name: &'static str, mut scenario: Scenario, turns: &[Turn], missed: &[Turn]) {
    scenario.name = name;
    let turns = Turns::new(turns, None);
    let told = turns.clone();
    turns.run(move || scenario.execute_in_turns::<G>(&Arc::default(), &told));
    assert_eq!(
        turns.cut_short(),
        missed,
        "{name}: these turns ended with their thread"
    );
}

/// An insert has claimed a slot, and stands still; a connection goes, and another one by the same key comes in where it
/// was: the chain is official in the same places as before (`no-version-bump`).
#[test]
fn a_chain_that_looks_as_before_is_not_the_same() {
    let threads = vec![vec![plain(1, 1)], vec![remove(0), plain(2, 1)]];
    let scenario = run(1, vec![plain(9, 0)], threads);
    let turns = [(1, Before(Writes, Header(0))), (2, End), (1, End)];
    tell::<Narrow<2, 1, 0>>("a_chain_that_looks_as_before", scenario, &turns, &[]);
}

/// A helper of the first attempt found its first key official and stands still; the winner
/// goes; the second attempt begins, its first key not official again. Were the two attempts one
/// to the helper, it would confirm an entry without its first key (`same-attempt`).
#[test]
fn a_helper_of_an_earlier_attempt_does_not_confirm_the_next() {
    let threads = vec![vec![nat(1, A, B)], vec![plain(2, 0)], vec![remove(1)]];
    let scenario = run(2, vec![plain(9, 1)], threads);
    let (owner, helper, remover) = (1, 2, 3);
    let turns = [
        (owner, After(Writes, Header(0))),
        (helper, Before(Loads, Header(1))),
        // The clash.
        (owner, After(Writes, State)),
        (remover, End),
        // The second attempt.
        (owner, After(Writes, State)),
        (helper, End),
    ];
    tell::<Narrow<3, 1, 0>>("a_helper_of_an_earlier_attempt", scenario, &turns, &[]);
}

/// A helper of the first attempt has claimed a slot for the original key, and stands still; somebody
/// else comes in by that key, and the entry by its reply key alone; then who owned its original key goes. The
/// helper's word leads to a confirmed entry that has this key: only the state says that it does not own it
/// (`reply-only-not-told`).
#[test]
fn a_word_of_the_first_attempt_does_not_lead_to_a_reply_only_entry() {
    let threads = vec![
        vec![or_reply_only(nat(1, B, A)), look(1)],
        vec![plain(2, 0)],
        vec![plain(3, 1), remove(1)],
    ];
    let scenario = run(2, vec![], threads);
    let (owner, helper, other) = (1, 2, 3);
    let turns = [
        // Its reply key, the smaller one, is in.
        (owner, After(Writes, Header(0))),
        (helper, After(Writes, Slot(1))),
        (other, Called),
        // The clash, and the second stage.
        (owner, Called),
        (other, End),
        // The look.
        (owner, End),
    ];
    tell::<Narrow<3, 1, 0>>("a_word_of_the_first_attempt", scenario, &turns, &[]);
}

/// An insert that is about to lengthen the chain has an old header, and stands still; meanwhile the chain
/// goes on, somebody comes in by the same key, and proposes a bucket. Taking that proposal for an outdated one, the insert
/// would put it under a version that is over, lose the clash, and sweep a bucket that is being linked
/// (`publish-without-recheck`).
#[test]
fn a_proposal_of_another_thread_is_not_adopted_under_an_old_header() {
    let threads = vec![vec![plain(1, 1)], vec![remove(0), plain(2, 1), plain(3, 2)]];
    let scenario = run(1, vec![plain(9, 0)], threads).overflow(2);
    let (insert, other) = (1, 2);
    // After the clash. There is nothing to sweep: it has published nothing.
    let sweep = (insert, Before(Writes, Link(0)));
    let turns = [
        (insert, Before(Loads, Link(0))),
        (other, Called),
        (other, Called),
        (other, After(Writes, Link(0))),
        (insert, After(Writes, State)),
        sweep,
        (other, After(Writes, Header(0))),
        (insert, End),
    ];
    tell::<Narrow<1, 1, 1>>("a_proposal_of_another_thread", scenario, &turns, &[sweep]);
}

/// Somebody else links the bucket that an insert has published, and that one meets the clash or comes in: what it
/// sweeps is no proposal any more (`sweep-blind`).
#[test]
fn a_bucket_that_somebody_else_linked_is_not_swept() {
    let threads = vec![vec![plain(1, 1)], vec![plain(2, 2)]];
    let scenario = run(1, vec![plain(9, 0)], threads).overflow(2);
    let turns = [
        (1, After(Writes, Link(0))),
        (2, After(Writes, Header(0))),
        (1, End),
    ];
    tell::<Narrow<1, 2, 1>>("a_bucket_that_somebody_else_linked", scenario, &turns, &[]);
}

/// A publisher stands still before it puts a bucket behind another one, which goes; the chain
/// grows again, with others, beyond that depth: the publisher cannot tell its bucket from a linked one
/// and leaves it where it is. It comes home with the bucket that it is behind (`drop-next`).
#[test]
fn a_bucket_behind_one_that_went_comes_home_with_it() {
    let threads = vec![
        vec![plain(1, 4)],
        vec![
            remove(2),
            plain(2, 6),
            plain(3, 8),
            look(0),
            look(0),
            look(0),
            look(0),
        ],
    ];
    let before = vec![plain(9, 0), plain(8, 2)];
    let scenario = run(1, before, threads).overflow(4).recycling(4);
    let (publisher, other) = (1, 2);
    let turns = [
        // Its own bucket, that has none behind it.
        (publisher, After(Writes, LinkBehind)),
        (publisher, Before(Writes, LinkBehind)),
        (other, Called),
        (other, Called),
        (other, Called),
        (publisher, End),
    ];
    tell::<Narrow<1, 1, 3>>("a_bucket_behind_one_that_went", scenario, &turns, &[]);
}

/// A thread has claimed a slot in a bucket that goes, and stands still. Until it goes on nobody
/// may have that bucket again: its word is in it (`bucket-without-grace`).
#[test]
fn a_bucket_with_a_claim_in_it_is_not_used_again() {
    let threads = vec![
        vec![plain(1, 2)],
        vec![
            remove(1),
            plain(2, 3),
            remove(3),
            plain(3, 4),
            remove(4),
            plain(4, 5),
        ],
    ];
    let scenario = run(1, vec![plain(9, 0), plain(8, 1)], threads).overflow(1);
    let turns = [(1, After(Writes, OverflowSlot)), (2, End), (1, End)];
    tell::<Narrow<1, 3, 1>>("a_bucket_with_a_claim_in_it", scenario, &turns, &[]);
}

/// An owner has loaded the header of its second key's chain; another thread clears a slot
/// there, claims it as a helper, and stands still: the owner meets its own word under a
/// valid bit of a header that has gone (`found-without-recheck`).
#[test]
fn a_claim_in_a_cleared_slot_is_not_official() {
    let threads = vec![
        vec![nat(1, A, B), plain(5, 5)],
        vec![remove(3), plain(2, 0)],
    ];
    let scenario = run(2, vec![plain(9, 3)], threads);
    let (owner, helper) = (1, 2);
    let turns = [
        (owner, After(Writes, Header(0))),
        // Once before it sees that there is a word of the same tag, and once for the search.
        (owner, After(Loads, Header(1))),
        (owner, After(Loads, Header(1))),
        (helper, Called),
        (helper, After(Writes, Slot(1))),
        (owner, End),
    ];
    tell::<Narrow<3, 1, 0>>("a_claim_in_a_cleared_slot", scenario, &turns, &[]);
}

/// A word of the first attempt makes the second one known to somebody else before its owner has
/// shown it. A helper of the first attempt has claimed a slot for the second key, and stands still; whoever made
/// that attempt fail has gone; another insert, whose header is so old that the slot was official, meets the word,
/// and finishes the second attempt in its owner's place. The owner, who has seen a clash meanwhile,
/// must not write over what is decided (`shown-only-by-its-owner`).
#[test]
fn an_attempt_that_a_word_of_an_earlier_one_made_known_is_decided_once() {
    let threads = vec![
        vec![nat(1, A, B)],
        vec![plain(2, 0)],
        vec![plain(3, 1)],
        vec![remove(3), plain(4, 1), remove(1), plain(5, 1), remove(1)],
    ];
    let scenario = run(2, vec![plain(9, 3)], threads);
    let (owner, helper, old, others) = (1, 2, 3, 4);
    let turns = [
        // Once before it sees that there is a word of the same tag, and once for the search; then the slot is cleared.
        (old, After(Loads, Header(1))),
        (old, After(Loads, Header(1))),
        (others, Called),
        // The first key; the helper's claim.
        (owner, After(Writes, Header(0))),
        (helper, After(Writes, Slot(1))),
        // The first attempt fails by somebody who goes; the second one begins.
        (others, Called),
        (owner, After(Writes, State)),
        (others, Called),
        (owner, After(Writes, State)),
        // Its first key, by who met the word; the owner sees its second one taken.
        (old, After(Writes, Header(0))),
        (others, Called),
        (owner, Before(Writes, State)),
        // He goes; the attempt is finished.
        (others, Called),
        (old, End),
        (owner, End),
    ];
    tell::<Narrow<3, 1, 0>>("an_attempt_made_known", scenario, &turns, &[]);
}

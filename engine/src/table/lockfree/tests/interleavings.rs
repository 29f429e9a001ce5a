//! Two and three threads with a few calls each, in every interleaving and every outcome of
//! the memory model that loom finds. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p clashtrack-engine --lib --release interleavings`.
//!
//! Each execution's answers are compared with all sequential orders of the same calls on a
//! map; then what is at rest is checked. loom reports a read of an entry's keys that
//! nothing ordered after their writing. All keys of a scenario have one tag, so that every
//! comparison goes to the entry. A scenario names answers that must occur in some execution.
//!
//! Stock loom 0.7.3 leaves some executions out: it keeps one last access of an atomic, so
//! that of "load, load, compare-and-swap" by two threads not all orders are tried. What passes here
//! is strong evidence, not proof. `LOOM_MAX_PREEMPTIONS` and `LOOM_MAX_DURATION` (seconds) widen the search.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loom::model::Builder;

use super::super::{Geometry, Narrow};
use super::history::{
    Answer, Name, Op, Scenario, expired, keys_of, look, nat, or_reply_only, plain, remove,
    scenario, short,
};

impl Scenario {
    /// All executions that loom finds.
    fn check<G: Geometry>(self) {
        let mut builder = Builder::new();
        builder.max_branches = 20_000;
        // How often loom looks at the time.
        builder.checkpoint_interval = 500;
        builder.preemption_bound = builder.preemption_bound.or(Some(2));
        let enough = Duration::from_secs(15);
        builder.max_duration = builder.max_duration.or(Some(enough));
        keys_of(self.heads);
        let census: Arc<Mutex<HashMap<Vec<Vec<Answer>>, u64>>> = Arc::default();
        let (run, seen) = (self.clone(), Arc::clone(&census));
        builder.check(move || run.execute::<G>(&seen));
        let census = census.lock().unwrap();
        let executions: u64 = census.values().sum();
        println!(
            "{}: {executions} executions, {} outcomes",
            self.name,
            census.len()
        );
        for (thread, op, answer) in &self.sees {
            assert!(
                census
                    .keys()
                    .any(|outcome| outcome[*thread].get(*op) == Some(answer)),
                "{}: thread {thread} never got {answer:?} from operation {op}",
                self.name
            );
        }
    }
}

use Answer::{Clash, Found, Inserted, Removed, RemovedUid};

fn found(uid: u32) -> Answer {
    Found(Some(uid))
}

const A: Name = (0, 0);
const B: Name = (1, 0);
const C: Name = (2, 0);
const D: Name = (3, 0);

/// Three slots, no overflow.
type Three = Narrow<3, 1, 0>;
type Two = Narrow<2, 1, 0>;
type One = Narrow<1, 1, 0>;

macro_rules! interleavings {
    ($($(#[$meta:meta])* $name:ident: $geometry:ty = $scenario:expr;)*) => {
        $(
            $(#[$meta])*
            #[test]
            fn $name() {
                let mut scenario: Scenario = $scenario;
                scenario.name = stringify!($name);
                scenario.check::<$geometry>();
            }
        )*
    };
}

fn two(heads: u32, before: Vec<Op>, a: Vec<Op>, b: Vec<Op>) -> Scenario {
    scenario("", heads, before, vec![a, b])
}

fn three(heads: u32, before: Vec<Op>, a: Vec<Op>, b: Vec<Op>, c: Vec<Op>) -> Scenario {
    scenario("", heads, before, vec![a, b, c])
}

interleavings! {
    equal_flows_one_gets_in: Two = two(1, vec![], vec![plain(1, 0)], vec![plain(2, 0)])
        .sees(0, 0, &[Inserted, Clash(2)]).sees(1, 0, &[Inserted, Clash(1)]);
    equal_flows_and_a_look: Two = two(1, vec![], vec![plain(1, 0)], vec![plain(2, 0), Op::Look((0, 1))])
        .sees(1, 1, &[found(1), found(2)]);
    equal_nated_flows_one_gets_in: Two = two(2, vec![], vec![nat(1, A, B)], vec![nat(2, A, B)])
        .sees(0, 0, &[Inserted, Clash(2)]);
    crossing_flows_one_gets_in: Two = two(2, vec![], vec![nat(1, A, B)], vec![nat(2, B, A)])
        .sees(0, 0, &[Inserted, Clash(2)]).sees(1, 0, &[Inserted, Clash(1)]);
    crossing_flows_in_one_chain: Three = two(1, vec![], vec![nat(1, A, B)], vec![nat(2, B, A)])
        .may_be_full();
    flows_with_one_key_in_common: Three = two(2, vec![], vec![nat(1, A, B)], vec![nat(2, C, B)])
        .sees(0, 0, &[Inserted, Clash(2)]);
    the_two_orientations_of_a_key_are_two: Three = two(1, vec![],
        vec![nat(1, A, C)], vec![nat(2, (0, 1), D)]).may_be_full();
    a_plain_flow_against_half_of_it: Three = two(2, vec![], vec![plain(1, 0)], vec![nat(2, (0, 1), B)])
        .sees(0, 0, &[Inserted, Clash(2)]);
    both_keys_appear_at_once: Two = two(2, vec![], vec![nat(1, A, B)], vec![look(1), look(0), look(1)])
        .sees(1, 0, &[found(1), Found(None)]).sees(1, 2, &[found(1), Found(None)]);
    a_failing_insert_is_never_seen: Two = two(2, vec![plain(9, 1)], vec![nat(1, A, B)], vec![look(0), look(1)])
        .never(1, 0, found(1));
    insert_against_remove: Two = two(2, vec![plain(9, 1)], vec![nat(1, A, B)], vec![remove(1)])
        .sees(0, 0, &[Inserted, Clash(9)]);
    remove_and_insert_against_looks: Two = two(2, vec![nat(9, A, B)],
        vec![remove(1)], vec![look(0), look(1), nat(1, B, A)])
        .sees(1, 2, &[Inserted, Clash(9)]);
    one_of_two_removals_is_the_one: Two = two(2, vec![nat(9, A, B)],
        vec![remove(0), plain(1, 0)], vec![remove(1), plain(2, 1)])
        .sees(0, 0, &[Removed(Some(9)), Removed(None)]);
    a_helper_meets_an_abort: Three = two(2, vec![plain(9, 1)], vec![nat(1, A, B)], vec![plain(2, 0)]);
    a_helper_meets_an_abort_and_a_removal: Three = two(2, vec![plain(9, 1)],
        vec![nat(1, A, B)], vec![remove(1), nat(2, A, D)]);
    a_word_under_an_old_header_proves_nothing: Three = two(2, vec![plain(9, 3)],
        vec![nat(1, A, B), plain(5, 5)], vec![remove(3), plain(2, 0)]).may_be_full();
    a_slot_is_used_again: Two = two(1, vec![plain(9, 0)], vec![plain(1, 1)], vec![remove(0), plain(2, 1)])
        .sees(0, 0, &[Inserted, Clash(2)]);
    the_only_slot_is_used_again: One = two(1, vec![plain(9, 0)],
        vec![remove(0), plain(1, 1)], vec![look(0), look(1)]);
    two_inserts_do_not_both_miss_each_other: One = two(2, vec![],
        vec![plain(1, 0), look(1)], vec![plain(2, 1), look(0)]);
    two_removals_do_not_both_miss_each_other: One = two(2, vec![plain(8, 0), plain(9, 1)],
        vec![remove(0), look(1)], vec![remove(1), look(0)]);
    an_expired_connection_is_replaced: Two = two(2, vec![expired(nat(9, A, B))],
        vec![plain(1, 0)], vec![look(0), look(1), look(0)]);
    two_replace_one_expired_connection: Two = two(2, vec![expired(nat(9, A, B))],
        vec![plain(1, 0)], vec![nat(2, B, A)]).sees(0, 0, &[Inserted, Clash(2)]);
    a_winner_is_gone_each_time: Two = two(1, vec![plain(9, 0)],
        vec![plain(1, 0)], vec![remove(0), plain(2, 0), remove(0)])
        .sees(0, 0, &[Inserted, Clash(9), Clash(2)]);
    no_room_is_said: Two = two(1, vec![plain(8, 1)], vec![nat(1, A, C)], vec![plain(2, 0)]).may_be_full();

    // The second stage of a clash: the same entry, another attempt.
    two_losers_come_in_by_their_reply_keys: Three = two(2, vec![plain(9, 0)],
        vec![or_reply_only(nat(1, A, B))], vec![or_reply_only(nat(2, A, D))])
        .may_be_full().sees(0, 0, &[Answer::ReplyOnly]).sees(1, 0, &[Answer::ReplyOnly]);
    two_losers_want_one_reply_key: Three = two(2, vec![plain(9, 0)],
        vec![or_reply_only(nat(1, A, B))], vec![or_reply_only(nat(2, A, B))])
        .may_be_full().sees(0, 0, &[Answer::ReplyOnly, Clash(2)]);
    a_loser_and_the_removal_of_its_winner: Three = two(2, vec![plain(9, 0)],
        vec![or_reply_only(nat(1, A, B))], vec![remove(0), look(0), look(1)])
        .may_be_full().sees(0, 0, &[Inserted, Answer::ReplyOnly]);
    a_reply_only_entry_is_not_found_by_its_original_key: Three = two(2, vec![plain(9, 3)],
        vec![or_reply_only(nat(1, A, D)), look(0)], vec![plain(2, 0), look(0)]).may_be_full();
    a_late_helper_meets_the_next_attempt: Three = two(2, vec![plain(9, 1)],
        vec![or_reply_only(nat(1, B, C))], vec![plain(2, 2), look(1)]).may_be_full();

    // Reuse: pins for each call, and few entries.
    an_old_id_removes_nobody_else: Two = two(1, vec![plain(9, 0)],
        vec![remove(0), plain(1, 1)], vec![Op::RemoveUid(9)])
        .recycling(0).may_be_full().sees(0, 1, &[Inserted]).sees(1, 0, &[RemovedUid(true), RemovedUid(false)]);
    a_reader_meets_a_recycled_entry: Two = two(1, vec![plain(9, 0)],
        vec![remove(0), plain(1, 1)], vec![look(0), look(1)])
        .recycling(0).may_be_full().sees(0, 1, &[Inserted]);
    a_reader_meets_the_other_orientation: Three = two(1, vec![nat(9, A, C)],
        vec![remove(0), nat(1, (0, 1), (2, 1))], vec![look(0), Op::Look((0, 1))])
        .recycling(0).may_be_full().sees(0, 1, &[Inserted]);

    // Three threads.
    three_equal_flows: Three = three(1, vec![], vec![plain(1, 0)], vec![plain(2, 0)], vec![plain(3, 0)]);
    crossing_flows_and_a_reader: Three = three(2, vec![],
        vec![nat(1, A, B)], vec![nat(2, B, A)], vec![look(1), look(0)]);
    a_ring_of_flows: Three = three(3, vec![], vec![nat(1, A, B)], vec![nat(2, B, C)], vec![nat(3, C, A)]);
    a_late_helper: Three = three(2, vec![plain(9, 1)], vec![nat(1, A, B)], vec![plain(2, 0)], vec![remove(1)]);
    insert_remove_insert: Three = three(2, vec![], vec![nat(1, A, B)], vec![remove(1)], vec![nat(2, A, B)]);
    a_loser_its_winner_and_a_third: Three = three(2, vec![plain(9, 0)],
        vec![or_reply_only(nat(1, A, B))], vec![remove(0)], vec![plain(2, 1)]).may_be_full();

    // Overflow: 9 lives in the head bucket, 8 in the first overflow bucket.
    two_link_one_bucket: Narrow<1, 2, 1> = two(1, vec![plain(9, 0)], vec![plain(1, 1)], vec![plain(2, 2)]).overflow(2);
    two_link_two_buckets: Narrow<1, 1, 2> = two(1, vec![plain(9, 0)], vec![plain(1, 1)], vec![plain(2, 2)]).overflow(2);
    linking_against_unlinking: Narrow<1, 1, 3> = two(1, vec![plain(9, 0), plain(8, 1)],
        vec![remove(1)], vec![plain(2, 2)]).overflow(3);
    a_claim_in_a_bucket_that_goes: Narrow<1, 2, 1> = two(1, vec![plain(9, 0), plain(8, 1)],
        vec![remove(1)], vec![plain(2, 2)]).overflow(3);
    a_claim_in_a_bucket_that_comes_back: Narrow<1, 3, 1> = two(1, vec![plain(9, 0), plain(8, 1)],
        vec![plain(1, 2)], vec![remove(1), plain(2, 3)]).overflow(3);
    two_unlink: Narrow<1, 1, 2> = two(1, vec![plain(9, 0), plain(8, 1), plain(7, 2)],
        vec![remove(1)], vec![remove(2), look(0)]).overflow(3);
    a_look_into_a_bucket_that_goes: Narrow<1, 1, 1> = two(1, vec![plain(9, 0), plain(8, 1)],
        vec![remove(1)], vec![look(1), look(0)]).overflow(2)
        .sees(1, 0, &[found(8), Found(None)]).sees(1, 1, &[found(9)]);
    a_look_into_a_bucket_that_comes_back: Narrow<1, 2, 1> = two(1, vec![plain(9, 0), plain(8, 1)],
        vec![remove(1), plain(1, 2)], vec![look(2), look(1)]).overflow(3);
    a_bucket_that_is_not_needed_is_swept: Narrow<1, 1, 1> = two(1, vec![plain(9, 0)],
        vec![plain(1, 1)], vec![remove(0)]).overflow(2);
    an_abort_unlinks: Narrow<1, 2, 1> = two(2, vec![plain(9, 0), plain(8, 3)],
        vec![nat(1, C, D)], vec![plain(2, 4)]).overflow(3).sees(0, 0, &[Clash(8)]);
    unlinking_against_a_helper: Narrow<1, 2, 1> = two(2, vec![plain(9, 1), plain(8, 5)],
        vec![nat(1, A, D)], vec![remove(5), plain(2, 0)]).overflow(3);
    a_helper_uses_the_limit_of_the_owner: Narrow<1, 3, 2> = two(2,
        vec![plain(9, 1), plain(8, 3), plain(7, 5), plain(6, 7), plain(5, 9)],
        vec![nat(1, A, (11, 0))], vec![short(plain(2, 0))]).overflow(3)
        .sees(1, 0, &[Inserted, Clash(1)]).never(0, 0, Answer::NoRoom);
    a_bucket_goes_to_the_other_chain: Narrow<1, 1, 1> = two(2, vec![plain(9, 0), plain(8, 2), plain(7, 1)],
        vec![remove(2), plain(1, 3)], vec![look(2), look(3)]).overflow(1).recycling(1).may_be_full();
    linking_unlinking_and_a_reader: Narrow<1, 2, 1> = three(1, vec![plain(9, 0), plain(8, 1)],
        vec![remove(1)], vec![plain(2, 2)], vec![look(2), look(0)]).overflow(3);
}

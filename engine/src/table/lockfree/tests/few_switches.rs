//! Random schedules of few switches, as turns.

use std::sync::{Arc, PoisonError};

use super::super::{Geometry, Narrow};
use super::history::{Op, Scenario, nat, or_reply_only, plain, remove, scenario, short};
use super::programs::{Random, setting};
use super::turns::{ACCESSES_MAX, Turns};

/// Two to seven random turns of `threads` threads.
fn random_turns(random: &mut Random, threads: usize) -> Vec<(usize, u64)> {
    let longest = [8, 30, 60, 120][random.below(4) as usize];
    (0..2 + random.below(6))
        .map(|_| {
            let thread = 1 + random.below(threads as u64) as usize;
            // One in four goes to its end.
            let length = if random.below(4) == 0 {
                ACCESSES_MAX
            } else {
                1 + random.below(longest)
            };
            (thread, length)
        })
        .collect()
}

/// Random schedules of a scenario.
fn check<G: Geometry>(name: &'static str, mut scenario: Scenario) {
    scenario.name = name;
    let (mut random, threads) = (Random(setting("SEED", 0)), scenario.threads.len());
    let census = Arc::default();
    let schedules = setting("RUNS", 20_000);
    for _ in 0..schedules {
        let plan = random_turns(&mut random, threads);
        let turns = Turns::new(&plan, None);
        let (run, seen, told) = (scenario.clone(), Arc::clone(&census), turns.clone());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            turns.run(move || run.execute_in_turns::<G>(&seen, &told));
        }));
        if let Err(panic) = outcome {
            eprintln!("{name}: {plan:?}");
            std::panic::resume_unwind(panic);
        }
    }
    let outcomes = census.lock().unwrap_or_else(PoisonError::into_inner).len();
    println!("{name}: {schedules} schedules, {outcomes} outcomes");
}

macro_rules! few_switches {
    ($($(#[$meta:meta])* $name:ident: $geometry:ty = $scenario:expr;)*) => {
        $(
            $(#[$meta])*
            #[test]
            fn $name() {
                check::<$geometry>(stringify!($name), $scenario);
            }
        )*
    };
}

const A: super::history::Name = (0, 0);
const B: super::history::Name = (1, 0);
const D: super::history::Name = (3, 0);

fn run(heads: u32, before: Vec<Op>, threads: Vec<Vec<Op>>) -> Scenario {
    scenario("", heads, before, threads).may_be_full()
}

few_switches! {
    // A helper's claim, in a slot that was official and cleared, is not the official word.
    a_claim_under_an_old_header_is_not_official: Narrow<3, 1, 0> = run(2,
        vec![plain(9, 3)], vec![vec![nat(1, A, B), plain(5, 5)], vec![remove(3), nat(2, A, (2, 0))]]);
    a_claim_of_a_third_is_not_official: Narrow<2, 1, 0> = run(2,
        vec![plain(9, 1), plain(8, 2)],
        vec![vec![nat(1, A, B), remove(0)], vec![nat(2, A, (2, 0))], vec![remove(2), nat(3, A, D)]]);
    links_are_those_of_the_header: Narrow<1, 2, 1> = run(2,
        vec![plain(9, 1)],
        vec![vec![nat(1, A, D), remove(0)], vec![nat(2, A, (4, 0))], vec![plain(3, 1)]])
        .overflow(3).recycling(3);
    a_bucket_left_behind_another_comes_home_with_it: Narrow<1, 1, 3> = run(2,
        vec![plain(9, 0), plain(8, 2), plain(7, 1)],
        vec![vec![plain(1, 4)], vec![remove(2), plain(2, 6), plain(3, 8), plain(5, 3)]])
        .overflow(3).recycling(5);
    a_proposal_elsewhere_is_swept: Narrow<1, 1, 2> = run(1,
        vec![plain(9, 0), plain(8, 1)],
        vec![vec![plain(1, 2), remove(2)], vec![remove(1), plain(2, 3)], vec![plain(3, 4)]])
        .overflow(4).recycling(3);
    a_loser_by_its_reply_key_and_its_helpers: Narrow<3, 1, 0> = run(2,
        vec![plain(9, 1)],
        vec![vec![or_reply_only(nat(1, B, A))], vec![plain(2, 0)], vec![remove(1), nat(3, A, B)]]);
    a_ring_with_removals: Narrow<2, 1, 1> = run(3,
        vec![], vec![vec![nat(1, A, B), remove(0)], vec![nat(2, B, (2, 0)), remove(1)],
            vec![short(nat(3, (2, 0), A)), remove(2)]]).overflow(2);
}

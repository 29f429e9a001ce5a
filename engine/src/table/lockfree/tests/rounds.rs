//! Versions and generations of two and three bits: what it means when they come round. Run
//! with `bash .ci/shuttle rounds::`.
//!
//! Versions: right as long as no header has had all its versions within an execution; then
//! a thread that slept for exactly one round takes the new header for the old one.
//! Generations, in entries and in slots: right, whatever their size, for all that lives
//! within a pin; an id that is kept longer names whoever lives there a round later. The heads of
//! `word` and of the table say how long real rounds are.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use super::super::{Geometry, Narrow};
use super::history::{Answer, Op, Scenario, plain, remove, scenario};
use super::programs::{Random, random_program, run_once, setting};
use super::turns::Turns;
use crate::sync::rounds::{FewBits, came_round, with};

type Census = Mutex<HashMap<Vec<Vec<Answer>>, u64>>;

/// Few bits of a version; generations whole.
fn versions(bits: u32) -> FewBits {
    FewBits {
        version: bits,
        ..FewBits::WHOLE
    }
}

/// Runs each plan by itself; how many there were, and how many ended in a failed judgement.
fn count_failures<G: Geometry>(
    scenario: &Scenario,
    bits: FewBits,
    plans: impl Iterator<Item = Vec<(usize, u64)>>,
) -> (u64, u64) {
    let (mut all, mut failed) = (0, 0);
    for plan in plans {
        let turns = Turns::new(&plan, None);
        let (run, told, census) = (scenario.clone(), turns.clone(), Arc::<Census>::default());
        let test = move || run.execute_in_turns::<G>(&census, &told);
        let outcome = with(bits, || catch_unwind(AssertUnwindSafe(|| turns.run(test))));
        all += 1;
        failed += u64::from(outcome.is_err());
    }
    (all, failed)
}

/// One thread has searched the chain and claimed a slot; another one changes the chain four
/// times, so that the same slots are official and the same key is in. With two bits the
/// header is the same word again, and the first thread's change goes through.
#[test]
fn a_version_that_comes_round_within_a_call_lets_a_key_have_two_owners() {
    let threads = vec![
        vec![plain(1, 1)],
        vec![remove(0), plain(2, 1), remove(1), plain(3, 1)],
    ];
    let scenario = scenario("round", 1, vec![plain(9, 0)], threads);
    let plans = || (0..60).map(|accesses| vec![(1, accesses), (2, 1 << 14), (1, 1 << 14)]);
    let (all, failed) = count_failures::<Narrow<3, 1, 0>>(&scenario, versions(2), plans());
    println!("two bits: {failed} of {all} instants");
    assert!(failed > 0, "four changes are a whole round of two bits");
    let (_, failed) = count_failures::<Narrow<3, 1, 0>>(&scenario, versions(3), plans());
    assert_eq!(failed, 0, "four changes are half a round of three bits");
}

/// Random programs with versions of three bits: whatever goes wrong, a version had come round.
#[test]
fn versions_of_three_bits_are_right_until_they_come_round() {
    let (mut rounds, mut wrong, mut all) = (0u64, 0u64, 0u64);
    for seed in 5_000_000..5_000_000 + 40 * setting("PROGRAMS", 150) {
        let program = random_program(&mut Random(seed), 2, true);
        let (outcome, round) = with(versions(3), || {
            let outcome = catch_unwind(|| run_once::<Narrow<2, 1, 1>>(&program, seed));
            (outcome, came_round())
        });
        all += 1;
        rounds += u64::from(round);
        match outcome {
            Ok(()) => {}
            Err(_) if round => wrong += 1,
            Err(failure) => {
                eprintln!("seed {seed}: {:#?}", (&program.before, &program.threads));
                std::panic::resume_unwind(failure);
            }
        }
    }
    println!("{all} executions, a version came round in {rounds}, an answer was wrong in {wrong}");
    assert!(rounds > 0 && rounds < all, "{rounds} of {all}");
}

fn generations(bits: u32) -> FewBits {
    FewBits {
        generation: bits,
        slot_generation: 2,
        ..FewBits::WHOLE
    }
}

/// Random programs on few entries, each of which has many lives.
fn try_generations<G: Geometry>(bits: FewBits, overflow: usize, seeds: u64) {
    for seed in seeds..seeds + 10 * setting("PROGRAMS", 150) {
        // No ids that were kept.
        let program = random_program(&mut Random(seed), overflow, false).recycling(1);
        let outcome = with(bits, || catch_unwind(|| run_once::<G>(&program, seed)));
        if let Err(failure) = outcome {
            eprintln!("seed {seed}: {:#?}", (&program.before, &program.threads));
            std::panic::resume_unwind(failure);
        }
    }
}

#[test]
fn generations_of_two_bits_in_slots_mislead_nobody() {
    try_generations::<Narrow<3, 1, 0>>(generations(32), 0, 6_000_000);
    try_generations::<Narrow<1, 1, 3>>(generations(32), 3, 6_100_000);
}

#[test]
fn generations_of_two_bits_in_entries_mislead_nobody_who_is_pinned() {
    try_generations::<Narrow<3, 1, 0>>(generations(2), 0, 7_000_000);
    try_generations::<Narrow<1, 2, 1>>(generations(2), 2, 7_100_000);
}

/// An entry has `lives` more lives; then it is removed by the id of the first.
fn an_old_id_names_somebody_after(lives: u32, bits: FewBits) -> bool {
    let mut ops = vec![remove(0)];
    for life in 1..=lives {
        ops.push(plain(life, 0));
        if life < lives {
            ops.push(remove(0));
        }
    }
    ops.push(Op::RemoveUid(9));
    // One entry: every life is its.
    let scenario = scenario("ids", 1, vec![plain(9, 0)], vec![ops])
        .recycling(0)
        .may_be_full();
    let plans = std::iter::once(vec![(1, 1 << 14)]);
    let (_, failed) = count_failures::<Narrow<3, 1, 0>>(&scenario, bits, plans);
    failed > 0
}

#[test]
fn an_id_that_is_kept_for_a_whole_round_of_generations_names_whoever_lives_there() {
    for lives in 1..=8 {
        assert_eq!(
            an_old_id_names_somebody_after(lives, generations(2)),
            lives == 4 || lives == 8,
            "after {lives} lives of two-bit generations"
        );
        assert!(!an_old_id_names_somebody_after(lives, FewBits::WHOLE));
    }
}

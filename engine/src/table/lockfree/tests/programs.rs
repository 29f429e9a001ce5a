//! Random programs of three and four threads under random schedules, longer than loom can
//! take. Run with
//! `RUSTFLAGS="--cfg shuttle" cargo test -p clashtrack-engine --lib --release programs`.
//!
//! shuttle runs one thread at a time, so it finds wrong interleavings and no wrong orderings. Tables are
//! tiny: one to three chains, one to three slots a bucket, few entries, so that slots, entries and overflow buckets are
//! used again and inserts meet. `PROGRAMS` says how many programs a test tries (default 150), `SEED` where
//! they start; a failure prints its program.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

use super::super::{Geometry, Narrow};
use super::history::{
    Name, Op, Scenario, expired, keys_of, nat, or_reply_only, plain, scenario, short,
};

const SCHEDULES: usize = 60;
const STEPS_MAX: usize = 1 << 20;

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, below: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn name(&mut self) -> Name {
        (self.below(4) as u8, self.below(2) as u8)
    }

    fn op(&mut self, uid: &mut u32, known: u32) -> Op {
        match self.below(10) {
            0..5 => {
                *uid += 1;
                let op = if self.below(2) == 0 {
                    plain(*uid, self.below(4) as u8)
                } else {
                    let (original, mut reply) = (self.name(), self.name());
                    if original == reply {
                        reply = (reply.0, 1 - reply.1);
                    }
                    nat(*uid, original, reply)
                };
                match self.below(6) {
                    0 => expired(op),
                    1 | 2 => or_reply_only(op),
                    3 => short(op),
                    _ => op,
                }
            }
            5..7 => Op::Look(self.name()),
            7..9 => Op::Remove(self.name()),
            // Ids are known of what was there before the threads started.
            _ if known > 0 => Op::RemoveUid(1 + self.below(u64::from(known)) as u32),
            _ => Op::Look(self.name()),
        }
    }
}

pub(super) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn try_programs<G: Geometry>(first_seed: u64, overflow: usize) {
    let programs = setting("PROGRAMS", 150);
    let first_seed = first_seed + setting("SEED", 0);
    let mut executions = 0;
    for seed in first_seed..first_seed + programs {
        let program = random_program(&mut Random(seed), overflow, true);
        executions += run::<G>(&program, seed);
    }
    println!("{executions} executions of {programs} programs");
}

/// A program of two to four threads; `by_id`: connections are removed by ids of the past too.
pub(super) fn random_program(random: &mut Random, overflow: usize, by_id: bool) -> Scenario {
    let heads = 1 + random.below(3) as u32;
    let mut uid = 0;
    let before: Vec<Op> = (0..random.below(4))
        .map(|_| plain_of(random, &mut uid))
        .collect();
    let known = if by_id { uid } else { 0 };
    let threads: Vec<Vec<Op>> = (0..2 + random.below(3))
        .map(|_| {
            (0..1 + random.below(4))
                .map(|_| random.op(&mut uid, known))
                .collect()
        })
        .collect();
    let mut program: Scenario = scenario("random", heads, before, threads)
        .overflow(overflow)
        .may_be_full();
    if random.below(3) > 0 {
        program = program.recycling(random.below(3) as usize);
    }
    keys_of(heads);
    program
}

/// Something that is there when the threads start; it may clash with what is there already.
fn plain_of(random: &mut Random, uid: &mut u32) -> Op {
    *uid += 1;
    plain(*uid, random.below(4) as u8)
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 19;
    config.max_steps = shuttle::MaxSteps::FailAfter(STEPS_MAX);
    config
}

/// One execution under one random schedule.
pub(super) fn run_once<G: Geometry>(program: &Scenario, seed: u64) {
    let (case, seen) = (program.clone(), Arc::default());
    Runner::new(RandomScheduler::new_from_seed(seed, 1), config())
        .run(move || case.execute::<G>(&seen));
}

fn run<G: Geometry>(program: &Scenario, seed: u64) -> u64 {
    let census: Arc<Mutex<HashMap<_, u64>>> = Arc::default();
    for pct in [false, true] {
        let config = config();
        let (case, seen) = (program.clone(), Arc::clone(&census));
        let test = move || case.execute::<G>(&seen);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if pct {
                let scheduler = PctScheduler::new_from_seed(seed, 3, SCHEDULES);
                Runner::new(scheduler, config).run(test);
            } else {
                let scheduler = RandomScheduler::new_from_seed(seed, SCHEDULES);
                Runner::new(scheduler, config).run(test);
            }
        }));
        if let Err(panic) = outcome {
            eprintln!(
                "seed {seed}, heads {}: {:#?}",
                program.heads,
                (&program.before, &program.threads)
            );
            std::panic::resume_unwind(panic);
        }
    }
    let census = census.lock().unwrap();
    census.values().sum()
}

#[test]
fn random_programs_on_chains_of_three_slots() {
    try_programs::<Narrow<3, 1, 0>>(1_000_000, 0);
}

#[test]
fn random_programs_on_chains_of_single_slots_with_overflow() {
    try_programs::<Narrow<1, 1, 3>>(2_000_000, 3);
}

#[test]
fn random_programs_on_chains_with_one_overflow_bucket() {
    try_programs::<Narrow<1, 2, 1>>(3_000_000, 2);
}

#[test]
fn random_programs_on_chains_of_two_and_two() {
    try_programs::<Narrow<2, 2, 2>>(4_000_000, 2);
}

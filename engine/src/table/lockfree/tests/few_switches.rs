//! Schedules with few switches, given as *turns*: a thread, and how many accesses to shared
//! words it makes before the next turn, or one call. A turn also ends when its thread does.
//!
//! A random scheduler switches at every access, so that a thread hardly ever stands still
//! for the whole of another one's operation; the bugs of helping need just that. Turns also
//! let a test stop a thread after its k-th access and never let it go on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, MaxSteps, Runner};

use super::super::{Geometry, Narrow};
use super::history::{Op, Scenario, look, nat, or_reply_only, plain, remove, scenario, short};
use super::programs::{Random, setting};

/// Accesses after which a thread is taken to wait for something that does not come.
const ACCESSES_MAX: u64 = 20_000;

/// As the length of a turn: until the call that the thread is in returns.
const ONE_CALL: u64 = u64::MAX;

/// The thread that starts and joins the others.
const MAIN: usize = 0;

/// What the scheduler and the execution that it schedules tell each other. Locked for an
/// instant at a time, never across an access of the code under test.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Until the threads are there, the main one runs.
    started: bool,
    turns: VecDeque<(usize, u64)>,
    /// It does not run again while another one can.
    given_up: Option<usize>,
    /// Accesses of each thread since the start.
    accesses: HashMap<usize, u64>,
    /// Accesses of the longest call.
    longest_call: u64,
}

impl Turns {
    /// Turns in this order; then the threads one after the other, `given_up` last.
    pub(super) fn new(turns: &[(usize, u64)], given_up: Option<usize>) -> Turns {
        let state = State {
            turns: turns.iter().copied().collect(),
            given_up,
            ..State::default()
        };
        Turns(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All threads are there.
    pub(super) fn start(&self) {
        self.state().started = true;
    }

    /// The thread that was given up goes on after all.
    pub(super) fn let_go(&self) {
        self.state().given_up = None;
    }

    /// Accesses that a thread made so far.
    pub(super) fn accesses(&self, thread: usize) -> u64 {
        self.state().accesses.get(&thread).copied().unwrap_or(0)
    }

    /// A call of a thread is over that made so many accesses.
    pub(super) fn note_call(&self, thread: usize, accesses: u64) {
        let mut state = self.state();
        if state.turns.front() == Some(&(thread, ONE_CALL)) {
            state.turns.pop_front();
        }
        state.longest_call = state.longest_call.max(accesses);
    }

    pub(super) fn longest_call(&self) -> u64 {
        self.state().longest_call
    }

    /// One execution of `test` with these turns.
    pub(super) fn run(&self, test: impl Fn() + Send + Sync + 'static) {
        let mut config = Config::new();
        config.stack_size = 1 << 17;
        config.max_steps = MaxSteps::FailAfter(1 << 20);
        let scheduler = InTurns {
            turns: self.clone(),
            ran: false,
        };
        Runner::new(scheduler, config).run(test);
    }
}

#[derive(Debug)]
struct InTurns {
    turns: Turns,
    ran: bool,
}

impl Scheduler for InTurns {
    fn new_execution(&mut self) -> Option<Schedule> {
        (!std::mem::replace(&mut self.ran, true)).then(|| Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        _current: Option<TaskId>,
        _is_yielding: bool,
    ) -> Option<TaskId> {
        let mut state = self.turns.state();
        let can = |thread: usize| runnable.iter().any(|task| usize::from(task.id()) == thread);
        let mut next = (!state.started && can(MAIN)).then_some(MAIN);
        while next.is_none()
            && let Some((thread, left)) = state.turns.front_mut()
        {
            if *left > 0 && can(*thread) {
                if *left != ONE_CALL {
                    *left -= 1;
                }
                next = Some(*thread);
            } else {
                state.turns.pop_front();
            }
        }
        let given_up = state.given_up;
        let next = next.unwrap_or_else(|| {
            let order = |thread: usize| (Some(thread) == given_up, thread == MAIN, thread);
            let threads = runnable.iter().map(|task| usize::from(task.id()));
            threads
                .min_by_key(|thread| order(*thread))
                .expect("one can run")
        });
        if state.started {
            let accesses = state.accesses.entry(next).or_default();
            *accesses += 1;
            assert!(
                *accesses < ACCESSES_MAX,
                "thread {next} waits for another one"
            );
        }
        drop(state);
        runnable
            .iter()
            .map(|task| task.id())
            .find(|id| usize::from(*id) == next)
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}

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
fn check<G: Geometry>(name: &'static str, scenario: Scenario) {
    let (mut random, threads) = (Random(setting("SEED", 0)), scenario.threads.len());
    check_all::<G>(
        name,
        scenario,
        (0..setting("RUNS", 20_000)).map(|_| random_turns(&mut random, threads)),
    );
}

/// The given schedules of a scenario.
fn check_all<G: Geometry>(
    name: &'static str,
    mut scenario: Scenario,
    all: impl Iterator<Item = Vec<(usize, u64)>>,
) {
    scenario.name = name;
    let census = Arc::default();
    let mut schedules = 0;
    for plan in all {
        schedules += 1;
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

/// A helper of the first attempt found its first key official and stands still; the winner
/// goes; the second attempt begins, its first key not official again. Were the two attempts one
/// to the helper, it would confirm an entry without its first key.
#[test]
fn a_helper_of_an_earlier_attempt_does_not_confirm_the_next() {
    let threads = vec![vec![nat(1, A, B)], vec![plain(2, 0)], vec![remove(1)]];
    let scenario = run(2, vec![plain(9, 1)], threads);
    let mut random = Random(setting("SEED", 0));
    let turns = (0..setting("RUNS", 40_000)).map(|_| {
        let mut up_to = |most: u64| 1 + random.below(most);
        // Up to its second key; the helper, up to there; on to the clash; the removal; the next attempt.
        vec![
            (1, up_to(40)),
            (2, up_to(60)),
            (1, up_to(60)),
            (3, ACCESSES_MAX),
            (1, up_to(80)),
            (2, ACCESSES_MAX),
        ]
    });
    check_all::<Narrow<3, 1, 0>>("a_helper_of_an_earlier_attempt", scenario, turns);
}

/// A helper of the first attempt has claimed a slot for the original key, and stands still; somebody
/// else comes in by that key, and the entry by its reply key alone; then who owned its original key goes. The
/// helper's word leads to a confirmed entry that has this key: only the state says that it does not own it.
#[test]
fn a_word_of_the_first_attempt_does_not_lead_to_a_reply_only_entry() {
    let threads = vec![
        vec![or_reply_only(nat(1, B, A)), look(1)],
        vec![plain(2, 0)],
        vec![plain(3, 1), remove(1)],
    ];
    let scenario = run(2, vec![], threads);
    let mut random = Random(setting("SEED", 0));
    let turns = (0..setting("RUNS", 40_000)).map(|_| {
        let mut up_to = |least: u64, most: u64| least + random.below(most - least);
        // Past its reply key; the helper, up to its claim; the owner of the original key; the
        // second stage; he goes; the look.
        vec![
            (1, up_to(5, 30)),
            (2, up_to(10, 50)),
            (3, up_to(10, 40)),
            (1, up_to(20, 120)),
            (3, ACCESSES_MAX),
            (1, ACCESSES_MAX),
        ]
    });
    check_all::<Narrow<3, 1, 0>>("a_word_of_the_first_attempt", scenario, turns);
}

/// An insert that is about to lengthen the chain has an old header, and stands still; meanwhile the chain
/// goes on, somebody comes in by the same key, and proposes a bucket. Taking that proposal for an outdated one, the insert
/// would put it under a version that is over, lose the clash, and sweep a bucket that is being linked.
#[test]
fn a_proposal_of_another_thread_is_not_adopted_under_an_old_header() {
    let threads = vec![vec![plain(1, 1)], vec![remove(0), plain(2, 1), plain(3, 2)]];
    let scenario = run(1, vec![plain(9, 0)], threads).overflow(2);
    let turns = (4..20).flat_map(|old| {
        (30..90).flat_map(move |proposed| {
            (4..24).flat_map(move |sweeping| {
                (1..3).map(move |linked| {
                    vec![
                        (1, old),
                        (2, proposed),
                        (1, sweeping),
                        (2, linked),
                        (1, ACCESSES_MAX),
                    ]
                })
            })
        })
    });
    check_all::<Narrow<1, 1, 1>>("a_proposal_of_another_thread", scenario, turns);
}

/// A publisher stands still before it puts a bucket behind another one, which goes; the chain
/// grows again, with others, beyond that depth: the publisher cannot tell its bucket from a linked one
/// and leaves it where it is. It comes home with the bucket that it is behind.
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
    let turns = (1..100).flat_map(|publisher| {
        (60..400)
            .step_by(4)
            .map(move |other| vec![(1, publisher), (2, other), (1, ACCESSES_MAX)])
    });
    check_all::<Narrow<1, 1, 3>>("a_bucket_behind_one_that_went", scenario, turns);
}

/// A thread has claimed a slot in a bucket that goes, and stands still. Until it goes on nobody
/// may have that bucket again: its word is in it.
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
    let turns = (1..80).map(|claimer| vec![(1, claimer), (2, ACCESSES_MAX), (1, ACCESSES_MAX)]);
    check_all::<Narrow<1, 3, 1>>("a_bucket_with_a_claim_in_it", scenario, turns);
}

/// An owner has loaded the header of its second key's chain; another thread clears a slot
/// there, claims it as a helper, and stands still: the owner meets its own word under a
/// valid bit of a header that has gone. Every pair of instants is tried.
#[test]
fn a_claim_in_a_cleared_slot_is_not_official() {
    let threads = vec![
        vec![nat(1, A, B), plain(5, 5)],
        vec![remove(3), plain(2, 0)],
    ];
    let scenario = run(2, vec![plain(9, 3)], threads);
    let turns = (1..60).flat_map(|owner| {
        (20..150).map(move |helper| vec![(1, owner), (2, helper), (1, ACCESSES_MAX)])
    });
    check_all::<Narrow<3, 1, 0>>("a_claim_in_a_cleared_slot", scenario, turns);
}

/// A word of the first attempt makes the second one known to somebody else before its owner has
/// shown it. A helper of the first attempt has claimed a slot for the second key, and stands still; whoever made
/// that attempt fail has gone; another insert, whose header is so old that the slot was official, meets the word,
/// and finishes the second attempt in its owner's place. The owner, who has seen a clash meanwhile,
/// must not write over what is decided.
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
    let plan = |(header, claim, first), (failed, second, taken)| {
        vec![
            // Loads the header; then the slot is cleared.
            (old, header),
            (others, ONE_CALL),
            // The first key; the helper's claim.
            (owner, first),
            (helper, claim),
            // The first attempt fails by somebody who goes; the second one begins.
            (others, ONE_CALL),
            (owner, failed),
            (others, ONE_CALL),
            (owner, second),
            // Its first key, by who met the word; the owner sees its second one taken.
            (old, 30),
            (others, ONE_CALL),
            (owner, taken),
            // He goes; the attempt is finished.
            (others, ONE_CALL),
            (old, ACCESSES_MAX),
            (owner, ACCESSES_MAX),
        ]
    };
    let mut turns = Vec::new();
    for header in 9..11 {
        for claim in 41..43 {
            for first in 23..25 {
                for failed in [16, 20, 24] {
                    for second in 34..48 {
                        for taken in 14..30 {
                            turns.push(plan((header, claim, first), (failed, second, taken)));
                        }
                    }
                }
            }
        }
    }
    check_all::<Narrow<3, 1, 0>>("an_attempt_made_known", scenario, turns.into_iter());
}

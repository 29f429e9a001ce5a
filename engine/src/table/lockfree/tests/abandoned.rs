//! Operations given up for good: a thread stops after its k-th access to a shared word and
//! does not go on, for every k from 0 until it has finished, each thread of a scenario in
//! turn. The others must finish within a bound of accesses, and their answers must be
//! explained by an order in which the lost operation took effect once or never. Run with
//! `RUSTFLAGS="--cfg shuttle" cargo test -p clashtrack-engine --lib --release given_up`.
//!
//! When all that is judged, the thread goes on after all: then everything is judged again,
//! its own answers and what is at rest included. That is a thread which was suspended for
//! longer than all others together had to do.
//!
//! What this covers: every k of every thread, on scenarios of two and three threads with
//! overflow, reuse and reply-only inserts; for each of them a sample of what the others do before and
//! after. shuttle has one order of all accesses; `abandoned_orders` does the same under
//! loom, with all orders that the memory model allows, on fewer and shorter scenarios.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::{Geometry, LockfreeWorker, Narrow};
use super::history::{
    Answer, History, Name, Op, Scenario, SetUp, expired, look, nat, or_reply_only, plain, remove,
    scenario, short,
};
use super::lost::{ACCESSES_OF_A_CALL, looks};
use super::programs::{Random, setting};
use super::turns::Turns;
use crate::sync::thread;
use crate::table::FlowTable;

type Census = Mutex<HashMap<Vec<Vec<Answer>>, u64>>;

/// What a thread did so far.
type Log = Arc<Mutex<Vec<Answer>>>;

fn all_of(log: &Log) -> Vec<Answer> {
    log.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// One thread of an execution in turns.
struct Running {
    handle: thread::JoinHandle<LockfreeWorker>,
    log: Log,
}

impl Scenario {
    /// One execution in turns; nobody is given up.
    pub(super) fn execute_in_turns<G: Geometry>(&self, census: &Census, turns: &Turns) {
        self.execute_with::<G>(census, turns, None);
    }

    /// One execution, in which thread `given_up` (the first is 1) stops after some accesses,
    /// as `turns` say.
    fn execute_with<G: Geometry>(&self, census: &Census, turns: &Turns, given_up: Option<usize>) {
        let threads = self.threads.len();
        let SetUp {
            table,
            mut workers,
            map,
            ids,
        } = self.set_up::<G>(threads + 1);
        if !self.epochs {
            workers.iter_mut().for_each(|worker| table.begin(worker));
        }
        let mut judge = workers.remove(0);
        let running: Vec<Running> = workers
            .into_iter()
            .enumerate()
            .map(|(i, mut worker)| {
                let log = Log::default();
                let (table, scenario, ids) = (Arc::clone(&table), self.clone(), ids.clone());
                let (mine, turns) = (Arc::clone(&log), turns.clone());
                let handle = thread::spawn(move || {
                    for op in &scenario.threads[i] {
                        let before = turns.accesses(i + 1);
                        let one = std::slice::from_ref(op);
                        let answer = scenario.call_with(&table, &mut worker, one, &ids);
                        let made = turns.accesses(i + 1) - before;
                        assert!(made <= ACCESSES_OF_A_CALL, "{op:?} made {made} accesses");
                        turns.note_call(i + 1, made);
                        mine.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .extend(answer);
                    }
                    worker
                });
                Running { handle, log }
            })
            .collect();
        turns.are_about(&table);
        turns.start();
        let logs: Vec<Log> = running.iter().map(|r| Arc::clone(&r.log)).collect();
        let (mut done, mut lost) = (Vec::new(), None);
        for (i, running) in running.into_iter().enumerate() {
            if Some(i + 1) == given_up {
                lost = Some((i, running));
            } else {
                done.push(running.handle.join().unwrap());
            }
        }
        if let Some((victim, running)) = lost {
            let looks = looks();
            let found = self.call_all(&table, &mut judge, &looks);
            let after: History = looks.into_iter().zip(found).collect();
            let answers: Vec<_> = logs.iter().map(all_of).collect();
            self.assert_explained_without(victim, &map, &answers, &after);
            turns.let_go();
            done.insert(victim, running.handle.join().unwrap());
        }
        let mut workers = vec![judge];
        workers.append(&mut done);
        if !self.epochs {
            workers.iter_mut().for_each(|worker| table.end(worker));
        }
        let answers: Vec<_> = logs.iter().map(all_of).collect();
        self.judge(&table, &mut workers, &map, &answers);
        *census.lock().unwrap().entry(answers).or_default() += 1;
    }
}

/// The turns of one search: what the others do before `victim` has made its `k` accesses.
fn turns_until(victim: usize, k: u64, others: &[usize], random: &mut Random) -> Vec<(usize, u64)> {
    let mut turns = Vec::new();
    let mut left = k;
    let other = |random: &mut Random| others[random.below(others.len() as u64) as usize];
    for _ in 0..random.below(4) {
        let part = random.below(left + 1);
        turns.push((victim, part));
        left -= part;
        turns.push((other(random), random.below(70)));
    }
    turns.push((victim, left));
    for _ in 0..random.below(5) {
        turns.push((other(random), 1 + random.below(40)));
    }
    turns
}

/// Gives up each thread after each of its accesses, `SCHEDULES` random schedules each (default `schedules`).
fn give_up_each<G: Geometry>(name: &'static str, mut scenario: Scenario, schedules: u64) {
    scenario.name = name;
    scenario.may_be_full = true;
    let schedules = setting("SCHEDULES", schedules);
    let mut random = Random(setting("SEED", 0));
    let census: Arc<Census> = Arc::default();
    let (mut searches, mut executions, mut longest) = (0, 0, 0);
    for victim in 1..=scenario.threads.len() {
        let others: Vec<usize> = (1..=scenario.threads.len())
            .filter(|t| *t != victim)
            .collect();
        let mut k = 0;
        // Until the victim has finished by itself in every schedule.
        loop {
            let mut stopped = false;
            for _ in 0..schedules {
                let plan = turns_until(victim, k, &others, &mut random);
                let turns = Turns::new(&plan, Some(victim));
                let (run, seen, told) = (scenario.clone(), Arc::clone(&census), turns.clone());
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    turns.run(move || run.execute_with::<G>(&seen, &told, Some(victim)));
                }));
                if let Err(panic) = outcome {
                    eprintln!("{name}: thread {victim} given up after {k} accesses, {plan:?}");
                    std::panic::resume_unwind(panic);
                }
                stopped |= turns.accesses(victim) > k;
                longest = longest.max(turns.longest_call());
                executions += 1;
            }
            searches += 1;
            if !stopped {
                break;
            }
            k += 1;
        }
    }
    println!(
        "{name}: {searches} searches, {executions} executions, longest call {longest} accesses"
    );
}

macro_rules! given_up {
    ($($(#[$meta:meta])* $name:ident: $geometry:ty = $scenario:expr;)*) => {
        $(
            $(#[$meta])*
            #[test]
            fn $name() {
                give_up_each::<$geometry>(stringify!($name), $scenario, 40);
            }
        )*
    };
}

const A: Name = (0, 0);
const B: Name = (1, 0);
const C: Name = (2, 0);
const D: Name = (3, 0);

fn run(heads: u32, before: Vec<Op>, threads: Vec<Vec<Op>>) -> Scenario {
    scenario("", heads, before, threads)
}

given_up! {
    given_up_among_equal_flows: Narrow<2, 1, 0> =
        run(1, vec![], vec![vec![plain(1, 0)], vec![plain(2, 0), look(0)]]);
    given_up_among_crossing_flows: Narrow<2, 1, 0> =
        run(2, vec![], vec![vec![nat(1, A, B)], vec![nat(2, B, A), look(1)]]);
    given_up_in_one_chain: Narrow<3, 1, 0> =
        run(1, vec![], vec![vec![nat(1, A, B)], vec![nat(2, B, A)]]);
    given_up_with_one_key_in_common: Narrow<3, 1, 0> =
        run(2, vec![], vec![vec![nat(1, A, B)], vec![nat(2, C, B), remove(2)]]);
    given_up_inserting_or_removing: Narrow<2, 1, 0> =
        run(2, vec![nat(9, A, B)], vec![vec![remove(0), plain(1, 0)], vec![remove(1), plain(2, 1)]]);
    given_up_helping: Narrow<3, 1, 0> =
        run(2, vec![plain(9, 1)], vec![vec![nat(1, A, B)], vec![remove(1), nat(2, A, D)]]);
    given_up_replacing_an_expired_one: Narrow<2, 1, 0> =
        run(2, vec![expired(nat(9, A, B))], vec![vec![plain(1, 0)], vec![nat(2, B, A)]]);
    given_up_coming_in_by_the_reply_key: Narrow<3, 1, 0> =
        run(2, vec![plain(9, 0)], vec![vec![or_reply_only(nat(1, A, B))], vec![or_reply_only(nat(2, A, B)), remove(0)]]);
    given_up_while_entries_are_used_again: Narrow<2, 1, 0> =
        run(1, vec![plain(9, 0)], vec![vec![remove(0), plain(1, 1)], vec![look(0), plain(2, 1), remove(1)]]).recycling(1);
    given_up_linking: Narrow<1, 1, 2> =
        run(1, vec![plain(9, 0)], vec![vec![plain(1, 1)], vec![plain(2, 2), remove(2)]]).overflow(3);
    given_up_unlinking: Narrow<1, 1, 3> =
        run(1, vec![plain(9, 0), plain(8, 1)], vec![vec![remove(1)], vec![plain(2, 2), remove(2)]]).overflow(3);
    given_up_claiming_in_a_bucket_that_goes: Narrow<1, 3, 1> =
        run(1, vec![plain(9, 0), plain(8, 1)], vec![vec![plain(1, 2)], vec![remove(1), plain(2, 3)]]).overflow(3);
    given_up_while_buckets_are_used_again: Narrow<1, 1, 1> =
        run(2, vec![plain(9, 0), plain(8, 2), plain(7, 1)], vec![vec![remove(2), plain(1, 3)], vec![plain(2, 4), look(3)]])
            .overflow(2).recycling(2);
    given_up_with_a_short_limit: Narrow<1, 3, 2> =
        run(2, vec![plain(9, 1), plain(8, 3), plain(7, 5), plain(6, 7)],
            vec![vec![nat(1, A, (11, 0))], vec![short(plain(2, 0))]]).overflow(3);
    given_up_among_three_equal_flows: Narrow<3, 1, 0> =
        run(1, vec![], vec![vec![plain(1, 0)], vec![plain(2, 0)], vec![plain(3, 0), look(0)]]);
    given_up_in_a_ring: Narrow<3, 1, 0> =
        run(3, vec![], vec![vec![nat(1, A, B)], vec![nat(2, B, C)], vec![nat(3, C, A)]]);
    given_up_between_insert_and_removal: Narrow<3, 1, 0> =
        run(2, vec![], vec![vec![nat(1, A, B)], vec![remove(1)], vec![nat(2, A, B)]]);
    given_up_among_three_who_link_and_unlink: Narrow<1, 2, 1> =
        run(1, vec![plain(9, 0), plain(8, 1)], vec![vec![remove(1)], vec![plain(2, 2)], vec![plain(3, 3), look(2)]]).overflow(3);
}

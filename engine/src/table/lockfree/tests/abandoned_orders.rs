//! Operations given up for good, in all orders that loom finds: a thread is unwound after its
//! k-th access to a shared word, for every k from 0 until it finishes by itself, each thread
//! of a scenario in turn. Run with `bash .ci/loom given_up`.
//!
//! The others must finish, each call within a bound of accesses; what they answered, and what
//! is found afterwards, must be explained by an order in which the lost operation took effect
//! once or never; and nothing may be owned twice. The lost thread stays pinned.
//!
//! `GIVEN_UP_MS` (default 1000) is the time for each k; what is not searched by then is left. More
//! scenarios, with three threads and with the lost thread going on in the end: `abandoned` (shuttle).

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loom::model::Builder;

use super::super::{Geometry, LockfreeTable, LockfreeWorker, Narrow};
use super::history::{
    Answer, History, Name, Op, Scenario, SetUp, keys_of, look, nat, or_reply_only, plain, remove,
    scenario,
};
use super::lost::{ACCESSES_OF_A_CALL, looks};
use crate::sync::{counted, thread};
use crate::table::FlowTable;
use crate::table::key::KeyV4;
use crate::table::slab::EntryId;

/// What a thread did: its answers, and whether it was given up in the call after them.
type Done = (Vec<Answer>, LockfreeWorker, bool);

/// What a search counted.
#[derive(Debug, Default)]
struct Counts {
    executions: AtomicU64,
    given_up: AtomicU64,
    longest_call: AtomicU64,
}

impl Scenario {
    /// One thread's calls, given up after its access `k`.
    fn call_until<G: Geometry>(
        &self,
        table: &LockfreeTable<KeyV4, G>,
        mut worker: LockfreeWorker,
        (thread, k): (usize, Option<u64>),
        ids: &HashMap<u32, EntryId>,
        counts: &Counts,
    ) -> Done {
        counted::give_up_after(k, ACCESSES_OF_A_CALL);
        let (mut answers, mut lost) = (Vec::new(), false);
        for op in &self.threads[thread] {
            let one = std::slice::from_ref(op);
            let call = AssertUnwindSafe(|| self.call_with(table, &mut worker, one, ids));
            match catch_unwind(call) {
                Ok(answer) => answers.extend(answer),
                Err(unwound) if unwound.is::<counted::GivenUp>() => lost = true,
                Err(failure) => resume_unwind(failure),
            }
            // Relaxed: counts, read when all is over.
            counts
                .longest_call
                .fetch_max(counted::end_call(), Ordering::Relaxed);
            if lost {
                break;
            }
        }
        counted::go_on();
        (answers, worker, lost)
    }

    /// One execution, in which thread `victim` is given up after its access `k`.
    fn execute_without<G: Geometry>(&self, victim: usize, k: u64, counts: &Arc<Counts>) {
        let SetUp {
            table,
            mut workers,
            map,
            ids,
        } = self.set_up::<G>(self.threads.len() + 1);
        if !self.epochs {
            workers.iter_mut().for_each(|worker| table.begin(worker));
        }
        let mut judge = workers.remove(0);
        let first = workers.remove(0);
        let end_of = move |thread: usize| (thread, (thread == victim).then_some(k));
        let handles: Vec<_> = workers
            .into_iter()
            .zip(1..)
            .map(|(worker, i)| {
                let (table, scenario, ids) = (Arc::clone(&table), self.clone(), ids.clone());
                let counts = Arc::clone(counts);
                thread::spawn(move || scenario.call_until(&table, worker, end_of(i), &ids, &counts))
            })
            .collect();
        let mut done = vec![self.call_until(&table, first, end_of(0), &ids, counts)];
        done.extend(handles.into_iter().map(|handle| handle.join().unwrap()));
        let lost = done[victim].2;
        let answers: Vec<Vec<Answer>> = done.iter().map(|(answers, ..)| answers.clone()).collect();
        // Relaxed: a count.
        counts.executions.fetch_add(1, Ordering::Relaxed);
        let lost_ones = u64::from(lost);
        // Relaxed: a count.
        counts.given_up.fetch_add(lost_ones, Ordering::Relaxed);
        if lost {
            let looks = looks();
            let found = self.call_all(&table, &mut judge, &looks);
            let after: History = looks.into_iter().zip(found).collect();
            self.assert_explained_without(victim, &map, &answers, &after);
            let all: Vec<_> = done
                .iter()
                .map(|(_, worker, _)| worker)
                .chain([&judge])
                .collect();
            table.assert_nothing_owned_twice(&all);
            return;
        }
        let mut workers: Vec<LockfreeWorker> = vec![judge];
        workers.extend(done.into_iter().map(|(_, worker, _)| worker));
        if !self.epochs {
            workers.iter_mut().for_each(|worker| table.end(worker));
        }
        self.judge(&table, &mut workers, &map, &answers);
    }
}

/// Gives up each thread after each of its accesses.
fn give_up_each<G: Geometry>(name: &'static str, mut scenario: Scenario) {
    scenario.name = name;
    scenario.may_be_full = true;
    let each = std::env::var("GIVEN_UP_MS").map_or(Ok(1_000), |text| text.parse());
    let each = Duration::from_millis(each.expect("GIVEN_UP_MS is a number"));
    keys_of(scenario.heads);
    let counts = Arc::new(Counts::default());
    let mut instants = 0;
    for victim in 0..scenario.threads.len() {
        for k in 0.. {
            // Relaxed: a count, and no thread is left.
            let before = counts.given_up.load(Ordering::Relaxed);
            let mut builder = Builder::new();
            builder.max_branches = 20_000;
            // How often loom looks at the time.
            builder.checkpoint_interval = 50;
            builder.preemption_bound = builder.preemption_bound.or(Some(2));
            builder.max_duration = Some(each);
            let (run, told) = (scenario.clone(), Arc::clone(&counts));
            builder.check(move || run.execute_without::<G>(victim, k, &told));
            instants += 1;
            // Relaxed: as above.
            if counts.given_up.load(Ordering::Relaxed) == before {
                break;
            }
        }
    }
    println!("{name}: {instants} instants, {counts:?}");
    // Relaxed: as above. Two threads make some dozen accesses each.
    assert!(
        counts.given_up.load(Ordering::Relaxed) > 40,
        "{name}: {counts:?}"
    );
}

macro_rules! given_up {
    ($($name:ident: $geometry:ty = $scenario:expr;)*) => {
        $(
            #[test]
            fn $name() {
                give_up_each::<$geometry>(stringify!($name), $scenario);
            }
        )*
    };
}

const A: Name = (0, 0);
const B: Name = (1, 0);
const D: Name = (3, 0);

fn run(heads: u32, before: Vec<Op>, a: Vec<Op>, b: Vec<Op>) -> Scenario {
    scenario("", heads, before, vec![a, b])
}

given_up! {
    given_up_among_equal_flows: Narrow<2, 1, 0> = run(1, vec![], vec![plain(1, 0)], vec![plain(2, 0)]);
    given_up_among_crossing_flows: Narrow<2, 1, 0> = run(2, vec![], vec![nat(1, A, B)], vec![nat(2, B, A)]);
    given_up_inserting_or_removing: Narrow<2, 1, 0> =
        run(2, vec![nat(9, A, B)], vec![remove(0)], vec![remove(1), nat(2, B, A)]);
    given_up_helping: Narrow<3, 1, 0> =
        run(2, vec![plain(9, 1)], vec![nat(1, A, B)], vec![remove(1), nat(2, A, D)]);
    given_up_coming_in_by_the_reply_key: Narrow<3, 1, 0> =
        run(2, vec![plain(9, 0)], vec![or_reply_only(nat(1, A, B))], vec![or_reply_only(nat(2, A, B))]);
    given_up_while_a_slot_is_used_again: Narrow<1, 1, 0> =
        run(1, vec![plain(9, 0)], vec![remove(0), plain(1, 1)], vec![look(0), look(1)]).recycling(1);
    given_up_linking_and_unlinking: Narrow<1, 1, 2> =
        run(1, vec![plain(9, 0), plain(8, 1)], vec![remove(1)], vec![plain(2, 2)]).overflow(3);
}

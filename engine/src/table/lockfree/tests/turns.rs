//! Schedules as *turns*: a thread, and how far it goes before the next turn: so many accesses to shared words, one
//! call, or up to an access to a certain word of the table. A turn also ends when its thread does.
//!
//! A random scheduler switches at every access, so that a thread hardly ever stands still
//! for the whole of another one's operation; the bugs of helping need just that. Turns also
//! let a test stop a thread after its k-th access and never let it go on.

use std::collections::{HashMap, VecDeque};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, MaxSteps, Runner};

use super::super::{Geometry, LockfreeTable};
use crate::sync::hooked::Access;
use crate::sync::{AtomicU64, watched};
use crate::table::key::FlowKey;

/// Accesses after which a thread is taken to wait for something that does not come.
pub(super) const ACCESSES_MAX: u64 = 20_000;

/// The thread that starts and joins the others.
const MAIN: usize = 0;

/// What a word of a table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    /// The header of a chain.
    Header(usize),
    /// A slot of a chain's head bucket.
    Slot(usize),
    /// The link word of a chain's head bucket.
    Link(usize),
    /// The link word of an overflow bucket.
    LinkBehind,
    /// A slot of an overflow bucket.
    OverflowSlot,
    /// The state of an entry.
    State,
}

/// What a thread does to a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Deed {
    Loads,
    /// Stores, or exchanges, whether that succeeds or not.
    Writes,
}

/// How long a turn is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Until {
    /// This many scheduling points: two an access.
    Accesses(u64),
    /// The call that the thread is in returns.
    Called,
    /// It is about to do this.
    Before(Deed, Word),
    /// It has done this.
    After(Deed, Word),
    /// The thread ends.
    End,
}

/// A thread, and how far it goes.
pub(super) type Turn = (usize, Until);

impl From<u64> for Until {
    fn from(accesses: u64) -> Until {
        Until::Accesses(accesses)
    }
}

/// What a schedule and the execution that it schedules tell each other. Locked for an
/// instant at a time, never across an access of the code under test.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Until the threads are there, the main one runs.
    started: bool,
    turns: VecDeque<Turn>,
    /// What the words at these addresses are.
    words: HashMap<usize, Word>,
    /// Turns that ended in another way than they say: their thread had ended.
    cut_short: Vec<Turn>,
    /// It does not run again while another one can.
    given_up: Option<usize>,
    /// Scheduling points of each thread since the start.
    accesses: HashMap<usize, u64>,
    /// Of the longest call.
    longest_call: u64,
}

impl State {
    fn is(&self, access: Option<Access>, (deed, word): (Deed, Word)) -> bool {
        access.is_some_and(|access| {
            access.writes == (deed == Deed::Writes)
                && self.words.get(&access.address) == Some(&word)
        })
    }

    /// Whose turn it is, if it is anybody's.
    fn next(&mut self, can: impl Fn(usize) -> bool) -> Option<usize> {
        while let Some(&(thread, until)) = self.turns.front() {
            let goes_on = match until {
                Until::Accesses(0) => false,
                Until::Before(deed, word) => !self.is(watched::peek(thread), (deed, word)),
                _ => true,
            };
            if !goes_on {
                self.turns.pop_front();
            } else if can(thread) {
                return Some(thread);
            } else {
                self.turns.pop_front();
                if !matches!(until, Until::Accesses(_) | Until::End) {
                    self.cut_short.push((thread, until));
                }
            }
        }
        None
    }

    /// A thread goes on by one step, which makes this access.
    fn note_step(&mut self, thread: usize, access: Option<Access>) {
        let made = self.accesses.entry(thread).or_default();
        *made += 1;
        assert!(
            *made < ACCESSES_MAX,
            "thread {thread} waits for another one"
        );
        let is_over = match self.turns.front() {
            Some(&(of, Until::After(deed, word))) if of == thread => self.is(access, (deed, word)),
            _ => false,
        };
        if is_over {
            self.turns.pop_front();
        } else if let Some((of, Until::Accesses(left))) = self.turns.front_mut()
            && *of == thread
        {
            *left -= 1;
        }
    }
}

impl Turns {
    /// Turns in this order; then the threads one after the other, `given_up` last.
    pub(super) fn new<U: Copy + Into<Until>>(
        turns: &[(usize, U)],
        given_up: Option<usize>,
    ) -> Turns {
        let turns = turns
            .iter()
            .map(|&(thread, until)| (thread, until.into()))
            .collect();
        let state = State {
            turns,
            given_up,
            ..State::default()
        };
        Turns(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The words of the table that the turns are about.
    pub(super) fn are_about<K: FlowKey, G: Geometry>(&self, table: &LockfreeTable<K, G>) {
        let mut state = self.state();
        let names_words = |(_, until): &Turn| matches!(until, Until::Before(..) | Until::After(..));
        if state.turns.iter().any(names_words) {
            let words = table
                .words()
                .map(|(at, word)| (ptr::from_ref(at).addr(), word));
            state.words = words.collect();
        }
    }

    /// All threads are there.
    pub(super) fn start(&self) {
        self.state().started = true;
    }

    /// The thread that was given up goes on after all.
    pub(super) fn let_go(&self) {
        self.state().given_up = None;
    }

    /// Scheduling points that a thread came by so far.
    pub(super) fn accesses(&self, thread: usize) -> u64 {
        self.state().accesses.get(&thread).copied().unwrap_or(0)
    }

    /// A call of a thread is over that made so many accesses.
    pub(super) fn note_call(&self, thread: usize, accesses: u64) {
        let mut state = self.state();
        if matches!(state.turns.front(), Some((of, Until::Called)) if *of == thread) {
            state.turns.pop_front();
        }
        state.longest_call = state.longest_call.max(accesses);
    }

    pub(super) fn longest_call(&self) -> u64 {
        self.state().longest_call
    }

    /// Turns that are not what they say: the thread ended before it came there.
    pub(super) fn cut_short(&self) -> Vec<Turn> {
        self.state().cut_short.clone()
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
        watched::forget();
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
        let starting = (!state.started && can(MAIN)).then_some(MAIN);
        let next = starting.or_else(|| state.next(can));
        let given_up = state.given_up;
        let next = next.unwrap_or_else(|| {
            let order = |thread: usize| (Some(thread) == given_up, thread == MAIN, thread);
            let threads = runnable.iter().map(|task| usize::from(task.id()));
            threads
                .min_by_key(|thread| order(*thread))
                .expect("one can run")
        });
        let access = watched::take(next);
        if state.started {
            state.note_step(next, access);
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

impl<K: FlowKey, G: Geometry> LockfreeTable<K, G> {
    /// All words that threads share through the table itself.
    fn words(&self) -> impl Iterator<Item = (&AtomicU64, Word)> {
        let heads = self
            .index
            .heads
            .iter()
            .zip(self.index.ext.iter())
            .enumerate();
        let of_heads = heads.flat_map(|(chain, (head, link))| {
            let slots = head.slots.iter().map(move |slot| (slot, Word::Slot(chain)));
            [(&head.word, Word::Header(chain)), (link, Word::Link(chain))]
                .into_iter()
                .chain(slots)
        });
        let buckets = 0..self.index.overflow.len() as u32;
        let of_overflow = buckets.flat_map(|number| {
            let bucket = self.index.overflow.bucket(number);
            let slots = bucket.slots.iter().map(|slot| (slot, Word::OverflowSlot));
            std::iter::once((&bucket.word, Word::LinkBehind)).chain(slots)
        });
        let states = self.slab.entries().iter();
        let of_states = states.map(|entry| (entry.state_word(), Word::State));
        of_heads.chain(of_overflow).chain(of_states)
    }
}

//! Is there an order of these calls that explains all their answers?
//!
//! A history is linearizable if its steps can be put into one sequence, in which each answer is that of a plain map
//! and which keeps the order that was seen: a thread's own, and that of steps one of which had returned before the other was
//! called. The search tries, depth first, every step that may come next, and remembers the places it has been to: how far
//! each thread is, and the map. Programs of some ten calls a thread have some hundred such places.
//!
//! # Sources
//! Wing, Gong, *Testing and verifying concurrent objects* (1993); the memory of visited places is that of Lowe, *Testing
//! for linearizability* (2017).

use std::collections::HashSet;
use std::fmt::Write;

use super::calls::Uid;
use super::name::Name;

/// One atomic step, as the caller saw it. A call may be several: a confirm that clashes and then goes in by its
/// reply key has looked first and inserted afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// A lookup of a key, and whose it was.
    Look(Name, Option<Uid>),
    /// A confirm saw that this key was that connection's.
    Clash(Name, Uid),
    /// A confirm put a connection in by both keys.
    Insert(Uid, [Name; 2]),
    /// A confirm put a connection in by its reply key alone.
    InsertReply(Uid, Name),
    /// A removal of a connection, and whether it was this one that did it.
    Remove(Uid, bool),
    /// A removal that takes the keys out one after the other has begun: from here on others are told that the connection is
    /// gone, and each of its keys may be, from some moment on that nobody knows.
    Claim(Uid),
    /// That removal is over: no key is left.
    Gone(Uid),
}

/// A step with what had returned before it was called: so many steps of each thread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    pub(crate) step: Step,
    pub(crate) after: Vec<usize>,
}

/// Tuples of a history, each with its inverse: two keys.
pub(crate) const TUPLES: u16 = 3;
const KEYS: usize = 2 * TUPLES as usize;

/// One of them. The last is the first one's addresses and ports in another zone.
pub(crate) fn tuple_of(number: u16) -> Name {
    match number {
        IN_ZONE => Name {
            zone: 1,
            ..Name::udp(0)
        },
        number => Name::udp(number),
    }
}

const IN_ZONE: u16 = TUPLES - 1;

/// Whose each key is; 0 is nobody's.
pub(crate) type Map = [Uid; KEYS];

/// Set in the map where the owner is being removed: the key may be gone already. That is found out by the first step which
/// does not find it; the latest moment explains most.
const CLAIMED: Uid = 1 << 31;

fn index(name: Name) -> usize {
    let number = if name.zone == 0 { name.number } else { IN_ZONE };
    debug_assert!(
        name == Name {
            inverse: name.inverse,
            ..tuple_of(number)
        }
    );
    2 * usize::from(number) + usize::from(name.inverse)
}

/// The map after a step with that answer; `None` if the answer is wrong.
pub(crate) fn apply(map: &Map, step: Step) -> Option<Map> {
    let mut next = *map;
    let may_be_free = |name: Name| map[index(name)] == 0 || map[index(name)] & CLAIMED != 0;
    let right = match step {
        Step::Look(name, None) => {
            next[index(name)] = 0;
            may_be_free(name)
        }
        Step::Look(name, Some(uid)) | Step::Clash(name, uid) => map[index(name)] & !CLAIMED == uid,
        Step::Insert(uid, keys) => keys.iter().all(|&name| {
            next[index(name)] = uid;
            may_be_free(name)
        }),
        Step::InsertReply(uid, name) => {
            next[index(name)] = uid;
            may_be_free(name)
        }
        Step::Remove(uid, removed) => {
            give(&mut next, uid, 0);
            removed == map.contains(&uid)
        }
        Step::Claim(uid) => {
            give(&mut next, uid, uid | CLAIMED);
            map.contains(&uid)
        }
        Step::Gone(uid) => {
            give(&mut next, uid | CLAIMED, 0);
            true
        }
    };
    right.then_some(next)
}

/// All keys of one owner to another.
fn give(map: &mut Map, from: Uid, to: Uid) {
    for owner in map.iter_mut().filter(|owner| **owner == from) {
        *owner = to;
    }
}

/// Where no order explains a history, the longest beginning of one.
#[derive(Debug, Default)]
pub(crate) struct Unexplained {
    order: Vec<(usize, Step)>,
}

/// Looks for an order of the threads' steps, from this map on.
pub(crate) fn explain(map: Map, threads: &[Vec<Event>]) -> Result<(), Unexplained> {
    let mut search = Search {
        threads,
        at: vec![0; threads.len()],
        seen: HashSet::new(),
        order: Vec::new(),
        furthest: Vec::new(),
    };
    if search.go_on(map) {
        return Ok(());
    }
    Err(Unexplained {
        order: search.furthest,
    })
}

struct Search<'a> {
    threads: &'a [Vec<Event>],
    at: Vec<usize>,
    seen: HashSet<(Vec<usize>, Map)>,
    order: Vec<(usize, Step)>,
    furthest: Vec<(usize, Step)>,
}

impl Search<'_> {
    fn go_on(&mut self, map: Map) -> bool {
        if self.order.len() > self.furthest.len() {
            self.furthest.clone_from(&self.order);
        }
        let mut ends = self.threads.iter().zip(&self.at);
        if ends.all(|(thread, at)| thread.len() == *at) {
            return true;
        }
        if !self.seen.insert((self.at.clone(), map)) {
            return false;
        }
        for thread in 0..self.threads.len() {
            let Some(event) = self.threads[thread].get(self.at[thread]) else {
                continue;
            };
            let may_come = event
                .after
                .iter()
                .zip(&self.at)
                .all(|(after, at)| at >= after);
            if !may_come {
                continue;
            }
            let Some(next) = apply(&map, event.step) else {
                continue;
            };
            self.at[thread] += 1;
            self.order.push((thread, event.step));
            let explained = self.go_on(next);
            self.order.pop();
            self.at[thread] -= 1;
            if explained {
                return true;
            }
        }
        false
    }
}

/// A history in words, with how far an explanation got.
pub(crate) fn describe(map: Map, threads: &[Vec<Event>], unexplained: &Unexplained) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "  at first:");
    for (at, uid) in map.iter().enumerate().filter(|(_, uid)| **uid != 0) {
        let name = Name {
            inverse: at % 2 == 1,
            ..tuple_of((at / 2) as u16)
        };
        let _ = writeln!(text, "    {name:?} is connection {uid}'s");
    }
    for (number, thread) in threads.iter().enumerate() {
        let _ = writeln!(text, "  thread {number}:");
        for (at, event) in thread.iter().enumerate() {
            let _ = write!(text, "    {at:2} {}", words(event.step));
            let others = event.after.iter().enumerate();
            for (other, after) in others.filter(|(other, after)| *other != number && **after > 0) {
                let _ = write!(text, ", after thread {other}'s {}", after - 1);
            }
            text.push('\n');
        }
    }
    let _ = writeln!(text, "  the longest beginning of an order that fits:");
    for (thread, step) in &unexplained.order {
        let _ = writeln!(text, "    thread {thread}: {}", words(*step));
    }
    text
}

fn words(step: Step) -> String {
    match step {
        Step::Look(name, None) => format!("looked for {name:?}: nothing"),
        Step::Look(name, Some(uid)) => format!("looked for {name:?}: connection {uid}"),
        Step::Clash(name, uid) => format!("confirm: {name:?} is connection {uid}'s"),
        Step::Insert(uid, [original, reply]) => {
            format!("confirmed connection {uid} by {original:?} and {reply:?}")
        }
        Step::InsertReply(uid, name) => {
            format!("confirmed connection {uid} by its reply key {name:?} alone")
        }
        Step::Remove(uid, true) => format!("removed connection {uid}"),
        Step::Remove(uid, false) => format!("removed connection {uid}: it was gone"),
        Step::Claim(uid) => format!("removed connection {uid}: began"),
        Step::Gone(uid) => format!("removed connection {uid}: ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Name = Name {
        tcp: false,
        number: 0,
        inverse: false,
        zone: 0,
    };

    fn event(step: Step, after: [usize; 2]) -> Event {
        Event {
            step,
            after: after.to_vec(),
        }
    }

    fn insert() -> Step {
        Step::Insert(1, [A, A.answer()])
    }

    #[test]
    fn a_lookup_beside_an_insert_may_find_it_or_not() {
        for found in [None, Some(1)] {
            let threads = [
                vec![event(insert(), [0, 0])],
                vec![event(Step::Look(A, found), [0, 0])],
            ];
            assert!(explain([0; KEYS], &threads).is_ok());
        }
    }

    #[test]
    fn one_key_without_the_other_has_no_explanation() {
        let threads = [
            vec![event(insert(), [0, 0])],
            vec![
                event(Step::Look(A, Some(1)), [0, 0]),
                event(Step::Look(A.answer(), None), [0, 1]),
            ],
        ];
        let unexplained = explain([0; KEYS], &threads).unwrap_err();
        assert_eq!(unexplained.order.len(), 2);
        let text = describe([0; KEYS], &threads, &unexplained);
        assert!(text.contains("looked for udp0': nothing"), "{text}");
    }

    #[test]
    fn while_a_connection_goes_key_by_key_either_may_be_there_but_none_comes_back() {
        let map = apply(&[0; KEYS], insert()).unwrap();
        let explained = |answers: [Step; 3]| {
            let removal = [Step::Claim(1), Step::Gone(1)].map(|step| event(step, [0, 0]));
            let looks = answers.map(|step| event(step, [0, 0]));
            explain(map, &[removal.to_vec(), looks.to_vec()]).is_ok()
        };
        let (here, gone) = (Step::Look(A, Some(1)), Step::Look(A, None));
        assert!(explained([gone, Step::Look(A.answer(), Some(1)), gone]));
        assert!(explained([Step::Remove(1, false), here, here]));
        assert!(!explained([here, gone, here]));
        let in_one_step = [
            vec![event(Step::Remove(1, true), [0, 0])],
            vec![event(Step::Remove(1, false), [0, 0]), event(here, [0, 1])],
        ];
        assert!(explain(map, &in_one_step).is_err());
    }

    #[test]
    fn what_had_returned_must_come_first() {
        let threads = [
            vec![event(insert(), [0, 0])],
            vec![event(Step::Look(A, None), [1, 0])],
        ];
        assert!(explain([0; KEYS], &threads).is_err());
    }
}

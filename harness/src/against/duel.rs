//! Samples of two programs, in turns: launches of both, and pairs of samples within each launch.

use std::sync::atomic::{AtomicBool, Ordering};

use super::protocol::{Ready, Subject};
use super::side::{Process, Side};
use crate::error::Error;

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// Fresh processes of each side.
    pub launches: usize,
    /// Pairs of samples of each launch.
    pub pairs: usize,
}

/// A sample of each side, taken one right after the other.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pair {
    /// Nanoseconds an operation.
    pub base: f64,
    /// The same of the other side.
    pub new: f64,
    /// Others used the machine during one of them.
    pub disturbed: bool,
}

/// What two programs came to.
#[derive(Clone, Debug)]
pub struct Duel {
    /// What was measured; `None` if it was ended before anything was.
    pub subject: Option<Subject>,
    /// The pairs of each launch; no launch is empty.
    pub launches: Vec<Vec<Pair>>,
    /// The commits of base and new, as they say themselves.
    pub revisions: [Option<String>; 2],
    /// Every worker of every process was pinned.
    pub pinned: bool,
    /// Ended early, by Ctrl-C.
    pub interrupted: bool,
}

/// Carries it out. `words` are what both sides' programs are started with in that launch, counted from 0; `step` is called
/// after each pair.
///
/// # Errors
/// [`Error::Environment`] when a program cannot be started, fails, or measures or is built otherwise than the other.
pub fn duel(
    [base, new]: [&Side; 2],
    schedule: Schedule,
    words: impl Fn(usize) -> Vec<String>,
    interrupted: &AtomicBool,
    mut step: impl FnMut(),
) -> Result<Duel, Error> {
    let mut duel = Duel {
        subject: None,
        launches: Vec::new(),
        revisions: [None, None],
        pinned: true,
        interrupted: false,
    };
    // Relaxed: a flag that stands for itself.
    let stopped = || interrupted.load(Ordering::Relaxed);
    for launch in 0..schedule.launches {
        if stopped() {
            break;
        }
        let Some(mut both) = start([base, new], launch, &words(launch), &stopped)? else {
            break;
        };
        duel.note(&both.ready);
        let mut pairs = Vec::with_capacity(schedule.pairs);
        for number in 0..schedule.pairs {
            // A B, B A, A B …: what drifts steadily hits both alike. The next launch begins the other way round.
            match both.pair((launch + number) % 2 == 1)? {
                Some(pair) if !stopped() => pairs.push(pair),
                _ => break,
            }
            step();
        }
        if !pairs.is_empty() {
            duel.launches.push(pairs);
        }
    }
    duel.interrupted = stopped();
    Ok(duel)
}

impl Duel {
    fn note(&mut self, [base, new]: &[Ready; 2]) {
        self.subject = Some(base.subject.clone());
        self.revisions = [base.revision.clone(), new.revision.clone()];
        self.pinned &= base.subject.pinned && new.subject.pinned;
    }
}

/// Both sides of a launch.
struct Both {
    processes: [Process; 2],
    ready: [Ready; 2],
}

/// Starts both at once, so that they fill their tables side by side; the first one changes from launch to launch, as it may get
/// other pages. `None` when Ctrl-C ended one of them.
fn start(
    sides: [&Side; 2],
    launch: usize,
    words: &[String],
    stopped: &impl Fn() -> bool,
) -> Result<Option<Both>, Error> {
    let mut processes = match launch % 2 {
        0 => {
            let base = sides[0].start(words)?;
            [base, sides[1].start(words)?]
        }
        _ => {
            let new = sides[1].start(words)?;
            [sides[0].start(words)?, new]
        }
    };
    let [base, new] = &mut processes;
    let ready = match (base.ready(), new.ready()) {
        (Ok(base), Ok(new)) => [base, new],
        // Ctrl-C reaches all processes of a terminal.
        (Err(_), _) | (_, Err(_)) if stopped() => return Ok(None),
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    check_alike(sides, &ready)?;
    Ok(Some(Both { processes, ready }))
}

/// Both measure the same, and are built alike.
fn check_alike(sides: [&Side; 2], [base, new]: &[Ready; 2]) -> Result<(), Error> {
    let differ = |what: &str, was: String, is: String, remedy: &str| Error::Environment {
        problem: format!(
            "{} and {} differ in {what}: {was} and {is}",
            sides[0].name, sides[1].name
        ),
        remedy: remedy.to_owned(),
    };
    let subject = |ready: &Ready| {
        let subject = Subject {
            pinned: true,
            ..ready.subject.clone()
        };
        format!("{subject:?}")
    };
    if subject(base) != subject(new) {
        let remedy = "say with flags what is to be measured";
        return Err(differ(
            "what they measure",
            subject(base),
            subject(new),
            remedy,
        ));
    }
    let unknown = || "unknown".to_owned();
    for (what, was, is) in [
        ("opt-level", &base.build.opt_level, &new.build.opt_level),
        ("rustc", &base.build.rustc, &new.build.rustc),
        (
            "target features",
            &base.build.target_features,
            &new.build.target_features,
        ),
    ] {
        if was != is {
            let [was, is] = [was, is].map(|value| value.clone().unwrap_or_else(unknown));
            let remedy =
                "build this program anew, by `cargo build --release` with the flags that it had";
            return Err(differ(what, was, is, remedy));
        }
    }
    Ok(())
}

impl Both {
    /// A sample of each; the new side's first if `new_first`. `None` when Ctrl-C ended one of them.
    fn pair(&mut self, new_first: bool) -> Result<Option<Pair>, Error> {
        let [base, new] = &mut self.processes;
        let (base, new) = if new_first {
            let new = new.sample()?;
            (base.sample()?, new)
        } else {
            let base = base.sample()?;
            (base, new.sample()?)
        };
        Ok(base.zip(new).map(|(base, new)| Pair {
            base: base.ns_per_op,
            new: new.ns_per_op,
            disturbed: base.disturbed || new.disturbed,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A shell script that says it is ready and answers with the numbers it is told, one a request, as nanoseconds. It notes
    /// each request's order in a file that both sides share.
    fn fake(folder: &Path, name: &str, ready: &str, answer: &str) -> Side {
        let script = folder.join(name);
        let text = format!(
            "echo '{ready}'\nwhile read -r request; do\n  echo {name} >> {order}\n  {answer}\ndone\n",
            order = folder.join("order").display()
        );
        std::fs::write(&script, text).expect("written");
        Side {
            name: name.to_owned(),
            program: "/bin/sh".into(),
            more: vec![script.display().to_string()],
        }
    }

    fn ready(opt_level: &str) -> String {
        format!(
            r#"{{"on_demand":1,"workload":"w","table":"t","workers":1,"batch":1,"connections":1,"l4":"tcp","pinned":true,
            "revision":"abc","build":{{"rustc":"r","opt_level":"{opt_level}","target_features":"f"}}}}"#
        )
        .replace('\n', "")
    }

    fn answer(ns: f64) -> String {
        format!(r#"echo '{{"ns_per_op":{ns},"operations":10,"lost":0,"disturbed":false}}'"#)
    }

    fn fight(sides: [&Side; 2], launches: usize, pairs: usize) -> Result<Duel, Error> {
        let never = AtomicBool::new(false);
        let schedule = Schedule { launches, pairs };
        // The words come first, and a shell takes its script from them: none here.
        duel(sides, schedule, |_| Vec::new(), &never, || ())
    }

    #[test]
    fn samples_are_taken_in_turns_and_the_next_launch_begins_the_other_way_round() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = fake(folder.path(), "A", &ready("3"), &answer(10.0));
        let new = fake(folder.path(), "B", &ready("3"), &answer(11.0));
        let duel = fight([&base, &new], 2, 3).expect("both answer");
        let order = std::fs::read_to_string(folder.path().join("order")).expect("noted");
        let order: String = order.split_whitespace().collect();
        assert_eq!(order, "ABBAABBAABBA");
        assert_eq!(duel.launches.len(), 2);
        let pair = Pair {
            base: 10.0,
            new: 11.0,
            disturbed: false,
        };
        assert!(duel.launches.iter().flatten().all(|p| *p == pair));
        assert_eq!(duel.launches.concat().len(), 6);
        assert!(duel.pinned && !duel.interrupted);
    }

    #[test]
    fn a_program_of_another_build_is_refused_with_what_differs() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = fake(folder.path(), "A", &ready("3"), &answer(10.0));
        let new = fake(folder.path(), "B", &ready("1"), &answer(10.0));
        let said = fight([&base, &new], 1, 1).unwrap_err().to_string();
        assert!(
            said.contains("opt-level") && said.contains("--release"),
            "{said}"
        );
    }

    #[test]
    fn a_program_that_does_not_know_how_to_be_asked_is_told_from_one_that_fails() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = fake(folder.path(), "A", &ready("3"), &answer(10.0));
        let mut older = fake(folder.path(), "B", "", "");
        let script = folder.path().join("B");
        std::fs::write(
            &script,
            "echo \"unexpected argument '--on-demand'\" >&2; exit 2",
        )
        .unwrap();
        let said = fight([&older, &base], 1, 1).unwrap_err().to_string();
        assert!(said.contains("does not take samples on demand"), "{said}");
        assert!(said.contains("newer revision"), "{said}");
        older.more[0] = folder.path().join("C").display().to_string();
        std::fs::write(&older.more[0], "echo 'no such table' >&2; exit 2").unwrap();
        let said = fight([&older, &base], 1, 1).unwrap_err().to_string();
        assert!(
            said.contains("no such table") && !said.contains("newer"),
            "{said}"
        );
        let panics = fake(
            folder.path(),
            "D",
            &ready("3"),
            "echo 'wrong answer' >&2; exit 101",
        );
        let said = fight([&base, &panics], 1, 1).unwrap_err().to_string();
        assert!(said.contains("wrong answer"), "{said}");
    }

    #[test]
    fn books_that_do_not_balance_end_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = fake(folder.path(), "A", &ready("3"), &answer(10.0));
        let lost = answer(10.0).replace(r#""lost":0"#, r#""lost":3"#);
        let new = fake(folder.path(), "B", &ready("3"), &lost);
        let said = fight([&base, &new], 1, 1).unwrap_err().to_string();
        assert!(said.contains('3') && said.contains("books"), "{said}");
    }

    #[test]
    fn ctrl_c_keeps_the_launches_that_were_measured() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = fake(folder.path(), "A", &ready("3"), &answer(10.0));
        let new = fake(folder.path(), "B", &ready("3"), &answer(10.0));
        let flag = AtomicBool::new(false);
        let schedule = Schedule {
            launches: 3,
            pairs: 4,
        };
        let mut left = 6;
        let duel = duel(
            [&base, &new],
            schedule,
            |_| Vec::new(),
            &flag,
            || {
                left -= 1;
                // Relaxed: one thread.
                flag.store(left == 0, Ordering::Relaxed);
            },
        )
        .expect("both answer");
        assert!(duel.interrupted);
        assert_eq!(
            duel.launches.iter().map(Vec::len).collect::<Vec<_>>(),
            [4, 2]
        );
    }
}

//! The comparison itself, measured: how often equals give an alarm, and how often a slow-down that is known is found.
//!
//! Each comparison is one of `run --against`, by the same code, but that both sides are this very program. For the slow-down
//! one side does eleven batches where it counts ten. What is done is kept in a file, a line a comparison, so that it may
//! be ended at any time and goes on where it was.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::duel::Duel;
use crate::compare::{Compared, Verdict};
use crate::error::Error;

/// Of equals, at most this share may give an alarm: 4 of 200.
pub const ALARMS_AT_MOST: f64 = 0.02;
/// Of slow-downs by a tenth, at least this share must be found: 45 of 50.
pub const FOUND_AT_LEAST: f64 = 0.9;

/// What both sides are.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The same program twice: any alarm is a false one.
    Equals,
    /// One of them does eleven batches where it counts ten.
    Slowed,
}

/// What all comparisons of a file have in common.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Settings {
    /// Name of the workload.
    pub workload: String,
    /// Name of the table.
    pub table: String,
    /// Workers.
    pub workers: usize,
    /// Keys or connections together.
    pub batch: usize,
    /// Connections of the table, or flows of a round.
    pub connections: usize,
    /// Launches of each side.
    pub launches: usize,
    /// Pairs of samples of each launch.
    pub pairs: usize,
    /// Time of a sample.
    pub sample_ms: f64,
    /// What is still well.
    pub threshold: f64,
    /// The tables' prefetch hint.
    pub prefetch: String,
    /// The commit that the program was built from.
    pub revision: Option<String>,
    /// The processor.
    pub cpu: Option<String>,
}

/// A comparison that was made.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Done {
    /// What both sides were.
    pub kind: Kind,
    /// NEW ÷ BASE, as it was estimated.
    pub ratio: f64,
    /// Lower end of its interval.
    pub ci_low: f64,
    /// Upper end.
    pub ci_high: f64,
    /// What was said.
    pub verdict: Verdict,
    /// Pairs that were taken while others used the machine.
    pub disturbed: usize,
    /// The ratio of each pair, by launch: what a better way of judging could be tried on.
    pub ratios: Vec<Vec<f64>>,
}

impl Done {
    /// Of a duel and what was made of it.
    #[must_use]
    pub fn of(kind: Kind, duel: &Duel, compared: &Compared) -> Done {
        // Five digits are far beyond what a sample can tell.
        let short = |ratio: f64| (ratio * 1e5).round() / 1e5;
        let launches = duel.launches.iter();
        let ratios = launches.map(|pairs| pairs.iter().map(|p| short(p.new / p.base)).collect());
        Done {
            kind,
            ratio: compared.ratio,
            ci_low: compared.ci_low,
            ci_high: compared.ci_high,
            verdict: compared.verdict,
            disturbed: compared.disturbed_samples[0],
            ratios: ratios.collect(),
        }
    }
}

/// What came of the comparisons of one kind.
#[derive(Serialize, Clone, Copy, PartialEq, Debug)]
pub struct Tally {
    /// What both sides were.
    pub kind: Kind,
    /// Comparisons that are wanted.
    pub wanted: usize,
    /// Comparisons made.
    pub done: usize,
    /// Of them said to be worse: false alarms among equals, what is looked for among the slowed.
    pub worse: usize,
    /// Said to be better, which is wrong for both.
    pub better: usize,
    /// Said to be the same.
    pub same: usize,
    /// Nothing said.
    pub unsure: usize,
    /// How many of the wanted ones may, or must, be said to be worse.
    pub bound: usize,
    /// The mean of the ratios; null if there are none.
    pub ratio_mean: Option<f64>,
    /// Standard deviation of their logarithms; null if there are fewer than two.
    pub ratio_sd: Option<f64>,
}

impl Tally {
    /// Of one kind's.
    #[must_use]
    pub fn of(kind: Kind, wanted: usize, all: &[Done]) -> Tally {
        let done: Vec<&Done> = all.iter().filter(|done| done.kind == kind).collect();
        let said = |verdict| done.iter().filter(|done| done.verdict == verdict).count();
        let logarithms: Vec<f64> = done.iter().map(|done| done.ratio.ln()).collect();
        let count = logarithms.len() as f64;
        let mean = logarithms.iter().sum::<f64>() / count;
        let squares: f64 = logarithms.iter().map(|l| (l - mean).powi(2)).sum();
        Tally {
            kind,
            wanted,
            done: done.len(),
            worse: said(Verdict::Worse),
            better: said(Verdict::Better),
            same: said(Verdict::Same),
            unsure: said(Verdict::Unsure),
            bound: match kind {
                Kind::Equals => (wanted as f64 * ALARMS_AT_MOST) as usize,
                Kind::Slowed => (wanted as f64 * FOUND_AT_LEAST).ceil() as usize,
            },
            ratio_mean: (!done.is_empty()).then(|| mean.exp()),
            ratio_sd: (done.len() > 1).then(|| (squares / (count - 1.0)).sqrt()),
        }
    }

    /// Whether the bound cannot be kept any more, whatever is still to come.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        match self.kind {
            Kind::Equals => self.worse > self.bound,
            Kind::Slowed => self.done - self.worse > self.wanted - self.bound,
        }
    }

    /// Nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.done >= self.wanted
    }
}

/// What is to be compared next, so that both kinds come forward alike; `None` when all is done.
#[must_use]
pub fn next(equals: &Tally, slowed: &Tally) -> Option<Kind> {
    match (equals.is_complete(), slowed.is_complete()) {
        (true, true) => None,
        (true, false) => Some(Kind::Slowed),
        (false, true) => Some(Kind::Equals),
        (false, false) if slowed.done * equals.wanted < equals.done * slowed.wanted => {
            Some(Kind::Slowed)
        }
        (false, false) => Some(Kind::Equals),
    }
}

/// The file that keeps what was done: a line of settings, then a line a comparison.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    /// What was done so far.
    pub done: Vec<Done>,
    file: File,
}

/// The settings of a file, if it is there and has any.
///
/// # Errors
/// [`Error::File`] when it cannot be read, [`Error::Input`] when it holds something else.
pub fn settings_of(path: &Path) -> Result<Option<Settings>, Error> {
    Ok(read(path)?.map(|(settings, _)| settings))
}

impl State {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read or written; [`Error::Input`] when it holds something else, or comparisons with other
    /// settings.
    pub fn open(path: &Path, settings: &Settings) -> Result<State, Error> {
        let before = read(path)?;
        if let Some((old, _)) = &before {
            check_same(path, old, settings)?;
        }
        let mut state = State {
            path: path.to_owned(),
            file: OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(Error::file("open", path))?,
            done: Vec::new(),
        };
        match before {
            Some((_, done)) => {
                state.done = done;
                // A line that was not finished is behind us: begin a new one.
                state.append("")?;
            }
            None => state.append(&json(settings))?,
        }
        Ok(state)
    }

    /// Adds a comparison, and has it on the disk before it returns.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be written.
    pub fn add(&mut self, done: Done) -> Result<(), Error> {
        self.append(&json(&done))?;
        self.done.push(done);
        Ok(())
    }

    fn append(&mut self, line: &str) -> Result<(), Error> {
        // One write a line: another process's lines are not mixed into it.
        self.file
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(Error::file("write", &self.path))
    }
}

fn read(path: &Path) -> Result<Option<(Settings, Vec<Done>)>, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(problem) => return Err(Error::file("read", path)(problem)),
    };
    let mut lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty());
    let Some((_, first)) = lines.next() else {
        return Ok(None);
    };
    let bad = |number: usize, problem: String| Error::Input {
        place: format!("{}:{}", path.display(), number + 1),
        problem: format!("this is no state of check-against: {problem}"),
        remedy: "name a file that check-against wrote, or one that is not there yet".to_owned(),
    };
    let settings = serde_json::from_str(first).map_err(|problem| bad(0, problem.to_string()))?;
    let mut done = Vec::new();
    for (number, line) in lines {
        match serde_json::from_str(line) {
            Ok(one) => done.push(one),
            // Ended in the middle of writing: that comparison is made again.
            Err(problem) if problem.is_eof() => {}
            Err(problem) => return Err(bad(number, problem.to_string())),
        }
    }
    Ok(Some((settings, done)))
}

fn check_same(path: &Path, old: &Settings, new: &Settings) -> Result<(), Error> {
    let [old, new] = [old, new].map(|settings| serde_json::to_value(settings).unwrap_or_default());
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
        return Ok(());
    };
    match old
        .iter()
        .find(|(name, value)| new.get(*name) != Some(value))
    {
        None => Ok(()),
        Some((name, value)) => Err(Error::Input {
            place: path.display().to_string(),
            problem: format!(
                "its comparisons were made with {name} {value}, and these would be with {}",
                new.get(name).unwrap_or_default()
            ),
            remedy: "go on with the same settings, or name another file".to_owned(),
        }),
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("numbers and names")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            workload: "lookup-hit".to_owned(),
            table: "lockfree".to_owned(),
            workers: 2,
            batch: 64,
            connections: 1000,
            launches: 5,
            pairs: 15,
            sample_ms: 30.0,
            threshold: 0.03,
            prefetch: "t0".to_owned(),
            revision: Some("abc".to_owned()),
            cpu: None,
        }
    }

    fn done(kind: Kind, verdict: Verdict) -> Done {
        Done {
            kind,
            ratio: 1.0,
            ci_low: 0.9,
            ci_high: 1.1,
            verdict,
            disturbed: 0,
            ratios: vec![vec![1.0, 1.1]],
        }
    }

    #[test]
    fn what_was_done_is_there_again_also_after_a_line_that_was_not_finished() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        assert_eq!(settings_of(&path).expect("none yet"), None);
        let mut state = State::open(&path, &settings()).expect("made");
        let first = done(Kind::Equals, Verdict::Same);
        state.add(first.clone()).expect("written");
        state.file.write_all(b"{\"kind\":\"equ").expect("written");
        let mut again = State::open(&path, &settings()).expect("opened");
        assert_eq!(again.done, std::slice::from_ref(&first));
        let second = done(Kind::Slowed, Verdict::Worse);
        again.add(second.clone()).expect("written");
        let last = State::open(&path, &settings()).expect("opened");
        assert_eq!(last.done, [first, second]);
        assert_eq!(settings_of(&path).expect("read"), Some(settings()));
    }

    #[test]
    fn other_settings_and_other_files_are_refused_with_what_differs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        State::open(&path, &settings()).expect("made");
        let other = Settings {
            pairs: 10,
            ..settings()
        };
        let said = State::open(&path, &other).unwrap_err().to_string();
        assert!(said.contains("pairs 15") && said.contains("10"), "{said}");
        std::fs::write(&path, "hello\n").expect("written");
        let said = State::open(&path, &settings()).unwrap_err().to_string();
        assert!(said.contains("state:1"), "{said}");
    }

    #[test]
    fn both_kinds_come_forward_alike() {
        let mut all = Vec::new();
        let tally = |all: &[Done]| {
            [(Kind::Equals, 8), (Kind::Slowed, 2)].map(|(k, n)| Tally::of(k, n, all))
        };
        let kind = |all: &[Done]| {
            let [equals, slowed] = tally(all);
            next(&equals, &slowed)
        };
        while let Some(kind) = kind(&all) {
            all.push(done(kind, Verdict::Same));
        }
        let kinds: Vec<char> = all
            .iter()
            .map(|d| if d.kind == Kind::Equals { 'e' } else { 's' })
            .collect();
        assert_eq!(kinds.iter().collect::<String>(), "eseeeeseee");
    }

    #[test]
    fn it_fails_as_soon_as_the_bound_cannot_be_kept() {
        let equals = |alarms: usize| {
            let mut all = vec![done(Kind::Equals, Verdict::Same); 10];
            all.extend(vec![done(Kind::Equals, Verdict::Worse); alarms]);
            Tally::of(Kind::Equals, 200, &all)
        };
        assert_eq!(equals(4).bound, 4);
        assert!(!equals(4).has_failed() && equals(5).has_failed());
        let slowed = |missed: usize| {
            let mut all = vec![done(Kind::Slowed, Verdict::Worse); 10];
            all.extend(vec![done(Kind::Slowed, Verdict::Unsure); missed]);
            Tally::of(Kind::Slowed, 50, &all)
        };
        assert_eq!(slowed(5).bound, 45);
        assert!(!slowed(5).has_failed() && slowed(6).has_failed());
        assert!(!slowed(5).is_complete());
        let none = Tally::of(Kind::Slowed, 50, &[]);
        assert_eq!((none.ratio_mean, none.ratio_sd), (None, None));
    }
}

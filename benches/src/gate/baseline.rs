//! Committed counts, by what they were counted with, and how others compare.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{LIMIT, RENEW, counting};

/// What a count depends on beside the code.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Toolchain {
    /// Version of rustc.
    pub rustc: String,
    /// Target triple.
    pub target: String,
    /// Version of valgrind.
    pub valgrind: String,
    /// Flags given to rustc beside the profile's.
    pub rustflags: String,
}

impl Toolchain {
    /// What this program was built with, and the valgrind at hand.
    ///
    /// # Errors
    /// How to get valgrind, where there is none.
    pub fn here() -> Result<Toolchain, String> {
        Ok(Toolchain {
            rustc: env!("CLASHTRACK_RUSTC").to_owned(),
            target: env!("CLASHTRACK_TARGET").to_owned(),
            valgrind: counting::valgrind_version()?,
            rustflags: env!("CLASHTRACK_RUSTFLAGS").to_owned(),
        })
    }

    fn file_name(&self) -> String {
        format!("{}-{}-{}.json", self.rustc, self.target, self.valgrind)
    }

    fn path(&self) -> PathBuf {
        folder().join(self.file_name())
    }

    /// Why nothing is compared, and what to do.
    #[must_use]
    pub fn no_baseline(&self) -> String {
        let mut others: Vec<String> = std::fs::read_dir(folder())
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".json"))
            .collect();
        others.sort();
        format!(
            "there is no baseline of rustc {}, {}, valgrind {}; counts of another combination are not compared \
             (there are: {}). On the code to compare with, make one:\n  {RENEW}",
            self.rustc,
            self.target,
            self.valgrind,
            if others.is_empty() {
                "none".to_owned()
            } else {
                others.join(", ")
            }
        )
    }
}

/// Where baselines are committed.
fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/baselines"))
}

/// What callgrind counted of one subject.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count {
    /// Instructions.
    pub instructions: u64,
    /// Operations that they were spent on.
    pub operations: u64,
}

impl Count {
    /// Instructions an operation.
    #[must_use]
    pub fn each(self) -> f64 {
        self.instructions as f64 / self.operations as f64
    }
}

/// Counts by name of subject.
pub type Counts = BTreeMap<String, Count>;

/// The counts of a toolchain.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Baseline {
    /// What they depend on.
    #[serde(flatten)]
    pub toolchain: Toolchain,
    /// The counts.
    pub counts: Counts,
}

/// How a count compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Within the limit.
    Same,
    /// More instructions.
    Slower,
    /// Fewer; fails too, or the next change could spend what this one saved.
    Faster,
    /// Not in the baseline.
    New,
    /// In the baseline only.
    Gone,
}

impl Verdict {
    /// Does it fail the gate?
    #[must_use]
    pub fn fails(self) -> bool {
        self != Verdict::Same
    }

    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Same => "same",
            Verdict::Slower => "SLOWER",
            Verdict::Faster => "FASTER",
            Verdict::New => "NEW",
            Verdict::Gone => "GONE",
        }
    }
}

/// One subject, before and now.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// The subject.
    pub name: String,
    /// In the baseline.
    pub before: Option<Count>,
    /// Counted now.
    pub now: Option<Count>,
    /// What that means.
    pub verdict: Verdict,
}

impl Row {
    fn new(name: &str, before: Option<Count>, now: Option<Count>) -> Row {
        let mut row = Row {
            name: name.to_owned(),
            before,
            now,
            verdict: Verdict::Same,
        };
        row.verdict = match (before, now, row.change()) {
            (None, _, _) => Verdict::New,
            (_, None, _) => Verdict::Gone,
            (_, _, Some(change)) if change > LIMIT => Verdict::Slower,
            (_, _, Some(change)) if change < -LIMIT => Verdict::Faster,
            _ => Verdict::Same,
        };
        row
    }

    /// Share by which it grew.
    #[must_use]
    pub fn change(&self) -> Option<f64> {
        Some(self.now?.each() / self.before?.each() - 1.0)
    }
}

impl Baseline {
    /// Counts just taken.
    #[must_use]
    pub fn new(toolchain: Toolchain, counts: Counts) -> Baseline {
        Baseline { toolchain, counts }
    }

    /// The committed one of this toolchain, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, or was counted with other flags of rustc.
    pub fn read(toolchain: &Toolchain) -> Result<Option<Baseline>, String> {
        let path = toolchain.path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let baseline: Baseline = serde_json::from_str(&text)
            .map_err(|error| format!("{}: {error}; make it anew:\n  {RENEW}", path.display()))?;
        if baseline.toolchain.rustflags == toolchain.rustflags {
            return Ok(Some(baseline));
        }
        Err(format!(
            "{} was counted with RUSTFLAGS {:?}, this build has {:?}: build with the same flags",
            path.display(),
            baseline.toolchain.rustflags,
            toolchain.rustflags
        ))
    }

    /// Writes it to where it is committed, and says where that is.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self) -> Result<PathBuf, String> {
        let path = self.toolchain.path();
        let mut text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        text.push('\n');
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// Every subject that was counted, and where all were counted also those that were not found any more.
    #[must_use]
    pub fn judge(&self, counts: &Counts, all: bool) -> Vec<Row> {
        let gone = self
            .counts
            .keys()
            .filter(|name| all && !counts.contains_key(*name));
        let mut names: Vec<&String> = counts.keys().chain(gone).collect();
        names.sort();
        let row = |name: &String| {
            let at = |counts: &Counts| counts.get(name).copied();
            Row::new(name, at(&self.counts), at(counts))
        };
        names.into_iter().map(row).collect()
    }

    /// What renewing `old` changes: the rows with any difference.
    #[must_use]
    pub fn changes_since(&self, old: Option<&Baseline>) -> Vec<Row> {
        let nothing = Baseline::new(self.toolchain.clone(), Counts::new());
        let rows = old.unwrap_or(&nothing).judge(&self.counts, true);
        rows.into_iter()
            .filter(|row| row.before != row.now)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, u64)]) -> Counts {
        let count = |&(name, instructions): &(&str, u64)| {
            let count = Count {
                instructions,
                operations: 100,
            };
            (name.to_owned(), count)
        };
        list.iter().map(count).collect()
    }

    fn baseline(list: &[(&str, u64)]) -> Baseline {
        let toolchain = Toolchain {
            rustc: "1.88.0".to_owned(),
            target: "x86_64-unknown-linux-gnu".to_owned(),
            valgrind: "3.19.0".to_owned(),
            rustflags: String::new(),
        };
        Baseline::new(toolchain, counts(list))
    }

    fn verdicts(rows: &[Row]) -> Vec<(&str, Verdict)> {
        rows.iter().map(|r| (r.name.as_str(), r.verdict)).collect()
    }

    #[test]
    fn more_than_two_percent_either_way_fails_and_less_does_not() {
        let known = baseline(&[("a", 1000), ("b", 1000), ("c", 1000), ("d", 1000)]);
        let now = counts(&[("a", 1019), ("b", 1021), ("c", 979), ("d", 981)]);
        let rows = known.judge(&now, true);
        let wanted = [
            ("a", Verdict::Same),
            ("b", Verdict::Slower),
            ("c", Verdict::Faster),
            ("d", Verdict::Same),
        ];
        assert_eq!(verdicts(&rows), wanted);
        assert!(Verdict::Slower.fails() && Verdict::Faster.fails() && !Verdict::Same.fails());
    }

    #[test]
    fn an_operation_that_is_not_in_the_baseline_or_only_there_fails() {
        let known = baseline(&[("a", 1000), ("gone", 1000)]);
        let now = counts(&[("a", 1000), ("new", 1000)]);
        let rows = known.judge(&now, true);
        let wanted = [
            ("a", Verdict::Same),
            ("gone", Verdict::Gone),
            ("new", Verdict::New),
        ];
        assert_eq!(verdicts(&rows), wanted);
        assert!(Verdict::New.fails() && Verdict::Gone.fails());
        let chosen = known.judge(&counts(&[("a", 1000)]), false);
        assert_eq!(verdicts(&chosen), [("a", Verdict::Same)]);
    }

    #[test]
    fn renewing_tells_what_changed_and_nothing_else() {
        let old = baseline(&[("a", 1000), ("b", 1000)]);
        let new = baseline(&[("a", 1001), ("b", 1000)]);
        let changes = new.changes_since(Some(&old));
        assert_eq!(verdicts(&changes), [("a", Verdict::Same)]);
        assert_eq!(new.changes_since(None).len(), 2);
    }

    #[test]
    fn another_combination_is_refused_with_the_command_that_makes_one() {
        let mut toolchain = baseline(&[]).toolchain;
        toolchain.valgrind = "0.0".to_owned();
        assert_eq!(Baseline::read(&toolchain), Ok(None));
        let why = toolchain.no_baseline();
        assert!(why.contains("valgrind 0.0") && why.contains(RENEW), "{why}");
    }

    #[test]
    fn a_baseline_survives_being_written_and_read() {
        let known = baseline(&[("a", 1000)]);
        let text = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Baseline>(&text).unwrap(), known);
    }
}

//! Committed counts, by what they were counted with, and how others compare.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::counting::Spent;
use super::shared_memory::Shared;
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

/// What was counted of one subject.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count {
    /// Instructions, by callgrind.
    pub instructions: u64,
    /// Locked operations, by the engine. (A baseline from before they were counted has none.)
    #[serde(default)]
    pub locked: u64,
    /// Distinct cache lines of each operation or batch, by the engine.
    #[serde(default)]
    pub lines: u64,
    /// Operations of which these are the sums.
    pub operations: u64,
}

impl Count {
    /// The two programs' counts of one subject.
    ///
    /// # Errors
    /// If they did not do the same.
    pub fn of(spent: Spent, shared: Shared) -> Result<Count, String> {
        if spent.operations != shared.operations {
            return Err(format!(
                "{} operations were done under callgrind, and {} by the program that counts locked ones",
                spent.operations, shared.operations
            ));
        }
        Ok(Count {
            instructions: spent.instructions,
            locked: shared.locked,
            lines: shared.lines,
            operations: spent.operations,
        })
    }

    /// So much of an operation each.
    #[must_use]
    pub fn each(self, of_all: u64) -> f64 {
        of_all as f64 / self.operations as f64
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

/// In what a count differs: each of these fails the gate. Fewer fails too, or the next change could
/// spend what this one saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Difference {
    /// More instructions, beyond the limit.
    Slower,
    /// Fewer instructions, beyond the limit.
    Faster,
    /// More locked operations, by so many in all.
    MoreLocked(u64),
    /// Fewer of them.
    FewerLocked(u64),
    /// More cache lines, by so many in all.
    MoreLines(u64),
    /// Fewer of them.
    FewerLines(u64),
    /// Not in the baseline.
    New,
    /// In the baseline only.
    Gone,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Slower => write!(f, "SLOWER"),
            Difference::Faster => write!(f, "FASTER"),
            Difference::MoreLocked(by) => write!(f, "MORE LOCKED (+{by} in all)"),
            Difference::FewerLocked(by) => write!(f, "FEWER LOCKED (-{by} in all)"),
            Difference::MoreLines(by) => write!(f, "MORE LINES (+{by} in all)"),
            Difference::FewerLines(by) => write!(f, "FEWER LINES (-{by} in all)"),
            Difference::New => write!(f, "NEW"),
            Difference::Gone => write!(f, "GONE"),
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
    /// What fails.
    pub differences: Vec<Difference>,
}

impl Row {
    fn new(name: &str, before: Option<Count>, now: Option<Count>) -> Row {
        let differences = match (before, now) {
            (None, _) => vec![Difference::New],
            (_, None) => vec![Difference::Gone],
            (Some(before), Some(now)) => differences(before, now),
        };
        Row {
            name: name.to_owned(),
            before,
            now,
            differences,
        }
    }

    /// Share by which its instructions grew.
    #[must_use]
    pub fn change(&self) -> Option<f64> {
        Some(change(self.before?, self.now?))
    }
}

fn change(before: Count, now: Count) -> f64 {
    now.each(now.instructions) / before.each(before.instructions) - 1.0
}

fn differences(before: Count, now: Count) -> Vec<Difference> {
    use Difference::{Faster, FewerLines, FewerLocked, MoreLines, MoreLocked, Slower};
    let change = change(before, now);
    let exact = |before: u64,
                 now: u64,
                 more: fn(u64) -> Difference,
                 fewer: fn(u64) -> Difference| {
        match now.cmp(&before) {
            Ordering::Greater => Some(more(now - before)),
            Ordering::Less => Some(fewer(before - now)),
            Ordering::Equal => None,
        }
    };
    [
        (change > LIMIT).then_some(Slower),
        (change < -LIMIT).then_some(Faster),
        exact(before.locked, now.locked, MoreLocked, FewerLocked),
        exact(before.lines, now.lines, MoreLines, FewerLines),
    ]
    .into_iter()
    .flatten()
    .collect()
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
        let count = |&(name, instructions): &(&str, u64)| (name.to_owned(), count(instructions));
        list.iter().map(count).collect()
    }

    fn count(instructions: u64) -> Count {
        Count {
            instructions,
            locked: 200,
            lines: 300,
            operations: 100,
        }
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

    fn differences(rows: &[Row]) -> Vec<(&str, &[Difference])> {
        let row = |row| {
            let Row {
                name, differences, ..
            }: &Row = row;
            (name.as_str(), differences.as_slice())
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn more_than_two_percent_either_way_fails_and_less_does_not() {
        let known = baseline(&[("a", 1000), ("b", 1000), ("c", 1000), ("d", 1000)]);
        let now = counts(&[("a", 1019), ("b", 1021), ("c", 979), ("d", 981)]);
        let rows = known.judge(&now, true);
        let wanted: [(_, &[Difference]); 4] = [
            ("a", &[]),
            ("b", &[Difference::Slower]),
            ("c", &[Difference::Faster]),
            ("d", &[]),
        ];
        assert_eq!(differences(&rows), wanted);
    }

    #[test]
    fn one_locked_operation_or_one_line_in_all_fails_either_way() {
        let known = baseline(&[("a", 1000)]);
        let of = |locked, lines| {
            let count = Count {
                locked,
                lines,
                ..count(1000)
            };
            known.judge(&[("a".to_owned(), count)].into(), true)[0]
                .differences
                .clone()
        };
        assert_eq!(of(200, 300), []);
        assert_eq!(of(201, 300), [Difference::MoreLocked(1)]);
        assert_eq!(of(199, 300), [Difference::FewerLocked(1)]);
        assert_eq!(of(200, 301), [Difference::MoreLines(1)]);
        let both = [Difference::FewerLocked(200), Difference::FewerLines(300)];
        assert_eq!(of(0, 0), both);
        assert!(both[0].to_string().contains("FEWER LOCKED (-200"));
    }

    #[test]
    fn two_programs_that_did_not_do_the_same_are_found_out() {
        let spent = Spent {
            instructions: 7,
            operations: 2,
        };
        let shared = |operations| Shared {
            locked: 1,
            lines: 3,
            operations,
        };
        let count = Count::of(spent, shared(2)).unwrap();
        assert_eq!((count.instructions, count.locked, count.lines), (7, 1, 3));
        assert!(Count::of(spent, shared(3)).unwrap_err().contains("3"));
    }

    #[test]
    fn an_operation_that_is_not_in_the_baseline_or_only_there_fails() {
        let known = baseline(&[("a", 1000), ("gone", 1000)]);
        let now = counts(&[("a", 1000), ("new", 1000)]);
        let rows = known.judge(&now, true);
        let wanted: [(_, &[Difference]); 3] = [
            ("a", &[]),
            ("gone", &[Difference::Gone]),
            ("new", &[Difference::New]),
        ];
        assert_eq!(differences(&rows), wanted);
        let chosen = known.judge(&counts(&[("a", 1000)]), false);
        assert_eq!(differences(&chosen), wanted[..1]);
    }

    #[test]
    fn renewing_tells_what_changed_and_nothing_else() {
        let old = baseline(&[("a", 1000), ("b", 1000)]);
        let new = baseline(&[("a", 1001), ("b", 1000)]);
        let changes = new.changes_since(Some(&old));
        assert_eq!(differences(&changes), [("a", &[][..])]);
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

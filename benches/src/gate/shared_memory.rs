//! What an operation does to memory that threads share: locked operations, and distinct cache lines.
//!
//! Counted by the engine itself, through its door to atomics (`clashtrack_engine::sync::tally` says what
//! is seen and what is not), in a program of its own: counting would spoil the instructions. The gate
//! has cargo build that program, and reads what it prints. Nothing is simulated, so it takes seconds.
//!
//! Operations that come one by one are counted one by one; of a batch, the lines are those of
//! the batch. Everything is allocated at the beginning of a line, so that two runs agree.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::Subject;

/// Counts by name of subject.
pub type SharedCounts = BTreeMap<String, Shared>;

/// What some operations did to shared memory.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shared {
    /// Locked operations.
    pub locked: u64,
    /// Cache lines touched, of each operation (or batch) the distinct ones.
    pub lines: u64,
    /// Operations that did it.
    pub operations: u64,
}

/// Counts these subjects in the program that cargo builds for it.
///
/// # Errors
/// If it cannot be built, or does not say what is wanted.
pub fn count_all(subjects: &[Subject]) -> Result<SharedCounts, String> {
    let names = subjects.iter().map(Subject::name);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["bench", "--locked", "--no-default-features"])
        .args(["--manifest-path", MANIFEST, "--features", &features()])
        .args(["--bench", "shared_memory", "--"])
        .args(names)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "the program that counts locked operations: {}",
            output.status
        ));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let counts: SharedCounts = serde_json::from_str(said.trim())
        .map_err(|error| format!("the program that counts locked operations: {error}: {said:?}"))?;
    match subjects.iter().find(|s| !counts.contains_key(&s.name())) {
        Some(missing) => Err(format!("{}: not counted", missing.name())),
        None => Ok(counts),
    }
}

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

/// A build that is to be refused has its fault in both programs.
fn features() -> String {
    let faults = [
        (cfg!(feature = "gate-slower"), ",gate-slower"),
        (cfg!(feature = "gate-one-more-lock"), ",gate-one-more-lock"),
    ];
    let faults = faults.iter().filter(|(on, _)| *on).map(|(_, name)| *name);
    ["tally"].into_iter().chain(faults).collect()
}

#[cfg(feature = "tally")]
pub use program::main;

#[cfg(feature = "tally")]
mod program {
    use std::process::ExitCode;

    use clashtrack_engine::sync::tally;

    use super::{Shared, SharedCounts, Subject};
    use crate::gate::EXIT_CANNOT;
    use crate::gate::counting::{PASSES, prepare};

    /// Counts the subjects that are named, and prints them as JSON.
    #[must_use]
    pub fn main() -> ExitCode {
        let mut counts = SharedCounts::new();
        // Cargo says `--bench` to every bench.
        for name in std::env::args().skip(1).filter(|word| word != "--bench") {
            let Some(subject) = Subject::by_name(&name) else {
                eprintln!("shared_memory: there is no operation {name}");
                return ExitCode::from(EXIT_CANNOT);
            };
            counts.insert(name, count(&subject));
        }
        match serde_json::to_string(&counts) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("shared_memory: {error}");
                return ExitCode::from(EXIT_CANNOT);
            }
        }
        ExitCode::SUCCESS
    }

    /// As many passes as are counted under callgrind, after the same one to warm up.
    pub(super) fn count(subject: &Subject) -> Shared {
        let mut pass = prepare(subject);
        pass.run();
        tally::begin();
        for _ in 0..PASSES {
            pass.run();
            tally::next_operation();
        }
        let tally = tally::end();
        Shared {
            locked: tally.locked,
            lines: tally.lines,
            operations: pass.operations * PASSES,
        }
    }
}

#[cfg(all(test, feature = "tally"))]
mod tests {
    use super::program::count;
    use crate::gate::subjects;

    #[test]
    fn the_same_is_counted_twice() {
        for subject in subjects() {
            let (one, two) = (count(&subject), count(&subject));
            assert_eq!(one.locked, two.locked, "{}", subject.name());
        }
    }
}

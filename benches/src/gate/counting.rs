//! Counting one operation: this program again, under callgrind, in a process of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::{EXIT_CANNOT, Subject, fault};
use crate::operation::Pass;

/// First argument of the program that is counted; its second one is the subject's name.
pub const CHILD: &str = "--count-one";

/// Passes that are counted, after one that is not.
pub(super) const PASSES: u64 = 4;

/// What to install.
const GET_VALGRIND: &str = "install valgrind (apt install valgrind, dnf install valgrind, \
     https://valgrind.org); the timed benches, plain `cargo bench`, do without it";

/// The version of the valgrind that will be used.
///
/// # Errors
/// How to get one, where there is none.
pub fn valgrind_version() -> Result<String, String> {
    let output = Command::new("valgrind")
        .arg("--version")
        .output()
        .map_err(|error| format!("valgrind cannot be started: {error}; {GET_VALGRIND}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.trim().strip_prefix("valgrind-") {
        Some(version) if output.status.success() => Ok(version.to_owned()),
        _ => Err(format!(
            "`valgrind --version` said {:?}, which is no version; {GET_VALGRIND}",
            said.trim()
        )),
    }
}

/// Instructions, and the operations that they were spent on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spent {
    /// Instructions.
    pub instructions: u64,
    /// Operations.
    pub operations: u64,
}

/// Counts all of them, as many at once as there are cores: what runs beside does not change a count.
///
/// # Errors
/// Of the first that could not be counted.
pub fn count_all(subjects: &[Subject]) -> Result<BTreeMap<String, Spent>, String> {
    let folder = Folder::new()?;
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let left = Mutex::new(subjects.iter());
    let take = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|number| {
                let (take, file) = (&take, folder.0.join(number.to_string()));
                scope.spawn(move || {
                    let mut counts = Vec::new();
                    while let Some(subject) = take() {
                        counts.push((subject.name(), count(subject, &file)?));
                    }
                    Ok::<_, String>(counts)
                })
            })
            .collect();
        let mut counts = BTreeMap::new();
        for worker in workers {
            let counted = worker.join().map_err(|_| "a counting thread panicked")?;
            counts.extend(counted?);
        }
        Ok(counts)
    })
}

/// A folder of this process's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, String> {
        let path = std::env::temp_dir().join(format!("clashtrack-gate-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays behind does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn count(subject: &Subject, file: &Path) -> Result<Spent, String> {
    let name = subject.name();
    let program = std::env::current_exe().map_err(|error| format!("no own path: {error}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg("--toggle-collect=*counted_passes*")
        .arg(program)
        .args([CHILD, &name])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind cannot be started: {error}; {GET_VALGRIND}"))?;
    let tail = || {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().rev().take(6).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    };
    if !output.status.success() {
        return Err(format!("{name}: {}\n{}", output.status, tail()));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let operations = said
        .trim()
        .parse()
        .map_err(|_| format!("{name}: it does not say how many operations it did, but {said:?}"))?;
    let profile =
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    match instructions(&profile) {
        Some(instructions) if instructions > 0 => Ok(Spent {
            instructions,
            operations,
        }),
        _ => Err(format!("{name}: callgrind counted nothing\n{}", tail())),
    }
}

/// The sum that a callgrind profile ends with.
fn instructions(profile: &str) -> Option<u64> {
    let line = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals:"));
    line?.split_whitespace().next()?.parse().ok()
}

/// In the process that is counted: makes the subject ready, one pass to warm up, and those that count. Prints their
/// operations.
#[must_use]
pub fn child(name: Option<&str>) -> ExitCode {
    let Some(subject) = name.and_then(Subject::by_name) else {
        eprintln!("instructions: {CHILD}: there is no operation {name:?}");
        return ExitCode::from(EXIT_CANNOT);
    };
    let mut pass = prepare(&subject);
    pass.run();
    counted_passes(&mut pass);
    println!("{}", pass.operations * PASSES);
    ExitCode::SUCCESS
}

/// Makes a subject ready, for either program.
pub(super) fn prepare(subject: &Subject) -> Pass {
    fault::with_faults(subject, (subject.operation.prepare)(subject.isa))
}

/// Callgrind counts from the entry into this function to its end, found by its name.
#[inline(never)]
fn counted_passes(pass: &mut Pass) {
    for _ in 0..PASSES {
        pass.run();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_profile_is_read() {
        let profile = "events: Ir\nsummary: 12\n\nfn=(1) x\n3 12\ntotals: 12\n";
        assert_eq!(instructions(profile), Some(12));
        assert_eq!(instructions("events: Ir\n"), None);
    }
}

//! The exact gate: instructions, locked operations and cache lines of each hot operation, against a committed baseline.
//!
//! ```text
//! cargo bench --features gate --bench instructions                 compare; fails where something differs
//! cargo bench --features gate --bench instructions -- --renew      count anew and write the baseline
//! cargo bench --features gate --bench instructions -- WORD …       only operations whose name has a WORD in it
//! ```
//! Time on a shared machine says ±50 % and is believed by nobody; these are the same twice, whatever else runs.
//! They say nothing of cache misses and of waiting: that is what the timed benches are for.
//!
//! Instructions ([`counting`]) may differ by 2 %. Each operation is counted in a process of its own, which runs this
//! program again under callgrind. Operations with vector code are counted for `scalar` and for `avx2`. Not for
//! `avx512`: valgrind cannot run those instructions.
//!
//! Locked operations and distinct cache lines ([`shared_memory`]) may not differ at all: what two cores pay for each
//! other is in them, and in no count of instructions. The engine counts them itself, in a second program.
//!
//! A baseline belongs to one rustc, target and valgrind, and is never compared with another: code generation
//! moves more than the limit.

pub mod baseline;
pub mod counting;
mod fault;
pub mod shared_memory;

use std::fmt::Write as _;
use std::process::ExitCode;

use clashtrack_engine::table::lockfree::Isa;

use crate::operation::{self, Operation};
use baseline::{Baseline, Count, Counts, Toolchain};

/// Share by which a count may differ from the baseline, either way.
pub const LIMIT: f64 = 0.02;
/// The command that makes or renews a baseline.
pub const RENEW: &str = "cargo bench --features gate --bench instructions -- --renew";

/// Instruction sets that are counted where they make a difference.
const SETS: [Isa; 2] = [Isa::Scalar, Isa::Avx2];

/// Exit code of counts that differ.
const EXIT_NO: u8 = 1;
/// Exit code of an environment that cannot count.
const EXIT_CANNOT: u8 = 2;

/// An operation with an instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// What.
    pub operation: &'static Operation,
    /// With which instructions of the table.
    pub isa: Isa,
}

impl Subject {
    /// Its name in baselines: the operation's, with the instruction set where there is more than one.
    #[must_use]
    pub fn name(&self) -> String {
        if self.operation.has_vectors {
            format!("{}@{}", self.operation.name(), self.isa.name())
        } else {
            self.operation.name()
        }
    }

    /// The subject of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Subject> {
        subjects().find(|subject| subject.name() == name)
    }
}

/// Everything that is counted.
pub fn subjects() -> impl Iterator<Item = Subject> {
    operation::all().flat_map(|operation| {
        let sets = if operation.has_vectors {
            &SETS[..]
        } else {
            &SETS[..1]
        };
        sets.iter().map(move |&isa| Subject { operation, isa })
    })
}

/// What the command line asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Asked {
    renew: bool,
    /// Parts of names; none stands for all.
    words: Vec<String>,
}

impl Asked {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Asked, String> {
        let mut asked = Asked::default();
        for argument in arguments {
            match argument.as_str() {
                // Cargo says so to every bench; `--test` means the same here.
                "--bench" | "--test" => {}
                "--renew" => asked.renew = true,
                flag if flag.starts_with('-') => {
                    return Err(format!(
                        "{flag}: there is no such flag here; write --renew, or words to choose operations by"
                    ));
                }
                _ => asked.words.push(argument),
            }
        }
        if asked.renew && !asked.words.is_empty() {
            return Err(
                "--renew: a baseline has all operations in it; leave the words out".to_owned(),
            );
        }
        Ok(asked)
    }

    fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }
}

/// The gate as a program: 0 where all counts are as they were, 1 where one is not, 2 where nothing can be counted.
#[must_use]
pub fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments
        .peek()
        .is_some_and(|first| first == counting::CHILD)
    {
        return counting::child(arguments.nth(1).as_deref());
    }
    match Asked::parse(arguments).and_then(|asked| run(&asked)) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("instructions: {why}");
            ExitCode::from(EXIT_CANNOT)
        }
    }
}

fn run(asked: &Asked) -> Result<ExitCode, String> {
    let toolchain = Toolchain::here()?;
    let known = Baseline::read(&toolchain)?;
    if known.is_none() && !asked.renew {
        return Err(toolchain.no_baseline());
    }
    let wanted: Vec<Subject> = subjects().filter(|s| asked.wants(&s.name())).collect();
    if wanted.is_empty() {
        return Err(format!(
            "no operation has {} in its name",
            asked.words.join(" or ")
        ));
    }
    if !Isa::Avx2.is_available() {
        return Err("this processor has no AVX2, which half of the baseline was counted with: use one that has".to_owned());
    }
    eprintln!(
        "{} operations under valgrind {}; avx512 is not among them: valgrind cannot run it",
        wanted.len(),
        toolchain.valgrind
    );
    let counts = count_all(&wanted)?;
    if asked.renew {
        let renewed = Baseline::new(toolchain, counts);
        print(&renewed.changes_since(known.as_ref()));
        let path = renewed.write()?;
        println!("{} operations in {}", renewed.counts.len(), path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let Some(known) = known else {
        return Err(toolchain.no_baseline());
    };
    let judged = known.judge(&counts, asked.words.is_empty());
    print(&judged);
    let broken = judged.iter().filter(|row| !row.differences.is_empty());
    let broken = broken.count();
    let (all, limit) = (judged.len(), LIMIT * 100.0);
    if broken == 0 {
        println!(
            "All {all}: instructions within ±{limit} %, locked operations and lines the same."
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{broken} of {all} are not as in the baseline: instructions within ±{limit} %, locked operations and lines the \
         same. If that is meant, renew it and commit what changed:\n  {RENEW}"
    );
    Ok(ExitCode::from(EXIT_NO))
}

fn count_all(wanted: &[Subject]) -> Result<Counts, String> {
    let shared = shared_memory::count_all(wanted)?;
    let spent = counting::count_all(wanted)?;
    let count = |(name, spent): (String, counting::Spent)| {
        let count = Count::of(spent, shared[&name]).map_err(|why| format!("{name}: {why}"))?;
        Ok((name, count))
    };
    spent.into_iter().map(count).collect()
}

/// One line a row: of each count baseline and now, an operation; what fails at the end.
fn print(rows: &[baseline::Row]) {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut text = format!(
        "{:width$}  {:>19} {:>9}  {:>15}  {:>15}\n",
        "an operation: baseline, now", "instructions", "", "locked", "lines"
    );
    for row in rows {
        let cell = |count: Option<Count>, of: fn(Count) -> u64, digits: usize| {
            count.map_or("-".to_owned(), |count| {
                format!("{:.digits$}", count.each(of(count)))
            })
        };
        let pair = |of, digits| (cell(row.before, of, digits), cell(row.now, of, digits));
        let instructions = pair(|count| count.instructions, 1);
        let locked = pair(|count| count.locked, 2);
        let lines = pair(|count| count.lines, 2);
        let change = row
            .change()
            .map_or(String::new(), |change| format!("{:+.2} %", change * 100.0));
        let differences: Vec<String> = row.differences.iter().map(ToString::to_string).collect();
        let line = format!(
            "{:width$}  {:>9} {:>9} {change:>9}  {:>7} {:>7}  {:>7} {:>7}  {}",
            row.name,
            instructions.0,
            instructions.1,
            locked.0,
            locked.1,
            lines.0,
            lines.1,
            differences.join(", ")
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    print!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Asked, String> {
        Asked::parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn vector_code_is_counted_for_two_instruction_sets_and_everything_is_found_by_its_name() {
        let names: Vec<String> = subjects().map(|subject| subject.name()).collect();
        assert!(names.contains(&"does_a_batch_make_a_lookup_cheaper/hit_of_64@scalar".to_owned()));
        assert!(names.contains(&"does_a_batch_make_a_lookup_cheaper/hit_of_64@avx2".to_owned()));
        assert!(names.contains(&"what_does_it_cost_to_pack_a_key/ipv4".to_owned()));
        for name in names {
            assert!(Subject::by_name(&name).is_some(), "{name}");
        }
    }

    #[test]
    fn words_choose_operations_and_a_baseline_is_renewed_whole() {
        let asked = parse(&["--bench", "tcp"]).unwrap();
        assert!(asked.wants("what/tcp_snat@avx2") && !asked.wants("what/udp"));
        assert!(parse(&["--bench"]).unwrap().wants("anything"));
        assert!(parse(&["--renew", "tcp"]).unwrap_err().contains("--renew"));
        assert!(parse(&["--what"]).unwrap_err().contains("--what"));
    }
}

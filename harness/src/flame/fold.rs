//! Folding: what `perf script` prints, as one line a stack and the nanoseconds spent in it.
//!
//! ```text
//! expiry 16297/16632    1003009                                thread's name, process/thread, nanoseconds
//!           1870b3 _ZN…run_avx512…E+0x3453 (/…/clashtrack)        innermost first
//!            891f4 start_thread+0x304 (/…/libc.so.6)
//! ```
//! The form is that of `inferno-collapse-perf` and `stackcollapse-perf.pl`: `outer;inner;innermost 1003009`.

use std::collections::BTreeMap;

use super::names::{self, Names};

/// Nanoseconds by stack, the outermost function first, separated by `;`.
pub type Folded = BTreeMap<String, u64>;

/// A line of a stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Frame<'a> {
    symbol: &'a str,
    offset: u64,
    file: &'a str,
}

/// Folds the samples of workers, by the names of their threads: of all threads but the process's first, which prepares and
/// checks.
#[must_use]
pub fn by_role(script: &str, names: &mut Names) -> BTreeMap<String, Folded> {
    let mut roles: BTreeMap<String, Folded> = BTreeMap::new();
    for sample in script.split("\n\n") {
        let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
        let Some(Head {
            role,
            period,
            is_worker: true,
        }) = lines.next().and_then(head)
        else {
            continue;
        };
        let mut stack: Vec<String> = Vec::new();
        for (depth, frame) in lines.filter_map(frame).enumerate() {
            if names.is_ours(frame.file) {
                // Outermost first: all is turned around at the end.
                let inlined = names.at(frame.symbol, frame.offset, depth > 0);
                stack.extend(inlined.into_iter().rev());
            } else {
                stack.push(names::plain(frame.symbol));
            }
        }
        if stack.is_empty() {
            continue;
        }
        stack.reverse();
        *roles
            .entry(role.to_owned())
            .or_default()
            .entry(without_thread_start(&stack).join(";"))
            .or_default() += period;
    }
    roles
}

/// All roles in one.
#[must_use]
pub fn together(roles: &BTreeMap<String, Folded>) -> Folded {
    let mut folded = Folded::new();
    for (stack, nanoseconds) in roles.values().flatten() {
        *folded.entry(stack.clone()).or_default() += nanoseconds;
    }
    folded
}

/// What every worker's stack begins with, a thread's start, says nothing: it begins with the crew's closure, if that
/// is there.
fn without_thread_start(stack: &[String]) -> &[String] {
    let crew = stack
        .iter()
        .position(|name| name.contains("workload::worker::"));
    &stack[crew.unwrap_or(0)..]
}

/// What stands above a stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Head<'a> {
    /// Name of the thread.
    role: &'a str,
    /// Nanoseconds.
    period: u64,
    /// The thread is another one than the process's first.
    is_worker: bool,
}

fn head(line: &str) -> Option<Head<'_>> {
    // The name first, which may hold spaces.
    let (rest, period) = line.trim().rsplit_once(char::is_whitespace)?;
    let (role, ids) = rest.trim_end().rsplit_once(char::is_whitespace)?;
    let (process, thread) = ids.split_once('/')?;
    Some(Head {
        role: role.trim(),
        period: period.trim_end_matches(':').parse().ok()?,
        is_worker: process != thread,
    })
}

fn frame(line: &str) -> Option<Frame<'_>> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (symbol, file) = rest.rsplit_once(" (")?;
    let file = file.strip_suffix(')')?;
    let (symbol, offset) = match symbol.rsplit_once("+0x") {
        Some((symbol, offset)) => (symbol, u64::from_str_radix(offset, 16).ok()?),
        None => (symbol, 0),
    };
    Some(Frame {
        symbol,
        offset,
        file,
    })
}

/// The lines of a folded file.
#[must_use]
pub fn lines(folded: &Folded) -> Vec<String> {
    folded
        .iter()
        .map(|(stack, nanoseconds)| format!("{stack} {nanoseconds}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "  clashtrack 7/7    100 \n\
        \t   10 checks+0x1 (/lib/other.so)\n\
        \n\
        inserter  7/8    1003009 \n\
        \t   1870b3 inner+0x2 (/lib/other.so)\n\
        \t   10 outer (/lib/other.so)\n\
        \n\
        a thread  7/9    1003009 \n\
        \t   1870b3 inner+0x8 (/lib/other.so)\n\
        \t   10 outer (/lib/other.so)\n\
        \n\
        inserter 7/10    3 \n\
        \t   20 else+0x8 (/lib/other.so)\n\
        \n\
        garbage\n";

    #[test]
    fn stacks_of_workers_are_summed_and_those_of_the_first_thread_left_out() {
        let mut names = Names::of_this_program().unwrap();
        let roles = by_role(SCRIPT, &mut names);
        assert_eq!(lines(&together(&roles)), ["else 3", "outer;inner 2006018"]);
        assert_eq!(lines(&roles["inserter"]), ["else 3", "outer;inner 1003009"]);
        assert_eq!(lines(&roles["a thread"]), ["outer;inner 1003009"]);
        assert_eq!(roles.len(), 2);
    }

    #[test]
    fn a_stack_begins_with_the_crew() {
        let stack =
            ["clone3", "call_once", "workload::worker::{closure#0}", "go"].map(str::to_owned);
        assert_eq!(without_thread_start(&stack), &stack[2..]);
        assert_eq!(without_thread_start(&stack[..2]), &stack[..2]);
    }

    #[test]
    fn lines_that_are_no_frames_are_left_out() {
        assert_eq!(
            frame("\t ffffff [unknown] ([unknown])").map(|f| f.symbol),
            Some("[unknown]")
        );
        assert_eq!(frame("nonsense"), None);
        assert_eq!(head("no head"), None);
    }
}

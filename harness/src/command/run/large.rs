//! Tables that are too large to be in memory together: each is measured in a process of its own.
//!
//! What a table leaves in its process (memory that the allocator kept, pages torn apart) is then in nobody else's
//! figures. A child is this command again, with one table and the large sizes, and what it prints as JSON is taken over
//! unchanged. A single table needs no child: it has this process to itself.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;

use crate::error::{EXIT_INTERRUPTED, EXIT_NO, Error};
use crate::report::json::RunResult;
use crate::workload::Plan;
use crate::workload::measure::TOGETHER_MAX;

/// The part of a plan that is measured in this process, and the sizes that children measure.
pub(super) fn split(plan: &Plan) -> (Option<Plan>, Vec<usize>) {
    let (large, small): (Vec<usize>, Vec<usize>) = plan
        .connections
        .iter()
        .partition(|&&connections| connections > TOGETHER_MAX);
    if plan.tables.len() == 1 || large.is_empty() {
        return (Some(plan.clone()), Vec::new());
    }
    let here = (!small.is_empty()).then(|| Plan {
        connections: small,
        ..plan.clone()
    });
    (here, large)
}

/// What children came to.
#[derive(Debug, Default)]
pub(super) struct Children {
    pub(super) results: Vec<RunResult>,
    /// One of them was ended by Ctrl-C, or this process was.
    pub(super) interrupted: bool,
    /// Some worker of theirs was not pinned.
    pub(super) unpinned: bool,
}

/// What a child prints, as far as it is wanted.
#[derive(Deserialize, Debug)]
#[serde(bound(deserialize = "'de: 'static"))]
struct Reply {
    results: Vec<RunResult>,
    config: ReplyConfig,
    #[serde(default)]
    interrupted: bool,
}

#[derive(Deserialize, Debug)]
struct ReplyConfig {
    pinned: bool,
}

/// Measures the plan's tables at these sizes, one child after the other. `step` is called before each with the table's name.
///
/// # Errors
/// [`Error::Environment`] when a child cannot be started, or fails.
pub(super) fn measure(
    plan: &Plan,
    sizes: &[usize],
    interrupted: &AtomicBool,
    mut step: impl FnMut(&'static str),
) -> Result<Children, Error> {
    let mut children = Children::default();
    for &table in plan.tables.iter().filter(|_| !sizes.is_empty()) {
        // Relaxed: a flag that stands for itself.
        if interrupted.load(Ordering::Relaxed) {
            children.interrupted = true;
            break;
        }
        step(table);
        let reply = in_child(plan, sizes, table)?;
        children.results.extend(reply.results);
        children.interrupted |= reply.interrupted;
        children.unpinned |= !reply.config.pinned;
    }
    Ok(children)
}

fn in_child(plan: &Plan, sizes: &[usize], table: &str) -> Result<Reply, Error> {
    let failed = |problem: String| Error::Environment {
        problem: format!("{table} cannot be measured in a process of its own: {problem}"),
        remedy: "a process of this program must be able to start another one".to_owned(),
    };
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let output = Command::new(program)
        .args(words(plan, sizes, table))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let ran = [0, i32::from(EXIT_NO), i32::from(EXIT_INTERRUPTED)];
    if !output.status.code().is_some_and(|code| ran.contains(&code)) {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!("{}: {}", output.status, said.trim())));
    }
    let text = String::from_utf8(output.stdout).map_err(|error| failed(error.to_string()))?;
    // Names in a result are static: the few kilobytes of a child's answer stay as long as this process.
    let text: &'static str = Box::leak(text.into_boxed_str());
    serde_json::from_str(text).map_err(|error| failed(error.to_string()))
}

/// The command line of a child.
fn words(plan: &Plan, sizes: &[usize], table: &str) -> Vec<String> {
    let joined = |numbers: &[usize]| {
        let words: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        words.join(",")
    };
    let mut words = vec!["run".to_owned()];
    words.extend(plan.workloads.iter().map(|w| w.name.to_owned()));
    let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    add("--table", table.to_owned());
    add("--connections", joined(sizes));
    if !plan.workers.is_empty() {
        add("--workers", joined(&plan.workers));
    }
    if !plan.batches.is_empty() {
        add("--batch", joined(&plan.batches));
    }
    if !plan.protocols.is_empty() {
        let names: Vec<&str> = plan.protocols.iter().map(|l4| l4.name()).collect();
        add("--l4", names.join(","));
    }
    if let Some(duration) = plan.duration {
        add("--duration", format!("{}us", duration.as_micros().max(1)));
    }
    if let Some(repeat) = plan.repeat {
        add("--repeat", repeat.to_string());
    }
    if plan.workloads.iter().any(|w| w.kind.steers()) {
        add("--steer", plan.steer.name().to_owned());
    }
    add("--seed", plan.seed.to_string());
    add("--prefetch", plan.prefetch.name().to_owned());
    add("--isa", plan.isa.name().to_owned());
    words.extend(["--json".to_owned(), "--quiet".to_owned()]);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{lookup_hit, measure};
    use std::time::Duration;

    fn plan(connections: &[usize], tables: &[&'static str]) -> Plan {
        Plan {
            connections: connections.to_vec(),
            ..Plan::new(&[lookup_hit::WORKLOAD], tables)
        }
    }

    #[test]
    fn only_several_tables_beyond_the_limit_get_processes_of_their_own() {
        let tables = ["lockfree", "striped"];
        let (here, large) = split(&plan(&[1000, TOGETHER_MAX, 5_000_000], &tables));
        assert_eq!(
            here.map(|plan| plan.connections),
            Some(vec![1000, TOGETHER_MAX])
        );
        assert_eq!(large, [5_000_000]);
        let (here, large) = split(&plan(&[5_000_000], &tables));
        assert!(here.is_none() && large == [5_000_000]);
        let (here, large) = split(&plan(&[5_000_000], &["lockfree"]));
        assert!(here.is_some() && large.is_empty());
        let (here, large) = split(&plan(&[], &tables));
        assert!(here.is_some() && large.is_empty());
    }

    #[test]
    fn a_childs_words_are_read_as_the_plan_that_they_were_made_of() {
        use clap::Parser as _;
        let plan = Plan {
            workers: vec![1, 2],
            batches: vec![8],
            duration: Some(Duration::from_millis(3)),
            repeat: Some(2),
            ..plan(&[5_000_000], &["lockfree", "striped"])
        };
        let words = words(&plan, &[5_000_000, 6_000_000], "striped");
        let line = ["clashtrack".to_owned()].into_iter().chain(words);
        let parsed = crate::cli::Cli::try_parse_from(line).expect("a child understands it");
        let said = format!("{parsed:?}");
        for word in ["striped", "5000000,6000000", "3000us", "lookup-hit"] {
            let parts: Vec<&str> = word.split(',').collect();
            assert!(
                parts.iter().all(|part| said.contains(part)),
                "{word} in {said}"
            );
        }
    }

    #[test]
    fn a_result_is_the_same_after_its_way_through_json() {
        let plan = Plan {
            connections: vec![500],
            duration: Some(Duration::from_millis(200)),
            repeat: Some(1),
            ..Plan::new(crate::workload::WORKLOADS, &["lockfree"])
        };
        let measured = measure(&plan, &AtomicBool::new(false), |_, _| ());
        for measurement in &measured.measurements {
            let result = RunResult::of(measurement);
            let text = serde_json::to_string(&result).expect("numbers and names");
            let text: &'static str = Box::leak(text.into_boxed_str());
            let again: RunResult = serde_json::from_str(text).expect("our own JSON");
            assert_eq!(again, result);
        }
    }
}

//! A process of this command that measures a part of a plan, and what it prints, read back.

use std::process::{Command, Stdio};

use serde::Deserialize;

use super::rate;
use crate::error::{EXIT_INTERRUPTED, EXIT_NO, Error};
use crate::load::Load;
use crate::report::json::RunResult;
use crate::workload::Plan;

/// What a child prints, as far as it is wanted.
#[derive(Deserialize, Debug)]
#[serde(bound(deserialize = "'de: 'static"))]
pub(super) struct Reply {
    pub(super) results: Vec<RunResult>,
    pub(super) config: ReplyConfig,
    pub(super) machine: ReplyMachine,
    /// It was ended by Ctrl-C.
    #[serde(default)]
    pub(super) interrupted: bool,
}

/// The settings of a child, as far as they are seen only there.
#[derive(Deserialize, Debug)]
pub(super) struct ReplyConfig {
    pub(super) pinned: bool,
}

/// What a child saw of the machine.
#[derive(Deserialize, Clone, Copy, Debug)]
pub(super) struct ReplyMachine {
    steal_share: Option<f64>,
    foreign_share: Option<f64>,
    /// Share of its memory in huge pages.
    pub(super) huge_page_share: Option<f64>,
}

impl ReplyMachine {
    /// Steal and foreign load while it ran.
    pub(super) fn load(&self) -> Option<Load> {
        Some(Load {
            steal_share: self.steal_share?,
            foreign_share: self.foreign_share?,
        })
    }
}

/// Starts this command with these words, asks it for its histograms too, and waits for it. `what` says in an error what was to be done.
///
/// # Errors
/// [`Error::Environment`] when it cannot be started, or fails.
pub(super) fn run(what: &str, words: &[String]) -> Result<Reply, Error> {
    let failed = |problem: String| Error::Environment {
        problem: format!("{what}: {problem}"),
        remedy: "a process of this program must be able to start another one".to_owned(),
    };
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let output = Command::new(program)
        .args(words)
        .arg("--with-histograms")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let ran = [0, i32::from(EXIT_NO), i32::from(EXIT_INTERRUPTED)];
    if !output.status.code().is_some_and(|code| ran.contains(&code)) {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!("{}: {}", output.status, said.trim())));
    }
    let text = String::from_utf8(output.stdout).map_err(|error| failed(error.to_string()))?;
    // Names in a result are static: a child's answer, some kilobytes a row, stays as long as this process.
    let text: &'static str = Box::leak(text.into_boxed_str());
    serde_json::from_str(text).map_err(|error| failed(error.to_string()))
}

/// The command line of a child that measures these tables at these sizes; no sizes are each workload's own.
pub(super) fn words(plan: &Plan, sizes: &[usize], tables: &[&str], seed: u64) -> Vec<String> {
    let joined = |numbers: &[usize]| {
        let words: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        words.join(",")
    };
    let mut words = vec!["run".to_owned()];
    words.extend(plan.workloads.iter().map(|w| w.name.to_owned()));
    let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    add("--table", tables.join(","));
    if !sizes.is_empty() {
        add("--connections", joined(sizes));
    }
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
    add("--seed", seed.to_string());
    add("--prefetch", plan.prefetch.words());
    add("--isa", plan.isa.name().to_owned());
    if let Some(rate) = rate::asked(&plan.demand) {
        add("--rate", rate);
    }
    if plan.workloads.iter().any(|w| w.kind.steers()) {
        add("--steer", plan.steer.name().to_owned());
    }
    words.extend(["--json".to_owned(), "--quiet".to_owned()]);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::lookup_hit;
    use std::time::Duration;

    #[test]
    fn a_childs_words_are_read_as_the_plan_that_they_were_made_of() {
        use clap::Parser as _;
        let plan = Plan {
            workers: vec![1, 2],
            batches: vec![8],
            duration: Some(Duration::from_millis(3)),
            repeat: Some(2),
            ..Plan::new(&[lookup_hit::WORKLOAD], &["lockfree", "striped"])
        };
        let words = words(&plan, &[5_000_000, 6_000_000], &["striped"], 9);
        let line = ["clashtrack".to_owned()].into_iter().chain(words);
        let parsed = crate::cli::Cli::try_parse_from(line).expect("a child understands it");
        let said = format!("{parsed:?}");
        for word in [
            "striped",
            "5000000",
            "6000000",
            "3000us",
            "lookup-hit",
            "Some(9)",
        ] {
            assert!(said.contains(word), "{word} in {said}");
        }
    }
}

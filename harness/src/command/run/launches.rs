//! `--launches N`: the whole plan in N fresh processes, one after the other, and their results made one.
//!
//! The hash's key, the placement of pages and the layout of code are drawn once a process, and move figures more than a
//! process's own repeats show. A child is this command again with the next seed (the key comes from it). Samples stay in
//! the order of the launches, and each result says how many of them each launch took.

use std::sync::atomic::{AtomicBool, Ordering};

use super::child::{self, Reply};
use crate::error::Error;
use crate::load::Load;
use crate::report::json::RunResult;
use crate::workload::Plan;

/// What the launches came to.
#[derive(Debug, Default)]
pub(super) struct Launched {
    /// One a row, of all launches.
    pub(super) results: Vec<RunResult>,
    /// Load during them, in the mean, where the system tells.
    pub(super) load: Option<Load>,
    /// Share of memory in huge pages, in the first launch.
    pub(super) huge_page_share: Option<f64>,
    /// Ended early, by Ctrl-C.
    pub(super) interrupted: bool,
    /// Every worker of every launch was pinned.
    pub(super) pinned: bool,
}

/// Carries out the plan in `launches` processes. `step` is called before each with its number, from 1.
///
/// # Errors
/// [`Error::Environment`] when a child cannot be started, or fails.
pub(super) fn measure(
    plan: &Plan,
    launches: usize,
    interrupted: &AtomicBool,
    mut step: impl FnMut(usize),
) -> Result<Launched, Error> {
    let mut replies: Vec<Reply> = Vec::new();
    let mut stopped = false;
    for number in 1..=launches {
        // Relaxed: a flag that stands for itself.
        stopped |= interrupted.load(Ordering::Relaxed);
        if stopped {
            break;
        }
        step(number);
        let seed = plan.seed.wrapping_add(number as u64 - 1);
        let words = child::words(plan, &plan.connections, &plan.tables, seed);
        let reply = child::run(&format!("launch {number} of {launches}"), &words)?;
        stopped |= reply.interrupted;
        replies.push(reply);
    }
    Ok(Launched {
        load: mean_load(&replies),
        huge_page_share: replies.first().and_then(|r| r.machine.huge_page_share),
        pinned: replies.iter().all(|reply| reply.config.pinned),
        interrupted: stopped,
        results: merge(replies.into_iter().map(|reply| reply.results)),
    })
}

fn mean_load(replies: &[Reply]) -> Option<Load> {
    let loads: Option<Vec<Load>> = replies.iter().map(|reply| reply.machine.load()).collect();
    let loads = loads.filter(|loads| !loads.is_empty())?;
    let mean = |share: fn(&Load) -> f64| loads.iter().map(share).sum::<f64>() / loads.len() as f64;
    Some(Load {
        steal_share: mean(|load| load.steal_share),
        foreign_share: mean(|load| load.foreign_share),
    })
}

/// Rows of the launches, each row's together, in the order of the first launch that has it.
fn merge(launches: impl Iterator<Item = Vec<RunResult>>) -> Vec<RunResult> {
    let mut rows: Vec<Vec<RunResult>> = Vec::new();
    for result in launches.flatten() {
        match rows.iter_mut().find(|row| row[0].is_same_case(&result)) {
            Some(row) => row.push(result),
            None => rows.push(vec![result]),
        }
    }
    rows.iter()
        .filter_map(|row| RunResult::of_launches(row))
        .collect()
}

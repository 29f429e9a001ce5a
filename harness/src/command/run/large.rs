//! Tables that are too large to be in memory together: each is measured in a process of its own.
//!
//! What a table leaves in its process (memory that the allocator kept, pages torn apart) is then in nobody else's
//! figures. A child is this command again, with one table and the large sizes, and what it prints as JSON is taken over
//! unchanged. A single table needs no child: it has this process to itself.

use std::sync::atomic::{AtomicBool, Ordering};

use super::child;
use crate::error::Error;
use crate::report::json::RunResult;
use crate::workload::Plan;
use crate::workload::case::TOGETHER_MAX;

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
        let words = child::words(plan, sizes, &[table], plan.seed);
        let what = format!("{table} cannot be measured in a process of its own");
        let reply = child::run(&what, &words)?;
        children.results.extend(reply.results);
        children.interrupted |= reply.interrupted;
        children.unpinned |= !reply.config.pinned;
    }
    Ok(children)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{lookup_hit, measure::OF_EVERY_WORKLOAD};

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
    fn a_result_is_the_same_after_its_way_through_json() {
        for measurement in OF_EVERY_WORKLOAD.iter() {
            let result = RunResult::of(measurement);
            let text = serde_json::to_string(&result).expect("numbers and names");
            let text: &'static str = Box::leak(text.into_boxed_str());
            let again: RunResult = serde_json::from_str(text).expect("our own JSON");
            assert_eq!(again, result);
        }
    }
}

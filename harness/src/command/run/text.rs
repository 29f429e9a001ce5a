//! What `clashtrack run` prints for people: how it was measured, the grids, the counters of the first table.

use super::args::Order;
use super::rate;
use super::{Outcome, used};
use crate::report::machine::Tuning;
use crate::report::table;
use crate::workload::worker::Cores;
use crate::workload::{Case, Plan};

/// The whole text.
pub(super) fn text(plan: &Plan, order: Order, cores: &Cores, outcome: &Outcome) -> String {
    let results = &outcome.results;
    let mut text = String::new();
    for workers in used(plan, |case| case.workers) {
        text.push_str(&cores.describe(workers, outcome.pinned));
        text.push('\n');
    }
    text.push_str(&format!(
        "{} connections or flows a round, batches of {}, {} of {}, seed {}{}; rounds of the tables take turns\n",
        joined(&used(plan, |case| case.connections)),
        joined(&used(plan, |case| case.batch)),
        counted(used(plan, Case::samples)[0], "sample"),
        used(plan, |case| case.duration)
            .iter()
            .map(|duration| format!("{duration:?}"))
            .collect::<Vec<_>>()
            .join(", "),
        plan.seed,
        match order.launches {
            1 => String::new(),
            launches => format!(" and on, {launches} launches"),
        },
    ));
    if let Some(rate) = rate::asked(&plan.demand) {
        text.push_str(&format!(
            "open loop, {rate} operations a second of all workers; latency from the moment an operation was due\n"
        ));
    }
    text.push_str(&tuning(outcome.tuning));
    text.push_str(&table::by_workload(results));
    if let Some(first) = plan.tables.first() {
        let of_first = results.iter().filter(|result| result.table == *first);
        for result in of_first.filter(|result| result.clash.is_some()) {
            text.push_str(&table::per_cpu(result, results));
        }
    }
    if plan.tables.len() > 1 && !results.is_empty() {
        text.push_str("The other tables' counters are under per_cpu in what --json prints.\n");
    }
    if outcome.interrupted {
        text.push_str(if results.is_empty() {
            "Interrupted before the first sample: nothing was measured.\n"
        } else {
            "Interrupted: this is what was measured so far.\n"
        });
    }
    text
}

/// What the figures depend on beside that, in words.
fn tuning(tuning: Tuning) -> String {
    let pages = match tuning.huge_page_share {
        Some(share) => format!("{:.0} % of the memory in huge pages", share * 100.0),
        None => "huge pages: this system does not tell".to_owned(),
    };
    format!(
        "prefetch {} to read and {} to write, {} scan, {pages}, {} allocator\n\n",
        tuning.prefetch, tuning.prefetch_write, tuning.isa, tuning.allocator
    )
}

/// `1 sample`, `2 samples`.
fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

fn joined(numbers: &[usize]) -> String {
    let words: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::args::RunArgs;
    use super::*;
    use crate::cli::Format;
    use crate::command::Globals;
    use clap::ColorChoice;

    #[test]
    fn an_interrupt_before_the_first_sample_is_not_called_a_measurement() {
        let cores = Cores::available();
        let globals = Globals {
            json: false,
            format: Format::Table,
            color: ColorChoice::Never,
            quiet: true,
            seed: None,
        };
        let args = RunArgs::main_job();
        let plan = args.plan(&globals, &cores).unwrap();
        let outcome = Outcome {
            results: Vec::new(),
            load: None,
            tuning: Tuning::with_share(plan.isa, plan.prefetch, None),
            pinned: true,
            interrupted: true,
        };
        let text = text(&plan, args.order().unwrap(), &cores, &outcome);
        assert!(
            text.ends_with("Interrupted before the first sample: nothing was measured.\n"),
            "{text}"
        );
        assert!(!text.contains("other tables"), "{text}");
    }
}

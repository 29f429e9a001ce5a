//! How cost grows as the table grows: a row a size, the machine's limit at each of them.

use super::grid::{Align, Grid};
use super::json::RunResult;
use crate::cli::Format;

/// Fewer sizes are seen at a glance in the grid of results.
const SIZES_MIN: usize = 3;

/// A table for each combination of workers, batch and protocol of a workload's results that was measured at several sizes; empty where none
/// was.
#[must_use]
pub fn growth(group: &[RunResult]) -> String {
    let mut text = String::new();
    let mut seen: Vec<(usize, usize, &str)> = Vec::new();
    let fits = |r: &&RunResult| r.clash.is_none() && r.open_loop.is_none();
    for result in group.iter().filter(fits) {
        let combination = (result.workers, result.batch, result.l4);
        if seen.contains(&combination) {
            continue;
        }
        seen.push(combination);
        let of_it: Vec<&RunResult> = group
            .iter()
            .filter(fits)
            .filter(|r| (r.workers, r.batch, r.l4) == combination)
            .collect();
        if each(&of_it, |r| r.connections).len() >= SIZES_MIN {
            let (workers, batch, l4) = combination;
            text.push_str(&format!(
                "{} as the table grows (workers {workers}, batch {batch}, {l4}): ns an operation, the limit's part of it, \
                 and times the cost at the first size\n",
                result.workload
            ));
            text.push_str(&by_size(&of_it));
        }
    }
    text
}

/// Each value once, in order.
fn each<V: PartialEq>(results: &[&RunResult], value: impl Fn(&RunResult) -> V) -> Vec<V> {
    let mut values = Vec::new();
    for value in results.iter().map(|result| value(result)) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

fn by_size(results: &[&RunResult]) -> String {
    let tables = each(results, |r| r.table);
    let mut sizes = each(results, |r| r.connections);
    sizes.sort_unstable();
    let mut heads = vec!["connections".to_owned(), "limit ns".to_owned()];
    for table in &tables {
        heads.extend([
            (*table).to_owned(),
            "of the limit".to_owned(),
            "grown".to_owned(),
        ]);
    }
    let mut grid = Grid::new(heads.into_iter().map(|head| (head, Align::Right)));
    let at = |table: &str, size: usize| {
        let mut all = results.iter();
        all.find(|r| r.table == table && r.connections == size)
    };
    let none = || "-".to_owned();
    for &size in &sizes {
        let limits = tables.iter().filter_map(|table| at(table, size)?.limit_ns);
        let limit = limits.reduce(f64::min);
        let mut cells = vec![
            size.to_string(),
            limit.map_or_else(none, |ns| format!("{ns:.1}")),
        ];
        for table in &tables {
            let first = sizes.iter().find_map(|&size| at(table, size));
            match (at(table, size), first) {
                (Some(result), Some(first)) => {
                    let ns = result.ns_per_op.median;
                    cells.push(format!("{ns:.1}"));
                    let ratio = |ratio| format!("{ratio:.2}");
                    cells.push(result.limit_ratio.map_or_else(none, ratio));
                    cells.push(format!("{:.2}", ns / first.ns_per_op.median));
                }
                _ => cells.extend([none(), none(), none()]),
            }
        }
        grid.row(cells);
    }
    grid.render(Format::Table)
}

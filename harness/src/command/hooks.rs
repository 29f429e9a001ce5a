//! `clashtrack hooks`: the places a packet passes, what runs there, and in which order.

use std::process::ExitCode;

use clashtrack_engine::addr::Family;
use clashtrack_engine::hook::{HOOK_FAMILIES, HOOKS};
use serde::Serialize;

use super::Globals;
use crate::error::Error;
use crate::report::envelope::{Envelope, Nothing};
use crate::report::grid::{Align, Grid};

const AFTER_HELP: &str = "\
Examples:
  clashtrack hooks
  clashtrack hooks --json";

/// What `hooks` takes: nothing of its own.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct HooksArgs {}

/// One hook, as `--json` prints it.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
struct Row {
    family: &'static str,
    hook: &'static str,
    /// The kernel's number; 2147483647 is the last of all.
    priority: i32,
    function: &'static str,
}

/// Prints the hook table.
///
/// # Errors
/// [`Error::Output`] when stdout cannot be written.
pub fn run(_args: &HooksArgs, globals: &Globals) -> Result<ExitCode, Error> {
    let rows = rows();
    if globals.json {
        Envelope::new("hooks", Nothing {}, rows, Nothing {}).print()?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut grid = Grid::new([
        ("family", Align::Left),
        ("hook", Align::Left),
        ("priority", Align::Right),
        ("function", Align::Left),
    ]);
    for row in rows {
        grid.row([
            row.family.to_owned(),
            row.hook.to_owned(),
            row.priority.to_string(),
            row.function.to_owned(),
        ]);
    }
    grid.print(globals.format)?;
    Ok(ExitCode::SUCCESS)
}

fn rows() -> Vec<Row> {
    HOOK_FAMILIES
        .iter()
        .flat_map(|&family| HOOKS.iter().map(move |hook| (family, hook)))
        .map(|(family, hook)| Row {
            family: family_name(family),
            hook: hook.point.name(),
            priority: hook.priority,
            function: hook.function.name(),
        })
        .collect()
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirm_stands_last_where_packets_leave_and_in_no_other_row() {
        let rows = rows();
        let confirms: Vec<_> = rows
            .iter()
            .filter(|row| row.function.contains("confirm"))
            .collect();
        let hooks: Vec<_> = confirms.iter().map(|row| row.hook).collect();
        assert_eq!(hooks, ["LOCAL_IN", "POST_ROUTING"]);
        for row in confirms {
            assert_eq!(row.priority, 2_147_483_647);
            assert_eq!(row.function, "conntrack confirm");
        }
    }
}

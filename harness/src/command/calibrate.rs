//! `clashtrack calibrate`: nanoseconds a cache line on this machine, by prefetch hint and lines under way.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use clashtrack_engine::table::lockfree::Isa;

use super::{Globals, values};
use crate::calibrate::{self, Access, Cost, Hints};
use crate::cli::Format;
use crate::error::Error;
use crate::limit::{DEPTHS, Line};
use crate::memory::Resident;
use crate::report::envelope::Envelope;
use crate::report::grid::{Align, Grid};
use crate::report::machine::{Machine, Tuning};

const AFTER_HELP: &str = "\
The memory is the tables' own kind: huge pages where the system grants them. `run` does the same for
a few milliseconds to choose a hint, unless --prefetch names one. t0, t1 and nta are the processor's
prefetch instructions for reading, w the one for writing, none is no prefetch.

Examples:
  clashtrack calibrate
  clashtrack calibrate --lines 4M --json";

/// What `calibrate` takes.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct CalibrateArgs {
    /// Cache lines of the memory that is gone through; 1M is 64 MB
    #[arg(long, value_name = "N", default_value = "2M")]
    pub lines: String,
}

const LINES_MAX: usize = 1 << 28;
/// Seed of the order of lines, where the user gave none.
const DEFAULT_SEED: u64 = 1;

#[derive(Serialize, Debug)]
struct Config {
    lines: usize,
    bytes: usize,
    seed: u64,
}

#[derive(Serialize, Debug)]
struct Row {
    access: &'static str,
    hint: &'static str,
    in_flight: usize,
    ns_per_line: f64,
}

#[derive(Serialize, Debug)]
struct Beside {
    best: Best,
}

#[derive(Serialize, Debug)]
struct Best {
    read: Option<Row>,
    write: Option<Row>,
}

impl Row {
    fn of(cost: &Cost) -> Row {
        Row {
            access: cost.access.name(),
            hint: cost.hint.name(),
            in_flight: cost.in_flight,
            ns_per_line: cost.ns_per_line,
        }
    }
}

/// Measures and prints.
///
/// # Errors
/// [`Error::Argument`] for a size that cannot be had; [`Error::Output`] when stdout cannot be written.
pub fn run(args: &CalibrateArgs, globals: &Globals) -> Result<ExitCode, Error> {
    let lines = values::size("--lines", &args.lines)?;
    let bytes = lines.saturating_mul(size_of::<Line>());
    if lines == 0 || lines > LINES_MAX {
        return Err(Error::Argument {
            flag: "--lines",
            problem: format!("{lines} is out of range"),
            remedy: format!("write a number from 1 to {LINES_MAX}"),
        });
    }
    if let Some(free) = Machine::memory_available().filter(|&free| bytes as u64 > free) {
        return Err(Error::Argument {
            flag: "--lines",
            problem: format!(
                "{lines} lines take {} MB, and {} MB are free",
                bytes / 1_000_000,
                free / 1_000_000
            ),
            remedy: "write fewer lines".to_owned(),
        });
    }
    let seed = globals.seed.unwrap_or(DEFAULT_SEED);
    let costs = calibrate::measure(lines, seed);
    let resident = Resident::now();
    match globals.format {
        Format::Json => {
            let best = |access| calibrate::best(&costs, access).map(|cost| Row::of(&cost));
            let beside = Beside {
                best: Best {
                    read: best(Access::Read),
                    write: best(Access::Write),
                },
            };
            let rows: Vec<Row> = costs.iter().map(Row::of).collect();
            let hints = Hints::best(&costs);
            let machine = Machine {
                tuning: Some(Tuning::new(Isa::default(), hints, resident)),
                ..Machine::here()
            };
            let config = Config { lines, bytes, seed };
            Envelope::new("calibrate", config, rows, beside)
                .with_machine(machine)
                .print()?;
        }
        format => {
            let mut text = grid(&costs).render(format);
            if format == Format::Table {
                text.push_str(&closing(&costs));
            }
            io::stdout()
                .lock()
                .write_all(text.as_bytes())
                .map_err(Error::Output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A row an access and hint, a column a number of lines under way.
fn grid(costs: &[Cost]) -> Grid {
    let mut head = vec![
        ("access".to_owned(), Align::Left),
        ("hint".to_owned(), Align::Left),
    ];
    head.extend(DEPTHS.map(|depth| (format!("ns a line, {depth} under way"), Align::Right)));
    let mut grid = Grid::new(head);
    for row in costs.chunks(DEPTHS.len()) {
        let mut cells = vec![
            row[0].access.name().to_owned(),
            row[0].hint.name().to_owned(),
        ];
        cells.extend(row.iter().map(|cost| format!("{:.1}", cost.ns_per_line)));
        grid.row(cells);
    }
    grid
}

fn closing(costs: &[Cost]) -> String {
    let mut text = String::new();
    for access in [Access::Read, Access::Write] {
        if let Some(best) = calibrate::best(costs, access) {
            text.push_str(&format!(
                "To {} a line, {} with {} under way is best: {:.1} ns.\n",
                access.name(),
                best.hint.name(),
                best.in_flight,
                best.ns_per_line
            ));
        }
    }
    text
}

//! `clashtrack compare BASE NEW`: which rows of two result files differ, and how sure that is.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use clashtrack_statistics::resample::LAUNCH_SD;

use super::{Globals, values};
use crate::cli::Format;
use crate::compare::file::{self, Difference, ResultFile};
use crate::compare::{self, Compared, Comparison, DRIFT_SD, FALSE_ALARMS};
use crate::error::{EXIT_NO, Error};
use crate::report::envelope::Envelope;
use crate::report::grid::{Align, Grid};

const AFTER_HELP: &str = "\
BASE and NEW are files that `clashtrack run … --json` wrote. The ratio is NEW/BASE of the time of an operation: above 1 is
slower. Two separate files carry less than one run, since the machine drifts between them: each sample is taken relative to
the machine's limit measured beside it in its own run, where the row has one, and the variance between launches that a file
does not show is added. With --launches 10 or so for both files, intervals become a third as wide.

Verdicts: worse or better where the whole interval is beyond the threshold, same where all of it is within, else unsure.
Intervals hold together at 95 % (Holm's correction): comparing many rows does not multiply false alarms.

Files may be compared when schema, processor, vCPUs, kernel release, page size and settings but the seed agree.

Exit codes: 1 where some row is worse; 0 otherwise, unsure ones included; 2 for files that may not be compared.

Examples:
  clashtrack run lookup-hit connect --launches 5 --json > base.json
  clashtrack compare base.json new.json
  clashtrack compare base.json new.json --threshold 5% --json";

/// What `compare` takes.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct CompareArgs {
    /// Result to compare with
    #[arg(value_name = "BASE")]
    pub base: PathBuf,
    /// Result that may be slower
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// How much slower is still well
    #[arg(long, value_name = "PERCENT", default_value = "10%")]
    pub threshold: String,
    /// Compare what may not be compared: other machines, other settings
    #[arg(long)]
    pub force: bool,
}

/// Seed of the resampling, where the user gave none.
const DEFAULT_SEED: u64 = 1;

#[derive(Serialize, Debug)]
struct Config<'a> {
    base: &'a str,
    new: &'a str,
    threshold: f64,
    confidence: f64,
    correction: &'static str,
    launch_sd: f64,
    drift_sd_without_limit: f64,
    seed: u64,
    force: bool,
}

#[derive(Serialize, Debug)]
struct Beside<'a> {
    /// What should have forbidden it, with `--force`.
    forced: &'a [Difference],
    told: &'a [Difference],
    only_in_base: &'a [String],
    only_in_new: &'a [String],
}

/// Compares and prints.
///
/// # Errors
/// [`Error::File`] and [`Error::Input`] for files that cannot be read, or may not be compared;
/// [`Error::Argument`] for a threshold that is none; [`Error::Output`] when stdout cannot be written.
pub fn run(args: &CompareArgs, globals: &Globals) -> Result<ExitCode, Error> {
    let threshold = values::percent("--threshold", &args.threshold)?;
    let base = ResultFile::read(&args.base)?;
    let new = ResultFile::read(&args.new)?;
    let (forbid, tell) = file::differences(&base, &new);
    if !forbid.is_empty() && !args.force {
        let fields: Vec<String> = forbid.iter().map(ToString::to_string).collect();
        return Err(Error::Input {
            place: format!("{} and {}", base.place, new.place),
            problem: format!("these may not be compared: {}", fields.join("; ")),
            remedy: "measure both alike, or say --force to compare them all the same".to_owned(),
        });
    }
    let seed = globals.seed.unwrap_or(DEFAULT_SEED);
    let comparison = compare::compare(&base, &new, threshold, seed);
    if comparison.rows.is_empty() {
        return Err(Error::Input {
            place: format!("{} and {}", base.place, new.place),
            problem: "no result is in both".to_owned(),
            remedy: "run the same workloads on the same tables for both".to_owned(),
        });
    }
    match globals.format {
        Format::Json => {
            let config = Config {
                base: &base.place,
                new: &new.place,
                threshold,
                confidence: 1.0 - FALSE_ALARMS,
                correction: "holm",
                launch_sd: LAUNCH_SD,
                drift_sd_without_limit: DRIFT_SD,
                seed,
                force: args.force,
            };
            let beside = Beside {
                forced: &forbid,
                told: &tell,
                only_in_base: &comparison.only_in_base,
                only_in_new: &comparison.only_in_new,
            };
            Envelope::new("compare", config, &comparison.rows, beside).print()?;
        }
        format => {
            let mut text = grid(&comparison.rows, format).render(format);
            if format == Format::Table {
                text.push_str(&notes(&comparison, threshold));
                text.push_str(&told([&base, &new], &forbid, &tell));
            }
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).map_err(Error::Output)?;
        }
    }
    Ok(if comparison.regressed() {
        ExitCode::from(EXIT_NO)
    } else {
        ExitCode::SUCCESS
    })
}

type Column = (&'static str, Align, fn(&Compared) -> String);

const COLUMNS: [Column; 13] = [
    ("workload", Align::Left, |row| row.workload.clone()),
    ("table", Align::Left, |row| row.table.clone()),
    ("l4", Align::Left, |row| row.l4.clone()),
    ("workers", Align::Right, |row| row.workers.to_string()),
    ("batch", Align::Right, |row| row.batch.to_string()),
    ("connections", Align::Right, |row| {
        row.connections.to_string()
    }),
    ("ratio", Align::Right, |row| format!("{:.3}", row.ratio)),
    ("ci_low", Align::Right, |row| format!("{:.3}", row.ci_low)),
    ("ci_high", Align::Right, |row| format!("{:.3}", row.ci_high)),
    ("verdict", Align::Left, |row| row.verdict.name().to_owned()),
    ("limit_moved", Align::Right, |row| {
        row.limit_moved
            .map_or_else(String::new, |moved| format!("{moved:.3}"))
    }),
    ("samples", Align::Right, |row| pair(row.samples)),
    ("launches", Align::Right, |row| pair(row.launches)),
];

/// BASE's and NEW's, one number where they are the same.
fn pair([base, new]: [usize; 2]) -> String {
    if base == new {
        base.to_string()
    } else {
        format!("{base}/{new}")
    }
}

/// CSV has all columns; people see the sizes only where rows differ in them.
pub(super) fn grid(rows: &[Compared], format: Format) -> Grid {
    let shown = |(name, _, cell): &&Column| {
        let always = !matches!(*name, "l4" | "workers" | "batch" | "connections");
        let varies = rows.iter().any(|row| cell(row) != cell(&rows[0]));
        format == Format::Csv || always || varies
    };
    let columns: Vec<&Column> = COLUMNS.iter().filter(shown).collect();
    let mut grid = Grid::new(columns.iter().map(|&&(name, align, _)| (name, align)));
    for row in rows {
        grid.row(columns.iter().map(|(_, _, cell)| cell(row)));
    }
    grid
}

/// How the intervals were made.
fn notes(comparison: &Comparison, threshold: f64) -> String {
    let rows = &comparison.rows;
    let mut text = format!(
        "\nratio: time of an operation, NEW/BASE, above 1 is slower; threshold {:.1} %; the {} {} at {:.0} % {} \
         (Holm's correction).\n",
        threshold * 100.0,
        rows.len(),
        if rows.len() == 1 {
            "interval holds"
        } else {
            "intervals hold"
        },
        (1.0 - FALSE_ALARMS) * 100.0,
        if rows.len() == 1 { "alone" } else { "together" },
    );
    text.push_str(&format!(
        "Added for what differs between launches and few launches do not show: {:.0} % of standard deviation a launch, \
         less with more launches.\n",
        LAUNCH_SD * 100.0
    ));
    let mut without: Vec<&str> = rows
        .iter()
        .filter(|row| !row.relative_to_limit)
        .map(|row| row.workload.as_str())
        .collect();
    without.dedup();
    if without.len() < rows.len() && rows.iter().any(|row| row.relative_to_limit) {
        text.push_str("Samples are relative to the machine's limit, measured beside them.\n");
    }
    if !without.is_empty() {
        text.push_str(&format!(
            "No limit was measured beside {}: the machine's drift between the files is only in the variance that was \
             added ({:.0} % a file).\n",
            without.join(", "),
            DRIFT_SD * 100.0
        ));
    }
    for (file, names) in [
        ("BASE", &comparison.only_in_base),
        ("NEW", &comparison.only_in_new),
    ] {
        for name in names {
            text.push_str(&format!("Only in {file}, not compared: {name}.\n"));
        }
    }
    let few = rows
        .iter()
        .any(|row| row.samples.iter().any(|&n| n < compare::SAMPLES_MIN));
    if few {
        text.push_str(&format!(
            "Rows with fewer than {} samples are not judged: more by --repeat or --launches.\n",
            compare::SAMPLES_MIN
        ));
    }
    text
}

/// What differs between the files, and what disturbed them.
fn told(files: [&ResultFile; 2], forced: &[Difference], tell: &[Difference]) -> String {
    let mut text = String::new();
    for difference in forced {
        text.push_str(&format!("Compared by --force, though {difference}.\n"));
    }
    for difference in tell {
        text.push_str(&format!("Differs: {difference}.\n"));
    }
    for (name, file) in ["BASE", "NEW"].iter().zip(files) {
        let disturbed: usize = file
            .rows
            .iter()
            .map(|row| row.disturbed_samples.len())
            .sum();
        let samples: usize = file.rows.iter().map(file::Row::samples).sum();
        if disturbed > 0 {
            text.push_str(&format!(
                "{name}: {disturbed} of {samples} samples were taken while others used more than 5 % of the machine.\n"
            ));
        }
        if file.interrupted {
            text.push_str(&format!("{name} was ended by Ctrl-C.\n"));
        }
    }
    text
}

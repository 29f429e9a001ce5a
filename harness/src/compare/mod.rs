//! Whether one result file is slower than another, and how sure that is.
//!
//! ```text
//! file       reads what `run --json` printed; which two files may be compared
//! paired     the same of samples that two programs took in turns
//! ```
//! The statistics are `clashtrack-statistics`': samples by launch ─▶ draws of the ratio (hierarchical bootstrap), and a level for each
//! row, so that many rows do not multiply false alarms.
//!
//! # Model
//! A sample's logarithm is a sum: the table, the machine on that day, its launch (hash key, page placement and code
//! layout are drawn once a process), and the sample's own noise. The machine on that day is taken out by dividing each
//! sample by the limit measured beside it in its own run, where a row has one. The launch is what the resampling shows
//! where a file has several; what it cannot show, because there are few or one, is added as [`LAUNCH_SD`](resample::LAUNCH_SD). Rows without
//! a limit get [`DRIFT_SD`] a file beside.
//!
//! # Verdict
//! The interval is of the ratio NEW/BASE, at the level that Holm's correction leaves to the row:
//!
//! ```text
//!      1/(1+t)        1        1+t
//!         |───────────|─────────|    ├────┤  worse
//!  ├───┤  |           |         |            better
//!         |        ├────┤       |            same
//!         |           |    ├────────┤        unsure
//! ```
//! Sources: T. Kalibera and R. Jones, *Rigorous benchmarking in reasonable time*, ISMM 2013 (levels of repetition);
//! A. C. Davison and D. V. Hinkley, *Bootstrap Methods and their Application*, 1997, 3.8 (several levels, and that
//! resampling L of something shows (L−1)/L of its variance); S. Holm, Scand. J. Statist. 6 (1979), 65.

pub mod file;
pub mod paired;

use serde::{Deserialize, Serialize};

use clashtrack_engine::random::WorkerRng;
use clashtrack_statistics::draws::{self, Draws};
use clashtrack_statistics::holm;
use clashtrack_statistics::resample::{self, Side};

use self::file::{ResultFile, Row};

/// Standard deviation of what the machine's speed changes between two files, for rows that have no limit beside them.
pub const DRIFT_SD: f64 = 0.10;

/// The chance that any row of a comparison of equals gets a false alarm, or a false praise.
pub const FALSE_ALARMS: f64 = 0.05;

/// Fewer samples than this in either file, of all launches together, are not judged.
pub const SAMPLES_MIN: usize = 3;

/// What became of a row.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Faster, beyond the threshold.
    Better,
    /// Slower, beyond the threshold.
    Worse,
    /// Surely within the threshold.
    Same,
    /// The samples do not tell.
    Unsure,
}

impl Verdict {
    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::Same => "same",
            Verdict::Unsure => "unsure",
        }
    }

    /// Of an interval of the ratio's logarithm.
    fn of((low, high): (f64, f64), threshold: f64) -> Verdict {
        let limit = threshold.ln_1p();
        if low > limit {
            Verdict::Worse
        } else if high < -limit {
            Verdict::Better
        } else if low >= -limit && high <= limit {
            Verdict::Same
        } else {
            Verdict::Unsure
        }
    }
}

/// A row of both files, compared.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Compared {
    /// Name of the workload.
    pub workload: String,
    /// Name of the table.
    pub table: String,
    /// Workers.
    pub workers: usize,
    /// Keys or connections together.
    pub batch: usize,
    /// Connections of the table, or flows of a round.
    pub connections: usize,
    /// Protocol of the connections.
    pub l4: String,
    /// `ns_per_op` of NEW ÷ BASE, each relative to its limit where there is one: above 1 is slower.
    pub ratio: f64,
    /// Lower end of the ratio's interval.
    pub ci_low: f64,
    /// Upper end.
    pub ci_high: f64,
    /// What follows.
    pub verdict: Verdict,
    /// Each sample was taken relative to the machine's limit of its own run.
    pub relative_to_limit: bool,
    /// The limit itself, NEW ÷ BASE: how far the machine's speed moved; null without a limit.
    pub limit_moved: Option<f64>,
    /// Launches of BASE and NEW.
    pub launches: [usize; 2],
    /// Samples of BASE and NEW, of all launches.
    pub samples: [usize; 2],
    /// Of them taken while the hypervisor or other processes took more than 5 %.
    pub disturbed_samples: [usize; 2],
}

/// What two files come to.
#[derive(Clone, PartialEq, Debug)]
pub struct Comparison {
    /// Rows that both have, in BASE's order.
    pub rows: Vec<Compared>,
    /// Names of the rows that only BASE has.
    pub only_in_base: Vec<String>,
    /// Names of the rows that only NEW has.
    pub only_in_new: Vec<String>,
}

impl Comparison {
    /// Whether some row is slower beyond the threshold, surely.
    #[must_use]
    pub fn regressed(&self) -> bool {
        self.rows.iter().any(|row| row.verdict == Verdict::Worse)
    }
}

/// Compares the rows that two files share. `threshold` is a share, 0.1 for 10 %; `seed` is the resampling's.
#[must_use]
pub fn compare(base: &ResultFile, new: &ResultFile, threshold: f64, seed: u64) -> Comparison {
    let missing = |from: &ResultFile, other: &ResultFile| {
        let rows = from
            .rows
            .iter()
            .filter(|row| other.row(&row.key()).is_none());
        rows.map(|row| row.key().to_string()).collect()
    };
    let pairs: Vec<(&Row, &Row)> = base
        .rows
        .iter()
        .filter_map(|row| Some((row, new.row(&row.key())?)))
        .collect();
    let resamples = draws::count(pairs.len(), FALSE_ALARMS);
    let draws: Vec<Draws> = pairs
        .iter()
        .enumerate()
        .map(|(number, (base, new))| {
            draws_of(base, new, resamples, &mut WorkerRng::new(seed, number))
        })
        .collect();
    let levels = levels(&draws, threshold);
    let rows = pairs
        .iter()
        .zip(draws.iter().zip(levels))
        .map(|((base, new), (draws, level))| judge(base, new, draws, level, threshold))
        .collect();
    Comparison {
        rows,
        only_in_base: missing(base, new),
        only_in_new: missing(new, base),
    }
}

/// The level of each row's interval, so that together they hold at [`FALSE_ALARMS`].
fn levels(draws: &[Draws], threshold: f64) -> Vec<f64> {
    let chances: Vec<f64> = draws
        .iter()
        .map(|draws| draws.chance_within(threshold.ln_1p()))
        .collect();
    holm::levels(&chances, FALSE_ALARMS)
}

fn draws_of(base: &Row, new: &Row, resamples: usize, rng: &mut WorkerRng) -> Draws {
    let relative = base.has_limit() && new.has_limit();
    let drift = if relative { 0.0 } else { DRIFT_SD };
    let side = |row: &Row| Side::new(row.logarithms(relative), drift);
    resample::draws(&side(base), &side(new), resamples, rng)
}

fn judge(base: &Row, new: &Row, draws: &Draws, level: f64, threshold: f64) -> Compared {
    let interval = draws.interval(level);
    let samples = [base, new].map(Row::samples);
    let judged = samples.iter().all(|&samples| samples >= SAMPLES_MIN);
    let relative_to_limit = base.has_limit() && new.has_limit();
    Compared {
        workload: base.workload.clone(),
        table: base.table.clone(),
        workers: base.workers,
        batch: base.batch,
        connections: base.connections,
        l4: base.l4.clone(),
        ratio: draws.centre().exp(),
        ci_low: interval.0.exp(),
        ci_high: interval.1.exp(),
        verdict: if judged {
            Verdict::of(interval, threshold)
        } else {
            Verdict::Unsure
        },
        relative_to_limit,
        limit_moved: base
            .limit_ns
            .zip(new.limit_ns)
            .map(|(base, new)| new / base),
        launches: [base, new].map(Row::launches),
        samples,
        disturbed_samples: [base, new].map(|row| row.disturbed_samples.len()),
    }
}

#[cfg(test)]
mod tests;

//! The driver: all tables of a case and the machine's limit, their rounds interleaved.
//!
//! ```text
//! for each group of cases (workload x connections x batch x protocol), a case a number of workers
//!   make all tables of each case, one warm-up round each
//!   for each sample: rounds A B C limit of one worker, A B C limit of two … until each has its time
//!   ─▶ one Measurement a case and table
//! ```
//! Interleaving makes a change of the machine's speed hit all tables alike, and the limit too; and one worker as it hits two,
//! so that how a table scales is not what the machine did meanwhile. The rounds are `contest`'s.

use std::sync::Arc;
#[cfg(test)]
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::{ChainLengths, FlowTable, HitLines};

use super::anomaly::Anomalies;
use super::answers::{self, OtherAnswer};
use super::case::{Case, Plan, TOGETHER_MAX};
use super::contest::{self, Contest, Enter};
use super::expire::Expiry;
use super::open_loop::{Conditions, Demand, OpenLoop};
use super::pace::Pace;
use super::stall::Stall;
use super::tally::Tally;
use super::traffic::Traffic;
use super::worker::Cores;
use crate::load::{Load, Ticks};
use crate::memory::Resident;
use crate::peer::{self, TableVisitor};

/// What a round came to.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// The timed part.
    pub elapsed: Duration,
    /// Whether every worker was pinned.
    pub pinned: bool,
    /// Operations done in it, of all workers together.
    pub operations: u64,
    /// What became of connections that were offered, all workers together.
    pub tally: Tally,
    /// Chances to collide: for each flow, the workers that had it in hand, less one.
    pub chances: u64,
    /// What the checks at rest and on the spot saw.
    pub anomalies: Anomalies,
    /// Chains before the table was emptied; `None` for a table that has none to count.
    pub chains: Option<ChainLengths>,
    /// Lines that hits read, where they were counted.
    pub hit_lines: Option<HitLines>,
    /// The `stall` workload's own.
    pub stall: Option<Stall>,
    /// The `expire` workload's own.
    pub expiry: Option<Expiry>,
}

/// A table in a measurement, or the machine's limit, whatever its type.
pub trait Contender: Send {
    /// Does the next part of the work, checks what came of it, and leaves everything ready for the next.
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round;
    /// The counters of each worker since the last reset.
    fn per_cpu(&self) -> Vec<ConntrackStats>;
    /// Forgets what was counted so far (the warm-up).
    fn reset(&mut self);
    /// The paces of its workers; none where operations cannot be offered at a rate.
    fn paces(&mut self) -> Vec<&mut Pace> {
        Vec::new()
    }
}

/// One sample of one table.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample {
    /// Time measured.
    pub elapsed: Duration,
    /// Operations in it.
    pub operations: u64,
    /// What became of the connections.
    pub tally: Tally,
    /// Steal or foreign load was beyond [`DISTURBED_BEYOND`](crate::load::DISTURBED_BEYOND) meanwhile.
    pub disturbed: bool,
}

impl Sample {
    /// Nanoseconds an operation, of one worker's time.
    #[must_use]
    pub fn ns_per_op(&self, workers: usize) -> f64 {
        self.elapsed.as_secs_f64() * 1e9 * workers as f64 / self.operations as f64
    }

    /// Operations a second, all workers together.
    #[must_use]
    pub fn ops_per_s(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }
}

/// All samples of one case on one table.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// What was measured.
    pub case: Case,
    /// On which table.
    pub table: &'static str,
    /// The samples, in order.
    pub samples: Vec<Sample>,
    /// Those of the machine's limit, taken in between; empty where there is no limit to compare with.
    pub limit: Vec<Sample>,
    /// All samples together.
    pub tally: Tally,
    /// Chances to collide in all samples.
    pub chances: u64,
    /// What must not be, in all samples.
    pub anomalies: Anomalies,
    /// Chains, of all rounds together; `None` for a table without chains.
    pub chains: Option<ChainLengths>,
    /// Lines that hits read, by the last count.
    pub hit_lines: Option<HitLines>,
    /// The kernel's counters, one block a worker.
    pub per_cpu: Vec<ConntrackStats>,
    /// Whether every worker was pinned.
    pub pinned: bool,
    /// The `stall` workload's own.
    pub stall: Option<Stall>,
    /// The `expire` workload's own, of all samples together.
    pub expiry: Option<Expiry>,
    /// Operations were offered at a rate.
    pub open_loop: Option<OpenLoop>,
    /// Growth of resident memory a connection, where somebody measured it.
    pub bytes_per_connection: Option<f64>,
}

/// Below this share of collisions a clash workload's figures are marked.
pub const UNSURE_BELOW: f64 = 0.2;

impl Measurement {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(case: Case, table: &'static str) -> Measurement {
        Measurement {
            case,
            table,
            samples: Vec::new(),
            limit: Vec::new(),
            tally: Tally::default(),
            chances: 0,
            anomalies: Anomalies::default(),
            chains: None,
            hit_lines: None,
            per_cpu: Vec::new(),
            pinned: true,
            stall: None,
            expiry: None,
            open_loop: None,
            bytes_per_connection: None,
        }
    }

    /// Clashes found at confirm ÷ chances to collide. With two workers the chances are the flows that both had in
    /// hand; a third worker on a flow is one more chance.
    #[must_use]
    pub fn collided_share(&self) -> f64 {
        if self.chances == 0 {
            0.0
        } else {
            self.tally.collided as f64 / self.chances as f64
        }
    }

    /// The workers hardly met: the figures say little about clashes.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        self.collided_share() < UNSURE_BELOW
    }

    pub(super) fn add(&mut self, round: Round) {
        self.tally.add(&round.tally);
        self.chances += round.chances;
        self.anomalies.add(round.anomalies);
        self.pinned &= round.pinned;
        if let Some(chains) = &round.chains {
            let sum = &mut self.chains.get_or_insert_default().histogram;
            sum.resize(sum.len().max(chains.histogram.len()), 0);
            for (total, count) in sum.iter_mut().zip(&chains.histogram) {
                *total += count;
            }
        }
        self.hit_lines = round.hit_lines.or(self.hit_lines);
        if let Some(stall) = round.stall {
            self.stall = Some(stall);
        }
        match (&mut self.expiry, round.expiry) {
            (Some(sum), Some(expiry)) => sum.add(&expiry),
            (sum @ None, expiry) => *sum = expiry,
            (Some(_), None) => {}
        }
    }
}

/// What a plan came to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// One a case and table of which anything was measured.
    pub measurements: Vec<Measurement>,
    /// Load during the whole run, where the system tells.
    pub load: Option<Load>,
    /// Memory while the first case's tables were full, where the system tells.
    pub resident: Option<Resident>,
    /// Ended early, by Ctrl-C.
    pub interrupted: bool,
}

impl Measured {
    /// Nothing was to be measured.
    #[must_use]
    pub fn nothing() -> Measured {
        Measured {
            measurements: Vec::new(),
            load: None,
            resident: None,
            interrupted: false,
        }
    }
}

/// Carries out a plan. `step` is called after each sample of each table with its name and workload.
///
/// Uses a thread a worker and memory for all tables at once; ends within a batch after
/// `interrupted` is raised, with what was measured so far.
///
/// # Panics
/// If a worker panics (a broken invariant of a table), with its cause.
pub fn measure(
    plan: &Plan,
    interrupted: &AtomicBool,
    step: impl FnMut(&'static str, &'static str),
) -> Measured {
    measure_all(plan, &listed(plan), interrupted, step)
}

/// [`measure`] with a table of the caller's own after those that the plan names, in the same rounds. Before
/// anything is timed all of them are asked for the same answers.
///
/// # Errors
/// [`OtherAnswer`] of the first table that does not give them.
///
/// # Panics
/// As [`measure`].
pub fn run_on<T: FlowTable<KeyV4> + 'static>(
    plan: &Plan,
    interrupted: &AtomicBool,
    step: impl FnMut(&'static str, &'static str),
) -> Result<Measured, OtherAnswer>
where
    T::Worker: 'static,
{
    answers::compare(&plan.tables, plan.seed)?;
    answers::compare_own::<T>(plan.seed)?;
    let mut entrants = listed(plan);
    entrants.push(Entrant {
        name: T::NAME,
        enter: |_, enter| Some(enter.visit::<T>()),
    });
    Ok(measure_all(plan, &entrants, interrupted, step))
}

/// A table in a measurement: its name, and how its contender is made, once a case.
pub(super) struct Entrant {
    pub(super) name: &'static str,
    pub(super) enter: fn(&'static str, Enter<'_>) -> Option<Box<dyn Contender>>,
}

/// One case on one table for a profiler: made and warmed up, then rounds until the case's time is reached. `phase` is
/// called with true before the first of them and with false after the last.
///
/// # Errors
/// Of `phase`.
///
/// # Panics
/// If there is no such table, or a worker panics.
pub fn profile<E>(
    case: &Case,
    table: &'static str,
    mut phase: impl FnMut(bool) -> Result<(), E>,
) -> Result<(), E> {
    let cores = Cores::available();
    let never = AtomicBool::new(false);
    let traffic = Arc::new(Traffic::of(case));
    let mut contender = peer::visit(table, Enter(case, &traffic)).expect("a listed table");
    contender.round(&cores, &never);
    phase(true)?;
    let mut elapsed = Duration::ZERO;
    while elapsed < case.duration {
        let round = contender.round(&cores, &never);
        // Clocks are coarse on some systems: a round that took no time at all must not go on for ever.
        elapsed += round.elapsed.max(Duration::from_micros(1));
    }
    phase(false)
}

/// The tables that a plan names.
fn listed(plan: &Plan) -> Vec<Entrant> {
    let tables = plan.tables.iter();
    tables
        .map(|&name| Entrant {
            name,
            enter: |name, enter| peer::visit(name, enter),
        })
        .collect()
}

fn measure_all(
    plan: &Plan,
    entrants: &[Entrant],
    interrupted: &AtomicBool,
    mut step: impl FnMut(&'static str, &'static str),
) -> Measured {
    let cores = Cores::available();
    let begun = Ticks::now();
    let mut measurements = Vec::new();
    let mut resident = None;
    let stopped = || is_raised(interrupted);
    for group in plan.groups() {
        let first = group[0];
        // Beyond this size tables take the memory in turns.
        let sets: Vec<&[Entrant]> = if first.connections > TOGETHER_MAX {
            entrants.chunks(1).collect()
        } else {
            vec![entrants]
        };
        for tables in sets {
            if stopped() {
                break;
            }
            let contest = |case| Contest::new(tables, case);
            let mut contests: Vec<Contest> = group.iter().map(contest).collect();
            for contest in &mut contests {
                contest.warm_up(&cores, interrupted);
            }
            resident = resident.or_else(Resident::now);
            let mut step = |table| step(first.workload.name, table);
            let conditions = |case| Conditions {
                case,
                cores: &cores,
                interrupted,
            };
            match &plan.demand {
                Demand::AsFastAsPossible => {
                    for _ in 0..first.samples() {
                        if stopped() {
                            break;
                        }
                        contest::sample(&mut contests, first.enough(), &cores, interrupted);
                        for contest in &contests {
                            contest.names().for_each(&mut step);
                        }
                    }
                    measurements.extend(contests.into_iter().flat_map(Contest::finish));
                }
                Demand::Rates(rates) => {
                    for (contest, case) in contests.iter_mut().zip(&group) {
                        for &rate in rates {
                            let rate = rate as f64;
                            measurements.extend(contest.at_rate(rate, conditions(case), &mut step));
                        }
                    }
                }
                Demand::Highest(goal) => {
                    for (contest, case) in contests.iter_mut().zip(&group) {
                        measurements.extend(contest.highest(*goal, conditions(case), &mut step));
                    }
                }
            }
        }
    }
    Measured {
        measurements,
        load: begun.and_then(|begun| Ticks::now()?.since(&begun)),
        resident,
        interrupted: stopped(),
    }
}

pub(super) fn is_raised(flag: &AtomicBool) -> bool {
    // Relaxed: a flag that stands for itself.
    flag.load(Ordering::Relaxed)
}

impl Sample {
    /// A round of it.
    pub(super) fn count(&mut self, round: &Round) {
        self.elapsed += round.elapsed;
        self.operations += round.operations;
        self.tally.add(&round.tally);
    }

    pub(super) const NOTHING: Sample = Sample {
        elapsed: Duration::ZERO,
        operations: 0,
        tally: Tally::NOTHING,
        disturbed: false,
    };
}

/// Measurements of every workload on the lock-free table, two samples each, for tests of what becomes of them. They are made once: a stall
/// alone takes two seconds.
#[cfg(test)]
pub(crate) static OF_EVERY_WORKLOAD: LazyLock<Vec<Measurement>> = LazyLock::new(|| {
    // Connections of `expire` need time to expire; for the others the shortest time will do.
    let (expiring, others): (Vec<_>, Vec<_>) = super::WORKLOADS
        .iter()
        .copied()
        .partition(|workload| workload.kind == super::Kind::Expire);
    let of = |workloads: Vec<_>, duration| {
        let plan = Plan {
            connections: vec![500],
            duration: Some(duration),
            repeat: Some(2),
            ..Plan::new(&workloads, &["lockfree"])
        };
        measure(&plan, &AtomicBool::new(false), |_, _| ()).measurements
    };
    let mut measurements = of(others, Duration::from_nanos(1));
    measurements.extend(of(expiring, Duration::from_millis(30)));
    assert_eq!(measurements.len(), super::WORKLOADS.len());
    measurements
});

/// A warm-up round and one of a case on one table, outside a plan.
#[cfg(test)]
pub(super) fn once(table: &str, case: &Case) -> Round {
    let traffic = Arc::new(Traffic::of(case));
    let mut contender = peer::visit(table, Enter(case, &traffic)).expect("a table of that name");
    let never = AtomicBool::new(false);
    contender.round(&Cores::available(), &never);
    contender.round(&Cores::available(), &never)
}

//! The driver: all tables of a case and the machine's limit, their rounds interleaved.
//!
//! ```text
//! for each case (workload x workers x connections x batch x protocol)
//!   make all tables, one warm-up round each
//!   for each sample: rounds A B C limit, A B C limit … until each has its time
//!   ─▶ one Measurement a table
//! ```
//! Interleaving makes a change of the machine's speed hit all tables alike, and the limit too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::{ChainLengths, FlowTable, HitLines};

use super::anomaly::Anomalies;
use super::answers::{self, OtherAnswer};
use super::case::{Case, Kind, Plan};
use super::churn::ChurnContender;
use super::clash_port::ClashPortContender;
use super::connect::ConnectContender;
use super::elephant::ElephantContender;
use super::exhaust::ExhaustContender;
use super::expire::{ExpireContender, Expiry};
use super::lookup::LookupContender;
use super::mixed::MixedContender;
use super::new_flows::NewFlowsContender;
use super::open_loop::{Conditions, Demand, OpenLoop};
use super::pace::Pace;
use super::packets::PacketsContender;
use super::race::TableRace;
use super::stall::{Stall, StallContender};
use super::syn_flood::SynFloodContender;
use super::tally::Tally;
use super::traffic::Traffic;
use super::worker::Cores;
use crate::limit;
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
struct Entrant {
    name: &'static str,
    enter: fn(&'static str, Enter<'_>) -> Option<Box<dyn Contender>>,
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
    for case in plan.cases() {
        // Beyond this size tables take the memory in turns.
        let groups: Vec<&[Entrant]> = if case.connections > TOGETHER_MAX {
            entrants.chunks(1).collect()
        } else {
            vec![entrants]
        };
        for tables in groups {
            if stopped() {
                break;
            }
            let mut contest = Contest::new(tables, &case);
            contest.warm_up(&cores, interrupted);
            resident = resident.or_else(Resident::now);
            let conditions = Conditions {
                case: &case,
                cores: &cores,
                interrupted,
            };
            let mut step = |table| step(case.workload.name, table);
            match &plan.demand {
                Demand::AsFastAsPossible => {
                    for _ in 0..case.samples() {
                        if stopped() {
                            break;
                        }
                        contest.sample(case.enough(), &cores, interrupted);
                        tables.iter().for_each(|table| step(table.name));
                    }
                    measurements.extend(contest.finish());
                }
                Demand::Rates(rates) => {
                    for &rate in rates {
                        measurements.extend(contest.at_rate(rate as f64, conditions, &mut step));
                    }
                }
                Demand::Highest(goal) => {
                    measurements.extend(contest.highest(*goal, conditions, step));
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

/// Up to so many connections all tables of a case are in memory together.
pub const TOGETHER_MAX: usize = 4_000_000;

pub(super) fn is_raised(flag: &AtomicBool) -> bool {
    // Relaxed: a flag that stands for itself.
    flag.load(Ordering::Relaxed)
}

/// One case on all tables, and the limit beside them.
pub(super) struct Contest {
    pub(super) entrants: Vec<(Box<dyn Contender>, Measurement)>,
    pub(super) limit: Option<(Box<dyn Contender>, Vec<Sample>)>,
}

/// Makes a contender of the table type it visits.
pub(super) struct Enter<'a>(pub(super) &'a Case, pub(super) &'a Arc<Traffic>);

impl TableVisitor for Enter<'_> {
    type Output = Box<dyn Contender>;

    fn visit<T: FlowTable<KeyV4> + 'static>(self) -> Box<dyn Contender>
    where
        T::Worker: 'static,
    {
        let Enter(case, traffic) = self;
        let traffic = Arc::clone(traffic);
        match case.workload.kind {
            Kind::Clash(clash) => Box::new(TableRace::<T>::new(case.race(clash))),
            Kind::LookupHit | Kind::LookupMiss | Kind::Zipf | Kind::Skew | Kind::Zones => {
                Box::new(LookupContender::<T>::new(case, traffic))
            }
            Kind::Mixed => Box::new(MixedContender::<T>::new(case, traffic)),
            Kind::Elephant => Box::new(ElephantContender::<T>::new(case, &traffic)),
            Kind::ClashPort => Box::new(ClashPortContender::<T>::new(case, &traffic)),
            Kind::Exhaust => Box::new(ExhaustContender::<T>::new(case)),
            Kind::Packets => Box::new(PacketsContender::<T>::new(case, &traffic)),
            Kind::NewFlows => Box::new(NewFlowsContender::<T>::new(case, &traffic)),
            Kind::SynFlood => Box::new(SynFloodContender::<T>::new(case, traffic)),
            Kind::Connect | Kind::HashFlood => Box::new(ConnectContender::<T>::new(case, traffic)),
            Kind::Churn => Box::new(ChurnContender::<T>::new(case, traffic)),
            Kind::Expire => Box::new(ExpireContender::<T>::new(case, traffic)),
            Kind::Stall => Box::new(StallContender::<T>::new(case, traffic)),
        }
    }
}

impl Contest {
    fn new(tables: &[Entrant], case: &Case) -> Contest {
        let traffic = Arc::new(Traffic::of(case));
        let entrants = tables
            .iter()
            .filter_map(|table| {
                let contender = (table.enter)(table.name, Enter(case, &traffic))?;
                Some((contender, Measurement::new(*case, table.name)))
            })
            .collect();
        Contest {
            entrants,
            limit: limit::contender(case, &traffic).map(|contender| (contender, Vec::new())),
        }
    }

    fn contenders(&mut self) -> impl Iterator<Item = &mut Box<dyn Contender>> {
        let limit = self.limit.as_mut().map(|(limit, _)| limit);
        let tables = self.entrants.iter_mut().map(|(contender, _)| contender);
        tables.chain(limit)
    }

    fn warm_up(&mut self, cores: &Cores, interrupted: &AtomicBool) {
        for (contender, measurement) in &mut self.entrants {
            // The rest of it is not the measurement's, but how the table lies in memory is.
            measurement.hit_lines = contender.round(cores, interrupted).hit_lines;
            contender.reset();
        }
        if let Some((limit, _)) = &mut self.limit {
            limit.round(cores, interrupted);
            limit.reset();
        }
    }

    /// One sample of each table and of the limit, their rounds interleaved.
    pub(super) fn sample(&mut self, duration: Duration, cores: &Cores, interrupted: &AtomicBool) {
        let begun = Ticks::now();
        let mut sums: BTreeMap<usize, Sample> = BTreeMap::new();
        let mut rounds: Vec<(usize, Round)> = Vec::new();
        // Each one has at least one round, however short the time.
        loop {
            for (number, contender) in self.contenders().enumerate() {
                let sum = sums.entry(number).or_insert(Sample::NOTHING);
                if sum.elapsed >= duration && !sum.elapsed.is_zero() || is_raised(interrupted) {
                    continue;
                }
                let round = contender.round(cores, interrupted);
                sum.elapsed += round.elapsed;
                sum.operations += round.operations;
                sum.tally.add(&round.tally);
                rounds.push((number, round));
            }
            if rounds.is_empty() {
                break;
            }
            for (number, round) in rounds.drain(..) {
                if let Some((_, measurement)) = self.entrants.get_mut(number) {
                    measurement.add(round);
                }
            }
        }
        let disturbed = begun
            .and_then(|begun| Ticks::now()?.since(&begun))
            .is_some_and(|load| load.disturbs());
        let tables = self.entrants.iter_mut().map(|(_, m)| &mut m.samples);
        let limit = self.limit.as_mut().map(|(_, samples)| samples);
        for (samples, sum) in tables.chain(limit).zip(sums.into_values()) {
            if sum.operations > 0 && !sum.elapsed.is_zero() {
                samples.push(Sample { disturbed, ..sum });
            }
        }
    }

    /// A sample of the limit alone; `None` where there is no limit, or it was interrupted.
    pub(super) fn limit_sample(
        &mut self,
        duration: Duration,
        cores: &Cores,
        interrupted: &AtomicBool,
    ) -> Option<Sample> {
        let (limit, _) = self.limit.as_mut()?;
        let mut sum = Sample::NOTHING;
        while sum.elapsed < duration && !is_raised(interrupted) {
            let round = limit.round(cores, interrupted);
            // Clocks are coarse on some systems: a round that took no time at all must not go on for ever.
            sum.elapsed += round.elapsed.max(Duration::from_micros(1));
            sum.operations += round.operations;
        }
        (sum.operations > 0).then_some(sum)
    }

    fn finish(self) -> impl Iterator<Item = Measurement> {
        let limit = self.limit.map(|(_, samples)| samples).unwrap_or_default();
        self.entrants
            .into_iter()
            .map(move |(contender, measurement)| Measurement {
                per_cpu: contender.per_cpu(),
                limit: limit.clone(),
                ..measurement
            })
            .filter(|measurement| !measurement.samples.is_empty())
    }
}

impl Sample {
    pub(super) const NOTHING: Sample = Sample {
        elapsed: Duration::ZERO,
        operations: 0,
        tally: Tally::NOTHING,
        disturbed: false,
    };
}

/// A warm-up round and one of a case on one table, outside a plan.
#[cfg(test)]
pub(super) fn once(table: &str, case: &Case) -> Round {
    let traffic = Arc::new(Traffic::of(case));
    let mut contender = peer::visit(table, Enter(case, &traffic)).expect("a table of that name");
    let never = AtomicBool::new(false);
    contender.round(&Cores::available(), &never);
    contender.round(&Cores::available(), &never)
}

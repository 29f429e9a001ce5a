//! What is measured, and how: workloads, a crew of pinned workers, rounds interleaved between tables.
//!
//! ```text
//! Plan ─▶ for each workers x connections x batch, each workload
//!           make all tables, one warm-up round each
//!           for each sample: rounds A B C, A B C … until each table has its time      worker, race
//!           ─▶ one Measurement a table
//! ```
//! Interleaving makes a change of the machine's speed hit all tables alike.

pub mod anomaly;
pub mod clash;
pub mod clash_nat;
pub mod clash_tcp;
pub mod flows;
pub mod race;
pub mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::{ChainLengths, FlowTable};

use crate::load::{Load, Ticks};
use crate::peer::{self, TableVisitor};
use anomaly::Anomalies;
use clash::ClashWorkload;
use race::{Contender, RaceConfig, RoundResult, TableRace, Tally};
use worker::Cores;

/// The workloads that `run` knows, in the order of the main job.
pub const WORKLOADS: &[ClashWorkload] = &[clash::CLASH, clash_nat::CLASH_NAT, clash_tcp::CLASH_TCP];

/// The workload of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<ClashWorkload> {
    WORKLOADS.iter().copied().find(|w| w.name == name)
}

/// Everything that is to be measured, resolved before any thread starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What.
    pub workloads: Vec<ClashWorkload>,
    /// Names out of [`peer::TABLES`].
    pub tables: Vec<&'static str>,
    /// Numbers of workers.
    pub workers: Vec<usize>,
    /// Batch sizes.
    pub batches: Vec<usize>,
    /// Flows a round.
    pub connections: Vec<usize>,
    /// Time of one sample: the sum of its rounds' timed parts reaches it.
    pub duration: Duration,
    /// Samples.
    pub repeat: usize,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

impl Plan {
    /// The races, without their tables.
    fn races(&self) -> Vec<RaceConfig> {
        let mut races = Vec::new();
        for &workload in &self.workloads {
            for &workers in &self.workers {
                for &flows in &self.connections {
                    for &batch in &self.batches {
                        races.push(RaceConfig {
                            workload,
                            workers,
                            batch,
                            flows,
                            seed: self.seed,
                        });
                    }
                }
            }
        }
        races
    }

    /// Samples in all, of all tables: the length of the progress bar.
    #[must_use]
    pub fn steps(&self) -> u64 {
        (self.races().len() * self.tables.len() * self.repeat) as u64
    }
}

/// One sample of one table.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample {
    /// Time measured.
    pub elapsed: Duration,
    /// What became of the connections.
    pub tally: Tally,
    /// Steal or foreign load was beyond [`DISTURBED_BEYOND`](crate::load::DISTURBED_BEYOND) meanwhile.
    pub disturbed: bool,
}

/// All samples of one race on one table.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// What was raced.
    pub config: RaceConfig,
    /// On which table.
    pub table: &'static str,
    /// The samples, in order.
    pub samples: Vec<Sample>,
    /// All samples together.
    pub tally: Tally,
    /// Chances to collide in all samples.
    pub chances: u64,
    /// What must not be, in all samples.
    pub anomalies: Anomalies,
    /// Chains, of all rounds together; `None` for a table without chains.
    pub chains: Option<ChainLengths>,
    /// The kernel's counters, one block a worker.
    pub per_cpu: Vec<ConntrackStats>,
    /// Whether every worker was pinned.
    pub pinned: bool,
}

impl Measurement {
    fn new(config: RaceConfig, table: &'static str) -> Measurement {
        Measurement {
            config,
            table,
            samples: Vec::new(),
            tally: Tally::default(),
            chances: 0,
            anomalies: Anomalies::default(),
            chains: None,
            per_cpu: Vec::new(),
            pinned: true,
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

    fn add(&mut self, round: &RoundResult) {
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
    }
}

/// Below this share of collisions a clash workload's figures are marked.
pub const UNSURE_BELOW: f64 = 0.2;

/// What a plan came to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// One a race and table of which anything was measured.
    pub measurements: Vec<Measurement>,
    /// Load during the whole run, where the system tells.
    pub load: Option<Load>,
    /// Ended early, by Ctrl-C.
    pub interrupted: bool,
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
    mut step: impl FnMut(&'static str, &'static str),
) -> Measured {
    let cores = Cores::available();
    let begun = Ticks::now();
    let mut measurements = Vec::new();
    let stopped = || is_raised(interrupted);
    for config in plan.races() {
        if stopped() {
            break;
        }
        let mut race = Race::new(plan, config);
        race.warm_up(&cores, interrupted);
        for _ in 0..plan.repeat {
            if stopped() {
                break;
            }
            race.sample(plan.duration, &cores, interrupted);
            for table in &plan.tables {
                step(config.workload.name, table);
            }
        }
        measurements.extend(race.finish());
    }
    Measured {
        measurements,
        load: begun.and_then(|begun| Ticks::now()?.since(&begun)),
        interrupted: stopped(),
    }
}

fn is_raised(flag: &AtomicBool) -> bool {
    // Relaxed: a flag that stands for itself.
    flag.load(Ordering::Relaxed)
}

/// One race on all tables.
struct Race {
    entrants: Vec<(Box<dyn Contender>, Measurement)>,
}

/// Makes a contender of the table type it visits.
struct Enter(RaceConfig);

impl TableVisitor for Enter {
    type Output = Box<dyn Contender>;

    fn visit<T: FlowTable<KeyV4> + 'static>(self) -> Box<dyn Contender>
    where
        T::Worker: 'static,
    {
        Box::new(TableRace::<T>::new(self.0))
    }
}

impl Race {
    fn new(plan: &Plan, config: RaceConfig) -> Race {
        let entrants = plan
            .tables
            .iter()
            .filter_map(|&table| {
                let contender = peer::visit(table, Enter(config))?;
                Some((contender, Measurement::new(config, table)))
            })
            .collect();
        Race { entrants }
    }

    fn warm_up(&mut self, cores: &Cores, interrupted: &AtomicBool) {
        for (contender, _) in &mut self.entrants {
            contender.round(cores, interrupted);
            contender.reset();
        }
    }

    /// One sample of each table, their rounds interleaved.
    fn sample(&mut self, duration: Duration, cores: &Cores, interrupted: &AtomicBool) {
        let begun = Ticks::now();
        let mut sums = vec![(Duration::ZERO, Tally::default()); self.entrants.len()];
        // Each table has at least one round, however short the time.
        loop {
            let mut raced = false;
            for ((contender, measurement), (elapsed, tally)) in
                self.entrants.iter_mut().zip(&mut sums)
            {
                if *elapsed >= duration && !elapsed.is_zero() || is_raised(interrupted) {
                    continue;
                }
                let round = contender.round(cores, interrupted);
                measurement.add(&round);
                *elapsed += round.elapsed;
                tally.add(&round.tally);
                raced = true;
            }
            if !raced {
                break;
            }
        }
        let disturbed = begun
            .and_then(|begun| Ticks::now()?.since(&begun))
            .is_some_and(|load| load.disturbs());
        for ((_, measurement), (elapsed, tally)) in self.entrants.iter_mut().zip(sums) {
            if tally.offered > 0 && !elapsed.is_zero() {
                measurement.samples.push(Sample {
                    elapsed,
                    tally,
                    disturbed,
                });
            }
        }
    }

    fn finish(self) -> impl Iterator<Item = Measurement> {
        self.entrants
            .into_iter()
            .map(|(contender, measurement)| Measurement {
                per_cpu: contender.per_cpu(),
                ..measurement
            })
            .filter(|measurement| !measurement.samples.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            workloads: vec![clash::CLASH],
            tables: vec!["striped", "mutex"],
            workers: vec![2],
            batches: vec![16],
            connections: vec![500],
            duration: Duration::from_nanos(1),
            repeat: 3,
            seed: 1,
        }
    }

    #[test]
    fn every_table_gets_every_sample() {
        let plan = plan();
        let mut steps = 0;
        let measured = measure(&plan, &AtomicBool::new(false), |_, _| steps += 1);
        assert_eq!(steps, plan.steps());
        assert_eq!(measured.measurements.len(), 2);
        for measurement in &measured.measurements {
            assert_eq!(measurement.samples.len(), 3);
            assert_eq!(measurement.per_cpu.len(), 2);
            assert_eq!(measurement.tally.lost(), 0);
            assert!(!measurement.anomalies.any());
        }
        assert!(!measured.interrupted);
    }

    #[test]
    fn an_interrupt_before_the_first_sample_measures_nothing_and_says_so() {
        let measured = measure(&plan(), &AtomicBool::new(true), |_, _| ());
        assert!(measured.interrupted && measured.measurements.is_empty());
    }
}

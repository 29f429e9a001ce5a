//! What can be measured, and what a run is asked to: workloads, plans, and the cases they are made of.

use std::time::Duration;

use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::table::TableConfig;
use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::lockfree::Isa;
use clashtrack_engine::tuple::Protocol;

use super::clash::ClashWorkload;
use super::open_loop::Demand;
use super::race::RaceConfig;
use super::steer::Steer;
use super::worker::{self, Cores};
use super::{expire, mixed, stall};
use crate::calibrate::Hints;

/// A workload: a question, and how it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Workload {
    /// The name that `run` takes.
    pub name: &'static str,
    /// What its figures answer.
    pub question: &'static str,
    /// How it is measured.
    pub kind: Kind,
}

/// The kinds of workloads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Workers confirm the same flows at the same time.
    Clash(ClashWorkload),
    /// Lookups of connections that are there.
    LookupHit,
    /// Lookups of new flows.
    LookupMiss,
    /// New connections into an empty table.
    Connect,
    /// New connections for old ones in a full table.
    Churn,
    /// New connections while a thread removes expired ones.
    Expire,
    /// A worker is suspended inside confirm.
    Stall,
    /// Lookups by Zipf's law.
    Zipf,
    /// Hits, new connections and ends in one.
    Mixed,
    /// All workers have packets of one connection.
    Elephant,
    /// RSS sends every key to one worker.
    Skew,
    /// Lookups among equal tuples of several zones.
    Zones,
    /// New connections into a full table.
    SynFlood,
    /// New connections whose keys share buckets of an unkeyed hash.
    HashFlood,
    /// First packets where nearly all ports are taken.
    Exhaust,
    /// Workers confirm different flows with one reply key.
    ClashPort,
    /// Packets of established connections through an engine.
    Packets,
    /// First packets through an engine.
    NewFlows,
}

impl Kind {
    /// An operation is a lookup, and nothing changes.
    #[must_use]
    pub fn looks_up(self) -> bool {
        self.finds() || self == Kind::LookupMiss
    }

    /// An operation is a lookup that finds a connection.
    #[must_use]
    pub fn finds(self) -> bool {
        matches!(
            self,
            Kind::LookupHit | Kind::Zipf | Kind::Skew | Kind::Zones
        )
    }

    /// Connections are offered, and the books tell what became of them.
    #[must_use]
    pub fn confirms(self) -> bool {
        !self.looks_up() && !matches!(self, Kind::Elephant | Kind::Packets)
    }

    /// Workers are chosen by packet: `--steer` means something.
    #[must_use]
    pub fn steers(self) -> bool {
        self == Kind::Skew
    }

    /// Operations can be offered at a rate. Races meet batch by batch, a stall stops the clock that they are paced by, `expire`
    /// has a rate of its own, and with `skew` one worker has it all.
    #[must_use]
    pub fn takes_a_rate(self) -> bool {
        !matches!(
            self,
            Kind::Clash(_) | Kind::ClashPort | Kind::Stall | Kind::Expire | Kind::Skew
        )
    }

    /// Packets that a table's contender makes beforehand for each connection.
    #[must_use]
    pub fn packets_a_connection(self) -> usize {
        match self {
            Kind::Packets => 2,
            Kind::NewFlows => 1,
            _ => 0,
        }
    }

    /// What workers' threads are called: one name where all do the same.
    #[must_use]
    pub fn roles(self) -> &'static [&'static str] {
        match self {
            Kind::Expire => &expire::ROLES,
            Kind::Stall => &stall::ROLES,
            _ => &[worker::ROLE],
        }
    }

    /// Keys looked up, or connections confirmed, together.
    #[must_use]
    pub fn default_batch(self) -> usize {
        match self {
            Kind::Elephant | Kind::Packets => 64,
            lookups if lookups.looks_up() => 64,
            _ => 32,
        }
    }

    /// Flows of a round, or connections of the table.
    #[must_use]
    pub fn default_connections(self) -> usize {
        match self {
            Kind::Clash(_) | Kind::ClashPort => 64_000,
            Kind::Elephant => 1,
            _ => 1_000_000,
        }
    }

    /// Workers on so many cores. Clashes and stalls need two; expiry has a core of its own where there is one.
    #[must_use]
    pub fn default_workers(self, cores: usize) -> usize {
        match self {
            Kind::Clash(_) | Kind::ClashPort | Kind::Stall => cores.max(2),
            Kind::Expire => (cores - 1).max(1),
            _ => cores,
        }
    }

    /// Time of one sample of so many connections. All connections of `expire` go within it: 4 M in 120 s, fewer in
    /// less.
    #[must_use]
    pub fn default_duration(self, connections: usize) -> Duration {
        match self {
            Kind::Expire => EXPIRE_SHORTEST.max(Duration::from_micros(30 * connections as u64)),
            Kind::Stall => SUSPENSION,
            _ => Duration::from_millis(500),
        }
    }

    /// Samples. A stall is a yes or a no; a sample of `expire` compares within itself.
    #[must_use]
    pub fn default_samples(self) -> usize {
        match self {
            Kind::Expire | Kind::Stall => 1,
            _ => 5,
        }
    }

    /// Workers at least.
    #[must_use]
    pub fn workers_min(self) -> usize {
        if self == Kind::Stall { 2 } else { 1 }
    }
}

/// Everything that is to be measured, resolved before any thread starts. An empty list of
/// numbers or protocols stands for each workload's own default.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What.
    pub workloads: Vec<Workload>,
    /// Names out of [`TABLES`](crate::peer::TABLES).
    pub tables: Vec<&'static str>,
    /// Numbers of workers.
    pub workers: Vec<usize>,
    /// Batch sizes.
    pub batches: Vec<usize>,
    /// Connections of the table; of clash workloads flows a round.
    pub connections: Vec<usize>,
    /// Protocols of the connections; clash workloads have their own.
    pub protocols: Vec<Protocol>,
    /// Time of one sample: the sum of its rounds' timed parts reaches it. Below [`FIGURES_FROM`] a sample is brief.
    pub duration: Option<Duration>,
    /// Samples; `None` for each workload's own default.
    pub repeat: Option<usize>,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Cores that workers are pinned to.
    pub cores: usize,
    /// How tables ask for memory ahead.
    pub prefetch: Hints,
    /// The instructions that tables with vector code use.
    pub isa: Isa,
    /// How packets are spread over workers, where they are.
    pub steer: Steer,
    /// As fast as can be, or at which rates.
    pub demand: Demand,
}

/// A sample of `expire` is no shorter, unless that is asked for.
const EXPIRE_SHORTEST: Duration = Duration::from_secs(2);

/// Up to so many connections all tables of a case are in memory together, and several cases up to so many of them all.
pub const TOGETHER_MAX: usize = 4_000_000;

/// A sample that is shorter than this is brief: it shows what a run does and what it prints, and no figure is read off it. A
/// usual round would be many times as long as the sample.
pub const FIGURES_FROM: Duration = Duration::from_millis(1);

/// By so much are rounds of brief samples shorter than usual ones, and the limit's search with them.
const BRIEF: u32 = 16;

/// About as many trials as a search needs.
const TRIALS: usize = 10;

/// How long a worker stays suspended in [`Kind::Stall`].
pub const SUSPENSION: Duration = Duration::from_secs(2);

impl Plan {
    /// These workloads on these tables, with each workload's own defaults for the rest.
    #[must_use]
    pub fn new(workloads: &[Workload], tables: &[&'static str]) -> Plan {
        Plan {
            workloads: workloads.to_vec(),
            tables: tables.to_vec(),
            workers: Vec::new(),
            batches: Vec::new(),
            connections: Vec::new(),
            protocols: Vec::new(),
            duration: None,
            repeat: None,
            seed: 1,
            cores: Cores::available().count(),
            prefetch: Hints::default(),
            isa: Isa::default(),
            steer: Steer::default(),
            demand: Demand::default(),
        }
    }

    /// One a combination, in the order in which they are measured.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        let or = |list: &[usize], default: usize| match list {
            [] => vec![default],
            list => list.to_vec(),
        };
        let mut cases = Vec::new();
        for &workload in &self.workloads {
            let kind = workload.kind;
            let protocols = match (kind, self.protocols.as_slice()) {
                (Kind::Clash(clash), _) => vec![clash.protocol],
                (_, []) => vec![Protocol::TCP],
                (_, list) => list.to_vec(),
            };
            for protocol in protocols {
                for &connections in &or(&self.connections, kind.default_connections()) {
                    for &batch in &or(&self.batches, kind.default_batch()) {
                        for &workers in &or(&self.workers, kind.default_workers(self.cores)) {
                            cases.push(Case {
                                workload,
                                workers,
                                batch,
                                connections,
                                protocol,
                                duration: match (kind, self.duration) {
                                    (Kind::Stall, _) => SUSPENSION,
                                    (_, Some(duration)) => duration,
                                    (_, None) => kind.default_duration(connections),
                                },
                                repeat: self.repeat.unwrap_or(kind.default_samples()),
                                seed: self.seed,
                                prefetch: self.prefetch,
                                isa: self.isa,
                                steer: self.steer,
                            });
                        }
                    }
                }
            }
        }
        cases
    }

    /// The cases in groups whose rounds take turns: those that differ in their workers alone, if they all have room in memory.
    /// At a rate each case is measured for itself.
    #[must_use]
    pub fn groups(&self) -> Vec<Vec<Case>> {
        let cases = self.cases();
        let alike = |a: &Case, b: &Case| {
            self.demand == Demand::AsFastAsPossible
                && a.workload == b.workload
                && (a.protocol, a.connections, a.batch) == (b.protocol, b.connections, b.batch)
        };
        let of_one_kind = cases.chunk_by(alike);
        of_one_kind
            .flat_map(|cases| cases.chunks((TOGETHER_MAX / cases[0].connections).max(1)))
            .map(<[Case]>::to_vec)
            .collect()
    }

    /// Samples in all, of all tables: the length of the progress bar. Of a search it is a guess.
    #[must_use]
    pub fn steps(&self) -> u64 {
        let samples: usize = self.cases().iter().map(Case::samples).sum();
        let times = match &self.demand {
            Demand::AsFastAsPossible => samples,
            Demand::Rates(rates) => samples * rates.len(),
            Demand::Highest(_) => self.cases().len() * TRIALS,
        };
        (times * self.tables.len()) as u64
    }
}

/// One combination of a plan, for all its tables.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What.
    pub workload: Workload,
    /// Workers.
    pub workers: usize,
    /// Keys or connections handled together.
    pub batch: usize,
    /// Connections of the table, or flows of a round.
    pub connections: usize,
    /// Their protocol.
    pub protocol: Protocol,
    /// Time of a sample.
    pub duration: Duration,
    /// Samples asked for.
    pub repeat: usize,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// How tables ask for memory ahead.
    pub prefetch: Hints,
    /// The instructions that tables with vector code use.
    pub isa: Isa,
    /// How packets are spread over workers, where they are.
    pub steer: Steer,
}

/// Entries that a worker may keep in its own free list, with some to spare.
const ENTRIES_AT_HAND: usize = 256;
/// Batches that a worker has in the table beside the connections that fill it.
const BATCHES_IN_HAND: usize = 4;

impl Case {
    /// The clash workloads' form of it.
    #[must_use]
    pub fn race(&self, workload: ClashWorkload) -> RaceConfig {
        RaceConfig {
            workload,
            workers: self.workers,
            batch: self.batch,
            flows: self.connections,
            seed: self.seed,
            prefetch: self.prefetch,
            isa: self.isa,
        }
    }

    /// A stall is a yes or a no: it is asked once.
    #[must_use]
    pub fn samples(&self) -> usize {
        match self.workload.kind {
            Kind::Stall => 1,
            _ => self.repeat,
        }
    }

    /// The time after which a sample has had enough rounds. Where a round is as long as a sample: at once.
    #[must_use]
    pub fn enough(&self) -> Duration {
        match self.workload.kind {
            Kind::Stall | Kind::Expire => Duration::ZERO,
            _ => self.duration,
        }
    }

    /// What a round's usual number of operations is divided by, and the time of the limit's search.
    #[must_use]
    pub fn brevity(&self) -> u32 {
        if self.duration < FIGURES_FROM {
            BRIEF
        } else {
            1
        }
    }

    /// Operations of a worker in a round, of which there are usually so many.
    #[must_use]
    pub fn of_a_round(&self, usual: usize) -> usize {
        usual / self.brevity() as usize
    }

    /// Connections that the table may have at one time: in a race each worker may have one of each flow.
    #[must_use]
    pub fn entries(&self) -> usize {
        match self.workload.kind {
            Kind::Clash(_) | Kind::ClashPort => self.connections * self.workers,
            _ => self.connections,
        }
    }

    /// Entries that workers have beside the connections of the table: in batches, and free at hand.
    #[must_use]
    pub fn in_hand(&self) -> usize {
        (self.workers + 2) * (BATCHES_IN_HAND * self.batch + ENTRIES_AT_HAND)
    }

    /// How the table is made: room for the connections and for what the workers have in hand.
    #[must_use]
    pub fn table(&self) -> TableConfig {
        if let Kind::Clash(workload) = self.workload.kind {
            return self.race(workload).table();
        }
        let mut rng = WorkerRng::new(self.seed, usize::MAX);
        let made_in_a_round = match self.workload.kind {
            Kind::Mixed => self.workers * mixed::newcomers(self.batch),
            _ => 0,
        };
        let hands = self.in_hand() + made_in_a_round;
        let hash_key = HashKey(rng.next_u64(), rng.next_u64());
        TableConfig {
            workers: self.workers,
            prefetch: self.prefetch.reading,
            prefetch_write: self.prefetch.writing,
            isa: self.isa,
            ..TableConfig::new(self.entries() + hands, hash_key)
        }
    }

    /// The part of `all` that belongs to a worker.
    #[must_use]
    pub fn share(&self, worker: usize, all: usize) -> std::ops::Range<usize> {
        all * worker / self.workers..all * (worker + 1) / self.workers
    }
}

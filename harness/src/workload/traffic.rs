//! The traffic of a case, drawn once and shared by all its tables and the limit.

use clashtrack_engine::table::key::KeyV4;

use super::case::{Case, Kind};
use super::flows::{self, Pair};
use super::{hash_flood, mixed, skew, zipf, zones};

/// Connections and keys. What a workload does not need is empty.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Connections that fill the table.
    pub residents: Vec<Pair>,
    /// As many others, with other keys.
    pub newcomers: Vec<Pair>,
    /// Keys to look up, in order.
    pub keys: Vec<KeyV4>,
    /// The same, as they are steered to the workers; empty where every worker goes through all of them.
    pub steered: Vec<Vec<KeyV4>>,
}

impl Traffic {
    /// Draws it.
    #[must_use]
    pub fn of(case: &Case) -> Traffic {
        let population =
            |number| flows::translated(case.seed, number, case.protocol, case.connections);
        match case.workload.kind {
            Kind::Clash(_) | Kind::Exhaust => Traffic::default(),
            Kind::LookupHit => {
                let residents = population(0);
                Traffic {
                    keys: flows::two_sweeps(case.seed, &residents),
                    residents,
                    ..Traffic::default()
                }
            }
            Kind::Zipf => {
                let residents = population(0);
                Traffic {
                    keys: zipf::keys(case.seed, &residents),
                    residents,
                    ..Traffic::default()
                }
            }
            Kind::Skew => {
                let residents = population(0);
                let keys = skew::keys(case.workers, flows::two_sweeps(case.seed, &residents));
                Traffic {
                    steered: skew::steered(case.steer, case.workers, case.seed, &keys),
                    keys,
                    residents,
                    newcomers: Vec::new(),
                }
            }
            Kind::Zones => {
                let residents = zones::pairs(case.seed, case.protocol, case.connections);
                Traffic {
                    keys: flows::two_sweeps(case.seed, &residents),
                    residents,
                    ..Traffic::default()
                }
            }
            Kind::LookupMiss => Traffic {
                keys: flows::two_sweeps(case.seed, &population(1)),
                residents: population(0),
                ..Traffic::default()
            },
            Kind::Mixed => {
                let residents = population(0);
                let newcomers = case.workers * mixed::newcomers(case.batch);
                Traffic {
                    keys: flows::two_sweeps(case.seed, &residents),
                    residents,
                    newcomers: flows::translated(case.seed, 1, case.protocol, newcomers),
                    steered: Vec::new(),
                }
            }
            Kind::HashFlood => Traffic {
                residents: hash_flood::pairs(case.seed, case.protocol, case.connections),
                ..Traffic::default()
            },
            Kind::Connect | Kind::Elephant | Kind::ClashPort | Kind::Packets | Kind::NewFlows => {
                Traffic {
                    residents: population(0),
                    ..Traffic::default()
                }
            }
            Kind::Churn | Kind::Expire | Kind::Stall | Kind::SynFlood => Traffic {
                residents: population(0),
                newcomers: population(1),
                ..Traffic::default()
            },
        }
    }

    /// The keys that a worker goes through.
    #[must_use]
    pub fn keys_of(&self, worker: usize) -> &[KeyV4] {
        self.steered.get(worker).map_or(&self.keys, Vec::as_slice)
    }

    /// A worker's part of `each` operations a worker: as many, or its part by how many keys are steered to it.
    #[must_use]
    pub fn part_of(&self, worker: usize, each: u64) -> u64 {
        match self.steered.get(worker) {
            None => each,
            Some(keys) => {
                let all = each * self.steered.len() as u64;
                (all * keys.len() as u64).div_ceil(self.keys.len().max(1) as u64)
            }
        }
    }
}

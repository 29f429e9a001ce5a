//! The traffic of a case, drawn once and shared by all its tables and the limit.

use clashtrack_engine::table::key::KeyV4;

use super::case::{Case, Kind};
use super::flows::{self, Pair};

/// Connections and keys. What a workload does not need is empty.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Connections that fill the table.
    pub residents: Vec<Pair>,
    /// As many others, with other keys.
    pub newcomers: Vec<Pair>,
    /// Keys to look up, in order.
    pub keys: Vec<KeyV4>,
}

impl Traffic {
    /// Draws it.
    #[must_use]
    pub fn of(case: &Case) -> Traffic {
        let population =
            |number| flows::translated(case.seed, number, case.protocol, case.connections);
        match case.workload.kind {
            Kind::Clash(_) => Traffic::default(),
            Kind::LookupHit => {
                let residents = population(0);
                Traffic {
                    keys: flows::two_sweeps(case.seed, &residents),
                    residents,
                    newcomers: Vec::new(),
                }
            }
            Kind::LookupMiss => Traffic {
                keys: flows::two_sweeps(case.seed, &population(1)),
                residents: population(0),
                newcomers: Vec::new(),
            },
            Kind::Connect => Traffic {
                residents: population(0),
                ..Traffic::default()
            },
            Kind::Churn | Kind::Expire | Kind::Stall => Traffic {
                residents: population(0),
                newcomers: population(1),
                keys: Vec::new(),
            },
        }
    }
}

//! What is measured, and how: workloads, a crew of pinned workers, rounds interleaved between tables.
//!
//! ```text
//! case      workloads, the plan of a run and its cases
//! traffic   the connections and keys of a case, drawn once for all tables       flows
//! answers   before anything is timed: all tables give the same answers
//! measure   tables and the machine's limit take turns                           worker, crate::limit
//! open_loop the same at given rates, and the search for the highest one         pace, search
//! race      clash, clash-nat, clash-tcp, dns-pair                               sweep, tally, anomaly, crate::floor
//! lookup    lookup-hit, lookup-miss, zipf, skew, zones                           steer
//! hand      how a worker connects and expires in connect, churn, expire, stall
//! gateway   packets, new-flows, exhaust: the whole data path
//! ```
//! Each workload has a file that says what it asks, its model of traffic, and what it does not measure.

pub mod anomaly;
pub mod answers;
pub mod case;
pub mod churn;
pub mod clash;
pub mod clash_nat;
pub mod clash_port;
pub mod clash_tcp;
pub mod connect;
mod contest;
pub mod dns_pair;
pub mod elephant;
pub mod exhaust;
pub mod expire;
pub mod flows;
mod gateway;
mod hand;
pub mod hash_flood;
pub mod lookup;
pub mod lookup_hit;
pub mod lookup_miss;
pub mod measure;
pub mod mixed;
pub mod new_flows;
pub mod on_demand;
pub mod open_loop;
pub mod pace;
pub mod packets;
pub mod race;
pub mod search;
pub mod skew;
pub mod stall;
pub mod steer;
pub(crate) mod sweep;
pub mod syn_flood;
pub mod tally;
pub mod traffic;
pub mod worker;
pub mod zipf;
pub mod zones;

pub use case::{Case, Kind, Plan, Workload};
pub use measure::{Measured, Measurement, Sample, measure, run_on};

/// The workloads that `run` knows, those of the main job first.
pub const WORKLOADS: &[Workload] = &[
    clash::WORKLOAD,
    clash_nat::WORKLOAD,
    clash_tcp::WORKLOAD,
    lookup_hit::WORKLOAD,
    lookup_miss::WORKLOAD,
    connect::WORKLOAD,
    churn::WORKLOAD,
    expire::WORKLOAD,
    stall::WORKLOAD,
    zipf::WORKLOAD,
    mixed::WORKLOAD,
    elephant::WORKLOAD,
    skew::WORKLOAD,
    zones::WORKLOAD,
    syn_flood::WORKLOAD,
    hash_flood::WORKLOAD,
    exhaust::WORKLOAD,
    clash_port::WORKLOAD,
    dns_pair::WORKLOAD,
    packets::WORKLOAD,
    new_flows::WORKLOAD,
];

/// The workloads of the main job: the races.
pub const MAIN_JOB: &[Workload] = &[clash::WORKLOAD, clash_nat::WORKLOAD, clash_tcp::WORKLOAD];

/// The workload of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<Workload> {
    WORKLOADS.iter().copied().find(|w| w.name == name)
}

#[cfg(test)]
mod tests;

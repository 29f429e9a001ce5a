//! Results of `run` as the JSON contract has them (schema `clashtrack/1`).
//!
//! Units are in the names; `samples` are raw, in the order in which they were taken.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::ChainLengths;

use crate::workload::anomaly::Anomalies;
use crate::workload::{Measurement, Sample};

/// A figure of which there are several samples.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Spread {
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All, in the order in which they were taken.
    pub samples: Vec<f64>,
}

impl Spread {
    /// Of samples, of which there must be one at least; all 0 for none.
    #[must_use]
    pub fn of(samples: Vec<f64>) -> Spread {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.as_slice() {
            [] => 0.0,
            all if all.len().is_multiple_of(2) => f64::midpoint(all[middle - 1], all[middle]),
            all => all[middle],
        };
        Spread {
            median,
            min: sorted.first().copied().unwrap_or(0.0),
            max: sorted.last().copied().unwrap_or(0.0),
            samples,
        }
    }
}

/// The kernel's counters under their names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters(pub ConntrackStats);

impl Serialize for Counters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = self.0.named();
        let mut map = serializer.serialize_map(Some(named.len()))?;
        for (name, value) in named {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

/// What became of the connections that were offered: `offered` is the sum of the next four.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accounting {
    /// Confirms attempted.
    pub offered: u64,
    /// In the table by both keys.
    pub confirmed: u64,
    /// Merged into the winner.
    pub resolved_same: u64,
    /// In the table by the reply key alone.
    pub resolved_reply_only: u64,
    /// Dropped.
    pub dropped: u64,
    /// Beside: not offered, the worker's own lookup found the flow.
    pub found_at_lookup: u64,
    /// Of which nobody knows: 0.
    pub lost: i64,
}

/// What only the clash workloads have.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct ClashFigures {
    /// Clashes found at confirm ÷ chances to collide (flows that two workers had in hand).
    pub collided_share: f64,
    /// The share is so small that the figures say little about clashes.
    pub unsure: bool,
    /// Clashes resolved a second: merged or reply-only.
    pub resolved_per_s: Spread,
    /// Connections confirmed a second.
    pub confirmed_per_s: Spread,
    /// Losers dropped a second.
    pub dropped_per_s: Spread,
    /// The contended lines handed from core to core and nothing else; null: not measured.
    pub floor_per_s: Option<f64>,
    /// The longest chain seen; null for a table without chains.
    pub chain_longest: Option<usize>,
    /// Nodes of a chain that has any; null for a table without chains.
    pub chain_mean: Option<f64>,
}

/// One result: a workload on a table, with so many workers, batch and connections.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct RunResult {
    /// Name of the workload.
    pub workload: &'static str,
    /// Name of the table.
    pub table: &'static str,
    /// Workers.
    pub workers: usize,
    /// Connections looked up together.
    pub batch: usize,
    /// Flows of a round.
    pub connections: usize,
    /// Connections ÷ entries that the table has.
    pub fill: f64,
    /// Protocol of the flows.
    pub l4: &'static str,
    /// Connections offered a second, all workers together.
    pub ops_per_s: Spread,
    /// Wall time x workers ÷ connections offered.
    pub ns_per_op: Spread,
    /// The machine's limit for this access pattern; null: not measured.
    pub limit_ns: Option<f64>,
    /// `limit_ns` ÷ `ns_per_op`.
    pub limit_ratio: Option<f64>,
    /// Percentiles; null: not measured.
    pub latency_ns: Option<f64>,
    /// What a latency is one of.
    pub latency_of: &'static str,
    /// Growth of resident memory ÷ connections; null: not measured.
    pub bytes_per_connection: Option<f64>,
    /// All workers' counters.
    pub counters: Counters,
    /// Each worker's; they add up to `counters`.
    pub per_cpu: Vec<Counters>,
    /// What became of the connections.
    pub accounting: Option<Accounting>,
    /// What must not be.
    pub anomalies: Anomalies,
    /// The clash workloads' own.
    pub clash: Option<ClashFigures>,
    /// Threads that are no workers; null: there are none.
    pub maintenance: Option<f64>,
    /// The stall workload's own; null here.
    pub stall: Option<f64>,
    /// The expire workload's own; null here.
    pub expiry: Option<f64>,
    /// Numbers of the samples during which steal or foreign load exceeded 5 %.
    pub disturbed_samples: Vec<usize>,
}

impl RunResult {
    /// Offered connections of which nobody knows what became; 0 also for a workload that confirms nothing.
    #[must_use]
    pub fn lost(&self) -> i64 {
        self.accounting.map_or(0, |accounting| accounting.lost)
    }

    /// The contract's form of a measurement.
    #[must_use]
    pub fn of(m: &Measurement) -> RunResult {
        let mut counters = ConntrackStats::default();
        m.per_cpu.iter().for_each(|worker| counters.add(worker));
        let seconds = |s: &Sample| s.elapsed.as_secs_f64();
        let spread =
            |figure: &dyn Fn(&Sample) -> f64| Spread::of(m.samples.iter().map(figure).collect());
        let workers = m.config.workers as f64;
        RunResult {
            workload: m.config.workload.name,
            table: m.table,
            workers: m.config.workers,
            batch: m.config.batch,
            connections: m.config.flows,
            fill: m.config.flows as f64 / m.config.table().capacity as f64,
            l4: m.config.workload.protocol.name(),
            ops_per_s: spread(&|s| s.tally.offered as f64 / seconds(s)),
            ns_per_op: spread(&|s| seconds(s) * 1e9 * workers / s.tally.offered as f64),
            limit_ns: None,
            limit_ratio: None,
            latency_ns: None,
            latency_of: "operation",
            bytes_per_connection: None,
            counters: Counters(counters),
            per_cpu: m.per_cpu.iter().copied().map(Counters).collect(),
            accounting: Some(Accounting {
                offered: m.tally.offered,
                confirmed: m.tally.confirmed,
                resolved_same: m.tally.resolved_same,
                resolved_reply_only: m.tally.resolved_reply_only,
                dropped: m.tally.dropped,
                found_at_lookup: m.tally.found_at_lookup,
                lost: m.tally.lost(),
            }),
            anomalies: m.anomalies,
            clash: Some(ClashFigures {
                collided_share: m.collided_share(),
                unsure: m.is_unsure(),
                resolved_per_s: spread(&|s| {
                    (s.tally.resolved_same + s.tally.resolved_reply_only) as f64 / seconds(s)
                }),
                confirmed_per_s: spread(&|s| s.tally.confirmed as f64 / seconds(s)),
                dropped_per_s: spread(&|s| s.tally.dropped as f64 / seconds(s)),
                floor_per_s: None,
                chain_longest: m.chains.as_ref().map(ChainLengths::longest),
                chain_mean: m.chains.as_ref().map(ChainLengths::mean_of_used),
            }),
            maintenance: None,
            stall: None,
            expiry: None,
            disturbed_samples: (0..m.samples.len())
                .filter(|&i| m.samples[i].disturbed)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = Spread::of(vec![4.0, 1.0, 2.0, 9.0]);
        assert_eq!((spread.median, spread.min, spread.max), (3.0, 1.0, 9.0));
        assert_eq!(spread.samples, [4.0, 1.0, 2.0, 9.0]);
        assert_eq!(Spread::of(vec![5.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Spread::of(Vec::new()).median, 0.0);
    }
}

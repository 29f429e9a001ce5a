//! Results of `run` as the JSON contract has them (schema `clashtrack/1`).
//!
//! Units are in the names; `samples` are raw, in the order in which they were taken.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::{ChainLengths, HitLines};

use super::histograms::Histograms;
use super::open_loop::{Latency, OpenLoopFigures};
use crate::peer;
use crate::workload::anomaly::Anomalies;
use crate::workload::case::Kind;
use crate::workload::expire::Expiry;
use crate::workload::stall::Stall;
use crate::workload::tally::Tally;
use crate::workload::{Measurement, Sample};

/// A figure of which there are several samples.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
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

impl<'de> Deserialize<'de> for Counters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Counters, D::Error> {
        let mut stats = ConntrackStats::default();
        for (name, value) in BTreeMap::<String, u64>::deserialize(deserializer)? {
            if !stats.set(&name, value) {
                return Err(D::Error::custom(format!("there is no counter `{name}`")));
            }
        }
        Ok(Counters(stats))
    }
}

/// What became of the connections that were offered: `offered` is the sum of the next four.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
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
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
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

/// What threads that are no workers did.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Maintenance {
    /// Connections that expiry removed.
    pub expired: u64,
    /// Stretches of the table that it looked at.
    pub passes: u64,
}

/// What a suspended worker did to the others.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
pub struct StallFigures {
    /// How long it was suspended, inside confirm.
    pub suspended_s: f64,
    /// Operations that the others finished meanwhile.
    pub others_ops: u64,
    /// The longest time in which one of them, trying, finished none.
    pub longest_pause_ms: f64,
    /// That was half of the time or more.
    pub hung: bool,
    /// New connections refused because entries waited to be recycled.
    pub recycle_stalled: u64,
    /// Lookups a second of the time that one of the others spent in them, meanwhile.
    pub lookups_per_s: f64,
    /// That ÷ the same before.
    pub lookups_kept: f64,
    /// Removals a second of the time that one of the others spent in them, meanwhile.
    pub removals_per_s: f64,
    /// That ÷ the same before.
    pub removals_kept: f64,
}

impl StallFigures {
    fn of(stall: &Stall) -> StallFigures {
        StallFigures {
            suspended_s: stall.suspended.as_secs_f64(),
            others_ops: stall.others_ops,
            longest_pause_ms: stall.longest_pause.as_secs_f64() * 1e3,
            hung: stall.hung,
            recycle_stalled: stall.recycle_stalled,
            lookups_per_s: stall.lookups_per_s,
            lookups_kept: stall.lookups_kept,
            removals_per_s: stall.removals_per_s,
            removals_kept: stall.removals_kept,
        }
    }
}

/// What expiry cost, and what inserts saw of it.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
pub struct ExpiryFigures {
    /// Processor time of the expiry thread ÷ wall time.
    pub core_share: f64,
    /// Its longest pass, in its processor time (what the hypervisor took from it included).
    pub longest_pass_us: f64,
    /// 99.9 % of its passes took no longer, in its processor time.
    pub pass_p999_us: f64,
    /// The longest of its idle passes, which touch no memory: what of the longest pass is the machine's.
    pub longest_idle_pass_us: f64,
    /// Its longest pass by the wall clock (what other threads took from it included too).
    pub longest_pass_wall_us: f64,
    /// 99.9 % of inserts were done within this time of the moment they were due, while it worked.
    pub insert_p999_ns_with: u64,
    /// The same while it rested.
    pub insert_p999_ns_without: u64,
    /// Inserts offered a second: half of what the workers can.
    pub offered_per_s: f64,
    /// Connections that it had not removed when the time was over.
    pub left_over: u64,
}

impl ExpiryFigures {
    fn of(expiry: &Expiry) -> ExpiryFigures {
        ExpiryFigures {
            core_share: expiry.core_share(),
            longest_pass_us: expiry.passes.max() as f64 / 1e3,
            pass_p999_us: expiry.passes.value_at_quantile(0.999) as f64 / 1e3,
            longest_idle_pass_us: expiry.idle_passes.max() as f64 / 1e3,
            longest_pass_wall_us: expiry.longest_pass_wall.as_secs_f64() * 1e6,
            insert_p999_ns_with: expiry.with.value_at_quantile(0.999),
            insert_p999_ns_without: expiry.without.value_at_quantile(0.999),
            offered_per_s: expiry.offered_per_s,
            left_over: expiry.left_over,
        }
    }
}

/// One result: a workload on a table, with so many workers, batch and connections.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct RunResult {
    /// Name of the workload.
    pub workload: &'static str,
    /// Name of the table.
    pub table: &'static str,
    /// Workers.
    pub workers: usize,
    /// Keys looked up, or connections confirmed, together.
    pub batch: usize,
    /// Connections of the table; of clash workloads flows of a round.
    pub connections: usize,
    /// How full the table's index is.
    pub fill: f64,
    /// Protocol of the connections.
    pub l4: &'static str,
    /// Operations a second, all workers together: lookups, or connections offered.
    pub ops_per_s: Spread,
    /// Wall time x workers ÷ operations.
    pub ns_per_op: Spread,
    /// The machine's limit for this access pattern, by the same workers in the same minutes; of the clash workloads the floor's time for a
    /// connection offered; null: this workload has none.
    pub limit_ns: Option<f64>,
    /// The limit's samples, one beside each of `ns_per_op`; null: not measured, or an interrupt came between them.
    pub limit_samples_ns: Option<Vec<f64>>,
    /// `limit_ns` ÷ the median of `ns_per_op`; null also at a given rate, where workers wait for the next operation to be due.
    pub limit_ratio: Option<f64>,
    /// How many of the samples each launch took, in their order; launches are processes.
    pub samples_by_launch: Vec<usize>,
    /// Percentiles; null: not measured.
    pub latency_ns: Option<Latency>,
    /// What a latency is one of.
    pub latency_of: &'static str,
    /// Growth of resident memory ÷ connections; null: not measured.
    pub bytes_per_connection: Option<f64>,
    /// The part of all keys in the table whose lookup reads one line of the index and one of the connection, and
    /// nothing else, counted over all of them at rest; null: not counted.
    pub two_line_hits: Option<f64>,
    /// Connections refused only because free entries waited for a worker that was suspended.
    pub recycle_stalled: u64,
    /// All workers' counters.
    pub counters: Counters,
    /// Each worker's; they add up to `counters`.
    pub per_cpu: Vec<Counters>,
    /// What became of the connections; null where none are offered.
    pub accounting: Option<Accounting>,
    /// What must not be.
    pub anomalies: Anomalies,
    /// The clash workloads' own.
    pub clash: Option<ClashFigures>,
    /// Threads that are no workers; null: there are none.
    pub maintenance: Option<Maintenance>,
    /// The `stall` workload's own.
    pub stall: Option<StallFigures>,
    /// The `expire` workload's own.
    pub expiry: Option<ExpiryFigures>,
    /// Operations were offered at a rate; null: each worker did one after the other.
    #[serde(default)]
    pub open_loop: Option<OpenLoopFigures>,
    /// Numbers of the samples during which steal or foreign load exceeded 5 %.
    pub disturbed_samples: Vec<usize>,
    /// What percentiles are made of; printed by children alone, for whoever puts launches together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub histograms: Option<Histograms>,
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
        let case = &m.case;
        let spread =
            |figure: &dyn Fn(&Sample) -> f64| Spread::of(m.samples.iter().map(figure).collect());
        let ops_per_s = spread(&Sample::ops_per_s);
        let ns_per_op = spread(&|s| s.ns_per_op(case.workers));
        let limit: Vec<f64> = m.limit.iter().map(|s| s.ns_per_op(case.workers)).collect();
        let is_clash = matches!(case.workload.kind, Kind::Clash(_));
        let limit = (!limit.is_empty()).then_some(limit);
        let limit_ns = limit.clone().map(|limit| Spread::of(limit).median);
        let offers = case.workload.kind.confirms();
        let histograms = Histograms::of(m);
        RunResult {
            workload: case.workload.name,
            table: m.table,
            workers: case.workers,
            batch: case.batch,
            connections: case.connections,
            fill: peer::fill(m.table, case.connections, case.table().capacity),
            l4: case.protocol.name(),
            samples_by_launch: vec![m.samples.len()],
            open_loop: m
                .open_loop
                .as_ref()
                .map(|open| OpenLoopFigures::of(open, &ops_per_s)),
            ops_per_s,
            limit_ns,
            // An interrupt may have come between a table's sample and the limit's.
            limit_samples_ns: limit.filter(|limit| limit.len() == m.samples.len()),
            limit_ratio: limit_ns
                .filter(|_| m.open_loop.is_none())
                .map(|limit| limit / ns_per_op.median),
            ns_per_op,
            latency_ns: histograms.as_ref().map(|h| h.latencies.latency()),
            latency_of: "operation",
            bytes_per_connection: m.bytes_per_connection,
            two_line_hits: m.hit_lines.map(HitLines::share_in_two),
            recycle_stalled: m.tally.recycle_stalled,
            counters: Counters(counters),
            per_cpu: m.per_cpu.iter().copied().map(Counters).collect(),
            accounting: offers.then(|| Accounting::of(&m.tally)),
            anomalies: m.anomalies,
            clash: is_clash.then(|| ClashFigures::of(m)),
            maintenance: m.expiry.as_ref().map(|expiry| Maintenance {
                expired: expiry.expired,
                passes: expiry.passes.len(),
            }),
            stall: m.stall.as_ref().map(StallFigures::of),
            expiry: m.expiry.as_ref().map(ExpiryFigures::of),
            disturbed_samples: (0..m.samples.len())
                .filter(|&i| m.samples[i].disturbed)
                .collect(),
            histograms,
        }
    }
}

impl Accounting {
    fn of(tally: &Tally) -> Accounting {
        Accounting {
            offered: tally.offered,
            confirmed: tally.confirmed,
            resolved_same: tally.resolved_same,
            resolved_reply_only: tally.resolved_reply_only,
            dropped: tally.dropped,
            found_at_lookup: tally.found_at_lookup,
            lost: tally.lost(),
        }
    }
}

impl ClashFigures {
    fn of(m: &Measurement) -> ClashFigures {
        let rate = |count: &dyn Fn(&Tally) -> u64| {
            let rates = m.samples.iter();
            Spread::of(
                rates
                    .map(|s| count(&s.tally) as f64 / s.elapsed.as_secs_f64())
                    .collect(),
            )
        };
        ClashFigures {
            collided_share: m.collided_share(),
            unsure: m.is_unsure(),
            resolved_per_s: rate(&|t| t.resolved_same + t.resolved_reply_only),
            confirmed_per_s: rate(&|t| t.confirmed),
            dropped_per_s: rate(&|t| t.dropped),
            floor_per_s: floor_per_s(m),
            chain_longest: m.chains.as_ref().map(ChainLengths::longest),
            chain_mean: m.chains.as_ref().map(ChainLengths::mean_of_used),
        }
    }
}

/// Clashes a second of the floor; `None` where nobody clashed with anybody.
fn floor_per_s(m: &Measurement) -> Option<f64> {
    let rate = |s: &Sample| s.tally.resolved_same as f64 / s.elapsed.as_secs_f64();
    let median = Spread::of(m.limit.iter().map(rate).collect()).median;
    (median > 0.0).then_some(median)
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

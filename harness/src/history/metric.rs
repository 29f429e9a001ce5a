//! What can be followed over runs, and where it stands in a result.

use serde_json::Value;

use crate::report::json::Spread;

/// Which way is better.
#[derive(serde::Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Times and bytes.
    Lower,
    /// Rates, and shares of what can be had.
    Higher,
}

/// A figure of a result.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// What `--metric` takes.
    pub name: &'static str,
    /// Which way is better.
    pub better: Better,
    /// Where it stands in a result: JSON pointer (RFC 6901) to a number, or to a spread with samples.
    pointer: &'static str,
}

const fn metric(name: &'static str, better: Better, pointer: &'static str) -> Metric {
    Metric {
        name,
        better,
        pointer,
    }
}

/// The metric where none is named; every result has it.
pub const DEFAULT: &str = "ns_per_op";

/// The one whose samples are each taken relative to the limit beside them.
const RELATIVE: &str = "limit_ratio";

/// All, in the order in which they are listed.
pub const METRICS: &[Metric] = &[
    metric("ns_per_op", Better::Lower, "/ns_per_op"),
    metric(RELATIVE, Better::Higher, "/limit_ratio"),
    metric("limit_ns", Better::Lower, "/limit_ns"),
    metric("ops_per_s", Better::Higher, "/ops_per_s"),
    metric(
        "bytes_per_connection",
        Better::Lower,
        "/bytes_per_connection",
    ),
    metric("resolved_per_s", Better::Higher, "/clash/resolved_per_s"),
    metric("confirmed_per_s", Better::Higher, "/clash/confirmed_per_s"),
    metric("dropped_per_s", Better::Higher, "/clash/dropped_per_s"),
    metric("rate_per_s", Better::Higher, "/open_loop/rate_per_s"),
    metric("two_line_hits", Better::Higher, "/two_line_hits"),
    metric("latency_p50_ns", Better::Lower, "/latency_ns/p50"),
    metric("latency_p90_ns", Better::Lower, "/latency_ns/p90"),
    metric("latency_p99_ns", Better::Lower, "/latency_ns/p99"),
    metric("latency_p999_ns", Better::Lower, "/latency_ns/p999"),
    metric("latency_p9999_ns", Better::Lower, "/latency_ns/p9999"),
    metric("latency_max_ns", Better::Lower, "/latency_ns/max"),
];

/// The metric of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<Metric> {
    METRICS.iter().find(|metric| metric.name == name).copied()
}

impl Metric {
    /// What a result has of it; `None` where it was not measured.
    #[must_use]
    pub fn of(&self, result: &Value) -> Option<Spread> {
        let samples = match self.name {
            RELATIVE => relative(result),
            "limit_ns" => result.get("limit_samples_ns").and_then(numbers),
            _ => None,
        };
        let samples = samples.or_else(|| {
            let value = result.pointer(self.pointer)?;
            match value.as_f64() {
                Some(number) => Some(vec![number]),
                None => numbers(value.get("samples")?),
            }
        });
        samples
            .filter(|samples| !samples.is_empty())
            .map(Spread::of)
    }
}

/// The limit's samples ÷ the table's: how near each came to what the machine could do at that moment.
fn relative(result: &Value) -> Option<Vec<f64>> {
    // At a given rate workers wait, and nothing is near a limit.
    result.get("limit_ratio")?.as_f64()?;
    let limits = numbers(result.get("limit_samples_ns")?)?;
    let samples = numbers(result.pointer("/ns_per_op/samples")?)?;
    let alike = limits.len() == samples.len() && samples.iter().all(|&sample| sample > 0.0);
    alike.then(|| limits.iter().zip(samples).map(|(l, s)| l / s).collect())
}

fn numbers(list: &Value) -> Option<Vec<f64>> {
    list.as_array()?.iter().map(Value::as_f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_unique_and_the_default_is_among_them() {
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        assert!(by_name(DEFAULT).is_some());
    }

    #[test]
    fn spreads_are_made_again_from_samples_and_single_numbers_are_taken_as_they_are() {
        let result = json!({
            "ns_per_op": {"median": 0.0, "samples": [10.0, 30.0, 20.0]},
            "limit_samples_ns": [5.0, 6.0, 8.0], "limit_ns": 6.0, "limit_ratio": 0.9,
            "bytes_per_connection": 104, "clash": null,
            "latency_ns": {"p99": 7},
        });
        let median = |name: &str| by_name(name).unwrap().of(&result).map(|s| s.median);
        assert_eq!(median("ns_per_op"), Some(20.0));
        assert_eq!(median("limit_ns"), Some(6.0));
        assert_eq!(median("limit_ratio"), Some(0.4), "of 0.5, 0.2 and 0.4");
        assert_eq!(median("bytes_per_connection"), Some(104.0));
        assert_eq!(median("latency_p99_ns"), Some(7.0));
        assert_eq!(median("resolved_per_s"), None);
    }

    #[test]
    fn what_was_printed_without_a_ratio_has_none() {
        let result = json!({
            "ns_per_op": {"samples": [10.0]}, "limit_samples_ns": [5.0], "limit_ns": 5.0, "limit_ratio": null,
        });
        assert!(by_name("limit_ratio").unwrap().of(&result).is_none());
    }

    #[test]
    fn without_samples_of_the_limit_the_ratio_is_the_one_that_was_printed() {
        let result = json!({
            "ns_per_op": {"samples": [10.0, 30.0]}, "limit_samples_ns": null, "limit_ratio": 0.5,
        });
        let ratio = by_name("limit_ratio").unwrap().of(&result).unwrap();
        assert_eq!(ratio.samples, [0.5]);
        assert!(by_name("limit_ns").unwrap().of(&result).is_none());
    }
}

//! Times as they were recorded, for whoever makes one result of several launches: percentiles of several processes cannot
//! be had from each one's percentiles.
//!
//! A child prints them when its parent asks (`--with-histograms`), as text; they are no part of the contract. The text has what was
//! recorded and nothing else, `value:count` with spaces between, so that a row is some kilobytes where a histogram is some hundred.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::open_loop::Latency;
use crate::workload::Measurement;
use crate::workload::pace::histogram;

/// What one histogram recorded: values, each with how often, from the smallest on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded(Vec<(u64, u64)>);

impl Recorded {
    /// What a histogram has.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Recorded {
        let recorded = histogram.iter_recorded();
        Recorded(
            recorded
                .map(|at| (at.value_iterated_to(), at.count_at_value()))
                .collect(),
        )
    }

    /// One histogram of all.
    #[must_use]
    pub fn together<'a>(all: impl IntoIterator<Item = &'a Recorded>) -> Histogram<u64> {
        let mut together = histogram();
        for &(value, count) in all.into_iter().flat_map(|recorded| &recorded.0) {
            together.saturating_record_n(value, count);
        }
        together
    }

    /// Its percentiles.
    #[must_use]
    pub fn latency(&self) -> Latency {
        Latency::of(&Recorded::together([self]))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (value, count) in &self.0 {
            let space = if text.is_empty() { "" } else { " " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{space}{value}:{count}");
        }
        text
    }

    fn parse(text: &str) -> Result<Recorded, String> {
        let mut recorded: Vec<(u64, u64)> = Vec::new();
        let mut bounds = histogram();
        for word in text.split_whitespace() {
            let pair = word
                .split_once(':')
                .and_then(|(value, count)| Some((value.parse().ok()?, count.parse().ok()?)))
                .filter(|&(_, count)| count > 0)
                .ok_or_else(|| format!("`{word}` in a histogram is no value:count"))?;
            if recorded.last().is_some_and(|last| last.0 >= pair.0) {
                return Err(format!("`{word}` in a histogram is out of order"));
            }
            bounds
                .record_n(pair.0, pair.1)
                .map_err(|_| format!("`{word}` in a histogram is longer than any time recorded"))?;
            recorded.push(pair);
        }
        Ok(Recorded(recorded))
    }
}

impl Serialize for Recorded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Recorded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Recorded, D::Error> {
        let text = String::deserialize(deserializer)?;
        Recorded::parse(&text).map_err(D::Error::custom)
    }
}

/// All that a result's percentiles are made of.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Histograms {
    /// Latencies of all operations.
    pub latencies: Recorded,
    /// The `expire` workload's own.
    pub expiry: Option<ExpiryHistograms>,
}

/// What `expire` has beside.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ExpiryHistograms {
    /// Inserts while expiry worked.
    pub with: Recorded,
    /// Inserts while it rested.
    pub without: Recorded,
    /// Passes.
    pub passes: Recorded,
}

impl Histograms {
    /// Of a measurement in which something was due at a known moment.
    #[must_use]
    pub fn of(m: &Measurement) -> Option<Histograms> {
        if let Some(open) = &m.open_loop {
            return Some(Histograms {
                latencies: Recorded::of(&open.offered.latencies),
                expiry: None,
            });
        }
        let expiry = m.expiry.as_ref()?;
        let own = ExpiryHistograms {
            with: Recorded::of(&expiry.with),
            without: Recorded::of(&expiry.without),
            passes: Recorded::of(&expiry.passes),
        };
        Some(Histograms {
            latencies: Recorded::of(&Recorded::together([&own.with, &own.without])),
            expiry: Some(own),
        })
    }

    /// Those of several launches together.
    #[must_use]
    pub fn of_launches(all: &[&Histograms]) -> Histograms {
        let own: Option<Vec<&ExpiryHistograms>> = all.iter().map(|h| h.expiry.as_ref()).collect();
        Histograms {
            latencies: joined(all, |h| &h.latencies),
            expiry: own.map(|own| ExpiryHistograms {
                with: joined(&own, |e| &e.with),
                without: joined(&own, |e| &e.without),
                passes: joined(&own, |e| &e.passes),
            }),
        }
    }
}

fn joined<H>(all: &[&H], part: impl Fn(&H) -> &Recorded) -> Recorded {
    Recorded::of(&Recorded::together(all.iter().map(|&h| part(h))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut all = histogram();
        values
            .into_iter()
            .for_each(|value| all.saturating_record(value));
        all
    }

    /// Aim: no percentile moves on its way through the text. Method: values of every magnitude, those beyond the bounds too.
    #[test]
    fn a_histogram_is_the_same_after_its_way_through_text() {
        let magnitudes = (0..64).map(|shift| 0x9e37_79b9_7f4a_7c15 >> shift);
        let all = recorded(magnitudes.chain(0..3000));
        let text = serde_json::to_string(&Recorded::of(&all)).expect("a string");
        let again: Recorded = serde_json::from_str(&text).expect("our own text");
        let again = Recorded::together([&again]);
        assert_eq!(Latency::of(&again), Latency::of(&all));
        assert_eq!(again, all);
        assert_eq!(Recorded::parse("").map(|none| none.0), Ok(Vec::new()));
    }

    #[test]
    fn damaged_text_is_an_error_that_quotes_the_word() {
        for (text, said) in [
            ("7:1 9", "`9` in a histogram is no value:count"),
            ("7:1 9:", "`9:` in a histogram is no value:count"),
            ("7:x", "`7:x` in a histogram is no value:count"),
            ("-7:1", "`-7:1` in a histogram is no value:count"),
            ("7:0", "`7:0` in a histogram is no value:count"),
            ("7:1 99999999999999999999:1", "is no value:count"),
            ("9:1 7:1", "`7:1` in a histogram is out of order"),
            ("7:1 7:1", "`7:1` in a histogram is out of order"),
            ("999999999999999:1", "is longer than any time recorded"),
        ] {
            let text = format!("{text:?}");
            let error = serde_json::from_str::<Recorded>(&text).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        assert!(serde_json::from_str::<Recorded>("[7]").is_err());
    }
}

//! `--rate`: the rates at which operations are offered, or the limit that the highest one has to keep.

use std::time::Duration;

use crate::command::values::{self, unknown};
use crate::error::Error;
use crate::workload::open_loop::{Demand, Goal, Percentile};
use crate::workload::{WORKLOADS, Workload};

/// What `run` takes about rates.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct RateArgs {
    /// Operations a second of all workers together, offered whether or not they keep up: 1M,2M or 1M..8M,
    /// or max:p99=50us for the highest rate that keeps a limit [default: as fast as can be]
    #[arg(long = "rate", value_name = "RATE", value_delimiter = ',')]
    pub rates: Vec<String>,
}

/// More is a slip of the finger.
const RATE_MAX: usize = 10_000_000_000;
/// What a search is asked for by.
const HIGHEST: &str = "max:";
/// A limit beyond this is none: a sample of the search is not so long.
const LATENCY_MAX: Duration = Duration::from_secs(10);

impl RateArgs {
    /// How operations of these workloads are to be offered.
    ///
    /// # Errors
    /// [`Error::Argument`] for what is no rate, and for workloads that cannot be offered at one.
    pub(super) fn demand(&self, workloads: &[Workload]) -> Result<Demand, Error> {
        let demand = match self.rates.as_slice() {
            [] => return Ok(Demand::AsFastAsPossible),
            [word] if word.starts_with(HIGHEST) => Demand::Highest(goal(word)?),
            words => {
                if let Some(word) = words.iter().find(|word| word.starts_with(HIGHEST)) {
                    return Err(wrong(
                        format!("`{word}` stands beside other rates"),
                        "write it alone, or rates only",
                    ));
                }
                Demand::Rates(rates(words)?)
            }
        };
        match workloads.iter().find(|w| !w.kind.takes_a_rate()) {
            None => Ok(demand),
            Some(workload) => Err(wrong(
                format!("{} cannot be offered at a rate", workload.name),
                &format!("take it out; those that can: {}", can().join(", ")),
            )),
        }
    }
}

/// Workloads that can be offered at a rate.
fn can() -> Vec<&'static str> {
    let can = WORKLOADS.iter().filter(|w| w.kind.takes_a_rate());
    can.map(|w| w.name).collect()
}

fn wrong(problem: String, remedy: &str) -> Error {
    Error::Argument {
        flag: "--rate",
        problem,
        remedy: remedy.to_owned(),
    }
}

fn rates(words: &[String]) -> Result<Vec<usize>, Error> {
    let mut rates = values::sizes("--rate", words)?;
    if let Some(rate) = rates.iter().find(|&&rate| rate == 0 || rate > RATE_MAX) {
        return Err(wrong(
            format!("{rate} is out of range"),
            &format!("write operations a second from 1 to {RATE_MAX}, such as 500k or 2M"),
        ));
    }
    // Each once, in the order in which they were asked for.
    let all = rates.clone();
    let mut number = 0;
    rates.retain(|rate| {
        number += 1;
        !all[..number - 1].contains(rate)
    });
    Ok(rates)
}

/// `max:p99=50us`.
fn goal(word: &str) -> Result<Goal, Error> {
    let names = || Percentile::ALL.into_iter().map(Percentile::name);
    let Some((name, latency)) = word[HIGHEST.len()..].split_once('=') else {
        return Err(wrong(
            format!("`{word}` names no limit"),
            "write a percentile and a time, such as max:p99=50us",
        ));
    };
    let percentile = Percentile::ALL.into_iter().find(|p| p.name() == name);
    let percentile = percentile.ok_or_else(|| unknown("--rate", "percentile", name, names()))?;
    let latency = values::duration("--rate", latency)?;
    if latency > LATENCY_MAX {
        return Err(wrong(
            format!("{latency:?} is too long a limit to be looked for"),
            &format!("write {LATENCY_MAX:?} or less"),
        ));
    }
    Ok(Goal {
        percentile,
        latency,
    })
}

/// A search ends at another rate in each process: there is no row that could be made one.
///
/// # Errors
/// [`Error::Argument`] for a search in several launches.
pub(super) fn check_launches(demand: &Demand, launches: usize) -> Result<(), Error> {
    match demand {
        Demand::Highest(_) if launches > 1 => Err(wrong(
            format!("the highest rate of {launches} launches would be {launches} rates"),
            "write rates, or leave --launches out",
        )),
        _ => Ok(()),
    }
}

/// The flag's value, for a child process and for the results; `None` for the closed loop.
pub(super) fn asked(demand: &Demand) -> Option<String> {
    match demand {
        Demand::AsFastAsPossible => None,
        Demand::Rates(rates) => {
            let rates: Vec<String> = rates.iter().map(ToString::to_string).collect();
            Some(rates.join(","))
        }
        Demand::Highest(goal) => {
            // Nanoseconds would not be taken; microseconds with a fraction are.
            let latency_us = goal.latency.as_nanos() as f64 / 1e3;
            Some(format!(
                "{HIGHEST}{}={latency_us}us",
                goal.percentile.name()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{clash, connect, lookup_hit, skew};

    fn demand(words: &[&str]) -> Result<Demand, Error> {
        let rates = words.iter().map(|&word| word.to_owned()).collect();
        RateArgs { rates }.demand(&[lookup_hit::WORKLOAD, connect::WORKLOAD])
    }

    #[test]
    fn rates_are_a_list_and_a_limit_stands_alone() {
        assert_eq!(demand(&[]).unwrap(), Demand::AsFastAsPossible);
        let list = demand(&["100k", "1M", "1M..4M"]).unwrap();
        let wanted = vec![100_000, 1_000_000, 2_000_000, 4_000_000];
        assert_eq!(list, Demand::Rates(wanted));
        for percentile in Percentile::ALL {
            let word = format!("max:{}=50us", percentile.name());
            let latency = Duration::from_micros(50);
            let goal = Goal {
                percentile,
                latency,
            };
            assert_eq!(demand(&[&word]).unwrap(), Demand::Highest(goal));
        }
    }

    #[test]
    fn what_is_no_rate_is_said_with_what_is_one() {
        for (words, said) in [
            (&["fast"][..], "`fast` is no size"),
            (&["0"], "0 is out of range"),
            (&["11G"], "11000000000 is out of range"),
            (
                &["1M", "max:p99=50us"],
                "`max:p99=50us` stands beside other rates",
            ),
            (&["max:"], "`max:` names no limit"),
            (&["max:50us"], "such as max:p99=50us"),
            (
                &["max:p42=50us"],
                "there is no percentile `p42`; write one of p50, p90, p99, p99.9, p99.99, max",
            ),
            (&["max:p99=fast"], "`fast` is no time"),
            (&["max:p99=1m"], "60s is too long"),
        ] {
            let text = demand(words).unwrap_err().to_string();
            assert!(text.starts_with("--rate:"), "{text}");
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn a_workload_that_cannot_be_offered_at_a_rate_is_named_with_those_that_can() {
        for workload in [clash::WORKLOAD, skew::WORKLOAD] {
            let args = RateArgs {
                rates: vec!["1M".to_owned()],
            };
            let error = args.demand(&[lookup_hit::WORKLOAD, workload]).unwrap_err();
            let text = error.to_string();
            let wanted = format!("{} cannot be offered at a rate", workload.name);
            assert!(text.contains(&wanted), "{text}");
            assert!(text.contains("lookup-hit, lookup-miss, connect"), "{text}");
        }
    }

    #[test]
    fn a_childs_words_are_read_as_the_demand_that_they_were_made_of() {
        for asked in [&["1M", "5"][..], &["max:p99.9=1.5us"], &["max:max=2ms"]] {
            let asked = demand(asked).unwrap();
            let value = super::asked(&asked).expect("it has a value");
            let values: Vec<&str> = value.split(',').collect();
            assert_eq!(demand(&values).unwrap(), asked);
        }
        assert_eq!(asked(&Demand::AsFastAsPossible), None);
    }

    #[test]
    fn a_search_in_several_launches_is_refused() {
        let highest = demand(&["max:p50=1ms"]).unwrap();
        assert!(check_launches(&highest, 1).is_ok());
        assert!(check_launches(&demand(&["1M"]).unwrap(), 5).is_ok());
        let text = check_launches(&highest, 5).unwrap_err().to_string();
        assert!(text.contains("leave --launches out"), "{text}");
    }
}

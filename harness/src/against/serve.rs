//! In the process that is sampled: fills the table, says that it is ready, and takes a sample whenever it is told to.

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use super::protocol::{BuiltBy, Ready, SAMPLE, Sampled, Subject, VERSION};
use crate::error::Error;
use crate::report::hardware::Build;
use crate::workload::on_demand::OnDemand;
use crate::workload::{Case, Sample};

/// How much of its work a process counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counting {
    /// All of it.
    All,
    /// Ten batches where eleven are done: a true slow-down by a tenth, to measure the comparison by.
    TenOfEleven,
}

impl Counting {
    fn of(self, operations: u64) -> u64 {
        match self {
            Counting::All => operations,
            Counting::TenOfEleven => operations * 10 / 11,
        }
    }
}

/// Serves one case on one table until `requests` end, or `interrupted` is raised.
///
/// # Errors
/// [`Error::Output`] when nobody reads the answers; [`Error::Input`] for a request that is none.
///
/// # Panics
/// If there is no such table, or it gives a wrong answer.
pub fn serve(
    case: &Case,
    table: &'static str,
    counting: Counting,
    interrupted: &AtomicBool,
    requests: impl BufRead,
    mut answers: impl Write,
) -> Result<(), Error> {
    let mut on_demand = OnDemand::new(case, table, interrupted).expect("a listed table");
    let ready = Ready {
        on_demand: VERSION,
        subject: subject(case, table, on_demand.is_pinned()),
        revision: option_env!("CLASHTRACK_REVISION").map(str::to_owned),
        build: built_by(),
    };
    say(&mut answers, &ready)?;
    for request in requests.lines() {
        // Relaxed: a flag that stands for itself.
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        let request = request.map_err(|error| bad_request(error.to_string()))?;
        if request.trim() != SAMPLE {
            return Err(bad_request(format!("`{}` is no request", request.trim())));
        }
        let sample = on_demand.sample(interrupted);
        say(&mut answers, &sampled(sample, case.workers, counting))?;
    }
    Ok(())
}

fn subject(case: &Case, table: &str, pinned: bool) -> Subject {
    Subject {
        workload: case.workload.name.to_owned(),
        table: table.to_owned(),
        workers: case.workers,
        batch: case.batch,
        connections: case.connections,
        l4: case.protocol.name().to_owned(),
        pinned,
    }
}

fn sampled(sample: Sample, workers: usize, counting: Counting) -> Sampled {
    let counted = Sample {
        operations: counting.of(sample.operations),
        ..sample
    };
    Sampled {
        ns_per_op: match counted.operations {
            0 => 0.0,
            _ => counted.ns_per_op(workers),
        },
        operations: counted.operations,
        lost: sample.tally.lost(),
        disturbed: sample.disturbed,
    }
}

/// How this program was built, as far as it moves figures.
fn built_by() -> BuiltBy {
    let build = Build::this();
    BuiltBy {
        rustc: build.rustc.map(str::to_owned),
        opt_level: build.opt_level.map(str::to_owned),
        target_features: build.target_features.map(str::to_owned),
    }
}

fn say(answers: &mut impl Write, what: &impl serde::Serialize) -> Result<(), Error> {
    let mut line = serde_json::to_vec(what).map_err(|error| Error::Output(error.into()))?;
    line.push(b'\n');
    answers
        .write_all(&line)
        .and_then(|()| answers.flush())
        .map_err(Error::Output)
}

fn bad_request(problem: String) -> Error {
    Error::Input {
        place: "standard input".to_owned(),
        problem,
        remedy: format!("write `{SAMPLE}`, a line for each sample"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Plan, lookup_hit};
    use std::time::Duration;

    fn answers(counting: Counting, requests: &str) -> (Vec<String>, Result<(), Error>) {
        let plan = Plan {
            connections: vec![200],
            workers: vec![1],
            duration: Some(Duration::from_millis(1)),
            ..Plan::new(&[lookup_hit::WORKLOAD], &["lockfree"])
        };
        let never = AtomicBool::new(false);
        let mut out = Vec::new();
        let served = serve(
            &plan.cases()[0],
            "lockfree",
            counting,
            &never,
            requests.as_bytes(),
            &mut out,
        );
        let text = String::from_utf8(out).expect("JSON");
        (text.lines().map(str::to_owned).collect(), served)
    }

    #[test]
    fn it_is_ready_first_and_then_answers_each_request() {
        let (lines, served) = answers(Counting::All, "sample\nsample\n");
        served.expect("ended with its input");
        let ready: Ready = serde_json::from_str(&lines[0]).expect("ready");
        assert_eq!(ready.subject.workload, "lookup-hit");
        assert_eq!(ready.subject.connections, 200);
        assert_eq!(lines.len(), 3);
        for line in &lines[1..] {
            let sampled: Sampled = serde_json::from_str(line).expect("a sample");
            assert!(sampled.ns_per_op > 0.0 && sampled.lost == 0);
        }
    }

    #[test]
    fn eleven_batches_done_where_ten_are_counted_take_a_tenth_longer() {
        let sample = Sample {
            elapsed: Duration::from_millis(1),
            operations: 1_100,
            tally: crate::workload::tally::Tally::NOTHING,
            disturbed: false,
        };
        let all = sampled(sample, 2, Counting::All);
        let slowed = sampled(sample, 2, Counting::TenOfEleven);
        assert_eq!((all.operations, slowed.operations), (1_100, 1_000));
        assert!((slowed.ns_per_op / all.ns_per_op - 1.1).abs() < 1e-9);
    }

    #[test]
    fn a_request_that_is_none_ends_it_with_what_could_be_said() {
        let (_, served) = answers(Counting::All, "smaple\n");
        let said = served.unwrap_err().to_string();
        assert!(
            said.contains("`smaple`") && said.contains("sample"),
            "{said}"
        );
    }
}

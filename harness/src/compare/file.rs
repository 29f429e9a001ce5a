//! Result files: what `clashtrack run --json` printed, read back as far as a comparison needs it.
//!
//! Names that are not known here are left alone: within version 1 of the schema names are only added.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::report::envelope::SCHEMA;

/// A file's content, checked: each row has samples, all of them above 0, and no two rows are alike.
#[derive(Clone, Debug)]
pub struct ResultFile {
    /// Its name, for messages.
    pub place: String,
    /// The schema it names.
    pub schema: String,
    /// The machine, by field.
    pub machine: Map<String, Value>,
    /// The settings, by field.
    pub config: Map<String, Value>,
    /// The results.
    pub rows: Vec<Row>,
    /// It was ended by Ctrl-C.
    pub interrupted: bool,
}

#[derive(Deserialize)]
struct Content {
    schema: String,
    command: String,
    machine: Map<String, Value>,
    config: Map<String, Value>,
    results: Vec<Value>,
    #[serde(default)]
    interrupted: bool,
}

/// One result.
#[derive(Deserialize, Clone, Debug)]
pub struct Row {
    /// Name of the workload.
    pub workload: String,
    /// Name of the table.
    pub table: String,
    /// Workers.
    pub workers: usize,
    /// Keys or connections together.
    pub batch: usize,
    /// Connections of the table, or flows of a round.
    pub connections: usize,
    /// Protocol of the connections.
    pub l4: String,
    /// Wall time x workers ÷ operations.
    pub ns_per_op: Samples,
    /// The machine's limit: the median of its samples.
    pub limit_ns: Option<f64>,
    /// The limit's samples, one beside each of `ns_per_op`, where the file has them.
    #[serde(default)]
    pub limit_samples_ns: Option<Vec<f64>>,
    /// How many of the samples each launch took; one launch where the file does not say.
    #[serde(default)]
    pub samples_by_launch: Option<Vec<usize>>,
    /// Numbers of the samples that were disturbed.
    #[serde(default)]
    pub disturbed_samples: Vec<usize>,
}

/// A spread, of which only the samples are read.
#[derive(Deserialize, Clone, Debug)]
pub struct Samples {
    /// In the order in which they were taken.
    pub samples: Vec<f64>,
}

/// What a row is a result of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key<'a> {
    workload: &'a str,
    table: &'a str,
    workers: usize,
    batch: usize,
    connections: usize,
    l4: &'a str,
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key {
            workload,
            table,
            workers,
            batch,
            connections,
            l4,
        } = self;
        write!(
            f,
            "{workload} on {table} (workers {workers}, batch {batch}, connections {connections}, {l4})"
        )
    }
}

impl Row {
    /// What it is a result of.
    #[must_use]
    pub fn key(&self) -> Key<'_> {
        Key {
            workload: &self.workload,
            table: &self.table,
            workers: self.workers,
            batch: self.batch,
            connections: self.connections,
            l4: &self.l4,
        }
    }

    /// Samples of all launches.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.ns_per_op.samples.len()
    }

    /// Launches.
    #[must_use]
    pub fn launches(&self) -> usize {
        self.samples_by_launch.as_ref().map_or(1, Vec::len)
    }

    /// Whether the machine's limit was measured beside it.
    #[must_use]
    pub fn has_limit(&self) -> bool {
        self.limit_ns.is_some()
    }

    /// Logarithms of the samples by launch, relative to the limit measured beside each if `relative` and there is one.
    #[must_use]
    pub fn logarithms(&self, relative: bool) -> Vec<Vec<f64>> {
        let limit = |number: usize| match (&self.limit_samples_ns, self.limit_ns) {
            _ if !relative => 1.0,
            (Some(samples), _) => samples[number],
            (None, limit) => limit.unwrap_or(1.0),
        };
        let mut logarithms = self
            .ns_per_op
            .samples
            .iter()
            .enumerate()
            .map(|(number, sample)| (sample / limit(number)).ln());
        match &self.samples_by_launch {
            None => vec![logarithms.collect()],
            Some(counts) => counts
                .iter()
                .map(|&count| logarithms.by_ref().take(count).collect())
                .collect(),
        }
    }

    /// What is wrong with it, if anything.
    fn fault(&self) -> Option<String> {
        let bad = |number: f64| !(number.is_finite() && number > 0.0);
        let samples = &self.ns_per_op.samples;
        if samples.is_empty() {
            return Some("ns_per_op has no samples".to_owned());
        }
        if let Some(sample) = samples.iter().find(|&&sample| bad(sample)) {
            return Some(format!("ns_per_op has a sample of {sample}"));
        }
        if let Some(limit) = self.limit_ns.filter(|&limit| bad(limit)) {
            return Some(format!("limit_ns is {limit}"));
        }
        if let Some(limits) = &self.limit_samples_ns {
            if limits.len() != samples.len() {
                let (limits, samples) = (limits.len(), samples.len());
                return Some(format!(
                    "limit_samples_ns has {limits} samples and ns_per_op {samples}"
                ));
            }
            if let Some(limit) = limits.iter().find(|&&limit| bad(limit)) {
                return Some(format!("limit_samples_ns has a sample of {limit}"));
            }
        }
        if let Some(counts) = &self.samples_by_launch {
            let sum = counts
                .iter()
                .try_fold(0_usize, |sum, &n| sum.checked_add(n));
            if sum != Some(samples.len()) || counts.contains(&0) {
                return Some(format!(
                    "samples_by_launch {counts:?} do not divide the {} samples of ns_per_op",
                    samples.len()
                ));
            }
        }
        None
    }
}

impl ResultFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Input`] when it holds something else.
    pub fn read(path: &Path) -> Result<ResultFile, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        ResultFile::parse(&path.display().to_string(), &text)
    }

    /// Reads a file's text; `place` is its name.
    ///
    /// # Errors
    /// [`Error::Input`] when it is no result of `run`.
    pub fn parse(place: &str, text: &str) -> Result<ResultFile, Error> {
        let bad = |place: String, problem: String| Error::Input {
            place,
            problem,
            remedy: "write it with `clashtrack run … --json > FILE`".to_owned(),
        };
        let here = || place.to_owned();
        let content: Content = serde_json::from_str(text)
            .map_err(|error| bad(here(), format!("this is no result file: {error}")))?;
        if content.command != "run" {
            let problem = format!("this is what `{}` printed, not `run`", content.command);
            return Err(bad(here(), problem));
        }
        let mut rows: Vec<Row> = Vec::new();
        let mut at_a_rate = 0;
        for (number, value) in content.results.into_iter().enumerate() {
            // Its time is that of its schedule: there is no cost to compare.
            if value.get("open_loop").is_some_and(|open| !open.is_null()) {
                at_a_rate += 1;
                continue;
            }
            let place = || format!("{place}: results[{number}]");
            let row: Row =
                serde_json::from_value(value).map_err(|error| bad(place(), error.to_string()))?;
            if let Some(fault) = row.fault() {
                return Err(bad(place(), fault));
            }
            if rows.iter().any(|other| other.key() == row.key()) {
                let problem = format!("there is a result of {} already", row.key());
                return Err(bad(place(), problem));
            }
            rows.push(row);
        }
        if rows.is_empty() && at_a_rate > 0 {
            let problem = "all of it was offered at a given rate, so there is no cost to compare";
            return Err(Error::Input {
                place: here(),
                problem: problem.to_owned(),
                remedy: "compare files that were written without --rate".to_owned(),
            });
        }
        if rows.is_empty() {
            return Err(bad(here(), "there are no results in it".to_owned()));
        }
        Ok(ResultFile {
            place: place.to_owned(),
            schema: content.schema,
            machine: content.machine,
            config: content.config,
            rows,
            interrupted: content.interrupted,
        })
    }

    /// The row of that key.
    #[must_use]
    pub fn row(&self, key: &Key<'_>) -> Option<&Row> {
        self.rows.iter().find(|row| row.key() == *key)
    }
}

/// A field that two files disagree on.
#[derive(serde::Serialize, Clone, PartialEq, Debug)]
pub struct Difference {
    /// Its name with those of what it is in: `machine.cpu`.
    pub field: String,
    /// What BASE has there.
    pub base: Value,
    /// What NEW has there.
    pub new: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} and {}", self.field, self.base, self.new)
    }
}

/// Fields of the machine that must agree.
const MACHINE: [&str; 4] = ["cpu", "vcpus", "kernel", "page_bytes"];

/// The settings whose values are measured when they were left to the machine.
pub(crate) const MEASURED: [&str; 2] = ["prefetch", "prefetch_write"];

/// Whether they were.
pub(crate) fn left_to_the_machine(config: &Map<String, Value>) -> bool {
    config.get("prefetch_asked") == Some(&Value::from("auto"))
}

/// What forbids a comparison, and what is only worth telling.
///
/// A setting that only one file has is told: the other file is of a version that did not have it.
#[must_use]
pub fn differences(base: &ResultFile, new: &ResultFile) -> (Vec<Difference>, Vec<Difference>) {
    let (mut forbid, mut tell) = (Vec::new(), Vec::new());
    let difference = |field: String, base: &Value, new: &Value| Difference {
        field,
        base: base.clone(),
        new: new.clone(),
    };
    // A schema that is not ours may mean something else by the same names, even if both have it.
    if [base, new].iter().any(|file| file.schema != SCHEMA) {
        let [base, new] = [base, new].map(|file| Value::from(file.schema.clone()));
        forbid.push(difference("schema".to_owned(), &base, &new));
    }
    for (field, base, new) in fields(&base.machine, &new.machine) {
        let found = difference(format!("machine.{field}"), base, new);
        if MACHINE.contains(&field) {
            forbid.push(found);
        } else {
            tell.push(found);
        }
    }
    // Both left it to the machine, which chose twice: no setting differs.
    let measured = left_to_the_machine(&base.config) && left_to_the_machine(&new.config);
    for (field, was, is) in fields(&base.config, &new.config) {
        let found = difference(format!("config.{field}"), was, is);
        let one_sided = !base.config.contains_key(field) || !new.config.contains_key(field);
        if field == "seed" || one_sided || (measured && MEASURED.contains(&field)) {
            tell.push(found);
        } else {
            forbid.push(found);
        }
    }
    (forbid, tell)
}

/// The fields that differ; what is missing is null.
fn fields<'a>(
    base: &'a Map<String, Value>,
    new: &'a Map<String, Value>,
) -> Vec<(&'a str, &'a Value, &'a Value)> {
    let only_new = new.keys().filter(|name| !base.contains_key(*name));
    let of = |map: &'a Map<String, Value>, name: &str| map.get(name).unwrap_or(&Value::Null);
    base.keys()
        .chain(only_new)
        .map(|name| (name.as_str(), of(base, name), of(new, name)))
        .filter(|(_, base, new)| base != new)
        .collect()
}

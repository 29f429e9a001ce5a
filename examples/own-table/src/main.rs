//! The `clash` workload on the table of this crate, beside clashtrack's own: all workers offer the same new flows at
//! once, one wins, the others are merged into it.
//!
//! `cargo run --release -- [FLOWS] [MILLISECONDS]`: flows of a round (64000), time of a sample (500).

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clashtrack::report::json::RunResult;
use clashtrack::report::table;
use clashtrack::workload::{self, Plan};
use clashtrack_engine::table::key::KeyV4;
use own_table::RwLockTable;

fn main() -> ExitCode {
    match race(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("own-table: {error}");
            ExitCode::from(2)
        }
    }
}

fn race(words: &[String]) -> Result<String, Box<dyn Error>> {
    let workloads = [workload::by_name("clash").ok_or("clashtrack has no workload `clash`")?];
    let mut plan = Plan::new(&workloads, &["lockfree", "striped", "dashmap"]);
    if let Some(flows) = words.first() {
        plan.connections = vec![number(flows, "flows")?];
    }
    if let Some(time) = words.get(1) {
        plan.duration = Some(Duration::from_millis(number(time, "milliseconds")? as u64));
    }
    let never = AtomicBool::new(false);
    let measured = workload::run_on::<RwLockTable<KeyV4>>(&plan, &never, |_, _| ())?;
    let results: Vec<RunResult> = measured.measurements.iter().map(RunResult::of).collect();
    Ok(table::by_workload(&results))
}

/// A number of something, which must be there.
fn number(word: &str, what: &str) -> Result<usize, String> {
    match word.parse() {
        Ok(number) if (1..=1 << 24).contains(&number) => Ok(number),
        _ => Err(format!(
            "`{word}` is no number of {what}: write one from 1 to 16777216"
        )),
    }
}

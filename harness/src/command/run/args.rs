//! What `clashtrack run` takes, and the plan that is made of it: whatever cannot be honoured is refused
//! here, before anything is measured.

use clashtrack_engine::table::lockfree::Isa;
use clashtrack_engine::table::prefetch::Hint;
use clashtrack_engine::tuple::Protocol;

use super::against::{self, AgainstArgs};
use super::rate::{self, RateArgs};
use super::save::SaveArgs;
use crate::calibrate::{self, Hints};
use crate::command::values::unknown;
use crate::command::{Globals, values};
use crate::error::Error;
use crate::peer::{DEFAULT_TABLES, TABLES};
use crate::report::machine::Machine;
use crate::workload::case::TOGETHER_MAX;
use crate::workload::flows::FLOWS_MAX;
use crate::workload::steer::Steer;
use crate::workload::worker::Cores;
use crate::workload::{self, Case, Kind, MAIN_JOB, Plan, WORKLOADS, Workload};

const AFTER_HELP: &str = "\
Sizes are written as 64k or 1M, times as 500ms or 10s; lists with commas; 1k..16M doubles from 1k to 16M.
Tables take turns within every sample, and the machine's own limit takes its turn with them.

Defaults:
  workload                 batch  connections  workers        a sample
  clash, clash-nat, -tcp      32  64k a round  all cores, >1  500ms
  clash-port, dns-pair        32  64k a round  all cores, >1  500ms
  lookup-hit, lookup-miss     64  1M           all cores      500ms
  zipf, skew, zones           64  1M           all cores      500ms
  elephant                    64  1            all cores      500ms
  connect, churn, mixed       32  1M           all cores      500ms
  syn-flood, hash-flood       32  1M           all cores      500ms
  packets                     64  1M           all cores      500ms
  new-flows, exhaust          32  1M           all cores      500ms
  expire                      32  1M           all but one    30s a 1M, once: all expire within it
  stall                       32  1M           all cores, >1  2s, once
Hash key, page placement and code layout are drawn once a process: --launches 5 repeats all of it in fresh processes.
At a --rate a latency counts from the moment at which an operation was due, and the rate is that of all workers together;
max:p99=50us looks for the highest rate that keeps the limit (p50, p90, p99, p99.9, p99.99 or max), to 2 %.
clash*, dns-pair, clash-port, stall, expire and skew have paces of their own and take no rate.
With --against samples of both revisions are taken in turns: --launches 5, --repeat 20 pairs a launch, --duration 10ms unless
said otherwise, lockfree alone; exit code 1 where the interval's lower end is beyond the threshold.
Above 4M connections only lockfree is run, unless --table says otherwise; each then has a process of its own.

Examples:
  clashtrack run clash --table striped,dashmap
  clashtrack run lookup-hit connect --workers 1,2 --table lockfree,dashmap
  clashtrack run lookup-hit connect --launches 5 --json
  clashtrack run lookup-hit --batch 1,64 --connections 1k..1M
  clashtrack run lookup-hit connect --rate 1M..16M
  clashtrack run packets --table lockfree,striped --rate max:p99=50us
  clashtrack run lookup-hit --connections 1k..16M --table lockfree
  clashtrack run churn --l4 tcp,udp --workers 1
  clashtrack run lookup-hit connect --save
  clashtrack run expire --connections 4M
  clashtrack run clash-nat --connections 1k..64k --seed 7 --json
  clashtrack run lookup-hit connect --against main";

/// The seed of a run whose user gave none.
pub const DEFAULT_SEED: u64 = 1;

/// The tables of the main job: ours, the kernel's algorithm, the plainest there is, and what people write first. The other
/// maps differ from the last one in speed only.
const MAIN_JOB_TABLES: [&str; 4] = ["lockfree", "striped", "mutex", "dashmap"];

/// Time of a sample in the main job: with its untimed checks, twelve races take about 10 s.
const MAIN_JOB_DURATION: &str = "40ms";

/// The lock-free table has places for 1024, and those that fill and check it need some.
const WORKERS_MAX: usize = 1000;
const BATCH_MAX: usize = 4096;
const REPEAT_MAX: usize = 10_000;
const LAUNCHES_MAX: usize = 1000;
/// Memory of an entry, its tracker and its part of the largest index, with some to spare.
const ENTRY_BYTES: usize = 320;
/// Memory of a connection's keys, of those of its successor, and of both in the order in which they are asked for.
const TRAFFIC_BYTES: usize = 160;
/// A packet made beforehand.
const PACKET_BYTES: usize = 80;

/// How a plan is carried out, and what was asked for where the plan has what came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) launches: usize,
    /// `--prefetch auto`.
    pub(super) prefetch_measured: bool,
    /// `--with-histograms`.
    pub(super) with_histograms: bool,
}

/// What `run` takes.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct RunArgs {
    /// Workloads to run, in this order (see `clashtrack list`)
    #[arg(value_name = "WORKLOAD", required = true)]
    pub workloads: Vec<String>,
    /// Tables to run them on [default: lockfree,striped,dashmap]
    #[arg(long = "table", value_name = "TABLE", value_delimiter = ',')]
    pub tables: Vec<String>,
    /// Workers, one pinned to each core [default: by workload, see below]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub workers: Vec<String>,
    /// Connections of the table, or flows of a round [default: by workload]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub connections: Vec<String>,
    /// Keys looked up, or connections confirmed, together [default: by workload]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub batch: Vec<String>,
    /// Protocols of the connections; clash workloads have their own [default: tcp]
    #[arg(long, value_name = "L4", value_delimiter = ',')]
    pub l4: Vec<String>,
    /// Time of one sample; below 1ms it is brief, and no figure is read off it [default: by workload]
    #[arg(long, value_name = "TIME")]
    pub duration: Option<String>,
    /// Samples of each workload on each table [default: 5; expire and stall: 1]
    #[arg(long, value_name = "N")]
    pub repeat: Option<String>,
    /// Fresh processes that all of it is repeated in, each with a seed of its own, one higher than the last [default: 1]
    #[arg(long, value_name = "N")]
    pub launches: Option<String>,
    /// Instruction set of the table's scans: scalar or auto
    #[arg(long, value_name = "ISA", default_value = "auto")]
    pub isa: String,
    /// How tables ask for memory ahead: t0, t1, nta, w, none; one for all, or two for lines to be read and to be changed
    /// (t0,w); auto measures which are best here
    #[arg(long, value_name = "HINT", default_value = "auto")]
    pub prefetch: String,
    /// How packets are spread over workers, where that matters (`skew`): rss, hash or random [default: rss]
    #[arg(long, value_name = "HOW")]
    pub steer: Option<String>,
    /// Open loop
    #[command(flatten)]
    pub rate: RateArgs,
    /// Whether it is kept.
    #[command(flatten)]
    pub save: SaveArgs,
    /// For `churn` alone, in a process of its own: print the growth of memory a connection
    #[arg(long, hide = true)]
    pub memory_only: bool,
    /// In a process whose results are put together with others': print what percentiles are made of
    #[arg(long, hide = true)]
    pub with_histograms: bool,
    /// Comparing with another revision.
    #[command(flatten)]
    pub against: AgainstArgs,
}

impl RunArgs {
    /// What the command does without arguments.
    pub(in crate::command) fn main_job() -> RunArgs {
        RunArgs {
            workloads: MAIN_JOB.iter().map(|w| w.name.to_owned()).collect(),
            tables: MAIN_JOB_TABLES.map(str::to_owned).to_vec(),
            workers: Vec::new(),
            connections: Vec::new(),
            batch: Vec::new(),
            l4: Vec::new(),
            duration: Some(MAIN_JOB_DURATION.to_owned()),
            repeat: None,
            launches: None,
            isa: "auto".to_owned(),
            prefetch: AUTO.to_owned(),
            steer: None,
            rate: RateArgs::default(),
            save: SaveArgs::default(),
            memory_only: false,
            with_histograms: false,
            against: AgainstArgs::default(),
        }
    }

    /// The resolved plan. Measures for some milliseconds where `--prefetch` is `auto`.
    ///
    /// # Errors
    /// [`Error::Argument`] for whatever cannot be honoured.
    pub(in crate::command) fn plan(&self, globals: &Globals, cores: &Cores) -> Result<Plan, Error> {
        let workloads = self.workloads.iter().map(|name| {
            workload::by_name(name).ok_or_else(|| {
                unknown(
                    "WORKLOAD",
                    "workload",
                    name,
                    WORKLOADS.iter().map(|w| w.name),
                )
            })
        });
        let tables = self.tables.iter().map(|name| {
            let table = TABLES.iter().find(|table| table.name == name);
            table.map(|table| table.name).ok_or_else(|| {
                unknown(
                    "--table",
                    "table",
                    name,
                    TABLES.iter().map(|table| table.name),
                )
            })
        });
        let protocols = self.l4.iter().map(|name| {
            let protocol = PROTOCOLS.iter().find(|protocol| protocol.name() == name);
            protocol.copied().ok_or_else(|| {
                unknown(
                    "--l4",
                    "protocol here",
                    name,
                    PROTOCOLS.iter().map(|l4| l4.name()),
                )
            })
        });
        let workloads: Vec<Workload> = workloads.collect::<Result<_, _>>()?;
        let mut plan = Plan {
            demand: self.rate.demand(&workloads)?,
            workloads,
            tables: tables.collect::<Result<_, _>>()?,
            workers: bounded("--workers", &self.workers, WORKERS_MAX)?,
            batches: bounded("--batch", &self.batch, BATCH_MAX)?,
            connections: bounded("--connections", &self.connections, FLOWS_MAX)?,
            protocols: protocols.collect::<Result<_, _>>()?,
            duration: match &self.duration {
                Some(word) => Some(values::duration("--duration", word)?),
                None => None,
            },
            repeat: match &self.repeat {
                Some(word) => Some(bounded("--repeat", std::slice::from_ref(word), REPEAT_MAX)?[0]),
                None => None,
            },
            seed: globals.seed.unwrap_or(DEFAULT_SEED),
            cores: cores.count(),
            prefetch: Hints::default(),
            isa: known_isa(&self.isa)?,
            steer: known_steer(self.steer.as_deref())?,
        };
        check_workers(&plan)?;
        rate::check_launches(&plan.demand, self.order()?.launches)?;
        if self.steer.is_some() {
            check_steer(&plan)?;
        }
        if plan.tables.is_empty() {
            let large = plan
                .cases()
                .iter()
                .any(|case| case.connections > TOGETHER_MAX);
            plan.tables = if large {
                vec![LARGE]
            } else if self.against.against.is_some() {
                vec![against::TABLE]
            } else {
                DEFAULT_TABLES.to_vec()
            };
        }
        check_memory(&plan)?;
        plan.prefetch = self.hints(plan.seed)?;
        Ok(plan)
    }

    /// What is beside the plan.
    pub(super) fn order(&self) -> Result<Order, Error> {
        Ok(Order {
            launches: self.launches_or(1)?,
            prefetch_measured: self.prefetch == AUTO,
            with_histograms: self.with_histograms,
        })
    }

    /// Launches that were asked for.
    pub(in crate::command) fn launches_or(&self, default: usize) -> Result<usize, Error> {
        match &self.launches {
            Some(word) => Ok(bounded("--launches", std::slice::from_ref(word), LAUNCHES_MAX)?[0]),
            None => Ok(default),
        }
    }

    fn hints(&self, seed: u64) -> Result<Hints, Error> {
        if self.prefetch == AUTO {
            return Ok(Hints::best(&calibrate::measure(calibrate::LINES, seed)));
        }
        Ok(match self.prefetch.split_once(',') {
            None => Hints::same(known_hint(&self.prefetch)?),
            Some((reading, writing)) => Hints {
                reading: known_hint(reading)?,
                writing: known_hint(writing)?,
            },
        })
    }
}

/// What `--prefetch` takes for hints that are measured.
pub(in crate::command) const AUTO: &str = "auto";

fn known_hint(word: &str) -> Result<Hint, Error> {
    let hint = Hint::ALL.into_iter().find(|hint| hint.name() == word);
    let names = Hint::ALL.into_iter().map(Hint::name).chain([AUTO]);
    hint.ok_or_else(|| unknown("--prefetch", "prefetch hint", word, names))
}

/// The table that is run where all of them would not fit.
const LARGE: &str = "lockfree";

/// Protocols that connections of the measured workloads may have.
const PROTOCOLS: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];

/// The instruction set of that name, if this machine has it.
fn known_isa(name: &str) -> Result<Isa, Error> {
    let isa = Isa::ALL.into_iter().find(|isa| isa.name() == name);
    let isa = isa.ok_or_else(|| {
        let names = Isa::ALL.into_iter().map(Isa::name);
        unknown("--isa", "instruction set", name, names)
    })?;
    if isa.is_available() {
        return Ok(isa);
    }
    Err(Error::Argument {
        flag: "--isa",
        problem: format!("this processor has no {name}"),
        remedy: "write scalar or auto".to_owned(),
    })
}

/// The way of steering of that name.
fn known_steer(name: Option<&str>) -> Result<Steer, Error> {
    let Some(name) = name else {
        return Ok(Steer::default());
    };
    let steer = Steer::ALL.into_iter().find(|steer| steer.name() == name);
    let names = Steer::ALL.into_iter().map(Steer::name);
    steer.ok_or_else(|| unknown("--steer", "way of steering", name, names))
}

/// Who asks for a way of steering where nobody steers expects something that will not be.
fn check_steer(plan: &Plan) -> Result<(), Error> {
    if plan.workloads.iter().any(|w| w.kind.steers()) {
        return Ok(());
    }
    Err(Error::Argument {
        flag: "--steer",
        problem: "none of these workloads steers packets to workers".to_owned(),
        remedy: "add `skew`, or leave the flag out".to_owned(),
    })
}

fn check_workers(plan: &Plan) -> Result<(), Error> {
    for case in plan.cases() {
        let least = case.workload.kind.workers_min();
        if case.workers < least {
            return Err(Error::Argument {
                flag: "--workers",
                problem: format!(
                    "{} with {} worker: nobody is left to look at while it is suspended",
                    case.workload.name, case.workers
                ),
                remedy: format!("write {least} or more"),
            });
        }
    }
    Ok(())
}

/// Sizes from 1 to `most`.
fn bounded(flag: &'static str, words: &[String], most: usize) -> Result<Vec<usize>, Error> {
    let sizes = values::sizes(flag, words)?;
    match sizes.iter().find(|&&size| size == 0 || size > most) {
        None => Ok(sizes),
        Some(size) => Err(Error::Argument {
            flag,
            problem: format!("{size} is out of range"),
            remedy: format!("write a number from 1 to {most}"),
        }),
    }
}

/// All tables of a case are in memory together, up to a size: refuse what would be killed for want of memory.
fn check_memory(plan: &Plan) -> Result<(), Error> {
    let Some(available) = Machine::memory_available() else {
        return Ok(());
    };
    for group in plan.groups() {
        let needed: usize = group
            .iter()
            .map(|case| needed_by(case, plan))
            .fold(0, usize::saturating_add);
        if needed as u64 > available {
            let case = group[group.len() - 1];
            let workers: Vec<String> = group.iter().map(|case| case.workers.to_string()).collect();
            return Err(Error::Argument {
                flag: "--connections",
                problem: format!(
                    "{} on {} tables with {} connections and {} workers takes about {} MB, and {} MB are free",
                    case.workload.name,
                    plan.tables.len(),
                    case.connections,
                    workers.join(" and "),
                    needed / 1_000_000,
                    available / 1_000_000,
                ),
                remedy: "write fewer connections, workers or tables".to_owned(),
            });
        }
    }
    Ok(())
}

/// Bytes of a case's tables, of the limit beside them, and of the traffic.
fn needed_by(case: &Case, plan: &Plan) -> usize {
    let together = if case.connections > TOGETHER_MAX {
        1
    } else {
        plan.tables.len()
    };
    // The limit is as large as a table; races have none.
    let tables = match case.workload.kind {
        Kind::Clash(_) => together,
        _ => together + 1,
    };
    let packets = PACKET_BYTES * case.workload.kind.packets_a_connection();
    // Every worker of a race may have an entry of each flow.
    case.entries()
        .saturating_mul(tables)
        .saturating_mul(ENTRY_BYTES + packets)
        .saturating_add(case.connections.saturating_mul(TRAFFIC_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ColorChoice;

    use crate::cli::Format;

    fn globals() -> Globals {
        Globals {
            json: false,
            format: Format::Table,
            color: ColorChoice::Never,
            quiet: true,
            seed: None,
        }
    }

    fn said(change: impl FnOnce(&mut RunArgs)) -> String {
        let mut args = RunArgs::main_job();
        change(&mut args);
        args.plan(&globals(), &Cores::available())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_main_job_is_all_clash_workloads_on_its_tables_with_two_workers_at_least() {
        let plan = RunArgs::main_job()
            .plan(&globals(), &Cores::available())
            .unwrap();
        assert_eq!(plan.workloads.len(), 3);
        assert_eq!(plan.tables, MAIN_JOB_TABLES);
        assert!(plan.cases().iter().all(|case| case.workers >= 2));
        assert_eq!(plan.seed, DEFAULT_SEED);
    }

    #[test]
    fn what_cannot_be_honoured_is_said_with_what_can() {
        let words = |word: &str| vec![word.to_owned()];
        let text = said(|args| args.workloads = words("lookup-hits"));
        assert!(
            text.contains("`lookup-hits`") && text.contains("clash-nat"),
            "{text}"
        );
        let text = said(|args| args.l4 = words("icmp"));
        assert!(
            text.starts_with("--l4:") && text.contains("tcp, udp"),
            "{text}"
        );
        let text = said(|args| args.isa = "avx1024".to_owned());
        assert!(
            text.starts_with("--isa:") && text.contains("scalar"),
            "{text}"
        );
        let text = said(|args| args.prefetch = "t9".to_owned());
        assert!(text.contains("t0, t1, nta, w, none, auto"), "{text}");
        let text = said(|args| {
            args.workloads = words("stall");
            args.workers = words("1");
        });
        assert!(text.contains("write 2 or more"), "{text}");
        let text = said(|args| args.tables = words("hashmap"));
        assert!(
            text.contains("`hashmap`") && text.contains("striped"),
            "{text}"
        );
        let text = said(|args| args.workers = words("0"));
        assert!(text.starts_with("--workers: 0 is out of range"), "{text}");
        let text = said(|args| args.connections = words("1G"));
        assert!(text.contains("from 1 to 16777216"), "{text}");
        let text = said(|args| args.repeat = Some("0".to_owned()));
        assert!(text.starts_with("--repeat:"), "{text}");
    }

    #[test]
    fn above_four_million_connections_only_the_lock_free_table_is_run_unless_tables_are_named() {
        let mut args = RunArgs::main_job();
        args.tables = Vec::new();
        args.workloads = vec!["lookup-hit".to_owned()];
        args.connections = vec!["5M".to_owned()];
        let tables = |args: &RunArgs| args.plan(&globals(), &Cores::available()).unwrap().tables;
        assert_eq!(tables(&args), ["lockfree"]);
        args.tables = vec!["striped".to_owned(), "mutex".to_owned()];
        assert_eq!(tables(&args), ["striped", "mutex"]);
    }

    #[test]
    fn a_plan_that_does_not_fit_into_memory_is_refused() {
        let text = said(|args| {
            args.connections = vec!["16M".to_owned()];
            args.workers = vec!["1000".to_owned()];
        });
        assert!(text.contains("MB are free"), "{text}");
    }
}

//! `clashtrack simulate`: which connections will time out? Virtual time, real engine.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use clashtrack_engine::config::{KernelVersion, Sysctls};
use clashtrack_engine::packet::Verdict;
use clashtrack_engine::time::Nanos;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Globals;
use super::set::SetArgs;
use crate::cli::Format;
use crate::error::{EXIT_NO, Error};
use crate::report::conntrack::stats_json;
use crate::report::envelope::Envelope;
use crate::report::grid::{Align, Grid};
use crate::rules::{ParsedRules, RulesetBuilder};
use crate::simulate::explain::{Explanation, explain};
use crate::simulate::scenario::{
    CLIENT_PORTS, CONNECTIONS_MAX, CPUS_MAX, Scenario, default_syn_retries, set_tcp_sysctl,
};
use crate::simulate::schedule::SynRetries;
use crate::simulate::tcp_client::Failure;
use crate::simulate::tcpext::{TcpCounters, TcpExtCounters};
use crate::simulate::{Connection, Outcome, Simulated, SynFate, simulate, timeline};

/// The seed without `--seed`.
const DEFAULT_SEED: u64 = 1;

const AFTER_HELP: &str = "\
The clients call connect() at 0 s, one after the other, on a host with lo and eth0 (192.0.2.10/24). \
Every SYN goes as a packet through the real engine, to a server that answers, on this host or beyond eth0. \
Connections that are established stay open to the end; client ports come from 32768 to 60999.

Times are virtual and exact, in seconds since each connection's own connect(): packets take no time, \
timers fire when they should. A live kernel's timer wheel rounds long timers up and adds up to 2 %: \
it gives up after 129.3 s or 133.4 s where 127 s or 131 s are predicted.

Examples:
  clashtrack simulate --connect 127.0.0.1:8080 --connections 2 --rule 'iptables -t nat -A POSTROUTING \
-p tcp -d 127.0.0.1 --dport 8080 -j SNAT --to-source 127.0.0.1:40000'
  clashtrack simulate --kernel article --connect 127.0.0.1:8080 --rules nat.rules --fail-on-timeout
  clashtrack simulate --connect 203.0.113.5:443 --rule '-t nat -A POSTROUTING -o eth0 -j MASQUERADE'

Exit codes:
  0  it was simulated
  1  --fail-on-timeout, and a connection times out
  2  a bad rule, address or number";

/// What `simulate` takes.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct SimulateArgs {
    /// A rule as given to iptables, with or without the word `iptables`; repeat for several
    #[arg(long, value_name = "RULE", allow_hyphen_values = true)]
    pub rule: Vec<String>,
    /// Rules as iptables-save prints them; read before those of --rule
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// Where the clients connect to: an IPv4 address and a port
    #[arg(long, value_name = "ADDR:PORT")]
    pub connect: String,
    /// How many clients connect
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub connections: usize,
    /// The kernel to follow
    #[arg(long, value_enum, value_name = "KERNEL", default_value_t = Kernel::V6_18)]
    pub kernel: Kernel,
    /// A sysctl of conntrack or tcp_syn_retries, tcp_syn_linear_timeouts; timeouts in seconds; repeat for several
    #[arg(long, value_name = "SYSCTL=V")]
    pub set: Vec<String>,
    /// CPUs of the host: client number i runs on CPU (i - 1) modulo N
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub cpus: usize,
    /// Nobody listens: SYNs are answered with RST
    #[arg(long)]
    pub no_listener: bool,
    /// Exit with 1 when a connection times out
    #[arg(long)]
    pub fail_on_timeout: bool,
    /// Print all events of connection tracking, clashes included
    #[arg(long)]
    pub events: bool,
}

/// Kernels that differ in what matters here.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kernel {
    /// Linux 6.18: linear SYN timeouts, and the port search evicts closing connections
    #[value(name = "6.18")]
    V6_18,
    /// A kernel before 6.5: neither
    Article,
}

impl From<Kernel> for KernelVersion {
    fn from(kernel: Kernel) -> KernelVersion {
        match kernel {
            Kernel::V6_18 => KernelVersion::V6_18,
            Kernel::Article => KernelVersion::Article,
        }
    }
}

/// Simulates and prints what came of it.
///
/// # Errors
/// A rule, address, number or sysctl that cannot be honoured; [`Error::Output`].
pub fn run(args: &SimulateArgs, globals: &Globals) -> Result<ExitCode, Error> {
    let (scenario, notes) = plan(args, globals)?;
    if !globals.quiet {
        for note in notes {
            // A note, not a result: whoever cannot read it misses nothing.
            let _ = writeln!(io::stderr(), "clashtrack: {note}");
        }
    }
    let result = simulate(&scenario).map_err(|error| Error::Environment {
        problem: format!("the engine refuses the scenario: {error}"),
        remedy: "try fewer --connections or --cpus".to_owned(),
    })?;
    match globals.format {
        Format::Json => json(args, &scenario, &result)?,
        Format::Table => {
            let mut out = io::stdout().lock();
            timeline::write(&mut out, &scenario, &result).map_err(Error::Output)?;
        }
        Format::Csv | Format::Markdown => grid(&result).print(globals.format)?,
    }
    Ok(if args.fail_on_timeout && result.timed_out() > 0 {
        ExitCode::from(EXIT_NO)
    } else {
        ExitCode::SUCCESS
    })
}

/// What was asked for as a scenario that can be honoured, and notes on what was skipped.
fn plan(args: &SimulateArgs, globals: &Globals) -> Result<(Scenario, Vec<String>), Error> {
    let target = parse_target(&args.connect)?;
    in_bounds("--connections", args.connections, CONNECTIONS_MAX, || {
        format!(
            "each needs a client port of its own from {} to {}",
            CLIENT_PORTS.start(),
            CLIENT_PORTS.end()
        )
    })?;
    in_bounds("--cpus", args.cpus, CPUS_MAX, || {
        "more make no difference".to_owned()
    })?;
    let kernel = KernelVersion::from(args.kernel);
    let (mut sysctls, syn_retries) = settings(&args.set, default_syn_retries(kernel))?;
    sysctls.kernel = kernel;
    let ParsedRules { ruleset, notes } = parse_rules(args)?;
    let scenario = Scenario {
        ruleset,
        sysctls,
        syn_retries,
        target,
        connections: args.connections,
        cpus: args.cpus,
        listener: !args.no_listener,
        keep_events: args.events,
        seed: globals.seed.unwrap_or(DEFAULT_SEED),
    };
    Ok((scenario, notes))
}

fn parse_rules(args: &SimulateArgs) -> Result<ParsedRules, Error> {
    let mut builder = RulesetBuilder::new();
    if let Some(path) = &args.rules {
        let text = fs::read_to_string(path).map_err(|source| Error::File {
            action: "read",
            path: path.clone(),
            source,
        })?;
        builder.save_file(&text, &path.to_string_lossy())?;
    }
    for rule in &args.rule {
        builder.command(rule)?;
    }
    Ok(builder.finish()?)
}

fn parse_target(connect: &str) -> Result<SocketAddrV4, Error> {
    let bad = |problem: &str| Error::Argument {
        flag: "--connect",
        problem: format!("`{connect}` {problem}"),
        remedy: "write an IPv4 address and a port, such as 127.0.0.1:8080".to_owned(),
    };
    let target = match connect.parse::<SocketAddr>() {
        Ok(SocketAddr::V4(target)) => target,
        Ok(SocketAddr::V6(_)) => return Err(bad("is IPv6, which is not simulated")),
        Err(_) if connect.parse::<std::net::Ipv6Addr>().is_ok() => {
            return Err(bad("is IPv6, which is not simulated"));
        }
        Err(_) if connect.parse::<Ipv4Addr>().is_ok() => return Err(bad("has no port")),
        Err(_) => return Err(bad("is no address and port (names are not looked up)")),
    };
    let ip = target.ip();
    if target.port() == 0 {
        return Err(bad("has port 0, to which nobody can connect"));
    }
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() {
        return Err(bad("is an address to which TCP cannot connect"));
    }
    Ok(target)
}

fn in_bounds(
    flag: &'static str,
    value: usize,
    most: usize,
    reason: impl Fn() -> String,
) -> Result<(), Error> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::Argument {
        flag,
        problem: if value == 0 {
            "there is nothing to simulate with 0".to_owned()
        } else {
            format!(
                "{value} are more than the {most} there can be: {}",
                reason()
            )
        },
        remedy: format!("give a number from 1 to {most}"),
    })
}

/// What `--set` says: the clients' two sysctls are the simulation's own, the others the engine's.
fn settings(set: &[String], mut syn_retries: SynRetries) -> Result<(Sysctls, SynRetries), Error> {
    let mut engine = SetArgs::default();
    for setting in set {
        let tcp = setting
            .split_once('=')
            .and_then(|(name, value)| set_tcp_sysctl(&mut syn_retries, name.trim(), value));
        match tcp {
            None => engine.set.push(setting.clone()),
            Some(Ok(())) => {}
            Some(Err(error)) => {
                return Err(Error::Argument {
                    flag: "--set",
                    problem: error.to_string(),
                    remedy: "for example --set tcp_syn_retries=3".to_owned(),
                });
            }
        }
    }
    Ok((engine.sysctls()?, syn_retries))
}

/// One connection, as `--json` prints it.
#[derive(Serialize, Debug)]
struct ConnectionRow {
    connection: usize,
    local: String,
    cpu: usize,
    outcome: &'static str,
    errno: Option<&'static str>,
    established_at_s: Option<f64>,
    failed_at_s: Option<f64>,
    syns: Vec<SynRow>,
}

/// One SYN, as `--json` prints it.
#[derive(Serialize, Debug)]
struct SynRow {
    at_s: f64,
    verdict: &'static str,
    reason: Option<&'static str>,
    /// Source it left with, after NAT.
    left_as: Option<String>,
    /// The client whose connection owned the tuple that it wanted.
    lost_to: Option<usize>,
}

impl ConnectionRow {
    fn new(c: &Connection) -> ConnectionRow {
        let (outcome, errno, established_at, failed_at) = match c.outcome {
            Outcome::Established(at) => ("established", None, Some(at), None),
            Outcome::Failed(at, failure) => {
                (outcome_name(failure), Some(failure.errno()), None, Some(at))
            }
        };
        ConnectionRow {
            connection: c.number,
            local: c.local.to_string(),
            cpu: c.cpu,
            outcome,
            errno,
            established_at_s: established_at.map(seconds),
            failed_at_s: failed_at.map(seconds),
            syns: c.syns.iter().map(SynRow::new).collect(),
        }
    }
}

impl SynRow {
    fn new(syn: &SynFate) -> SynRow {
        let (verdict, reason) = match syn.verdict {
            Verdict::Accept => ("accept", None),
            Verdict::Drop(reason) => ("drop", Some(reason.name())),
        };
        SynRow {
            at_s: seconds(syn.at),
            verdict,
            reason,
            left_as: syn.left_as.map(|(src, _)| src.to_string()),
            lost_to: syn.lost.as_ref().and_then(|lost| lost.winner_number),
        }
    }
}

const fn outcome_name(failure: Failure) -> &'static str {
    match failure {
        Failure::TimedOut => "timed_out",
        Failure::Refused => "refused",
    }
}

fn seconds(t: Nanos) -> f64 {
    t as f64 / 1e9
}

#[derive(Serialize, Debug)]
struct Config<'a> {
    kernel: &'static str,
    rule: &'a [String],
    rules: Option<&'a PathBuf>,
    connect: String,
    connections: usize,
    cpus: usize,
    listener: bool,
    tcp_syn_retries: u8,
    tcp_syn_linear_timeouts: u8,
    set: &'a [String],
    seed: u64,
}

#[derive(Serialize, Debug)]
struct Beside {
    per_cpu: Vec<Map<String, Value>>,
    tcpext: TcpExtCounters,
    tcp: TcpCounters,
    explanation: ExplanationRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<timeline::EventRow>>,
}

#[derive(Serialize, Debug)]
struct ExplanationRow {
    why: Vec<String>,
    advice: Vec<String>,
}

fn json(args: &SimulateArgs, scenario: &Scenario, result: &Simulated) -> Result<(), Error> {
    let config = Config {
        kernel: timeline::kernel_name(scenario.sysctls.kernel),
        rule: &args.rule,
        rules: args.rules.as_ref(),
        connect: scenario.target.to_string(),
        connections: scenario.connections,
        cpus: scenario.cpus,
        listener: scenario.listener,
        tcp_syn_retries: scenario.syn_retries.retries,
        tcp_syn_linear_timeouts: scenario.syn_retries.linear,
        set: &args.set,
        seed: scenario.seed,
    };
    let Explanation { why, advice } = explain(scenario, result);
    let beside = Beside {
        per_cpu: result.per_cpu.iter().map(stats_json).collect(),
        tcpext: result.counters.ext,
        tcp: result.counters.tcp,
        explanation: ExplanationRow { why, advice },
        events: scenario
            .keep_events
            .then(|| timeline::event_rows(&result.events)),
    };
    let rows: Vec<ConnectionRow> = result.connections.iter().map(ConnectionRow::new).collect();
    Envelope::new("simulate", config, rows, beside).print()
}

/// A row a connection, for CSV and Markdown.
fn grid(result: &Simulated) -> Grid {
    let mut grid = Grid::new([
        ("connection", Align::Right),
        ("local", Align::Left),
        ("cpu", Align::Right),
        ("outcome", Align::Left),
        ("established_at_s", Align::Right),
        ("failed_at_s", Align::Right),
        ("syns", Align::Right),
        ("syns_dropped", Align::Right),
    ]);
    for c in &result.connections {
        let row = ConnectionRow::new(c);
        let dropped = row.syns.iter().filter(|syn| syn.verdict == "drop").count();
        let or_blank = |s: Option<f64>| s.map_or_else(String::new, |s| s.to_string());
        grid.row([
            row.connection.to_string(),
            row.local,
            row.cpu.to_string(),
            row.outcome.to_owned(),
            or_blank(row.established_at_s),
            or_blank(row.failed_at_s),
            c.syns.len().to_string(),
            dropped.to_string(),
        ]);
    }
    grid
}

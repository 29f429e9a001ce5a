//! `clashtrack replay`: a capture through the tracker, and what `conntrack -L`, `-S` and `-E`
//! would have shown.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clashtrack_engine::event::{Event, Snapshot};
use clashtrack_engine::stats::ConntrackStats;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Globals;
use super::set::SetArgs;
use crate::capture::Capture;
use crate::capture::gateway::Gateway;
use crate::capture::link::Mac;
use crate::cli::Format;
use crate::error::{EXIT_INTERRUPTED, Error};
use crate::interrupt;
use crate::replay::merge::Merge;
use crate::replay::{self, Replay, Tally};
use crate::report::conntrack::{
    ConnectionJson, EventJson, event_line, list_line, protocol_name, state_name, stats_json,
    stats_lines,
};
use crate::report::envelope::Envelope;
use crate::report::grid::{Align, Grid};
use crate::rules::{ParsedRules, RulesetBuilder};

const AFTER_HELP: &str = "\
Prints the connections as `conntrack -L` does, with the time left at the last packet, in the order of
their first packets; then the counters as `conntrack -S` does. Several captures are merged by time.

The capture is taken for one side of a gateway that forwards every packet. A packet that the gateway
received with a time to live of 1 is discarded before its connection is confirmed. Which frames the gateway
received is known from cooked captures, and on Ethernet from ARP and from times to live; where that goes
wrong, name it with --gateway. Of a gateway capture one device: `any` shows each forwarded packet twice.

Ctrl-C prints what was read so far and exits with 130; a second one ends at once, should no packet come.

Examples:
  clashtrack replay capture.pcap
  clashtrack replay --events --set nf_conntrack_tcp_loose=0 capture.pcapng
  tcpdump -i eth0 -c 1000 -w - | clashtrack replay --json -";

/// Records between two looks at the progress bar.
const PROGRESS_STEP: u64 = 4096;
/// `nf_conntrack_max` at most: the table's memory, some 128 bytes an entry, is taken at the start.
const ENTRIES_MAX: usize = 1 << 24;
/// Seed where the user gives none. Replays draw for NAT rules and chain limits only.
const DEFAULT_SEED: u64 = 1;

/// What `replay` takes.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct ReplayArgs {
    /// Captures: pcap or pcapng, `-` for standard input
    #[arg(required = true, value_name = "PCAP")]
    pub files: Vec<PathBuf>,
    /// Print what `conntrack -E -o timestamp` would have, before the table
    #[arg(long)]
    pub events: bool,
    /// The Ethernet address of the gateway, where the capture does not show it
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub gateway: Option<Mac>,
    /// Rules for the gateway, as `iptables-save` prints them (nat and raw tables). A capture of
    /// the inside shows answers already translated back, which rules cannot match again
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// Settings.
    #[command(flatten)]
    pub set: SetArgs,
}

/// `config` of the JSON object.
#[derive(Serialize, Debug)]
struct Config {
    files: Vec<String>,
    rules: Option<String>,
    settings: Vec<String>,
    seed: u64,
}

/// What stands beside the results in the JSON object.
#[derive(Serialize, Debug)]
struct Beside {
    events: Vec<EventJson>,
    per_cpu: Vec<Map<String, Value>>,
    capture: CaptureJson,
}

#[derive(Serialize, Debug)]
struct CaptureJson {
    /// False where a capture broke off, or Ctrl-C ended it.
    complete: bool,
    #[serde(flatten)]
    tally: Tally,
}

/// Replays captures and prints what is left.
///
/// # Errors
/// Bad settings; captures that cannot be read. One that breaks off in the middle is an error
/// after everything before that has been printed.
pub fn run(args: &ReplayArgs, globals: &Globals) -> Result<ExitCode, Error> {
    if args.events && matches!(globals.format, Format::Csv | Format::Markdown) {
        return Err(Error::Argument {
            flag: "--events",
            problem: "events are lines, not rows of a table".to_owned(),
            remedy: "leave --format away, or use --json".to_owned(),
        });
    }
    let sysctls = args.set.sysctls()?;
    if sysctls.max > ENTRIES_MAX {
        return Err(Error::Argument {
            flag: "--set",
            problem: format!(
                "nf_conntrack_max={} needs more memory than a replay takes",
                sysctls.max
            ),
            remedy: format!("set it to {ENTRIES_MAX} at most"),
        });
    }
    let rules = args
        .rules
        .as_deref()
        .map(load_rules)
        .transpose()?
        .unwrap_or_default();
    let seed = globals.seed.unwrap_or(DEFAULT_SEED);
    let files = args.files.iter().map(|file| Capture::open(file));
    let captures = files.collect::<Result<Vec<_>, _>>()?;

    let engine = replay::engine(sysctls, rules.ruleset, seed).map_err(settings_error)?;
    let gateway = args
        .gateway
        .map_or_else(Gateway::default, Gateway::with_mac);
    let mut replay = Replay::new(&engine, gateway).map_err(settings_error)?;
    let mut told = Told::new(args.events, globals);
    let progress = progress(args, globals);
    let mut captures = Merge::new(captures);
    let mut count = 0;
    // A capture from a pipe may never end by itself: Ctrl-C prints what was read so far.
    let interrupt = interrupt::flag();
    // Relaxed: a flag that stands for itself.
    let stopped = || interrupt.load(Ordering::Relaxed);
    while let Some(record) = captures.next() {
        told.tell(replay.feed(record))?;
        count += 1;
        if stopped() {
            break;
        }
        if count % PROGRESS_STEP == 0 {
            progress.set_position(captures.position());
        }
    }
    progress.finish_and_clear();
    // Also where the Ctrl-C ended the other end of the pipe, and that our input.
    let interrupted = stopped();

    let tally = *replay.tally();
    let (last_events, connections) = replay.finish();
    told.tell(last_events)?;
    let mut errors = captures.into_errors();
    let outcome = Outcome {
        connections,
        per_cpu: engine.stats(),
        tally,
        complete: errors.is_empty() && !interrupted,
        interrupted,
    };
    outcome.print(args, globals, seed, told)?;
    if !globals.quiet {
        outcome.notes(&rules.notes);
    }
    let last = if interrupted { None } else { errors.pop() };
    for error in errors {
        // The last one is said by whoever gets it; nobody is left to hear of a closed stderr.
        let _ = writeln!(io::stderr(), "clashtrack: {error}");
    }
    if interrupted {
        if !globals.quiet {
            // A note: whoever cannot read it misses nothing.
            let _ = writeln!(
                io::stderr(),
                "clashtrack: interrupted: this is what was read so far"
            );
        }
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    }
    match last {
        None => Ok(ExitCode::SUCCESS),
        Some(last) => Err(last.into()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn settings_error(error: clashtrack_engine::engine::EngineError) -> Error {
    Error::Argument {
        flag: "--set",
        problem: error.to_string(),
        remedy: "leave nf_conntrack_max at what the machine's memory can hold".to_owned(),
    }
}

fn load_rules(path: &Path) -> Result<ParsedRules, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let mut builder = RulesetBuilder::new();
    builder.save_file(&text, &path.display().to_string())?;
    Ok(builder.finish()?)
}

/// Where events go: printed at once, or kept for the JSON object.
struct Told {
    lines: Option<BufWriter<io::StdoutLock<'static>>>,
    kept: Option<Vec<Event>>,
    /// Somebody is watching, perhaps a capture that goes on.
    at_once: bool,
}

impl Told {
    fn new(wanted: bool, globals: &Globals) -> Told {
        Told {
            lines: (wanted && !globals.json).then(|| BufWriter::new(io::stdout().lock())),
            kept: globals.json.then(Vec::new),
            at_once: io::stdout().is_terminal(),
        }
    }

    fn tell(&mut self, events: Vec<Event>) -> Result<(), Error> {
        if let Some(out) = &mut self.lines {
            for line in events.iter().filter_map(event_line) {
                writeln!(out, "{line}").map_err(Error::Output)?;
                if self.at_once {
                    out.flush().map_err(Error::Output)?;
                }
            }
        }
        if let Some(kept) = &mut self.kept {
            kept.extend(events);
        }
        Ok(())
    }

    /// Prints what is still in the buffer; gives the events that were kept.
    fn finish(mut self) -> Result<Vec<Event>, Error> {
        if let Some(out) = &mut self.lines {
            out.flush().map_err(Error::Output)?;
        }
        Ok(self.kept.unwrap_or_default())
    }
}

/// What a replay ended with.
struct Outcome {
    connections: Vec<Snapshot>,
    per_cpu: Vec<ConntrackStats>,
    tally: Tally,
    complete: bool,
    /// Ctrl-C ended it.
    interrupted: bool,
}

impl Outcome {
    fn print(
        &self,
        args: &ReplayArgs,
        globals: &Globals,
        seed: u64,
        told: Told,
    ) -> Result<(), Error> {
        let events = told.finish()?;
        match globals.format {
            Format::Json => self.json(args, seed, &events).print(),
            Format::Table => self.lists().map_err(Error::Output),
            Format::Csv | Format::Markdown => self.grid().print(globals.format),
        }
    }

    /// `conntrack -L`, a blank line, `conntrack -S`.
    fn lists(&self) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        for connection in &self.connections {
            writeln!(out, "{}", list_line(connection))?;
        }
        write!(out, "\n{}", stats_lines(&self.per_cpu))?;
        out.flush()
    }

    fn json(
        &self,
        args: &ReplayArgs,
        seed: u64,
        events: &[Event],
    ) -> Envelope<Config, Vec<ConnectionJson>, Beside> {
        let config = Config {
            files: args
                .files
                .iter()
                .map(|file| file.display().to_string())
                .collect(),
            rules: args.rules.as_ref().map(|file| file.display().to_string()),
            settings: args.set.set.clone(),
            seed,
        };
        let beside = Beside {
            events: events.iter().filter_map(EventJson::of).collect(),
            per_cpu: self.per_cpu.iter().map(stats_json).collect(),
            capture: CaptureJson {
                complete: self.complete,
                tally: self.tally,
            },
        };
        let results = self.connections.iter().map(ConnectionJson::from).collect();
        Envelope::new("replay", config, results, beside).with_interrupted(self.interrupted)
    }

    fn grid(&self) -> Grid {
        let mut grid = Grid::new([
            ("proto", Align::Left),
            ("state", Align::Left),
            ("timeout_s", Align::Right),
            ("status", Align::Left),
            ("original", Align::Left),
            ("reply", Align::Left),
        ]);
        for connection in &self.connections {
            let json = ConnectionJson::from(connection);
            let protocol = connection.original.protocol;
            grid.row([
                protocol_name(protocol).to_owned(),
                state_name(protocol, connection.state)
                    .unwrap_or_default()
                    .to_owned(),
                json.timeout_s.to_string(),
                json.status.join(" "),
                connection.original.to_string(),
                connection.reply.to_string(),
            ]);
        }
        grid
    }

    /// What a reader of the lists should know, on stderr.
    fn notes(&self, of_rules: &[String]) {
        let tally = &self.tally;
        let shown = self.connections.len();
        let mut lines = vec![format!("{shown} flow entries have been shown.")];
        let mut note = |count: u64, what: &str| {
            if count > 0 {
                lines.push(format!("{count} {what}"));
            }
        };
        note(
            tally.truncated,
            "packets cut short by the capture: lengths taken from their headers, checksums not verified",
        );
        note(
            tally.checksum_offloaded,
            "packets whose checksum was left to the network card: not verified",
        );
        note(
            tally.fragments,
            "fragments: not put together, so those behind the first count as invalid",
        );
        note(
            tally.ttl_exceeded,
            "packets whose time to live had run out: discarded by the gateway, not confirmed",
        );
        note(tally.ipv6, "packets not tracked yet (IPv6)");
        note(tally.not_ip, "frames skipped that carry no IP");
        note(
            tally.unknown_link,
            "frames skipped of an interface whose link type is not understood",
        );
        note(
            tally.out_of_order,
            "packets older than the one before them: taken at its time",
        );
        let mut stderr = io::stderr().lock();
        for line in of_rules.iter().chain(&lines) {
            // Notes, not results: whoever cannot read them misses nothing.
            let _ = writeln!(stderr, "clashtrack: {line}");
        }
    }
}

/// A bar on a terminal's stderr, of the bytes of all files; a spinner where they are not known.
/// None where event lines would run into it.
fn progress(args: &ReplayArgs, globals: &Globals) -> ProgressBar {
    let shares_terminal = args.events && io::stdout().is_terminal();
    if globals.quiet || shares_terminal || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let size = |file: &PathBuf| file_bytes(file);
    let total: Option<u64> = args.files.iter().map(size).sum();
    let template = match total {
        Some(_) => "replaying {wide_bar} {bytes}/{total_bytes} {eta}",
        None => "replaying {spinner} {bytes}",
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    bar.with_style(style)
}

/// The size of a plain file.
fn file_bytes(file: &Path) -> Option<u64> {
    let metadata = std::fs::metadata(file).ok()?;
    metadata.is_file().then_some(metadata.len())
}

fn parse_mac(text: &str) -> Result<Mac, String> {
    const HOW: &str = "an Ethernet address is six bytes, as in 02:00:5e:10:00:01";
    let bytes = text
        .split([':', '-'])
        .map(|byte| {
            (byte.len() <= 2)
                .then(|| u8::from_str_radix(byte, 16).ok())
                .flatten()
        })
        .collect::<Option<Vec<u8>>>();
    let bytes: Option<[u8; 6]> = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(Mac).ok_or_else(|| HOW.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ethernet_address_is_six_bytes_with_colons_or_dashes() {
        let mac = Ok(Mac([2, 0, 0x5e, 0x10, 0, 1]));
        assert_eq!(parse_mac("02:00:5e:10:00:01"), mac);
        assert_eq!(parse_mac("2-0-5E-10-0-1"), mac);
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "x2:00:5e:10:00:01",
            "002:0:0:0:0:0",
        ] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }
}

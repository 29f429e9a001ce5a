//! The report for people: what became of each SYN, the counters, and why.

use std::io::{self, Write};
use std::rc::Rc;

use clashtrack_engine::config::KernelVersion;
use clashtrack_engine::event::{ClashDecision, Event, Snapshot};
use clashtrack_engine::packet::{DropReason, Verdict};
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::{Direction, Tuple};
use serde::Serialize;

use super::explain::{explain, reason_in_words};
use super::scenario::Scenario;
use super::{Connection, Outcome, Simulated, SynFate};
use crate::report::conntrack::{event_line, list_line, stats_lines};

/// Connections whose SYNs are all shown.
const SHOWN_WHOLE: usize = 8;
/// Connections that get a line of their own.
const SHOWN: usize = 64;

/// Writes the report.
///
/// # Errors
/// What `out` returns.
pub fn write(out: &mut impl Write, scenario: &Scenario, result: &Simulated) -> io::Result<()> {
    write_head(out, scenario)?;
    for connection in result.connections.iter().take(SHOWN) {
        write_connection(out, scenario, connection)?;
    }
    write_rest(out, result)?;

    write!(out, "\nconntrack -S\n{}", stats_lines(&result.per_cpu))?;
    writeln!(out, "\nnetstat -s")?;
    for line in result.counters.netstat_lines() {
        writeln!(out, "{line}")?;
    }
    if scenario.keep_events {
        writeln!(out, "\nevents")?;
        for row in event_rows(&result.events) {
            writeln!(out, "{}", row.line)?;
        }
    }
    let explanation = explain(scenario, result);
    writeln!(out, "\nWhy: {}", explanation.why.join("\n     "))?;
    if !explanation.advice.is_empty() {
        writeln!(out, "Try: {}", explanation.advice.join("\n     "))?;
    }
    Ok(())
}

/// The kernel that is followed, as `--kernel` names it.
#[must_use]
pub const fn kernel_name(kernel: KernelVersion) -> &'static str {
    match kernel {
        KernelVersion::V6_18 => "6.18",
        KernelVersion::Article => "article",
    }
}

fn write_head(out: &mut impl Write, scenario: &Scenario) -> io::Result<()> {
    let connections = match scenario.connections {
        1 => "1 connection".to_owned(),
        n => format!("{n} connections"),
    };
    writeln!(
        out,
        "{connections} to {}, opened at 0 s; kernel {}, tcp_syn_retries {}, tcp_syn_linear_timeouts {}, seed {}",
        scenario.target,
        kernel_name(scenario.sysctls.kernel),
        scenario.syn_retries.retries,
        scenario.syn_retries.linear,
        scenario.seed,
    )?;
    writeln!(
        out,
        "Virtual time, counted from each connect(). A live kernel's timer wheel adds up to 2 %."
    )
}

fn write_connection(out: &mut impl Write, scenario: &Scenario, c: &Connection) -> io::Result<()> {
    let end = match c.outcome {
        Outcome::Established(at) => format!("ESTABLISHED at {} s", seconds(at)),
        Outcome::Failed(at, failure) => format!("{} at {} s", failure.errno(), seconds(at)),
    };
    let whole = c.number <= SHOWN_WHOLE;
    writeln!(
        out,
        "{}connection {}  {} -> {}  cpu {}  {} {}  {end}",
        if whole { "\n" } else { "" },
        c.number,
        c.local,
        scenario.target,
        c.cpu,
        c.syns.len(),
        if c.syns.len() == 1 { "SYN" } else { "SYNs" },
    )?;
    if !whole {
        return Ok(());
    }
    let mut before: Option<&SynFate> = None;
    for syn in &c.syns {
        let fate = match before {
            Some(before) if is_alike(before, syn) => "dropped likewise".to_owned(),
            _ => fate_in_words(syn),
        };
        writeln!(out, "  {:>7} s  SYN  {fate}", seconds(syn.at))?;
        before = Some(syn);
    }
    if let Outcome::Failed(at, failure) = c.outcome {
        writeln!(
            out,
            "  {:>7} s  connect() returns {}",
            seconds(at),
            failure.errno()
        )?;
    }
    Ok(())
}

/// Says how many there are beyond those shown, and how they ended.
fn write_rest(out: &mut impl Write, result: &Simulated) -> io::Result<()> {
    let rest = result.connections.get(SHOWN..).unwrap_or_default();
    if rest.is_empty() {
        return Ok(());
    }
    let established = rest
        .iter()
        .filter(|c| matches!(c.outcome, Outcome::Established(_)))
        .count();
    writeln!(
        out,
        "… and {} more: {established} established, {} failed (--json has them all)",
        rest.len(),
        rest.len() - established
    )
}

/// Both were dropped, and for the same reason by the same connection.
fn is_alike(a: &SynFate, b: &SynFate) -> bool {
    let same_owner = match (&a.lost, &b.lost) {
        (Some(a), Some(b)) => Rc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    matches!(a.verdict, Verdict::Drop(_)) && a.verdict == b.verdict && same_owner
}

fn fate_in_words(syn: &SynFate) -> String {
    match (syn.verdict, &syn.lost) {
        (Verdict::Drop(DropReason::Clash), Some(lost)) => {
            let (name, tuple) = clashing_tuple(lost.key, &lost.loser);
            let owner = match lost.winner_number {
                Some(number) => format!("connection {number}"),
                None => "a connection".to_owned(),
            };
            format!(
                "dropped at confirm: {name} tuple {tuple}\n{INDENT}is owned by {owner} ({})",
                list_line(&lost.winner)
            )
        }
        (Verdict::Drop(reason), _) => reason_in_words(reason).to_owned(),
        (Verdict::Accept, _) => {
            let mut words = "left the host".to_owned();
            if let Some((src, dst)) = syn.left_as {
                words.push_str(&format!(" as {src} -> {dst}"));
            }
            if let Some(reason) = syn.answer_dropped {
                words.push_str(&format!(
                    "\n{INDENT}its answer was {}",
                    reason_in_words(reason)
                ));
            }
            words
        }
    }
}

/// An event, for `--events`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventRow {
    /// When, since the simulation's begin.
    pub at_s: f64,
    /// `NEW`, `UPDATE`, `DESTROY` or `CLASH`.
    pub event: &'static str,
    /// The line of `conntrack -E -o timestamp`, or one in its manner for a clash.
    pub line: String,
}

/// Events in the order in which they happened.
#[must_use]
pub fn event_rows(events: &[Event]) -> Vec<EventRow> {
    events.iter().map(event_row).collect()
}

fn event_row(event: &Event) -> EventRow {
    let (at, name) = match event {
        Event::New(at, _) => (*at, "NEW"),
        Event::Update(at, ..) => (*at, "UPDATE"),
        Event::Destroy(at, _) => (*at, "DESTROY"),
        Event::Clash { at, .. } => (*at, "CLASH"),
    };
    EventRow {
        at_s: at as f64 / SECOND as f64,
        event: name,
        line: event_line(event).unwrap_or_else(|| clash_line(event)),
    }
}

/// A lost clash, of which the conntrack tool knows nothing, in the manner of its other lines.
fn clash_line(event: &Event) -> String {
    let Event::Clash {
        at,
        key,
        winner,
        loser,
        decision,
    } = event
    else {
        return String::new();
    };
    let decision = match decision {
        ClashDecision::Merged => "merged",
        ClashDecision::ReplyOnly => "inserted by its reply key alone",
        ClashDecision::Dropped => "dropped",
    };
    let (name, tuple) = clashing_tuple(*key, loser);
    format!(
        "[{}.{:06}]\t  [CLASH] {decision}: {name} tuple {tuple} is owned by {}",
        at / SECOND,
        at % SECOND / 1000,
        list_line(winner)
    )
}

/// The key that a connection lost, by name and tuple.
fn clashing_tuple(key: Direction, loser: &Snapshot) -> (&'static str, Tuple) {
    match key {
        Direction::Original => ("original", loser.original),
        Direction::Reply => ("reply", loser.reply),
    }
}

const INDENT: &str = "                  ";

/// Seconds with as many decimals as it takes, three at most.
fn seconds(t: Nanos) -> String {
    let exact = format!("{}.{:03}", t / SECOND, t % SECOND / 1_000_000);
    exact.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_as_short_as_they_can_be() {
        let shown = [0, SECOND, 10 * SECOND, SECOND / 2, SECOND + 1_000_000].map(seconds);
        assert_eq!(shown, ["0", "1", "10", "0.5", "1.001"]);
    }
}

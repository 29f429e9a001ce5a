//! Why it came out as it did, in words, and what to try.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::packet::{DropReason, Verdict};
use clashtrack_engine::rules::{NatPorts, NatTarget, Ruleset};
use clashtrack_engine::tuple::Direction;

use super::scenario::Scenario;
use super::tcp_client::Failure;
use super::{Connection, Lost, Outcome, Simulated, SynFate};

/// Ports that the port search tries at most for one connection (`nf_nat_l4proto_unique_tuple`:
/// 128 + 64 + 32 + 16 + 8).
const TRIES_MAX: usize = 248;

/// A reading of a simulation's result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// What happened, a sentence each.
    pub why: Vec<String>,
    /// What may help.
    pub advice: Vec<String>,
}

/// Explains a result.
#[must_use]
pub fn explain(scenario: &Scenario, result: &Simulated) -> Explanation {
    let of = |failure| -> Vec<&Connection> {
        let ended = |c: &&Connection| matches!(c.outcome, Outcome::Failed(_, f) if f == failure);
        result.connections.iter().filter(ended).collect()
    };
    let (timed_out, refused) = (of(Failure::TimedOut), of(Failure::Refused));
    let mut explanation = Explanation::default();
    if !refused.is_empty() {
        explanation.why.push(format!(
            "Nobody listens on {}: the answer to the SYN of {} was a reset.",
            scenario.target,
            connections(refused.iter().map(|c| c.number)),
        ));
    }
    if let Some(first) = timed_out.first() {
        explain_timeouts(&mut explanation, scenario, result, &timed_out, first);
    } else if refused.is_empty() {
        explanation.why.push(all_established(&result.connections));
    }
    explanation
}

fn all_established(all: &[Connection]) -> String {
    let repeated = all.iter().filter(|c| c.syns.len() > 1).count();
    let how = match repeated {
        0 => "with the first SYN".to_owned(),
        n => format!("{n} of them only after SYNs that were dropped"),
    };
    match all.len() {
        2 => format!("Both connections were established, {how}."),
        1 => format!(
            "The connection was established {}.",
            how.replace("1 of them ", "")
        ),
        n => format!("All {n} connections were established, {how}."),
    }
}

fn explain_timeouts(
    explanation: &mut Explanation,
    scenario: &Scenario,
    result: &Simulated,
    timed_out: &[&Connection],
    first: &Connection,
) {
    let losers = connections(timed_out.iter().map(|c| c.number));
    let Some(last) = first.syns.last() else {
        return;
    };
    match (last.verdict, &last.lost, last.answer_dropped) {
        (Verdict::Drop(DropReason::Clash), Some(lost), _) if lost.key == Direction::Reply => {
            explain_exhausted(explanation, scenario, result, lost, &losers);
        }
        (Verdict::Drop(reason), ..) => {
            explanation.why.push(format!(
                "The SYNs of {losers} never left the host: {}. The client hears nothing of it and \
                 sends them again until connect() gives up.",
                reason_in_words(reason)
            ));
            explanation
                .advice
                .extend(advice_against(reason).map(str::to_owned));
        }
        (Verdict::Accept, _, Some(reason)) => explanation.why.push(format!(
            "The SYNs of {losers} were answered, but the answers were dropped on the way back: {}.",
            reason_in_words(reason)
        )),
        (Verdict::Accept, _, None) => {
            explanation.why.push(format!(
                "The SYNs of {losers} left the host{}, but no answer came back to the client.",
                left_as(last)
            ));
            explanation.advice.push(
                "look at where NAT sends them: the answer must come back to this host".to_owned(),
            );
        }
    }
}

fn explain_exhausted(
    explanation: &mut Explanation,
    scenario: &Scenario,
    result: &Simulated,
    lost: &Lost,
    losers: &str,
) {
    let pool = Pool::of(&scenario.ruleset, lost);
    let owners = pool.owners(&result.connections);
    let server = format!(
        "{}:{}",
        lost.loser.reply.src.as_v4(),
        lost.loser.reply.src_key
    );
    let owned_by = connections(owners.iter().copied());
    explanation.why.push(if owners.len() >= pool.size() {
        let ports = match pool.size() {
            1 => format!("The only port of {pool}"),
            2 => format!("Both ports of {pool}"),
            n => format!("All {n} ports of {pool}"),
        };
        let verb = if pool.size() == 1 { "is" } else { "are" };
        format!(
            "{ports} {verb} taken toward {server}, by {owned_by}, so NAT finds no free one for {losers}: \
             it hands out the last one it tried although it is taken, and each SYN is dropped when \
             its connection is confirmed, because the reply tuple has an owner already."
        )
    } else {
        format!(
            "Of the {} ports of {pool}, {} are taken toward {server}. The port search tries {TRIES_MAX} \
             at most; for {losers} it met taken ones only, handed the last of them out, and each SYN \
             was dropped when its connection was confirmed.",
            pool.size(),
            owners.len()
        )
    });
    explanation.why.push(
        "The client is not told: TCP ignores the EPERM and sends the SYN again, so that it looks \
         like a network that loses packets, until connect() fails with ETIMEDOUT."
            .to_owned(),
    );
    pool.advise(explanation, scenario.connections);
}

/// The ports that NAT chose from for one source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pool {
    address: Ipv4Addr,
    first: u16,
    last: u16,
    /// A rule gave the ports; otherwise they are the class of the client's own port.
    by_rule: bool,
    random: bool,
    masquerade: bool,
    /// The rule has other addresses besides this one.
    one_of_many: bool,
}

impl Pool {
    /// The pool in which the loser's translated source lies.
    fn of(ruleset: &Ruleset, lost: &Lost) -> Pool {
        let (address, port) = (lost.loser.reply.dst, lost.loser.reply.dst_key);
        let ports_fit = |p: &NatPorts| p.range.is_none_or(|(a, b)| (a..=b).contains(&port));
        let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
        let found = rules.into_iter().find_map(|rule| match &rule.target {
            NatTarget::Snat(to) => {
                let (first, last) = to.addresses.unwrap_or((address, address));
                let holds = (first.to_u32()..=last.to_u32()).contains(&address.to_u32());
                (holds && ports_fit(&to.ports)).then_some((&to.ports, false, first != last))
            }
            NatTarget::Masquerade(ports) => ports_fit(ports).then_some((ports, true, false)),
            _ => None,
        });
        let range = found.and_then(|(ports, ..)| ports.range);
        let (first, last) = range.unwrap_or(port_class(port));
        Pool {
            address: address.as_v4(),
            first,
            last,
            by_rule: range.is_some(),
            random: found.is_some_and(|(ports, ..)| ports.flags.intersects(NatFlags::RANDOM_ANY)),
            masquerade: found.is_some_and(|(_, masquerade, _)| masquerade),
            one_of_many: found.is_some_and(|(.., one_of_many)| one_of_many),
        }
    }

    fn size(&self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Numbers of the established connections that have a port of it.
    fn owners(&self, all: &[Connection]) -> BTreeSet<usize> {
        let has_port = |syn: &SynFate| {
            syn.left_as.is_some_and(|(src, _)| {
                *src.ip() == self.address && (self.first..=self.last).contains(&src.port())
            })
        };
        all.iter()
            .filter(|c| matches!(c.outcome, Outcome::Established(_)))
            .filter(|c| c.syns.last().is_some_and(has_port))
            .map(|c| c.number)
            .collect()
    }

    fn advise(&self, explanation: &mut Explanation, wanted: usize) {
        let advice = &mut explanation.advice;
        if self.by_rule {
            // Twice the ports that are needed: a nearly full range is searched in vain.
            let span = (2 * wanted).max(1000);
            let last = usize::from(self.first).saturating_add(span - 1).min(65_535);
            if last > usize::from(self.last) {
                let option = if self.masquerade {
                    format!("--to-ports {}-{last}", self.first)
                } else {
                    format!("--to-source {}:{}-{last}", self.address, self.first)
                };
                advice.push(format!("a wider range: {option}"));
            }
        }
        advice.push(
            "fewer connections at a time to one server: toward another address or port every \
             port is free again"
                .to_owned(),
        );
        if self.one_of_many {
            // `find_best_ips_proto` hashes both addresses and no ports.
            advice.push(
                "the rule's other addresses do not help here: NAT picks one by client and server \
                 address, whatever the ports"
                    .to_owned(),
            );
        }
        if self.random && self.size() <= TRIES_MAX {
            advice.push("--random-fully does not help where no port is free".to_owned());
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address, self.first)?;
        if self.last != self.first {
            write!(f, "-{}", self.last)?;
        }
        Ok(())
    }
}

/// Source ports that NAT chooses from when the rule names none (`nf_nat_l4proto_unique_tuple`).
const fn port_class(port: u16) -> (u16, u16) {
    match port {
        0..=511 => (1, 511),
        512..=1023 => (600, 1023),
        _ => (1024, 65_535),
    }
}

/// Where and why a packet was dropped, for people.
#[must_use]
pub const fn reason_in_words(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Clash => "dropped at confirm, a tuple of its connection was taken",
        DropReason::ChainTooLong => "dropped at confirm, its hash chain was too long",
        DropReason::Dying => "dropped at confirm, its connection was being removed",
        DropReason::TableFull => {
            "dropped by connection tracking, the table is full (nf_conntrack_max)"
        }
        DropReason::Tracker => "dropped by the TCP tracker",
        DropReason::Nat => "dropped by NAT, it found no address to translate to",
        DropReason::Rule => "dropped by a rule or by the policy of a nat chain",
        DropReason::TtlExceeded => "discarded by forwarding, its time to live had run out",
    }
}

fn advice_against(reason: DropReason) -> impl Iterator<Item = &'static str> {
    let advice: &[&str] = match reason {
        DropReason::TableFull => &["a larger table: --set nf_conntrack_max=N"],
        DropReason::Nat => &["an address on the output device, or SNAT to one that exists"],
        DropReason::Rule => &["an exception before the rule, or another policy"],
        _ => &[],
    };
    advice.iter().copied()
}

fn left_as(syn: &SynFate) -> String {
    syn.left_as
        .map_or_else(String::new, |(src, dst)| format!(" as {src} -> {dst}"))
}

/// `connection 2`, `connections 2 to 8`, `connections 1, 3 and 5 to 9`. Numbers come in order.
fn connections(numbers: impl Iterator<Item = usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |&(first, last): &(usize, usize)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    };
    const SHOWN: usize = 8;
    let mut words: Vec<String> = runs.iter().take(SHOWN).map(run).collect();
    if runs.len() > SHOWN {
        words.push("others".to_owned());
    }
    match (runs.as_slice(), words.pop()) {
        ([], _) | (_, None) => "no connection".to_owned(),
        ([(first, last)], _) if first == last => format!("connection {first}"),
        (_, Some(last)) if words.is_empty() => {
            format!("connections {}", last.replace(", ", " and "))
        }
        (_, Some(last)) => format!("connections {} and {last}", words.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_numbers_are_named_in_runs() {
        let named = |numbers: &[usize]| connections(numbers.iter().copied());
        assert_eq!(named(&[2]), "connection 2");
        assert_eq!(named(&[1, 2]), "connections 1 and 2");
        assert_eq!(named(&[2, 3, 4, 8]), "connections 2 to 4 and 8");
        assert_eq!(named(&[1, 3, 5]), "connections 1, 3 and 5");
        assert_eq!(named(&[]), "no connection");
        let many: Vec<usize> = (1..50).step_by(2).collect();
        assert!(named(&many).ends_with("15 and others"), "{}", named(&many));
    }
}

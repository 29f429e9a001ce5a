//! Tables with their chains, the checks that need all rules, and the way into the engine.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use clashtrack_engine::hook::HookPoint;
use clashtrack_engine::rules::{
    Chain, DevicePattern, NatRule, NatTarget, Not, RawRule, RawTarget, RuleMatch, Ruleset,
};
use clashtrack_engine::zone::Zone;

use super::error::{Fault, Place, RuleError};
use super::parse::Parsed;
use super::rule::{Action, Rule, Table, Target};

/// The two tables.
#[derive(Debug)]
pub(super) struct Tables {
    nat: Chains,
    raw: Chains,
}

/// A table's chains. The base chains come first.
#[derive(Debug)]
struct Chains {
    table: Table,
    /// A command or file has named the table, so its hooks exist.
    used: bool,
    list: Vec<NamedChain>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
struct NamedChain {
    name: String,
    hook: Option<HookPoint>,
    rules: Vec<Placed>,
}

/// A rule and where it came from.
#[derive(Debug, Clone)]
struct Placed {
    rule: Rule,
    origin: Arc<Origin>,
}

#[derive(Debug)]
struct Origin {
    text: String,
    place: Place,
    target: Range<usize>,
}

impl Placed {
    fn error(&self, message: String, help: &str) -> RuleError {
        Fault::at(&self.origin.target, message)
            .help(help)
            .in_text(&self.origin.text, self.origin.place.clone())
    }
}

impl Tables {
    pub(super) fn new() -> Tables {
        Tables {
            nat: Chains::new(Table::Nat),
            raw: Chains::new(Table::Raw),
        }
    }

    fn chains(&mut self, table: Table) -> &mut Chains {
        match table {
            Table::Nat => &mut self.nat,
            Table::Raw => &mut self.raw,
        }
    }

    /// The table is there, even if it stays without rules.
    pub(super) fn mark_used(&mut self, table: Table) {
        self.chains(table).used = true;
    }

    /// Does this table have a chain of that name that is no base chain?
    pub(super) fn has_user_chain(&mut self, table: Table, name: &str) -> bool {
        let chains = self.chains(table);
        chains
            .by_name
            .get(name)
            .is_some_and(|&index| chains.list[index].hook.is_none())
    }

    /// Carries a command out.
    pub(super) fn apply(
        &mut self,
        parsed: Parsed,
        text: &str,
        place: &Place,
    ) -> Result<(), RuleError> {
        self.chains(parsed.command.table)
            .apply(parsed, text, place)
            .map_err(|fault| fault.in_text(text, place.clone()))
    }

    /// Looks for circles and for targets that their packets may not meet.
    pub(super) fn check(&self, table: Table) -> Result<(), RuleError> {
        match table {
            Table::Nat => self.nat.check(),
            Table::Raw => self.raw.check(),
        }
    }

    /// The engine's form.
    pub(super) fn into_ruleset(self) -> Result<Ruleset, RuleError> {
        let raw = self.raw.to_raw_rules()?;
        let mut ruleset = self.nat.into_nat_chains();
        ruleset.raw = raw;
        Ok(ruleset)
    }
}

impl Chains {
    fn new(table: Table) -> Chains {
        let mut chains = Chains {
            table,
            used: false,
            list: Vec::new(),
            by_name: HashMap::new(),
        };
        for &(name, hook) in table.base_chains() {
            chains.add(name.to_owned(), Some(hook));
        }
        chains
    }

    fn add(&mut self, name: String, hook: Option<HookPoint>) {
        self.by_name.insert(name.clone(), self.list.len());
        self.list.push(NamedChain {
            name,
            hook,
            rules: Vec::new(),
        });
    }

    fn apply(&mut self, parsed: Parsed, text: &str, place: &Place) -> Result<(), Fault> {
        let Parsed {
            command,
            chain: chain_span,
            position: position_span,
            target: target_span,
        } = parsed;
        self.used = true;
        let index = self.by_name.get(&command.chain).copied();
        let (position, rule) = match (command.action, index) {
            (Action::NewChain, None) => {
                self.add(command.chain, None);
                return Ok(());
            }
            (Action::NewChain, Some(_)) => {
                return Err(Fault::at(
                    &chain_span,
                    format!("chain `{}` exists already", command.chain),
                )
                .help("remove the command, or choose another name"));
            }
            (_, None) => return Err(self.no_chain(&command.chain, &chain_span)),
            (Action::PolicyAccept, Some(index)) => {
                if self.list[index].hook.is_none() {
                    return Err(Fault::at(
                        &chain_span,
                        format!(
                            "chain `{}` is a user's own, and has no policy",
                            command.chain
                        ),
                    )
                    .help("only the chains that exist from the start have one"));
                }
                return Ok(());
            }
            (Action::Append(rule), Some(_)) => (None, rule),
            (Action::Insert(position, rule), Some(_)) => (Some(position), rule),
        };
        if let Target::Jump(name) | Target::Goto(name) = &rule.target {
            self.check_jump(name, &target_span)?;
        }
        let pairs = list_length(rule.matches.src.as_ref())
            .saturating_mul(list_length(rule.matches.dst.as_ref()));
        if pairs > NETWORK_PAIRS_MAX {
            return Err(Fault::at(
                &chain_span,
                format!("the lists of networks make {pairs} rules, more than {NETWORK_PAIRS_MAX}"),
            )
            .help("write wider networks, or several rules"));
        }
        let origin = Arc::new(Origin {
            text: text.to_owned(),
            place: place.clone(),
            target: target_span,
        });
        let rules = &mut self.list[index.unwrap_or_default()].rules;
        let at = position.map_or(rules.len(), |position| position - 1);
        if at > rules.len() {
            return Err(Fault::at(
                &position_span,
                format!(
                    "chain `{}` has {} rules: there is no place {}",
                    command.chain,
                    rules.len(),
                    at + 1
                ),
            )
            .help("leave the place out to insert at the top, or use -A for the end"));
        }
        let placed = one_network_each(rule).map(|rule| Placed {
            rule,
            origin: Arc::clone(&origin),
        });
        rules.splice(at..at, placed);
        Ok(())
    }

    fn no_chain(&self, name: &str, span: &Range<usize>) -> Fault {
        let elsewhere = match self.table {
            Table::Nat => "the nat table has PREROUTING, INPUT, OUTPUT and POSTROUTING",
            Table::Raw => "the raw table has PREROUTING and OUTPUT",
        };
        Fault::at(
            span,
            format!("chain `{name}` does not exist in the {} table", self.table.name()),
        )
        .help(format!("{elsewhere}; make your own with -N {name} (in a file: `:{name} - [0:0]`) before it is used"))
    }

    fn check_jump(&self, name: &str, span: &Range<usize>) -> Result<(), Fault> {
        match self.by_name.get(name) {
            None => Err(Fault::at(
                span,
                format!(
                    "`{name}` is neither a target nor a chain of the {} table",
                    self.table.name()
                ),
            )
            .help(format!(
                "make the chain with -N {name} (in a file: `:{name} - [0:0]`) before it is used"
            ))),
            Some(&index) if self.list[index].hook.is_some() => Err(Fault::at(
                span,
                format!("no rule can jump to `{name}`, which packets enter by themselves"),
            )
            .help("jump to a chain of your own, made with -N")),
            Some(_) => Ok(()),
        }
    }

    /// Follows the jumps from each base chain (`mark_source_chains`). With a stack of its
    /// own: a file may chain as many chains as it likes.
    fn check(&self) -> Result<(), RuleError> {
        for (base, chain) in self.list.iter().enumerate() {
            if let Some(hook) = chain.hook {
                self.check_from(base, hook)?;
            }
        }
        Ok(())
    }

    fn check_from(&self, base: usize, hook: HookPoint) -> Result<(), RuleError> {
        let mut mark = vec![Mark::New; self.list.len()];
        let mut path = vec![(base, 0)];
        mark[base] = Mark::OnPath;
        while let Some((chain, next)) = path.last_mut() {
            let rules = &self.list[*chain].rules;
            let Some(placed) = rules.get(*next) else {
                mark[*chain] = Mark::Done;
                path.pop();
                continue;
            };
            *next += 1;
            let rule = &placed.rule;
            if rule.matches == RuleMatch::default()
                && matches!(rule.target, Target::Accept | Target::Return)
            {
                // No packet comes past it: the kernel does not look further, either.
                *next = rules.len();
            }
            self.check_hook(placed, *chain, base, hook)?;
            let Some(to) = self.jump(&rule.target) else {
                continue;
            };
            match mark[to] {
                Mark::Done => {}
                Mark::New => {
                    mark[to] = Mark::OnPath;
                    path.push((to, 0));
                }
                Mark::OnPath => {
                    return Err(placed.error(
                        format!(
                            "the jump from `{}` to `{}` closes a circle",
                            self.list[*chain].name, self.list[to].name
                        ),
                        "remove one of the jumps that lead from the chain back to itself",
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_hook(
        &self,
        placed: &Placed,
        chain: usize,
        base: usize,
        hook: HookPoint,
    ) -> Result<(), RuleError> {
        let target = &placed.rule.target;
        if target.allowed_at(hook) {
            return Ok(());
        }
        let base = &self.list[base].name;
        let chain = &self.list[chain].name;
        let place = if chain == base {
            format!("in {base}")
        } else {
            format!("in chain `{chain}`, which is reached from {base}")
        };
        Err(placed.error(
            format!("target `{}` cannot be used {place}", target.name()),
            &format!("{} is for {}", target.name(), target.allowed_chains()),
        ))
    }

    /// Where a target leads.
    fn jump(&self, target: &Target) -> Option<usize> {
        match target {
            Target::Jump(name) | Target::Goto(name) => self.by_name.get(name).copied(),
            _ => None,
        }
    }

    fn into_nat_chains(self) -> Ruleset {
        let mut ruleset = Ruleset {
            nat_hooks: self.used,
            ..Ruleset::default()
        };
        for (index, chain) in self.list.iter().enumerate() {
            let rules: Vec<NatRule> = chain
                .rules
                .iter()
                .filter_map(|placed| self.nat_rule(&placed.rule))
                .collect();
            if !rules.is_empty() {
                match chain.hook {
                    Some(HookPoint::PreRouting) => ruleset.prerouting = Some(index),
                    Some(HookPoint::LocalIn) => ruleset.input = Some(index),
                    Some(HookPoint::LocalOut) => ruleset.output = Some(index),
                    Some(HookPoint::PostRouting) => ruleset.postrouting = Some(index),
                    Some(HookPoint::Forward) | None => {}
                }
            }
            if self.used {
                ruleset.chains.push(Chain {
                    name: chain.name.clone(),
                    rules,
                    policy_drop: false,
                });
            }
        }
        ruleset
    }

    /// A rule for the engine; `None` for one that has no effect: the walk would go on.
    fn nat_rule(&self, rule: &Rule) -> Option<NatRule> {
        let target = match &rule.target {
            Target::None | Target::Log { .. } => return None,
            // Refused when they were read: they belong to the raw table.
            Target::NoTrack | Target::Zone(_) => return None,
            Target::Accept => NatTarget::Accept,
            Target::Return => NatTarget::Return,
            Target::Snat(to) => NatTarget::Snat(to.clone()),
            Target::Dnat(to) => NatTarget::Dnat(to.clone()),
            Target::Masquerade(ports) => NatTarget::Masquerade(ports.clone()),
            Target::Redirect(ports) => NatTarget::Redirect(ports.clone()),
            &Target::Netmap { to, prefix } => NatTarget::Netmap { to, prefix },
            Target::Jump(_) => NatTarget::Jump(self.jump(&rule.target)?),
            Target::Goto(_) => NatTarget::Goto(self.jump(&rule.target)?),
        };
        Some(NatRule {
            matches: engine_match(&rule.matches),
            target,
        })
    }

    /// The engine has one flat list of raw rules, whose first match decides.
    fn to_raw_rules(&self) -> Result<Vec<RawRule>, RuleError> {
        let effective = self.effective_chains();
        let mut list = Vec::new();
        for chain in &self.list {
            let Some(hook) = chain.hook else { continue };
            for placed in &chain.rules {
                let rule = &placed.rule;
                let target = match &rule.target {
                    Target::NoTrack => RawTarget::NoTrack,
                    &Target::Zone(zone) => RawTarget::Zone(zone),
                    // The walk ends, and the packet is as if there were no raw table.
                    Target::Accept | Target::Return => RawTarget::Zone(Zone::DEFAULT),
                    Target::Jump(_) | Target::Goto(_)
                        if self.jump(&rule.target).is_some_and(|to| effective[to]) =>
                    {
                        return Err(placed.error(
                            format!(
                                "a jump in the raw table cannot be honoured: `{}` has rules",
                                rule.target.name()
                            ),
                            "put the chain's rules into PREROUTING or OUTPUT themselves",
                        ));
                    }
                    // What the chain does not decide is not decided here, either.
                    Target::Goto(_) => RawTarget::Zone(Zone::DEFAULT),
                    _ => continue,
                };
                list.push(RawRule {
                    matches: only_at(engine_match(&rule.matches), hook),
                    target,
                });
            }
        }
        Ok(list)
    }

    /// Which chains may decide something: by a rule of their own, or through a jump.
    fn effective_chains(&self) -> Vec<bool> {
        let mut effective = vec![false; self.list.len()];
        loop {
            let mut changed = false;
            for (index, chain) in self.list.iter().enumerate() {
                let decides = chain.rules.iter().any(|placed| match &placed.rule.target {
                    Target::None | Target::Log { .. } | Target::Return => false,
                    target @ (Target::Jump(_) | Target::Goto(_)) => {
                        self.jump(target).is_some_and(|to| effective[to])
                    }
                    _ => true,
                });
                if decides && !effective[index] {
                    effective[index] = true;
                    changed = true;
                }
            }
            if !changed {
                return effective;
            }
        }
    }
}

/// Most rules that one rule with lists of networks becomes.
const NETWORK_PAIRS_MAX: usize = 4096;

/// How far the walk of [`Chains::check_from`] is with a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    OnPath,
    Done,
}

/// One rule for each pair of a source and a destination network, as iptables makes them.
fn one_network_each(rule: Rule) -> impl Iterator<Item = Rule> {
    let sources = one_each(rule.matches.src.as_ref());
    let destinations = one_each(rule.matches.dst.as_ref());
    sources.into_iter().flat_map(move |src| {
        let mut rule = rule.clone();
        rule.matches.src = src;
        destinations.clone().into_iter().map(move |dst| {
            let mut rule = rule.clone();
            rule.matches.dst = dst;
            rule
        })
    })
}

fn list_length<T>(condition: Option<&Not<Vec<T>>>) -> usize {
    condition.map_or(1, |condition| condition.value.len())
}

fn one_each<T: Clone>(condition: Option<&Not<Vec<T>>>) -> Vec<Option<Not<Vec<T>>>> {
    let Some(condition) = condition else {
        return vec![None];
    };
    let alone = |value: &T| {
        Some(Not {
            negated: condition.negated,
            value: vec![value.clone()],
        })
    };
    condition.value.iter().map(alone).collect()
}

/// `-i +` is true of every packet, even of one without a device.
fn engine_match(matches: &RuleMatch) -> RuleMatch {
    let mut matches = matches.clone();
    for device in [&mut matches.in_device, &mut matches.out_device] {
        if device
            .as_ref()
            .is_some_and(|d| !d.negated && d.value == any_device())
        {
            *device = None;
        }
    }
    matches
}

/// The raw list serves both hooks. A packet at PREROUTING has an input device and no output
/// device, one at OUTPUT the other way round; a rule that asks for "not this device" leaves
/// the other side to tell them apart.
fn only_at(mut matches: RuleMatch, hook: HookPoint) -> RuleMatch {
    let (own, other) = match hook {
        HookPoint::PreRouting => (&mut matches.in_device, &mut matches.out_device),
        _ => (&mut matches.out_device, &mut matches.in_device),
    };
    match own {
        None => *own = Some(Not::is(any_device())),
        Some(device) if device.negated => {
            *other = Some(Not {
                negated: true,
                value: any_device(),
            });
        }
        Some(_) => {}
    }
    matches
}

fn any_device() -> DevicePattern {
    DevicePattern {
        name: String::new(),
        prefix: true,
    }
}

//! Tables with their chains, and the checks that need all rules.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use clashtrack_engine::hook::HookPoint;
use clashtrack_engine::rules::{Not, RuleMatch, Ruleset};

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
pub(super) struct Chains {
    pub(super) table: Table,
    /// A command or file has named the table, so its hooks exist.
    pub(super) used: bool,
    pub(super) list: Vec<NamedChain>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
pub(super) struct NamedChain {
    pub(super) name: String,
    pub(super) hook: Option<HookPoint>,
    pub(super) rules: Vec<Placed>,
}

/// A rule and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) rule: Rule,
    origin: Arc<Origin>,
}

#[derive(Debug)]
struct Origin {
    text: String,
    place: Place,
    target: Range<usize>,
}

impl Placed {
    pub(super) fn error(&self, message: String, help: &str) -> RuleError {
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
        let mut path = vec![Step::into(base)];
        mark[base] = Mark::OnPath;
        while let Some(step) = path.last_mut() {
            let chain = step.chain;
            let rules = &self.list[chain].rules;
            let Some(placed) = rules.get(step.next) else {
                let height = step.height;
                mark[chain] = Mark::Done { height };
                path.pop();
                if let Some(caller) = path.last_mut() {
                    caller.height = caller.height.max(height + 1);
                }
                continue;
            };
            step.next += 1;
            let target = &placed.rule.target;
            if placed.rule.matches == RuleMatch::default()
                && matches!(target, Target::Accept | Target::Return)
            {
                // No packet comes past it: the kernel does not look further, either.
                step.next = rules.len();
            }
            self.check_hook(placed, chain, base, hook)?;
            let Some(to) = self.jump(target) else {
                continue;
            };
            let height = match mark[to] {
                Mark::New => 1,
                Mark::Done { height } => height,
                Mark::OnPath => return Err(self.circle(placed, chain, to)),
            };
            step.height = step.height.max(height + 1);
            if path.len() + height > DEPTH_MAX {
                return Err(placed.error(
                    format!("jumps lead more than {DEPTH_MAX} chains deep"),
                    "let the rules jump in fewer steps",
                ));
            }
            if mark[to] == Mark::New {
                mark[to] = Mark::OnPath;
                path.push(Step::into(to));
            }
        }
        Ok(())
    }

    fn circle(&self, placed: &Placed, from: usize, to: usize) -> RuleError {
        placed.error(
            format!(
                "the jump from `{}` to `{}` closes a circle",
                self.list[from].name, self.list[to].name
            ),
            "remove one of the jumps that lead from the chain back to itself",
        )
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
    pub(super) fn jump(&self, target: &Target) -> Option<usize> {
        match target {
            Target::Jump(name) | Target::Goto(name) => self.by_name.get(name).copied(),
            _ => None,
        }
    }
}

/// How many chains deep jumps may lead. The engine's walk goes as deep for each packet;
/// nf_tables allows 16, ip_tables as many as there are.
const DEPTH_MAX: usize = 256;

/// Most rules that one rule with lists of networks becomes.
const NETWORK_PAIRS_MAX: usize = 4096;

/// How far the walk of [`Chains::check_from`] is with a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    OnPath,
    /// All that it leads to is seen.
    Done {
        /// Chains on the longest way down from it, itself included.
        height: usize,
    },
}

/// A chain that the walk is in.
struct Step {
    chain: usize,
    /// The rule that comes next.
    next: usize,
    /// As [`Mark::Done`] will have it.
    height: usize,
}

impl Step {
    fn into(chain: usize) -> Step {
        Step {
            chain,
            next: 0,
            height: 1,
        }
    }
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

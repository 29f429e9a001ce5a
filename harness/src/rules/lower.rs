//! From tables to the engine's [`Ruleset`]: names become indexes, rules without effect go.

use clashtrack_engine::hook::HookPoint;
use clashtrack_engine::rules::{
    Chain, DevicePattern, NatRule, NatTarget, Not, RawRule, RawTarget, RuleMatch, Ruleset,
};
use clashtrack_engine::zone::Zone;

use super::chains::Chains;
use super::error::RuleError;
use super::rule::{Rule, Target};

impl Chains {
    /// The nat table in the engine's form.
    pub(super) fn into_nat_chains(self) -> Ruleset {
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
    pub(super) fn to_raw_rules(&self) -> Result<Vec<RawRule>, RuleError> {
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

/// The raw list serves both hooks. A packet at PREROUTING has no output device, one at
/// OUTPUT no input device: the side that a rule there cannot ask for tells them apart.
fn only_at(mut matches: RuleMatch, hook: HookPoint) -> RuleMatch {
    let other = match hook {
        HookPoint::PreRouting => &mut matches.out_device,
        _ => &mut matches.in_device,
    };
    *other = Some(Not::is(DevicePattern {
        name: String::new(),
        prefix: false,
    }));
    matches
}

fn any_device() -> DevicePattern {
    DevicePattern {
        name: String::new(),
        prefix: true,
    }
}

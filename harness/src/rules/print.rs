//! Rules back in `iptables-save` form.

use std::fmt::{self, Write as _};
use std::ops::RangeInclusive;

use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::rules::{DevicePattern, NatPorts, NatTo, Network, Not, RuleMatch};
use clashtrack_engine::zone::{Zone, ZoneDirections};

use super::names;
use super::rule::{Rule, Target};

impl Rule {
    /// The rule as a line of `iptables-save`, without a line break: `-A CHAIN …`.
    #[must_use]
    pub fn to_save_line(&self, chain: &str) -> String {
        format!("-A {chain}{self}")
    }
}

/// Every part begins with a space.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_matches(f, &self.matches)?;
        for comment in &self.comments {
            write!(f, " -m comment --comment {}", quoted(comment))?;
        }
        write_target(f, &self.target)
    }
}

fn write_matches(f: &mut fmt::Formatter<'_>, m: &RuleMatch) -> fmt::Result {
    if let Some(src) = &m.src {
        write!(f, "{} -s {}", not(src), networks(&src.value))?;
    }
    if let Some(dst) = &m.dst {
        write!(f, "{} -d {}", not(dst), networks(&dst.value))?;
    }
    if let Some(device) = &m.in_device {
        write!(f, "{} -i {}", not(device), pattern(&device.value))?;
    }
    if let Some(device) = &m.out_device {
        write!(f, "{} -o {}", not(device), pattern(&device.value))?;
    }
    let mut protocol_name = String::new();
    if let Some(protocol) = &m.protocol {
        protocol_name = names::protocol_name(protocol.value)
            .map_or_else(|| protocol.value.0.to_string(), str::to_owned);
        write!(f, "{} -p {protocol_name}", not(protocol))?;
    }
    write_ports(f, m, &protocol_name)?;
    if let Some(icmp) = &m.icmp {
        let (icmp_type, codes) = &icmp.value;
        write!(f, " -m icmp{} --icmp-type {icmp_type}", not(icmp))?;
        if codes.start() == codes.end() {
            write!(f, "/{}", codes.start())?;
        }
    }
    if let Some(local) = &m.src_is_local {
        write!(f, " -m addrtype{} --src-type LOCAL", not(local))?;
    }
    if let Some(local) = &m.dst_is_local {
        write!(f, " -m addrtype{} --dst-type LOCAL", not(local))?;
    }
    Ok(())
}

/// One range is the protocol's own match, several are `multiport`.
fn write_ports(f: &mut fmt::Formatter<'_>, m: &RuleMatch, protocol: &str) -> fmt::Result {
    let mut loaded = false;
    for (condition, option) in [(&m.src_ports, "--sport"), (&m.dst_ports, "--dport")] {
        if let Some(ports) = condition
            && let [range] = ports.value.as_slice()
        {
            if !loaded {
                write!(f, " -m {protocol}")?;
                loaded = true;
            }
            write!(f, "{} {option} {}", not(ports), port_range(range))?;
        }
    }
    for (condition, option) in [(&m.src_ports, "--sports"), (&m.dst_ports, "--dports")] {
        if let Some(ports) = condition
            && ports.value.len() != 1
        {
            write_multiport(f, ports, option)?;
        }
    }
    if let Some(ports) = &m.either_port {
        write_multiport(f, ports, "--ports")?;
    }
    Ok(())
}

fn write_multiport(
    f: &mut fmt::Formatter<'_>,
    ports: &Not<Vec<RangeInclusive<u16>>>,
    option: &str,
) -> fmt::Result {
    let list: Vec<String> = ports.value.iter().map(port_range).collect();
    write!(f, " -m multiport{} {option} {}", not(ports), list.join(","))
}

fn write_target(f: &mut fmt::Formatter<'_>, target: &Target) -> fmt::Result {
    match target {
        Target::None => Ok(()),
        Target::Goto(chain) => write!(f, " -g {chain}"),
        Target::NoTrack => f.write_str(" -j CT --notrack"),
        _ => write!(f, " -j {}", target.name()),
    }?;
    match target {
        Target::Log { options, .. } => {
            for (name, value) in options {
                write!(f, " --{name}")?;
                if let Some(value) = value {
                    write!(f, " {}", quoted(value))?;
                }
            }
            Ok(())
        }
        Target::Snat(to) => write!(f, " --to-source {}{}", nat_to(to), flags(to.ports.flags)),
        Target::Dnat(to) => write!(
            f,
            " --to-destination {}{}",
            nat_to(to),
            flags(to.ports.flags)
        ),
        Target::Masquerade(ports) | Target::Redirect(ports) => {
            if ports.range.is_some() {
                write!(f, " --to-ports {}", nat_ports(ports))?;
            }
            f.write_str(&flags(ports.flags))
        }
        Target::Netmap { to, prefix } => write!(f, " --to {to}/{prefix}"),
        Target::Zone(zone) => write!(f, " {} {}", zone_option(*zone), zone.id),
        Target::None
        | Target::Accept
        | Target::Return
        | Target::NoTrack
        | Target::Jump(_)
        | Target::Goto(_) => Ok(()),
    }
}

fn zone_option(zone: Zone) -> &'static str {
    match zone.directions {
        ZoneDirections::Both => "--zone",
        ZoneDirections::Original => "--zone-orig",
        ZoneDirections::Reply => "--zone-reply",
    }
}

fn not<T>(condition: &Not<T>) -> &'static str {
    if condition.negated { " !" } else { "" }
}

fn networks(networks: &[Network]) -> String {
    let list: Vec<String> = networks.iter().map(network).collect();
    list.join(",")
}

fn network(network: &Network) -> String {
    let address = network.address.as_v4();
    let prefix = network.mask.leading_ones();
    if prefix == network.mask.count_ones() {
        format!("{address}/{prefix}")
    } else {
        format!("{address}/{}", std::net::Ipv4Addr::from_bits(network.mask))
    }
}

fn pattern(device: &DevicePattern) -> String {
    let plus = if device.prefix { "+" } else { "" };
    quoted(&format!("{}{plus}", device.name))
}

fn port_range(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}:{}", range.start(), range.end())
    }
}

fn nat_to(to: &NatTo) -> String {
    let mut out = String::new();
    if let Some((first, last)) = to.addresses {
        out.push_str(&first.as_v4().to_string());
        if first != last {
            out.push('-');
            out.push_str(&last.as_v4().to_string());
        }
    }
    if to.ports.range.is_some() {
        out.push(':');
        out.push_str(&nat_ports(&to.ports));
    }
    out
}

fn nat_ports(ports: &NatPorts) -> String {
    let mut out = String::new();
    if let Some((first, last)) = ports.range {
        out.push_str(&first.to_string());
        // A shifted range is always written as one.
        if first != last || ports.base.is_some() {
            out.push('-');
            out.push_str(&last.to_string());
        }
    }
    if let Some(base) = ports.base {
        out.push('/');
        out.push_str(&base.to_string());
    }
    out
}

fn flags(flags: NatFlags) -> String {
    let names = [
        (NatFlags::RANDOM, " --random"),
        (NatFlags::RANDOM_FULLY, " --random-fully"),
        (NatFlags::PERSISTENT, " --persistent"),
    ];
    let mut out = String::new();
    for (flag, name) in names {
        if flags.contains(flag) {
            out.push_str(name);
        }
    }
    out
}

/// A word as `iptables-save` quotes it: double quotes where it has more than plain
/// characters, or could be taken for an option.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:/+@".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            out.push('\\');
        }
        let _ = out.write_char(c);
    }
    out.push('"');
    out
}

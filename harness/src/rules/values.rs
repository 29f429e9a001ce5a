//! The values that stand behind options: addresses, networks, ports, devices.
//!
//! Each function takes the word, and its errors point at it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use clashtrack_engine::addr::Addr;
use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::rules::{DevicePattern, NatPorts, NatTo, Network};
use clashtrack_engine::tuple::Protocol;

use super::error::Fault;
use super::names;
use super::words::Word;

/// Longest device name (`IFNAMSIZ` − 1).
const DEVICE_NAME_MAX: usize = 15;

/// Most ports of one `multiport` list; a range counts as two (`XT_MULTI_PORTS`).
pub(super) const MULTIPORT_MAX: usize = 15;

/// `-p`: a name or number; `None` for all protocols.
pub(super) fn protocol(word: &Word) -> Result<Option<Protocol>, Fault> {
    let text = word.text.as_str();
    if text.eq_ignore_ascii_case("all") || text == "0" {
        return Ok(None);
    }
    if let Some(protocol) = names::protocol(text) {
        return Ok(Some(protocol));
    }
    if is_number(text) {
        return match text.parse() {
            Ok(0) => Ok(None),
            Ok(number) => Ok(Some(Protocol(number))),
            Err(_) => Err(
                Fault::at(&word.span, format!("protocol number {text} is too large"))
                    .help("protocols are numbered 0 to 255"),
            ),
        };
    }
    Err(
        Fault::at(&word.span, format!("protocol `{text}` is not known"))
            .help("write tcp, udp, icmp, udplite, sctp, gre, all, or the protocol's number"),
    )
}

/// `-s`, `-d`: networks between commas.
pub(super) fn networks(word: &Word) -> Result<Vec<Network>, Fault> {
    word.text
        .split(',')
        .map(|item| network(item, word))
        .collect()
}

/// `address`, `address/prefix` or `address/mask`. Bits outside the mask are cleared, as
/// iptables does.
fn network(text: &str, word: &Word) -> Result<Network, Fault> {
    let (host, mask) = match text.split_once('/') {
        Some((host, mask)) => (host, Some(mask)),
        None => (text, None),
    };
    let address = address(host, word)?;
    let mask = match mask {
        None => u32::MAX,
        Some(mask) => netmask(mask, word)?,
    };
    Ok(Network {
        address: Addr::from_u32(address.to_bits() & mask),
        mask,
    })
}

/// A prefix length or a dotted mask.
fn netmask(text: &str, word: &Word) -> Result<u32, Fault> {
    if let Ok(mask) = text.parse::<Ipv4Addr>() {
        return Ok(mask.to_bits());
    }
    match text.parse::<u8>() {
        Ok(prefix) if prefix <= 32 && is_number(text) => {
            Ok(Network::v4(Ipv4Addr::UNSPECIFIED, prefix).mask)
        }
        _ => Err(
            Fault::at(&word.span, format!("`{text}` is no network mask"))
                .help("write a prefix length from 0 to 32, or a mask such as 255.255.255.0"),
        ),
    }
}

/// An IPv4 address.
pub(super) fn address(text: &str, word: &Word) -> Result<Ipv4Addr, Fault> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    Err(if looks_like_ipv6(text) {
        ipv6(text, word)
    } else if text.is_empty() {
        Fault::at(&word.span, "an address is missing")
            .help("write an IPv4 address, such as 192.0.2.1")
    } else if text.starts_with(|c: char| c.is_ascii_digit()) {
        Fault::at(&word.span, format!("`{text}` is no IPv4 address"))
            .help("write four numbers from 0 to 255 with dots between them, such as 192.0.2.1")
    } else {
        Fault::at(
            &word.span,
            format!("host names are not looked up: `{text}`"),
        )
        .help("write the host's IPv4 address")
    })
}

fn looks_like_ipv6(text: &str) -> bool {
    // `192.0.2.1:80:90` is a mistake of another kind.
    let v4_first = text
        .split(':')
        .next()
        .is_some_and(|part| part.contains('.'));
    text.starts_with('[')
        || text.parse::<Ipv6Addr>().is_ok()
        || (text.matches(':').count() > 1 && !v4_first)
}

fn ipv6(text: &str, word: &Word) -> Fault {
    Fault::at(
        &word.span,
        format!("`{text}` is an IPv6 address, and ip6tables is not supported yet"),
    )
    .help("only IPv4 rules, those of iptables, are understood")
}

/// `-i`, `-o`: a device, or the beginning of its name and `+`.
pub(super) fn device(word: &Word) -> Result<DevicePattern, Fault> {
    let text = word.text.as_str();
    let problem = if text.is_empty() {
        "a device name is missing".to_owned()
    } else if text.len() > DEVICE_NAME_MAX {
        format!("device name `{text}` is longer than {DEVICE_NAME_MAX} characters")
    } else if text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        format!("device name `{text}` has characters that no device name has")
    } else {
        let prefix = text.strip_suffix('+');
        return Ok(DevicePattern {
            name: prefix.unwrap_or(text).to_owned(),
            prefix: prefix.is_some(),
        });
    };
    Err(Fault::at(&word.span, problem)
        .help("write a name such as eth0, or its beginning and a plus, eth+"))
}

/// `--sport`, `--dport`: `a`, `a:b`, `:b` or `a:`.
pub(super) fn port_match(word: &Word) -> Result<RangeInclusive<u16>, Fault> {
    if word.text.contains(',') {
        return Err(
            Fault::at(&word.span, "this option takes one port or one range")
                .help("for a list write -m multiport --dports 80,443 (or --sports, --ports)"),
        );
    }
    match_range(&word.text, word)
}

/// `--sports`, `--dports`, `--ports`: up to 15 of them.
pub(super) fn multiport(word: &Word) -> Result<Vec<RangeInclusive<u16>>, Fault> {
    let mut slots = 0;
    let mut ranges = Vec::new();
    for item in word.text.split(',') {
        slots += if item.contains(':') { 2 } else { 1 };
        if slots > MULTIPORT_MAX {
            return Err(Fault::at(
                &word.span,
                format!("multiport takes at most {MULTIPORT_MAX} ports, a range counts as two"),
            )
            .help("split the rule in two"));
        }
        ranges.push(match_range(item, word)?);
    }
    Ok(ranges)
}

fn match_range(text: &str, word: &Word) -> Result<RangeInclusive<u16>, Fault> {
    let Some((first, last)) = text.split_once(':') else {
        let port = port_or_service(text, word)?;
        return Ok(port..=port);
    };
    let first = if first.is_empty() {
        0
    } else {
        port_or_service(first, word)?
    };
    let last = if last.is_empty() {
        u16::MAX
    } else {
        port_or_service(last, word)?
    };
    if first > last {
        return Err(upside_down("port", text, word, &format!("{last}:{first}")));
    }
    Ok(first..=last)
}

fn port_or_service(text: &str, word: &Word) -> Result<u16, Fault> {
    if let Some(port) = names::service(text) {
        return Ok(port);
    }
    if text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err(
            Fault::at(&word.span, format!("service `{text}` is not known")).help(
                "write the port's number; a few names are known, such as http, https, domain, ssh",
            ),
        );
    }
    port(text, word)
}

/// A port's number.
fn port(text: &str, word: &Word) -> Result<u16, Fault> {
    if let (true, Ok(port)) = (is_number(text), text.parse()) {
        return Ok(port);
    }
    let message = if text.is_empty() {
        format!("a port is missing in `{}`", word.text)
    } else if is_number(text) {
        format!("port {text} is above 65535")
    } else {
        format!("`{text}` is no port")
    };
    Err(Fault::at(&word.span, message).help("ports are numbers from 0 to 65535"))
}

/// `--to-ports`: `a` or `a-b`.
pub(super) fn nat_ports(word: &Word) -> Result<(u16, u16), Fault> {
    nat_port_range(&word.text, word)
}

fn nat_port_range(text: &str, word: &Word) -> Result<(u16, u16), Fault> {
    if text.contains(':') {
        return Err(
            Fault::at(&word.span, format!("`{text}` is no port range")).help(format!(
                "targets want a dash between the ports: {}",
                text.replace(':', "-")
            )),
        );
    }
    let Some((first, last)) = text.split_once('-') else {
        let only = port(text, word)?;
        return Ok((only, only));
    };
    let (first, last) = (port(first, word)?, port(last, word)?);
    if first > last {
        return Err(upside_down("port", text, word, &format!("{last}-{first}")));
    }
    Ok((first, last))
}

/// `--to-source`, `--to-destination`: `[address[-address]][:port[-port[/base]]]`; the base
/// only where `shifted`.
pub(super) fn nat_to(word: &Word, shifted: bool) -> Result<NatTo, Fault> {
    let text = word.text.as_str();
    if looks_like_ipv6(text) {
        return Err(ipv6(text, word));
    }
    let (addresses, ports) = match text.split_once(':') {
        Some((addresses, ports)) => (addresses, Some(ports)),
        None => (text, None),
    };
    if addresses.is_empty() && ports.is_none() {
        return Err(Fault::at(&word.span, "an address or a port is missing")
            .help("write address, address:port, address-address:port-port or :port"));
    }
    let addresses = match addresses {
        "" => None,
        range => Some(address_range(range, word)?),
    };
    let mut nat_ports = NatPorts {
        range: None,
        base: None,
        flags: NatFlags::empty(),
    };
    if let Some(ports) = ports {
        let (range, base) = match ports.split_once('/') {
            Some((range, base)) => (range, Some(base)),
            None => (ports, None),
        };
        nat_ports.range = Some(nat_port_range(range, word)?);
        nat_ports.base = base
            .map(|base| shift_base(base, range, shifted, word))
            .transpose()?;
    }
    Ok(NatTo {
        addresses,
        ports: nat_ports,
    })
}

fn shift_base(base: &str, range: &str, shifted: bool, word: &Word) -> Result<u16, Fault> {
    if !shifted {
        return Err(
            Fault::at(&word.span, "only DNAT can shift ports from a base")
                .help("remove the slash and what follows it"),
        );
    }
    if !range.contains('-') {
        return Err(Fault::at(&word.span, "a base needs a range of ports")
            .help("write :first-last/base, such as :5000-5999/8000"));
    }
    match port(base, word)? {
        0 => Err(
            Fault::at(&word.span, "the base of shifted ports cannot be 0")
                .help("write the first port of the range that is mapped"),
        ),
        base => Ok(base),
    }
}

fn address_range(text: &str, word: &Word) -> Result<(Addr, Addr), Fault> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    if first.contains('/') {
        return Err(
            Fault::at(&word.span, format!("`{first}` is a network, not an address"))
                .help("write the first and the last address with a dash between them; to map a whole network use NETMAP"),
        );
    }
    let (first, last) = (address(first, word)?, address(last, word)?);
    if first > last {
        return Err(upside_down(
            "address",
            text,
            word,
            &format!("{last}-{first}"),
        ));
    }
    Ok((Addr::v4(first), Addr::v4(last)))
}

/// `NETMAP --to`: a network whose mask has no holes.
pub(super) fn netmap(word: &Word) -> Result<(Ipv4Addr, u8), Fault> {
    let network = network(&word.text, word)?;
    let prefix = network.mask.leading_ones();
    if network.mask.count_ones() != prefix {
        return Err(
            Fault::at(&word.span, "the mask of a NETMAP network has a hole")
                .help("write a prefix length, such as 10.0.0.0/24"),
        );
    }
    // At most 32 leading ones: it fits.
    Ok((network.address.as_v4(), prefix as u8))
}

/// `--icmp-type`: a number, number/code or name. `None` for any type.
pub(super) fn icmp_type(word: &Word) -> Result<Option<(u8, RangeInclusive<u8>)>, Fault> {
    let text = word.text.as_str();
    if text.eq_ignore_ascii_case("any") || text == "255" {
        return Ok(None);
    }
    let known = names::icmp_type(text).or_else(|| {
        let (icmp_type, code) = match text.split_once('/') {
            Some((icmp_type, code)) => (icmp_type, Some(code)),
            None => (text, None),
        };
        let code = match code {
            None => None,
            Some(code) => Some(byte(code)?),
        };
        Some((byte(icmp_type)?, code))
    });
    match known {
        // The kernel takes type 255 for any, whatever the code.
        Some((255, _)) => Ok(None),
        Some((icmp_type, None)) => Ok(Some((icmp_type, 0..=255))),
        Some((icmp_type, Some(code))) => Ok(Some((icmp_type, code..=code))),
        None => Err(
            Fault::at(&word.span, format!("ICMP type `{text}` is not known")).help(
                "write a type (8), a type and code (3/3), or a name such as echo-request, port-unreachable, any",
            ),
        ),
    }
}

fn byte(text: &str) -> Option<u8> {
    is_number(text).then(|| text.parse().ok()).flatten()
}

/// `--zone`: 0 to 65535, decimal or `0x…`.
pub(super) fn zone(word: &Word) -> Result<u16, Fault> {
    let text = word.text.as_str();
    let number = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u16::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None if is_number(text) => text.parse().ok(),
        None => None,
    };
    number.ok_or_else(|| {
        let message = if text == "mark" {
            "zones taken from the packet's mark are not understood".to_owned()
        } else {
            format!("`{text}` is no zone")
        };
        Fault::at(&word.span, message).help("write a number from 0 to 65535")
    })
}

/// A rule's place in its chain, from 1.
pub(super) fn position(word: &Word) -> Result<usize, Fault> {
    match word.text.parse() {
        Ok(position) if position > 0 && is_number(&word.text) => Ok(position),
        _ => Err(Fault::at(
            &word.span,
            format!("`{}` is no place in a chain", word.text),
        )
        .help("rules are counted from 1")),
    }
}

/// Digits alone: no sign, which the standard library would take.
pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn upside_down(what: &str, text: &str, word: &Word, mended: &str) -> Fault {
    Fault::at(
        &word.span,
        format!("{what} range `{text}` is upside down: it ends before it begins"),
    )
    .help(format!("write {mended}"))
}

//! Settings, under the names and with the defaults of the kernel's sysctls.
//!
//! Source: `nf_conntrack_standalone.c`; defaults as read from Linux 6.18.

use thiserror::Error;

use crate::time::{Nanos, SECOND};

/// Settings that hold for a whole [`Engine`](crate::engine::Engine). Timeouts are in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctls {
    /// `nf_conntrack_max`: entries at most, unconfirmed ones included; 0 is no limit but the table's own.
    pub max: usize,
    /// `nf_conntrack_checksum`: verify transport checksums at `PRE_ROUTING`.
    pub checksum: bool,
    /// `nf_conntrack_acct`: count packets and bytes of each direction.
    pub acct: bool,
    /// `nf_conntrack_tcp_loose`: pick up connections from the middle.
    pub tcp_loose: bool,
    /// `nf_conntrack_tcp_be_liberal`: no packet is out of the window.
    pub tcp_be_liberal: bool,
    /// `nf_conntrack_tcp_ignore_invalid_rst`: let resets pass that lie before the acknowledged.
    pub tcp_ignore_invalid_rst: bool,
    /// `nf_conntrack_tcp_max_retrans`: repetitions before the timeout is cut.
    pub tcp_max_retrans: u8,
    /// `nf_conntrack_tcp_timeout_*`.
    pub tcp: TcpTimeouts,
    /// `nf_conntrack_udp_timeout`.
    pub udp_timeout: Nanos,
    /// `nf_conntrack_udp_timeout_stream`.
    pub udp_timeout_stream: Nanos,
    /// `nf_conntrack_icmp_timeout`.
    pub icmp_timeout: Nanos,
    /// `nf_conntrack_icmpv6_timeout`.
    pub icmpv6_timeout: Nanos,
    /// `nf_conntrack_generic_timeout`.
    pub generic_timeout: Nanos,
    /// `nf_conntrack_gre_timeout`.
    pub gre_timeout: Nanos,
    /// `nf_conntrack_gre_timeout_stream`.
    pub gre_timeout_stream: Nanos,
    /// `nf_conntrack_sctp_timeout_closed`; the other SCTP timeouts come with its state machine.
    pub sctp_timeout_closed: Nanos,
    /// Which kernel's port search to follow.
    pub kernel: KernelVersion,
}

/// `nf_conntrack_tcp_timeout_*`, one a state, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpTimeouts {
    /// `…_syn_sent`.
    pub syn_sent: Nanos,
    /// `…_syn_recv`.
    pub syn_recv: Nanos,
    /// `…_established`.
    pub established: Nanos,
    /// `…_fin_wait`.
    pub fin_wait: Nanos,
    /// `…_close_wait`.
    pub close_wait: Nanos,
    /// `…_last_ack`.
    pub last_ack: Nanos,
    /// `…_time_wait`.
    pub time_wait: Nanos,
    /// `…_close`.
    pub close: Nanos,
    /// `SYN_SENT2`, which has no sysctl.
    pub syn_sent2: Nanos,
    /// `…_max_retrans`.
    pub max_retrans: Nanos,
    /// `…_unacknowledged`.
    pub unacknowledged: Nanos,
}

/// Kernels whose NAT differs in what a taken port means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KernelVersion {
    /// Linux 6.18: the port search may evict closing TCP connections (since 6.7), and
    /// that path does not count `found`.
    #[default]
    V6_18,
    /// A kernel before 6.7, as in the article on SNAT time-outs: every taken tuple is taken.
    Article,
}

impl Default for Sysctls {
    fn default() -> Sysctls {
        Sysctls {
            max: 262_144,
            checksum: true,
            acct: false,
            tcp_loose: true,
            tcp_be_liberal: false,
            tcp_ignore_invalid_rst: false,
            tcp_max_retrans: 3,
            tcp: TcpTimeouts::default(),
            udp_timeout: 30 * SECOND,
            udp_timeout_stream: 120 * SECOND,
            icmp_timeout: 30 * SECOND,
            icmpv6_timeout: 30 * SECOND,
            generic_timeout: 600 * SECOND,
            gre_timeout: 30 * SECOND,
            gre_timeout_stream: 180 * SECOND,
            sctp_timeout_closed: 10 * SECOND,
            kernel: KernelVersion::default(),
        }
    }
}

impl Default for TcpTimeouts {
    fn default() -> TcpTimeouts {
        TcpTimeouts {
            syn_sent: 120 * SECOND,
            syn_recv: 60 * SECOND,
            established: 432_000 * SECOND,
            fin_wait: 120 * SECOND,
            close_wait: 60 * SECOND,
            last_ack: 30 * SECOND,
            time_wait: 120 * SECOND,
            close: 10 * SECOND,
            syn_sent2: 120 * SECOND,
            max_retrans: 300 * SECOND,
            unacknowledged: 300 * SECOND,
        }
    }
}

/// Why a setting was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SetError {
    /// No setting has this name.
    #[error("there is no setting {name:?}; {}", did_you_mean(close))]
    UnknownName {
        /// The name as it was given.
        name: String,
        /// Names of settings that look like it, the likeliest first; may be empty.
        close: Vec<&'static str>,
    },
    /// The value is not of the setting's kind or range.
    #[error("{name} takes {expected}, not {value:?}")]
    BadValue {
        /// The setting.
        name: &'static str,
        /// The value as it was given.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}

fn did_you_mean(close: &[&'static str]) -> String {
    if close.is_empty() {
        return "names are those of /proc/sys/net/netfilter".to_owned();
    }
    format!("did you mean {}?", close.join(" or "))
}

/// Where a setting's value is kept, and so what it may be.
enum Slot<'a> {
    Switch(&'a mut bool),
    Number(&'a mut usize),
    Small(&'a mut u8),
    Timeout(&'a mut Nanos),
}

impl Slot<'_> {
    /// Timeouts are whole seconds in a signed 32-bit word, as in the kernel.
    const SECONDS_MAX: u64 = i32::MAX as u64;

    const fn expected(&self) -> &'static str {
        match self {
            Slot::Switch(_) => "0 or 1",
            Slot::Number(_) => "a whole number",
            Slot::Small(_) => "a whole number from 0 to 255",
            Slot::Timeout(_) => "whole seconds from 0 to 2147483647",
        }
    }

    /// `None` if the value is not what it may be.
    fn set(self, value: &str) -> Option<()> {
        // "+5" is a number to Rust, but not to the kernel.
        if !value.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        match self {
            Slot::Switch(switch) => {
                *switch = match value {
                    "0" => false,
                    "1" => true,
                    _ => return None,
                }
            }
            Slot::Number(number) => *number = value.parse().ok()?,
            Slot::Small(number) => *number = value.parse().ok()?,
            Slot::Timeout(timeout) => {
                let seconds: u64 = value.parse().ok()?;
                if seconds > Slot::SECONDS_MAX {
                    return None;
                }
                *timeout = seconds * SECOND;
            }
        }
        Some(())
    }
}

/// Prefixes that a setting's name may have or lack.
const NAME_PREFIXES: [&str; 3] = ["net.netfilter.", "net/netfilter/", "nf_conntrack_"];

impl Sysctls {
    /// Sets one by its sysctl's name, with or without `net.netfilter.` and `nf_conntrack_`
    /// before it. Timeouts are in whole seconds. On an error nothing has changed.
    ///
    /// ```
    /// use clashtrack_engine::config::Sysctls;
    ///
    /// let mut sysctls = Sysctls::default();
    /// sysctls.set("net.netfilter.nf_conntrack_tcp_loose", "0").unwrap();
    /// sysctls.set("udp_timeout", "60").unwrap();
    /// assert!(!sysctls.tcp_loose);
    /// ```
    ///
    /// # Errors
    /// [`SetError::UnknownName`] with the names closest to it, or [`SetError::BadValue`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SetError> {
        let mut short = name;
        for prefix in NAME_PREFIXES {
            short = short.strip_prefix(prefix).unwrap_or(short);
        }
        let mut slots = self.slots();
        let Some(at) = slots.iter().position(|(known, _)| *known == short) else {
            return Err(SetError::UnknownName {
                name: name.to_owned(),
                close: close_names(short, slots.iter().map(|(known, _)| *known)),
            });
        };
        let (name, slot) = slots.swap_remove(at);
        let expected = slot.expected();
        slot.set(value.trim()).ok_or_else(|| SetError::BadValue {
            name,
            value: value.to_owned(),
            expected,
        })
    }

    /// All names that [`Sysctls::set`] takes, without their prefix.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        let mut any = Sysctls::default();
        any.slots().into_iter().map(|(name, _)| name).collect()
    }

    fn slots(&mut self) -> Vec<(&'static str, Slot<'_>)> {
        // Taken apart, so that a field that is added cannot be forgotten here.
        let Sysctls {
            max,
            checksum,
            acct,
            tcp_loose,
            tcp_be_liberal,
            tcp_ignore_invalid_rst,
            tcp_max_retrans,
            tcp,
            udp_timeout,
            udp_timeout_stream,
            icmp_timeout,
            icmpv6_timeout,
            generic_timeout,
            gre_timeout,
            gre_timeout_stream,
            sctp_timeout_closed,
            // Chosen by `--kernel`: no sysctl.
            kernel: _,
        } = self;
        let mut slots = vec![
            ("max", Slot::Number(max)),
            ("checksum", Slot::Switch(checksum)),
            ("acct", Slot::Switch(acct)),
            ("tcp_loose", Slot::Switch(tcp_loose)),
            ("tcp_be_liberal", Slot::Switch(tcp_be_liberal)),
            (
                "tcp_ignore_invalid_rst",
                Slot::Switch(tcp_ignore_invalid_rst),
            ),
            ("tcp_max_retrans", Slot::Small(tcp_max_retrans)),
            ("udp_timeout", Slot::Timeout(udp_timeout)),
            ("udp_timeout_stream", Slot::Timeout(udp_timeout_stream)),
            ("icmp_timeout", Slot::Timeout(icmp_timeout)),
            ("icmpv6_timeout", Slot::Timeout(icmpv6_timeout)),
            ("generic_timeout", Slot::Timeout(generic_timeout)),
            ("gre_timeout", Slot::Timeout(gre_timeout)),
            ("gre_timeout_stream", Slot::Timeout(gre_timeout_stream)),
            ("sctp_timeout_closed", Slot::Timeout(sctp_timeout_closed)),
        ];
        slots.extend(tcp.slots());
        slots
    }
}

impl TcpTimeouts {
    fn slots(&mut self) -> [(&'static str, Slot<'_>); 10] {
        let TcpTimeouts {
            syn_sent,
            syn_recv,
            established,
            fin_wait,
            close_wait,
            last_ack,
            time_wait,
            close,
            // Has no sysctl in the kernel either.
            syn_sent2: _,
            max_retrans,
            unacknowledged,
        } = self;
        [
            ("tcp_timeout_syn_sent", Slot::Timeout(syn_sent)),
            ("tcp_timeout_syn_recv", Slot::Timeout(syn_recv)),
            ("tcp_timeout_established", Slot::Timeout(established)),
            ("tcp_timeout_fin_wait", Slot::Timeout(fin_wait)),
            ("tcp_timeout_close_wait", Slot::Timeout(close_wait)),
            ("tcp_timeout_last_ack", Slot::Timeout(last_ack)),
            ("tcp_timeout_time_wait", Slot::Timeout(time_wait)),
            ("tcp_timeout_close", Slot::Timeout(close)),
            ("tcp_timeout_max_retrans", Slot::Timeout(max_retrans)),
            ("tcp_timeout_unacknowledged", Slot::Timeout(unacknowledged)),
        ]
    }
}

/// Up to three names that are a few letters away from `name`, or contain it.
fn close_names(name: &str, known: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    const SHOWN_MAX: usize = 3;
    let distance_max = 1 + name.len() / 4;
    let mut close: Vec<(usize, &'static str)> = known
        .map(|candidate| {
            let distance = edit_distance(name, candidate);
            let contained = name.len() >= 3 && candidate.contains(name);
            (
                if contained {
                    distance.min(distance_max)
                } else {
                    distance
                },
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= distance_max)
        .collect();
    close.sort_unstable();
    close
        .into_iter()
        .take(SHOWN_MAX)
        .map(|(_, name)| name)
        .collect()
}

/// Letters to insert, delete or replace to make one word the other (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_known_with_and_without_its_prefixes() {
        for name in [
            "net.netfilter.nf_conntrack_udp_timeout",
            "net/netfilter/nf_conntrack_udp_timeout",
            "nf_conntrack_udp_timeout",
            "udp_timeout",
        ] {
            let mut sysctls = Sysctls::default();
            sysctls.set(name, "7").unwrap();
            assert_eq!(sysctls.udp_timeout, 7 * SECOND, "{name}");
        }
    }

    #[test]
    fn every_setting_can_be_set_and_changes_one_thing() {
        let names = Sysctls::names();
        assert_eq!(names.len(), 25);
        let mut seen = vec![Sysctls::default()];
        for name in names {
            let mut sysctls = Sysctls::default();
            // One of the two is not the default.
            for value in ["0", "1"] {
                sysctls.set(name, value).unwrap();
                if !seen.contains(&sysctls) {
                    break;
                }
            }
            assert!(
                !seen.contains(&sysctls),
                "{name} set nothing, or what another sets"
            );
            seen.push(sysctls);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_close_ones() {
        let close = |name: &str| match Sysctls::default().set(name, "1") {
            Err(SetError::UnknownName { close, .. }) => close,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(close("nf_conntrack_tcp_lose")[0], "tcp_loose");
        assert_eq!(
            close("tcp_timeout_estabished")[0],
            "tcp_timeout_established"
        );
        assert!(close("established").contains(&"tcp_timeout_established"));
        assert!(close("somaxconn").is_empty());
        let said = Sysctls::default()
            .set("tcp_lose", "1")
            .unwrap_err()
            .to_string();
        assert!(said.contains("did you mean tcp_loose"), "{said}");
    }

    #[test]
    fn a_value_that_a_setting_cannot_have_changes_nothing() {
        for (name, value) in [
            ("tcp_loose", "2"),
            ("tcp_loose", "yes"),
            ("udp_timeout", "30s"),
            ("udp_timeout", "-1"),
            ("udp_timeout", "+1"),
            ("udp_timeout", ""),
            ("udp_timeout", "2147483648"),
            ("tcp_max_retrans", "256"),
            ("max", "99999999999999999999999"),
        ] {
            let mut sysctls = Sysctls::default();
            let error = sysctls.set(name, value).unwrap_err();
            assert!(matches!(error, SetError::BadValue { .. }), "{error:?}");
            assert_eq!(sysctls, Sysctls::default(), "{name}={value}");
        }
    }
}

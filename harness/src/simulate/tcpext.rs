//! The host's TCP counters: those of `netstat -s` that opening connections moves.
//!
//! What each event of an unanswered SYN counts was read from a live Linux 6.18; the wording
//! and the order of the lines are those of net-tools' `netstat -s`.
//!
//! Source: `SNMP_MIB_ITEM` tables of proc.c, `tcp_output.c`, `tcp_timer.c`, `tcp_ipv4.c`.

use serde::Serialize;

/// The `Tcp` group (/proc/net/snmp), as far as it moves here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TcpCounters {
    /// connect() was called.
    pub active_opens: u64,
    /// A listener's connection became established.
    pub passive_opens: u64,
    /// A connection ended before it was established.
    pub attempt_fails: u64,
    /// An established connection was reset.
    pub estab_resets: u64,
    /// Connections established now, both ends of a loopback one counted.
    pub curr_estab: u64,
    /// Segments that arrived.
    pub in_segs: u64,
    /// Segments sent, repetitions not counted.
    pub out_segs: u64,
    /// Repetitions.
    pub retrans_segs: u64,
    /// Segments that arrived with a wrong checksum or a broken header.
    pub in_errs: u64,
    /// Resets sent.
    pub out_rsts: u64,
}

/// The `TcpExt` group (/proc/net/netstat), as far as it moves here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TcpExtCounters {
    /// A retransmission timer fired.
    #[serde(rename = "TCPTimeouts")]
    pub timeouts: u64,
    /// A connection was given up because of it.
    #[serde(rename = "TCPAbortOnTimeout")]
    pub abort_on_timeout: u64,
    /// A repetition could not be sent: its output said no (EPERM, after a drop).
    #[serde(rename = "TCPRetransFail")]
    pub retrans_fail: u64,
    /// A SYN was repeated.
    #[serde(rename = "TCPSynRetrans")]
    pub syn_retrans: u64,
}

/// All of a host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// `Tcp`.
    pub tcp: TcpCounters,
    /// `TcpExt`.
    pub ext: TcpExtCounters,
}

impl HostCounters {
    /// The lines of `netstat -s`, without line ends: two heads, and the counters under them.
    /// Like netstat, those of `TcpExt` only where they are not 0.
    #[must_use]
    pub fn netstat_lines(&self) -> Vec<String> {
        let (tcp, ext) = (&self.tcp, &self.ext);
        let mut lines = vec![
            "Tcp:".to_owned(),
            format!("    {} active connection openings", tcp.active_opens),
            format!("    {} passive connection openings", tcp.passive_opens),
            format!("    {} failed connection attempts", tcp.attempt_fails),
            format!("    {} connection resets received", tcp.estab_resets),
            format!("    {} connections established", tcp.curr_estab),
            format!("    {} segments received", tcp.in_segs),
            format!("    {} segments sent out", tcp.out_segs),
            format!("    {} segments retransmitted", tcp.retrans_segs),
            format!("    {} bad segments received", tcp.in_errs),
            format!("    {} resets sent", tcp.out_rsts),
            "TcpExt:".to_owned(),
        ];
        if ext.abort_on_timeout > 0 {
            lines.push(format!(
                "    {} connections aborted due to timeout",
                ext.abort_on_timeout
            ));
        }
        let named = [
            ("TCPTimeouts", ext.timeouts),
            ("TCPRetransFail", ext.retrans_fail),
            ("TCPSynRetrans", ext.syn_retrans),
        ];
        lines.extend(
            named
                .iter()
                .filter(|(_, n)| *n > 0)
                .map(|(name, n)| format!("    {name}: {n}")),
        );
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netstat_speaks_its_own_words() {
        let mut counters = HostCounters::default();
        counters.ext.timeouts = 7;
        counters.ext.abort_on_timeout = 1;
        let lines = counters.netstat_lines();
        assert!(lines.contains(&"    1 connections aborted due to timeout".to_owned()));
        assert!(lines.contains(&"    TCPTimeouts: 7".to_owned()));
        assert!(!lines.iter().any(|line| line.contains("TCPRetransFail")));
    }

    #[test]
    fn json_has_the_kernels_names() {
        let value = serde_json::to_value(TcpExtCounters::default()).unwrap();
        for name in [
            "TCPTimeouts",
            "TCPAbortOnTimeout",
            "TCPRetransFail",
            "TCPSynRetrans",
        ] {
            assert_eq!(value[name], 0, "{name}");
        }
        let value = serde_json::to_value(TcpCounters::default()).unwrap();
        assert_eq!(value["AttemptFails"], 0);
    }
}

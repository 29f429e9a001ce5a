//! Settings, under the names and with the defaults of the kernel's sysctls.
//!
//! Source: `nf_conntrack_standalone.c`; defaults as read from Linux 6.18.

use crate::time::{Nanos, SECOND};

/// Settings that hold for a whole [`Engine`](crate::Engine). Timeouts are in nanoseconds.
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

//! What is simulated: the clients, the host's settings, the rules, the kernel.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use clashtrack_engine::addr::Addr;
use clashtrack_engine::config::{KernelVersion, Sysctls};
use clashtrack_engine::host::{Device, DeviceIndex, Host, LOOPBACK};
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::rules::{Network, Ruleset};

use super::schedule::SynRetries;

/// `net.ipv4.ip_local_port_range`, Linux's default: where client ports come from.
pub const CLIENT_PORTS: RangeInclusive<u16> = 32_768..=60_999;
/// The device that leads out of the simulated host.
pub const ETH0: DeviceIndex = LOOPBACK + 1;
/// Its address (a documentation network, RFC 5737).
pub const ETH0_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Clients at most, so that no two need the same port.
pub const CONNECTIONS_MAX: usize = (*CLIENT_PORTS.end() - *CLIENT_PORTS.start()) as usize;
/// CPUs at most. More than clients could use, and each keeps entries at hand.
pub const CPUS_MAX: usize = 1024;
/// `MAX_TCP_SYNCNT`: both SYN sysctls end here.
const SYN_COUNT_MAX: u8 = 127;

/// A simulation's plan. Everything in it can be honoured.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Rules of the host.
    pub ruleset: Ruleset,
    /// Conntrack settings and the kernel to follow.
    pub sysctls: Sysctls,
    /// The clients' retransmission settings.
    pub syn_retries: SynRetries,
    /// Where all clients connect to.
    pub target: SocketAddrV4,
    /// Clients: 1 to [`CONNECTIONS_MAX`].
    pub connections: usize,
    /// CPUs: 1 to [`CPUS_MAX`]; client `i` of 0.. runs on CPU `i % cpus`.
    pub cpus: usize,
    /// Somebody listens at the target (and at every other port and address).
    pub listener: bool,
    /// Keep all events of the engine, not the clashes of each SYN alone.
    pub keep_events: bool,
    /// Seed of ports, sequence numbers and the engine's own randomness.
    pub seed: u64,
}

/// How a kernel repeats a SYN.
#[must_use]
pub fn default_syn_retries(kernel: KernelVersion) -> SynRetries {
    let linear = match kernel {
        KernelVersion::V6_18 => 4,
        KernelVersion::Article => 0,
    };
    SynRetries { retries: 6, linear }
}

/// A setting of the host's TCP that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} takes a number from {least} to {SYN_COUNT_MAX}, not `{value}`")]
pub struct BadTcpSetting {
    name: &'static str,
    value: String,
    least: u8,
}

/// Sets one of the host's two TCP sysctls. `None` when `name` is neither of them.
///
/// # Errors
/// [`BadTcpSetting`] for a value out of the kernel's bounds.
pub fn set_tcp_sysctl(
    settings: &mut SynRetries,
    name: &str,
    value: &str,
) -> Option<Result<(), BadTcpSetting>> {
    let (name, least, place) = match name.strip_prefix("net.ipv4.").unwrap_or(name) {
        "tcp_syn_retries" => ("tcp_syn_retries", 1, &mut settings.retries),
        "tcp_syn_linear_timeouts" => ("tcp_syn_linear_timeouts", 0, &mut settings.linear),
        _ => return None,
    };
    let parsed = value.trim().parse::<u8>().ok();
    Some(
        match parsed.filter(|n| (least..=SYN_COUNT_MAX).contains(n)) {
            Some(n) => {
                *place = n;
                Ok(())
            }
            None => Err(BadTcpSetting {
                name,
                value: value.to_owned(),
                least,
            }),
        },
    )
}

/// The simulated host: `lo`, and `eth0` with one global address, through which all else goes.
#[must_use]
pub fn simulated_host() -> Host {
    Host {
        devices: vec![
            Device {
                index: LOOPBACK,
                name: "lo".into(),
                addresses: vec![Network::v4(Ipv4Addr::LOCALHOST, 8)],
            },
            Device {
                index: ETH0,
                name: "eth0".into(),
                addresses: vec![Network::v4(ETH0_ADDRESS, 24)],
            },
        ],
        default_route: Some(ETH0),
        forwards_everything: false,
    }
}

/// The address that a client gets when it connects to `target`: a route's preferred source.
/// The loopback network has 127.0.0.1, one's own address itself, all else eth0's.
#[must_use]
pub fn client_address(host: &Host, target: Ipv4Addr) -> Ipv4Addr {
    if target.is_loopback() {
        Ipv4Addr::LOCALHOST
    } else if host.is_local(Addr::v4(target)) {
        target
    } else {
        ETH0_ADDRESS
    }
}

/// Ports of `count` clients ([`CONNECTIONS_MAX`] at most), drawn, all different, and none of them `taken`.
#[must_use]
pub fn client_ports(count: usize, taken: u16, rng: &mut WorkerRng) -> Vec<u16> {
    let (first, last) = (*CLIENT_PORTS.start(), *CLIENT_PORTS.end());
    let mut used = HashSet::from([taken]);
    (0..count.min(CONNECTIONS_MAX))
        .map(|_| {
            let mut port = first + rng.below(u32::from(last - first) + 1) as u16;
            // Ends: at most CONNECTIONS_MAX of the CONNECTIONS_MAX + 1 ports are in use.
            while !used.insert(port) {
                port = if port == last { first } else { port + 1 };
            }
            port
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clashtrack_engine::host::Route;

    #[test]
    fn no_two_clients_have_one_port_even_when_all_ports_are_taken() {
        let mut rng = WorkerRng::new(5, 0);
        let ports = client_ports(CONNECTIONS_MAX, 40_000, &mut rng);
        let different: HashSet<_> = ports.iter().collect();
        assert_eq!(different.len(), CONNECTIONS_MAX);
        assert!(
            ports
                .iter()
                .all(|p| CLIENT_PORTS.contains(p) && *p != 40_000)
        );
    }

    #[test]
    fn seeds_give_different_ports_and_one_seed_the_same() {
        let ports = |seed| client_ports(4, 8080, &mut WorkerRng::new(seed, 0));
        assert_eq!(ports(1), ports(1));
        assert_ne!(ports(1), ports(2));
    }

    #[test]
    fn what_is_not_the_hosts_own_goes_out_through_eth0() {
        let host = simulated_host();
        let route = |a: [u8; 4]| host.route(Addr::v4(a.into()));
        assert_eq!(route([127, 3, 2, 1]), Route::Local);
        assert_eq!(route([192, 0, 2, 10]), Route::Local);
        assert_eq!(route([192, 0, 2, 11]), Route::Out(ETH0));
        assert_eq!(route([203, 0, 113, 5]), Route::Out(ETH0));
        assert_eq!(host.source_address(LOOPBACK), Some(Addr::v4(ETH0_ADDRESS)));
        assert_eq!(client_address(&host, [203, 0, 113, 5].into()), ETH0_ADDRESS);
        assert_eq!(
            client_address(&host, [127, 0, 0, 9].into()),
            Ipv4Addr::LOCALHOST
        );
    }

    #[test]
    fn tcp_sysctls_keep_the_kernels_bounds() {
        let mut settings = default_syn_retries(KernelVersion::V6_18);
        assert_eq!(
            set_tcp_sysctl(&mut settings, "net.ipv4.tcp_syn_retries", "3"),
            Some(Ok(()))
        );
        assert_eq!(
            set_tcp_sysctl(&mut settings, "tcp_syn_linear_timeouts", "0"),
            Some(Ok(()))
        );
        assert_eq!(
            settings,
            SynRetries {
                retries: 3,
                linear: 0
            }
        );
        assert_eq!(set_tcp_sysctl(&mut settings, "nf_conntrack_max", "3"), None);
        for bad in ["0", "128", "-1", "six", ""] {
            let refused = set_tcp_sysctl(&mut settings, "tcp_syn_retries", bad).unwrap();
            assert!(
                refused.unwrap_err().to_string().contains("from 1 to 127"),
                "{bad}"
            );
        }
    }
}

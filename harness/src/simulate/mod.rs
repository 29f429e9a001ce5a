//! `simulate`: will these connections time out? Virtual time, real packets, the real engine.
//!
//! Every client calls connect() at 0 s, in order. Its SYN goes as bytes through the engine
//! on the simulated host (`lo`, and `eth0` 192.0.2.10/24), to a server on the same host or
//! beyond `eth0`; answers come back the same way. A packet takes no time: all times are
//! those of the clients' timers. What the engine drops is sent again when the kernel would.
//!
//! ```text
//! timer ─▶ client ─▶ SYN ─▶ engine ─┬─▶ server ─▶ SYN/ACK ─▶ engine ─▶ client ─▶ ACK ─▶ …
//!                                   └─▶ dropped: EPERM, which TCP ignores; the timer runs on
//! ```
//!
//! * [`scenario`] what is simulated
//! * [`schedule`] when a SYN is sent again
//! * [`segment`] TCP segments as bytes
//! * [`tcp_client`], [`tcp_server`] both ends
//! * [`host`] the way through the engine
//! * [`tcpext`] the host's counters, as `netstat -s` prints them
//! * [`explain`] why it came out as it did, in words
//! * [`timeline`] the report for people

pub mod explain;
pub mod host;
pub mod scenario;
pub mod schedule;
pub mod segment;
pub mod tcp_client;
pub mod tcp_server;
pub mod tcpext;
pub mod timeline;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::rc::Rc;

use clashtrack_engine::addr::Addr;
use clashtrack_engine::engine::EngineError;
use clashtrack_engine::event::{Event, Snapshot};
use clashtrack_engine::host::Host;
use clashtrack_engine::packet::{DropReason, Origin, Verdict};
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::time::Nanos;
use clashtrack_engine::tuple::{Direction, Tuple};

use host::{EnginePath, Path};
use scenario::{ETH0, Scenario, client_address, client_ports, simulated_host};
use segment::Segment;
use tcp_client::{Client, ClientState, Failure, Wake};
use tcp_server::Server;
use tcpext::HostCounters;

/// How a connection ended. Times count from its connect().
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Open until the end of the simulation.
    Established(Nanos),
    /// connect() returned an error.
    Failed(Nanos, Failure),
}

/// A clash that a SYN lost at confirm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Which of the SYN's keys was taken.
    pub key: Direction,
    /// The connection that owns it, as it was then.
    pub winner: Snapshot,
    /// Its number here, if one of our clients opened it.
    pub winner_number: Option<usize>,
    /// The SYN's own connection, which was thrown away.
    pub loser: Snapshot,
}

/// What became of one SYN.
#[derive(Clone, Debug)]
pub struct SynFate {
    /// When it was sent, since connect().
    pub at: Nanos,
    /// Whether it left the hooks.
    pub verdict: Verdict,
    /// Source and destination that it left with, after NAT.
    pub left_as: Option<(SocketAddrV4, SocketAddrV4)>,
    /// The clash it lost. Shared by repetitions that met the same.
    pub lost: Option<Rc<Lost>>,
    /// Its answer was dropped on the way back.
    pub answer_dropped: Option<DropReason>,
}

/// One client's connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its number, from 1, in the order of connect().
    pub number: usize,
    /// The CPU that its packets ran on.
    pub cpu: usize,
    /// Address and port of the client.
    pub local: SocketAddrV4,
    /// How it ended.
    pub outcome: Outcome,
    /// All its SYNs.
    pub syns: Vec<SynFate>,
}

/// A simulation that has come to its end.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// The clients, in order.
    pub connections: Vec<Connection>,
    /// `conntrack -S`, a CPU each.
    pub per_cpu: Vec<ConntrackStats>,
    /// The host's TCP.
    pub counters: HostCounters,
    /// All events, if the scenario wants them.
    pub events: Vec<Event>,
}

impl Simulated {
    /// Connections that timed out.
    #[must_use]
    pub fn timed_out(&self) -> usize {
        let timed_out =
            |c: &&Connection| matches!(c.outcome, Outcome::Failed(_, Failure::TimedOut));
        self.connections.iter().filter(timed_out).count()
    }
}

/// Runs a scenario to its end: until no timer is set any more.
///
/// # Errors
/// [`EngineError`] for a scenario beyond its documented bounds.
pub fn simulate(scenario: &Scenario) -> Result<Simulated, EngineError> {
    let engine = host::engine_of(scenario)?;
    let mut path = EnginePath::new(&engine, scenario.cpus)?;
    let mut network = Network::new(scenario, &mut path);
    network.run();
    let (connections, counters, events) = network.finish();
    Ok(Simulated {
        connections,
        per_cpu: engine.stats(),
        counters,
        events,
    })
}

/// Which side of `eth0` a segment comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Here,
    Beyond,
}

/// A packet that passed the engine and is about to arrive.
struct Arrival {
    from: Side,
    bytes: Vec<u8>,
    /// The client whose SYN it is, or answers.
    client: usize,
}

/// The event loop: timers, packets under way, and the hosts.
struct Network<'a, P> {
    scenario: &'a Scenario,
    path: &'a mut P,
    host: Host,
    now: Nanos,
    /// When which client is to be woken; the second number keeps the order of setting.
    timers: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    timers_set: u64,
    arrivals: VecDeque<Arrival>,
    clients: Vec<Client>,
    syns: Vec<Vec<SynFate>>,
    /// Clients by their own end and their peer's.
    client_at: HashMap<(SocketAddrV4, SocketAddrV4), usize>,
    here: Server,
    here_counters: HostCounters,
    beyond: Server,
    beyond_counters: HostCounters,
    rng: WorkerRng,
    events: Vec<Event>,
}

impl<'a, P: Path> Network<'a, P> {
    fn new(scenario: &'a Scenario, path: &'a mut P) -> Self {
        // Streams of their own: the engine's workers draw from 0 upwards.
        let rng = |stream: usize| WorkerRng::new(scenario.seed, usize::MAX - 1 - stream);
        Network {
            scenario,
            path,
            host: simulated_host(),
            now: 0,
            timers: BinaryHeap::new(),
            timers_set: 0,
            arrivals: VecDeque::new(),
            clients: Vec::new(),
            syns: Vec::new(),
            client_at: HashMap::new(),
            here: Server::new(scenario.listener, rng(0)),
            here_counters: HostCounters::default(),
            beyond: Server::new(scenario.listener, rng(1)),
            beyond_counters: HostCounters::default(),
            rng: rng(2),
            events: Vec::new(),
        }
    }

    fn run(&mut self) {
        let target = self.scenario.target;
        let address = client_address(&self.host, *target.ip());
        for port in client_ports(self.scenario.connections, target.port(), &mut self.rng) {
            self.connect(SocketAddrV4::new(address, port));
            self.deliver_all();
        }
        while let Some(Reverse((at, _, number))) = self.timers.pop() {
            self.now = at;
            let wake = self.clients[number].wake(at, &mut self.here_counters);
            if let Wake::SendAgain(syn, timeout) = wake {
                if !self.send_syn(number, &syn) {
                    self.here_counters.ext.retrans_fail += 1;
                }
                self.set_timer(number, timeout);
                self.deliver_all();
            }
        }
    }

    fn connect(&mut self, local: SocketAddrV4) {
        let number = self.clients.len();
        let (client, syn, timeout) = Client::connect(
            local,
            self.scenario.target,
            self.rng.next_u32(),
            self.scenario.syn_retries,
            self.now,
            &mut self.here_counters,
        );
        self.client_at
            .insert((client.local(), client.remote()), number);
        self.clients.push(client);
        self.syns.push(Vec::new());
        // Whether it was sent does not matter: TCP ignores EPERM here.
        self.send_syn(number, &syn);
        self.set_timer(number, timeout);
    }

    fn set_timer(&mut self, client: usize, after: Nanos) {
        self.timers_set += 1;
        self.timers
            .push(Reverse((self.now + after, self.timers_set, client)));
    }

    /// Sends a client's SYN and notes its fate. False where it was dropped.
    fn send_syn(&mut self, client: usize, syn: &Segment) -> bool {
        let sent = self.transmit(Side::Here, client, syn);
        let at = self.clients[client].since_connect(self.now);
        let lost = sent.clash.map(|lost| match self.syns[client].last() {
            Some(SynFate {
                lost: Some(before), ..
            }) if before.is_same(&lost) => Rc::clone(before),
            _ => Rc::new(lost),
        });
        self.syns[client].push(SynFate {
            at,
            verdict: sent.verdict,
            left_as: sent.left_as,
            lost,
            answer_dropped: None,
        });
        sent.verdict == Verdict::Accept
    }

    /// Sends a segment through the engine; what is accepted will arrive.
    fn transmit(&mut self, from: Side, client: usize, segment: &Segment) -> Transmitted {
        let origin = match from {
            Side::Here => Origin::Local,
            Side::Beyond => Origin::Device(ETH0),
        };
        let mut bytes = segment.to_bytes();
        let sent = self
            .path
            .send(self.cpu_of(client), self.now, origin, &mut bytes);
        let clash = sent
            .events
            .iter()
            .rev()
            .find_map(|event| self.lost_clash(event));
        if self.scenario.keep_events {
            self.events.extend(sent.events);
        }
        let accepted = sent.verdict == Verdict::Accept;
        let left_as = accepted
            .then(|| Segment::parse(&bytes).ok())
            .flatten()
            .map(|s| (s.src, s.dst));
        if accepted {
            self.arrivals.push_back(Arrival {
                from,
                bytes,
                client,
            });
        }
        Transmitted {
            verdict: sent.verdict,
            left_as,
            clash,
        }
    }

    fn deliver_all(&mut self) {
        while let Some(arrival) = self.arrivals.pop_front() {
            let Ok(segment) = Segment::parse(&arrival.bytes) else {
                self.here_counters.tcp.in_errs += 1;
                continue;
            };
            let to_here = self.host.is_local(Addr::v4(*segment.dst.ip()));
            let answer = if to_here {
                self.receive_here(&segment)
                    .map(|answer| (Side::Here, answer))
            } else if arrival.from == Side::Here {
                let answer = self.beyond.receive(&segment, &mut self.beyond_counters);
                answer.map(|answer| (Side::Beyond, answer))
            } else {
                None // forwarded to somebody else
            };
            let Some((from, answer)) = answer else {
                continue;
            };
            let sent = self.transmit(from, arrival.client, &answer);
            if let (Verdict::Drop(reason), Some(syn)) =
                (sent.verdict, self.syns[arrival.client].last_mut())
            {
                syn.answer_dropped = Some(reason);
            }
        }
    }

    /// A segment arrives at the simulated host: for one of the clients, or for the listener.
    fn receive_here(&mut self, segment: &Segment) -> Option<Segment> {
        self.here_counters.tcp.in_segs += 1;
        match self.client_at.get(&(segment.dst, segment.src)) {
            Some(&client) => {
                self.clients[client].receive(segment, self.now, &mut self.here_counters)
            }
            None => self.here.receive(segment, &mut self.here_counters),
        }
    }

    fn cpu_of(&self, client: usize) -> usize {
        client % self.scenario.cpus
    }

    fn lost_clash(&self, event: &Event) -> Option<Lost> {
        let Event::Clash {
            key, winner, loser, ..
        } = *event
        else {
            return None;
        };
        let ends = |t: &Tuple| {
            (
                SocketAddrV4::new(t.src.as_v4(), t.src_key),
                SocketAddrV4::new(t.dst.as_v4(), t.dst_key),
            )
        };
        Some(Lost {
            key,
            winner,
            winner_number: self.client_at.get(&ends(&winner.original)).map(|i| i + 1),
            loser,
        })
    }

    fn finish(self) -> (Vec<Connection>, HostCounters, Vec<Event>) {
        let cpus = self.scenario.cpus;
        let connections = self
            .clients
            .iter()
            .zip(self.syns)
            .enumerate()
            .map(|(i, (client, syns))| Connection {
                number: i + 1,
                cpu: i % cpus,
                local: client.local(),
                outcome: match client.state() {
                    ClientState::Established(at) => Outcome::Established(client.since_connect(at)),
                    ClientState::Failed(at, failure) => {
                        Outcome::Failed(client.since_connect(at), failure)
                    }
                    ClientState::SynSent => {
                        unreachable!("a client in SYN_SENT has a timer set, and no timer is left")
                    }
                },
                syns,
            })
            .collect();
        (connections, self.here_counters, self.events)
    }
}

/// What the sender of a segment learns, and a reader of the timeline.
struct Transmitted {
    verdict: Verdict,
    left_as: Option<(SocketAddrV4, SocketAddrV4)>,
    clash: Option<Lost>,
}

impl Lost {
    /// The same key lost to the same connection, be it at another time.
    fn is_same(&self, other: &Lost) -> bool {
        self.key == other.key
            && self.winner.id == other.winner.id
            && self.loser.original == other.loser.original
            && self.loser.reply == other.loser.reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clashtrack_engine::time::SECOND;
    use host::Sent;
    use scenario::default_syn_retries;

    /// A way on which some packets are lost, and nothing else happens.
    struct Lossy<F>(F);

    impl<F: FnMut(Nanos, &Segment) -> bool> Path for Lossy<F> {
        fn send(&mut self, _cpu: usize, now: Nanos, _origin: Origin, bytes: &mut [u8]) -> Sent {
            let segment = Segment::parse(bytes).expect("clients send whole segments");
            let verdict = if (self.0)(now, &segment) {
                Verdict::Drop(DropReason::Rule)
            } else {
                Verdict::Accept
            };
            Sent {
                verdict,
                events: Vec::new(),
            }
        }
    }

    fn scenario(target: [u8; 4], connections: usize) -> Scenario {
        let kernel = clashtrack_engine::config::KernelVersion::V6_18;
        Scenario {
            ruleset: Default::default(),
            sysctls: Default::default(),
            syn_retries: default_syn_retries(kernel),
            target: SocketAddrV4::new(target.into(), 8080),
            connections,
            cpus: 2,
            listener: true,
            keep_events: false,
            seed: 1,
        }
    }

    fn run(
        scenario: &Scenario,
        drops: impl FnMut(Nanos, &Segment) -> bool,
    ) -> (Vec<Connection>, HostCounters) {
        let mut path = Lossy(drops);
        let mut network = Network::new(scenario, &mut path);
        network.run();
        let (connections, counters, _) = network.finish();
        (connections, counters)
    }

    fn syn_times(connection: &Connection) -> Vec<Nanos> {
        connection.syns.iter().map(|syn| syn.at / SECOND).collect()
    }

    #[test]
    fn a_handshake_takes_no_virtual_time_and_counts_both_ends_of_loopback() {
        let (connections, counters) = run(&scenario([127, 0, 0, 1], 1), |_, _| false);
        assert_eq!(connections[0].outcome, Outcome::Established(0));
        assert_eq!(
            (counters.tcp.active_opens, counters.tcp.passive_opens),
            (1, 1)
        );
        assert_eq!((counters.tcp.in_segs, counters.tcp.out_segs), (3, 3));
        assert_eq!(counters.tcp.curr_estab, 2);
    }

    #[test]
    fn a_server_beyond_eth0_counts_for_itself() {
        let (connections, counters) = run(&scenario([203, 0, 113, 5], 1), |_, _| false);
        assert_eq!(connections[0].local.ip(), &scenario::ETH0_ADDRESS);
        assert_eq!(connections[0].outcome, Outcome::Established(0));
        assert_eq!((counters.tcp.in_segs, counters.tcp.out_segs), (1, 2));
        assert_eq!(
            (counters.tcp.passive_opens, counters.tcp.curr_estab),
            (0, 1)
        );
    }

    #[test]
    fn a_connection_is_established_when_its_syn_gets_through_at_last() {
        let three_seconds = |now, segment: &Segment| segment.flags.is_syn() && now < 3 * SECOND;
        let (connections, counters) = run(&scenario([127, 0, 0, 1], 2), three_seconds);
        for connection in &connections {
            assert_eq!(syn_times(connection), [0, 1, 2, 3]);
            assert_eq!(connection.outcome, Outcome::Established(3 * SECOND));
        }
        assert_eq!((counters.ext.timeouts, counters.ext.syn_retrans), (6, 6));
        assert_eq!(
            counters.ext.retrans_fail, 4,
            "the last SYN of each was sent"
        );
    }

    #[test]
    fn a_lost_answer_is_noted_at_the_syn_it_answers() {
        let answers = |_, segment: &Segment| segment.flags.is_syn() && segment.flags.is_ack();
        let (connections, counters) = run(&scenario([127, 0, 0, 1], 1), answers);
        let ended = Outcome::Failed(131 * SECOND, Failure::TimedOut);
        assert_eq!(connections[0].outcome, ended);
        assert!(
            connections[0]
                .syns
                .iter()
                .all(|s| s.answer_dropped == Some(DropReason::Rule))
        );
        assert_eq!(
            counters.ext.retrans_fail, 0,
            "the SYNs themselves were sent"
        );
    }

    #[test]
    fn a_port_where_nobody_listens_refuses_at_once() {
        let closed = Scenario {
            listener: false,
            ..scenario([127, 0, 0, 1], 1)
        };
        let (connections, counters) = run(&closed, |_, _| false);
        assert_eq!(connections[0].outcome, Outcome::Failed(0, Failure::Refused));
        assert_eq!(connections[0].syns.len(), 1);
        assert_eq!((counters.tcp.attempt_fails, counters.ext.timeouts), (1, 0));
    }

    #[test]
    fn connections_take_turns_on_the_cpus() {
        let (connections, _) = run(&scenario([127, 0, 0, 1], 5), |_, _| false);
        let cpus: Vec<usize> = connections.iter().map(|c| c.cpu).collect();
        assert_eq!(cpus, [0, 1, 0, 1, 0]);
    }
}

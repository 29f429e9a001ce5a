//! `exhaust`: a NAT range of which 99.9 % is taken.
//!
//! # Model
//! A gateway with `SNAT --to-source 203.0.113.1:FIRST-LAST`, as wide as the connections asked for need, at most
//! some 64 000 ports toward each server. One port in [`FREE_ONE_IN`] is free, all others are taken by connections. Then first
//! packets of new flows come, through the whole data path: the search tries up to 248 ports (128 from a random one on, then 64, 32, 16, 8),
//! finds one that is free about once in five times, and else hands back the last one it tried: taken, so that the packet
//! is dropped at confirm (`insert_failed`, `drop`). A flow that got its port is taken out again at once, so that the range stays as
//! full. An operation is one such packet, with that end where it got through. Who gets through must have a free port;
//! who does not must have been dropped as a clash.
//!
//! # What it does not measure
//! An allocator that knows which ports are free; what the client does next. There is no limit beside it: how many ports are asked for is
//! the logic that is measured.

use std::sync::atomic::AtomicBool;

use clashtrack_engine::addr::{Addr, Family};
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::tuple::{Protocol, Tuple};
use clashtrack_engine::zone::Zone;

use super::case::{Case, Kind, Workload};
use super::gateway::{Gateway, Ring, Seen, Stage, Wire};
use super::measure::{Contender, Round};
use super::pace::Pace;
use super::worker::{Cores, run_crew};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "exhaust",
    question: "99.9 % of a NAT range is taken: what does the search for a port cost, and who is dropped?",
    kind: Kind::Exhaust,
};

/// One port of the range in so many is free.
pub const FREE_ONE_IN: usize = 1000;
/// Ports taken toward one server at most: with the free ones they fit above 1024.
const TAKEN_MAX: usize = 64_000;
/// First port of the range.
const FIRST_PORT: u16 = 1024;
/// First packets of a worker in a round.
const ROUND_PACKETS: usize = 1 << 11;
/// 10.0.0.0 and 10.128.0.0: clients that have a connection, and those that want one.
const OLD_CLIENTS: u32 = 0x0a00_0100;
const NEW_CLIENTS: u32 = 0x0a80_0000;
/// 198.18.0.0/15, the benchmark network of RFC 2544.
const SERVERS: u32 = 0xc612_0001;

/// How many ports toward how many servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    servers: usize,
    /// Ports of the range, free ones included.
    ports: usize,
}

impl Range {
    fn of(connections: usize) -> Range {
        let servers = connections.div_ceil(TAKEN_MAX);
        let taken = connections.div_ceil(servers);
        Range {
            servers,
            ports: taken + taken.div_ceil(FREE_ONE_IN - 1),
        }
    }

    fn is_free(port: u16) -> bool {
        usize::from(port.wrapping_sub(FIRST_PORT)).is_multiple_of(FREE_ONE_IN)
    }

    fn last_port(self) -> u16 {
        FIRST_PORT + (self.ports - 1) as u16
    }

    /// The connections that have all the other ports. A client's own port is kept where it is in the range and not taken.
    fn taken(self, protocol: Protocol) -> impl Iterator<Item = Tuple> {
        let ports = (FIRST_PORT..=self.last_port()).filter(|&port| !Range::is_free(port));
        let servers = self.servers as u32;
        let all = ports.flat_map(move |port| (0..servers).map(move |server| (port, server)));
        (OLD_CLIENTS..)
            .zip(all)
            .map(move |(client, (port, server))| tuple(client, port, server, protocol))
    }
}

fn tuple(client: u32, port: u16, server: u32, protocol: Protocol) -> Tuple {
    Tuple {
        src: Addr::from_u32(client),
        dst: Addr::from_u32(SERVERS + server),
        src_key: port,
        dst_key: 443,
        family: Family::Ipv4,
        protocol,
    }
}

/// A [`Contender`]: an engine over a table of type `T`.
#[derive(Debug)]
pub struct ExhaustContender<T: FlowTable<KeyV4>> {
    case: Case,
    gateway: Gateway<T>,
    taken: usize,
    flows: Vec<(Tuple, Wire)>,
    paces: Vec<Pace>,
}

impl<T: FlowTable<KeyV4>> ExhaustContender<T> {
    /// Makes the engine, and takes the ports.
    ///
    /// # Panics
    /// If a connection does not get the port that is left for it.
    #[must_use]
    pub fn new(case: &Case) -> ExhaustContender<T> {
        let range = Range::of(case.connections);
        let taken: Vec<Tuple> = range.taken(case.protocol).collect();
        let ports = (FIRST_PORT, range.last_port());
        let mut gateway = Gateway::<T>::new(case, taken.len(), Some(ports));
        let (mut ring, mut seen) = (Ring::default(), Seen::default());
        let mut workers = gateway.workers();
        for tuples in taken.chunks(case.batch) {
            let first: Vec<Wire> = tuples
                .iter()
                .map(|t| Wire::of(t, 0, Stage::First))
                .collect();
            ring.send(
                &mut workers[0],
                &first,
                gateway.now,
                &mut seen,
                |number, port| {
                    assert_eq!(
                        port,
                        tuples[number].src_key,
                        "{}: a free port is kept",
                        T::NAME
                    );
                },
            );
        }
        drop(workers);
        assert_eq!(
            seen.accepted,
            taken.len() as u64,
            "{}: a connection did not get its port: {:?}",
            T::NAME,
            gateway.engine.fates()
        );
        let mut rng = WorkerRng::new(case.seed, usize::MAX - 1);
        let flow = |number: u32| {
            // A port of the range that is taken toward this server: the search has to begin.
            let port =
                FIRST_PORT + 1 + rng.below((range.ports - 1).min(FREE_ONE_IN - 1) as u32) as u16;
            let server = rng.below(range.servers as u32);
            let tuple = tuple(NEW_CLIENTS + number, port, server, case.protocol);
            (tuple, Wire::of(&tuple, 0, Stage::First))
        };
        gateway.books(&Seen::default());
        ExhaustContender {
            flows: (0..(case.of_a_round(ROUND_PACKETS) * case.workers) as u32)
                .map(flow)
                .collect(),
            taken: taken.len(),
            paces: (0..case.workers).map(|_| Pace::default()).collect(),
            case: *case,
            gateway,
        }
    }
}

impl<T: FlowTable<KeyV4>> Contender for ExhaustContender<T> {
    /// # Panics
    /// If a flow gets a port that was taken, is dropped for another reason, or does not go again.
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let (flows, case, now) = (self.flows.as_slice(), &self.case, self.gateway.now);
        let workers = self.gateway.workers().into_iter();
        let mut states: Vec<_> = workers.zip(&mut self.paces).collect();
        let run = run_crew(
            &mut states,
            cores,
            interrupted,
            |number, (worker, pace), crew| {
                let (mut ring, mut seen) = (Ring::default(), Seen::default());
                let (mut through, mut wires) = (Vec::new(), Vec::with_capacity(case.batch));
                for flows in flows[case.share(number, flows.len())].chunks(case.batch) {
                    if !pace.next(crew) {
                        break;
                    }
                    wires.clear();
                    wires.extend(flows.iter().map(|(_, wire)| *wire));
                    ring.send(worker, &wires, now, &mut seen, |number, port| {
                        assert!(Range::is_free(port), "{}: port {port} was taken", T::NAME);
                        through.push(number);
                    });
                    for number in through.drain(..) {
                        let ended = worker.delete(&flows[number].0, Zone::DEFAULT, now);
                        assert!(ended, "{}: a flow that got through is there", T::NAME);
                    }
                    pace.done(flows.len());
                }
                seen
            },
        );
        drop(states);
        let seen = run.results.iter().fold(Seen::default(), Seen::plus);
        assert!(
            seen.accepted + seen.clashed == seen.packets && seen.misdirected == 0,
            "{}: a packet was not dropped as a clash: {seen:?}",
            T::NAME
        );
        let there = self.gateway.engine.count();
        assert_eq!(
            there,
            self.taken,
            "{}: the range stays as full as it was",
            T::NAME
        );
        Round {
            elapsed: run.time(self.case.workload.kind),
            pinned: run.pinned,
            operations: seen.packets,
            tally: self.gateway.books(&seen),
            ..Round::default()
        }
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        self.gateway.per_cpu()
    }

    fn reset(&mut self) {
        self.gateway.reset();
    }

    fn paces(&mut self) -> Vec<&mut Pace> {
        self.paces.iter_mut().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_as_full_as_it_says_whatever_its_size() {
        for connections in [1, 500, 999, 20_000, 64_000, 1_000_000] {
            let range = Range::of(connections);
            let taken = range.taken(Protocol::TCP).count();
            let all = range.ports * range.servers;
            assert!(
                taken >= connections && taken < connections + range.servers.max(2),
                "{range:?}"
            );
            assert!(
                all - taken <= all.div_ceil(FREE_ONE_IN) + range.servers,
                "{range:?}"
            );
            assert!(all > taken && range.ports <= 64_512, "{range:?}");
        }
    }
}

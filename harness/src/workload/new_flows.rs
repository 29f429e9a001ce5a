//! `new-flows`: first packets with NAT, through the whole data path to confirm.
//!
//! # Model
//! A gateway with source NAT and an empty table. Each worker has its part of as many first packets (TCP: SYNs) of
//! different flows as asked for: parsed, looked up, tracked, given a port by the search, rewritten, confirmed by both keys. The
//! table fills from nothing; then time passes with the clock stopped, and the collector takes all connections out. Every
//! packet must be accepted, but for those that two workers gave one port at one time, and each connection be there. An operation is one packet.
//!
//! # What it does not measure
//! A search among few free ports, clashes, a full table.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::{FlowKey, KeyV4};

use super::case::{Case, Kind, Workload};
use super::gateway::{Gateway, Ring, Seen, Stage, Wire};
use super::measure::{Contender, Round};
use super::pace::Pace;
use super::traffic::Traffic;
use super::worker::{Cores, run_crew};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "new-flows",
    question: "First packets behind NAT: what does a new flow cost from its bytes to confirm?",
    kind: Kind::NewFlows,
};

/// A [`Contender`]: an engine over a table of type `T`.
#[derive(Debug)]
pub struct NewFlowsContender<T: FlowTable<KeyV4>> {
    case: Case,
    gateway: Gateway<T>,
    wires: Vec<Wire>,
    paces: Vec<Pace>,
}

impl<T: FlowTable<KeyV4>> NewFlowsContender<T> {
    /// Makes the engine and the packets.
    #[must_use]
    pub fn new(case: &Case, traffic: &Arc<Traffic>) -> NewFlowsContender<T> {
        let first = |tuple| Wire::of(&tuple, 0, Stage::First);
        NewFlowsContender {
            paces: (0..case.workers).map(|_| Pace::default()).collect(),
            case: *case,
            gateway: Gateway::new(case, traffic.residents.len(), None),
            wires: traffic
                .residents
                .iter()
                .map(|pair| first(pair.original.tuple()))
                .collect(),
        }
    }
}

impl<T: FlowTable<KeyV4>> Contender for NewFlowsContender<T> {
    /// # Panics
    /// If a packet is not rewritten, or a connection is not there that was confirmed.
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let (wires, case, now) = (self.wires.as_slice(), &self.case, self.gateway.now);
        let workers = self.gateway.workers().into_iter();
        let mut states: Vec<_> = workers.zip(&mut self.paces).collect();
        let run = run_crew(
            &mut states,
            cores,
            interrupted,
            |number, (worker, pace), crew| {
                let (mut ring, mut seen) = (Ring::default(), Seen::default());
                for wires in wires[case.share(number, wires.len())].chunks(case.batch) {
                    if !pace.next(crew) {
                        break;
                    }
                    ring.send(worker, wires, now, &mut seen, |_, _| ());
                    pace.done(wires.len());
                }
                seen
            },
        );
        drop(states);
        let seen = run.results.iter().fold(Seen::default(), Seen::plus);
        // Two workers may choose one port toward a server: the later one's packet is dropped.
        assert!(
            seen.accepted + seen.clashed == seen.packets && seen.misdirected == 0,
            "{}: a first packet went wrong: {seen:?}",
            T::NAME
        );
        assert_eq!(
            self.gateway.engine.count() as u64,
            seen.accepted,
            "{}: a connection a packet that was accepted",
            T::NAME
        );
        let tally = self.gateway.books(&seen);
        self.gateway.forget_all();
        Round {
            elapsed: run.time(self.case.workload.kind),
            pinned: run.pinned,
            operations: seen.packets,
            tally,
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

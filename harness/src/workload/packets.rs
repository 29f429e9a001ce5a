//! `packets`: established traffic through the whole data path.
//!
//! # Model
//! A gateway with source NAT and a full table of established connections (TCP: after their handshake). Packets without data
//! from either side, each connection as often as any other, in random order: parsed, looked up in batches, tracked, rewritten with
//! their checksums, counted. Every packet must be accepted and have the address that NAT gave its connection. An
//! operation is one packet, copied to where the engine rewrites it.
//!
//! # What it does not measure
//! A NIC and its driver; payload (checksums are corrected by difference, so it costs nothing here); packets that are out of window.

use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::tuple::Tuple;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::case::{Case, Kind, Workload};
use super::gateway::{Gateway, Ring, Seen, Stage, Wire};
use super::measure::{Contender, Round};
use super::pace::Pace;
use super::traffic::Traffic;
use super::worker::{Cores, run_crew};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "packets",
    question: "Established traffic behind NAT: what does a packet cost from its bytes to its verdict?",
    kind: Kind::Packets,
};

/// Packets of a worker in a round.
const ROUND_PACKETS: usize = 1 << 16;

/// A [`Contender`]: an engine over a table of type `T`.
#[derive(Debug)]
pub struct PacketsContender<T: FlowTable<KeyV4>> {
    case: Case,
    gateway: Gateway<T>,
    wires: Vec<Wire>,
    /// Where each worker goes on, and when.
    places: Vec<(usize, Pace)>,
}

impl<T: FlowTable<KeyV4>> PacketsContender<T> {
    /// Makes the engine, and lets all connections be established.
    ///
    /// # Panics
    /// If a packet of a handshake is not accepted.
    #[must_use]
    pub fn new(case: &Case, traffic: &Arc<Traffic>) -> PacketsContender<T> {
        let gateway = Gateway::<T>::new(case, traffic.residents.len(), None);
        let tuples: Vec<Tuple> = traffic
            .residents
            .iter()
            .map(|pair| pair.original.tuple())
            .collect();
        let mut wires = establish(&gateway, &tuples, case.batch);
        let mut rng = WorkerRng::new(case.seed, usize::MAX - 1);
        for at in (1..wires.len()).rev() {
            wires.swap(at, rng.below(at as u32 + 1) as usize);
        }
        PacketsContender {
            places: (0..case.workers)
                .map(|number| (case.share(number, wires.len()).start, Pace::default()))
                .collect(),
            case: *case,
            gateway,
            wires,
        }
    }
}

/// Handshakes; returns later packets of both sides.
fn establish<T: FlowTable<KeyV4>>(
    gateway: &Gateway<T>,
    tuples: &[Tuple],
    batch: usize,
) -> Vec<Wire> {
    let mut workers = gateway.workers();
    let (worker, mut ring, mut seen) = (&mut workers[0], Ring::default(), Seen::default());
    let mut wires = Vec::with_capacity(2 * tuples.len());
    for tuples in tuples.chunks(batch) {
        let mut ports = vec![0; tuples.len()];
        let first: Vec<Wire> = tuples
            .iter()
            .map(|tuple| Wire::of(tuple, 0, Stage::First))
            .collect();
        ring.send(worker, &first, gateway.now, &mut seen, |number, port| {
            ports[number] = port;
        });
        for stage in [Stage::Answer, Stage::FromClient, Stage::FromServer] {
            let later: Vec<Wire> = tuples
                .iter()
                .zip(&ports)
                .map(|(tuple, &port)| Wire::of(tuple, port, stage))
                .collect();
            ring.send(worker, &later, gateway.now, &mut seen, |_, _| ());
            if stage != Stage::Answer {
                wires.extend(later);
            }
        }
    }
    assert!(
        seen.accepted == seen.packets && seen.misdirected == 0,
        "{}: a handshake failed: {seen:?}",
        T::NAME
    );
    wires
}

impl<T: FlowTable<KeyV4>> Contender for PacketsContender<T> {
    /// # Panics
    /// If a packet is dropped, or has another address than its connection.
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let (wires, batch, now) = (self.wires.as_slice(), self.case.batch, self.gateway.now);
        let wanted = self.case.of_a_round(ROUND_PACKETS) as u64;
        let mut states: Vec<_> = self
            .gateway
            .workers()
            .into_iter()
            .zip(&mut self.places)
            .collect();
        let run = run_crew(
            &mut states,
            cores,
            interrupted,
            |_, (worker, (place, pace)), crew| {
                let (mut ring, mut seen) = (Ring::default(), Seen::default());
                while seen.packets < wanted && pace.next(crew) {
                    let end = (*place + batch).min(wires.len());
                    ring.send(worker, &wires[*place..end], now, &mut seen, |_, _| ());
                    pace.done(end - *place);
                    *place = if end == wires.len() { 0 } else { end };
                }
                seen
            },
        );
        for seen in &run.results {
            assert!(
                seen.accepted == seen.packets && seen.misdirected == 0,
                "{}: a packet of an established connection went wrong: {seen:?}",
                T::NAME
            );
        }
        Round {
            elapsed: run.time(self.case.workload.kind),
            pinned: run.pinned,
            operations: run.results.iter().map(|seen| seen.packets).sum(),
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
        self.places.iter_mut().map(|(_, pace)| pace).collect()
    }
}

//! `elephant`: one connection has all the traffic, and all workers have its packets.
//!
//! # Model
//! One connection behind source NAT, in a table with as many others as asked for (none by default), which nobody asks
//! for. Packets come from either side in turn, to all workers, as they do where a NIC sprays or both directions are
//! steered apart. A packet is looked up, held, its connection's time-out refreshed, its TCP tracker locked and changed
//! (not for UDP), and the connection given back. Every packet counts itself in the tracker while it has the lock: a table or a
//! tracker that loses one is found out.
//!
//! # What it does not measure
//! What the tracker decides (windows, states), packets that overtake each other.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_utils::CachePadded;

use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::slab::EntryId;
use clashtrack_engine::table::{FlowTable, Hit};
use clashtrack_engine::tuple::Protocol;

use super::anomaly::Anomalies;
use super::case::{Case, Kind, Workload};
use super::hand::{Hand, LONG, NOW, filled};
use super::measure::{Contender, Round};
use super::pace::Pace;
use super::traffic::Traffic;
use super::worker::{Cores, Crew, run_crew};

/// The workload.
pub const WORKLOAD: Workload = Workload {
    name: "elephant",
    question: "One connection, all workers: what does a packet cost where all want the same entry?",
    kind: Kind::Elephant,
};

/// Packets of a worker in a round.
const ROUND_PACKETS: usize = 1 << 16;
/// The tracker's word that counts packets.
const COUNT: usize = 6;
/// The state number that stays (`TCP_CONNTRACK_ESTABLISHED`).
const ESTABLISHED: u8 = 3;

/// A [`Contender`] over a table of type `T`.
#[derive(Debug)]
pub struct ElephantContender<T: FlowTable<KeyV4>> {
    table: T,
    elephant: EntryId,
    /// A batch of packets: the connection's keys in turn.
    keys: Vec<KeyV4>,
    tcp: bool,
    /// Packets of a worker in a round.
    wanted: u64,
    hands: Vec<CachePadded<Rider<T::Worker>>>,
}

/// A worker that has the connection's packets.
#[derive(Debug)]
struct Rider<W> {
    hand: Hand<W>,
    hits: Vec<Option<Hit>>,
}

impl<T: FlowTable<KeyV4>> ElephantContender<T> {
    /// Makes the table and fills it.
    ///
    /// # Panics
    /// If the table does not take the connection.
    #[must_use]
    pub fn new(case: &Case, traffic: &Arc<Traffic>) -> ElephantContender<T> {
        let table = T::new(&case.table());
        let mut first = None;
        filled(&table, case, &traffic.residents, |_, id| {
            first.get_or_insert(id);
        });
        let pair = &traffic.residents[0];
        let rider = |number| {
            CachePadded::new(Rider {
                hand: Hand::new(table.worker(), number, case.seed, case.protocol, case.batch),
                hits: vec![None; case.batch],
            })
        };
        ElephantContender {
            hands: (0..case.workers).map(rider).collect(),
            elephant: first.expect("an empty table takes its first connection"),
            keys: [pair.original, pair.reply]
                .into_iter()
                .cycle()
                .take(case.batch)
                .collect(),
            tcp: case.protocol == Protocol::TCP,
            wanted: case.of_a_round(ROUND_PACKETS) as u64,
            table,
        }
    }

    /// Packets that the tracker has seen.
    fn counted(&self) -> u64 {
        self.table.slab().tracker(self.elephant).lock().load()[COUNT]
    }
}

impl<T: FlowTable<KeyV4>> Contender for ElephantContender<T> {
    /// # Panics
    /// If the tracker did not see each packet once: two workers had its lock at one time.
    fn round(&mut self, cores: &Cores, interrupted: &AtomicBool) -> Round {
        let before = self.counted();
        let (table, keys, tcp) = (&self.table, self.keys.as_slice(), self.tcp);
        let (elephant, wanted) = (self.elephant, self.wanted);
        let run = run_crew(&mut self.hands, cores, interrupted, |_, rider, crew| {
            rider.ride(table, elephant, keys, tcp, wanted, crew)
        });
        let mut round = Round {
            elapsed: run.time(Kind::Elephant),
            pinned: run.pinned,
            ..Round::default()
        };
        let mut found = 0;
        for ((packets, hits), rider) in run.results.into_iter().zip(&mut self.hands) {
            rider.hand.take_tally(&self.table);
            round.operations += packets;
            found += hits;
        }
        round.anomalies.add(Anomalies {
            vanished: round.operations - found,
            ..Anomalies::default()
        });
        if self.tcp {
            let counted = self.counted().wrapping_sub(before);
            assert_eq!(
                counted,
                found,
                "{}: the tracker has not seen each packet once",
                T::NAME
            );
        }
        round
    }

    fn per_cpu(&self) -> Vec<ConntrackStats> {
        self.hands.iter().map(|rider| rider.hand.stats()).collect()
    }

    fn reset(&mut self) {
        self.hands.iter_mut().for_each(|rider| rider.hand.reset());
    }

    fn paces(&mut self) -> Vec<&mut Pace> {
        self.hands
            .iter_mut()
            .map(|rider| &mut rider.hand.pace)
            .collect()
    }
}

impl<W> Rider<W> {
    /// Packets, and how many of them found their connection.
    fn ride<T: FlowTable<KeyV4, Worker = W>>(
        &mut self,
        table: &T,
        elephant: EntryId,
        keys: &[KeyV4],
        tcp: bool,
        wanted: u64,
        crew: &Crew<'_>,
    ) -> (u64, u64) {
        let (mut packets, mut found) = (0, 0);
        let Hand { worker, pace, .. } = &mut self.hand;
        while packets < wanted && pace.next(crew) {
            table.begin(worker);
            table.lookup_batch(worker, keys, NOW, &mut self.hits);
            for hit in self.hits.iter().flatten() {
                table.slab().entry(hit.id).refresh(NOW, LONG);
                if tcp {
                    let mut tracker = table.slab().tracker(hit.id).lock();
                    let mut words = tracker.load();
                    words[COUNT] = words[COUNT].wrapping_add(1);
                    tracker.store(words, ESTABLISHED);
                }
                found += u64::from(hit.id == elephant);
                table.release(worker, hit.id);
            }
            table.end(worker);
            pace.done(keys.len());
            packets += keys.len() as u64;
        }
        (packets, found)
    }
}

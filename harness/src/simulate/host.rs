//! The simulated host's way to its network: every packet goes through the engine.
//!
//! [`Path`] is what the simulation asks of it; the engine's own answer is [`EnginePath`].

use clashtrack_engine::engine::{Engine, EngineConfig, EngineError, Worker};
use clashtrack_engine::event::{Event, EventMask};
use clashtrack_engine::packet::{Origin, Packet, Verdict};
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::lockfree::LockfreeTable;
use clashtrack_engine::table::slab::CACHE_BATCH;
use clashtrack_engine::time::Nanos;

use super::scenario::{Scenario, simulated_host};

/// What became of a packet that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Whether it left the hooks, or what dropped it.
    pub verdict: Verdict,
    /// What happened to connections on the way.
    pub events: Vec<Event>,
}

/// Where packets go through.
pub trait Path {
    /// Sends a packet at a time on a CPU; its bytes are as they arrive afterwards.
    fn send(&mut self, cpu: usize, now: Nanos, origin: Origin, bytes: &mut [u8]) -> Sent;
}

/// Entries that a worker may keep at hand without using them.
const AT_HAND: usize = 2 * CACHE_BATCH + 1;

/// The engine of a scenario. One thread plays all CPUs, a worker each.
///
/// # Errors
/// [`EngineError`]; a scenario within its documented bounds has none.
pub fn engine_of(scenario: &Scenario) -> Result<Engine<LockfreeTable<KeyV4>>, EngineError> {
    // A client has one connection at most, so a larger limit is never met: memory for what
    // can be, not for what may be.
    let reachable = 2 * scenario.connections + 64;
    let mut sysctls = scenario.sysctls.clone();
    sysctls.max = sysctls.max.min(reachable);
    let mut config = EngineConfig::new(sysctls, scenario.seed);
    let cpus_used = scenario.cpus.min(scenario.connections);
    config.table.capacity = reachable + cpus_used * AT_HAND;
    config.table.buckets = reachable;
    config.host = simulated_host();
    config.rules = scenario.ruleset.clone();
    config.workers = scenario.cpus;
    config.events = EventMask::CLASH;
    if scenario.keep_events {
        config.events |= EventMask::CONNTRACK;
    }
    Engine::new(config)
}

/// The way through the real engine: a worker a CPU.
#[derive(Debug)]
pub struct EnginePath<'e> {
    workers: Vec<Worker<'e, LockfreeTable<KeyV4>>>,
}

impl<'e> EnginePath<'e> {
    /// All workers of an engine that has given none away yet.
    ///
    /// # Errors
    /// [`EngineError::WorkersExhausted`] if it has.
    pub fn new(engine: &'e Engine<LockfreeTable<KeyV4>>, cpus: usize) -> Result<Self, EngineError> {
        let workers = (0..cpus)
            .map(|_| engine.worker())
            .collect::<Result<_, _>>()?;
        Ok(EnginePath { workers })
    }
}

impl Path for EnginePath<'_> {
    fn send(&mut self, cpu: usize, now: Nanos, origin: Origin, bytes: &mut [u8]) -> Sent {
        let worker = &mut self.workers[cpu];
        let mut packets = [Packet::new(bytes, origin)];
        worker.process(&mut packets, now);
        Sent {
            // `process` gives every packet a verdict.
            verdict: packets[0].verdict.unwrap_or(Verdict::Accept),
            events: worker.take_events(),
        }
    }
}

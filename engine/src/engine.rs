//! The engine (shared by all workers) and a worker's part of it.
//!
//! [`Worker::process`] is the whole data path; its steps are in the modules that it calls,
//! in the order in which a packet meets them.

use crossbeam_utils::CachePadded;

use crate::config::Sysctls;
use crate::event::{Event, EventMask, Snapshot};
use crate::host::Host;
use crate::nat::by_source::BySource;
use crate::packet::Packet;
use crate::packet::ipv4::Ipv4Header;
use crate::path::Journey;
use crate::random::WorkerRng;
use crate::rules::Ruleset;
use crate::stats::{ConntrackStats, EngineStats, Fates, WorkerCounters};
use crate::status::Status;
use crate::sync::Ordering;
use crate::sync::unchecked::{AtomicBool, AtomicUsize};
use crate::table::hash::HashKey;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::CACHE_MAX;
use crate::table::{FlowTable, Hit, TableConfig};
use crate::time::Nanos;
use crate::tuple::{Direction, Tuple};
use crate::zone::Zone;

/// Packets that are looked up together. Longer slices given to [`Worker::process`] are
/// worked off in pieces of this size.
pub const BATCH: usize = 64;

/// Events that a worker keeps for its owner to take. What does not fit is counted as lost.
pub const EVENTS_MAX: usize = 1 << 16;

/// Mistakes in setting an engine up.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineError {
    /// No worker, no packets.
    #[error("an engine needs at least one worker: set `workers` to 1 or more")]
    NoWorkers,
    /// All workers that the engine was made for are in use.
    #[error(
        "all {made_for} workers of this engine are in use: drop one, or make the engine with more"
    )]
    WorkersExhausted {
        /// Workers that the engine was made for.
        made_for: usize,
    },
    /// More workers than the table has places for.
    #[error("a {table} table has places for {max} workers, not for {wanted}: lower `workers`")]
    TooManyWorkers {
        /// The table.
        table: &'static str,
        /// The workers wanted.
        wanted: usize,
        /// The most it can have.
        max: usize,
    },
    /// The table cannot hold what the limit allows.
    #[error(
        "nf_conntrack_max is {max}, but the table has room for {capacity} entries: lower the one or raise the other"
    )]
    LimitAboveCapacity {
        /// `nf_conntrack_max`.
        max: usize,
        /// The table's entries.
        capacity: usize,
    },
    /// More entries than the table can number.
    #[error(
        "a {table} table of {capacity} entries is too large, {max} is the most: lower nf_conntrack_max"
    )]
    CapacityTooLarge {
        /// The table.
        table: &'static str,
        /// The entries wanted.
        capacity: usize,
        /// The most it can have.
        max: usize,
    },
}

/// What an [`Engine`] is made of.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Settings.
    pub sysctls: Sysctls,
    /// The table's size and secret.
    pub table: TableConfig,
    /// Devices and routes.
    pub host: Host,
    /// Rules.
    pub rules: Ruleset,
    /// Workers that may be made.
    pub workers: usize,
    /// Seed of the workers' generators.
    pub seed: u64,
    /// Events to record.
    pub events: EventMask,
}

impl EngineConfig {
    /// An engine with the kernel's defaults and a table as large as `sysctls.max` needs: no
    /// rules, `lo` alone, one worker, no events. `seed` also makes the hash key; who fears
    /// an attacker sets [`TableConfig::hash_key`] to a secret of his own.
    #[must_use]
    pub fn new(sysctls: Sysctls, seed: u64) -> EngineConfig {
        let mut key = WorkerRng::new(seed, usize::MAX);
        let hash_key = HashKey(key.next_u64(), key.next_u64());
        let wanted = if sysctls.max == 0 {
            Sysctls::default().max
        } else {
            sysctls.max
        };
        let mut table = TableConfig::new(wanted.saturating_add(SLACK), hash_key);
        table.buckets = wanted;
        table.acct = sysctls.acct;
        EngineConfig {
            sysctls,
            table,
            host: Host::loopback_only(),
            rules: Ruleset::default(),
            workers: 1,
            seed,
            events: EventMask::empty(),
        }
    }
}

/// Entries beyond `nf_conntrack_max`: victims of early drops that packets still hold.
const SLACK: usize = 1024;

/// A connection tracker with NAT: table, rules, host and counters, shared by all workers.
#[derive(Debug)]
pub struct Engine<T> {
    pub(crate) table: T,
    pub(crate) sysctls: Sysctls,
    pub(crate) host: Host,
    pub(crate) rules: Ruleset,
    pub(crate) by_source: BySource,
    /// Entries in existence, unconfirmed ones included (`nf_conntrack_count`).
    pub(crate) count: CachePadded<AtomicUsize>,
    /// A packet found the table full: the next gc run may take closable connections.
    pub(crate) early_drop_wanted: AtomicBool,
    pub(crate) counters: Box<[CachePadded<WorkerCounters>]>,
    pub(crate) seed: u64,
    pub(crate) events: EventMask,
    in_use: Box<[AtomicBool]>,
}

impl<T: FlowTable<KeyV4>> Engine<T> {
    /// Makes an engine with an empty table.
    ///
    /// # Errors
    /// [`EngineError::NoWorkers`], [`EngineError::TooManyWorkers`],
    /// [`EngineError::LimitAboveCapacity`], [`EngineError::CapacityTooLarge`].
    pub fn new(config: EngineConfig) -> Result<Engine<T>, EngineError> {
        if config.workers == 0 {
            return Err(EngineError::NoWorkers);
        }
        if config.workers > T::WORKERS_MAX {
            return Err(EngineError::TooManyWorkers {
                table: T::NAME,
                wanted: config.workers,
                max: T::WORKERS_MAX,
            });
        }
        let (max, capacity) = (config.sysctls.max, config.table.capacity);
        if max > capacity {
            return Err(EngineError::LimitAboveCapacity { max, capacity });
        }
        // Numbers that lie in workers' caches are nobody's entries.
        let mut table = config.table.clone();
        table.capacity = capacity.saturating_add(config.workers.saturating_mul(CACHE_MAX));
        table.workers = config.workers;
        if table.capacity > T::CAPACITY_MAX {
            return Err(EngineError::CapacityTooLarge {
                table: T::NAME,
                capacity: table.capacity,
                max: T::CAPACITY_MAX,
            });
        }
        Ok(Engine {
            table: T::new(&table),
            by_source: BySource::new(config.table.buckets, config.table.hash_key),
            sysctls: config.sysctls,
            host: config.host,
            rules: config.rules,
            count: CachePadded::new(AtomicUsize::new(0)),
            early_drop_wanted: AtomicBool::new(false),
            counters: (0..config.workers)
                .map(|_| CachePadded::default())
                .collect(),
            seed: config.seed,
            events: config.events,
            in_use: (0..config.workers)
                .map(|_| AtomicBool::new(false))
                .collect(),
        })
    }

    /// A worker: the lowest number that is not in use. It is one thread's own, and free
    /// again when it is dropped.
    ///
    /// # Errors
    /// [`EngineError::WorkersExhausted`].
    pub fn worker(&self) -> Result<Worker<'_, T>, EngineError> {
        let free = |flag: &AtomicBool| {
            // Acquire <-> the release of `Worker::drop`: the counters of the worker before.
            // Failure relaxed: somebody has it.
            flag.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        };
        let index = self
            .in_use
            .iter()
            .position(free)
            .ok_or(EngineError::WorkersExhausted {
                made_for: self.in_use.len(),
            })?;
        Ok(Worker {
            engine: self,
            index,
            table: self.table.worker(),
            rng: WorkerRng::new(self.seed, index),
            counters: &self.counters[index],
            events: Vec::new(),
            changed_table: false,
        })
    }

    /// Connections in existence, unconfirmed and reply-only ones included (`nf_conntrack_count`).
    #[must_use]
    pub fn count(&self) -> usize {
        // Relaxed: a number to look at.
        self.count.load(Ordering::Relaxed)
    }

    /// The kernel's counters, one block a worker.
    #[must_use]
    pub fn stats(&self) -> Vec<ConntrackStats> {
        self.counters
            .iter()
            .map(|c| c.conntrack.snapshot())
            .collect()
    }

    /// What became of all packets, all workers together.
    #[must_use]
    pub fn fates(&self) -> Fates {
        self.counters.iter().fold(Fates::default(), |mut sum, c| {
            sum.add(&c.fates.snapshot());
            sum
        })
    }

    /// The engine's own counters, all workers together.
    #[must_use]
    pub fn engine_stats(&self) -> EngineStats {
        self.counters
            .iter()
            .fold(EngineStats::default(), |mut sum, c| {
                sum.add(&c.engine.snapshot());
                sum
            })
    }

    /// The connections that `conntrack -L` would list at `now`: confirmed, not expired, and
    /// not those that live by their reply key alone. In order of their place. Workers may
    /// go on meanwhile; a connection that stays is listed once.
    #[must_use]
    pub fn connections(&self, now: Nanos) -> Vec<Snapshot> {
        let slab = self.table.slab();
        slab.confirmed()
            .filter_map(|(id, _)| slab.read_confirmed(id, || Snapshot::of(slab, id, now)))
            .filter(|ct| !ct.status.contains(Status::NAT_CLASH) && ct.remaining > 0)
            .collect()
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &T {
        &self.table
    }

    /// The settings.
    #[must_use]
    pub fn sysctls(&self) -> &Sysctls {
        &self.sysctls
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }
}

/// One thread's part of an [`Engine`]: its counters, random numbers, free entries, events.
#[derive(Debug)]
pub struct Worker<'e, T: FlowTable<KeyV4>> {
    pub(crate) engine: &'e Engine<T>,
    index: usize,
    pub(crate) table: T::Worker,
    pub(crate) rng: WorkerRng,
    pub(crate) counters: &'e WorkerCounters,
    events: Vec<Event>,
    /// This worker has put something into the table, or taken it out, since the batch was
    /// looked up: what was missed then may be there now.
    pub(crate) changed_table: bool,
}

impl<T: FlowTable<KeyV4>> Drop for Worker<'_, T> {
    fn drop(&mut self) {
        self.engine.table.leave(&mut self.table);
        // Release <-> the acquire in `Engine::worker`: our counts come before the next owner's.
        self.engine.in_use[self.index].store(false, Ordering::Release);
    }
}

impl<'e, T: FlowTable<KeyV4>> Worker<'e, T> {
    /// This worker's number: the CPU in `conntrack -S`.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &'e Engine<T> {
        self.engine
    }

    /// The whole data path: each packet passes its hooks in order, is rewritten in place and
    /// given its verdict. Packets of one slice are worked off in order.
    ///
    /// Does not block (but for the table's own locks, if it has any).
    pub fn process(&mut self, packets: &mut [Packet<'_>], now: Nanos) {
        for batch in packets.chunks_mut(BATCH) {
            self.engine.table.begin(&mut self.table);
            let mut found = self.look_up(batch, now);
            for (packet, found) in batch.iter_mut().zip(&mut found) {
                let mut journey = Journey::start(packet, &self.engine.host);
                self.travel(packet, &mut journey, found, None, now);
                self.drop_hint(found.take());
            }
            self.engine.table.end(&mut self.table);
        }
    }

    /// Looks the whole batch up at once: the memory accesses of one packet wait beside those
    /// of the others. Raw rules may put packets into zones of their own; then each packet is
    /// looked up when its time comes.
    fn look_up(&mut self, batch: &[Packet<'_>], now: Nanos) -> [Option<Option<Hit>>; BATCH] {
        let mut found = [None; BATCH];
        self.changed_table = false;
        if !self.engine.rules.raw.is_empty() || batch.len() == 1 {
            return found;
        }
        let mut keys: [KeyV4; BATCH] = [KeyV4::default(); BATCH];
        let mut packet_of = [0; BATCH];
        let mut wanted = 0;
        for (i, packet) in batch.iter().enumerate() {
            let tuple = Ipv4Header::parse(packet.bytes, packet.truncated)
                .and_then(|header| header.tuple(packet.bytes));
            if let Some(tuple) = tuple {
                keys[wanted] = KeyV4::pack(&tuple, Zone::DEFAULT.id);
                packet_of[wanted] = i;
                wanted += 1;
            }
        }
        let mut hits = [None; BATCH];
        let table = &self.engine.table;
        table.lookup_batch(&mut self.table, &keys[..wanted], now, &mut hits[..wanted]);
        for (&i, hit) in packet_of[..wanted].iter().zip(hits) {
            found[i] = Some(hit);
        }
        // Expired entries that the lookups took out do not make a miss doubtful.
        self.drain_removed(now);
        self.changed_table = false;
        found
    }

    /// Looks a tuple up as `conntrack -G` would: the connection now, and which side the tuple is.
    pub fn lookup(
        &mut self,
        tuple: &Tuple,
        zone: Zone,
        now: Nanos,
    ) -> Option<(Snapshot, Direction)> {
        self.engine.table.begin(&mut self.table);
        let found = self.find(tuple, zone, now).map(|hit| {
            let snapshot = Snapshot::of(self.engine.table.slab(), hit.id, now);
            self.put(hit.id);
            (snapshot, hit.direction)
        });
        self.engine.table.end(&mut self.table);
        found
    }

    /// Removes the connection that a tuple belongs to (`conntrack -D`). True if there was one.
    pub fn delete(&mut self, tuple: &Tuple, zone: Zone, now: Nanos) -> bool {
        self.engine.table.begin(&mut self.table);
        let hit = self.find(tuple, zone, now);
        let deleted = hit.is_some_and(|hit| {
            let killed = self.kill(hit.id, now);
            self.put(hit.id);
            killed
        });
        self.engine.table.end(&mut self.table);
        deleted
    }

    /// Gives a connection a timeout that packets never refresh (`nft … ct timeout` with
    /// `IPS_FIXED_TIMEOUT`; `conntrack -U --timeout … --status FIXED_TIMEOUT`). True if there was one.
    pub fn fix_timeout(&mut self, tuple: &Tuple, zone: Zone, timeout: Nanos, now: Nanos) -> bool {
        self.engine.table.begin(&mut self.table);
        let hit = self.find(tuple, zone, now);
        if let Some(hit) = hit {
            let entry = self.engine.table.slab().entry(hit.id);
            entry.refresh(now, timeout);
            entry.set_status(Status::FIXED_TIMEOUT);
            self.put(hit.id);
        }
        self.engine.table.end(&mut self.table);
        hit.is_some()
    }

    /// Takes the events since the last call, in the order in which they happened.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        } else {
            self.counters.engine.events_lost.increment();
        }
    }
}

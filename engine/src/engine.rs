//! The engine (shared by all workers) and a worker's part of it.
//!
//! [`Worker::process`] is the whole data path; its steps are in the modules that it calls,
//! in the order in which a packet meets them.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use crossbeam_utils::CachePadded;

use crate::config::Sysctls;
use crate::event::{Event, EventMask};
use crate::host::Host;
use crate::nat::by_source::BySource;
use crate::random::WorkerRng;
use crate::rules::Ruleset;
use crate::stats::WorkerCounters;
use crate::table::key::KeyV4;
use crate::table::{FlowTable, TableConfig};

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
}

/// One thread's part of an [`Engine`]: its counters, random numbers, scratch memory.
#[derive(Debug)]
pub struct Worker<'e, T: FlowTable<KeyV4>> {
    pub(crate) engine: &'e Engine<T>,
    pub(crate) table: T::Worker,
    pub(crate) rng: WorkerRng,
    pub(crate) counters: &'e WorkerCounters,
    pub(crate) events: Vec<Event>,
}

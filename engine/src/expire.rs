//! The end of connections: removal, expiry, and the collector that looks for expired ones.
//!
//! There are no timers. An expired connection goes when a lookup or an early drop walks
//! over it, or when the collector ([`Worker::gc`]) finds it. Memory and count go when the
//! last packet lets go of it.
//!
//! Source: `nf_ct_delete`, `nf_ct_gc_expired`, `gc_worker` (nf_conntrack_core.c).

use std::sync::atomic::Ordering;

use crate::engine::Worker;
use crate::event::{Event, EventMask, Snapshot};
use crate::proto::tcp::TcpConntrackState;
use crate::status::Status;
use crate::table::FlowTable;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::{Entry, EntryId, Life, TrackerCell};
use crate::time::{Nanos, SECOND};
use crate::tuple::{Direction, Protocol};

/// What must be known of an entry to forget it once it is freed, when it may already be
/// somebody else's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burial {
    id: EntryId,
    original: KeyV4,
    reply: KeyV4,
    linked_by_source: bool,
}

impl<T: FlowTable<KeyV4>> Worker<'_, T> {
    /// Removes a connection (`nf_ct_delete`). True for the one who did it. `id` need not be
    /// held: of a life that is over nothing is touched, whoever has the place now.
    pub(crate) fn kill(&mut self, id: EntryId, now: Nanos) -> bool {
        let entry = self.engine.table.slab().entry(id);
        let state = entry.state();
        if state.life == Life::Pending && state.generation == id.generation() {
            // In no table, and ours: marked, and refused at confirm.
            return !entry.set_status(Status::DYING).contains(Status::DYING);
        }
        if !self.engine.table.remove(&mut self.table, id) {
            return false;
        }
        self.changed_table = true;
        self.finish_removal(id, now);
        true
    }

    /// Tells of a removed entry and gives back the reference that the table had of it.
    fn finish_removal(&mut self, id: EntryId, now: Nanos) {
        if self.engine.events.contains(EventMask::CONNTRACK) {
            let snapshot = Snapshot::of(self.engine.table.slab(), id, now);
            self.tell(Event::Destroy(now, snapshot));
        }
        self.put(id);
    }

    /// Finishes the removal of entries that the table took out by itself (expired on the
    /// way of a lookup, evicted), and takes over what the table counted.
    pub(crate) fn drain_removed(&mut self, now: Nanos) {
        while let Some(id) = self.engine.table.take_removed(&mut self.table) {
            self.changed_table = true;
            if self.engine.table.slab().entry(id).is_expired(now) {
                self.counters.engine.expired.increment();
            }
            self.finish_removal(id, now);
        }
        let restarts = self.engine.table.take_search_restarts(&mut self.table);
        if restarts > 0 {
            self.counters.conntrack.search_restart.add(restarts);
        }
        let stalled = self.engine.table.take_recycle_stalled(&mut self.table);
        if stalled > 0 {
            self.counters.engine.recycle_stalled.add(stalled);
        }
    }

    pub(crate) fn burial(&self, id: EntryId) -> Burial {
        let entry = self.engine.table.slab().entry(id);
        Burial {
            id,
            original: entry.key(Direction::Original),
            reply: entry.key(Direction::Reply),
            linked_by_source: entry.status().contains(Status::SRC_NAT_DONE),
        }
    }

    /// Forgets an entry that has been freed: by-source list and count.
    pub(crate) fn bury(&mut self, burial: &Burial) {
        if burial.linked_by_source {
            self.engine
                .by_source
                .unlink(&burial.original, &burial.reply, burial.id);
        }
        self.uncount();
    }

    /// Gives back a reference to a connection; an unconfirmed one, which only this worker
    /// can hold, is thereby gone.
    pub(crate) fn put(&mut self, id: EntryId) {
        let burial = self.burial(id);
        let table = &self.engine.table;
        if !table.slab().entry(id).status().contains(Status::CONFIRMED) {
            table.discard(&mut self.table, id);
            self.bury(&burial);
        } else if table.release(&mut self.table, id) {
            self.bury(&burial);
        }
    }

    /// One entry less (`nf_conntrack_count`).
    pub(crate) fn uncount(&mut self) {
        // Relaxed: a number to compare with the limit; it orders nothing.
        self.engine.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// One run of the collector: walks on from where the last run stopped, removes expired
    /// connections, and, where a packet found the table full, closable ones.
    ///
    /// Bounded: at most `budget` places are looked at, and a run that has removed more than
    /// [`GC_EXPIRED_MAX`] connections stops early. Returns what to do next.
    pub fn gc(&mut self, state: &mut GcState, budget: usize, now: Nanos) -> GcRun {
        self.engine.table.begin(&mut self.table);
        let run = self.gc_walk(state, budget, now);
        self.engine.table.end(&mut self.table);
        run
    }

    fn gc_walk(&mut self, state: &mut GcState, budget: usize, now: Nanos) -> GcRun {
        let slab = self.engine.table.slab();
        if state.next == 0 {
            state.begin_cycle(now);
        }
        // Relaxed: a wish; a run goes by what it was at its beginning.
        let wanted = self.engine.early_drop_wanted.load(Ordering::Relaxed);
        let mut run = GcRun {
            expired: 0,
            evicted: 0,
            delay: 0,
        };
        let places = state.next..state.next.saturating_add(budget);
        let mut stopped_at = None;
        for (id, entry) in slab.confirmed_in(places.clone()) {
            if run.expired + run.evicted > GC_EXPIRED_MAX {
                stopped_at = Some(id.index() as usize);
                break;
            }
            if entry.is_expired(now) {
                run.expired += u64::from(self.kill(id, now));
                continue;
            }
            state.sample(entry.remaining(now));
            if wanted && self.is_nearly_full() && is_closable(entry, slab.tracker(id)) {
                run.evicted += u64::from(self.kill(id, now));
            }
        }
        self.counters.engine.expired.add(run.expired);
        if let Some(place) = stopped_at {
            state.next = place;
            run.delay = state.short_delay(now);
        } else if places.end < slab.capacity() {
            state.next = places.end;
        } else {
            state.next = 0;
            run.delay = state.delay(now);
        }
        if run.delay != 0 {
            // Relaxed: a wish, granted.
            self.engine
                .early_drop_wanted
                .store(false, Ordering::Relaxed);
        }
        run
    }

    /// Is the table at least 95 % full (the kernel's integer arithmetic: a limit below 100
    /// switches the rule off)?
    fn is_nearly_full(&self) -> bool {
        let threshold = self.engine.sysctls.max / 100 * 95;
        // Relaxed: an advisory number.
        threshold > 0 && self.engine.count.load(Ordering::Relaxed) >= threshold
    }
}

/// Not assured, or in a state from which nothing more is expected (`gc_worker_can_early_drop`).
fn is_closable(entry: &Entry<KeyV4>, tracker: &TrackerCell) -> bool {
    if !entry.status().contains(Status::ASSURED) {
        return true;
    }
    entry.key(Direction::Original).tuple().protocol == Protocol::TCP
        && TcpConntrackState::from_number(tracker.public_state()).is_closable()
}

/// A run of the collector that has removed more connections than this lets others work
/// (`GC_SCAN_EXPIRED_MAX`: 64000 / HZ, at 250 ticks a second).
pub const GC_EXPIRED_MAX: u64 = 256;

/// A kernel's tick at 250 a second: the shortest delay there is.
const TICK: Nanos = SECOND / 250;

/// A cycle of the collector takes no longer (`GC_SCAN_INTERVAL_MAX`).
const INTERVAL_MAX: Nanos = 60 * SECOND;

/// Where the collector is, and what it has learnt of timeouts in this cycle.
#[derive(Clone, Debug, Default)]
pub struct GcState {
    next: usize,
    cycle_start: Nanos,
    average: Nanos,
    samples: u64,
}

impl GcState {
    fn begin_cycle(&mut self, now: Nanos) {
        // The kernel's prior: 100 samples of 60 s.
        *self = GcState {
            next: 0,
            cycle_start: now,
            average: INTERVAL_MAX,
            samples: 100,
        };
    }

    fn sample(&mut self, remaining: Nanos) {
        let remaining = remaining.clamp(SECOND, 300 * SECOND);
        self.samples += 1;
        let step = (i128::from(remaining) - i128::from(self.average)) / i128::from(self.samples);
        self.average = (i128::from(self.average) + step) as Nanos;
    }

    /// Until the next cycle, this one being over.
    fn delay(&self, now: Nanos) -> Nanos {
        let wait = self.average.clamp(SECOND, INTERVAL_MAX);
        wait.saturating_sub(now.saturating_sub(self.cycle_start))
            .max(TICK)
    }

    /// Until the next run, this one having removed enough: a tick, but none in a cycle that
    /// takes too long already.
    fn short_delay(&self, now: Nanos) -> Nanos {
        if now.saturating_sub(self.cycle_start) < INTERVAL_MAX {
            TICK
        } else {
            0
        }
    }
}

/// What a run of the collector did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GcRun {
    /// Connections whose time had come.
    pub expired: u64,
    /// Closable connections removed because the table was full.
    pub evicted: u64,
    /// When to run again, in nanoseconds; 0 is at once.
    pub delay: Nanos,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sysctls;
    use crate::engine::{Engine, EngineConfig};
    use crate::table::mutex::MutexTable;

    #[test]
    fn killing_a_life_that_is_over_leaves_the_next_one_alone() {
        let engine =
            Engine::<MutexTable<KeyV4>>::new(EngineConfig::new(Sysctls::default(), 1)).unwrap();
        let mut worker = engine.worker().unwrap();
        let over = engine.table.allocate(&mut worker.table).unwrap();
        engine.table.discard(&mut worker.table, over);
        let next = engine.table.allocate(&mut worker.table).unwrap();
        assert_eq!(next.index(), over.index());
        assert!(!worker.kill(over, 0));
        assert!(engine.table.slab().entry(next).status().is_empty());
        assert!(worker.kill(next, 0));
    }
}

//! Counters: the kernel's, by its names, and ours that say what became of every packet.
//!
//! Each worker has a block of its own on cache lines of its own; anyone may read them.
//!
//! # Memory
//! One writer a block (the worker), so a count is a load and a store, never a locked
//! operation. Readers may see counters of a block a little apart in time.
//!
//! Source: `struct ip_conntrack_stat`; when each moves: kernel-behaviour notes in each caller.

use crate::sync::Ordering;
use crate::sync::unchecked::AtomicU64;

macro_rules! counters {
    ($(#[$outer:meta])* $cell:ident / $(#[$snap_outer:meta])* $snapshot:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        pub struct $cell { $($(#[$doc])* pub $name: Counter,)* }

        $(#[$snap_outer])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $snapshot { $($(#[$doc])* pub $name: u64,)* }

        impl $cell {
            /// The values now.
            #[must_use]
            pub fn snapshot(&self) -> $snapshot {
                $snapshot { $($name: self.$name.value(),)* }
            }
        }

        impl $snapshot {
            /// Names and values, in the order of printing.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            /// Sets the counter of that name; false if there is none.
            pub fn set(&mut self, name: &str, value: u64) -> bool {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    _ => return false,
                }
                true
            }

            /// Adds another worker's.
            pub fn add(&mut self, other: &$snapshot) {
                $(self.$name += other.$name;)*
            }

            /// What was counted since `earlier`.
            #[must_use]
            pub fn since(&self, earlier: &$snapshot) -> $snapshot {
                $snapshot { $($name: self.$name - earlier.$name,)* }
            }
        }
    };
}

/// One count with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one. Only the block's worker may.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts `n`. Only the block's worker may.
    pub fn add(&self, n: u64) {
        // Relaxed, load and store apart: one writer; statistics only.
        self.0
            .store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn value(&self) -> u64 {
        // Relaxed: statistics only.
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// The kernel's per-CPU counters (`conntrack -S`), of one worker.
    ConntrackCounters /
    /// [`ConntrackCounters`] at one moment.
    ConntrackStats {
        /// NAT met a tuple that is taken by another flow.
        found,
        /// No tuple, not invertible, or the tracker said invalid.
        invalid,
        /// Entries put in by hand; never by packets.
        insert,
        /// Confirm failed: dying, chain too long, clash not resolved.
        insert_failed,
        /// Packets dropped by tracking itself.
        drop,
        /// Connections evicted to make room.
        early_drop,
        /// ICMP packets that failed the pre-check.
        error,
        /// A lookup was carried to another chain and started over.
        search_restart,
        /// Clashes resolved: merged, or inserted by the reply key alone.
        clash_resolve,
        /// Chains longer than the limit drawn.
        chaintoolong,
        /// Packets that matched an expectation.
        expect_new,
        /// Expectations made.
        expect_create,
        /// Expectations taken away.
        expect_delete,
    }
}

counters! {
    /// What became of every packet that a worker was given: each packet ends in exactly one.
    FateCounters /
    /// [`FateCounters`] at one moment.
    Fates {
        /// Accepted with a connection.
        accepted,
        /// Accepted without one: INVALID.
        accepted_invalid,
        /// Accepted, not tracked because a rule said so.
        accepted_untracked,
        /// Accepted untracked because it is of a family that is not tracked yet.
        accepted_other_family,
        /// Dropped at confirm: unresolved clash.
        dropped_clash,
        /// Dropped at confirm: chain too long.
        dropped_chain_too_long,
        /// Dropped at confirm: the entry was dying.
        dropped_dying,
        /// Dropped: the table is full.
        dropped_table_full,
        /// Dropped by the tracker.
        dropped_tracker,
        /// Dropped by NAT: no address, a device that changed, an ICMP error that cannot be translated.
        dropped_nat,
        /// Dropped by a rule or a chain's policy.
        dropped_rule,
        /// Discarded by forwarding: its time to live had run out.
        dropped_ttl,
    }
}

counters! {
    /// Counts of what the kernel does not count, of one worker.
    EngineCounters /
    /// [`EngineCounters`] at one moment.
    EngineStats {
        /// Connections confirmed by both keys.
        confirmed,
        /// Clashes that ended as the winner's packet.
        resolved_same,
        /// Clashes that ended as a reply-only entry.
        resolved_reply_only,
        /// Entries removed because their time had come.
        expired,
        /// Events that found the event buffer full.
        events_lost,
        /// Connections that found no entry only because free ones waited for a worker that
        /// stopped in the middle of a batch.
        recycle_stalled,
    }
}

/// All counters of a worker, on cache lines of their own.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// The kernel's.
    pub conntrack: ConntrackCounters,
    /// What became of each packet.
    pub fates: FateCounters,
    /// Ours.
    pub engine: EngineCounters,
}

/// One line of `conntrack -S`, as conntrack-tools 1.4.7 prints it: the CPU left-justified in
/// four columns, a tab, and a blank after every item.
#[must_use]
pub fn conntrack_s_line(cpu: usize, s: &ConntrackStats) -> String {
    format!(
        "cpu={cpu:<4}\tfound={} invalid={} insert={} insert_failed={} drop={} early_drop={} error={} \
         search_restart={} clash_resolve={} chaintoolong={} ",
        s.found,
        s.invalid,
        s.insert,
        s.insert_failed,
        s.drop,
        s.early_drop,
        s.error,
        s.search_restart,
        s.clash_resolve,
        s.chaintoolong,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_conntrack_s_is_the_tools_own_to_the_byte() {
        let stats = ConntrackStats {
            insert_failed: 7,
            drop: 7,
            ..Default::default()
        };
        assert_eq!(
            conntrack_s_line(0, &stats),
            "cpu=0   \tfound=0 invalid=0 insert=0 insert_failed=7 drop=7 early_drop=0 error=0 search_restart=0 clash_resolve=0 chaintoolong=0 "
        );
    }
}

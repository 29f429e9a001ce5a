//! What became of the connections that workers offered to a table: the books of every workload that confirms.

use clashtrack_engine::stats::ConntrackCounters;
use clashtrack_engine::table::{Confirmed, Refusal};
use clashtrack_engine::tuple::Direction;

/// What became of the connections that were offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Confirms attempted.
    pub offered: u64,
    /// Both keys in the table.
    pub confirmed: u64,
    /// Merged into the winner.
    pub resolved_same: u64,
    /// In the table by the reply key alone.
    pub resolved_reply_only: u64,
    /// Dropped, whatever the reason.
    pub dropped: u64,
    /// Not offered, because the worker's own lookup found the flow.
    pub found_at_lookup: u64,
    /// Clashes on the original key: two workers had the flow in hand and both confirmed.
    pub collided: u64,
    /// Winners whose other key was not found right after a merge.
    pub torn: u64,
    /// Connections that found no entry to be made of only because free ones waited for a suspended worker.
    pub recycle_stalled: u64,
}

impl Tally {
    /// Nothing offered.
    pub const NOTHING: Tally = Tally {
        offered: 0,
        confirmed: 0,
        resolved_same: 0,
        resolved_reply_only: 0,
        dropped: 0,
        found_at_lookup: 0,
        collided: 0,
        torn: 0,
        recycle_stalled: 0,
    };

    /// Adds another worker's or another round's.
    pub fn add(&mut self, other: &Tally) {
        self.offered += other.offered;
        self.confirmed += other.confirmed;
        self.resolved_same += other.resolved_same;
        self.resolved_reply_only += other.resolved_reply_only;
        self.dropped += other.dropped;
        self.found_at_lookup += other.found_at_lookup;
        self.collided += other.collided;
        self.torn += other.torn;
        self.recycle_stalled += other.recycle_stalled;
    }

    /// Each outcome moves the kernel's counters as the kernel does, and one place of the tally.
    #[inline(always)]
    pub(super) fn count(&mut self, outcome: &Confirmed, counters: &ConntrackCounters) {
        let tally = self;
        match outcome {
            Confirmed::Inserted => tally.confirmed += 1,
            Confirmed::Merged(clash) => {
                tally.resolved_same += 1;
                tally.collided += u64::from(clash.key == Direction::Original);
                counters.clash_resolve.increment();
            }
            Confirmed::ReplyOnly(clash) => {
                tally.resolved_reply_only += 1;
                tally.collided += u64::from(clash.key == Direction::Original);
                counters.clash_resolve.increment();
            }
            Confirmed::Refused(refusal) => {
                tally.dropped += 1;
                counters.insert_failed.increment();
                match refusal {
                    Refusal::Clash(clash) => {
                        let original = clash.key == Direction::Original;
                        tally.collided += u64::from(original);
                        counters.drop.increment();
                    }
                    Refusal::ChainTooLong => counters.chaintoolong.increment(),
                    Refusal::Dying | Refusal::Full => {}
                }
            }
        }
    }

    /// Offered connections of which nobody knows what became: 0, or the measurement is broken.
    #[must_use]
    pub fn lost(&self) -> i64 {
        let known = self.confirmed + self.resolved_same + self.resolved_reply_only + self.dropped;
        self.offered as i64 - known as i64
    }
}

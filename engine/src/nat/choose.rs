//! Choosing a connection's tuple: keep it, reuse what its source has, pick an address, search a port.
//!
//! ```text
//! 1 source NAT, not random   in range and free: keep │ else what by-source knows, if free
//! 2                          an address of the range
//! 3 not random               good as it is: done
//! 4                          the port search, whose answer may be taken
//! ```
//! Source: `get_unique_tuple` (nf_nat_core.c).

use super::address::choose_address;
use super::range::{Manip, NatFlags, NatRange};
use super::taken::Seeker;
use crate::engine::Worker;
use crate::table::FlowTable;
use crate::table::key::{FlowKey, KeyV4};
use crate::time::Nanos;
use crate::tuple::{Direction, Tuple};

impl<T: FlowTable<KeyV4>> Worker<'_, T> {
    /// The tuple that packets of the original direction shall have after `manip`, given the
    /// one they have so far. It may be taken.
    pub(crate) fn choose_tuple(
        &mut self,
        seeker: &Seeker,
        current: &Tuple,
        range: &NatRange,
        manip: Manip,
        now: Nanos,
    ) -> Tuple {
        if manip == Manip::Source
            && !range.is_random()
            && let Some(kept) = self.keep_or_reuse(seeker, current, range, now)
        {
            return kept;
        }
        let address = choose_address(current, range, manip, seeker.zone_id());
        let proposed = match manip {
            Manip::Source => Tuple {
                src: address,
                ..*current
            },
            Manip::Destination => Tuple {
                dst: address,
                ..*current
            },
        };
        if !range.is_random() && self.needs_no_search(seeker, &proposed, range, manip, now) {
            return proposed;
        }
        self.search_port(seeker, proposed, range, manip, now)
    }

    /// Step 1. Where the tuple is in range but taken, by-source is *not* consulted.
    fn keep_or_reuse(
        &mut self,
        seeker: &Seeker,
        current: &Tuple,
        range: &NatRange,
        now: Nanos,
    ) -> Option<Tuple> {
        if range.holds_source(current) {
            return (!self.is_taken_unchanged(seeker, current, now)).then_some(*current);
        }
        let reused = self.source_in_use(seeker, current, range)?;
        (!self.is_taken(seeker, &reused, now)).then_some(reused)
    }

    /// The most recent translation, fit for the range, that the same source has on another
    /// connection, confirmed or not (`find_appropriate_src`).
    fn source_in_use(&self, seeker: &Seeker, current: &Tuple, range: &NatRange) -> Option<Tuple> {
        let slab = self.engine.table.slab();
        let examine = |id| {
            // A hint: should the entry be freed at this moment, the tuple made of it is still
            // in range, and tested like any other.
            if !slab.is_current(id) {
                return None;
            }
            let entry = slab.entry(id);
            let original = entry.key(Direction::Original);
            let theirs = original.tuple();
            let same_source = theirs.protocol == current.protocol
                && theirs.src == current.src
                && theirs.src_key == current.src_key
                && original.zone() == seeker.original.zone();
            if !same_source {
                return None;
            }
            let translated = entry.key(Direction::Reply).tuple().invert()?;
            let reused = Tuple {
                src: translated.src,
                src_key: translated.src_key,
                ..*current
            };
            range.holds_source(&reused).then_some(reused)
        };
        self.engine
            .by_source
            .find(&seeker.original, &seeker.reply, examine)
    }

    /// Step 3. A range of one port that the tuple has already is accepted without asking
    /// whether it is free: a search could find nothing else.
    fn needs_no_search(
        &mut self,
        seeker: &Seeker,
        proposed: &Tuple,
        range: &NatRange,
        manip: Manip,
        now: Nanos,
    ) -> bool {
        if !range.flags.contains(NatFlags::PROTO_SPECIFIED) {
            return !self.is_taken(seeker, proposed, now);
        }
        !range.flags.contains(NatFlags::OFFSET)
            && range.holds_port(proposed, manip)
            && (range.min_port == range.max_port || !self.is_taken(seeker, proposed, now))
    }
}

//! The end of connections: removal, and giving references back.
//!
//! Source: `nf_ct_delete`, `nf_ct_put` (nf_conntrack_core.c).

use std::sync::atomic::Ordering;

use crate::engine::Worker;
use crate::status::Status;
use crate::table::FlowTable;
use crate::table::key::KeyV4;
use crate::table::slab::EntryId;
use crate::time::Nanos;
use crate::tuple::Direction;

impl<T: FlowTable<KeyV4>> Worker<'_, T> {
    /// Removes a connection. True for the one who did it.
    pub(crate) fn kill(&mut self, id: EntryId, _now: Nanos) -> bool {
        let removed = self.engine.table.remove(&mut self.table, id);
        if removed {
            self.put(id);
        }
        removed
    }

    /// Gives back a reference to a confirmed connection; what the last one frees is forgotten.
    pub(crate) fn put(&mut self, id: EntryId) {
        let entry = self.engine.table.slab().entry(id);
        let (original, reply) = (entry.key(Direction::Original), entry.key(Direction::Reply));
        let linked = entry.status().contains(Status::SRC_NAT_DONE);
        if !self.engine.table.release(&mut self.table, id) {
            return;
        }
        if linked {
            self.engine.by_source.unlink(&original, &reply, id);
        }
        // Relaxed: a number to compare with the limit; it orders nothing.
        self.engine.count.fetch_sub(1, Ordering::Relaxed);
    }
}

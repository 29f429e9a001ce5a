//! Tables to compare with, each behind the engine's [`FlowTable`]: the kernel's algorithm in
//! user space ([`striped`]), and concurrent maps as people use them ([`two_inserts`] into [`dashmap`],
//! [`papaya`] or [`scc`]). Ours, [`lockfree`](clashtrack_engine::table::lockfree), and the reference,
//! [`mutex`](clashtrack_engine::table::mutex), live in the engine.
//!
//! No straw men: every table has the same entries in the same slab, the same keyed hash, and
//! its capacity reserved up front; `docs/peers.md` has each one's set-up, with the reasons. [`visit`] is
//! the one place where a name becomes a type; a new table is added to it and to [`TABLES`].

pub mod dashmap;
pub mod papaya;
pub mod scc;
pub mod striped;
pub mod two_inserts;

use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::lockfree::{FILL_PERCENT, LockfreeTable};
use clashtrack_engine::table::mutex::MutexTable;
use clashtrack_engine::table::{FlowTable, Guarantees};

use dashmap::{DashMapAhashTable, DashMapTable};
use papaya::PapayaTable;
use scc::SccTable;
use striped::StripedTable;

/// What `list` and `--table` know of a table.
#[derive(Clone, Copy, Debug)]
pub struct TableInfo {
    /// The name that `--table` takes.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// What it promises.
    pub guarantees: Guarantees,
}

/// All tables, in the order in which they are run and printed.
pub const TABLES: &[TableInfo] = &[
    info::<LockfreeTable<KeyV4>>(
        "ours: both keys in one atomic step, no locks, a cache line a bucket",
    ),
    info::<StripedTable<KeyV4>>(
        "the kernel's algorithm in user space: striped spin locks, lock-free readers that restart",
    ),
    info::<MutexTable<KeyV4>>("one lock around a chained hash: the reference model of the tests"),
    info::<DashMapTable<KeyV4>>("a sharded map, two inserts, as people write it"),
    info::<DashMapAhashTable<KeyV4>>(
        "the same with a faster hasher, which is not made to withstand attackers",
    ),
    info::<PapayaTable<KeyV4>>("a lock-free map, two inserts"),
    info::<SccTable<KeyV4>>("a map of fine-grained bucket locks, two inserts"),
];

/// The tables of a run that names none.
pub const DEFAULT_TABLES: &[&str] = &["lockfree", "striped", "dashmap"];

const fn info<T: FlowTable<KeyV4>>(about: &'static str) -> TableInfo {
    TableInfo {
        name: T::NAME,
        about,
        guarantees: T::GUARANTEES,
    }
}

/// How full a table's index is: of the lock-free table the slots of its head buckets, which hold two keys of each
/// connection; of the others their entries.
#[must_use]
pub fn fill(table: &str, connections: usize, capacity: usize) -> f64 {
    let entries = connections as f64 / capacity as f64;
    if table == LockfreeTable::<KeyV4>::NAME {
        entries * FILL_PERCENT as f64 / 100.0
    } else {
        entries
    }
}

/// Something to be done with a table whose type is known by name only.
pub trait TableVisitor {
    /// What comes of it.
    type Output;
    /// Does it with the table type `T`.
    fn visit<T: FlowTable<KeyV4> + 'static>(self) -> Self::Output
    where
        T::Worker: 'static;
}

/// Calls `visitor` with the table type of that name; `None` where there is no such table.
pub fn visit<V: TableVisitor>(name: &str, visitor: V) -> Option<V::Output> {
    Some(match name {
        "lockfree" => visitor.visit::<LockfreeTable<KeyV4>>(),
        "striped" => visitor.visit::<StripedTable<KeyV4>>(),
        "mutex" => visitor.visit::<MutexTable<KeyV4>>(),
        "dashmap" => visitor.visit::<DashMapTable<KeyV4>>(),
        "dashmap@ahash" => visitor.visit::<DashMapAhashTable<KeyV4>>(),
        "papaya" => visitor.visit::<PapayaTable<KeyV4>>(),
        "scc" => visitor.visit::<SccTable<KeyV4>>(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Name;
    impl TableVisitor for Name {
        type Output = &'static str;
        fn visit<T: FlowTable<KeyV4> + 'static>(self) -> &'static str {
            T::NAME
        }
    }

    #[test]
    fn every_listed_table_is_found_by_its_name_and_no_other_is() {
        for table in TABLES {
            assert_eq!(visit(table.name, Name), Some(table.name));
        }
        assert_eq!(visit("hashmap", Name), None);
        assert!(
            DEFAULT_TABLES
                .iter()
                .all(|name| visit(name, Name) == Some(*name))
        );
    }
}

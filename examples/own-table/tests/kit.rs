//! The table under clashtrack's kit: what it promises it must keep.

use clashtrack_engine::kit::{self, Options, Removal, Violation};
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::{KeyV4, KeyV6};
use clashtrack_engine::table::mutex::MutexTable;
use own_table::RwLockTable;

#[test]
fn the_table_keeps_what_it_promises() -> Result<(), Violation> {
    // More than a table must: under one lock removals are one step too.
    let options = Options {
        removal: Removal::OneStep,
        ..Options::default()
    };
    kit::check::<KeyV4, _>(&options, RwLockTable::new)?;
    kit::check::<KeyV6, _>(&options, RwLockTable::new)
}

#[test]
fn the_table_gives_the_answers_of_the_reference() -> Result<(), Violation> {
    let options = Options::default();
    let of_reference = kit::digest::<KeyV4, _>(&options, MutexTable::new)?;
    assert_eq!(
        kit::digest::<KeyV4, _>(&options, RwLockTable::new)?,
        of_reference
    );
    Ok(())
}

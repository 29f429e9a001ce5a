//! Checks of a table, for whoever makes one: call them in your tests with your table's constructor.
//!
//! | check | what it does | what must come out |
//! |---|---|---|
//! | [`conformance()`] | random calls, one after the other, beside a plain model | the same answers, whoever wins a clash included; all entries come back |
//! | [`accounting()`] | real threads race for the same flows, round after round, and remove all together | offered = confirmed + resolved + dropped; no key has two owners; each is found by its keys; one remover a connection; all entries come back |
//! | [`readers()`] | threads connect and remove while another looks | what stays is found; if the table promises it, no key without the other |
//! | [`linearizability()`] | threads record short histories on a few keys, both keys of a connection together | some order of the calls explains every answer |
//! | [`check()`] | all that the table's [`Guarantees`](crate::table::Guarantees) promise | |
//!
//! Only with the feature `kit`: unlike the rest of this crate the kit starts threads. It draws everything from
//! [`Options::seed`], and a [`Violation`] names the seed. With one seed the same calls are made; how real threads
//! interleave is the machine's choice.
//!
//! ```
//! use clashtrack_engine::kit::{self, NonAtomic, Options};
//! use clashtrack_engine::table::FlowTable;
//! use clashtrack_engine::table::key::KeyV4;
//! use clashtrack_engine::table::lockfree::LockfreeTable;
//!
//! let few = Options { cases: 8, rounds: 4, histories: 50, ..Options::default() };
//! kit::check::<KeyV4, _>(&few, LockfreeTable::<KeyV4>::new)?;
//! // A table that inserts one key after the other is found out.
//! assert!(kit::linearizability::<KeyV4, _>(&Options::default(), NonAtomic::new).is_err());
//! # Ok::<(), kit::Violation>(())
//! ```

mod accounting;
mod calls;
mod conformance;
mod crew;
mod history;
mod linearize;
mod model;
mod name;
mod non_atomic;
mod readers;
#[cfg(test)]
mod tests;

use std::fmt;

pub use accounting::accounting;
pub use conformance::{conformance, digest};
pub use history::linearizability;
pub use non_atomic::NonAtomic;
pub use readers::readers;

use crate::table::key::FlowKey;
use crate::table::{FlowTable, TableConfig};

/// How much is checked, and from which seed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where all that is drawn comes from.
    pub seed: u64,
    /// Programs of [`conformance()`].
    pub cases: usize,
    /// Rounds of a race in [`accounting()`]; connections made and removed, in hundreds, in [`readers()`].
    pub rounds: usize,
    /// Histories of [`linearizability()`].
    pub histories: usize,
    /// Threads that race; 2 to 4.
    pub threads: usize,
    /// How [`linearizability()`] takes a removal.
    pub removal: Removal,
}

/// What is asked of a removal. That both keys *appear* in one step is always asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    /// As in the kernel: while [`FlowTable::remove`] is under way others may be told that the connection is gone, and still
    /// find it, or clash with it, by either key. When it has returned both keys are free.
    KeyByKey,
    /// Both keys go at one moment, the same for lookups, confirms and other removals.
    OneStep,
}

impl Default for Options {
    /// A second or two a table, unoptimised.
    fn default() -> Options {
        Options {
            seed: 1,
            cases: 100,
            rounds: 40,
            histories: 1_000,
            threads: 3,
            removal: Removal::KeyByKey,
        }
    }
}

/// What a table did that it must not, and how to get there again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The check that found it.
    pub check: &'static str,
    /// Name of the table.
    pub table: &'static str,
    /// The seed of [`Options`].
    pub seed: u64,
    /// What was wrong, in a sentence.
    pub what: String,
    /// The calls and their answers that led there; empty where the sentence says all.
    pub history: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation {
            check,
            table,
            seed,
            what,
            history,
        } = self;
        write!(f, "{check} of table {table}, seed {seed}: {what}")?;
        if !history.is_empty() {
            write!(f, "\n{history}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}

/// A broken promise, before it is known of whom.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    what: String,
    history: String,
}

impl Broken {
    fn new(what: String) -> Broken {
        Broken {
            what,
            history: String::new(),
        }
    }

    fn of<K: FlowKey, T: FlowTable<K>>(self, check: &'static str, seed: u64) -> Violation {
        Violation {
            check,
            table: T::NAME,
            seed,
            what: self.what,
            history: self.history,
        }
    }
}

/// Leaves the function with a [`Broken`] promise unless the condition holds.
macro_rules! require {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err($crate::kit::Broken::new(format!($($what)+)).into());
        }
    };
}
pub(crate) use require;

/// All checks that fit what the table promises.
///
/// # Errors
/// The first [`Violation`] found.
pub fn check<K: FlowKey, T: FlowTable<K>>(
    options: &Options,
    make: impl Fn(&TableConfig) -> T,
) -> Result<(), Violation> {
    conformance::<K, T>(options, &make)?;
    accounting::<K, T>(options, &make)?;
    readers::<K, T>(options, &make)?;
    if T::GUARANTEES.atomic_two_key {
        linearizability::<K, T>(options, &make)?;
    }
    Ok(())
}

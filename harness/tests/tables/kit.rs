//! The engine's kit on every table: against a plain model, in races, under recorded histories.

use clashtrack::peer::{self, TABLES, TableVisitor};
use clashtrack_engine::kit::{self, Options, Violation};
use clashtrack_engine::table::key::KeyV6;

use super::*;

for_each_table!(
    keeps_what_it_promises: mutex = MutexTable, lockfree = LockfreeTable, striped = StripedTable, dashmap = DashMapTable,
    ahash = DashMapAhashTable, papaya = PapayaTable, scc = SccTable
);

fn keeps_what_it_promises<T: FlowTable<KeyV4>>() {
    if let Err(violation) = kit::check::<KeyV4, T>(&Options::default(), T::new) {
        panic!("{violation}");
    }
}

/// The peers under keys of five words; the engine's own tests do the same with its tables.
macro_rules! of_ipv6 {
    ($($name:ident = $table:ident),*) => {
        mod keeps_what_it_promises_of_ipv6 {
            use super::*;
            $(#[test] fn $name() {
                let few = Options { cases: 40, rounds: 10, histories: 200, ..Options::default() };
                if let Err(violation) = kit::check::<KeyV6, $table<KeyV6>>(&few, $table::new) {
                    panic!("{violation}");
                }
            })*
        }
    };
}

of_ipv6!(
    striped = StripedTable,
    dashmap = DashMapTable,
    papaya = PapayaTable,
    scc = SccTable
);

/// All answers of a table as one number.
struct Digest(Options);

impl TableVisitor for Digest {
    type Output = Result<u64, Violation>;

    fn visit<T: FlowTable<KeyV4> + 'static>(self) -> Result<u64, Violation> {
        kit::digest::<KeyV4, T>(&self.0, T::new)
    }
}

#[test]
fn all_tables_of_the_registry_give_the_same_answers() {
    let digests: Vec<_> = TABLES
        .iter()
        .map(|table| {
            let digest = peer::visit(table.name, Digest(Options::default()));
            digest
                .expect("a listed table")
                .unwrap_or_else(|violation| panic!("{violation}"))
        })
        .collect();
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:x?}"
    );
}

/// Those that promise it are all asked above; those that do not are known by name.
#[test]
fn only_two_inserts_do_not_promise_both_keys_in_one_step() {
    let without: Vec<_> = TABLES
        .iter()
        .filter(|table| !table.guarantees.atomic_two_key)
        .map(|table| table.name)
        .collect();
    assert_eq!(without, ["dashmap", "dashmap@ahash", "papaya", "scc"]);
}

//! The command of this crate.

use std::process::{Command, Output};

fn own_table(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_own-table"));
    command.args(words).output().expect("it runs")
}

#[test]
fn the_table_races_beside_those_of_clashtrack() {
    let output = own_table(&["2000", "1"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for table in ["lockfree", "striped", "dashmap", "rwlock"] {
        let row = said.lines().find(|line| line.starts_with(table));
        assert!(row.is_some_and(|row| row.len() > 40), "{said}");
    }
}

#[test]
fn what_is_no_number_is_refused_with_what_is() {
    let output = own_table(&["many"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("`many` is no number of flows"), "{said}");
}

//! The command as a script uses it. All these tests are one program: it is linked once, and tests of different
//! subcommands run side by side.

mod against;
mod compare;
mod contract;
mod history;
mod rate;
mod replay;
mod run;
mod simulate;

use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

fn clashtrack(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clashtrack"));
    command.args(words).stdin(Stdio::null());
    command
}

fn output(words: &[&str]) -> Output {
    clashtrack(words).output().expect("the command starts")
}

/// What it prints on stdout; it must end with 0.
fn json(words: &[&str]) -> Value {
    let output = output(words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("one JSON object on stdout")
}

/// What is said on stderr of bad use; it must end with 2 and print nothing.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    let said = String::from_utf8(output.stderr).expect("stderr is text");
    assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
    assert!(output.stdout.is_empty(), "{command:?}: {said}");
    said
}

/// The contract of what `--json` prints.
static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let text = include_str!("../../schema/clashtrack-1.json");
    let schema = serde_json::from_str(text).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is one")
});

#[track_caller]
fn assert_fits_the_schema(value: &Value) {
    let errors: Vec<String> = SCHEMA
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{}: {errors:#?}", value["command"]);
}

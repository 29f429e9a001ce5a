//! The one object that `--json` prints, schema `clashtrack/1`.

use std::io::{self, Write};

use serde::Serialize;

use super::machine::Machine;
use crate::error::Error;

/// The schema's name and version; it changes when a reader would have to.
pub const SCHEMA: &str = "clashtrack/1";

/// No keys: the `config` of a command that has none, the `beside` of one with nothing there.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nothing {}

/// `{"schema":…,"command":…,"machine":{…},"config":{…},"results":[…]}`, and what a command
/// puts beside.
#[derive(Serialize, Clone, Debug)]
pub struct Envelope<C, R, B> {
    schema: &'static str,
    command: &'static str,
    machine: Machine,
    /// Present, and true, after Ctrl-C: `results` holds what was measured so far.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    interrupted: bool,
    config: C,
    results: R,
    #[serde(flatten)]
    beside: B,
}

impl<C: Serialize, R: Serialize, B: Serialize> Envelope<C, R, B> {
    /// An envelope for `command`, on this machine. `config` and `beside` serialise as objects,
    /// `results` as a list.
    pub fn new(command: &'static str, config: C, results: R, beside: B) -> Self {
        Envelope {
            schema: SCHEMA,
            command,
            machine: Machine::here(),
            interrupted: false,
            config,
            results,
            beside,
        }
    }

    /// With another description of the machine (one that watched the run).
    #[must_use]
    pub fn with_machine(mut self, machine: Machine) -> Self {
        self.machine = machine;
        self
    }

    /// Marked as ended by Ctrl-C, or not.
    #[must_use]
    pub fn with_interrupted(mut self, interrupted: bool) -> Self {
        self.interrupted = interrupted;
        self
    }

    /// Prints it on stdout, with a line end.
    ///
    /// # Errors
    /// [`Error::Output`] when stdout cannot be written.
    pub fn print(&self) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        self.write(&mut out).map_err(Error::Output)
    }

    /// The same into `out`.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Beside {
        per_cpu: Vec<u32>,
    }

    #[test]
    fn an_envelope_has_the_keys_of_the_contract_and_those_beside() {
        let beside = Beside { per_cpu: vec![3] };
        let mut out = Vec::new();
        Envelope::new("hooks", Nothing {}, [1, 2], beside)
            .write(&mut out)
            .unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["schema"], "clashtrack/1");
        assert_eq!(value["command"], "hooks");
        assert_eq!(value["results"], serde_json::json!([1, 2]));
        assert_eq!(value["per_cpu"], serde_json::json!([3]));
        assert!(value["machine"].is_object() && value["config"].is_object());
        assert!(value.get("interrupted").is_none());
    }

    #[test]
    fn an_interrupted_run_says_so() {
        let mut out = Vec::new();
        let none: [u8; 0] = [];
        Envelope::new("run", Nothing {}, none, Nothing {})
            .with_interrupted(true)
            .write(&mut out)
            .unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["interrupted"], true);
    }
}

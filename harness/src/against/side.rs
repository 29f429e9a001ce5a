//! A process of one side: started, waited for, sampled, ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::protocol::{Ready, SAMPLE, Sampled, VERSION};
use crate::error::Error;

/// A program and what it is started with.
#[derive(Clone, Debug)]
pub struct Side {
    /// What messages call it: "this program", "revision abc".
    pub name: String,
    /// Its file.
    pub program: PathBuf,
    /// The words that it is started with, but for those that differ by launch.
    pub more: Vec<String>,
}

/// A process that was started, and is not known to be ready yet.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Side {
    /// Starts it with these words and the side's own.
    ///
    /// # Errors
    /// [`Error::Environment`] when it cannot be started.
    pub fn start(&self, words: &[String]) -> Result<Process, Error> {
        let cannot = |error: std::io::Error| Error::Environment {
            problem: format!(
                "{} cannot be started ({}): {error}",
                self.name,
                self.program.display()
            ),
            remedy: "a process of this program must be able to start another one".to_owned(),
        };
        let mut child = Command::new(&self.program)
            .args(words)
            .args(&self.more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(cannot)?;
        let (requests, answers) = (child.stdin.take(), child.stdout.take());
        let answers = answers.ok_or_else(|| cannot(std::io::Error::other("it has no output")))?;
        Ok(Process {
            name: self.name.clone(),
            child,
            requests,
            answers: BufReader::new(answers),
        })
    }
}

impl Process {
    /// Waits until it has filled its table.
    ///
    /// # Errors
    /// [`Error::Environment`] when it ends, or says something else.
    pub fn ready(&mut self) -> Result<Ready, Error> {
        let line = self.line()?;
        let ready: Ready = match line.as_deref().map(serde_json::from_str) {
            Some(Ok(ready)) => ready,
            _ => return Err(self.not_ready()),
        };
        if ready.on_demand == VERSION {
            return Ok(ready);
        }
        Err(Error::Environment {
            problem: format!(
                "{} takes samples on demand by version {} of how they are asked for, and this program by {VERSION}",
                self.name, ready.on_demand
            ),
            remedy: OLDER.to_owned(),
        })
    }

    /// One sample; `None` when it was ended by Ctrl-C.
    ///
    /// # Errors
    /// [`Error::Environment`] when it fails, or its books do not balance.
    pub fn sample(&mut self) -> Result<Option<Sampled>, Error> {
        let asked = self
            .requests
            .as_mut()
            .map(|requests| writeln!(requests, "{SAMPLE}").and_then(|()| requests.flush()));
        let line = match asked {
            Some(Ok(())) => self.line()?,
            // It has gone: its end says why.
            _ => None,
        };
        let Some(line) = line else {
            return self.ended();
        };
        let sampled: Sampled = serde_json::from_str(&line)
            .map_err(|error| self.failed(&format!("it answered `{}`: {error}", line.trim())))?;
        if sampled.lost != 0 {
            return Err(self.failed(&format!(
                "its books do not balance: nobody knows what became of {} connections",
                sampled.lost
            )));
        }
        Ok((sampled.operations > 0).then_some(sampled))
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Result<Option<String>, Error> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(line)),
            Err(error) => Err(self.failed(&error.to_string())),
        }
    }

    /// What it said when it ended, and whether that was well.
    fn end(&mut self) -> (bool, String) {
        self.requests = None;
        let mut said = String::new();
        if let Some(errors) = &mut self.child.stderr {
            // What cannot be read is not said.
            let _ = errors.read_to_string(&mut said);
        }
        let status = self.child.wait();
        let well = status.as_ref().is_ok_and(std::process::ExitStatus::success);
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let said = said.trim();
        if said.is_empty() {
            (well, status)
        } else {
            (well, format!("{status}: {said}"))
        }
    }

    fn ended(&mut self) -> Result<Option<Sampled>, Error> {
        match self.end() {
            (true, _) => Ok(None),
            (false, said) => Err(self.failed(&said)),
        }
    }

    fn failed(&self, problem: &str) -> Error {
        Error::Environment {
            problem: format!("{} failed while it was sampled: {problem}", self.name),
            remedy: "run the workload on that program alone to see more".to_owned(),
        }
    }

    fn not_ready(&mut self) -> Error {
        let (_, said) = self.end();
        let problem = format!("{} does not take samples on demand: {said}", self.name);
        let remedy = if said.contains("--on-demand") {
            OLDER
        } else {
            "does that revision have this workload, this table and these flags?"
        };
        Error::Environment {
            problem,
            remedy: remedy.to_owned(),
        }
    }
}

const OLDER: &str = "compare with a newer revision, or measure both by themselves with `run --json` and use `compare`";

impl Drop for Process {
    /// Whatever it is at is not wanted any more.
    fn drop(&mut self) {
        // One that has ended already cannot be killed; one that cannot be waited for is none of ours any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

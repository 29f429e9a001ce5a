//! Recording: perf around a process of this program, which says when to look.
//!
//! perf starts with its eyes shut (`--delay -1`) and reads `enable` and `disable` from a named pipe, confirming each on
//! another one (`--control fifo:`). Samples are of the processor clock, which every machine has, also a virtual one
//! without hardware counters.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::error::Error;

/// Samples a second and worker: a prime, so as not to keep step with anything periodic.
const FREQUENCY: &str = "997";
/// Bytes of stack copied with each sample where there are no frame pointers: workers' stacks are shallow.
const STACK_COPY: &str = "dwarf,8192";

/// How perf follows stacks in this build.
#[must_use]
pub const fn call_graph() -> &'static str {
    if cfg!(frame_pointers) {
        "fp"
    } else {
        STACK_COPY
    }
}

/// The two pipes of perf's control channel.
#[derive(Clone, Debug)]
pub struct Control {
    /// perf reads commands from here.
    pub commands: PathBuf,
    /// perf confirms them here.
    pub acknowledgements: PathBuf,
}

impl Control {
    /// Makes both in a folder.
    ///
    /// # Errors
    /// [`Error::Environment`] where no named pipe can be made.
    pub fn new(folder: &Path) -> Result<Control, Error> {
        let control = Control {
            commands: folder.join("commands"),
            acknowledgements: folder.join("acknowledgements"),
        };
        let made = Command::new("mkfifo")
            .args([&control.commands, &control.acknowledgements])
            .output();
        match made {
            Ok(output) if output.status.success() => Ok(control),
            _ => Err(Error::Environment {
                problem: format!("no named pipe can be made in {}", folder.display()),
                remedy: "flame needs `mkfifo` and a temporary folder that holds pipes; set TMPDIR to another one"
                    .to_owned(),
            }),
        }
    }

    /// In the process that is looked at: tells perf to look, or to stop looking, and waits until it does.
    ///
    /// # Errors
    /// [`Error::File`] where perf cannot be told.
    pub fn tell(&self, look: bool) -> Result<(), Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File {
                action: "tell perf through",
                path,
                source,
            }
        };
        let command = if look { "enable\n" } else { "disable\n" };
        let mut commands = File::options()
            .write(true)
            .open(&self.commands)
            .map_err(failed(&self.commands))?;
        commands
            .write_all(command.as_bytes())
            .map_err(failed(&self.commands))?;
        let answers = File::open(&self.acknowledgements).map_err(failed(&self.acknowledgements))?;
        BufReader::new(answers)
            .read_line(&mut String::new())
            .map_err(failed(&self.acknowledgements))?;
        Ok(())
    }
}

/// Runs this program with `arguments` under perf, and returns what `perf script` makes of it.
///
/// # Errors
/// [`Error::Environment`] with what to install or to set, where perf cannot record.
pub fn record<S: AsRef<OsStr>>(
    folder: &Path,
    control: &Control,
    arguments: &[S],
) -> Result<String, Error> {
    let data = folder.join("perf.data");
    let program = std::env::current_exe().map_err(|source| Error::File {
        action: "find",
        path: "the program itself".into(),
        source,
    })?;
    let channel = format!(
        "fifo:{},{}",
        control.commands.display(),
        control.acknowledgements.display()
    );
    let recorded = Command::new("perf")
        .args([
            "record",
            "--quiet",
            "--event",
            "cpu-clock",
            "--freq",
            FREQUENCY,
        ])
        .args(["--call-graph", call_graph(), "--delay", "-1"])
        .arg("--control")
        .arg(channel)
        .arg("--output")
        .arg(&data)
        .arg("--")
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let recorded = recorded.map_err(|error| not_there(&error))?;
    if !recorded.status.success() {
        return Err(cannot_record(&recorded));
    }
    let script = Command::new("perf")
        .args(["script", "--no-inline", "--no-demangle"])
        .args([
            "--fields",
            "comm,pid,tid,period,ip,sym,symoff,dso",
            "--input",
        ])
        .arg(&data)
        .output()
        .map_err(|error| not_there(&error))?;
    if !script.status.success() {
        return Err(cannot_record(&script));
    }
    Ok(String::from_utf8_lossy(&script.stdout).into_owned())
}

fn not_there(error: &std::io::Error) -> Error {
    Error::Environment {
        problem: format!("perf cannot be started: {error}"),
        remedy: "install it (apt install linux-perf or linux-tools-generic, dnf install perf)"
            .to_owned(),
    }
}

/// perf's own words, and what to do about the likeliest reason.
fn cannot_record(output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    Error::Environment {
        problem: format!("perf cannot record: {}", first_words(&said)),
        remedy: remedy(paranoia()).to_owned(),
    }
}

/// The first three lines that say anything.
fn first_words(said: &str) -> String {
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(3)
        .collect();
    lines.join(" ")
}

/// `kernel.perf_event_paranoid`, where it can be read.
fn paranoia() -> Option<i32> {
    let text = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok()?;
    text.trim().parse().ok()
}

/// Above this nobody but root may look at processes, not even at his own.
const PARANOIA_MAX: i32 = 2;

fn remedy(paranoia: Option<i32>) -> &'static str {
    match paranoia {
        None => {
            "this kernel has no perf events, or hides them (a container?): run it where /proc/sys/kernel/perf_event_paranoid \
             exists"
        }
        Some(level) if level > PARANOIA_MAX => {
            "allow it with `sudo sysctl kernel.perf_event_paranoid=2` (1 shows the kernel's part too), or run as root"
        }
        Some(_) => {
            "a container may forbid perf_event_open: give it the capability PERFMON; perf must be 5.10 or later (`perf --version`)"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_that_forbids_looking_is_told_which_sysctl_to_set() {
        assert!(remedy(Some(3)).contains("sysctl kernel.perf_event_paranoid=2"));
        assert!(remedy(Some(2)).contains("PERFMON"));
        assert!(remedy(None).contains("perf events"));
    }

    #[test]
    fn perf_that_is_not_there_is_to_be_installed() {
        let error = not_there(&std::io::Error::from(std::io::ErrorKind::NotFound));
        assert!(
            error.to_string().contains("apt install linux-perf"),
            "{error}"
        );
    }
}

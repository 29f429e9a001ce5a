//! What ends a command with exit code 2: bad use, bad input, an environment that cannot.
//!
//! A packet's fate is no error (it is a verdict and a counter), and a broken invariant is a
//! panic. Every message says what, where, and how to mend it.

use std::io;
use std::path::{Path, PathBuf};

/// Exit code of a command that ran and whose answer is no.
pub const EXIT_NO: u8 = 1;
/// Exit code of bad use, bad input, or an environment that cannot.
pub const EXIT_CANNOT: u8 = 2;
/// Exit code after Ctrl-C, when what was measured so far has been printed.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Why a command could not do what was asked.
#[derive(thiserror::Error, Debug)]
#[non_exhaustive]
pub enum Error {
    /// Standard output could not be written; a closed pipe is among these.
    #[error("standard output cannot be written: {0}; is the disk full, or the reader gone?")]
    Output(#[source] io::Error),

    /// A file or folder could not be read or written.
    #[error("{path}: cannot {action}: {source}; check the path and its permissions", path = path.display())]
    File {
        /// What was tried: "read", "write", "create the folder".
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// An argument that parses but cannot be honoured.
    #[error("{flag}: {problem}; {remedy}")]
    Argument {
        /// The flag or positional name as the user writes it, such as `--table`.
        flag: &'static str,
        /// What is wrong, with the value.
        problem: String,
        /// What to write instead.
        remedy: String,
    },

    /// Input whose content is bad.
    #[error("{place}: {problem}; {remedy}")]
    Input {
        /// Where: the file, with line, column or byte offset.
        place: String,
        /// What is wrong there.
        problem: String,
        /// How to mend it.
        remedy: String,
    },

    /// A rule that is not understood or cannot be honoured; it shows the word itself.
    #[error(transparent)]
    Rule(#[from] crate::rules::RuleError),

    /// A table gives other answers than the reference: a fault of that table.
    #[error("{0}; leave it out with --table, and tell whoever wrote it")]
    Answers(#[from] crate::workload::answers::OtherAnswer),

    /// This machine cannot do it.
    #[error("{problem}; {remedy}")]
    Environment {
        /// What is missing.
        problem: String,
        /// How to get it.
        remedy: String,
    },
}

impl Error {
    /// [`Error::File`] of what the system says about doing `action` to `path`, for `map_err`.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File {
            action,
            path,
            source,
        }
    }

    /// Whether the reader of our output went away, which is no failure of ours.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_closed_pipe_on_output_counts_as_broken_pipe() {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(Error::Output(closed()).is_broken_pipe());
        assert!(!Error::Output(io::Error::other("no space")).is_broken_pipe());
        let file = Error::File {
            action: "write",
            path: "x".into(),
            source: closed(),
        };
        assert!(!file.is_broken_pipe());
    }

    #[test]
    fn a_file_error_says_what_where_and_how_to_mend_it() {
        let error = Error::File {
            action: "read",
            path: "missing.pcap".into(),
            source: io::Error::from(io::ErrorKind::NotFound),
        };
        let said = error.to_string();
        assert!(said.starts_with("missing.pcap: cannot read:"), "{said}");
        assert!(said.contains("check the path"), "{said}");
    }
}

//! What is wrong with a rule, where, and how to mend it.

use std::fmt;
use std::ops::Range;

/// A rule that cannot be read or cannot be honoured.
///
/// Displays as several lines, without a line break at the end:
///
/// ```text
/// error: match `hashlimit` is not understood
///   --rule:1
///   | iptables -t nat -A POSTROUTING -m hashlimit --hashlimit 5 -j ACCEPT
///   |                                   ^^^^^^^^^
///   help: …
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.render())]
pub struct RuleError {
    /// Where the rule came from.
    pub place: Place,
    /// The rule, as it was given; of a file, the whole line.
    pub text: String,
    /// The word that is wrong, as a range of bytes of `text`.
    pub span: Range<usize>,
    /// What is wrong, in one sentence.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

/// Where a rule came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The how-manieth `--rule` of the command line, from 1.
    Command(usize),
    /// A line of a file.
    File {
        /// The file, as the user named it.
        path: String,
        /// Number of the line, from 1.
        line: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Command(number) => write!(f, "--rule:{number}"),
            Place::File { path, line } => write!(f, "{path}:{line}"),
        }
    }
}

impl RuleError {
    /// The text of [`fmt::Display`].
    fn render(&self) -> String {
        let before = self.text.get(..self.span.start).unwrap_or_default();
        let word = self.text.get(self.span.clone()).unwrap_or_default();
        // One column a character; a tab stays one, so that the marks stay below the word.
        let indent: String = before
            .chars()
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let marks = "^".repeat(word.chars().count().max(1));
        let text: String = self.text.chars().map(one_line).collect();
        let mut out = format!(
            "error: {}\n  {}\n  | {text}\n  | {indent}{marks}",
            self.message, self.place
        );
        if let Some(help) = &self.help {
            out.push_str("\n  help: ");
            out.push_str(help);
        }
        out
    }
}

/// A character as it can stand in a message of one line: line breaks and what could
/// steer a terminal become harmless, each still one column wide.
fn one_line(c: char) -> char {
    match c {
        '\t' => '\t',
        '\n' | '\r' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// A [`RuleError`] that does not know yet where its rule came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The wrong word in the rule's text, in bytes.
    pub(super) span: Range<usize>,
    /// What is wrong.
    pub(super) message: String,
    /// How to mend it.
    pub(super) help: Option<String>,
}

impl Fault {
    /// A fault at a word.
    pub(super) fn at(span: &Range<usize>, message: impl Into<String>) -> Fault {
        Fault {
            span: span.clone(),
            message: sentence(&message.into()),
            help: None,
        }
    }

    /// With advice.
    pub(super) fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }

    /// The error, once the place is known.
    pub(super) fn in_text(self, text: &str, place: Place) -> RuleError {
        RuleError {
            place,
            text: text.to_owned(),
            span: self.span,
            message: self.message,
            help: self.help,
        }
    }
}

/// User text in a message must not break its line.
fn sentence(message: &str) -> String {
    message.chars().map(one_line).collect()
}

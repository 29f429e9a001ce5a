//! Splits a rule into words, as a shell or as `iptables-restore` does, and remembers where
//! each stood.

use std::ops::Range;

use super::error::Fault;

/// Whose quoting holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quoting {
    /// A command as typed into a shell: single and double quotes, backslash, `#` comments.
    Shell,
    /// A line of `iptables-save`: double quotes, in which a backslash takes the next
    /// character as it is.
    Save,
}

/// A word of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Its text, without quotes.
    pub(super) text: String,
    /// Its bytes in the rule, quotes included.
    pub(super) span: Range<usize>,
    /// Some of it was quoted: it is meant as it stands, even with a dash in front.
    pub(super) quoted: bool,
}

impl Word {
    /// Splits `--name=value`. The second word's span is right where nothing was quoted,
    /// and the whole word's otherwise.
    pub(super) fn split_at_equals(&self) -> Option<(Word, Word)> {
        let at = self.text.find('=')?;
        let (name, value) = (&self.text[..at], &self.text[at + 1..]);
        let spans = if self.quoted {
            (self.span.clone(), self.span.clone())
        } else {
            let start = self.span.start;
            (start..start + at, start + at + 1..self.span.end)
        };
        Some((self.part(name, spans.0), self.part(value, spans.1)))
    }

    /// Splits `-pvalue` after its letter; `None` where there is nothing behind it.
    pub(super) fn split_after_letter(&self) -> Option<(Word, Word)> {
        let at = self.text.char_indices().nth(2)?.0;
        let (name, value) = self.text.split_at(at);
        let spans = if self.quoted {
            (self.span.clone(), self.span.clone())
        } else {
            let middle = self.span.start + at;
            (self.span.start..middle, middle..self.span.end)
        };
        Some((self.part(name, spans.0), self.part(value, spans.1)))
    }

    fn part(&self, text: &str, span: Range<usize>) -> Word {
        Word {
            text: text.to_owned(),
            span,
            quoted: self.quoted,
        }
    }
}

/// The words of a rule, in order.
///
/// # Errors
///
/// A quote that is not closed; in a shell command also what a shell would do more than
/// split words for: `$`, back quotes, `;`, pipes, redirections.
pub(super) fn split(text: &str, quoting: Quoting) -> Result<Vec<Word>, Fault> {
    let mut splitter = Splitter {
        text,
        rest: text.char_indices().peekable(),
        words: Vec::new(),
        word: None,
    };
    while let Some((at, c)) = splitter.rest.next() {
        match (quoting, c) {
            (_, c) if c.is_whitespace() => splitter.end_word(at),
            (_, '"') => splitter.double_quotes(at, quoting)?,
            (Quoting::Shell, '\'') => splitter.single_quotes(at)?,
            (Quoting::Shell, '\\') => splitter.backslash(at)?,
            (Quoting::Shell, '#') if splitter.word.is_none() => splitter.skip_comment(),
            (Quoting::Shell, '$' | '`') => return Err(expansion(at, c)),
            (Quoting::Shell, ';' | '|' | '&' | '<' | '>' | '(' | ')') => {
                return Err(operator(at, c));
            }
            (_, c) => splitter.push(at, c, false),
        }
    }
    splitter.end_word(text.len());
    Ok(splitter.words)
}

/// The state of [`split`].
struct Splitter<'a> {
    text: &'a str,
    rest: std::iter::Peekable<std::str::CharIndices<'a>>,
    words: Vec<Word>,
    word: Option<Word>,
}

impl Splitter<'_> {
    fn begin(&mut self, at: usize) -> &mut Word {
        self.word.get_or_insert_with(|| Word {
            text: String::new(),
            span: at..at,
            quoted: false,
        })
    }

    fn push(&mut self, at: usize, c: char, quoted: bool) {
        let word = self.begin(at);
        word.text.push(c);
        word.quoted |= quoted;
    }

    fn end_word(&mut self, at: usize) {
        if let Some(mut word) = self.word.take() {
            word.span.end = at;
            self.words.push(word);
        }
    }

    fn single_quotes(&mut self, open: usize) -> Result<(), Fault> {
        self.begin(open).quoted = true;
        loop {
            match self.rest.next() {
                Some((_, '\'')) => return Ok(()),
                Some((at, c)) => self.push(at, c, true),
                None => return Err(self.unclosed(open)),
            }
        }
    }

    fn double_quotes(&mut self, open: usize, quoting: Quoting) -> Result<(), Fault> {
        self.begin(open).quoted = true;
        loop {
            match (quoting, self.rest.next()) {
                (_, Some((_, '"'))) => return Ok(()),
                (Quoting::Save, Some((_, '\\'))) => match self.rest.next() {
                    Some((at, c)) => self.push(at, c, true),
                    None => return Err(self.unclosed(open)),
                },
                (Quoting::Shell, Some((at, '\\'))) => match self.rest.peek() {
                    Some(&(_, '\n')) => drop(self.rest.next()),
                    Some(&(at, c @ ('"' | '\\' | '$' | '`'))) => {
                        self.rest.next();
                        self.push(at, c, true);
                    }
                    _ => self.push(at, '\\', true),
                },
                (Quoting::Shell, Some((at, c @ ('$' | '`')))) => return Err(expansion(at, c)),
                (_, Some((at, c))) => self.push(at, c, true),
                (_, None) => return Err(self.unclosed(open)),
            }
        }
    }

    /// Outside quotes: the next character as it is, or a line that goes on.
    fn backslash(&mut self, at: usize) -> Result<(), Fault> {
        match self.rest.next() {
            Some((_, '\n')) => Ok(()),
            Some((_, c)) => {
                self.push(at, c, true);
                Ok(())
            }
            None => Err(
                Fault::at(&(at..self.text.len()), "the rule ends in a backslash")
                    .help("remove it, or write what was to follow"),
            ),
        }
    }

    fn skip_comment(&mut self) {
        while self.rest.next_if(|&(_, c)| c != '\n').is_some() {}
    }

    fn unclosed(&self, open: usize) -> Fault {
        Fault::at(
            &(open..self.text.len()),
            "a quote is opened here and never closed",
        )
        .help("close it, or write \\\" or \\' for a quote that is meant as itself")
    }
}

fn expansion(at: usize, c: char) -> Fault {
    Fault::at(
        &(at..at + c.len_utf8()),
        format!("`{c}` would be expanded by a shell, and no shell reads this rule"),
    )
    .help("write the value itself")
}

fn operator(at: usize, c: char) -> Fault {
    Fault::at(
        &(at..at + c.len_utf8()),
        format!("`{c}` does not belong to a rule"),
    )
    .help("give each rule a --rule of its own, or put them into a file for --rules; quote the word if it is meant as text")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str, quoting: Quoting) -> Vec<String> {
        let words = split(text, quoting).unwrap();
        words.into_iter().map(|w| w.text).collect()
    }

    #[test]
    fn shell_quotes_join_words_and_vanish() {
        let text = r#"a 'b c' "d \"e\" \x" f\ g h"i"'j' # k"#;
        assert_eq!(
            texts(text, Quoting::Shell),
            ["a", "b c", r#"d "e" \x"#, "f g", "hij"]
        );
    }

    #[test]
    fn save_files_know_double_quotes_and_backslashes_in_them() {
        let text = r#"-m comment --comment "it\'s \\ \"x\"; $y" 'z"#;
        assert_eq!(
            texts(text, Quoting::Save),
            ["-m", "comment", "--comment", r#"it's \ "x"; $y"#, "'z"]
        );
    }

    #[test]
    fn spans_are_those_of_the_words_with_their_quotes() {
        let text = "ä 'b c'\td";
        let words = split(text, Quoting::Shell).unwrap();
        let spans: Vec<_> = words.iter().map(|w| &text[w.span.clone()]).collect();
        assert_eq!(spans, ["ä", "'b c'", "d"]);
    }

    #[test]
    fn an_empty_word_in_quotes_is_a_word() {
        assert_eq!(texts("a '' b", Quoting::Shell), ["a", "", "b"]);
    }

    #[test]
    fn what_only_a_shell_can_do_is_refused_where_it_stands() {
        for (text, at) in [
            ("a $b", 2),
            ("a; b", 1),
            ("a `b`", 2),
            ("a \"$b\"", 3),
            ("a |b", 2),
        ] {
            assert_eq!(
                split(text, Quoting::Shell).unwrap_err().span.start,
                at,
                "{text}"
            );
        }
    }

    #[test]
    fn an_open_quote_is_pointed_at() {
        assert_eq!(split("a 'b", Quoting::Shell).unwrap_err().span, 2..4);
        assert_eq!(split("a \"b\\", Quoting::Save).unwrap_err().span, 2..5);
    }
}

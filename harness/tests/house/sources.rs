//! The house rules that a compiler does not check, looked for in every source file of the
//! workspace. A failure names the place; CONTRIBUTING.md says why each rule is there.
//!
//! Sources are read line by line, with comments and literals told apart from code, so that
//! a rule never trips over its own description.

use std::fs;
use std::path::{Path, PathBuf};

/// How far above an atomic operation or an unsafe block its reason may stand.
const REASON_LINES: usize = 3;

/// What begins an atomic operation; its orderings may stand some lines further down.
const ATOMIC_CALLS: [&str; 7] = [
    ".load(",
    ".store(",
    ".swap(",
    ".fetch_",
    ".compare_exchange",
    "fence(",
    ".compare_and_",
];

const ORDERINGS: [&str; 5] = ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];

/// A source line, taken apart.
#[derive(Default, Debug)]
struct Line {
    /// Code, with literals emptied and comments gone.
    code: String,
    /// The text of a plain comment on this line (`//` or `/* */`, not documentation).
    comment: String,
}

struct Source {
    path: PathBuf,
    lines: Vec<Line>,
}

/// `#[cfg(test)]`, alone or with further conditions.
fn is_test_only(attribute: &str) -> bool {
    attribute == "#[cfg(test)]" || attribute.starts_with("#[cfg(all(test,")
}

impl Source {
    /// Lines with their numbers, counted from 1.
    fn numbered(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines
            .iter()
            .enumerate()
            .map(|(at, line)| (at + 1, line))
    }

    /// The lines before the test module, which stands last.
    fn product(&self) -> impl Iterator<Item = (usize, &Line)> {
        let tests = self
            .lines
            .windows(2)
            .position(|pair| is_test_only(pair[0].code.trim()) && has_word(&pair[1].code, "mod"))
            .unwrap_or(self.lines.len());
        self.numbered().take(tests)
    }

    fn begins_with(&self, path: &str) -> bool {
        self.path.to_string_lossy().starts_with(path)
    }

    fn is_under(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// Only tests: under `tests/`, or a test module's own file.
    fn is_test(&self) -> bool {
        self.path
            .components()
            .any(|part| part.as_os_str() == "tests")
            || self.path.file_stem().is_some_and(|stem| stem == "tests")
    }

    fn place(&self, number: usize) -> String {
        format!("{}:{number}", self.path.display())
    }

    /// Whether a plain comment that satisfies `wanted` stands on line `at` (counted from 0),
    /// or at most [`REASON_LINES`] above it; a comment of several lines counts as a whole.
    fn is_explained(&self, at: usize, wanted: impl Fn(&str) -> bool) -> bool {
        if wanted(&self.lines[at].comment) {
            return true;
        }
        let above = (at.saturating_sub(REASON_LINES)..at).rev();
        let Some(end) = above
            .into_iter()
            .find(|&i| !self.lines[i].comment.is_empty())
        else {
            return false;
        };
        let block = self.lines[..=end].iter().rev();
        block
            .take_while(|line| !line.comment.is_empty())
            .any(|line| wanted(&line.comment))
    }
}

/// Where the scanner of [`take_apart`] is between two lines.
enum Inside {
    Code,
    /// A block comment, so many deep.
    Comment(usize),
    /// A string, which a backslash may continue.
    Text,
    /// A raw string that ends with a quote and so many hashes.
    Raw(usize),
}

fn take_apart(text: &str) -> Vec<Line> {
    let mut inside = Inside::Code;
    text.lines()
        .map(|line| {
            let mut out = Line::default();
            scan(line, &mut inside, &mut out);
            out
        })
        .collect()
}

fn scan(line: &str, inside: &mut Inside, out: &mut Line) {
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let mut step = first.len_utf8();
        match *inside {
            Inside::Comment(depth) => {
                if rest.starts_with("*/") {
                    step = 2;
                    *inside = if depth == 1 {
                        Inside::Code
                    } else {
                        Inside::Comment(depth - 1)
                    };
                } else if rest.starts_with("/*") {
                    step = 2;
                    *inside = Inside::Comment(depth + 1);
                } else {
                    out.comment.push(first);
                }
            }
            Inside::Text => match first {
                '\\' => step += rest[1..].chars().next().map_or(0, char::len_utf8),
                '"' => *inside = Inside::Code,
                _ => {}
            },
            Inside::Raw(hashes) => {
                let end = format!("\"{}", "#".repeat(hashes));
                if rest.starts_with(&end) {
                    step = end.len();
                    *inside = Inside::Code;
                }
            }
            Inside::Code => {
                if let Some(comment) = rest.strip_prefix("//") {
                    if !comment.starts_with(['/', '!']) {
                        out.comment.push_str(comment);
                    }
                    return;
                }
                if rest.starts_with("/*") {
                    step = 2;
                    *inside = Inside::Comment(1);
                } else if let Some(hashes) = raw_string(rest, &out.code) {
                    step = hashes + 2;
                    *inside = Inside::Raw(hashes);
                } else if first == '"' {
                    *inside = Inside::Text;
                } else if first == '\'' {
                    step = character(rest).unwrap_or(1);
                    out.code.push(' ');
                } else {
                    out.code.push(first);
                }
            }
        }
        rest = &rest[step..];
    }
}

/// The hashes of a raw string that begins here, if one does.
fn raw_string(rest: &str, before: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    // `br"…"` is a raw string too; `bar"` is none, and does not exist.
    let word_goes_on = before
        .strip_suffix('b')
        .unwrap_or(before)
        .ends_with(is_word_char);
    let hashes = after.len() - after.trim_start_matches('#').len();
    (after[hashes..].starts_with('"') && !word_goes_on).then_some(hashes)
}

/// The length of a character literal that begins here; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        let (escape, _) = chars.next()?;
        let end = rest[escape + 1..].find('\'')?;
        return Some(escape + 1 + end + 1);
    }
    let (at, quote) = chars.next()?;
    (quote == '\'').then_some(at + 1)
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_word_char) && !code[at + word.len()..].starts_with(is_word_char)
    })
}

/// All sources of the workspace, paths relative to its root.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for member in ["engine", "statistics", "harness", "benches"] {
        collect(&root, Path::new(member), &mut found);
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(root.join(folder)).expect("a folder of the workspace") {
        let entry = entry.expect("an entry of it");
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() {
            if !path.ends_with("target") {
                collect(root, &path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(entry.path()).expect("a source file is UTF-8");
            found.push(Source {
                path,
                lines: take_apart(&text),
            });
        }
    }
}

#[track_caller]
fn none(offences: &[String], rule: &str) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

/// The line (from 0) where the operation begins whose ordering stands on line `at`.
fn atomic_call(source: &Source, at: usize) -> usize {
    const LONGEST_CALL: usize = 8;
    (at.saturating_sub(LONGEST_CALL)..=at)
        .rev()
        .find(|&i| {
            ATOMIC_CALLS
                .iter()
                .any(|call| source.lines[i].code.contains(call))
        })
        .unwrap_or(at)
}

fn names_ordering(line: &Line) -> bool {
    let code = line.code.trim_start();
    let imports = code.starts_with("use ") || code.starts_with("pub use ");
    !imports && ORDERINGS.iter().any(|ordering| has_word(code, ordering))
}

/// What the table's checkers replace: storage, and scans (each property-tested against its
/// twin), behind the one door to atomics. All else that they run is what runs for real; and what the
/// exact gate counts is, too: features are asked for there and where the kit is.
#[test]
fn only_storage_and_scan_are_swapped_under_the_checkers() {
    let swapped = [
        "engine/src/sync",
        "engine/src/table/storage.rs",
        "engine/src/table/lockfree/scan.rs",
    ];
    let mut offences = Vec::new();
    for source in sources() {
        let allowed = source.is_test() || swapped.iter().any(|p| source.begins_with(p));
        if allowed || !source.is_under("engine/src") {
            continue;
        }
        for (number, line) in source.product() {
            let condition = line.code.contains("cfg(");
            let checker = ["loom", "shuttle", "feature"]
                .iter()
                .any(|word| has_word(&line.code, word));
            let left_out = source.begins_with("engine/src/lib.rs");
            if condition && checker && !is_test_only(line.code.trim()) && !left_out {
                offences.push(source.place(number));
            }
        }
    }
    none(&offences, "compiled otherwise under a checker");
}

#[test]
fn every_atomic_operation_gives_the_reason_of_its_ordering() {
    let mut offences = Vec::new();
    for source in sources() {
        let mut run_explained_to = None;
        for (at, line) in source.lines.iter().enumerate() {
            if !names_ordering(line) {
                continue;
            }
            let call = atomic_call(&source, at);
            // Operations that follow each other without a line between share a comment.
            let shares = run_explained_to.is_some_and(|last| call <= last + 1);
            if shares || source.is_explained(call, |comment| !comment.trim().is_empty()) {
                run_explained_to = Some(at);
            } else {
                offences.push(source.place(at + 1));
            }
        }
    }
    none(
        &offences,
        "an atomic operation without a comment on its ordering",
    );
}

#[test]
fn every_unsafe_block_gives_its_proof() {
    let mut offences = Vec::new();
    for source in sources() {
        for (at, line) in source.lines.iter().enumerate() {
            let needs_proof = has_word(&line.code, "unsafe")
                && !line.code.contains("unsafe fn")
                && !line.code.contains("unsafe extern")
                && !line.code.contains("unsafe trait");
            if needs_proof && !source.is_explained(at, |comment| comment.contains("SAFETY:")) {
                offences.push(source.place(at + 1));
            }
        }
    }
    none(&offences, "unsafe without a SAFETY comment");
}

#[test]
fn nothing_is_left_to_do() {
    let mut offences = Vec::new();
    for source in sources() {
        for (number, line) in source.numbered() {
            if ["todo!", "unimplemented!"]
                .iter()
                .any(|word| line.code.contains(word))
            {
                offences.push(source.place(number));
            }
        }
    }
    none(&offences, "unfinished code");
}

#[test]
fn neither_the_engine_nor_a_test_sleeps() {
    let mut offences = Vec::new();
    for source in sources() {
        let product: Vec<usize> = source.product().map(|(number, _)| number).collect();
        for (number, line) in source.numbered() {
            let bound = source.is_under("engine") || source.is_test() || number > product.len();
            if bound && line.code.contains("thread::sleep") {
                offences.push(source.place(number));
            }
        }
    }
    none(
        &offences,
        "a sleep, where time is a number that is passed in",
    );
}

#[test]
fn the_engine_has_no_io_no_clock_no_threads_and_no_randomness_of_its_own() {
    const ABSENT: [&str; 18] = [
        "std::fs",
        "std::env",
        "std::process",
        "std::thread",
        "thread::spawn",
        "std::io",
        "TcpStream",
        "UdpSocket",
        "TcpListener",
        "Instant",
        "SystemTime",
        "RandomState",
        "OsRng",
        "SysRng",
        "thread_rng",
        "println!",
        "eprintln!",
        "print!",
    ];
    let mut offences = Vec::new();
    for source in sources() {
        // The kit is for the tests of tables: it races threads, and nobody else has it built in.
        let is_kit = source.is_under("engine/src/kit");
        if !source.is_under("engine/src") || source.is_test() || is_kit {
            continue;
        }
        for (number, line) in source.product() {
            for word in ABSENT {
                if has_word(&line.code, word.trim_end_matches('!')) && line.code.contains(word) {
                    offences.push(format!("{}: {word}", source.place(number)));
                }
            }
        }
    }
    none(&offences, "the engine asks the system for something");
}

#[test]
fn the_engine_knows_nothing_of_the_harness() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = fs::read_to_string(root.join("engine/Cargo.toml")).expect("engine/Cargo.toml");
    let names_harness = manifest.lines().any(|line| {
        line.starts_with("clashtrack.")
            || line.starts_with("clashtrack ")
            || line.starts_with("clap")
    });
    assert!(
        !names_harness,
        "engine/Cargo.toml depends on the harness:\n{manifest}"
    );
}

#[test]
fn no_module_is_called_after_nothing() {
    let offences: Vec<String> = sources()
        .iter()
        .filter(|source| {
            let folders = source.path.iter().filter_map(|part| part.to_str());
            folders
                .map(|name| name.trim_end_matches(".rs"))
                .any(|name| ["util", "utils", "misc", "helpers"].contains(&name))
        })
        .map(|source| source.path.display().to_string())
        .collect();
    none(&offences, "a name that says nothing");
}

/// Paths that documents name in backquotes, from the workspace's root.
#[test]
fn the_places_that_the_documents_name_exist() {
    const FROM_ROOT: [&str; 6] = [
        "engine/",
        "harness/",
        "benches/",
        "docs/",
        "flamegraphs/",
        ".ci/",
    ];
    // What a contributor is to write.
    const TO_BE_MADE: [&str; 1] = ["harness/src/command/name.rs"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut offences = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root.join(document)).expect("a document of the project");
        for (number, line) in text.lines().enumerate() {
            // Every second piece of a line is between backquotes.
            for named in line.split('`').skip(1).step_by(2) {
                let is_path = FROM_ROOT.iter().any(|folder| named.starts_with(folder));
                if is_path && !TO_BE_MADE.contains(&named) && !root.join(named).exists() {
                    offences.push(format!("{document}:{}: {named}", number + 1));
                }
            }
        }
    }
    none(&offences, "a place that is not there");
}

mod the_scanner {
    use super::*;

    #[test]
    fn tells_code_from_comments_and_literals() {
        let lines = take_apart(
            "a(\"// no\", 'x', '\\'', b'\"'); // why\n/// doc\n/* one\n two */ b::<'a>(r#\"c\"#)",
        );
        assert!(!lines[0].code.contains("no") && lines[0].code.contains("a("));
        assert_eq!(lines[0].comment, " why");
        assert_eq!(lines[1].comment, "");
        assert_eq!(lines[2].comment, " one");
        assert_eq!(lines[3].comment, " two ");
        assert!(lines[3].code.contains("b::<") && !lines[3].code.contains('c'));
    }

    fn source(text: &str) -> Source {
        Source {
            path: "engine/src/x.rs".into(),
            lines: take_apart(text),
        }
    }

    #[test]
    fn sees_a_reason_above_a_call_of_many_lines_and_misses_one_too_far_away() {
        let near = source("// P1: pairs\nx.compare_exchange(\n a,\n b,\n AcqRel,\n Relaxed)");
        assert_eq!(atomic_call(&near, 5), 1);
        assert!(near.is_explained(1, |comment| !comment.is_empty()));
        let far = source("// P1\n\n\n\nx.load(Acquire)");
        assert!(!far.is_explained(4, |comment| !comment.is_empty()));
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("x(Ordering::Acquire)", "Acquire"));
        assert!(!has_word("x(AcquireLoad)", "Acquire"));
    }
}

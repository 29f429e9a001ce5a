//! The workflow files, as far as no linter can know: what they run is there, all that must hold is run, and nothing that
//! a pull request starts may write. (`.ci/workflows` has the linters.)
//!
//! Line by line, without a reader of YAML: the files are ours and are written one way.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Name and text of each.
fn workflows() -> Vec<(String, String)> {
    let folder = root().join(".github/workflows");
    let mut found: Vec<(String, String)> = fs::read_dir(folder)
        .expect("the folder of workflows")
        .map(|entry| entry.expect("a file of it").path())
        .map(|path| {
            let name = path.file_name().expect("its name").to_string_lossy();
            let text = fs::read_to_string(&path).expect("a workflow is text");
            (name.into_owned(), text)
        })
        .collect();
    found.sort();
    assert!(found.len() >= 4, "the workflows were not found");
    found
}

/// Lines without comments, trimmed; those that are nothing else are left out.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let code = |line: &'_ str| line.split(" #").next().unwrap_or_default().trim().len();
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter(move |line| code(line) > 0)
        .map(str::trim)
}

fn is_pull_request(text: &str) -> bool {
    lines(text).any(|line| line.starts_with("pull_request"))
}

/// `uses: owner/name@<40 hexadecimal digits> # v<version>`: a tag can be moved, a hash cannot.
fn unpinned(text: &str) -> Vec<&str> {
    let is_pinned = |line: &str| {
        let Some((_, after)) = line.split_once('@') else {
            return false;
        };
        let (hash, version) = after.split_once(" # v").unwrap_or((after, ""));
        hash.len() == 40
            && hash.bytes().all(|b| b.is_ascii_hexdigit())
            && version.starts_with(|c: char| c.is_ascii_digit())
    };
    lines(text)
        .filter(|line| line.trim_start_matches("- ").starts_with("uses:"))
        .filter(|line| !is_pinned(line))
        .collect()
}

/// What is given to the whole file's token, and that nobody writes where a pull request's code runs.
fn rights(text: &str) -> Vec<&str> {
    let mut offences = Vec::new();
    if !text.lines().any(|line| line.starts_with("permissions:")) {
        offences.push("no permissions for the whole file");
    }
    if is_pull_request(text) {
        offences.extend(lines(text).filter(|line| {
            line.split(" #")
                .next()
                .unwrap_or_default()
                .ends_with(": write")
        }));
        offences.extend(
            lines(text).filter(|line| {
                line.contains("secrets.") || line.starts_with("pull_request_target")
            }),
        );
    }
    if text.matches("actions/checkout@").count()
        != text.matches("persist-credentials: false").count()
    {
        offences.push("a checkout that leaves the token behind");
    }
    if text.matches("runs-on:").count() != text.matches("timeout-minutes:").count() {
        offences.push("a job without timeout-minutes");
    }
    // Who writes comes one after the other, and is not stopped half-way.
    let writes = lines(text).any(|line| line.starts_with("contents: write"));
    if writes && !(text.contains("\nconcurrency:\n") && text.contains("cancel-in-progress: false"))
    {
        offences.push("a writer that another one may run beside");
    }
    offences
}

/// Scripts of `.ci/` that are run, with their arguments.
fn scripts(text: &str) -> Vec<(&str, Vec<&str>)> {
    lines(text)
        .flat_map(|line| line.split("&&"))
        .filter_map(|command| command.split_once(".ci/"))
        .filter(|(before, _)| before.ends_with("bash ") || before.ends_with("python3 "))
        .map(|(_, rest)| {
            let mut words = rest.split_whitespace();
            (words.next().unwrap_or_default(), words.collect())
        })
        .collect()
}

/// The steps that `.ci/run` has.
fn steps() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(".ci/run")).expect(".ci/run");
    let list = text
        .lines()
        .find_map(|line| line.strip_prefix("readonly STEPS=("))
        .expect("its list of steps");
    let list = list.trim_end_matches(')');
    list.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn every_action_is_pinned_by_its_hash_and_says_its_version() {
    for (name, text) in workflows() {
        assert_eq!(unpinned(&text), Vec::<&str>::new(), "{name}");
    }
    let hash = "11bd71901bbe5b1630ceea73d27597364c9af683";
    assert!(unpinned(&format!("- uses: a/b@{hash} # v4.2")).is_empty());
    for bad in ["uses: a/b@v4", "- uses: a/b", "uses: a/b@11bd719 # v4"] {
        assert_eq!(unpinned(bad), [bad]);
    }
    assert_eq!(
        unpinned(&format!("uses: a/b@{hash}")).len(),
        1,
        "no version"
    );
}

#[test]
fn what_a_pull_request_starts_only_reads_and_writers_wait_for_each_other() {
    for (name, text) in workflows() {
        assert_eq!(rights(&text), Vec::<&str>::new(), "{name}");
    }
    let head = "on:\n  pull_request:\npermissions:\n  contents: read\n";
    assert!(rights(head).is_empty());
    assert_eq!(rights("on:\n  pull_request:\n").len(), 1);
    assert_eq!(rights(&format!("{head}  issues: write # why\n")).len(), 1);
    assert_eq!(
        rights(&format!("{head}x: ${{{{ secrets.KEY }}}}\n")).len(),
        1
    );
    assert_eq!(rights(&format!("{head}runs-on: x\n")).len(), 1);
    let writer = "on: push\npermissions:\n  contents: write\n";
    assert_eq!(rights(writer), ["a writer that another one may run beside"]);
}

#[test]
fn every_command_of_ours_is_there() {
    let known = steps();
    let mut seen = 0;
    for (name, text) in workflows() {
        for (script, arguments) in scripts(&text) {
            seen += 1;
            assert!(
                root().join(".ci").join(script).is_file(),
                "{name}: .ci/{script}"
            );
            if script == "run" {
                for step in arguments {
                    assert!(known.contains(step), "{name}: .ci/run has no step {step}");
                }
            }
        }
        let benches = fs::read_to_string(root().join("benches/Cargo.toml")).expect("its manifest");
        for line in lines(&text).filter(|line| line.contains("cargo bench")) {
            let bench = line
                .split("--bench ")
                .nth(1)
                .and_then(|rest| rest.split(' ').next());
            let bench = bench.expect("one bench is named");
            assert!(
                benches.contains(&format!("name = \"{bench}\"")),
                "{name}: {bench}"
            );
        }
    }
    assert!(seen >= 8, "only {seen} commands were found");
    assert_eq!(
        scripts("- run: bash .ci/run a b")[0],
        ("run", vec!["a", "b"])
    );
}

#[test]
fn every_step_is_run_for_a_pull_request() {
    let mut run = BTreeSet::new();
    for (_, text) in workflows().iter().filter(|(_, text)| is_pull_request(text)) {
        for (script, arguments) in scripts(text) {
            if script == "run" {
                run.extend(arguments.into_iter().map(str::to_owned));
            }
        }
    }
    assert_eq!(
        run,
        steps(),
        "steps of .ci/run, and those that the workflows run"
    );
}

//! What all subcommands promise a script: exit codes, what is on stdout, and the JSON schema
//! (`run` and others have files of their own, too).

use std::collections::BTreeSet;
use std::process::Stdio;

use clap::{CommandFactory, Parser};
use clashtrack::cli::Cli;
use serde_json::Value;

use crate::{SCHEMA, assert_fits_the_schema, clashtrack, json, output, refused};

/// Two clients, one port: the second one's SYNs are dropped.
const ONE_PORT: &str = "iptables -t nat -A POSTROUTING -p tcp -d 127.0.0.1 --dport 8080 -j SNAT --to-source 127.0.0.1:40000";

#[test]
fn bad_use_exits_with_2_and_prints_nothing_on_stdout() {
    for words in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &["hooks", "--format", "xml"],
        &["man", "no-such-page"],
        &["--json", "--format", "csv", "hooks"],
    ] {
        assert!(!refused(&mut clashtrack(words)).is_empty(), "{words:?}");
    }
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    for words in [
        &["hooks"][..],
        &["list", "--json"],
        &["completions", "zsh"],
        &["man"],
    ] {
        let mut command = clashtrack(words);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        // Closed before a byte is read.
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("the command ends");
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
    }
}

#[test]
fn quiet_leaves_stderr_empty() {
    let output = output(&["list", "--quiet"]);
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_folder_of_man_pages_has_one_for_each_subcommand() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_str().expect("its name is UTF-8");
    assert_eq!(output(&["man", "--out", path]).status.code(), Some(0));
    for subcommand in subcommands() {
        let page = folder.path().join(format!("clashtrack-{subcommand}.1"));
        assert!(page.exists(), "{}", page.display());
    }
}

fn subcommands() -> BTreeSet<String> {
    Cli::command()
        .get_subcommands()
        .map(|subcommand| subcommand.get_name().to_owned())
        .collect()
}

#[test]
fn every_example_of_the_help_is_understood() {
    let mut root = Cli::command();
    root.build();
    let helps = root
        .get_subcommands()
        .chain([&root])
        .filter_map(|command| Some((command.get_name(), command.get_after_long_help()?)));
    let mut seen = 0;
    for (name, help) in helps {
        let help = help.to_string();
        for line in help
            .lines()
            .filter(|line| line.trim_start().starts_with("clashtrack"))
        {
            let words = shell_words(line);
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{name}: {line}\n{error}");
            }
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen} examples");
}

/// The words of a line of shell, up to a redirection, a pipe or a comment. Knows quotes.
fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '>' | '|' | '#') if word.is_none() => break,
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn what_json_prints_is_what_the_schema_says() {
    let commands: [&[&str]; 4] = [
        &["hooks", "--json"],
        &["list", "--format", "json"],
        &["replay", "tests/data/real/inside.pcap", "--json"],
        &[
            "simulate",
            "--connect",
            "127.0.0.1:8080",
            "--connections",
            "2",
            "--rule",
            ONE_PORT,
            "--json",
        ],
    ];
    let known = subcommands();
    for words in commands.iter().filter(|words| known.contains(words[0])) {
        assert_fits_the_schema(&json(words));
    }
}

#[test]
fn the_schema_refuses_what_is_no_envelope() {
    let value = json(&["hooks", "--json"]);
    assert!(SCHEMA.is_valid(&value));
    let mut worded = value.clone();
    worded["results"][0]["priority"] = Value::from("last");
    assert!(!SCHEMA.is_valid(&worded), "a priority that is a word");
    let mut other = value;
    other["schema"] = Value::from("clashtrack/2");
    assert!(!SCHEMA.is_valid(&other), "another schema");
}

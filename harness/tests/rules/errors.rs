//! What is said of rules that cannot be honoured: whole messages, as texts under
//! `tests/data/rules/`. With `BLESS=1` in the environment they are written anew.

use std::path::Path;

use clashtrack::rules::{RuleError, RulesetBuilder};

/// Loads all commands; the first error.
fn error_of(commands: &[&str]) -> RuleError {
    let mut builder = RulesetBuilder::new();
    for command in commands {
        if let Err(error) = builder.command(command) {
            return error;
        }
    }
    match builder.finish() {
        Err(error) => error,
        Ok(rules) => panic!("{commands:?} should be refused: {rules:#?}"),
    }
}

fn file_error_of(text: &str) -> RuleError {
    match RulesetBuilder::new().save_file(text, "rules.txt") {
        Err(error) => error,
        Ok(()) => panic!("should be refused:\n{text}"),
    }
}

fn assert_golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/rules")
        .join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{name}; BLESS=1 writes it anew");
}

/// One message after the other, with a blank line between.
fn messages(errors: impl IntoIterator<Item = RuleError>) -> String {
    errors
        .into_iter()
        .map(|error| format!("{error}\n\n"))
        .collect()
}

fn nat_errors(rests: &[&str]) -> String {
    messages(
        rests
            .iter()
            .map(|rest| error_of(&[&format!("iptables -t nat {rest}")])),
    )
}

#[test]
fn what_is_not_understood_is_pointed_at() {
    assert_golden(
        "not_understood.txt",
        &nat_errors(&[
            "-A POSTROUTING -p tcp -d 127.0.0.1 -m hashlimit --hashlimit 5 -j MASQUERADE",
            "-A POSTROUTING -m statistic --mode random --probability 0.5 -j MASQUERADE",
            "-A POSTROUTING -m conntrack --ctstate NEW -j MASQUERADE",
            "-A POSTROUTING -p tcp --syn -j MASQUERADE",
            "-A POSTROUTING -p tcp --tcp-flags SYN SYN -j MASQUERADE",
            "-A POSTROUTING -f -j MASQUERADE",
            "-A POSTROUTING -x -j MASQUERADE",
            "-A POSTROUTING -j MARK --set-mark 1",
            "-A POSTROUTING -j TCPMSS",
            "-A POSTROUTING -m addrtype --dst-type BROADCAST -j ACCEPT",
            "-A POSTROUTING -m addrtype --dst-type LOCAL --limit-iface-out -j ACCEPT",
            "-A POSTROUTING tcp -j ACCEPT",
            "-D POSTROUTING -j ACCEPT",
            "-F",
            "-A PREROUTING -j DNAT --to-destination 192.0.2.1 --random-fully",
            "-A POSTROUTING --dport 80 -p tcp -j ACCEPT",
            "-A POSTROUTING --to-source 192.0.2.1 -j SNAT",
            "-A POSTROUTING -p tcp -j MASQUERADE --rand",
        ]),
    );
}

#[test]
fn bad_values_are_pointed_at() {
    assert_golden(
        "bad_values.txt",
        &nat_errors(&[
            "-A POSTROUTING -p tcp -j SNAT --to-source 127.0.0.1:40003-40000",
            "-A POSTROUTING -j SNAT --to-source 10.0.0.9-10.0.0.1",
            "-A POSTROUTING -p tcp -j SNAT --to-source 10.0.0.1:65536",
            "-A POSTROUTING -p tcp -j SNAT --to-source 10.0.0.1:80:90",
            "-A POSTROUTING -p tcp -j SNAT --to-source 10.0.0.1:",
            "-A POSTROUTING -p tcp -j SNAT --to-source 10.0.0.1:1-2/3",
            "-A PREROUTING -p tcp -j DNAT --to-destination 10.0.0.1:5000/80",
            "-A POSTROUTING -j SNAT --to-source 10.0.0.0/24",
            "-A POSTROUTING -j SNAT --to-source 10.0.0",
            "-A POSTROUTING -j SNAT --to-source 2001:db8::1",
            "-A POSTROUTING -p tcp -j SNAT --to-source [2001:db8::1]:80",
            "-A POSTROUTING -s 2001:db8::/32 -j MASQUERADE",
            "-A POSTROUTING -d example.org -j MASQUERADE",
            "-A POSTROUTING -d 10.0.0.0/33 -j MASQUERADE",
            "-A POSTROUTING ! -d 10.0.0.1,10.0.0.2 -j MASQUERADE",
            "-A POSTROUTING -p tcp --dport 90:80 -j MASQUERADE",
            "-A POSTROUTING -p tcp --dport 70000 -j MASQUERADE",
            "-A POSTROUTING -p tcp --dport frobnicate -j MASQUERADE",
            "-A POSTROUTING -p tcp --dport 80,443 -j MASQUERADE",
            "-A POSTROUTING -p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16 -j MASQUERADE",
            "-A POSTROUTING -p quic -j MASQUERADE",
            "-A POSTROUTING -p 256 -j MASQUERADE",
            "-A POSTROUTING ! -p all -j MASQUERADE",
            "-A POSTROUTING -p icmp --icmp-type echo -j MASQUERADE",
            "-A POSTROUTING -o averyveryverylongname0 -j MASQUERADE",
            "-A PREROUTING -j NETMAP --to 10.0.0.0/255.0.255.0",
        ]),
    );
}

#[test]
fn what_does_not_fit_together_is_pointed_at() {
    assert_golden(
        "does_not_fit.txt",
        &nat_errors(&[
            "-A POSTROUTING --to-source",
            "-A POSTROUTING -j SNAT --to-source",
            "-A POSTROUTING -j SNAT --to-source --random",
            "-A POSTROUTING -j SNAT",
            "-A PREROUTING -j DNAT",
            "-A PREROUTING -j NETMAP",
            "-A POSTROUTING -j SNAT --to-source 10.0.0.1:80",
            "-A POSTROUTING ! -p tcp -j MASQUERADE --to-ports 80",
            "-A POSTROUTING -p gre -m multiport --dports 80 -j MASQUERADE",
            "-A POSTROUTING -p dccp --dport 80 -j MASQUERADE",
            "-A POSTROUTING -p udp -m tcp --dport 80 -j MASQUERADE",
            "-A POSTROUTING -m icmp --icmp-type 8 -j MASQUERADE",
            "-A POSTROUTING -p tcp -m multiport -j MASQUERADE",
            "-A POSTROUTING -p tcp -m tcp --dport 80 -m multiport --dports 80,81 -j MASQUERADE",
            "-A POSTROUTING -s 10.0.0.1 -s 10.0.0.2 -j MASQUERADE",
            "-A POSTROUTING ! -d ! 10.0.0.1 -j MASQUERADE",
            "-A POSTROUTING ! ! -d 10.0.0.1 -j MASQUERADE",
            "-A POSTROUTING -d 10.0.0.1 -j MASQUERADE !",
            "-A POSTROUTING ! -j MASQUERADE",
            "-A POSTROUTING -j MASQUERADE -j ACCEPT",
            "-A POSTROUTING -i eth0 -j MASQUERADE",
            "-A PREROUTING -o eth0 -j REDIRECT",
            "-A PREROUTING -j SNAT --to-source 10.0.0.1",
            "-A POSTROUTING -j DNAT --to-destination 10.0.0.1",
            "-A OUTPUT -j MASQUERADE",
            "-A INPUT -j REDIRECT",
            "-A POSTROUTING -j DROP",
            "-P POSTROUTING DROP",
            "-P POSTROUTING",
            "-N POSTROUTING",
            "-A FORWARD -j ACCEPT",
            "-A POSTROUTING -j nowhere",
            "-A POSTROUTING -g MASQUERADE",
            "-A POSTROUTING -j OUTPUT",
            "-A POSTROUTING -j NOTRACK",
            "-I POSTROUTING 2 -j ACCEPT",
            "-I POSTROUTING 0 -j ACCEPT",
            "-N web -j ACCEPT",
            "-N a-name-that-is-much-too-long-for-iptables",
            "-A POSTROUTING -N web",
            "-p tcp -j MASQUERADE",
        ]),
    );
}

#[test]
fn what_needs_more_than_one_rule_to_be_wrong_is_pointed_at() {
    let sets: &[&[&str]] = &[
        &[
            "-t nat -N a",
            "-t nat -N b",
            "-t nat -A POSTROUTING -j a",
            "-t nat -A a -j b",
            "-t nat -A b -p tcp -j a",
        ],
        &[
            "-t nat -N a",
            "-t nat -A a -j SNAT --to-source 10.0.0.1",
            "-t nat -A POSTROUTING -j a",
            "-t nat -A PREROUTING -j a",
        ],
        &["-t nat -N a", "-t nat -P a ACCEPT"],
        &["-t nat -N a", "-t nat -N a"],
        &[
            "-t raw -N a",
            "-t raw -A a -j NOTRACK",
            "-t raw -A OUTPUT -j a",
        ],
    ];
    assert_golden(
        "several_rules.txt",
        &messages(sets.iter().map(|set| error_of(set))),
    );
}

#[test]
fn what_is_not_a_rule_of_these_tables_is_pointed_at() {
    let commands = [
        "",
        "   ",
        "# nothing",
        "iptables",
        "nft add rule ip nat postrouting masquerade",
        "ip6tables -t nat -A POSTROUTING -j MASQUERADE",
        "iptables -A INPUT -j DROP",
        "iptables -t mangle -A FORWARD -j ACCEPT",
        "iptables -t nut -A POSTROUTING -j MASQUERADE",
        "iptables -t nat -A POSTROUTING -s $LAN -j MASQUERADE",
        "iptables -t nat -A POSTROUTING -j MASQUERADE; iptables -t nat -F",
        "iptables -t nat -A POSTROUTING -m comment --comment 'it ends",
        "iptables -t raw -A PREROUTING -s 10.0.0.1 -j DROP",
        "iptables -t raw -P PREROUTING DROP",
        "iptables -t raw -A PREROUTING -j SNAT --to-source 10.0.0.1",
        "iptables -t raw -A PREROUTING -j CT",
        "iptables -t raw -A PREROUTING -j CT --zone mark",
        "iptables -t raw -A PREROUTING -j CT --zone 65536",
        "iptables -t raw -A PREROUTING -j CT --zone 1 --notrack",
        "iptables -t raw -A PREROUTING -j CT --helper ftp",
        "iptables -t raw -A POSTROUTING -j NOTRACK",
        "iptables\t-t nat -A POSTROUTING\t-m \u{1b}[31mhash",
    ];
    assert_golden(
        "not_such_a_rule.txt",
        &messages(commands.iter().map(|command| error_of(&[command]))),
    );
}

#[test]
fn files_that_are_no_such_files_are_pointed_at() {
    let files = [
        "-A POSTROUTING -j MASQUERADE\n",
        "GET / HTTP/1.1\n",
        "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE",
        "*nat\n*filter\n",
        "*nat\nCOMMIT\n*nat\nCOMMIT\n",
        "*broute\nCOMMIT\n",
        "# Generated by ip6tables-save v1.8.10\n*nat\nCOMMIT\n",
        "*nat\n:POSTROUTING DROP [0:0]\nCOMMIT\n",
        "*nat\n:POSTROUTING\nCOMMIT\n",
        "*nat\n:web ACCEPT [0:0]\nCOMMIT\n",
        "*nat\n:web - [0:0] x\nCOMMIT\n",
        "*nat\n:web - [0:0]\n:web - [0:0]\n[x:0] -A web -j ACCEPT\nCOMMIT\n",
        "*nat\n-A web -j ACCEPT\nCOMMIT\n",
        "*nat\n-t nat -A POSTROUTING -j ACCEPT\nCOMMIT\n",
        "*nat\n  [1:2]   -A POSTROUTING -j SNAT --to-source 10.0.0.1-10.0.0.0\nCOMMIT\n",
        "*nat\n:a - [0:0]\n-A POSTROUTING -j a\n-A a -j a\nCOMMIT\n",
    ];
    assert_golden(
        "bad_files.txt",
        &messages(files.iter().map(|text| file_error_of(text))),
    );
}

/// Each line that is refused is taken out and the file tried again, until it loads: so all
/// its errors are seen, and nothing else is refused.
#[test]
fn of_a_kubernetes_file_the_marks_and_the_statistics_are_refused() {
    let text = include_str!("../data/rules/kubernetes.rules");
    let mut lines: Vec<&str> = text.lines().collect();
    let mut errors = Vec::new();
    loop {
        let mut builder = RulesetBuilder::new();
        match builder.save_file(&lines.join("\n"), "kubernetes.rules") {
            Ok(()) => break,
            Err(error) => {
                let at = lines.iter().position(|line| *line == error.text).unwrap();
                lines[at] = "";
                errors.push(error);
            }
        }
    }
    let words: Vec<_> = errors.iter().map(|e| &e.text[e.span.clone()]).collect();
    assert_eq!(words, ["MARK", "mark", "MARK", "statistic"]);
    assert_golden("kubernetes.txt", &messages(errors));
}

#[test]
fn the_marks_stand_below_the_word() {
    let error = error_of(&[
        "iptables -t nat -A POSTROUTING -p tcp -m comment --comment 'für alle' -m hashlimit --hashlimit 5 -j ACCEPT",
    ]);
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    let column = |line: &str, what: char| line.chars().position(|c| c == what).unwrap();
    let word = lines[2].chars().collect::<Vec<_>>();
    let start = column(lines[3], '^');
    let marked: String = word[start..start + lines[3].matches('^').count()]
        .iter()
        .collect();
    assert_eq!(marked, "hashlimit");
    assert_eq!(lines[0], "error: match `hashlimit` is not understood");
    assert_eq!(lines[1], "  --rule:1");
}

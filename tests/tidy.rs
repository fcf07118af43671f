//! The rules of the house, kept by a test that reads the source.
//!
//! Which room may import which, which crate has its door where, where `unsafe` and
//! `cfg(target_os)` may stand, who may read the clock, and whether usage and manuals agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may import. Everyone may import `mail`, `util` and `log`.
const ARROWS: &[(&str, &str)] = &[
    (
        "cli",
        "parent engine privsep control config queue table expansion mda smtp rfc5322 sys",
    ),
    (
        "engine",
        "accept session transaction expansion ruleset queue scheduler runner deliver bounce \
                config control dns table privsep smtp rfc5322 sys",
    ),
    ("parent", "config privsep sys"),
    ("privsep", "config sys"),
    ("control", "sys"),
    ("accept", "session dns control config sys"),
    ("session", "transaction queue config smtp rfc5322"),
    ("transaction", "session queue rfc5322 smtp sys"),
    ("expansion", "ruleset table config privsep sys"),
    ("ruleset", "table config"),
    ("table", "config sys"),
    ("config", "sys"),
    ("queue", "sys"),
    (
        "runner",
        "scheduler queue deliver bounce config control session",
    ),
    ("scheduler", ""),
    ("deliver", "privsep queue config mda rfc5322 sys"),
    ("bounce", "deliver queue session transaction rfc5322 sys"),
    ("dns", "sys"),
    ("mda", "privsep config smtp sys"),
    ("smtp", ""),
    ("rfc5322", "sys"),
    ("log", "sys"),
    ("mail", ""),
    ("util", ""),
    ("sys", ""),
];

/// Where each crate may be named.
const DOORS: &[(&str, &str)] = &[
    ("libc", "sys"),
    ("mio", "accept dns"),
    ("domain", "dns"),
    ("resolv_conf", "dns"),
    ("getopts", "cli"),
    ("syslog", "log"),
    ("regex", "table config"),
    (
        "crossbeam_channel",
        "accept runner deliver bounce privsep dns log engine",
    ),
];

/// The rooms that own a clock; `Timestamp::now` and `SystemTime::now` stand nowhere else.
const CLOCKS: &[&str] = &[
    "util/time.rs",
    "engine/",
    "runner/",
    "accept/",
    "parent/",
    "cli/",
    "mda/",
    "deliver/local/",
    "bounce/",
    "dns/",
    "queue/fs/",
    "sys/",
];

struct Source {
    path: String,
    room: String,
    /// The lines before the tests.
    lines: Vec<String>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    paths
        .into_iter()
        .filter(|path| {
            !path.ends_with("tests.rs") && !path.components().any(|c| c.as_os_str() == "tests")
        })
        .map(|file| {
            let path = file
                .strip_prefix(&root)
                .expect("below src")
                .display()
                .to_string();
            let room = path
                .split('/')
                .next()
                .unwrap_or_default()
                .trim_end_matches(".rs")
                .to_string();
            let text = fs::read_to_string(&file).expect("a source file");
            let lines = text
                .lines()
                .take_while(|line| *line != "#[cfg(test)]")
                .map(str::to_string)
                .collect();
            Source { path, room, lines }
        })
        .collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|e| e == "rs") {
            paths.push(path);
        }
    }
}

fn is_code(line: &str) -> bool {
    !line.trim_start().starts_with("//")
}

#[test]
fn rooms_import_only_what_lies_below_them() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ARROWS
        .iter()
        .map(|(room, list)| (*room, list.split_whitespace().collect()))
        .collect();
    let mut wrong = Vec::new();
    for source in sources()
        .iter()
        .filter(|s| s.room != "bin" && s.room != "lib")
    {
        let Some(list) = allowed.get(source.room.as_str()) else {
            wrong.push(format!("{}: the room is not in ARROWS", source.path));
            continue;
        };
        for (number, line) in source.lines.iter().enumerate().filter(|(_, l)| is_code(l)) {
            for after in line.split("crate::").skip(1) {
                let end = after
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(after.len());
                let room = &after[..end];
                let known = allowed.contains_key(room);
                let common = ["mail", "util", "log"].contains(&room) && source.room != "util";
                if known && room != source.room && !common && !list.contains(room) {
                    wrong.push(format!(
                        "{}:{}: {} may not import {room}",
                        source.path,
                        number + 1,
                        source.room
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_crate_has_its_door() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (number, line) in source.lines.iter().enumerate().filter(|(_, l)| is_code(l)) {
            for (name, rooms) in DOORS {
                let named = line.match_indices(&format!("{name}::")).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                });
                if named && !rooms.split(' ').any(|room| room == source.room) {
                    wrong.push(format!(
                        "{}:{}: {name} is for {rooms}",
                        source.path,
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_and_platforms_stay_in_sys() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.room != "sys") {
        let head = source.path.ends_with("/mod.rs") || source.path.matches('/').count() == 0;
        let free = ["lib", "bin", "config"].contains(&source.room.as_str());
        let forbids = source
            .lines
            .iter()
            .any(|l| l.contains("#![forbid(unsafe_code)]"));
        if head && !free && source.path.matches('/').count() == 1 && !forbids {
            wrong.push(format!(
                "{}: the room does not forbid unsafe code",
                source.path
            ));
        }
        for (number, line) in source.lines.iter().enumerate().filter(|(_, l)| is_code(l)) {
            if line.contains("cfg(target_os") || line.contains("unsafe {") {
                wrong.push(format!(
                    "{}:{}: this belongs in sys",
                    source.path,
                    number + 1
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_loops_read_the_clock() {
    let mut wrong = Vec::new();
    for source in sources() {
        if CLOCKS.iter().any(|place| source.path.starts_with(place)) {
            continue;
        }
        for (number, line) in source.lines.iter().enumerate().filter(|(_, l)| is_code(l)) {
            if line.contains("Timestamp::now()") || line.contains("SystemTime::now()") {
                wrong.push(format!(
                    "{}:{}: take `now` as an argument",
                    source.path,
                    number + 1
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_command_line_prints_and_nothing_is_left_unfinished() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (number, line) in source.lines.iter().enumerate().filter(|(_, l)| is_code(l)) {
            let prints = ["println!(", "print!(", "dbg!("]
                .iter()
                .any(|m| line.contains(m));
            let here = ["cli", "log", "mda", "bin"].contains(&source.room.as_str());
            let unfinished = ["todo!(", "unimplemented!(", "FIXME", "XXX"];
            if prints && !here
                || line.contains("dbg!(")
                || unfinished.iter().any(|w| line.contains(w))
            {
                wrong.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_flag_of_the_usage_is_in_the_manual() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (program, file) in [
        ("smtpd", "src/cli/smtpd.rs"),
        ("sendmail", "src/cli/sendmail.rs"),
    ] {
        let text = fs::read_to_string(root.join(file)).expect("a front end");
        let manual = fs::read_to_string(root.join(format!("man/{program}.8"))).expect("a manual");
        let usage = text
            .split("usage: ")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap_or_else(|| panic!("{file} has no usage text"));
        let letters = usage
            .split('[')
            .filter_map(|part| part.strip_prefix('-'))
            .flat_map(|part| part.split([' ', ']']).next().unwrap_or_default().chars());
        for letter in letters {
            assert!(
                manual.lines().any(|l| l.starts_with(".It Fl")
                    && l.contains(&format!(" {letter}"))
                    || l.starts_with(&format!(".It Fl {letter}"))),
                "man/{program}.8 has no paragraph for -{letter}"
            );
        }
    }
}

#[test]
fn every_dependency_says_why() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    let mut section = "";
    let mut before = "";
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.contains("dependencies") && line.contains('=') {
            assert!(
                before.starts_with('#'),
                "Cargo.toml: no sentence above `{line}`"
            );
        }
        before = line;
    }
    let lock = fs::read_to_string(root.join("Cargo.lock")).expect("Cargo.lock");
    for banned in ["tokio", "async-std", "smol", "aws-lc-sys", "openssl-src"] {
        assert!(
            !lock.contains(&format!("name = \"{banned}\"")),
            "{banned} is in the tree"
        );
    }
}

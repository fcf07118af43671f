//! The rules of the house, kept by a test that reads the source.
//!
//! Which room imports which, which crate has its door where, where `unsafe` and
//! `cfg(target_os)` may stand, who may read the clock, and whether usage and manuals agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/manual.rs"]
mod manual;
#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/documents.rs"]
mod documents;

/// What each room imports, from the top of the house down: a room names only rooms below its own
/// line, so nothing goes round in circles. Every room above the line of `log` may name [`COMMON`].
const ARROWS: &[(&str, &str)] = &[
    // What tests and the fuzzer try on any bytes.
    (
        "fuzz",
        "cli session filter client expansion privsep control queue dns table proc config smtp rfc5322",
    ),
    // The programs. `smtpd -x engine` starts there too; smtpctl reads spool files by their paths, and
    // sendmail's replay writes the report that the daemon would have written.
    (
        "cli",
        "engine bounce parent explain expansion table control mda client tls privsep config queue rfc5322 dns sys",
    ),
    // Root: keep this list short. Of the queue it knows the names of the spool's rooms. Of tables
    // it asks who a user is, in the words in which the engine asks it, and never the engine.
    ("parent", "privsep queue table config sys"),
    // Puts the rooms together, and has no rules of its own.
    (
        "engine",
        "accept auth runner bounce deliver explain session filter transaction expansion dns scheduler \
         control tls privsep queue table proc config sys",
    ),
    // Hears what an expansion does, and asks the delivery's own code what it would come to.
    (
        "explain",
        "session filter expansion ruleset table mda privsep smtp config sys",
    ),
    // The control socket is one of the sockets of the event loop: frames in, answers out.
    ("accept", "session filter dns control tls smtp config sys"),
    // What smtpctl asks of the queue is answered by the one that owns the scheduler.
    ("runner", "deliver scheduler control queue"),
    // An agent whose deliveries come in by our own front door, the services of a session.
    ("bounce", "deliver session transaction queue smtp rfc5322"),
    ("session", "auth filter transaction queue dns smtp"),
    // Checks passwords, with threads of its own: a table first, else the parent.
    ("auth", "table privsep sys"),
    // Dates in header fields are local time, and that is the system's.
    ("transaction", "queue rfc5322 sys"),
    (
        "deliver",
        "client dns tls privsep queue filter table config rfc5322 sys",
    ),
    // What is asked about sessions, and told of them: rules of the configuration, and programs.
    ("filter", "table proc config sys"),
    // The other side of a session: what relaying, LMTP and mail.lmtp speak with.
    ("client", "tls smtp sys"),
    // Runs what the parent hands over: a job, and batches of messages to a kept child. A user's
    // command it looks for in that user's .forward.
    ("mda", "expansion privsep config rfc5322 sys"),
    // Who is a user is the system's to say, and the parent opens users' files.
    ("expansion", "ruleset table privsep config sys"),
    ("ruleset", "table config"),
    ("table", "proc config sys"),
    // A program that speaks lines; whoever makes it start says how.
    ("proc", "sys"),
    // The process that holds the keys is shut in; it is told of them by the parent.
    ("tls", "privsep sys"),
    ("privsep", "config sys"),
    ("control", "sys"),
    ("config", "sys"),
    ("queue", "sys"),
    ("dns", "sys"),
    ("scheduler", ""),
    ("smtp", ""),
    ("rfc5322", ""),
    // Who has no thread for its lines waits for nobody that is to take them.
    ("log", "mail util sys"),
    ("mail", "util"),
    ("util", ""),
    ("sys", ""),
];

/// What everybody above them may import.
const COMMON: [&str; 3] = ["log", "mail", "util"];

/// Where each crate may be named.
const DOORS: &[(&str, &str)] = &[
    ("libc", "sys"),
    ("base64", "smtp"),
    ("mio", "accept dns sys"),
    ("domain", "dns"),
    ("resolv_conf", "dns"),
    ("getopts", "cli"),
    ("syslog", "log"),
    ("regex", "table config"),
    ("crc32fast", "queue"),
    ("flate2", "queue"),
    ("ring", "mail queue tls"),
    ("rustls", "tls"),
    ("rustls_native_certs", "tls"),
    ("native_tls", "tls"),
    ("zeroize", "sys util"),
    (
        "crossbeam_channel",
        "accept auth runner deliver bounce privsep dns log engine table",
    ),
];

/// The rooms that own a clock; no other one reads it.
const CLOCKS: &[&str] = &[
    "util/time.rs",
    "log/profile.rs",
    "engine/",
    "filter/",
    "proc.rs",
    "proc/",
    "table/",
    "runner/",
    "accept/",
    "auth/mod.rs",
    "parent/",
    "cli/",
    "mda/",
    "client/session.rs",
    "client/stream.rs",
    "deliver/local/",
    "deliver/lmtp/",
    "deliver/pool.rs",
    "deliver/relay/mod.rs",
    "deliver/relay/session.rs",
    "bounce/",
    "dns/",
    "queue/fs/",
    "privsep/client/wire.rs",
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
    collect(&root, &["rs"], &mut paths);
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
            let lines = before_tests(&text).map(str::to_string).collect();
            Source { path, room, lines }
        })
        .collect()
}

/// The lines of a file up to the module with its tests.
fn before_tests(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text.get(..end).unwrap_or_default().lines()
}

fn collect(dir: &Path, endings: &[&str], paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, endings, paths);
        } else if path
            .extension()
            .is_some_and(|end| endings.iter().any(|known| end == *known))
        {
            paths.push(path);
        }
    }
}

fn is_code(line: &str) -> bool {
    !line.trim_start().starts_with("//")
}

/// The rooms of our own that a line of code names.
fn rooms_named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|after| {
        let end = after.find(|c: char| !c.is_alphanumeric() && c != '_');
        &after[..end.unwrap_or(after.len())]
    })
}

#[test]
fn rooms_import_what_arrows_says() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ARROWS
        .iter()
        .map(|(room, list)| (*room, list.split_whitespace().collect()))
        .collect();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for source in sources()
        .iter()
        .filter(|s| s.room != "bin" && s.room != "lib")
    {
        let Some((room, list)) = allowed.get_key_value(source.room.as_str()) else {
            wrong.push(format!("{}: the room is not in ARROWS", source.path));
            continue;
        };
        for (number, line) in source.lines.iter().enumerate().filter(|(_, l)| is_code(l)) {
            if line.contains("crate::{") {
                wrong.push(format!(
                    "{}:{}: one `use` for a room",
                    source.path,
                    number + 1
                ));
            }
            for named in rooms_named(line).filter(|named| named != room) {
                let Some((other, _)) = allowed.get_key_value(named) else {
                    continue;
                };
                used.insert((*room, *other));
                let common = COMMON.contains(other) && is_above_common(room);
                if !common && !list.contains(other) {
                    let (path, number) = (&source.path, number + 1);
                    wrong.push(format!("{path}:{number}: {room} may not import {other}"));
                }
            }
        }
    }
    for (room, list) in &allowed {
        for other in list
            .iter()
            .filter(|other| !used.contains(&(*room, **other)))
        {
            wrong.push(format!("ARROWS: {room} does not import {other}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn is_above_common(room: &str) -> bool {
    let line = |room: &str| ARROWS.iter().position(|(name, _)| *name == room);
    line(room) < line("log")
}

#[test]
fn arrows_point_down() {
    for (line, (room, list)) in ARROWS.iter().enumerate() {
        for other in list.split_whitespace() {
            let below = ARROWS.iter().position(|(name, _)| *name == other);
            assert!(below > Some(line), "{other} is not on a line below {room}");
        }
    }
    let above_common = ARROWS.iter().filter(|(room, _)| is_above_common(room));
    let common = above_common.count() * COMMON.len();
    let named: usize = ARROWS
        .iter()
        .map(|(_, list)| list.split_whitespace().count())
        .sum();
    let rooms = ARROWS.len();
    println!("{rooms} rooms; {named} arrows and {common} to {COMMON:?}, all of them down");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let texts: Vec<(String, String)> = sources()
        .iter()
        .map(|source| (source.path.clone(), source.lines.join("\n")))
        .collect();
    let files: Vec<_> = texts
        .iter()
        .map(|(path, text)| (&**path, &**text))
        .collect();
    let found = circles::circles(&files);
    assert!(found.is_empty(), "circles:\n{}", found.join("\n"));
    println!("no circle among {} files", files.len());
}

#[test]
fn every_file_is_short_enough_to_be_one_concern() {
    // CONTRIBUTING.md: less than 600 lines, of Python less than 400.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "tests"] {
        collect(&root.join(folder), &["rs", "py"], &mut paths);
    }
    assert!(paths.len() > 500, "only {} files", paths.len());
    let mut wrong = Vec::new();
    for path in paths {
        let most = if path.extension().is_some_and(|end| end == "py") {
            400
        } else {
            600
        };
        let lines = fs::read_to_string(&path).expect("a source file");
        let lines = lines.lines().count();
        if lines >= most {
            wrong.push(format!("{}: {lines} lines", path.display()));
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
        let free = ["lib", "bin"].contains(&source.room.as_str());
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
            if line.contains("target_os") || line.contains("unsafe {") {
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
            let clocks = ["Timestamp::now()", "SystemTime::now()", "Instant::now()"];
            if clocks.iter().any(|clock| line.contains(clock)) {
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
fn nothing_panics_where_nobody_listens_and_nothing_is_left_unfinished() {
    // println! and eprintln! panic when standard output or error is closed: a failed write is an
    // error, or does not matter.
    let mut wrong = Vec::new();
    for source in sources() {
        let mut before = "";
        for (number, line) in source.lines.iter().enumerate().filter(|(_, l)| is_code(l)) {
            let bad = |words: &[&str]| words.iter().any(|word| line.contains(word));
            let prints = bad(&["println!(", "print!("]) && before != "#[cfg(test)]";
            if prints || bad(&["dbg!(", "todo!(", "unimplemented!(", "FIXME", "XXX"]) {
                wrong.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
            before = line.trim();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_warning_says_once_that_it_is_one() {
    let mut wrong = Vec::new();
    for source in sources() {
        let words: String = source.lines.concat().split_whitespace().collect();
        for again in words.match_indices("warn(format_args!(\"warn:") {
            let text: String = words[again.0..].chars().take(80).collect();
            wrong.push(format!("{}: {text}", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_flag_of_a_usage_is_in_the_manual() {
    let man = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let mut programs = BTreeSet::new();
    for source in sources().iter().filter(|s| s.room == "cli") {
        for usage in source.lines.join("\n").split("\"usage: ").skip(1) {
            let usage = usage.split('"').next().unwrap_or_default();
            let (program, rest) = usage.split_once(' ').expect("a usage names its program");
            let page = |section: u8| fs::read_to_string(man.join(format!("{program}.{section}")));
            let manual = page(8).or_else(|_| page(1)).expect("a manual");
            for letter in flags(rest) {
                assert!(
                    manual.lines().any(|line| describes(line, letter)),
                    "the manual of {program} has no paragraph for -{letter}"
                );
            }
            programs.insert(program.to_string());
        }
    }
    for program in [
        "smtp",
        "smtpd",
        "smtpctl",
        "sendmail",
        "newaliases",
        "makemap",
        "mail.local",
    ] {
        assert!(programs.contains(program), "{program} has no usage");
    }
}

/// The letters of a usage such as `[-lL] [-f from | -r from] user ...`.
fn flags(usage: &str) -> impl Iterator<Item = char> {
    usage
        .split(|c: char| c.is_whitespace() || "[]|".contains(c))
        .filter_map(|word| word.strip_prefix('-'))
        .flat_map(str::chars)
}

/// Whether a line of a manual is the head of the paragraph on a flag.
fn describes(line: &str, letter: char) -> bool {
    line.starts_with(".It Fl ")
        && line.split("Fl ").any(|flag| {
            flag.strip_prefix(letter)
                .is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
        })
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

/// `make fuzz` is told to change no lock file, and would not start.
#[test]
fn the_fuzz_targets_know_every_dependency() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    let lock = fs::read_to_string(root.join("tests/fuzz/Cargo.lock")).expect("Cargo.lock");
    let ours = lock
        .split("[[package]]")
        .find(|package| package.contains("name = \"smtpd-rs\""))
        .expect("the fuzz targets use this package");
    let mut section = "";
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section == "[dependencies]" && !line.contains("optional = true") {
            let Some((name, _)) = line.split_once(" = ") else {
                continue;
            };
            assert!(
                ours.contains(&format!("\"{name}\"")),
                "tests/fuzz/Cargo.lock lacks {name}: run `cargo update -w` there"
            );
        }
    }
}

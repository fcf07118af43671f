//! `src/lib.rs`: the threads of an engine are those of its table, and as many.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread::available_parallelism;

use crate::relay::Host;
use crate::support::{Instance, Setup, files, not_run, wait};

/// The first two columns of the table: a thread's name, and how many there are.
fn table() -> BTreeMap<&'static str, &'static str> {
    let text = include_str!("../../src/lib.rs");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("//! | `")?.split(" | ");
        Some((cells.next()?.strip_suffix('`')?, cells.next()?))
    });
    rows.collect()
}

/// How many of the threads of a process have each name, numbers taken off. Linux keeps 15 bytes of one.
fn running(pid: u32) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for task in files(format!("/proc/{pid}/task").as_ref()) {
        // One that has ended meanwhile has none.
        let Ok(comm) = fs::read_to_string(task.join("comm")) else {
            continue;
        };
        let name = comm.trim_end_matches(|c: char| c.is_ascii_digit() || c.is_whitespace());
        *names.entry(name.to_owned()).or_default() += 1;
    }
    names
}

/// A daemon with one program for a table and one for a filter.
fn with_programs(host: u16) -> Instance {
    let mut daemon = Setup::new("").prepare();
    for (name, text) in [
        ("table", "register|alias\nregister|ready"),
        (
            "filter",
            "register|report|smtp-in|link-connect\nregister|ready",
        ),
    ] {
        let path = daemon.path().join(name);
        let script = format!("#!/bin/sh\nread -r line\nprintf '{text}\\n'\nexec cat >/dev/null\n");
        fs::write(&path, script).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    daemon.configure(&format!(
        "table t proc:$dir/table\n\
         filter f proc-exec \"$dir/filter\"\n\
         listen on 127.0.0.1 port $port filter f\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\n\
         action \"out\" relay host \"smtp://127.0.0.1:{host}\"\n\
         match from any for domain \"in.org\" action \"in\"\n\
         match from any for any action \"out\"\n"
    ));
    daemon.start();
    daemon
}

#[test]
fn the_threads_of_an_engine_are_those_of_the_table() {
    if !cfg!(target_os = "linux") {
        return not_run(
            "the_threads_of_an_engine_are_those_of_the_table",
            "needs /proc",
        );
    }
    let host = Host::start(|_| None);
    let daemon = with_programs(host.port);
    let mut client = daemon.hello();
    client.mail("a@b.net", &["x@in.org", "x@out.org"], b"\nhi\n");
    let table = table();
    let known: BTreeSet<String> = table
        .keys()
        .map(|name| name.chars().take(15).collect())
        .collect();
    let processors = available_parallelism().expect("processors").get();
    let pid = daemon.engine_pid();
    let mut seen = BTreeSet::new();
    let mut differs = Vec::new();
    let agree = wait(|| {
        let running = running(pid);
        seen.extend(running.keys().cloned());
        let missing = |name: &str| match name {
            "local delivery" | "relay session" => !seen.contains(name),
            _ => false,
        };
        let count = |name: &str| match name {
            "proc" => running
                .iter()
                .filter(|(n, _)| n.starts_with("proc "))
                .map(|(_, n)| n)
                .sum(),
            _ => running.get(name).copied().unwrap_or(0),
        };
        let wrong = table.iter().filter(|(name, how_many)| match **how_many {
            "as needed" => missing(name),
            "one a processor" => count(name) != processors,
            "half of the processors" => count(name) != (processors / 2).max(1),
            "one a program" => count(name) != 2,
            number => number.parse() != Ok(count(name)),
        });
        differs = wrong.map(|(name, _)| (*name, count(name))).collect();
        differs.is_empty()
    });
    assert!(agree, "not as the table has them: {differs:?}");
    let unknown: Vec<&String> = seen.iter().filter(|name| !is_known(name, &known)).collect();
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");
}

/// Whether the name is in the table; that of a program's thread has the program's behind it.
fn is_known(name: &str, known: &BTreeSet<String>) -> bool {
    known.contains(name) || name.split(' ').next() == Some("proc")
}

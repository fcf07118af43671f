//! The harness of the integration tests: an instance of the daemon of its own, on loopback and in
//! a temporary directory, and clients that speak to it. Nothing of it outlives a test.
//!
//! Run as root, the daemon of an ordinary test is started as an ordinary user; tests of what only
//! root can do say so with [`root_only`].

#![allow(dead_code)]

pub mod anybody;
mod client;
pub mod exposition;
mod instance;
pub mod json;
mod namespaces;
pub mod processes;
mod setup;
pub mod tls_client;
pub mod tls_host;

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

pub use client::{Client, body, field};
pub use instance::Instance;
pub use namespaces::{can_have_network, can_have_users};
pub use setup::Setup;

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Runs a command with this standard input.
pub fn run(mut command: Command, input: &[u8]) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().expect("stdin");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("output");
    writer.join().expect("the writer");
    output
}

/// What a program has written to its standard output.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a process is there.
pub fn alive(pid: u32) -> bool {
    processes::signal(pid, "0")
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|o| o.stdout == b"0\n")
}

/// Says that a test cannot run here, and why: past the capture of what passing tests print.
pub fn not_run(test: &str, why: &str) {
    let _ = writeln!(io::stderr(), "NOT RUN: {test}: {why}");
}

/// For tests of what only root can do: says the test's name when it cannot run.
pub fn root_only(test: &str) -> bool {
    if !is_root() {
        not_run(test, "needs root");
    }
    is_root()
}

/// Waits until `condition` holds; panics when it never does.
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    assert!(wait(condition), "waited in vain for {what}");
}

/// Waits until `condition` holds, or gives up.
pub fn wait(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// The files of a directory; none when it is not there.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map_or(Vec::new(), |d| {
        d.flatten().map(|entry| entry.path()).collect()
    })
}

/// Every file below a directory.
pub fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for path in files(dir) {
        if path.is_dir() {
            all.append(&mut tree(&path))
        } else {
            all.push(path)
        }
    }
    all
}

/// Gives a tree to a user.
pub fn give(path: &Path, uid: u32) {
    chown(path, Some(uid), Some(uid)).expect("chown");
    for file in files(path) {
        give(&file, uid);
    }
}

/// The end of a long text.
pub fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(8000);
    let start = (start..text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    &text[start..]
}

/// A port that nobody has, and that no client gets either: a daemon wants it back after a restart,
/// however many connections the tests have made meanwhile.
pub fn free_port() -> u16 {
    const BELOW_CLIENTS: std::ops::Range<u64> = 2000..10_000;
    let width = BELOW_CLIENTS.end - BELOW_CLIENTS.start;
    loop {
        let port = (BELOW_CLIENTS.start + RandomState::new().hash_one(0) % width) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

//! The processes of this machine, asked for without programs that a small installation lacks.

#![allow(dead_code)]

use std::fs;
use std::process::{Command, Stdio};

/// One of them.
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub uid: u32,
    /// Its state begins with this letter; `Z` has ended.
    pub state: char,
    /// Its arguments, separated by blanks.
    pub command: String,
}

/// All of them.
pub fn all() -> Vec<Process> {
    match fs::read_dir("/proc") {
        Ok(dir) if cfg!(target_os = "linux") => dir
            .flatten()
            .filter_map(|entry| of_proc(entry.file_name().to_str()?.parse().ok()?))
            .collect(),
        _ => of_ps(),
    }
}

/// The one with this number.
pub fn find(pid: u32) -> Option<Process> {
    if cfg!(target_os = "linux") {
        of_proc(pid)
    } else {
        all().into_iter().find(|process| process.pid == pid)
    }
}

/// The children of `parent` whose command contains `text`.
pub fn children(parent: u32, text: &str) -> Vec<u32> {
    all()
        .into_iter()
        .filter(|process| process.parent == parent && process.command.contains(text))
        .map(|process| process.pid)
        .collect()
}

/// Its memory of a kind that /proc knows (`VmRSS`, `VmHWM`), in KiB; none on other systems.
pub fn memory_kib(pid: u32, kind: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(kind))?;
    line.trim_start_matches(':')
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// The descriptors that it has open; none on other systems.
pub fn descriptors(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// Sends a signal, such as `TERM` or `0`; says whether there was somebody to take it.
pub fn signal(pid: u32, name: &str) -> bool {
    Command::new("/bin/sh")
        .args(["-c", "kill -\"$0\" \"$1\"", name, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn of_proc(pid: u32) -> Option<Process> {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next().map(str::to_string)
    };
    let command = read("cmdline")?;
    Some(Process {
        pid,
        parent: field("PPid:")?.parse().ok()?,
        uid: field("Uid:")?.parse().ok()?,
        state: field("State:")?.chars().next()?,
        command: String::from_utf8_lossy(&command).replace('\0', " "),
    })
}

fn of_ps() -> Vec<Process> {
    let output = Command::new("ps")
        .args(["-A", "-ww", "-o", "pid=,ppid=,uid=,stat=,args="])
        .output()
        .expect("ps");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(line_of_ps).collect()
}

fn line_of_ps(line: &str) -> Option<Process> {
    let mut words = line.split_whitespace();
    Some(Process {
        pid: words.next()?.parse().ok()?,
        parent: words.next()?.parse().ok()?,
        uid: words.next()?.parse().ok()?,
        state: words.next()?.chars().next()?,
        command: words.collect::<Vec<_>>().join(" "),
    })
}

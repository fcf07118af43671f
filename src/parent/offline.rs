//! Messages that sendmail(8) stored while no daemon ran: found, checked, and replayed as their
//! owners.
//!
//! The directory belongs to root and the set-group-id front end writes there, so a file's owner is
//! who submitted it. Whatever else lies there (a link, a FIFO, a file with a second name, one that
//! changes between look and open) is left alone with a warning. A name that starts with a dot is a
//! file still being written, or after two days one whose writer was killed. A file that fails is
//! tried again, ever more rarely; one that is refused for good stays where it is until the next
//! start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::config::Paths;
use crate::config::paths::ROOT_VARIABLE;
use crate::log;
use crate::privsep::identity::Rights;
use crate::queue::fs::layout;
use crate::sys::creds::Identity;
use crate::sys::errno::strerror;
use crate::sys::process::{self, Ended, Pid, Spawn};
use crate::sys::{open, user};
use crate::util::sysexits;

use super::children;

/// The offline queue: what waits, what runs, what has failed.
#[derive(Debug)]
pub struct Offline {
    dir: PathBuf,
    next_scan: Instant,
    next_batch: Instant,
    scanned: bool,
    waiting: VecDeque<Candidate>,
    running: BTreeMap<Pid, Replay>,
    failed: BTreeMap<OsString, Failure>,
}

/// A file as the scan saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    name: OsString,
    uid: u32,
    gid: u32,
}

#[derive(Debug)]
struct Replay {
    name: OsString,
    deadline: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    /// When to try again; `None` for not before the next start.
    again: Option<Instant>,
    wait: Duration,
}

impl Failure {
    fn is_due(&self, now: Instant) -> bool {
        self.again.is_some_and(|again| again <= now)
    }
}

const BETWEEN_SCANS: Duration = Duration::from_secs(10);
const BETWEEN_BATCHES: Duration = Duration::from_millis(100);
const BATCH: usize = 21;
const AT_A_TIME: usize = 5;
const MOST_WAITING: usize = 1000;
const FIRST_RETRY: Duration = Duration::from_secs(60);
const LAST_RETRY: Duration = Duration::from_secs(3600);
/// An empty file may be one whose writer has just made it.
const EMPTY_FOR: Duration = Duration::from_secs(3600);
/// Exit codes that say what more attempts would only say again: the daemon refuses the message, or
/// the file holds none.
const REFUSED: [i32; 3] = [sysexits::SOFTWARE, sysexits::USAGE, sysexits::DATAERR];
/// A file that is written for longer has lost its writer.
const WRITTEN_FOR: Duration = Duration::from_secs(2 * 86400);

impl Offline {
    /// The offline queue of this spool.
    pub fn new(paths: &Paths, now: Instant) -> Offline {
        Offline {
            dir: paths.spool.join(layout::OFFLINE),
            next_scan: now,
            next_batch: now,
            scanned: false,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Scans if it is time, and starts what may be started.
    pub fn step(&mut self, paths: &Paths, rights: &Rights, now: Instant) {
        if now >= self.next_scan {
            self.next_scan = now + BETWEEN_SCANS;
            self.scanned = true;
            if let Err(error) = self.scan(now) {
                let text = strerror(&error);
                log::warn(format_args!("smtpd: {}: {text}", self.dir.display()));
            }
        }
        if now >= self.next_batch {
            self.start_batch(paths, rights, now);
        }
        for (pid, replay) in &mut self.running {
            if now >= replay.deadline {
                replay.deadline = now + BETWEEN_SCANS;
                process::kill(*pid);
            }
        }
    }

    /// When there is something to do next.
    pub fn deadline(&self) -> Instant {
        let mut next = self.next_scan;
        if !self.waiting.is_empty() && self.running.len() < AT_A_TIME {
            next = next.min(self.next_batch);
        }
        let replays = self.running.values().map(|replay| replay.deadline);
        replays.fold(next, Instant::min)
    }

    /// Whether all that the last scan found has been tried.
    pub fn is_done(&self) -> bool {
        self.scanned && self.waiting.is_empty() && self.running.is_empty()
    }

    /// The replays that run.
    pub fn pids(&self) -> Vec<Pid> {
        self.running.keys().copied().collect()
    }

    /// A replay has ended: what was accepted goes, what was not is tried again later.
    pub fn ended(&mut self, pid: Pid, how: Ended, now: Instant) {
        let Some(Replay { name, .. }) = self.running.remove(&pid) else {
            return;
        };
        let path = self.dir.join(&name);
        let cause = match how {
            Ended::Exited(0) => match fs::remove_file(&path) {
                Ok(()) => {
                    self.failed.remove(&name);
                    return;
                }
                Err(error) => format!("accepted, but not removed: {}", strerror(&error)),
            },
            Ended::Exited(code) if REFUSED.contains(&code) => {
                "was refused for good: it stays there until smtpd is started anew".to_owned()
            }
            Ended::Exited(_) => "exited abnormally".to_owned(),
            Ended::Signaled(signal) => format!("terminated; signal {signal}"),
        };
        let path = path.display();
        log::warn(format_args!(
            "smtpd: couldn't enqueue offline message {path}; smtpctl {cause}"
        ));
        match how {
            Ended::Exited(code) if REFUSED.contains(&code) => self.park(name),
            _ => self.postpone(name, now),
        }
    }

    fn park(&mut self, name: OsString) {
        let wait = LAST_RETRY;
        self.failed.insert(name, Failure { again: None, wait });
    }

    fn postpone(&mut self, name: OsString, now: Instant) {
        let wait = match self.failed.get(&name) {
            Some(failure) => (failure.wait * 2).min(LAST_RETRY),
            None => FIRST_RETRY,
        };
        let again = Some(now + wait);
        self.failed.insert(name, Failure { again, wait });
    }

    fn scan(&mut self, now: Instant) -> io::Result<()> {
        let group = fs::metadata(&self.dir)?.gid();
        let known: BTreeSet<OsString> = self
            .waiting
            .iter()
            .map(|candidate| candidate.name.clone())
            .chain(self.running.values().map(|replay| replay.name.clone()))
            .collect();
        let mut seen = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let failure = self.failed.get(&name).copied();
            if failure.is_some() {
                seen.insert(name.clone());
            }
            if name.as_bytes().starts_with(b".") {
                self.sweep(&name);
                continue;
            }
            let wanted =
                !known.contains(&name) && failure.is_none_or(|failure| failure.is_due(now));
            if wanted && self.waiting.len() < MOST_WAITING {
                self.consider(name, group, now);
            }
        }
        // What is gone needs no memory; what has just failed is not to be forgotten.
        self.failed.retain(|name, failure| {
            seen.contains(name) || failure.again.is_some_and(|again| again > now)
        });
        Ok(())
    }

    /// What a writer that was killed has left.
    fn sweep(&self, name: &OsStr) {
        let path = self.dir.join(name);
        if let Ok(found) = fs::symlink_metadata(&path)
            && found.file_type().is_file()
        {
            delete_if_old(&path, &found, WRITTEN_FOR);
        }
    }

    fn consider(&mut self, name: OsString, group: u32, now: Instant) {
        let path = self.dir.join(&name);
        // It may have gone since the directory was read.
        let Ok(found) = fs::symlink_metadata(&path) else {
            return;
        };
        match judge(&found, group) {
            Ok(()) if found.len() > 0 => self.waiting.push_back(Candidate {
                name,
                uid: found.uid(),
                gid: found.gid(),
            }),
            Ok(()) => delete_if_old(&path, &found, EMPTY_FOR),
            Err(why) => {
                let (path, uid) = (path.display(), found.uid());
                log::warn(format_args!("smtpd: file {path} (uid {uid}) {why}"));
                self.postpone(name, now);
            }
        }
    }

    fn start_batch(&mut self, paths: &Paths, rights: &Rights, now: Instant) {
        for _ in 0..BATCH {
            if self.running.len() >= AT_A_TIME {
                break;
            }
            let Some(candidate) = self.waiting.pop_front() else {
                break;
            };
            self.next_batch = now + BETWEEN_BATCHES;
            let name = candidate.name.clone();
            match replay(&self.dir, &candidate, paths, rights) {
                Ok(pid) => {
                    let deadline = now + children::DELIVERY_TIME;
                    self.running.insert(pid, Replay { name, deadline });
                }
                Err(why) => {
                    log::warn(format_args!("smtpd: {why}"));
                    self.postpone(name, now);
                }
            }
        }
    }
}

/// Whether a file may be a message.
fn judge(found: &Metadata, group: u32) -> Result<(), &'static str> {
    if !found.file_type().is_file() {
        return Err("not regular");
    }
    if found.nlink() != 1 {
        return Err("is hard-link");
    }
    if found.gid() != group {
        return Err("has the wrong group");
    }
    Ok(())
}

fn delete_if_old(path: &Path, found: &Metadata, at_least: Duration) {
    let age = found
        .modified()
        .ok()
        .and_then(|modified| SystemTime::now().duration_since(modified).ok());
    if age.is_some_and(|age| age >= at_least) {
        let _ = fs::remove_file(path);
    }
}

/// Starts the front end as the file's owner, the file as its standard input.
fn replay(
    dir: &Path,
    candidate: &Candidate,
    paths: &Paths,
    rights: &Rights,
) -> Result<Pid, String> {
    let path = dir.join(&candidate.name);
    let file = open_checked(&path, candidate)?;
    let owner = user::by_uid(candidate.uid)
        .ok()
        .flatten()
        .ok_or_else(|| format!("getpwuid for uid {} failed", candidate.uid))?;
    let identity = match rights {
        Rights::Root { .. } => Some(Identity::alone(owner.uid, owner.gid)),
        Rights::User { uid, .. } if *uid == candidate.uid => None,
        Rights::User { .. } => {
            let path = path.display();
            return Err(format!("file {path} belongs to uid {}", candidate.uid));
        }
    };
    launch(&file, identity, &owner.home, paths).map_err(|error| {
        let (path, error) = (path.display(), strerror(&error));
        format!("could not add offline message {path}: {error}")
    })
}

fn launch(file: &File, identity: Option<Identity>, home: &Path, paths: &Paths) -> io::Result<Pid> {
    let null = fs::OpenOptions::new().write(true).open("/dev/null")?;
    let stderr = io::stderr();
    let mut env = vec![CString::from(c"PATH=/usr/bin:/bin")];
    if let Some(root) = &paths.root {
        env.push(variable(ROOT_VARIABLE, root.as_os_str())?);
    }
    process::spawn(&Spawn {
        program: CString::new(paths.smtpctl.as_os_str().as_bytes())?,
        argv: vec![c"sendmail".into(), c"--replay".into()],
        env,
        fds: vec![file.as_fd(), null.as_fd(), stderr.as_fd()],
        identity,
        dirs: vec![CString::new(home.as_os_str().as_bytes())?, c"/".into()],
        umask: 0o077,
    })
}

fn variable(name: &str, value: &OsStr) -> io::Result<CString> {
    let text = [name.as_bytes(), b"=", value.as_bytes()].concat();
    Ok(CString::new(text)?)
}

/// Opens what the scan saw, or nothing: the file may have been changed for another in between.
fn open_checked(path: &Path, candidate: &Candidate) -> Result<File, String> {
    let shown = path.display();
    let opened = open::foreign(path).and_then(|file| {
        let found = file.metadata()?;
        Ok((file, found))
    });
    let (file, found) = opened.map_err(|error| {
        let error = strerror(&error);
        format!("could not add offline message {shown}: {error}")
    })?;
    let uid = found.uid();
    if !found.file_type().is_file() {
        return Err(format!("file {shown} (uid {uid}) not regular"));
    }
    if found.nlink() != 1 {
        return Err(format!("file {shown} is hard-link"));
    }
    if uid != candidate.uid {
        return Err(format!("file {shown} has bad uid {uid}"));
    }
    if found.gid() != candidate.gid {
        return Err(format!("file {shown} has bad gid {}", found.gid()));
    }
    Ok(file)
}

#[cfg(test)]
mod tests;

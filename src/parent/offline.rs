//! Messages that sendmail(8) stored while the daemon did not take them: found, checked, and
//! replayed as their owners.
//!
//! The directory belongs to root and the set-group-id front end writes there, so a file's owner is
//! who submitted it. Whatever else lies there (a link, a FIFO, a file with a second name, one that
//! changes between look and open) is left alone with a warning. A name that starts with a dot is a
//! file still being written, or after two days one whose writer was killed.
//!
//! Each owner has a line, and the lines take turns: however many files one has, and however slow or
//! stuck his replays are, another's message goes at the next turn. A file that fails is tried
//! again, ever more rarely, each time with what the replay says in the log; it never goes untold.
//! While the daemon takes nothing from an owner, his line waits and no file's failure is counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, Metadata, ReadDir};
use std::io::{self, PipeReader, Read};
use std::ops::Bound;
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
use crate::sys::descriptors::set_nonblocking;
use crate::sys::errno::strerror;
use crate::sys::process::{self, Ended, Pid, Spawn};
use crate::sys::{open, user};
use crate::util::{Line, sysexits};

/// The offline queue: what waits, what runs, what has failed.
#[derive(Debug)]
pub struct Offline {
    dir: PathBuf,
    next_scan: Instant,
    next_batch: Instant,
    scan: Option<Scan>,
    scanned: bool,
    lines: BTreeMap<u32, OwnersLine>,
    /// Whose turn was the last.
    turn: u32,
    waiting: usize,
    running: BTreeMap<Pid, Replay>,
    /// What waits or runs.
    known: BTreeSet<OsString>,
    failed: BTreeMap<OsString, Retry>,
}

/// A reading of the directory that is under way.
#[derive(Debug)]
struct Scan {
    entries: ReadDir,
    group: u32,
    /// The failed that are still there.
    failed: BTreeSet<OsString>,
}

/// What waits of one owner.
#[derive(Debug, Default)]
struct OwnersLine {
    waiting: VecDeque<Candidate>,
    /// The last scan has seen more than there was room for.
    passed_over: bool,
    running: usize,
    not_before: Option<Instant>,
}

impl OwnersLine {
    fn may_start(&self, now: Instant) -> bool {
        !self.waiting.is_empty()
            && self.running < AT_A_TIME_PER_OWNER
            && self.not_before.is_none_or(|at| at <= now)
    }
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
    candidate: Candidate,
    deadline: Instant,
    words: PipeReader,
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    again: Instant,
    wait: Duration,
}

const BETWEEN_SCANS: Duration = Duration::from_secs(10);
const BETWEEN_BATCHES: Duration = Duration::from_millis(100);
/// Names looked at before the parent does something else.
const LOOKED_AT_ONCE: usize = 500;
/// Processes started before the parent does something else.
const BATCH: usize = 20;
const AT_A_TIME: usize = 40;
const AT_A_TIME_PER_OWNER: usize = 5;
const MOST_WAITING: usize = 20_000;
const MOST_WAITING_PER_OWNER: usize = 200;
const MOST_FAILED: usize = 100_000;
const FIRST_RETRY: Duration = Duration::from_secs(60);
const LAST_RETRY: Duration = Duration::from_secs(3600);
/// How long a replay may take. One that is ended between the end of its message and the reply, for
/// which it waits ten minutes, does not know that the daemon has it: the front end ends no message
/// so late.
pub const REPLAY_TIME: Duration = Duration::from_secs(900);
/// The daemon took nothing; that may be over soon.
const NOT_TAKEN_RETRY: Duration = Duration::from_secs(5);
/// What cannot be understood is looked at again for the sake of the log.
const NO_MESSAGE_RETRY: Duration = Duration::from_secs(86_400);
/// An empty file may be one whose writer has just made it.
const EMPTY_FOR: Duration = Duration::from_secs(3600);
/// Exit codes that say that the file holds no message.
const NO_MESSAGE: [i32; 2] = [sysexits::USAGE, sysexits::DATAERR];
/// A file that is written for longer has lost its writer.
const WRITTEN_FOR: Duration = Duration::from_secs(2 * 86400);
/// Most of a replay's words that are logged, in bytes.
const MOST_WORDS: u64 = 1024;

impl Offline {
    /// The offline queue of this spool.
    pub fn new(paths: &Paths, now: Instant) -> Offline {
        Offline {
            dir: paths.spool.join(layout::OFFLINE),
            next_scan: now,
            next_batch: now,
            scan: None,
            scanned: false,
            lines: BTreeMap::new(),
            turn: 0,
            waiting: 0,
            running: BTreeMap::new(),
            known: BTreeSet::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Goes on with a scan if it is time, and starts what may be started.
    pub fn step(&mut self, paths: &Paths, rights: &Rights, now: Instant) {
        if now >= self.next_scan
            && let Err(error) = self.look(now)
        {
            self.scan = None;
            self.next_scan = now + BETWEEN_SCANS;
            self.scanned = true;
            let text = strerror(&error);
            log::warn(format_args!("smtpd: {}: {text}", self.dir.display()));
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
        if self.running.len() < AT_A_TIME {
            let lines = self.lines.values();
            let ready =
                lines.filter(|line| !line.waiting.is_empty() && line.running < AT_A_TIME_PER_OWNER);
            let start = ready.map(|line| {
                line.not_before
                    .map_or(self.next_batch, |at| at.max(self.next_batch))
            });
            next = start.fold(next, Instant::min);
        }
        let replays = self.running.values().map(|replay| replay.deadline);
        replays.fold(next, Instant::min)
    }

    /// Whether all that the last scan saw has been tried, but for owners from whom the daemon takes
    /// nothing.
    pub fn is_done(&self) -> bool {
        let is_settled = |line: &OwnersLine| line.waiting.is_empty() && !line.passed_over;
        let mut lines = self.lines.values();
        self.scanned
            && self.scan.is_none()
            && self.running.is_empty()
            && lines.all(|line| is_settled(line) || line.not_before.is_some())
    }

    /// The replays that run.
    pub fn pids(&self) -> Vec<Pid> {
        self.running.keys().copied().collect()
    }

    /// A replay has ended: what is settled goes, what is not is tried again later.
    pub fn ended(&mut self, pid: Pid, how: Ended, now: Instant) {
        let Some(replay) = self.running.remove(&pid) else {
            return;
        };
        let Replay {
            candidate, words, ..
        } = replay;
        let name = candidate.name.clone();
        self.known.remove(&name);
        if let Some(line) = self.lines.get_mut(&candidate.uid) {
            line.running -= 1;
            line.not_before = None;
        }
        let path = self.dir.join(&name);
        let words = last_words(words);
        let cause = match how {
            Ended::Exited(sysexits::OK) => match fs::remove_file(&path) {
                Ok(()) => {
                    self.failed.remove(&name);
                    if !words.is_empty() {
                        let path = path.display();
                        log::warn(format_args!("smtpd: offline message {path}: {words}"));
                    }
                    return;
                }
                Err(error) => format!("accepted, but not removed: {}", strerror(&error)),
            },
            Ended::Exited(_) if words.is_empty() => "exited abnormally".to_owned(),
            Ended::Exited(_) => words,
            Ended::Signaled(signal) => format!("terminated; signal {signal}"),
        };
        let path = path.display();
        log::warn(format_args!(
            "smtpd: couldn't enqueue offline message {path}; smtpctl {cause}"
        ));
        match how {
            Ended::Exited(sysexits::UNAVAILABLE) => self.wait_again(candidate, now),
            Ended::Exited(code) if NO_MESSAGE.contains(&code) => {
                self.postpone(name, now, NO_MESSAGE_RETRY);
            }
            _ => self.put_off(name, now),
        }
    }

    /// Tried again after twice the time of the last failure.
    fn put_off(&mut self, name: OsString, now: Instant) {
        let wait = match self.failed.get(&name) {
            Some(failure) => (failure.wait * 2).clamp(FIRST_RETRY, LAST_RETRY),
            None => FIRST_RETRY,
        };
        self.postpone(name, now, wait);
    }

    fn postpone(&mut self, name: OsString, now: Instant, wait: Duration) {
        let again = now + wait;
        // A file that is not remembered is tried at every scan.
        if self.failed.len() < MOST_FAILED || self.failed.contains_key(&name) {
            self.failed.insert(name, Retry { again, wait });
        }
    }

    /// Looks at some names of the directory; the scan begins when there is none under way.
    fn look(&mut self, now: Instant) -> io::Result<()> {
        let mut scan = match self.scan.take() {
            Some(scan) => scan,
            None => {
                for line in self.lines.values_mut() {
                    line.passed_over = false;
                }
                Scan {
                    entries: fs::read_dir(&self.dir)?,
                    group: fs::metadata(&self.dir)?.gid(),
                    failed: BTreeSet::new(),
                }
            }
        };
        for _ in 0..LOOKED_AT_ONCE {
            let Some(entry) = scan.entries.next() else {
                // What is gone needs no memory; what has just failed is not to be forgotten.
                self.failed
                    .retain(|name, failure| scan.failed.contains(name) || failure.again > now);
                self.next_scan = now + BETWEEN_SCANS;
                self.scanned = true;
                return Ok(());
            };
            let name = entry?.file_name();
            if name.as_bytes().starts_with(b".") {
                self.sweep(&name);
                continue;
            }
            let failure = self.failed.get(&name).copied();
            if failure.is_some() {
                scan.failed.insert(name.clone());
            }
            let wanted =
                !self.known.contains(&name) && failure.is_none_or(|failure| failure.again <= now);
            if wanted {
                self.consider(name, scan.group, now);
            }
        }
        self.scan = Some(scan);
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
            Ok(()) if found.len() > 0 => self.wait(Candidate {
                name,
                uid: found.uid(),
                gid: found.gid(),
            }),
            Ok(()) => delete_if_old(&path, &found, EMPTY_FOR),
            Err(why) => {
                let (path, uid) = (path.display(), found.uid());
                log::warn(format_args!("smtpd: file {path} (uid {uid}) {why}"));
                self.put_off(name, now);
            }
        }
    }

    /// What finds no room is found again by a later scan.
    fn wait(&mut self, candidate: Candidate) {
        let line = self.lines.entry(candidate.uid).or_default();
        if self.waiting < MOST_WAITING && line.waiting.len() < MOST_WAITING_PER_OWNER {
            self.known.insert(candidate.name.clone());
            line.waiting.push_back(candidate);
            self.waiting += 1;
        } else {
            line.passed_over = true;
        }
    }

    /// The daemon took nothing: it is no failure of this file, and the others of its owner wait,
    /// too.
    fn wait_again(&mut self, candidate: Candidate, now: Instant) {
        if let Some(line) = self.lines.get_mut(&candidate.uid) {
            line.not_before = Some(now + NOT_TAKEN_RETRY);
            self.known.insert(candidate.name.clone());
            line.waiting.push_front(candidate);
            self.waiting += 1;
        }
    }

    fn start_batch(&mut self, paths: &Paths, rights: &Rights, now: Instant) {
        self.lines
            .retain(|_, line| line.running > 0 || !line.waiting.is_empty() || line.passed_over);
        for _ in 0..BATCH {
            if self.running.len() >= AT_A_TIME {
                break;
            }
            let Some(candidate) = self.next_in_turn(now) else {
                break;
            };
            self.next_batch = now + BETWEEN_BATCHES;
            match replay(&self.dir, &candidate, paths, rights) {
                Ok((pid, words)) => {
                    if let Some(line) = self.lines.get_mut(&candidate.uid) {
                        line.running += 1;
                    }
                    let deadline = now + REPLAY_TIME;
                    let replay = Replay {
                        candidate,
                        deadline,
                        words,
                    };
                    self.running.insert(pid, replay);
                }
                Err(why) => {
                    log::warn(format_args!("smtpd: {why}"));
                    self.known.remove(&candidate.name);
                    self.put_off(candidate.name, now);
                }
            }
        }
    }

    /// The first of the next line that may start one.
    fn next_in_turn(&mut self, now: Instant) -> Option<Candidate> {
        let after = (Bound::Excluded(self.turn), Bound::Unbounded);
        let up_to = (Bound::Unbounded, Bound::Included(self.turn));
        let mut lines = self.lines.range(after).chain(self.lines.range(up_to));
        let (uid, _) = lines.find(|(_, line)| line.may_start(now))?;
        self.turn = *uid;
        let line = self.lines.get_mut(&self.turn)?;
        let candidate = line.waiting.pop_front()?;
        self.waiting -= 1;
        if line.waiting.is_empty() && line.passed_over {
            // There is room for the others.
            self.next_scan = now;
        }
        Some(candidate)
    }
}

/// What a replay has said, on one line: whoever wrote the message may have had a hand in it. Nobody
/// is waited for.
fn last_words(mut words: PipeReader) -> String {
    let mut bytes = Vec::new();
    if set_nonblocking(words.as_fd()).is_ok() {
        // What was read before an error is worth as much as without one.
        let _ = words.by_ref().take(MOST_WORDS).read_to_end(&mut bytes);
    }
    let text = Line::sanitize(bytes.trim_ascii()).to_string();
    text.strip_prefix("sendmail: ")
        .map_or(text.clone(), str::to_owned)
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

/// Starts the front end as the file's owner, the file, in which it marks whom it has settled, as
/// its standard input, and a pipe as its standard error.
fn replay(
    dir: &Path,
    candidate: &Candidate,
    paths: &Paths,
    rights: &Rights,
) -> Result<(Pid, PipeReader), String> {
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

fn launch(
    file: &File,
    identity: Option<Identity>,
    home: &Path,
    paths: &Paths,
) -> io::Result<(Pid, PipeReader)> {
    let null = fs::OpenOptions::new().write(true).open("/dev/null")?;
    let (words, stderr) = io::pipe()?;
    let mut env = vec![CString::from(c"PATH=/usr/bin:/bin")];
    if let Some(root) = &paths.root {
        env.push(variable(ROOT_VARIABLE, root.as_os_str())?);
    }
    let pid = process::spawn(&Spawn {
        program: CString::new(paths.smtpctl.as_os_str().as_bytes())?,
        argv: vec![c"sendmail".into(), c"--replay".into()],
        env,
        fds: vec![file.as_fd(), null.as_fd(), stderr.as_fd()],
        identity,
        dirs: vec![CString::new(home.as_os_str().as_bytes())?, c"/".into()],
        umask: 0o077,
    })?;
    Ok((pid, words))
}

fn variable(name: &str, value: &OsStr) -> io::Result<CString> {
    let text = [name.as_bytes(), b"=", value.as_bytes()].concat();
    Ok(CString::new(text)?)
}

/// Opens what the scan saw, or nothing: the file may have been changed for another in between.
fn open_checked(path: &Path, candidate: &Candidate) -> Result<File, String> {
    let shown = path.display();
    let opened = open::foreign_to_mark(path).and_then(|file| {
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

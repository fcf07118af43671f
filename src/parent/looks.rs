//! Looks for a .forward in a home that may not answer: each is made by a child of its own,
//! `smtpd -x forward`, which is the owner.
//!
//! Whoever touches a file system of another machine, or of a process, waits for that, and may wait
//! for ever. So the parent does not: not with the home, nor with a file out of it, which could hold
//! up even whoever closes it. The child says what it has found and what is in the file, and ends.
//! It may be in the hands of its owner, who decides what is in the file anyhow: what it says comes
//! through a pipe, is bounded, and is carried on unread.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::privsep::forward_file::{self, FILE_BYTES, Verdict};
use crate::privsep::identity::Rights;
use crate::sys::creds::Identity;
use crate::sys::descriptors::set_nonblocking;
use crate::sys::errno::strerror;
use crate::sys::process::{self, Ended, Pid, Spawn};
use crate::sys::user::User;
use crate::sys::{open, title, user};
use crate::util::sysexits;
use crate::util::wire::{Cut, Wire, wire};

use super::auth::Asked;
use super::forward::{Opened, told};

/// The looks that are under way.
#[derive(Debug, Default)]
pub struct Looks {
    running: BTreeMap<Pid, Look>,
    /// Homes that have not answered, and until when nobody looks at them.
    silent: BTreeMap<Place, Instant>,
}

/// A home, and with whose rights it is looked at.
type Place = (PathBuf, u32, u32);

#[derive(Debug)]
struct Look {
    owner: User,
    /// Who waits for it.
    asked: Vec<Asked>,
    since: Instant,
    /// When it is killed again, once it has been: nobody waits for it any more.
    again: Option<Instant>,
    /// The log has been told that the home does not answer.
    logged: bool,
    words: PipeReader,
}

/// What is to be done about looks that take too long.
#[derive(Debug, Default)]
pub struct Overdue {
    /// Children to be killed. They stay until they have ended.
    pub kill: Vec<Pid>,
    /// Who has waited for long enough, and what to answer.
    pub give_up: Vec<(Asked, String)>,
    /// Lines for the log: one for each look.
    pub log: Vec<String>,
}

/// What a child says.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    NoFile,
    NoHome(String),
    Text(Vec<u8>),
    Unusable(String),
}

wire! {
    enum Told {
        1 = NoFile,
        2 = NoHome(why as Cut<TEXT_MAX>),
        3 = Text(bytes),
        4 = Unusable(why as Cut<TEXT_MAX>),
    }
}

/// Looks at a time, whatever the engine thinks; and as many more that were killed and do not end.
const MOST: usize = 64;
/// Looks with the rights of one user, counted in the same way.
const MOST_OF_ONE: usize = 32;
/// Who may wait for one look.
const MOST_ASKED: usize = 64;
/// How long one may take: a little less than the engine waits.
const TIME: Duration = Duration::from_secs(8);
/// How long one is waited for while more than [`MANY`] wait: so many of the engine's threads that
/// look recipients up, half of them, are left for others. It goes on alone: a disk that has to
/// spin up, or an automounter, is ready for who comes next.
const TIME_OF_MANY: Duration = Duration::from_secs(1);
const MANY: usize = 8;
/// A child that was killed and is still there is killed again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// How long nobody looks at a home that has not answered.
const SILENCE: Duration = Duration::from_secs(30);
/// Homes that have not answered, of which that is remembered.
const MOST_SILENT: usize = 1024;
const TEXT_MAX: usize = 1024;
/// Longest words of a child, in bytes.
const WORDS_MAX: u64 = FILE_BYTES + TEXT_MAX as u64;
const NO_ANSWER: &str = "the home directory does not answer";

impl Looks {
    /// Starts a look, or waits for one that has begun. An error is why nobody looks now.
    pub fn start(
        &mut self,
        (exe, rights): (&Path, &Rights),
        owner: &User,
        asked: Asked,
        now: Instant,
    ) -> Result<(), String> {
        let place = place(owner);
        if self.silent.get(&place).is_some_and(|until| *until > now) {
            return Err(NO_ANSWER.to_owned());
        }
        let mut looks = self.running.values_mut();
        if let Some(look) = looks.find(|look| self::place(&look.owner) == place) {
            // Nobody waits for a child that was killed and does not end.
            return match look.asked.len() {
                _ if look.again.is_some() => Err(NO_ANSWER.to_owned()),
                MOST_ASKED.. => Err("too many wait for the home directory".to_owned()),
                _ => {
                    look.asked.push(asked);
                    Ok(())
                }
            };
        }
        self.make_room(owner.uid, now)?;
        let (pid, words) = launch(exe, rights, owner)
            .map_err(|error| format!("cannot look for a .forward: {}", strerror(&error)))?;
        let look = Look {
            owner: owner.clone(),
            asked: vec![asked],
            since: now,
            again: None,
            logged: false,
            words,
        };
        self.running.insert(pid, look);
        Ok(())
    }

    /// Room for one more look with the rights of `uid`: where there is none, the oldest that nobody
    /// waits for is ended. Homes of a file server that is gone leave the places to others in this
    /// way. What was killed and does not end is counted apart, or it would soon have all places.
    fn make_room(&mut self, uid: u32, now: Instant) -> Result<(), String> {
        let full = |killed| {
            let looks = self.running.values();
            let looks = looks.filter(|look| look.again.is_some() == killed);
            let of_one = looks.clone().filter(|look| look.owner.uid == uid);
            let of_one = of_one.count() >= MOST_OF_ONE;
            (of_one || looks.count() >= MOST, of_one)
        };
        if full(true).0 {
            return Err("too many home directories do not answer".to_owned());
        }
        let (full, of_one) = full(false);
        if !full {
            return Ok(());
        }
        let looks = self.running.iter_mut().filter(|(_, look)| {
            look.again.is_none() && look.asked.is_empty() && (!of_one || look.owner.uid == uid)
        });
        let Some((pid, look)) = looks.min_by_key(|(_, look)| look.since) else {
            return Err("too many home directories are being looked at".to_owned());
        };
        process::kill(*pid);
        look.was_killed(&mut self.silent, now);
        Ok(())
    }

    /// What is overdue now.
    pub fn overdue(&mut self, now: Instant) -> Overdue {
        let mut overdue = Overdue::default();
        let time = self.time();
        for (pid, look) in &mut self.running {
            if look.until(time) > now {
                continue;
            }
            if !look.asked.is_empty() {
                let why = format!("{}: {NO_ANSWER}", look.owner.home.display());
                for asked in look.asked.drain(..) {
                    overdue.give_up.push((asked, why.clone()));
                }
                // Others may come to wait for it, and be given up as well.
                if !std::mem::replace(&mut look.logged, true) {
                    overdue.log.push(why);
                }
            }
            if look.until(TIME) > now {
                continue;
            }
            overdue.kill.push(*pid);
            look.was_killed(&mut self.silent, now);
        }
        overdue
    }

    /// The engine has ended that all of them have asked for: nobody waits.
    pub fn forget_askers(&mut self) {
        self.running
            .values_mut()
            .for_each(|look| look.asked.clear());
    }

    /// A child has ended: what it has found, for each who waits for it. What is passed on lies in
    /// `dir` if it has to lie anywhere.
    pub fn ended(&mut self, pid: Pid, how: Ended, dir: &Path) -> Vec<(Asked, Opened)> {
        let Some(look) = self.running.remove(&pid) else {
            return Vec::new();
        };
        if look.asked.is_empty() {
            return Vec::new();
        }
        let home = look.owner.home.display();
        let found = match (how, words(look.words)) {
            (Ended::Exited(0), Some(found)) => found,
            (Ended::Exited(code), _) => Told::Unusable(format!(
                "{home}: looking for a .forward ended with code {code}"
            )),
            (Ended::Signaled(signal), _) => Told::Unusable(format!(
                "{home}: looking for a .forward ended by signal {signal}"
            )),
        };
        let verdict = match &found {
            Told::NoFile | Told::Text(_) => Ok(Verdict::None),
            Told::NoHome(why) => Ok(Verdict::NoHome(why.clone())),
            Told::Unusable(why) => Err(why.clone()),
        };
        let opened = told(&look.owner, verdict, None);
        let each = look.asked.into_iter().map(|asked| {
            let opened = match (&found, &opened) {
                (Told::Text(bytes), _) => as_file(bytes, dir),
                (_, Opened::Unusable(why)) => Opened::Unusable(why.clone()),
                _ => Opened::Absent(None),
            };
            (asked, opened)
        });
        each.collect()
    }

    /// The processes of all looks.
    pub fn pids(&self) -> Vec<Pid> {
        self.running.keys().copied().collect()
    }

    /// When something is overdue.
    pub fn deadline(&self) -> Option<Instant> {
        let time = self.time();
        self.running.values().map(|look| look.until(time)).min()
    }

    /// How long a look is waited for now.
    fn time(&self) -> Duration {
        let waiting: usize = self.running.values().map(|look| look.asked.len()).sum();
        if waiting > MANY { TIME_OF_MANY } else { TIME }
    }
}

impl Look {
    /// When it is overdue, if those who wait for it do so for this time.
    fn until(&self, time: Duration) -> Instant {
        let time = if self.asked.is_empty() { TIME } else { time };
        self.again.unwrap_or(self.since + time)
    }

    /// The first time, its home becomes one that has not answered.
    fn was_killed(&mut self, silent: &mut BTreeMap<Place, Instant>, now: Instant) {
        if self.again.replace(now + AGAIN).is_none() {
            silent.retain(|_, until| *until > now);
            if silent.len() < MOST_SILENT {
                silent.insert(place(&self.owner), now + SILENCE);
            }
        }
    }
}

fn place(owner: &User) -> Place {
    (owner.home.clone(), owner.uid, owner.gid)
}

/// What the child has said, all of it and nothing else. Nobody is waited for.
fn words(words: PipeReader) -> Option<Told> {
    let mut bytes = Vec::new();
    set_nonblocking(words.as_fd()).ok()?;
    // Somebody else may hold the other end and keep silent.
    let read = words.take(WORDS_MAX + 1).read_to_end(&mut bytes);
    match read {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => None,
        _ => Told::from_bytes(&bytes).ok(),
    }
}

/// A file of ours with these bytes in it, for the engine.
fn as_file(bytes: &[u8], dir: &Path) -> Opened {
    let made = open::to_pass_on(dir, bytes).and_then(|mut file| {
        file.rewind()?;
        Ok(file)
    });
    match made {
        Ok(file) => Opened::File(file),
        Err(error) => Opened::Unusable(strerror(&error)),
    }
}

fn launch(exe: &Path, rights: &Rights, owner: &User) -> io::Result<(Pid, PipeReader)> {
    let (words, theirs) = io::pipe()?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    let stderr = io::stderr();
    let exe = CString::new(exe.as_os_str().as_bytes())?;
    let home = CString::new(owner.home.as_os_str().as_bytes())?;
    let pid = process::spawn(&Spawn {
        program: exe.clone(),
        argv: vec![exe, c"-x".into(), c"forward".into(), c"--".into(), home],
        env: Vec::new(),
        fds: vec![null.as_fd(), null.as_fd(), stderr.as_fd(), theirs.as_fd()],
        identity: rights
            .is_root()
            .then(|| Identity::alone(owner.uid, owner.gid)),
        dirs: vec![c"/".into()],
        umask: 0o077,
    })?;
    Ok((pid, words))
}

/// The child, `smtpd -x forward -- HOME`: what to exit with.
pub fn run(words: &[String]) -> i32 {
    title::set("smtpd: forward");
    let [home] = words else {
        return sysexits::USAGE;
    };
    let said = process::inherited().and_then(|wire| {
        let found = look(Path::new(home), user::effective_uid());
        File::from(wire).write_all(&found.to_bytes())
    });
    match said {
        Ok(()) => sysexits::OK,
        Err(_) => sysexits::OSERR,
    }
}

fn look(home: &Path, uid: u32) -> Told {
    match forward_file::open(home, uid) {
        Ok(Verdict::None) => Told::NoFile,
        Ok(Verdict::NoHome(why)) => Told::NoHome(why),
        Ok(Verdict::File(file)) => {
            let mut bytes = Vec::new();
            // One that is too long is found to be so by whoever reads it.
            match file.take(FILE_BYTES).read_to_end(&mut bytes) {
                Ok(_) => Told::Text(bytes),
                Err(error) => Told::Unusable(format!(
                    "{}: {}",
                    home.join(forward_file::NAME).display(),
                    strerror(&error)
                )),
            }
        }
        Err(why) => Told::Unusable(why),
    }
}

#[cfg(test)]
mod tests;

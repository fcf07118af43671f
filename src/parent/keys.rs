//! The process that holds the private keys: `smtpd -x keys`, where the configuration has any.
//!
//! The parent reads the files, which are root's, once; it hands the keys to the process, and to
//! each engine a socket to it. A process that dies is started again, and the engine gets a new
//! socket.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::log::{self, Target};
use crate::privsep::keys::{KEY_MAX, key_packet};
use crate::sys::errno::strerror;
use crate::sys::fdpass::{self, Wait};
use crate::sys::open;
use crate::sys::process::{self, Ended, Pid, Spawn};

use super::Options;
use crate::util::backoff::Backoff;

/// How long the process of an old configuration stays.
const HANDSHAKES: Duration = Duration::from_secs(60);
/// How long a new process may take to start and to read its keys, which do not all fit the socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// The keys, and the process that has them too.
pub struct Keeper {
    keys: Vec<(String, Vec<u8>)>,
    process: Process,
    /// Processes of configurations that are no longer in use.
    retired: Vec<Retired>,
    backoff: Backoff,
}

struct Retired {
    pid: Pid,
    /// Closed, it makes the process end.
    wire: Option<OwnedFd>,
    until: Instant,
}

enum Process {
    Runs {
        pid: Pid,
        wire: OwnedFd,
        since: Instant,
    },
    Starts(Instant),
}

impl Keeper {
    /// Reads the keys of all `pki`. Their files have been looked at already.
    pub fn load(config: &Config) -> Result<Keeper, String> {
        let mut keys = Vec::new();
        for (name, pki) in &config.pki {
            let Some(path) = &pki.key else { continue };
            let pem = open::plain(path)
                .and_then(|file| open::read_within(file, KEY_MAX as u64))
                .map_err(|error| {
                    let (path, why) = (path.display(), strerror(&error));
                    format!("pki {name}: failed to load key file {path}: {why}")
                })?;
            keys.push((name.clone(), pem));
        }
        Ok(Keeper {
            keys,
            process: Process::Starts(Instant::now()),
            retired: Vec::new(),
            backoff: Backoff::default(),
        })
    }

    /// Whether the keys are the same.
    pub fn has_those_of(&self, other: &Keeper) -> bool {
        self.keys == other.keys
    }

    /// Starts the process at once, if there are keys.
    pub fn start_now(&mut self, options: &Options) -> Result<(), String> {
        if !self.keys.is_empty() && !self.step(options, Instant::now()) {
            return Err("the process that holds the private keys cannot be started".to_owned());
        }
        Ok(())
    }

    /// Another configuration's keys, with their process, take the place of these.
    pub fn replace(&mut self, next: Keeper, now: Instant) {
        let old = std::mem::replace(self, next);
        self.retire(old, now + HANDSHAKES);
    }

    /// The process of other keys is to end then.
    pub fn retire(&mut self, mut other: Keeper, until: Instant) {
        self.retired.append(&mut other.retired);
        if let Process::Runs { pid, wire, .. } = other.process {
            self.retired.push(Retired {
                pid,
                wire: Some(wire),
                until,
            });
        }
    }

    /// Lets those that were retired end, and forgets those that have.
    pub fn reap_retired(&mut self, now: Instant, has_ended: impl Fn(Pid) -> bool) {
        for process in &mut self.retired {
            process.wire.take_if(|_| process.until <= now);
        }
        self.retired.retain(|process| !has_ended(process.pid));
    }

    /// Starts the process if that is due, and says whether it did: then the engine wants a socket.
    pub fn step(&mut self, options: &Options, now: Instant) -> bool {
        let due = matches!(self.process, Process::Starts(when) if when <= now);
        if self.keys.is_empty() || !due {
            return false;
        }
        let started = self.start(options).and_then(|(pid, wire)| {
            let given = self.give_keys(&wire);
            if given.is_err() {
                process::kill(pid);
                self.retired.push(Retired {
                    pid,
                    wire: None,
                    until: now,
                });
            }
            given.map(|()| (pid, wire))
        });
        match started {
            Ok((pid, wire)) => {
                self.process = Process::Runs {
                    pid,
                    wire,
                    since: now,
                };
                true
            }
            Err(error) => {
                log::warn(format_args!("cannot start keys: {}", strerror(&error)));
                self.process = Process::Starts(now + self.backoff.died(Duration::ZERO));
                false
            }
        }
    }

    /// A socket to the process, for an engine. `None` where there is none: an engine that comes
    /// before it gets one later.
    pub fn socket(&self) -> io::Result<Option<OwnedFd>> {
        let Process::Runs { wire, .. } = &self.process else {
            return Ok(None);
        };
        let (engine, theirs) = fdpass::pair()?;
        // It may still be reading keys.
        let wait = Wait::Until(Instant::now() + PATIENCE);
        fdpass::send(wire.as_fd(), b"", &[theirs.as_fd()], wait)?;
        Ok(Some(engine))
    }

    /// The process that holds the keys, while it runs.
    pub fn pid(&self) -> Option<Pid> {
        match self.process {
            Process::Runs { pid, .. } => Some(pid),
            Process::Starts(_) => None,
        }
    }

    /// Whether a process is that one, or one of those that were retired.
    pub fn is_ours(&self, pid: Pid) -> bool {
        self.pid() == Some(pid) || self.retired.iter().any(|process| process.pid == pid)
    }

    /// When it is to be started.
    pub fn deadline(&self) -> Option<Instant> {
        match self.process {
            Process::Starts(when) if !self.keys.is_empty() => Some(when),
            _ => None,
        }
    }

    /// Notes that the process has ended, which it does by itself only when we are gone.
    pub fn ended(&mut self, how: Ended, now: Instant) {
        let Process::Runs { since, .. } = self.process else {
            return;
        };
        match how {
            Ended::Exited(_) => log::warn(format_args!("lost child: keys exited abnormally")),
            Ended::Signaled(signal) => {
                log::warn(format_args!("lost child: keys terminated; signal {signal}"));
            }
        }
        let lived = now.saturating_duration_since(since);
        self.process = Process::Starts(now + self.backoff.died(lived));
    }

    fn start(&self, options: &Options) -> io::Result<(Pid, OwnedFd)> {
        let (ours, theirs) = fdpass::pair()?;
        let null = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        let stderr = io::stderr();
        let mut argv = vec![
            CString::new(options.exe.as_os_str().as_bytes())?,
            c"-x".into(),
            c"keys".into(),
            match options.log {
                Target::Stderr => c"-d".into(),
                Target::Syslog => c"-F".into(),
            },
        ];
        if log::is_json() {
            argv.extend([c"-L".into(), c"json".into()]);
        }
        if let Some(root) = &options.paths.root {
            argv.push(c"-R".into());
            argv.push(CString::new(root.as_os_str().as_bytes())?);
        }
        let pid = process::spawn(&Spawn {
            program: CString::new(options.exe.as_os_str().as_bytes())?,
            argv,
            env: Vec::new(),
            fds: vec![null.as_fd(), null.as_fd(), stderr.as_fd(), theirs.as_fd()],
            identity: None,
            dirs: vec![c"/".into()],
            umask: 0o077,
        })?;
        // Open here, it would hide that the process has gone.
        drop(theirs);
        Ok((pid, ours))
    }

    fn give_keys(&self, wire: &OwnedFd) -> io::Result<()> {
        let wait = Wait::Until(Instant::now() + PATIENCE);
        for (name, pem) in &self.keys {
            fdpass::send(wire.as_fd(), &key_packet(name, pem), &[], wait)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Paths;
    use crate::parent::Ground;

    /// Three hundred keys, and what a daemon has that runs this shell script.
    fn keeper(dir: &Path, script: &str) -> (Keeper, Options) {
        let paths = Paths::under(dir);
        let exe = dir.join("smtpd");
        // Written by another process: one that this process has open for writing, or that a child
        // of another test has inherited, cannot be run.
        let written = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh"])
            .arg(format!("#!/bin/sh\ncd '{}'\n{script}\n", dir.display()))
            .arg(&exe)
            .status()
            .unwrap();
        assert!(written.success());
        let keeper = Keeper {
            keys: (0..300).map(|n| (n.to_string(), vec![7; 8192])).collect(),
            process: Process::Starts(Instant::now()),
            retired: Vec::new(),
            backoff: Backoff::default(),
        };
        let options = Options {
            paths,
            exe,
            ground: Ground::Fore,
            log: Target::Stderr,
            traces: Vec::new(),
            pause_mda: false,
            pause_mta: false,
            pause_smtp: false,
            queue_key: None,
            run_once: false,
        };
        (keeper, options)
    }

    fn until(mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    // smtpd.conf(5), pki: as many as there are.
    #[test]
    fn more_keys_than_fit_the_socket_are_handed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (mut keeper, options) = keeper(dir.path(), "exec /bin/cat <&3 >keys");
        keeper.start_now(&options).unwrap();
        assert!(keeper.socket().unwrap().is_some());
        let pid = keeper.pid().unwrap();
        // The end of the wire is the end of the process.
        keeper.process = Process::Starts(Instant::now());
        until(|| process::try_wait(pid).unwrap().is_some());
        let read = std::fs::metadata(dir.path().join("keys")).unwrap().len();
        assert!(read > 300 * 8192, "{read}");
    }

    #[test]
    fn a_process_that_takes_no_keys_is_waited_for_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (mut failing, options) = keeper(dir.path(), "exit 1");
        assert!(failing.start_now(&options).is_err());
        assert!(failing.pid().is_none() && failing.deadline().is_some());
        // As after a reload that has failed.
        let (mut present, _) = keeper(dir.path(), "");
        present.retire(failing, Instant::now());
        assert_eq!(present.retired.len(), 1);
        let has_ended = |pid| process::try_wait(pid).unwrap().is_some();
        until(|| {
            present.reap_retired(Instant::now(), has_ended);
            present.retired.is_empty()
        });
    }
}

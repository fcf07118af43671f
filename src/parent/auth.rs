//! Passwords of the system's users: each is checked by a child of its own, `smtpd -x auth`.
//!
//! What a system does to check a password is code of others (login scripts, PAM modules), may take
//! its time, and wants root. The parent starts the child, hands name and password on unread, and
//! goes on; the child's exit code is the answer. Neither ever stands in an argument or a variable.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::log;
use crate::privsep::PasswordVerdict;
use crate::privsep::identity::Rights;
use crate::privsep::password;
use crate::sys::errno::strerror;
use crate::sys::fdpass::{self, Wait};
use crate::sys::process::{self, Ended, Pid, Spawn};
use crate::sys::{login, title, user};
use crate::util::{Line, Secret, sysexits};

use super::Options;

/// The checks that run now.
#[derive(Debug, Default)]
pub struct Checks {
    running: BTreeMap<Pid, Check>,
}

/// Which question of which engine: ids start over when the engine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Counts engines.
    pub engine: u64,
    /// The request's id.
    pub id: u32,
}

#[derive(Debug)]
struct Check {
    asked: Asked,
    deadline: Instant,
}

/// Checks at a time, whatever the engine thinks.
const MOST_CHECKS: usize = 32;
/// How long one may take.
const TIME: Duration = Duration::from_secs(30);
/// A child that was killed and is still there is killed again after this.
const AGAIN: Duration = Duration::from_secs(10);

/// What the child exits with: any other code means that nobody can say. It is not 0, which code of
/// others may end a process with.
const RIGHT: i32 = 42;
const WRONG: i32 = sysexits::NOPERM;

impl Checks {
    /// Starts a check. What comes at once is an answer: that nobody can say.
    pub fn start(
        &mut self,
        (options, rights): (&Options, &Rights),
        asked: Asked,
        (user, password): (&Line, &Secret),
        now: Instant,
    ) -> Option<PasswordVerdict> {
        let unknown = |text: String| {
            Some(PasswordVerdict::Unknown {
                text: Line::sanitize(text.as_bytes()),
            })
        };
        if self.running.len() >= MOST_CHECKS {
            return unknown("too many passwords are being checked".to_owned());
        }
        if let Err(text) = may_check(rights, user) {
            return unknown(text);
        }
        match launch(&options.exe, user, password) {
            Ok(pid) => {
                let deadline = now + TIME;
                self.running.insert(pid, Check { asked, deadline });
                None
            }
            Err(error) => unknown(format!("cannot check a password: {}", strerror(&error))),
        }
    }

    /// The children whose time is over: kill them. They stay until they have ended.
    pub fn overdue(&mut self, now: Instant) -> Vec<Pid> {
        let late = self
            .running
            .iter_mut()
            .filter(|(_, check)| check.deadline <= now);
        late.map(|(pid, check)| {
            check.deadline = now + AGAIN;
            *pid
        })
        .collect()
    }

    /// A child has ended: the verdict, and which question it answers.
    pub fn ended(&mut self, pid: Pid, how: Ended) -> Option<(Asked, PasswordVerdict)> {
        let check = self.running.remove(&pid)?;
        let verdict = match how {
            Ended::Exited(RIGHT) => PasswordVerdict::Right,
            Ended::Exited(WRONG) => PasswordVerdict::Wrong,
            Ended::Exited(code) => PasswordVerdict::Unknown {
                text: Line::sanitize(format!("password check exited with {code}").as_bytes()),
            },
            Ended::Signaled(signal) => PasswordVerdict::Unknown {
                text: Line::sanitize(format!("password check ended by signal {signal}").as_bytes()),
            },
        };
        Some((check.asked, verdict))
    }

    /// The processes of all checks that run.
    pub fn pids(&self) -> Vec<Pid> {
        self.running.keys().copied().collect()
    }

    /// When the next one's time is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.running.values().map(|check| check.deadline).min()
    }
}

/// Without root's rights a system lets nobody check the passwords of others.
fn may_check(rights: &Rights, name: &str) -> Result<(), String> {
    let Rights::User { uid, .. } = rights else {
        return Ok(());
    };
    match user::by_name(name) {
        Ok(Some(user)) if user.uid == *uid => Ok(()),
        _ => Err(format!(
            "smtpd does not run as root and cannot check the password of {name}: \
             \"auth <table>\" needs no root"
        )),
    }
}

fn launch(exe: &Path, user: &Line, password: &Secret) -> io::Result<Pid> {
    let (ours, theirs) = fdpass::pair()?;
    fdpass::send(
        ours.as_fd(),
        &password::packet(user, password),
        &[],
        Wait::No,
    )?;
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    let stderr = io::stderr();
    let exe = CString::new(exe.as_os_str().as_bytes())?;
    process::spawn(&Spawn {
        program: exe.clone(),
        argv: vec![exe, c"-x".into(), c"auth".into()],
        env: Vec::new(),
        fds: vec![null.as_fd(), null.as_fd(), stderr.as_fd(), theirs.as_fd()],
        identity: None,
        dirs: vec![c"/".into()],
        umask: 0o077,
    })
}

/// The child: what to exit with.
pub fn run() -> i32 {
    title::set("smtpd: auth");
    let asked = || -> io::Result<bool> {
        let wire = process::inherited()?;
        let mut buffer = vec![0; password::PACKET_MAX];
        let received = fdpass::receive(wire.as_fd(), &mut buffer, Wait::Yes)?;
        let packet = buffer.get(..received.length).unwrap_or_default();
        let (user, password) = password::read_packet(packet)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        login::check(&user, password.reveal())
    };
    match asked() {
        Ok(true) => RIGHT,
        Ok(false) => WRONG,
        Err(error) => {
            log::warn(format_args!(
                "auth: cannot check a password: {}",
                strerror(&error)
            ));
            sysexits::TEMPFAIL
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_goes_to_who_asked_and_only_an_exit_code_lets_anybody_in() {
        let (mut checks, now) = (Checks::default(), Instant::now());
        let asked = |id| Asked { engine: 1, id };
        for (number, how) in [
            (10, Ended::Exited(RIGHT)),
            (9, Ended::Exited(0)),
            (11, Ended::Exited(WRONG)),
            (12, Ended::Exited(1)),
            (13, Ended::Exited(71)),
            (14, Ended::Signaled(9)),
        ] {
            let pid = Pid::fake(number);
            let check = Check {
                asked: asked(number as u32),
                deadline: now + TIME,
            };
            checks.running.insert(pid, check);
            let (who, verdict) = checks.ended(pid, how).unwrap();
            assert_eq!(who, asked(number as u32));
            assert_eq!(
                verdict == PasswordVerdict::Right,
                how == Ended::Exited(RIGHT)
            );
            assert_eq!(
                verdict == PasswordVerdict::Wrong,
                how == Ended::Exited(WRONG)
            );
            assert_eq!(checks.ended(pid, how), None);
        }
        assert!(checks.pids().is_empty() && checks.deadline().is_none());
    }

    #[test]
    fn a_check_that_hangs_is_killed_and_killed_again() {
        let (mut checks, now) = (Checks::default(), Instant::now());
        let check = Check {
            asked: Asked { engine: 1, id: 1 },
            deadline: now + TIME,
        };
        checks.running.insert(Pid::fake(10), check);
        assert!(checks.overdue(now).is_empty());
        assert_eq!(checks.overdue(now + TIME), [Pid::fake(10)]);
        assert!(checks.overdue(now + TIME).is_empty());
        assert_eq!(checks.overdue(now + TIME + AGAIN), [Pid::fake(10)]);
    }
}

//! smtpd as a process: start, stop, a lost engine, a lost parent, a delivery as the recipient.

#[path = "support/processes.rs"]
mod processes;

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Seek};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use smtpd::config::{Delivery, Paths};
use smtpd::mail::MailAddr;
use smtpd::privsep::batch::Chunk;
use smtpd::privsep::{ChildJob, MdaJob, MdaTask, Single};
use smtpd::sys::creds::Identity;
use smtpd::sys::process::{self, Ended, Spawn};
use smtpd::sys::{fdpass, user};
use smtpd::util::Line;

const SMTPD: &str = env!("CARGO_BIN_EXE_smtpd");
const LONG: Duration = Duration::from_secs(120);

/// An instance root that other users may enter, for an engine that is another user.
fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn smtpd(root: &Path, port: u16, more: &[&str]) -> Command {
    let mut command = Command::new(SMTPD);
    command
        .args(["-d", "-D", &format!("port={port}"), "-R"])
        .arg(root)
        .args(more)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// A running daemon; dropped, it is killed.
struct Daemon {
    child: Child,
    log: BufReader<ChildStderr>,
    paths: Paths,
    port: u16,
}

impl Daemon {
    fn start(root: &Path) -> Daemon {
        let port = free_port();
        let mut child = smtpd(root, port, &[]).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut daemon = Daemon {
            child,
            log,
            paths: Paths::under(root),
            port,
        };
        daemon.engine_is_up();
        daemon
    }

    /// Reads the log up to a line with `text`.
    fn says(&mut self, text: &str) -> String {
        let mut line = String::new();
        let mut seen = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            seen.push_str(&line);
            if line.contains(text) {
                return line;
            }
            line.clear();
        }
        panic!("no {text:?} in the log:\n{seen}");
    }

    fn engine_is_up(&mut self) {
        self.says("info: engine sandbox: ");
        let (addr, pid) = (("127.0.0.1", self.port), self.paths.pid.clone());
        until("the daemon", || {
            pid.exists() && TcpStream::connect(addr).is_ok()
        });
    }

    fn signal(pid: u32, name: &str) {
        assert!(processes::signal(pid, name));
    }

    fn engine(&self) -> u32 {
        processes::children(self.child.id(), "engine")[0]
    }

    fn stop(mut self, signal: &str) -> ExitStatus {
        Daemon::signal(self.child.id(), signal);
        self.says("Exiting");
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gone(pid: u32) -> bool {
    processes::find(pid).is_none_or(|process| process.state == 'Z')
}

#[test]
fn it_starts_from_an_empty_directory_and_leaves_nothing_running() {
    // smtpd(8), files: pid file and socket go at a regular exit; SIGTERM and SIGINT exit with 0.
    let dir = root();
    for signal in ["TERM", "INT"] {
        let daemon = Daemon::start(dir.path());
        let paths = daemon.paths.clone();
        let pid = fs::read_to_string(&paths.pid).unwrap();
        assert_eq!(pid, format!("{}\n", daemon.child.id()));
        assert_eq!(fs::metadata(&paths.socket).unwrap().mode() & 0o777, 0o666);
        let engine = daemon.engine();
        assert_eq!(daemon.stop(signal).code(), Some(0));
        assert!(!paths.pid.exists() && !paths.socket.exists());
        assert!(gone(engine));
    }
}

#[test]
fn a_second_daemon_on_the_same_root_is_refused() {
    let dir = root();
    let daemon = Daemon::start(dir.path());
    let output = smtpd(dir.path(), free_port(), &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("smtpd: control socket already listening"),
        "{text}"
    );
    assert!(daemon.paths.socket.exists(), "the first one's socket stays");
    let other = root();
    let output = smtpd(other.path(), daemon.port, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("smtpd: bind: Address already in use"),
        "{text}"
    );
}

#[test]
fn a_killed_engine_is_started_again_and_sighup_kills_nobody() {
    let dir = root();
    let mut daemon = Daemon::start(dir.path());
    Daemon::signal(daemon.child.id(), "HUP");
    daemon.says("configuration reloaded");
    let first = daemon.engine();
    Daemon::signal(first, "KILL");
    daemon.says("warn: lost child: engine terminated; signal 9");
    daemon.engine_is_up();
    assert_ne!(daemon.engine(), first);
    assert_eq!(daemon.stop("TERM").code(), Some(0));
}

#[test]
fn an_engine_does_not_outlive_its_parent() {
    let dir = root();
    let mut daemon = Daemon::start(dir.path());
    let engine = daemon.engine();
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    until("the engine's end", || gone(engine));
    // What the dead left behind stops nobody.
    assert!(daemon.paths.socket.exists());
    let again = Daemon::start(dir.path());
    assert_eq!(again.stop("TERM").code(), Some(0));
}

#[test]
fn a_configuration_is_checked_and_left() {
    // smtpd(8), -n: `configuration OK` on standard error and 0, else messages and 1.
    let dir = root();
    let output = smtpd(dir.path(), 2525, &["-n"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"configuration OK\n");
    fs::write(dir.path().join("smtpd.conf"), "listen upon lo0\n").unwrap();
    let output = smtpd(dir.path(), 2525, &["-n"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("smtpd.conf:1"), "{text}");
}

#[test]
fn what_is_to_be_purged_is_deleted() {
    let dir = root();
    let daemon = Daemon::start(dir.path());
    let purge = daemon.paths.spool.join("purge");
    let engine_user = fs::metadata(&purge).unwrap();
    daemon.stop("TERM");
    let old = purge.join("1a2b3c4d");
    fs::create_dir(&old).unwrap();
    fs::write(old.join("message"), "x").unwrap();
    for path in [old.join("message"), old.clone()] {
        std::os::unix::fs::chown(path, Some(engine_user.uid()), Some(engine_user.gid())).unwrap();
    }
    let daemon = Daemon::start(dir.path());
    until("the purge", || !old.exists());
    daemon.stop("TERM");
}

#[test]
fn a_queue_run_ends_by_itself() {
    // smtpd(8), -q: runs the queue once and exits.
    let dir = root();
    let output = smtpd(dir.path(), 2525, &["-q"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!dir.path().join("smtpd.sock").exists());
}

/// The recipient: ourselves, or nobody when we are root.
fn recipient() -> user::User {
    match user::effective_uid() {
        0 => user::by_name("nobody").unwrap().unwrap(),
        uid => user::by_uid(uid).unwrap().unwrap(),
    }
}

#[test]
fn a_delivery_child_becomes_the_recipient_and_delivers() {
    let (recipient, dir) = (recipient(), root());
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(recipient.uid), Some(recipient.gid)).unwrap();
    let line = |text: &str| Line::new(text).unwrap();
    let addr = MailAddr::new(&recipient.name, "localhost").unwrap();
    let job = ChildJob {
        job: MdaJob {
            action: line("local"),
            user: line(&recipient.name),
            task: MdaTask::Single(Box::new(Single {
                subaddress: None,
                command: None,
                sender: addr.clone(),
                rcpt: addr.clone(),
                dest: addr,
            })),
        },
        delivery: Delivery::Maildir {
            path: None,
            junk: false,
        },
        own_forward: false,
        wrapper: None,
        user: line(&recipient.name),
        home: home.to_str().unwrap().to_owned(),
        uid: recipient.uid,
        libexec: PathBuf::from("/nonexistent"),
        delimiter: '+',
    };
    let (ours, theirs) = fdpass::pair().unwrap();
    job.send(ours.as_fd()).unwrap();
    drop(ours);
    let text = b"Subject: x\n\nbody\n";
    let mut sent = Vec::new();
    Chunk::Bytes(text.len()).encode(&mut sent);
    sent.extend_from_slice(text);
    Chunk::End.encode(&mut sent);
    fs::write(dir.path().join("message"), sent).unwrap();
    let message = File::open(dir.path().join("message")).unwrap();
    let mut output = tempfile::tempfile().unwrap();
    let c = |text: &str| std::ffi::CString::new(text).unwrap();
    let root = user::effective_uid() == 0;
    let pid = process::spawn(&Spawn {
        program: c(SMTPD),
        argv: vec![c(SMTPD), c("-x"), c("mda")],
        env: vec![c(&format!("HOME={}", home.display()))],
        fds: vec![
            message.as_fd(),
            output.as_fd(),
            output.as_fd(),
            theirs.as_fd(),
        ],
        identity: root.then(|| Identity::alone(recipient.uid, recipient.gid)),
        dirs: vec![c(home.to_str().unwrap())],
        umask: 0o077,
    })
    .unwrap();
    let mut how = None;
    until("the delivery", || {
        how = process::try_wait(pid).unwrap();
        how.is_some()
    });
    let mut said = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut said).unwrap();
    assert_eq!(how, Some(Ended::Exited(0)), "{said}");
    let mut new = fs::read_dir(home.join("Maildir/new")).unwrap();
    let mail = new.next().unwrap().unwrap();
    assert_eq!(mail.metadata().unwrap().uid(), recipient.uid);
    assert_eq!(fs::read(mail.path()).unwrap(), b"Subject: x\n\nbody\n");
}

//! mail.local(8): a message into users' system mailboxes.
//!
//! For systems that bring no mail.local of their own. The message is copied once, then appended
//! to each mailbox under a dot lock (where the spool lets this process make one) and the locks of
//! fcntl(2) and flock(2), all held by this process until the append is synced. A mailbox must be
//! a regular file with one link, owned by its user, and the same file before and after it was
//! opened; nothing else is written to.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::sys;
use crate::util::Timestamp;
use crate::util::sysexits::{CANTCREAT, NOUSER, OSERR, TEMPFAIL};

use super::mbox::{self, Codes, Quote};
use super::{MdaError, complain};

/// The name in front of messages.
pub const NAME: &str = "mail.local";

const CODES: Codes = Codes {
    locked: TEMPFAIL,
    failed: OSERR,
};

/// A lock file this old whose process is gone was left by a crash.
const STALE: Duration = Duration::from_secs(300);

/// The options of mail.local(8).
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of mailboxes.
    pub spool: PathBuf,
    /// Sender for the `From ` line.
    pub from: String,
    /// Whether to make lock files.
    pub dot_lock: DotLock,
    /// How long to wait for locks.
    pub lock_wait: Duration,
}

/// Whether lock files are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DotLock {
    /// Where the spool lets us.
    Try,
    /// No (`-L`).
    Never,
}

/// The directory of mailboxes of this system.
pub fn system_spool() -> PathBuf {
    PathBuf::from(option_env!("SMTPD_MAILDIR").unwrap_or("/var/mail"))
}

/// Delivers to each user; the last failure is the result, the others are said here.
pub fn deliver(
    message: &mut dyn Read,
    users: &[String],
    options: &Options,
    now: Timestamp,
) -> Result<(), MdaError> {
    let from_line = mbox::from_line(&options.from, now.0);
    let mut copy = mbox::store(message, &from_line, Quote::AfterEmptyLine, OSERR)?;
    let mut result = Ok(());
    for user in users {
        let one = deliver_one(&mut copy, user, options);
        if let Err(failure) = one
            && let Err(earlier) = std::mem::replace(&mut result, Err(failure))
        {
            complain(NAME, &earlier.text);
        }
    }
    result
}

fn deliver_one(copy: &mut File, user: &str, options: &Options) -> Result<(), MdaError> {
    let unknown = || MdaError::new(NOUSER, format!("unknown name: {user}"));
    if user.is_empty() || user.starts_with('.') || user.contains('/') {
        return Err(unknown());
    }
    let entry = sys::user::by_name(user)
        .map_err(|error| {
            MdaError::new(
                TEMPFAIL,
                format!("{user}: {}", sys::errno::strerror(&error)),
            )
        })?
        .ok_or_else(unknown)?;
    let path = options.spool.join(user);
    let _dot_lock = match options.dot_lock {
        DotLock::Try => LockFile::take(&path, options)?,
        DotLock::Never => None,
    };
    let mut mailbox = open(&path, &entry)?;
    let offset = mbox::append(&mut mailbox, &path, CODES, options.lock_wait, copy)?;
    notify(user, offset);
    Ok(())
}

/// Opens a mailbox, made if missing, and makes sure that it is what it seems.
fn open(path: &Path, owner: &sys::user::User) -> Result<File, MdaError> {
    let failed = |error: io::Error| MdaError::on(OSERR, path, &error);
    let wrong = |what: &str| MdaError::new(OSERR, format!("{}: {what}", path.display()));
    let before = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => match create(path, owner) {
            // Another delivery was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                path.symlink_metadata().map_err(failed)?
            }
            Err(error) if is_shortage(&error) => {
                return Err(MdaError::on(TEMPFAIL, path, &error));
            }
            made => return made.map_err(|error| MdaError::on(CANTCREAT, path, &error)),
        },
        Err(error) => return Err(failed(error)),
    };
    if !before.is_file() || before.nlink() != 1 {
        return Err(wrong("linked or special file"));
    }
    let file = sys::open::mailbox(path).map_err(failed)?;
    let after = file.metadata().map_err(failed)?;
    let same = (before.dev(), before.ino()) == (after.dev(), after.ino());
    if !same || !after.is_file() || after.nlink() != 1 {
        return Err(wrong("changed after open"));
    }
    if after.uid() != owner.uid {
        // One that another delivery is making, or was when it was killed, is ours and new.
        let is_ours = after.uid() == sys::user::effective_uid();
        if !is_ours || after.len() > 0 || after.mode() & 0o7777 != 0o600 {
            return Err(wrong("wrong ownership"));
        }
        give(&file, owner).map_err(failed)?;
    }
    Ok(file)
}

/// Whether there may be room for a mailbox later.
fn is_shortage(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

fn create(path: &Path, owner: &sys::user::User) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    if sys::user::effective_uid() != owner.uid {
        give(&file, owner)?;
    }
    Ok(file)
}

fn give(file: &File, owner: &sys::user::User) -> io::Result<()> {
    std::os::unix::fs::fchown(file, Some(owner.uid), Some(owner.gid))
}

/// A held `/var/mail/U.lock`; removed with this value.
struct LockFile(PathBuf);

impl LockFile {
    /// Makes the lock file. `None` where the spool does not let an ordinary user make files.
    fn take(mailbox: &Path, options: &Options) -> Result<Option<LockFile>, MdaError> {
        let mut path = mailbox.as_os_str().to_os_string();
        path.push(".lock");
        let path = PathBuf::from(path);
        if sys::user::effective_uid() == 0 && world_writable(&options.spool) {
            let text = "will not deliver to world-writable spool";
            return Err(MdaError::new(OSERR, text));
        }
        match mbox::wait_for(options.lock_wait, || LockFile::make(&path)) {
            Ok(true) => Ok(Some(LockFile(path))),
            Ok(false) => Err(MdaError::new(
                TEMPFAIL,
                format!("{}: held by another process", path.display()),
            )),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            Err(error) => Err(MdaError::on(OSERR, &path, &error)),
        }
    }

    fn make(path: &Path) -> io::Result<bool> {
        let made = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        match made {
            Ok(mut file) => {
                // Readers of lock files do without the number.
                let _ = writeln!(file, "{}", std::process::id());
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if is_stale(path) {
                    // Whoever makes it next, we or another, finds out by O_EXCL. One that may not
                    // be removed binds nobody, as where none may be made.
                    match std::fs::remove_file(path) {
                        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                            return Err(error);
                        }
                        _ => {}
                    }
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // If this fails the lock goes stale, and is then taken away by the next delivery.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn is_stale(path: &Path) -> bool {
    let made = path.symlink_metadata().and_then(|found| found.modified());
    let age = made.map(|when| SystemTime::now().duration_since(when).unwrap_or_default());
    let age = age.unwrap_or_default();
    if age <= STALE {
        return false;
    }
    let mut text = String::new();
    let read = sys::open::foreign(path).and_then(|file| file.take(32).read_to_string(&mut text));
    match (read, text.trim().parse()) {
        (_, Ok(pid)) => !sys::lock::process_exists(pid),
        (Ok(_), Err(_)) => true,
        // Another user's: no delivery takes so long.
        (Err(_), Err(_)) => age > 4 * STALE,
    }
}

fn world_writable(spool: &Path) -> bool {
    spool
        .metadata()
        .is_ok_and(|metadata| metadata.mode() & 0o002 != 0)
}

/// Tells comsat(8), where the service biff is known. Nobody waits for it.
fn notify(user: &str, offset: u64) {
    let Some(port) = biff_port() else {
        return;
    };
    let notice = format!("{user}@{offset}\n");
    let _ = UdpSocket::bind("127.0.0.1:0")
        .and_then(|socket| socket.send_to(notice.as_bytes(), ("127.0.0.1", port)));
}

fn biff_port() -> Option<u16> {
    let services = std::fs::read_to_string("/etc/services").ok()?;
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let name = words.next()?;
        let (port, protocol) = words.next()?.split_once('/')?;
        let known = protocol == "udp" && (name == "biff" || words.any(|alias| alias == "biff"));
        known.then(|| port.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Spool {
        dir: tempfile::TempDir,
        user: String,
    }

    impl Spool {
        fn new() -> Spool {
            let me = sys::user::by_uid(sys::user::effective_uid())
                .unwrap()
                .unwrap();
            Spool {
                dir: tempfile::tempdir().unwrap(),
                user: me.name,
            }
        }

        fn mailbox(&self) -> PathBuf {
            self.dir.path().join(&self.user)
        }

        fn lock(&self) -> PathBuf {
            self.dir.path().join(format!("{}.lock", self.user))
        }

        fn options(&self) -> Options {
            Options {
                spool: self.dir.path().to_path_buf(),
                from: "bob@e.org".into(),
                dot_lock: DotLock::Try,
                lock_wait: Duration::from_millis(50),
            }
        }

        fn deliver(&self, body: &[u8]) -> Result<(), MdaError> {
            let now = Timestamp(1_700_000_000);
            let users = [self.user.clone()];
            deliver(&mut &body[..], &users, &self.options(), now)
        }
    }

    #[test]
    fn a_message_is_appended_and_the_lock_file_is_gone() {
        // mail.local(8).
        let spool = Spool::new();
        spool.deliver(b"a: b\n\nFrom x\nFrom y\n\0\xff").unwrap();
        spool.deliver(b"").unwrap();
        let stamp = format!("From bob@e.org {}\n", sys::localtime::ctime(1_700_000_000));
        let expected = [
            stamp.as_bytes(),
            b"a: b\n\n>From x\nFrom y\n\0\xff\n\n",
            stamp.as_bytes(),
            b"\n",
        ]
        .concat();
        assert_eq!(std::fs::read(spool.mailbox()).unwrap(), expected);
        assert!(!spool.lock().exists());
        let mode = spool.mailbox().metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn nothing_is_written_through_links_or_to_what_is_no_file() {
        // CVE-2010-2023, of another MTA: a hard link in the mail directory is not written through.
        let target = tempfile::NamedTempFile::new().unwrap();
        for kind in ["symlink", "dangling", "hardlink", "directory", "fifo"] {
            let spool = Spool::new();
            match kind {
                "symlink" => symlink(target.path(), spool.mailbox()).unwrap(),
                "dangling" => symlink(spool.dir.path().join("x"), spool.mailbox()).unwrap(),
                "hardlink" => {
                    let other = spool.dir.path().join("other");
                    std::fs::write(&other, b"").unwrap();
                    std::fs::hard_link(&other, spool.mailbox()).unwrap();
                }
                "directory" => std::fs::create_dir(spool.mailbox()).unwrap(),
                _ => {
                    let made = std::process::Command::new("mkfifo")
                        .arg(spool.mailbox())
                        .status();
                    assert!(made.unwrap().success());
                }
            }
            let failure = spool.deliver(b"x").unwrap_err();
            assert_eq!(failure.code, 71, "{kind}");
            assert!(
                failure.text.ends_with("linked or special file"),
                "{kind}: {failure:?}"
            );
        }
        assert_eq!(target.path().metadata().unwrap().len(), 0);
    }

    #[test]
    fn a_mailbox_that_was_not_given_to_its_user_is_given_later() {
        // As a delivery leaves it that is killed when it has just made it.
        if sys::user::effective_uid() != 0 {
            eprintln!("NOT RUN: a_mailbox_that_was_not_given_…: only root gives files away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("someone");
        let owner = sys::user::User {
            name: "someone".into(),
            uid: 12345,
            gid: 12345,
            gecos: String::new(),
            home: "/".into(),
        };
        std::fs::write(&path, "mail").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        let refused = open(&path, &owner).unwrap_err();
        assert!(refused.text.ends_with("wrong ownership"), "{refused:?}");
        std::fs::write(&path, "").unwrap();
        let file = open(&path, &owner).unwrap();
        assert_eq!(file.metadata().unwrap().uid(), 12345);
    }

    #[test]
    fn a_mailbox_swapped_while_it_is_opened_is_never_written_to() {
        let spool = Spool::new();
        let foreign = spool.dir.path().join("foreign");
        std::fs::write(&foreign, b"precious").unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (real, mailbox) = (spool.dir.path().join("real"), spool.mailbox());
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = std::fs::write(&real, b"");
                    let _ = std::fs::rename(&real, &mailbox);
                    let _ = symlink(&foreign, &real);
                    let _ = std::fs::rename(&real, &mailbox);
                    let _ = std::fs::hard_link(&foreign, &real);
                    let _ = std::fs::rename(&real, &mailbox);
                }
            });
            for _ in 0..200 {
                let _ = spool.deliver(b"evil");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(std::fs::read(&foreign).unwrap(), b"precious");
    }

    #[test]
    fn two_deliveries_at_once_tear_no_message() {
        let spool = Spool::new();
        let mut options = spool.options();
        options.lock_wait = mbox::LOCK_WAIT;
        std::thread::scope(|scope| {
            for letter in [b'a', b'b', b'c', b'd'] {
                let (spool, options) = (&spool, &options);
                scope.spawn(move || {
                    let body = vec![letter; 200_000];
                    for dot_lock in [DotLock::Never, DotLock::Try, DotLock::Never] {
                        let options = Options {
                            dot_lock,
                            ..options.clone()
                        };
                        let users = [spool.user.clone()];
                        deliver(&mut &body[..], &users, &options, Timestamp(0)).unwrap();
                    }
                });
            }
        });
        let text = std::fs::read(spool.mailbox()).unwrap();
        let bodies: Vec<_> = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty() && !line.starts_with(b"From "))
            .collect();
        assert_eq!(bodies.len(), 12);
        for body in bodies {
            assert!(body.len() == 200_000 && body.iter().all(|byte| *byte == body[0]));
        }
    }

    #[test]
    fn a_held_lock_is_temporary_and_a_stale_one_is_taken_away() {
        let spool = Spool::new();
        std::fs::write(spool.lock(), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(spool.deliver(b"x").unwrap_err().code, 75);
        assert!(!spool.mailbox().exists());
        std::fs::write(spool.lock(), format!("{}\n", u32::MAX)).unwrap();
        assert_eq!(spool.deliver(b"x").unwrap_err().code, 75, "not old yet");
        let old = SystemTime::now() - STALE * 2;
        let lock = File::options().write(true).open(spool.lock()).unwrap();
        lock.set_modified(old).unwrap();
        spool.deliver(b"x").unwrap();
        std::fs::write(spool.lock(), format!("{}\n", std::process::id())).unwrap();
        let lock = File::options().write(true).open(spool.lock()).unwrap();
        lock.set_modified(old).unwrap();
        assert_eq!(spool.deliver(b"x").unwrap_err().code, 75, "its owner lives");
    }

    #[test]
    fn a_stale_lock_that_may_not_be_removed_blocks_no_mailbox() {
        // mail.local(8): a spool that lets nobody make lock files, with one that a crash left.
        use std::os::unix::fs::PermissionsExt;
        if sys::user::effective_uid() == 0 {
            eprintln!("NOT RUN: a_stale_lock_that_may_not_be_removed_…: root may remove all");
            return;
        }
        let spool = Spool::new();
        std::fs::write(spool.mailbox(), "").unwrap();
        std::fs::set_permissions(spool.mailbox(), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(spool.lock(), "x").unwrap();
        let lock = File::options().write(true).open(spool.lock()).unwrap();
        let mode = |mode| {
            std::fs::set_permissions(spool.lock(), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let dir = |mode| {
            let dir = spool.lock().parent().unwrap().to_owned();
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        dir(0o555);
        let age = |times| {
            lock.set_modified(SystemTime::now() - STALE * times)
                .unwrap()
        };
        age(0);
        assert_eq!(spool.deliver(b"x").unwrap_err().code, 75);
        age(2);
        spool.deliver(b"x").unwrap();
        // One that cannot be read either is given more time.
        mode(0o000);
        assert_eq!(spool.deliver(b"x").unwrap_err().code, 75);
        age(5);
        spool.deliver(b"x").unwrap();
        dir(0o755);
    }

    #[test]
    fn unknown_names_get_67_and_the_other_users_their_mail() {
        let spool = Spool::new();
        for name in ["", "no-such-user-here", "../etc/passwd", ".", "a\nb"] {
            let users = [name.to_string(), spool.user.clone()];
            let failure =
                deliver(&mut &b"x"[..], &users, &spool.options(), Timestamp(0)).unwrap_err();
            assert_eq!(failure.code, 67, "{name}");
        }
        let text = std::fs::read(spool.mailbox()).unwrap();
        assert_eq!(
            text.split(|b| *b == b'\n').filter(|l| *l == b"x").count(),
            5
        );
    }
}

//! What belongs to one daemon alone: the spool's lock, the control socket, the pid file. They go
//! when the parent does.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::Paths;
use crate::sys::errno::strerror;
use crate::sys::{lock, open, unix_connect};

use super::keys::Keeper;
use super::listeners::Bound;

/// What every engine gets, and what goes when the parent does.
pub struct Held {
    /// What listens.
    pub listeners: Vec<Bound>,
    /// smtpctl(8)'s.
    pub control: ControlSocket,
    /// To be said on standard error when the first engine serves.
    pub advice: Option<String>,
    /// Private keys, and the process that has them too.
    pub keys: Keeper,
    /// The file mode mask that we were started with: commands have it.
    pub umask: u32,
    pub _pid_file: PidFile,
    pub _spool_lock: Option<File>,
}

/// Another daemon on its way out may still hold the spool, but not for long.
const LEAVING_TIME: Duration = Duration::from_secs(1);
/// The engine of a parent that was killed may hold the sockets until it notices, which takes longer
/// on a busy machine, and while it is just starting.
const ORPHAN_TIME: Duration = Duration::from_secs(5);
/// How often is looked again.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Makes sure that of several daemons started at once only one goes on to the socket and the
/// listeners. It goes when it is closed. Where a directory cannot be locked (some network file
/// systems), the socket and the engine's lock of the queue have to do.
pub fn lock_spool(paths: &Paths) -> Result<Option<File>, String> {
    let failed = |error: io::Error| format!("{}: {}", paths.spool.display(), strerror(&error));
    let spool = open::dir(&paths.spool).map_err(failed)?;
    let patience = Instant::now() + LEAVING_TIME;
    loop {
        match lock::try_flock(&spool) {
            Ok(true) => return Ok(Some(spool)),
            Ok(false) if Instant::now() < patience => std::thread::sleep(LOOK_INTERVAL),
            Ok(false) => return Err(running(&paths.socket)),
            Err(_) => return Ok(None),
        }
    }
}

/// The first words are those that tools know.
fn running(socket: &Path) -> String {
    let socket = socket.display();
    format!("control socket already listening: {socket}: another smtpd is running")
}

/// The control socket; dropped, its file goes.
pub struct ControlSocket {
    /// The socket.
    pub listener: UnixListener,
    path: PathBuf,
    /// One was there before: a daemon has ended without taking its own away.
    replaces_another: bool,
}

impl ControlSocket {
    /// Binds it, and replaces one that nobody answers on. Whoever calls holds the spool.
    pub fn bind(path: &Path) -> Result<ControlSocket, String> {
        let failed = |error: io::Error| format!("{}: {}", path.display(), strerror(&error));
        let patience = Instant::now() + ORPHAN_TIME;
        while unix_connect::answers(path).map_err(failed)? {
            if Instant::now() < patience {
                std::thread::sleep(LOOK_INTERVAL);
                continue;
            }
            return Err(running(path));
        }
        let replaces_another = match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                fs::remove_file(path).map_err(failed)?;
                true
            }
            Ok(_) => return Err(format!("{}: not a socket", path.display())),
            Err(_) => false,
        };
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(ControlSocket {
            listener,
            path: path.to_owned(),
            replaces_another,
        })
    }

    /// Tries what an orphan of a daemon that was killed may hinder, again and again as long as
    /// there may be one.
    pub fn outlast_orphan<T>(&self, attempt: impl Fn() -> Result<T, String>) -> Result<T, String> {
        let patience = Instant::now() + ORPHAN_TIME;
        loop {
            match attempt() {
                Err(_) if self.replaces_another && Instant::now() < patience => {
                    std::thread::sleep(LOOK_INTERVAL);
                }
                result => return result,
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The pid file; dropped, it goes.
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes our number into a new file.
    pub fn write(path: &Path) -> Result<PidFile, String> {
        let failed = |error: io::Error| format!("{}: {}", path.display(), strerror(&error));
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // Made anew, so that nobody else's link is written through.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    use crate::parent::spool::prepare_spool;
    use crate::privsep::identity::Rights;

    #[test]
    fn a_living_control_socket_is_left_alone_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("smtpd.sock");
        let first = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        let error = ControlSocket::bind(&path).map(drop).unwrap_err();
        assert!(
            error.starts_with("control socket already listening"),
            "{error}"
        );
        drop(first);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        // A child that another test is just starting may hold the dead one for a moment.
        while unix_connect::answers(&path).unwrap() {
            std::thread::yield_now();
        }
        drop(ControlSocket::bind(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(ControlSocket::bind(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn what_an_orphan_holds_is_waited_for_only_after_a_daemon_that_was_killed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("smtpd.sock");
        let tried = std::cell::Cell::new(0);
        let third_time = || {
            tried.set(tried.get() + 1);
            (tried.get() >= 3)
                .then_some(())
                .ok_or_else(|| "in use".to_owned())
        };
        let first = ControlSocket::bind(&path).unwrap();
        assert_eq!(first.outlast_orphan(third_time), Err("in use".to_owned()));
        drop(first);
        drop(UnixListener::bind(&path).unwrap());
        let second = ControlSocket::bind(&path).unwrap();
        assert_eq!(second.outlast_orphan(third_time), Ok(()));
        assert_eq!(tried.get(), 3);
    }

    #[test]
    fn of_two_daemons_one_gets_the_spool() {
        // smtpd(8): two daemons cannot share a spool.
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(dir.path());
        prepare_spool(&paths, &Rights::find(&paths).unwrap()).unwrap();
        let first = lock_spool(&paths).unwrap();
        assert!(first.is_some());
        let error = lock_spool(&paths).unwrap_err();
        assert!(
            error.starts_with("control socket already listening"),
            "{error}"
        );
        drop(first);
        assert!(lock_spool(&paths).unwrap().is_some());
    }

    #[test]
    fn the_pid_file_holds_our_number_and_goes_with_us() {
        // smtpd(8), files: decimal pid of the parent and newline.
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("pid"), dir.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let pid_file = PidFile::write(&path).unwrap();
        let text = format!("{}\n", std::process::id());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        drop(pid_file);
        assert!(!path.exists());
    }
}

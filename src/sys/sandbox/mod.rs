//! Giving up what a process will not need: what the system offers, behind one call.
//!
//! OpenBSD has unveil(2) and pledge(2). On Linux it is no_new_privs, Landlock for files, ports and
//! signals, and a list of the system calls that there are. FreeBSD gets no_new_privs and a limit of
//! no new processes. Where root started us, the process with the private keys has an empty root
//! directory as well, and the one that purges its directory. The parent, which starts others as
//! root and as users, is restricted on OpenBSD only, where what it starts is not bound by what it
//! has given up. None of it replaces running as another user; it is what remains when that failed.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::errno::cvt;
use super::random;

#[cfg(target_os = "linux")]
#[path = "linux/mod.rs"]
mod platform;
#[cfg(target_os = "openbsd")]
#[path = "openbsd.rs"]
mod platform;
#[cfg(target_os = "freebsd")]
#[path = "freebsd.rs"]
mod platform;
#[cfg(not(any(target_os = "linux", target_os = "openbsd", target_os = "freebsd")))]
#[path = "none.rs"]
mod platform;

/// Whether what a process may not read seems to it not to be there, as with unveil(2).
pub const HIDES_FILES: bool = cfg!(target_os = "openbsd");

/// What the process is for.
#[derive(Clone, Copy, Debug)]
pub enum Role<'a> {
    /// Protocol, queue and relaying: the network, local sockets, and these files.
    Engine {
        /// May be read besides the system's own.
        read: &'a [PathBuf],
        /// May be changed.
        write: &'a [PathBuf],
    },
    /// Signs what it is asked to over sockets that it is given: no files, no network.
    Keys,
    /// Deletes what lies in this directory.
    Purge(&'a Path),
    /// Has become the recipient, and writes into mailboxes and maildirs or connects to a server of
    /// LMTP.
    Delivery,
    /// Feeds the command that it has started, and waits for its end.
    Guard,
    /// Root's: starts programs, opens and makes files of users. Everything else, listening sockets
    /// and the groups of interfaces above all, it must have done before.
    Parent,
}

/// Takes away what `role` does not need, from this thread and all that it starts: call it before
/// there are others. Says what is active now; what the system does not have is left out, and only
/// what should have worked is an error.
pub fn enter(role: Role<'_>) -> io::Result<Vec<&'static str>> {
    platform::enter(role)
}

/// As lines in the log say it.
pub fn list(active: &[&str]) -> String {
    if active.is_empty() {
        "none".to_owned()
    } else {
        active.join(", ")
    }
}

/// Makes `dir` the root directory of this process, which must be root's. False where even root may
/// not, as in some containers.
pub fn root_at(dir: &Path) -> io::Result<bool> {
    let dir = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: a C string.
    match cvt(unsafe { libc::chroot(dir.as_ptr()) }) {
        Ok(_) => std::env::set_current_dir("/").map(|()| true),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes an empty directory the root of this process, as [`root_at`] does: the system's, or one in
/// `spool` that is removed as soon as we are in it, and that nothing can be put into any more.
pub fn empty_root(spool: &Path) -> io::Result<bool> {
    let of_system = Path::new("/var/empty");
    if !cfg!(target_os = "linux") && of_system.is_dir() {
        return root_at(of_system);
    }
    let path = spool.join(format!(".empty.{:016x}", random::number_u64()));
    std::fs::create_dir(&path)?;
    let entered = std::env::set_current_dir(&path);
    std::fs::remove_dir(&path)?;
    entered?;
    root_at(Path::new("."))
}

/// What libraries read behind our back: the user database, the resolver's settings, time zones.
#[cfg(any(target_os = "linux", target_os = "openbsd"))]
const SYSTEM_READ: &[&str] = &[
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/run",
    "/var/run",
    "/var/lib/sss",
    // Users beside /etc/passwd, as nsswitch.conf(5) may have them: extrausers, db, nis.
    #[cfg(target_os = "linux")]
    "/var/lib/extrausers",
    #[cfg(target_os = "linux")]
    "/var/lib/misc",
    #[cfg(target_os = "linux")]
    "/var/db",
    #[cfg(target_os = "linux")]
    "/var/yp",
    "/dev/log",
    "/dev/null",
    "/dev/urandom",
    "/dev/random",
    "/proc/sys",
];

#[cfg(test)]
mod tests;

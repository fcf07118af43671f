//! Giving up what a process will not need: what the system offers, behind one call.
//!
//! OpenBSD has unveil(2) and pledge(2). On Linux it is no_new_privs, Landlock for the file system,
//! and a list of system calls that are refused. FreeBSD gets no_new_privs and a limit of no new
//! processes. The parent, which starts others as root and as users, is restricted on OpenBSD only,
//! where what it starts is not bound by what it has given up. None of it replaces running as another user; it is what remains when that failed.

use std::io;
use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
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

/// What libraries read behind our back: the user database, the resolver's settings, time zones.
#[cfg(any(target_os = "linux", target_os = "openbsd"))]
const SYSTEM_READ: [&str; 12] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/run",
    "/var/run",
    "/var/lib/sss",
    "/dev/log",
    "/dev/null",
    "/dev/urandom",
    "/dev/random",
    "/proc/sys",
];

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    // A sandbox cannot be left, so each role runs in a process of its own: this test again.
    const INSIDE: &str = "SMTPD_TEST_SANDBOX";

    #[test]
    fn the_engine_writes_its_spool_and_nothing_else() {
        if let Some(dir) = std::env::var_os(INSIDE) {
            inside(Path::new(&dir));
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("spool")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        let name = "sys::sandbox::tests::the_engine_writes_its_spool_and_nothing_else";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(INSIDE, dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn the_parent_may_still_start_programs() {
        let Some(_) = std::env::var_os(INSIDE) else {
            let name = "sys::sandbox::tests::the_parent_may_still_start_programs";
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--nocapture", "--test-threads=1"])
                .env(INSIDE, "")
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            return;
        };
        enter(Role::Parent).unwrap();
        let status = Command::new("/bin/sh").args(["-c", "exit 3"]).status();
        assert_eq!(status.unwrap().code(), Some(3));
    }

    fn inside(dir: &Path) {
        let spool = [dir.join("spool")];
        let active = enter(Role::Engine {
            read: &[],
            write: &spool,
        })
        .unwrap();
        let (a, b) = (dir.join("spool/a"), dir.join("spool/b"));
        std::fs::write(&a, "mail").unwrap();
        std::fs::create_dir(dir.join("spool/sub")).unwrap();
        std::fs::rename(&a, &b).unwrap();
        std::fs::rename(&b, dir.join("spool/sub/c")).unwrap();
        std::fs::remove_file(dir.join("spool/sub/c")).unwrap();
        assert!(crate::sys::user::by_name("root").unwrap().is_some());
        std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        if active
            .iter()
            .any(|a| a.starts_with("landlock") || *a == "unveil")
        {
            assert!(std::fs::read(dir.join("secret")).is_err());
            assert!(std::fs::write(dir.join("new"), "x").is_err());
        }
        if active.contains(&"seccomp") {
            assert!(Command::new("/bin/true").status().is_err());
        }
        std::thread::spawn(|| ()).join().unwrap();
    }
}

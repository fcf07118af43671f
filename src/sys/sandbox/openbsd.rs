//! unveil(2) and pledge(2).

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::super::errno::cvt;
use super::{Role, SYSTEM_READ};

pub fn enter(role: Role<'_>) -> io::Result<Vec<&'static str>> {
    match role {
        Role::Engine { read, write } => {
            let system = SYSTEM_READ.iter().map(Path::new);
            let read: BTreeSet<&Path> = system.chain(read.iter().map(PathBuf::as_path)).collect();
            // A permission that has been given may not be widened later.
            for path in read.into_iter().filter(|path| *path != Path::new(LOG)) {
                unveil(path, c"r")?;
            }
            for path in write {
                unveil(path, c"rwc")?;
            }
            // Writing to the socket is what connecting to it takes.
            unveil(Path::new(LOG), c"rw")?;
            pledge(c"stdio rpath wpath cpath fattr flock inet dns unix getpw sendfd recvfd")?;
        }
        Role::Purge(dir) => {
            unveil(dir, c"rc")?;
            pledge(c"stdio rpath cpath")?;
        }
        Role::Keys => {
            pledge(c"stdio recvfd unix")?;
            return Ok(vec!["pledge"]);
        }
        // kill(2) asks whether the owner of a lock still lives.
        Role::Delivery => {
            pledge(c"stdio rpath wpath cpath fattr chown flock inet unix getpw sendfd proc")?;
            return Ok(vec!["pledge"]);
        }
        Role::Guard => {
            pledge(c"stdio proc")?;
            return Ok(vec!["pledge"]);
        }
        Role::Parent => {
            pledge(
                c"stdio rpath wpath cpath fattr chown flock inet dns route unix getpw sendfd \
                  recvfd proc exec id",
            )?;
            return Ok(vec!["pledge"]);
        }
    }
    Ok(vec!["unveil", "pledge"])
}

/// syslogd(8)'s socket.
const LOG: &str = "/dev/log";

fn unveil(path: &Path, permissions: &std::ffi::CStr) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both are C strings.
    match cvt(unsafe { libc::unveil(path.as_ptr(), permissions.as_ptr()) }) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map(drop),
    }
}

fn pledge(promises: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: a C string, and null for no change of what exec would get.
    cvt(unsafe { libc::pledge(promises.as_ptr(), std::ptr::null()) }).map(drop)
}

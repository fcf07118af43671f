//! unveil(2) and pledge(2).

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::super::errno::cvt;
use super::{Role, SYSTEM_READ};

pub fn enter(role: Role<'_>) -> io::Result<Vec<&'static str>> {
    match role {
        Role::Engine { read, write } => {
            for path in SYSTEM_READ.iter().map(Path::new) {
                unveil(path, c"r")?;
            }
            for path in read {
                unveil(path, c"r")?;
            }
            for path in write {
                unveil(path, c"rwc")?;
            }
            // Writing to the socket is what connecting to it takes.
            unveil(Path::new("/dev/log"), c"rw")?;
            pledge(c"stdio rpath wpath cpath fattr flock inet dns unix getpw sendfd recvfd")?;
        }
        Role::Purge(dir) => {
            unveil(dir, c"rc")?;
            pledge(c"stdio rpath cpath")?;
        }
    }
    Ok(vec!["unveil", "pledge"])
}

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

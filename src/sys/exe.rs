//! Where the running program lies on disk.
//!
//! Linux and FreeBSD know. OpenBSD does not: there, and wherever asking fails, it is the file that
//! a shell would have found for the name we were called by. That name is the caller's word, so a
//! set-id program gets no answer from it. Asking OpenBSD's kernel for the name, as std does, would
//! moreover end a process that has called pledge(2).

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::creds;

/// This program's file, without links on the way. Ask before the working directory changes.
pub fn path() -> io::Result<PathBuf> {
    if let Some(found) = from_kernel() {
        return Ok(found);
    }
    if creds::is_setid() {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    let name = env::args_os().next().unwrap_or_default();
    by_name(&name, env::var_os("PATH"))
}

#[cfg(not(target_os = "openbsd"))]
fn from_kernel() -> Option<PathBuf> {
    env::current_exe().and_then(|exe| exe.canonicalize()).ok()
}

#[cfg(target_os = "openbsd")]
fn from_kernel() -> Option<PathBuf> {
    None
}

/// What execvp(3) would start for `name`.
fn by_name(name: &OsStr, search: Option<OsString>) -> io::Result<PathBuf> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    if name.is_empty() {
        return Err(missing());
    }
    if name.as_bytes().contains(&b'/') {
        return Path::new(name).canonicalize();
    }
    env::split_paths(&search.unwrap_or_default())
        .map(|dir| {
            if dir.as_os_str().is_empty() {
                Path::new(".").join(name)
            } else {
                dir.join(name)
            }
        })
        .find(|path| is_program(path))
        .ok_or_else(missing)?
        .canonicalize()
}

fn is_program(path: &Path) -> bool {
    const ANYONE_MAY_EXECUTE: u32 = 0o111;
    path.metadata()
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & ANYONE_MAY_EXECUTE != 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_name_is_found_as_a_shell_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        for sub in ["first", "second"] {
            fs::create_dir(top.join(sub)).unwrap();
            fs::write(top.join(sub).join("smtpd"), "").unwrap();
        }
        let program = top.join("second/smtpd");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&program, top.join("link")).unwrap();
        let search = env::join_paths([top.join("first"), top.join("second")]).unwrap();
        let found = |name: &OsStr| by_name(name, Some(search.clone()));
        // The first one is not executable.
        assert_eq!(found("smtpd".as_ref()).unwrap(), program);
        assert_eq!(found(top.join("link").as_ref()).unwrap(), program);
        for name in ["", "smtpctl", "./no/such/smtpd"] {
            assert!(found(name.as_ref()).is_err(), "{name}");
        }
        assert!(by_name("smtpd".as_ref(), None).is_err());
    }

    #[test]
    fn the_running_test_is_found() {
        assert!(is_program(&path().unwrap()));
    }
}

//! Deleting what lies in `purge/`, in a child of its own, so that nobody waits for it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::log;
use crate::privsep::identity::Rights;
use crate::queue::fs::layout;
use crate::sys::errno::strerror;
use crate::sys::process::{self, Pid, Spawn};
use crate::sys::sandbox::{self, Role};

use super::Options;

/// Starts a child if there is something to delete.
pub(super) fn start(options: &Options) -> io::Result<Option<Pid>> {
    let dir = options.paths.spool.join(layout::PURGE);
    if fs::read_dir(&dir)?.next().is_none() {
        return Ok(None);
    }
    let null = fs::File::open("/dev/null")?;
    let exe = CString::new(options.exe.as_os_str().as_bytes())?;
    let mut argv = vec![exe.clone(), c"-x".into(), c"purge".into()];
    if let Some(root) = &options.paths.root {
        argv.push(c"-R".into());
        argv.push(CString::new(root.as_os_str().as_bytes())?);
    }
    let stderr = io::stderr();
    process::spawn(&Spawn {
        program: exe,
        argv,
        env: Vec::new(),
        fds: vec![null.as_fd(), null.as_fd(), stderr.as_fd()],
        identity: None,
        dirs: vec![c"/".into()],
        umask: 0o077,
    })
    .map(Some)
}

/// The child: becomes the queue's owner, with the directory as its root if it can be, deletes, and
/// says what to exit with.
pub fn run(rights: &Rights, dir: &Path) -> i32 {
    let inside = if rights.is_root() {
        sandbox::root_at(dir)
    } else {
        Ok(false)
    };
    let result = inside.and_then(|inside| {
        let place = if inside { Path::new("/") } else { dir };
        rights.drop_privileges()?;
        sandbox::enter(Role::Purge(place))?;
        empty(place)
    });
    match result {
        Ok(()) => 0,
        Err(error) => {
            log::warn(format_args!(
                "purge {}: {}",
                dir.display(),
                strerror(&error)
            ));
            1
        }
    }
}

/// Deletes what is in `dir`; links are deleted, not followed. The engine deletes here as well.
fn empty(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        match delete(&entry?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

fn delete(entry: &fs::DirEntry) -> io::Result<()> {
    if entry.file_type()?.is_dir() {
        fs::remove_dir_all(entry.path())
    } else {
        fs::remove_file(entry.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_it_goes_and_nothing_else() {
        let top = tempfile::tempdir().unwrap();
        let (purge, kept) = (top.path().join("purge"), top.path().join("kept"));
        fs::create_dir_all(purge.join("a/b")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("mail"), "x").unwrap();
        fs::write(purge.join("a/b/message"), "x").unwrap();
        fs::write(purge.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&kept, purge.join("link")).unwrap();
        std::os::unix::fs::symlink(&kept, purge.join("a/link")).unwrap();
        empty(&purge).unwrap();
        assert_eq!(fs::read_dir(&purge).unwrap().count(), 0);
        assert!(kept.join("mail").exists());
    }

    #[test]
    fn what_somebody_else_deletes_meanwhile_is_no_failure() {
        // Seen under load: the engine deletes what it settled, and the purge child met it there.
        let dir = tempfile::tempdir().unwrap();
        for round in 0..20 {
            for number in 0..50 {
                let message = dir.path().join(format!("{round}-{number}"));
                fs::create_dir(&message).unwrap();
                fs::write(message.join("message"), "x").unwrap();
            }
            std::thread::scope(|scope| {
                let others: Vec<_> = (0..3).map(|_| scope.spawn(|| empty(dir.path()))).collect();
                for other in others {
                    other.join().unwrap().unwrap();
                }
            });
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }
}

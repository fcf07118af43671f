//! Files that alias and virtual values include.
//!
//! They are read when a recipient is expanded, by the unprivileged engine. Whoever may write such
//! a file decides where mail goes and, through pipes, what runs as the daemon's user; a file that
//! everybody may write is therefore not read.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sys::open;

/// Longest include file, in bytes.
pub const LIMIT_BYTES: u64 = 4 << 20;

/// Where include files come from.
pub trait Includes: Send + Sync {
    /// The whole of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

/// The disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Includes for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        const WRITABLE_BY_ALL: u32 = 0o002;
        let file = open::plain(path)?;
        if file.metadata()?.mode() & WRITABLE_BY_ALL != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "everybody may write it",
            ));
        }
        open::read_within(file, LIMIT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    // aliases(5): a file that everybody may write is not included.
    #[test]
    fn only_plain_files_that_strangers_cannot_write_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        fs::write(&path, "bob\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        assert_eq!(Disk.read(&path).unwrap(), b"bob\n");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(Disk.read(&path).is_err());
        assert!(Disk.read(dir.path()).is_err());
        assert!(Disk.read(Path::new("/dev/zero")).is_err());
    }
}

//! Files that alias and virtual values include.
//!
//! They are read when a recipient is expanded, by the unprivileged engine. Whoever may write such
//! a file decides where mail goes; a file that everybody may write is therefore not read. Commands
//! and files in it would be the daemon's user's, who owns the queue: they count only in a file that
//! nobody but root and that user may write.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sys::{open, user};

/// Longest include file, in bytes.
pub const LIMIT_BYTES: u64 = 4 << 20;

/// Where include files come from.
pub trait Includes: Send + Sync {
    /// The whole of a file.
    fn read(&self, path: &Path) -> io::Result<Included>;
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Included {
    pub bytes: Vec<u8>,
    /// Who may have written it.
    pub author: Author,
}

/// Who may have written a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Only root and the daemon's user.
    Trusted,
    Anybody,
}

/// Includes are read from the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Includes for Disk {
    fn read(&self, path: &Path) -> io::Result<Included> {
        const WRITABLE_BY_ALL: u32 = 0o002;
        const WRITABLE_BY_GROUP: u32 = 0o020;
        let file = open::plain(path)?;
        let found = file.metadata()?;
        if found.mode() & WRITABLE_BY_ALL != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "everybody may write it",
            ));
        }
        let own = found.uid() == 0 || found.uid() == user::effective_uid();
        let author = if own && found.mode() & WRITABLE_BY_GROUP == 0 {
            Author::Trusted
        } else {
            Author::Anybody
        };
        let bytes = open::read_within(file, LIMIT_BYTES)?;
        Ok(Included { bytes, author })
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
        let included = Disk.read(&path).unwrap();
        assert_eq!(included.bytes, b"bob\n");
        assert_eq!(included.author, Author::Anybody);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Disk.read(&path).unwrap().author, Author::Trusted);
        if user::effective_uid() == 0 {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert_eq!(Disk.read(&path).unwrap().author, Author::Anybody);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(Disk.read(&path).is_err());
        assert!(Disk.read(dir.path()).is_err());
        assert!(Disk.read(Path::new("/dev/zero")).is_err());
    }
}

//! What the store asks of a file system, so that a test can record it, stop it and pull the plug.
//!
//! Paths are relative to the spool's root. [`RealDisk`] does one system call for each, and its
//! errors say what was attempted on what.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::log::stat;
use crate::queue::DiskFile;

use super::layout;
use crate::sys;
use crate::sys::errno::strerror;
use crate::sys::fs::Room;

/// A file system under the spool's root.
pub trait Disk: Send + Sync {
    /// Creates a file that must not exist, mode 0600.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading; follows no link.
    fn open(&self, path: &Path) -> io::Result<File>;
    /// Opens a directory, so that files below it are found without the way there. `None` if that
    /// cannot be done: they can be read all the same.
    fn hold(&self, _: &Path) -> Option<File> {
        None
    }
    /// A file's bytes, as many as `max_bytes`.
    fn read(&self, path: &Path, max_bytes: usize) -> io::Result<Vec<u8>>;
    /// Whether something has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes a directory, mode 0700.
    fn mkdir(&self, path: &Path) -> io::Result<()>;
    /// Renames; replaces a file, or an empty directory by a directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// A second name for a file.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn rmdir(&self, path: &Path) -> io::Result<()>;
    /// Writes over bytes that are there.
    fn overwrite(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file's contents durable.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
    /// Makes durable what a directory's entries are when the call begins.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether [`Disk::sync_all`] is there.
    fn can_sync_all(&self) -> bool {
        false
    }
    /// Makes durable all that was done before the call begins.
    fn sync_all(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Shows a directory's entries until `each` breaks.
    fn list(&self, path: &Path, each: &mut EachEntry<'_>) -> io::Result<()>;
    /// What is free.
    fn room(&self) -> io::Result<Room>;
}

/// Looks at one entry of a directory.
pub type EachEntry<'a> = dyn FnMut(&OsStr, EntryKind) -> ControlFlow<()> + 'a;

/// What a directory's entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    Other,
}

/// The system's.
pub struct RealDisk {
    root: PathBuf,
}

struct RealFile {
    file: File,
    path: PathBuf,
    written: u64,
    hinted: u64,
}

/// A large body goes to the disk while it is received, so that its sync has little left to do and
/// the kernel's dirty pages stay few.
const HINT_BYTES: u64 = 4 * 1024 * 1024;

impl RealDisk {
    /// The file system under `root`.
    pub fn new(root: &Path) -> RealDisk {
        RealDisk {
            root: root.to_owned(),
        }
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = sys::open::create_new(&self.at(path)).map_err(|e| told("create", path, &e))?;
        Ok(Box::new(RealFile {
            file,
            path: path.to_owned(),
            written: 0,
            hinted: 0,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        sys::open::foreign(&self.at(path)).map_err(|e| told("open", path, &e))
    }

    fn hold(&self, path: &Path) -> Option<File> {
        sys::open::dir(&self.at(path)).ok()
    }

    fn read(&self, path: &Path, max_bytes: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(1024);
        let file = self.open(path)?;
        io::Read::read_to_end(&mut io::Read::take(file, max_bytes as u64), &mut bytes)
            .map_err(|e| told("read", path, &e))?;
        Ok(bytes)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match std::fs::symlink_metadata(self.at(path)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(told("stat", path, &error)),
        }
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        sys::fs::make_private_dir(&self.at(path)).map_err(|e| told("mkdir", path, &e))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(self.at(from), self.at(to)).map_err(|e| told_two("rename", from, to, &e))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(self.at(from), self.at(to)).map_err(|e| told_two("link", from, to, &e))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(self.at(path)).map_err(|e| told("unlink", path, &e))
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(self.at(path)).map_err(|e| told("rmdir", path, &e))
    }

    fn overwrite(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file =
            sys::open::foreign_to_mark(&self.at(path)).map_err(|e| told("open", path, &e))?;
        file.write_all_at(bytes, at)
            .map_err(|e| told("write", path, &e))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        stat::QUEUE_SYNC.inc();
        self.open(path)?
            .sync_data()
            .map_err(|e| told("fsync", path, &e))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        stat::QUEUE_SYNC.inc();
        sys::fs::sync_dir(&self.at(path)).map_err(|e| told("fsync", path, &e))
    }

    fn can_sync_all(&self) -> bool {
        sys::fs::can_sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        // One that the engine owns: the root of the spool it may pass through, but not open.
        let room = Path::new(layout::BAGS);
        sys::fs::sync_all(&self.root.join(room)).map_err(|e| told("syncfs", room, &e))
    }

    fn list(&self, path: &Path, each: &mut EachEntry<'_>) -> io::Result<()> {
        let entries = std::fs::read_dir(self.at(path)).map_err(|e| told("list", path, &e))?;
        for entry in entries {
            let entry = entry.map_err(|e| told("list", path, &e))?;
            let kind = match entry.file_type() {
                Ok(kind) if kind.is_dir() => EntryKind::Dir,
                Ok(kind) if kind.is_file() => EntryKind::File,
                Ok(_) => EntryKind::Other,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(told("stat in", path, &error)),
            };
            if each(&entry.file_name(), kind).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn room(&self) -> io::Result<Room> {
        sys::fs::room(&self.root).map_err(|e| told("statvfs", Path::new("."), &e))
    }
}

impl DiskFile for RealFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|e| told("write", &self.path, &e))?;
        self.written += bytes.len() as u64;
        if self.written - self.hinted >= HINT_BYTES {
            self.start_writeback();
        }
        Ok(())
    }

    fn start_writeback(&mut self) {
        sys::fs::start_writeback(&self.file, self.hinted, self.written - self.hinted);
        self.hinted = self.written;
    }

    fn sync(&mut self) -> io::Result<()> {
        stat::QUEUE_SYNC.inc();
        self.file
            .sync_all()
            .map_err(|e| told("fsync", &self.path, &e))
    }
}

fn told(attempt: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        sys::fs::kind(error),
        format!("{attempt} {}: {}", path.display(), strerror(error)),
    )
}

fn told_two(attempt: &str, from: &Path, to: &Path, error: &io::Error) -> io::Error {
    told(&format!("{attempt} {} to", from.display()), to, error)
}

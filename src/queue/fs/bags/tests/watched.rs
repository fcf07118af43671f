//! A disk for tests that notes what is done with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::queue::fs::{Disk, EachEntry, Fs, Options, RealDisk};
use crate::queue::{DiskFile, Queue};
use crate::sys::fs::Room;

use super::{Spool, bagged};

/// A disk that notes what is done with it; clones share it.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) real: Arc<RealDisk>,
    dir: Arc<Mutex<Option<tempfile::TempDir>>>,
    done: Arc<Mutex<Vec<String>>>,
    /// So many files cannot be opened, for want of descriptors.
    pub(super) refused: Arc<AtomicUsize>,
}

impl Watched {
    pub(super) fn new() -> Watched {
        let dir = tempfile::tempdir().unwrap();
        drop(Fs::open(dir.path(), bagged()).unwrap());
        Watched::over(dir)
    }

    pub(super) fn over(dir: tempfile::TempDir) -> Watched {
        Watched {
            real: Arc::new(RealDisk::new(dir.path())),
            dir: Arc::new(Mutex::new(Some(dir))),
            done: Arc::default(),
            refused: Arc::default(),
        }
    }

    /// The only spool on it.
    pub(super) fn spool(&self, options: Options) -> Spool {
        let fs = Fs::with_disk(Arc::new(self.clone()), options).unwrap();
        let queue = Queue::new(Arc::new(fs.clone()));
        let dir = self.dir.lock().unwrap().take().unwrap();
        Spool { dir, fs, queue }
    }

    fn note(&self, what: &str, path: &Path) {
        let line = format!("{what} {}", path.display());
        self.done.lock().unwrap().push(line);
    }

    pub(super) fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }

    pub(super) fn forget(&self) {
        self.done.lock().unwrap().clear();
    }

    pub(super) fn count(&self, what: &str) -> usize {
        let done = self.done();
        done.iter().filter(|line| line.starts_with(what)).count()
    }
}

impl Disk for Watched {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.note("create", path);
        let file = self.real.create(path)?;
        Ok(Box::new((self.clone(), path.to_owned(), file)))
    }
    fn open(&self, path: &Path) -> io::Result<fs::File> {
        self.note("open", path);
        let one_less = |left: usize| left.checked_sub(1);
        match self.refused.fetch_update(Relaxed, Relaxed, one_less) {
            Ok(_) => Err(io::ErrorKind::QuotaExceeded.into()),
            Err(_) => self.real.open(path),
        }
    }
    fn read(&self, path: &Path, max_bytes: usize) -> io::Result<Vec<u8>> {
        self.real.read(path, max_bytes)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.real.exists(path)
    }
    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.real.mkdir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real.link(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.real.unlink(path)
    }
    fn rmdir(&self, path: &Path) -> io::Result<()> {
        self.real.rmdir(path)
    }
    fn overwrite(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.real.overwrite(path, at, bytes)
    }
    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.note("sync file", path);
        self.real.sync_file(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.note("sync dir", path);
        self.real.sync_dir(path)
    }
    fn can_sync_all(&self) -> bool {
        self.real.can_sync_all()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.note("sync all", Path::new("."));
        self.real.sync_all()
    }
    fn list(&self, path: &Path, each: &mut EachEntry<'_>) -> io::Result<()> {
        self.real.list(path, each)
    }
    fn room(&self) -> io::Result<Room> {
        self.real.room()
    }
}

impl DiskFile for (Watched, PathBuf, Box<dyn DiskFile>) {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.2.write(bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.0.note("sync", &self.1);
        self.2.sync()
    }
}

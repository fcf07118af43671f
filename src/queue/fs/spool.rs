//! A spool for tests, in a directory of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::queue::Queue;

use super::{Fs, Options};

pub(super) struct Spool {
    pub(super) dir: tempfile::TempDir,
    pub(super) fs: Fs,
    pub(super) queue: Queue,
}

impl Spool {
    pub(super) fn with(options: Options) -> Spool {
        Spool::over(tempfile::tempdir().unwrap(), options)
    }

    pub(super) fn over(dir: tempfile::TempDir, options: Options) -> Spool {
        let fs = Fs::open(dir.path(), options).unwrap();
        let queue = Queue::new(Arc::new(fs.clone()));
        Spool { dir, fs, queue }
    }

    /// As after the death of the process.
    pub(super) fn reopened(self, options: Options) -> Spool {
        let Spool { dir, fs, queue } = self;
        drop((fs, queue));
        Spool::over(dir, options)
    }

    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(path)
    }

    /// What there is in a directory of the spool, sorted.
    pub(super) fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.at(directory)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

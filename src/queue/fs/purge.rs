//! Clearing away what nobody was promised, and what has been settled.
//!
//! At start everything in `incoming` and `temporary` moves to `purge`, one rename each, so that
//! mail is accepted at once; [`Shared::purge`] deletes it in the background.

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use crate::log;

use super::{EntryKind, Shared, layout};

/// OpenSMTPD leaves whole rooms here: purge/N/incoming/msgid/file.
const MAX_DEPTH: usize = 8;
/// Names taken from a directory at a time.
const BATCH: usize = 1000;

impl Shared {
    /// Moves what an earlier process left in `incoming` and `temporary` out of the way.
    pub(super) fn clear_leftovers(&self) -> io::Result<()> {
        let mut count = 0;
        for room in [layout::INCOMING, layout::TEMPORARY] {
            for (name, _) in self.names(Path::new(room), usize::MAX)? {
                let from = Path::new(room).join(name);
                self.disk.rename(&from, &layout::purged(self.serial()))?;
                count += 1;
            }
        }
        if count > 0 {
            log::debug(format_args!("queue: {count} uncommitted leftovers dropped"));
        }
        Ok(())
    }

    /// Takes a message's directory out of its room, whole, and deletes it. What a stop in between
    /// leaves is in `purge`.
    pub(super) fn discard(&self, dir: &Path) -> io::Result<()> {
        let away = layout::purged(self.serial());
        match self.disk.rename(dir, &away) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            moved => moved?,
        }
        if let Err(error) = self.delete(&away, EntryKind::Dir, MAX_DEPTH) {
            log::debug(format_args!("queue: {error}"));
        }
        Ok(())
    }

    /// Deletes everything in `purge`; what cannot be deleted is named in one line each.
    pub(super) fn purge(&self) -> io::Result<u64> {
        let mut count = 0;
        let room = Path::new(layout::PURGE);
        let names = self.names(room, usize::MAX)?;
        for (name, kind) in names {
            match self.delete(&room.join(name), kind, MAX_DEPTH) {
                Ok(()) => count += 1,
                Err(error) => log::warn(format_args!("queue: purge: {error}")),
            }
        }
        Ok(count)
    }

    fn delete(&self, path: &Path, kind: EntryKind, depth: usize) -> io::Result<()> {
        if kind != EntryKind::Dir {
            return gone(self.disk.unlink(path));
        }
        if depth == 0 {
            return Err(io::Error::other(format!("{}: too deep", path.display())));
        }
        loop {
            let names = match self.names(path, BATCH) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                names => names?,
            };
            let last = names.len() < BATCH;
            for (name, kind) in names {
                self.delete(&path.join(name), kind, depth - 1)?;
            }
            if last {
                return gone(self.disk.rmdir(path));
            }
        }
    }

    fn names(&self, dir: &Path, limit: usize) -> io::Result<Vec<(OsString, EntryKind)>> {
        let mut names = Vec::new();
        self.disk.list(dir, &mut |name: &OsStr, kind| {
            names.push((name.to_owned(), kind));
            if names.len() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        Ok(names)
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

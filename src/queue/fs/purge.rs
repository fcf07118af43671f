//! Clearing away what nobody was promised, and what has been settled.
//!
//! At start everything in `incoming` and `temporary` moves to `purge`, one rename each, so that
//! mail is accepted at once; [`Shared::purge`] deletes it in the background. So does each message
//! that is settled: the rename takes a tenth of the time that taking its directory apart does, and
//! nobody has to wait for the rest ([`Dropped`]).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::log;

use super::{EntryKind, Shared, layout};

/// OpenSMTPD leaves whole rooms here: purge/N/incoming/msgid/file.
const MAX_DEPTH: usize = 8;
/// Names taken from a directory at a time.
const BATCH: usize = 1000;
/// Directories that may wait to be deleted; whoever brings more deletes his own.
const DROPPED_MAX: usize = 1024;
/// Between two looks at bags of which little is left.
const BETWEEN_LOOKS: Duration = Duration::from_secs(60);

/// Directories in `purge` that wait to be deleted by somebody who has time. What is not deleted
/// when the process ends, the next one deletes.
#[derive(Default)]
pub(super) struct Dropped {
    waiting: Mutex<VecDeque<PathBuf>>,
    came: Condvar,
}

impl Dropped {
    /// Leaves a directory; gives it back when too many are waiting.
    fn leave(&self, path: PathBuf) -> Option<PathBuf> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= DROPPED_MAX {
            return Some(path);
        }
        waiting.push_back(path);
        self.came.notify_one();
        None
    }

    fn next(&self) -> Option<PathBuf> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.pop_front()
    }

    /// The next one, if one comes within this time.
    fn wait(&self, time: Duration) -> Option<PathBuf> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let woken = self
            .came
            .wait_timeout_while(waiting, time, |waiting| waiting.is_empty());
        let (mut waiting, _) = woken.unwrap_or_else(PoisonError::into_inner);
        waiting.pop_front()
    }
}

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

    /// Takes a message's directory out of its room, whole; it is deleted then, or later. What a
    /// stop in between leaves is in `purge`.
    pub(super) fn discard(&self, dir: &Path) -> io::Result<()> {
        let away = layout::purged(self.serial());
        match self.disk.rename(dir, &away) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            moved => moved?,
        }
        let now = if self.options.delete_later {
            self.dropped.leave(away)
        } else {
            Some(away)
        };
        if let Some(away) = now {
            self.delete_dropped(&away);
        }
        Ok(())
    }

    /// Deletes what has been dropped so far.
    pub(super) fn delete_all_dropped(&self) {
        while let Some(away) = self.dropped.next() {
            self.delete_dropped(&away);
        }
    }

    /// Deletes what is dropped, as it comes, for ever; and looks after old bags.
    pub(super) fn delete_as_it_comes(&self) -> ! {
        let mut looked = self.now();
        loop {
            if let Some(away) = self.dropped.wait(BETWEEN_LOOKS) {
                self.delete_dropped(&away);
            }
            if self.now().since(looked) >= BETWEEN_LOOKS.as_secs() {
                self.unpack_left_over();
                looked = self.now();
            }
        }
    }

    fn delete_dropped(&self, away: &Path) {
        if let Err(error) = self.delete(away, EntryKind::Dir, MAX_DEPTH) {
            log::debug(format_args!("queue: {error}"));
        }
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

//! Group commit: callers who need the same directory durable share one sync of it.
//!
//! A sync covers what was done before it *started*. A caller that comes while one runs can
//! therefore not count on it and waits for the next, together with everybody else who comes
//! meanwhile; the first of them does it for all. No lock is held while the disk works.
//!
//! A failed sync fails for all whom it was to cover. It is not repeated for them: after an error
//! the kernel may have dropped what it could not write, and a second sync would then lie.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::queue::shared_error::SharedError;

/// Syncs of directories, by path.
#[derive(Default)]
pub(super) struct DirSync {
    dirs: Mutex<HashMap<PathBuf, Arc<Dir>>>,
}

#[derive(Default)]
struct Dir {
    rounds: Mutex<Rounds>,
    ended: Condvar,
}

#[derive(Default)]
struct Rounds {
    running: bool,
    /// The sync that has not started yet.
    next: Arc<Round>,
}

#[derive(Default)]
struct Round(OnceLock<Result<(), SharedError>>);

impl DirSync {
    /// Returns when a sync of `path` that started after this call began has ended; `sync` does
    /// one.
    pub(super) fn sync(
        &self,
        path: &Path,
        sync: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let dir = lock(&self.dirs).entry(path.to_owned()).or_default().clone();
        let result = dir.sync(|| sync(path));
        self.forget(path, dir);
        result.map_err(|failure| failure.to_error())
    }

    /// Drops a directory's entry with its last caller: the map stays as small as what is going on.
    fn forget(&self, path: &Path, dir: Arc<Dir>) {
        let mut dirs = lock(&self.dirs);
        drop(dir);
        if dirs
            .get(path)
            .is_some_and(|dir| Arc::strong_count(dir) == 1)
        {
            dirs.remove(path);
        }
    }
}

impl Dir {
    fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> Result<(), SharedError> {
        let mut rounds = lock(&self.rounds);
        let round = rounds.next.clone();
        loop {
            if let Some(result) = round.0.get() {
                return result.clone();
            }
            if !rounds.running {
                break;
            }
            rounds = self
                .ended
                .wait(rounds)
                .unwrap_or_else(PoisonError::into_inner);
        }
        rounds.running = true;
        rounds.next = Arc::default();
        drop(rounds);
        let result = sync().map_err(|error| SharedError::of(&error));
        let _ = round.0.set(result.clone());
        lock(&self.rounds).running = false;
        self.ended.notify_all();
        result
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Waits until `count` callers wait for the next sync.
    fn wait_for_callers(syncs: &DirSync, path: &Path, count: usize) {
        let waiting = || {
            let dir = lock(&syncs.dirs).get(path).cloned();
            dir.map_or(0, |dir| Arc::strong_count(&lock(&dir.rounds).next) - 1)
        };
        while waiting() < count {
            thread::yield_now();
        }
    }

    #[test]
    fn who_comes_while_a_sync_runs_shares_the_next_one() {
        // A follower whose rename came after the leader's sync started is not covered by it.
        let syncs = &DirSync::default();
        let path = Path::new("queue/00");
        let done = &AtomicUsize::new(0);
        let (go, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let (entered, inside) = mpsc::channel();
            scope.spawn(move || {
                syncs.sync(path, |_| {
                    entered.send(()).unwrap();
                    wait.recv().unwrap();
                    done.fetch_add(1, SeqCst);
                    Ok(())
                })
            });
            inside.recv().unwrap();
            let late: Vec<_> = (0..5)
                .map(|_| {
                    scope.spawn(move || {
                        syncs
                            .sync(path, |_| {
                                done.fetch_add(1, SeqCst);
                                Ok(())
                            })
                            .unwrap();
                        assert_eq!(done.load(SeqCst), 2);
                    })
                })
                .collect();
            wait_for_callers(syncs, path, 5);
            assert_eq!(done.load(SeqCst), 0);
            go.send(()).unwrap();
            for thread in late {
                thread.join().unwrap();
            }
        });
        assert_eq!(done.load(SeqCst), 2);
        assert!(lock(&syncs.dirs).is_empty());
    }

    #[test]
    fn a_failed_sync_fails_for_all_it_was_to_cover_and_not_for_later_ones() {
        let syncs = DirSync::default();
        let path = Path::new("d");
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let error = syncs.sync(path, |_| Err(full())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        syncs.sync(path, |_| Ok(())).unwrap();
    }
}

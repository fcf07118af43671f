//! The floor under `make bench`: the file operations of a commit, or of a delivery, and nothing else.
//!
//! floor DIR SECONDS THREADS BYTES WAY: messages of so many bytes by that many threads, and how many a
//! second it was. With WAY `alone` each message has a directory with an envelope beside it; with `file` it
//! is a file with the envelope in it; with `shared` those that wait at the same time are in one file with
//! one sync; `maildir` is shared first, and then 32 at a time are written, synced and renamed into a maildir,
//! whose directory is synced once.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

const ENVELOPE_BYTES: usize = 400;
const BATCH: usize = 32;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, seconds, threads, bytes, way] = args.as_slice() else {
        eprintln!("usage: floor DIR SECONDS THREADS BYTES alone|file|shared|maildir");
        std::process::exit(1);
    };
    let number = |text: &String| text.parse::<f64>().map_err(io::Error::other);
    let floor = Floor {
        root: PathBuf::from(dir),
        bytes: number(bytes)? as usize,
        next: AtomicUsize::new(0),
        shared: Shared::default(),
    };
    for part in ["incoming", "queue/00", "bags", "tmp", "new"] {
        fs::create_dir_all(floor.root.join(part))?;
    }
    let one: fn(&Floor) -> io::Result<usize> = match way.as_str() {
        "alone" => Floor::alone,
        "file" => Floor::file,
        "shared" => Floor::shared,
        "maildir" => Floor::maildir,
        _ => return Err(io::Error::other("an unknown way")),
    };
    let (threads, start) = (number(threads)? as usize, Instant::now());
    let end = start + Duration::from_secs_f64(number(seconds)?);
    let done: usize = std::thread::scope(|scope| {
        let work = || {
            let mut done = 0;
            while Instant::now() < end {
                done += one(&floor)?;
            }
            io::Result::Ok(done)
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| {
            let ended = worker.join();
            ended.unwrap_or_else(|_| Err(io::Error::other("thread")))
        });
        ended.sum::<io::Result<usize>>()
    })?;
    println!("{:.1}", done as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

struct Floor {
    root: PathBuf,
    bytes: usize,
    next: AtomicUsize,
    shared: Shared,
}

impl Floor {
    fn name(&self) -> String {
        format!("{:08x}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn sync(&self, dir: &str) -> io::Result<()> {
        File::open(self.root.join(dir))?.sync_all()
    }

    fn write(&self, path: &Path, bytes: usize) -> io::Result<File> {
        let mut file = File::create(path)?;
        file.write_all(&vec![b'x'; bytes])?;
        Ok(file)
    }

    fn alone(&self) -> io::Result<usize> {
        let name = self.name();
        let incoming = self.root.join("incoming").join(&name);
        fs::create_dir(&incoming)?;
        for (file, bytes) in [("message", self.bytes), ("evpid", ENVELOPE_BYTES)] {
            self.write(&incoming.join(file), bytes)?.sync_all()?;
        }
        File::open(&incoming)?.sync_all()?;
        fs::rename(&incoming, self.root.join("queue/00").join(&name))?;
        self.sync("queue/00")?;
        Ok(1)
    }

    fn file(&self) -> io::Result<usize> {
        self.put(self.bytes + ENVELOPE_BYTES)?;
        Ok(1)
    }

    /// A file of so many bytes, durable under its name.
    fn put(&self, bytes: usize) -> io::Result<()> {
        let name = self.name();
        let temporary = self.root.join("incoming").join(&name);
        self.write(&temporary, bytes)?.sync_all()?;
        fs::rename(&temporary, self.root.join("bags").join(&name))?;
        self.sync("bags")
    }

    fn shared(&self) -> io::Result<usize> {
        let each = self.bytes + ENVELOPE_BYTES;
        self.shared.commit(|count| self.put(count * each))?;
        Ok(1)
    }

    fn maildir(&self) -> io::Result<usize> {
        for _ in 0..BATCH {
            self.shared()?;
        }
        let names: Vec<String> = (0..BATCH).map(|_| self.name()).collect();
        let path = |dir: &str, name: &String| self.root.join(dir).join(name);
        let files = names
            .iter()
            .map(|name| self.write(&path("tmp", name), self.bytes));
        let files: Vec<File> = files.collect::<io::Result<_>>()?;
        files.iter().try_for_each(File::sync_all)?;
        for name in &names {
            fs::rename(path("tmp", name), path("new", name))?;
        }
        self.sync("new")?;
        Ok(BATCH)
    }
}

/// Messages that share a file and its syncs.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// Messages that wait for the next file.
    waiting: usize,
    /// Files written, and whether one is being written.
    written: usize,
    busy: bool,
}

impl Shared {
    /// `write` makes so many messages durable: this one, and those that wait.
    fn commit(&self, write: impl FnOnce(usize) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock().map_err(|_| io::Error::other("thread"))?;
        state.waiting += 1;
        let mine = state.written + 1 + usize::from(state.busy);
        while state.busy && state.written < mine {
            let woken = self.ended.wait(state);
            state = woken.map_err(|_| io::Error::other("thread"))?;
        }
        if state.written >= mine {
            return Ok(());
        }
        let count = std::mem::take(&mut state.waiting);
        state.busy = true;
        drop(state);
        let result = write(count);
        let mut state = self.state.lock().map_err(|_| io::Error::other("thread"))?;
        state.written += 1;
        state.busy = false;
        self.ended.notify_all();
        result
    }
}

//! The floor under `make bench`: the file operations of a commit and nothing else.
//!
//! floor DIR MESSAGES THREADS alone|shared: as many 4 KiB messages with one envelope each as MESSAGES
//! says, by that many threads, and how many a second it was; each message in a directory of its
//! own, or those that wait at the same time in one file with one sync.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, messages, threads, way] = args.as_slice() else {
        eprintln!("usage: floor DIR MESSAGES THREADS alone|shared");
        std::process::exit(1);
    };
    let shared = (way == "shared").then(Shared::default);
    let (root, messages, threads) = (
        PathBuf::from(dir),
        messages.parse::<usize>().map_err(io::Error::other)?,
        threads.parse::<usize>().map_err(io::Error::other)?,
    );
    fs::create_dir_all(root.join("incoming"))?;
    fs::create_dir_all(root.join("queue/00"))?;
    fs::create_dir_all(root.join("bags"))?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let (root, shared) = (&root, shared.as_ref());
                scope.spawn(move || {
                    (worker..messages)
                        .step_by(threads)
                        .try_for_each(|n| match shared {
                            Some(shared) => shared.commit(root, n),
                            None => commit(root, n),
                        })
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|w| w.join().unwrap_or_else(|_| Err(io::Error::other("thread"))))
    })?;
    println!("{:.1}", messages as f64 / start.elapsed().as_secs_f64());
    Ok(())
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
    fn commit(&self, root: &Path, n: usize) -> io::Result<()> {
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
        let result = write_shared(root, n, count);
        let mut state = self.state.lock().map_err(|_| io::Error::other("thread"))?;
        state.written += 1;
        state.busy = false;
        self.ended.notify_all();
        result
    }
}

fn write_shared(root: &Path, n: usize, count: usize) -> io::Result<()> {
    let temporary = root.join("incoming").join(format!("{n:08x}"));
    let mut file = File::create(&temporary)?;
    file.write_all(&vec![b'x'; count * (4096 + 400)])?;
    file.sync_all()?;
    fs::rename(&temporary, root.join("bags").join(format!("{n:08x}")))?;
    File::open(root.join("bags"))?.sync_all()
}

/// Everything a commit has to do to the disk, in its order.
fn commit(root: &Path, n: usize) -> io::Result<()> {
    let name = format!("{n:08x}");
    let incoming = root.join("incoming").join(&name);
    fs::create_dir(&incoming)?;
    for (file, bytes) in [
        ("message", [b'x'; 4096].as_slice()),
        ("evpid", &[b'y'; 400]),
    ] {
        let mut file = File::create(incoming.join(file))?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    File::open(&incoming)?.sync_all()?;
    fs::rename(&incoming, root.join("queue/00").join(&name))?;
    File::open(root.join("queue/00"))?.sync_all()
}

//! The floor under `make bench`: the file operations of a commit and nothing else.
//!
//! floor DIR MESSAGES THREADS: as many 4 KiB messages with one envelope each as MESSAGES says, by
//! that many threads, and how many a second it was.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, messages, threads] = args.as_slice() else {
        eprintln!("usage: floor DIR MESSAGES THREADS");
        std::process::exit(1);
    };
    let (root, messages, threads) = (
        PathBuf::from(dir),
        messages.parse::<usize>().map_err(io::Error::other)?,
        threads.parse::<usize>().map_err(io::Error::other)?,
    );
    fs::create_dir_all(root.join("incoming"))?;
    fs::create_dir_all(root.join("queue/00"))?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let root = &root;
                scope.spawn(move || {
                    (worker..messages)
                        .step_by(threads)
                        .try_for_each(|n| commit(root, n))
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

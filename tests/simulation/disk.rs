//! A [`Disk`] over a [`Tree`] that writes down every operation and every promise, in one order.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use smtpd::queue::DiskFile;
use smtpd::queue::fs::{Disk, EachEntry, EntryKind};
use smtpd::sys::fs::Room;

use crate::promise::Note;
use crate::tree::{Op, Tree};

/// One line of the record.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // Few notes among many operations, in short records.
pub enum Step {
    Op(Op),
    Note(Note),
}

/// When operations fail.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Never,
    /// Operation number N fails, the disk being full.
    Once(usize),
    /// All from number N on.
    From(usize),
}

/// The disk; clones share it.
#[derive(Clone)]
pub struct SimDisk(Arc<Inner>);

struct Inner {
    world: Mutex<World>,
    /// Syncs of these paths are said to be done and are not.
    lies: fn(&Path) -> bool,
    fault: Fault,
    /// Whatever is done at this path and below it fails.
    broken: Mutex<Option<PathBuf>>,
    crowded: AtomicBool,
    /// Whether everything can be synced at once, and how often it was.
    at_once: AtomicBool,
    all_syncs: AtomicUsize,
    meanwhile: Mutex<Option<Meanwhile>>,
}

/// What else happens right after an operation, by its number.
type Meanwhile = (usize, Box<dyn FnOnce() + Send>);

struct World {
    tree: Tree,
    record: Vec<Step>,
    operations: usize,
    syncs: usize,
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
}

/// The directories of a spool.
pub const ROOMS: [&str; 6] = ["queue", "bags", "incoming", "temporary", "purge", "corrupt"];

impl SimDisk {
    pub fn new(tree: Tree) -> SimDisk {
        SimDisk::with(tree, |_| false, Fault::Never)
    }

    pub fn with(tree: Tree, lies: fn(&Path) -> bool, fault: Fault) -> SimDisk {
        let world = World {
            tree,
            record: Vec::new(),
            operations: 0,
            syncs: 0,
        };
        SimDisk(Arc::new(Inner {
            world: Mutex::new(world),
            lies,
            fault,
            broken: Mutex::new(None),
            crowded: AtomicBool::new(false),
            at_once: AtomicBool::new(false),
            all_syncs: AtomicUsize::new(0),
            meanwhile: Mutex::new(None),
        }))
    }

    /// Everything that would change this path, or anything below it, fails from now on; `None` mends
    /// the disk.
    pub fn break_at(&self, path: Option<&Path>) {
        *lock(&self.0.broken) = path.map(Path::to_owned);
    }

    /// Lets something else happen right after operation `number`, before its caller goes on;
    /// unless that is a sync, whose end another caller may be waiting for.
    pub fn meanwhile(&self, number: usize, what: Box<dyn FnOnce() + Send>) {
        *lock(&self.0.meanwhile) = Some((number, what));
    }

    /// Writes down a promise.
    pub fn note(&self, note: Note) {
        self.world().record.push(Step::Note(note));
    }

    /// What was done and promised so far.
    pub fn record(&self) -> Vec<Step> {
        self.world().record.clone()
    }

    /// How many operations there were.
    pub fn operations(&self) -> usize {
        self.world().operations
    }

    /// The file system as programs see it.
    pub fn tree(&self) -> Tree {
        self.world().tree.clone()
    }

    /// Everything can be synced at once from now on. A lie about the nth of such syncs is one about
    /// the path `./n`.
    pub fn sync_at_once(&self) {
        self.0.at_once.store(true, Ordering::Relaxed);
    }

    /// Several threads use this disk from now on: they get in each other's way as often as they can.
    pub fn crowd(&self) {
        self.0.crowded.store(true, Ordering::Relaxed);
    }

    /// Alone there is nobody to yield to but other programs.
    fn yield_now(&self, times: usize) {
        if self.0.crowded.load(Ordering::Relaxed) {
            (0..times).for_each(|_| thread::yield_now());
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.0.world)
    }

    fn step(&self, op: Op) -> io::Result<()> {
        let mut world = self.world();
        if let Err(full) = self.count(&mut world, op.path()) {
            world.write_what_fits(op)?;
            return Err(full);
        }
        world.tree.apply(&op)?;
        let is_sync = matches!(op, Op::SyncDirStart(..) | Op::SyncFileStart(..));
        world.record.push(Step::Op(op));
        let number = world.operations;
        drop(world);
        let due = lock(&self.0.meanwhile).take_if(|(at, _)| *at == number && !is_sync);
        if let Some((_, what)) = due {
            what();
        }
        self.yield_now(1);
        Ok(())
    }

    fn count(&self, world: &mut World, path: &Path) -> io::Result<()> {
        world.operations += 1;
        let fails = match self.0.fault {
            Fault::Never => false,
            Fault::Once(number) => world.operations == number,
            Fault::From(number) => world.operations >= number,
        };
        let broken = lock(&self.0.broken);
        if fails || broken.as_ref().is_some_and(|at| path.starts_with(at)) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }

    /// A sync covers what was there when it began; it takes its time to end.
    fn sync(
        &self,
        path: &Path,
        start: fn(PathBuf, usize) -> Op,
        end: fn(PathBuf, usize) -> Op,
    ) -> io::Result<()> {
        if (self.0.lies)(path) {
            return Ok(());
        }
        let serial = {
            let mut world = self.world();
            world.syncs += 1;
            world.syncs
        };
        self.step(start(path.to_owned(), serial))?;
        self.yield_now(8);
        let mut world = self.world();
        let op = end(path.to_owned(), serial);
        world.tree.apply(&op)?;
        world.record.push(Step::Op(op));
        Ok(())
    }
}

impl World {
    /// A full disk takes a part of what is written to it, and nothing of any other operation.
    fn write_what_fits(&mut self, op: Op) -> io::Result<()> {
        if let Op::Write(path, mut bytes) = op {
            bytes.truncate(bytes.len() / 2);
            let part = Op::Write(path, bytes);
            self.tree.apply(&part)?;
            self.record.push(Step::Op(part));
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.step(Op::Create(path.to_owned()))?;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            path: path.to_owned(),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        let bytes = self.world().tree.read(path)?;
        let mut file = tempfile::tempfile()?;
        file.write_all(&bytes)?;
        file.rewind()?;
        Ok(file)
    }

    fn read(&self, path: &Path, max_bytes: usize) -> io::Result<Vec<u8>> {
        let mut bytes = self.world().tree.read(path)?;
        bytes.truncate(max_bytes);
        Ok(bytes)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.world().tree.exists(path))
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.step(Op::Mkdir(path.to_owned()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Op::Rename(from.to_owned(), to.to_owned()))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Op::Link(from.to_owned(), to.to_owned()))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.step(Op::Unlink(path.to_owned()))
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        self.step(Op::Rmdir(path.to_owned()))
    }

    fn overwrite(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.step(Op::Overwrite(path.to_owned(), at as usize, bytes.to_vec()))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.sync(path, Op::SyncFileStart, Op::SyncFileEnd)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.sync(path, Op::SyncDirStart, Op::SyncDirEnd)
    }

    fn can_sync_all(&self) -> bool {
        self.0.at_once.load(Ordering::Relaxed)
    }

    /// A sync of every file and directory, all of which begin before one ends.
    fn sync_all(&self) -> io::Result<()> {
        let number = self.0.all_syncs.fetch_add(1, Ordering::Relaxed) + 1;
        if (self.0.lies)(&Path::new(".").join(number.to_string())) {
            return Ok(());
        }
        let mut there: Vec<(PathBuf, bool)> = ROOMS.map(|room| (room.into(), true)).into();
        let mut at = 0;
        while let Some((path, is_dir)) = there.get(at).cloned() {
            at += 1;
            if is_dir {
                let entries = self.world().tree.list(&path)?;
                there.extend(
                    entries
                        .into_iter()
                        .map(|(name, is_dir)| (path.join(name), is_dir)),
                );
            }
        }
        let mut ends = Vec::new();
        for (path, is_dir) in there {
            let serial = {
                let mut world = self.world();
                world.syncs += 1;
                world.syncs
            };
            let (start, end) = if is_dir {
                (
                    Op::SyncDirStart(path.clone(), serial),
                    Op::SyncDirEnd(path, serial),
                )
            } else {
                (
                    Op::SyncFileStart(path.clone(), serial),
                    Op::SyncFileEnd(path, serial),
                )
            };
            self.step(start)?;
            ends.push(end);
        }
        let mut world = self.world();
        for end in ends {
            world.tree.apply(&end)?;
            world.record.push(Step::Op(end));
        }
        Ok(())
    }

    fn list(&self, path: &Path, each: &mut EachEntry<'_>) -> io::Result<()> {
        let entries = self.world().tree.list(path)?;
        for (name, is_dir) in entries {
            let kind = if is_dir {
                EntryKind::Dir
            } else {
                EntryKind::File
            };
            if each(OsStr::new(&name), kind).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn room(&self) -> io::Result<Room> {
        Ok(Room {
            total_bytes: 0,
            free_bytes: 0,
            total_inodes: 0,
            free_inodes: 0,
        })
    }
}

impl DiskFile for SimFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.step(Op::Write(self.path.clone(), bytes.to_vec()))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk
            .sync(&self.path, Op::SyncFileStart, Op::SyncFileEnd)
    }
}

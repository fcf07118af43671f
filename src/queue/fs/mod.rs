//! The store on disk: a maildir-like spool, described in `spool-layout.md`.
//!
//! A message is in `queue` whole or not at all, and a commit returns only when a power cut can no
//! longer take it back. Every call may block on the disk and any number of threads may call; no
//! lock is held across a sync. Errors carry what was attempted on what; running out of space, of
//! quota or of descriptors has the kinds `StorageFull` and `QuotaExceeded`
//! ([`crate::queue::is_shortage`]) and is logged here, once until it is over.
//!
//! It does not schedule, does not decide what a message is worth, and deletes only what was
//! settled or never promised.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::log;
use crate::mail::{Envelope, EvpId, MsgId};
use crate::sys;
use crate::util::{Line, Timestamp};

use self::bags::{Index, Parcel, Reading};
use self::buckets::Buckets;
use self::dirsync::DirSync;
use self::ids::Ids;
use self::incoming::FsDraft;
use self::purge::Dropped;
use self::space::Space;
use self::walk::Walk;

use super::coding::Coding;
use super::{BeginError, Body, Draft, LoadError, Store};

pub mod bags;
mod buckets;
mod corrupt;
mod dirsync;
mod disk;
mod ids;
mod incoming;
mod keyed;
pub mod layout;
mod many;
mod purge;
mod settle;
mod space;
mod walk;

#[cfg(test)]
mod spool;
#[cfg(test)]
mod tests;

pub use disk::{Disk, EachEntry, EntryKind, RealDisk};
pub use layout::{body_path, envelope_path};
pub use space::is_short;

/// The store on disk; clones share it.
#[derive(Clone)]
pub struct Fs(Arc<Shared>);

/// What may be chosen.
#[derive(Clone)]
pub struct Options {
    /// The largest message that may come: so much room is kept.
    pub max_message_bytes: u64,
    /// Percent of the file system, of bytes and of inodes, that stay free …
    pub min_free_percent: u64,
    /// … but no more bytes than this …
    pub min_free_bytes: u64,
    /// … and no more inodes than this.
    pub min_free_inodes: u64,
    /// Envelopes of one message that is being received; they are in memory until its commit.
    pub max_envelopes: usize,
    /// The bytes of their files together.
    pub max_envelope_bytes: usize,
    /// How files are written, and the key to those that are encrypted.
    pub coding: Coding,
    /// Bytes of messages being received that are in memory; beyond that they go to the disk.
    pub max_held_bytes: usize,
    /// Whether small messages that are committed at the same time share a file.
    pub bags: bool,
    /// Whether a queue is opened that another key has sealed.
    pub any_key: bool,
    /// Whether somebody will call [`Fs::read_bags`].
    pub read_bags_later: bool,
    /// The clock: it names buckets and ages the answer about free space.
    pub clock: Clock,
    /// Whether somebody will call [`Fs::delete_as_it_comes`] or [`Fs::delete_dropped`]: then nobody
    /// else waits for files to be deleted.
    pub delete_later: bool,
    /// Who runs commands of aliases that OpenSMTPD has left in the queue.
    pub daemon_user: Option<Line>,
}

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

impl Default for Options {
    fn default() -> Options {
        Options {
            max_message_bytes: 35 * 1024 * 1024,
            min_free_percent: 5,
            min_free_bytes: 256 * 1024 * 1024,
            min_free_inodes: 10_000,
            max_envelopes: 20_000,
            max_envelope_bytes: 32 * 1024 * 1024,
            coding: Coding::default(),
            max_held_bytes: 64 * 1024 * 1024,
            bags: false,
            any_key: false,
            read_bags_later: false,
            clock: Arc::new(Timestamp::now),
            delete_later: false,
            daemon_user: None,
        }
    }
}

/// What all handles, drafts and walks of one store share.
struct Shared {
    disk: Arc<dyn Disk>,
    options: Options,
    ids: Ids,
    buckets: Buckets,
    bags: Index,
    reading: Reading,
    dirs: DirSync,
    dropped: Dropped,
    space: Space,
    serial: AtomicU64,
    /// Bytes of messages being received that are in memory.
    held_bytes: AtomicUsize,
    /// Bodies that OpenSMTPD has encrypted are opened one at a time.
    legacy: Mutex<()>,
    turns: [Mutex<()>; TURNS],
    /// Held for as long as the store is open.
    _lock: Option<File>,
}

/// Locks for the directories of messages; two messages seldom share one.
const TURNS: usize = 64;

impl Fs {
    /// Opens the spool under `root` for this process alone: checks its directories, makes those
    /// that are missing if it may, and drops what was never committed. Fails with a text for the
    /// administrator.
    pub fn open(root: &Path, options: Options) -> io::Result<Fs> {
        layout::verify(root)?;
        let lock = layout::lock(root)?;
        layout::set_aside_foreign(root)?;
        Fs::over(Arc::new(RealDisk::new(root)), options, Some(lock))
    }

    /// The store over another disk, whose directories are there. Nothing locks it.
    pub fn with_disk(disk: Arc<dyn Disk>, options: Options) -> io::Result<Fs> {
        Fs::over(disk, options, None)
    }

    /// Deletes what has been dropped, now and at earlier starts; says how many things that were.
    /// Takes as long as it takes and may run beside everything else: call it once after opening,
    /// from a thread that has time.
    pub fn purge(&self) -> io::Result<u64> {
        self.0.purge()
    }

    /// Deletes what has been dropped since, with [`Options::delete_later`].
    pub fn delete_dropped(&self) {
        self.0.delete_all_dropped();
    }

    /// The same for everything that is dropped from now on, and for bags that keep much room for
    /// little. Never returns: it is for a thread of its own.
    pub fn delete_as_it_comes(&self) -> ! {
        self.0.delete_as_it_comes()
    }

    /// Reads the tables of the bags that an earlier process has left, with
    /// [`Options::read_bags_later`]: call it once, from a thread that has time. Until it has ended
    /// commits wait, and [`Store::messages`].
    pub fn read_bags(&self) {
        self.0.read_bags();
    }

    /// Gives every message a directory of its own, as older versions expect it, as far as `time`
    /// allows; says how many are still in bags, which are safe there.
    pub fn unpack_all(&self, time: Duration) -> usize {
        self.0.unpack_all(time)
    }

    fn over(disk: Arc<dyn Disk>, options: Options, lock: Option<File>) -> io::Result<Fs> {
        let shared = Shared {
            buckets: Buckets::open(&*disk)?,
            bags: Index::default(),
            reading: Reading::default(),
            disk,
            options,
            ids: Ids::default(),
            dirs: DirSync::default(),
            dropped: Dropped::default(),
            space: Space::default(),
            // Names in purge outlive a process; a random start keeps them apart.
            serial: AtomicU64::new(sys::random::number_u64()),
            held_bytes: AtomicUsize::new(0),
            legacy: Mutex::new(()),
            turns: [const { Mutex::new(()) }; TURNS],
            _lock: lock,
        };
        shared.find_bags(keyed::LOOKS)?;
        if !shared.options.any_key {
            shared.check_key()?;
        }
        shared.clear_leftovers()?;
        if !shared.options.read_bags_later {
            shared.read_bags();
        }
        Ok(Fs(Arc::new(shared)))
    }
}

impl Store for Fs {
    fn begin(&self) -> Result<Box<dyn Draft>, BeginError> {
        let shared = &self.0;
        let now = shared.now();
        let short = shared
            .space
            .short(&shared.options, now, || shared.disk.room());
        if short.map_err(BeginError::Io)? {
            return Err(BeginError::Full);
        }
        let msgid = shared
            .ids
            .draw(now, |id| shared.is_taken(id))
            .map_err(BeginError::Io)?;
        shared.space.spend(0, space::MESSAGE_INODES);
        Ok(Box::new(FsDraft::new(shared.clone(), msgid)))
    }

    fn load(&self, id: EvpId) -> Result<Envelope, LoadError> {
        self.0.load(id)
    }

    fn load_these(&self, ids: &[EvpId]) -> Vec<Result<Envelope, LoadError>> {
        self.0.load_these(ids)
    }

    fn open_body(&self, id: MsgId) -> io::Result<Body> {
        let body = self.0.open_body(id);
        body.inspect_err(|error| self.0.note(error))
    }

    fn update(&self, envelope: &Envelope) -> io::Result<()> {
        self.0.noted(self.0.update(envelope))
    }

    fn add(&self, envelope: &Envelope) -> io::Result<EvpId> {
        self.0.noted(self.0.add(envelope))
    }

    fn remove(&self, id: EvpId) -> io::Result<()> {
        self.0.noted(self.0.remove(id))
    }

    fn messages(&self) -> Box<dyn Iterator<Item = MsgId> + Send> {
        Box::new(Walk::new(self.0.clone()))
    }

    fn envelopes(&self, id: MsgId) -> io::Result<Vec<Envelope>> {
        self.0.envelopes(id)
    }

    fn envelopes_of(&self, ids: &[MsgId]) -> Vec<io::Result<Vec<Envelope>>> {
        self.0.envelopes_of(ids)
    }

    fn commit_parcels(&self, parcels: &[Parcel]) -> io::Result<()> {
        self.0.noted(self.0.put_bag(parcels))
    }
}

impl Shared {
    fn now(&self) -> Timestamp {
        (self.options.clock)()
    }

    /// Whether a message has this id.
    fn is_taken(&self, id: MsgId) -> io::Result<bool> {
        Ok(self.bags.has(id) || self.disk.exists(&layout::message_dir(id))?)
    }

    /// The right to change a message's directory. Not to be held across a sync.
    fn turn(&self, id: MsgId) -> MutexGuard<'_, ()> {
        let turn = id.get() as usize % TURNS;
        self.turns[turn]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.dirs.sync(path, |path| self.disk.sync_dir(path))
    }

    fn ensure_bucket(&self, bucket: u8) -> io::Result<()> {
        self.buckets.ensure(&*self.disk, &self.dirs, bucket)
    }

    fn serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// A call has failed: if that was for a shortage, the log says so, once for all.
    fn note(&self, error: &io::Error) {
        if super::is_shortage(error) {
            let now = self.now();
            self.space
                .refused(error, &self.options, now, || self.disk.room());
        }
    }

    /// What became of a call that writes.
    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        match &result {
            Ok(_) => self.space.written(self.now()),
            Err(error) => self.note(error),
        }
        result
    }
}

/// A name in the spool that is none of ours is left alone.
fn bogus(dir: &Path, name: &OsStr) {
    let path = dir.join(name);
    log::debug(format_args!("queue: bogus file {}", path.display()));
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.to_owned())
}

//! Which of the 256 buckets are known to be durable.
//!
//! A bucket that exists is not yet one that survives: another thread, or the process before this
//! one, may have made it a moment ago and not synced `queue`. A message in such a bucket would
//! vanish with it. So a bucket counts only after this process has synced `queue` with the bucket
//! in it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::dirsync::DirSync;
use super::{Disk, layout};

/// The durable ones.
pub(super) struct Buckets([AtomicBool; 256]);

impl Buckets {
    /// Syncs `queue` and takes note of the buckets there.
    pub(super) fn open(disk: &dyn Disk) -> io::Result<Buckets> {
        let buckets = Buckets([const { AtomicBool::new(false) }; 256]);
        let found = list(disk)?;
        disk.sync_dir(Path::new(layout::QUEUE))?;
        for bucket in found {
            buckets.set(bucket, true);
        }
        Ok(buckets)
    }

    /// Makes the bucket if it is missing, and durable if it may not be.
    pub(super) fn ensure(&self, disk: &dyn Disk, dirs: &DirSync, bucket: u8) -> io::Result<()> {
        if self.is_set(bucket) {
            return Ok(());
        }
        match disk.mkdir(&layout::bucket_dir(bucket)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => dirs.sync(Path::new(layout::QUEUE), |path| disk.sync_dir(path))?,
        }
        self.set(bucket, true);
        Ok(())
    }

    /// Someone has removed the bucket by hand.
    pub(super) fn lost(&self, bucket: u8) {
        self.set(bucket, false);
    }

    fn is_set(&self, bucket: u8) -> bool {
        self.0
            .get(usize::from(bucket))
            .is_some_and(|known| known.load(Ordering::Acquire))
    }

    fn set(&self, bucket: u8, durable: bool) {
        if let Some(known) = self.0.get(usize::from(bucket)) {
            known.store(durable, Ordering::Release);
        }
    }
}

/// The buckets there are, in order.
pub(super) fn list(disk: &dyn Disk) -> io::Result<Vec<u8>> {
    let mut buckets = Vec::new();
    disk.list(Path::new(layout::QUEUE), &mut |name, kind| {
        match layout::bucket_from(name) {
            Some(bucket) if kind == super::EntryKind::Dir => buckets.push(bucket),
            _ if layout::is_lock(name) => {}
            _ => super::bogus(Path::new(layout::QUEUE), name),
        }
        std::ops::ControlFlow::Continue(())
    })?;
    buckets.sort_unstable();
    Ok(buckets)
}

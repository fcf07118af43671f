//! Messages that are written become visible, many at once: the files synced, renamed into `new/`,
//! and each `new/` synced once.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::mda::MdaError;

use super::{Disk, Real, Temporary, Written, failed, make_maildir};

/// File systems commit syncs that arrive together as one: this many wait at a time.
const SYNC_THREADS: usize = 8;

/// Delivers messages that are written: one result for each, in order. Messages for one folder
/// share the sync of its `new/`.
pub fn settle(messages: Vec<Written>) -> Vec<Result<(), MdaError>> {
    settle_on(&Real, messages)
}

pub(super) fn settle_on(disk: &impl Disk, mut messages: Vec<Written>) -> Vec<Result<(), MdaError>> {
    let mut results = sync_files(disk, &messages);
    // Open before anything shows: what cannot be synced afterwards would be delivered twice.
    let mut folders: Vec<Folder> = Vec::new();
    for (Written(message), result) in messages.iter_mut().zip(&mut results) {
        if result.is_ok() {
            *result =
                folder(disk, &mut folders, &message.folder).and_then(|()| show(disk, message));
        }
    }
    let synced: Vec<Result<(), MdaError>> = folders.iter().map(|f| f.sync(disk)).collect();
    for (Written(message), result) in messages.iter().zip(&mut results) {
        let at = folders.iter().position(|f| f.path == message.folder);
        if result.is_ok()
            && let Some(synced) = at.and_then(|at| synced.get(at))
        {
            *result = synced.clone();
        }
    }
    results
}

/// A maildir with its `new/` open.
struct Folder {
    path: PathBuf,
    new: File,
}

impl Folder {
    fn sync(&self, disk: &impl Disk) -> Result<(), MdaError> {
        let path = self.path.join("new");
        disk.sync_dir(&self.new, &path)
            .map_err(|error| failed(&path, &error))
    }
}

/// Sees to it that `path` is among `folders`.
fn folder(disk: &impl Disk, folders: &mut Vec<Folder>, path: &Path) -> Result<(), MdaError> {
    if folders.iter().any(|folder| folder.path == path) {
        return Ok(());
    }
    let new = path.join("new");
    let opened = match disk.open_dir(&new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_maildir(path)?;
            disk.open_dir(&new)
        }
        opened => opened,
    };
    folders.push(Folder {
        path: path.to_path_buf(),
        new: opened.map_err(|error| failed(&new, &error))?,
    });
    Ok(())
}

fn sync_files(disk: &impl Disk, messages: &[Written]) -> Vec<Result<(), MdaError>> {
    let sync = |Written(message): &Written| {
        disk.sync_file(&message.file, &message.path())
            .map_err(|error| failed(&message.path(), &error))
    };
    if messages.len() < 2 {
        return messages.iter().map(sync).collect();
    }
    let share = messages.len().div_ceil(SYNC_THREADS);
    std::thread::scope(|scope| {
        let work = |chunk: &'_ [Written]| chunk.iter().map(sync).collect::<Vec<_>>();
        let threads: Vec<_> = messages
            .chunks(share)
            .map(|chunk| {
                let thread = std::thread::Builder::new();
                (chunk, thread.spawn_scoped(scope, move || work(chunk)))
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|(chunk, thread)| match thread.map(|thread| thread.join()) {
                Ok(Ok(results)) => results,
                // No thread to be had (a user's limit on processes): sync here.
                _ => work(chunk),
            })
            .collect()
    })
}

fn show(disk: &impl Disk, message: &mut Temporary) -> Result<(), MdaError> {
    let new = message.folder.join("new");
    let target = new.join(&message.name);
    disk.rename(&message.path(), &target)
        .map_err(|error| failed(&new, &error))?;
    message.visible = true;
    Ok(())
}

//! A file system that knows what of it would survive a power cut.
//!
//! Every directory and file has two states: as programs see it, and as the disk has it. A sync
//! carries the one over to the other; a crash keeps the disk's, plus whatever else happens to
//! have been written. Changes of directories are independent of each other, but for those of the
//! same name: a rename never survives without the creation of what it renames. A rename is one
//! change, as every file system we run on has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

/// One operation, as it was done.
#[derive(Clone, Debug)]
pub enum Op {
    Mkdir(PathBuf),
    Create(PathBuf),
    /// To the file of that creation.
    Write(PathBuf, Vec<u8>),
    /// Over bytes that are there.
    Overwrite(PathBuf, usize, Vec<u8>),
    SyncFileStart(PathBuf, usize),
    SyncFileEnd(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Unlink(PathBuf),
    Rmdir(PathBuf),
    SyncDirStart(PathBuf, usize),
    SyncDirEnd(PathBuf, usize),
}

impl Op {
    /// What it changes, or for a rename or a link what that is of.
    pub fn path(&self) -> &Path {
        match self {
            Op::Mkdir(path)
            | Op::Create(path)
            | Op::Write(path, _)
            | Op::Overwrite(path, ..)
            | Op::SyncFileStart(path, _)
            | Op::SyncFileEnd(path, _)
            | Op::Rename(path, _)
            | Op::Link(path, _)
            | Op::Unlink(path)
            | Op::Rmdir(path)
            | Op::SyncDirStart(path, _)
            | Op::SyncDirEnd(path, _) => path,
        }
    }
}

/// What becomes of bytes that were written and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    Lost,
    Torn,
    Zeroed,
    Kept,
}

pub const UNSYNCED: [Unsynced; 4] = [
    Unsynced::Lost,
    Unsynced::Torn,
    Unsynced::Zeroed,
    Unsynced::Kept,
];

#[derive(Clone, Default)]
pub struct Tree {
    nodes: Vec<Node>,
    pending: Vec<Change>,
    changes: usize,
    /// What a running sync will have made durable.
    dir_syncs: HashMap<usize, BTreeSet<usize>>,
    file_syncs: HashMap<usize, (usize, Vec<u8>)>,
    /// Files by the path they were created with: renames do not close a file.
    open: HashMap<PathBuf, usize>,
}

#[derive(Clone)]
enum Node {
    Dir {
        now: BTreeMap<OsString, usize>,
        disk: BTreeMap<OsString, usize>,
    },
    File {
        now: Vec<u8>,
        disk: Vec<u8>,
    },
}

type Slot = (usize, OsString);

#[derive(Clone)]
struct Change {
    id: usize,
    sets: Vec<(Slot, Option<usize>)>,
}

fn error<T>(kind: io::ErrorKind) -> io::Result<T> {
    Err(io::Error::from(kind))
}

impl Tree {
    /// An empty file system with these directories, all on disk.
    pub fn with_dirs(names: &[&str]) -> Tree {
        let mut tree = Tree::default();
        tree.nodes.push(Node::empty_dir());
        for name in names {
            tree.apply(&Op::Mkdir(PathBuf::from(name))).unwrap();
        }
        tree.crash(&tree.changes(), Unsynced::Kept)
    }

    /// Does `op`.
    pub fn apply(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::Mkdir(path) => self.make(path, Node::empty_dir()).map(|_| ()),
            Op::Create(path) => {
                let file = self.make(path, Node::empty_file())?;
                self.open.insert(path.clone(), file);
                Ok(())
            }
            Op::Write(path, bytes) => match self.file(path) {
                Some((_, now, _)) => {
                    now.extend_from_slice(bytes);
                    Ok(())
                }
                None => error(io::ErrorKind::NotFound),
            },
            Op::SyncFileStart(path, sync) => {
                let file = self.open.get(path).copied();
                let file = file.map_or_else(|| self.find(path), Ok)?;
                if let Node::File { now, .. } = &self.nodes[file] {
                    self.file_syncs.insert(*sync, (file, now.clone()));
                }
                Ok(())
            }
            Op::Overwrite(path, at, bytes) => {
                let file = self.find(path)?;
                match &mut self.nodes[file] {
                    Node::File { now, .. } => {
                        now[*at..*at + bytes.len()].copy_from_slice(bytes);
                        Ok(())
                    }
                    Node::Dir { .. } => error(io::ErrorKind::IsADirectory),
                }
            }
            Op::SyncFileEnd(_, sync) => {
                let (file, covered) = self.file_syncs.remove(sync).unwrap();
                if let Some(Node::File { disk, .. }) = self.nodes.get_mut(file) {
                    *disk = covered;
                }
                Ok(())
            }
            Op::Rename(from, to) => self.rename(from, to),
            Op::Link(from, to) => {
                let node = self.find(from)?;
                let slot = self.free_slot(to)?;
                self.change(vec![(slot, Some(node))]);
                Ok(())
            }
            Op::Unlink(path) => self.remove(path, false),
            Op::Rmdir(path) => self.remove(path, true),
            Op::SyncDirStart(path, sync) => {
                let dir = self.find(path)?;
                let covered = self.touching(dir);
                self.dir_syncs.insert(*sync, covered);
                Ok(())
            }
            Op::SyncDirEnd(_, sync) => {
                let covered = self.dir_syncs.remove(sync).unwrap();
                self.settle(&covered);
                Ok(())
            }
        }
    }

    /// Every change of a directory that a crash may keep or lose.
    pub fn changes(&self) -> BTreeSet<usize> {
        self.pending.iter().map(|change| change.id).collect()
    }

    /// Whether any file has bytes that a crash may lose.
    pub fn has_unsynced_bytes(&self) -> bool {
        self.nodes
            .iter()
            .any(|node| matches!(node, Node::File { now, disk } if now != disk))
    }

    /// What is there after a power cut that kept these changes.
    pub fn crash(&self, kept: &BTreeSet<usize>, unsynced: Unsynced) -> Tree {
        let mut tree = self.clone();
        tree.settle(kept);
        for node in &mut tree.nodes {
            match node {
                Node::Dir { now, disk } => *now = disk.clone(),
                Node::File { now, disk } => {
                    lose_overwritten(now, disk, unsynced);
                    let half = disk.len() + (now.len() - disk.len()) / 2;
                    match unsynced {
                        Unsynced::Lost => now.truncate(disk.len()),
                        Unsynced::Torn => now.truncate(half),
                        Unsynced::Zeroed => now[disk.len()..].fill(0),
                        Unsynced::Kept => {}
                    }
                    *disk = now.clone();
                }
            }
        }
        tree.pending.clear();
        tree.dir_syncs.clear();
        tree.file_syncs.clear();
        tree.open.clear();
        tree
    }

    /// A file's bytes.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match &self.nodes[self.find(path)?] {
            Node::File { now, .. } => Ok(now.clone()),
            Node::Dir { .. } => error(io::ErrorKind::IsADirectory),
        }
    }

    /// A directory's names, and which of them are directories.
    pub fn list(&self, path: &Path) -> io::Result<Vec<(OsString, bool)>> {
        match &self.nodes[self.find(path)?] {
            Node::Dir { now, .. } => Ok(now
                .iter()
                .map(|(name, node)| (name.clone(), self.is_dir(*node)))
                .collect()),
            Node::File { .. } => error(io::ErrorKind::NotADirectory),
        }
    }

    /// Whether something has this name.
    pub fn exists(&self, path: &Path) -> bool {
        self.find(path).is_ok()
    }

    fn make(&mut self, path: &Path, node: Node) -> io::Result<usize> {
        let slot = self.free_slot(path)?;
        self.nodes.push(node);
        let made = self.nodes.len() - 1;
        self.change(vec![(slot, Some(made))]);
        Ok(made)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?;
        let (source, target) = (self.slot(from)?, self.slot(to)?);
        if let Ok(there) = self.find(to)
            && self.is_dir(there)
            && !self.is_empty(there)
        {
            return error(io::ErrorKind::DirectoryNotEmpty);
        }
        self.change(vec![(source, None), (target, Some(node))]);
        Ok(())
    }

    fn remove(&mut self, path: &Path, dir: bool) -> io::Result<()> {
        let node = self.find(path)?;
        match (dir, self.is_dir(node)) {
            (true, false) => return error(io::ErrorKind::NotADirectory),
            (false, true) => return error(io::ErrorKind::IsADirectory),
            (true, true) if !self.is_empty(node) => {
                return error(io::ErrorKind::DirectoryNotEmpty);
            }
            _ => {}
        }
        let slot = self.slot(path)?;
        self.change(vec![(slot, None)]);
        Ok(())
    }

    fn change(&mut self, sets: Vec<(Slot, Option<usize>)>) {
        for ((dir, name), node) in &sets {
            if let Node::Dir { now, .. } = &mut self.nodes[*dir] {
                set(now, name, *node);
            }
        }
        self.changes += 1;
        self.pending.push(Change {
            id: self.changes,
            sets,
        });
    }

    /// Makes these changes durable, and those before them that they build on.
    fn settle(&mut self, chosen: &BTreeSet<usize>) {
        let mut needed: BTreeSet<Slot> = BTreeSet::new();
        let mut kept = BTreeSet::new();
        for change in self.pending.iter().rev() {
            let slots = || change.sets.iter().map(|(slot, _)| slot.clone());
            if chosen.contains(&change.id) || slots().any(|slot| needed.contains(&slot)) {
                needed.extend(slots());
                kept.insert(change.id);
            }
        }
        for change in std::mem::take(&mut self.pending) {
            if !kept.contains(&change.id) {
                self.pending.push(change);
                continue;
            }
            for ((dir, name), node) in &change.sets {
                if let Node::Dir { disk, .. } = &mut self.nodes[*dir] {
                    set(disk, name, *node);
                }
            }
        }
    }

    fn touching(&self, dir: usize) -> BTreeSet<usize> {
        let touches = |change: &&Change| change.sets.iter().any(|((at, _), _)| *at == dir);
        self.pending
            .iter()
            .filter(touches)
            .map(|change| change.id)
            .collect()
    }

    fn file(&mut self, path: &Path) -> Option<(usize, &mut Vec<u8>, &mut Vec<u8>)> {
        let file = *self.open.get(path)?;
        match &mut self.nodes[file] {
            Node::File { now, disk } => Some((file, now, disk)),
            Node::Dir { .. } => None,
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut at = 0;
        for name in path {
            at = match &self.nodes[at] {
                Node::Dir { now, .. } => *now
                    .get(name)
                    .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?,
                Node::File { .. } => return error(io::ErrorKind::NotADirectory),
            };
        }
        Ok(at)
    }

    fn slot(&self, path: &Path) -> io::Result<Slot> {
        let dir = self.find(path.parent().unwrap_or(Path::new("")))?;
        Ok((dir, path.file_name().unwrap_or_default().to_owned()))
    }

    fn free_slot(&self, path: &Path) -> io::Result<Slot> {
        if self.exists(path) {
            return error(io::ErrorKind::AlreadyExists);
        }
        self.slot(path)
    }

    fn is_dir(&self, node: usize) -> bool {
        matches!(self.nodes[node], Node::Dir { .. })
    }

    fn is_empty(&self, node: usize) -> bool {
        matches!(&self.nodes[node], Node::Dir { now, .. } if now.is_empty())
    }
}

impl Node {
    fn empty_dir() -> Node {
        Node::Dir {
            now: BTreeMap::new(),
            disk: BTreeMap::new(),
        }
    }

    fn empty_file() -> Node {
        Node::File {
            now: Vec::new(),
            disk: Vec::new(),
        }
    }
}

/// What a crash does to bytes that were written over others and not synced.
fn lose_overwritten(now: &mut [u8], disk: &[u8], unsynced: Unsynced) {
    let changed: Vec<usize> = (0..disk.len()).filter(|&at| now[at] != disk[at]).collect();
    let torn = match unsynced {
        Unsynced::Torn => changed.len() / 2,
        Unsynced::Lost | Unsynced::Zeroed => 0,
        Unsynced::Kept => changed.len(),
    };
    for &at in &changed[torn..] {
        now[at] = match unsynced {
            Unsynced::Zeroed => 0,
            _ => disk[at],
        };
    }
}

fn set(entries: &mut BTreeMap<OsString, usize>, name: &OsStr, node: Option<usize>) {
    match node {
        Some(node) => entries.insert(name.to_owned(), node),
        None => entries.remove(name),
    };
}

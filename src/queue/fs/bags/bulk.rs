//! Unpacking everything: at a clean stop, or for an administrator who goes back to an older
//! version.
//!
//! Where the system can sync all of a file system at once, many messages share three syncs: of
//! their files and directories, of their places in `queue`, and of the marks in their bags.
//! That is the order for a single message, too. Where it cannot, each is unpacked by itself.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::log;
use crate::mail::MsgId;
use crate::queue::fs::{Shared, layout};

use super::index::{Marks, Taken};
use super::is_damage;

/// Threads that unpack.
const UNPACKERS: usize = 8;
/// Messages that share syncs; the time is looked at between two such lots.
const LOT: usize = 2048;
/// The same where each has its own.
const SMALL_LOT: usize = 64;

impl Shared {
    /// Gives messages a directory of their own, all of them if `time` is enough; says how many are
    /// still in bags, as far as their tables have been read.
    pub(in crate::queue::fs) fn unpack_all(&self, time: Duration) -> usize {
        let begun = Instant::now();
        if !self.await_bags_for(time) {
            return self.bags.messages().len();
        }
        let messages = self.bags.messages();
        let can_sync_all = self.disk.can_sync_all();
        for lot in messages.chunks(if can_sync_all { LOT } else { SMALL_LOT }) {
            if begun.elapsed() >= time {
                break;
            }
            let together = if can_sync_all {
                self.unpack_together(lot)
            } else {
                Err(io::ErrorKind::Unsupported.into())
            };
            match together {
                Ok(()) => {}
                // A sandbox may not allow it.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
                    ) =>
                {
                    in_parallel(lot, |msgid| self.unpack_these(&[*msgid]));
                }
                Err(error) => {
                    log::warn(format_args!("queue: cannot unpack: {error}"));
                    break;
                }
            }
        }
        self.bags.messages().len()
    }

    /// An error is one of the disk; what it was about is in its bag as before.
    fn unpack_together(&self, messages: &[MsgId]) -> io::Result<()> {
        let taken = messages.iter().filter_map(|msgid| self.bags.take(*msgid));
        let mut taken: Vec<Taken> = taken.collect();
        // Bag after bag.
        taken.sort_unstable_by_key(|taken| (taken.bag, taken.marks.at));
        let written = in_parallel(&taken, |taken| {
            let files = self.files_of(taken)?;
            self.write_message(taken.msgid, &files)
        });
        let damaged: BTreeMap<u64, String> = taken
            .iter()
            .zip(&written)
            .filter_map(|(taken, done)| {
                let error = done.as_ref().err().filter(|error| is_damage(error))?;
                Some((taken.bag, error.to_string()))
            })
            .collect();
        let written: Vec<&Taken> = taken
            .iter()
            .zip(written)
            .filter_map(|(taken, done)| self.or_put_back(taken, done))
            .collect();
        let synced = self.disk.sync_all();
        synced.inspect_err(|_| self.put_back(&written, layout::incoming_dir))?;
        let moved: Vec<&Taken> = written
            .into_iter()
            .filter_map(|taken| self.or_put_back(taken, self.move_in(taken.msgid)))
            .collect();
        let synced = self.disk.sync_all();
        synced.inspect_err(|_| self.put_back(&moved, layout::message_dir))?;
        let marks = joined(moved.iter().map(|taken| taken.marks));
        let marked = marks
            .iter()
            .try_for_each(|marks| self.mark(marks.bag, marks.at, marks.count))
            .and_then(|()| self.disk.sync_all());
        if let Err(error) = &marked {
            log::warn(format_args!("queue: {error}"));
            for taken in &moved {
                self.bags.owe(taken.msgid, taken.marks);
            }
        }
        for taken in &moved {
            if self.bags.forget(taken.msgid) && marked.is_ok() {
                self.remove_bag(taken.bag);
            }
        }
        for (bag, why) in damaged {
            self.salvage(bag, &why);
        }
        marked
    }

    /// A message that is on its way out, unless that has failed.
    fn or_put_back<'t>(&self, taken: &'t Taken, done: io::Result<()>) -> Option<&'t Taken> {
        let Err(error) = done else {
            return Some(taken);
        };
        let msgid = taken.msgid;
        self.cannot_unpack(msgid, &error);
        self.put_back(&[taken], layout::incoming_dir);
        None
    }

    /// What was made for these messages goes again.
    fn put_back(&self, taken: &[&Taken], dir: fn(MsgId) -> PathBuf) {
        for taken in taken {
            self.undo(taken.msgid, &dir(taken.msgid));
            self.bags.put_back(taken.msgid);
        }
    }
}

/// The same marks, those that lie side by side together.
fn joined(marks: impl Iterator<Item = Marks>) -> Vec<Marks> {
    let mut joined: Vec<Marks> = Vec::new();
    for marks in marks {
        match joined.last_mut() {
            Some(last) if last.bag == marks.bag && last.at + last.count as u64 == marks.at => {
                last.count += marks.count;
            }
            _ => joined.push(marks),
        }
    }
    joined
}

/// What `each` says to the items, in their order.
fn in_parallel<A: Sync, B: Send>(items: &[A], each: impl Fn(&A) -> B + Sync) -> Vec<B> {
    let work = |share: &[A]| share.iter().map(&each).collect::<Vec<B>>();
    let share = items.len().div_ceil(UNPACKERS).max(1);
    thread::scope(|scope| {
        let helpers: Vec<_> = items
            .chunks(share)
            .map(|share| {
                let helper = thread::Builder::new().name("unpack".to_owned());
                (share, helper.spawn_scoped(scope, || work(share)))
            })
            .collect();
        let mut made = Vec::with_capacity(items.len());
        for (share, helper) in helpers {
            made.extend(match helper.map(|helper| helper.join()) {
                Ok(Ok(theirs)) => theirs,
                // No thread to be had.
                _ => work(share),
            });
        }
        made
    })
}

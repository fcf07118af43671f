//! A queue that another user has written, as OpenSMTPD of another system or a backup that root has
//! restored: it becomes the engine's.
//!
//! This is done before there is an engine. The walk is three levels deep, below `queue`; it follows
//! no link. A bucket's files change hands only if they belong to whoever owns the bucket and have
//! no other name, so that nothing of anybody else's can be put there to be given away.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use crate::log;
use crate::mail::{EvpId, MsgId};
use crate::sys::errno::strerror;
use crate::sys::open;

/// What was found, and what has changed hands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Directories of messages.
    pub messages: Part,
    /// Files of envelopes.
    pub envelopes: Part,
    /// Files and directories that were left as they are.
    pub left: usize,
}

/// A part of a whole: how many of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub taken: usize,
    pub found: usize,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.taken, self.found)
    }
}

/// Gives what lies in `queue` to `uid`, and says so in the log if there was anything.
pub fn take_over(queue: &Path, uid: u32) {
    let mut count = Count::default();
    let mut owners = Vec::new();
    for bucket in names(queue) {
        let path = queue.join(&bucket);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() && found.uid() != uid => {
                owners.push(found.uid());
                take_bucket(&path, (found.uid(), uid), &mut count);
            }
            _ => {}
        }
    }
    owners.sort_unstable();
    owners.dedup();
    if owners.is_empty() {
        return;
    }
    let Count {
        messages,
        envelopes,
        left,
    } = count;
    log::info(format_args!(
        "info: {}: {messages} messages with {envelopes} envelopes of uid {owners:?} taken over",
        queue.display()
    ));
    if left > 0 {
        log::warn(format_args!(
            "{}: {left} files or directories were not taken over: links, or of another owner",
            queue.display()
        ));
    }
}

fn take_bucket(bucket: &Path, (from, to): (u32, u32), count: &mut Count) {
    for name in names(bucket) {
        let message = bucket.join(&name);
        let is_message = usize::from(name.parse::<MsgId>().is_ok());
        count.messages.found += is_message;
        let is_ours = |found: &fs::Metadata| found.is_dir() && found.uid() == from;
        if !fs::symlink_metadata(&message).is_ok_and(|found| is_ours(&found)) {
            count.left += 1;
            continue;
        }
        for name in names(&message) {
            let path = message.join(&name);
            let is_envelope = usize::from(name.parse::<EvpId>().is_ok());
            count.envelopes.found += is_envelope;
            match give(open::foreign(&path), to, |found| {
                found.is_file() && found.uid() == from && found.nlink() == 1
            }) {
                Ok(()) => count.envelopes.taken += is_envelope,
                Err(why) => refused(&path, &why, count),
            }
        }
        // The directory last: what is not complete is found again at the next start.
        match give(open::dir(&message), to, is_ours) {
            Ok(()) => count.messages.taken += is_message,
            Err(why) => refused(&message, &why, count),
        }
    }
    let is_ours = |found: &fs::Metadata| found.is_dir() && found.uid() == from;
    if let Err(why) = give(open::dir(bucket), to, is_ours) {
        refused(bucket, &why, count);
    }
}

fn refused(path: &Path, why: &io::Error, count: &mut Count) {
    count.left += 1;
    log::debug(format_args!("{}: {}", path.display(), strerror(why)));
}

/// What is open is what is looked at and changed.
fn give(file: io::Result<File>, to: u32, fits: impl Fn(&fs::Metadata) -> bool) -> io::Result<()> {
    let file = file?;
    if fits(&file.metadata()?) {
        fchown(&file, Some(to), None)
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// Names in a directory; none if it cannot be read.
fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    const OLD: u32 = 65_001;
    const NEW: u32 = 65_002;

    /// smtpd-migration(7): a spool of another user is taken over, and nothing else is.
    #[test]
    fn what_the_owner_of_a_bucket_has_written_changes_hands_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let queue = dir.path().join("queue");
        let message = queue.join("1a/1a2b3c4d");
        fs::create_dir_all(&message).unwrap();
        let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        let own = owner(&queue);
        for name in ["message", "1a2b3c4d00000001", "foreign", "linked"] {
            fs::write(message.join(name), "x").unwrap();
        }
        fs::hard_link(message.join("linked"), dir.path().join("linked")).unwrap();
        fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), message.join("link")).unwrap();
        if own != 0 {
            // Who may not give anything away leaves all as it is, and goes on.
            take_over(&queue, NEW);
            assert_eq!(owner(&message), own);
            return;
        }
        for path in [
            queue.join("1a"),
            message.clone(),
            message.join("message"),
            message.join("1a2b3c4d00000001"),
            message.join("linked"),
        ] {
            chown(&path, Some(OLD), None).unwrap();
        }
        let mut count = Count::default();
        take_bucket(&queue.join("1a"), (OLD, NEW), &mut count);
        let one = Part { taken: 1, found: 1 };
        let expected = Count {
            messages: one,
            envelopes: one,
            left: 3,
        };
        assert_eq!(count, expected);
        assert_eq!(owner(&queue.join("1a")), NEW);
        for name in ["message", "1a2b3c4d00000001"] {
            assert_eq!(owner(&message.join(name)), NEW);
        }
        assert_eq!(owner(&message.join("foreign")), 0);
        assert_eq!(owner(&dir.path().join("linked")), OLD);
        assert_eq!(owner(&dir.path().join("secret")), 0);
    }
}

//! Where everything lies in the spool, and whose it is. No other file knows a path.
//!
//! `spool-layout.md` is the contract. The parent makes the rooms; `verify` looks at them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::log;
use crate::mail::{EvpId, MsgId};
use crate::sys;

/// Committed messages, in 256 buckets.
pub const QUEUE: &str = "queue";
/// Committed messages that share files.
pub const BAGS: &str = "bags";
/// Messages being received.
pub(super) const INCOMING: &str = "incoming";
/// Envelopes being written into committed messages.
pub const TEMPORARY: &str = "temporary";
/// What is to be deleted.
pub const PURGE: &str = "purge";
/// What could not be read.
pub(super) const CORRUPT: &str = "corrupt";
/// Where sendmail(8) leaves mail while the daemon is down; the queue does not read it.
pub const OFFLINE: &str = "offline";
/// The name of a body in its message's directory.
pub const BODY: &str = "message";
/// Held by the store that has this spool open; its text is that process' id.
const LOCK: &str = "queue/lock";

/// The rooms that only the engine enters.
pub const PRIVATE: [&str; 6] = [QUEUE, BAGS, INCOMING, TEMPORARY, PURGE, CORRUPT];
/// Mode of the spool itself.
pub const ROOT_MODE: u32 = 0o711;
/// Mode of the rooms that only the engine enters.
pub const PRIVATE_MODE: u32 = 0o700;
/// Mode of [`OFFLINE`].
pub const OFFLINE_MODE: u32 = 0o770;

/// The body of a committed message, under the spool's root.
pub fn body_path(id: MsgId) -> PathBuf {
    message_dir(id).join(BODY)
}

/// The envelope of a committed message, under the spool's root.
pub fn envelope_path(id: EvpId) -> PathBuf {
    message_dir(id.msgid()).join(id.to_string())
}

/// The same, under its bucket.
pub(super) fn envelope_in_bucket(id: EvpId) -> PathBuf {
    PathBuf::from(format!("{}/{id}", id.msgid()))
}

/// Checks the private directories before they are used, and makes those that are missing if it
/// may.
pub(super) fn verify(root: &Path) -> io::Result<()> {
    let uid = sys::user::effective_uid();
    for name in PRIVATE {
        let path = root.join(name);
        have(&path)?;
        check(&path, uid)?;
    }
    match sys::fs::sync_dir(root) {
        // Root's own directory, which we may pass but not read: whoever prepared it has synced it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced.map_err(|error| about(root, &error.to_string())),
    }
}

/// Buckets of another user, such as those of an OpenSMTPD that ran here as somebody else, would
/// take no mail: they are given another name, and said at every start. Whoever owns `queue` may
/// rename what is in it.
pub(super) fn set_aside_foreign(root: &Path) -> io::Result<()> {
    let uid = sys::user::effective_uid();
    let queue = root.join(QUEUE);
    let mut foreign = Vec::new();
    for entry in std::fs::read_dir(&queue)? {
        let name = entry?.file_name();
        if bucket_from(&name).is_none() {
            if is_foreign(&name) {
                foreign.push(name);
            }
            continue;
        }
        match sys::fs::dir_facts(&queue.join(&name)) {
            Ok(facts) if facts.uid != uid => {
                let aside = free_name(&queue, &name, facts.uid)?;
                std::fs::rename(queue.join(&name), queue.join(&aside))
                    .map_err(|error| about(&queue.join(&name), &error.to_string()))?;
                foreign.push(aside);
            }
            _ => {}
        }
    }
    if let Some(one) = foreign.iter().min() {
        let (queue, one) = (queue.display(), one.display());
        log::warn(format_args!(
            "queue: {queue} has mail of another user's mail system in {} directories ({one} and so \
             on). It is not delivered. To have it delivered, stop smtpd, give them to the owner of \
             {queue} with chown -R, and move what is in {queue}/XX{FOREIGN}* to {queue}/XX",
            foreign.len(),
        ));
    }
    Ok(())
}

/// What follows the bucket in the names of those set aside; the owner's uid comes next.
const FOREIGN: &str = ".uid";

fn is_foreign(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.split_once(FOREIGN));
    parts.is_some_and(|(bucket, _)| bucket_from(OsStr::new(bucket)).is_some())
}

fn free_name(queue: &Path, bucket: &OsStr, uid: u32) -> io::Result<OsString> {
    for n in 0..1000 {
        let mut name = bucket.to_owned();
        name.push(format!("{FOREIGN}{uid}"));
        if n > 0 {
            name.push(format!(".{n}"));
        }
        if std::fs::symlink_metadata(queue.join(&name)).is_err() {
            return Ok(name);
        }
    }
    Err(about(&queue.join(bucket), "belongs to another user"))
}

/// Takes the spool for this process, or says who has it.
pub(super) fn lock(root: &Path) -> io::Result<File> {
    let path = root.join(LOCK);
    let mut file = sys::open::own_or_new(&path).map_err(|e| about(&path, &e.to_string()))?;
    if !sys::lock::try_flock(&file).map_err(|e| about(&path, &e.to_string()))? {
        let mut holder = String::new();
        let _ = (&file).take(20).read_to_string(&mut holder);
        let text = format!("spool is in use by another smtpd (pid {})", holder.trim());
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{}: {text}", root.display()),
        ));
    }
    // The id only helps the reader of an error message; the lock is what counts.
    let _ = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

pub(super) fn incoming_dir(id: MsgId) -> PathBuf {
    PathBuf::from(format!("{INCOMING}/{id}"))
}

pub(super) fn bucket_of(id: MsgId) -> u8 {
    (id.get() >> 24) as u8
}

pub(super) fn bucket_dir(bucket: u8) -> PathBuf {
    PathBuf::from(format!("{QUEUE}/{bucket:02x}"))
}

pub(super) fn message_dir(id: MsgId) -> PathBuf {
    PathBuf::from(format!("{QUEUE}/{:02x}/{id}", bucket_of(id)))
}

/// A name that no other write of this process has.
pub(super) fn scratch(id: EvpId, serial: u64) -> PathBuf {
    PathBuf::from(format!("{TEMPORARY}/{id}.{serial}"))
}

/// The same, for a body.
pub(super) fn scratch_body(id: MsgId, serial: u64) -> PathBuf {
    PathBuf::from(format!("{TEMPORARY}/{id}.{serial}"))
}

/// Where a bag lies, under the spool's root.
pub fn bag(number: u64) -> PathBuf {
    PathBuf::from(format!("{BAGS}/{number:016x}"))
}

/// A bag that is being written.
pub(super) fn scratch_bag(number: u64) -> PathBuf {
    PathBuf::from(format!("{TEMPORARY}/{number:016x}"))
}

/// The bag that a name in [`BAGS`] stands for.
pub fn bag_from(name: &OsStr) -> Option<u64> {
    let text = name.to_str()?;
    let number = u64::from_str_radix(text, 16).ok()?;
    (text == format!("{number:016x}")).then_some(number)
}

/// A bag that is set aside.
pub(super) fn corrupt_bag(number: u64) -> PathBuf {
    PathBuf::from(format!("{CORRUPT}/{number:016x}"))
}

pub(super) fn purged(serial: u64) -> PathBuf {
    PathBuf::from(format!("{PURGE}/{serial:016x}"))
}

pub(super) fn corrupt(id: MsgId, serial: u32) -> PathBuf {
    PathBuf::from(format!("{CORRUPT}/{id}.{serial}"))
}

/// The bucket that a name in `queue` stands for. The lock is no bucket and nothing to wonder at.
pub(super) fn bucket_from(name: &OsStr) -> Option<u8> {
    let text = name.to_str()?;
    let bucket = u8::from_str_radix(text, 16).ok()?;
    (text == format!("{bucket:02x}")).then_some(bucket)
}

pub(super) fn is_lock(name: &OsStr) -> bool {
    Path::new(QUEUE).join(name) == Path::new(LOCK)
}

/// The message that a name in a bucket stands for, if it belongs there.
pub(super) fn message_from(name: &OsStr, bucket: u8) -> Option<MsgId> {
    let text = name.to_str()?;
    let id: MsgId = text.parse().ok()?;
    (bucket_of(id) == bucket && id.to_string() == text).then_some(id)
}

/// The envelope that a name in a message's directory stands for, if it belongs there.
pub(super) fn envelope_from(name: &OsStr, msgid: MsgId) -> Option<EvpId> {
    let text = name.to_str()?;
    let id: EvpId = text.parse().ok()?;
    (id.msgid() == msgid && id.to_string() == text).then_some(id)
}

fn have(path: &Path) -> io::Result<()> {
    match sys::fs::dir_facts(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match sys::fs::make_dir(path, PRIVATE_MODE) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                made => made.map_err(|e| about(path, &format!("cannot create: {e}"))),
            }
        }
        _ => Ok(()),
    }
}

fn check(path: &Path, uid: u32) -> io::Result<()> {
    let facts = sys::fs::dir_facts(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => about(path, "is not a directory"),
        _ => about(path, &error.to_string()),
    })?;
    if facts.uid != uid {
        return Err(about(path, &format!("is not owned by uid {uid}")));
    }
    if facts.mode != PRIVATE_MODE {
        let text = format!("must be rwx------ ({PRIVATE_MODE:04o})");
        return Err(about(path, &text));
    }
    Ok(())
}

fn about(path: &Path, text: &str) -> io::Error {
    io::Error::other(format!("{} {text}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn missing_rooms_are_made_and_found_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            verify(dir.path()).unwrap();
        }
        for name in PRIVATE {
            let facts = sys::fs::dir_facts(&dir.path().join(name)).unwrap();
            assert_eq!(facts.mode, 0o700, "{name}");
        }
    }

    #[test]
    fn a_wrong_mode_or_a_file_in_the_way_is_refused_with_its_path() {
        // spool-layout.md, Directories: owner and mode are checked at every start.
        let dir = tempfile::tempdir().unwrap();
        verify(dir.path()).unwrap();
        let purge = dir.path().join("purge");
        std::fs::set_permissions(&purge, Permissions::from_mode(0o755)).unwrap();
        let error = verify(dir.path()).unwrap_err().to_string();
        assert!(
            error.ends_with("/purge must be rwx------ (0700)"),
            "{error}"
        );
        std::fs::remove_dir(&purge).unwrap();
        std::fs::write(&purge, "").unwrap();
        let error = verify(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("/purge is not a directory"), "{error}");
    }

    #[test]
    fn names_that_are_not_exactly_ids_are_not_ids() {
        assert_eq!(bucket_from(OsStr::new("0a")), Some(10));
        for bad in ["a", "0A", "+a", "100", "lock", ".."] {
            assert_eq!(bucket_from(OsStr::new(bad)), None, "{bad}");
        }
        assert!(is_lock(OsStr::new("lock")));
        assert!(message_from(OsStr::new("0a000001"), 10).is_some());
        assert!(message_from(OsStr::new("0A000001"), 10).is_none());
        assert!(message_from(OsStr::new("0b000001"), 10).is_none());
        let msgid = MsgId::new(0x0a000001).unwrap();
        assert!(envelope_from(OsStr::new("0a00000100000001"), msgid).is_some());
        assert!(envelope_from(OsStr::new("0a00000200000001"), msgid).is_none());
        assert!(envelope_from(OsStr::new("0a00000100000000"), msgid).is_none());
    }
}

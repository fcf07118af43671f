//! Where everything lies in the spool, and whose it is. No other file knows a path.
//!
//! `spool-layout.md` is the contract; [`prepare`] makes the tree, [`verify`] looks at it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::mail::{EvpId, MsgId};
use crate::sys;

/// Committed messages, in 256 buckets.
pub(super) const QUEUE: &str = "queue";
/// Messages being received.
pub(super) const INCOMING: &str = "incoming";
/// Envelopes being written into committed messages.
pub(super) const TEMPORARY: &str = "temporary";
/// What is to be deleted.
pub(super) const PURGE: &str = "purge";
/// What could not be read.
pub(super) const CORRUPT: &str = "corrupt";
/// Where sendmail(8) leaves mail while the daemon is down; nothing here reads it.
const OFFLINE: &str = "offline";
/// The name of a body in its message's directory.
pub(super) const BODY: &str = "message";
/// Held by the store that has this spool open; its text is that process' id.
const LOCK: &str = "queue/lock";

const PRIVATE: [&str; 5] = [QUEUE, INCOMING, TEMPORARY, PURGE, CORRUPT];
const ROOT_MODE: u32 = 0o711;
const PRIVATE_MODE: u32 = 0o700;
const OFFLINE_MODE: u32 = 0o770;

/// Whose the directories are when root prepares the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user that the engine runs as.
    pub uid: u32,
    /// Group of the private directories; their mode gives it nothing.
    pub gid: u32,
    /// The group that sendmail(8) is set-gid to, for `offline`.
    pub offline_gid: u32,
}

/// The body of a committed message, under the spool's root.
pub fn body_path(id: MsgId) -> PathBuf {
    message_dir(id).join(BODY)
}

/// The envelope of a committed message, under the spool's root.
pub fn envelope_path(id: EvpId) -> PathBuf {
    message_dir(id.msgid()).join(id.to_string())
}

/// Makes the spool and all its directories where they are missing, with their owners and modes,
/// and checks those that are there. `owner` is for root; without one everything is the caller's.
pub fn prepare(root: &Path, owner: Option<&Owner>) -> io::Result<()> {
    let uid = sys::user::effective_uid();
    let root_owner = owner.map(|_| (0, 0));
    have(root, ROOT_MODE, root_owner)?;
    check(
        root,
        owner.map_or(uid, |_| 0),
        None,
        Mode::NotWritableByOthers,
    )?;
    let private = owner.map(|owner| (owner.uid, owner.gid));
    for name in PRIVATE {
        let path = root.join(name);
        have(&path, PRIVATE_MODE, private)?;
        let uid = owner.map_or(uid, |owner| owner.uid);
        check(&path, uid, None, Mode::Exactly(PRIVATE_MODE))?;
    }
    let offline = root.join(OFFLINE);
    match owner {
        Some(owner) => {
            have(&offline, OFFLINE_MODE, Some((0, owner.offline_gid)))?;
            let mode = Mode::Exactly(OFFLINE_MODE);
            check(&offline, 0, Some(owner.offline_gid), mode)?;
        }
        None => {
            have(&offline, PRIVATE_MODE, None)?;
            check(&offline, uid, None, Mode::NotWritableByOthers)?;
        }
    }
    sys::fs::sync_dir(root)
}

/// Checks the private directories before they are used, and makes those that are missing if it
/// may.
pub(super) fn verify(root: &Path) -> io::Result<()> {
    let uid = sys::user::effective_uid();
    for name in PRIVATE {
        let path = root.join(name);
        have(&path, PRIVATE_MODE, None)?;
        check(&path, uid, None, Mode::Exactly(PRIVATE_MODE))?;
    }
    match sys::fs::sync_dir(root) {
        // Root's own directory, which we may pass but not read: whoever prepared it has synced it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced.map_err(|error| about(root, &error.to_string())),
    }
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

enum Mode {
    Exactly(u32),
    NotWritableByOthers,
}

fn have(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    match sys::fs::dir_facts(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match sys::fs::make_dir(path, mode, owner) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                made => made.map_err(|e| about(path, &format!("cannot create: {e}"))),
            }
        }
        _ => Ok(()),
    }
}

fn check(path: &Path, uid: u32, gid: Option<u32>, mode: Mode) -> io::Result<()> {
    let facts = sys::fs::dir_facts(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => about(path, "is not a directory"),
        _ => about(path, &error.to_string()),
    })?;
    if facts.uid != uid {
        return Err(about(path, &format!("is not owned by uid {uid}")));
    }
    if let Some(gid) = gid
        && facts.gid != gid
    {
        return Err(about(path, &format!("is not owned by gid {gid}")));
    }
    match mode {
        Mode::Exactly(mode) if facts.mode != mode => Err(about(path, &must_be(mode))),
        Mode::NotWritableByOthers if facts.mode & 0o022 != 0 => {
            Err(about(path, "must not be writable by group or others"))
        }
        _ => Ok(()),
    }
}

fn must_be(mode: u32) -> String {
    let letters: String = [
        (0o400, 'r'),
        (0o200, 'w'),
        (0o100, 'x'),
        (0o040, 'r'),
        (0o020, 'w'),
        (0o010, 'x'),
        (0o004, 'r'),
        (0o002, 'w'),
        (0o001, 'x'),
    ]
    .iter()
    .map(|(bit, letter)| if mode & bit != 0 { *letter } else { '-' })
    .collect();
    format!("must be {letters} ({mode:04o})")
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
    fn a_prepared_spool_verifies_and_prepares_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("spool");
        prepare(&root, None).unwrap();
        prepare(&root, None).unwrap();
        verify(&root).unwrap();
        for name in PRIVATE {
            let facts = sys::fs::dir_facts(&root.join(name)).unwrap();
            assert_eq!(facts.mode, 0o700, "{name}");
        }
        assert_eq!(sys::fs::dir_facts(&root).unwrap().mode, 0o711);
    }

    #[test]
    fn root_gives_the_private_directories_to_the_engines_user() {
        if sys::user::effective_uid() != 0 {
            let name = "root_gives_the_private_directories_to_the_engines_user";
            let _ = writeln!(io::stderr(), "NOT RUN: {name}: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("spool");
        let owner = Owner {
            uid: 4321,
            gid: 0,
            offline_gid: 4322,
        };
        prepare(&root, Some(&owner)).unwrap();
        let facts = |name: &str| sys::fs::dir_facts(&root.join(name)).unwrap();
        assert_eq!((facts("queue").uid, facts("queue").mode), (4321, 0o700));
        assert_eq!((facts("offline").uid, facts("offline").gid), (0, 4322));
        assert_eq!(facts("offline").mode, 0o770);
        let other = Owner { uid: 4323, ..owner };
        let error = prepare(&root, Some(&other)).unwrap_err().to_string();
        assert!(error.ends_with("is not owned by uid 4323"), "{error}");
    }

    #[test]
    fn a_wrong_mode_or_a_file_in_the_way_is_refused_with_its_path() {
        // spool-layout.md, Directories: owner and mode are checked at every start.
        let dir = tempfile::tempdir().unwrap();
        prepare(&dir.path().join("s"), None).unwrap();
        let purge = dir.path().join("s/purge");
        std::fs::set_permissions(&purge, Permissions::from_mode(0o755)).unwrap();
        let error = verify(&dir.path().join("s")).unwrap_err().to_string();
        assert!(
            error.ends_with("s/purge must be rwx------ (0700)"),
            "{error}"
        );
        std::fs::remove_dir(&purge).unwrap();
        std::fs::write(&purge, "").unwrap();
        let error = verify(&dir.path().join("s")).unwrap_err().to_string();
        assert!(error.ends_with("s/purge is not a directory"), "{error}");
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

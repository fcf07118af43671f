//! Directories and file systems: what std's calls leave out.
//!
//! Durability is the caller's affair; here a sync is a sync and an error is the system's. Nothing
//! in this file decides who may own what.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::errno::{cvt, retry};
use super::open;

/// What is free on a file system, as an unprivileged user sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Size in bytes; 0 where the file system does not say.
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Inodes; 0 where the file system makes them as it needs them.
    pub total_inodes: u64,
    pub free_inodes: u64,
}

/// Who owns a directory and what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirFacts {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits, with set-id and sticky bits.
    pub mode: u32,
}

/// Makes a directory with exactly this mode, whatever the umask.
pub fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(0o000).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Makes a directory with mode 0700 less the umask: one call.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// What a directory is like; `NotADirectory` for anything else, a link to one included.
pub fn dir_facts(path: &Path) -> io::Result<DirFacts> {
    let meta = std::fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    Ok(DirFacts {
        uid: meta.uid(),
        gid: meta.gid(),
        mode: meta.mode() & 0o7777,
    })
}

/// Syncs all of a file system at once, where a call does that and says how it went; says whether
/// there is one.
#[cfg(target_os = "linux")]
pub fn sync_file_system(file: &File) -> io::Result<bool> {
    use std::os::fd::AsRawFd;

    // SAFETY: syncfs(2) takes a descriptor, which is open.
    cvt(unsafe { libc::syncfs(file.as_raw_fd()) })?;
    Ok(true)
}

/// The same, where every file has to be synced.
#[cfg(not(target_os = "linux"))]
pub fn sync_file_system(_file: &File) -> io::Result<bool> {
    Ok(false)
}

/// Makes a directory's entries durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    open::dir(path)?.sync_all()
}

/// Asks the kernel to begin writing these bytes to the disk and does not wait. Only a hint: where
/// there is no such call it does nothing, and errors show at the sync.
#[cfg(target_os = "linux")]
pub fn start_writeback(file: &File, offset: u64, length: u64) {
    use std::os::fd::AsRawFd;

    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
    let _ = unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        )
    };
}

/// Asks the kernel to begin writing these bytes to the disk and does not wait. This system has no
/// such call.
#[cfg(not(target_os = "linux"))]
pub fn start_writeback(_file: &File, _offset: u64, _length: u64) {}

/// Whether [`sync_all`] is there and tells of errors: Linux does since 5.8.
#[cfg(target_os = "linux")]
pub fn can_sync_all() -> bool {
    const SINCE: (u32, u32) = (5, 8);
    // SAFETY: utsname is plain old data for which zero bytes are a value.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `names` is writable for the length of the call.
    if unsafe { libc::uname(&mut names) } != 0 {
        return false;
    }
    let release: String = names.release.iter().map(|c| char::from(*c as u8)).collect();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|text| text.parse().ok());
    matches!((number(), number()), (Some(major), Some(minor)) if (major, minor) >= SINCE)
}

/// Makes durable all that was done so far to the file system of this directory.
#[cfg(target_os = "linux")]
pub fn sync_all(path: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let dir = open::dir(path)?;
    // SAFETY: the descriptor is open for the length of the call.
    retry(|| cvt(unsafe { libc::syncfs(dir.as_raw_fd()) })).map(drop)
}

/// Whether [`sync_all`] is there. This system has no such call that waits and tells of errors.
#[cfg(not(target_os = "linux"))]
pub fn can_sync_all() -> bool {
    false
}

/// Never works.
#[cfg(not(target_os = "linux"))]
pub fn sync_all(_path: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What is free where `path` lies.
#[allow(clippy::unnecessary_cast)] // The fields' types differ between systems.
pub fn room(path: &Path) -> io::Result<Room> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statvfs is plain old data for which zero bytes are a value.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is a C string and `found` is writable for the length of the call.
    retry(|| cvt(unsafe { libc::statvfs(path.as_ptr(), &mut found) }))?;
    let block_bytes = found.f_frsize as u64;
    let (blocks, inodes) = (found.f_blocks as u64, found.f_files as u64);
    Ok(Room {
        total_bytes: blocks.saturating_mul(block_bytes),
        free_bytes: free_of(blocks, found.f_bavail as u64).saturating_mul(block_bytes),
        total_inodes: inodes,
        free_inodes: free_of(inodes, found.f_favail as u64),
    })
}

/// FreeBSD's statvfs(3) gives a number below zero as a huge one: root has used what was kept back.
fn free_of(total: u64, free: u64) -> u64 {
    if i64::try_from(free).is_err() || (total > 0 && free > total) {
        return 0;
    }
    free
}

/// The kind of an error, where running out of a quota or of descriptors is `QuotaExceeded`: std
/// has no name for the latter.
pub fn kind(error: &io::Error) -> io::ErrorKind {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => io::ErrorKind::StorageFull,
        Some(libc::EDQUOT | libc::EMFILE | libc::ENFILE) => io::ErrorKind::QuotaExceeded,
        _ => error.kind(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert_eq!(
            dir_facts(&link).unwrap_err().kind(),
            io::ErrorKind::NotADirectory
        );
    }

    #[test]
    fn a_made_directory_has_its_mode_and_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        make_dir(&path, 0o711).unwrap();
        assert_eq!(dir_facts(&path).unwrap().mode, 0o711);
        sync_dir(&path).unwrap();
        assert!(room(&path).unwrap().total_bytes > 0);
        if can_sync_all() {
            sync_all(&path).unwrap();
        }
    }

    #[test]
    fn what_root_has_overdrawn_is_nothing_free() {
        assert_eq!(free_of(100, 40), 40);
        assert_eq!(free_of(100, 0u64.wrapping_sub(3)), 0);
        assert_eq!(free_of(100, 101), 0);
        // A file system that does not say how large it is.
        assert_eq!(free_of(0, 7), 7);
    }

    #[test]
    fn running_out_has_a_kind() {
        let kind_of = |code| kind(&io::Error::from_raw_os_error(code));
        assert_eq!(kind_of(libc::ENOSPC), io::ErrorKind::StorageFull);
        assert_eq!(kind_of(libc::EDQUOT), io::ErrorKind::QuotaExceeded);
        assert_eq!(kind_of(libc::EMFILE), io::ErrorKind::QuotaExceeded);
        assert_eq!(kind_of(libc::ENOENT), io::ErrorKind::NotFound);
    }
}

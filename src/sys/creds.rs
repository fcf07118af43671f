//! Who a process is, becoming someone else for good, and acting as someone else for a moment.

use std::ffi::CString;
use std::io;
use std::sync::OnceLock;

use super::errno::cvt;
use super::user;

/// The ids a process runs under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups; `gid` belongs in it.
    pub groups: Vec<u32>,
}

impl Identity {
    /// A user with no group but `gid`.
    pub fn alone(uid: u32, gid: u32) -> Identity {
        Identity {
            uid,
            gid,
            groups: vec![gid],
        }
    }
}

/// Becomes `identity`: real, effective and saved ids. It cannot be undone, and that is checked.
/// Must be called before any thread is started.
pub fn become_for_good(identity: &Identity) -> io::Result<()> {
    assume(identity.uid, identity.gid, &identity.groups)?;
    if identity.uid != 0 {
        // SAFETY: setuid(2) takes a number; here it is expected to fail.
        if unsafe { libc::setuid(0) } != -1 {
            return Err(io::Error::other("privileges could be regained"));
        }
    }
    Ok(())
}

/// The three calls, in the only order that works. Allocates nothing: also used between fork(2)
/// and execve(2).
pub(super) fn assume(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: `groups` is readable for its length; the others take numbers.
    unsafe {
        cvt(libc::setgroups(groups.len() as _, groups.as_ptr()))?;
        cvt(libc::setresgid(gid, gid, gid))?;
        cvt(libc::setresuid(uid, uid, uid))?;
    }
    Ok(())
}

/// Does `work` with the effective ids of `identity`, so that files are opened with that user's
/// rights, and takes root's back. A process that cannot get them back is aborted: it must not go on
/// as anybody. `work` must not panic; and the ids are those of all threads, so only a process that
/// has one may call this.
pub fn acting_as<T>(identity: &Identity, work: impl FnOnce() -> T) -> io::Result<T> {
    if user::effective_uid() != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let own = own()?;
    let result = borrow(identity).map(|()| work());
    let given_back = give_back(own);
    let ids = (user::effective_uid(), user::effective_gid());
    if given_back.is_err() || ids != (own.uid, own.gid) {
        std::process::abort();
    }
    result
}

/// Root's ids as they were when they were first needed: nothing else changes them for a moment, and
/// who becomes somebody for good is not root any more.
fn own() -> io::Result<&'static Identity> {
    static OWN: OnceLock<Identity> = OnceLock::new();
    match OWN.get() {
        Some(own) => Ok(own),
        None => effective().map(|found| OWN.get_or_init(|| found)),
    }
}

fn effective() -> io::Result<Identity> {
    // SAFETY: without room for them, getgroups(2) says how many groups there are.
    let count = cvt(unsafe { libc::getgroups(0, std::ptr::null_mut()) })?;
    let mut groups: Vec<libc::gid_t> = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: `groups` is writable for `count` entries; without any, the call counts again.
    let found = cvt(unsafe { libc::getgroups(count, groups.as_mut_ptr()) })?;
    groups.truncate(usize::try_from(found).unwrap_or(0));
    Ok(Identity {
        uid: user::effective_uid(),
        gid: user::effective_gid(),
        groups,
    })
}

/// The user comes last: without root's id the groups cannot be set any more.
fn borrow(identity: &Identity) -> io::Result<()> {
    set_groups(identity)?;
    // SAFETY: it takes a number. The saved id, which leads back, is not touched.
    cvt(unsafe { libc::seteuid(identity.uid) }).map(drop)
}

fn give_back(own: &Identity) -> io::Result<()> {
    // SAFETY: it takes a number.
    cvt(unsafe { libc::seteuid(own.uid) })?;
    set_groups(own)
}

/// FreeBSD before 15 takes the first of the groups for the effective group: the latter is set
/// afterwards.
fn set_groups(identity: &Identity) -> io::Result<()> {
    // SAFETY: the list is readable for its length; setegid(2) takes a number.
    unsafe {
        cvt(libc::setgroups(
            identity.groups.len() as _,
            identity.groups.as_ptr(),
        ))?;
        cvt(libc::setegid(identity.gid)).map(drop)
    }
}

/// The groups of the user with this name, `gid` first: as many as a process may have, which on
/// OpenBSD is 16. initgroups(3) leaves out the others, too.
pub fn groups_of(name: &str, gid: u32) -> io::Result<Vec<u32>> {
    let name = CString::new(name)?;
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut count = groups.len() as libc::c_int;
        // SAFETY: `name` is a C string and `groups` is writable for `count` entries.
        let result =
            unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &mut count) };
        if result != -1 {
            groups.truncate(usize::try_from(count).unwrap_or(0).min(most_of_a_process()));
            return Ok(groups);
        }
        if groups.len() >= MOST_GROUPS {
            return Err(io::Error::other("too many groups"));
        }
        groups.resize(groups.len() * 4, 0);
    }
}

const MOST_GROUPS: usize = 65536;

fn most_of_a_process() -> usize {
    // SAFETY: sysconf(3) takes a number.
    let most = unsafe { libc::sysconf(libc::_SC_NGROUPS_MAX) };
    usize::try_from(most).map_or(MOST_GROUPS, |most| most.max(1))
}

/// Whether the program runs with ids that its caller does not have. Such a program must not
/// believe its environment.
#[cfg(target_os = "linux")]
pub fn is_setid() -> bool {
    // SAFETY: getauxval(3) reads a value the kernel left.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether the program runs with ids that its caller does not have. Such a program must not
/// believe its environment.
#[cfg(not(target_os = "linux"))]
pub fn is_setid() -> bool {
    // SAFETY: issetugid(2) has no preconditions.
    unsafe { libc::issetugid() != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::again::{again, inside};

    #[test]
    fn groups_of_a_user_hold_his_own() {
        assert!(groups_of("root", 0).unwrap().contains(&0));
        assert!(groups_of("nul\0", 0).is_err());
        assert!(!is_setid());
    }

    // It changes the ids of every thread, so it runs in a process of its own.
    #[test]
    fn root_acts_as_another_user_and_is_root_again() {
        if user::effective_uid() != 0 {
            eprintln!("NOT RUN: root_acts_as_another_user_and_is_root_again: needs root");
            return;
        }
        let Some(dir) = inside() else {
            let dir = tempfile::tempdir().unwrap();
            let name = "sys::creds::tests::root_acts_as_another_user_and_is_root_again";
            assert!(again(name, dir.path()).success());
            return;
        };
        let path = std::path::Path::new(&dir).join("private");
        std::fs::write(&path, "root's").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        let before = effective().unwrap();
        for _ in 0..3 {
            let other = Identity::alone(54_322, 54_323);
            let (seen, read) =
                acting_as(&other, || (effective().unwrap(), std::fs::read(&path))).unwrap();
            assert_eq!(seen, other);
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(effective().unwrap(), before);
            assert_eq!(std::fs::read(&path).unwrap(), b"root's");
        }
        // Root's own .forward is opened as root.
        let uid = acting_as(&Identity::alone(0, 0), user::effective_uid).unwrap();
        assert_eq!((uid, effective().unwrap()), (0, before));
    }
}

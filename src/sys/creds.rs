//! Who a process is, and becoming someone else for good.

use std::ffi::CString;
use std::io;

use super::errno::cvt;

/// The ids a process runs under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
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

    #[test]
    fn groups_of_a_user_hold_his_own() {
        assert!(groups_of("root", 0).unwrap().contains(&0));
        assert!(groups_of("nul\0", 0).is_err());
        assert!(!is_setid());
    }
}

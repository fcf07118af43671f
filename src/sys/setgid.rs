//! Set-group-id, as sendmail(8) lives with it: put aside at once, taken up for two calls, given
//! up for good.
//!
//! The programs are never installed set-user-id; [`is_set_uid`] lets them refuse to run so.

use std::io;

use super::errno::cvt;
use super::user::{effective_gid, effective_uid, real_gid, real_uid};

/// Whether this process runs as another user than its caller.
pub fn is_set_uid() -> bool {
    effective_uid() != real_uid()
}

/// Acts with the caller's group until [`take_up`]; the right to take it up is kept.
pub fn put_aside() -> io::Result<()> {
    set_effective(real_gid())
}

/// Acts with the group `gid` again, that was the effective one at start.
pub fn take_up(gid: u32) -> io::Result<()> {
    set_effective(gid)
}

/// Gives the group up: real, effective and saved id become the caller's. It is checked that this
/// is so and that there is no way back.
pub fn give_up() -> io::Result<()> {
    let caller = real_gid();
    let had = ids()?;
    // SAFETY: setresgid(2) takes no pointers.
    cvt(unsafe { libc::setresgid(caller, caller, caller) })?;
    let stuck = || io::Error::other("the group id could not be given up");
    if ids()? != (caller, caller, caller) {
        return Err(stuck());
    }
    // Root may become anything; for others a way back would mean that nothing was given up.
    for gid in [had.1, had.2] {
        if gid != caller && effective_uid() != 0 && set_effective(gid).is_ok() {
            return Err(stuck());
        }
    }
    Ok(())
}

fn set_effective(gid: u32) -> io::Result<()> {
    // SAFETY: setegid(2) takes no pointers.
    cvt(unsafe { libc::setegid(gid) })?;
    if effective_gid() == gid {
        Ok(())
    } else {
        Err(io::Error::other("the group id did not change"))
    }
}

/// Real, effective and saved group id.
fn ids() -> io::Result<(u32, u32, u32)> {
    let (mut real, mut effective, mut saved) = (0, 0, 0);
    // SAFETY: three valid pointers to gid_t.
    cvt(unsafe { libc::getresgid(&mut real, &mut effective, &mut saved) })?;
    Ok((real, effective, saved))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_set_id_there_is_nothing_to_give_up() {
        assert!(!is_set_uid());
        put_aside().unwrap();
        give_up().unwrap();
        let gid = real_gid();
        assert_eq!(ids().unwrap(), (gid, gid, gid));
    }
}

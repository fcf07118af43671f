//! No new privileges by exec, and no new processes at all.
//!
//! Capsicum's capability mode would need every path opened by the parent; it is not used.

use std::io;

use super::super::errno::cvt;
use super::Role;

pub fn enter(role: Role<'_>) -> io::Result<Vec<&'static str>> {
    if matches!(role, Role::Parent) {
        return Ok(Vec::new());
    }
    let mut active = Vec::new();
    let mut enable: libc::c_int = libc::PROC_NO_NEW_PRIVS_ENABLE;
    // SAFETY: the request reads an int; the process is this one.
    let result = cvt(unsafe {
        libc::procctl(
            libc::P_PID,
            libc::id_t::from(libc::getpid() as u32),
            libc::PROC_NO_NEW_PRIVS_CTL,
            (&raw mut enable).cast(),
        )
    });
    // Older kernels do not know the request.
    if result.is_ok() {
        active.push("no_new_privs");
    }
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // Threads are not counted by it.
    // SAFETY: `none` is readable.
    cvt(unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &none) })?;
    active.push("rlimit nproc");
    Ok(active)
}

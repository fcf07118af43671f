//! no_new_privs, Landlock, and a seccomp filter that allows what a role calls and nothing else.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod calls;
mod landlock;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod seccomp;

use std::io;
use std::path::Path;

use super::super::errno::cvt;
use super::{Role, SYSTEM_READ};
use landlock::{Rules, Ruleset};

/// Shuts this process in, in as many of the ways as the system has, and names those.
pub fn enter(role: Role<'_>) -> io::Result<Vec<&'static str>> {
    // Its deliveries may run set-id programs, which nothing here could be undone for.
    if matches!(role, Role::Parent) {
        return Ok(Vec::new());
    }
    let mut active = Vec::new();
    // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers.
    cvt(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    active.push("no_new_privs");
    if enforce_landlock(role)? {
        active.push("landlock");
    }
    if refuse_calls(role)? {
        active.push("seccomp");
    }
    Ok(active)
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn refuse_calls(role: Role<'_>) -> io::Result<bool> {
    match calls::of(role) {
        Some(calls) => seccomp::install(&calls),
        None => Ok(false),
    }
}

/// The calls' numbers are not known.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn refuse_calls(_role: Role<'_>) -> io::Result<bool> {
    Ok(false)
}

fn enforce_landlock(role: Role<'_>) -> io::Result<bool> {
    let rules = match role {
        // Listening sockets are the parent's to bind.
        Role::Engine { .. } => Rules::BIND_ANY_PORT,
        Role::Keys | Role::Purge(_) => Rules::default(),
        // Who deliver signal their own and write where the recipient may.
        Role::Delivery | Role::Guard | Role::Parent => return Ok(false),
    };
    let Some(landlock) = Ruleset::new(rules)? else {
        return Ok(false);
    };
    match role {
        Role::Engine { read, write } => {
            for path in SYSTEM_READ.iter().map(Path::new) {
                landlock.allow(path, landlock::READ)?;
            }
            for path in read {
                landlock.allow(path, landlock::READ)?;
            }
            for path in write {
                landlock.allow(path, landlock::EVERYTHING_BUT_EXECUTE)?;
            }
        }
        Role::Purge(dir) => landlock.allow(dir, landlock::READ | landlock::REMOVE)?,
        _ => {}
    }
    landlock.enforce().map(|()| true)
}

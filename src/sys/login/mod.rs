//! Passwords of the system's users, as the system checks them: bsd_auth(3) on OpenBSD; PAM where
//! its library is there, as the service `smtpd`; else the hash that shadow(5) or passwd(5) has.
//!
//! It may take its time (a login script, a directory server), wants root's rights, and runs code
//! of others: this is for a process of its own.

use std::io;

#[cfg(target_os = "openbsd")]
#[path = "bsd_auth.rs"]
mod platform;
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
#[path = "pam.rs"]
mod platform;
#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd")))]
#[path = "none.rs"]
mod platform;

/// Whether it is the password of this user, who may log in. An error means that nobody can say
/// now.
pub fn check(user: &str, password: &str) -> io::Result<bool> {
    platform::check(user, password)
}

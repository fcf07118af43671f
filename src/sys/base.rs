//! Where the base system keeps what a delivery runs.

/// `PATH` of a delivery command: `_PATH_DEFPATH` of paths.h.
#[cfg(target_os = "openbsd")]
pub const DEFAULT_PATH: &str =
    "/usr/bin:/bin:/usr/sbin:/sbin:/usr/X11R6/bin:/usr/local/bin:/usr/local/sbin";
/// `PATH` of a delivery command: `_PATH_DEFPATH` of paths.h.
#[cfg(target_os = "freebsd")]
pub const DEFAULT_PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin";
/// `PATH` of a delivery command: `_PATH_DEFPATH` of paths.h.
#[cfg(not(any(target_os = "openbsd", target_os = "freebsd")))]
pub const DEFAULT_PATH: &str = "/usr/bin:/bin";

/// The base system's mail.local(8), where its mailboxes want it: on OpenBSD only root, as which it
/// runs, can make the lock files in /var/mail.
#[cfg(target_os = "openbsd")]
pub const MAIL_LOCAL: Option<&str> = Some("/usr/libexec/mail.local");
/// The base system's mail.local(8), where its mailboxes want it: here ours does what is needed.
#[cfg(not(target_os = "openbsd"))]
pub const MAIL_LOCAL: Option<&str> = None;

//! Landlock: which files, and in newer kernels which ports, sockets and processes.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::super::super::errno::cvt;

// linux/landlock.h
const EXECUTE: u64 = 1;
pub const READ: u64 = 1 << 2 | 1 << 3;
pub const REMOVE: u64 = 1 << 4 | 1 << 5;
const FIRST_VERSION: u64 = (1 << 13) - 1;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
pub const EVERYTHING_BUT_EXECUTE: u64 = (FIRST_VERSION | REFER | TRUNCATE) & !EXECUTE;
const FILE_RIGHTS: u64 = 1 << 1 | 1 << 2 | TRUNCATE;
const BIND_TCP: u64 = 1;
const CONNECT_TCP: u64 = 1 << 1;
const SCOPE_ABSTRACT_SOCKETS: u64 = 1;
const SCOPE_SIGNALS: u64 = 1 << 1;
const PATH_BENEATH: libc::c_int = 1;
const NET_PORT: libc::c_int = 2;
const ASK_VERSION: libc::c_uint = 1;

/// What is refused of the network; without any, all TCP.
#[derive(Clone, Copy, Default)]
pub struct Rules {
    /// Connecting is allowed, and binding to a port that the system chooses.
    bind_any_port: bool,
}

impl Rules {
    pub const BIND_ANY_PORT: Rules = Rules {
        bind_any_port: true,
    };
}

pub struct Ruleset {
    fd: OwnedFd,
    files: u64,
}

/// Older kernels take a longer structure as long as what they do not know is zero.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: libc::c_int,
}

#[repr(C)]
struct NetPortAttr {
    allowed_access: u64,
    port: u64,
}

impl Ruleset {
    /// `None` where the kernel has none, or only the first version, which forbids the rename from
    /// one directory to another that a commit is.
    pub fn new(rules: Rules) -> io::Result<Option<Ruleset>> {
        // SAFETY: with this flag the call takes no attributes and answers with a number.
        let version = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                std::ptr::null::<RulesetAttr>(),
                0,
                ASK_VERSION,
            )
        };
        let files = match version {
            ..=1 => return Ok(None),
            2 => FIRST_VERSION | REFER,
            3 | 4 => FIRST_VERSION | REFER | TRUNCATE,
            _ => FIRST_VERSION | REFER | TRUNCATE | IOCTL_DEV,
        };
        let tcp = if rules.bind_any_port {
            BIND_TCP
        } else {
            BIND_TCP | CONNECT_TCP
        };
        let attr = RulesetAttr {
            handled_access_fs: files,
            handled_access_net: if version >= 4 { tcp } else { 0 },
            scoped: match version {
                ..=5 => 0,
                _ => SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS,
            },
        };
        // SAFETY: `attr` is readable for the length given.
        let fd = cvt(unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const attr,
                size_of_val(&attr),
                0,
            )
        } as libc::c_int)?;
        // SAFETY: the call has just made it; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let ruleset = Ruleset { fd, files };
        if rules.bind_any_port && attr.handled_access_net != 0 {
            ruleset.add(
                NET_PORT,
                &NetPortAttr {
                    allowed_access: BIND_TCP,
                    port: 0,
                },
            )?;
        }
        Ok(Some(ruleset))
    }

    /// Allows `access` to `path` and what is below it. A path that is not there, or that we may
    /// not reach, needs no permission.
    pub fn allow(&self, path: &Path, access: u64) -> io::Result<()> {
        let Ok(place) = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path)
        else {
            return Ok(());
        };
        let fits = if place.metadata()?.is_dir() {
            u64::MAX
        } else {
            FILE_RIGHTS
        };
        self.add(
            PATH_BENEATH,
            &PathBeneathAttr {
                allowed_access: access & self.files & fits,
                parent_fd: place.as_raw_fd(),
            },
        )
    }

    /// `attr` must be what rules of this kind take.
    fn add<T>(&self, kind: libc::c_int, attr: &T) -> io::Result<()> {
        // SAFETY: `attr` is what this kind of rule takes; the descriptors are open.
        cvt(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                self.fd.as_raw_fd(),
                kind,
                std::ptr::from_ref(attr),
                0,
            )
        } as libc::c_int)
        .map(drop)
    }

    pub fn enforce(&self) -> io::Result<()> {
        // SAFETY: a descriptor and a number.
        cvt(
            unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.fd.as_raw_fd(), 0) }
                as libc::c_int,
        )
        .map(drop)
    }
}

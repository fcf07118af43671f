//! no_new_privs, Landlock and a seccomp filter that refuses what a mail server never does.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::super::errno::cvt;
use super::{Role, SYSTEM_READ};

pub fn enter(role: Role<'_>) -> io::Result<Vec<&'static str>> {
    // Its deliveries may run set-id programs, which nothing here could be undone for.
    if matches!(role, Role::Parent) {
        return Ok(Vec::new());
    }
    let mut active = Vec::new();
    // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers.
    cvt(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    active.push("no_new_privs");
    if let Some(landlock) = Landlock::new()? {
        match role {
            Role::Engine { read, write } => {
                for path in SYSTEM_READ.iter().map(Path::new) {
                    landlock.allow(path, READ)?;
                }
                for path in read {
                    landlock.allow(path, READ)?;
                }
                for path in write {
                    landlock.allow(path, EVERYTHING_BUT_EXECUTE)?;
                }
            }
            Role::Purge(dir) => landlock.allow(dir, READ | REMOVE)?,
            Role::Keys | Role::Parent => {}
        }
        landlock.enforce()?;
        active.push("landlock");
    }
    if refuse_calls()? {
        active.push("seccomp");
    }
    Ok(active)
}

// linux/landlock.h
const EXECUTE: u64 = 1;
const READ: u64 = 1 << 2 | 1 << 3;
const REMOVE: u64 = 1 << 4 | 1 << 5;
const FIRST_VERSION: u64 = (1 << 13) - 1;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
const EVERYTHING_BUT_EXECUTE: u64 = (FIRST_VERSION | REFER | TRUNCATE) & !EXECUTE;
const FILE_RIGHTS: u64 = 1 << 1 | 1 << 2 | TRUNCATE;
const PATH_BENEATH: libc::c_int = 1;
const ASK_VERSION: libc::c_uint = 1;

struct Landlock {
    ruleset: OwnedFd,
    handled: u64,
}

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: libc::c_int,
}

impl Landlock {
    /// `None` where the kernel has none, or only the first version, which forbids the rename from
    /// one directory to another that a commit is.
    fn new() -> io::Result<Option<Landlock>> {
        // SAFETY: with this flag the call takes no attributes and answers with a number.
        let version = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                std::ptr::null::<RulesetAttr>(),
                0,
                ASK_VERSION,
            )
        };
        let handled = match version {
            ..=1 => return Ok(None),
            2 => FIRST_VERSION | REFER,
            3 | 4 => FIRST_VERSION | REFER | TRUNCATE,
            _ => FIRST_VERSION | REFER | TRUNCATE | IOCTL_DEV,
        };
        let attr = RulesetAttr {
            handled_access_fs: handled,
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
        let ruleset = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Some(Landlock { ruleset, handled }))
    }

    /// Allows `access` to `path` and what is below it. A path that is not there, or that we may
    /// not reach, needs no permission.
    fn allow(&self, path: &Path, access: u64) -> io::Result<()> {
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
        let attr = PathBeneathAttr {
            allowed_access: access & self.handled & fits,
            parent_fd: place.as_raw_fd(),
        };
        // SAFETY: `attr` is what this kind of rule takes; both descriptors are open.
        cvt(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                self.ruleset.as_raw_fd(),
                PATH_BENEATH,
                &raw const attr,
                0,
            )
        } as libc::c_int)
        .map(drop)
    }

    fn enforce(&self) -> io::Result<()> {
        // SAFETY: a descriptor and a number.
        cvt(unsafe {
            libc::syscall(
                libc::SYS_landlock_restrict_self,
                self.ruleset.as_raw_fd(),
                0,
            )
        } as libc::c_int)
        .map(drop)
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn refuse_calls() -> io::Result<bool> {
    let filter = filter();
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` describes a filter that lives until the call returns.
    let result = cvt(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    } as libc::c_int);
    match result {
        Ok(_) => Ok(true),
        // A kernel without it, or a container that forbids it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn refuse_calls() -> io::Result<bool> {
    Ok(false)
}

/// Loads the call's number, compares it with each refused one, and answers EPERM to those and to
/// calls of another architecture's table.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn filter() -> Vec<libc::sock_filter> {
    // linux/seccomp.h: seccomp_data starts with the number, then the architecture.
    const NUMBER_AT: u32 = 0;
    const ARCH_AT: u32 = 4;
    #[cfg(target_arch = "x86_64")]
    const ARCH: u32 = 0xC000_003E;
    #[cfg(target_arch = "aarch64")]
    const ARCH: u32 = 0xC000_00B7;
    // x86_64 only: numbers of the x32 table have this bit.
    const X32: u32 = 0x4000_0000;
    const EPERM: u32 = 0x0005_0000 | libc::EPERM as u32;
    const ALLOW: u32 = 0x7fff_0000;
    let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let at_least = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let mut filter = vec![
        op(load, ARCH_AT, 0, 0),
        op(equal, ARCH, 1, 0),
        op(answer, EPERM, 0, 0),
        op(load, NUMBER_AT, 0, 0),
        op(at_least, X32, 0, 1),
        op(answer, EPERM, 0, 0),
    ];
    for number in REFUSED {
        filter.push(op(equal, number as u32, 0, 1));
        filter.push(op(answer, EPERM, 0, 0));
    }
    filter.push(op(answer, ALLOW, 0, 0));
    filter
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const REFUSED: [libc::c_long; 36] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_mknodat,
];

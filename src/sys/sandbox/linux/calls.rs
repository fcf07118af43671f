//! Which system calls each role makes, under glibc and musl.
//!
//! A call is here when our code, std or a C library (threads, memory, users, names, time) makes
//! it. The process that starts threads may not start processes; nobody here may signal, trace or
//! look into another process, open a kind of socket that mail has no use for, make memory both
//! writable and executable, or listen.

use libc::c_long;

use super::super::Role;
use super::seccomp::{Calls, Test};

/// `None` for the parent.
pub fn of(role: Role<'_>) -> Option<Calls> {
    let mut always = Vec::new();
    let mut sometimes = common_if();
    match role {
        Role::Parent => return None,
        Role::Engine { .. } => {
            always.extend([COMMON, EVENTS, FILES, NETWORK]);
            sometimes.extend(threads_if());
            sometimes.extend(network_if(&[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6]));
        }
        // Keys and the ways to engines come over sockets that are there.
        Role::Keys => {
            always.extend([COMMON]);
            sometimes.extend(threads_if());
        }
        Role::Purge(_) => always.extend([COMMON, FILES]),
        Role::Delivery => {
            always.extend([COMMON, FILES, NETWORK]);
            // Those that sync many files at once.
            sometimes.extend(threads_if());
            // A UDP datagram for comsat(8); sockets of LMTP and of whoever knows users.
            let mut sockets = network_if(&[libc::AF_UNIX]);
            if let Some((_, alternatives)) = sockets.first_mut() {
                alternatives.push(vec![
                    one_of(0, u32::MAX, &[libc::AF_INET]),
                    one_of(1, SOCKET_TYPE, &[libc::SOCK_DGRAM]),
                ]);
            }
            sometimes.extend(sockets);
            // Whether the owner of a lock still lives.
            let asks = one_of(1, u32::MAX, &[0]);
            sometimes.push((libc::SYS_kill, vec![vec![asks]]));
        }
        Role::Guard => {
            always.extend([COMMON, CHILDREN]);
            let own_group = one_of(0, u32::MAX, &[0]);
            sometimes.push((libc::SYS_kill, vec![vec![own_group]]));
        }
    }
    Some(Calls {
        always: always.into_iter().flatten().copied().collect(),
        sometimes,
        hostile: HOSTILE,
    })
}

fn one_of(argument: u32, mask: u32, is: &[libc::c_int]) -> Test {
    Test {
        argument,
        mask,
        is: is.iter().map(|value| *value as u32).collect(),
    }
}

const SOCKET_TYPE: u32 = 0xf;

type Conditional = Vec<(c_long, Vec<Vec<Test>>)>;

fn common_if() -> Conditional {
    let executable = libc::PROT_EXEC as u32;
    let written = executable | libc::PROT_WRITE as u32;
    let own = std::process::id() as libc::c_int;
    let option = |level: libc::c_int, names: &[libc::c_int]| {
        vec![one_of(1, u32::MAX, &[level]), one_of(2, u32::MAX, names)]
    };
    vec![
        (
            libc::SYS_mmap,
            vec![
                vec![one_of(2, executable, &[0])],
                // A library that is loaded late.
                vec![
                    one_of(2, written, &[libc::PROT_EXEC]),
                    one_of(3, libc::MAP_ANONYMOUS as u32, &[0]),
                ],
            ],
        ),
        (libc::SYS_mprotect, vec![vec![one_of(2, executable, &[0])]]),
        // abort(3).
        (libc::SYS_tgkill, vec![vec![one_of(0, u32::MAX, &[own])]]),
        (
            libc::SYS_prlimit64,
            vec![vec![one_of(0, u32::MAX, &[0, own])]],
        ),
        (libc::SYS_prctl, vec![vec![one_of(0, u32::MAX, PRCTLS)]]),
        (
            libc::SYS_fcntl,
            vec![vec![one_of(
                1,
                u32::MAX,
                &[
                    libc::F_GETFL,
                    libc::F_SETFL,
                    libc::F_GETFD,
                    libc::F_SETFD,
                    libc::F_DUPFD,
                    libc::F_DUPFD_CLOEXEC,
                    libc::F_GETLK,
                    libc::F_SETLK,
                    libc::F_SETLKW,
                    libc::F_OFD_GETLK,
                    libc::F_OFD_SETLK,
                    libc::F_OFD_SETLKW,
                    libc::F_GETPIPE_SZ,
                    libc::F_SETPIPE_SZ,
                ],
            )]],
        ),
        (
            libc::SYS_ioctl,
            vec![vec![one_of(1, u32::MAX, &IOCTLS.map(|n| n as libc::c_int))]],
        ),
        (
            libc::SYS_setsockopt,
            vec![
                option(
                    libc::SOL_SOCKET,
                    &[
                        libc::SO_RCVTIMEO,
                        libc::SO_SNDTIMEO,
                        libc::SO_RCVBUF,
                        libc::SO_SNDBUF,
                        libc::SO_LINGER,
                        libc::SO_KEEPALIVE,
                        libc::SO_REUSEADDR,
                        libc::SO_BROADCAST,
                        libc::SO_PASSCRED,
                    ],
                ),
                option(
                    libc::IPPROTO_TCP,
                    &[libc::TCP_NODELAY, libc::TCP_USER_TIMEOUT],
                ),
                option(libc::IPPROTO_IP, &[libc::IP_RECVERR]),
                option(libc::IPPROTO_IPV6, &[libc::IPV6_V6ONLY, libc::IPV6_RECVERR]),
            ],
        ),
    ]
}

/// Names of threads and of memory; libcap, which libraries for users bring with them, asks which
/// capabilities there are.
const PRCTLS: &[libc::c_int] = &[
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_VMA,
    libc::PR_CAPBSET_READ,
];

/// Interfaces by number and name are those of scoped addresses.
const IOCTLS: [u32; 6] = [
    libc::FIONBIO as u32,
    libc::FIOCLEX as u32,
    libc::FIONREAD as u32,
    libc::TCGETS as u32,
    libc::SIOCGIFNAME as u32,
    libc::SIOCGIFINDEX as u32,
];

/// A thread of this process. What clone3 is asked for a filter cannot see: it does not exist, and
/// libraries use this.
fn threads_if() -> Conditional {
    const NAMESPACES: u32 = 0x7e02_0000;
    let thread = libc::CLONE_VM | libc::CLONE_THREAD;
    let mask = NAMESPACES | thread as u32;
    vec![(libc::SYS_clone, vec![vec![one_of(0, mask, &[thread])]])]
}

/// `socket` comes first.
fn network_if(families: &[libc::c_int]) -> Conditional {
    let types = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET];
    vec![
        (
            libc::SYS_socket,
            vec![vec![
                one_of(0, u32::MAX, families),
                one_of(1, SOCKET_TYPE, &types),
            ]],
        ),
        (
            libc::SYS_socketpair,
            vec![vec![one_of(0, u32::MAX, &[libc::AF_UNIX])]],
        ),
    ]
}

// Newer than some versions of the crate for musl; the same on all processors.
const SYS_CLOSE_RANGE: c_long = 436;
const SYS_OPENAT2: c_long = 437;
const SYS_FACCESSAT2: c_long = 439;
const SYS_EPOLL_PWAIT2: c_long = 441;
const SYS_FUTEX_WAITV: c_long = 449;
const SYS_FCHMODAT2: c_long = 452;
const SYS_MSEAL: c_long = 462;

/// Memory, time, threads and descriptors that are there.
const COMMON: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_futex,
    libc::SYS_close,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_writev,
    libc::SYS_readv,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    SYS_MSEAL,
    SYS_FUTEX_WAITV,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getsid,
    libc::SYS_getrusage,
    libc::SYS_capget,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigsuspend,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    SYS_CLOSE_RANGE,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getrlimit,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getpgrp,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pause,
];

/// The event loops.
const EVENTS: &[c_long] = &[
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    SYS_EPOLL_PWAIT2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_create,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_eventfd,
];

/// Which files, is for Landlock and the file system to say.
const FILES: &[c_long] = &[
    libc::SYS_openat,
    SYS_OPENAT2,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_linkat,
    libc::SYS_getdents64,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_ftruncate,
    libc::SYS_truncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_flock,
    libc::SYS_faccessat,
    SYS_FACCESSAT2,
    libc::SYS_readlinkat,
    libc::SYS_utimensat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_umask,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getdents,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
];

/// Connections; listening sockets come from the parent.
const NETWORK: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_accept,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
];

/// The end of a command, and how long what is read for it may be.
const CHILDREN: &[c_long] = &[
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_statx,
    libc::SYS_newfstatat,
];

/// What looks into or changes the kernel, the machine, or another process.
const HOSTILE: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

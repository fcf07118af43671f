use std::process::{Command, ExitStatus};

use super::*;
use crate::util::again::inside;

// A sandbox cannot be left, so each role runs in a process of its own.
fn again(test: &str, value: &str) -> ExitStatus {
    crate::util::again::again(&format!("sys::sandbox::tests::{test}"), value)
}

#[test]
fn the_engine_writes_its_spool_and_nothing_else() {
    let Some(dir) = inside() else {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("spool")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        let dir = dir.path().to_str().unwrap();
        assert!(again("the_engine_writes_its_spool_and_nothing_else", dir).success());
        return;
    };
    let dir = Path::new(&dir);
    let spool = [dir.join("spool")];
    let active = enter(Role::Engine {
        read: &[],
        write: &spool,
    })
    .unwrap();
    let (a, b) = (dir.join("spool/a"), dir.join("spool/b"));
    std::fs::write(&a, "mail").unwrap();
    std::fs::create_dir(dir.join("spool/sub")).unwrap();
    std::fs::rename(&a, &b).unwrap();
    std::fs::rename(&b, dir.join("spool/sub/c")).unwrap();
    std::fs::remove_file(dir.join("spool/sub/c")).unwrap();
    assert!(crate::sys::user::by_name("root").unwrap().is_some());
    assert!(crate::sys::user::by_name("no-such-user").unwrap().is_none());
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(udp.local_addr().unwrap()).unwrap();
    if active.contains(&"landlock") || active.contains(&"unveil") {
        assert!(std::fs::read(dir.join("secret")).is_err());
        assert!(std::fs::write(dir.join("new"), "x").is_err());
    }
    if active.contains(&"seccomp") {
        assert!(Command::new("/bin/true").status().is_err());
    }
    std::thread::spawn(|| ()).join().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn users_may_be_elsewhere_than_in_etc() {
    // nsswitch.conf(5): extrausers, db of Debian and of others, nis.
    for dir in ["/var/lib/extrausers", "/var/lib/misc", "/var/db", "/var/yp"] {
        assert!(SYSTEM_READ.contains(&dir), "{dir}");
    }
}

#[test]
fn the_parent_may_still_start_programs() {
    if inside().is_none() {
        assert!(again("the_parent_may_still_start_programs", "").success());
        return;
    };
    enter(Role::Parent).unwrap();
    let status = Command::new("/bin/sh").args(["-c", "exit 3"]).status();
    assert_eq!(status.unwrap().code(), Some(3));
}

#[test]
fn the_keys_process_signs_and_has_neither_files_nor_network() {
    const NAME: &str = "the_keys_process_signs_and_has_neither_files_nor_network";
    let Some(spool) = inside() else {
        let dir = tempfile::tempdir().unwrap();
        assert!(again(NAME, dir.path().to_str().unwrap()).success());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        return;
    };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let root = crate::sys::user::effective_uid() == 0;
    if root && empty_root(Path::new(&spool)).unwrap() {
        assert!(std::fs::write("/x", "").is_err());
        assert_eq!(std::fs::read_dir("/").map_or(0, Iterator::count), 0);
    }
    let active = enter(Role::Keys).unwrap();
    use std::io::{Read, Write};
    (&ours).write_all(b"sign").unwrap();
    (&theirs).read_exact(&mut [0; 4]).unwrap();
    std::thread::spawn(|| ()).join().unwrap();
    let rng = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&rng, &mut [0; 8]).unwrap();
    if active.contains(&"seccomp") || active.contains(&"pledge") {
        assert!(std::fs::read("/etc/passwd").is_err());
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_err());
        assert!(std::os::unix::net::UnixStream::pair().is_err());
        assert!(Command::new("/bin/true").status().is_err());
    }
}

#[test]
fn a_delivery_writes_files_and_starts_nothing() {
    let Some(home) = inside() else {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        assert!(again("a_delivery_writes_files_and_starts_nothing", home).success());
        return;
    };
    let active = enter(Role::Delivery).unwrap();
    let (tmp, new) = (Path::new(&home).join("tmp"), Path::new(&home).join("new"));
    std::fs::write(&tmp, "mail").unwrap();
    std::fs::File::open(&tmp).unwrap().sync_all().unwrap();
    std::fs::rename(&tmp, &new).unwrap();
    // Whether the owner of a lock still lives; comsat(8).
    assert!(crate::sys::lock::process_exists(std::process::id()));
    assert!(!crate::sys::lock::process_exists(i32::MAX as u32));
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    if active.contains(&"seccomp") || active.contains(&"pledge") {
        assert!(Command::new("/bin/true").status().is_err());
    }
    if active.contains(&"seccomp") {
        assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err());
    }
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod on_linux {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    /// Enters, and says whether calls are filtered: they are where the kernel can.
    fn is_filtered(role: Role<'_>) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let active = enter(role).unwrap();
        let filtered = active.contains(&"seccomp");
        assert_eq!(filtered, status.contains("\nSeccomp:"), "{active:?}");
        filtered
    }

    fn call(number: libc::c_long, arguments: [libc::c_long; 6]) -> bool {
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: the callers pass numbers, null, or memory that is there.
        unsafe { libc::syscall(number, a, b, c, d, e, f) != -1 }
    }

    fn with(number: libc::c_long, first: &[libc::c_int]) -> bool {
        let mut arguments = [0; 6];
        for (argument, value) in arguments.iter_mut().zip(first) {
            *argument = libc::c_long::from(*value);
        }
        call(number, arguments)
    }

    fn map(protection: libc::c_int) -> bool {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        with(libc::SYS_mmap, &[0, 4096, protection, flags, -1])
    }

    fn made_executable() -> bool {
        // SAFETY: a new page of our own, which nobody else knows.
        unsafe {
            let (access, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            );
            let page = libc::mmap(std::ptr::null_mut(), 4096, access, flags, -1, 0);
            libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC) != -1
        }
    }

    fn library() -> bool {
        let file = std::fs::File::open("/etc/passwd").unwrap();
        let access = libc::PROT_READ | libc::PROT_EXEC;
        let fd = file.as_raw_fd();
        with(libc::SYS_mmap, &[0, 4096, access, libc::MAP_PRIVATE, fd])
    }

    fn listening() -> bool {
        std::net::TcpListener::bind("127.0.0.1:0").is_ok()
    }

    /// What is tried, and whether it works.
    fn attempts() -> Vec<(&'static str, bool)> {
        let parent = std::os::unix::process::parent_id() as libc::c_int;
        let socket = |family, kind| with(libc::SYS_socket, &[family, kind, 0]);
        let stream = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = stream.as_raw_fd();
        let everything = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let namespace = libc::CLONE_NEWUSER | libc::SIGCHLD;
        let filter = libc::SO_DETACH_FILTER;
        vec![
            ("fork", with(libc::SYS_clone, &[libc::SIGCHLD])),
            ("a user namespace", with(libc::SYS_clone, &[namespace])),
            ("clone3", with(libc::SYS_clone3, &[0, 0])),
            ("RWX memory", map(everything)),
            ("RX memory", map(libc::PROT_READ | libc::PROT_EXEC)),
            ("memory made executable", made_executable()),
            ("netlink", socket(libc::AF_NETLINK, libc::SOCK_RAW)),
            ("vsock", socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
            ("packets", socket(libc::AF_PACKET, libc::SOCK_RAW)),
            ("raw IP", socket(libc::AF_INET, libc::SOCK_RAW)),
            ("algorithms", socket(libc::AF_ALG, libc::SOCK_SEQPACKET)),
            ("kill", with(libc::SYS_kill, &[parent, 0])),
            ("kill of all", with(libc::SYS_kill, &[-1, 0])),
            ("tgkill", with(libc::SYS_tgkill, &[parent, parent, 0])),
            ("tkill", with(libc::SYS_tkill, &[parent, 0])),
            ("pidfd_open", with(libc::SYS_pidfd_open, &[parent, 0])),
            (
                "limits of another",
                with(libc::SYS_prlimit64, &[parent, 0, 0, 0]),
            ),
            ("execve", with(libc::SYS_execve, &[0])),
            ("memfd_create", with(libc::SYS_memfd_create, &[0])),
            ("io_uring", with(libc::SYS_io_uring_setup, &[0])),
            ("keyctl", with(libc::SYS_keyctl, &[0])),
            ("listen", listening()),
            (
                "an owner of signals",
                with(libc::SYS_fcntl, &[fd, libc::F_SETOWN, 0]),
            ),
            (
                "filters of sockets",
                with(libc::SYS_setsockopt, &[fd, libc::SOL_SOCKET, filter, 0, 4]),
            ),
            ("prctl", with(libc::SYS_prctl, &[libc::PR_GET_DUMPABLE])),
            ("a call of tomorrow", with(999, &[])),
        ]
    }

    /// smtpd(8), Processes and privileges.
    #[test]
    fn what_mail_has_no_use_for_is_refused() {
        let name = "on_linux::what_mail_has_no_use_for_is_refused";
        if inside().is_none() {
            assert!(again(name, "").success());
            return;
        };
        let engine = Role::Engine {
            read: &[],
            write: &[],
        };
        if !is_filtered(engine) {
            return;
        }
        let worked: Vec<_> = attempts().into_iter().filter(|(_, works)| *works).collect();
        assert_eq!(worked, []);
        assert!(library(), "a library that is loaded late");
        std::process::exit(0);
    }

    #[test]
    fn what_only_an_intruder_calls_ends_the_process() {
        let name = "on_linux::what_only_an_intruder_calls_ends_the_process";
        let hostile: &[(&str, libc::c_long, &[libc::c_int])] = &[
            ("unshare", libc::SYS_unshare, &[libc::CLONE_NEWUSER]),
            ("ptrace", libc::SYS_ptrace, &[0]),
            ("process_vm_readv", libc::SYS_process_vm_readv, &[1]),
            ("mount", libc::SYS_mount, &[0]),
            ("bpf", libc::SYS_bpf, &[0]),
            #[cfg(target_arch = "x86_64")]
            ("modify_ldt", libc::SYS_modify_ldt, &[0]),
        ];
        let Some(wanted) = inside() else {
            for (what, ..) in hostile {
                let status = again(name, what);
                let killed = status.signal() == Some(libc::SIGSYS);
                assert!(killed || status.success(), "{what}: {status:?}");
            }
            // It dies of its own signals as ever.
            assert_eq!(again(name, "abort").signal(), Some(libc::SIGABRT));
            return;
        };
        let filtered = is_filtered(Role::Guard);
        if wanted == "abort" {
            std::process::abort();
        }
        if filtered {
            let (_, number, arguments) = hostile.iter().find(|(what, ..)| *what == wanted).unwrap();
            with(*number, arguments);
            panic!("{wanted} is survived");
        }
    }

    /// What a container's own filter says to whoever wants one more.
    fn forbid_filters() -> bool {
        let op = |code: u32, k: u32, jf: u8| libc::sock_filter {
            code: code as u16,
            jt: 0,
            jf,
            k,
        };
        let answer = libc::BPF_RET | libc::BPF_K;
        let eperm = 0x0005_0000 | libc::EPERM as u32;
        let filter = [
            op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            op(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                libc::SYS_seccomp as u32,
                1,
            ),
            op(answer, eperm, 0),
            op(answer, 0x7fff_0000, 0),
        ];
        let program = libc::sock_fprog {
            len: filter.len() as libc::c_ushort,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: numbers, and `program`, whose filter lives until the call returns.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const program,
                ) == 0
        }
    }

    #[test]
    fn where_filters_are_forbidden_one_goes_on_without() {
        let name = "on_linux::where_filters_are_forbidden_one_goes_on_without";
        if inside().is_none() {
            assert!(again(name, "").success());
            return;
        };
        if forbid_filters() {
            let active = enter(Role::Guard).unwrap();
            assert_eq!(active, ["no_new_privs"]);
        }
    }

    // Landlock's network rules came with Linux 6.7, its scopes with 6.12.
    #[test]
    fn the_engine_binds_no_port_of_its_choice() {
        let name = "on_linux::the_engine_binds_no_port_of_its_choice";
        let Some(port) = inside() else {
            let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = taken.local_addr().unwrap().port();
            assert!(again(name, &port.to_string()).success());
            return;
        };
        let port: u16 = port.parse().unwrap();
        let version = landlock_version();
        enter(Role::Engine {
            read: &[],
            write: &[],
        })
        .unwrap();
        // Relaying goes on.
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let bound = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap_err();
        let refused = bound.kind() == std::io::ErrorKind::PermissionDenied;
        assert_eq!(refused, version >= 4, "{bound}");
        std::process::exit(0);
    }

    fn landlock_version() -> libc::c_long {
        let ask_version = 1;
        // SAFETY: with this flag the call takes no attributes and answers with a number.
        unsafe {
            let none = std::ptr::null::<libc::c_void>();
            libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, ask_version)
        }
    }
}

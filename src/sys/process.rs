//! Starting, waiting for and ending processes. Always fork and exec, never fork alone.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::creds::{self, Identity};
use super::errno::{cvt, retry};

/// A child of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(libc::pid_t);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Signaled(i32),
}

/// What to start: it leads a session and process group of its own.
#[derive(Debug)]
pub struct Spawn<'a> {
    pub program: CString,
    /// Its arguments, its own name first.
    pub argv: Vec<CString>,
    /// Its whole environment, as `NAME=value`.
    pub env: Vec<CString>,
    /// Descriptors 0, 1, 2 and so on; whatever else is open is closed.
    pub fds: Vec<BorrowedFd<'a>>,
    /// Who it runs as; `None` for who we are.
    pub identity: Option<Identity>,
    /// The first of these directories that can be entered, as that user, is the working directory.
    pub dirs: Vec<CString>,
    /// Its file mode mask.
    pub umask: u32,
}

/// A file that a child makes while it is who we are: empty, with mode 0600, and this user's. What is
/// there by that name, be it a link, is left as it is; but one that a child has made and not given
/// to its user, for it was killed in between, is given now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    pub path: CString,
    pub uid: u32,
    pub gid: u32,
}

/// What a child exits with when it cannot become what it should: EX_OSERR, to be tried again.
pub const NOT_STARTED: i32 = 71;

/// What it exits with when its file cannot be made: EX_TEMPFAIL.
pub const NOT_MADE: i32 = 75;

impl Pid {
    /// The number, for whoever shows it.
    pub fn number(self) -> u32 {
        u32::try_from(self.0).unwrap_or(0)
    }

    /// For tables in tests.
    #[cfg(test)]
    pub fn fake(number: i32) -> Pid {
        Pid(number)
    }
}

/// Starts a process. What goes wrong after fork(2) is written to the child's standard error, and
/// it exits with [`NOT_STARTED`]; the caller never waits for it.
pub fn spawn(spawn: &Spawn<'_>) -> io::Result<Pid> {
    spawn_with(spawn, None)
}

/// The same; the process makes `file` first. It may wait for a file system as long as it takes: the
/// caller does not.
pub fn spawn_with(spawn: &Spawn<'_>, file: Option<&NewFile>) -> io::Result<Pid> {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, envp) = (pointers(&spawn.argv), pointers(&spawn.env));
    // SAFETY: sigset_t is plain old data, filled before it is read. Signals stay blocked across
    // the fork, so that no handler of ours runs in the child; the child only makes calls that
    // are allowed after fork(2) and ends in execve(2) or _exit(2).
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let pid = libc::fork();
        if pid == 0 {
            if let Err(failed) = into_child(spawn, file) {
                give_up(failed);
            }
            libc::execve(spawn.program.as_ptr(), argv.as_ptr(), envp.as_ptr());
            give_up(Failed::start(&spawn.program));
        }
        let result = cvt(pid);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result.map(Pid)
    }
}

/// Kills every process of our own group, this one as well.
pub fn kill_own_group() -> ! {
    // SAFETY: numbers only; 0 is our own group.
    unsafe { libc::kill(0, libc::SIGKILL) };
    std::process::abort()
}

/// Ends this process as `signal` ends one that does not expect it.
pub fn die_of(signal: i32) -> ! {
    // SAFETY: numbers only, and a limit that is read here.
    unsafe {
        // What has died has left its core already.
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
    std::process::abort()
}

/// Says how `pid` ended, or that it has not yet. Once it has been said, the number is no longer
/// ours.
pub fn try_wait(pid: Pid) -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: `status` is writable.
    let found = retry(|| cvt(unsafe { libc::waitpid(pid.0, &mut status, libc::WNOHANG) }))?;
    Ok((found != 0).then(|| {
        if libc::WIFSIGNALED(status) {
            Ended::Signaled(libc::WTERMSIG(status))
        } else {
            Ended::Exited(libc::WEXITSTATUS(status))
        }
    }))
}

/// A child that has ended and is still to be waited for, whoever has started it. Only Linux can give
/// away processes to one that is not init(8).
#[cfg(target_os = "linux")]
pub fn any_ended() -> Option<Pid> {
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: plain old data, for which zeros are a value.
    let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is writable.
    retry(|| cvt(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut found, how) })).ok()?;
    // SAFETY: the call has said of which child it tells, or left the zero.
    let pid = unsafe { found.si_pid() };
    (pid > 0).then_some(Pid(pid))
}

/// Nobody gives us a process that we have not started.
#[cfg(not(target_os = "linux"))]
pub fn any_ended() -> Option<Pid> {
    None
}

/// Ends `pid` at once, and its process group if it leads one. It must not have been waited for.
pub fn kill(pid: Pid) {
    // SAFETY: plain numbers; the child is still ours, so neither is somebody else's.
    unsafe {
        libc::kill(-pid.0, libc::SIGKILL);
        libc::kill(pid.0, libc::SIGKILL);
    }
}

/// Goes into the background: a new session, `/` as working directory, nothing on descriptors 0
/// to 2. Must be called before any thread is started; the caller's process exits with 0.
pub fn daemonize() -> io::Result<()> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    // SAFETY: there is one thread, so the child is whole; the others take numbers.
    unsafe {
        if cvt(libc::fork())? != 0 {
            libc::_exit(0);
        }
        cvt(libc::setsid())?;
        for fd in 0..=2 {
            cvt(libc::dup2(null.as_raw_fd(), fd))?;
        }
    }
    std::env::set_current_dir("/")
}

/// Descriptor 3, left open for us by the process that started this one. Only the first call can
/// get it, and it must be made before anything else is opened.
pub fn inherited() -> io::Result<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::other("taken before"));
    }
    // SAFETY: asking is harmless whatever the number stands for.
    cvt(unsafe { libc::fcntl(INHERITED, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and by the flag above nobody else has taken it.
    Ok(unsafe { OwnedFd::from_raw_fd(INHERITED) })
}

/// Closes descriptors 3 and up, which a careless caller left open. Must be called before anything
/// of ours is opened.
pub fn close_strays() {
    // SAFETY: the caller promises that nothing of ours is open yet.
    unsafe { close_from(INHERITED) };
}

/// Opens `/dev/null` on those of descriptors 0 to 2 that are closed, so that nothing of ours ever
/// gets one of these numbers.
pub fn fill_standard_fds() -> io::Result<()> {
    loop {
        let null = OwnedFd::from(std::fs::File::open("/dev/null")?);
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        std::mem::forget(null);
    }
}

/// Sets the file mode mask; says what it was.
#[allow(clippy::unnecessary_cast)] // The type differs between systems.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: umask(2) takes a number and cannot fail.
    unsafe { libc::umask(mask as libc::mode_t) as u32 }
}

/// What a child could not do.
struct Failed<'a> {
    doing: &'a CStr,
    what: &'a CStr,
    code: libc::c_int,
}

impl<'a> Failed<'a> {
    fn start(what: &'a CStr) -> Failed<'a> {
        Failed {
            doing: c"start",
            what,
            code: NOT_STARTED,
        }
    }
}

const INHERITED: libc::c_int = 3;
const FIRST_SPARE_FD: libc::c_int = 32;
const MOST_CHILD_FDS: usize = 8;

/// Turns the forked copy into what `spawn` describes.
///
/// # Safety
/// Only between fork(2) and execve(2), with all signals blocked.
unsafe fn into_child<'a>(
    spawn: &'a Spawn<'_>,
    file: Option<&'a NewFile>,
) -> Result<(), Failed<'a>> {
    // SAFETY: only async-signal-safe calls on memory made before the fork.
    unsafe {
        for number in 1..64 {
            libc::signal(number, libc::SIG_DFL);
        }
        if !place_fds(&spawn.fds) {
            return Err(Failed::start(c"descriptors"));
        }
        if libc::setsid() == -1 {
            return Err(Failed::start(c"setsid"));
        }
        if let Some(file) = file
            && !make(file)
        {
            return Err(Failed {
                doing: c"make",
                what: &file.path,
                code: NOT_MADE,
            });
        }
        libc::umask(spawn.umask as libc::mode_t);
        if let Some(identity) = &spawn.identity
            && creds::assume(identity.uid, identity.gid, &identity.groups).is_err()
        {
            return Err(Failed::start(c"change of user"));
        }
        let entered = |dir: &CString| libc::chdir(dir.as_ptr()) == 0;
        if !spawn.dirs.is_empty() && !spawn.dirs.iter().any(entered) {
            return Err(Failed::start(c"chdir"));
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
    Ok(())
}

/// Makes a file; false, with errno, when that fails.
///
/// # Safety
/// Only between fork(2) and execve(2), with all signals blocked.
unsafe fn make(file: &NewFile) -> bool {
    const MODE: libc::c_uint = 0o600;
    let how = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    // SAFETY: the path is a C string; the descriptor is the one that was just made.
    unsafe {
        let fd = libc::open(file.path.as_ptr(), how, MODE);
        if fd == -1 {
            if io::Error::last_os_error().raw_os_error() != Some(libc::EEXIST) {
                return false;
            }
            give(file);
            return true;
        }
        let is_owned = libc::fchown(fd, file.uid, file.gid) == 0;
        libc::close(fd);
        is_owned
    }
}

/// Gives a file that was made before to its user, if that was all that was left to do.
///
/// # Safety
/// Only between fork(2) and execve(2), with all signals blocked.
unsafe fn give(file: &NewFile) {
    const HALF_MADE: libc::mode_t = libc::S_IFREG | 0o600;
    // A fifo that somebody has put there must not hold us up.
    let how = libc::O_WRONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    // SAFETY: the path is a C string; the descriptor is the one that was just made; stat is plain
    // old data for which zero bytes are a value.
    unsafe {
        let fd = libc::open(file.path.as_ptr(), how);
        if fd == -1 {
            return;
        }
        let (mut found, we): (libc::stat, _) = (std::mem::zeroed(), libc::geteuid());
        let is_known = libc::fstat(fd, &mut found) == 0;
        let is_ours = found.st_uid == we && we != file.uid;
        let is_new = found.st_mode == HALF_MADE && found.st_nlink == 1 && found.st_size == 0;
        if is_known && is_ours && is_new {
            libc::fchown(fd, file.uid, file.gid);
        }
        libc::close(fd);
    }
}

/// Puts `fds` at 0, 1, 2 … and closes the rest. They are first moved out of each other's way.
///
/// # Safety
/// Only between fork(2) and execve(2).
unsafe fn place_fds(fds: &[BorrowedFd<'_>]) -> bool {
    let mut spare = [-1; MOST_CHILD_FDS];
    if fds.len() > spare.len() {
        return false;
    }
    // SAFETY: fcntl(2) and dup2(2) on open descriptors of this process.
    unsafe {
        for (spare, fd) in spare.iter_mut().zip(fds) {
            *spare = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, FIRST_SPARE_FD);
            if *spare == -1 {
                return false;
            }
        }
        for (number, spare) in spare.iter().enumerate().take(fds.len()) {
            if libc::dup2(*spare, number as libc::c_int) == -1 {
                return false;
            }
        }
        close_from(fds.len() as libc::c_int);
    }
    true
}

/// # Safety
/// Nothing that is still used may be open at `first` or above.
#[cfg(target_os = "linux")]
unsafe fn close_from(first: libc::c_int) {
    // SAFETY: the caller promises that none of them is used.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) == 0 {
            return;
        }
        // Kernels before 5.9.
        let last = libc::sysconf(libc::_SC_OPEN_MAX).clamp(256, 65536) as libc::c_int;
        for fd in first..last {
            libc::close(fd);
        }
    }
}

/// # Safety
/// Nothing that is still used may be open at `first` or above.
#[cfg(not(target_os = "linux"))]
unsafe fn close_from(first: libc::c_int) {
    // SAFETY: the caller promises that none of them is used.
    unsafe { libc::closefrom(first) };
}

/// # Safety
/// Only between fork(2) and execve(2).
unsafe fn give_up(failed: Failed<'_>) -> ! {
    // SAFETY: write(2) and _exit(2) are allowed here, and take memory that is there.
    unsafe {
        let code = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let mut digits = *b"000\n";
        for (n, digit) in digits.iter_mut().take(3).rev().enumerate() {
            *digit += (code / 10_i32.pow(n as u32) % 10) as u8;
        }
        let parts: [&[u8]; 6] = [
            b"smtpd: could not ",
            failed.doing.to_bytes(),
            b": ",
            failed.what.to_bytes(),
            b": error ",
            &digits,
        ];
        for part in parts {
            libc::write(2, part.as_ptr().cast(), part.len());
        }
        libc::_exit(failed.code)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use super::*;

    fn c(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    fn wait(pid: Pid) -> Ended {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(ended) = try_wait(pid).unwrap() {
                return ended;
            }
            std::thread::yield_now();
        }
        kill(pid);
        panic!("did not end");
    }

    fn run(program: &str, argv: &[&str], input: &File) -> (Ended, String) {
        let mut output = tempfile::tempfile().unwrap();
        let pid = spawn(&Spawn {
            program: c(program),
            argv: argv.iter().map(|a| c(a)).collect(),
            env: vec![c("COLOUR=blue")],
            fds: vec![input.as_fd(), output.as_fd(), output.as_fd(), input.as_fd()],
            identity: None,
            dirs: vec![c("/nonexistent"), c("/")],
            umask: 0o027,
        })
        .unwrap();
        let ended = wait(pid);
        let mut text = String::new();
        output.rewind().unwrap();
        output.read_to_string(&mut text).unwrap();
        (ended, text)
    }

    #[test]
    fn a_child_has_the_given_world_and_nothing_else() {
        let input = tempfile::tempfile().unwrap();
        let script = "umask; pwd; echo $COLOUR; (: <&3) && echo three; (: <&4) || echo no; exit 9";
        let (ended, text) = run("/bin/sh", &["sh", "-c", script], &input);
        assert_eq!(ended, Ended::Exited(9));
        let lines: Vec<&str> = text.lines().filter(|l| !l.contains("sh:")).collect();
        // Shells differ in how many zeros they put in front.
        assert_eq!(lines[0].trim_start_matches('0'), "27", "{text}");
        assert_eq!(lines[1..], ["/", "blue", "three", "no"], "{text}");
    }

    #[test]
    fn a_program_that_is_not_there_ends_with_oserr_and_says_so() {
        let input = tempfile::tempfile().unwrap();
        let (ended, text) = run("/nonexistent/program", &["x"], &input);
        assert_eq!(ended, Ended::Exited(NOT_STARTED));
        assert_eq!(
            text,
            "smtpd: could not start: /nonexistent/program: error 002\n"
        );
    }

    #[test]
    fn kill_ends_the_whole_group() {
        let input = tempfile::tempfile().unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        let pid = spawn(&Spawn {
            program: c("/bin/sh"),
            argv: vec![c("sh"), c("-c"), c("echo up; sleep 600 & wait")],
            env: vec![c("PATH=/usr/bin:/bin")],
            fds: vec![input.as_fd(), write.as_fd(), input.as_fd()],
            identity: None,
            dirs: vec![],
            umask: 0o077,
        })
        .unwrap();
        drop(write);
        let mut up = [0; 3];
        read.read_exact(&mut up).unwrap();
        kill(pid);
        assert_eq!(wait(pid), Ended::Signaled(libc::SIGKILL));
        // The pipe ends only when the grandchild is gone, too.
        let mut rest = Vec::new();
        read.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }
}

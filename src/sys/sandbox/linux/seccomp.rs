//! A filter of system calls, assembled for the kernel.
//!
//! What is on the list is allowed, some of it with certain arguments only; other arguments are
//! refused (EPERM). A call that is not on it does not exist (ENOSYS): that is what a library that
//! has learned of a newer call expects of an older kernel, and falls back from. What only an
//! intruder calls ends the process. What is refused is in the kernel's log, where it has one:
//! `audit: type=1326 … syscall=N`.

use std::io;

use super::super::super::errno::cvt;

/// What a role may call.
pub struct Calls {
    /// Whatever the arguments; those that are called most come first.
    pub always: Vec<libc::c_long>,
    /// If one of the alternatives holds.
    pub sometimes: Vec<(libc::c_long, Vec<Vec<Test>>)>,
    /// What no library calls and no mail server wants.
    pub hostile: &'static [libc::c_long],
}

/// Of an argument's lower half, the bits of `mask` must be one of these.
pub struct Test {
    pub argument: u32,
    pub mask: u32,
    pub is: Vec<u32>,
}

// linux/seccomp.h, linux/audit.h
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const EPERM: u32 = 0x0005_0000 | libc::EPERM as u32;
const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;
/// x86_64 only: numbers of the x32 table have this bit.
const X32: u32 = 0x4000_0000;
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const MASK: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const ANSWER: u32 = libc::BPF_RET | libc::BPF_K;

type Program = Vec<libc::sock_filter>;

fn op(code: u32, k: u32, jt: usize, jf: usize) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: jt as u8,
        jf: jf as u8,
        k,
    }
}

/// False where the kernel has no filters, or a container forbids them.
pub fn install(calls: &Calls) -> io::Result<bool> {
    // It comes first: the other one lets nobody install more of them.
    match load(&no_clone3(), 0) {
        Ok(true) => {}
        Ok(false) => return Ok(false),
        // Anybody may who can gain no privileges, as we: what forbids it is around us.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
        Err(error) => return Err(error),
    }
    let filter = assemble(calls);
    // Kernels before 4.14 do not know the flag.
    Ok(load(&filter, libc::SECCOMP_FILTER_FLAG_LOG)? || load(&filter, 0)?)
}

fn load(filter: &Program, flag: libc::c_ulong) -> io::Result<bool> {
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` describes a filter that lives until the call returns.
    let result = cvt(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flag,
            &raw const program,
        )
    } as libc::c_int);
    match result.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) => Ok(true),
        Err((Some(libc::ENOSYS | libc::EINVAL), _)) => Ok(false),
        Err((_, error)) => Err(error),
    }
}

/// glibc tries it for every thread before it takes clone: that is not to be logged.
fn no_clone3() -> Program {
    vec![
        op(LOAD, NUMBER_AT, 0, 0),
        op(EQUAL, libc::SYS_clone3 as u32, 0, 1),
        op(ANSWER, ENOSYS, 0, 0),
        op(ANSWER, ALLOW, 0, 0),
    ]
}

fn assemble(calls: &Calls) -> Program {
    let mut program = vec![
        op(LOAD, ARCH_AT, 0, 0),
        op(EQUAL, ARCH, 1, 0),
        op(ANSWER, KILL_PROCESS, 0, 0),
        op(LOAD, NUMBER_AT, 0, 0),
        op(AT_LEAST, X32, 0, 1),
        op(ANSWER, ENOSYS, 0, 0),
    ];
    let mut on = |number: libc::c_long, body: Program| {
        program.push(op(EQUAL, number as u32, 0, body.len()));
        program.extend(body);
    };
    for &number in &calls.always {
        on(number, vec![op(ANSWER, ALLOW, 0, 0)]);
    }
    for (number, alternatives) in &calls.sometimes {
        let mut body: Program = alternatives.iter().flat_map(|all| allow_if(all)).collect();
        body.push(op(ANSWER, EPERM, 0, 0));
        on(*number, body);
    }
    // See `no_clone3`.
    on(libc::SYS_clone3, vec![op(ANSWER, ALLOW, 0, 0)]);
    for &number in calls.hostile {
        on(number, vec![op(ANSWER, KILL_PROCESS, 0, 0)]);
    }
    program.push(op(ANSWER, ENOSYS, 0, 0));
    program
}

/// Allows the call if all tests hold; goes on behind itself if not.
fn allow_if(tests: &[Test]) -> Program {
    let mut code = vec![op(ANSWER, ALLOW, 0, 0)];
    for test in tests.iter().rev() {
        // The lower half comes first: both processors are little-endian.
        let mut checked = vec![
            op(LOAD, ARGUMENTS_AT + 8 * test.argument, 0, 0),
            op(MASK, test.mask, 0, 0),
        ];
        let mut others = test.is.len();
        for &value in &test.is {
            others -= 1;
            let failed = if others == 0 { code.len() } else { 0 };
            checked.push(op(EQUAL, value, others, failed));
        }
        checked.append(&mut code);
        code = checked;
    }
    code
}

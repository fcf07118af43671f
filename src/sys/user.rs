//! The system's users and groups, and who we are.

use std::ffi::{CStr, CString};
use std::io;
use std::path::PathBuf;

/// One entry of the user database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Full name and more (gecos).
    pub gecos: String,
    pub home: PathBuf,
}

/// The user with this login name.
pub fn by_name(name: &str) -> io::Result<Option<User>> {
    let Ok(name) = CString::new(name) else {
        return Ok(None);
    };
    // SAFETY: every pointer is valid for the call; `lookup` sizes the buffer.
    lookup(|pwd, buffer, result| unsafe {
        libc::getpwnam_r(
            name.as_ptr(),
            pwd,
            buffer.as_mut_ptr(),
            buffer.len(),
            result,
        )
    })
}

/// The user with this id.
pub fn by_uid(uid: u32) -> io::Result<Option<User>> {
    // SAFETY: every pointer is valid for the call; `lookup` sizes the buffer.
    lookup(|pwd, buffer, result| unsafe {
        libc::getpwuid_r(uid, pwd, buffer.as_mut_ptr(), buffer.len(), result)
    })
}

/// The name that was given at login, by getlogin(3). Call it before there is a second thread.
pub fn login_name() -> Option<String> {
    // SAFETY: getlogin(3) returns null or a string that lives until the next call; it is copied
    // at once, and only the front ends, which have one thread then, call it.
    let name = unsafe {
        let name = libc::getlogin();
        if name.is_null() {
            return None;
        }
        CStr::from_ptr(name)
    };
    Some(name.to_str().ok()?.to_owned())
}

/// The id of the group with this name.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else {
        return Ok(None);
    };
    let mut buffer = vec![0; FIRST_BUFFER];
    loop {
        // SAFETY: group is plain old data for which zero bytes are a value.
        let mut group: libc::group = unsafe { std::mem::zeroed() };
        let mut result = std::ptr::null_mut();
        // SAFETY: every pointer is valid for the call and `buffer` has the length given.
        let code = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                &mut group,
                buffer.as_mut_ptr(),
                buffer.len(),
                &mut result,
            )
        };
        match code {
            libc::ERANGE if buffer.len() < LAST_BUFFER => buffer.resize(buffer.len() * 4, 0),
            0 | libc::ENOENT | libc::ESRCH => {
                return Ok((!result.is_null()).then_some(group.gr_gid));
            }
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// The effective user id of this process.
pub fn effective_uid() -> u32 {
    // SAFETY: geteuid(2) has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// The real user id of this process.
pub fn real_uid() -> u32 {
    // SAFETY: getuid(2) has no preconditions and cannot fail.
    unsafe { libc::getuid() }
}

/// The effective group id of this process.
pub fn effective_gid() -> u32 {
    // SAFETY: getegid(2) has no preconditions and cannot fail.
    unsafe { libc::getegid() }
}

/// The real group id of this process.
pub fn real_gid() -> u32 {
    // SAFETY: getgid(2) has no preconditions and cannot fail.
    unsafe { libc::getgid() }
}

const FIRST_BUFFER: usize = 1024;
const LAST_BUFFER: usize = 1 << 20;

fn lookup(
    call: impl Fn(&mut libc::passwd, &mut [libc::c_char], &mut *mut libc::passwd) -> libc::c_int,
) -> io::Result<Option<User>> {
    let mut buffer = vec![0; FIRST_BUFFER];
    loop {
        // SAFETY: passwd is plain old data for which zero bytes are a value.
        let mut pwd: libc::passwd = unsafe { std::mem::zeroed() };
        let mut result = std::ptr::null_mut();
        match call(&mut pwd, &mut buffer, &mut result) {
            libc::ERANGE if buffer.len() < LAST_BUFFER => buffer.resize(buffer.len() * 4, 0),
            0 | libc::ENOENT | libc::ESRCH if result.is_null() => return Ok(None),
            // SAFETY: a found entry's pointers are C strings inside `buffer`, which still lives.
            0 => return Ok(Some(unsafe { owned(&pwd) })),
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// # Safety
/// The entry's strings must be null or valid C strings.
unsafe fn owned(pwd: &libc::passwd) -> User {
    let text = |pointer: *const libc::c_char| {
        if pointer.is_null() {
            return Vec::new();
        }
        // SAFETY: the caller promises a valid C string.
        unsafe { CStr::from_ptr(pointer) }.to_bytes().to_vec()
    };
    let home = text(pwd.pw_dir);
    User {
        name: String::from_utf8_lossy(&text(pwd.pw_name)).into_owned(),
        uid: pwd.pw_uid,
        gid: pwd.pw_gid,
        gecos: String::from_utf8_lossy(&text(pwd.pw_gecos)).into_owned(),
        home: PathBuf::from(
            <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(home),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_both_ways_and_strangers_are_not() {
        let root = by_name("root").unwrap().unwrap();
        assert_eq!(root.uid, 0);
        assert_eq!(by_uid(0).unwrap().unwrap().uid, 0);
        assert_eq!(by_name("no-such-user-here").unwrap(), None);
        assert_eq!(by_name("nul\0name").unwrap(), None);
    }
}

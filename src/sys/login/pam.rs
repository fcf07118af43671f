//! PAM, through the four functions of it that are needed. The library is loaded only when a
//! password is to be checked, so that nothing else depends on it; a system without it has the hash
//! in its user database.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::ptr;

use super::super::crypt;

#[cfg(target_os = "linux")]
const LIBRARIES: [&CStr; 2] = [c"libpam.so.0", c"libpam.so"];
#[cfg(target_os = "freebsd")]
const LIBRARIES: [&CStr; 2] = [c"libpam.so.6", c"libpam.so"];
const SERVICE: &CStr = c"smtpd";

pub fn check(user: &str, password: &str) -> io::Result<bool> {
    if user.is_empty() {
        return Ok(false);
    }
    match Pam::load() {
        Some(pam) => pam.check(&CString::new(user)?, &CString::new(password)?),
        None => check_hash(user, password),
    }
}

/// Whoever does not exist takes as long as whoever does.
fn check_hash(user: &str, password: &str) -> io::Result<bool> {
    match hash_of(&CString::new(user)?)? {
        Some(hash) => crypt::verify(password, &hash),
        None => crypt::verify(password, crypt::NOBODYS).map(|_| false),
    }
}

#[cfg(target_os = "linux")]
fn hash_of(user: &CStr) -> io::Result<Option<String>> {
    let mut buffer = vec![0; 64 * 1024];
    // SAFETY: spwd is plain old data for which zero bytes are a value.
    let mut entry: libc::spwd = unsafe { std::mem::zeroed() };
    let mut found = ptr::null_mut();
    // SAFETY: every pointer is valid for the call and `buffer` has the length given.
    let code = unsafe {
        libc::getspnam_r(
            user.as_ptr(),
            &mut entry,
            buffer.as_mut_ptr(),
            buffer.len(),
            &mut found,
        )
    };
    match code {
        0 | libc::ENOENT if found.is_null() => return Ok(None),
        0 => {}
        code => return Err(io::Error::from_raw_os_error(code)),
    }
    // SAFETY: time(2) takes a null pointer.
    let today = unsafe { libc::time(ptr::null_mut()) } / 86_400;
    if entry.sp_expire > 0 && entry.sp_expire <= today {
        return Ok(None);
    }
    // SAFETY: a found entry's pointers are C strings inside `buffer`, which still lives.
    let hash = unsafe { CStr::from_ptr(entry.sp_pwdp) };
    Ok(Some(hash.to_string_lossy().into_owned()))
}

/// For root, passwd(5) of FreeBSD has the hash.
#[cfg(target_os = "freebsd")]
fn hash_of(user: &CStr) -> io::Result<Option<String>> {
    // SAFETY: getpwnam(3) takes a C string and answers with null or an entry that lives until the
    // next call; this process has one thread, and the hash is copied at once.
    let hash = unsafe {
        let entry = libc::getpwnam(user.as_ptr());
        if entry.is_null() {
            return Ok(None);
        }
        CStr::from_ptr((*entry).pw_passwd)
    };
    Ok(Some(hash.to_string_lossy().into_owned()))
}

#[repr(C)]
struct Message {
    style: c_int,
    text: *const c_char,
}

#[repr(C)]
struct Response {
    text: *mut c_char,
    unused: c_int,
}

type Talk = extern "C" fn(c_int, *mut *const Message, *mut *mut Response, *mut c_void) -> c_int;

#[repr(C)]
struct Conversation {
    talk: Talk,
    data: *mut c_void,
}

type Handle = *mut c_void;
type Start =
    unsafe extern "C" fn(*const c_char, *const c_char, *const Conversation, *mut Handle) -> c_int;
type Step = unsafe extern "C" fn(Handle, c_int) -> c_int;

/// The four functions.
struct Pam {
    start: Start,
    authenticate: Step,
    account: Step,
    end: Step,
}

/// What is answered to the library's questions.
struct Answers {
    user: CString,
    password: CString,
}

// The same in Linux-PAM and OpenPAM.
const SUCCESS: c_int = 0;
const LAST_FAILURE_OF_THE_SYSTEM: c_int = 5;
const DISALLOW_NULL_AUTHTOK: c_int = 1;
const ASK_HIDDEN: c_int = 1;
const ASK_SHOWN: c_int = 2;
const MOST_MESSAGES: c_int = 32;
#[cfg(target_os = "linux")]
const BUFFER_ERROR: c_int = 5;
#[cfg(target_os = "linux")]
const CONVERSATION_ERROR: c_int = 19;
#[cfg(target_os = "linux")]
const INFORMATION_UNAVAILABLE: c_int = 9;
#[cfg(target_os = "freebsd")]
const BUFFER_ERROR: c_int = 5;
#[cfg(target_os = "freebsd")]
const CONVERSATION_ERROR: c_int = 6;
#[cfg(target_os = "freebsd")]
const INFORMATION_UNAVAILABLE: c_int = 12;

impl Pam {
    /// `None` where there is no such library.
    fn load() -> Option<Pam> {
        // SAFETY: dlopen(3) takes a C string. The library's own code runs, which the administrator
        // has put there to check passwords with.
        let library = LIBRARIES.iter().find_map(|name| unsafe {
            let library = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL);
            (!library.is_null()).then_some(library)
        })?;
        let symbol = |name: &CStr| {
            // SAFETY: a library that is open, and a C string.
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            (!found.is_null()).then_some(found)
        };
        let step = |name: &CStr| {
            // SAFETY: the functions of these names have this type in every PAM.
            symbol(name).map(|found| unsafe { std::mem::transmute::<*mut c_void, Step>(found) })
        };
        let start = symbol(c"pam_start")?;
        Some(Pam {
            // SAFETY: as above.
            start: unsafe { std::mem::transmute::<*mut c_void, Start>(start) },
            authenticate: step(c"pam_authenticate")?,
            account: step(c"pam_acct_mgmt")?,
            end: step(c"pam_end")?,
        })
    }

    fn check(&self, user: &CStr, password: &CStr) -> io::Result<bool> {
        let answers = Answers {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        let conversation = Conversation {
            talk,
            data: (&raw const answers).cast_mut().cast(),
        };
        let mut handle: Handle = ptr::null_mut();
        // SAFETY: two C strings, a conversation that outlives the handle, and room for the handle.
        let started = unsafe {
            (self.start)(
                SERVICE.as_ptr(),
                user.as_ptr(),
                &raw const conversation,
                &mut handle,
            )
        };
        if started != SUCCESS {
            return Err(io::Error::other(format!("pam_start: error {started}")));
        }
        // SAFETY: a handle that was started; it is ended once, after its last use.
        let (step, code) = unsafe {
            let mut step = "pam_authenticate";
            let mut code = (self.authenticate)(handle, DISALLOW_NULL_AUTHTOK);
            if code == SUCCESS {
                step = "pam_acct_mgmt";
                code = (self.account)(handle, DISALLOW_NULL_AUTHTOK);
            }
            (self.end)(handle, code);
            (step, code)
        };
        match code {
            SUCCESS => Ok(true),
            1..=LAST_FAILURE_OF_THE_SYSTEM | INFORMATION_UNAVAILABLE => {
                Err(io::Error::other(format!("{step}: error {code}")))
            }
            _ => Ok(false),
        }
    }
}

/// Called by the library: what it asks is the user's name, and the password.
extern "C" fn talk(
    count: c_int,
    messages: *mut *const Message,
    responses: *mut *mut Response,
    data: *mut c_void,
) -> c_int {
    if !(1..=MOST_MESSAGES).contains(&count) || messages.is_null() || responses.is_null() {
        return CONVERSATION_ERROR;
    }
    let count = count as usize;
    // SAFETY: `data` is what `check` has given, which lives; `messages` has `count` pointers to
    // messages. The library frees the responses and their texts with free(3), which is why they
    // come from calloc(3) and strdup(3).
    unsafe {
        let answers = &*data.cast::<Answers>();
        let made: *mut Response = libc::calloc(count, size_of::<Response>()).cast();
        if made.is_null() {
            return BUFFER_ERROR;
        }
        for number in 0..count {
            let answer = match (**messages.add(number)).style {
                ASK_HIDDEN => &answers.password,
                ASK_SHOWN => &answers.user,
                _ => continue,
            };
            (*made.add(number)).text = libc::strdup(answer.as_ptr());
        }
        *responses = made;
    }
    SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_let_in_without_a_name_or_with_a_wrong_password() {
        assert!(!check("", "x").unwrap());
        assert!(check("nul\0", "x").is_err());
        // A system may be set up so that nobody can say; but never a yes.
        assert!(!check_hash("no-such-user-here", "x").unwrap_or(false));
        assert!(!matches!(check("no-such-user-here", "x"), Ok(true)));
    }
}

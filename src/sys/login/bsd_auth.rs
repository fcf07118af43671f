//! OpenBSD: login_* programs do it, of the style that login.conf(5) has for the user. The type
//! `auth-smtp` is the one that smtpd(8) has always used there.

use std::ffi::{CString, c_char, c_int};
use std::io;

unsafe extern "C" {
    fn auth_userokay(
        name: *mut c_char,
        style: *mut c_char,
        kind: *mut c_char,
        password: *mut c_char,
    ) -> c_int;
}

pub fn check(user: &str, password: &str) -> io::Result<bool> {
    // `user:style` would let the client choose the style.
    if user.is_empty() || user.contains(':') {
        return Ok(false);
    }
    let mut user = CString::new(user)?.into_bytes_with_nul();
    let mut password = CString::new(password)?.into_bytes_with_nul();
    let mut kind = *b"auth-smtp\0";
    // SAFETY: three C strings in buffers of our own, which the call may overwrite and does not
    // keep, and a null pointer for the default style.
    let okay = unsafe {
        auth_userokay(
            user.as_mut_ptr().cast(),
            std::ptr::null_mut(),
            kind.as_mut_ptr().cast(),
            password.as_mut_ptr().cast(),
        )
    };
    Ok(okay != 0)
}

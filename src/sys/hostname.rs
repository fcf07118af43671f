//! The name of this host: gethostname(3), and the canonical name that the resolver has for it.

use std::ffi::{CStr, CString};
use std::io;

use super::errno::cvt;

/// What gethostname(3) says.
pub fn get() -> io::Result<String> {
    // One byte more than POSIX's longest name stays 0, whatever the call does on truncation.
    let mut buffer = [0u8; 257];
    // SAFETY: the buffer is writable for the length given, which leaves its last byte alone.
    cvt(unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) })?;
    let name = buffer.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The canonical name that getaddrinfo(3) has for `name`, if it has one.
pub fn canonical(name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    // SAFETY: addrinfo is plain old data for which zero bytes are a value.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_family = libc::AF_UNSPEC;
    hints.ai_flags = libc::AI_CANONNAME;
    let mut list = std::ptr::null_mut();
    // SAFETY: name is a C string, hints is initialised, list is written on success only.
    let code = unsafe { libc::getaddrinfo(name.as_ptr(), std::ptr::null(), &hints, &mut list) };
    if code != 0 || list.is_null() {
        return None;
    }
    // SAFETY: on success the list has a first entry whose name is null or a C string, valid until
    // the list is freed; the text is copied before that.
    let canonical = unsafe {
        let pointer = (*list).ai_canonname;
        (!pointer.is_null()).then(|| CStr::from_ptr(pointer).to_string_lossy().into_owned())
    };
    // SAFETY: the list came from getaddrinfo and is not used afterwards.
    unsafe { libc::freeaddrinfo(list) };
    canonical.filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_a_name_and_nul_is_no_name() {
        assert!(!get().unwrap().contains('\0'));
        assert_eq!(canonical("a\0b"), None);
    }
}

//! Hashes of passwords, as crypt(3) of this system makes them.
//!
//! OpenBSD has crypt_checkpass(3) and crypt_newhash(3), which know bcrypt. Elsewhere it is crypt_r:
//! bcrypt and SHA-512 everywhere, and whatever else the system's library knows (yescrypt on Linux).

use std::ffi::{CString, c_char};
use std::io;

use zeroize::Zeroizing;

/// Whether `hash` was made of `password`. A hash of an unknown kind is an error; one that nobody's
/// password has (`*`, `!` and what follows) is not.
pub fn verify(password: &str, hash: &str) -> io::Result<bool> {
    if hash.is_empty() || hash.starts_with(['*', '!']) {
        return Ok(false);
    }
    // crypt(3) would take the first two letters of anything for the setting of its oldest kind.
    let oldest = |hash: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
        hash.len() == 13 && hash.bytes().all(known)
    };
    if !hash.starts_with(['$', '_']) && !oldest(hash) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let password = Zeroizing::new(CString::new(password)?);
    platform::verify(&password, &CString::new(hash)?)
}

/// A hash of `password`, of the kind that this system's crypt(3) holds for good.
pub fn hash(password: &str) -> io::Result<String> {
    platform::hash(&CString::new(password)?)
}

/// What a password is compared with that is nobody's: it takes as long as with one of [`hash`]'s.
#[cfg(not(target_os = "openbsd"))]
pub const NOBODYS: &str = "$6$rounds=100000$nobodys.salt.is.$zZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ\
                           ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ1";
/// What a password is compared with that is nobody's: it takes as long as with one of [`hash`]'s.
#[cfg(target_os = "openbsd")]
pub const NOBODYS: &str = "$2b$10$ZZZZZZZZZZZZZZZZZZZZZuZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ";

#[cfg(target_os = "openbsd")]
mod platform {
    use std::ffi::{CStr, c_int};

    use super::*;

    unsafe extern "C" {
        fn crypt_checkpass(password: *const c_char, hash: *const c_char) -> c_int;
        fn crypt_newhash(
            password: *const c_char,
            preference: *const c_char,
            hash: *mut c_char,
            length: usize,
        ) -> c_int;
    }

    pub fn verify(password: &CStr, hash: &CStr) -> io::Result<bool> {
        if !hash.to_bytes().starts_with(b"$2") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // SAFETY: both are C strings; the call keeps neither.
        Ok(unsafe { crypt_checkpass(password.as_ptr(), hash.as_ptr()) } == 0)
    }

    pub fn hash(password: &CStr) -> io::Result<String> {
        let mut hash = [0u8; 128];
        // SAFETY: two C strings, and a buffer that is writable for its length.
        super::super::errno::cvt(unsafe {
            crypt_newhash(
                password.as_ptr(),
                c"bcrypt,a".as_ptr(),
                hash.as_mut_ptr().cast(),
                hash.len(),
            )
        })?;
        let text = CStr::from_bytes_until_nul(&hash).map_err(io::Error::other)?;
        Ok(text.to_string_lossy().into_owned())
    }
}

#[cfg(not(target_os = "openbsd"))]
mod platform {
    use std::ffi::CStr;

    use zeroize::Zeroize;

    use super::*;

    #[link(name = "crypt")]
    unsafe extern "C" {
        fn crypt_r(
            password: *const c_char,
            setting: *const c_char,
            data: *mut CryptData,
        ) -> *mut c_char;
    }

    /// struct crypt_data of no system is larger: 131 KiB in glibc, 32 KiB in libxcrypt, less
    /// elsewhere. All of them want it to begin as zero bytes.
    #[repr(C, align(16))]
    struct CryptData([u8; 256 * 1024]);

    pub fn verify(password: &CStr, hash: &CStr) -> io::Result<bool> {
        let made = crypt(password, hash)?;
        Ok(is_same(made.as_bytes(), hash.to_bytes()))
    }

    pub fn hash(password: &CStr) -> io::Result<String> {
        const ALPHABET: &[u8; 64] =
            b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut salt = [0u8; 16];
        super::super::random::fill(&mut salt)?;
        let letters = salt.iter().map(|byte| usize::from(byte % 64));
        let salt: String = letters
            .filter_map(|index| ALPHABET.get(index))
            .map(|letter| char::from(*letter))
            .collect();
        let made = crypt(
            password,
            &CString::new(format!("$6$rounds=100000${salt}$"))?,
        )?;
        made.into_string().map_err(io::Error::other)
    }

    fn crypt(password: &CStr, setting: &CStr) -> io::Result<CString> {
        let layout = std::alloc::Layout::new::<CryptData>();
        // SAFETY: the layout is not empty; the block is given to a Box of the type that it was laid
        // out for, for which zero bytes are a value.
        let mut data = unsafe {
            let block = std::alloc::alloc_zeroed(layout);
            if block.is_null() {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            Box::from_raw(block.cast::<CryptData>())
        };
        // SAFETY: two C strings and a block that is as large as any system's struct crypt_data.
        let made = unsafe { crypt_r(password.as_ptr(), setting.as_ptr(), &raw mut *data) };
        if made.is_null() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // SAFETY: the call has answered with a C string, which lies in `data` or in its own memory.
        let made = unsafe { CStr::from_ptr(made) }.to_owned();
        // Traces of the password are in there.
        data.0.zeroize();
        if made.to_bytes().starts_with(b"*") {
            Err(io::ErrorKind::Unsupported.into())
        } else {
            Ok(made)
        }
    }

    /// Takes as long for a difference in the first byte as for one in the last.
    fn is_same(a: &[u8], b: &[u8]) -> bool {
        let differences = a.iter().zip(b).fold(0, |found, (a, b)| found | (a ^ b));
        a.len() == b.len() && std::hint::black_box(differences) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_own_hash_only() {
        let made = hash("correct horse").unwrap();
        assert!(verify("correct horse", &made).unwrap());
        assert!(!verify("correct hors", &made).unwrap());
        assert!(!verify("", &made).unwrap());
        assert_ne!(made, hash("correct horse").unwrap(), "salted");
        assert!(!verify("x", NOBODYS).unwrap());
        for nobodys in ["", "*", "!", "!!", "*LK*", "!$6$x$y"] {
            assert!(!verify("", nobodys).unwrap());
        }
        assert!(verify("x", "plain text").is_err());
        assert!(verify("nul\0", &made).is_err());
    }

    // table(5), credentials tables: the hashes that other programs make.
    #[test]
    fn hashes_of_others_are_known() {
        let cases = [
            "$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjlO/O817G3uBnIFNjnQJuesI68OTLiBFdcbYEdFCoEOfaS35inz1",
        ];
        // What they are of does not matter here: they are read, and nothing fits.
        for hash in cases {
            if cfg!(target_os = "openbsd") && !hash.starts_with("$2") {
                assert!(verify("wrong", hash).is_err())
            } else {
                assert!(!verify("wrong", hash).unwrap(), "{hash}")
            }
        }
        assert!(
            verify(
                "U*U",
                "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
            )
            .unwrap()
        );
    }
}

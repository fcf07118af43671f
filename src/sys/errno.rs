//! From a call's -1 to an `io::Error`, and from that to words.

use std::io;

/// Passes `result` through, or turns -1 into the error that errno names.
pub fn cvt(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Calls until the answer is something other than EINTR.
pub fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => return result,
        }
    }
}

/// The system's words for an error, as C programs print them: without `(os error N)`.
pub fn strerror(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(end) = text.find(" (os error ") {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_speaks_as_strerror_does() {
        let error = std::fs::File::open("/no/such/file").unwrap_err();
        assert_eq!(strerror(&error), "No such file or directory");
        assert_eq!(strerror(&io::Error::other("odd")), "odd");
    }
}

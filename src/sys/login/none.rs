//! A system whose passwords we cannot check.

use std::io;

pub fn check(_user: &str, _password: &str) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

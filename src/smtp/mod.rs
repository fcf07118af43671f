//! SMTP text and types: commands, replies, parameters, line and dot rules.
//!
//! Nothing here knows a socket or a session: bytes in, values out, and back.

#![forbid(unsafe_code)]

pub mod auth;
pub mod command;
pub mod domain_name;
pub mod dot;
pub mod params;
pub mod path;
pub mod proxy;
pub mod reply;
pub mod stuffing;
pub mod xtext;

pub use command::Command;
pub use reply::Reply;

/// Where `byte` first is in `bytes`.
pub fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    // `skip_until` is the one door of std to the platform's memchr(3).
    let mut rest = bytes;
    let passed = std::io::BufRead::skip_until(&mut rest, byte).unwrap_or(0);
    let last = passed.checked_sub(1)?;
    (bytes.get(last) == Some(&byte)).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn find_gives_the_first_place_or_none() {
        assert_eq!(find(b'x', b""), None);
        assert_eq!(find(b'x', b"abc"), None);
        assert_eq!(find(b'x', b"xabx"), Some(0));
        assert_eq!(find(b'x', b"abcx"), Some(3));
    }
}

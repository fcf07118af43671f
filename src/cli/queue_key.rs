//! Where the key of `queue encryption` comes from: smtpd.conf itself, the standard input, or
//! whoever sits at the terminal. It is never an argument or a variable, and never printed.

use std::io::{self, BufRead};

use crate::config::QueueKey;
use crate::queue::coding::Key;
use crate::sys::errno::strerror;
use crate::sys::terminal;
use crate::util::Line;
use crate::util::Secret;

/// Longest first line of the standard input, in bytes.
const MAX_LINE: u64 = 1024;

/// Gets a key that smtpd.conf does not hold, for the engine. Asked for once, at the start of the
/// daemon.
pub fn get(configured: Option<&QueueKey>) -> Result<Option<Secret>, String> {
    let bytes = match configured {
        None | Some(QueueKey::Text(_)) => return Ok(None),
        Some(QueueKey::Stdin) => first_line(io::stdin().lock())
            .map_err(|error| format!("queue key: standard input: {}", strerror(&error)))?,
        Some(QueueKey::Terminal) => ask("queue key: ")?,
    };
    let key = secret(&bytes).ok_or_else(|| {
        let length = bytes.len();
        format!("crypto_setup: invalid key for queue encryption: {length} bytes, 32 are needed")
    })?;
    Ok(Some(key))
}

/// Asks at the terminal.
pub fn ask(prompt: &str) -> Result<Vec<u8>, String> {
    terminal::ask_secret(prompt).map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => "no key was given".to_owned(),
        _ => format!("queue key: no terminal to ask at: {}", strerror(&error)),
    })
}

/// A key, if `bytes` are one.
pub fn key(bytes: &[u8]) -> Option<Key> {
    Key::new(std::str::from_utf8(bytes).ok()?)
}

fn secret(bytes: &[u8]) -> Option<Secret> {
    key(bytes)?;
    Line::from_bytes(bytes).ok().map(Secret::new)
}

fn first_line(from: impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(MAX_LINE).read_until(b'\n', &mut line)?;
    for end in *b"\n\r" {
        if line.last() == Some(&end) {
            line.pop();
        }
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_the_standard_input_is_the_key() {
        // smtpd.conf(5), queue encryption: stdin or a dash.
        let key = "0123456789abcdef0123456789abcdef";
        for text in [
            key.to_owned(),
            format!("{key}\n"),
            format!("{key}\r\nmore\n"),
        ] {
            let line = first_line(text.as_bytes()).unwrap();
            assert_eq!(secret(&line).unwrap().reveal(), key);
        }
        for bad in ["", "short", &"x".repeat(33), &"\u{e9}".repeat(32)] {
            assert!(secret(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(secret(&[0xff; 32]).is_none());
        assert!(matches!(get(None), Ok(None)));
    }
}

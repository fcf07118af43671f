//! Text that is shown nowhere, and leaves nothing behind.

use std::fmt;

use zeroize::Zeroize;

use super::Line;

/// A text that no log, dump or message shows, and that is wiped from memory in the end.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Line);

impl Secret {
    /// Takes care of `text`.
    pub fn new(text: Line) -> Secret {
        Secret(text)
    }

    /// The text, for those who need it.
    pub fn reveal(&self) -> &str {
        self.0.as_str()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.wipe();
    }
}

/// Takes the first `used` bytes off, and wipes them from the buffer.
pub fn take_off_and_wipe(buffer: &mut Vec<u8>, used: usize) {
    let kept = move_up(buffer, used);
    buffer.truncate(kept);
}

/// Moves what comes after `used` to the front, overwrites the rest, and says where that begins.
fn move_up(buffer: &mut [u8], used: usize) -> usize {
    let used = used.min(buffer.len());
    buffer.copy_within(used.., 0);
    let kept = buffer.len() - used;
    let (_, rest) = buffer.split_at_mut(kept);
    rest.zeroize();
    kept
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_off_is_in_the_buffer_no_more() {
        for used in 0..=9 {
            let mut buffer = *b"secretxy";
            let kept = move_up(&mut buffer, used);
            let (front, rest) = buffer.split_at(kept);
            assert_eq!(front, &b"secretxy"[used.min(8)..]);
            assert!(rest.iter().all(|byte| *byte == 0), "{rest:?}");
        }
        let mut line = Line::sanitize(b"secret");
        line.wipe();
        assert_eq!(line.as_str(), "\0\0\0\0\0\0");
        assert_eq!(format!("{:?}", Secret::new(line)), "********");
    }
}

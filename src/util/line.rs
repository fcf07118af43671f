//! Text of one line: it cannot hold CR, LF or NUL.
//!
//! Whatever goes into a line-based file or protocol (an envelope, a header, a log line, a frame
//! for the parent) is a [`Line`], so a stranger's text can never add a second line to it.

use std::fmt;
use std::ops::Deref;

use zeroize::Zeroize;

/// Text without CR, LF or NUL.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line(Box<str>);

/// The text held CR, LF or NUL, or was not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotALine;

impl Line {
    /// Takes `text` as it is, or refuses it.
    pub fn new(text: &str) -> Result<Line, NotALine> {
        if text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(NotALine);
        }
        Ok(Line(text.into()))
    }

    /// Takes bytes that are UTF-8 and one line, or refuses them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Line, NotALine> {
        Line::new(std::str::from_utf8(bytes).map_err(|_| NotALine)?)
    }

    /// Makes a line of anything: control characters become `?`, bytes that are not UTF-8 become
    /// the replacement character.
    pub fn sanitize(bytes: &[u8]) -> Line {
        let text = String::from_utf8_lossy(bytes);
        let clean: String = text
            .chars()
            .map(|c| if c.is_control() && c != '\t' { '?' } else { c })
            .collect();
        Line(clean.into())
    }

    /// The text as a line of at most `most_bytes`; three dots stand for what is left out.
    pub fn shortened(text: &str, most_bytes: usize) -> Line {
        const DOTS: &str = "...";
        if text.len() <= most_bytes {
            return Line::sanitize(text.as_bytes());
        }
        let head = cut(text, most_bytes.saturating_sub(DOTS.len()));
        Line::sanitize(format!("{head}{DOTS}").as_bytes())
    }

    /// The line as text, without a line end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Overwrites the text, which is then to be dropped.
    pub(super) fn wipe(&mut self) {
        self.0.zeroize();
    }
}

/// At most `most_bytes` of `text`, cut between characters.
pub fn cut(text: &str, most_bytes: usize) -> &str {
    let mut end = text.len().min(most_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

impl Deref for Line {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for NotALine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text is not one line")
    }
}

impl std::error::Error for NotALine {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_holds_a_line_end_or_nul() {
        for bad in ["a\nb", "a\rb", "a\0b", "\n"] {
            assert_eq!(Line::new(bad), Err(NotALine), "{bad:?}");
            assert!(Line::new(&Line::sanitize(bad.as_bytes())).is_ok());
        }
        assert_eq!(Line::new("tab\there").unwrap().as_str(), "tab\there");
        assert_eq!(Line::sanitize(b"\xff\x1b[m").as_str(), "\u{fffd}?[m");
    }

    #[test]
    fn a_cut_is_between_characters() {
        let cuts = [0, 1, 2, 3, 9].map(|most| cut("aéb", most));
        assert_eq!(cuts, ["", "a", "a", "aé", "aéb"]);
        assert_eq!(Line::shortened("ééé", 6).as_str(), "ééé");
        assert_eq!(Line::shortened("éééé", 6).as_str(), "é...");
    }
}

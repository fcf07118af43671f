//! A reply: three digits and text, one line or several.
//!
//! Whatever text goes in, what comes out is lines that end in CRLF and hold no other CR, LF or
//! NUL. A line longer than [`MAX_LINE`] is cut.

use std::borrow::Cow;

use crate::mail::Refusal;
use crate::util::{Line, cut};

/// The longest reply line, without its CRLF.
pub const MAX_LINE: usize = 4093;

/// What the server says to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    lines: Vec<Text>,
}

type Text = Cow<'static, str>;

impl Reply {
    /// A reply with a text of ours.
    pub fn new(code: u16, text: &'static str) -> Reply {
        Reply {
            code,
            lines: vec![Cow::Borrowed(text)],
        }
    }

    /// A reply whose text may hold what a stranger sent: control characters are replaced.
    pub fn echo(code: u16, text: &str) -> Reply {
        Reply::lines(code, vec![text.to_string()])
    }

    /// A reply of several lines. No lines at all make one empty line.
    pub fn lines(code: u16, lines: Vec<String>) -> Reply {
        let mut lines: Vec<Text> = lines
            .into_iter()
            .map(|line| Cow::Owned(Line::sanitize(line.as_bytes()).as_str().to_string()))
            .collect();
        if lines.is_empty() {
            lines.push(Cow::Borrowed(""));
        }
        Reply { code, lines }
    }

    /// A refusal of another room, with `suffix` behind its text.
    pub fn refusal(refusal: &Refusal, suffix: &str) -> Reply {
        Reply::echo(refusal.code, &format!("{}{suffix}", refusal.text))
    }

    /// What a filter wants said: a code, a blank and a text.
    pub fn verbatim(text: &Line) -> Reply {
        let (code, rest) = text.split_at_checked(4).unwrap_or((text, ""));
        Reply::echo(code.trim_end().parse().unwrap_or(421), rest)
    }

    /// The reply code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Whether it is of class 4 or 5.
    pub fn is_failure(&self) -> bool {
        self.code >= 400
    }

    /// Appends it as it goes over the wire.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let last = self.lines.len().saturating_sub(1);
        for (number, line) in self.lines.iter().enumerate() {
            let mark = if number == last { ' ' } else { '-' };
            let text = format!("{}{mark}{line}", self.code);
            out.extend_from_slice(cut(&text, MAX_LINE).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// The last line as it goes over the wire, for logs.
impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.lines.last().map_or("", |line| line.as_ref());
        write!(f, "{} {text}", self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn all_lines_but_the_last_carry_a_hyphen() {
        let reply = Reply::lines(250, vec!["a".into(), "b".into()]);
        assert_eq!(wire(&reply), "250-a\r\n250 b\r\n");
        assert_eq!(wire(&Reply::lines(250, vec![])), "250 \r\n");
    }

    #[test]
    fn echoed_text_adds_no_line_and_long_lines_are_cut() {
        assert_eq!(
            wire(&Reply::echo(503, "x\r\n250 ok\0")),
            "503 x??250 ok?\r\n"
        );
        let long = wire(&Reply::echo(503, &"\u{fffd}".repeat(3000)));
        assert!(long.len() <= MAX_LINE + 2 && long.ends_with("\r\n"));
    }
}

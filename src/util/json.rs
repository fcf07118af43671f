//! Text as a string of JSON (RFC 8259).

use std::fmt::Write;

/// The text in quotes.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // What JSON forbids, and what steers a terminal.
            c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_forbids_is_escaped() {
        // RFC 8259 §7.
        assert_eq!(
            quoted("a\"b\\c\n\u{1b}\u{9b}é"),
            r#""a\"b\\c\u000a\u001b\u009bé""#
        );
    }
}

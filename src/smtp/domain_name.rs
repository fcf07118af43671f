//! Which text is a domain, in HELO, EHLO and behind the `@` (RFC 5321 §4.1.2, §4.1.3).
//!
//! More is let in than the RFC allows, because clients in the field need it: underscores anywhere
//! and hyphens anywhere but in front. Nothing else than letters, digits, `-`, `_`, `.` and, within
//! brackets, an address gets through, so a domain is always safe to print.

use crate::mail::literal;

/// The longest domain.
pub const MAX_DOMAIN: usize = 255;
const MAX_LABEL: usize = 63;

/// The domain as text, if `bytes` are one: a host name, or an address in brackets.
pub fn parse(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (literal::parse(text).is_some() || is_host_name(text)).then_some(text)
}

/// Whether `text` is a host name: dotted labels, no trailing dot.
pub fn is_host_name(text: &str) -> bool {
    let label = |label: &str| (1..=MAX_LABEL).contains(&label.len());
    text.len() <= MAX_DOMAIN
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_and_literals_pass_and_nothing_else() {
        let long = "a".repeat(63);
        let label = format!("{long}.example");
        for good in [
            "localhost",
            "mx.example.org",
            "1.2.3.4",
            "_x._y",
            "foo-",
            "foo.-bar",
            "[192.0.2.1]",
            "[IPv6:2001:db8::1]",
            "[2001:db8::1]",
            "[ipv6:192.0.2.1]",
            label.as_str(),
        ] {
            assert_eq!(parse(good.as_bytes()), Some(good));
        }
        let long = "a".repeat(64);
        let whole = ["a"; 129].join(".");
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a b",
            "a@b",
            "[",
            "[]",
            "[x]",
            "[192.0.2.1",
            "a]",
            "[192.0.2.1]]",
            "[fe80::1%lo]",
            "host ",
            "h\u{e9}",
            "a\rb",
            "a\0",
            &long,
            &whole,
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}

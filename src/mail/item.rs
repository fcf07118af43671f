//! Values of aliases, virtual entries, include files and .forward: lines of items.
//!
//! An item is a user, an address, a file, a pipe, an include or an error. What is none of these is
//! refused; nothing is ever guessed out of a part of it.

use std::fmt;
use std::path::PathBuf;

use crate::util::Line;

use super::{MailAddr, Refusal};

/// One item. The order is the one in which the items of a value are worked on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// A user, in lower case, perhaps with a sub-address.
    User(String),
    /// A file to append to.
    File(Line),
    /// A command to feed.
    Pipe(Line),
    /// A file with more items.
    Include(PathBuf),
    /// An address, to be judged by the rules.
    Address(MailAddr),
    /// A refusal: code and text.
    Error(u16, Line),
}

/// The line, or an item of it, cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadItem {
    pub text: String,
}

impl fmt::Display for BadItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What it is, and its text.
impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::User(user) => write!(f, "user {user}"),
            Item::File(path) => write!(f, "file {path}"),
            Item::Pipe(command) => write!(f, "pipe {command}"),
            Item::Include(path) => write!(f, "include {}", path.display()),
            Item::Address(address) => write!(f, "address {address}"),
            Item::Error(code, text) => write!(f, "error {code} {text}"),
        }
    }
}

impl Item {
    /// The refusal of an error item.
    pub fn refusal(code: u16, text: &Line) -> Refusal {
        Refusal::new(code, text)
    }

    /// Tells what an item is.
    pub fn classify(text: &str) -> Result<Item, BadItem> {
        let bad = |what: &str| BadItem {
            text: format!("\"{}\" is {what}", shorten(text)),
        };
        if text.len() >= ITEM_BYTES {
            return Err(bad("too long"));
        }
        let line = |text: &str| Line::new(text).map_err(|_| bad("not one line"));
        if let Some((code, message)) = error(text) {
            return Ok(Item::Error(code, line(message)?));
        }
        if let Some(path) = after_prefix(text, "include:").filter(|p| p.starts_with('/')) {
            return Ok(Item::Include(PathBuf::from(path)));
        }
        let unquoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        let pipe = unquoted
            .and_then(|t| t.strip_prefix('|'))
            .or_else(|| text.strip_prefix('|'));
        if let Some(command) = pipe {
            if command.trim().is_empty() {
                return Err(bad("a pipe without a command"));
            }
            return Ok(Item::Pipe(line(command)?));
        }
        if text.starts_with('/') && text.ends_with('/') {
            return Err(bad("a directory; only an action delivers to a maildir"));
        }
        if text.starts_with('/') {
            return Ok(Item::File(line(text)?));
        }
        // RFC 5321 §4.1.2: a path is an address in angle brackets.
        let text = match text.strip_prefix('<').and_then(|t| t.strip_suffix('>')) {
            Some(inside) if !inside.starts_with('<') => inside,
            _ => text,
        };
        if let Some((user, domain)) = text.rsplit_once('@') {
            return address(user, domain).ok_or_else(|| bad("no address"));
        }
        let is_user = !text.is_empty() && text.bytes().all(user_byte) && text.len() < USER_BYTES;
        if is_user {
            return Ok(Item::User(text.to_ascii_lowercase()));
        }
        Err(bad(&format!(
            "no user, address, file, pipe, include or error{}",
            meant(text)
        )))
    }

    /// The items of one line, in its order.
    pub fn list(line: &str) -> Result<Vec<Item>, BadItem> {
        split(line)?
            .iter()
            .map(|item| Item::classify(item))
            .collect()
    }
}

/// A line of this many bytes or more is refused.
pub const LINE_BYTES: usize = 64 * 1024;
/// An item of this many bytes or more is refused.
pub const ITEM_BYTES: usize = 1024;
/// A user name or local part of this many bytes or more is refused.
pub const USER_BYTES: usize = 256;

/// Cuts a line at its commas. Quotes protect commas and are kept; a backslash protects the byte
/// behind it and is not. An apostrophe in the middle of an item is an apostrophe, except in a
/// command, where the shell will take it for a quote as well.
pub fn split(line: &str) -> Result<Vec<String>, BadItem> {
    let bad = |text: &str| BadItem {
        text: text.to_owned(),
    };
    if line.len() >= LINE_BYTES {
        return Err(bad("the line is too long"));
    }
    let mut items = vec![String::new()];
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let Some(item) = items.last_mut() else { break };
        match c {
            '\\' => item.push(
                chars
                    .next()
                    .ok_or_else(|| bad("a backslash ends the line"))?,
            ),
            ',' if quote.is_none() => items.push(String::new()),
            '"' | '\'' => {
                let start = item.trim_start();
                let opens = c == '"' || start.is_empty() || start.starts_with('|');
                if quote == Some(c) {
                    quote = None;
                } else if quote.is_none() && opens {
                    quote = Some(c);
                }
                item.push(c);
            }
            _ => item.push(c),
        }
    }
    if quote.is_some() {
        return Err(bad("a quote is not closed"));
    }
    let trimmed = items.iter().map(|item| item.trim().to_owned());
    Ok(trimmed.filter(|item| !item.is_empty()).collect())
}

/// `error:` and `:error:`, followed by a reply of class 4 or 5.
fn error(text: &str) -> Option<(u16, &str)> {
    let reply = after_prefix(text, "error:")?;
    let (code, message) = reply.split_once(' ')?;
    let digits = code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit());
    let code: u16 = code
        .parse()
        .ok()
        .filter(|c| digits && (400..600).contains(c))?;
    message
        .starts_with(|c: char| c.is_ascii_alphanumeric())
        .then_some((code, message))
}

/// What follows a prefix, in any case, that may have a colon in front.
fn after_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let text = text.strip_prefix(':').unwrap_or(text);
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// What to write instead of what other mailers know.
fn meant(text: &str) -> &'static str {
    let lower = text.to_ascii_lowercase();
    let text = lower.trim_start_matches(['"', ':']);
    if text.starts_with("error:") {
        "; an error is written error:550 text"
    } else if text.starts_with("include:") {
        "; the path of an include is absolute"
    } else if text.starts_with("maildir:") || text.starts_with("~/") {
        "; only an action delivers to a maildir"
    } else if text.starts_with('/') {
        "; a path stands without quotes"
    } else {
        ""
    }
}

fn address(user: &str, domain: &str) -> Option<Item> {
    let user_ok = !user.is_empty() && user.len() < USER_BYTES && user.bytes().all(local_part_byte);
    let domain_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    let domain_ok = !domain.is_empty() && domain.len() < 256 && domain.bytes().all(domain_byte);
    if !user_ok || !domain_ok {
        return None;
    }
    MailAddr::new(user, domain).ok().map(Item::Address)
}

fn local_part_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%*/?|^{}`~&'+-=_.".contains(&byte)
}

fn user_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-+".contains(&byte)
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> String {
        Item::classify(text).map_or_else(|_| "bad".to_owned(), |item| item.to_string())
    }

    // aliases(5): what an expansion item can be.
    #[test]
    fn items_are_told_apart() {
        for (text, kind) in [
            ("bob", "user bob"),
            ("Bob+Tag", "user bob+tag"),
            ("1234", "user 1234"),
            ("..", "user .."),
            ("bob@x", "address bob@x"),
            ("Bob@X.org", "address Bob@X.org"),
            ("*@x.org", "address *@x.org"),
            ("o'brien@x.org", "address o'brien@x.org"),
            ("bob@-x", "address bob@-x"),
            ("|cmd a", "pipe cmd a"),
            ("| cmd", "pipe  cmd"),
            ("\"|cmd a, b\"", "pipe cmd a, b"),
            ("|\"cmd\"", "pipe \"cmd\""),
            ("/var/mail x", "file /var/mail x"),
            ("<bob@x.org>", "address bob@x.org"),
            ("<bob>", "user bob"),
            ("include:/x", "include /x"),
            (":INCLUDE:/x y", "include /x y"),
            ("error:550 gone", "error 550 gone"),
            (":Error:421 4.3.0 later", "error 421 4.3.0 later"),
        ] {
            assert_eq!(printed(text), kind, "{text}");
        }
        for bad in [
            "\"bob smith\"@x.org",
            "<bob@x.org",
            "<<bob@x.org>>",
            "Bob <bob@x.org>",
            "<>",
            "<|cmd>",
            "/home/bob/Maildir/",
            "/",
            "bob/x",
            "bob=x",
            "~/f",
            "maildir:/x",
            "\"/x\"",
            "b\u{f6}b",
            "bob#",
            "bob@x_y.org",
            "bob@[192.0.2.1]",
            "a@b@c",
            "bob@x.org # comment",
            "@x.org",
            "bob@",
            "|",
            "\"|\"",
            "include:x",
            "error: 550 x",
            "error:250 fine",
            "error:550  x",
            "error:5500 x",
            "",
        ] {
            assert_eq!(printed(bad), "bad", "{bad}");
        }
        assert_eq!(printed(&"x".repeat(256)), "bad");
        assert_eq!(printed(&format!("/{}", "x".repeat(1023))), "bad");
    }

    // aliases(5): items are separated by commas; quotes and backslashes protect them.
    #[test]
    fn lines_are_cut_at_commas() {
        let cut = |line: &str| split(line).unwrap().join(" ~ ");
        assert_eq!(cut("a, b ,c,, "), "a ~ b ~ c");
        assert_eq!(cut("\"|cmd a, b\", bob"), "\"|cmd a, b\" ~ bob");
        assert_eq!(cut("|cmd 'a, b', bob"), "|cmd 'a, b' ~ bob");
        assert_eq!(
            cut("o'brien@x.org, d'arc@x.org"),
            "o'brien@x.org ~ d'arc@x.org"
        );
        assert_eq!(
            cut("\\bob, error:550 no\\, never"),
            "bob ~ error:550 no, never"
        );
        for bad in ["\"a", "'a, b", "a\\", "|it's", &"x".repeat(LINE_BYTES)] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}

//! Format specifiers of smtpd.conf(5): `%{token}`, ranges and modifiers.
//!
//! [`expand`] cuts a text into what the administrator wrote and what the envelope put in, and
//! keeps them apart: a path ([`expand_path`]) must know which is which to stay below the
//! configured directory, a command ([`super::shell`]) so that the shell reads only the former.
//!
//! It differs from OpenBSD's smtpd in three places: a range and modifiers may be combined; the
//! characters `"` `\` `;` `<` `>` `(` `)`, blanks and control characters are replaced as well;
//! in a path a value cannot bring in a `/`.

use std::path::PathBuf;

use crate::mail::MailAddr;
use crate::util::sysexits::FAILURE;

use super::Failure;

/// Longest expanded text.
pub const TEXT_MAX: usize = 8192;

/// Longest token with range and modifiers.
const TOKEN_MAX: usize = 127;

/// What the tokens stand for.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// The reverse-path.
    pub sender: &'a MailAddr,
    /// The recipient as RCPT TO gave it.
    pub rcpt: &'a MailAddr,
    /// The recipient after expansion.
    pub dest: &'a MailAddr,
    /// The recipient user.
    pub username: &'a str,
    /// The recipient user's home.
    pub directory: &'a str,
    /// What a sub-address starts with.
    pub delimiter: char,
}

/// A piece of an expanded text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As the administrator (or the user, in a .forward) wrote it.
    Text(String),
    /// Out of the envelope.
    Value(String),
    /// The user's home.
    Home(String),
    /// `%{mda}`: the command a wrapper wraps.
    Mda,
}

/// Expands `template`. An unterminated `%{` leaves it unexpanded as a whole.
pub fn expand(template: &str, values: &Values<'_>) -> Result<Vec<Piece>, Failure> {
    let mut pieces = Vec::new();
    let mut rest = template;
    if let Some(below) = rest.strip_prefix("~/") {
        pieces.push(Piece::Home(values.directory.to_string()));
        pieces.push(Piece::Text("/".to_string()));
        rest = below;
    }
    while let Some(at) = rest.find('%') {
        let (before, here) = rest.split_at(at);
        text(&mut pieces, before);
        if let Some(after) = here.strip_prefix("%%") {
            text(&mut pieces, "%");
            rest = after;
        } else if let Some(inside) = here.strip_prefix("%{") {
            let Some((token, after)) = inside.split_once('}') else {
                return Ok(vec![Piece::Text(template.to_string())]);
            };
            pieces.push(specifier(token, values).ok_or_else(not_expanded)?);
            rest = after;
        } else {
            text(&mut pieces, "%");
            rest = &here[1..];
        }
    }
    text(&mut pieces, rest);
    let length: usize = pieces.iter().map(length).sum();
    if length >= TEXT_MAX {
        return Err(too_long());
    }
    Ok(pieces)
}

/// Expands a path. A value brings no `/` into it, and cannot make a part of it `.` or `..`.
pub fn expand_path(template: &str, values: &Values<'_>) -> Result<PathBuf, Failure> {
    let mut path = String::new();
    // Where in `path` the envelope's text lies.
    let mut foreign = Vec::new();
    for piece in expand(template, values)? {
        let start = path.len();
        match piece {
            Piece::Text(text) | Piece::Home(text) => path.push_str(&text),
            Piece::Value(text) => {
                path.push_str(&text.replace('/', ":"));
                foreign.push(start..path.len());
            }
            Piece::Mda => return Err(not_expanded()),
        }
    }
    let mut start = 0;
    for part in path.split('/') {
        let end = start + part.len();
        let touched = foreign.iter().any(|f| f.start <= end && start <= f.end);
        let escapes = matches!(part, "." | "..") || (start == 0 && part.is_empty());
        if touched && escapes {
            return Err(Failure::new(
                FAILURE,
                format!("path {path:?} would leave the directory it is configured for"),
            ));
        }
        start = end + 1;
    }
    Ok(PathBuf::from(path))
}

/// What a specifier stands for, if it stands for anything.
fn specifier(text: &str, values: &Values<'_>) -> Option<Piece> {
    if text.len() > TOKEN_MAX {
        return None;
    }
    let (head, modifiers) = match text.split_once(':') {
        // A colon inside the brackets belongs to the range.
        Some(_) if text.contains('[') => {
            let (head, tail) = text.split_at(text.find(']')? + 1);
            match tail.strip_prefix(':') {
                Some(modifiers) => (head, Some(modifiers)),
                None if tail.is_empty() => (head, None),
                None => return None,
            }
        }
        Some((head, modifiers)) => (head, Some(modifiers)),
        None => (text, None),
    };
    let (token, range) = match head.split_once('[') {
        Some((token, range)) => (token, Some(range.strip_suffix(']')?)),
        None => (head, None),
    };
    let token = token.to_ascii_lowercase();
    if token == "mda" {
        return (range.is_none() && modifiers.is_none()).then_some(Piece::Mda);
    }
    let mut value = lookup(&token, values)?;
    if let Some(range) = range {
        value = cut(&value, range)?;
    }
    let mut raw = false;
    for modifier in modifiers.into_iter().flat_map(|list| list.split('|')) {
        match modifier.to_ascii_lowercase().as_str() {
            "lowercase" => value = value.to_lowercase(),
            "uppercase" => value = value.to_uppercase(),
            "strip" => value = strip(&value, values.delimiter),
            "raw" => raw = true,
            _ => return None,
        }
    }
    if token == "user.directory" {
        return Some(Piece::Home(value));
    }
    Some(Piece::Value(if raw { value } else { sanitize(&value) }))
}

fn lookup(token: &str, values: &Values<'_>) -> Option<String> {
    let addr = |name: &str| match name {
        "sender" => Some(values.sender),
        "rcpt" => Some(values.rcpt),
        "dest" => Some(values.dest),
        _ => None,
    };
    match token {
        "user.username" => Some(values.username.to_lowercase()),
        "user.directory" => Some(values.directory.to_string()),
        "mbox.from" => Some(mbox_from(values.sender)),
        _ => match token.split_once('.') {
            None => Some(addr(token)?.to_string()),
            Some((name, "user")) => Some(addr(name)?.user().to_string()),
            Some((name, "domain")) => Some(addr(name)?.domain().to_string()),
            Some(_) => None,
        },
    }
}

/// The name in a mailbox's `From ` line.
pub fn mbox_from(sender: &MailAddr) -> String {
    if sender.is_null() {
        "MAILER-DAEMON".to_string()
    } else {
        sender.to_string()
    }
}

/// `[n]`, `[a:b]`, `[a:]`, `[:b]`: inclusive, from 0, negative from the end.
fn cut(value: &str, range: &str) -> Option<String> {
    let chars: Vec<char> = value.chars().collect();
    let len = i64::try_from(chars.len()).ok()?;
    let (begin, end) = match range.split_once(':') {
        None => {
            let at = bound(range)?;
            (at, at)
        }
        Some((begin, end)) => (
            if begin.is_empty() { 0 } else { bound(begin)? },
            if end.is_empty() { len } else { bound(end)? },
        ),
    };
    if chars.is_empty() {
        return Some(String::new());
    }
    let absolute = |at: i64| if at < 0 { at + len } else { at };
    let (begin, end) = (absolute(begin), absolute(end).min(len - 1));
    // As OpenSMTPD has it, "-1" as an end is the last but one.
    let end = match range.rsplit_once(':') {
        Some((_, text)) if text.starts_with('-') => end - 1,
        _ => end,
    };
    if begin < 0 || begin >= len || end < begin {
        return None;
    }
    let (begin, end) = (usize::try_from(begin).ok()?, usize::try_from(end).ok()?);
    Some(chars.get(begin..=end)?.iter().collect())
}

fn bound(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse::<i32>().ok().map(i64::from)
}

/// Removes the sub-address: from the first delimiter to the `@`, or to the end.
fn strip(value: &str, delimiter: char) -> String {
    let at = value.rfind('@').unwrap_or(value.len());
    let (local, domain) = value.split_at(at);
    let local = local.split(delimiter).next().unwrap_or(local);
    format!("{local}{domain}")
}

fn sanitize(value: &str) -> String {
    value
        .chars()
        .map(|c| match c {
            '!' | '#' | '$' | '%' | '&' | '\'' | '*' | '?' | '`' | '{' | '|' | '}' | '~' => ':',
            // No local part but a quoted one holds these; they mean something to a shell that a
            // command may start by itself.
            '"' | '\\' | ';' | '<' | '>' | '(' | ')' => ':',
            c if c.is_whitespace() || c.is_control() => ':',
            c => c,
        })
        .collect()
}

fn text(pieces: &mut Vec<Piece>, more: &str) {
    match pieces.last_mut() {
        _ if more.is_empty() => {}
        Some(Piece::Text(text)) => text.push_str(more),
        _ => pieces.push(Piece::Text(more.to_string())),
    }
}

fn length(piece: &Piece) -> usize {
    match piece {
        Piece::Text(text) | Piece::Value(text) | Piece::Home(text) => text.len(),
        Piece::Mda => 0,
    }
}

/// The failure of a text that is too long.
pub fn too_long() -> Failure {
    Failure::new(FAILURE, "mda command line too long")
}

/// The failure of a text with a specifier that says nothing.
pub fn not_expanded() -> Failure {
    Failure::new(FAILURE, "mda command line could not be expanded")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Mail {
        sender: MailAddr,
        rcpt: MailAddr,
        dest: MailAddr,
    }

    impl Mail {
        fn new(sender: &str, rcpt: &str, dest: &str) -> Mail {
            let addr = |text: &str| MailAddr::from_stored(text).unwrap();
            Mail {
                sender: addr(sender),
                rcpt: addr(rcpt),
                dest: addr(dest),
            }
        }

        fn values(&self) -> Values<'_> {
            Values {
                sender: &self.sender,
                rcpt: &self.rcpt,
                dest: &self.dest,
                username: "Bob",
                directory: "/home/b o b",
                delimiter: '+',
            }
        }

        fn expand(&self, template: &str) -> Option<String> {
            let pieces = expand(template, &self.values()).ok()?;
            pieces.into_iter().try_fold(String::new(), |all, piece| {
                Some(match piece {
                    Piece::Text(text) | Piece::Value(text) | Piece::Home(text) => all + &text,
                    Piece::Mda => return None,
                })
            })
        }
    }

    #[test]
    fn smtpd_conf_format_specifiers_the_manuals_examples_hold() {
        // smtpd.conf(5), FORMAT SPECIFIERS.
        let mail = Mail::new("@", "User+T?g@example.org", "User+Tag@Example.org");
        for (template, expected) in [
            ("%{rcpt}", "User+T:g@example.org"),
            ("%{rcpt:raw}", "User+T?g@example.org"),
            ("%{rcpt:lowercase|strip}", "user@example.org"),
            ("%{dest:lowercase}", "user+tag@example.org"),
            ("%{dest:uppercase}", "USER+TAG@EXAMPLE.ORG"),
            ("%{dest:strip}", "User@Example.org"),
            ("%{rcpt.domain[0]}", "e"),
            ("%{rcpt.domain[1]}", "x"),
            ("%{rcpt.domain[8:]}", "org"),
            ("%{rcpt.domain[-3:]}", "org"),
            ("%{rcpt.domain[0:6]}", "example"),
            ("%{rcpt.domain[0:-4]}", "example"),
            ("%{rcpt.domain[:6]}", "example"),
            ("%{rcpt.domain[0:99]}", "example.org"),
            ("%{rcpt.domain[0:2]:uppercase}", "EXA"),
            ("%{RCPT.User:LowerCase}", "user+t:g"),
            ("%{rcpt.user:strip}", "User"),
            ("100%%", "100%"),
            ("50% of %x", "50% of %x"),
            ("%{sender}|%{sender.user}|%{sender[3]}", "||"),
            ("%{mbox.from}", "MAILER-DAEMON"),
            ("%{user.username}", "bob"),
            ("%{user.directory}/x", "/home/b o b/x"),
            ("~/Mail", "/home/b o b/Mail"),
            ("x ~/Mail", "x ~/Mail"),
            ("%% and %{rcpt", "%% and %{rcpt"),
        ] {
            assert_eq!(
                mail.expand(template).as_deref(),
                Some(expected),
                "{template}"
            );
        }
    }

    #[test]
    fn a_sub_address_is_stripped_at_the_delimiter_of_the_configuration() {
        // smtpd.conf(5), smtp sub-addr-delim and the modifier strip.
        let addr = MailAddr::new("bob-a+b", "e-x.org").unwrap();
        let stripped = |delimiter| {
            let values = Values {
                sender: &addr,
                rcpt: &addr,
                dest: &addr,
                username: "bob",
                directory: "/",
                delimiter,
            };
            expand("%{rcpt:strip}", &values).unwrap()
        };
        assert_eq!(stripped('-'), [Piece::Value("bob@e-x.org".into())]);
        assert_eq!(stripped('+'), [Piece::Value("bob-a@e-x.org".into())]);
    }

    #[test]
    fn specifiers_that_say_nothing_fail() {
        let mail = Mail::new("a@b", "bob@example.org", "bob@example.org");
        for template in [
            "%{}",
            "%{extension}",
            "%{rcpt.tld}",
            "%{user}",
            "%{rcpt:reverse}",
            "%{rcpt:lowercase|}",
            "%{rcpt[11111111111]}",
            "%{rcpt.user[3]}",
            "%{rcpt.user[2:1]}",
            "%{rcpt.user[x]}",
            "%{rcpt.user[0:1]x}",
            "%{rcpt.user[0}",
            "%{rcpt.user[-9:]}",
            "%{mda:raw}",
        ] {
            assert_eq!(mail.expand(template), None, "{template}");
        }
        let long = format!("%{{rcpt:{}}}", "raw|".repeat(40));
        assert_eq!(mail.expand(&long), None);
        let values = mail.values();
        let error = expand(&"x".repeat(TEXT_MAX), &values).unwrap_err();
        assert_eq!(error.text, "mda command line too long");
    }

    #[test]
    fn no_value_leaves_the_directory_the_path_is_configured_for() {
        // RFC 5321 §4.1.2: `/` and `..` are good local parts. In a path they stay one component.
        for local in [
            "a/../../b",
            "/etc/x",
            "..",
            ".",
            "../..",
            "....//",
            "\u{2024}\u{2024}",
            "/",
            "+ext/../",
            "~",
        ] {
            let addr = MailAddr::new(local, "example.org").unwrap();
            let values = Values {
                sender: &addr,
                rcpt: &addr,
                dest: &addr,
                username: local,
                directory: "/home/bob",
                delimiter: '+',
            };
            for token in ["rcpt.user", "dest.user", "sender", "user.username"] {
                for modifier in ["", ":raw", ":lowercase", ":strip", ":uppercase|raw"] {
                    for template in ["/var/vmail/%{T}", "/var/vmail/%{T}/x", "%{T}", "box/.%{T}"] {
                        let template = template.replace('T', &format!("{token}{modifier}"));
                        if let Ok(path) = expand_path(&template, &values) {
                            let ours = template.split("%{").next().unwrap_or("");
                            assert!(path.to_string_lossy().starts_with(ours), "{path:?}");
                            assert!(
                                path.components()
                                    .all(|c| !matches!(c, std::path::Component::ParentDir)),
                                "{template}: {path:?}"
                            );
                            let depth = template.matches('/').count();
                            assert_eq!(path.to_string_lossy().matches('/').count(), depth);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_empty_value_does_not_make_a_relative_path_absolute() {
        let mail = Mail::new("@", "bob@example.org", "bob@example.org");
        assert!(expand_path("%{sender.user}/box", &mail.values()).is_err());
        let path = expand_path("/var/mail/%{sender.user}/box", &mail.values()).unwrap();
        assert_eq!(path, PathBuf::from("/var/mail//box"));
        let path = expand_path("../shared/%{rcpt.user}", &mail.values()).unwrap();
        assert_eq!(path, PathBuf::from("../shared/bob"));
    }
}

//! Format specifiers of smtpd.conf(5): `%{token}`, ranges and modifiers.
//!
//! [`expand`] cuts a text into what the administrator wrote and what the envelope put in, and
//! keeps them apart: a path ([`expand_path`]) must know which is which to stay below the
//! configured directory, a command (`mda::shell`) so that the shell reads only the former.
//! [`check`] says beforehand what could only fail.
//!
//! It differs from OpenBSD's smtpd in four places: a range and modifiers may be combined; the
//! characters `"` `\` `;` `<` `>` `(` `)`, blanks and control characters are replaced as well;
//! in a path a value cannot bring in a `/`; and no shell reads a path.

use std::fmt;
use std::path::PathBuf;

use crate::mail::MailAddr;

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

/// Why a text cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unexpanded {
    /// It would be too long.
    TooLong,
    /// A specifier says nothing.
    NoValue,
    /// A path would leave the directory that it is configured for.
    Escapes(String),
}

impl fmt::Display for Unexpanded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unexpanded::TooLong => f.write_str("mda command line too long"),
            Unexpanded::NoValue => f.write_str("mda command line could not be expanded"),
            Unexpanded::Escapes(path) => write!(
                f,
                "path {path:?} would leave the directory it is configured for"
            ),
        }
    }
}

/// Where a text stands: `%{mda}` means something in a wrapper only, and a command may have uses for
/// `%` of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The path of a maildir, or a destination of LMTP.
    Path,
    Command,
    /// `mda wrapper`.
    Wrapper,
}

/// What is wrong with a text, whatever the envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It can never be expanded.
    Fatal(String),
    /// It is not what it looks like.
    Odd(String),
}

/// Whether `template` can be expanded for some envelope, and means what it seems to.
pub fn check(template: &str, place: Use) -> Result<(), Fault> {
    if let (Use::Path, Some(why)) = (place, for_a_shell(template)) {
        return Err(Fault::Fatal(why));
    }
    let mut wraps = false;
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        let here = rest.split_at(at).1;
        if let Some(after) = here.strip_prefix("%%") {
            rest = after;
        } else if let Some(inside) = here.strip_prefix("%{") {
            let Some((text, after)) = inside.split_once('}') else {
                let start: String = here.chars().take(20).collect();
                return Err(Fault::Odd(format!(
                    "\"{start}\" has no \"}}\" behind it; nothing in this text will be replaced"
                )));
            };
            let fatal = |why: &str| Fault::Fatal(format!("\"%{{{text}}}\" cannot work: {why}"));
            let specifier = Specifier::parse(text).map_err(|why| fatal(&why))?;
            if specifier.range.is_some_and(Range::is_empty) {
                return Err(fatal("the range ends before it begins"));
            }
            if specifier.token == Token::Mda && place != Use::Wrapper {
                return Err(fatal("\"mda\" is for mda wrapper only"));
            }
            wraps |= specifier.token == Token::Mda;
            rest = after;
        } else {
            let letter = here.chars().nth(1).filter(char::is_ascii_alphabetic);
            if let (Use::Path, Some(letter)) = (place, letter) {
                let meant = match letter {
                    'u' => "; did you mean \"%{user.username}\"?",
                    'a' => "; did you mean \"%{dest.user}\"?",
                    'd' => "; did you mean \"%{dest.domain}\"?",
                    _ => "",
                };
                let text = format!("\"%{letter}\" is not replaced, it stands for itself{meant}");
                return Err(Fault::Odd(text));
            }
            rest = &here[1..];
        }
    }
    match place {
        Use::Wrapper if !wraps => Err(Fault::Odd(
            "it has no %{mda}: the command that it wraps will not be run".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// What a shell would replace, and ours does not: everybody's mail would go to one path.
fn for_a_shell(template: &str) -> Option<String> {
    let starts = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '{' | '(');
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, mark) in template.match_indices(['$', '`']) {
        let after = template.get(at + 1..).unwrap_or_default();
        if mark == "`" {
            return Some("a command in backquotes is not run: no shell reads this".to_owned());
        }
        if !after.starts_with(starts) {
            continue;
        }
        let name = after.strip_prefix('{').unwrap_or(after);
        let name = name.split(|c: char| !in_name(c)).next().unwrap_or_default();
        let meant = match name {
            "" => "",
            "DOMAIN" => "; did you mean \"%{rcpt.domain}\"?",
            "LOCAL" => "; did you mean \"%{rcpt.user}\"?",
            "USER" | "LOGNAME" => "; did you mean \"%{user.username}\"?",
            "HOME" => "; did you mean \"~/\" or \"%{user.directory}\"?",
            "SENDER" => "; did you mean \"%{sender}\"?",
            "RECIPIENT" => "; did you mean \"%{dest}\"?",
            "ORIGINAL_RECIPIENT" => "; did you mean \"%{rcpt}\"?",
            "EXTENSION" => "; a sub-address chooses a folder of a maildir by itself",
            _ => "; macros are replaced outside of quotes only",
        };
        return Some(format!(
            "\"${name}\" is not replaced: no shell reads this{meant}"
        ));
    }
    None
}

/// Expands `template`. An unterminated `%{` leaves it unexpanded as a whole.
pub fn expand(template: &str, values: &Values<'_>) -> Result<Vec<Piece>, Unexpanded> {
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
            let piece = Specifier::parse(token).ok().and_then(|s| s.expand(values));
            pieces.push(piece.ok_or(Unexpanded::NoValue)?);
            rest = after;
        } else {
            text(&mut pieces, "%");
            rest = &here[1..];
        }
    }
    text(&mut pieces, rest);
    let length: usize = pieces.iter().map(length).sum();
    if length >= TEXT_MAX {
        return Err(Unexpanded::TooLong);
    }
    Ok(pieces)
}

/// Expands a path. A value brings no `/` into it, and cannot make a part of it `.` or `..`.
pub fn expand_path(template: &str, values: &Values<'_>) -> Result<PathBuf, Unexpanded> {
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
            Piece::Mda => return Err(Unexpanded::NoValue),
        }
    }
    let mut start = 0;
    for part in path.split('/') {
        let end = start + part.len();
        let touched = foreign.iter().any(|f| f.start <= end && start <= f.end);
        let escapes = matches!(part, "." | "..") || (start == 0 && part.is_empty());
        if touched && escapes {
            return Err(Unexpanded::Escapes(path));
        }
        start = end + 1;
    }
    Ok(PathBuf::from(path))
}

/// A token with its range and modifiers.
#[derive(Debug)]
struct Specifier {
    token: Token,
    range: Option<Range>,
    modifiers: Vec<Modifier>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Address(Which, Part),
    Username,
    Directory,
    MboxFrom,
    Mda,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Sender,
    Rcpt,
    Dest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    User,
    Domain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Modifier {
    Lowercase,
    Uppercase,
    Strip,
    Raw,
}

/// `[n]`, `[a:b]`, `[a:]`, `[:b]`: inclusive, from 0, negative from the end.
#[derive(Clone, Copy, Debug)]
struct Range {
    begin: i64,
    /// `None`: to the end.
    end: Option<i64>,
}

impl Specifier {
    /// Reads what stands between the braces.
    fn parse(text: &str) -> Result<Specifier, String> {
        if text.len() > TOKEN_MAX {
            return Err("it is too long".to_owned());
        }
        let (head, modifiers) = match text.split_once(':') {
            // A colon inside the brackets belongs to the range.
            Some(_) if text.contains('[') => {
                let end = text.find(']').ok_or("the range has no \"]\"")? + 1;
                let (head, tail) = text.split_at(end);
                match tail.strip_prefix(':') {
                    Some(modifiers) => (head, Some(modifiers)),
                    None if tail.is_empty() => (head, None),
                    None => return Err(format!("\"{tail}\" follows the range")),
                }
            }
            Some((head, modifiers)) => (head, Some(modifiers)),
            None => (text, None),
        };
        let (token, range) = match head.split_once('[') {
            Some((token, range)) => {
                let inside = range.strip_suffix(']').ok_or("the range has no \"]\"")?;
                let range = Range::parse(inside).ok_or(format!("\"[{range}\" is no range"))?;
                (token, Some(range))
            }
            None => (head, None),
        };
        let modifiers = modifiers.map_or(Ok(Vec::new()), |list| {
            list.split('|').map(Modifier::parse).collect()
        });
        let specifier = Specifier {
            token: Token::parse(token)?,
            range,
            modifiers: modifiers?,
        };
        let bare = specifier.range.is_none() && specifier.modifiers.is_empty();
        match specifier.token {
            Token::Mda if !bare => {
                Err("\"mda\" is a command and takes no range or modifier: write %{mda}".to_owned())
            }
            _ => Ok(specifier),
        }
    }

    /// What it stands for; `None` if the range lies outside of the value.
    fn expand(&self, values: &Values<'_>) -> Option<Piece> {
        let address = |which| match which {
            Which::Sender => values.sender,
            Which::Rcpt => values.rcpt,
            Which::Dest => values.dest,
        };
        let mut value = match self.token {
            Token::Address(which, Part::Whole) => address(which).to_string(),
            Token::Address(which, Part::User) => address(which).user().to_owned(),
            Token::Address(which, Part::Domain) => address(which).domain().to_owned(),
            Token::Username => values.username.to_lowercase(),
            Token::Directory => values.directory.to_owned(),
            Token::MboxFrom => mbox_from(values.sender),
            Token::Mda => return Some(Piece::Mda),
        };
        if let Some(range) = self.range {
            value = range.cut(&value)?;
        }
        for modifier in &self.modifiers {
            match modifier {
                Modifier::Lowercase => value = value.to_lowercase(),
                Modifier::Uppercase => value = value.to_uppercase(),
                Modifier::Strip => value = strip(&value, values.delimiter),
                Modifier::Raw => {}
            }
        }
        let raw = self.modifiers.contains(&Modifier::Raw);
        Some(match self.token {
            Token::Directory => Piece::Home(value),
            _ if raw => Piece::Value(value),
            _ => Piece::Value(sanitize(&value)),
        })
    }
}

impl Token {
    fn parse(name: &str) -> Result<Token, String> {
        let lower = name.to_ascii_lowercase();
        let (head, part) = match lower.split_once('.') {
            Some((head, "user")) => (head, Part::User),
            Some((head, "domain")) => (head, Part::Domain),
            _ => (lower.as_str(), Part::Whole),
        };
        Ok(match (lower.as_str(), head) {
            ("user.username", _) => Token::Username,
            ("user.directory", _) => Token::Directory,
            ("mbox.from", _) => Token::MboxFrom,
            ("mda", _) => Token::Mda,
            (_, "sender") => Token::Address(Which::Sender, part),
            (_, "rcpt") => Token::Address(Which::Rcpt, part),
            (_, "dest") => Token::Address(Which::Dest, part),
            _ => return Err(unknown_token(name)),
        })
    }
}

/// What is wrong with a token, and what the administrator may have meant.
fn unknown_token(name: &str) -> String {
    let meant = match name.to_ascii_lowercase().as_str() {
        "local" | "localpart" | "lhs" | "dest.local" => "; did you mean \"%{dest.user}\"?",
        "rcpt.local" => "; did you mean \"%{rcpt.user}\"?",
        "domain" | "rhs" => "; did you mean \"%{dest.domain}\"?",
        "recipient" | "to" => "; did you mean \"%{rcpt}\" or \"%{dest}\"?",
        "from" => "; did you mean \"%{sender}\"?",
        "user" | "username" | "logname" => "; did you mean \"%{user.username}\"?",
        "home" | "directory" => "; did you mean \"%{user.directory}\"?",
        "extension" | "subaddress" | "tag" => {
            "; a sub-address is in $EXTENSION of a command, and chooses a folder of a maildir by \
             itself"
        }
        _ => "",
    };
    format!("there is no token \"{name}\"{meant}")
}

impl Modifier {
    fn parse(name: &str) -> Result<Modifier, String> {
        match name.to_ascii_lowercase().as_str() {
            "lowercase" => Ok(Modifier::Lowercase),
            "uppercase" => Ok(Modifier::Uppercase),
            "strip" => Ok(Modifier::Strip),
            "raw" => Ok(Modifier::Raw),
            _ => Err(format!("there is no modifier \"{name}\"")),
        }
    }
}

impl Range {
    fn parse(text: &str) -> Option<Range> {
        match text.split_once(':') {
            None => {
                let at = bound(text)?;
                // "[-1]" is one character; "[:-1]" ends before it.
                let end = if at < 0 { at + 1 } else { at };
                let end = (at != -1).then_some(end);
                Some(Range { begin: at, end })
            }
            Some((begin, end)) => Some(Range {
                begin: if begin.is_empty() { 0 } else { bound(begin)? },
                end: if end.is_empty() {
                    None
                } else {
                    Some(bound(end)?)
                },
            }),
        }
    }

    fn cut(self, value: &str) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        if chars.is_empty() {
            return Some(String::new());
        }
        let len = i64::try_from(chars.len()).ok()?;
        let begin = if self.begin < 0 {
            self.begin + len
        } else {
            self.begin
        };
        let end = match self.end {
            None => len - 1,
            // As OpenSMTPD has it, "-1" as an end is the last but one.
            Some(end) if end < 0 => end + len - 1,
            Some(end) => end.min(len - 1),
        };
        if begin < 0 || begin >= len || end < begin {
            return None;
        }
        let (begin, end) = (usize::try_from(begin).ok()?, usize::try_from(end).ok()?);
        Some(chars.get(begin..=end)?.iter().collect())
    }

    /// Whether no value is long enough for it.
    fn is_empty(self) -> bool {
        self.end.is_some_and(|end| match (self.begin < 0, end < 0) {
            (false, false) => end < self.begin,
            (true, true) => end <= self.begin,
            _ => false,
        })
    }
}

fn bound(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse::<i32>().ok().map(i64::from)
}

/// The name in a mailbox's `From ` line.
pub fn mbox_from(sender: &MailAddr) -> String {
    if sender.is_null() {
        "MAILER-DAEMON".to_string()
    } else {
        sender.to_string()
    }
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

#[cfg(test)]
mod tests;

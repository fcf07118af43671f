//! `from A rcpt B src IP …`: a session and a recipient in words, for smtpctl(8)'s `explain` and
//! smtpd(8)'s `-E`.
//!
//! Each keyword stands at most once, in any order, and may be abbreviated as long as it is
//! unambiguous among those that are left.

use std::net::IpAddr;

use crate::mail::{Peer, Supposed};
use crate::util::Line;

/// What could stand where the words stopped making sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The words so far, keywords in full.
    pub said: Vec<String>,
    /// What could follow.
    pub possible: Vec<&'static str>,
}

/// Keywords and the arguments they take.
const KEYWORDS: &[(&str, Option<&str>)] = &[
    ("from", Some("<str>")),
    ("rcpt", Some("<str>")),
    ("src", Some("<addr>")),
    ("rdns", Some("<str>")),
    ("helo", Some("<str>")),
    ("auth", Some("<str>")),
    ("tag", Some("<str>")),
    ("tls", None),
];

/// Reads what the words suppose; the error says where they stop to make sense.
pub fn parse(words: &[String]) -> Result<Supposed, Misfit> {
    let mut supposed = Supposed::default();
    let mut left: Vec<_> = KEYWORDS.to_vec();
    let mut said = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(at) = position(&left, word) else {
            let possible = left.iter().map(|(keyword, _)| *keyword).collect();
            return Err(Misfit { said, possible });
        };
        let (keyword, argument) = left.remove(at);
        said.push(keyword.to_owned());
        let Some(argument) = argument else {
            supposed.tls = true;
            continue;
        };
        let value = words.next();
        if value.is_none_or(|value| set(&mut supposed, keyword, value).is_none()) {
            let possible = vec![argument];
            return Err(Misfit { said, possible });
        }
        said.extend(value.cloned());
    }
    Ok(supposed)
}

/// The words of `-E` arguments: cut at blanks and at the first `=` of each, but not inside double
/// quotes, which stay.
pub fn words(arguments: &[String]) -> Vec<String> {
    let mut words = Vec::new();
    for argument in arguments {
        let mut quoted = false;
        let pieces = argument.split(|c: char| {
            quoted ^= c == '"';
            !quoted && c.is_ascii_whitespace()
        });
        for piece in pieces.filter(|piece| !piece.is_empty()) {
            let pair = piece.split_once('=').filter(|(keyword, _)| {
                KEYWORDS.iter().any(|(known, _)| known.starts_with(keyword)) && !keyword.is_empty()
            });
            match pair {
                Some((keyword, value)) => words.extend([keyword.to_owned(), value.to_owned()]),
                None => words.push(piece.to_owned()),
            }
        }
    }
    words
}

fn position(left: &[(&str, Option<&str>)], word: &str) -> Option<usize> {
    let exact = left.iter().position(|(keyword, _)| *keyword == word);
    if exact.is_some() || word.is_empty() {
        return exact;
    }
    let mut begun = (0..left.len()).filter(|at| left[*at].0.starts_with(word));
    match (begun.next(), begun.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

fn set(supposed: &mut Supposed, keyword: &str, value: &str) -> Option<()> {
    if keyword == "src" {
        supposed.peer = Some(peer(value)?);
        return Some(());
    }
    let line = Line::new(value).ok()?;
    let slot = match keyword {
        "from" => &mut supposed.sender,
        "rcpt" => &mut supposed.rcpt,
        "rdns" => &mut supposed.rdns,
        "helo" => &mut supposed.helo,
        "auth" => &mut supposed.username,
        _ => &mut supposed.tag,
    };
    *slot = Some(line);
    Some(())
}

/// `local`, or an address, an IPv6 one with or without brackets.
fn peer(text: &str) -> Option<Peer> {
    match text.parse::<IpAddr>() {
        Ok(addr) => Some(Peer::inet(addr)),
        Err(_) => Peer::parse(text).or_else(|| Peer::parse(&format!("[{text}]"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Supposed, Misfit> {
        parse(&words(&[line.to_owned()]))
    }

    // smtpctl(8), explain: keywords in any order, abbreviated, each once.
    #[test]
    fn facts_are_read_in_any_order() {
        let line = |text: &str| Some(Line::new(text).unwrap());
        let all = Supposed {
            sender: line("<>"),
            rcpt: line("bob@example.org"),
            peer: Peer::parse("[2001:db8::1]"),
            rdns: line("a.example.net"),
            helo: line("b"),
            username: line("carol"),
            tag: line("web"),
            tls: true,
        };
        for text in [
            "from <> rcpt bob@example.org src 2001:db8::1 rdns a.example.net helo b auth carol \
             tag web tls",
            "tl ta web a carol h b rd a.example.net s [2001:db8::1] rc bob@example.org f <>",
            "from=<> rcpt=bob@example.org src=2001:db8::1 rdns=a.example.net helo=b auth=carol \
             tag=web tls",
        ] {
            assert_eq!(read(text).unwrap(), all, "{text}");
        }
        assert_eq!(read("").unwrap(), Supposed::default());
        assert_eq!(read("src local").unwrap().peer, Some(Peer::Local));
        assert_eq!(
            read("src fe80::1%lo").unwrap().peer,
            Peer::parse("[fe80::1%lo]")
        );
        let bounce = read("rcpt SRS0=x=y=d=u@e.org").unwrap();
        assert_eq!(bounce.rcpt, line("SRS0=x=y=d=u@e.org"));
        let quoted = words(&["rcpt=\"a b\"@c".to_owned(), "tls".to_owned()]);
        assert_eq!(quoted, ["rcpt", "\"a b\"@c", "tls"]);
    }

    #[test]
    fn what_makes_no_sense_is_answered_with_what_would() {
        let misfit = read("from a r b").unwrap_err();
        assert_eq!(misfit.said, ["from", "a"]);
        let rest = ["rcpt", "src", "rdns", "helo", "auth", "tag", "tls"];
        assert_eq!(misfit.possible, rest);
        assert_eq!(read("src").unwrap_err().possible, ["<addr>"]);
        assert_eq!(read("src host").unwrap_err().possible, ["<addr>"]);
        assert_eq!(read("tls tls").unwrap_err().said, ["tls"]);
        assert_eq!(parse(&[String::new()]).unwrap_err().possible.len(), 8);
    }
}

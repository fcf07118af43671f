//! Completes the addresses of To, Cc and From that lack a domain (RFC 6409 §8.1).
//!
//! The value may be folded; its blanks, comments and order stay as they are. What cannot be
//! understood (quotes, comments or brackets that never close) is left alone: completing is a
//! courtesy, not a check.

use std::ops::Range;

/// The field's value with `@domain` added to each address without a domain.
pub fn complete(value: &[u8], domain: &str) -> Vec<u8> {
    let mut completed = Vec::with_capacity(value.len() + domain.len() + 1);
    let mut group = Group::Outside;
    for (number, piece) in split(value).into_iter().enumerate() {
        if number > 0 {
            completed.push(b',');
        }
        let (label, member, tail) = group.take_apart(piece);
        completed.extend_from_slice(label);
        match insertion(member) {
            Some(at) => {
                let (head, rest) = member.split_at(at);
                completed.extend_from_slice(head);
                completed.push(b'@');
                completed.extend_from_slice(domain.as_bytes());
                completed.extend_from_slice(rest);
            }
            None => completed.extend_from_slice(member),
        }
        completed.extend_from_slice(tail);
    }
    completed
}

/// The field's value with `address` in place of each one in it (`senders … masquerade`). Names,
/// comments and order stay; what is not understood is left alone, and groups are.
pub fn replace(value: &[u8], address: &str) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(value.len() + address.len());
    let mut group = Group::Outside;
    for (number, piece) in split(value).into_iter().enumerate() {
        if number > 0 {
            replaced.push(b',');
        }
        let before = group;
        let (label, _, _) = group.take_apart(piece);
        let of_group = before == Group::Inside || !label.is_empty();
        match place_of_address(piece).filter(|_| !of_group) {
            Some(place) => {
                replaced.extend_from_slice(piece.get(..place.start).unwrap_or_default());
                replaced.extend_from_slice(address.as_bytes());
                replaced.extend_from_slice(piece.get(place.end..).unwrap_or_default());
            }
            None => replaced.extend_from_slice(piece),
        }
    }
    replaced
}

/// Where the address of a mailbox stands: within its brackets, or else its last word.
fn place_of_address(mailbox: &[u8]) -> Option<Range<usize>> {
    let (mut bracket_start, mut bracket) = (None, None);
    let mut word: Option<Range<usize>> = None;
    let mut in_word = false;
    let mut last = Within::Plain;
    for (at, byte, place) in places(mailbox) {
        match (byte, place) {
            (b'<', Within::Bracket) => bracket_start = Some(at + 1),
            (b'>', Within::Plain) => bracket = bracket_start.map(|start| start..at),
            (b')', Within::Plain) => in_word = false,
            (_, Within::Plain) if byte.is_ascii_whitespace() => in_word = false,
            (_, Within::Plain | Within::Quote) => {
                let start = word
                    .as_ref()
                    .filter(|_| in_word)
                    .map_or(at, |word| word.start);
                word = Some(start..at + 1);
                in_word = true;
            }
            _ => in_word = false,
        }
        last = place;
    }
    match (last, bracket_start) {
        (Within::Plain, None) => word,
        (Within::Plain, Some(_)) => bracket,
        _ => None,
    }
}

/// Whether the reading is inside `name: member, member;` (RFC 5322 §3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Outside,
    Inside,
}

impl Group {
    /// A piece between commas as the group's label with its colon, a mailbox, and what the
    /// closing semicolon starts.
    fn take_apart<'a>(&mut self, piece: &'a [u8]) -> (&'a [u8], &'a [u8], &'a [u8]) {
        let (mut colon, mut semicolon) = (None, None);
        for (at, byte, place) in places(piece) {
            match (byte, place) {
                (b':', Within::Plain) if *self == Group::Outside => {
                    *self = Group::Inside;
                    colon = Some(at + 1);
                }
                (b';', Within::Plain) if *self == Group::Inside => {
                    *self = Group::Outside;
                    semicolon = semicolon.or(Some(at));
                }
                _ => {}
            }
        }
        let end = semicolon.unwrap_or(piece.len());
        let (rest, tail) = piece.split_at(end);
        let (label, member) = rest.split_at(colon.unwrap_or(0).min(end));
        (label, member, tail)
    }
}

/// Where in a mailbox the domain goes; `None` if it has one, or is empty or not understood.
fn insertion(mailbox: &[u8]) -> Option<usize> {
    let mut after_bracket = None;
    let mut bracket_end = None;
    let mut after_word = None;
    let mut last = Within::Plain;
    for (at, byte, place) in places(mailbox) {
        last = place;
        let blank = byte.is_ascii_whitespace();
        match (byte, place) {
            (b'@', Within::Plain | Within::Bracket) => return None,
            (b'<', Within::Bracket) => after_bracket = Some(None),
            (b'>', Within::Plain) if after_bracket.is_some() => bracket_end = after_bracket,
            (_, Within::Bracket) if !blank => after_bracket = Some(Some(at + 1)),
            // The mark that closes a comment is told as plain, and is not part of a word.
            (b')', Within::Plain) => {}
            (_, Within::Plain | Within::Quote) if !blank => after_word = Some(at + 1),
            _ => {}
        }
    }
    match (last, after_bracket) {
        (Within::Plain, None) => after_word,
        (Within::Plain, Some(_)) => bracket_end.flatten(),
        _ => None,
    }
}

/// Pieces between commas that stand outside quotes and comments.
fn split(value: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (at, byte, place) in places(value) {
        if byte == b',' && matches!(place, Within::Plain | Within::Bracket) {
            pieces.push(value.get(start..at).unwrap_or_default());
            start = at + 1;
        }
    }
    pieces.push(value.get(start..).unwrap_or_default());
    pieces
}

/// What surrounds a byte: the state behind it, so that a mark that opens something is already
/// inside and one that closes is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    Plain,
    Quote,
    Comment,
    Bracket,
}

/// Every byte with its index and place. A backslash escapes within quotes and comments
/// (RFC 5322 §3.2.1); comments nest.
fn places(bytes: &[u8]) -> impl Iterator<Item = (usize, u8, Within)> {
    let (mut quote, mut comment, mut bracket, mut escaped) = (false, 0_usize, false, false);
    bytes.iter().enumerate().map(move |(at, &byte)| {
        let was_escaped = std::mem::replace(&mut escaped, false);
        match byte {
            _ if was_escaped => {}
            b'\\' => escaped = quote || comment > 0,
            b'"' if comment == 0 => quote = !quote,
            b'(' if !quote => comment += 1,
            b')' if !quote => comment = comment.saturating_sub(1),
            b'<' if !quote && comment == 0 => bracket = true,
            b'>' if !quote && comment == 0 => bracket = false,
            // A bracket ends with its piece at the latest.
            b',' if !quote && comment == 0 => bracket = false,
            _ => {}
        }
        let place = match (comment > 0, quote, bracket) {
            (true, ..) => Within::Comment,
            (_, true, _) => Within::Quote,
            (_, _, true) => Within::Bracket,
            _ => Within::Plain,
        };
        (at, byte, place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_a_domain_get_one() {
        for (value, want) in [
            ("bob", "bob@mx.example.org"),
            (" bob\r", " bob@mx.example.org\r"),
            ("Bob Smith", "Bob Smith@mx.example.org"),
            ("\"Bob, S\" <bob>", "\"Bob, S\" <bob@mx.example.org>"),
            ("Bob <bob >", "Bob <bob@mx.example.org >"),
            ("bob (note)", "bob@mx.example.org (note)"),
            (
                "bob (a (nested) \\) note) ",
                "bob@mx.example.org (a (nested) \\) note) ",
            ),
            ("(note) bob", "(note) bob@mx.example.org"),
            ("undisclosed-recipients:;", "undisclosed-recipients:;"),
            (
                "friends: a, b;, c",
                "friends: a@mx.example.org, b@mx.example.org;, c@mx.example.org",
            ),
            ("friends: c@x, d;", "friends: c@x, d@mx.example.org;"),
            ("a, b@x,\n\tc", "a@mx.example.org, b@x,\n\tc@mx.example.org"),
            ("a,,", "a@mx.example.org,,"),
            ("bob@example.com", "bob@example.com"),
            ("\"a@b\" <bob>", "\"a@b\" <bob@mx.example.org>"),
            ("(a@b) bob", "(a@b) bob@mx.example.org"),
            ("\"quoted\"", "\"quoted\"@mx.example.org"),
            ("\"a \\\" b\" <bob>", "\"a \\\" b\" <bob@mx.example.org>"),
            ("<>", "<>"),
            ("Bob <>", "Bob <>"),
            ("Bob < >", "Bob < >"),
            ("", ""),
            ("  ", "  "),
            ("\"bob", "\"bob"),
            ("bob (x", "bob (x"),
            ("<bob", "<bob"),
            ("<@a,@b:c@d>", "<@a,@b:c@d>"),
        ] {
            let completed = complete(value.as_bytes(), "mx.example.org");
            assert_eq!(String::from_utf8(completed).unwrap(), want, "{value:?}");
        }
    }

    // smtpd.conf(5), senders … masquerade.
    #[test]
    fn addresses_are_replaced_and_nothing_else() {
        for (value, want) in [
            ("bob", "a@b"),
            (" Bob <bob@x>\r", " Bob <a@b>\r"),
            ("\"Bob, S\" <bob>", "\"Bob, S\" <a@b>"),
            ("bob@x (Bob)", "a@b (Bob)"),
            ("(Bob) bob@x", "(Bob) a@b"),
            ("\"b o b\"@x", "a@b"),
            ("Bob Smith", "Bob a@b"),
            ("bob@x, Ann <ann@y>", "a@b, Ann <a@b>"),
            ("bob@x,\n\tann@y", "a@b,\n\ta@b"),
            ("Bob <>", "Bob <a@b>"),
            ("friends: a@x, b@y;", "friends: a@x, b@y;"),
            ("friends: a@x;, c@z", "friends: a@x;, a@b"),
            ("\"bob", "\"bob"),
            ("<bob", "<bob"),
            ("", ""),
            (" ", " "),
        ] {
            let replaced = replace(value.as_bytes(), "a@b");
            assert_eq!(String::from_utf8(replaced).unwrap(), want, "{value:?}");
        }
    }

    #[test]
    fn any_three_marks_are_survived_and_only_added_to() {
        // Small cases, all of them: the domain is the only thing that is ever put in.
        let marks = b"a ,:;<>()\"\\@\n";
        for a in marks {
            for b in marks {
                for c in marks {
                    for d in marks {
                        let value = [*a, *b, *c, *d];
                        replace(&value, "D");
                        let completed = String::from_utf8(complete(&value, "D")).unwrap();
                        assert_eq!(completed.replace("@D", "").as_bytes(), value);
                    }
                }
            }
        }
    }
}

//! The text of a file table, as table(5) describes it: one entry per line, a list or a mapping.
//!
//! Entries borrow from the text; only a value that goes on over several lines is put together. The
//! reader is lazy, so that a table of a million lines costs one pass.

use std::borrow::Cow;

/// What the entries of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Keys alone.
    List,
    /// Keys with values.
    Map,
}

/// A line of a table: a key, and a value if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'t> {
    /// The key, as written.
    pub key: &'t str,
    /// The value of a mapping; empty in a list.
    pub value: Cow<'t, str>,
    /// Its line, from 1.
    pub line: u32,
    /// Whether a blank stands in front of the colon behind the key, as in `name : value`.
    pub spaced_colon: bool,
}

/// A line that is no entry of this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadEntry<'t> {
    /// The line, from 1.
    pub line: u32,
    /// What is wrong with it.
    pub text: &'static str,
    /// The key, where nothing is wrong but that the value is not UTF-8: who asks for it is to hear
    /// that there is a value which cannot be read.
    pub key: Option<&'t str>,
}

/// Said of an entry in the characters of another time.
const NOT_TEXT: &str = "invalid map entry: not UTF-8 text";

impl BadEntry<'_> {
    /// Whether the table is read without it: nothing that is looked up here is other than UTF-8,
    /// so that such a key is never asked for.
    pub fn is_left_out(&self) -> bool {
        self.text == NOT_TEXT && self.key.is_none()
    }
}

/// Reads a table's text entry by entry.
pub struct Entries<'t> {
    rest: &'t [u8],
    line: u32,
    shape: Option<Shape>,
}

impl<'t> Entries<'t> {
    /// Reads `text`. A known shape stays; otherwise the first entry, or `# @list`, decides.
    pub fn new(text: &'t [u8], shape: Option<Shape>) -> Entries<'t> {
        Entries {
            rest: text,
            line: 0,
            shape,
        }
    }

    /// The shape, once an entry or `# @list` has decided it.
    pub fn shape(&self) -> Option<Shape> {
        self.shape
    }

    fn next_line(&mut self) -> Option<&'t [u8]> {
        let (line, rest) = self.peek_line()?;
        self.rest = rest;
        self.line = self.line.saturating_add(1);
        Some(line)
    }

    /// The next line, and what follows it.
    fn peek_line(&self) -> Option<(&'t [u8], &'t [u8])> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        match end {
            Some(end) => Some((self.rest.get(..end)?, self.rest.get(end + 1..)?)),
            None => Some((self.rest, &[])),
        }
    }

    /// The text of a trimmed line, without its comment; it is owned if something in its place
    /// stands for what is not UTF-8.
    fn text(&self, line: &'t [u8]) -> Result<Cow<'t, str>, BadEntry<'t>> {
        // A comment may be in whatever characters its writer's editor has.
        let bare = without_comment(line);
        let text = match String::from_utf8_lossy(bare) {
            Cow::Borrowed(text) if bare.len() < line.len() => Cow::Borrowed(text.trim_end()),
            text => text,
        };
        if text.contains('\0') || text.contains('\r') {
            return Err(BadEntry {
                line: self.line,
                text: "invalid map entry: control characters",
                key: None,
            });
        }
        Ok(text)
    }

    /// What an entry's value goes on with: lines that start with a blank, behind a comma, behind
    /// the colon of a key, or with a comma in front. The entry itself starts its line, so that in
    /// a text that is indented as a whole every line stays an entry. `None`: one is not UTF-8.
    fn continuation(&mut self, first: &str) -> Result<Option<String>, BadEntry<'t>> {
        let mut more = String::new();
        let mut is_text = true;
        let key = first.strip_suffix(':').unwrap_or(" ");
        let mut open = first.ends_with(',') || !key.contains([' ', '\t', ':']);
        while let Some((line, _)) = self.peek_line() {
            let piece = line.trim_ascii();
            let indented = line
                .first()
                .is_some_and(|byte| matches!(byte, b' ' | b'\t'));
            if !indented || piece.is_empty() || !(open || piece.starts_with(b",")) {
                break;
            }
            self.next_line();
            if piece.starts_with(b"#") {
                continue;
            }
            let piece = self.text(piece)?;
            more.push(' ');
            more.push_str(&piece);
            open = piece.ends_with(',');
            is_text &= matches!(piece, Cow::Borrowed(_));
        }
        Ok(is_text.then_some(more))
    }

    fn entry(&mut self, line: &'t [u8], starts_line: bool) -> Result<Entry<'t>, BadEntry<'t>> {
        let number = self.line;
        let bad = |text| BadEntry {
            line: number,
            text,
            key: None,
        };
        let text = self.text(line)?;
        if text.is_empty() {
            return Err(bad("invalid map entry: no key"));
        }
        let more = if starts_line && self.shape != Some(Shape::List) {
            self.continuation(&text)?
        } else {
            Some(String::new())
        };
        // What an entry goes on with is a part of it.
        let (Cow::Borrowed(text), Some(more)) = (text, more) else {
            let key = self.key_alone(line);
            return Err(BadEntry {
                key,
                ..bad(NOT_TEXT)
            });
        };
        let (key, value) = first_field(text).ok_or_else(|| bad("invalid map entry: no \"]\""))?;
        // A value never starts with a colon and a blank: the key had a blank behind it.
        let (value, spaced_colon) = match value.strip_prefix([':']) {
            Some(rest) if rest.starts_with([' ', '\t']) => {
                (rest.trim_start_matches([' ', '\t']), true)
            }
            _ => (value, false),
        };
        let value = match more.as_str() {
            "" => Cow::Borrowed(value),
            more => Cow::Owned(format!("{value}{more}").trim_start().to_owned()),
        };
        let shape = *self.shape.get_or_insert(match value.as_ref() {
            "" => Shape::List,
            _ => Shape::Map,
        });
        match shape {
            Shape::List => Ok(Entry {
                key: text,
                value: Cow::Borrowed(""),
                line: number,
                spaced_colon: false,
            }),
            Shape::Map if key.is_empty() => Err(bad("invalid map entry: no key")),
            Shape::Map if value.is_empty() => Err(bad(
                "invalid map entry: no value behind the key (a list that starts with a line of two \
                 words, or with an IPv6 address, needs \"# @list\" first)",
            )),
            Shape::Map => Ok(Entry {
                key,
                value,
                line: number,
                spaced_colon,
            }),
        }
    }

    /// The key of an entry that is not UTF-8, where it is the value that is not. Such an entry
    /// decides the shape like another.
    fn key_alone(&mut self, line: &'t [u8]) -> Option<&'t str> {
        let start = line.utf8_chunks().next()?.valid();
        let (key, _) = first_field(start)?;
        let is_whole = !key.is_empty() && key.len() < start.len();
        let is_key = is_whole && *self.shape.get_or_insert(Shape::Map) == Shape::Map;
        is_key.then_some(key)
    }
}

impl<'t> Iterator for Entries<'t> {
    type Item = Result<Entry<'t>, BadEntry<'t>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let whole = self.next_line()?;
            let line = whole.trim_ascii();
            match line.first() {
                None => continue,
                Some(b'#') => {
                    let comment = line.get(1..).unwrap_or_default().trim_ascii();
                    if self.shape.is_none() && comment == b"@list" {
                        self.shape = Some(Shape::List);
                    }
                }
                Some(first) => return Some(self.entry(line, whole.first() == Some(first))),
            }
        }
    }
}

/// table(5): a comment starts with a hash mark and extends to the end of the line. Behind an entry
/// it needs a blank in front, and inside double quotes a hash mark is itself.
fn without_comment(line: &[u8]) -> &[u8] {
    if !line.contains(&b'#') {
        return line;
    }
    let mut quoted = false;
    let mut before = b' ';
    let mut first_mark = None;
    for (at, &byte) in line.iter().enumerate() {
        if byte == b'"' && before != b'\\' {
            quoted = !quoted;
        }
        if byte == b'#' && matches!(before, b' ' | b'\t') {
            first_mark.get_or_insert(at);
            if !quoted {
                return line.get(..at).unwrap_or(line);
            }
        }
        before = byte;
    }
    match first_mark {
        // A quote that is never closed protects nothing.
        Some(at) if quoted => line.get(..at).unwrap_or(line),
        _ => line,
    }
}

/// The field up to the first blank or colon (up to the bracket when it starts with one), and what
/// follows without that one separator and blanks. `None`: a bracket without its partner.
fn first_field(text: &str) -> Option<(&str, &str)> {
    let end = if text.starts_with('[') {
        text.find(']')? + 1
    } else {
        text.find([' ', '\t', ':']).unwrap_or(text.len())
    };
    let (key, rest) = text.split_at_checked(end)?;
    let mut rest = rest.chars();
    rest.next();
    Some((key, rest.as_str().trim_start_matches([' ', '\t'])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::dice::Dice;

    fn one(text: &str, shape: Option<Shape>) -> Result<(&str, String), BadEntry<'_>> {
        let entry = Entries::new(text.as_bytes(), shape).next().unwrap()?;
        Ok((entry.key, entry.value.into_owned()))
    }

    fn pair<'t>(key: &'t str, value: &str) -> Result<(&'t str, String), BadEntry<'t>> {
        Ok((key, value.to_owned()))
    }

    // table(5): a value goes on in the next line, as aliases of sendmail and Postfix do.
    #[test]
    fn a_value_goes_on_in_indented_lines_behind_a_comma() {
        let all = |text: &str| -> String {
            let entries = Entries::new(text.as_bytes(), None).map(|entry| match entry {
                Ok(entry) => format!("{}:{}={}", entry.line, entry.key, entry.value),
                Err(bad) => format!("{}:bad", bad.line),
            });
            entries.collect::<Vec<_>>().join("; ")
        };
        for (text, expected) in [
            ("a: b,\n\tc\nd: e\n", "1:a=b, c; 3:d=e"),
            ("a: b, # x\n # y\n c,\n\n d\n", "1:a=b, c,; 5:bad"),
            ("a: b\n , c\n", "1:a=b , c"),
            ("a:\n  b,\n  c # x\n", "1:a=b, c"),
            ("a: b\n c d\n", "1:a=b; 2:c=d"),
            ("a: b,\nc: d\n", "1:a=b,; 2:c=d"),
            // Indented as a whole: every line is an entry.
            ("  a: b,\n  c: d,\n", "1:a=b,; 2:c=d,"),
        ] {
            assert_eq!(all(text), expected, "{text:?}");
        }
        assert_eq!(all("# @list\na,\n b\n"), "2:a,=; 3:b=");
    }

    // table(5): "key: value" and "key value" are the same.
    #[test]
    fn a_mapping_splits_at_the_first_blank_or_colon() {
        for (line, key, value) in [
            ("key: value", "key", "value"),
            ("key value", "key", "value"),
            ("key\tvalue", "key", "value"),
            ("  key:value \r\n", "key", "value"),
            ("key : value", "key", "value"),
            ("key\t:\tvalue", "key", "value"),
            ("key :value", "key", ":value"),
            ("key :: value", "key", ":: value"),
            ("joe:1000:100:/home/joe", "joe", "1000:100:/home/joe"),
            ("user :include:/x", "user", ":include:/x"),
            ("[::1] name", "[::1]", "name"),
            ("2001:db8::/32", "2001", "db8::/32"),
        ] {
            assert_eq!(one(line, None), pair(key, value), "{line}");
        }
        assert_eq!(one("key", Some(Shape::Map)).unwrap_err().line, 1);
        assert_eq!(one(": x", None).unwrap_err().line, 1);
        assert_eq!(one("[::1", None).unwrap_err().line, 1);
        // A vertical tab is no blank in front of an entry, and nothing in front of a comment.
        for shape in [None, Some(Shape::List), Some(Shape::Map)] {
            assert_eq!(one("\u{b}  # x", shape).unwrap_err().line, 1);
        }
    }

    // table(5): comments can be put anywhere in the file using a hash mark.
    #[test]
    fn comments_reach_to_the_end_of_the_line() {
        for (line, value) in [
            ("k v # note", "v"),
            ("k v\t# it's \"quoted", "v"),
            ("k v#1", "v#1"),
            ("k \"|cmd # arg\"", "\"|cmd # arg\""),
            ("k error:550 no \\# 4", "error:550 no \\# 4"),
            ("k say \"a # b", "say \"a"),
        ] {
            assert_eq!(one(line, None), pair("k", value), "{line}");
        }
        assert_eq!(one("# c\n\n  # d\nk v", None), pair("k", "v"));
        let latin1 = b"k v # J\xf6rg\na b,\n  c # \xe9t\xe9\nx \xf6 # y\n";
        let all: Vec<_> = Entries::new(latin1, None)
            .map(|entry| entry.map(|entry| (entry.key, entry.value.into_owned())))
            .collect();
        let [comment, continued, value] = &all[..] else {
            panic!("{all:?}");
        };
        assert_eq!(*comment, pair("k", "v"));
        assert_eq!(*continued, pair("a", "b, c"));
        assert!(value.is_err(), "what is no comment is text");
    }

    // table(5): an entry whose key is not UTF-8 text is left out, with the lines that it goes on
    // in; one whose value is not keeps its key.
    #[test]
    fn an_entry_in_other_characters_is_passed_over_as_a_whole() {
        let text = b"j\xf6rg: x,\n\ty\na: b\nc: d,\n \xe9,\n e\n\xe4:\n z\nf: g\n";
        let all: Vec<_> = Entries::new(text, None)
            .map(|entry| match entry {
                Ok(entry) => (entry.line, entry.key),
                Err(bad) if bad.is_left_out() => (bad.line, ""),
                Err(bad) => (bad.line, bad.key.unwrap_or(bad.text)),
            })
            .collect();
        assert_eq!(all, [(1, ""), (3, "a"), (4, "c"), (7, ""), (9, "f")]);
        for (text, key) in [
            (&b"a: \xe9"[..], Some("a")),
            (b"a \xe9", Some("a")),
            (b"a:\n \xe9", Some("a")),
            (b"[::1] \xe9", Some("[::1]")),
            (b"a\xe9", None),
            (b"a\xe9: b", None),
            (b": \xe9", None),
            (b"[::1\xe9] b", None),
        ] {
            let mut entries = Entries::new(text, None);
            let bad = entries.next().unwrap().unwrap_err();
            assert_eq!((bad.text, bad.key), (NOT_TEXT, key), "{text:?}");
            assert_eq!(entries.shape(), key.map(|_| Shape::Map), "{text:?}");
        }
        let text = b"a \xe4\n2001:db8::/32\n";
        let mut list = Entries::new(text, Some(Shape::List));
        assert!(list.next().unwrap().is_err_and(|bad| bad.is_left_out()));
        assert_eq!(list.next().unwrap().unwrap().key, "2001:db8::/32");
    }

    // table(5): a list has one value on a line; "# @list" says so where it cannot be seen.
    #[test]
    fn a_list_takes_whole_lines() {
        let text = b"# @list\n2001:db8::/32\nfoo bar  \n\n[::1\n";
        let mut entries = Entries::new(text, None);
        assert_eq!(entries.next().unwrap().unwrap().key, "2001:db8::/32");
        assert_eq!(entries.shape(), Some(Shape::List));
        let second = entries.next().unwrap().unwrap();
        assert_eq!((second.key, second.line), ("foo bar", 3));
        assert!(entries.next().unwrap().is_err());
        assert!(entries.next().is_none());
        assert_eq!(one("a.org # x", None), pair("a.org", ""));
    }

    #[test]
    fn no_bytes_make_it_panic_and_it_ends() {
        let mut dice = Dice::new(1);
        for _ in 0..2000 {
            let text: Vec<u8> = (0..40)
                .map(|_| b"ab:[]# \t\"\\\r\n\0\xff@list"[dice.roll(19)])
                .collect();
            assert!(Entries::new(&text, None).count() <= 40);
        }
    }
}

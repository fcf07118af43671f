//! The text of a file table, as table(5) describes it: one entry per line, a list or a mapping.
//!
//! Nothing is copied: entries borrow from the text. The reader is lazy, so that a table of a
//! million lines costs one pass.

/// What the entries of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Keys alone.
    List,
    /// Keys with values.
    Map,
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'t> {
    /// The key, as written.
    pub key: &'t str,
    /// The value of a mapping; empty in a list.
    pub value: &'t str,
    /// Its line, from 1.
    pub line: u32,
}

/// A line that is no entry of this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadEntry {
    /// The line, from 1.
    pub line: u32,
    /// What is wrong with it.
    pub text: &'static str,
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
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let (line, rest) = match end {
            Some(end) => (self.rest.get(..end)?, self.rest.get(end + 1..)?),
            None => (self.rest, &[][..]),
        };
        self.rest = rest;
        self.line = self.line.saturating_add(1);
        Some(line)
    }

    fn entry(&mut self, line: &'t [u8]) -> Result<Entry<'t>, BadEntry> {
        let number = self.line;
        let bad = |text| BadEntry { line: number, text };
        let text = std::str::from_utf8(line)
            .map_err(|_| bad("invalid map entry: not UTF-8 text"))
            .map(without_comment)?;
        if text.contains('\0') || text.contains('\r') {
            return Err(bad("invalid map entry: control characters"));
        }
        if text.is_empty() {
            return Err(bad("invalid map entry: no key"));
        }
        let (key, value) = first_field(text).ok_or_else(|| bad("invalid map entry: no \"]\""))?;
        let shape = *self.shape.get_or_insert(match value {
            "" => Shape::List,
            _ => Shape::Map,
        });
        match shape {
            Shape::List => Ok(Entry {
                key: text,
                value: "",
                line: number,
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
            }),
        }
    }
}

impl<'t> Iterator for Entries<'t> {
    type Item = Result<Entry<'t>, BadEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = self.next_line()?.trim_ascii();
            match line.first() {
                None => continue,
                Some(b'#') => {
                    let comment = line.get(1..).unwrap_or_default().trim_ascii();
                    if self.shape.is_none() && comment == b"@list" {
                        self.shape = Some(Shape::List);
                    }
                }
                Some(_) => return Some(self.entry(line)),
            }
        }
    }
}

/// table(5): a comment starts with a hash mark and extends to the end of the line. Behind an entry
/// it needs a blank in front, and inside double quotes a hash mark is itself.
fn without_comment(line: &str) -> &str {
    if !line.contains('#') {
        return line;
    }
    let mut quoted = false;
    let mut before = b' ';
    let mut first_mark = None;
    for (at, byte) in line.bytes().enumerate() {
        if byte == b'"' && before != b'\\' {
            quoted = !quoted;
        }
        if byte == b'#' && matches!(before, b' ' | b'\t') {
            first_mark.get_or_insert(at);
            if !quoted {
                return cut(line, at);
            }
        }
        before = byte;
    }
    match first_mark {
        // A quote that is never closed protects nothing.
        Some(at) if quoted => cut(line, at),
        _ => line,
    }
}

fn cut(line: &str, at: usize) -> &str {
    line.get(..at).unwrap_or(line).trim_end()
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

    fn one(text: &str, shape: Option<Shape>) -> Result<(&str, &str), BadEntry> {
        let entry = Entries::new(text.as_bytes(), shape).next().unwrap()?;
        Ok((entry.key, entry.value))
    }

    // table(5): "key: value" and "key value" are the same.
    #[test]
    fn a_mapping_splits_at_the_first_blank_or_colon() {
        for (line, key, value) in [
            ("key: value", "key", "value"),
            ("key value", "key", "value"),
            ("key\tvalue", "key", "value"),
            ("  key:value \r\n", "key", "value"),
            ("key : value", "key", ": value"),
            ("key:: value", "key", ": value"),
            ("joe:1000:100:/home/joe", "joe", "1000:100:/home/joe"),
            ("user :include:/x", "user", ":include:/x"),
            ("[::1] name", "[::1]", "name"),
            ("2001:db8::/32", "2001", "db8::/32"),
        ] {
            assert_eq!(one(line, None), Ok((key, value)), "{line}");
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
            assert_eq!(one(line, None), Ok(("k", value)), "{line}");
        }
        assert_eq!(one("# c\n\n  # d\nk v", None), Ok(("k", "v")));
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
        assert_eq!(one("a.org # x", None), Ok(("a.org", "")));
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

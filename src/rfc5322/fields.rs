//! The fields of a header section that is in memory as a whole.
//!
//! It ends at the first line that neither continues a field nor holds a `:`; an empty line is one.

use std::ops::Range;

/// One field, with its folded lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// What stands before the colon, without blanks around it.
    pub name: &'a [u8],
    /// What stands behind it, line ends included.
    pub value: &'a [u8],
    /// Where name, value and last line end are.
    pub place: Range<usize>,
}

impl Field<'_> {
    /// Whether this is its name (RFC 5322 §1.2.2: in any case).
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value on one line, without blanks around it; what is not UTF-8 is replaced.
    pub fn unfolded(&self) -> String {
        let lines = self.value.split(|byte| *byte == b'\n');
        let texts: Vec<_> = lines
            .map(|line| String::from_utf8_lossy(line.trim_ascii()))
            .collect();
        texts.join(" ").trim().to_owned()
    }
}

/// The fields, in order. Line ends are LF.
pub fn fields(text: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let line = line_at(text, start)?;
        let colon = line.iter().position(|byte| *byte == b':')?;
        if line.first().is_some_and(u8::is_ascii_whitespace) {
            return None;
        }
        at += line.len();
        while let Some(folded) = line_at(text, at) {
            if !matches!(folded.first(), Some(b' ' | b'\t')) {
                break;
            }
            at += folded.len();
        }
        let (name, value) = text.get(start..at)?.split_at_checked(colon)?;
        Some(Field {
            name: name.trim_ascii(),
            value: value.get(1..).unwrap_or_default(),
            place: start..at,
        })
    })
}

/// Where the header of a message ends: in front of the two line ends that come with the first empty
/// line.
pub fn header_end(text: &[u8]) -> Option<usize> {
    if text.first() == Some(&b'\n') {
        return Some(0);
    }
    text.windows(2).position(|pair| pair == b"\n\n")
}

/// The line that starts at `start`, with its line end.
fn line_at(text: &[u8], start: usize) -> Option<&[u8]> {
    let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
    let end = rest.iter().position(|byte| *byte == b'\n');
    rest.get(..end.map_or(rest.len(), |end| end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_end_where_the_header_does() {
        // RFC 5322 §2.2, §2.2.3: name, colon, body; a line that begins with a blank goes on.
        let text = b"A: 1\nb :\n two\n\t three \nC:\n\nD: body\n";
        let found: Vec<_> = fields(text)
            .map(|field| (field.name.to_vec(), field.unfolded(), field.place))
            .collect();
        let field = |name: &str, value: &str, place| (name.into(), value.to_owned(), place);
        assert_eq!(
            found,
            [
                field("A", "1", 0..5),
                field("b", "two three", 5..23),
                field("C", "", 23..26)
            ]
        );
        for none in [&b""[..], b"\n", b" A: 1\n", b"no colon\nA: 1\n"] {
            assert_eq!(fields(none).count(), 0);
        }
        assert!(fields(b"Date: x").next().unwrap().is("DATE"));
        assert_eq!(header_end(b"A: 1\n b\n\nbody"), Some(7));
        assert_eq!(header_end(b"\nA: 1\n"), Some(0));
        assert_eq!(header_end(b"A: 1\n"), None);
    }
}

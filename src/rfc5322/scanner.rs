//! Finds the fields of a header section in text that comes in pieces.
//!
//! The text has LF line ends. A line that starts with no blank and holds a `:` starts a field, a
//! line that starts with a blank goes on with it, an empty line ends the section; any other line
//! makes the message malformed. No field is required, and names are not checked: what is merely
//! odd (a `From ` line of an mbox file with a time in it) passes.
//!
//! Only an unfinished line is kept between pieces, and it is bounded.

/// The longest name of a field.
pub const MAX_NAME: usize = 1022;
/// The longest line of a header section, without its LF.
pub const MAX_LINE: usize = 65535;

/// Is told what the scanner finds.
pub trait Visitor {
    /// A field starts. `line` is whole, with name, colon and LF.
    fn field(&mut self, name: &[u8], line: &[u8]) -> Result<(), Malformed>;
    /// The field goes on with this line, its LF included.
    fn continuation(&mut self, line: &[u8]) -> Result<(), Malformed>;
    /// The section ends, by an empty line or because the message does.
    fn end(&mut self) -> Result<(), Malformed>;
}

/// The text has no header section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads one header section.
#[derive(Debug, Default)]
pub struct Scanner {
    unfinished: Vec<u8>,
    in_field: bool,
}

impl Scanner {
    /// A scanner at the start of a message.
    pub fn new() -> Scanner {
        Scanner::default()
    }

    /// Reads the next piece. When the section ends in it, the result is what follows the header's
    /// last line, empty line first, and the scanner has done its work.
    pub fn feed<'a>(
        &mut self,
        piece: &'a [u8],
        visitor: &mut impl Visitor,
    ) -> Result<Option<&'a [u8]>, Malformed> {
        let mut rest = piece;
        while let Some(lf) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, after) = rest.split_at(lf + 1);
            if line == b"\n" && self.unfinished.is_empty() {
                visitor.end()?;
                return Ok(Some(rest));
            }
            if self.unfinished.is_empty() {
                self.line(line, visitor)?;
            } else {
                let mut whole = std::mem::take(&mut self.unfinished);
                whole.extend_from_slice(line);
                self.line(&whole, visitor)?;
            }
            rest = after;
        }
        if self.unfinished.len() + rest.len() > MAX_LINE {
            return Err(Malformed);
        }
        self.unfinished.extend_from_slice(rest);
        Ok(None)
    }

    /// The message ends within the section.
    pub fn finish(mut self, visitor: &mut impl Visitor) -> Result<(), Malformed> {
        if !self.unfinished.is_empty() {
            let mut last = std::mem::take(&mut self.unfinished);
            last.push(b'\n');
            self.line(&last, visitor)?;
        }
        visitor.end()
    }

    fn line(&mut self, line: &[u8], visitor: &mut impl Visitor) -> Result<(), Malformed> {
        if let Some(b' ' | b'\t') = line.first() {
            return if self.in_field {
                visitor.continuation(line)
            } else {
                Err(Malformed)
            };
        }
        let colon = line
            .iter()
            .position(|&byte| byte == b':')
            .ok_or(Malformed)?;
        let (name, _) = line.split_at(colon);
        if name.len() > MAX_NAME {
            return Err(Malformed);
        }
        self.in_field = true;
        visitor.field(name, line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Found(String);

    impl Visitor for Found {
        fn field(&mut self, name: &[u8], line: &[u8]) -> Result<(), Malformed> {
            assert!(line.ends_with(b"\n"));
            self.0.push_str(&format!("[{}]", name.escape_ascii()));
            Ok(())
        }
        fn continuation(&mut self, _: &[u8]) -> Result<(), Malformed> {
            self.0.push('+');
            Ok(())
        }
        fn end(&mut self) -> Result<(), Malformed> {
            self.0.push('.');
            Ok(())
        }
    }

    fn scan(text: &str, piece_bytes: usize) -> Result<(String, String), Malformed> {
        let (mut scanner, mut found) = (Scanner::new(), Found::default());
        let mut used = 0;
        for piece in text.as_bytes().chunks(piece_bytes) {
            used += piece.len();
            if let Some(rest) = scanner.feed(piece, &mut found)? {
                let body = &text[used - rest.len()..];
                return Ok((found.0, body.to_string()));
            }
        }
        scanner.finish(&mut found)?;
        Ok((found.0, String::new()))
    }

    #[test]
    fn fields_are_found_however_the_text_is_cut() {
        for (text, want) in [
            ("A: 1\nb:\n c\n\td\n\nbody\n", Ok(("[A][b]++.", "\nbody\n"))),
            ("\nbody: x\n", Ok((".", "\nbody: x\n"))),
            ("", Ok((".", ""))),
            ("A: 1\n", Ok(("[A].", ""))),
            ("A: 1", Ok(("[A].", ""))),
            (
                "From x Mon Jan 1 12:00:00\n:\n\n",
                Ok(("[From x Mon Jan 1 12][].", "\n")),
            ),
            (" A: 1\n", Err(Malformed)),
            ("no colon\n", Err(Malformed)),
            ("A: 1\nno colon\n\n", Err(Malformed)),
        ] {
            for piece_bytes in 1..=text.len().max(1) {
                let found = scan(text, piece_bytes);
                let want = want.map(|(f, b)| (f.to_string(), b.to_string()));
                assert_eq!(found, want, "{text:?} by {piece_bytes}");
            }
        }
    }

    #[test]
    fn names_and_unfinished_lines_are_bounded() {
        let name = "n".repeat(MAX_NAME);
        assert!(scan(&format!("{name}: x\n"), 100).is_ok());
        assert_eq!(scan(&format!("{name}n: x\n"), 100), Err(Malformed));
        assert_eq!(
            scan(&format!("A: {}", "x".repeat(MAX_LINE)), 4096),
            Err(Malformed)
        );
    }
}

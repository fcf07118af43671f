//! Mail on its way to standard output: as it is, but on a terminal without what could steer it.

use std::io::{self, Write};

/// Who reads standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// A terminal, and somebody in front of it.
    ByTerminal,
    /// A file or another program.
    No,
}

/// Passes bytes on. For a terminal, control characters but tab and line end become `^X`, and what
/// is no UTF-8 text becomes `?`.
pub struct Shown<'a> {
    out: &'a mut dyn Write,
    watched: Watched,
    /// The beginning of a character whose end has not come.
    cut: Vec<u8>,
}

impl<'a> Shown<'a> {
    /// What is written to it goes to `out`.
    pub fn new(out: &'a mut dyn Write, watched: Watched) -> Shown<'a> {
        Shown {
            out,
            watched,
            cut: Vec::new(),
        }
    }
}

impl Write for Shown<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.watched == Watched::No {
            return self.out.write(bytes);
        }
        let whole = [&std::mem::take(&mut self.cut), bytes].concat();
        let mut text = String::with_capacity(whole.len());
        let mut read = 0;
        for chunk in whole.utf8_chunks() {
            chunk.valid().chars().for_each(|c| show(&mut text, c));
            read += chunk.valid().len() + chunk.invalid().len();
            match chunk.invalid() {
                [] => {}
                cut if read == whole.len() && is_begun(cut) => self.cut = cut.to_vec(),
                _ => text.push('?'),
            }
        }
        self.out.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Whether more bytes may make a character of these.
fn is_begun(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

fn show(text: &mut String, c: char) {
    match c {
        '\n' | '\t' => text.push(c),
        '\0'..='\x1f' | '\x7f' => {
            text.push('^');
            text.push(char::from(c as u8 ^ 0x40));
        }
        c if c.is_control() => text.push('?'),
        c => text.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &[u8] =
        b"Subject: \x1b]0;title\x07 \xc3\xa9\n\ta\rb\x7f\xc2\x9b31m\xff\xe2\x82\xac.\n";

    fn shown(watched: Watched, piece: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut shown = Shown::new(&mut out, watched);
        for bytes in MAIL.chunks(piece) {
            shown.write_all(bytes).unwrap();
        }
        out
    }

    #[test]
    fn a_terminal_gets_text_and_everything_else_the_bytes() {
        // smtpctl(8), show message: on a terminal, control characters are made visible.
        let text = "Subject: ^[]0;title^G é\n\ta^Mb^??31m?€.\n";
        for piece in 1..=MAIL.len() {
            let got = shown(Watched::ByTerminal, piece);
            assert_eq!(String::from_utf8(got).unwrap(), text, "{piece}");
            assert_eq!(shown(Watched::No, piece), MAIL);
        }
    }
}

//! The second pass: the message as it leaves, with what its header lacked, lines ending in LF.

use std::io::{self, Read, Write};

use super::intake::Message;

/// Who and when, for the fields that are generated.
#[derive(Clone, Debug)]
pub struct Author {
    /// The display name of From; may be empty.
    pub name: Vec<u8>,
    pub address: Vec<u8>,
    pub date: String,
}

/// Writes the message. It may be written more than once.
pub fn write(message: &mut Message, author: &Author, out: &mut dyn Write) -> io::Result<()> {
    let seen = message.seen;
    let encode = message.long_lines && !seen.content_transfer_encoding && !message.composite;
    if !seen.from {
        from_field(author, out)?;
    }
    if !seen.date {
        writeln!(out, "Date: {}", author.date)?;
    }
    if encode {
        for (seen, field) in [
            (seen.mime_version, "MIME-Version: 1.0"),
            (
                seen.content_type,
                "Content-Type: text/plain; charset=unknown-8bit",
            ),
            (seen.content_disposition, "Content-Disposition: inline"),
            (false, "Content-Transfer-Encoding: quoted-printable"),
        ] {
            if !seen {
                writeln!(out, "{field}")?;
            }
        }
    }
    io::copy(&mut message.header()?, out)?;
    if message.separated || message.has_no_header() || !message.has_no_body() {
        out.write_all(b"\n")?;
    }
    if encode {
        quoted_printable(&mut message.body()?, out)
    } else {
        io::copy(&mut message.body()?, out).map(drop)
    }
}

fn from_field(author: &Author, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"From: ")?;
    let name = display_name(&author.name);
    if !name.is_empty() {
        out.write_all(&name)?;
        out.write_all(b" ")?;
    }
    out.write_all(b"<")?;
    out.write_all(&author.address)?;
    out.write_all(b">\n")
}

/// RFC 5322 §3.2.4: a name with other characters than those of atoms is quoted. Control
/// characters become blanks, so that a name cannot add a field.
fn display_name(name: &[u8]) -> Vec<u8> {
    let clean: Vec<u8> = name
        .iter()
        .map(|byte| if byte.is_ascii_control() { b' ' } else { *byte })
        .collect();
    let name = clean.trim_ascii();
    let plain = |byte: &u8| {
        byte.is_ascii_alphanumeric() || !byte.is_ascii() || b" !#$%&'*+-/=?^_`{|}~".contains(byte)
    };
    if name.iter().all(plain) {
        return name.to_vec();
    }
    let mut quoted = vec![b'"'];
    for byte in name {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    quoted
}

/// RFC 2045 §6.7, lines of at most 76 characters.
fn quoted_printable(input: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    let mut encoder = QuotedPrintable {
        out,
        column: 0,
        blank: None,
    };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => return encoder.finish(),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for byte in &buffer[..count] {
            encoder.byte(*byte)?;
        }
    }
}

struct QuotedPrintable<'a> {
    out: &'a mut dyn Write,
    column: usize,
    /// A blank or tab that must be encoded if the line ends behind it.
    blank: Option<u8>,
}

impl QuotedPrintable<'_> {
    fn byte(&mut self, byte: u8) -> io::Result<()> {
        if byte == b'\n' {
            if let Some(blank) = self.blank.take() {
                self.encoded(blank)?;
            }
            self.column = 0;
            return self.out.write_all(b"\n");
        }
        if let Some(blank) = self.blank.take() {
            self.put(&[blank])?;
        }
        match byte {
            b' ' | b'\t' => {
                self.blank = Some(byte);
                Ok(())
            }
            b'!'..=b'~' if byte != b'=' => self.put(&[byte]),
            _ => self.encoded(byte),
        }
    }

    fn encoded(&mut self, byte: u8) -> io::Result<()> {
        self.put(format!("={byte:02X}").as_bytes())
    }

    /// Writes one unit, on the next line if this one has no room for it and a soft break.
    fn put(&mut self, unit: &[u8]) -> io::Result<()> {
        if self.column + unit.len() > LINE_CHARS - 1 {
            self.out.write_all(b"=\n")?;
            self.column = 0;
        }
        self.column += unit.len();
        self.out.write_all(unit)
    }

    fn finish(&mut self) -> io::Result<()> {
        match self.blank.take() {
            Some(blank) => self.encoded(blank),
            None => Ok(()),
        }
    }
}

const LINE_CHARS: usize = 76;

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &[u8]) -> String {
        let mut out = Vec::new();
        quoted_printable(&mut &text[..], &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn decode(text: &str) -> Vec<u8> {
        let joined = text.replace("=\n", "");
        let bytes = joined.as_bytes();
        let (mut out, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            if bytes[at] == b'=' {
                out.push(u8::from_str_radix(&joined[at + 1..at + 3], 16).unwrap());
                at += 3;
            } else {
                out.push(bytes[at]);
                at += 1;
            }
        }
        out
    }

    #[test]
    fn every_byte_survives_quoted_printable_in_two_digits_and_76_columns() {
        // RFC 2045 §6.7: two upper-case digits, no blank at a line's end, 76 characters.
        assert_eq!(encode(b"a\x01b\xffc=\n"), "a=01b=FFc=3D\n");
        assert_eq!(encode(b"a \nb\t\n \n"), "a=20\nb=09\n=20\n");
        assert_eq!(encode(b"a b\tc\n"), "a b\tc\n");
        let all: Vec<u8> = (0..=255).cycle().take(5000).collect();
        for length in 0..300 {
            let text = [&all[..length * 7], b"\n"].concat();
            let encoded = encode(&text);
            assert_eq!(decode(&encoded), text);
            for line in encoded.lines() {
                assert!(line.len() <= 76, "{line}");
                assert!(!line.ends_with([' ', '\t']));
            }
        }
        let long = [&b"x".repeat(76)[..], b"\n"].concat();
        assert_eq!(encode(&long), format!("{}=\nx\n", "x".repeat(75)));
    }

    #[test]
    fn a_name_is_quoted_when_it_must_be_and_never_adds_a_field() {
        let name = |text: &str| String::from_utf8(display_name(text.as_bytes())).unwrap();
        assert_eq!(name("Bob Builder"), "Bob Builder");
        assert_eq!(name("Bob é"), "Bob é");
        assert_eq!(name("B. \"Bob\" \\o/"), "\"B. \\\"Bob\\\" \\\\o/\"");
        assert_eq!(name("x\nBcc: all"), "\"x Bcc: all\"");
        assert_eq!(name(" \t"), "");
    }
}

//! Bytes made visible, as vis(3) does: backslash, control characters and what is not ASCII become
//! letters that cannot steer a terminal or end a line.

/// How control characters are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// All as `\^X`: vis(3) without flags.
    Caret,
    /// Those that C has a letter for as `\n`, `\t`, `\000` and so on: VIS_CSTYLE.
    C,
}

/// Appends one byte. Printable ASCII and spaces stay as they are, a backslash is doubled.
pub fn push(out: &mut String, byte: u8, style: Style) {
    if style == Style::C
        && let Some(spelled) = in_c(byte)
    {
        out.push_str(spelled);
        return;
    }
    let low = byte & 0x7f;
    match byte {
        b'\\' => out.push_str("\\\\"),
        b' '..=b'~' => out.push(char::from(byte)),
        0xa0 => out.push_str("\\240"),
        _ if low < 0x20 || low == 0x7f => {
            out.push_str(if byte == low { "\\^" } else { "\\M^" });
            out.push(char::from(low ^ 0x40));
        }
        _ => {
            out.push_str("\\M-");
            out.push(char::from(low));
        }
    }
}

/// One word of a line: blanks are spelled, too.
pub fn word(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b' ' => out.push_str("\\040"),
            _ => push(&mut out, byte, Style::Caret),
        }
    }
    out
}

/// NUL in three digits, so that a digit behind it changes nothing.
fn in_c(byte: u8) -> Option<&'static str> {
    Some(match byte {
        0 => "\\000",
        0x07 => "\\a",
        0x08 => "\\b",
        b'\t' => "\\t",
        b'\n' => "\\n",
        0x0b => "\\v",
        0x0c => "\\f",
        b'\r' => "\\r",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8], style: Style) -> String {
        let mut out = String::new();
        for byte in bytes {
            push(&mut out, *byte, style);
        }
        out
    }

    #[test]
    fn every_byte_becomes_printable_ascii_and_no_two_the_same() {
        // vis(3): the forms `\^C`, `\M-C`, `\M^C` and `\ddd`.
        for style in [Style::Caret, Style::C] {
            let all: std::collections::BTreeSet<String> =
                (0..=255).map(|byte| text(&[byte], style)).collect();
            assert_eq!(all.len(), 256);
            assert!(
                all.iter()
                    .all(|t| t.bytes().all(|b| (b' '..=b'~').contains(&b)))
            );
        }
        let bytes = b"a \\\x1b\t\n\0\x7f\xa0\xe9\x80\xff";
        assert_eq!(
            text(bytes, Style::Caret),
            "a \\\\\\^[\\^I\\^J\\^@\\^?\\240\\M-i\\M^@\\M^?"
        );
        assert_eq!(
            text(bytes, Style::C),
            "a \\\\\\^[\\t\\n\\000\\^?\\240\\M-i\\M^@\\M^?"
        );
    }
}

//! xtext (RFC 3461 §4): printable ASCII in which `+` and two upper-case hex digits stand for a
//! byte.

/// Whether `bytes` are xtext.
pub fn is_xtext(mut bytes: &[u8]) -> bool {
    loop {
        bytes = match bytes {
            [] => return true,
            [b'+', high, low, rest @ ..] if escaped(*high, *low).is_some() => rest,
            [b'+' | b'=', ..] => return false,
            [byte, rest @ ..] if byte.is_ascii_graphic() => rest,
            _ => return false,
        };
    }
}

/// Decodes xtext. Text that is not xtext stays as it is; bytes that are not UTF-8 are replaced.
pub fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        let (decoded, tail) = match (byte, tail) {
            (b'+', [high, low, behind @ ..]) => match escaped(*high, *low) {
                Some(decoded) => (decoded, behind),
                None => (*byte, tail),
            },
            _ => (*byte, tail),
        };
        bytes.push(decoded);
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn escaped(high: u8, low: u8) -> Option<u8> {
    Some(digit(high)? << 4 | digit(low)?)
}

fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_xtext_decodes_and_the_rest_stays() {
        // RFC 3461 §4: `+2B` is `+`, `+3D` is `=`; lower-case digits are none.
        for (text, decoded, valid) in [
            ("", "", true),
            ("alice@example.org", "alice@example.org", true),
            ("a+2Bb+3Dc", "a+b=c", true),
            ("+C3+A9", "é", true),
            ("a+2b", "a+2b", false),
            ("a=b", "a=b", false),
            ("a+2", "a+2", false),
            ("a b", "a b", false),
        ] {
            assert_eq!(decode(text), decoded);
            assert_eq!(is_xtext(text.as_bytes()), valid, "{text}");
        }
    }
}

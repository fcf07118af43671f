//! Values inside strings: delays and sizes.

/// A delay in seconds: a positive number directly followed by `s`, `m`, `h` or `d`, below 2^31.
pub fn delay_s(text: &str) -> Option<u32> {
    let (digits, unit_s) = match text.as_bytes().split_last()? {
        (b's', digits) => (digits, 1),
        (b'm', digits) => (digits, 60),
        (b'h', digits) => (digits, 3600),
        (b'd', digits) => (digits, 86400),
        _ => return None,
    };
    let count: i64 = unsigned(digits)?.try_into().ok()?;
    let seconds = i32::try_from(count.checked_mul(unit_s)?).ok()?;
    u32::try_from(seconds).ok().filter(|seconds| *seconds > 0)
}

/// A size as scan_scaled(3) reads it: a number, perhaps with a fraction, perhaps followed by one
/// of `B K M G T P E` in either case. Negative sizes are refused.
pub fn size_bytes(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (number, shift) = match text.as_bytes().split_last()? {
        (byte, rest) if byte.is_ascii_alphabetic() => {
            let unit = byte.to_ascii_uppercase();
            let position = b"BKMGTPE".iter().position(|known| *known == unit)?;
            (rest, 10 * position as u32)
        }
        _ => (text.as_bytes(), 0),
    };
    let mut parts = number.splitn(2, |byte| *byte == b'.');
    let (whole, fractional) = (parts.next()?, parts.next());
    let fraction = match fractional {
        None => 0,
        Some(digits) => fraction(digits, shift)?,
    };
    let whole = match (whole, fractional) {
        // `.5M`, but not a point alone.
        ([], Some([_, ..])) => 0,
        (digits, _) => unsigned(digits)?,
    };
    let whole = whole.checked_mul(1 << shift)?;
    i64::try_from(whole.checked_add(fraction)?)
        .ok()
        .map(|size| size as u64)
}

fn fraction(digits: &[u8], shift: u32) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = digits.get(..digits.len().min(18))?;
    if digits.is_empty() {
        return Some(0);
    }
    let value = u128::from(unsigned(digits)?) << shift;
    let scale = 10u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    u64::try_from(value / scale).ok()
}

fn unsigned(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // smtpd.conf(5): a delay is a positive decimal integer and a unit s, m, h, or d.
    #[test]
    fn delays_are_a_number_and_one_unit() {
        for (text, seconds) in [("1s", 1), ("4m", 240), ("5h", 18000), ("4d", 345_600)] {
            assert_eq!(delay_s(text), Some(seconds), "{text}");
        }
        for bad in [
            "", "4", "d", "0s", "1w", "99999d", "-1s", "+1s", "1.5h", "4 d", "4D",
        ] {
            assert_eq!(delay_s(bad), None, "{bad}");
        }
    }

    // scan_scaled(3): a fraction and one suffix, powers of 1024.
    #[test]
    fn sizes_are_scaled() {
        for (text, bytes) in [
            ("0", 0),
            ("35M", 36_700_160),
            ("1.5k", 1536),
            ("10b", 10),
            ("2G", 2 << 30),
            ("1.", 1),
            (".5M", 512 << 10),
            ("7E", 7 << 60),
        ] {
            assert_eq!(size_bytes(text), Some(bytes), "{text}");
        }
        for bad in [
            "", "M", "35MB", "10 M", "-1", "1.5.5M", "8E", "0x10", "99E", ".", ".M", "..5",
        ] {
            assert_eq!(size_bytes(bad), None, "{bad}");
        }
    }
}

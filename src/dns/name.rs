//! Names of hosts: text that may come from strangers, in a form that is safe to print.

use std::net::Ipv4Addr;

use domain::base::Name;
use domain::base::name::ToLabelIter;

use crate::util::Line;

/// A name as questions and the cache hold it: absolute, in lower case.
pub(super) type Wire = Name<Vec<u8>>;

/// The absolute name that `text` (with or without its last dot) means; `None` when it cannot be
/// one. Only printable ASCII is taken, and no escapes: mail has no use for others.
pub(super) fn parse(text: &str) -> Option<Wire> {
    let plain =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'(' | b')' | b';');
    if text.is_empty() || text.len() > 254 || !text.bytes().all(plain) {
        return None;
    }
    let mut name = Name::vec_from_str(text).ok()?;
    name.make_canonical();
    Some(name)
}

/// The text of a host's name: letters, digits, `-` and `_` in labels between dots, without a last
/// dot, and not what reads as an address. `None` for any other name, and for the root.
pub(super) fn host_text(name: &impl ToLabelIter) -> Option<Line> {
    plain_text(name).filter(|text| !reads_as_address(text))
}

/// The text of a mail exchanger's name. Some write an address there, and mean it.
pub(super) fn exchanger_text(name: &impl ToLabelIter) -> Option<Line> {
    let may_be = |text: &Line| !reads_as_address(text) || text.parse::<Ipv4Addr>().is_ok();
    plain_text(name).filter(may_be)
}

/// A name whose last label is a number is read as an address by much software.
fn reads_as_address(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or_default();
    last.bytes().all(|byte| byte.is_ascii_digit())
}

fn plain_text(name: &impl ToLabelIter) -> Option<Line> {
    let mut text = String::new();
    for label in name.iter_labels().filter(|label| !label.is_root()) {
        if !text.is_empty() {
            text.push('.');
        }
        for &byte in label.as_slice() {
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                return None;
            }
            text.push(char::from(byte));
        }
    }
    if text.is_empty() || text.len() > 255 {
        return None;
    }
    Line::new(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_names_become_text() {
        // RFC 1034 §3.5, with underscores: the name of a peer is what its owner put into the DNS.
        let wire = |labels: &[&[u8]]| {
            let mut octets = Vec::new();
            for label in labels {
                octets.push(label.len() as u8);
                octets.extend_from_slice(label);
            }
            octets.push(0);
            Name::from_octets(octets).unwrap()
        };
        let text = |labels: &[&[u8]]| host_text(&wire(labels)).map(|line| line.to_string());
        assert_eq!(
            text(&[b"mx-1", b"_x", b"Example", b"org"]).as_deref(),
            Some("mx-1._x.Example.org")
        );
        for bad in [
            &b"a\nb"[..],
            b"a b",
            b"a.b",
            b"\x1b[m",
            b"\xc3\xa9",
            b"a\0",
            b"a\"",
            b"<>",
        ] {
            assert_eq!(text(&[bad, b"org"]), None, "{bad:?}");
        }
        assert_eq!(text(&[b"192", b"0", b"2", b"1"]), None);
        assert_eq!(text(&[]), None);
        assert_eq!(
            text(&[&[b'x'; 63], &[b'y'; 63], &[b'z'; 63]])
                .unwrap()
                .len(),
            191
        );
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for bad in [
            "",
            "a..b",
            "..",
            "a b",
            "a\\.b",
            "a\0b",
            "a\nb",
            "é.org",
            &"x".repeat(64),
            &"x.".repeat(128),
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(parse("Example.ORG"), parse("example.org."));
    }
}

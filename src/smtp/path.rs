//! Reverse-paths and forward-paths (RFC 5321 §4.1.2): from `<…>` to an address.
//!
//! What comes out holds only the characters listed here, so an address can be printed into a
//! header, an envelope file or a log line without another look. Quoted local parts are refused, as
//! they always were here: nothing is lost but addresses nobody uses, and every later reader of an
//! address is spared a second syntax. A source route is dropped (RFC 5321 §3.6.1).

use crate::mail::MailAddr;

use super::domain_name;

/// The longest local part.
pub const MAX_LOCAL_PART: usize = 255;

/// The argument is not a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPath;

/// The reverse-path in front of `argument`, which may be null, and the parameters behind it. An
/// address without a domain gets `server_name`.
pub fn reverse<'a>(argument: &'a [u8], server_name: &str) -> Result<(MailAddr, &'a [u8]), BadPath> {
    let (inner, rest) = brackets(argument)?;
    let address = match split(inner) {
        ([], []) => MailAddr::null(),
        parts => address(parts, server_name)?,
    };
    Ok((address, rest))
}

/// The forward-path in front of `argument`, and the parameters behind it. An address without a
/// domain gets `server_name`.
pub fn forward<'a>(argument: &'a [u8], server_name: &str) -> Result<(MailAddr, &'a [u8]), BadPath> {
    let (inner, rest) = brackets(argument)?;
    Ok((address(split(inner), server_name)?, rest))
}

fn brackets(argument: &[u8]) -> Result<(&[u8], &[u8]), BadPath> {
    let open = argument.strip_prefix(b"<").ok_or(BadPath)?;
    let close = memchr::memchr(b'>', open).ok_or(BadPath)?;
    let (inner, rest) = open.split_at(close);
    Ok((inner, rest.get(1..).unwrap_or_default()))
}

/// Local part, without its source route, and domain.
fn split(inner: &[u8]) -> (&[u8], &[u8]) {
    let (local, domain) = match inner.iter().rposition(|&byte| byte == b'@') {
        None => (inner, &inner[..0]),
        Some(at) => (&inner[..at], inner.get(at + 1..).unwrap_or_default()),
    };
    match memchr::memchr(b':', local) {
        None => (local, domain),
        Some(colon) => (local.get(colon + 1..).unwrap_or_default(), domain),
    }
}

fn address((local, domain): (&[u8], &[u8]), server_name: &str) -> Result<MailAddr, BadPath> {
    if !is_dot_atom(local) || local.len() > MAX_LOCAL_PART {
        return Err(BadPath);
    }
    let local = std::str::from_utf8(local).map_err(|_| BadPath)?;
    let domain = match domain {
        [] => server_name,
        domain => domain_name::parse(domain).ok_or(BadPath)?,
    };
    MailAddr::new(local, domain).map_err(|_| BadPath)
}

fn is_dot_atom(bytes: &[u8]) -> bool {
    bytes
        .split(|&byte| byte == b'.')
        .all(|atom| !atom.is_empty() && atom.iter().all(|&byte| is_atext(byte)))
}

fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*/?^`{|}~+-=_".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward_text(path: &str) -> Option<String> {
        let (address, _) = forward(path.as_bytes(), "mx.example.org").ok()?;
        Some(address.to_string())
    }

    #[test]
    fn open_relay_forms_are_reduced_or_refused() {
        for (path, address) in [
            ("<bob@example.com>", Some("bob@example.com")),
            ("<Bob@Example.COM>", Some("Bob@Example.COM")),
            ("<postmaster>", Some("postmaster@mx.example.org")),
            ("<user@>", Some("user@mx.example.org")),
            (
                "<@a.example,@b.example:user@example.org>",
                Some("user@example.org"),
            ),
            ("<x:user@example.org>", Some("user@example.org")),
            (
                "<user%example.com@mx.example.org>",
                Some("user%example.com@mx.example.org"),
            ),
            (
                "<example.com!user>",
                Some("example.com!user@mx.example.org"),
            ),
            (
                "<example.com!user@mx.example.org>",
                Some("example.com!user@mx.example.org"),
            ),
            ("<user@[192.0.2.1]>", Some("user@[192.0.2.1]")),
            ("<user@[IPv6:2001:db8::1]>", Some("user@[IPv6:2001:db8::1]")),
            ("<a|b`$(x)@example.org>", None),
            ("<`id`|$x@example.org>", Some("`id`|$x@example.org")),
            ("<user@example.com@mx.example.org>", None),
            ("<\"user@example.com\"@mx.example.org>", None),
            ("<\"user\"@mx.example.org>", None),
            ("<@a.example:user>", None),
            ("<>", None),
            ("<@>", None),
            ("<@example.org>", None),
            ("bob@example.com", None),
            ("<bob@example.com", None),
            (" <bob@example.com>", None),
            ("<.bob@example.com>", None),
            ("<bob.@example.com>", None),
            ("<b..ob@example.com>", None),
            ("<b ob@example.com>", None),
            ("<bob@exa mple.com>", None),
            ("<b\u{f6}b@example.com>", None),
        ] {
            assert_eq!(forward_text(path).as_deref(), address, "{path}");
        }
    }

    #[test]
    fn the_null_reverse_path_is_accepted_and_rest_is_handed_back() {
        let (null, rest) = reverse(b"<> SIZE=1", "mx").unwrap();
        assert!(null.is_null());
        assert_eq!(rest, b" SIZE=1");
        assert!(reverse(b"<@>", "mx").unwrap().0.is_null());
    }

    #[test]
    fn parts_of_255_bytes_pass_and_longer_ones_do_not() {
        let local = "a".repeat(MAX_LOCAL_PART);
        assert!(forward_text(&format!("<{local}@example.org>")).is_some());
        assert!(forward_text(&format!("<{local}a@example.org>")).is_none());
    }

    #[test]
    fn no_byte_in_any_place_brings_a_control_character_into_an_address() {
        // CVE-2020-8794: every byte 0–255 in local part, quoted local part and domain.
        for byte in 0..=255u8 {
            for form in [
                "<a?b@example.org>",
                "<\"a?b\"@example.org>",
                "<a@exam?ple.org>",
                "<?@x>",
                "<a@?>",
                "<@r?:a@b>",
            ] {
                let path: Vec<u8> = form
                    .bytes()
                    .map(|b| if b == b'?' { byte } else { b })
                    .collect();
                for parsed in [forward(&path, "mx"), reverse(&path, "mx")]
                    .into_iter()
                    .flatten()
                {
                    let text = parsed.0.stored();
                    assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text:?}");
                }
            }
        }
    }
}

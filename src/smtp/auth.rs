//! What AUTH carries (RFC 4954): PLAIN (RFC 4616), and LOGIN, which no standard has and many
//! clients want.
//!
//! Names and passwords are UTF-8, and one line each: both go to tables and to the parent as lines.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::util::{Line, Secret, Zeroizing};

/// Who a client says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub user: Line,
    /// What is to prove it.
    pub password: Secret,
}

/// The mechanisms of SASL that we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    Login,
}

/// What AUTH asks LOGIN's clients: `Username:`.
pub const ASK_USER: &str = "VXNlcm5hbWU6";
/// `Password:`.
pub const ASK_PASSWORD: &str = "UGFzc3dvcmQ6";
/// The longest name of a user, in bytes.
pub const MAX_USER: usize = 255;
/// The longest message of PLAIN, decoded, in bytes.
pub const MAX_PLAIN: usize = 1023;

/// The argument of AUTH: a mechanism's name, and what the client says at once. The name ends at the
/// first space or tab.
pub fn argument(argument: &[u8]) -> (&[u8], Option<&[u8]>) {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    match argument.iter().position(blank) {
        None => (argument, None),
        Some(at) => {
            let (name, rest) = argument.split_at(at);
            let rest = rest.trim_ascii_start();
            (name, (!rest.is_empty()).then_some(rest))
        }
    }
}

impl Mechanism {
    /// By its name, in any case.
    pub fn named(name: &[u8]) -> Option<Mechanism> {
        [(b"PLAIN", Mechanism::Plain), (b"LOGIN", Mechanism::Login)]
            .into_iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(*known))
            .map(|(_, mechanism)| mechanism)
    }
}

/// RFC 4616 §2: `[authzid] NUL authcid NUL passwd`. Whom the client wants to act for is not looked
/// at: everybody acts for himself.
pub fn plain(response: &[u8]) -> Option<Credentials> {
    let message = decode(response).filter(|message| message.len() <= MAX_PLAIN)?;
    let mut fields = message.split(|byte| *byte == 0);
    let (_, user, password) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() || password.is_empty() {
        return None;
    }
    Some(Credentials {
        user: name(user)?,
        password: secret(password)?,
    })
}

/// The user, as a client of LOGIN says it.
pub fn login_user(response: &[u8]) -> Option<Line> {
    name(&decode(response)?)
}

/// The password, as a client of LOGIN says it.
pub fn login_password(response: &[u8]) -> Option<Secret> {
    secret(&decode(response)?)
}

/// For clients of ours.
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Blanks are passed over. RFC 4954 §4: `=` alone is an empty response; `*` is a client's way to
/// give up, and nothing in base64.
fn decode(response: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if response == b"=" {
        return Some(Zeroizing::default());
    }
    // What grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(response.len()));
    text.extend(response.iter().filter(|byte| !byte.is_ascii_whitespace()));
    STANDARD.decode(&*text).ok().map(Zeroizing::new)
}

fn name(bytes: &[u8]) -> Option<Line> {
    Line::from_bytes(bytes)
        .ok()
        .filter(|user| user.len() <= MAX_USER)
}

fn secret(bytes: &[u8]) -> Option<Secret> {
    Line::from_bytes(bytes).ok().map(Secret::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain_of(message: &[u8]) -> Option<(String, String)> {
        let found = plain(encode(message).as_bytes())?;
        Some((found.user.to_string(), found.password.reveal().to_owned()))
    }

    // RFC 4616 §2.
    #[test]
    fn plain_has_three_fields() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(
            plain_of(b"\0tim\0tanstaaftanstaaf"),
            pair("tim", "tanstaaftanstaaf")
        );
        assert_eq!(
            plain_of(b"Ursel\0Kurt\0xipj3plmq"),
            pair("Kurt", "xipj3plmq")
        );
        assert_eq!(plain_of(b"\0\0x"), pair("", "x"));
        assert_eq!(plain_of("\0jörg\0größe".as_bytes()), pair("jörg", "größe"));
        for bad in [
            &b""[..],
            b"\0",
            b"tim",
            b"\0tim",
            b"\0tim\0",
            b"\0tim\0a\0b",
            b"\0tim\0a\nb",
            b"\0t\rim\0a",
            b"\0t\xffm\0a",
        ] {
            assert_eq!(plain_of(bad), None, "{bad:?}");
        }
        let long = |user: usize, password: usize| {
            plain_of(format!("\0{}\0{}", "u".repeat(user), "p".repeat(password)).as_bytes())
        };
        assert!(long(255, 100).is_some() && long(256, 100).is_none());
        assert!(long(1, MAX_PLAIN - 3).is_some() && long(1, MAX_PLAIN - 2).is_none());
    }

    #[test]
    fn base64_is_read_with_blanks_and_with_padding_only() {
        assert_eq!(login_user(b"dGlt").as_deref(), Some("tim"));
        assert_eq!(login_user(b" dG lt\t").as_deref(), Some("tim"));
        assert_eq!(login_user(b"dGltMQ==").as_deref(), Some("tim1"));
        assert_eq!(login_user(b"").as_deref(), Some(""));
        assert_eq!(login_user(b"=").as_deref(), Some(""));
        assert_eq!(login_password(b"=").unwrap().reveal(), "");
        for bad in [
            "*",
            "==",
            "dGltMQ",
            "dGltMQ=",
            "dG-t",
            "dGlt\u{0}",
            "dGltMR==",
            "Cg==",
        ] {
            assert_eq!(login_user(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn every_byte_in_a_name_or_password_is_taken_or_refused_and_never_changed() {
        for byte in 0..=255u8 {
            for message in [vec![0, b'u', byte, 0, b'p'], vec![0, b'u', 0, b'p', byte]] {
                let Some((user, password)) = plain_of(&message) else {
                    assert!(byte >= 0x80 || matches!(byte, 0 | b'\r' | b'\n'), "{byte}");
                    continue;
                };
                assert_eq!(
                    [b"\0", user.as_bytes(), b"\0", password.as_bytes()].concat(),
                    message
                );
            }
        }
    }

    #[test]
    fn an_argument_is_a_name_and_perhaps_a_response() {
        for (text, name, response) in [
            ("PLAIN", "PLAIN", None),
            ("PLAIN ", "PLAIN", None),
            ("plain  AGE=", "plain", Some("AGE=")),
            ("LOGIN\tx y", "LOGIN", Some("x y")),
            ("", "", None),
        ] {
            let found = argument(text.as_bytes());
            assert_eq!(
                found,
                (name.as_bytes(), response.map(str::as_bytes)),
                "{text:?}"
            );
        }
        assert_eq!(Mechanism::named(b"plaIn"), Some(Mechanism::Plain));
        assert_eq!(Mechanism::named(b"Login"), Some(Mechanism::Login));
        assert_eq!(Mechanism::named(b"CRAM-MD5"), None);
    }

    #[test]
    fn what_is_asked_is_what_clients_know() {
        assert_eq!(encode(b"Username:"), ASK_USER);
        assert_eq!(encode(b"Password:"), ASK_PASSWORD);
    }
}

//! What the values of mappings say.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::mail::literal;
use crate::sys::user::User;
use crate::util::Line;
use crate::util::Secret;

/// A user and what proves it: a password for relaying, the hash of one for listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: Line,
    /// The password or its hash.
    pub secret: Secret,
}

/// `user:secret`, or a secret alone for the user that is the key.
pub fn credentials(key: &str, value: &str) -> Option<Credentials> {
    const SHORTEST_BYTES: usize = 3;
    const TOO_LONG_BYTES: usize = 2048;
    if !(SHORTEST_BYTES..TOO_LONG_BYTES).contains(&value.len()) {
        return None;
    }
    let (user, secret) = value.split_once(':').unwrap_or((key, value));
    if user.is_empty() || secret.is_empty() {
        return None;
    }
    Some(Credentials {
        user: Line::new(user).ok()?,
        secret: Secret::new(Line::new(secret).ok()?),
    })
}

/// `uid:gid:directory`, the value of a userinfo table. The directory may be empty and may hold
/// colons.
pub fn userinfo(name: &str, value: &str) -> Option<User> {
    let mut fields = value.splitn(3, ':');
    let mut number = || {
        let field = fields.next()?;
        let digits = !field.is_empty() && field.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| field.parse::<u32>().ok()).flatten()
    };
    let (uid, gid) = (number()?, number()?);
    Some(User {
        name: name.to_owned(),
        uid,
        gid,
        gecos: String::new(),
        home: PathBuf::from(fields.next()?),
    })
}

/// The addresses in a value of a senders table: commas separate them, but not within quotes.
pub fn addresses(value: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let pieces = value.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    pieces.map(str::trim).filter(|piece| !piece.is_empty())
}

/// The name an addrname table gives to an address: at most 255 bytes, printable.
pub fn addrname(value: &str) -> Option<&str> {
    let fits = !value.is_empty() && value.len() <= 255;
    (fits && value.bytes().all(|b| b.is_ascii_graphic())).then_some(value)
}

/// An address of a source table: IPv4, or IPv6 with or without brackets and `ipv6:`.
pub fn source(key: &str) -> Option<IpAddr> {
    let inside = match key.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None => key,
    };
    let tagged = literal::strip_tag(inside);
    let text = tagged.unwrap_or(inside);
    let addr: IpAddr = text.split('%').next()?.parse().ok()?;
    let only_v6 = tagged.is_some() || key.starts_with('[');
    (addr.is_ipv6() || !only_v6).then_some(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    // table(5), userinfo tables: uid, gid and home directory separated by colons.
    #[test]
    fn userinfo_has_three_fields() {
        let bob = userinfo("bob", "1000:100:/home/bob").unwrap();
        assert_eq!((bob.uid, bob.gid), (1000, 100));
        assert_eq!(bob.home, PathBuf::from("/home/bob"));
        assert_eq!(userinfo("x", "1:2:").unwrap().home, PathBuf::new());
        assert_eq!(userinfo("x", "1:2:a:b").unwrap().home, PathBuf::from("a:b"));
        for bad in [
            "",
            "1",
            "1:2",
            "a:2:/",
            "-1:2:/",
            "+1:2:/",
            "4294967296:1:/",
            ":1:/",
        ] {
            assert_eq!(userinfo("x", bad), None, "{bad}");
        }
    }

    // table(5), credentials tables: user and password separated by a colon.
    #[test]
    fn credentials_are_a_user_and_a_secret() {
        for (value, user, secret) in [
            ("bob:pass word", "bob", "pass word"),
            ("bob:a:b", "bob", "a:b"),
            ("$2b$10$hash", "key", "$2b$10$hash"),
        ] {
            let found = credentials("key", value).unwrap();
            assert_eq!((found.user.as_str(), found.secret.reveal()), (user, secret));
        }
        let long = "x".repeat(2048);
        for bad in ["", "ab", ":secret", "user:", &long] {
            assert_eq!(credentials("key", bad), None, "{bad}");
        }
        let shown = format!("{:?}", credentials("key", "bob:hidden"));
        assert!(!shown.contains("hidden"), "{shown}");
    }

    // table(5), source tables: one address per line.
    #[test]
    fn sources_are_addresses() {
        for (text, addr) in [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[ipv6:2001:db8::1]", "2001:db8::1"),
            ("fe80::1%em0", "fe80::1"),
        ] {
            assert_eq!(source(text).unwrap().to_string(), addr);
        }
        for bad in ["", "host", "[192.0.2.1]", "10.0.0.0/8", "[::1"] {
            assert_eq!(source(bad), None, "{bad}");
        }
    }

    // table(5), senders tables.
    #[test]
    fn addresses_are_separated_by_commas() {
        let found: Vec<&str> = addresses("a@b , @c,,\"d,e\"@f").collect();
        assert_eq!(found, ["a@b", "@c", "\"d,e\"@f"]);
    }

    // table(5), addrname tables.
    #[test]
    fn names_of_addresses_are_host_names() {
        assert_eq!(addrname("mx.example.org"), Some("mx.example.org"));
        for bad in ["", "a b", &"x".repeat(256)] {
            assert_eq!(addrname(bad), None, "{bad}");
        }
    }
}

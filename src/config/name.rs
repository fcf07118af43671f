//! The server's name, and the short name of a host.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use crate::sys::errno::strerror;
use crate::sys::hostname;
use crate::util::Line;

use super::limits;

/// The host has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoServerName;

impl fmt::Display for NoServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("machine does not have a hostname set")
    }
}

impl std::error::Error for NoServerName {}

/// The server's name: the first line of the file `mailname`; else the host's name when it is
/// qualified; else the canonical name that the resolver has for it; else the bare host name.
pub fn server_name(mailname: &Path) -> Result<Line, NoServerName> {
    let first_line = fs::read(mailname).ok().and_then(|text| usable(&text));
    first_line
        .or_else(from_host)
        .and_then(|name| Line::new(&name).ok())
        .ok_or(NoServerName)
}

/// What is wrong with the server's name: the file that should say it does not, or other hosts will
/// not take it for one of theirs.
pub fn name_warning(mailname: &Path) -> Option<String> {
    let name = server_name(mailname).ok()?;
    let file = mailname.display();
    let unusable = match fs::read(mailname) {
        Ok(text) => usable(&text)
            .is_none()
            .then(|| "the first line is no host name".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(strerror(&error)),
    };
    if let Some(why) = unusable {
        return Some(format!("{file}: {why}: the server name is {name}"));
    }
    let is_full = name.trim_matches('.').contains('.');
    (!is_full).then(|| {
        format!(
            "server name {name} has no domain, and other hosts may refuse mail from it: put the \
             full name of this host into {file}"
        )
    })
}

fn from_host() -> Option<String> {
    let host = hostname::get().ok().and_then(|n| usable(n.as_bytes()))?;
    if host.contains('.') {
        return Some(host);
    }
    let canonical = hostname::canonical(&host).and_then(|n| usable(n.as_bytes()));
    Some(canonical.unwrap_or(host))
}

/// A first line that can be a host name. Anything else is ignored rather than announced.
fn usable(text: &[u8]) -> Option<String> {
    let line = text.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let fits = !line.is_empty() && line.len() <= limits::HOST_NAME_BYTES;
    let in_names = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_[]:".contains(byte);
    let clean = line.iter().all(in_names);
    (fits && clean).then(|| String::from_utf8_lossy(line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // smtpd.conf(5), FILES: the first line of mailname is the server name.
    #[test]
    fn mailname_wins_and_odd_ones_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mailname");
        std::fs::write(&path, "mx.example.org \nother\n").unwrap();
        assert_eq!(server_name(&path).unwrap().as_str(), "mx.example.org");
        for odd in [&b"\nmx"[..], b"a b\n", b"\xff\n", &[b'x'; 300]] {
            assert_eq!(usable(odd), None);
            std::fs::write(&path, odd).unwrap();
            assert_eq!(server_name(&path), server_name(Path::new("/nonexistent")));
        }
    }

    #[test]
    fn a_name_that_other_hosts_will_not_like_is_warned_of() {
        // smtpd(8), FILES: mailname.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mailname");
        let warning = |text: &str| {
            std::fs::write(&path, text).unwrap();
            name_warning(&path).unwrap_or_default()
        };
        assert_eq!(warning("mx.example.org\n"), "");
        let no_domain = "server name mx has no domain, and other hosts may refuse mail from it";
        assert!(warning("mx\n").starts_with(no_domain));
        assert!(warning("mx.\n").contains("has no domain"));
        for odd in [
            "",
            "\nmx.example.org\n",
            "<mx.example.org>\n",
            "two words\n",
        ] {
            assert!(warning(odd).contains("mailname: the first line is no host name: the server"));
        }
    }
}

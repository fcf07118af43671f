//! The command line of smtp(1).

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use getopts::{Options, ParsingStyle};

use crate::client::{Credentials, Protocol, Tls};
use crate::mail::MailAddr;
use crate::sys::errno::strerror;
use crate::sys::{hostname, open, user};
use crate::util::Line;

const USAGE: &str = "usage: smtp [-Chnv] [-a authfile] [-F from] [-H helo] [-s server] [-T params] \
                     [recipient ...]";

/// The command line, understood.
#[derive(Debug)]
pub struct Asked {
    /// `-a`, or the server's.
    pub credentials: Option<Credentials>,
    /// `-F`.
    pub sender: MailAddr,
    /// `-H`.
    pub helo: Line,
    /// `-n`.
    pub only_connect: bool,
    pub server: Server,
    /// `-S`, `-T servername=`.
    pub server_name: Option<String>,
    /// Not `-C`, not `-T noverify`.
    pub verify: bool,
    /// `-T cafile=`.
    pub ca: Option<PathBuf>,
    /// `-T ciphers=`.
    pub ciphers: Option<String>,
    /// `-T protocols=`.
    pub protocols: Option<String>,
    /// How often `-v`.
    pub verbose: usize,
    pub recipients: Vec<Line>,
}

/// The server of `-s [proto://][user:pass@]host[:port]`.
#[derive(Debug, PartialEq)]
pub struct Server {
    pub protocol: Protocol,
    /// Whether and when it is encrypted.
    pub tls: Tls,
    /// Who we log in as.
    pub credentials: Option<Credentials>,
    /// A name, or an address in brackets.
    pub host: Line,
    pub port: u16,
}

impl Asked {
    /// Reads it; the error is all that standard error is told.
    pub fn parse(args: &[OsString]) -> Result<Asked, String> {
        let mut options = Options::new();
        options.parsing_style(ParsingStyle::StopAtFirstFree);
        for flag in ["C", "h", "n", "v"] {
            options.optflagmulti(flag, "", "");
        }
        for letter in ["a", "F", "H", "s", "S", "T"] {
            options.optmulti(letter, "", "", "");
        }
        let wrong = |text: &dyn std::fmt::Display| format!("smtp: {text}");
        let found = options
            .parse(args)
            .map_err(|error| format!("smtp: {error}\n{USAGE}"))?;
        if found.opt_present("h") {
            return Err(USAGE.to_owned());
        }
        let last = |letter: &str| found.opt_strs(letter).pop();
        let server = last("s").unwrap_or_else(|| String::from("smtp://localhost:25"));
        let mut server = Server::parse(&server).map_err(|text| wrong(&text))?;
        let own = server.credentials.take();
        let credentials = match last("a") {
            Some(path) => Some(credentials_of(Path::new(&path)).map_err(|text| wrong(&text))?),
            None => own,
        };
        if credentials.is_some() && server.tls == Tls::IfOffered {
            // Nobody else is to read them.
            server.tls = Tls::Required;
        }
        let mut asked = Asked {
            credentials,
            sender: sender(last("F")).map_err(|text| wrong(&text))?,
            helo: helo(last("H")).map_err(|text| wrong(&text))?,
            only_connect: found.opt_present("n"),
            server,
            server_name: last("S"),
            verify: !found.opt_present("C"),
            ca: None,
            ciphers: None,
            protocols: None,
            verbose: found.opt_count("v"),
            recipients: lines(&found.free).map_err(|text| wrong(&text))?,
        };
        for list in found.opt_strs("T") {
            for word in list.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
                asked.tls_option(word).map_err(|text| wrong(&text))?;
            }
        }
        if asked.recipients.is_empty() && !asked.only_connect {
            let name = login().ok_or_else(|| wrong(&"no recipient, and you have no name"))?;
            asked.recipients.push(name);
        }
        Ok(asked)
    }

    /// Whose certificate is wanted.
    pub fn server_name(&self) -> &str {
        self.server_name.as_deref().unwrap_or(&self.server.host)
    }

    fn tls_option(&mut self, word: &str) -> Result<(), String> {
        let invalid = || format!("invalid TLS option \"{word}\"");
        match word.split_once('=') {
            None if word == "noverify" => self.verify = false,
            Some(("cafile", file)) => self.ca = Some(PathBuf::from(file)),
            Some(("ciphers", ciphers)) => self.ciphers = Some(ciphers.to_owned()),
            Some(("protocols", protocols)) => self.protocols = Some(protocols.to_owned()),
            Some(("servername", name)) => self.server_name = Some(name.to_owned()),
            _ => return Err(invalid()),
        }
        Ok(())
    }
}

impl Server {
    /// Reads a server; the error says what is wrong with it.
    pub fn parse(url: &str) -> Result<Server, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("smtp", url));
        let (protocol, tls, port) = match scheme.to_ascii_lowercase().as_str() {
            "smtp" => (Protocol::Smtp, Tls::IfOffered, 25),
            "smtp+tls" => (Protocol::Smtp, Tls::Required, 25),
            "smtp+notls" => (Protocol::Smtp, Tls::Never, 25),
            "smtps" => (Protocol::Smtp, Tls::OnConnect, 465),
            "lmtp" | "lmtp+notls" => (Protocol::Lmtp, Tls::Never, 25),
            "lmtp+tls" => return Err(String::from("lmtp+tls: there is no TLS in LMTP")),
            other => return Err(format!("invalid url scheme {other}")),
        };
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(credentials(login)?), rest),
            None => (None, rest),
        };
        let end = if rest.starts_with('[') {
            rest.find(']').map_or(rest.len(), |at| at + 1)
        } else {
            rest.find(':').unwrap_or(rest.len())
        };
        let (host, rest) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let port = match rest.strip_prefix(':') {
            Some(digits) => digits.parse().ok().filter(|port| *port > 0),
            None if rest.is_empty() => Some(port),
            None => None,
        };
        let port = port.ok_or_else(|| format!("invalid server {url}"))?;
        let host = Line::new(host).ok().filter(|host| !host.is_empty());
        Ok(Server {
            protocol,
            tls,
            credentials,
            host: host.ok_or_else(|| format!("invalid server {url}"))?,
            port,
        })
    }
}

/// `user:password`.
fn credentials(text: &str) -> Result<Credentials, String> {
    let parts = text.split_once(':').and_then(|(user, password)| {
        let (user, password) = (Line::new(user).ok()?, Line::new(password).ok()?);
        (!user.is_empty() && !password.is_empty()).then_some(Credentials { user, password })
    });
    parts.ok_or_else(|| String::from("invalid credentials"))
}

/// The first line is the user, the second the password.
fn credentials_of(path: &Path) -> Result<Credentials, String> {
    let wrong = |error: std::io::Error| format!("{}: {}", path.display(), strerror(&error));
    let file = open::plain(path).map_err(wrong)?;
    let mut lines = BufReader::new(file.take(4096)).lines();
    let mut next = || lines.next().unwrap_or(Ok(String::new())).map_err(wrong);
    let (user, password) = (next()?, next()?);
    credentials(&format!("{user}:{password}"))
        .ok()
        .filter(|_| !user.contains(':'))
        .ok_or_else(|| String::from("invalid credentials"))
}

fn sender(from: Option<String>) -> Result<MailAddr, String> {
    let Some(from) = from else {
        let name = login().unwrap_or_default();
        return MailAddr::new(&name, "").map_err(|_| String::from("invalid sender"));
    };
    let (user, domain) = from.rsplit_once('@').unwrap_or((&from, ""));
    MailAddr::new(user, domain).map_err(|_| format!("invalid sender \"{from}\""))
}

fn helo(name: Option<String>) -> Result<Line, String> {
    match name {
        Some(name) => Line::new(&name).map_err(|_| String::from("invalid name for EHLO")),
        None => hostname::get()
            .map(|name| Line::sanitize(name.as_bytes()))
            .map_err(|error| format!("gethostname: {error}")),
    }
}

fn login() -> Option<Line> {
    let user = user::by_uid(user::effective_uid()).ok()??;
    Line::new(&user.name).ok()
}

fn lines(words: &[String]) -> Result<Vec<Line>, String> {
    let line = |word: &String| Line::new(word).map_err(|_| format!("invalid recipient {word:?}"));
    words.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Asked, String> {
        Asked::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_server_is_a_url() {
        // smtp(1), -s.
        let server = Server::parse("smtps://bob:se:cret@mx.example.org").unwrap();
        assert_eq!((server.tls, server.port), (Tls::OnConnect, 465));
        assert_eq!(server.host.as_str(), "mx.example.org");
        assert_eq!(server.credentials.unwrap().password.as_str(), "se:cret");
        let server = Server::parse("[::1]:2525").unwrap();
        assert_eq!((server.tls, server.port), (Tls::IfOffered, 2525));
        assert_eq!(server.host.as_str(), "[::1]");
        let server = Server::parse("lmtp://localhost").unwrap();
        assert_eq!((server.protocol, server.port), (Protocol::Lmtp, 25));
        for wrong in [
            "ftp://x",
            "smtp://bob@x",
            "x:",
            "x:99999",
            "",
            "lmtp+tls://x",
            "[::1]x",
        ] {
            assert!(Server::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            Server::parse("ftp://x").unwrap_err(),
            "invalid url scheme ftp"
        );
    }

    #[test]
    fn credentials_ask_for_tls() {
        let asked = parse(&["-s", "bob:secret@mx", "al@example.org"]).unwrap();
        assert_eq!(asked.server.tls, Tls::Required);
        assert_eq!(asked.recipients.len(), 1);
        assert!(asked.verify && asked.server_name() == "mx");
    }

    #[test]
    fn tls_options_are_a_list() {
        let asked = parse(&["-T", "noverify,servername=mx cafile=/x", "-vv", "-n"]).unwrap();
        assert!(!asked.verify && asked.server_name() == "mx" && asked.only_connect);
        assert_eq!((asked.ca, asked.verbose), (Some(PathBuf::from("/x")), 2));
        assert_eq!(
            parse(&["-T", "x"]).unwrap_err(),
            "smtp: invalid TLS option \"x\""
        );
        assert!(parse(&["-h"]).unwrap_err().starts_with("usage: smtp "));
        assert!(parse(&["-x"]).unwrap_err().ends_with(USAGE));
    }
}

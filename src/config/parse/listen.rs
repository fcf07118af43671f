//! `listen on`.

use crate::config::ast::{Body, FilterRef, ListenKind, ListenOption, Text, Verify};
use crate::config::diagnostic::TokenPosition;
use crate::config::lexer::Token;

use super::{Abort, Parsed, Parser};

const SOCKET_OPTIONS: &[&str] = &["filter", "mask-src", "no-dsn", "tag"];

const OPTIONS: &[&str] = &[
    "filter",
    "mask-src",
    "no-dsn",
    "tag",
    "inet4",
    "inet6",
    "port",
    "smtps",
    "tls",
    "tls-require",
    "ciphers",
    "protocols",
    "pki",
    "ca",
    "auth",
    "auth-optional",
    "hostname",
    "hostnames",
    "received-auth",
    "proxy-v2",
    "senders",
];

impl Parser<'_> {
    pub(super) fn listen(&mut self) -> Parsed<Body> {
        self.expect("on")?;
        if self.accept("socket") {
            return Ok(Body::ListenSocket(self.listen_options(SOCKET_OPTIONS)?));
        }
        let (token, at) = self.peek();
        if matches!(token, Token::Punct(b'*') | Token::Keyword("any")) {
            let text = "syntax error: expected an interface, an address, a host name or \
                        \"socket\"; for every address, listen on 0.0.0.0 and on ::";
            self.diagnostics.error(at, text);
            return Err(Abort);
        }
        let on = self.string("an interface, an address, a host name or \"socket\"")?;
        Ok(Body::Listen(on, self.listen_options(OPTIONS)?))
    }

    pub(super) fn filter_ref(&mut self) -> Parsed<FilterRef> {
        if self.accept_punct(b'{') {
            return Ok(FilterRef::Chain(self.braced_names("the name of a filter")?));
        }
        Ok(FilterRef::Named(self.string("the name of a filter")?))
    }

    fn listen_options(&mut self, words: &[&'static str]) -> Parsed<Vec<ListenOption>> {
        let mut options = Vec::new();
        while let Some((word, at)) = self.option(words)? {
            let kind = self.listen_option(word)?;
            options.push(ListenOption { at, kind });
        }
        Ok(options)
    }

    fn listen_option(&mut self, word: &'static str) -> Parsed<ListenKind> {
        Ok(match word {
            "filter" => ListenKind::Filter(self.filter_ref()?),
            "mask-src" => ListenKind::MaskSrc,
            "no-dsn" => ListenKind::NoDsn,
            "tag" => ListenKind::Tag(self.string("a tag")?),
            "inet4" => ListenKind::Inet4,
            "inet6" => ListenKind::Inet6,
            "port" => self.port()?,
            "smtps" => ListenKind::Smtps(self.verify()),
            "tls" => ListenKind::Tls,
            "tls-require" => ListenKind::TlsRequire(self.verify()),
            "ciphers" => ListenKind::Ciphers(self.string("a cipher list")?),
            "protocols" => ListenKind::Protocols(self.string("a protocol list")?),
            "pki" => ListenKind::Pki(self.string("the name of a pki entry")?),
            "ca" => ListenKind::Ca(self.string("the name of a ca entry")?),
            "auth" => ListenKind::Auth(self.optional_table_ref()?),
            "auth-optional" => ListenKind::AuthOptional(self.optional_table_ref()?),
            "hostname" => ListenKind::Hostname(self.string("a host name")?),
            "hostnames" => ListenKind::Hostnames(self.table_ref()?),
            "received-auth" => ListenKind::ReceivedAuth,
            "proxy-v2" => ListenKind::ProxyV2(if self.accept("from") {
                Some(self.table_ref()?)
            } else {
                None
            }),
            _ => {
                let table = self.table_ref()?;
                ListenKind::Senders(table, self.accept("masquerade"))
            }
        })
    }

    fn verify(&mut self) -> Verify {
        if self.accept("verify") {
            Verify::Yes
        } else {
            Verify::No
        }
    }

    fn port(&mut self) -> Parsed<ListenKind> {
        let (token, at) = self.peek();
        match token {
            Token::Number(_) => Ok(ListenKind::PortNumber(self.number("a port")?)),
            Token::Keyword(word @ ("smtp" | "smtps")) => {
                self.take();
                Ok(named(word, at))
            }
            _ => Ok(ListenKind::PortName(
                self.string("a port number or the name of a service")?,
            )),
        }
    }
}

fn named(word: &str, at: TokenPosition) -> ListenKind {
    ListenKind::PortName(Text {
        value: word.to_owned(),
        at,
    })
}

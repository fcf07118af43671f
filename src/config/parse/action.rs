//! `action`.

use crate::config::ast::{
    ActionText, Body, LocalKind, LocalMethod, LocalOption, MethodText, RelayKind, RelayOption,
    Verify,
};
use crate::config::diagnostic::TokenPosition;
use crate::config::lexer::Token;

use super::{Parsed, Parser, Wanted};

const METHODS: &[&str] = &[
    "mbox",
    "maildir",
    "lmtp",
    "mda",
    "relay",
    "forward-only",
    "expand-only",
];

const LOCAL_OPTIONS: &[&str] = &["user", "alias", "virtual", "userbase", "wrapper", "ttl"];

const RELAY_OPTIONS: &[&str] = &[
    "helo",
    "helo-src",
    "pki",
    "ca",
    "ciphers",
    "protocols",
    "src",
    "mail-from",
    "backup",
    "host",
    "domain",
    "tls",
    "auth",
    "filter",
    "srs",
    "ttl",
];

impl Parser<'_> {
    pub(super) fn action(&mut self) -> Parsed<Body> {
        let name = self.string("the name of an action")?;
        let (word, method_at) = self.one_of(METHODS)?;
        let mut ttl = Vec::new();
        let mut ttl_at = None;
        let method = if word == "relay" {
            let mut options = Vec::new();
            while let Some((word, at)) = self.option(RELAY_OPTIONS)? {
                if word == "ttl" {
                    ttl_at = Some(at);
                    break;
                }
                let kind = self.relay_option(word)?;
                options.push(RelayOption { at, kind });
            }
            MethodText::Relay(options)
        } else {
            let method = self.local_method(word)?;
            let mut options = Vec::new();
            while let Some((word, at)) = self.option(LOCAL_OPTIONS)? {
                if word == "ttl" {
                    ttl_at = Some(at);
                    break;
                }
                let kind = self.local_option(word)?;
                options.push(LocalOption { at, kind });
            }
            MethodText::Local(method, options)
        };
        while ttl_at.is_some() {
            ttl.push(self.delay()?);
            ttl_at = self.another_ttl()?;
        }
        Ok(Body::Action(ActionText {
            name,
            method_at,
            method,
            ttl,
        }))
    }

    fn another_ttl(&mut self) -> Parsed<Option<TokenPosition>> {
        let (token, at) = self.peek();
        match token {
            Token::Keyword("ttl") => {
                self.take();
                Ok(Some(at))
            }
            Token::Newline | Token::Eof => Ok(None),
            other => {
                let expected = "the end of the line: \"ttl\" is the last option";
                Err(self.unexpected(&other, at, expected, Wanted::End))
            }
        }
    }

    fn local_method(&mut self, word: &'static str) -> Parsed<LocalMethod> {
        Ok(match word {
            "mbox" => LocalMethod::Mbox,
            "maildir" => {
                let path = self.optional_string();
                LocalMethod::Maildir(path, self.accept("junk"))
            }
            "lmtp" => {
                let dest = self.string("host:port or the path of a socket")?;
                LocalMethod::Lmtp(dest, self.accept("rcpt-to"))
            }
            "mda" => LocalMethod::Mda(self.string("a command")?),
            "forward-only" => LocalMethod::ForwardOnly,
            _ => LocalMethod::ExpandOnly,
        })
    }

    fn local_option(&mut self, word: &'static str) -> Parsed<LocalKind> {
        Ok(match word {
            "user" => LocalKind::User(self.string("the name of a user")?),
            "alias" => LocalKind::Alias(self.table_ref()?),
            "virtual" => LocalKind::Virtual(self.table_ref()?),
            "userbase" => LocalKind::Userbase(self.table_ref()?),
            _ => LocalKind::Wrapper(self.string("the name of a wrapper")?),
        })
    }

    fn relay_option(&mut self, word: &'static str) -> Parsed<RelayKind> {
        Ok(match word {
            "helo" => RelayKind::Helo(self.string("a host name")?),
            "helo-src" => RelayKind::HeloSrc(self.table_ref()?),
            "pki" => RelayKind::Pki(self.string("the name of a pki entry")?),
            "ca" => RelayKind::Ca(self.string("the name of a ca entry")?),
            "ciphers" => RelayKind::Ciphers(self.string("a cipher list")?),
            "protocols" => RelayKind::Protocols(self.string("a protocol list")?),
            "src" => RelayKind::Src(self.table_ref()?),
            "mail-from" => RelayKind::MailFrom(self.string("an address")?),
            "backup" => RelayKind::Backup(if self.accept("mx") {
                Some(self.string("the name of a mail exchanger")?)
            } else {
                None
            }),
            "host" => RelayKind::Host(self.table_ref()?),
            "domain" => RelayKind::Domain(self.table_ref()?),
            "tls" => RelayKind::Tls(if self.accept("no-verify") {
                Verify::No
            } else {
                Verify::Yes
            }),
            "auth" => RelayKind::Auth(self.table_ref()?),
            "filter" => RelayKind::Filter(self.filter_ref()?),
            _ => RelayKind::Srs,
        })
    }
}

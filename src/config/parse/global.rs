//! Directives that set something for the whole daemon.

use crate::config::ast::{Body, Limit, MtaLimit, Size, Text};
use crate::config::lexer::Token;

use super::{Abort, Parsed, Parser, Wanted};

impl Parser<'_> {
    pub(super) fn bounce(&mut self) -> Parsed<Body> {
        self.expect("warn-interval")?;
        let mut delays = vec![self.delay()?];
        while self.accept_punct(b',') {
            delays.push(self.delay()?);
        }
        Ok(Body::BounceWarn(delays))
    }

    pub(super) fn mda(&mut self) -> Parsed<Body> {
        match self.one_of(&["limit", "wrapper"])?.0 {
            "limit" => Ok(Body::MdaLimit(self.limits()?)),
            _ => Ok(Body::MdaWrapper(
                self.string("the name of a wrapper")?,
                self.string("a command")?,
            )),
        }
    }

    pub(super) fn mta(&mut self) -> Parsed<Body> {
        if self.one_of(&["limit", "max-deferred"])?.0 == "max-deferred" {
            return Ok(Body::MtaMaxDeferred(self.number("a number")?));
        }
        let domain = if self.accept("for") {
            self.expect("domain")?;
            Some(self.string("a domain")?)
        } else {
            None
        };
        let mut limits = Vec::new();
        loop {
            if self.accept("inet4") {
                limits.push(MtaLimit::Inet4);
            } else if self.accept("inet6") {
                limits.push(MtaLimit::Inet6);
            } else if let Some(key) = self.optional_string() {
                limits.push(MtaLimit::Limit(self.limit(key)?));
            } else {
                return Ok(Body::MtaLimit(domain, limits));
            }
        }
    }

    pub(super) fn queue(&mut self) -> Parsed<Body> {
        match self.one_of(&["compression", "encryption", "ttl"])?.0 {
            "compression" => Ok(Body::QueueCompression),
            "encryption" => {
                let at = self.peek().1;
                if self.accept("key") {
                    let text = "syntax error: write the key without \"key\" in front of it";
                    self.diagnostics.error(at, text);
                    return Err(Abort);
                }
                Ok(Body::QueueEncryption(self.optional_string()))
            }
            _ => Ok(Body::QueueTtl(self.delay()?)),
        }
    }

    pub(super) fn scheduler(&mut self) -> Parsed<Body> {
        self.expect("limit")?;
        Ok(Body::SchedulerLimit(self.limits()?))
    }

    pub(super) fn smtp(&mut self) -> Parsed<Body> {
        let words = ["limit", "ciphers", "max-message-size", "sub-addr-delim"];
        Ok(match self.one_of(&words)?.0 {
            "limit" if self.accept("bypass") => Body::SmtpLimitBypass(self.table_ref()?),
            "limit" => Body::SmtpLimit(self.limits()?),
            "ciphers" => Body::SmtpCiphers(self.string("a cipher list")?),
            "max-message-size" => Body::SmtpMaxMessageSize(self.size()?),
            _ => Body::SmtpSubAddrDelim(self.string("a character")?),
        })
    }

    pub(super) fn srs(&mut self) -> Parsed<Body> {
        if self.one_of(&["key", "ttl"])?.0 == "ttl" {
            return Ok(Body::SrsTtl(self.delay()?));
        }
        if self.accept("backup") {
            return Ok(Body::SrsKeyBackup(self.string("a secret")?));
        }
        Ok(Body::SrsKey(self.string("a secret")?))
    }

    pub(super) fn delay(&mut self) -> Parsed<Text> {
        self.string_as(
            "a delay, a number directly followed by s, m, h or d",
            Wanted::Delay,
        )
    }

    fn size(&mut self) -> Parsed<Size> {
        if let Token::Number(_) = self.peek().0 {
            return Ok(Size::Bytes(self.number("a size")?));
        }
        Ok(Size::Scaled(self.string("a size, such as 35M")?))
    }

    fn limits(&mut self) -> Parsed<Vec<Limit>> {
        let mut limits = Vec::new();
        while let Some(key) = self.optional_string() {
            limits.push(self.limit(key)?);
        }
        Ok(limits)
    }

    fn limit(&mut self, key: Text) -> Parsed<Limit> {
        let value = self.number("a number")?;
        Ok(Limit { key, value })
    }
}

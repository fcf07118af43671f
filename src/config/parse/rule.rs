//! `match`.

use crate::config::ast::{Body, CriterionKind, CriterionText, MatchText};
use crate::config::lexer::Token;

use super::{Parsed, Parser, Wanted};

const CRITERIA: &[&str] = &[
    "tag",
    "helo",
    "mail-from",
    "rcpt-to",
    "tls",
    "auth",
    "from",
    "for",
];

const ENDS: &[&str] = &["action", "reject", "filter"];
const WITH_FILTER: &[&str] = &["action"];

impl Parser<'_> {
    pub(super) fn rule(&mut self) -> Parsed<Body> {
        let mut criteria = Vec::new();
        let mut filters = Vec::new();
        loop {
            let negated = self.accept_punct(b'!');
            let (token, at) = self.peek();
            match token {
                Token::Keyword(word) if CRITERIA.contains(&word) => {
                    self.take();
                    let kind = self.criterion(word)?;
                    criteria.push(CriterionText { at, negated, kind });
                }
                Token::Keyword("filter") if !negated => {
                    self.take();
                    filters.push((at, self.filter_ref()?));
                }
                // Whom it matches nobody has to filter.
                Token::Keyword("reject") if !negated && filters.is_empty() => {
                    self.take();
                    return Ok(Body::Match(MatchText {
                        criteria,
                        filters,
                        action: None,
                    }));
                }
                Token::Keyword("action") if !negated => {
                    self.take();
                    let action = Some(self.string("the name of an action")?);
                    return Ok(Body::Match(MatchText {
                        criteria,
                        filters,
                        action,
                    }));
                }
                other if negated => {
                    return Err(self.unexpected(
                        &other,
                        at,
                        "a criterion after \"!\"",
                        Wanted::Words(CRITERIA),
                    ));
                }
                other => {
                    let (ends, expected) = if filters.is_empty() {
                        (ENDS, "a criterion, \"action\" or \"reject\"")
                    } else {
                        (WITH_FILTER, "a criterion or \"action\"")
                    };
                    let words: Vec<&str> = CRITERIA.iter().chain(ends).copied().collect();
                    return Err(self.unexpected(&other, at, expected, Wanted::Words(&words)));
                }
            }
        }
    }

    fn criterion(&mut self, word: &'static str) -> Parsed<CriterionKind> {
        Ok(match word {
            "tag" => CriterionKind::Tag(self.pattern()?),
            "helo" => CriterionKind::Helo(self.pattern()?),
            "mail-from" => CriterionKind::MailFrom(self.pattern()?),
            "rcpt-to" => CriterionKind::RcptTo(self.pattern()?),
            "tls" => CriterionKind::Tls,
            "auth" => CriterionKind::Auth(self.optional_pattern()?),
            "from" => self.from()?,
            _ => self.for_()?,
        })
    }

    fn from(&mut self) -> Parsed<CriterionKind> {
        let words = ["any", "local", "socket", "src", "rdns", "auth", "mail-from"];
        Ok(match self.one_of(&words)?.0 {
            "any" => CriterionKind::FromAny,
            "local" => CriterionKind::FromLocal,
            "socket" => CriterionKind::FromSocket,
            "src" => CriterionKind::FromSrc(self.pattern()?),
            "rdns" => CriterionKind::FromRdns(self.optional_pattern()?),
            "auth" => CriterionKind::FromAuth(self.optional_pattern()?),
            _ => CriterionKind::FromMailFrom(self.pattern()?),
        })
    }

    fn for_(&mut self) -> Parsed<CriterionKind> {
        Ok(
            match self.one_of(&["any", "local", "domain", "rcpt-to"])?.0 {
                "any" => CriterionKind::ForAny,
                "local" => CriterionKind::ForLocal,
                "domain" => CriterionKind::ForDomain(self.pattern()?),
                _ => CriterionKind::ForRcptTo(self.pattern()?),
            },
        )
    }
}

//! `pki`, `ca` and `proc`.

use crate::config::ast::{Body, PkiOption, ProcOption, ProcOptionKind, Text};
use crate::config::lexer::Token;
use crate::config::model::OnFailure;

use super::{Parsed, Parser, Wanted, choice};

impl Parser<'_> {
    pub(super) fn ca(&mut self) -> Parsed<Body> {
        let name = self.string("the name of a certificate authority")?;
        self.expect("cert")?;
        Ok(Body::Ca(name, self.string("the path of a file")?))
    }

    pub(super) fn pki(&mut self) -> Parsed<Body> {
        let name = self.string("the name of a pki entry")?;
        let mut options = Vec::new();
        while let Some((word, _)) = self.option(&["cert", "key", "dhe"])? {
            options.push(match word {
                "cert" => PkiOption::Cert(self.string("the path of a file")?),
                "key" => PkiOption::Key(self.string("the path of a file")?),
                _ => PkiOption::Dhe(
                    self.string_as("\"none\", \"legacy\" or \"auto\"", Wanted::Literal)?,
                ),
            });
        }
        Ok(Body::Pki(name, options))
    }

    pub(super) fn proc(&mut self) -> Parsed<Body> {
        let name = self.string("the name of a processor")?;
        let command = self.string("a command")?;
        Ok(Body::Proc(name, command, self.proc_options()?))
    }

    pub(super) fn proc_options(&mut self) -> Parsed<Vec<ProcOption>> {
        let mut options = Vec::new();
        while let Some((word, at)) = self.option(&["user", "group", "chroot", "on"])? {
            let kind = match word {
                "user" => ProcOptionKind::User,
                "group" => ProcOptionKind::Group,
                "chroot" => ProcOptionKind::Chroot,
                _ => {
                    let value = self.on_failure()?;
                    let kind = ProcOptionKind::OnFailure;
                    options.push(ProcOption { kind, value, at });
                    continue;
                }
            };
            let value = self.string("a name or path")?;
            options.push(ProcOption { kind, value, at });
        }
        Ok(options)
    }

    /// `failure` and what is then done, behind `on`. These words are no reserved ones, but for
    /// those that are.
    fn on_failure(&mut self) -> Parsed<Text> {
        let (token, at) = self.peek();
        match token {
            Token::Word(word) if word == "failure" => self.take(),
            other => {
                return Err(self.unexpected(
                    &other,
                    at,
                    "\"failure\"",
                    Wanted::Words(&["failure"]),
                ));
            }
        };
        let (token, at) = self.peek();
        let words = OnFailure::ALL.map(OnFailure::word);
        let found = match &token {
            Token::Word(word) | Token::Quoted(word) => {
                words.into_iter().find(|known| known == word)
            }
            Token::Keyword(word) => words.into_iter().find(|known| known == word),
            _ => None,
        };
        let Some(word) = found else {
            return Err(self.unexpected(&token, at, &choice(&words), Wanted::Words(&words)));
        };
        self.take();
        let value = word.to_owned();
        Ok(Text { value, at })
    }
}

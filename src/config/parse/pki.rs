//! `pki`, `ca` and `proc`.

use crate::config::ast::{Body, PkiOption, ProcOption, ProcOptionKind};

use super::{Parsed, Parser};

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
                _ => PkiOption::Dhe(self.string("\"none\", \"legacy\" or \"auto\"")?),
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
        while let Some((word, at)) = self.option(&["user", "group", "chroot"])? {
            let kind = match word {
                "user" => ProcOptionKind::User,
                "group" => ProcOptionKind::Group,
                _ => ProcOptionKind::Chroot,
            };
            let value = self.string("a name or path")?;
            options.push(ProcOption { kind, value, at });
        }
        Ok(options)
    }
}

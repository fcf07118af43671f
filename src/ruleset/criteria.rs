//! One function per criterion: yes, no, or an error of a table.

use crate::config::{Criterion, Pattern, Test};
use crate::mail::{Facts, MailAddr, Peer};
use crate::table::{TableError, Tables};

use super::Origin;

/// Everything that criteria look at.
pub struct Question<'q> {
    /// Where to look things up.
    pub tables: &'q Tables,
    /// The session and the sender.
    pub facts: &'q Facts,
    /// The address that is judged.
    pub dest: &'q MailAddr,
    /// Where that address comes from.
    pub origin: Origin,
}

/// What a criterion says before it is negated.
enum Answer {
    Yes,
    No,
    /// The rule does not hold, negated or not: there is nothing to compare.
    Never,
}

type Answered = Result<Answer, TableError>;

fn answer(yes: bool) -> Answered {
    Ok(if yes { Answer::Yes } else { Answer::No })
}

impl Question<'_> {
    /// Whether a criterion holds, negation included.
    pub fn holds(&self, criterion: &Criterion) -> Result<bool, TableError> {
        Ok(match self.ask(&criterion.test)? {
            Answer::Yes => !criterion.negated,
            Answer::No => criterion.negated,
            Answer::Never => false,
        })
    }

    fn ask(&self, test: &Test) -> Answered {
        match test {
            Test::Tag(pattern) => self.tag(pattern),
            Test::FromAny | Test::ForAny => answer(true),
            Test::FromLocal => self.local_source(),
            Test::FromSocket => self.socket_source(),
            Test::FromSrc(pattern) => self.source_address(pattern),
            Test::FromRdns(pattern) => self.source_name(pattern.as_ref()),
            Test::ForLocal => self.for_local(),
            Test::ForDomain(pattern) => self.for_domain(pattern),
            Test::Helo(pattern) => self.helo(pattern),
            Test::Auth(pattern) => self.auth(pattern.as_ref()),
            Test::Tls => answer(self.facts.tls),
            Test::MailFrom(pattern) => self.address(pattern, &self.facts.sender),
            Test::RcptTo(pattern) => self.address(pattern, self.dest),
        }
    }

    fn tag(&self, pattern: &Pattern) -> Answered {
        let tag = self.facts.tag.as_deref().unwrap_or_default();
        answer(match pattern.regex {
            true => self.tables.regex(&pattern.table, tag)?,
            false => self.tables.string(&pattern.table, tag)?,
        })
    }

    /// The source that rules see: what expansion has made comes from here.
    fn source(&self) -> &Peer {
        match self.origin {
            Origin::Client => &self.facts.peer,
            Origin::Internal => &Peer::Local,
        }
    }

    fn local_source(&self) -> Answered {
        answer(self.tables.netaddr("<localhost>", self.source())?)
    }

    fn socket_source(&self) -> Answered {
        match self.origin {
            Origin::Client => answer(self.facts.peer == Peer::Local),
            Origin::Internal => Ok(Answer::Never),
        }
    }

    fn source_address(&self, pattern: &Pattern) -> Answered {
        let source = self.source();
        answer(match pattern.regex {
            true => self.tables.regex(&pattern.table, &source.to_string())?,
            false => self.tables.netaddr(&pattern.table, source)?,
        })
    }

    fn source_name(&self, pattern: Option<&Pattern>) -> Answered {
        let name = match (self.origin, pattern) {
            (Origin::Internal, None) => return Ok(Answer::Never),
            (Origin::Internal, Some(_)) => Some("local"),
            (Origin::Client, _) => self.facts.rdns.as_deref(),
        };
        match (name, pattern) {
            (name, None) => answer(name.is_some()),
            (None, Some(_)) => Ok(Answer::Never),
            (Some(name), Some(pattern)) => self.host(pattern, name),
        }
    }

    fn for_local(&self) -> Answered {
        answer(self.tables.domain("<localnames>", self.dest.domain())?)
    }

    fn for_domain(&self, pattern: &Pattern) -> Answered {
        self.host(pattern, self.dest.domain())
    }

    fn helo(&self, pattern: &Pattern) -> Answered {
        self.host(pattern, &self.facts.helo)
    }

    fn host(&self, pattern: &Pattern, name: &str) -> Answered {
        answer(match pattern.regex {
            true => self.tables.regex(&pattern.table, name)?,
            false => self.tables.domain(&pattern.table, name)?,
        })
    }

    /// A user name that is an address is compared like one.
    fn auth(&self, pattern: Option<&Pattern>) -> Answered {
        let Some(pattern) = pattern else {
            return answer(self.facts.authenticated);
        };
        let user = match &self.facts.username {
            Some(user) if self.facts.authenticated => user,
            _ => return answer(false),
        };
        if pattern.regex {
            return answer(self.tables.regex(&pattern.table, user)?);
        }
        match MailAddr::from_stored(user) {
            Some(address) => answer(self.tables.mailaddr(&pattern.table, &address)?),
            None => answer(self.tables.string(&pattern.table, user)?),
        }
    }

    fn address(&self, pattern: &Pattern, address: &MailAddr) -> Answered {
        answer(match pattern.regex {
            true => self.tables.regex(&pattern.table, &address.stored())?,
            false => self.tables.mailaddr(&pattern.table, address)?,
        })
    }
}

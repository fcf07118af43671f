//! One function per criterion: yes, no, or an error of a table.

use crate::config::{Criterion, Pattern, Test, built_in};
use crate::mail::{Facts, MailAddr, Peer};
use crate::table::{Service, TableError, Tables};

use super::Origin;
use super::watch::{Lookup, Watch};

/// Everything that criteria look at.
#[derive(Clone, Copy)]
pub struct Question<'q> {
    /// Where to look things up.
    pub tables: &'q Tables,
    /// The session and the sender.
    pub facts: &'q Facts,
    /// The address that is judged.
    pub dest: &'q MailAddr,
    /// Where that address comes from.
    pub origin: Origin,
    /// Who hears of it.
    pub watch: Option<&'q dyn Watch>,
}

/// A question to a table in one of the ways that keys are compared.
type Ask<'a> = &'a dyn Fn(&Tables, &str) -> Result<bool, TableError>;

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
    /// Whether a criterion holds, negation included. What cannot be answered cannot be negated
    /// either.
    pub fn holds(&self, criterion: &Criterion) -> Result<bool, TableError> {
        let holds = self.ask(&criterion.test).map(|answer| match answer {
            Answer::Yes => !criterion.negated,
            Answer::No => criterion.negated,
            Answer::Never => false,
        });
        if let Some(watch) = self.watch {
            watch.criterion(criterion, holds.as_ref().copied());
        }
        holds
    }

    /// Whether a criterion is about a name of the client that nobody could say.
    pub fn is_open(&self, criterion: &Criterion) -> bool {
        let is_name = matches!(criterion.test, Test::FromRdns(_));
        is_name && self.facts.rdns_failed && self.origin == Origin::Client
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
        self.compare(pattern, Service::String, tag, &|tables, table| {
            tables.string(table, tag)
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
        let source = self.source();
        self.look(
            built_in::LOCAL_HOST,
            Service::Netaddr,
            &source.to_string(),
            &|tables, table| tables.netaddr(table, source),
        )
    }

    fn socket_source(&self) -> Answered {
        match self.origin {
            Origin::Client => answer(self.facts.peer == Peer::Local),
            Origin::Internal => Ok(Answer::Never),
        }
    }

    fn source_address(&self, pattern: &Pattern) -> Answered {
        let source = self.source();
        let key = source.to_string();
        self.compare(pattern, Service::Netaddr, &key, &|tables, table| {
            tables.netaddr(table, source)
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
        let domain = self.dest.domain();
        self.look(
            built_in::LOCAL_NAMES,
            Service::Domain,
            domain,
            &|tables, table| tables.domain(table, domain),
        )
    }

    fn for_domain(&self, pattern: &Pattern) -> Answered {
        self.host(pattern, self.dest.domain())
    }

    fn helo(&self, pattern: &Pattern) -> Answered {
        self.host(pattern, &self.facts.helo)
    }

    fn host(&self, pattern: &Pattern, name: &str) -> Answered {
        self.compare(pattern, Service::Domain, name, &|tables, table| {
            tables.domain(table, name)
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
        match MailAddr::from_stored(user) {
            Some(address) => self.address_as(pattern, user, &address),
            None => self.compare(pattern, Service::String, user, &|tables, table| {
                tables.string(table, user)
            }),
        }
    }

    fn address(&self, pattern: &Pattern, address: &MailAddr) -> Answered {
        self.address_as(pattern, &address.stored(), address)
    }

    fn address_as(&self, pattern: &Pattern, text: &str, address: &MailAddr) -> Answered {
        self.compare(pattern, Service::Mailaddr, text, &|tables, table| {
            tables.mailaddr(table, address)
        })
    }

    /// Compares with the entries of a table as `service` does, or with its expressions.
    fn compare(&self, pattern: &Pattern, service: Service, key: &str, ask: Ask<'_>) -> Answered {
        if pattern.regex {
            self.look(&pattern.table, Service::Regex, key, &|tables, table| {
                tables.regex(table, key)
            })
        } else {
            self.look(&pattern.table, service, key, ask)
        }
    }

    fn look(&self, table: &str, service: Service, key: &str, ask: Ask<'_>) -> Answered {
        let found = ask(self.tables, table);
        if let Some(watch) = self.watch {
            watch.lookup(&Lookup::check(service, table, key, &found));
        }
        answer(found?)
    }
}

//! Filters of smtpd.conf(5) themselves: one condition, one decision.

use crate::config::{self, BuiltIn, Condition, Pattern};
use crate::mail::peer::UNKNOWN_NAME;
use crate::mail::{MailAddr, Peer};
use crate::table::{TableError, Tables};
use crate::util::Line;

use super::protocol::{Decision, Phase};

/// What is known of a session when filters are asked.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where the client is.
    pub peer: Peer,
    /// The tag of its listener.
    pub tag: Option<Line>,
    /// Its name, if it has one.
    pub rdns: Option<Line>,
    /// Whether the name leads back to the address; `None` if nobody could say, as nobody could say
    /// the name if there is none.
    pub confirmed: Option<bool>,
    /// What the latest HELO or EHLO said.
    pub helo: Option<Line>,
    /// The user as which it has authenticated.
    pub user: Option<Line>,
    /// What the latest MAIL said between `<` and `>`.
    pub sender: Option<Line>,
    /// What this RCPT says between `<` and `>`.
    pub rcpt: Option<Line>,
}

/// The phase that a filter of the configuration is about.
pub fn phase(of: config::Phase) -> Phase {
    match of {
        config::Phase::Connect => Phase::Connect,
        config::Phase::Helo => Phase::Helo,
        config::Phase::Ehlo => Phase::Ehlo,
        config::Phase::Auth => Phase::Auth,
        config::Phase::MailFrom => Phase::MailFrom,
        config::Phase::RcptTo => Phase::RcptTo,
        config::Phase::Data => Phase::Data,
        config::Phase::Commit => Phase::Commit,
    }
}

/// What a filter decides; to go on where its condition does not hold. A table that cannot be asked
/// decides nothing. Nobody is refused for good because a name server does not answer.
pub fn decide(filter: &BuiltIn, facts: &Facts, tables: &Tables) -> Result<Decision, TableError> {
    if holds(&filter.condition, facts, tables)? == filter.negated {
        return Ok(Decision::Proceed);
    }
    let is_open = is_open(&filter.condition, facts);
    let reply = |text: &Line| match text.starts_with('5') && is_open {
        true => Line::sanitize(b"451 4.7.25 The client's name cannot be looked up now"),
        false => text.clone(),
    };
    Ok(match &filter.decision {
        config::Decision::Reject(text) => Decision::Reject(reply(text)),
        config::Decision::Disconnect(text) => Decision::Disconnect(reply(text)),
        config::Decision::Rewrite(value) => Decision::Rewrite(value.clone()),
        config::Decision::Report(text) => Decision::Report(text.clone()),
        config::Decision::Junk => Decision::Junk,
        config::Decision::Bypass => Decision::Bypass,
    })
}

/// Whether a condition is about what nobody could say of the client.
fn is_open(condition: &Condition, facts: &Facts) -> bool {
    match condition {
        Condition::Fcrdns => facts.confirmed.is_none(),
        Condition::Rdns(_) => facts.confirmed.is_none() && facts.rdns.is_none(),
        _ => false,
    }
}

/// Whether asking it may take its time.
pub fn may_wait(filter: &BuiltIn, tables: &Tables) -> bool {
    let compared = filter.condition.compared();
    compared.is_some_and(|(pattern, _)| tables.may_wait(&pattern.table))
}

/// smtpd.conf(5), MAIL FILTERING.
fn holds(condition: &Condition, facts: &Facts, tables: &Tables) -> Result<bool, TableError> {
    let domain = |pattern: &Pattern, name: &str| {
        if pattern.regex {
            tables.regex(&pattern.table, name)
        } else {
            tables.domain(&pattern.table, name)
        }
    };
    let address = |pattern: &Pattern, text: &Option<Line>| {
        let Some(text) = text else { return Ok(false) };
        if pattern.regex {
            return tables.regex(&pattern.table, text);
        }
        let (user, domain) = text.rsplit_once('@').unwrap_or((text, ""));
        match MailAddr::new(user, domain) {
            Ok(address) => tables.mailaddr(&pattern.table, &address),
            Err(_) => Ok(false),
        }
    };
    match condition {
        Condition::Fcrdns => Ok(facts.confirmed == Some(true)),
        Condition::Rdns(None) => {
            let named = |name: &Line| Peer::parse(name).is_none();
            Ok(facts.rdns.as_ref().is_some_and(named))
        }
        Condition::Rdns(Some(pattern)) => {
            domain(pattern, facts.rdns.as_deref().unwrap_or(UNKNOWN_NAME))
        }
        Condition::Src(pattern) if pattern.regex => {
            tables.regex(&pattern.table, &facts.peer.to_string())
        }
        Condition::Src(pattern) => tables.netaddr(&pattern.table, &facts.peer),
        Condition::Helo(pattern) => match &facts.helo {
            Some(name) => domain(pattern, name),
            None => Ok(false),
        },
        Condition::Auth(None) => Ok(facts.user.is_some()),
        Condition::Auth(Some(pattern)) => match &facts.user {
            Some(user) if pattern.regex => tables.regex(&pattern.table, user),
            Some(user) => tables.string(&pattern.table, user),
            None => Ok(false),
        },
        Condition::MailFrom(pattern) => address(pattern, &facts.sender),
        Condition::RcptTo(pattern) => address(pattern, &facts.rcpt),
    }
}

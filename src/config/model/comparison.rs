//! What is compared with the entries of tables, in rules, filters, and lists of hosts.

use super::{Condition, Config, Filter, Pattern, Position, Test};

/// How the entries of a table are compared with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// They are regular expressions.
    Expression,
    /// They are addresses and networks.
    Network,
    /// They are host names with wildcards.
    Domain,
    /// They are mail addresses.
    Address,
    /// They are names of users.
    User,
    Tag,
}

impl How {
    /// Whether they must be a list; else keys of a mapping will do.
    pub fn takes_list(self) -> bool {
        !matches!(self, How::Address | How::User)
    }
}

/// A table that something is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'c> {
    pub table: &'c str,
    pub how: How,
    /// The directive it is part of, where that is known.
    pub at: Option<&'c Position>,
}

impl Config {
    /// Every comparison there is.
    pub fn comparisons(&self) -> impl Iterator<Item = Comparison<'_>> {
        let of_rules = self.rules.iter().flat_map(|rule| {
            let compared = rule.criteria.iter().filter_map(|c| c.test.compared());
            compared.map(move |(pattern, how)| comparison(pattern, how, Some(&rule.at)))
        });
        let of_filters = self.filters.values().filter_map(|filter| match filter {
            Filter::BuiltIn(filter) => {
                let (pattern, how) = filter.condition.compared()?;
                Some(comparison(pattern, how, None))
            }
            Filter::Proc(_) | Filter::Chain(_) => None,
        });
        let hosts = |table, at| Comparison {
            table,
            how: How::Network,
            at,
        };
        let of_listeners = self.listeners.iter().filter_map(move |listener| {
            let from = listener.proxy_v2.as_ref()?.from.as_deref()?;
            Some(hosts(from, Some(&listener.at)))
        });
        let bypass = self.smtp.bypass.as_deref();
        of_rules
            .chain(of_filters)
            .chain(of_listeners)
            .chain(bypass.map(|table| hosts(table, None)))
    }
}

fn comparison<'c>(pattern: &'c Pattern, how: How, at: Option<&'c Position>) -> Comparison<'c> {
    Comparison {
        table: &pattern.table,
        how: if pattern.regex { How::Expression } else { how },
        at,
    }
}

impl Test {
    /// The table that something is compared with, if there is one, and how without `regex`.
    pub fn compared(&self) -> Option<(&Pattern, How)> {
        match self {
            Test::FromSrc(p) => Some((p, How::Network)),
            Test::FromRdns(Some(p)) | Test::ForDomain(p) | Test::Helo(p) => Some((p, How::Domain)),
            Test::MailFrom(p) | Test::RcptTo(p) => Some((p, How::Address)),
            Test::Auth(Some(p)) => Some((p, How::User)),
            Test::Tag(p) => Some((p, How::Tag)),
            Test::FromAny
            | Test::FromLocal
            | Test::FromSocket
            | Test::FromRdns(None)
            | Test::ForAny
            | Test::ForLocal
            | Test::Auth(None)
            | Test::Tls => None,
        }
    }
}

impl Condition {
    /// The table that something is compared with, if there is one, and how without `regex`.
    pub fn compared(&self) -> Option<(&Pattern, How)> {
        match self {
            Condition::Src(p) => Some((p, How::Network)),
            Condition::Rdns(Some(p)) | Condition::Helo(p) => Some((p, How::Domain)),
            Condition::MailFrom(p) | Condition::RcptTo(p) => Some((p, How::Address)),
            Condition::Auth(Some(p)) => Some((p, How::User)),
            Condition::Fcrdns | Condition::Rdns(None) | Condition::Auth(None) => None,
        }
    }
}

//! Entries of mappings and of lists that are fetched from: what is wrong with them, by the use that
//! is made of the table.
//!
//! A mapping is asked for one key at a time, so an entry that is no good is found out by the mail
//! that needs it. Here it is found when the table is read. It stops nothing: the others are good.

use std::net::IpAddr;

use crate::mail::item::Item;

use super::ere;
use super::relayhost::RelayHost;
use super::specifier::{self, Fault};
use super::table_text::{BadEntry, Entries};
use super::{Config, How, Method, Route, service};

/// What a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Alias,
    Virtual,
    Userbase,
    /// `auth` of an action.
    Credentials,
    /// `src`.
    Source,
    /// `helo-src` and `hostnames`.
    Names,
    /// `domain` of an action.
    Routes,
    /// A criterion, of a rule or a filter, with `regex`.
    Expressions,
}

/// Every use that a configuration makes of a table.
pub fn uses(config: &Config, table: &str) -> Vec<Use> {
    let mut found = Vec::new();
    let mut add = |name: Option<&str>, what: Use| {
        if name == Some(table) && !found.contains(&what) {
            found.push(what);
        }
    };
    for listener in &config.listeners {
        add(listener.hostnames.as_deref(), Use::Names);
    }
    for action in config.actions.values() {
        match &action.method {
            Method::Local(local) => {
                add(local.alias.as_deref(), Use::Alias);
                add(local.virtuals.as_deref(), Use::Virtual);
                add(local.userbase.as_deref(), Use::Userbase);
            }
            Method::Relay(relay) => {
                add(relay.auth.as_deref(), Use::Credentials);
                add(relay.src.as_deref(), Use::Source);
                add(relay.helo_src.as_deref(), Use::Names);
                if let Route::Domain(name) = &relay.route {
                    add(Some(name), Use::Routes);
                }
            }
        }
    }
    for comparison in config.comparisons() {
        if comparison.how == How::Expression {
            add(Some(comparison.table), Use::Expressions);
        }
    }
    found
}

/// What is wrong with the entries of a file table, the first few of them, each with its line.
pub fn complaints(uses: &[Use], text: &[u8]) -> Vec<(u32, String)> {
    let all = Entries::new(text, None).flat_map(|entry| {
        let (line, texts) = match entry {
            Ok(entry) => {
                let wrong = |what: &Use| complaint(*what, entry.key, &entry.value);
                (
                    entry.line,
                    uses.iter().filter_map(wrong).collect::<Vec<_>>(),
                )
            }
            Err(bad) => (bad.line, not_text(&bad).into_iter().collect()),
        };
        texts.into_iter().map(move |text| (line, text))
    });
    all.take(FEW).collect()
}

/// So many entries of a table are complained of.
pub const FEW: usize = 20;

/// What is said of an entry that is not UTF-8 text; of others nothing.
pub fn not_text(bad: &BadEntry<'_>) -> Option<String> {
    match bad.key {
        Some(key) => Some(format!("value of \"{key}\": not UTF-8 text")),
        None if bad.is_left_out() => {
            Some("this entry is left out: it is not UTF-8 text".to_owned())
        }
        None => None,
    }
}

/// What is wrong with an entry of a table that is used so.
pub fn complaint(what: Use, key: &str, value: &str) -> Option<String> {
    let value_of = |why: &str| Some(format!("value of \"{key}\": {why}"));
    match what {
        Use::Alias | Use::Virtual => {
            let never = match what {
                Use::Alias => never_an_alias(key),
                _ => never_virtual(key),
            };
            never.or_else(|| unusable_items(value).and_then(|why| value_of(&why)))
        }
        Use::Userbase if key.contains('@') => never(key, "a user of a userbase has no \"@\""),
        Use::Userbase if service::userinfo(key, value).is_none() => {
            value_of("no user; it is uid:gid:directory, with decimal numbers")
        }
        Use::Credentials if service::credentials(key, value).is_none() => {
            value_of("no credentials; they are user:password")
        }
        Use::Source if service::source(key).is_none() => {
            Some(format!("\"{key}\" is no address to send from"))
        }
        Use::Names if !is_own_address(key) => never(
            key,
            "it is an address of this host, an IPv6 one in brackets",
        ),
        Use::Names if service::addrname(value).is_none() => value_of("no host name"),
        Use::Expressions => ere::translate(key)
            .err()
            .map(|why| format!("regular expression \"{key}\" never matches: {why}")),
        Use::Routes if key.contains(['*', '@']) => {
            never(key, "it is one domain, without \"*\" and \"@\"")
        }
        Use::Routes => match RelayHost::parse(value) {
            Ok(_) => None,
            Err(why) => value_of(&format!("\"{value}\" is no relay host: {why}")),
        },
        _ => None,
    }
}

fn never(key: &str, why: &str) -> Option<String> {
    Some(format!("\"{key}\" never matches; {why}"))
}

fn never_an_alias(key: &str) -> Option<String> {
    if key.contains('@') {
        return never(
            key,
            "an alias is the name in front of the \"@\"; entries with a domain are for virtual",
        );
    }
    never_a_name(key)
}

fn never_virtual(key: &str) -> Option<String> {
    match key.rsplit_once('@') {
        Some(("*", domain)) => never(key, &format!("did you mean \"@{domain}\"?")),
        Some((_, domain)) if domain.contains('*') => {
            never(key, "domains of a virtual table are written out")
        }
        _ => never_a_name(key),
    }
}

fn never_a_name(key: &str) -> Option<String> {
    match key {
        "*" => never(key, "an asterisk is no wildcard here"),
        _ if key.contains(['"', '<', '>']) => {
            never(key, "a key stands without quotes and brackets")
        }
        _ => None,
    }
}

/// Why nobody can be reached by a value of aliases.
fn unusable_items(value: &str) -> Option<String> {
    let items = match Item::list(value) {
        Ok(items) => items,
        Err(bad) => return Some(bad.to_string()),
    };
    if items.is_empty() {
        return Some("it leads to nobody".to_owned());
    }
    items.iter().find_map(|item| match item {
        Item::Pipe(command) => match specifier::check(command, specifier::Use::Command) {
            Err(Fault::Fatal(why)) => Some(why),
            _ => None,
        },
        _ => None,
    })
}

/// An address as a connection's local end is written: `192.0.2.1` or `[2001:db8::1]`.
fn is_own_address(key: &str) -> bool {
    match key.strip_prefix('[').and_then(|key| key.strip_suffix(']')) {
        Some(inside) => {
            let bare = inside.split('%').next().unwrap_or(inside);
            bare.parse::<IpAddr>()
                .is_ok_and(|address| address.is_ipv6())
        }
        None => key.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // table(5): what is no good is warned of with its line, when the table is read again as well.
    #[test]
    fn entries_of_a_file_are_judged_by_the_use_of_the_table() {
        let text = b"team : bob\nlist: <bob@example.org>\nbad: a@b_c\nx@y: bob,\n\tcarol\n";
        let found = complaints(&[Use::Alias], text);
        let lines: Vec<u32> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [3, 4], "{found:?}");
        assert_eq!(complaints(&[Use::Virtual], text).len(), 1);
        assert!(complaints(&[], text).is_empty());
        let found = complaints(&[], b"a: b\nc: \xe9\n\xe9: d\n");
        let left_out = "this entry is left out: it is not UTF-8 text";
        let unreadable = "value of \"c\": not UTF-8 text";
        assert_eq!(
            found,
            [(2, unreadable.to_owned()), (3, left_out.to_owned())]
        );
        let many = "x: <\n".repeat(1000);
        assert_eq!(complaints(&[Use::Alias], many.as_bytes()).len(), 20);
    }

    #[test]
    fn every_use_of_a_table_is_seen() {
        let text = "table t { a = b }\naction l mbox alias <t> userbase <t>\n\
                    action r relay domain <t> auth <t> src <t> helo-src <t>\n\
                    action v maildir virtual <t>\nmatch helo regex { \"a\" } action l\n\
                    filter f phase helo match helo regex { \"b\" } reject \"550 no\"\n";
        let sources = super::super::Sources::from_text("t", text, &[]);
        let defaults = super::super::Defaults {
            server_name: crate::util::Line::new("mx.example.org").unwrap(),
            addresses: Vec::new(),
        };
        let config = super::super::load(&sources, &defaults).unwrap().config;
        assert_eq!(uses(&config, "t").len(), 7);
        assert_eq!(uses(&config, "<dynamic:0>"), [Use::Expressions]);
        assert_eq!(uses(&config, "<dynamic:1>"), [Use::Expressions]);
    }
}

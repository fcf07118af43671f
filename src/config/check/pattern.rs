//! Tables that something is compared with: whether they can be, and entries that are wrong or can
//! never match.

use crate::config::ast::PatternText;
use crate::config::diagnostic::TokenPosition;
use crate::config::entries;
use crate::config::model::{Pattern, TableSource};
use crate::config::netaddr::Network;
use crate::config::relayhost::RelayHost;
use crate::config::table_text::Entries;

use super::Checker;
use super::table::{Service, Takes};

/// What is wrong with an entry: its key and its value.
trait Complaint: Fn(&str, &str) -> Option<String> {}

impl<F: Fn(&str, &str) -> Option<String>> Complaint for F {}

/// An entry with a complaint: file and line where it has one.
type EntryComplaint = (Option<String>, u32, String);

/// Is shown an entry: its file and line if it has them, key and value.
type Show<'s> = &'s mut dyn FnMut(Option<&str>, u32, &str, &str);

impl Checker<'_> {
    /// The table of a criterion; `what` is the criterion's word in messages.
    pub(super) fn pattern(
        &mut self,
        pattern: &PatternText,
        service: Service,
        what: &str,
    ) -> Option<Pattern> {
        let takes = match service {
            Service::Mailaddr if !pattern.regex => Takes::Keys,
            _ => Takes::List,
        };
        let refused = |name: &str| format!("table \"{name}\" may not be used for {what} lookups");
        let table = self.table_for(&pattern.table, takes, service, refused)?;
        let at = pattern.table.at;
        match service {
            _ if pattern.regex => self.entries_of(&table, entries::Use::Expressions, at),
            Service::Netaddr => self.warn_of(&table, at, never_an_address),
            Service::Domain => self.warn_of(&table, at, never_a_domain),
            Service::Mailaddr if what != "auth" => self.warn_of(&table, at, never_a_mailaddr),
            _ => {}
        }
        Some(Pattern {
            table,
            regex: pattern.regex,
        })
    }

    /// Warns of entries that are no relay hosts: mail for them would be refused when it is sent.
    pub(super) fn relay_hosts_of(&mut self, table: &str, at: TokenPosition) {
        self.warn_of(table, at, |key: &str, _: &str| {
            let why = RelayHost::parse(key).err()?;
            Some(format!("\"{key}\" is no relay host: {why}"))
        });
    }

    /// Warns of entries that are no good for what the table is used for.
    pub(super) fn entries_of(&mut self, table: &str, what: entries::Use, at: TokenPosition) {
        self.warn_of(table, at, |key, value| entries::complaint(what, key, value));
    }

    fn warn_of(&mut self, table: &str, at: TokenPosition, complaint: impl Complaint) {
        for (file, line, text) in self.entries_that(table, complaint) {
            let text = file.map_or(text.clone(), |file| format!("{file}:{line}: {text}"));
            self.diagnostics.warning(at, text);
        }
    }

    /// Entries with a complaint, the first few of them.
    fn entries_that(&self, table: &str, complaint: impl Complaint) -> Vec<EntryComplaint> {
        let mut found: Vec<EntryComplaint> = Vec::new();
        self.each_placed_entry(table, &mut |file, line, key, value| {
            if found.len() < entries::FEW
                && let Some(text) = complaint(key, value)
            {
                found.push((file.map(str::to_owned), line, text));
            }
        });
        found
    }

    /// Shows every entry of a table; false if they are not known before it is asked.
    pub(super) fn each_entry(&self, table: &str, show: &mut dyn FnMut(&str, &str)) -> bool {
        self.each_placed_entry(table, &mut |_, _, key, value| show(key, value))
    }

    fn each_placed_entry(&self, table: &str, show: Show<'_>) -> bool {
        match self.config.tables.get(table) {
            Some(TableSource::List(keys)) => {
                keys.iter().for_each(|key| show(None, 0, key, ""));
            }
            Some(TableSource::Map(pairs)) => {
                pairs
                    .iter()
                    .for_each(|(key, value)| show(None, 0, key, value));
            }
            Some(TableSource::File(path)) => {
                let name = path.display().to_string();
                let bytes = self.sources.file(path).unwrap_or_default();
                for entry in Entries::new(bytes, None).filter_map(Result::ok) {
                    show(Some(&name), entry.line, entry.key, &entry.value);
                }
            }
            _ => return false,
        }
        true
    }
}

fn never_an_address(key: &str, _: &str) -> Option<String> {
    let valid = key == "local" || key.contains('%') || Network::parse(key).is_some();
    (!valid).then(|| format!("\"{key}\" is not an address or network, it never matches"))
}

fn never_a_domain(key: &str, _: &str) -> Option<String> {
    let why = if let Some((_, domain)) = key.rsplit_once('@') {
        let hint = match domain {
            "" => String::new(),
            domain => format!("; did you mean \"{domain}\"?"),
        };
        format!("a domain has no \"@\"{hint}")
    } else if let Some(rest) = key.strip_prefix('.') {
        format!("did you mean \"*.{rest}\"?")
    } else if looks_like_an_expression(key) {
        "did you mean regex?".to_owned()
    } else if key.is_empty() || key.contains([' ', '\t', '/']) {
        "it is no domain".to_owned()
    } else {
        return None;
    };
    Some(format!("\"{key}\" never matches; {why}"))
}

fn never_a_mailaddr(key: &str, _: &str) -> Option<String> {
    let (user, domain) = match key.rsplit_once('@') {
        Some((user, domain)) => (user, Some(domain)),
        None => (key, None),
    };
    if key.is_empty() || key == "<>" {
        return Some(format!(
            "\"{key}\" never matches; the empty sender is \"@\""
        ));
    }
    if key.contains(['<', '>', ' ', '\t']) {
        let text = format!("\"{key}\" never matches; addresses stand here without <> and blanks");
        return Some(text);
    }
    if looks_like_an_expression(key) {
        return Some(format!("\"{key}\" never matches; did you mean regex?"));
    }
    if user.contains('*') {
        // A local part may have an asterisk in it, so it is no wildcard here.
        let meant = match domain {
            Some(domain) => format!("@{domain}"),
            None => format!("@{key}"),
        };
        let text = format!("\"*\" is no wildcard in \"{user}\"; did you mean \"{meant}\"?");
        return Some(text);
    }
    match domain {
        Some(domain) if domain.starts_with('.') => Some(format!(
            "\"{key}\" never matches; did you mean \"{user}@*{domain}\"?"
        )),
        None if looks_like_a_domain(user) => Some(format!(
            "\"{key}\" is a user of any domain; did you mean \"@{key}\"?"
        )),
        _ => None,
    }
}

/// An anchor or "anything", which only a regular expression has.
fn looks_like_an_expression(key: &str) -> bool {
    key.starts_with('^') || key.ends_with('$') || key.contains(".*") || key.contains("\\.")
}

/// A local part may have dots in it; few end in one of these.
fn looks_like_a_domain(key: &str) -> bool {
    const TOPS: [&str; 10] = [
        "com", "org", "net", "edu", "gov", "info", "example", "test", "invalid", "local",
    ];
    let top = key.rsplit_once('.').map(|(_, top)| top);
    top.is_some_and(|top| TOPS.iter().any(|known| known.eq_ignore_ascii_case(top)))
}

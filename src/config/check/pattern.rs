//! Tables that something is compared with: whether they can be, and entries that are wrong or can
//! never match.

use crate::config::ast::PatternText;
use crate::config::ere;
use crate::config::lexer::Pos;
use crate::config::model::{Pattern, TableSource};
use crate::config::netaddr::Network;
use crate::config::table_text::Entries;

use super::Checker;
use super::table::{Service, Takes};

/// An entry with a complaint: file and line where it has one.
type Found = (Option<String>, u32, String);

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
            _ if pattern.regex => self.expressions_of(&table, at),
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

    /// Says which entries of a table are not extended regular expressions.
    fn expressions_of(&mut self, table: &str, at: Pos) {
        let complaint = |key: &str| {
            let reason = ere::translate(key).err()?;
            Some(format!("invalid regular expression \"{key}\": {reason}"))
        };
        for (file, line, text) in self.entries_that(table, complaint) {
            match file {
                Some(file) => self.diagnostics.error_in(at, &file, line, text),
                None => self.error(at, text),
            }
        }
    }

    fn warn_of(&mut self, table: &str, at: Pos, complaint: fn(&str) -> Option<String>) {
        for (file, line, text) in self.entries_that(table, complaint) {
            let text = file.map_or(text.clone(), |file| format!("{file}:{line}: {text}"));
            self.diagnostics.warning(at, text);
        }
    }

    /// Entries with a complaint, the first few of them.
    fn entries_that(&self, table: &str, complaint: impl Fn(&str) -> Option<String>) -> Vec<Found> {
        const FEW: usize = 20;
        let inline = |text| (None, 0, text);
        match self.config.tables.get(table) {
            Some(TableSource::List(keys)) => {
                let texts = keys.iter().filter_map(|key| complaint(key));
                texts.map(inline).take(FEW).collect()
            }
            Some(TableSource::Map(pairs)) => {
                let texts = pairs.iter().filter_map(|(key, _)| complaint(key));
                texts.map(inline).take(FEW).collect()
            }
            Some(TableSource::File(path)) => {
                let bytes = self.sources.file(path).unwrap_or_default();
                let entries = Entries::new(bytes, None).filter_map(Result::ok);
                let name = path.display().to_string();
                let found = entries.filter_map(|entry| {
                    let text = complaint(entry.key)?;
                    Some((Some(name.clone()), entry.line, text))
                });
                found.take(FEW).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn never_an_address(key: &str) -> Option<String> {
    let valid = key == "local" || key.contains('%') || Network::parse(key).is_some();
    (!valid).then(|| format!("\"{key}\" is not an address or network, it never matches"))
}

fn never_a_domain(key: &str) -> Option<String> {
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

fn never_a_mailaddr(key: &str) -> Option<String> {
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

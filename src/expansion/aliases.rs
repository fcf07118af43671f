//! Alias and virtual tables, and the files that their values include.

use std::fmt;
use std::path::Path;

use crate::mail::item::{self, Item};
use crate::mail::{MailAddr, Refusal};
use crate::ruleset::watch::{Answer, Lookup};
use crate::table::include::{Author, Included, Includes};
use crate::table::{Service, TableError, Tables};

use super::patience::Patience;
use super::watch::{Event, Watch};
use super::{replies, subaddress};

/// Where values come from.
#[derive(Clone, Copy)]
pub struct Aliases<'w> {
    pub tables: &'w Tables,
    /// Files that values include.
    pub includes: &'w dyn Includes,
    /// Whether they may wait.
    pub patience: &'w Patience,
    /// What starts a sub-address.
    pub delimiter: char,
    /// Who hears of every step.
    pub watch: Option<&'w dyn Watch>,
}

/// What an entry says; `None` when there is no entry.
pub type AliasResult = Result<Option<Vec<Item>>, Refusal>;

impl Aliases<'_> {
    /// The entry of an alias table for a user: with the sub-address first, then without.
    pub fn alias(&self, table: &str, name: &str) -> AliasResult {
        let (user, tag) = subaddress::cut(name, self.delimiter);
        match tag {
            Some(_) => self.first(table, &[name.to_owned(), user.to_owned()]),
            None => self.first(table, &[name.to_owned()]),
        }
    }

    /// The entry of a virtual table for an address; catch-all entries come last.
    pub fn virtual_address(&self, table: &str, address: &MailAddr) -> AliasResult {
        let name = address.user().to_ascii_lowercase();
        let domain = address.domain().to_ascii_lowercase();
        let (user, tag) = subaddress::cut_tag(&name, self.delimiter);
        let tagged = tag.map(|tag| format!("{user}{}{tag}", self.delimiter));
        let mut keys = Vec::new();
        keys.extend(tagged.as_ref().map(|tagged| format!("{tagged}@{domain}")));
        keys.push(format!("{user}@{domain}"));
        keys.extend(tagged);
        keys.push(user.to_owned());
        keys.push(format!("@{domain}"));
        keys.push("@".to_owned());
        self.first(table, &keys)
    }

    /// The entry of a virtual table for a plain name out of another entry.
    pub fn virtual_user(&self, table: &str, name: &str) -> AliasResult {
        let (user, tag) = subaddress::cut_tag(name, self.delimiter);
        let tagged = tag.map(|tag| format!("{user}{}{tag}", self.delimiter));
        let mut keys = Vec::new();
        keys.extend(tagged.as_ref().map(|tagged| format!("{tagged}@")));
        keys.push(format!("{user}@"));
        keys.extend(tagged);
        keys.push(user.to_owned());
        self.first(table, &keys)
    }

    fn first(&self, table: &str, keys: &[String]) -> AliasResult {
        if self.tables.may_wait(table) && self.patience.gives_up() {
            return Err(replies::list_temporary());
        }
        for key in keys {
            let found = self.tables.alias(table, key);
            if let Some(watch) = self.watch {
                watch.lookup(&lookup(table, key, &found));
            }
            match found {
                Ok(None) => {}
                Ok(Some(value)) => return self.value(table, key, &value),
                Err(TableError { text }) => {
                    self.patience.warn(format_args!("{text}"));
                    return Err(replies::list_temporary().because(&text));
                }
            }
        }
        Ok(None)
    }

    /// The items of a value, in the order they are worked on. A value that was nothing but
    /// include files nobody could read counts as no entry.
    fn value(&self, table: &str, key: &str, value: &str) -> AliasResult {
        let mut items = match Item::list(value) {
            Ok(items) => items,
            Err(bad) => {
                let text = format!("table {table}: value of {key}: {bad}");
                self.patience.warn(format_args!("{text}"));
                return Err(replies::list_temporary().because(&text));
            }
        };
        items.sort();
        let mut all = Vec::new();
        let mut unreadable = 0;
        let written = items.len();
        for item in items {
            match item {
                Item::Include(path) => match self.include(&path) {
                    Some(included) => all.extend(included),
                    None => unreadable += 1,
                },
                item => all.push(item),
            }
        }
        let nothing_left = written > 0 && unreadable == written;
        Ok((!nothing_left).then_some(all))
    }

    fn include(&self, path: &Path) -> Option<Vec<Item>> {
        if self.patience.gives_up() {
            return None;
        }
        let name = path.display();
        let Included { bytes, author } = match self.includes.read(path) {
            Ok(included) => included,
            Err(error) => {
                self.warn(format_args!(
                    "failed to open include file \"{name}\": {error}"
                ));
                return None;
            }
        };
        let mut items = Vec::new();
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let number = number + 1;
            let text = String::from_utf8_lossy(line);
            let text = without_comment(&text);
            let listed = match item::split(text) {
                Ok(listed) => listed,
                Err(bad) => {
                    self.warn(format_args!("{name}:{number}: {bad}"));
                    continue;
                }
            };
            for item in listed {
                match Item::classify(&item) {
                    Ok(Item::Include(_)) => self.warn(format_args!(
                        "{name}:{number}: an included file cannot include another"
                    )),
                    Ok(Item::Pipe(_) | Item::File(_)) if author == Author::Anybody => {
                        self.warn(format_args!(
                            "{name}:{number}: only root may name commands and files here"
                        ));
                    }
                    Ok(item) => items.push(item),
                    Err(bad) => self.warn(format_args!("{name}:{number}: {bad}")),
                }
            }
        }
        Some(items)
    }

    /// What is wrong with a file is told to the log, and to whoever asks.
    fn warn(&self, text: fmt::Arguments<'_>) {
        self.patience.warn(text);
        if let Some(watch) = self.watch {
            watch.event(&Event::Warning(text));
        }
    }
}

fn lookup<'l>(
    table: &'l str,
    key: &'l str,
    found: &'l Result<Option<String>, TableError>,
) -> Lookup<'l> {
    Lookup {
        service: Service::Alias,
        table,
        key,
        answer: match found {
            Ok(Some(value)) => Answer::Found(Some(value)),
            Ok(None) => Answer::NotFound,
            Err(error) => Answer::Failed(error),
        },
    }
}

/// A hash mark at the start of a line or behind a blank starts a comment, outside quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match c {
            '"' if quote == Some(c) => quote = None,
            '"' if quote.is_none() && before != '\\' => quote = Some(c),
            '#' if quote.is_none() && before.is_ascii_whitespace() => {
                return line.get(..at).unwrap_or(line);
            }
            _ => {}
        }
        before = c;
    }
    line
}

//! Rules as text again. Every string is quoted, so no word is taken for another.

#[cfg(any(test, feature = "fuzzing"))]
mod statements;

use super::ast::{CriterionKind, FilterRef, MatchText, PatternText, TableValue, Text};

#[cfg(any(test, feature = "fuzzing"))]
pub use statements::print;

/// The text of a `match` rule on one line.
pub fn rule(rule: &MatchText) -> String {
    let mut out = Printer::default();
    out.rule(rule);
    out.text
}

#[derive(Default)]
struct Printer {
    text: String,
}

impl Printer {
    fn rule(&mut self, rule: &MatchText) {
        self.word("match");
        for criterion in &rule.criteria {
            self.negation(criterion.negated);
            self.criterion(&criterion.kind);
        }
        for (_, filter) in &rule.filters {
            self.filter_ref(filter);
        }
        match &rule.action {
            Some(action) => self.pair("action", action),
            None => self.word("reject"),
        }
    }

    fn criterion(&mut self, kind: &CriterionKind) {
        match kind {
            CriterionKind::Tag(p) => self.pattern("tag", Some(p)),
            CriterionKind::Helo(p) => self.pattern("helo", Some(p)),
            CriterionKind::MailFrom(p) => self.pattern("mail-from", Some(p)),
            CriterionKind::RcptTo(p) => self.pattern("rcpt-to", Some(p)),
            CriterionKind::Tls => self.word("tls"),
            CriterionKind::Auth(p) => self.pattern("auth", p.as_ref()),
            CriterionKind::FromSocket => self.word("from socket"),
            CriterionKind::FromLocal => self.word("from local"),
            CriterionKind::FromAny => self.word("from any"),
            CriterionKind::FromSrc(p) => self.pattern("from src", Some(p)),
            CriterionKind::FromRdns(p) => self.pattern("from rdns", p.as_ref()),
            CriterionKind::FromAuth(p) => self.pattern("from auth", p.as_ref()),
            CriterionKind::FromMailFrom(p) => self.pattern("from mail-from", Some(p)),
            CriterionKind::ForLocal => self.word("for local"),
            CriterionKind::ForAny => self.word("for any"),
            CriterionKind::ForDomain(p) => self.pattern("for domain", Some(p)),
            CriterionKind::ForRcptTo(p) => self.pattern("for rcpt-to", Some(p)),
        }
    }

    fn filter_ref(&mut self, filter: &FilterRef) {
        match filter {
            FilterRef::Named(name) => self.pair("filter", name),
            FilterRef::Chain(names) => {
                self.word("filter");
                self.braced(names);
            }
        }
    }

    fn pattern(&mut self, word: &str, pattern: Option<&PatternText>) {
        self.word(word);
        if let Some(pattern) = pattern {
            if pattern.regex {
                self.word("regex");
            }
            self.table(&pattern.table.value);
        }
    }

    fn table(&mut self, value: &TableValue) {
        match value {
            TableValue::One(text) => self.string(text),
            TableValue::List(values) => self.braced(values),
            TableValue::Map(pairs) => {
                self.word("{");
                for (index, (key, value)) in pairs.iter().enumerate() {
                    self.comma(index);
                    self.string(key);
                    self.word("=");
                    self.string(value);
                }
                self.word("}");
            }
            TableValue::Named(name) => {
                self.word("<");
                self.text.push_str(&quote(&name.value));
                self.text.push('>');
            }
        }
    }

    fn braced(&mut self, texts: &[Text]) {
        self.word("{");
        self.listed(texts);
        self.word("}");
    }

    fn listed(&mut self, texts: &[Text]) {
        for (index, text) in texts.iter().enumerate() {
            self.comma(index);
            self.string(text);
        }
    }

    fn comma(&mut self, index: usize) {
        if index > 0 {
            self.text.push(',');
        }
    }

    fn negation(&mut self, negated: bool) {
        if negated {
            self.word("!");
        }
    }

    fn pair(&mut self, word: &str, text: &Text) {
        self.word(word);
        self.string(text);
    }

    fn word(&mut self, word: &str) {
        self.blank();
        self.text.push_str(word);
    }

    fn string(&mut self, text: &Text) {
        self.blank();
        let quoted = quote(&text.value);
        self.text.push_str(&quoted);
    }

    fn blank(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push(' ');
        }
    }
}

/// A string as the lexer reads it back. In quotes a backslash stays what it is unless a quote or
/// a blank follows; at the end of a line it joins lines, which is how a string can end in one.
fn quote(value: &str) -> String {
    let mut out = String::from('"');
    let mut before = '"';
    for c in value.chars() {
        if c == '"' || (matches!(c, ' ' | '\t') && before == '\\') {
            out.push('\\');
        }
        out.push(c);
        before = c;
    }
    if before == '\\' {
        out.push_str("\\\n");
    }
    out.push('"');
    out
}

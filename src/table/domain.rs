//! Comparison of host names with patterns, and sets of patterns.
//!
//! A `*` in front of a dot stands for one label: `*.example.org` takes `a.example.org` and neither
//! `example.org` nor `a.b.example.org`. Elsewhere it stands for any run, at the end of a pattern
//! for one that is not empty. Case does not matter.

use std::collections::HashSet;

/// Whether `name` is what `pattern` describes.
pub fn matches(name: &str, pattern: &str) -> bool {
    if !pattern.contains('*') {
        return name.eq_ignore_ascii_case(pattern);
    }
    let tokens = tokens(pattern);
    // One pass over the name with the set of positions in the pattern that can be reached:
    // the time is bounded by the product of both lengths.
    let mut reached = vec![false; tokens.len() + 1];
    if let Some(start) = reached.first_mut() {
        *start = true;
    }
    skip_empty(&tokens, &mut reached);
    for byte in name.bytes() {
        let mut next = vec![false; tokens.len() + 1];
        for (at, token) in tokens.iter().enumerate() {
            if !reached.get(at).copied().unwrap_or(false) {
                continue;
            }
            let (stay, advance) = match token {
                Token::Byte(wanted) => (false, wanted.eq_ignore_ascii_case(&byte)),
                Token::Label => (byte != b'.', false),
                Token::Run => (true, false),
                Token::End => (true, true),
            };
            set(&mut next, at, stay);
            set(&mut next, at + 1, advance);
        }
        skip_empty(&tokens, &mut next);
        reached = next;
    }
    reached.last().copied().unwrap_or(false)
}

enum Token {
    /// This byte.
    Byte(u8),
    /// `*` in front of a dot: anything but a dot.
    Label,
    /// `*` in front of something else: anything.
    Run,
    /// `*` at the end: anything, but something.
    End,
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut bytes = pattern.bytes().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'*' {
            tokens.push(Token::Byte(byte));
            continue;
        }
        match bytes.peek() {
            Some(b'*') => {}
            Some(b'.') => tokens.push(Token::Label),
            Some(_) => tokens.push(Token::Run),
            None => tokens.push(Token::End),
        }
    }
    tokens
}

/// A label or run may be empty: what is behind it is reached as well.
fn skip_empty(tokens: &[Token], reached: &mut [bool]) {
    for (at, token) in tokens.iter().enumerate() {
        let here = reached.get(at).copied().unwrap_or(false);
        set(
            reached,
            at + 1,
            here && matches!(token, Token::Label | Token::Run),
        );
    }
}

fn set(reached: &mut [bool], at: usize, value: bool) {
    if let Some(slot) = reached.get_mut(at) {
        *slot |= value;
    }
}

/// Many patterns, asked at once. Names without `*`, and patterns of the form `*.name`, are found
/// in one step each; what is left is compared one by one.
#[derive(Debug, Default)]
pub struct DomainSet {
    names: HashSet<Box<str>>,
    under: HashSet<Box<str>>,
    patterns: Vec<Box<str>>,
}

impl DomainSet {
    /// Adds a pattern, which is in lower case.
    pub fn insert(&mut self, pattern: &str) {
        if !pattern.contains('*') {
            self.names.insert(pattern.into());
            return;
        }
        match pattern.strip_prefix("*.") {
            Some(rest) if !rest.contains('*') => {
                self.under.insert(rest.into());
            }
            _ => self.patterns.push(pattern.into()),
        }
    }

    /// Whether any pattern matches; `name` is in lower case.
    pub fn contains(&self, name: &str) -> bool {
        let under = |(_, rest): (&str, &str)| self.under.contains(rest);
        self.names.contains(name)
            || name.split_once('.').is_some_and(under)
            || self.patterns.iter().any(|pattern| matches(name, pattern))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORY: &[(&str, &str, bool)] = &[
        ("a.example.org", "*.example.org", true),
        ("A.Example.ORG", "*.eXample.org", true),
        ("a.b.example.org", "*.example.org", false),
        ("a.b.org", "*.*.org", true),
        ("a.b.c.org", "*.*.org", false),
        ("example.org", "*.example.org", false),
        (".example.org", "*.example.org", true),
        ("a.example.org", "*example.org", true),
        ("example.org", "*example.org", true),
        ("eexample.org", "*example.org", true),
        ("foo", "f*o", true),
        ("foo", "f**o", true),
        ("mail.", "mail.*", false),
        ("mail.x", "mail.*", true),
        ("mail.x.y", "mail.*", true),
        ("anything", "*", true),
        ("", "*", false),
        ("", "", true),
        ("a", "", false),
        ("*", "a", false),
        ("aXbXc", "a*b*c", true),
        ("aXbX", "a*b*c", false),
    ];

    // table(5), domain tables: the wildcard stands for one label in front of a dot.
    #[test]
    fn one_pattern() {
        for (name, pattern, yes) in STORY {
            assert_eq!(matches(name, pattern), *yes, "{name} {pattern}");
        }
    }

    #[test]
    fn a_set_says_what_its_patterns_say() {
        for (name, pattern, yes) in STORY {
            let mut set = DomainSet::default();
            set.insert(&pattern.to_ascii_lowercase());
            let name = name.to_ascii_lowercase();
            assert_eq!(set.contains(&name), *yes, "{name} {pattern}");
        }
    }

    #[test]
    fn many_stars_take_no_more_time_than_one() {
        let pattern = "*a".repeat(500);
        let name = "a".repeat(400);
        assert!(!matches(&name, &pattern));
    }
}

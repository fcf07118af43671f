//! Comparison of host names with patterns, one by one and all of a table.
//!
//! A `*` in front of a dot stands for one label: `*.example.org` takes `a.example.org` and neither
//! `example.org` nor `a.b.example.org`. Elsewhere it stands for any run, at the end of a pattern
//! for one that is not empty. Case does not matter.

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

/// Asks a table whether it has a key.
pub type Has<'h> = &'h dyn Fn(&str) -> Result<bool, String>;

/// What cannot be found in a table by a key: patterns other than `*.name`.
#[derive(Debug, Default)]
pub struct DomainPatterns {
    odd: Vec<Box<str>>,
}

impl DomainPatterns {
    /// Looks at a key of the table.
    pub fn learn(&mut self, key: &str) {
        if is_odd(key) {
            self.odd.push(key.into());
        }
    }

    /// Whether a key of the table matches: the name itself, `*` in place of its first label, or
    /// one of the other patterns, which are compared one by one.
    pub fn contains(&self, name: &str, has: Has<'_>) -> Result<bool, String> {
        if has(name)? {
            return Ok(true);
        }
        if let Some(parent) = one_label_up(name)
            && has(&parent)?
        {
            return Ok(true);
        }
        Ok(self.odd.iter().any(|pattern| matches(name, pattern)))
    }
}

/// Whether a pattern has to be compared, because no key that is asked for will be equal to it.
pub fn is_odd(pattern: &str) -> bool {
    pattern.strip_prefix("*.").unwrap_or(pattern).contains('*')
}

/// The pattern `*.name` that holds a name.
pub fn one_label_up(name: &str) -> Option<String> {
    let (_, parent) = name.split_once('.')?;
    Some(format!("*.{parent}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::dice::Dice;

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
    fn a_table_says_what_its_patterns_say() {
        for (name, pattern, yes) in STORY {
            let mut patterns = DomainPatterns::default();
            patterns.learn(pattern);
            let has = |key: &str| Ok(key.eq_ignore_ascii_case(pattern));
            assert_eq!(patterns.contains(name, &has), Ok(*yes), "{name} {pattern}");
        }
    }

    // A name may hold an asterisk too: what is found by its key is what the comparison finds.
    #[test]
    fn keys_and_comparison_agree() {
        let mut dice = Dice::new(1);
        let mut text = |most: usize| -> String {
            (0..dice.roll(most))
                .map(|_| char::from(b"a.*b"[dice.roll(4)]))
                .collect()
        };
        for _ in 0..20_000 {
            let (name, pattern) = (text(7), text(6));
            let mut patterns = DomainPatterns::default();
            patterns.learn(&pattern);
            let has = |key: &str| Ok(key == pattern);
            let found = patterns.contains(&name, &has);
            assert_eq!(found, Ok(matches(&name, &pattern)), "{name} {pattern}");
        }
    }

    #[test]
    fn many_stars_take_no_more_time_than_one() {
        let pattern = "*a".repeat(500);
        let name = "a".repeat(400);
        assert!(!matches(&name, &pattern));
    }
}

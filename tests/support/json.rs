//! JSON (RFC 8259), read strictly: what programs of ours write is held against it.

#![allow(dead_code)]

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads one value and nothing more.
    pub fn parse(text: &str) -> Result<Json, String> {
        let mut reader = Reader { rest: text };
        let value = reader.value(0)?;
        reader.blanks();
        if reader.rest.is_empty() {
            Ok(value)
        } else {
            Err(reader.wrong("something follows"))
        }
    }

    /// The value of a key of an object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(pairs) => pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// A text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The values of this key, wherever it stands.
    pub fn all<'j>(&'j self, key: &str, found: &mut Vec<&'j Json>) {
        match self {
            Json::Object(pairs) => {
                for (k, value) in pairs {
                    if k == key {
                        found.push(value);
                    }
                    value.all(key, found);
                }
            }
            Json::List(values) => values.iter().for_each(|value| value.all(key, found)),
            _ => {}
        }
    }
}

struct Reader<'t> {
    rest: &'t str,
}

/// How deep values may lie in each other.
const DEPTH: usize = 64;

impl Reader<'_> {
    fn wrong(&self, what: &str) -> String {
        format!("{what} at {:.40}", self.rest)
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn takes(&mut self, token: &str) -> bool {
        self.blanks();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json, String> {
        if depth > DEPTH {
            return Err(self.wrong("too deep"));
        }
        for (word, value) in [
            ("null", Json::Null),
            ("true", Json::Bool(true)),
            ("false", Json::Bool(false)),
        ] {
            if self.takes(word) {
                return Ok(value);
            }
        }
        if self.takes("\"") {
            return Ok(Json::Text(self.string()?));
        }
        if self.takes("[") {
            let mut values = Vec::new();
            while !self.takes("]") {
                if !values.is_empty() && !self.takes(",") {
                    return Err(self.wrong("no comma"));
                }
                values.push(self.value(depth + 1)?);
            }
            return Ok(Json::List(values));
        }
        if self.takes("{") {
            let mut pairs: Vec<(String, Json)> = Vec::new();
            while !self.takes("}") {
                if !pairs.is_empty() && !self.takes(",") || !self.takes("\"") {
                    return Err(self.wrong("no comma or no key"));
                }
                let key = self.string()?;
                if pairs.iter().any(|(known, _)| *known == key) || !self.takes(":") {
                    return Err(self.wrong("a key twice, or no colon"));
                }
                let value = self.value(depth + 1)?;
                pairs.push((key, value));
            }
            return Ok(Json::Object(pairs));
        }
        let is_number = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
        let end = self.rest.find(|c| !is_number(c)).unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        let value = number.parse().map_err(|_| self.wrong("no value"))?;
        self.rest = rest;
        Ok(Json::Number(value))
    }

    /// What stands behind the first quote.
    fn string(&mut self) -> Result<String, String> {
        let mut out = String::new();
        let mut chars = self.rest.chars();
        loop {
            match chars.next() {
                Some('"') => break,
                Some('\\') => out.push(match chars.next() {
                    Some(c @ ('"' | '\\' | '/')) => c,
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some('b') => '\u{8}',
                    Some('f') => '\u{c}',
                    Some('u') => {
                        let hex: String = chars.by_ref().take(4).collect();
                        let code = u32::from_str_radix(&hex, 16).map_err(|_| self.wrong("\\u"))?;
                        char::from_u32(code).unwrap_or('\u{fffd}')
                    }
                    _ => return Err(self.wrong("a bad escape")),
                }),
                Some(c) if !c.is_control() => out.push(c),
                _ => return Err(self.wrong("a text that does not end, or a control character")),
            }
        }
        self.rest = chars.as_str();
        Ok(out)
    }
}

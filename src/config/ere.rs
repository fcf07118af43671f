//! POSIX extended regular expressions, put into the words of the regex crate.
//!
//! smtpd.conf(5) promises extended regular expressions. What they mean is kept exactly; what has
//! no equal in linear time (back references, collating elements) is refused with the reason.

/// Translates one pattern. The result is for a search without anchors, without regard to case.
pub fn translate(pattern: &str) -> Result<String, String> {
    let pattern = pattern.strip_prefix("(?i)").unwrap_or(pattern);
    let mut reader = Reader {
        rest: pattern.chars().collect(),
        at: 0,
        open: 0,
    };
    let mut out = String::from("(?i)");
    reader.alternatives(&mut out)?;
    match reader.peek() {
        None => Ok(out),
        Some(c) => Err(format!("unexpected \"{c}\"")),
    }
}

struct Reader {
    rest: Vec<char>,
    at: usize,
    open: usize,
}

/// Deeper nesting than anybody writes by hand.
const DEPTH: usize = 50;

impl Reader {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn accept(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += 1;
        }
        found
    }

    fn alternatives(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            while !matches!(self.peek(), None | Some('|' | ')')) {
                self.piece(out)?;
            }
            if !self.accept('|') {
                break;
            }
            out.push('|');
        }
        if self.peek() == Some(')') && self.open == 0 {
            return Err("\")\" without \"(\"".to_owned());
        }
        Ok(())
    }

    /// An atom and what repeats it. A second repetition is of the first one's whole, never the
    /// regex crate's lazy or possessive form.
    fn piece(&mut self, out: &mut String) -> Result<(), String> {
        let mut piece = String::new();
        self.atom(&mut piece)?;
        let mut repeated = 0;
        while let Some(count) = self.repetition()? {
            repeated += 1;
            if repeated > DEPTH {
                return Err("too many repetitions".to_owned());
            }
            piece = format!("(?:{piece}){count}");
        }
        out.push_str(&piece);
        Ok(())
    }

    fn atom(&mut self, out: &mut String) -> Result<(), String> {
        match self.next() {
            Some('(') => {
                self.open += 1;
                if self.open > DEPTH {
                    return Err("nested too deeply".to_owned());
                }
                if self.peek() == Some('?') {
                    return Err("\"(?\" is not part of extended regular expressions".to_owned());
                }
                out.push_str("(?:");
                self.alternatives(out)?;
                if !self.accept(')') {
                    return Err("\"(\" without \")\"".to_owned());
                }
                self.open -= 1;
                out.push(')');
            }
            Some('[') => self.bracket(out)?,
            Some('\\') => self.escape(out)?,
            Some('^') => out.push_str("(?:^)"),
            Some('$') => out.push_str("(?:$)"),
            Some('.') => out.push('.'),
            Some(c @ ('*' | '+' | '?')) => {
                return Err(format!("nothing in front of \"{c}\" to repeat"));
            }
            Some('{') if self.peek().is_some_and(|c| c.is_ascii_digit()) => {
                return Err("nothing in front of \"{\" to repeat".to_owned());
            }
            Some(c) => literal(c, out),
            None => return Err("unexpected end".to_owned()),
        }
        Ok(())
    }

    fn repetition(&mut self) -> Result<Option<String>, String> {
        if let Some(c @ ('*' | '+' | '?')) = self.peek() {
            self.at += 1;
            return Ok(Some(c.to_string()));
        }
        let digit_or_comma = |c: &char| c.is_ascii_digit() || *c == ',';
        if self.peek() != Some('{') || !self.rest.get(self.at + 1).is_some_and(digit_or_comma) {
            return Ok(None);
        }
        self.at += 1;
        let low = self.count()?;
        let text = if self.accept(',') {
            match self.count()? {
                Some(high) if low.unwrap_or(0) > high => {
                    return Err("the bounds of \"{\" are in the wrong order".to_owned());
                }
                Some(high) => format!("{{{},{high}}}", low.unwrap_or(0)),
                None => format!("{{{},}}", low.unwrap_or(0)),
            }
        } else {
            format!("{{{}}}", low.unwrap_or(0))
        };
        if !self.accept('}') {
            return Err("\"{\" without \"}\"".to_owned());
        }
        Ok(Some(text))
    }

    fn count(&mut self) -> Result<Option<u32>, String> {
        let mut count = None;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(10)) {
            self.at += 1;
            let value = count.unwrap_or(0) * 10 + digit;
            if value > 255 {
                return Err("at most 255 repetitions can be asked for".to_owned());
            }
            count = Some(value);
        }
        Ok(count)
    }

    fn escape(&mut self, out: &mut String) -> Result<(), String> {
        let Some(c) = self.next() else {
            return Err("backslash at the end".to_owned());
        };
        let mapped = match c {
            'w' => "[0-9A-Za-z_]",
            'W' => "[^0-9A-Za-z_]",
            's' => "[\\x09-\\x0d\\x20]",
            'S' => "[^\\x09-\\x0d\\x20]",
            'b' => "(?-u:\\b)",
            'B' => "(?-u:\\B)",
            '<' => "(?-u:\\b{start})",
            '>' => "(?-u:\\b{end})",
            '`' => "\\A",
            '\'' => "\\z",
            '1'..='9' => return Err(format!("back references (\"\\{c}\") are not available")),
            'd' => {
                return Err(
                    "\"\\d\" is not part of extended regular expressions, write [0-9]".to_owned(),
                );
            }
            _ if c.is_ascii_alphanumeric() => {
                return Err(format!(
                    "\"\\{c}\" is not part of extended regular expressions"
                ));
            }
            _ => {
                literal(c, out);
                return Ok(());
            }
        };
        out.push_str(mapped);
        Ok(())
    }

    /// `[…]`: a backslash is itself, `]` first is itself, and the regex crate's set operations
    /// are kept from being seen.
    fn bracket(&mut self, out: &mut String) -> Result<(), String> {
        const OPEN: &str = "\"[\" without \"]\"";
        out.push('[');
        if self.accept('^') {
            out.push('^');
        }
        let mut first = true;
        loop {
            let c = self.next().ok_or(OPEN)?;
            match c {
                ']' if !first => break,
                '[' if matches!(self.peek(), Some(':')) => self.named_class(out)?,
                '[' if matches!(self.peek(), Some('.' | '=')) => {
                    return Err(
                        "collating elements and equivalence classes are not available".to_owned(),
                    );
                }
                _ => self.bracket_range(c, out)?,
            }
            first = false;
        }
        out.push(']');
        Ok(())
    }

    fn bracket_range(&mut self, low: char, out: &mut String) -> Result<(), String> {
        let is_range = self.peek() == Some('-') && self.rest.get(self.at + 1) != Some(&']');
        if !is_range {
            literal(low, out);
            return Ok(());
        }
        self.at += 1;
        let high = self.next().ok_or("\"[\" without \"]\"")?;
        if high == '[' && matches!(self.peek(), Some(':' | '.' | '=')) {
            return Err("a range cannot end in a class".to_owned());
        }
        if low > high {
            return Err(format!("the range {low}-{high} is in the wrong order"));
        }
        literal(low, out);
        out.push('-');
        literal(high, out);
        Ok(())
    }

    fn named_class(&mut self, out: &mut String) -> Result<(), String> {
        self.at += 1;
        let mut name = String::new();
        while let Some(c) = self.peek().filter(char::is_ascii_lowercase) {
            self.at += 1;
            name.push(c);
        }
        let known = [
            "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
            "space", "upper", "xdigit",
        ];
        if !known.contains(&name.as_str()) || !self.accept(':') || !self.accept(']') {
            return Err(format!("unknown character class [:{name}:]"));
        }
        out.push_str(&format!("[:{name}:]"));
        Ok(())
    }
}

fn literal(c: char, out: &mut String) {
    // The regex crate reads \< and \> as word boundaries; alone they are themselves.
    if c.is_ascii_punctuation() && !matches!(c, '<' | '>') {
        out.push('\\');
    }
    out.push(c);
}

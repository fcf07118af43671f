//! smtpd.conf(5), from bytes to tokens: comments, continuation lines, quoting, numbers, reserved
//! words, macros and included files.
//!
//! A lexical error becomes a diagnostic and a [`Token::Bad`]; the lexer always reaches the end of
//! its input. What it never does is look at the environment or open a file: the parser hands it
//! the text of included files.

use std::collections::HashMap;
use std::rc::Rc;

use super::diagnostic::{Diagnostics, TokenPosition};
use super::limits;
use super::words::{KEYWORDS, allowed_in_word, nearest, starts_word};

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A word without quotes that is not reserved.
    Word(String),
    /// A quoted string: never a reserved word.
    Quoted(String),
    /// A reserved word.
    Keyword(&'static str),
    Number(i64),
    /// `=>`.
    Arrow,
    /// Any other byte.
    Punct(u8),
    /// End of a line or of an included file.
    Newline,
    /// Something already complained about.
    Bad,
    /// The end.
    Eof,
}

/// Bytes in, tokens out.
pub struct Lexer {
    frames: Vec<Frame>,
    macros: HashMap<String, Macro>,
    line_is_open: bool,
    seq: u32,
}

/// A text that is being read: a file, or the value of a macro in the middle of one.
struct Frame {
    text: Rc<[u8]>,
    next: usize,
    /// The byte that ended a token and is the start of the next one. It stays with its text: what
    /// is included after the token is read before it.
    unread: Option<u8>,
    kind: FrameKind,
}

enum FrameKind {
    File {
        file: u32,
        line: u32,
        column: u32,
        line_end: u32,
    },
    Macro {
        used_at: TokenPosition,
    },
}

struct Macro {
    value: Rc<[u8]>,
    /// Where the text defines it; `None` for one of the command line, which stays as it is.
    at: Option<TokenPosition>,
    used: bool,
}

impl Lexer {
    /// Reads `text`, the file with index 0. `macros` are those of the command line: they win over
    /// definitions in the text, the first of one name over later ones.
    pub fn new(text: &[u8], macros: &[(String, String)]) -> Lexer {
        let mut lexer = Lexer {
            frames: Vec::new(),
            macros: HashMap::new(),
            line_is_open: false,
            seq: 0,
        };
        for (name, value) in macros {
            lexer.macros.entry(name.clone()).or_insert_with(|| Macro {
                value: value.as_bytes().into(),
                at: None,
                used: false,
            });
        }
        lexer.include(text, 0);
        lexer
    }

    /// Reads `text`, the file with index `file`, before what is left of the present one.
    pub fn include(&mut self, text: &[u8], file: u32) {
        self.frames.push(Frame {
            text: text.into(),
            next: 0,
            unread: None,
            kind: FrameKind::File {
                file,
                line: 1,
                column: 1,
                line_end: 1,
            },
        });
        self.line_is_open = false;
    }

    /// How many files are open.
    pub fn depth(&self) -> usize {
        let is_file = |frame: &&Frame| matches!(frame.kind, FrameKind::File { .. });
        self.frames.iter().filter(is_file).count()
    }

    /// Defines a macro, unless the command line did.
    pub fn define(&mut self, name: &str, value: &str, at: TokenPosition) {
        let known = self.macros.get(name);
        if known.is_some_and(|known| known.at.is_none()) {
            return;
        }
        let used = known.is_some_and(|known| known.used);
        let value = value.as_bytes().into();
        let at = Some(at);
        self.macros
            .insert(name.to_owned(), Macro { value, at, used });
    }

    /// Macros that the text defines and does not use.
    pub fn unused_macros(&self) -> impl Iterator<Item = (&str, TokenPosition)> {
        let unused = self.macros.iter().filter(|(_, known)| !known.used);
        unused.filter_map(|(name, known)| Some((name.as_str(), known.at?)))
    }

    /// The next token and where it starts.
    pub fn next(&mut self, diagnostics: &mut Diagnostics) -> (Token, TokenPosition) {
        self.seq = self.seq.saturating_add(1);
        loop {
            self.skip_blanks_and_comments();
            let at = self.here();
            let Some(byte) = self.read() else {
                if self.line_is_open {
                    self.line_is_open = false;
                    return (Token::Newline, at);
                }
                if self.frames.len() > 1 {
                    self.frames.pop();
                    continue;
                }
                return (Token::Eof, at);
            };
            if byte == b'$' && !self.in_macro() {
                if self.expand_macro(at, diagnostics) {
                    continue;
                }
                self.line_is_open = true;
                return (Token::Bad, at);
            }
            self.line_is_open = byte != b'\n';
            return (self.token(byte, at, diagnostics), at);
        }
    }

    fn token(&mut self, byte: u8, at: TokenPosition, diagnostics: &mut Diagnostics) -> Token {
        match byte {
            b'\n' => Token::Newline,
            b'"' | b'\'' => self.quoted(byte, at, diagnostics),
            b'=' => match self.read() {
                Some(b'>') => Token::Arrow,
                other => {
                    self.put_back(other);
                    Token::Punct(b'=')
                }
            },
            b'-' | b'0'..=b'9' => self.number_or_word(byte, at, diagnostics),
            _ if starts_word(byte) => self.word(vec![byte], at, diagnostics),
            _ => Token::Punct(byte),
        }
    }

    fn quoted(&mut self, quote: u8, at: TokenPosition, diagnostics: &mut Diagnostics) -> Token {
        let mut value = Vec::new();
        let mut fault = None;
        loop {
            let Some(byte) = self.read_raw() else {
                diagnostics.error(at, "reached end of file while parsing quoted string");
                return Token::Bad;
            };
            match byte {
                b'\n' => continue,
                b'\\' => match self.read_raw() {
                    Some(next) if next == quote || next == b' ' || next == b'\t' => {
                        value.push(next);
                    }
                    Some(b'\n') => continue,
                    other => {
                        value.push(b'\\');
                        self.put_back(other);
                    }
                },
                _ if byte == quote => break,
                0 => fault = Some("syntax error: NUL byte in a quoted string"),
                b'\r' => fault = Some("syntax error: carriage return in a quoted string"),
                _ => value.push(byte),
            }
            if value.len() > limits::TOKEN_BYTES {
                fault = Some("string too long");
                value.clear();
            }
        }
        if let Some(text) = fault {
            diagnostics.error(at, text);
            return Token::Bad;
        }
        match String::from_utf8(value) {
            Ok(text) => Token::Quoted(text),
            Err(_) => {
                diagnostics.error(at, "syntax error: quoted string is not UTF-8 text");
                Token::Bad
            }
        }
    }

    /// A number ends where a value can end; anything else makes a word of it: `10.0.0.0/8`, `4d`.
    fn number_or_word(
        &mut self,
        first: u8,
        at: TokenPosition,
        diagnostics: &mut Diagnostics,
    ) -> Token {
        let mut text = vec![first];
        let end = loop {
            match self.read() {
                Some(byte) if byte.is_ascii_digit() => text.push(byte),
                other => break other,
            }
            if text.len() > limits::TOKEN_BYTES {
                return self.too_long(at, diagnostics);
            }
        };
        self.put_back(end);
        let ended = match end {
            None => true,
            Some(byte) => {
                byte.is_ascii_whitespace() || matches!(byte, b')' | b',' | b'/' | b'}' | b'=')
            }
        };
        if text == b"-" {
            return Token::Punct(b'-');
        }
        if ended {
            return number(&text, at, diagnostics);
        }
        if first == b'-' {
            return Token::Punct(b'-');
        }
        self.word(text, at, diagnostics)
    }

    fn word(
        &mut self,
        mut text: Vec<u8>,
        at: TokenPosition,
        diagnostics: &mut Diagnostics,
    ) -> Token {
        loop {
            match self.read() {
                Some(byte) if allowed_in_word(byte) => text.push(byte),
                other => {
                    self.put_back(other);
                    break;
                }
            }
            if text.len() > limits::TOKEN_BYTES {
                return self.too_long(at, diagnostics);
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        match KEYWORDS.binary_search(&text.as_str()) {
            Ok(index) => KEYWORDS
                .get(index)
                .map_or(Token::Bad, |w| Token::Keyword(w)),
            Err(_) => Token::Word(text),
        }
    }

    fn too_long(&mut self, at: TokenPosition, diagnostics: &mut Diagnostics) -> Token {
        diagnostics.error(at, "string too long");
        while let Some(byte) = self.read() {
            if !allowed_in_word(byte) {
                self.put_back(Some(byte));
                break;
            }
        }
        Token::Bad
    }

    /// Puts the value of the macro whose name follows in front of the rest.
    fn expand_macro(&mut self, at: TokenPosition, diagnostics: &mut Diagnostics) -> bool {
        let name = self.macro_name();
        let Some(known) = self.macros.get_mut(&name) else {
            let near = nearest(&name, self.macros.keys().map(String::as_str));
            let hint = near.map_or(String::new(), |near| format!("; did you mean ${near}?"));
            diagnostics.error(at, format!("macro '{name}' not defined{hint}"));
            return false;
        };
        known.used = true;
        self.frames.push(Frame {
            text: Rc::clone(&known.value),
            next: 0,
            unread: None,
            kind: FrameKind::Macro { used_at: at },
        });
        true
    }

    /// The longest run of letters, digits and underscores; what follows stays unread.
    fn macro_name(&mut self) -> String {
        let mut name = String::new();
        while let Some(frame) = self.frames.last_mut() {
            match frame.text.get(frame.next) {
                Some(&byte) if byte.is_ascii_alphanumeric() || byte == b'_' => {
                    name.push(char::from(byte));
                    frame.next += 1;
                    if let FrameKind::File { column, .. } = &mut frame.kind {
                        *column += 1;
                    }
                }
                _ => break,
            }
        }
        name
    }

    fn skip_blanks_and_comments(&mut self) {
        let mut in_comment = false;
        while let Some(byte) = self.read() {
            match byte {
                b'\n' => {
                    self.put_back(Some(byte));
                    return;
                }
                _ if in_comment => {}
                b' ' | b'\t' => {}
                b'#' => in_comment = true,
                _ => {
                    self.put_back(Some(byte));
                    return;
                }
            }
        }
    }

    fn put_back(&mut self, byte: Option<u8>) {
        if let Some(frame) = self.frames.last_mut() {
            frame.unread = byte;
        }
    }

    fn take_unread(&mut self) -> Option<u8> {
        self.frames.last_mut()?.unread.take()
    }

    /// The next byte outside quotes: a backslash takes the next byte as it is, or joins lines.
    fn read(&mut self) -> Option<u8> {
        if let Some(byte) = self.take_unread() {
            return Some(byte);
        }
        loop {
            match self.read_raw() {
                Some(b'\\') => match self.read_raw() {
                    Some(b'\n') => continue,
                    other => return other,
                },
                other => return other,
            }
        }
    }

    /// The next byte of the present file, macros included; CRLF counts as a line feed.
    fn read_raw(&mut self) -> Option<u8> {
        if let Some(byte) = self.take_unread() {
            return Some(byte);
        }
        loop {
            let frame = self.frames.last_mut()?;
            let Some(byte) = frame.text.get(frame.next).copied() else {
                if matches!(frame.kind, FrameKind::Macro { .. }) {
                    self.frames.pop();
                    continue;
                }
                return None;
            };
            frame.next += 1;
            if let FrameKind::File {
                line,
                column,
                line_end,
                ..
            } = &mut frame.kind
            {
                if byte == b'\n' {
                    *line += 1;
                    *line_end = std::mem::replace(column, 1);
                } else {
                    *column += 1;
                }
                if byte == b'\r' && frame.text.get(frame.next) == Some(&b'\n') {
                    continue;
                }
            }
            return Some(byte);
        }
    }

    fn in_macro(&self) -> bool {
        matches!(
            self.frames.last(),
            Some(Frame {
                kind: FrameKind::Macro { .. },
                ..
            })
        )
    }

    /// The position of the next byte.
    fn here(&self) -> TokenPosition {
        let frame = self.frames.last();
        let mut pos = match frame.map(|frame| &frame.kind) {
            Some(FrameKind::Macro { used_at }) => *used_at,
            Some(FrameKind::File {
                file,
                line,
                column,
                line_end,
            }) => {
                let (line, column) = match frame.and_then(|frame| frame.unread) {
                    Some(b'\n') => (line.saturating_sub(1), *line_end),
                    Some(_) => (*line, column.saturating_sub(1)),
                    None => (*line, *column),
                };
                TokenPosition {
                    file: *file,
                    line: line.max(1),
                    column: column.max(1),
                    seq: 0,
                }
            }
            None => TokenPosition::default(),
        };
        pos.seq = self.seq;
        pos
    }
}

fn number(text: &[u8], at: TokenPosition, diagnostics: &mut Diagnostics) -> Token {
    let text = String::from_utf8_lossy(text);
    match text.parse() {
        Ok(number) => Token::Number(number),
        Err(_) => {
            let size = if text.starts_with('-') {
                "too small"
            } else {
                "too large"
            };
            diagnostics.error(at, format!("\"{text}\" invalid number: {size}"));
            Token::Bad
        }
    }
}

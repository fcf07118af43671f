//! From tokens to the statements of [`Ast`].
//!
//! A wrong statement is complained about once and skipped to the end of its line (or of its
//! braces); the statements after it are read as usual. Reading always ends: each step takes a
//! token, and what may be included is bounded.

mod action;
mod filter;
mod global;
mod listen;
mod pki;
mod rule;
mod table;

use super::ast::{Ast, Body, Number, Statement, Text};
use super::diagnostic::{Diagnostics, TokenPosition};
use super::lexer::{Lexer, Token};
use super::limits;
use super::words::nearest;

/// Gives the bytes of an included file, or the reason why not.
pub type Fetch<'a> = dyn FnMut(&str) -> Result<Vec<u8>, String> + 'a;

/// The statement is wrong and has been complained about.
pub struct Abort;

/// A part of a statement, or a complaint already made.
pub type Parsed<T> = Result<T, Abort>;

/// Parses `text`, the file called `name`, and whatever it includes.
pub fn parse(
    name: &str,
    text: &[u8],
    macros: &[(String, String)],
    fetch: &mut Fetch<'_>,
    diagnostics: &mut Diagnostics,
) -> Ast {
    diagnostics.files = vec![name.to_owned()];
    let mut parser = Parser {
        lexer: Lexer::new(text, macros),
        peeked: None,
        braces: 0,
        line_starts: true,
        name: None,
        broken: Vec::new(),
        fetch,
        diagnostics,
    };
    let mut ast = Ast::default();
    while let Some(statement) = parser.statement() {
        ast.statements.push(statement);
    }
    for (name, at) in parser.lexer.unused_macros() {
        let text = format!("macro \"{name}\" is not used");
        parser.diagnostics.warning(at, text);
    }
    ast.broken = parser.broken;
    ast
}

/// The words a statement can start with.
pub const DIRECTIVES: &[&str] = &[
    "action",
    "admd",
    "bounce",
    "ca",
    "filter",
    "include",
    "listen",
    "match",
    "mda",
    "mta",
    "pki",
    "proc",
    "queue",
    "scheduler",
    "smtp",
    "srs",
    "table",
];

/// One token of look-ahead over a [`Lexer`].
pub struct Parser<'p> {
    lexer: Lexer,
    peeked: Option<(Token, TokenPosition)>,
    braces: usize,
    /// Whether the last token that was taken ended a line.
    line_starts: bool,
    name: Option<String>,
    broken: Vec<String>,
    fetch: &'p mut Fetch<'p>,
    diagnostics: &'p mut Diagnostics,
}

impl Parser<'_> {
    /// The next good statement; `None` at the end.
    fn statement(&mut self) -> Option<Statement> {
        loop {
            let (token, at) = self.next();
            self.braces = 0;
            self.name = None;
            let body = match token {
                Token::Eof => return None,
                _ if self.diagnostics.full() => return None,
                Token::Newline => continue,
                Token::Bad => Err(Abort),
                Token::Keyword("include") => self.include(at),
                Token::Keyword(word) => self.directive(word, at),
                Token::Word(name) | Token::Quoted(name) => self.macro_definition(name, at),
                other => Err(self.unexpected(&other, at, "a directive", Wanted::Directive)),
            };
            match body {
                Ok(Some(body)) => return Some(Statement { at, body }),
                Ok(None) => {}
                Err(Abort) => {
                    self.broken.extend(self.name.take());
                    self.resynchronise();
                }
            }
        }
    }

    fn directive(&mut self, word: &'static str, at: TokenPosition) -> Parsed<Option<Body>> {
        let body = match word {
            "action" => self.action(),
            "admd" => Ok(Body::Admd(self.string("an authserv-id")?)),
            "bounce" => self.bounce(),
            "ca" => self.ca(),
            "filter" => self.filter(),
            "listen" => self.listen(),
            "match" => self.rule(),
            "mda" => self.mda(),
            "mta" => self.mta(),
            "pki" => self.pki(),
            "proc" => self.proc(),
            "queue" => self.queue(),
            "scheduler" => self.scheduler(),
            "smtp" => self.smtp(),
            "srs" => self.srs(),
            "table" => self.table(),
            _ => Err(self.no_directive(word, at)),
        }?;
        self.end_of_statement()?;
        Ok(Some(body))
    }

    /// Complains about a reserved word at the start of a line.
    fn no_directive(&mut self, word: &str, at: TokenPosition) -> Abort {
        let hint = match (self.peek().0, old_grammar(word)) {
            (Token::Punct(b'='), _) => "; a reserved word cannot be the name of a macro".to_owned(),
            (_, Some(hint)) => format!("; {hint}"),
            (_, None) => String::new(),
        };
        let text = format!("syntax error: \"{word}\" does not start a directive{hint}");
        self.diagnostics.error(at, text);
        Abort
    }

    fn macro_definition(&mut self, name: String, at: TokenPosition) -> Parsed<Option<Body>> {
        let (token, next_at) = self.peek();
        if token != Token::Punct(b'=') {
            let hint = match (
                old_grammar(&name),
                nearest(&name, DIRECTIVES.iter().copied()),
            ) {
                (Some(hint), _) => format!("; {hint}"),
                (None, Some(near)) if near == name => format!("; write {near} without quotes"),
                (None, Some(near)) => format!("; did you mean \"{near}\"?"),
                (None, None) => String::new(),
            };
            let text = format!("syntax error: unknown directive \"{name}\"{hint}");
            self.diagnostics.error(at, text);
            return Err(Abort);
        }
        self.take();
        let value = self.string("the value of a macro")?;
        self.end_of_statement()?;
        if name.bytes().skip(1).any(|byte| byte.is_ascii_whitespace()) {
            self.diagnostics
                .error(at, "macro name cannot contain whitespace");
            return Ok(None);
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let text = format!(
                "macro \"{name}\" can never be used: its name must be made of letters, digits and underscores"
            );
            self.diagnostics.warning(next_at, text);
            return Ok(None);
        }
        self.lexer.define(&name, &value.value, at);
        Ok(None)
    }

    fn include(&mut self, at: TokenPosition) -> Parsed<Option<Body>> {
        let path = self.string("the path of a file")?;
        if self.lexer.depth() >= limits::INCLUDE_DEPTH
            || self.diagnostics.files.len() > limits::INCLUDES
        {
            let text = format!(
                "failed to include file {}: too many files included (does one include itself?)",
                path.value
            );
            self.diagnostics.error(at, text);
            return Ok(None);
        }
        match (self.fetch)(&path.value) {
            Ok(text) => {
                let file = self.diagnostics.files.len() as u32;
                self.diagnostics.files.push(path.value);
                self.lexer.include(&text, file);
            }
            Err(reason) => {
                let text = format!("failed to include file {}: {reason}", path.value);
                self.diagnostics.error(path.at, text);
            }
        }
        Ok(None)
    }

    /// Skips the rest of a wrong statement. Inside braces that is everything to the closing one,
    /// unless a line starts like a statement: then the brace is what was forgotten.
    fn resynchronise(&mut self) {
        loop {
            let (token, _) = self.peek();
            match token {
                Token::Eof => return,
                Token::Newline if self.braces == 0 => {
                    self.take();
                    return;
                }
                Token::Keyword(word) if self.line_starts && DIRECTIVES.contains(&word) => return,
                Token::Punct(b'{') => self.braces += 1,
                Token::Punct(b'}') => self.braces = self.braces.saturating_sub(1),
                _ => {}
            }
            self.take();
        }
    }

    fn next(&mut self) -> (Token, TokenPosition) {
        let next = match self.peeked.take() {
            Some(token) => token,
            None => self.lexer.next(self.diagnostics),
        };
        self.line_starts = next.0 == Token::Newline;
        next
    }

    fn peek(&mut self) -> (Token, TokenPosition) {
        if self.peeked.is_none() {
            self.peeked = Some(self.lexer.next(self.diagnostics));
        }
        self.peeked
            .clone()
            .unwrap_or((Token::Eof, TokenPosition::default()))
    }

    /// Takes the token that was peeked.
    fn take(&mut self) {
        self.next();
    }

    fn end_of_statement(&mut self) -> Parsed<()> {
        let (token, at) = self.peek();
        match token {
            Token::Newline | Token::Eof => Ok(()),
            other => Err(self.unexpected(&other, at, "the end of the line", Wanted::End)),
        }
    }

    /// Takes a string; `what` says what it is.
    fn string(&mut self, what: &str) -> Parsed<Text> {
        self.string_as(what, Wanted::Value)
    }

    fn string_as(&mut self, what: &str, wanted: Wanted<'_>) -> Parsed<Text> {
        let (token, at) = self.peek();
        match token {
            Token::Word(value) | Token::Quoted(value) => {
                self.take();
                self.name.get_or_insert_with(|| value.clone());
                Ok(Text { value, at })
            }
            other => Err(self.unexpected(&other, at, what, wanted)),
        }
    }

    fn number(&mut self, what: &str) -> Parsed<Number> {
        let (token, at) = self.peek();
        match token {
            Token::Number(value) => {
                self.take();
                Ok(Number { value, at })
            }
            other => Err(self.unexpected(&other, at, what, Wanted::Value)),
        }
    }

    /// Takes a string if there is one.
    fn optional_string(&mut self) -> Option<Text> {
        let (token, at) = self.peek();
        match token {
            Token::Word(value) | Token::Quoted(value) => {
                self.take();
                Some(Text { value, at })
            }
            _ => None,
        }
    }

    /// Takes this reserved word if it comes next.
    fn accept(&mut self, word: &str) -> bool {
        let found = matches!(self.peek().0, Token::Keyword(found) if found == word);
        if found {
            self.take();
        }
        found
    }

    /// Takes this byte if it comes next.
    fn accept_punct(&mut self, byte: u8) -> bool {
        let found = self.peek().0 == Token::Punct(byte);
        if found {
            self.take();
            match byte {
                b'{' => self.braces += 1,
                b'}' => self.braces = self.braces.saturating_sub(1),
                _ => {}
            }
        }
        found
    }

    fn expect(&mut self, word: &'static str) -> Parsed<()> {
        if self.accept(word) {
            return Ok(());
        }
        let (token, at) = self.peek();
        let words = [word];
        Err(self.unexpected(&token, at, &format!("\"{word}\""), Wanted::Words(&words)))
    }

    fn expect_punct(&mut self, byte: u8) -> Parsed<()> {
        if self.accept_punct(byte) {
            return Ok(());
        }
        let (token, at) = self.peek();
        let sign = format!("\"{}\"", char::from(byte));
        Err(self.unexpected(&token, at, &sign, Wanted::Literal))
    }

    /// The reserved word that comes next, one of `words`; `None` at the end of the line.
    fn option(&mut self, words: &[&'static str]) -> Parsed<Option<(&'static str, TokenPosition)>> {
        let (token, at) = self.peek();
        match token {
            Token::Keyword(word) if words.contains(&word) => {
                self.take();
                Ok(Some((word, at)))
            }
            Token::Newline | Token::Eof => Ok(None),
            other => {
                let expected = "an option or the end of the line";
                Err(self.unexpected(&other, at, expected, Wanted::Words(words)))
            }
        }
    }

    /// One of `words` must come next.
    fn one_of(&mut self, words: &[&'static str]) -> Parsed<(&'static str, TokenPosition)> {
        let (token, at) = self.peek();
        match token {
            Token::Keyword(word) if words.contains(&word) => {
                self.take();
                Ok((word, at))
            }
            other => Err(self.unexpected(&other, at, &choice(words), Wanted::Words(words))),
        }
    }

    fn skip_newlines(&mut self) {
        while self.peek().0 == Token::Newline {
            self.take();
        }
    }

    /// Complains about a token that cannot stand here. What the lexer found wrong is not
    /// complained about twice.
    fn unexpected(
        &mut self,
        token: &Token,
        at: TokenPosition,
        expected: &str,
        wanted: Wanted<'_>,
    ) -> Abort {
        if *token == Token::Bad {
            return Abort;
        }
        let hint = hint(token, wanted);
        let text = format!(
            "syntax error: found {}, expected {expected}{hint}",
            describe(token)
        );
        self.diagnostics.error(at, text);
        Abort
    }
}

fn describe(token: &Token) -> String {
    match token {
        Token::Word(text) => format!("\"{}\"", shorten(text)),
        Token::Quoted(text) => format!("the string \"{}\"", shorten(text)),
        Token::Keyword(word) => format!("\"{word}\""),
        Token::Number(number) => format!("the number {number}"),
        Token::Arrow => "\"=>\"".to_owned(),
        Token::Punct(byte) if byte.is_ascii_graphic() => format!("\"{}\"", char::from(*byte)),
        Token::Punct(byte) => format!("the byte {byte:#04x}"),
        Token::Newline => "the end of the line".to_owned(),
        Token::Bad => "an error".to_owned(),
        Token::Eof => "the end of the file".to_owned(),
    }
}

fn shorten(text: &str) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
    if clean.len() < text.len() {
        return format!("{clean}...");
    }
    clean
}

const QUOTE_HINT: &str =
    "; quote a value that starts with anything but a letter, a digit, \":\" or \"_\"";

/// What could have stood where something else does, as far as hints depend on it.
#[derive(Clone, Copy)]
enum Wanted<'w> {
    Directive,
    Words(&'w [&'w str]),
    /// A string or number of the writer's choice.
    Value,
    /// The same, beginning with a number.
    Delay,
    /// Signs or words that are written as they are named.
    Literal,
    /// Nothing more.
    End,
}

impl<'w> Wanted<'w> {
    fn words(self) -> &'w [&'w str] {
        match self {
            Wanted::Directive => DIRECTIVES,
            Wanted::Words(words) => words,
            Wanted::Value | Wanted::Delay | Wanted::Literal | Wanted::End => &[],
        }
    }
}

fn hint(token: &Token, wanted: Wanted<'_>) -> String {
    let words = wanted.words();
    let is_value = matches!(wanted, Wanted::Value | Wanted::Delay);
    let wants_string = is_value || matches!(wanted, Wanted::Literal);
    match token {
        Token::Word(word) | Token::Quoted(word) => match nearest(word, words.iter().copied()) {
            Some(near) if near == word => {
                format!("; write {near} without quotes")
            }
            Some(near) => format!("; did you mean \"{near}\"?"),
            None => old_grammar(word).map_or(String::new(), |hint| format!("; {hint}")),
        },
        Token::Keyword(word) if is_value => {
            format!("; \"{word}\" is a reserved word, quote it to use it as a name or value")
        }
        Token::Keyword("tagged") if words.contains(&"tag") => "; write \"tag\"".to_owned(),
        Token::Keyword("recipient") if words.contains(&"rcpt-to") => {
            "; write \"rcpt-to\"".to_owned()
        }
        Token::Keyword(word) => nearest(word, words.iter().copied())
            .map_or(String::new(), |near| format!("; did you mean \"{near}\"?")),
        Token::Number(_) if wants_string && !matches!(wanted, Wanted::Delay) => {
            "; quote a number to use it as a string".to_owned()
        }
        Token::Punct(b'$') => "; a macro is not expanded inside the value of a macro".to_owned(),
        Token::Punct(b',') if !words.is_empty() => {
            "; remove the comma, options are separated by blanks".to_owned()
        }
        Token::Punct(b',') => "; remove the comma, a list has no empty entries".to_owned(),
        Token::Punct(b'~' | b'/' | b'*' | b'@' | b'+' | b'|' | b'.')
            if !matches!(wanted, Wanted::Directive) =>
        {
            QUOTE_HINT.to_owned()
        }
        Token::Punct(byte) if wants_string && !matches!(byte, b'{' | b'}' | b'<' | b'>') => {
            QUOTE_HINT.to_owned()
        }
        _ => String::new(),
    }
}

/// What to write instead of words that older versions knew.
fn old_grammar(word: &str) -> Option<&'static str> {
    Some(match word {
        "accept" | "reject" | "deliver" => {
            "this is the grammar of versions before 6.4: write an \"action\" and a \"match\" rule"
        }
        "limit" => "write \"mta limit\", \"mda limit\", \"smtp limit\" or \"scheduler limit\"",
        "expire" => "write \"queue ttl\"",
        "max-message-size" => "write \"smtp max-message-size\"",
        "subaddressing-delimiter" | "sub-addr-delim" => "write \"smtp sub-addr-delim\"",
        "bounce-warn" | "warn-interval" => "write \"bounce warn-interval\"",
        "max-deferred" => "write \"mta max-deferred\"",
        "ciphers" => "write \"smtp ciphers\"",
        "certificate" => "write \"cert\"",
        "secure" => "write \"tls\" or \"smtps\"",
        "wrapper" => "write \"mda wrapper\"",
        "sender" => "write \"mail-from\"",
        "recipient" => "write \"rcpt-to\"",
        "source" => "write \"src\"",
        "authenticated" => "write \"auth\"",
        "tagged" => "write \"tag\"",
        "via" => "write \"host\"",
        "as" => "write \"mail-from\"",
        "map" => "write \"table\"",
        "mask-source" => "write \"mask-src\"",
        _ => return None,
    })
}

fn choice(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

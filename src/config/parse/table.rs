//! `table`, and tables where an option wants one.

use crate::config::ast::{Body, PatternText, TableRef, TableValue, Text};
use crate::config::lexer::Token;

use super::{Abort, Parsed, Parser, Wanted};

impl Parser<'_> {
    pub(super) fn table(&mut self) -> Parsed<Body> {
        let name = self.string("the name of a table")?;
        if self.accept_punct(b'{') {
            return Ok(Body::Table(name, self.braced_table()?));
        }
        let source = self.string("a path, \"backend:path\" or values in braces")?;
        Ok(Body::Table(name, TableValue::One(source)))
    }

    /// A string, values in braces, or `<name>`.
    pub(super) fn table_ref(&mut self) -> Parsed<TableRef> {
        let at = self.peek().1;
        let value = if self.accept_punct(b'{') {
            self.braced_table()?
        } else if self.accept_punct(b'<') {
            let name = self.string("the name of a table")?;
            self.expect_punct(b'>')?;
            TableValue::Named(name)
        } else {
            TableValue::One(self.string("a value, values in braces, or <table>")?)
        };
        Ok(TableRef { value, at })
    }

    pub(super) fn optional_table_ref(&mut self) -> Parsed<Option<TableRef>> {
        if self.table_ref_follows() {
            return Ok(Some(self.table_ref()?));
        }
        Ok(None)
    }

    pub(super) fn pattern(&mut self) -> Parsed<PatternText> {
        let regex = self.accept("regex");
        let table = self.table_ref()?;
        Ok(PatternText { regex, table })
    }

    pub(super) fn optional_pattern(&mut self) -> Parsed<Option<PatternText>> {
        if self.peek().0 == Token::Keyword("regex") || self.table_ref_follows() {
            return Ok(Some(self.pattern()?));
        }
        Ok(None)
    }

    /// Names in braces, behind the opening one; commas are optional, a line end will do.
    pub(super) fn braced_names(&mut self, what: &str) -> Parsed<Vec<Text>> {
        self.skip_newlines();
        let mut names = vec![self.string(what)?];
        while self.separated()? {
            names.push(self.string(what)?);
        }
        Ok(names)
    }

    fn table_ref_follows(&mut self) -> bool {
        matches!(
            self.peek().0,
            Token::Word(_) | Token::Quoted(_) | Token::Punct(b'{' | b'<')
        )
    }

    fn braced_table(&mut self) -> Parsed<TableValue> {
        self.skip_newlines();
        let first = self.string("a value")?;
        if !self.arrow() {
            return self.braced_list(first);
        }
        let value = self.string("the value of this key, on the same line")?;
        let mut pairs = vec![(first, value)];
        while self.separated()? {
            let key = self.string("a key")?;
            if !self.arrow() {
                let (token, at) = self.peek();
                let expected = "\"=\": entries with and without a value cannot be mixed";
                return Err(self.unexpected(&token, at, expected, Wanted::Literal));
            }
            let value = self.string("the value of this key, on the same line")?;
            pairs.push((key, value));
        }
        Ok(TableValue::Map(pairs))
    }

    fn braced_list(&mut self, first: Text) -> Parsed<TableValue> {
        let mut values = vec![first];
        while self.separated()? {
            values.push(self.string("a value")?);
            let (token, at) = self.peek();
            if matches!(token, Token::Punct(b'=') | Token::Arrow) {
                let text = "syntax error: entries with and without a value cannot be mixed";
                self.diagnostics.error(at, text);
                return Err(Abort);
            }
        }
        Ok(TableValue::List(values))
    }

    fn arrow(&mut self) -> bool {
        let found = matches!(self.peek().0, Token::Punct(b'=') | Token::Arrow);
        if found {
            self.take();
        }
        found
    }

    /// Takes what stands between two entries; false once the closing brace is taken.
    fn separated(&mut self) -> Parsed<bool> {
        if self.accept_punct(b',') {
            self.skip_newlines();
            let (token, at) = self.peek();
            if token == Token::Punct(b'}') {
                let text = "syntax error: found \"}\", expected another entry; remove the comma in \
                            front of it";
                self.diagnostics.error(at, text);
                return Err(Abort);
            }
            return Ok(true);
        }
        self.skip_newlines();
        if self.accept_punct(b'}') {
            return Ok(false);
        }
        let (token, at) = self.peek();
        match token {
            Token::Word(_) | Token::Quoted(_) => Ok(true),
            other => {
                Err(self.unexpected(&other, at, "\",\", another entry or \"}\"", Wanted::Literal))
            }
        }
    }
}

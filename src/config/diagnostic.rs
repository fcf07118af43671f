//! What is wrong with a configuration, and where.

use std::fmt;

/// Where a token starts. `seq` counts tokens, so that complaints can be put in reading order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenPosition {
    /// Index into [`Diagnostics::files`].
    pub file: u32,
    /// From 1.
    pub line: u32,
    /// In bytes, from 1.
    pub column: u32,
    /// Number of the token.
    pub seq: u32,
}

/// One complaint about one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1; 0 when the complaint is about the file as a whole.
    pub line: u32,
    /// The column in bytes, from 1; 0 when it is about the line as a whole.
    pub column: u32,
    /// What was found, what was expected, and a hint where there is one.
    pub text: String,
}

/// `file:line:column: text`; parts that are 0 are left out.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        for number in [self.line, self.column] {
            if number > 0 {
                write!(f, ":{number}")?;
            }
        }
        write!(f, ": {}", self.text)
    }
}

/// Errors and warnings of one run, as they are found. Their number is bounded.
#[derive(Debug, Default)]
pub struct Diagnostics {
    /// Names of the files that positions refer to.
    pub files: Vec<String>,
    errors: Vec<(TokenPosition, Diagnostic)>,
    warnings: Vec<(TokenPosition, Diagnostic)>,
}

impl Diagnostics {
    /// Adds an error at `at`.
    pub fn error(&mut self, at: TokenPosition, text: impl Into<String>) {
        let diagnostic = self.at(at, text.into());
        push(&mut self.errors, at, diagnostic, "too many errors");
    }

    /// Adds an error in a file that is not part of the configuration's text (a table).
    pub fn error_in(
        &mut self,
        near: TokenPosition,
        file: &str,
        line: u32,
        text: impl Into<String>,
    ) {
        let diagnostic = Diagnostic {
            file: file.to_owned(),
            line,
            column: 0,
            text: text.into(),
        };
        push(&mut self.errors, near, diagnostic, "too many errors");
    }

    /// Adds a warning at `at`.
    pub fn warning(&mut self, at: TokenPosition, text: impl Into<String>) {
        let diagnostic = self.at(at, text.into());
        push(&mut self.warnings, at, diagnostic, "too many warnings");
    }

    /// Whether an error was added.
    pub fn failed(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Whether further errors are not kept: reading on is of no use.
    pub fn full(&self) -> bool {
        self.errors.len() > MOST
    }

    /// Errors and warnings, each in the order of the text.
    pub fn finish(self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        (in_order(self.errors), in_order(self.warnings))
    }

    fn at(&self, at: TokenPosition, text: String) -> Diagnostic {
        Diagnostic {
            file: self
                .files
                .get(at.file as usize)
                .cloned()
                .unwrap_or_default(),
            line: at.line,
            column: at.column,
            text,
        }
    }
}

/// More than this many complaints help nobody.
const MOST: usize = 200;

fn push(
    list: &mut Vec<(TokenPosition, Diagnostic)>,
    at: TokenPosition,
    diagnostic: Diagnostic,
    full: &str,
) {
    if list.len() > MOST {
        return;
    }
    let mut diagnostic = diagnostic;
    if list.len() == MOST {
        diagnostic.text = full.to_owned();
    }
    let twin = |(_, known): &(TokenPosition, Diagnostic)| *known == diagnostic;
    if !list.iter().any(twin) {
        list.push((at, diagnostic));
    }
}

fn in_order(mut list: Vec<(TokenPosition, Diagnostic)>) -> Vec<Diagnostic> {
    list.sort_by_key(|(at, _)| at.seq);
    list.into_iter().map(|(_, diagnostic)| diagnostic).collect()
}

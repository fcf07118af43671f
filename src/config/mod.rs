//! smtpd.conf(5): from text to the model that the other rooms read.
//!
//! [`Sources`] (every byte the configuration is made of) → lexer → ast → parse → check → model.
//! Errors carry file, line and column and are collected: one run reports all of them. Nothing here
//! opens a socket, looks up a user or starts a program.

#![forbid(unsafe_code)]

mod ast;
pub mod built_in;
mod check;
mod diagnostic;
pub mod entries;
pub mod ere;
pub mod files;
mod lexer;
pub mod limits;
mod lmtp_dest;
pub mod model;
mod name;
pub mod netaddr;
mod parse;
pub mod paths;
mod print;
pub mod relayhost;
mod restart;
pub mod service;
mod services;
mod sources;
pub mod specifier;
pub mod table_text;
#[cfg(test)]
mod tests;
mod values;
mod words;

use std::path::Path;

use crate::mail::Peer;
use crate::util::Line;

pub use diagnostic::Diagnostic;
pub use lmtp_dest::{LmtpDest, NoDest};
pub use model::*;
pub use name::{NoServerName, name_warning, server_name};
pub use paths::Paths;
pub use restart::needs_restart;
pub use sources::Sources;

use ast::Ast;
use diagnostic::Diagnostics;

/// What the machine gives to a configuration.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// See [`server_name`].
    pub server_name: Line,
    /// The addresses of all interfaces, for what counts as local: as a connection from them to us
    /// has them, link-local ones with their zone.
    pub addresses: Vec<Peer>,
}

/// A configuration without errors, and what is odd about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Complaints that do not keep it from being used.
    pub warnings: Vec<Diagnostic>,
    /// The files of its text: the main one and what it includes, as they are named.
    pub files: Vec<String>,
}

/// Parses and checks. The same sources and defaults always give the same configuration.
pub fn load(sources: &Sources, defaults: &Defaults) -> Result<Loaded, Vec<Diagnostic>> {
    let mut diagnostics = Diagnostics::default();
    let ast = parse_sources(sources, &mut diagnostics);
    let well_formed = !diagnostics.failed();
    let config = if well_formed || !ast.statements.is_empty() {
        Some(check::check(&ast, sources, defaults, &mut diagnostics))
    } else {
        None
    };
    let failed = diagnostics.failed();
    let files = diagnostics.files.clone();
    let (errors, warnings) = diagnostics.finish();
    match config {
        Some(config) if !failed => Ok(Loaded {
            config,
            warnings,
            files,
        }),
        _ => Err(errors),
    }
}

/// The statements of a configuration as text, macros and includes replaced: what parsing
/// understood. Parsing the result gives the same statements.
#[cfg(test)]
pub(crate) fn print(sources: &Sources) -> Result<String, Vec<Diagnostic>> {
    let mut diagnostics = Diagnostics::default();
    let ast = parse_sources(sources, &mut diagnostics);
    if diagnostics.failed() {
        return Err(diagnostics.finish().0);
    }
    Ok(print::print(&ast))
}

/// For tests and fuzzing: what parses must print, and read back as the same statements. Panics
/// where that is not so; says whether the text parsed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn reads_back(text: &[u8]) -> bool {
    let mut diagnostics = Diagnostics::default();
    let ast = parse_sources(&Sources::alone(text), &mut diagnostics);
    if diagnostics.failed() {
        return false;
    }
    let printed = print::print(&ast);
    let mut diagnostics = Diagnostics::default();
    let again = parse_sources(&Sources::alone(printed.as_bytes()), &mut diagnostics);
    assert!(!diagnostics.failed(), "{printed}\n{diagnostics:?}");
    assert_eq!(without_places(&ast), without_places(&again), "{printed}");
    assert_eq!(print::print(&again), printed);
    true
}

/// What the statements are, wherever they stand.
#[cfg(any(test, feature = "fuzzing"))]
fn without_places(ast: &Ast) -> String {
    let whole = format!("{:?}", ast.statements);
    let mut rest = whole.as_str();
    let mut out = String::new();
    while let Some((before, after)) = rest.split_once("TokenPosition {") {
        out.push_str(before);
        rest = after.split_once('}').map_or("", |(_, rest)| rest);
    }
    out + rest
}

fn parse_sources(sources: &Sources, diagnostics: &mut Diagnostics) -> Ast {
    let main = sources.main();
    let name = main.display().to_string();
    let text = sources.file(main).unwrap_or_default();
    let mut fetch = |path: &str| {
        let file = sources.file(Path::new(path));
        file.map(<[u8]>::to_vec).map_err(str::to_owned)
    };
    parse::parse(&name, text, sources.macros(), &mut fetch, diagnostics)
}

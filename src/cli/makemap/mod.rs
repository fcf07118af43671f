//! makemap(8): makes the database of a `db` table, or prints one.
//!
//! The database appears whole or not at all: it is written under another name in the same
//! directory, synced, and renamed into place. A running daemon sees the new file at its next
//! lookup.

mod build;
mod dump;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::exit_error::ExitError;
use super::getopt::{self, Item};

pub use build::{Kind, from_file};

/// The command line of makemap(8), without the program's name.
pub fn run(
    words: Vec<Vec<u8>>,
    input: Box<dyn Read + Send>,
    out: &mut dyn Write,
) -> Result<Done, ExitError> {
    let options = parse(words)?;
    match options.task {
        Task::NewAliases => Ok(Done::NewAliases(options.alias_file)),
        Task::Dump(path) => dump::print(&path, out).map(|()| Done::Made),
        Task::Make { source, target } => {
            let count = match &source {
                Source::Stdin => build::from_stdin(input, &target, options.kind)?,
                Source::File(path) => build::from_file(path, &target, options.kind)?,
            };
            match count {
                0 => {
                    let text = format!("warning: empty map created: {}", target.display());
                    Err(ExitError::with(0, text))
                }
                _ => Ok(Done::Made),
            }
        }
    }
}

/// What has become of a command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    /// A database was made, or printed.
    Made,
    /// `-bi`: it is one of newaliases(8), perhaps with a file of its own.
    NewAliases(Option<PathBuf>),
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    kind: Kind,
    alias_file: Option<PathBuf>,
    task: Task,
}

#[derive(Debug, PartialEq, Eq)]
enum Task {
    NewAliases,
    Dump(PathBuf),
    Make { source: Source, target: PathBuf },
}

#[derive(Debug, PartialEq, Eq)]
enum Source {
    Stdin,
    File(PathBuf),
}

const USAGE: &str = "usage: makemap [-U] [-d dbtype] [-o dbfile] [-t type] file\n";

fn usage() -> ExitError {
    ExitError::verbatim(1, USAGE)
}

fn parse(words: Vec<Vec<u8>>) -> Result<Options, ExitError> {
    let items = getopt::parse("b:C:d:f:ho:O:t:U", words).map_err(|_| usage())?;
    let (mut kind, mut dump, mut new_aliases) = (Kind::Map, false, false);
    let (mut target, mut alias_file) = (None, None);
    let mut operands = Vec::new();
    for item in items {
        let (letter, argument) = match item {
            Item::Operand(word) => {
                operands.push(word);
                continue;
            }
            Item::Letter(letter, argument) => (letter, argument.unwrap_or_default()),
        };
        match letter {
            b'b' if argument == b"i" => new_aliases = true,
            b'd' => check_database_type(&argument)?,
            b'o' => target = Some(path(argument)),
            b'O' => alias_file = argument.strip_prefix(b"AliasFile=").map(<[u8]>::to_vec),
            b't' => kind = kind_of(&argument)?,
            b'U' => dump = true,
            b'h' => return Err(usage()),
            _ => {}
        }
    }
    let task = if new_aliases {
        Task::NewAliases
    } else {
        task(operands, target, dump)?
    };
    Ok(Options {
        kind,
        alias_file: alias_file.map(path),
        task,
    })
}

/// `file`, or sendmail's `type name` with the entries on standard input.
fn task(operands: Vec<Vec<u8>>, target: Option<PathBuf>, dump: bool) -> Result<Task, ExitError> {
    let mut operands = operands.into_iter();
    let (first, second, third) = (operands.next(), operands.next(), operands.next());
    match (first, second, third, target) {
        (Some(file), None, None, _) if dump => Ok(Task::Dump(path(file))),
        (Some(kind), Some(name), None, None) if !dump => {
            check_database_type(&kind)?;
            Ok(Task::Make {
                source: Source::Stdin,
                target: with_db(&path(name)),
            })
        }
        (Some(file), None, None, Some(target)) => Ok(Task::Make {
            source: match file.as_slice() {
                b"-" => Source::Stdin,
                _ => Source::File(path(file)),
            },
            target,
        }),
        (Some(file), None, None, None) if file == b"-" => {
            Err(ExitError::new("standard input has no name: -o is needed"))
        }
        (Some(file), None, None, None) => {
            let file = path(file);
            Ok(Task::Make {
                target: with_db(&file),
                source: Source::File(file),
            })
        }
        _ => Err(usage()),
    }
}

/// Databases have one format here; the names of others are understood.
fn check_database_type(name: &[u8]) -> Result<(), ExitError> {
    match name {
        b"hash" | b"btree" => Ok(()),
        _ => Err(ExitError::new(format!(
            "unsupported DB type '{}'",
            String::from_utf8_lossy(name)
        ))),
    }
}

fn kind_of(name: &[u8]) -> Result<Kind, ExitError> {
    match name {
        b"aliases" => Ok(Kind::Aliases),
        b"set" => Ok(Kind::Set),
        _ => Err(ExitError::new(format!(
            "unsupported type '{}'",
            String::from_utf8_lossy(name)
        ))),
    }
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// The name of a source's database.
pub fn with_db(source: &Path) -> PathBuf {
    let mut name = source.as_os_str().to_owned();
    name.push(".db");
    PathBuf::from(name)
}

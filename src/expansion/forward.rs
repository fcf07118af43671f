//! A user's .forward file, out of the descriptor that the parent has opened.
//!
//! A file that cannot be read to its end, or understood to its last item, is not followed in part:
//! the sender is told to come back, because some of the mail would go astray otherwise.

use std::fs::File;
use std::io;

use crate::log;
use crate::mail::item::{BadItem, Item};
use crate::mail::{Command, Refusal};
use crate::privsep::forward_file::FILE_BYTES;
use crate::privsep::{Forward, Forwards, HomeState};
use crate::sys::errno::strerror;
use crate::sys::open;
use crate::util::Line;

use super::replies;

/// Most items of one file.
const ITEMS: usize = 100;

/// A .forward, or a home without one.
pub enum Found {
    File(File),
    /// With what [`Forward::Absent`] has.
    Absent(Option<HomeState>),
}

/// The .forward of a user of `action`.
pub fn open(forwards: &dyn Forwards, action: &Line, user: &Line) -> Result<Found, Refusal> {
    match forwards.open_forward(action, user) {
        Ok(Forward::Absent(home)) => Ok(Found::Absent(home)),
        Ok(Forward::File(file)) => Ok(Found::File(File::from(file))),
        Ok(Forward::Unusable(why)) => {
            let reason = format!(".forward of {user}: {why}");
            Err(replies::list_temporary().because(&reason))
        }
        Err(error) => {
            let why = strerror(&error);
            log::warn(format_args!("forward file of {user}: no answer: {why}"));
            let reason = format!(".forward of {user}: no answer: {why}");
            Err(replies::temporary().because(&reason))
        }
    }
}

/// What the .forward of a user says; `None` when that is nothing, and the mail is delivered as
/// usual.
pub fn items(file: File, user: &Line) -> Result<Option<Vec<Item>>, Refusal> {
    match items_of(file) {
        Ok(Contents::Nothing) => {
            log::info(format_args!("info: forward file is empty: of {user}"));
            Ok(None)
        }
        Ok(Contents::Items(items)) => Ok(Some(without_includes(items)).filter(|i| !i.is_empty())),
        Err(why) => {
            log::info(format_args!("info: {why}: of {user}"));
            let reason = format!(".forward of {user}: {why}");
            Err(replies::list_temporary().because(&reason))
        }
    }
}

/// What is in a file.
enum Contents {
    /// Not a byte.
    Nothing,
    /// These items, if there are any.
    Items(Vec<Item>),
}

fn items_of(file: File) -> Result<Contents, String> {
    let bytes = match open::read_within(file, FILE_BYTES - 1) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err("forward file exceeds max size".to_owned());
        }
        Err(error) => return Err(format!("cannot read forward file: {}", strerror(&error))),
    };
    if bytes.is_empty() {
        return Ok(Contents::Nothing);
    }
    let items = parse(&bytes).map_err(|(line, bad)| {
        // Operators know the first words.
        format!("parse error in forward file: line {line}: {bad}")
    })?;
    let included = |item: &&Item| matches!(item, Item::Include(_));
    if items.len() - items.iter().filter(included).count() > ITEMS {
        Err("forward file expanded too many nodes".to_owned())
    } else {
        Ok(Contents::Items(items))
    }
}

fn without_includes(mut items: Vec<Item>) -> Vec<Item> {
    items.retain(|item| {
        let included = matches!(item, Item::Include(_));
        if included {
            log::info(format_args!("info: :include: in a forward file is ignored"));
        }
        !included
    });
    items
}

/// Whether a .forward names this command or file.
pub fn names(file: File, command: &Command) -> Result<bool, String> {
    let Contents::Items(items) = items_of(file)? else {
        return Ok(false);
    };
    Ok(items.iter().any(|item| match (item, command) {
        (Item::Pipe(named), Command::Pipe(wanted)) => named == wanted,
        (Item::File(named), Command::File(wanted)) => named == wanted,
        _ => false,
    }))
}

/// The items of a file in their order, or the number of a line and what is wrong with it.
fn parse(text: &[u8]) -> Result<Vec<Item>, (usize, BadItem)> {
    let mut items = Vec::new();
    for (number, line) in lines(text) {
        let listed = match std::str::from_utf8(&line) {
            Ok(line) => Item::list(line),
            Err(_) => Err(BadItem {
                text: "not UTF-8 text".to_owned(),
            }),
        };
        items.extend(listed.map_err(|bad| (number, bad))?);
    }
    Ok(items)
}

/// Lines without their comments, those that end in a backslash joined with the next, each with
/// the number of its first line in the file.
fn lines(text: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut all: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (line, ends) = cut_off(line);
        match all.last_mut() {
            Some((_, before)) if goes_on => before.extend_from_slice(line),
            _ => all.push((number, line.to_vec())),
        }
        goes_on = ends == End::Continued;
    }
    all
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    OfLine,
    Continued,
}

/// A line without its comment, or without the backslash that continues it. A hash mark starts a
/// comment unless a backslash or double quotes protect it; a quote that is never closed protects
/// nothing.
fn cut_off(line: &[u8]) -> (&[u8], End) {
    let (mut quoted, mut escaped, mut mark) = (false, false, None);
    for (at, byte) in line.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return (line.get(..at).unwrap_or(line), End::OfLine),
            b'#' => mark = mark.or(Some(at)),
            _ => {}
        }
    }
    match (mark, line.split_last()) {
        (Some(at), _) if quoted => (line.get(..at).unwrap_or(line), End::OfLine),
        (_, Some((_, before))) if escaped => (before, End::Continued),
        _ => (line, End::OfLine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::dice::Dice;

    fn read(text: &str) -> String {
        match parse(text.as_bytes()) {
            Ok(items) => format!("{items:?}"),
            Err((line, bad)) => format!("line {line}: {bad}"),
        }
    }

    fn same(text: &str, plain: &str) {
        assert_eq!(read(text), read(plain), "{text:?}");
        assert!(parse(plain.as_bytes()).is_ok(), "{plain:?}");
    }

    // forward(5): comments, continued lines, lists.
    #[test]
    fn a_file_is_lines_of_items() {
        same("# only a comment\n\n   \n", "");
        same("bob # a note\n", "bob");
        same("bob#note, eve\ncarol\n", "bob\ncarol");
        same("bob,\\\ncarol,\\\n  dave\n", "bob, carol, dave");
        same("bob\\\n", "bob");
        same("bob # a note \\\ncarol", "bob\ncarol");
        same("bob\r\ncarol\r\n", "bob\ncarol");
        same("\\bob", "bob");
        assert_eq!(
            parse(b"error:550 no \\# 4, bob # x\n").unwrap(),
            [
                Item::Error(550, Line::new("no # 4").unwrap()),
                Item::User("bob".into())
            ]
        );
        assert_eq!(
            parse(b"\"|cmd # x, y\", bob").unwrap(),
            [
                Item::Pipe(Line::new("cmd # x, y").unwrap()),
                Item::User("bob".into())
            ]
        );
    }

    #[test]
    fn what_is_no_item_names_its_line() {
        for (text, line) in [
            ("bob\n\nx=y\n", 3),
            ("bob,\\\ncarol\n\"|x\n", 3),
            ("bob,\\\nx=y", 1),
            ("\"|cmd # never closed\n", 1),
            ("o\0o", 1),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().0, line, "{text:?}");
        }
        assert!(parse(b"b\xf6b").is_err());
        // In a comment anything may stand.
        assert!(parse(b"bob # J\xf6rg\n").is_ok());
        assert!(parse("x".repeat(2048).as_bytes()).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic_and_items_are_bounded_by_bytes() {
        let mut dice = Dice::new(3);
        for _ in 0..20_000 {
            let text: Vec<u8> = (0..dice.roll(60))
                .map(|_| b"ab@.,|/:# \t\"'\\\r\n\0\xffincluder5:"[dice.roll(28)])
                .collect();
            if let Ok(items) = parse(&text) {
                assert!(items.len() <= text.len());
            }
            assert!(lines(&text).len() <= text.len() + 1);
        }
    }
}

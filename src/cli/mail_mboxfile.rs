//! mail.mboxfile(8): arguments and exit codes.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::mda::{MdaError, conclude, mbox, mboxfile};
use crate::util::Timestamp;
use crate::util::sysexits::FAILURE;

use super::mail_options::{lossy, refuse_root, words};

const NAME: &str = "mail.mboxfile";

/// Runs mail.mboxfile(8) and returns its exit code.
pub fn main() -> i32 {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let parsed = refuse_root().and_then(|()| parse(&args));
    conclude(NAME, parsed.and_then(|(path, from)| deliver(&path, &from)))
}

fn deliver(path: &Path, from: &str) -> Result<(), MdaError> {
    let mut message = io::stdin().lock();
    mboxfile::deliver(&mut message, path, from, Timestamp::now(), mbox::LOCK_WAIT)
}

fn parse(args: &[OsString]) -> Result<(PathBuf, String), MdaError> {
    let words = words(args, "f");
    let from = words
        .letters
        .iter()
        .rev()
        .find_map(|(letter, value)| value.as_ref().filter(|_| *letter == b'f'));
    let wrong = |text| MdaError::new(FAILURE, text);
    match words.operands.as_slice() {
        [] => Err(wrong("mbox file required")),
        [path] => Ok((
            PathBuf::from(path),
            from.map_or("<unknown>".to_string(), lossy),
        )),
        _ => Err(wrong("only one mbox file is allowed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_and_a_sender_or_none() {
        // mail.mboxfile(8).
        let parse = |args: &[&str]| {
            parse(&args.iter().map(OsString::from).collect::<Vec<_>>()).map_err(|f| f.code)
        };
        assert_eq!(parse(&["-f", "a@b", "x"]), Ok(("x".into(), "a@b".into())));
        assert_eq!(parse(&["x"]), Ok(("x".into(), "<unknown>".into())));
        assert_eq!(parse(&["x", "y"]), Err(1));
        assert_eq!(parse(&[]), Err(1));
    }
}

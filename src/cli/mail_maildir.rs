//! mail.maildir(8): arguments, environment and exit codes.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use crate::mda::maildir::{self, Draft, Junk, Target};
use crate::mda::{MdaError, conclude, copy};
use crate::util::sysexits::{FAILURE, TEMPFAIL};

use super::mail_options::{lossy, refuse_root, words};

const NAME: &str = "mail.maildir";

/// Runs mail.maildir(8) and returns its exit code.
pub fn main() -> i32 {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let extension = std::env::var_os("EXTENSION").map(lossy);
    let target = refuse_root().and_then(|()| parse(&args, std::env::var_os("HOME"), extension));
    conclude(NAME, target.and_then(|target| deliver(&target)))
}

fn deliver(target: &Target) -> Result<(), MdaError> {
    let mut draft = Draft::new(target)?;
    copy(
        &mut io::stdin().lock(),
        |bytes| draft.write(bytes),
        TEMPFAIL,
    )?;
    let written = draft.finish()?;
    maildir::settle(vec![written]).into_iter().collect()
}

fn parse(
    args: &[OsString],
    home: Option<OsString>,
    extension: Option<String>,
) -> Result<Target, MdaError> {
    let words = words(args, "");
    let junk = if words.letters.iter().any(|(letter, _)| *letter == b'j') {
        Junk::Folder
    } else {
        Junk::Ignore
    };
    let root = match (words.operands.as_slice(), home) {
        ([], Some(home)) if !home.is_empty() => PathBuf::from(home).join("Maildir"),
        ([], _) => return Err(MdaError::new(FAILURE, "HOME is not set")),
        ([path], _) => PathBuf::from(path),
        _ => {
            return Err(MdaError::new(FAILURE, "only one maildir is allowed"));
        }
    };
    Ok(Target {
        root,
        junk,
        extension,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_the_operand_or_below_home() {
        // mail.maildir(8).
        let parse = |args: &[&str], home: Option<&str>| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            parse(&args, home.map(OsString::from), None)
        };
        let target = parse(&[], Some("/home/bob")).unwrap();
        assert_eq!(
            (target.root, target.junk),
            ("/home/bob/Maildir".into(), Junk::Ignore)
        );
        let target = parse(&["-xj", "Mail"], None).unwrap();
        assert_eq!((target.root, target.junk), ("Mail".into(), Junk::Folder));
        let failure = parse(&["a", "b"], None).unwrap_err();
        assert_eq!(failure.code, 1);
        assert_eq!(failure.text, "only one maildir is allowed");
        assert_eq!(parse(&[], None).unwrap_err().code, 1);
    }
}

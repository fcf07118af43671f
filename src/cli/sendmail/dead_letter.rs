//! `dead.letter`: where a refused message stays with the one who wrote it.
//!
//! A mailbox in mbox format, so that mail(1) and its like read it. Each letter is appended behind
//! the older ones, under lock and whole or not at all; a link, or anything else that is no plain
//! file, is left alone.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use crate::mda::mbox::{self, Codes, Quote};
use crate::sys::errno::strerror;
use crate::sys::open;
use crate::util::Timestamp;
use crate::util::sysexits::TEMPFAIL;

/// How long another writer may have it locked.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const CODES: Codes = Codes {
    locked: TEMPFAIL,
    failed: TEMPFAIL,
};

/// Appends the message to `dead.letter` in `home`.
pub fn append(
    home: &Path,
    from: &str,
    now: Timestamp,
    message: &mut dyn Read,
) -> Result<(), String> {
    let path = home.join("dead.letter");
    let failed = |error: std::io::Error| format!("{}: {}", path.display(), strerror(&error));
    let mut file = open::own_appended(&path).map_err(failed)?;
    let from_line = mbox::from_line(from, now.0);
    let mut stored =
        mbox::store(message, &from_line, Quote::Every, TEMPFAIL).map_err(|f| f.text)?;
    mbox::append(&mut file, &path, CODES, LOCK_WAIT, &mut stored)
        .map(drop)
        .map_err(|failure| failure.text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn put(home: &Path, text: &str) -> Result<(), String> {
        append(home, "bob@x", Timestamp(0), &mut text.as_bytes())
    }

    #[test]
    fn letters_are_appended_and_no_older_one_is_lost() {
        // sendmail(8), When the daemon refuses: behind older ones, in mbox format.
        let home = tempfile::tempdir().unwrap();
        let letter = home.path().join("dead.letter");
        fs::write(&letter, "an old letter").unwrap();
        put(home.path(), "one\nFrom here\n").unwrap();
        put(home.path(), "two").unwrap();
        let stamp = mbox::from_line("bob@x", 0);
        let expected = format!("an old letter\n\n{stamp}one\n>From here\n\n{stamp}two\n\n");
        assert_eq!(fs::read_to_string(&letter).unwrap(), expected);
        fs::remove_file(&letter).unwrap();
        put(home.path(), "one\n").unwrap();
        assert_eq!(
            fs::read_to_string(&letter).unwrap(),
            format!("{stamp}one\n\n")
        );
        assert_eq!(fs::metadata(&letter).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_is_not_followed_and_a_fifo_does_not_hold_us_up() {
        let home = tempfile::tempdir().unwrap();
        let (victim, letter) = (home.path().join("victim"), home.path().join("dead.letter"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &letter).unwrap();
        assert!(put(home.path(), "x").is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        fs::remove_file(&letter).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&letter).status();
        assert!(made.unwrap().success());
        assert!(put(home.path(), "x").is_err());
        assert!(put(&home.path().join("nowhere"), "x").is_err());
    }
}

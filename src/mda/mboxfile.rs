//! mail.mboxfile(8): a message appended to a file in mbox format.
//!
//! The message is copied first, so that the file is locked only while it grows and gets all of it
//! or nothing; it is cut back when writing fails.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use crate::sys;
use crate::util::Timestamp;
use crate::util::sysexits::TEMPFAIL;

use super::MdaError;
use super::mbox::{self, Codes, Quote};

const CODES: Codes = Codes {
    locked: TEMPFAIL,
    failed: TEMPFAIL,
};

/// Appends `message` to `path`, made with mode 0600 if it is not there.
pub fn deliver(
    message: &mut dyn Read,
    path: &Path,
    from: &str,
    now: Timestamp,
    lock_wait: Duration,
) -> Result<(), MdaError> {
    let from_line = mbox::from_line(from, now.0);
    let mut stored = mbox::store(message, &from_line, Quote::Every, TEMPFAIL)?;
    let mut file = sys::open::append(path).map_err(|error| MdaError::on(TEMPFAIL, path, &error))?;
    mbox::append(&mut file, path, CODES, lock_wait, &mut stored).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn put(path: &Path, body: &[u8]) -> Result<(), MdaError> {
        let now = Timestamp(1_700_000_000);
        deliver(&mut &body[..], path, "bob@e.org", now, mbox::LOCK_WAIT)
    }

    #[test]
    fn every_from_line_is_quoted_and_messages_end_in_an_empty_line() {
        // mail.mboxfile(8).
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("box");
        put(&path, b"From: x\n\nFrom here\nx\0\xff").unwrap();
        put(&path, b"b\n").unwrap();
        let text = std::fs::read(&path).unwrap();
        let stamp = format!("From bob@e.org {}\n", sys::localtime::ctime(1_700_000_000));
        let expected = [
            stamp.as_bytes(),
            b"From: x\n\n>From here\nx\0\xff\n\n",
            stamp.as_bytes(),
            b"b\n\n",
        ]
        .concat();
        assert_eq!(text, expected);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_device_is_fine_and_a_wrong_path_or_a_fifo_is_temporary() {
        put(Path::new("/dev/null"), b"x").unwrap();
        let failure = put(Path::new("/no/such/dir/box"), b"x").unwrap_err();
        assert_eq!(failure.code, 75);
        assert_eq!(failure.text, "/no/such/dir/box: No such file or directory");
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(put(dir.path(), b"x").unwrap_err().code, 75);
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        assert_eq!(put(&fifo, b"x").unwrap_err().code, 75);
    }

    #[test]
    fn a_file_that_may_only_be_written_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("box");
        std::fs::write(&path, "x").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o200)).unwrap();
        put(&path, b"y").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("\ny\n\n"));
    }
}

//! `dead.letter`: where a refused message stays with the one who wrote it.
//!
//! It is written under another name and renamed into place, so that a link left at
//! `dead.letter` is replaced and never followed.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::sys::open::create_new;
use crate::sys::random;

/// Writes the message into `home`, in place of an older one.
pub fn write(
    home: &Path,
    body: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = home.join(format!(".dead.letter.{:016x}", random::number_u64()));
    let mut out = BufWriter::new(create_new(&temporary)?);
    let written = body(&mut out)
        .and_then(|()| out.flush())
        .and_then(|()| fs::rename(&temporary, home.join("dead.letter")));
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn an_older_letter_is_replaced_and_a_link_is_not_followed() {
        // sendmail(8): a refused message is written to dead.letter in the home directory.
        let home = tempfile::tempdir().unwrap();
        let victim = home.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, home.path().join("dead.letter")).unwrap();
        for text in ["one", "two"] {
            write(home.path(), &mut |out| out.write_all(text.as_bytes())).unwrap();
            let letter = home.path().join("dead.letter");
            assert_eq!(fs::read_to_string(&letter).unwrap(), text);
            let found = fs::symlink_metadata(&letter).unwrap();
            assert_eq!((found.is_file(), found.mode() & 0o777), (true, 0o600));
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        let failed = write(home.path(), &mut |_| Err(io::Error::other("no")));
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
    }
}

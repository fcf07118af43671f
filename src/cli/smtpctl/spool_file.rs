//! Opening files of the spool, which belongs to somebody whom root does not trust.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::queue::fs::layout;
use crate::sys::creds::{Identity, acting_as};
use crate::sys::{open, user};

/// Does what root does as the owner of the queue: a link in the spool leads to nothing that he
/// could not read himself. Who is that already, or nobody else, does it as he is. `work` prints
/// nothing and asks nobody, and no other thread runs.
pub(super) fn as_owner<T>(spool: &Path, work: impl FnOnce() -> T) -> io::Result<T> {
    if user::effective_uid() != 0 {
        return Ok(work());
    }
    let owner = fs::symlink_metadata(spool.join(layout::QUEUE))?;
    if owner.uid() == 0 {
        return Ok(work());
    }
    acting_as(&Identity::alone(owner.uid(), owner.gid()), work)
}

/// Opens a plain file of the spool, as the owner of the queue.
pub(super) fn open_file(spool: &Path, path: &Path) -> io::Result<File> {
    let file = as_owner(spool, || open::foreign(path))??;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a plain file",
        ))
    }
}

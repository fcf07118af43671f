//! Opening a file of the spool, which belongs to somebody whom root does not trust.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::queue::fs::layout;
use crate::sys::creds::{Identity, acting_as};
use crate::sys::{open, user};

/// Opens a plain file of the spool. Root does so as the owner of the queue: a link there leads to
/// nothing that he could not read himself.
pub(super) fn open_file(spool: &Path, path: &Path) -> io::Result<File> {
    let owner = fs::symlink_metadata(spool.join(layout::QUEUE))?;
    let owner = Identity::alone(owner.uid(), owner.gid());
    let file = if user::effective_uid() == 0 && owner.uid != 0 {
        acting_as(&owner, || open::foreign(path))??
    } else {
        open::foreign(path)?
    };
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a plain file",
        ))
    }
}

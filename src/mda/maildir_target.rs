//! Which maildir a message goes to, and how.

use std::path::PathBuf;

use crate::config::specifier::{Values, expand_path};
use crate::util::Line;
use crate::util::sysexits::DATAERR;

use super::MdaError;
use super::maildir::{Junk, Target};

/// The target of an action `maildir`, with its path and `junk`.
pub(super) fn maildir_target(
    path: Option<&str>,
    junk: bool,
    values: &Values<'_>,
    home: &str,
    subaddress: Option<&Line>,
) -> Result<Target, MdaError> {
    let root = match path {
        Some(template) => expand_path(template, values)?,
        None if home.is_empty() => return Err(MdaError::new(DATAERR, "the user has no home")),
        None => PathBuf::from(home).join("Maildir"),
    };
    Ok(Target {
        root,
        junk: if junk { Junk::Folder } else { Junk::Ignore },
        extension: subaddress.map(Line::to_string),
    })
}

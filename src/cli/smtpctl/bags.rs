//! What smtpctl(8) reads from bags: files of the spool that hold several messages.
//!
//! A daemon may settle, unpack and remove them meanwhile. A damaged bag is a matter for the daemon:
//! what can be read of it is read here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::mail::{EvpId, MsgId};
use crate::queue::coding::{Name, Unreadable};
use crate::queue::fs::bags::form::{self, Contents, Part};
use crate::queue::fs::layout;

use super::spool_file::open_file;

/// Unsettled envelopes in bags, of each message in order.
pub(super) type Envelopes = BTreeMap<MsgId, Vec<EvpId>>;

/// All that are in bags, or those of one message.
pub(super) fn envelopes(spool: &Path, only: Option<MsgId>) -> io::Result<Envelopes> {
    let mut found = Envelopes::new();
    each(spool, |_, contents, gone| {
        let live = contents.parts.iter().zip(gone).filter(|(_, gone)| !**gone);
        for id in live.filter_map(|(part, _)| part.envelope()) {
            if only.is_none_or(|only| only == id.msgid()) {
                found.entry(id.msgid()).or_default().push(id);
            }
        }
        Ok(true)
    })?;
    Ok(found)
}

/// The bytes of a file that is a part of a bag, if there is one and it is not settled.
pub(super) fn part(spool: &Path, name: Name) -> io::Result<Option<Vec<u8>>> {
    let mut found = None;
    each(spool, |bag, contents, gone| {
        let wanted = |(part, gone): &(&Part, &bool)| part.coded_as() == Some(name) && !**gone;
        let Some((part, _)) = contents.parts.iter().zip(gone).find(wanted) else {
            return Ok(true);
        };
        match part.read(bag) {
            Err(Unreadable::Io(error)) => return Err(error),
            Err(damaged) => return Err(io::Error::other(damaged.to_string())),
            Ok(bytes) => found = Some(bytes),
        }
        Ok(false)
    })?;
    Ok(found)
}

/// Shows every bag until `look` has seen enough.
fn each(
    spool: &Path,
    mut look: impl FnMut(&File, &Contents, &[bool]) -> io::Result<bool>,
) -> io::Result<()> {
    let room = spool.join(layout::BAGS);
    let entries = match fs::read_dir(&room) {
        // A spool of an older version.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        if layout::bag_from(&name).is_none() {
            continue;
        }
        let bag = match open_file(spool, &room.join(name)) {
            // All that was in it is settled now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        let contents = form::read(&bag)?;
        let gone = contents.gone(&bag)?;
        if !look(&bag, &contents, &gone)? {
            break;
        }
    }
    Ok(())
}

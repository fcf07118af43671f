//! What smtpctl(8) reads from bags: files of the spool that hold several messages.
//!
//! A daemon may settle, unpack and remove them meanwhile. A damaged bag is a matter for the daemon:
//! what can be read of it is read here.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use crate::mail::{EvpId, MsgId};
use crate::queue::coding::{Name, Unreadable};
use crate::queue::fs::bags::form::{self, Part};
use crate::queue::fs::layout;

use super::spool_file::open_file;

/// What lies in bags and is not settled. Every bag's table is read once.
#[derive(Default)]
pub(super) struct Bagged {
    envelopes: BTreeMap<MsgId, Vec<EvpId>>,
    /// By the number of the bag.
    parts: HashMap<Name, (u64, Part)>,
}

impl Bagged {
    /// Of all messages, or of one.
    pub(super) fn find(spool: &Path, only: Option<MsgId>) -> io::Result<Bagged> {
        let mut found = Bagged::default();
        let room = spool.join(layout::BAGS);
        let entries = match fs::read_dir(&room) {
            // A spool of an older version.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        for entry in entries {
            let name = entry?.file_name();
            let Some(number) = layout::bag_from(&name) else {
                continue;
            };
            let bag = match open_file(spool, &room.join(name)) {
                // All that was in it is settled now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let contents = form::read(&bag)?;
            let gone = contents.gone(&bag)?;
            let live = contents.parts.iter().zip(gone).filter(|(_, gone)| !gone);
            for (part, _) in live {
                found.add(number, part, only);
            }
        }
        Ok(found)
    }

    fn add(&mut self, bag: u64, part: &Part, only: Option<MsgId>) {
        let (Some(msgid), Some(name)) = (part.msgid(), part.coded_as()) else {
            return;
        };
        if only.is_some_and(|only| only != msgid) {
            return;
        }
        self.parts.insert(name, (bag, *part));
        if let Some(id) = part.envelope() {
            self.envelopes.entry(msgid).or_default().push(id);
        }
    }

    /// The messages.
    pub(super) fn messages(&self) -> impl Iterator<Item = MsgId> {
        self.envelopes.keys().copied()
    }

    /// A message's envelopes, in order.
    pub(super) fn envelopes(&self, msgid: MsgId) -> &[EvpId] {
        self.envelopes.get(&msgid).map_or(&[], Vec::as_slice)
    }

    /// The bytes of a file that is a part of a bag, if it is.
    pub(super) fn part(&self, spool: &Path, name: Name) -> io::Result<Option<Vec<u8>>> {
        let Some((bag, part)) = self.parts.get(&name) else {
            return Ok(None);
        };
        match open_file(spool, &spool.join(layout::bag(*bag))).map(|bag| part.read(&bag)) {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(Unreadable::Io(error))) => Err(error),
            Ok(Err(damaged)) => Err(io::Error::other(damaged.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

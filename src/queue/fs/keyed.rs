//! Reading files that may be compressed or encrypted, and what a wrong key means: nothing is moved,
//! nothing is lost, and the store does not even open, so that somebody looks.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use crate::log;
use crate::mail::{Envelope, EvpId, MsgId};
use crate::queue::coding::{Form, Name, OVERHEAD_BYTES, Unreadable};
use crate::queue::{Body, DiskFile, LoadError, envelope_file};

use super::{Shared, buckets, layout};

/// A key is tried on so many envelopes at start; the others are met by the scan.
pub(super) const LOOKS: usize = 256;

impl Shared {
    /// Tries the key on what is there. A spool of which it opens nothing is left alone.
    pub(super) fn check_key(&self) -> io::Result<()> {
        let buckets = buckets::list(&*self.disk)?;
        let in_buckets = buckets
            .into_iter()
            .flat_map(|bucket| self.messages_in(bucket).unwrap_or_default());
        let messages = self.bags.messages().into_iter().chain(in_buckets);
        let envelopes = messages.flat_map(|msgid| self.listed(msgid));
        for id in envelopes.take(LOOKS) {
            match self.text_of(id) {
                Err(Unreadable::Key(why)) => return Err(self.locked(id, &why)),
                // What is sealed with this key says that it is the right one.
                Ok((Form::Sealed | Form::Legacy, _)) => return Ok(()),
                // Every other trouble is met again, by those who know what to do with it.
                Ok(_) | Err(Unreadable::Damaged(_) | Unreadable::Io(_)) => {}
            }
        }
        Ok(())
    }

    pub(super) fn read_envelope(&self, id: EvpId) -> Result<Envelope, LoadError> {
        let (_, text) = self.text_of(id).map_err(|unreadable| match unreadable {
            Unreadable::Damaged(why) => LoadError::Corrupt(why),
            Unreadable::Key(why) => LoadError::Io(stays(&self.path_of(id), &why)),
            Unreadable::Io(error) if error.kind() == io::ErrorKind::NotFound => LoadError::Missing,
            Unreadable::Io(error) => LoadError::Io(error),
        })?;
        self.decode(id, &text).map_err(LoadError::Corrupt)
    }

    /// The envelope whose file has these bytes; `None` if that is not clear.
    pub(super) fn understood(&self, id: EvpId, bytes: &[u8]) -> Option<Envelope> {
        let (limit, name) = (envelope_file::MAX_FILE_BYTES, Name::envelope(id));
        let text = self.options.coding.decode(name, bytes, limit).ok()?;
        self.decode(id, &text).ok()
    }

    fn decode(&self, id: EvpId, text: &[u8]) -> Result<Envelope, String> {
        envelope_file::decode_for(id, text, self.options.daemon_user.as_ref())
    }

    pub(super) fn open_body(&self, id: MsgId) -> io::Result<Body> {
        match self.body_in_bag(id) {
            Ok(None) => {}
            Ok(Some(body)) => return Ok(body),
            Err(unreadable) => {
                let path = self.bag_of(id).unwrap_or_else(|| layout::body_path(id));
                if let Unreadable::Damaged(why) = &unreadable {
                    self.unpack_unreadable(id, &format!("{id}: {why}"));
                }
                return Err(told(&path, unreadable.into()));
            }
        }
        let (path, name) = (layout::body_path(id), Name::body(id));
        let file = self.disk.open(&path)?;
        let coding = &self.options.coding;
        let opened = match Form::of_file(&file)? {
            Form::Legacy => {
                let _turn = self.legacy.lock().unwrap_or_else(PoisonError::into_inner);
                coding
                    .open(name, file)
                    .map_err(io::Error::from)
                    .and_then(|body| self.sealed_anew(id, body))
            }
            _ => coding.open(name, file).map_err(io::Error::from),
        };
        opened.map_err(|error| told(&path, error))
    }

    /// The bag that a message is in.
    fn bag_of(&self, id: MsgId) -> Option<PathBuf> {
        self.bags.envelopes(id).map(|(bag, _)| layout::bag(bag))
    }

    /// The file that an envelope is in.
    fn path_of(&self, id: EvpId) -> PathBuf {
        self.bag_of(id.msgid())
            .unwrap_or_else(|| layout::envelope_path(id))
    }

    fn locked(&self, id: EvpId, why: &str) -> io::Error {
        let text = format!(
            "{}: {why}: start smtpd with the key that the queue was written with; nothing has been \
             changed",
            self.path_of(id).display()
        );
        io::Error::new(io::ErrorKind::PermissionDenied, text)
    }

    /// What had to be held in memory to be opened goes on as a nameless file of our own form, so
    /// that it is in memory only for this moment.
    fn sealed_anew(&self, id: MsgId, mut body: Body) -> io::Result<Body> {
        let (name, coding) = (Name::body(id), &self.options.coding);
        let path = layout::scratch_body(id, self.serial());
        let mut file = coding.writer(name, self.disk.create(&path)?)?;
        let copied = copy(&mut body, &mut *file).and_then(|()| self.disk.open(&path));
        if let Err(error) = self.disk.unlink(&path) {
            log::warn(format_args!("queue: {error}"));
        }
        Ok(coding.open(name, copied?)?)
    }

    /// The text of an envelope's file, and how it lies there.
    fn text_of(&self, id: EvpId) -> Result<(Form, Vec<u8>), Unreadable> {
        let limit = envelope_file::MAX_FILE_BYTES;
        let bytes = match self.envelope_in_bag(id)? {
            Some(bytes) => bytes,
            None => {
                let path = layout::envelope_path(id);
                self.disk.read(&path, limit + 1 + OVERHEAD_BYTES)?
            }
        };
        let coding = &self.options.coding;
        let text = coding.decode(Name::envelope(id), &bytes, limit)?;
        Ok((Form::of(&bytes), text))
    }
}

/// Writes all of a body to a file, which is finished.
pub(super) fn copy(body: &mut Body, file: &mut dyn DiskFile) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match io::Read::read(body, &mut buffer) {
            Ok(0) => return file.finish(),
            Ok(count) => file.write(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn stays(path: &Path, why: &str) -> io::Error {
    let text = format!("{}: {why}: it stays where it is", path.display());
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

/// Why a body does not open, with its file.
fn told(path: &Path, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => stays(path, &error.to_string()),
        io::ErrorKind::InvalidData => {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        }
        _ => error,
    }
}

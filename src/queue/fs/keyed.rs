//! Reading files that may be compressed or encrypted, and what a wrong key means: nothing is moved,
//! nothing is lost, and the store does not even open, so that somebody looks.

use std::io;
use std::path::Path;
use std::sync::PoisonError;

use crate::log;
use crate::mail::{Envelope, EvpId, MsgId};
use crate::queue::coding::{Form, Name, OVERHEAD_BYTES, Unreadable};
use crate::queue::{Body, LoadError, envelope_file};

use super::{Shared, buckets, layout};

/// A key is tried on so many envelopes at start; the others are met by the scan.
const LOOKS: usize = 256;

impl Shared {
    /// Tries the key on what is there. A spool of which it opens nothing is left alone.
    pub(super) fn check_key(&self) -> io::Result<()> {
        let mut left = LOOKS;
        for bucket in buckets::list(&*self.disk)? {
            for msgid in self.messages_in(bucket) {
                for id in self.listed(msgid) {
                    if left == 0 {
                        return Ok(());
                    }
                    left -= 1;
                    match self.text_of(id) {
                        Err(Unreadable::Key(why)) => return Err(locked(id, &why)),
                        // What is sealed with this key says that it is the right one.
                        Ok((Form::Sealed | Form::Legacy, _)) => return Ok(()),
                        // Every other trouble is met again, by those who know what to do with it.
                        Ok(_) | Err(Unreadable::Damaged(_) | Unreadable::Io(_)) => {}
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn read_envelope(&self, id: EvpId) -> Result<Envelope, LoadError> {
        let (_, text) = self.text_of(id).map_err(|unreadable| match unreadable {
            Unreadable::Damaged(why) => LoadError::Corrupt(why),
            Unreadable::Key(why) => LoadError::Io(stays(&layout::envelope_path(id), &why)),
            Unreadable::Io(error) if error.kind() == io::ErrorKind::NotFound => LoadError::Missing,
            Unreadable::Io(error) => LoadError::Io(error),
        })?;
        envelope_file::decode(id, &text).map_err(LoadError::Corrupt)
    }

    pub(super) fn open_body(&self, id: MsgId) -> io::Result<Body> {
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
        opened.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => stays(&path, &error.to_string()),
            io::ErrorKind::InvalidData => {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            }
            _ => error,
        })
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
        let path = layout::envelope_path(id);
        let bytes = self.disk.read(&path, limit + 1 + OVERHEAD_BYTES)?;
        let coding = &self.options.coding;
        let text = coding.decode(Name::envelope(id), &bytes, limit)?;
        Ok((Form::of(&bytes), text))
    }
}

fn copy(body: &mut Body, file: &mut dyn super::DiskFile) -> io::Result<()> {
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

fn locked(id: EvpId, why: &str) -> io::Error {
    let path = layout::envelope_path(id);
    let text = format!(
        "{}: {why}: start smtpd with the key that the queue was written with; nothing has been \
         changed",
        path.display()
    );
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

//! What smtpctl(8) reads from the spool itself, with or without a daemon: `show envelope`,
//! `show message`, and `show queue` when nothing answers on the socket.
//!
//! The spool changes while it is read: what has gone in the meantime is passed over. A file that
//! makes no envelope is named on standard error and passed over too. Compressed files are read as
//! they are; for encrypted ones the key is taken from smtpd.conf, or asked for. It is never
//! printed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::cli::exit_error::ExitError;
use crate::cli::queue_key;
use crate::control::Which;
use crate::control::listing::{self, Standing, State};
use crate::control::message::Listed;
use crate::control::summary::Summary;
use crate::mail::{Envelope, EvpId, MsgId};
use crate::queue::Body;
use crate::queue::coding::{Coding, Key, Name, Source, Unreadable};
use crate::queue::fs::{body_path, envelope_path, layout};
use crate::sys::errno::strerror;

use super::bags::Bagged;
use super::spool_file::{as_owner, open_file};

/// Makes an envelope of a file's bytes.
pub type Decode = fn(EvpId, &[u8]) -> Result<Envelope, String>;

/// Takes every envelope in the spool (or of one message), in order of the ids. What was queued
/// without a time of its own has `ttl_s`.
pub fn each_envelope(
    spool: &Path,
    only: Option<MsgId>,
    (decode, ttl_s): (Decode, u32),
    keys: &Keys<'_>,
    take: &mut dyn FnMut(Listed) -> Result<(), ExitError>,
) -> Result<(), ExitError> {
    // One that is not there is no empty one: a mistyped root, or an instance that never ran.
    fs::metadata(spool).map_err(|e| ExitError::io(spool.display(), &e))?;
    let coding = Coding {
        key: (keys.configured)(),
        ..Coding::default()
    };
    let files = Files::find(spool, only)?;
    let messages = files.messages(only)?.into_iter();
    let mut ids = messages.flat_map(|msgid| files.envelopes(msgid));
    loop {
        let read = || -> Vec<_> {
            let ids = ids.by_ref().take(READ_AT_ONCE);
            ids.map(|id| offline_line(&files, id, (decode, ttl_s), &coding))
                .collect()
        };
        let lines = match as_owner(spool, read) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ExitError::io(spool.display(), &error));
            }
            // Without its directory nothing was ever queued.
            lines => lines.unwrap_or_default(),
        };
        if lines.is_empty() {
            return Ok(());
        }
        for line in lines {
            match line {
                Ok(Some(listed)) => take(listed)?,
                Ok(None) => {}
                Err(why) => eprintln_quietly(&why),
            }
        }
    }
}

/// Envelopes that are read before they are printed: to become the owner of the queue and root again
/// takes longer than to read one of them.
const READ_AT_ONCE: usize = 500;

/// Prints an envelope's file.
pub fn show_envelope(
    spool: &Path,
    which: Which,
    keys: &Keys<'_>,
    out: &mut dyn Write,
) -> Result<i32, ExitError> {
    let Which::Envelope(id) = which else {
        return Err(ExitError::new("bad message type"));
    };
    let files = Files::find(spool, Some(id.msgid()))?;
    let mut text = keys.open(&files, &envelope_path(id), Name::envelope(id))?;
    copy(&mut text, out)
}

/// Prints a message's body.
pub fn show_message(
    spool: &Path,
    which: Which,
    keys: &Keys<'_>,
    out: &mut dyn Write,
) -> Result<i32, ExitError> {
    let msgid = match which {
        Which::Message(id) => id,
        Which::Envelope(id) => id.msgid(),
        Which::All => return Err(ExitError::new("bad message type")),
    };
    let files = Files::find(spool, Some(msgid))?;
    let mut text = keys.open(&files, &body_path(msgid), Name::body(msgid))?;
    copy(&mut text, out)
}

/// Envelope files have a few lines; a longer file is not one.
pub(super) const LONGEST_ENVELOPE: u64 = 1 << 20;

/// The files of a spool, those in bags among them.
pub(super) struct Files<'a> {
    spool: &'a Path,
    bagged: Bagged,
    /// What has opened one of them.
    key: RefCell<Option<Key>>,
}

impl Files<'_> {
    /// Of all messages, or of one.
    pub(super) fn find(spool: &Path, only: Option<MsgId>) -> Result<Files<'_>, ExitError> {
        let room = spool.join(layout::BAGS);
        let bagged = Bagged::find(spool, only).map_err(|e| ExitError::io(room.display(), &e))?;
        Ok(Files {
            spool,
            bagged,
            key: RefCell::default(),
        })
    }

    /// The ids of all messages, or this one.
    pub(super) fn messages(&self, only: Option<MsgId>) -> Result<BTreeSet<MsgId>, ExitError> {
        if let Some(id) = only {
            return Ok(BTreeSet::from([id]));
        }
        let queue = self.spool.join(layout::QUEUE);
        let mut messages: BTreeSet<MsgId> = self.bagged.messages().collect();
        let buckets = names(&queue).map_err(|e| ExitError::io(queue.display(), &e))?;
        for bucket in buckets.iter().filter(|name| name.len() == 2) {
            let bucket = queue.join(bucket);
            let ids = names(&bucket).map_err(|e| ExitError::io(bucket.display(), &e))?;
            messages.extend(ids.iter().filter_map(|name| name.parse::<MsgId>().ok()));
        }
        Ok(messages)
    }

    /// The envelopes of a message, in order. Where it has a directory, that counts.
    pub(super) fn envelopes(&self, msgid: MsgId) -> Vec<EvpId> {
        let body = self.spool.join(body_path(msgid));
        let found = body.parent().map(names).and_then(Result::ok);
        let names = found.unwrap_or_default();
        let ids: Vec<EvpId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        if ids.is_empty() {
            self.bagged.envelopes(msgid).to_vec()
        } else {
            ids
        }
    }

    /// The bytes of one, which may be a part of a bag.
    fn source(&self, path: &Path, name: Name) -> io::Result<Source> {
        let path = self.spool.join(path);
        match open_file(self.spool, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map(Source::File),
        }
        match self.bagged.part(self.spool, name)? {
            Some(bytes) => Ok(Source::Memory(bytes)),
            // It may have been unpacked just now.
            None => open_file(self.spool, &path).map(Source::File),
        }
    }
}

/// Names in a directory, sorted; none when it is gone.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// What is listed of an envelope that lies in the spool; `None` when it has just gone.
fn offline_line(
    files: &Files<'_>,
    id: EvpId,
    (decode, ttl_s): (Decode, u32),
    coding: &Coding,
) -> Result<Option<Listed>, String> {
    let path = envelope_path(id);
    let failed =
        |why: &dyn std::fmt::Display| format!("{}: {why}", files.spool.join(&path).display());
    let read = files
        .source(&path, Name::envelope(id))
        .and_then(|source| match source {
            Source::Memory(bytes) => Ok(bytes),
            Source::File(file) => {
                let mut bytes = Vec::new();
                let read = file.take(LONGEST_ENVELOPE).read_to_end(&mut bytes);
                read.map(|_| bytes)
            }
        });
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&strerror(&error))),
    };
    let bytes = coding
        .decode(Name::envelope(id), &bytes, LONGEST_ENVELOPE as usize)
        .map_err(|unreadable| match unreadable {
            Unreadable::Key(_) => "offline encrypted queue is not supported yet".to_owned(),
            other => failed(&other),
        })?;
    let envelope = decode(id, &bytes).map_err(|why| failed(&why))?;
    let standing = Standing {
        expires: listing::expiry(&envelope, ttl_s),
        last_try: envelope.last_try,
        held: false,
        state: State::Offline,
    };
    Ok(Some(listing::listed(
        id,
        &Summary::of(&envelope),
        &standing,
    )))
}

pub(super) fn eprintln_quietly(line: &str) {
    // Nobody listens on standard error: then nobody wants to know.
    let _ = writeln!(io::stderr(), "{line}");
}

fn copy(text: &mut Body, out: &mut dyn Write) -> Result<i32, ExitError> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match text.read(&mut buffer) {
            Ok(0) => return Ok(0),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ExitError::io("fread", &error)),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        out.write_all(bytes).map_err(|e| ExitError::output(&e))?;
    }
}

/// Where the key to an encrypted file comes from.
pub struct Keys<'a> {
    /// What smtpd.conf says.
    pub configured: &'a dyn Fn() -> Option<Key>,
    /// What somebody types.
    pub ask: &'a dyn Fn() -> Result<Vec<u8>, String>,
}

/// How often a wrong key may be typed.
const TRIES: usize = 3;

impl Keys<'_> {
    /// Opens a file of the spool. The daemon is not asked: it need not run, and need not know the
    /// key. A key that has opened one file is tried on the next.
    pub(super) fn open(
        &self,
        files: &Files<'_>,
        path: &Path,
        name: Name,
    ) -> Result<Body, ExitError> {
        let open = |key: Option<Key>| {
            let source = files
                .source(path, name)
                .map_err(|e| ExitError::io("fopen", &e))?;
            let coding = Coding {
                key,
                ..Coding::default()
            };
            match coding.open(name, source) {
                Ok(body) => {
                    files.key.replace(coding.key);
                    Ok(Ok(body))
                }
                Err(Unreadable::Key(why)) => Ok(Err(why)),
                Err(Unreadable::Io(error)) => Err(ExitError::io("fread", &error)),
                Err(damaged) => Err(ExitError::new(format!("object is damaged: {damaged}"))),
            }
        };
        let known = files.key.borrow().clone();
        let mut tried = open(known)?;
        if tried.is_err()
            && let Some(key) = (self.configured)()
        {
            tried = open(Some(key))?;
        }
        for _ in 0..TRIES {
            let Err(why) = tried else {
                break;
            };
            let bytes = (self.ask)()
                .map_err(|no| ExitError::new(format!("object is encrypted: {why}: {no}")))?;
            let key = queue_key::key(&bytes);
            let key = key.ok_or_else(|| ExitError::new("crypto-setup: invalid key"))?;
            tried = open(Some(key))?;
        }
        tried.map_err(|why| ExitError::new(format!("object is encrypted: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::control::listing::tests::envelope;

    /// An envelope file of these tests holds nothing but the id, or what is to be refused.
    fn decode(id: EvpId, bytes: &[u8]) -> Result<Envelope, String> {
        if bytes == id.to_string().as_bytes() {
            Ok(envelope(id))
        } else {
            Err("version mismatch".to_owned())
        }
    }

    const NO_KEYS: Keys<'_> = Keys {
        configured: &|| None,
        ask: &|| Err("nobody is there".to_owned()),
    };

    fn message_dir(spool: &Path, msgid: &str) -> PathBuf {
        let body = spool.join(body_path(msgid.parse().unwrap()));
        body.parent().unwrap().to_owned()
    }

    fn spool_with(ids: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for id in ids {
            let message = message_dir(dir.path(), &id[..8]);
            fs::create_dir_all(&message).unwrap();
            fs::write(message.join("message"), "Subject: x\n\nbody \x1b[m\n").unwrap();
            fs::write(message.join(id), id).unwrap();
        }
        dir
    }

    fn show_queue(
        spool: &Path,
        only: Option<MsgId>,
        known: (Decode, u32),
        keys: &Keys<'_>,
        out: &mut dyn Write,
    ) -> Result<i32, ExitError> {
        each_envelope(spool, only, known, keys, &mut |listed| {
            writeln!(out, "{}|{}", listed.id, listed.text).map_err(|e| ExitError::output(&e))
        })?;
        Ok(0)
    }

    fn shown(spool: &Path, only: Option<MsgId>) -> (i32, String) {
        let mut out = Vec::new();
        let code = show_queue(spool, only, (decode, 60), &NO_KEYS, &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_spool_without_a_daemon_is_listed_in_order_of_ids_as_offline() {
        // smtpctl(8), show queue: state `offline`, an empty 13th field.
        let ids = ["ff00000100000001", "1a2b3c4d00000002", "1a2b3c4d00000001"];
        let dir = spool_with(&ids);
        let rest = "local|mda||alice@example.org|bob@example.org|bob@example.org|\
                    1700000000|1700345600|0|0|offline||";
        let lines =
            |ids: &[&str]| -> String { ids.iter().map(|id| format!("{id}|{rest}\n")).collect() };
        let all = lines(&["1a2b3c4d00000001", "1a2b3c4d00000002", "ff00000100000001"]);
        assert_eq!(shown(dir.path(), None), (0, all));
        let only = "ff000001".parse().ok();
        let one = lines(&["ff00000100000001"]);
        assert_eq!(shown(dir.path(), only), (0, one));
        assert_eq!(
            shown(dir.path(), "ff000002".parse().ok()),
            (0, String::new())
        );
    }

    #[test]
    fn a_spool_of_any_length_is_listed_in_full() {
        // smtpctl(8), show queue.
        for count in [READ_AT_ONCE, READ_AT_ONCE + 1] {
            let ids: Vec<String> = (1..=count).map(|n| format!("1a2b3c4d{n:08x}")).collect();
            let dir = spool_with(&ids.iter().map(String::as_str).collect::<Vec<_>>());
            let text = shown(dir.path(), None).1;
            let listed: Vec<&str> = text.lines().filter_map(|l| l.split('|').next()).collect();
            assert_eq!(listed, ids);
        }
    }

    #[test]
    fn the_queues_own_files_are_understood() {
        let dir = spool_with(&["1a2b3c4d00000001"]);
        let id: EvpId = "1a2b3c4d00000001".parse().unwrap();
        let file = crate::queue::envelope_file::encode(&envelope(id)).unwrap();
        fs::write(dir.path().join(envelope_path(id)), file).unwrap();
        let mut out = Vec::new();
        let decode = crate::cli::instance::decode_envelope;
        assert_eq!(
            show_queue(dir.path(), None, (decode, 60), &NO_KEYS, &mut out),
            Ok(0)
        );
        let line = "1a2b3c4d00000001|local|mda||alice@example.org|bob@example.org|\
                    bob@example.org|1700000000|1700345600|0|0|offline||\n";
        assert_eq!(String::from_utf8(out).unwrap(), line);
    }

    #[test]
    fn what_is_no_envelope_is_passed_over() {
        let dir = spool_with(&["1a2b3c4d00000001"]);
        let message = message_dir(dir.path(), "1a2b3c4d");
        fs::write(message.join("1a2b3c4d00000002"), "junk").unwrap();
        fs::write(message.join("1a2b3c4d00000003"), b"\x1f\x8b\x08").unwrap();
        fs::write(message.join("1a2b3c4d00000004"), b"\x01key").unwrap();
        fs::write(message.join(".tmp"), "").unwrap();
        fs::create_dir_all(dir.path().join("queue/1a/nonsense")).unwrap();
        fs::create_dir_all(dir.path().join("queue/x")).unwrap();
        let (code, text) = shown(dir.path(), None);
        assert_eq!((code, text.lines().count()), (0, 1));
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(shown(empty.path(), None), (0, String::new()));
    }

    #[test]
    fn envelopes_and_messages_are_shown_as_they_lie_there() {
        // smtpctl(8), show envelope and show message: raw, LF line ends; a missing one is named.
        let dir = spool_with(&["1a2b3c4d00000001"]);
        let id: EvpId = "1a2b3c4d00000001".parse().unwrap();
        for which in [Which::Envelope(id), Which::Message(id.msgid())] {
            let mut out = Vec::new();
            assert_eq!(show_message(dir.path(), which, &NO_KEYS, &mut out), Ok(0));
            assert_eq!(out, b"Subject: x\n\nbody \x1b[m\n");
        }
        let mut out = Vec::new();
        assert_eq!(
            show_envelope(dir.path(), Which::Envelope(id), &NO_KEYS, &mut out),
            Ok(0)
        );
        assert_eq!(out, b"1a2b3c4d00000001");
        let gone = Which::Message("00000001".parse().unwrap());
        assert_eq!(
            show_message(dir.path(), gone, &NO_KEYS, &mut Vec::new()),
            Err(ExitError::new("fopen: No such file or directory"))
        );
    }

    #[test]
    fn what_the_engine_put_in_the_place_of_a_file_is_not_read_as_root() {
        // smtpctl(8), show message: a link or a FIFO in the spool is no message.
        let dir = spool_with(&["1a2b3c4d00000001", "1a2b3c4d00000002"]);
        let secret = dir.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let message = message_dir(dir.path(), "1a2b3c4d");
        let body = message.join("message");
        let which = Which::Message("1a2b3c4d".parse().unwrap());
        let show = || {
            let mut out = Vec::new();
            let shown = show_message(dir.path(), which, &NO_KEYS, &mut out);
            (shown.is_err(), out.len())
        };
        fs::remove_file(&body).unwrap();
        std::os::unix::fs::symlink(&secret, &body).unwrap();
        assert_eq!(show(), (true, 0));
        fs::remove_file(&body).unwrap();
        for fifo in [&body, &message.join("1a2b3c4d00000002")] {
            let _ = fs::remove_file(fifo);
            let made = std::process::Command::new("mkfifo").arg(fifo).status();
            assert!(made.unwrap().success());
        }
        assert_eq!(show(), (true, 0));
        assert_eq!(shown(dir.path(), None).1.lines().count(), 1);
    }

    #[test]
    fn a_spool_that_is_not_there_is_no_empty_one() {
        // smtpctl(8), show queue.
        let missing = Path::new("/no/such/spool");
        let failure = show_queue(missing, None, (decode, 60), &NO_KEYS, &mut Vec::new());
        let text = "/no/such/spool: No such file or directory";
        assert_eq!(failure, Err(ExitError::new(text)));
    }

    #[test]
    fn what_is_encrypted_is_not_printed_and_neither_is_a_key() {
        let dir = spool_with(&["1a2b3c4d00000001"]);
        let message = message_dir(dir.path(), "1a2b3c4d").join("message");
        fs::write(&message, [b"\x01".as_slice(), &[7; 40]].concat()).unwrap();
        let mut out = Vec::new();
        let which = Which::Message("1a2b3c4d".parse().unwrap());
        let failure = show_message(dir.path(), which, &NO_KEYS, &mut out).unwrap_err();
        assert!(failure.text.starts_with("object is encrypted") && out.is_empty());
        let wrong = Keys {
            ask: &|| Ok(b"secret secret secret secret secr".to_vec()),
            ..NO_KEYS
        };
        let failure = show_message(dir.path(), which, &wrong, &mut out).unwrap_err();
        assert!(failure.text.starts_with("object is encrypted") && out.is_empty());
        assert!(!failure.text.contains("secret"));
        let short = Keys {
            ask: &|| Ok(b"secret".to_vec()),
            ..NO_KEYS
        };
        let failure = show_message(dir.path(), which, &short, &mut out);
        assert_eq!(failure, Err(ExitError::new("crypto-setup: invalid key")));
    }

    #[test]
    fn what_is_compressed_or_encrypted_is_shown_as_text() {
        // smtpctl(8), show message: raw; the key is that of smtpd.conf(5), or typed.
        let dir = spool_with(&["1a2b3c4d00000001"]);
        let id: EvpId = "1a2b3c4d00000001".parse().unwrap();
        let text = "0123456789abcdef0123456789abcdef";
        let coding = Coding {
            compress: true,
            key: Key::new(text),
        };
        let path = dir.path().join(envelope_path(id));
        let sealed = coding
            .encode(Name::envelope(id), id.to_string().as_bytes())
            .unwrap();
        fs::write(&path, sealed).unwrap();
        let typed = Keys {
            ask: &|| Ok(text.as_bytes().to_vec()),
            ..NO_KEYS
        };
        let configured = Keys {
            configured: &|| Key::new(text),
            ..NO_KEYS
        };
        for keys in [&typed, &configured] {
            let mut out = Vec::new();
            let shown = show_envelope(dir.path(), Which::Envelope(id), keys, &mut out);
            assert_eq!((shown, &out[..]), (Ok(0), id.to_string().as_bytes()));
        }
        let mut out = Vec::new();
        assert_eq!(
            show_queue(dir.path(), None, (decode, 60), &configured, &mut out),
            Ok(0)
        );
        assert!(out.starts_with(b"1a2b3c4d00000001|local|"));
        assert_eq!(shown(dir.path(), None), (0, String::new()));
    }
}

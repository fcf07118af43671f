//! Messages stored while the daemon is down, and read back for it.
//!
//! A file in `offline/` is named `<unix time>.<10 random letters>`, belongs to its writer and the
//! directory's group, and has mode 0600. It holds, line by line,
//!
//! ```text
//! smtpd-offline 1
//! date: 1136214245
//! sender: bob@example.org
//! rcpt: alice@example.org
//! done: carol@example.org      (a recipient who is settled)
//! ret: HDRS          (perhaps; as are the next two)
//! envid: xyz
//! notify: SUCCESS
//!
//! the message, complete, lines ending in LF
//! ```
//!
//! Promises: it is written under a name that starts with a dot, synced, renamed, and the directory
//! synced, so that what has a name without a dot is whole and stays. A recipient is marked as
//! settled in place, by a key of the same length. The older format (one line of arguments joined by
//! `|`, then the message) is still read.

use std::fs::{self, File};
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use crate::cli::exit_error::ExitError;
use crate::queue::fs::is_short;
use crate::sys::errno::strerror;
use crate::sys::fs::{Room, room, sync_dir};
use crate::sys::open::create_new;
use crate::sys::random;
use crate::util::Timestamp;
use crate::util::sysexits;

use super::address::{MOST_ADDRESSES, check};
use super::submit::Letter;

/// What a stored file begins with.
#[derive(Debug, PartialEq, Eq)]
pub enum Stored {
    /// An envelope; the message follows.
    Letter(Opened),
    /// The older format: arguments of sendmail(8); what standard input held follows.
    Arguments(Vec<Vec<u8>>),
}

/// The envelope of a stored message.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The envelope, with the recipients that are not settled.
    pub letter: Letter,
    /// When it was stored.
    pub date: Timestamp,
    /// Where the file names each recipient, in bytes from its start.
    pub places: Vec<u64>,
    /// Where the message starts.
    pub message_at: u64,
}

/// Marks a recipient as settled.
pub fn settle(file: &File, place: u64) -> io::Result<()> {
    file.write_all_at(DONE, place)
}

/// Stores a message in the directory.
pub fn store(
    dir: &Path,
    letter: &Letter,
    now: Timestamp,
    body: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> Result<(), ExitError> {
    check_room(room(dir))?;
    let name = format!("{}.{}", now.0, random_letters());
    let hidden = dir.join(format!(".{name}"));
    let file = create(dir, &hidden).map_err(|error| {
        let text = format!(
            "cannot create temporary file {}: {}",
            hidden.display(),
            strerror(&error)
        );
        ExitError::with(sysexits::TEMPFAIL, text)
    })?;
    let stored = fill(file, letter, now, body)
        .and_then(|()| fs::rename(&hidden, dir.join(&name)))
        .and_then(|()| sync_dir(dir));
    stored.map_err(|error| {
        let named = dir.join(&name);
        // The error that matters is the first one. The caller keeps the message, so none stays here.
        for left in [&hidden, &named] {
            let _ = fs::remove_file(left);
        }
        let text = format!("{}: {}", named.display(), strerror(&error));
        ExitError::with(sysexits::TEMPFAIL, text)
    })
}

/// What the daemon keeps free it needs for what it has accepted. A directory that cannot be asked
/// is not there, which is told in other words.
fn check_room(found: io::Result<Room>) -> Result<(), ExitError> {
    if found.is_ok_and(is_short) {
        Err(ExitError::with(sysexits::TEMPFAIL, "not enough disk space"))
    } else {
        Ok(())
    }
}

/// Reads what stands before the message.
pub fn read(input: &mut dyn BufRead) -> Result<Stored, ExitError> {
    let first = line(input)?.ok_or_else(|| bad("file is empty"))?;
    match first.strip_prefix(MAGIC) {
        Some(VERSION) => letter(input, first.len() as u64 + 1).map(Stored::Letter),
        Some(_) => Err(bad("file has an unknown version")),
        None => {
            let arguments = first.split(|byte| *byte == b'|');
            Ok(Stored::Arguments(arguments.map(<[u8]>::to_vec).collect()))
        }
    }
}

const MAGIC: &[u8] = b"smtpd-offline ";
const VERSION: &[u8] = b"1";
const RCPT: &[u8] = b"rcpt";
const DONE: &[u8] = b"done";
/// Longest line before the message, in bytes: the older format keeps all recipients in one.
const LONGEST_LINE: u64 = 4 << 20;

fn bad(what: &str) -> ExitError {
    ExitError::with(sysexits::DATAERR, format!("offline {what}"))
}

fn random_letters() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let number = random::number_u64();
    (0..10)
        .filter_map(|at| LETTERS.get((number >> (5 * at)) as usize & 31))
        .map(|letter| char::from(*letter))
        .collect()
}

/// The daemon takes only files of the directory's group: root's must be given to it by hand.
fn create(dir: &Path, path: &Path) -> io::Result<File> {
    let group = fs::metadata(dir)?.gid();
    let file = create_new(path)?;
    let prepared = file
        .set_permissions(fs::Permissions::from_mode(0o600))
        .and_then(|()| {
            if file.metadata()?.gid() == group {
                Ok(())
            } else {
                fchown(&file, None, Some(group))
            }
        });
    match prepared {
        Ok(()) => Ok(file),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

fn fill(
    file: File,
    letter: &Letter,
    now: Timestamp,
    body: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(64 * 1024, file);
    let mut head = [MAGIC, VERSION, b"\n"].concat();
    let mut push = |key: &str, value: &[u8]| {
        head.extend_from_slice(key.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.push(b'\n');
    };
    push("date", now.0.to_string().as_bytes());
    push("sender", &letter.sender);
    for recipient in &letter.recipients {
        push("rcpt", recipient);
    }
    for (key, value) in [
        ("ret", &letter.ret),
        ("envid", &letter.envid),
        ("notify", &letter.notify),
    ] {
        if let Some(value) = value {
            push(key, value);
        }
    }
    head.push(b'\n');
    out.write_all(&head)?;
    body(&mut out)?;
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()
}

fn letter(input: &mut dyn BufRead, mut at: u64) -> Result<Opened, ExitError> {
    let mut letter = Letter::default();
    let (mut sender, mut date) = (None, Timestamp(0));
    let (mut places, mut settled) = (Vec::new(), false);
    loop {
        let line = line(input)?.ok_or_else(|| bad("file ends in its envelope"))?;
        let place = at;
        at += line.len() as u64 + 1;
        if line.is_empty() {
            break;
        }
        let colon = line.windows(2).position(|pair| pair == b": ");
        let (key, value) = colon
            .and_then(|at| Some((line.get(..at)?, line.get(at + 2..)?)))
            .ok_or_else(|| bad("file has a bad line in its envelope"))?;
        check(value, "offline file")?;
        match key {
            b"date" => {
                let seconds = std::str::from_utf8(value).ok().and_then(|s| s.parse().ok());
                date = Timestamp(seconds.ok_or_else(|| bad("file has no date"))?);
            }
            b"sender" => sender = Some(value.to_vec()),
            RCPT if letter.recipients.len() < MOST_ADDRESSES => {
                letter.recipients.push(value.to_vec());
                places.push(place);
            }
            DONE => settled = true,
            b"ret" => letter.ret = Some(value.to_vec()),
            b"envid" => letter.envid = Some(value.to_vec()),
            b"notify" => letter.notify = Some(value.to_vec()),
            _ => return Err(bad("file has an unknown line in its envelope")),
        }
    }
    letter.sender = sender.ok_or_else(|| bad("file names no sender"))?;
    if letter.recipients.is_empty() && !settled {
        return Err(bad("file names no recipients"));
    }
    Ok(Opened {
        letter,
        date,
        places,
        message_at: at,
    })
}

fn line(input: &mut dyn BufRead) -> Result<Option<Vec<u8>>, ExitError> {
    let mut line = Vec::new();
    let count = input
        .take(LONGEST_LINE)
        .read_until(b'\n', &mut line)
        .map_err(|e| ExitError::with(sysexits::TEMPFAIL, format!("read: {}", strerror(&e))))?;
    if count == 0 {
        return Ok(None);
    }
    match line.pop() {
        Some(b'\n') => Ok(Some(line)),
        _ => Err(bad("file ends in a line, or the line is too long")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter_of(text: &[u8]) -> Result<Stored, ExitError> {
        read(&mut &text[..])
    }

    fn sample() -> Letter {
        Letter {
            sender: b"a@x".to_vec(),
            recipients: vec![b"b|c@x".to_vec(), "é$(id)@x".into()],
            ret: None,
            envid: Some(b"id: x".to_vec()),
            notify: Some(b"NEVER".to_vec()),
        }
    }

    #[test]
    fn what_is_stored_is_read_back_and_is_private_and_complete() {
        // sendmail(8): sender, every recipient and the DSN options are kept as they are.
        let dir = tempfile::tempdir().unwrap();
        let mut body = |out: &mut dyn Write| out.write_all(b"Subject: x\n\n.\nhi\n");
        store(dir.path(), &sample(), Timestamp(1_136_214_245), &mut body).unwrap();
        let entry = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap();
        let name = entry.file_name().into_string().unwrap();
        let (seconds, letters) = name.split_once('.').unwrap();
        assert_eq!((seconds, letters.len()), ("1136214245", 10));
        let found = entry.metadata().unwrap();
        assert_eq!(found.mode() & 0o7777, 0o600);
        assert_eq!(found.gid(), fs::metadata(dir.path()).unwrap().gid());

        let file = fs::read(entry.path()).unwrap();
        let mut input = &file[..];
        let Ok(Stored::Letter(opened)) = read(&mut input) else {
            panic!("not an envelope");
        };
        assert_eq!(opened.letter, sample());
        assert_eq!(opened.date, Timestamp(1_136_214_245));
        assert_eq!(input, b"Subject: x\n\n.\nhi\n");
        let message_at = usize::try_from(opened.message_at).unwrap();
        assert_eq!(&file[message_at..], input);

        // Each recipient is settled alone, and the file keeps its length.
        let writable = File::options().write(true).open(entry.path()).unwrap();
        for (at, place) in opened.places.iter().enumerate() {
            settle(&writable, *place).unwrap();
            let file = fs::read(entry.path()).unwrap();
            let Ok(Stored::Letter(rest)) = read(&mut &file[..]) else {
                panic!("not an envelope");
            };
            assert_eq!(rest.letter.recipients, sample().recipients[at + 1..]);
            assert_eq!(rest.message_at, opened.message_at);
        }
    }

    #[test]
    fn nothing_is_stored_in_the_room_that_the_queue_needs() {
        // sendmail(8), When the daemon cannot take it: a daemon that is short of space puts mail
        // off, and its reserve is not for what it has put off.
        let room = |free_bytes| {
            Ok(Room {
                total_bytes: 1 << 40,
                free_bytes,
                total_inodes: 0,
                free_inodes: 0,
            })
        };
        assert_eq!(check_room(room(1 << 30)), Ok(()));
        let failure = ExitError::with(75, "not enough disk space");
        assert_eq!(check_room(room(1 << 28)), Err(failure));
        let unknown = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(check_room(Err(unknown)), Ok(()));
    }

    #[test]
    fn a_failed_store_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut body = |_: &mut dyn Write| Err(io::Error::from(io::ErrorKind::StorageFull));
        let failure = store(dir.path(), &sample(), Timestamp(1), &mut body).unwrap_err();
        assert_eq!(failure.code, sysexits::TEMPFAIL);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let gone = dir.path().join("gone");
        let failure = store(&gone, &sample(), Timestamp(1), &mut body).unwrap_err();
        assert!(failure.text.starts_with("cannot create temporary file "));
    }

    #[test]
    fn the_older_format_is_a_line_of_arguments() {
        assert_eq!(
            letter_of(b"-t|-fbob||al\nSubject: x\n"),
            Ok(Stored::Arguments(vec![
                b"-t".to_vec(),
                b"-fbob".to_vec(),
                b"".to_vec(),
                b"al".to_vec()
            ]))
        );
    }

    #[test]
    fn anything_else_is_refused() {
        let whole = b"smtpd-offline 1\ndate: 1\nsender: \nrcpt: a@x\n\n";
        assert!(letter_of(whole).is_ok());
        for end in 0..whole.len() {
            let result = letter_of(&whole[..end]);
            assert!(result.is_err(), "{:?}", &whole[..end]);
        }
        for text in [
            &b"smtpd-offline 2\nsender: a\nrcpt: b\n\n"[..],
            b"smtpd-offline 1\nsender: a\n\n",
            b"smtpd-offline 1\ndate: x\nsender: a\nrcpt: b\n\n",
            b"smtpd-offline 1\nrcpt: a\n\n",
            b"smtpd-offline 1\nsender: a\nrcpt: b\nshell: c\n\n",
            b"smtpd-offline 1\nsender: a\nrcpt: b\rRCPT TO:<c>\n\n",
            b"smtpd-offline 1\nsender: a\0\nrcpt: b\n\n",
            b"smtpd-offline 1\nsender\nrcpt: b\n\n",
        ] {
            assert!(letter_of(text).is_err());
        }
    }
}

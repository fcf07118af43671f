//! The mbox format, and appending to a mailbox under lock.
//!
//! [`append`] writes after the end of a locked file, syncs it, and on any error cuts the file
//! back to where it began: no torn message stays behind. One that a killed process left all the same
//! is closed by an empty line, so that the next message begins where readers look for it.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sys;
use crate::util::sysexits::TEMPFAIL;

use super::{MdaError, copy};

/// Which `From ` lines get a `>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// Those after an empty line, and the first line.
    AfterEmptyLine,
    Every,
}

/// The exit codes a mailbox writer uses.
#[derive(Clone, Copy, Debug)]
pub struct Codes {
    /// For a lock that another process does not give up.
    pub locked: i32,
    /// For everything that goes wrong with the file.
    pub failed: i32,
}

/// Longest wait for a lock; well below the 300 seconds a delivery has.
pub const LOCK_WAIT: Duration = Duration::from_secs(120);

/// The line a message in a mailbox starts with. What is no text becomes `?`.
pub fn from_line(from: &str, now_s: u64) -> String {
    let from = crate::util::Line::sanitize(from.as_bytes());
    let from = if from.is_empty() {
        "MAILER-DAEMON"
    } else {
        from.as_str()
    };
    format!("From {from} {}\n", sys::localtime::ctime(now_s))
}

/// The message in mbox format, in a file without a name. What is then appended is whole: a process
/// that is killed while its message comes leaves no part of it in a mailbox.
pub fn store(
    message: &mut dyn Read,
    from_line: &str,
    quote: Quote,
    on_error: i32,
) -> Result<File, MdaError> {
    let failed = |error: io::Error| MdaError::on(on_error, Path::new("temporary file"), &error);
    let mut file = temporary(on_error)?;
    let mut buffered = io::BufWriter::with_capacity(64 * 1024, &mut file);
    write_message(message, from_line, quote, on_error, |bytes| {
        buffered.write_all(bytes).map_err(failed)
    })?;
    buffered.flush().map_err(failed)?;
    drop(buffered);
    Ok(file)
}

fn temporary(on_error: i32) -> Result<File, MdaError> {
    let name = format!("mbox.{:016x}", sys::random::number_u64());
    let path = std::env::temp_dir().join(name);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|file| std::fs::remove_file(&path).map(|()| file));
    file.map_err(|error| MdaError::on(on_error, &path, &error))
}

/// Writes a message in mbox format: `From ` line, quoted text with a final line end, empty line.
fn write_message(
    message: &mut dyn Read,
    from_line: &str,
    quote: Quote,
    on_error: i32,
    mut sink: impl FnMut(&[u8]) -> Result<(), MdaError>,
) -> Result<(), MdaError> {
    sink(from_line.as_bytes())?;
    let mut quoter = Quoter::new(quote);
    let mut out = Vec::new();
    copy(
        message,
        |bytes| {
            out.clear();
            quoter.feed(bytes, &mut out);
            sink(&out)
        },
        on_error,
    )?;
    out.clear();
    quoter.finish(&mut out);
    sink(&out)
}

/// Takes the locks on an open mailbox, then appends what [`store`] has made; says where that begins.
pub fn append(
    file: &mut File,
    path: &Path,
    codes: Codes,
    lock_wait: Duration,
    stored: &mut File,
) -> Result<u64, MdaError> {
    stored
        .seek(SeekFrom::Start(0))
        .map_err(|error| MdaError::on(codes.failed, Path::new("temporary file"), &error))?;
    append_what(file, path, codes, lock_wait, |sink| {
        copy(stored, sink, codes.failed)
    })
}

fn append_what(
    file: &mut File,
    path: &Path,
    codes: Codes,
    lock_wait: Duration,
    write: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), MdaError>) -> Result<(), MdaError>,
) -> Result<u64, MdaError> {
    let failed = |error: io::Error| MdaError::on(codes.failed, path, &error);
    lock(file, path, codes, lock_wait)?;
    let metadata = file.metadata().map_err(failed)?;
    let (start, mut gap) = (metadata.len(), "");
    if metadata.is_file() {
        is_there(path, &metadata)?;
        gap = gap_behind(file, start);
    }
    let written = file
        .write_all(gap.as_bytes())
        .map_err(failed)
        .and_then(|()| write(&mut |bytes| file.write_all(bytes).map_err(failed)))
        .and_then(|()| sync(file).map_err(failed));
    if written.is_err() && metadata.is_file() {
        // The first error is the one to tell; a torn tail that cannot be cut is the disk's.
        let _ = file.set_len(start);
    }
    written.map(|()| start + gap.len() as u64)
}

/// Refuses a mailbox that has lost its name: whoever had the lock before us, a mail reader or a
/// rotation of logs, has removed or replaced it, and nobody will look into this one.
fn is_there(path: &Path, open: &Metadata) -> Result<(), MdaError> {
    match std::fs::metadata(path) {
        Ok(named) if (named.dev(), named.ino()) == (open.dev(), open.ino()) => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(MdaError::on(TEMPFAIL, path, &error))
        }
        _ => {
            let text = format!("{}: replaced while it was locked", path.display());
            Err(MdaError::new(TEMPFAIL, text))
        }
    }
}

/// What is missing of an empty line at the end. A file that we may only write to is not looked at.
fn gap_behind(file: &File, length: u64) -> &'static str {
    let mut end = [b'\n'; 2];
    let count = length.min(2);
    let last = end.get_mut(..count as usize).unwrap_or_default();
    match file.read_exact_at(last, length - count).map(|()| end) {
        Ok([b'\n', b'\n']) | Err(_) => "",
        Ok([_, b'\n']) if count == 2 => "\n",
        Ok(_) => "\n\n",
    }
}

fn lock(file: &File, path: &Path, codes: Codes, wait: Duration) -> Result<(), MdaError> {
    let locked = wait_for(wait, || sys::lock::try_exclusive(file))
        .map_err(|error| MdaError::on(codes.failed, path, &error))?;
    if !locked {
        let text = format!("{}: locked by another process", path.display());
        return Err(MdaError::new(codes.locked, text));
    }
    Ok(())
}

/// Asks again and again, with growing pauses, until `try_once` says yes or `wait` is over.
pub fn wait_for(
    wait: Duration,
    mut try_once: impl FnMut() -> io::Result<bool>,
) -> io::Result<bool> {
    let deadline = Instant::now() + wait;
    let mut pause = Duration::from_millis(5);
    loop {
        if try_once()? {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

fn sync(file: &File) -> io::Result<()> {
    match file.sync_all() {
        // Devices and pipes cannot be synced.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// Puts `>` before `From ` at the start of lines, whichever way the bytes are split.
struct Quoter {
    quote: Quote,
    /// How much of `From ` the line has matched so far; `None` once that is decided.
    matched: Option<usize>,
    line_bytes: usize,
    after_empty: bool,
}

const MARK: &[u8] = b"From ";

impl Quoter {
    fn new(quote: Quote) -> Quoter {
        Quoter {
            quote,
            matched: Some(0),
            line_bytes: 0,
            after_empty: true,
        }
    }

    fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            bytes = match self.matched {
                Some(matched) => self.at_start(matched, bytes, out),
                None => self.inside(bytes, out),
            };
        }
    }

    fn at_start<'b>(&mut self, matched: usize, bytes: &'b [u8], out: &mut Vec<u8>) -> &'b [u8] {
        let want = MARK.get(matched..).unwrap_or_default();
        let same = want.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        let (_, rest) = bytes.split_at(same);
        if matched + same < MARK.len() && rest.is_empty() {
            self.matched = Some(matched + same);
            return rest;
        }
        let whole = matched + same == MARK.len();
        if whole && (self.quote == Quote::Every || self.after_empty) {
            out.push(b'>');
        }
        self.release(matched + same, out);
        rest
    }

    fn release(&mut self, matched: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(MARK.get(..matched).unwrap_or(MARK));
        self.line_bytes += matched;
        self.matched = None;
    }

    fn inside<'b>(&mut self, bytes: &'b [u8], out: &mut Vec<u8>) -> &'b [u8] {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            out.extend_from_slice(bytes);
            self.line_bytes += bytes.len();
            return &[];
        };
        let (line, rest) = bytes.split_at(end + 1);
        out.extend_from_slice(line);
        self.after_empty = self.line_bytes == 0 && end == 0;
        self.line_bytes = 0;
        self.matched = Some(0);
        rest
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if let Some(matched) = self.matched {
            self.release(matched, out);
        }
        if self.line_bytes > 0 {
            out.push(b'\n');
        }
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(body: &[u8], quote: Quote, chunk: usize) -> Vec<u8> {
        let mut quoter = Quoter::new(quote);
        let mut out = Vec::new();
        for part in body.chunks(chunk) {
            quoter.feed(part, &mut out);
        }
        quoter.finish(&mut out);
        out
    }

    #[test]
    fn from_lines_are_quoted_whichever_way_the_bytes_are_split() {
        // mail.local(8), mail.mboxfile(8).
        for (body, after_empty, every) in [
            ("From a\nb\n", ">From a\nb\n\n", ">From a\nb\n\n"),
            ("a\nFrom b\n", "a\nFrom b\n\n", "a\n>From b\n\n"),
            (
                "a\n\nFrom b\nFrom c",
                "a\n\n>From b\nFrom c\n\n",
                "a\n\n>From b\n>From c\n\n",
            ),
            (
                "Fro\nFrom\n>From \nFromx",
                "Fro\nFrom\n>From \nFromx\n\n",
                "Fro\nFrom\n>From \nFromx\n\n",
            ),
            ("", "\n", "\n"),
            ("\n", "\n\n", "\n\n"),
            ("x\n\nFrom", "x\n\nFrom\n\n", "x\n\nFrom\n\n"),
            ("x\n\nFrom ", "x\n\n>From \n\n", "x\n\n>From \n\n"),
        ] {
            for chunk in 1..=body.len().max(1) {
                let got = format(body.as_bytes(), Quote::AfterEmptyLine, chunk);
                assert_eq!(
                    String::from_utf8_lossy(&got),
                    after_empty,
                    "{body:?} by {chunk}"
                );
                let got = format(body.as_bytes(), Quote::Every, chunk);
                assert_eq!(String::from_utf8_lossy(&got), every, "{body:?} by {chunk}");
            }
        }
    }

    #[test]
    fn a_failed_append_leaves_the_mailbox_as_it_was() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), b"old\n").unwrap();
        let codes = Codes {
            locked: 75,
            failed: 71,
        };
        let mut file = sys::open::mailbox(path.path()).unwrap();
        let result = append_what(&mut file, path.path(), codes, LOCK_WAIT, |sink| {
            sink(b"half a mess")?;
            Err(MdaError::new(74, "input broke"))
        });
        assert_eq!(result.unwrap_err().code, 74);
        assert_eq!(std::fs::read(path.path()).unwrap(), b"old\n");
        let mut other = sys::open::mailbox(path.path()).unwrap();
        let wait = Duration::from_millis(20);
        let refused = append_what(&mut other, path.path(), codes, wait, |_| Ok(())).unwrap_err();
        assert_eq!(refused.code, 75);
        assert!(refused.text.ends_with("locked by another process"));
    }

    fn append_text(file: &mut File, path: &Path) -> Result<u64, MdaError> {
        let codes = Codes {
            locked: 75,
            failed: 71,
        };
        append_what(file, path, codes, LOCK_WAIT, |sink| sink(b"From x\n\n"))
    }

    #[test]
    fn a_message_begins_behind_an_empty_line_whatever_stands_there() {
        // mail.local(8), mail.mboxfile(8): a killed delivery or an editor may leave half a line.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("box");
        for (before, gap) in [
            ("", ""),
            ("\n", ""),
            ("x", "\n\n"),
            ("x\n", "\n"),
            ("x\n\n", ""),
            ("From a\n\nto", "\n\n"),
        ] {
            std::fs::write(&path, before).unwrap();
            let mut file = sys::open::append(&path).unwrap();
            let start = append_text(&mut file, &path).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text, format!("{before}{gap}From x\n\n"));
            assert!(text[start as usize..].starts_with("From x"));
        }
    }

    #[test]
    fn nothing_is_delivered_into_a_mailbox_that_has_lost_its_name() {
        // mail.local(8), mail.mboxfile(8): a reader that had the lock may have replaced the file.
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("box"), dir.path().join("old"));
        std::fs::write(&path, "").unwrap();
        let mut file = sys::open::append(&path).unwrap();
        std::fs::rename(&path, &old).unwrap();
        let gone = append_text(&mut file, &path).unwrap_err();
        std::fs::write(&path, "new\n\n").unwrap();
        let replaced = append_text(&mut file, &path).unwrap_err();
        assert_eq!((gone.code, replaced.code), (75, 75));
        assert_eq!(std::fs::read(&old).unwrap(), b"");
        assert_eq!(std::fs::read(&path).unwrap(), b"new\n\n");
    }

    #[test]
    fn no_sender_adds_a_second_line() {
        // mail.local(8): the line in front of each message begins with `From ` and is one line.
        let line = from_line("a\nFrom b\r\0@c", 0);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.starts_with("From a?From b??@c "));
        assert!(from_line("", 0).starts_with("From MAILER-DAEMON "));
    }
}

//! The first pass: the message as it comes in, kept in an unlinked file, and what its header says.
//!
//! Promises: CRLF becomes LF, a last line without an end gets one, and every other byte of the body
//! is kept. `Bcc`, `Resent-Bcc`, `Return-Path` and mbox `From ` lines are not kept. A header that
//! cannot be understood is no reason to lose the message: it is read to its end, and then the
//! trouble is told. Memory does not grow with the message.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};

use crate::cli::exit_error::ExitError;
use crate::sys::errno::strerror;
use crate::sys::open;
use crate::util::sysexits;

use super::address::{ListParser, MOST_ADDRESSES, too_many};

/// A message that has been read.
#[derive(Debug)]
pub struct Message {
    /// Header, then body, both ending in LF, without the empty line between them.
    file: File,
    header_bytes: u64,
    body_bytes: u64,
    /// An empty line ended the header.
    pub separated: bool,
    /// Which fields the header has.
    pub seen: Seen,
    /// The last address of From, or of Resent-From; none where it cannot be understood.
    pub from: Option<Vec<u8>>,
    /// The addresses of To, Cc and Bcc, or of their Resent- fields, if they were wanted.
    pub recipients: Vec<Vec<u8>>,
    /// Why not all of these are known.
    pub trouble: Option<ExitError>,
    /// A line of the body is longer than SMTP allows.
    pub long_lines: bool,
    /// Content-Type is one that holds other parts and must not be encoded (RFC 2045 §6.4).
    pub composite: bool,
}

/// Fields that are generated when they are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub from: bool,
    pub date: bool,
    pub mime_version: bool,
    pub content_type: bool,
    pub content_disposition: bool,
    pub content_transfer_encoding: bool,
}

/// Whether the header names recipients (`-t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recipients {
    /// To, Cc and Bcc, or their Resent- fields where there are any, are read for addresses.
    FromHeader,
    #[default]
    Ignored,
}

impl Message {
    /// Reads a message up to the end of `input`.
    pub fn read(input: &mut dyn Read, recipients: Recipients) -> Result<Message, ExitError> {
        let file = open::nameless(&std::env::temp_dir()).map_err(|e| unkept("tmpfile", &e))?;
        let mut pass = Pass::new(recipients, file);
        let mut lines = Lines::new(input);
        while let Some(piece) = lines.next().map_err(|e| unkept("read", &e))? {
            pass.piece(&piece)?;
        }
        pass.finish()
    }

    /// Whether there is no header at all.
    pub fn has_no_header(&self) -> bool {
        self.header_bytes == 0
    }

    /// Whether there is no body.
    pub fn has_no_body(&self) -> bool {
        self.body_bytes == 0
    }

    /// Reads the header section from its start.
    pub fn header(&mut self) -> io::Result<impl Read + '_> {
        self.file.seek(SeekFrom::Start(0))?;
        Ok((&self.file).take(self.header_bytes))
    }

    /// Reads the body from its start.
    pub fn body(&mut self) -> io::Result<impl Read + '_> {
        self.file.seek(SeekFrom::Start(self.header_bytes))?;
        Ok((&self.file).take(self.body_bytes))
    }
}

/// RFC 5321 §4.5.3.1.6: 1000 bytes with CRLF.
const LONGEST_LINE: u64 = 998;
/// What of a line is looked at in one piece; a field's name is far shorter.
const PIECE_BYTES: u64 = 64 * 1024;
/// RFC 5322 §2.1.1: no line is longer, so no field's name is.
const LONGEST_NAME: usize = 998;

fn unkept(what: &str, error: &io::Error) -> ExitError {
    ExitError::with(sysexits::TEMPFAIL, format!("{what}: {}", strerror(error)))
}

/// A part of a line, without its end.
struct Piece<'a> {
    bytes: &'a [u8],
    starts: bool,
    ends: bool,
}

/// Lines in pieces of bounded size.
struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    starts: bool,
    /// A CR that may belong to a CRLF whose LF has not been seen.
    held_cr: bool,
}

impl<'r> Lines<BufReader<&'r mut dyn Read>> {
    fn new(input: &'r mut dyn Read) -> Self {
        Lines {
            input: BufReader::with_capacity(PIECE_BYTES as usize, input),
            buffer: Vec::new(),
            starts: true,
            held_cr: false,
        }
    }
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        self.buffer.clear();
        let held = std::mem::take(&mut self.held_cr);
        if held {
            self.buffer.push(b'\r');
        }
        let count = self
            .input
            .by_ref()
            .take(PIECE_BYTES)
            .read_until(b'\n', &mut self.buffer)?;
        if count == 0 && !held {
            return Ok(None);
        }
        let ends = self.buffer.last() == Some(&b'\n');
        if ends {
            self.buffer.pop();
        }
        if count > 0 && self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
            // At the very end of the input there is no next piece to give it back to.
            self.held_cr = !ends;
        }
        let starts = std::mem::replace(&mut self.starts, ends);
        Ok(Some(Piece {
            bytes: &self.buffer,
            starts,
            ends,
        }))
    }
}

/// Where in the message the first pass is.
enum PassState {
    /// In the header; the first line may yet turn out to be a body's.
    Header,
    /// In a field that is kept or dropped.
    Field {
        keep: bool,
    },
    Body,
}

struct Pass {
    recipients: Recipients,
    out: io::BufWriter<File>,
    place: PassState,
    /// The parser of the field at hand, and whose addresses these are.
    list: Option<(ListParser, Whose)>,
    /// The beginning of Content-Type's body, while it is at hand.
    content_type: Option<Vec<u8>>,
    /// First lines `From …`: mbox separators if a header follows, text otherwise.
    separators: Vec<Vec<u8>>,
    line_bytes: u64,
    unended: bool,
    message: FirstPass,
}

#[derive(Default)]
struct FirstPass {
    header_bytes: u64,
    body_bytes: u64,
    separated: bool,
    seen: Seen,
    from: Option<Vec<u8>>,
    resent_from: Option<Vec<u8>>,
    recipients: Vec<Vec<u8>>,
    /// `None` where no field of this kind is.
    resent_to: Option<Vec<Vec<u8>>>,
    /// RFC 5322 §3.6.6: whoever resends a message puts a set of Resent- fields in front of older
    /// ones. These are the first set's that each set has once.
    resent_once: BTreeSet<Vec<u8>>,
    /// One of them has come again: what follows is of an older set.
    resent_before: bool,
    trouble: Option<ExitError>,
    long_lines: bool,
    composite: bool,
}

/// What the addresses of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    From,
    Recipients,
    ResentFrom,
    ResentTo,
}

impl Pass {
    fn new(recipients: Recipients, file: File) -> Pass {
        Pass {
            recipients,
            out: io::BufWriter::with_capacity(PIECE_BYTES as usize, file),
            place: PassState::Header,
            list: None,
            content_type: None,
            separators: Vec::new(),
            line_bytes: 0,
            unended: false,
            message: FirstPass::default(),
        }
    }

    fn piece(&mut self, piece: &Piece<'_>) -> Result<(), ExitError> {
        match self.place {
            PassState::Body => self.body(piece),
            PassState::Field { keep } if !piece.starts || is_folded(piece.bytes) => {
                self.field(piece, keep, piece.bytes)
            }
            PassState::Field { .. } | PassState::Header => self.line_of_header(piece),
        }
    }

    /// The start of a line that may begin a field.
    fn line_of_header(&mut self, piece: &Piece<'_>) -> Result<(), ExitError> {
        self.end_of_field();
        if piece.bytes.is_empty() && piece.ends && self.separators.is_empty() {
            self.message.separated = true;
            self.place = PassState::Body;
            return Ok(());
        }
        if let Some((name, body)) = split_field(piece.bytes) {
            self.separators.clear();
            let keep = self.start_of_field(name);
            self.place = PassState::Field { keep };
            return self.field(piece, keep, body);
        }
        if is_separator(piece.bytes) && piece.ends {
            if self.message.header_bytes > 0 {
                self.place = PassState::Field { keep: false };
                return Ok(());
            }
            if self.separators.len() < MOST_SEPARATORS {
                self.separators.push(piece.bytes.to_vec());
                return Ok(());
            }
        }
        self.no_separators()?;
        self.body(piece)
    }

    /// The body begins here, with what looked like separators in front of a header.
    fn no_separators(&mut self) -> Result<(), ExitError> {
        self.place = PassState::Body;
        for line in std::mem::take(&mut self.separators) {
            self.body(&Piece {
                bytes: &line,
                starts: true,
                ends: true,
            })?;
        }
        Ok(())
    }

    /// Notes that a field is there; says whether its lines are kept.
    fn start_of_field(&mut self, name: &[u8]) -> bool {
        let message = &mut self.message;
        let seen = &mut message.seen;
        let wanted = self.recipients == Recipients::FromHeader;
        let mut keep = true;
        let mut whose = None;
        let name = name.to_ascii_lowercase();
        if [
            &b"resent-from"[..],
            b"resent-sender",
            b"resent-date",
            b"resent-message-id",
        ]
        .contains(&name.as_slice())
        {
            message.resent_before |= !message.resent_once.insert(name.clone());
        }
        match name.as_slice() {
            b"from" => {
                seen.from = true;
                whose = Some(Whose::From);
            }
            b"to" | b"cc" => whose = wanted.then_some(Whose::Recipients),
            b"bcc" => {
                keep = false;
                whose = wanted.then_some(Whose::Recipients);
            }
            b"resent-from" => whose = Some(Whose::ResentFrom),
            b"resent-to" | b"resent-cc" => whose = wanted.then_some(Whose::ResentTo),
            b"resent-bcc" => {
                keep = false;
                whose = wanted.then_some(Whose::ResentTo);
            }
            b"return-path" => keep = false,
            b"date" => seen.date = true,
            b"mime-version" => seen.mime_version = true,
            b"content-type" => {
                seen.content_type = true;
                self.content_type = Some(Vec::new());
            }
            b"content-disposition" => seen.content_disposition = true,
            b"content-transfer-encoding" => seen.content_transfer_encoding = true,
            _ => {}
        }
        match whose {
            Some(Whose::ResentFrom | Whose::ResentTo) if message.resent_before => whose = None,
            Some(Whose::ResentTo) => drop(message.resent_to.get_or_insert_default()),
            _ => {}
        }
        self.list = whose.map(|whose| (ListParser::default(), whose));
        keep
    }

    /// A piece of a field; `body` is the part behind the colon.
    fn field(&mut self, piece: &Piece<'_>, keep: bool, body: &[u8]) -> Result<(), ExitError> {
        if let Some((parser, whose)) = &mut self.list
            && let Err(failure) = parser.feed(body)
        {
            let whose = *whose;
            self.list = None;
            self.misunderstood(whose, failure);
        }
        if let Some(start) = &mut self.content_type {
            let printing = body.iter().filter(|byte| byte.is_ascii_graphic());
            let room = CONTENT_TYPE_BYTES.saturating_sub(start.len());
            start.extend(printing.take(room));
        }
        if keep {
            self.message.header_bytes += self.write(piece)?;
        }
        Ok(())
    }

    /// Without its sender a message has its caller's; without its recipients it is not sent.
    fn misunderstood(&mut self, whose: Whose, failure: ExitError) {
        if matches!(whose, Whose::Recipients | Whose::ResentTo) {
            self.message.trouble.get_or_insert(failure);
        }
    }

    fn end_of_field(&mut self) {
        if let Some(start) = self.content_type.take() {
            let start = start.to_ascii_lowercase();
            self.message.composite |=
                start.starts_with(b"multipart/") || start.starts_with(b"message/");
        }
        let Some((parser, whose)) = self.list.take() else {
            return;
        };
        let mut found = match parser.finish() {
            Ok(found) => found,
            Err(failure) => return self.misunderstood(whose, failure),
        };
        let message = &mut self.message;
        let list = match whose {
            Whose::From => {
                message.from = found.pop().or(message.from.take());
                return;
            }
            Whose::ResentFrom => {
                message.resent_from = found.pop();
                return;
            }
            Whose::Recipients => &mut message.recipients,
            Whose::ResentTo => message.resent_to.get_or_insert_default(),
        };
        if list.len() + found.len() > MOST_ADDRESSES {
            return self.misunderstood(whose, too_many());
        }
        list.append(&mut found);
    }

    fn body(&mut self, piece: &Piece<'_>) -> Result<(), ExitError> {
        self.line_bytes += piece.bytes.len() as u64;
        self.message.long_lines |= self.line_bytes > LONGEST_LINE;
        if piece.ends {
            self.line_bytes = 0;
        }
        self.message.body_bytes += self.write(piece)?;
        Ok(())
    }

    fn write(&mut self, piece: &Piece<'_>) -> Result<u64, ExitError> {
        self.unended = !piece.ends;
        let end: &[u8] = if piece.ends { b"\n" } else { b"" };
        self.out
            .write_all(piece.bytes)
            .and_then(|()| self.out.write_all(end))
            .map_err(|e| unkept("write", &e))?;
        Ok((piece.bytes.len() + end.len()) as u64)
    }

    fn finish(mut self) -> Result<Message, ExitError> {
        self.end_of_field();
        let end = Piece {
            bytes: b"",
            starts: false,
            ends: true,
        };
        if !self.separators.is_empty() {
            self.no_separators()?;
        } else if self.unended {
            match self.place {
                PassState::Body => self.message.body_bytes += self.write(&end)?,
                _ => self.message.header_bytes += self.write(&end)?,
            }
        }
        let file = self
            .out
            .into_inner()
            .map_err(|e| unkept("write", e.error()))?;
        let found = self.message;
        Ok(Message {
            file,
            header_bytes: found.header_bytes,
            body_bytes: found.body_bytes,
            separated: found.separated,
            seen: found.seen,
            from: found.resent_from.or(found.from),
            recipients: found.resent_to.unwrap_or(found.recipients),
            trouble: found.trouble,
            long_lines: found.long_lines,
            composite: found.composite,
        })
    }
}

/// Lines `From ` in front of one header; each relay of old has put one there.
const MOST_SEPARATORS: usize = 32;
/// How much of Content-Type is looked at.
const CONTENT_TYPE_BYTES: usize = 16;

fn is_folded(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

fn is_separator(line: &[u8]) -> bool {
    let line = line.strip_prefix(b">").unwrap_or(line);
    line.get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"From "))
}

/// RFC 5322 §3.6.8: a name is printing ASCII but the colon; blanks before the colon are allowed
/// as in §4.5.
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().take(LONGEST_NAME).position(|b| *b == b':')?;
    let (name, rest) = line.split_at_checked(colon)?;
    let name = name.trim_ascii_end();
    let valid = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    valid.then_some((name, rest.get(1..)?))
}

#[cfg(test)]
mod tests;

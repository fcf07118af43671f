//! The header section on its way into the queue: what is counted, completed and left out.
//!
//! Mail from elsewhere passes as it is, for a changed field breaks its signature (RFC 6376 §3.7).
//! A message that starts its journey here (RFC 6409 §8) is completed: To, Cc and From get a domain
//! where they lack one, Bcc goes, Date and Message-ID are added at the end of the section. The
//! body is passed on in the pieces it comes in.

use crate::mail::{MailAddr, MsgId};
use crate::rfc5322::{Malformed, Scanner, Visitor, address_list};
use crate::sys::localtime;
use crate::util::{Line, Timestamp};

use super::{Completion, Fault};

/// The message with this many Received fields of others is looping.
pub const LOOP_RECEIVED: u32 = 100;
/// The longest To, Cc or From that is completed, in bytes.
pub const MAX_ADDRESS_FIELD: usize = 64 * 1024;

/// A message's text, as far as its header goes.
pub struct Message {
    /// `None` in the body.
    header: Option<Header>,
}

struct Header {
    scanner: Scanner,
    editor: Editor,
}

struct Editor {
    completion: Completion,
    /// The address that From gets.
    masquerade: Option<MailAddr>,
    /// Both name a Message-ID: no other message has this msgid at this time.
    msgid: MsgId,
    now: Timestamp,
    out: Vec<u8>,
    open: Open,
    received: u32,
    has_date: bool,
    has_message_id: bool,
}

/// What becomes of the lines of the current field.
enum Open {
    Copied,
    Dropped,
    /// Name with colon, and value so far.
    Collected(Vec<u8>, Vec<u8>),
}

impl Message {
    /// A message at its first byte.
    pub fn new(
        completion: Completion,
        masquerade: Option<MailAddr>,
        msgid: MsgId,
        now: Timestamp,
    ) -> Message {
        Message {
            header: Some(Header {
                scanner: Scanner::new(),
                editor: Editor {
                    completion,
                    masquerade,
                    msgid,
                    now,
                    out: Vec::new(),
                    open: Open::Copied,
                    received: 0,
                    has_date: false,
                    has_message_id: false,
                },
            }),
        }
    }

    /// Takes a piece of text; gives header bytes to be written, and then body bytes.
    pub fn take<'a>(&mut self, text: &'a [u8]) -> Result<(Vec<u8>, &'a [u8]), Fault> {
        let Some(header) = &mut self.header else {
            return Ok((Vec::new(), text));
        };
        let fed = header.scanner.feed(text, &mut header.editor);
        let body = header.editor.judge(fed)?;
        let out = std::mem::take(&mut header.editor.out);
        if body.is_some() {
            self.header = None;
        }
        Ok((out, body.unwrap_or_default()))
    }

    /// The text is over; gives the last bytes to be written.
    pub fn finish(&mut self) -> Result<Vec<u8>, Fault> {
        let Some(Header {
            scanner,
            mut editor,
        }) = self.header.take()
        else {
            return Ok(Vec::new());
        };
        let finished = scanner.finish(&mut editor);
        editor.judge(finished)?;
        Ok(editor.out)
    }
}

impl Editor {
    fn judge<T>(&self, result: Result<T, Malformed>) -> Result<T, Fault> {
        if self.received >= LOOP_RECEIVED {
            return Err(Fault::Loop);
        }
        result.map_err(|Malformed| Fault::Malformed)
    }

    fn close_field(&mut self) {
        let Open::Collected(name, value) = std::mem::replace(&mut self.open, Open::Copied) else {
            return;
        };
        let bare = name.strip_suffix(b":").unwrap_or(&name).trim_ascii_end();
        let is_from = bare.eq_ignore_ascii_case(b"From");
        self.out.extend_from_slice(&name);
        let value = match &self.masquerade {
            Some(sender) if is_from => address_list::replace(&value, &sender.to_string()),
            _ => value,
        };
        let value = match &self.completion {
            Completion::Submission(domain) => address_list::complete(&value, domain),
            Completion::None => value,
        };
        self.out.extend_from_slice(&value);
    }

    fn open_field(&mut self, name: &[u8]) -> Open {
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        self.received += u32::from(is("Received"));
        self.has_date |= is("Date");
        self.has_message_id |= is("Message-ID");
        match self.completion {
            _ if is("From") && self.masquerade.is_some() => Open::Collected(Vec::new(), Vec::new()),
            Completion::Submission(_) if is("Bcc") => Open::Dropped,
            Completion::Submission(_) if is("To") || is("Cc") || is("From") => {
                Open::Collected(Vec::new(), Vec::new())
            }
            _ => Open::Copied,
        }
    }

    fn write_missing(&mut self, domain: &Line) {
        if !self.has_date {
            let date = localtime::rfc5322_date(self.now.0);
            self.out
                .extend_from_slice(format!("Date: {date}\n").as_bytes());
        }
        if !self.has_message_id {
            let id = format!(
                "Message-ID: <{:08x}{}@{domain}>\n",
                self.now.0 as u32, self.msgid
            );
            self.out.extend_from_slice(id.as_bytes());
        }
    }
}

impl Visitor for Editor {
    fn field(&mut self, name: &[u8], line: &[u8]) -> Result<(), Malformed> {
        self.close_field();
        // RFC 5322 §4.5: blanks in front of the colon are obsolete, and mean nothing.
        self.open = self.open_field(name.trim_ascii_end());
        if self.received >= LOOP_RECEIVED {
            return Err(Malformed);
        }
        match &mut self.open {
            Open::Copied => self.out.extend_from_slice(line),
            Open::Dropped => {}
            Open::Collected(start, value) => {
                let (head, rest) = line.split_at((name.len() + 1).min(line.len()));
                start.extend_from_slice(head);
                value.extend_from_slice(rest);
            }
        }
        Ok(())
    }

    fn continuation(&mut self, line: &[u8]) -> Result<(), Malformed> {
        match &mut self.open {
            Open::Copied => self.out.extend_from_slice(line),
            Open::Dropped => {}
            Open::Collected(_, value) if value.len() + line.len() > MAX_ADDRESS_FIELD => {
                return Err(Malformed);
            }
            Open::Collected(_, value) => value.extend_from_slice(line),
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Malformed> {
        self.close_field();
        if let Completion::Submission(domain) = self.completion.clone() {
            self.write_missing(&domain);
        }
        Ok(())
    }
}

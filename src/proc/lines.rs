//! What a program says, in lines: to us, and on standard error for the log.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use crate::log;
use crate::util::Line;

use super::LINE_MAX;

/// Chunks that are read before others have their turn.
pub(super) const READS: usize = 16;

/// Bytes that become lines.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
    /// Bytes of `rest` that hold no line end.
    scanned: usize,
}

impl Lines {
    /// Takes bytes and hands over each line that is whole now, without its end.
    pub fn push(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        self.rest.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(unseen) = self.rest.get(self.scanned..)
            && let Some(at) = unseen.iter().position(|byte| *byte == b'\n')
        {
            let end = self.scanned + at;
            let line = self.rest.get(start..end).unwrap_or_default();
            if line.len() > LINE_MAX {
                return Err("a line is too long".to_owned());
            }
            each(line)?;
            start = end + 1;
            self.scanned = start;
        }
        self.rest.drain(..start);
        self.scanned = self.rest.len();
        if self.rest.len() > LINE_MAX {
            Err("a line is too long".to_owned())
        } else {
            Ok(())
        }
    }
}

/// What a program says on standard error, for the log.
pub(super) struct Errors {
    /// `None` once it is closed.
    pub(super) stream: Option<UnixStream>,
    lines: Vec<u8>,
}

impl Errors {
    pub(super) fn new(stream: UnixStream) -> Errors {
        Errors {
            stream: Some(stream),
            lines: Vec::new(),
        }
    }

    pub(super) fn hear(&mut self, name: &Line) {
        let mut chunk = [0; 4096];
        for _ in 0..READS {
            let Some(stream) = &mut self.stream else {
                return;
            };
            match stream.read(&mut chunk) {
                Ok(count) if count > 0 => {
                    self.lines.extend_from_slice(&chunk[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {
                    self.stream = None;
                    self.say(name, self.lines.len());
                    return;
                }
            }
            while let Some(at) = self.lines.iter().position(|byte| *byte == b'\n') {
                self.say(name, at);
                self.lines.drain(..1);
            }
            if self.lines.len() > ERROR_LINE {
                self.say(name, ERROR_LINE);
            }
        }
    }

    fn say(&mut self, name: &Line, length: usize) {
        let line: Vec<u8> = self.lines.drain(..length).collect();
        if !line.is_empty() {
            log::said(format_args!("{name}: {}", Line::sanitize(&line)));
        }
    }
}

/// A longer line on standard error is cut in two.
const ERROR_LINE: usize = 2048;

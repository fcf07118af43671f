//! `-bs`: a program speaks SMTP on our standard input and output, and we pass it on.
//!
//! Its first line shows how it ends its lines. Where that is a bare LF, every line gets a CR,
//! because the daemon ends a message at nothing but CR LF dot CR LF; else every byte is passed as
//! it is, so that no message can end at a place that its program did not mean.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::thread;

use crate::cli::caller::Environment;
use crate::cli::exit_error::ExitError;
use crate::sys::errno::strerror;
use crate::util::sysexits;

use super::submit;
use super::take_input;

/// Passes bytes both ways until the daemon closes the session.
pub fn run(env: &mut Environment<'_>) -> Result<i32, ExitError> {
    let later = |why: String| ExitError::with(sysexits::TEMPFAIL, why);
    let stream = match submit::session(&env.paths.socket) {
        Ok(stream) => stream,
        Err(why) => {
            // A program that speaks SMTP reads this; it may have no interest in exit codes.
            let _ = env.output.write_all(b"421 4.3.2 Service not available\r\n");
            return Err(later(why));
        }
    };
    let broken = |e: io::Error| later(strerror(&e));
    // How long a silence may last is the daemon's to decide.
    stream.set_read_timeout(None).map_err(broken)?;
    stream.set_write_timeout(None).map_err(broken)?;
    let mut input = take_input(env);
    let mut upward = stream.try_clone().map_err(broken)?;
    // The thread may still wait for input when the daemon has hung up; it ends with the process.
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let _ = io::copy(&mut input, &mut LineEnds::new(&mut upward));
            let _ = upward.shutdown(Shutdown::Write);
        })
        .map_err(broken)?;
    downward(&stream, env.output)
}

/// What the lines of a program end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// No line has ended yet.
    Unknown,
    CrLf,
    Lf,
}

struct LineEnds<W> {
    out: W,
    ends: Ends,
    last: u8,
}

impl<W: Write> LineEnds<W> {
    fn new(out: W) -> LineEnds<W> {
        LineEnds {
            out,
            ends: Ends::Unknown,
            last: 0,
        }
    }
}

impl<W: Write> Write for LineEnds<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut out = Vec::with_capacity(bytes.len() + 64);
        for byte in bytes {
            let bare = *byte == b'\n' && self.last != b'\r';
            if *byte == b'\n' && self.ends == Ends::Unknown {
                self.ends = if bare { Ends::Lf } else { Ends::CrLf };
            }
            if bare && self.ends == Ends::Lf {
                out.push(b'\r');
            }
            out.push(*byte);
            self.last = *byte;
        }
        self.out.write_all(&out)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Passes on what the daemon says. A message that was on its way when the session ended, or a
/// session that the daemon ended, is to be tried again.
fn downward(mut stream: impl Read, output: &mut dyn Write) -> Result<i32, ExitError> {
    let mut buffer = [0; 4096];
    let mut replies = LastReply::default();
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => return replies.verdict(),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return replies.verdict();
            }
            Err(error) => {
                let text = format!("read error: {}", strerror(&error));
                return Err(ExitError::with(sysexits::TEMPFAIL, text));
            }
        };
        let bytes = &buffer[..count];
        replies.hear(bytes);
        output
            .write_all(bytes)
            .and_then(|()| output.flush())
            .map_err(|e| ExitError::output(&e))?;
    }
}

/// The code of the last reply.
#[derive(Default)]
struct LastReply {
    code: Vec<u8>,
    line_started: bool,
}

impl LastReply {
    fn hear(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if !self.line_started {
                self.code.clear();
            }
            self.line_started = *byte != b'\n';
            if self.line_started && self.code.len() < 3 {
                self.code.push(*byte);
            }
        }
    }

    fn verdict(&self) -> Result<i32, ExitError> {
        let text = match self.code.as_slice() {
            b"354" => "the session ended within a message, which was not accepted",
            b"421" => "smtpd has ended the session",
            [] => "smtpd closed the connection",
            _ => return Ok(0),
        };
        Err(ExitError::with(sysexits::TEMPFAIL, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(text: &[u8], cut: usize) -> Vec<u8> {
        let mut ends = LineEnds::new(Vec::new());
        ends.write_all(&text[..cut]).unwrap();
        ends.write_all(&text[cut..]).unwrap();
        ends.out
    }

    #[test]
    fn the_first_line_shows_what_lines_end_in_however_they_are_cut() {
        // sendmail(8), -bs.
        let lf = b"EHLO x\n\nDATA\r\na\rb\n.\n";
        let crlf = b"EHLO x\r\nDATA\r\nsmuggled\n.\nMAIL\r\n.\r\n";
        for cut in 0..=lf.len() {
            assert_eq!(passed(lf, cut), b"EHLO x\r\n\r\nDATA\r\na\rb\r\n.\r\n");
        }
        for cut in 0..=crlf.len() {
            assert_eq!(passed(crlf, cut), crlf);
        }
    }

    #[test]
    fn a_session_that_ends_within_a_message_is_to_be_tried_again() {
        let code = |said: &str| match downward(said.as_bytes(), &mut Vec::new()) {
            Ok(code) => code,
            Err(failure) => failure.code,
        };
        for said in ["221 bye\r\n", "220 hi\r\n250-a\r\n250 b\r\n", "550 no\r\n"] {
            assert_eq!(code(said), 0, "{said}");
        }
        for said in ["", "250 a\r\n354 go\r\n", "220 hi\r\n421 4.3.2 down\r\n"] {
            assert_eq!(code(said), 75, "{said}");
        }
    }
}

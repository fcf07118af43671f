//! `trace message`: what the log has of one message, from connection to outcome.
//!
//! The log comes on standard input. Lines are told apart by the number of their session, whatever
//! syslogd has put in front of it. A session's lines are kept until one of them names the message;
//! what is said of other messages in the same session is left out.

use std::collections::HashMap;
use std::io::{BufRead, Read, Write};

use crate::cli::exit_error::ExitError;

/// Sessions and lines of each that are kept while it is not known whether they are wanted.
const SESSIONS_MAX: usize = 20_000;
const LINES_MAX: usize = 50;
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Prints the lines about the message or envelope with this id; 1 if there is none.
pub fn run(id: &str, mut log: impl BufRead, out: &mut dyn Write) -> Result<i32, ExitError> {
    let mut sessions: HashMap<String, Session> = HashMap::new();
    let mut found = false;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut log).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.map_err(|e| ExitError::io("standard input", &e))? == 0 {
            return Ok(i32::from(!found));
        }
        let text = String::from_utf8_lossy(&line);
        let text = super::printable(text.trim_end_matches(['\n', '\r']));
        let mut numbers = numbers(&text);
        let Some(name) = numbers.next().filter(|number| number.len() == 16) else {
            continue;
        };
        let (mut is_wanted, mut is_of_others) = (false, false);
        // In an object of JSON the session stands twice.
        for number in numbers.filter(|number| *number != name) {
            if number.starts_with(id) {
                is_wanted = true
            } else {
                is_of_others = true
            }
        }
        let session = sessions.entry(name.to_owned()).or_default();
        if is_wanted && !session.is_wanted {
            session.is_wanted = true;
            for kept in session.kept.drain(..) {
                writeln!(out, "{kept}").map_err(|e| ExitError::output(&e))?;
            }
        }
        let is_said = is_wanted || !is_of_others;
        if session.is_wanted && is_said {
            found = true;
            writeln!(out, "{text}").map_err(|e| ExitError::output(&e))?;
        } else if is_said && session.kept.len() < LINES_MAX {
            session.kept.push(text.clone());
        }
        let is_over = text.contains(" disconnected");
        if is_over {
            sessions.remove(name);
        } else if sessions.len() > SESSIONS_MAX {
            sessions.retain(|_, session| session.is_wanted);
        }
    }
}

#[derive(Default)]
struct Session {
    is_wanted: bool,
    kept: Vec<String>,
}

/// Names of sessions, envelopes and messages: words of 16 or 8 hexadecimal digits.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        [8, 16].contains(&word.len()) && word.bytes().all(is_hex)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_followed_through_its_sessions() {
        // smtpctl(8), trace message.
        let log = "\
            Nov 29 12:00:00 mx smtpd[7]: info: smtpd-rs starting\n\
            Nov 29 12:00:01 mx smtpd[7]: aaaaaaaaaaaaaaa1 smtp connected address=192.0.2.1\n\
            Nov 29 12:00:01 mx smtpd[7]: aaaaaaaaaaaaaaa2 smtp connected address=192.0.2.2\n\
            Nov 29 12:00:02 mx smtpd[7]: aaaaaaaaaaaaaaa1 smtp message msgid=1a2b3c4d size=9\n\
            Nov 29 12:00:02 mx smtpd[7]: aaaaaaaaaaaaaaa1 smtp message msgid=99999999 size=9\n\
            Nov 29 12:00:03 mx smtpd[7]: aaaaaaaaaaaaaaa2 smtp disconnected reason=quit\n\
            Nov 29 12:00:03 mx smtpd[7]: aaaaaaaaaaaaaaa1 smtp disconnected reason=quit\n\
            Nov 29 12:00:04 mx smtpd[7]: bbbbbbbbbbbbbbb1 mta connecting address=203.0.113.1\n\
            Nov 29 12:00:05 mx smtpd[7]: bbbbbbbbbbbbbbb1 mta delivery evpid=1a2b3c4d7f3e9a10 x\n\
            Nov 29 12:00:05 mx smtpd[7]: bbbbbbbbbbbbbbb1 mta delivery evpid=9999999900000001 x\n";
        let mut out = Vec::new();
        assert_eq!(run("1a2b3c4d", log.as_bytes(), &mut out), Ok(0));
        let out = String::from_utf8(out).unwrap();
        let ends: Vec<&str> = out
            .lines()
            .filter_map(|line| line.split("]: ").nth(1))
            .collect();
        assert_eq!(
            ends,
            [
                "aaaaaaaaaaaaaaa1 smtp connected address=192.0.2.1",
                "aaaaaaaaaaaaaaa1 smtp message msgid=1a2b3c4d size=9",
                "aaaaaaaaaaaaaaa1 smtp disconnected reason=quit",
                "bbbbbbbbbbbbbbb1 mta connecting address=203.0.113.1",
                "bbbbbbbbbbbbbbb1 mta delivery evpid=1a2b3c4d7f3e9a10 x",
            ]
        );
        let json = "{\"session\":\"aaaaaaaaaaaaaaa1\",\"message\":\"aaaaaaaaaaaaaaa1 smtp connected\"}\n\
                    {\"session\":\"aaaaaaaaaaaaaaa1\",\"msgid\":\"1a2b3c4d\"}\n";
        let mut out = Vec::new();
        assert_eq!(run("1a2b3c4d", json.as_bytes(), &mut out), Ok(0));
        assert_eq!(out, json.as_bytes());
        assert_eq!(run("11111111", log.as_bytes(), &mut Vec::new()), Ok(1));
    }
}

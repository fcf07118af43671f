//! Commands: which is legal now, and what each one does.
//!
//! Every command is first tested against the state, then its argument is read, then it is done.
//! The order of the tests is part of what clients see. Filters will be asked behind the tests.

mod data;
mod helo;
mod mail;
mod misc;
mod rcpt;

use crate::smtp::{Command, Reply, find};

pub use mail::bad_sender;
pub use rcpt::{bad_recipient, recipient_reply};

use super::state::State;
use super::{Services, Session};

impl Session {
    /// Answers one command line without its line end.
    pub(super) fn take_command(&mut self, line: &[u8], out: &mut Vec<u8>, world: &dyn Services) {
        let command = Command::parse(line);
        let reply = match find(0, line) {
            // What is behind a NUL must never be cut off: someone else may have judged it.
            Some(_) => Reply::new(500, "5.5.2 Syntax error: NUL in command line"),
            None => self.answer(command, world),
        };
        self.account(command, &reply);
        let reply = match self.over_budget() && reply.code() != 221 {
            true => Reply::new(421, "4.7.0 Too many errors or idle commands"),
            false => reply,
        };
        match command {
            Command::Auth(_) => self.say(&masked(line), &reply, out),
            _ => self.say(line, &reply, out),
        }
    }

    fn answer(&mut self, command: Command<'_>, world: &dyn Services) -> Reply {
        match command {
            Command::Helo(argument) => self.helo(argument),
            Command::Ehlo(argument) => self.ehlo(argument),
            Command::StartTls(_) => self.starttls(),
            Command::Auth(_) => self.auth(),
            Command::Mail(argument) => self.mail(argument, world),
            Command::Rcpt(argument) => self.rcpt(argument, world),
            Command::Data(argument) => self.data(argument, world),
            Command::Rset(argument) => self.rset(argument),
            Command::Quit(argument) => self.quit(argument),
            Command::Help(argument) => self.help(argument),
            Command::Wiz(argument) => self.wiz(argument),
            Command::Noop => Reply::new(250, "2.0.0 Ok"),
            Command::Vrfy => Reply::new(252, "2.0.0 Cannot verify, send the message and see"),
            Command::Unknown => Reply::new(500, "5.5.1 Invalid command: Command unrecognized"),
        }
    }

    /// Counts what the budgets of `limits` are about. RCPT and DATA never count as bad: they may
    /// follow a refused MAIL in the same group of commands (RFC 2920 §3.1), and one bad address of
    /// a list must not cost the others.
    fn account(&mut self, command: Command<'_>, reply: &Reply) {
        let follows_mail = matches!(command, Command::Rcpt(_) | Command::Data(_));
        match reply.code() {
            500..=504 if !follows_mail => self.bad_commands += 1,
            200..=399 => self.bad_commands = 0,
            _ => {}
        }
        let progress = (follows_mail || matches!(command, Command::Mail(_))) && !reply.is_failure();
        self.idle_commands += u32::from(!progress);
    }

    /// Whether HELO is done and no transaction is open.
    fn is_between_transactions(&self) -> bool {
        matches!(self.state, State::Identified)
    }
}

/// 503 for a command out of order.
fn not_allowed() -> Reply {
    Reply::new(
        503,
        "5.5.1 Invalid command: Command not allowed at this point.",
    )
}

/// The reply to a command that takes no argument and got one.
fn refuse_argument(argument: Option<&[u8]>) -> Result<(), Reply> {
    let text = "5.5.4 Invalid command arguments: command does not accept arguments.";
    argument.map_or(Ok(()), |_| Err(Reply::new(500, text)))
}

/// An AUTH line as it may be logged: the mechanism, and no credentials.
fn masked(line: &[u8]) -> Vec<u8> {
    let mut words = line.splitn(3, |&byte| byte == b' ');
    let mut masked = words.next().unwrap_or_default().to_vec();
    if let Some(mechanism) = words.next() {
        masked.push(b' ');
        masked.extend_from_slice(mechanism);
    }
    if words.next().is_some() {
        masked.extend_from_slice(b" (...)");
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_out_of_the_log() {
        for (line, want) in [
            ("AUTH PLAIN AGJvYgBzZWNyZXQ=", "AUTH PLAIN (...)"),
            ("auth  PLAIN x", "auth  (...)"),
            ("AUTH LOGIN", "AUTH LOGIN"),
            ("AUTH", "AUTH"),
        ] {
            assert_eq!(masked(line.as_bytes()), want.as_bytes());
        }
    }
}

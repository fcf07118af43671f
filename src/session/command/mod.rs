//! Commands: which is legal now, and what each one does.
//!
//! Every command is first tested against the state and its argument read (`check_…`), then it is
//! done (`proceed_…`). The order of the tests is part of what clients see. The place between the
//! halves is the filters': what they are asked, they are asked about a command that is legal, and
//! an answer of theirs enters `proceed` with the line as it is then.

mod auth;
mod data;
mod helo;
mod mail;
mod misc;
mod rcpt;
mod starttls;

use std::borrow::Cow;

use crate::mail::Refusal;
use crate::smtp::command::is_http;
use crate::smtp::{Command, Reply};

pub use mail::bad_sender;
pub(super) use rcpt::too_many;
pub use rcpt::{bad_recipient, recipient_reply};

use super::event::Event;
use super::question::Question;
use super::state::State;
use super::{Services, Session};

impl Session {
    /// Takes one command line without its line end. Gives what must be known before it can be
    /// answered.
    pub(super) fn take_command(
        &mut self,
        line: &[u8],
        out: &mut Vec<u8>,
        services: &dyn Services,
    ) -> Option<Question> {
        self.tell(&Event::Command(&shown(line, HIDDEN)));
        if is_http(line) {
            // A browser or a server that fetches what a stranger names has been sent here. The
            // body of its request may be commands and a message of the stranger's.
            let reply = Reply::new(421, "4.7.0 This is SMTP, not HTTP");
            self.bad_input(reply, out);
            return None;
        }
        match self.check(line) {
            Ok(()) => self.filter_command(line, out, services),
            Err(refusal) => {
                self.conclude(line, refusal, out);
                None
            }
        }
    }

    /// Whether the command is legal now; the reply otherwise.
    pub(in crate::session) fn check(&self, line: &[u8]) -> Result<(), Reply> {
        if memchr::memchr(0, line).is_some() {
            // What is behind a NUL must never be cut off: someone else may have judged it.
            return Err(Reply::new(500, "5.5.2 Syntax error: NUL in command line"));
        }
        if matches!(self.state, State::Refused)
            && !matches!(
                Command::parse(line),
                Command::Quit(_) | Command::Noop | Command::Help(_)
            )
        {
            return Err(not_allowed());
        }
        match Command::parse(line) {
            Command::Helo(argument) => self.check_helo(argument),
            Command::Ehlo(argument) => self.check_ehlo(argument),
            Command::StartTls(argument) => self.check_starttls(argument),
            Command::Auth(argument) => self.check_auth(argument),
            Command::Mail(argument) => self.check_mail(argument),
            Command::Rcpt(argument) => self.check_rcpt(argument),
            Command::Data(argument) => self.check_data(argument),
            Command::Rset(argument) => self.check_rset(argument),
            Command::Quit(argument) | Command::Help(argument) => refuse_argument(argument),
            Command::Wiz(argument) => refuse_argument(argument).and(Err(Reply::new(
                500,
                "5.5.1 Invalid command: this feature is not supported yet ;-)",
            ))),
            Command::Noop | Command::Vrfy => Ok(()),
            Command::Unknown => Err(Reply::new(
                500,
                "5.5.1 Invalid command: Command unrecognized",
            )),
        }
    }

    /// Does what a legal command says.
    pub(in crate::session) fn proceed(
        &mut self,
        line: &[u8],
        out: &mut Vec<u8>,
        services: &dyn Services,
    ) -> Option<Question> {
        match Command::parse(line) {
            Command::Helo(argument) => self.proceed_helo(line, argument, out),
            Command::Ehlo(argument) => self.proceed_ehlo(line, argument, out),
            Command::StartTls(_) => return self.proceed_starttls(line, out),
            Command::Auth(argument) => return self.proceed_auth(line, argument, out),
            Command::Mail(argument) => {
                return self.proceed_mail(line, argument, out, services);
            }
            Command::Rcpt(argument) => {
                return self.proceed_rcpt(line, argument, out);
            }
            Command::Data(_) => self.proceed_data(line, out, services),
            Command::Rset(_) => self.proceed_rset(line, out),
            Command::Quit(_) => self.conclude(line, Reply::new(221, "2.0.0 Bye"), out),
            Command::Help(_) => self.conclude(line, misc::help(), out),
            Command::Vrfy => {
                let text = "2.0.0 Cannot verify, send the message and see";
                self.conclude(line, Reply::new(252, text), out);
            }
            Command::Noop => self.conclude(line, Reply::new(250, "2.0.0 Ok"), out),
            // `check` has refused these.
            Command::Wiz(_) | Command::Unknown => {}
        }
        None
    }

    /// Answers a command. Who has used up a budget of `limits` hears another reply, and goes.
    pub(in crate::session) fn conclude(&mut self, line: &[u8], reply: Reply, out: &mut Vec<u8>) {
        self.account(Command::parse(line), &reply);
        let reply = if self.over_budget() && reply.code() != 221 {
            Reply::new(421, "4.7.0 Too many errors or idle commands")
        } else {
            reply
        };
        self.say(Some(&shown(line, b"(...)")), &reply, out);
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
        if matches!(command, Command::Rcpt(_)) {
            let refused = u16::from(reply.is_failure());
            self.refused_rcpts = self.refused_rcpts.saturating_add(refused);
            self.unpaid = self.unpaid.saturating_add(refused);
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

/// A refusal when rules and users could not be asked in time.
pub(super) fn too_late() -> Refusal {
    Refusal::new(451, "4.3.0 Temporary failure").because("the answer took too long")
}

/// A line as others may see it: AUTH has this in the place of credentials.
fn shown<'l>(line: &'l [u8], hidden: &[u8]) -> Cow<'l, [u8]> {
    match Command::parse(line) {
        Command::Auth(_) => {
            let mut words = line.splitn(3, |&byte| byte == b' ');
            let head: Vec<&[u8]> = words.by_ref().take(2).collect();
            let rest = words.next().map(|word| match word {
                // What we call a response of LOGIN.
                b"(username)" | b"(password)" => word,
                _ => hidden,
            });
            Cow::Owned(head.into_iter().chain(rest).collect::<Vec<_>>().join(&b' '))
        }
        _ => Cow::Borrowed(line),
    }
}

/// What stands for credentials, as OpenSMTPD's filters know it.
pub(super) const HIDDEN: &[u8] = b"********";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_out_of_the_log() {
        for (line, want) in [
            ("AUTH PLAIN AGJvYgBzZWNyZXQ=", "AUTH PLAIN (...)"),
            ("auth  PLAIN x", "auth  (...)"),
            ("AUTH LOGIN (password)", "AUTH LOGIN (password)"),
            ("AUTH LOGIN", "AUTH LOGIN"),
            ("AUTH", "AUTH"),
        ] {
            assert_eq!(shown(line.as_bytes(), b"(...)"), want.as_bytes());
        }
    }
}

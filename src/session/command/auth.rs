//! AUTH (RFC 4954): PLAIN and LOGIN. Passwords are checked elsewhere while the session is parked.
//!
//! It is offered only where the connection is encrypted. A session that fails too often is ended;
//! what a client's network and a user may try altogether is counted by [`crate::auth`].

use crate::auth::Verdict;
use crate::session::event::Event;
use crate::session::limits::MAX_FAILED_LOGINS;
use crate::session::question::{Login, Question, Waits};
use crate::session::state::{AuthStep, State};
use crate::session::{Session, Taken};
use crate::smtp::Reply;
use crate::smtp::auth::{self, Credentials, Mechanism};
use crate::util::Line;

use super::{HIDDEN, not_allowed};

/// What the log calls the lines of AUTH: none of them is shown.
const PLAIN: &str = "AUTH PLAIN (...)";
const LOGIN_USER: &str = "AUTH LOGIN (username)";
const LOGIN_PASSWORD: &str = "AUTH LOGIN (password)";

impl Session {
    /// Whether AUTH is offered now.
    pub(in crate::session) fn offers_auth(&self) -> bool {
        self.listening.auth.is_some() && self.security.tls.is_some() && !self.is_authenticated()
    }

    pub(super) fn check_auth(&self, argument: Option<&[u8]>) -> Result<(), Reply> {
        let invalid = |text: &'static str| Err(Reply::new(503, text));
        if !self.is_between_transactions() {
            return Err(not_allowed());
        }
        if self.is_authenticated() {
            return invalid("5.5.1 Invalid command: Already authenticated");
        }
        if self.listening.auth.is_none() {
            return invalid("5.5.1 Invalid command: Command not supported");
        }
        if self.security.tls.is_none() {
            let text = "5.7.11 Encryption required for requested authentication mechanism";
            return Err(Reply::new(538, text));
        }
        let argument = argument.filter(|argument| !argument.is_empty());
        let missing = "5.5.4 Invalid command arguments: No parameters given";
        let (name, _) = auth::argument(argument.ok_or_else(|| Reply::new(501, missing))?);
        match Mechanism::named(name) {
            Some(_) => Ok(()),
            None => {
                let name = Line::sanitize(name);
                let text = "5.7.4 Security features not supported: AUTH method";
                Err(Reply::echo(
                    504,
                    &format!("{text} \"{name}\" not supported"),
                ))
            }
        }
    }

    pub(super) fn proceed_auth(
        &mut self,
        line: &[u8],
        argument: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Option<Question> {
        let (name, response) = auth::argument(argument.unwrap_or_default());
        let step = match Mechanism::named(name)? {
            Mechanism::Plain => AuthStep::Plain,
            Mechanism::Login => AuthStep::User,
        };
        if let Some(response) = response {
            return self.respond(step, response, out);
        }
        let ask = match step {
            AuthStep::Plain => "",
            _ => auth::ASK_USER,
        };
        self.state = State::Auth(Box::new(step));
        self.conclude(line, Reply::echo(334, ask), out);
        None
    }

    /// Takes the response of a client of AUTH off the front of `rest`.
    pub(in crate::session) fn take_response(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Taken {
        let (line, used) = match self.line_of(rest, out) {
            Ok(found) => found,
            Err(taken) => return taken,
        };
        self.tell(&Event::Command(HIDDEN));
        let State::Auth(step) = std::mem::replace(&mut self.state, State::Identified) else {
            return Taken::Nothing;
        };
        match self.respond(*step, line, out) {
            Some(question) => Taken::Asking(used, question),
            None => Taken::Bytes(used),
        }
    }

    fn respond(&mut self, step: AuthStep, response: &[u8], out: &mut Vec<u8>) -> Option<Question> {
        match step {
            AuthStep::Plain => match auth::plain(response) {
                Some(credentials) => self.try_login(credentials, PLAIN),
                None => self.not_understood(PLAIN, out),
            },
            AuthStep::User => match auth::login_user(response) {
                Some(user) => {
                    self.state = State::Auth(Box::new(AuthStep::Password(user)));
                    self.conclude(
                        LOGIN_USER.as_bytes(),
                        Reply::echo(334, auth::ASK_PASSWORD),
                        out,
                    );
                    None
                }
                None => self.not_understood(LOGIN_USER, out),
            },
            AuthStep::Password(user) => match auth::login_password(response) {
                Some(password) => self.try_login(Credentials { user, password }, LOGIN_PASSWORD),
                None => self.not_understood(LOGIN_PASSWORD, out),
            },
        }
    }

    /// The answer to what is no answer, and to a client that gives up with `*`.
    fn not_understood(&mut self, label: &'static str, out: &mut Vec<u8>) -> Option<Question> {
        self.state = State::Identified;
        let text = "5.5.2 Syntax error: Syntax error";
        self.conclude(label.as_bytes(), Reply::new(501, text), out);
        None
    }

    fn try_login(&mut self, credentials: Credentials, label: &'static str) -> Option<Question> {
        self.waits = Some(Box::new(Waits::Password {
            user: credentials.user.clone(),
            label,
        }));
        let table = self
            .listening
            .auth
            .as_ref()
            .and_then(|auth| auth.table.clone());
        Some(Question::Password(Login {
            peer: self.peer.clone(),
            credentials,
            table,
        }))
    }

    /// Goes on now that it is known whether the client is who it says. A name that is not its own is
    /// forgotten.
    pub(in crate::session) fn judged(
        &mut self,
        user: Line,
        label: &'static str,
        verdict: Verdict,
        out: &mut Vec<u8>,
    ) {
        self.tell(&Event::Login(&user, verdict));
        let reply = match verdict {
            Verdict::Accepted => {
                self.security.user = Some(user);
                Reply::new(235, "2.0.0 Authentication succeeded")
            }
            Verdict::Refused => {
                self.failed_logins += 1;
                if self.failed_logins >= MAX_FAILED_LOGINS {
                    Reply::new(421, "4.7.0 Too many failed attempts to log in")
                } else {
                    Reply::new(535, "5.7.8 Authentication failed")
                }
            }
            Verdict::Exhausted(_) => Reply::new(
                454,
                "4.7.0 Too many failed attempts to log in, try again later",
            ),
            Verdict::Unavailable => Reply::new(454, "4.7.0 Temporary authentication failure"),
        };
        self.conclude(label.as_bytes(), reply, out);
    }
}

//! From the greeting to a session that mail can be sent in: EHLO, STARTTLS, AUTH.

use crate::smtp::{auth, domain_name};
use crate::util::Line;

use super::super::error::{NotSecured, SessionError, Stage};
use super::super::event::{Event, Login};
use super::super::extensions::Extensions;
use super::super::order::{Credentials, Tls};
use super::super::reply::{Class, Parser, Reply};
use super::{Engine, Expect, Phase, Privacy};

/// What the server is to say to a step of AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthStep {
    /// LOGIN: ask for the user.
    User,
    /// LOGIN: ask for the password.
    Password,
    /// That we are logged in.
    Done,
}

/// Longest line of AUTH.
const AUTH_MAX: usize = 2048;

const HIDDEN: &str = "********";

impl Engine {
    pub(super) fn hello_replied(&mut self, expect: Expect, reply: &Reply) {
        let done = reply.class() == Class::Done;
        match expect {
            Expect::Greeting if done => {
                // The text behind the code is the server's name and what it says of itself.
                self.greeting = reply.lines().first().cloned().unwrap_or_default();
                let name = self.greeting.split(' ').next().unwrap_or_default();
                let name = domain_name::parse(name.as_bytes()).unwrap_or_default();
                let name = Line::sanitize(name.as_bytes());
                self.tell(|| Event::Greeted(name));
                self.say_hello();
            }
            Expect::Greeting => self.fail(SessionError::rejected(Stage::Banner, "BANNER", reply)),
            Expect::Ehlo | Expect::Lhlo if done => self.offered(Extensions::of(reply)),
            Expect::Ehlo if self.may_say_helo(reply) => {
                self.introduce("HELO", Expect::Helo);
            }
            Expect::Ehlo => self.fail(SessionError::rejected(Stage::Hello, "EHLO", reply)),
            Expect::Lhlo => self.fail(SessionError::rejected(Stage::Hello, "LHLO", reply)),
            Expect::Helo if done => self.offered(Extensions::default()),
            Expect::Helo => self.fail(SessionError::rejected(Stage::Hello, "HELO", reply)),
            Expect::StartTls if done => self.phase = Phase::Securing,
            Expect::StartTls if self.hello.tls == Tls::Required => {
                self.fail(SessionError::rejected(Stage::StartTls, "STARTTLS", reply));
            }
            Expect::StartTls => self.log_in(),
            Expect::Auth(step) => self.auth_replied(step, reply),
            _ => {}
        }
    }

    /// The handshake was made, with these ciphers, or failed with these words.
    pub fn secured(&mut self, result: Result<Line, NotSecured>) {
        if self.phase != Phase::Securing {
            return;
        }
        match result {
            Ok(ciphers) => self.tell(|| Event::Secured(ciphers)),
            Err(NotSecured { text, lost }) => {
                let text = format!("IO Error: {text}");
                return self.fail(SessionError {
                    lost,
                    ..SessionError::new(Stage::Handshake, &text)
                });
            }
        }
        self.phase = Phase::Talking;
        self.privacy = Privacy::Secured;
        // RFC 3207 §4.2: nothing learnt in plain text counts.
        self.parser = Parser::default();
        self.extensions = Extensions::default();
        if self.hello.tls != Tls::OnConnect {
            self.say_hello();
        }
    }

    fn say_hello(&mut self) {
        if self.is_lmtp() {
            self.introduce("LHLO", Expect::Lhlo)
        } else {
            self.introduce("EHLO", Expect::Ehlo)
        }
    }

    fn introduce(&mut self, verb: &'static str, expect: Expect) {
        let name = self.hello.name.clone();
        self.say(&format!("{verb} {name}"), expect);
        self.tell(|| Event::Identified(verb, name));
    }

    /// A server without EHLO has neither TLS nor AUTH. One that says 421 is about to go.
    fn may_say_helo(&self, reply: &Reply) -> bool {
        let needs_ehlo = self.hello.auth.is_some() || self.hello.tls == Tls::Required;
        reply.code() != 421 && !needs_ehlo && self.privacy == Privacy::Plain
    }

    fn offered(&mut self, extensions: Extensions) {
        self.extensions = extensions;
        let wanted = match self.hello.tls {
            Tls::Never | Tls::OnConnect => false,
            Tls::IfOffered | Tls::Required => self.privacy == Privacy::Plain,
        };
        match (wanted, self.extensions.starttls, self.hello.tls) {
            (true, true, _) => self.say("STARTTLS", Expect::StartTls),
            (true, false, Tls::Required) => {
                let text = "TLS required but not supported by remote host";
                self.fail(SessionError::new(Stage::StartTls, text));
            }
            _ => self.log_in(),
        }
    }

    fn log_in(&mut self) {
        let Some(credentials) = self.hello.auth.clone() else {
            return;
        };
        let failed = |text| SessionError::new(Stage::Auth, text);
        if self.privacy != Privacy::Secured {
            return self.fail(failed("Refuse to AUTH over insecure channel"));
        }
        let Some(auth) = self.extensions.auth else {
            return self.fail(failed("AUTH not advertised"));
        };
        if auth.plain {
            self.auth_plain(&credentials);
        } else if auth.login {
            self.say("AUTH LOGIN", Expect::Auth(AuthStep::User));
        } else {
            self.fail(failed("no supported AUTH method"));
        }
    }

    /// RFC 4616: no authorisation identity, the user, the password.
    fn auth_plain(&mut self, credentials: &Credentials) {
        let text = format!("\0{}\0{}", credentials.user, credentials.password);
        let line = format!("AUTH PLAIN {}", auth::encode(text.as_bytes()));
        let shown = format!("AUTH PLAIN {HIDDEN}");
        self.say_credentials(&line, &shown, AuthStep::Done);
    }

    fn auth_replied(&mut self, step: AuthStep, reply: &Reply) {
        if let Some(login) = match (step, reply.class()) {
            (AuthStep::Done, Class::Done) => Some(Login::Accepted),
            (AuthStep::User | AuthStep::Password, Class::GoOn) => None,
            _ => Some(Login::Refused),
        } && let Some(credentials) = &self.hello.auth
        {
            let user = credentials.user.clone();
            self.tell(|| Event::Login(user, login));
        }
        let secret = self.hello.auth.as_ref().map(|c| match step {
            AuthStep::User => c.user.clone(),
            AuthStep::Password | AuthStep::Done => c.password.clone(),
        });
        match (step, reply.class(), secret) {
            (AuthStep::Done, Class::Done, _) => {}
            (AuthStep::User, Class::GoOn, Some(user)) => {
                let line = auth::encode(user.as_bytes());
                self.say_credentials(&line, HIDDEN, AuthStep::Password);
            }
            (AuthStep::Password, Class::GoOn, Some(password)) => {
                let line = auth::encode(password.as_bytes());
                self.say_credentials(&line, HIDDEN, AuthStep::Done);
            }
            _ => self.fail(SessionError::rejected(Stage::Auth, "AUTH", reply)),
        }
    }

    fn say_credentials(&mut self, line: &str, shown: &str, step: AuthStep) {
        if line.len() > AUTH_MAX {
            return self.fail(SessionError::new(Stage::Auth, "Credentials too large"));
        }
        self.say_secret(line, shown, Expect::Auth(step));
    }
}

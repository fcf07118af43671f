//! What comes before the banner, one stage after the other.
//!
//! The whole order is: PROXY header (which the owner of the socket reads), the client's name by
//! reverse DNS, our own name, the filters' word on the connection, TLS (`smtps`), banner. A stage
//! that has to wait returns a question, what ends the wait enters the next
//! stage.

use std::net::IpAddr;

use crate::dns::{Confirmed, Reverse};
use crate::filter::Phase;
use crate::mail::Peer;
use crate::smtp::{Reply, domain_name};
use crate::util::Line;

use super::event::Event;
use super::question::{Lookup, Question, Then, Waits};
use super::state::State;
use super::{Next, Session, Tls, TlsFacts};

/// A stage of the opening.
pub(super) enum Stage {
    /// Who the client is by reverse DNS.
    Name,
    /// Who we are to it.
    ServerName,
    /// What filters say to the connection.
    Filters,
    /// `smtps`: before anything is said.
    Tls,
    /// We greet.
    Banner,
}

impl Session {
    /// The client has connected: begins the opening, which ends in the banner.
    pub fn open(&mut self, out: &mut Vec<u8>) -> Next {
        self.enter(Stage::Name, out)
    }

    /// Enters a stage, and those after it up to one that waits.
    pub(super) fn enter(&mut self, mut stage: Stage, out: &mut Vec<u8>) -> Next {
        loop {
            stage = match stage {
                Stage::Name => match &self.peer {
                    Peer::Inet { addr, .. } => {
                        let address: IpAddr = addr.to_canonical();
                        return self.ask(Waits::Name, Question::Name(address));
                    }
                    // A local client bears our own name.
                    Peer::Local => {
                        self.rdns = Some(self.listening.server_name.clone());
                        self.fcrdns = Confirmed::Pass;
                        self.named()
                    }
                },
                Stage::ServerName => match &self.listening.hostnames {
                    Some(names) => {
                        let address = self.ours.as_ref().unwrap_or(&names.bound).clone();
                        let lookup = Lookup::ServerName(names.table.clone(), address);
                        return self.ask(Waits::ServerName, Question::Lookup(lookup));
                    }
                    None => Stage::Filters,
                },
                Stage::Filters => {
                    let parameter = self.connect_parameter();
                    let question = self.ask_filters(
                        Phase::Connect,
                        parameter.as_bytes(),
                        Then::Banner,
                        out,
                        None,
                    );
                    return match question {
                        Some(question) => Next::Ask(question),
                        None if self.is_over() => Next::Close,
                        None => Next::Read,
                    };
                }
                Stage::Tls => match self.listening.tls {
                    Some(Tls::Immediate) if self.peer != Peer::Local => {
                        return self.ask(Waits::Tls { opening: true }, Question::Tls);
                    }
                    _ => Stage::Banner,
                },
                Stage::Banner => {
                    let banner = format!("{} ESMTP OpenSMTPD", self.server_name());
                    let reply = Reply::echo(220, &banner);
                    self.state = State::Greeted;
                    self.say(None, &reply, out);
                    self.tell(&Event::Greeted);
                    return Next::Read;
                }
            }
        }
    }

    /// The connection is encrypted. What was said before counts no more (RFC 3207 §4.2).
    pub(super) fn secured(&mut self, facts: TlsFacts, opening: bool, out: &mut Vec<u8>) -> Next {
        self.tell(&Event::Secured(&facts));
        self.security.tls = Some(Box::new(facts));
        if opening {
            return self.enter(Stage::Banner, out);
        }
        self.greeting = None;
        self.state = State::Greeted;
        Next::Read
    }

    /// The resolver has answered, or not in time. A name that is no host name counts as none, for
    /// it goes into headers and logs.
    pub(super) fn resolved(&mut self, found: Option<Reverse>) -> Stage {
        let found = found.unwrap_or(Reverse {
            name: None,
            confirmed: Confirmed::Error,
        });
        let is_usable = |name: &Line| domain_name::is_host_name(name);
        (self.rdns, self.fcrdns) = match found.name {
            Some(name) if is_usable(&name) => (Some(name), found.confirmed),
            Some(_) => (None, Confirmed::Fail),
            None => (None, found.confirmed),
        };
        self.named()
    }

    fn named(&mut self) -> Stage {
        self.meet_filters();
        self.state = State::Connected;
        self.tell(&Event::Connected);
        Stage::ServerName
    }
}

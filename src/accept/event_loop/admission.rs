//! Who is let in over TCP: the limit on sessions, on sessions of one source, and on descriptors.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use mio::net::{TcpListener, TcpStream};

use crate::accept::conn::{Conn, Prelude, Socket, Stream, Wants};
use crate::accept::header::Header;
use crate::accept::source::Source;
use crate::accept::{Listeners, TOO_MANY, millis};
use crate::log::{self, maillog, stat};
use crate::mail::{Peer, SessionId};
use crate::session::Session;
use crate::sys::errno::strerror;
use crate::sys::{descriptors, random, socket};

use super::{EventLoop, made_ready};

impl EventLoop {
    pub(super) fn accept_sessions(&mut self) {
        if self.mailbox.paused() {
            // The gate follows before the loop sleeps.
            return;
        }
        let mut from = 0;
        while let Some(index) = self.smtp.next_ready(from) {
            from = index + 1;
            if let Err(why) = self.accept_burst(index) {
                self.census.await_room();
                if self.smtp.shut(self.now_ms + millis(self.limits.retry)) {
                    log::warn(format_args!("Disabling incoming SMTP connections: {why}"));
                }
                return;
            }
        }
    }

    /// Opens and closes listeners. Those who wait at one that closes are let in first, as far as
    /// there is room.
    pub(super) fn change_listeners(&mut self, change: Listeners) {
        let is_gone = |listener: &TcpListener| {
            let address = listener.local_addr();
            address.is_ok_and(|address| change.gone.contains(&address))
        };
        for index in 0..self.doors.len() {
            if self.mailbox.paused() || !is_gone(self.smtp.listener(index)) {
                continue;
            }
            self.smtp.mark_ready(index);
            let mut bursts = 0;
            while self.smtp.is_ready(index) && bursts < LAST_BURSTS {
                bursts += 1;
                if self.accept_burst(index).is_err() {
                    break;
                }
            }
        }
        let listeners = self.smtp.take(self.poll.registry());
        let doors = std::mem::take(&mut self.doors);
        let kept = listeners.into_iter().zip(doors);
        let added = change.added.into_iter().filter_map(|(listener, door)| {
            let listener = made_ready(listener).map_err(|error| {
                log::warn(format_args!("smtp: listener: {}", strerror(&error)));
            });
            Some((listener.ok()?, door))
        });
        let kept = kept.filter(|(listener, _)| !is_gone(listener));
        let (listeners, doors) = kept.chain(added).unzip();
        self.smtp.put(listeners);
        self.doors = doors;
    }

    /// Takes some of those who wait at a listener. An error says why nobody can be taken now.
    fn accept_burst(&mut self, listener: usize) -> Result<(), String> {
        let mut failed = Ok(());
        for _ in 0..self.limits.accept_burst {
            if !self.has_room() {
                return Err("Client limit reached".to_owned());
            }
            match self.smtp.listener(listener).accept() {
                Ok((stream, address)) => {
                    self.admit(listener, stream, address)?;
                    failed = Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.smtp.exhausted(listener);
                    return Ok(());
                }
                Err(error) if descriptors::are_exhausted(&error) => return Err(strerror(&error)),
                // That connection is gone before we took it; the next one may be well.
                Err(error) => failed = Err(strerror(&error)),
            }
        }
        // Errors without end must not keep the loop busy.
        failed
    }

    fn has_room(&self) -> bool {
        self.census.sessions() < self.limits.sessions
    }

    /// Makes a session of a connection, or refuses it. An error says that descriptors are used up.
    fn admit(
        &mut self,
        listener: usize,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(), String> {
        if self.is_one_of_the_last(stream.as_raw_fd()) {
            refuse(stream, FULL);
            return Err(strerror(&descriptors::exhausted()));
        }
        let door = self.doors[listener].get();
        let client = peer(address);
        let proxies = door.proxies.as_ref();
        let is_proxied = proxies.is_some();
        if proxies.is_some_and(|is_proxy| !is_proxy(&client)) {
            let text = "it is no proxy of this listener";
            maillog::smtp_proxy_refused(&client, text);
            return Ok(());
        }
        let source = if is_proxied {
            // Its clients are limited, when it has named them.
            let source = Source::of(address.ip());
            self.census.enter(source, usize::MAX);
            Some(source)
        } else {
            let census = &self.census;
            census.let_in(&client, address.ip(), &door, &self.limits)
        };
        let Some(source) = source else {
            refuse(stream, TOO_MANY);
            return Ok(());
        };
        match address {
            SocketAddr::V4(_) => stat::SMTP_SESSION_INET4.inc(),
            SocketAddr::V6(_) => stat::SMTP_SESSION_INET6.inc(),
        }
        let server = door.tls.clone();
        let listening = door.listening.clone();
        let is_named_by_address = listening.hostnames.is_some();
        let mut session = Session::new(self.ids.next(), listening, client);
        session.came_from_port(address.port());
        if is_named_by_address && let Ok(ours) = stream.local_addr() {
            session.reached(peer(ours));
        }
        let mut conn = Conn::new(Stream::new(Socket::Tcp(stream)), session, source);
        conn.server = server;
        if is_proxied {
            maillog::smtp_proxy(conn.session.id(), conn.session.peer());
            conn.prelude = Prelude::Header(Box::new((Header::default(), door)));
            conn.wants = Wants::Header;
        }
        self.hand_over(conn);
        Ok(())
    }

    /// Whether `fd` leaves less than the reserve: descriptors are given out from the lowest on, so
    /// a high number means that nearly all are taken.
    pub(super) fn is_one_of_the_last(&self, fd: i32) -> bool {
        usize::try_from(fd).is_ok_and(|fd| {
            fd.saturating_add(self.limits.descriptor_reserve) >= self.limits.descriptors
        })
    }

    /// Opens gates that were shut for want of room when there is room.
    pub(super) fn reopen_when_due(&mut self) {
        let due = |until_ms: Option<u64>| until_ms.is_some_and(|at_ms| at_ms <= self.now_ms);
        if due(self.smtp.shut_until_ms()) {
            if self.has_slack() && self.has_descriptors(self.control.listener(0)) {
                self.smtp.reopen();
                log::warn(format_args!(
                    "smtp: fd exhaustion over, re-enabling incoming connections"
                ));
            } else {
                self.smtp.shut(self.now_ms + millis(self.limits.retry));
            }
        }
        let due = |until_ms: Option<u64>| until_ms.is_some_and(|at_ms| at_ms <= self.now_ms);
        if due(self.control.shut_until_ms()) {
            if self.has_descriptors(self.control.listener(0)) {
                self.control.reopen();
                log::warn(format_args!("re-enabling ctl connections"));
            } else {
                self.control.shut(self.now_ms + millis(self.limits.retry));
            }
        }
    }

    /// Whether so many sessions are gone that opening is worth two lines in the log.
    pub(super) fn has_slack(&self) -> bool {
        self.census.sessions() + self.limits.sessions / 20 < self.limits.sessions
    }

    /// Whether there is more than the reserve.
    fn has_descriptors(&self, any: &impl AsFd) -> bool {
        let mut held = Vec::with_capacity(self.limits.descriptor_reserve + 1);
        for _ in 0..=self.limits.descriptor_reserve {
            match any.as_fd().try_clone_to_owned() {
                Ok(fd) if self.is_one_of_the_last(fd.as_raw_fd()) => return false,
                Ok(fd) => held.push(fd),
                Err(_) => return false,
            }
        }
        true
    }
}

/// Bursts of connections that are still taken at a listener that closes.
const LAST_BURSTS: usize = 256;

/// Numbers of sessions: a counter that starts anywhere above 32 random bits, never 0.
pub(super) struct SessionIds {
    counter: u32,
}

impl SessionIds {
    pub(super) fn new() -> SessionIds {
        SessionIds {
            counter: random::number_u32(),
        }
    }

    pub(super) fn next(&mut self) -> SessionId {
        self.counter = self.counter.wrapping_add(1);
        let id = u64::from(self.counter) << 32 | u64::from(random::number_u32());
        SessionId(id.max(1))
    }
}

fn peer(address: SocketAddr) -> Peer {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_none() && v6.scope_id() != 0 => {
            Peer::Inet {
                addr: address.ip(),
                scope: socket::interface_name(v6.scope_id()).map(String::into_boxed_str),
            }
        }
        _ => Peer::inet(address.ip()),
    }
}

/// Says why, if the socket takes it at once, and closes.
fn refuse(mut stream: TcpStream, why: &[u8]) {
    let _ = stream.write(why);
}

/// RFC 3463 §3.5: the host does not take mail now.
const FULL: &[u8] = b"421 4.3.2 Service temporarily out of resources, try again later\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_sessions_start_over_and_are_never_zero() {
        // OpenSMTPD 5.7.2 ended when its numbers of connections did.
        let mut ids = SessionIds {
            counter: u32::MAX - 1,
        };
        let upper: Vec<u64> = (0..4).map(|_| ids.next().0 >> 32).collect();
        assert_eq!(upper, [u64::from(u32::MAX), 0, 1, 2]);
        let mut ids = SessionIds { counter: u32::MAX };
        assert_ne!(ids.next().0, 0);
    }
}

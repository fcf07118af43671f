//! Who is let in over the control socket, and what they ask.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use mio::{Interest, Token};

use crate::accept::conn::{Conn, Socket, Stream};
use crate::accept::control::{Client, Step};
use crate::accept::millis;
use crate::accept::slab::ConnId;
use crate::accept::source::{Entry, Source};
use crate::control::{Answer, Ask, server};
use crate::log::{self, stat};
use crate::mail::Peer;
use crate::session::Session;
use crate::sys::socket;

use super::{ControlRow, EventLoop, FIRST_CLIENT};

impl EventLoop {
    pub(super) fn accept_controls(&mut self) {
        if self.control.next_ready(0).is_none() {
            return;
        }
        for _ in 0..self.limits.accept_burst {
            match self.control.listener(0).accept() {
                Ok((stream, _)) if self.is_one_of_the_last(stream.as_raw_fd()) => {
                    drop(stream);
                    self.shut_control();
                    return;
                }
                Ok((stream, _)) => self.admit_control(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.control.exhausted(0);
                    return;
                }
                // It is gone before we took it, which the BSDs tell.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Errors without end must not keep the loop busy.
                Err(_) => return self.shut_control(),
            }
        }
    }

    fn shut_control(&mut self) {
        if self.control.shut(self.now_ms + millis(self.limits.retry)) {
            log::warn(format_args!(
                "ctl client limit hit, disabling new connections"
            ));
        }
    }

    fn admit_control(&mut self, stream: UnixStream) {
        let Ok(uid) = socket::peer_uid(stream.as_fd()) else {
            return;
        };
        let privileged = uid == 0 || uid == self.own_uid;
        let limit = if !privileged && self.clients.len() >= self.limits.controls {
            0
        } else {
            self.limits.controls_per_uid
        };
        match self.callers.enter(uid, limit, Instant::now()) {
            Entry::Counted => {}
            Entry::RefusedAloud => {
                log::warn(format_args!(
                    "too many connections to control socket from user with uid {uid}"
                ));
                return;
            }
            Entry::Refused => return,
        }
        stat::CONTROL_SESSION.inc();
        let id = self.clients.insert(ControlRow {
            client: Box::new(Client::new(stream, uid)),
            deadline_ms: u64::MAX,
        });
        let token = Token(FIRST_CLIENT + id.index());
        if let Some(row) = self.clients.get_mut(id.index()) {
            let stream = &mut row.client.stream;
            let registered = self
                .poll
                .registry()
                .register(stream, token, Interest::READABLE);
            match registered {
                Ok(()) => self.serve(id.index()),
                Err(_) => self.hang_up(id.index()),
            }
        }
    }

    /// Goes on with a control client until it must wait.
    pub(super) fn serve(&mut self, index: usize) {
        // A client may send many questions at once; others come in between.
        for _ in 0..ASKS_PER_TURN {
            let Some(row) = self.clients.get_mut(index) else {
                return;
            };
            let client = &mut row.client;
            match client.step(&self.limits) {
                Step::Ask(Ask::Submit) => {
                    if self.submit(index) {
                        return;
                    }
                }
                Step::Ask(ask) => {
                    let uid = client.uid;
                    let Some(id) = self.clients.id(index) else {
                        return;
                    };
                    let Some(answer) = self.host.ask(id, uid, ask) else {
                        return;
                    };
                    if let Some(row) = self.clients.get_mut(index) {
                        row.client.answer(&answer);
                    }
                }
                Step::Read(patience) => {
                    return self.park_control(index, patience, Interest::READABLE);
                }
                Step::Write(patience) => {
                    return self.park_control(index, patience, Interest::WRITABLE);
                }
                Step::Wait => return,
                Step::Garbage(bad) => {
                    let uid = client.uid;
                    client.farewell(&server::farewell(bad));
                    log::warn(format_args!(
                        "client with uid {uid} sent invalid imsg over control socket"
                    ));
                    return self.hang_up(index);
                }
                Step::Gone => return self.hang_up(index),
            }
        }
        // Registering again brings the next event at once if there is more.
        self.park_control(
            index,
            self.limits.frame,
            Interest::READABLE | Interest::WRITABLE,
        );
    }

    fn park_control(&mut self, index: usize, patience: Duration, interest: Interest) {
        let token = Token(FIRST_CLIENT + index);
        let at_ms = self.now_ms + millis(patience);
        let Some(row) = self.clients.get_mut(index) else {
            return;
        };
        if row.client.has_advanced() {
            row.deadline_ms = at_ms;
        }
        self.timers.set(index, row.deadline_ms);
        let registry = self.poll.registry();
        if registry
            .reregister(&mut row.client.stream, token, interest)
            .is_err()
        {
            self.hang_up(index);
        }
    }

    pub(super) fn answer(&mut self, id: ConnId, answer: &Answer) {
        if let Some(row) = self.clients.find(id)
            && row.client.waits()
        {
            row.client.answer(answer);
            self.serve(id.index());
        }
    }

    /// Makes a session of a control connection, if that may be. False when it stays what it is.
    fn submit(&mut self, index: usize) -> bool {
        let Some(row) = self.clients.get_mut(index) else {
            return true;
        };
        let client = &mut row.client;
        let source = Source::User(client.uid);
        let refusal = if self.mailbox.paused() {
            Some("smtp is paused")
        } else if self.census.enter(source, self.limits.sessions_per_uid) != Entry::Counted {
            Some("too many sessions of this user")
        } else {
            None
        };
        if let Some(why) = refusal {
            client.answer(&Answer::Fail(why.to_owned()));
            return false;
        }
        client.answer(&Answer::Ok);
        if let Some(client) = self.dismiss(index)
            && let Some((mut stream, input)) = client.into_session()
        {
            // A worker has it in its own poll from now on.
            let _ = self.poll.registry().deregister(&mut stream);
            stat::SMTP_SESSION_LOCAL.inc();
            let session = Session::new(self.ids.next(), self.socket.get(), Peer::Local);
            let mut conn = Conn::new(Stream::new(Socket::Unix(stream)), session, source);
            conn.input = input;
            self.hand_over(conn);
        } else {
            self.census.leave(source);
        }
        true
    }

    /// Clears the row of a control client.
    fn dismiss(&mut self, index: usize) -> Option<Box<Client>> {
        let ControlRow { client, .. } = self.clients.remove(index)?;
        self.callers.leave(client.uid);
        stat::CONTROL_SESSION.dec();
        Some(client)
    }

    pub(super) fn hang_up(&mut self, index: usize) {
        if let Some(mut client) = self.dismiss(index) {
            let _ = self.poll.registry().deregister(&mut client.stream);
        }
    }
}

/// Questions of one control client before others have their turn.
const ASKS_PER_TURN: usize = 16;

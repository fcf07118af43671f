//! The connection of an `lmtp` action, up to a session in which mail can be sent.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::client::{Hello, Opening, Protocol, Session, SessionError, Socket, Timeouts};
use crate::config::{Delivery, LmtpDest};
use crate::deliver::local::exit::{Settled, Tail, quote_last_line};
use crate::deliver::local::feed::is_transient;
use crate::deliver::local_action;
use crate::mail::{Envelope, Kind};
use crate::privsep::{MdaJob, MdaTask, Pending};
use crate::sys::descriptors::set_nonblocking;
use crate::sys::fdpass::{self, Wait};
use crate::sys::poll::{Interest, PollFd, poll};
use crate::table::Snapshot;
use crate::util::Line;

use super::Lmtp;

/// No phase of a local delivery takes longer: the reference's deliveries end after that time.
const PHASE_MAX: Duration = Duration::from_secs(300);

/// How long the answer to QUIT may hold a worker up.
const QUIT_MAX: Duration = Duration::from_secs(1);

/// How long a child may take to connect, and to be reported when it could not.
const CHILD_TIME: Duration = Duration::from_secs(30);
const END_WAIT: Duration = Duration::from_secs(10);

/// Opens a session for `envelope` and others of the same key.
pub fn open(lmtp: &Lmtp, now: &Snapshot, envelope: &Envelope) -> Result<Session, Settled> {
    let dest = match local_action(now, envelope).map(|action| &action.delivery) {
        Some(Delivery::Lmtp { dest, .. }) => LmtpDest::parse(dest).ok(),
        _ => None,
    };
    let timeouts = Timeouts {
        quit: QUIT_MAX,
        ..Timeouts::default().at_most(PHASE_MAX)
    };
    let us = &now.config.server_name;
    match dest {
        Some(LmtpDest::Host { name, port }) => to_host(lmtp, us, &name, port, timeouts),
        Some(LmtpDest::Socket(_)) => {
            let socket = Socket::connected(by_child(lmtp, envelope)?).map_err(refused)?;
            say_hello(us, socket, us.clone(), timeouts)
        }
        None => Err(Settled::not_started("not an envelope for lmtp")),
    }
}

/// Tries the host's addresses in turn.
fn to_host(
    lmtp: &Lmtp,
    us: &Line,
    name: &str,
    port: u16,
    timeouts: Timeouts,
) -> Result<Session, Settled> {
    let addrs = match name.parse::<IpAddr>() {
        Ok(addr) => vec![addr],
        Err(_) => (lmtp.names.0)(name).map_err(|why| failed(&format!("inet: {why}")))?,
    };
    let mut last = failed("inet: Name or service not known");
    for addr in addrs {
        let to = SocketAddr::new(addr, port);
        let session = Socket::tcp(to, None, timeouts.connect)
            .map_err(refused)
            .and_then(|socket| say_hello(us, socket, Line::sanitize(name.as_bytes()), timeouts));
        match session {
            Ok(session) => return Ok(session),
            Err(settled) => last = settled,
        }
    }
    Err(last)
}

fn say_hello(
    us: &Line,
    socket: Socket,
    name: Line,
    timeouts: Timeouts,
) -> Result<Session, Settled> {
    let hello = Hello {
        timeouts,
        ..Hello::new(Protocol::Lmtp, us.clone())
    };
    let opening = Opening {
        hello,
        name,
        upgrade: None,
        tap: None,
    };
    Session::open(Box::new(socket), opening).map_err(refused)
}

/// No session: whatever the server said, the message may be tried again.
fn refused(failure: SessionError) -> Settled {
    failed(&match failure.reply {
        Some(_) => format!("LMTP server error: {}", failure.text),
        None => format!("connect: {}", failure.text),
    })
}

fn failed(text: &str) -> Settled {
    let quoted = quote_last_line(text.as_bytes()).unwrap_or_default();
    let settled = Settled::not_started(text);
    Settled {
        stat: format!("Error (temporary failure: {quoted})"),
        ..settled
    }
}

/// Has a child that is the recipient connect, and takes its connection over.
fn by_child(lmtp: &Lmtp, envelope: &Envelope) -> Result<OwnedFd, Settled> {
    let Kind::Local(local) = &envelope.kind else {
        return Err(Settled::not_started("not a local envelope"));
    };
    let job = MdaJob {
        action: envelope.action.clone(),
        user: local.user.clone(),
        task: MdaTask::Connection,
    };
    let no_process = |_: io::Error| Settled::not_started("Cannot get mda fd");
    let (ours, theirs) = fdpass::pair().map_err(no_process)?;
    let (output, child_output) = io::pipe().map_err(no_process)?;
    let output = OwnedFd::from(output);
    set_nonblocking(output.as_fd()).map_err(no_process)?;
    let pending = lmtp
        .calls
        .start_mda(job, theirs, child_output.into())
        .map_err(no_process)?;
    match receive(&ours) {
        Some(socket) => Ok(socket),
        None => Err(ended(&pending, output)),
    }
}

/// The connection, unless the child goes without having made one.
fn receive(pair: &OwnedFd) -> Option<OwnedFd> {
    let deadline = Instant::now() + CHILD_TIME;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(&mut [PollFd::new(pair.as_fd(), Interest::Read)], Some(left)) {
            Ok(1..) => {}
            Ok(0) | Err(_) => return None,
        }
        let mut byte = [0; 1];
        match fdpass::receive(pair.as_fd(), &mut byte, Wait::No) {
            Ok(packet) => return packet.fds.into_iter().next(),
            Err(error) if is_transient(&error) => {}
            Err(_) => return None,
        }
    }
}

/// What a child came to that made no connection.
fn ended(pending: &Pending, output: OwnedFd) -> Settled {
    let result = pending.try_wait(END_WAIT).or_else(|| {
        pending.kill();
        pending.try_wait(END_WAIT)
    });
    let mut tail = Tail::default();
    let mut output = File::from(output);
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = output.read(&mut buffer) {
        tail.push(&buffer[..n]);
    }
    match result {
        Some(result) => Settled::of(&result, tail.last_line()),
        None => Settled::temporary("lost the parent process"),
    }
}

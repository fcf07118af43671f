//! A handshake with a client, step by step.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::server::{Accepted, AcceptedAlert, Acceptor};
use rustls::{Error, HandshakeKind, ServerConnection};

use crate::tls::{Facts, Peer, fingerprint, suites};

use super::{Secured, Server};

/// A handshake that is under way. It can be anywhere while it waits, and may be dropped at any
/// time.
pub struct Handshake {
    server: Arc<Server>,
    stage: Stage,
}

enum Stage {
    /// The client has not said all of its first message.
    Hello(Box<Acceptor>),
    /// It has: the answer is to be signed.
    Heard(Box<Accepted>),
    /// The answer is on its way.
    Answered(Box<ServerConnection>),
    /// The client was asked for another key share (RFC 8446 §4.1.4): its second hello, of which
    /// there is some here, is to be answered with a signature.
    Retried(Box<ServerConnection>, Vec<u8>),
    /// Somebody has it who makes the signature, or it has failed.
    Elsewhere,
}

/// What a handshake waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The socket has nothing now.
    Read,
    /// The socket takes nothing now.
    Write,
    /// [`Handshake::sign`] is to be called, where one may wait.
    Sign,
    /// Nothing: take it with [`Handshake::finish`].
    Done,
}

/// Why there is no TLS with a client.
#[derive(Debug)]
pub enum HandshakeError {
    /// The client has hung up.
    HungUp,
    /// The client and we do not agree, or it speaks no TLS.
    Protocol(Error),
    /// It is our fault: a key cannot be had.
    Ours(String),
    Io(io::Error),
}

impl Handshake {
    /// Nothing has been heard yet.
    pub fn new(server: Arc<Server>) -> Handshake {
        Handshake {
            server,
            stage: Stage::Hello(Box::default()),
        }
    }

    /// Goes on until the socket would block, a signature is wanted, or it is done. A client that
    /// is refused is told so, if its socket takes that at once.
    pub fn advance<S: Read + Write>(&mut self, socket: &mut S) -> Result<Step, HandshakeError> {
        loop {
            match &mut self.stage {
                Stage::Hello(acceptor) => {
                    match acceptor.read_tls(socket) {
                        Ok(0) => return Err(HandshakeError::HungUp),
                        Ok(_) => {}
                        Err(error) if would_block(&error) => {
                            return Ok(Step::Read);
                        }
                        Err(error) => return Err(io_failure(error)),
                    }
                    match acceptor.accept() {
                        Ok(Some(accepted)) => {
                            self.stage = Stage::Heard(Box::new(accepted));
                            return Ok(Step::Sign);
                        }
                        Ok(None) => {}
                        Err((error, alert)) => return Err(refused(error, alert, socket)),
                    }
                }
                Stage::Heard(_) => return Ok(Step::Sign),
                Stage::Answered(connection) => {
                    if !flushed(connection, socket)? {
                        return Ok(Step::Write);
                    }
                    if !connection.is_handshaking() {
                        return Ok(Step::Done);
                    }
                    if is_retried(connection) {
                        let mut second = vec![0; CHUNK];
                        match socket.read(&mut second) {
                            Ok(0) => return Err(HandshakeError::HungUp),
                            Ok(length) => {
                                second.truncate(length);
                                return self.retried(second);
                            }
                            Err(error) if would_block(&error) => {
                                return Ok(Step::Read);
                            }
                            Err(error) => return Err(io_failure(error)),
                        }
                    }
                    match connection.read_tls(socket) {
                        Ok(0) => return Err(HandshakeError::HungUp),
                        Ok(_) => {}
                        Err(error) if would_block(&error) => {
                            return Ok(Step::Read);
                        }
                        Err(error) => return Err(io_failure(error)),
                    }
                    if let Err(error) = connection.process_new_packets() {
                        // The alert, as far as it goes.
                        let _ = flushed(connection, socket);
                        return Err(HandshakeError::Protocol(error));
                    }
                }
                Stage::Retried(..) => return Ok(Step::Sign),
                Stage::Elsewhere => return Err(HandshakeError::HungUp),
            }
        }
    }

    fn retried(&mut self, second: Vec<u8>) -> Result<Step, HandshakeError> {
        match std::mem::replace(&mut self.stage, Stage::Elsewhere) {
            Stage::Answered(connection) => {
                self.stage = Stage::Retried(connection, second);
                Ok(Step::Sign)
            }
            _ => Err(HandshakeError::HungUp),
        }
    }

    /// Whether a signature is wanted.
    pub fn wants_signature(&self) -> bool {
        matches!(self.stage, Stage::Heard(_) | Stage::Retried(..))
    }

    /// Makes the signature that [`Step::Sign`] asks for; it may wait for the process that holds the
    /// keys. What the client is to be told of a failure comes with it.
    pub fn sign(&mut self) -> Result<(), (HandshakeError, Vec<u8>)> {
        let mut last_words = Vec::new();
        let result = match std::mem::replace(&mut self.stage, Stage::Elsewhere) {
            Stage::Heard(accepted) => {
                let config = self.server.config();
                let config = config.map_err(|why| (HandshakeError::Ours(why), Vec::new()))?;
                accepted
                    .into_connection(config)
                    .map_err(|(error, alert)| refused(error, alert, &mut last_words))
            }
            Stage::Retried(mut connection, second) => {
                let answered = answer(&mut connection, &second);
                if answered.is_err() {
                    let _ = flushed(&mut connection, &mut last_words);
                }
                answered.map(|()| *connection)
            }
            other => {
                self.stage = other;
                return Ok(());
            }
        };
        match result {
            Ok(mut connection) => {
                connection.set_buffer_limit(Some(BUFFER_LIMIT));
                self.stage = Stage::Answered(Box::new(connection));
                Ok(())
            }
            Err(failure) => Err((failure, last_words)),
        }
    }

    /// The stream, when the handshake is done; `None` before.
    pub fn finish(self) -> Option<Secured> {
        let Stage::Answered(connection) = self.stage else {
            return None;
        };
        (!connection.is_handshaking()).then(|| {
            let facts = facts(&connection);
            Secured::new(connection, facts)
        })
    }
}

/// Most bytes that wait in a connection to be encrypted, or encrypted to be sent.
const BUFFER_LIMIT: usize = 32 * 1024;
const CHUNK: usize = 4096;

/// Whether the client has been asked for another key share and has not sent it.
fn is_retried(connection: &ServerConnection) -> bool {
    connection.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest)
        && connection.negotiated_key_exchange_group().is_none()
}

fn answer(connection: &mut ServerConnection, mut bytes: &[u8]) -> Result<(), HandshakeError> {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).map_err(io_failure)?;
        connection
            .process_new_packets()
            .map_err(HandshakeError::Protocol)?;
    }
    Ok(())
}

/// Sends what there is; false when the socket does not take all of it now.
pub(super) fn flushed<S: Write>(
    connection: &mut ServerConnection,
    socket: &mut S,
) -> Result<bool, HandshakeError> {
    while connection.wants_write() {
        match connection.write_tls(socket) {
            Ok(0) => return Err(HandshakeError::HungUp),
            Ok(_) => {}
            Err(error) if would_block(&error) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(io_failure(error)),
        }
    }
    Ok(true)
}

/// mio over poll(2) says of a socket whose peer has gone that it is not there; waiting for it then
/// ends at once.
fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotFound)
}

fn refused(error: Error, mut alert: AcceptedAlert, socket: &mut dyn Write) -> HandshakeError {
    // Whoever does not listen is not told.
    let _ = alert.write_all(socket);
    HandshakeError::Protocol(error)
}

fn io_failure(error: io::Error) -> HandshakeError {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            HandshakeError::HungUp
        }
        _ => HandshakeError::Io(error),
    }
}

fn facts(connection: &ServerConnection) -> Facts {
    let ciphers = match connection.negotiated_cipher_suite() {
        Some(suite) => suites::described(suite),
        None => String::from("unknown"),
    };
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    Facts {
        ciphers,
        // Clients are asked only where they are verified: one that is here has been.
        peer: leaf.map(|leaf| Peer {
            valid: true,
            fingerprint: fingerprint(leaf),
        }),
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::HungUp => f.write_str("the client hung up during the handshake"),
            HandshakeError::Protocol(error) => write!(f, "{error}"),
            HandshakeError::Ours(why) => f.write_str(why),
            HandshakeError::Io(error) => write!(f, "{error}"),
        }
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handshake")
    }
}

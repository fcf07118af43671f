//! TLS around a client's connection, by the room that knows it.

use std::io::{self, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::tls::Facts;
use crate::tls::client::{self as tls, Connector, Library, TlsError};
use crate::util::Line;

use super::error::NotSecured;
use super::stream::{Secured, Stream, Upgrade};

/// Makes the handshake of one session with one of a connector's libraries.
pub struct Secure {
    connector: Connector,
    name: String,
    library: Library,
    heard: Mutex<Heard>,
}

/// How the handshake went.
#[derive(Default)]
enum Heard {
    #[default]
    Nothing,
    Agreed(Facts),
    /// What may be this library's fault.
    NoCommonGround,
}

impl Secure {
    /// With the connector's first library, for the server called `name`. `None` from a connector
    /// that has none.
    pub fn new(connector: &Connector, name: &str) -> Option<Secure> {
        Some(Secure {
            library: *connector.libraries().first()?,
            connector: connector.clone(),
            name: name.to_owned(),
            heard: Mutex::default(),
        })
    }

    /// What was agreed upon, once there was a handshake.
    pub fn facts(&self) -> Option<Facts> {
        match &*self.heard() {
            Heard::Agreed(facts) => Some(facts.clone()),
            Heard::Nothing | Heard::NoCommonGround => None,
        }
    }

    /// After a handshake that failed for want of common ground, or may have: the next library, with
    /// which a new connection is worth a try.
    pub fn next(&self) -> Option<Secure> {
        if !matches!(*self.heard(), Heard::NoCommonGround) {
            return None;
        }
        let libraries = self.connector.libraries();
        let at = libraries.iter().position(|known| *known == self.library)?;
        Some(Secure {
            library: *libraries.get(at + 1)?,
            connector: self.connector.clone(),
            name: self.name.clone(),
            heard: Mutex::default(),
        })
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upgrade for Secure {
    fn upgrade(&self, plain: Box<dyn Stream>) -> Result<Secured, NotSecured> {
        match self.connector.handshake(self.library, plain, &self.name) {
            Ok(stream) => {
                let facts = stream.facts().clone();
                let ciphers = Line::sanitize(facts.ciphers.as_bytes());
                *self.heard() = Heard::Agreed(facts);
                let stream = Box::new(Wrapped(stream));
                Ok(Secured { stream, ciphers })
            }
            Err(failure) => {
                if let TlsError::NoCommonGround(_) | TlsError::HungUp = failure {
                    *self.heard() = Heard::NoCommonGround;
                }
                Err(NotSecured {
                    text: Line::sanitize(failure.to_string().as_bytes()),
                    lost: matches!(failure, TlsError::HungUp | TlsError::Io(_)),
                })
            }
        }
    }
}

/// TLS over a connection, with the connection's deadlines.
struct Wrapped(tls::Stream<Box<dyn Stream>>);

impl Read for Wrapped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Wrapped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for Wrapped {
    fn set_deadline(&mut self, at: Instant) {
        self.0.below_mut().set_deadline(at);
    }

    fn is_silent(&self) -> bool {
        self.0.below().is_silent()
    }

    fn has_written_all(&self) -> bool {
        self.0.has_written_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::client::Socket;
    use crate::tls::client::{Settings, Verify};
    use crate::tls::{Choice, Trust, Version};

    // smtpd.conf(5), RELAYING: who hangs up or says nothing has not judged what is asked of him.
    #[test]
    fn whoever_goes_or_is_silent_in_the_handshake_is_lost_to_every_library() {
        let settings = Settings {
            verify: Verify::Never,
            trust: Trust::nobody(),
            choice: Choice::default(),
            identity: None,
            oldest: Version::Tls12,
        };
        let connector = Connector::new(&settings).unwrap();
        for (words, hangs_up, is_lost) in [
            ("", true, true),
            ("", false, true),
            ("220 ready when you are\r\n", true, false),
        ] {
            for library in connector.libraries() {
                let secure = Secure {
                    library,
                    ..Secure::new(&connector, "mx.example.org").unwrap()
                };
                let (ours, mut theirs) = UnixStream::pair().unwrap();
                let mut plain = Socket::connected(ours.into()).unwrap();
                let patience = if hangs_up { 120 } else { 0 };
                plain.set_deadline(Instant::now() + Duration::from_secs(patience));
                theirs.write_all(words.as_bytes()).unwrap();
                if hangs_up {
                    theirs.shutdown(std::net::Shutdown::Write).unwrap();
                }
                let failure = secure.upgrade(Box::new(plain)).map(drop).unwrap_err();
                assert_eq!(failure.lost, is_lost, "{library:?} {failure:?}");
                // Another library is for those who may have nothing in common with this one.
                let goes_on = library == Library::Modern && connector.libraries().len() > 1;
                let is_hung_up = words.is_empty() && hangs_up;
                assert_eq!(
                    secure.next().is_some(),
                    goes_on && is_hung_up,
                    "{failure:?}"
                );
            }
        }
    }
}

//! The engine's side: a key that is somewhere else.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use crate::sys::fdpass::{self, Lost, Wait};
use crate::sys::poll::{Interest, PollFd, poll};

use crate::tls::certificate;

use super::{Answer, PACKET_MAX, Question};

/// How long a signature may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often, and how far apart, a process that is not there is looked for: one that has died is
/// started again after a second.
const LOOKS: u32 = 60;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The way to the process that holds the keys. Clones share it.
#[derive(Clone)]
pub struct Keys(Arc<Way>);

struct Way {
    socket: Mutex<Option<OwnedFd>>,
    newer: Box<dyn Fn() -> Option<OwnedFd> + Send + Sync>,
}

impl Keys {
    /// `newer` gives a socket to the process when there is one that it has not given before: the
    /// first one, and after that whenever the process had to be started again.
    pub fn new(newer: impl Fn() -> Option<OwnedFd> + Send + Sync + 'static) -> Keys {
        Keys(Arc::new(Way {
            socket: Mutex::new(None),
            newer: Box::new(newer),
        }))
    }

    /// Asks, and waits a little for a process that is being started again.
    fn ask(&self, question: &Question<'_>) -> io::Result<Answer> {
        for _ in 0..LOOKS {
            match self.try_to_ask(question) {
                Err(error) if is_gone(&error) => std::thread::sleep(BETWEEN_LOOKS),
                answer => return answer,
            }
        }
        Err(io::ErrorKind::NotConnected.into())
    }

    fn try_to_ask(&self, question: &Question<'_>) -> io::Result<Answer> {
        let mut socket = self.0.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newer) = (self.0.newer)() {
            *socket = Some(newer);
        }
        let fd = socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let answer = exchange(fd, question);
        if answer.is_err() {
            // A late answer must not be taken for that to another question.
            *socket = None;
        }
        answer
    }
}

/// Whether nobody has heard the question, or will answer it.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected, UnexpectedEof,
    };

    matches!(
        error.kind(),
        BrokenPipe | ConnectionRefused | ConnectionReset | NotConnected | UnexpectedEof
    )
}

fn exchange(fd: &OwnedFd, question: &Question<'_>) -> io::Result<Answer> {
    fdpass::send(fd.as_fd(), &question.encode(), &[], Wait::Yes)?;
    if poll(
        &mut [PollFd::new(fd.as_fd(), Interest::Read)],
        Some(PATIENCE),
    )? == 0
    {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut buffer = vec![0; PACKET_MAX];
    let received = fdpass::receive(fd.as_fd(), &mut buffer, Wait::Yes)?;
    let packet = buffer.get(..received.length).unwrap_or_default();
    if packet.is_empty() || received.lost == Lost::Bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Answer::decode(packet).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Stands for one key.
#[derive(Clone)]
pub struct Holder {
    name: Arc<str>,
    schemes: Arc<[SignatureScheme]>,
    keys: Keys,
}

impl Holder {
    /// The key of the pki called `name`.
    pub fn find(name: &str, keys: &Keys) -> Result<Holder, String> {
        match keys.ask(&Question::Schemes(name)) {
            Ok(Answer::Schemes(schemes)) if !schemes.is_empty() => Ok(Holder {
                name: name.into(),
                schemes: schemes.into(),
                keys: keys.clone(),
            }),
            Ok(_) => Err(format!("no key for pki {name}")),
            Err(error) => Err(format!("key of pki {name}: {error}")),
        }
    }

    /// A certificate with its chain, in PEM, and this key.
    pub fn certified(self, pem: &[u8]) -> Result<CertifiedKey, String> {
        let chain = certificate::chain(pem)?;
        Ok(CertifiedKey::new(chain, Arc::new(self)))
    }
}

impl SigningKey for Holder {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self
            .schemes
            .iter()
            .find(|scheme| offered.contains(scheme))?;
        Some(Box::new(OneScheme {
            holder: self.clone(),
            scheme,
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        let first = self.schemes.first();
        match first {
            Some(
                SignatureScheme::ECDSA_NISTP256_SHA256
                | SignatureScheme::ECDSA_NISTP384_SHA384
                | SignatureScheme::ECDSA_NISTP521_SHA512,
            ) => SignatureAlgorithm::ECDSA,
            Some(SignatureScheme::ED25519) => SignatureAlgorithm::ED25519,
            _ => SignatureAlgorithm::RSA,
        }
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key of pki {}", self.name)
    }
}

#[derive(Debug)]
struct OneScheme {
    holder: Holder,
    scheme: SignatureScheme,
}

impl Signer for OneScheme {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let question = Question::Sign {
            key: &self.holder.name,
            scheme: self.scheme,
            message,
        };
        match self.holder.keys.ask(&question) {
            Ok(Answer::Signature(signature)) => Ok(signature),
            Ok(_) => Err(Error::General(String::from("the key cannot sign this"))),
            Err(error) => Err(Error::General(format!("keys: {error}"))),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

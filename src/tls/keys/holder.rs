//! The engine's side: a key that is somewhere else.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use crate::sys::fdpass::{self, Lost, Wait};
use crate::sys::poll::{Interest, PollFd, poll};

use crate::tls::certificate;
use crate::util::wire::Wire;

use super::{Answer, LINES_MAX, PACKET_MAX, Question};

/// How long a signature may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often, and how far apart, a process that is not there is looked for: one that has died is
/// started again after a second.
const LOOKS: u32 = 60;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The way to the process that holds the keys. Clones share it.
#[derive(Clone)]
pub struct Keys(Arc<Channel>);

struct Channel {
    lines: Mutex<Lines>,
    /// A line is free again, or there is one less.
    returned: Condvar,
    newer: Box<dyn Fn() -> Option<OwnedFd> + Send + Sync>,
}

/// The sockets to the process. Each carries one question at a time, so that several signatures are
/// under way at once.
#[derive(Default)]
struct Lines {
    /// What the parent has given us: the ends of lines go over it, and no question.
    trunk: Option<OwnedFd>,
    free: Vec<OwnedFd>,
    in_use: usize,
    /// Counts trunks: a line to a process that has gone is not kept.
    trunks: u64,
}

impl Keys {
    /// `newer` gives a socket to the process when there is one that it has not given before: the
    /// first one, and after that whenever the process had to be started again.
    pub fn new(newer: impl Fn() -> Option<OwnedFd> + Send + Sync + 'static) -> Keys {
        Keys(Arc::new(Channel {
            lines: Mutex::default(),
            returned: Condvar::new(),
            newer: Box::new(newer),
        }))
    }

    /// Asks, and waits a little for a process that is being started again.
    fn ask(&self, question: &Question) -> io::Result<Answer> {
        for _ in 0..LOOKS {
            match self.0.try_to_ask(question) {
                Err(error) if is_gone(&error) => std::thread::sleep(BETWEEN_LOOKS),
                answer => return answer,
            }
        }
        Err(io::ErrorKind::NotConnected.into())
    }
}

impl Channel {
    fn try_to_ask(&self, question: &Question) -> io::Result<Answer> {
        let (line, trunk) = self.take_line()?;
        let answer = exchange(&line, question);
        let mut lines = self.lock();
        lines.in_use -= 1;
        match answer {
            Ok(_) if trunk == lines.trunks => lines.free.push(line),
            Ok(_) => {}
            // A late answer must not be taken for that to another question, and the others may
            // have lost their process as well.
            Err(_) => lines.free.clear(),
        }
        drop(lines);
        self.returned.notify_one();
        answer
    }

    /// A line that nobody else uses, and the number of its trunk.
    fn take_line(&self) -> io::Result<(OwnedFd, u64)> {
        let newer = (self.newer)();
        let mut lines = self.lock();
        if let Some(trunk) = newer {
            lines.trunk = Some(trunk);
            lines.trunks += 1;
            lines.free.clear();
        }
        // Whoever has one gives it back within PATIENCE.
        while lines.free.is_empty() && lines.in_use >= LINES_MAX {
            let waited = self.returned.wait(lines);
            lines = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let line = match lines.free.pop() {
            Some(line) => line,
            None => lines.open()?,
        };
        lines.in_use += 1;
        Ok((line, lines.trunks))
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn open(&mut self) -> io::Result<OwnedFd> {
        let trunk = self.trunk.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let (ours, theirs) = fdpass::pair()?;
        let sent = fdpass::send(trunk.as_fd(), b"", &[theirs.as_fd()], Wait::No);
        if sent.is_err() {
            self.trunk = None;
        }
        sent.map(|()| ours)
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

fn exchange(fd: &OwnedFd, question: &Question) -> io::Result<Answer> {
    fdpass::send(fd.as_fd(), &question.to_bytes(), &[], Wait::Yes)?;
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
    Answer::from_bytes(packet).map_err(|_| io::ErrorKind::InvalidData.into())
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
        match keys.ask(&Question::Schemes(name.to_owned())) {
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
            key: self.holder.name.to_string(),
            scheme: self.scheme,
            message: message.to_vec(),
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

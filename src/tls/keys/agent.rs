//! The process that holds the keys.
//!
//! From the parent come keys, each with its name, and sockets to engines; when the parent's wire
//! closes, the process ends. On an engine's socket it answers questions. It trusts the engine with
//! nothing: a packet that is none of ours closes that socket.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::SigningKey;

use crate::log::{self, Target, Writer};
use crate::privsep::keys::{PACKET_MAX as KEY_PACKET_MAX, read_key_packet};
use crate::sys::fdpass::{self, Lost, Wait};
use crate::sys::poll::{Interest, PollFd, poll};
use crate::sys::sandbox::{self, Role};
use crate::sys::{creds, process, signal, title};

use super::{Answer, PACKET_MAX, Question};

/// Engines at a time: one, and one that is going.
const ENGINES_MAX: usize = 4;

fn read(pem: &[u8]) -> Result<Arc<dyn SigningKey>, String> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    rustls::crypto::ring::sign::any_supported_type(&der).map_err(|error| error.to_string())
}

/// The process's `main`: what to exit with. `become` is who it is to be, if we are root.
pub fn main(target: Target, becomes: Option<&creds::Identity>) -> i32 {
    log::start("keys", target, Writer::Caller);
    title::set("smtpd: keys");
    let run = || -> io::Result<()> {
        let wire = process::inherited()?;
        signal::ignore_all()?;
        if let Some(identity) = becomes {
            // A process that changes its user cannot be looked into by others of that user.
            creds::become_for_good(identity)?;
        }
        sandbox::enter(Role::Keys)?;
        serve(wire)
    };
    match run() {
        Ok(()) => 0,
        Err(error) => {
            log::fatal(format_args!("{error}"));
            1
        }
    }
}

fn serve(wire: OwnedFd) -> io::Result<()> {
    let mut keys = BTreeMap::new();
    let mut engines: Vec<OwnedFd> = Vec::new();
    loop {
        let ready = {
            let mut fds = vec![PollFd::new(wire.as_fd(), Interest::Read)];
            let of_engines = engines
                .iter()
                .map(|e| PollFd::new(e.as_fd(), Interest::Read));
            fds.extend(of_engines);
            poll(&mut fds, None)?;
            fds.iter()
                .map(|fd| fd.readable || fd.hangup)
                .collect::<Vec<_>>()
        };
        let mut at = 0;
        engines.retain(|engine| {
            at += 1;
            !ready.get(at).copied().unwrap_or(false) || answer(engine, &keys)
        });
        if ready.first().copied().unwrap_or(false) && !hear_parent(&wire, &mut keys, &mut engines)?
        {
            return Ok(());
        }
    }
}

type Held = BTreeMap<String, Arc<dyn SigningKey>>;

/// False when the parent is gone.
fn hear_parent(wire: &OwnedFd, keys: &mut Held, engines: &mut Vec<OwnedFd>) -> io::Result<bool> {
    let mut buffer = vec![0; KEY_PACKET_MAX];
    let received = fdpass::receive(wire.as_fd(), &mut buffer, Wait::Yes)?;
    if received.length == 0 && received.fds.is_empty() {
        return Ok(false);
    }
    if let Some(engine) = received.fds.into_iter().next() {
        if engines.len() == ENGINES_MAX {
            engines.remove(0);
        }
        engines.push(engine);
        return Ok(true);
    }
    let packet = buffer.get(..received.length).unwrap_or_default();
    let wrong = |_| io::Error::from(io::ErrorKind::InvalidData);
    let (name, pem) = read_key_packet(packet).map_err(wrong)?;
    match read(pem) {
        Ok(key) => {
            keys.insert(name.to_owned(), key);
        }
        Err(why) => log::warn(format_args!("warn: key of pki {name}: {why}")),
    }
    Ok(true)
}

/// Answers one question; false when this engine is to be heard no more.
fn answer(engine: &OwnedFd, keys: &Held) -> bool {
    let mut buffer = vec![0; PACKET_MAX];
    let received = match fdpass::receive(engine.as_fd(), &mut buffer, Wait::Yes) {
        Ok(received) if received.length > 0 && received.lost != Lost::Bytes => received,
        _ => return false,
    };
    let packet = buffer.get(..received.length).unwrap_or_default();
    let Ok(question) = Question::decode(packet) else {
        return false;
    };
    let reply = reply(&question, keys).encode();
    // An engine that asks and does not listen has broken the one rule there is.
    fdpass::send(engine.as_fd(), &reply, &[], Wait::No).is_ok()
}

fn reply(question: &Question<'_>, keys: &Held) -> Answer {
    let no = Answer::No;
    match question {
        Question::Schemes(name) => match keys.get(*name) {
            Some(key) => Answer::Schemes(schemes(key.as_ref())),
            None => no,
        },
        Question::Sign {
            key,
            scheme,
            message,
        } => {
            let signer = keys.get(*key).and_then(|key| key.choose_scheme(&[*scheme]));
            match signer.map(|signer| signer.sign(message)) {
                Some(Ok(signature)) => Answer::Signature(signature),
                _ => no,
            }
        }
    }
}

fn schemes(key: &dyn SigningKey) -> Vec<rustls::SignatureScheme> {
    let provider = rustls::crypto::ring::default_provider();
    let all = provider
        .signature_verification_algorithms
        .supported_schemes();
    all.into_iter()
        .filter(|scheme| key.choose_scheme(&[*scheme]).is_some())
        .collect()
}

/// Keys for tests, held by a thread instead of a process.
#[cfg(test)]
pub(in crate::tls) mod testing {
    use std::sync::Mutex;

    use crate::privsep::keys::key_packet;
    use crate::tls::keys::Keys;

    use super::*;

    /// The thread ends when `parent` is dropped.
    pub struct Served {
        pub parent: OwnedFd,
        pub thread: std::thread::JoinHandle<()>,
        pub keys: Keys,
    }

    pub fn served(pairs: &[(&str, &str)]) -> Served {
        let (parent, wire) = fdpass::pair().unwrap();
        let (engine, theirs) = fdpass::pair().unwrap();
        let thread = std::thread::spawn(move || serve(wire).unwrap());
        for (name, pem) in pairs {
            let packet = key_packet(name, pem.as_bytes());
            fdpass::send(parent.as_fd(), &packet, &[], Wait::Yes).unwrap();
        }
        fdpass::send(parent.as_fd(), b"", &[theirs.as_fd()], Wait::Yes).unwrap();
        drop(theirs);
        let newer = Mutex::new(Some(engine));
        let keys = Keys::new(move || newer.lock().unwrap().take());
        Served {
            parent,
            thread,
            keys,
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

    use super::super::{Holder, Keys};
    use super::*;

    fn held(pem: &str) -> (OwnedFd, std::thread::JoinHandle<()>, Keys) {
        let served = testing::served(&[("mx", pem)]);
        (served.parent, served.thread, served.keys)
    }

    #[test]
    fn the_engine_has_signatures_and_no_key() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let (parent, thread, keys) = held(&pair.serialize_pem());
            let holder = Holder::find("mx", &keys).unwrap();
            assert!(Holder::find("other", &keys).is_err());
            let all = rustls::crypto::ring::default_provider()
                .signature_verification_algorithms
                .supported_schemes();
            let signer = holder.choose_scheme(&all).unwrap();
            assert!(!signer.sign(b"message").unwrap().is_empty());
            assert!(holder.choose_scheme(&[]).is_none());
            drop(parent);
            thread.join().unwrap();
            assert!(signer.sign(b"message").is_err(), "the process is gone");
        }
    }

    #[test]
    fn a_packet_that_is_none_of_ours_ends_the_connection_only() {
        let pair = KeyPair::generate().unwrap();
        let (parent, thread, _keys) = held(&pair.serialize_pem());
        let (engine, theirs) = fdpass::pair().unwrap();
        fdpass::send(parent.as_fd(), b"", &[theirs.as_fd()], Wait::Yes).unwrap();
        drop(theirs);
        fdpass::send(engine.as_fd(), b"\xffnonsense", &[], Wait::Yes).unwrap();
        let mut buffer = [0; 16];
        let end = fdpass::receive(engine.as_fd(), &mut buffer, Wait::Yes);
        assert!(end.is_err() || end.is_ok_and(|received| received.length == 0));
        assert!(!thread.is_finished());
        drop(parent);
        thread.join().unwrap();
    }
}

//! The process that holds the keys.
//!
//! From the parent come keys, each with its name, and sockets to engines; when the parent's wire
//! closes, the process ends. On an engine's sockets it answers questions, each with a thread of its
//! own. It trusts the engine with nothing: a packet that is none of ours closes that socket.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::thread;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::SigningKey;

use crate::log::{self, Target, Writer};
use crate::privsep::keys::{PACKET_MAX as KEY_PACKET_MAX, read_key_packet};
use crate::sys::fdpass::{self, Lost, Wait};
use crate::sys::sandbox::{self, Role};
use crate::sys::{creds, process, signal, title};
use crate::util::wire::Wire;

use super::{Answer, LINES_MAX, PACKET_MAX, Question};

/// Engines at a time: one, and one that is going.
const ENGINES_MAX: usize = 4;

fn read(pem: &[u8]) -> Result<Arc<dyn SigningKey>, String> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    rustls::crypto::ring::sign::any_supported_type(&der).map_err(|error| error.to_string())
}

/// The process's `main`: what to exit with. `becomes` is who it is to be, if we are root, and then
/// `spool` is a directory of root's.
pub fn main(target: Target, becomes: Option<&creds::Identity>, spool: &Path) -> i32 {
    log::start("keys", target, Writer::Caller);
    title::set("smtpd: keys");
    let run = || -> io::Result<()> {
        let wire = process::inherited()?;
        signal::ignore_all()?;
        let mut active = Vec::new();
        if let Some(identity) = becomes {
            if sandbox::empty_root(spool)? {
                active.push("chroot");
            }
            // A process that changes its user cannot be looked into by others of that user.
            creds::become_for_good(identity)?;
        }
        active.extend(sandbox::enter(Role::Keys)?);
        log::info(format_args!(
            "info: keys sandbox: {}",
            sandbox::list(&active)
        ));
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

/// The keys by the names of their pki. Who has them counts those who listen to engines by the weak
/// references: each of these threads has one.
type Held = RwLock<BTreeMap<String, Arc<dyn SigningKey>>>;

fn serve(wire: OwnedFd) -> io::Result<()> {
    let held = Arc::new(Held::default());
    let mut buffer = vec![0; KEY_PACKET_MAX];
    loop {
        let received = fdpass::receive(wire.as_fd(), &mut buffer, Wait::Yes)?;
        match received.fds.into_iter().next() {
            Some(engine) => listen(&held, engine),
            None if received.lost != Lost::Nothing => {
                log::warn(format_args!("keys: too many open files"));
            }
            // The parent is gone.
            None if received.length == 0 => return Ok(()),
            None => learn(&held, buffer.get(..received.length).unwrap_or_default())?,
        }
    }
}

fn learn(held: &Held, packet: &[u8]) -> io::Result<()> {
    let wrong = |_| io::Error::from(io::ErrorKind::InvalidData);
    let (name, pem) = read_key_packet(packet).map_err(wrong)?;
    match read(pem) {
        Ok(key) => {
            let mut held = held.write().unwrap_or_else(PoisonError::into_inner);
            held.insert(name.to_owned(), key);
        }
        Err(why) => log::warn(format_args!("key of pki {name}: {why}")),
    }
    Ok(())
}

/// Answers what comes over this socket until it closes or brings what is none of ours. One that is
/// too much, or that no thread can be had for, is closed: the engine asks again.
fn listen(held: &Arc<Held>, engine: OwnedFd) {
    if Arc::weak_count(held) >= ENGINES_MAX * (LINES_MAX + 1) {
        return;
    }
    let keys = Arc::downgrade(held);
    let answer_all = move || {
        let mut buffer = vec![0; PACKET_MAX];
        while answer(&engine, &keys, &mut buffer) {}
    };
    // Without a thread the socket closes with what was to run on it.
    let _ = thread::Builder::new()
        .name("line".to_owned())
        .spawn(answer_all);
}

/// Answers one question; false when this socket is to be heard no more.
fn answer(engine: &OwnedFd, keys: &Weak<Held>, buffer: &mut [u8]) -> bool {
    let received = match fdpass::receive(engine.as_fd(), buffer, Wait::Yes) {
        Ok(received) if received.lost == Lost::Nothing => received,
        _ => return false,
    };
    let Some(held) = keys.upgrade() else {
        return false;
    };
    if let Some(line) = received.fds.into_iter().next() {
        listen(&held, line);
        return true;
    }
    let packet = buffer.get(..received.length).unwrap_or_default();
    let Ok(question) = Question::from_bytes(packet) else {
        return false;
    };
    let reply = reply(&question, &held).to_bytes();
    // An engine that asks and does not listen has broken the one rule there is.
    fdpass::send(engine.as_fd(), &reply, &[], Wait::No).is_ok()
}

fn reply(question: &Question, keys: &Held) -> Answer {
    let key = |name: &str| {
        let held = keys.read().unwrap_or_else(PoisonError::into_inner);
        held.get(name).cloned()
    };
    match question {
        Question::Schemes(name) => match key(name) {
            Some(key) => Answer::Schemes(schemes(key.as_ref())),
            None => Answer::No,
        },
        Question::Sign {
            key: name,
            scheme,
            message,
        } => {
            let signer = key(name).and_then(|key| key.choose_scheme(&[*scheme]));
            match signer.map(|signer| signer.sign(message)) {
                Some(Ok(signature)) => Answer::Signature(signature),
                _ => Answer::No,
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
            let signer = holder.choose_scheme(&all_schemes()).unwrap();
            assert!(!signer.sign(b"message").unwrap().is_empty());
            assert!(holder.choose_scheme(&[]).is_none());
            drop(parent);
            thread.join().unwrap();
            assert!(signer.sign(b"message").is_err(), "the process is gone");
        }
    }

    #[test]
    fn many_signatures_are_made_at_a_time_and_none_is_mixed_up() {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let (parent, thread, keys) = held(&pair.serialize_pem());
        let public = ring::signature::UnparsedPublicKey::new(
            &ring::signature::ED25519,
            pair.public_key_raw().to_vec(),
        );
        let holder = Holder::find("mx", &keys).unwrap();
        // More than there are lines.
        thread::scope(|scope| {
            for asker in 0..2 * LINES_MAX {
                let (holder, public) = (&holder, &public);
                scope.spawn(move || {
                    let all = [rustls::SignatureScheme::ED25519];
                    let signer = holder.choose_scheme(&all).unwrap();
                    for round in 0..20 {
                        let message = format!("{asker} {round}");
                        let signature = signer.sign(message.as_bytes()).unwrap();
                        public.verify(message.as_bytes(), &signature).unwrap();
                    }
                });
            }
        });
        drop(parent);
        thread.join().unwrap();
    }

    #[test]
    fn a_process_that_was_started_again_is_asked_over_its_own_sockets() {
        let pem = KeyPair::generate().unwrap().serialize_pem();
        let (give, given) = std::sync::mpsc::channel();
        let started = || {
            let (parent, wire) = fdpass::pair().unwrap();
            let thread = thread::spawn(move || serve(wire).unwrap());
            let packet = crate::privsep::keys::key_packet("mx", pem.as_bytes());
            fdpass::send(parent.as_fd(), &packet, &[], Wait::Yes).unwrap();
            let (engine, theirs) = fdpass::pair().unwrap();
            fdpass::send(parent.as_fd(), b"", &[theirs.as_fd()], Wait::Yes).unwrap();
            give.send(engine).unwrap();
            (parent, thread)
        };
        let (first, thread) = started();
        let given = std::sync::Mutex::new(given);
        let keys = Keys::new(move || given.lock().unwrap().try_recv().ok());
        let holder = Holder::find("mx", &keys).unwrap();
        drop(first);
        thread.join().unwrap();
        let (second, thread) = started();
        let signer = holder.choose_scheme(&all_schemes()).unwrap();
        assert!(signer.sign(b"x").is_ok());
        drop(second);
        thread.join().unwrap();
    }

    fn all_schemes() -> Vec<rustls::SignatureScheme> {
        let provider = rustls::crypto::ring::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
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

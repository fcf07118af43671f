//! A mail host that speaks TLS, as a test wants it: with this certificate, at once or by STARTTLS,
//! with these replies.

#![allow(dead_code)]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::wait_for;

/// Who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    /// Its own certificate.
    pub pem: String,
}

/// A certificate and its key.
pub struct Certificate {
    der: CertificateDer<'static>,
    /// What is shown besides it.
    others: Vec<CertificateDer<'static>>,
    key: KeyPair,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        let own = params.self_signed(&key).expect("a certificate");
        Authority {
            pem: own.pem(),
            der: own.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for `name`.
    pub fn certify(&self, name: &str) -> Certificate {
        self.certify_with(name, |_| {})
    }

    /// The same with something changed.
    pub fn certify_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_string()]).expect("parameters");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        Certificate {
            der: signed.der().clone(),
            others: Vec::new(),
            pem: signed.pem(),
            key,
        }
    }
}

impl Certificate {
    /// One that nobody but itself vouches for.
    pub fn self_signed(name: &str) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_string()]).expect("parameters");
        let own = params.self_signed(&key).expect("a certificate");
        Certificate {
            der: own.der().clone(),
            others: Vec::new(),
            pem: own.pem(),
            key,
        }
    }

    /// The same, shown with so many others behind it.
    pub fn followed_by(mut self, count: usize) -> Certificate {
        self.others = vec![self.der.clone(); count];
        self
    }

    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        [std::slice::from_ref(&self.der), &self.others].concat()
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// PKCS #8.
    pub fn key_der(&self) -> Vec<u8> {
        self.key.serialize_der()
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// The reply to a command; an empty one closes the connection.
pub type Script = fn(&str) -> Option<&'static str>;

/// How a host behaves.
pub struct Manner {
    /// What it shows.
    pub certificate: Certificate,
    /// Whose certificates it asks clients for.
    pub clients: Option<CertificateDer<'static>>,
    /// TLS before the first byte.
    pub at_once: bool,
    /// What answers the handshake is no TLS.
    pub broken: bool,
    /// Replies that are not the usual ones. Commands are `EHLO plain` and `EHLO tls` for EHLO,
    /// `334` for an answer to a challenge of AUTH.
    pub script: Script,
}

impl Manner {
    /// STARTTLS and nothing special.
    pub fn with(certificate: Certificate) -> Manner {
        Manner {
            certificate,
            clients: None,
            at_once: false,
            broken: false,
            script: |_| None,
        }
    }

    pub fn script(mut self, script: Script) -> Manner {
        self.script = script;
        self
    }

    pub fn broken(mut self) -> Manner {
        self.broken = true;
        self
    }

    pub fn at_once(mut self) -> Manner {
        self.at_once = true;
        self
    }

    /// Asks every client for a certificate of this authority's.
    pub fn asking(mut self, authority: &Authority) -> Manner {
        self.clients = Some(authority.der.clone());
        self
    }

    fn config(&self) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone()).expect("a root");
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let key = PrivateKeyDer::try_from(self.certificate.key_der()).expect("a key");
        builder
            .with_single_cert(self.certificate.chain(), key)
            .expect("a certificate")
    }
}

/// A mail host.
pub struct TlsHost {
    pub port: u16,
    heard: Arc<Mutex<Vec<String>>>,
}

impl TlsHost {
    pub fn start(manner: Manner) -> TlsHost {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
        let port = listener.local_addr().expect("address").port();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let host = TlsHost {
            port,
            heard: heard.clone(),
        };
        let config = Arc::new(manner.config());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let session = Session {
                    wire: Wire::Plain(stream),
                    heard: heard.clone(),
                    config: (!manner.broken).then(|| config.clone()),
                    script: manner.script,
                };
                let at_once = manner.at_once;
                thread::spawn(move || session.run(at_once));
            }
        });
        host
    }

    /// Everything that was said to it, with `tls: ` or `plain: ` in front: `connected`, commands,
    /// `message`, `certificate` for one that a client has shown, `handshake failed`.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("heard").clone()
    }

    /// Waits until it was said.
    pub fn wait(&self, text: &str) {
        wait_for(
            &format!("the host to hear {text:?}: {:?}", self.heard()),
            || self.has(text),
        );
    }

    /// Whether it was said.
    pub fn has(&self, text: &str) -> bool {
        self.heard().iter().any(|line| line.starts_with(text))
    }

    /// How often it was said.
    pub fn count(&self, text: &str) -> usize {
        self.heard()
            .iter()
            .filter(|line| line.as_str() == text)
            .count()
    }
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
    Gone,
}

impl Wire {
    fn word(&self) -> &'static str {
        match self {
            Wire::Plain(_) | Wire::Gone => "plain",
            Wire::Tls(_) => "tls",
        }
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        let text = text.replace('\n', "\r\n") + "\r\n";
        match self {
            Wire::Plain(stream) => stream.write_all(text.as_bytes()),
            Wire::Tls(stream) => {
                stream.write_all(text.as_bytes())?;
                stream.flush()
            }
            Wire::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// A line without its end, byte by byte: what follows may be another protocol.
    fn hear(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            let n = match self {
                Wire::Plain(stream) => stream.read(&mut byte)?,
                Wire::Tls(stream) => stream.read(&mut byte)?,
                Wire::Gone => 0,
            };
            match (n, byte) {
                (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
                (_, [b'\n']) => break,
                (_, [byte]) => line.push(byte),
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_string())
    }
}

struct Session {
    wire: Wire,
    heard: Arc<Mutex<Vec<String>>>,
    config: Option<Arc<ServerConfig>>,
    script: Script,
}

impl Session {
    fn run(mut self, at_once: bool) {
        self.note("connected");
        if at_once && self.secure().is_err() {
            return;
        }
        // It ends when the client goes.
        let _ = self.talk();
    }

    fn note(&self, what: &str) {
        let line = format!("{}: {what}", self.wire.word());
        self.heard.lock().expect("heard").push(line);
    }

    fn secure(&mut self) -> io::Result<()> {
        let Wire::Plain(mut stream) = std::mem::replace(&mut self.wire, Wire::Gone) else {
            return Ok(());
        };
        let Some(config) = self.config.clone() else {
            let mut hello = [0];
            stream.read_exact(&mut hello)?;
            return stream.write_all(b"554 what is this?\r\n");
        };
        let mut session = ServerConnection::new(config).expect("a session");
        while session.is_handshaking() {
            if let Err(error) = session.complete_io(&mut stream) {
                self.note("handshake failed");
                return Err(error);
            }
        }
        let name = session.server_name().unwrap_or("-").to_string();
        let shown = session.peer_certificates().is_some();
        self.wire = Wire::Tls(Box::new(StreamOwned::new(session, stream)));
        self.note(&format!("name {name}"));
        if shown {
            self.note("certificate");
        }
        Ok(())
    }

    fn talk(&mut self) -> io::Result<()> {
        self.wire.say("220 mx.example.com ESMTP")?;
        loop {
            let line = self.wire.hear()?;
            self.note(&line);
            let (command, usual) = self.usual(&line);
            let reply = (self.script)(&command).unwrap_or(usual);
            if reply.is_empty() {
                return Ok(());
            }
            self.wire.say(reply)?;
            if command == "DATA" && reply.starts_with("354") {
                while self.wire.hear()? != "." {}
                self.note("message");
                self.wire.say("250 2.0.0 taken")?;
            }
            if command == "STARTTLS" && reply.starts_with("220") {
                self.secure()?;
            }
            if command.starts_with("AUTH LOGIN") && reply.starts_with("334") {
                self.log_in()?;
            }
        }
    }

    /// The command by its name for scripts, and the usual reply.
    fn usual(&self, line: &str) -> (String, &'static str) {
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        match (verb, &self.wire) {
            ("EHLO", Wire::Tls(_)) => (
                "EHLO tls".to_string(),
                "250-mx.example.com\n250 AUTH LOGIN PLAIN",
            ),
            ("EHLO", _) => ("EHLO plain".to_string(), "250-mx.example.com\n250 STARTTLS"),
            ("STARTTLS", _) => (line.to_string(), "220 go on"),
            ("AUTH", _) if line == "AUTH LOGIN" => (line.to_string(), "334 VXNlcm5hbWU6"),
            ("AUTH", _) => (line.to_string(), "535 5.7.8 who are you"),
            ("DATA", _) => (line.to_string(), "354 go on"),
            ("QUIT", _) => (line.to_string(), "221 bye"),
            _ => (line.to_string(), "250 ok"),
        }
    }

    fn log_in(&mut self) -> io::Result<()> {
        let user = self.wire.hear()?;
        self.wire.say("334 UGFzc3dvcmQ6")?;
        let password = self.wire.hear()?;
        self.note(&format!("AUTH LOGIN {user} {password}"));
        let reply = (self.script)("334").unwrap_or("535 5.7.8 who are you");
        self.wire.say(reply)
    }
}

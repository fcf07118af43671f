use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
use rustls::crypto::ring::kx_group;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls::{ConnectionTrafficSecrets, ContentType, ProtocolVersion};

use crate::tls::keys::agent::testing;

use super::*;
use crate::tls::fingerprint;

/// One end of a connection in memory that does not block.
#[derive(Default)]
struct Wire {
    coming: VecDeque<u8>,
    going: Vec<u8>,
    closed: bool,
    /// Bytes it gives or takes at a time.
    step: usize,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.coming.is_empty() {
            return if self.closed {
                Ok(0)
            } else {
                Err(ErrorKind::WouldBlock.into())
            };
        }
        let length = buffer.len().min(self.step.max(1));
        self.coming.read(&mut buffer[..length])
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(self.step.max(1));
        self.going.extend_from_slice(&bytes[..length]);
        Ok(length)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Pair {
    pem: String,
    key: String,
    der: CertificateDer<'static>,
}

fn pair(names: &[&str]) -> Pair {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Pair {
        pem: certificate.pem(),
        key: key.serialize_pem(),
        der: certificate.der().clone(),
    }
}

struct Host {
    server: Arc<Server>,
    _parent: OwnedFd,
}

fn host(pairs: &[Pair], change: impl FnOnce(&mut Settings)) -> Host {
    let names: Vec<String> = (0..pairs.len())
        .map(|number| format!("p{number}"))
        .collect();
    let held: Vec<(&str, &str)> = names
        .iter()
        .zip(pairs)
        .map(|(name, pair)| (name.as_str(), pair.key.as_str()))
        .collect();
    let served = testing::served(&held);
    let shown = names.iter().zip(pairs).map(|(name, pair)| Shown {
        pki: name.clone(),
        pem: Arc::from(pair.pem.as_bytes()),
    });
    let mut settings = Settings {
        choice: Choice::default(),
        clients: None,
        certificates: shown.collect(),
        keys: served.keys,
    };
    change(&mut settings);
    Host {
        server: Arc::new(Server::new(settings).unwrap()),
        _parent: served.parent,
    }
}

/// A client that takes every certificate in `roots`.
fn client_config(roots: &[&Pair]) -> ClientConfig {
    let mut store = RootCertStore::empty();
    for pair in roots {
        store.add(pair.der.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth()
}

fn client(config: &Arc<ClientConfig>, name: &str) -> ClientConnection {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    ClientConnection::new(config.clone(), name).unwrap()
}

fn to_server(client: &mut ClientConnection, wire: &mut Wire) {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    wire.coming.extend(bytes);
}

fn to_client(client: &mut ClientConnection, wire: &mut Wire) -> Result<(), rustls::Error> {
    let bytes = std::mem::take(&mut wire.going);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        client.read_tls(&mut rest).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

/// Both sides until the handshake is done; says how many signatures were made, too.
fn shake(
    host: &Host,
    client: &mut ClientConnection,
    wire: &mut Wire,
) -> Result<(Secured, usize), String> {
    let mut handshake = Handshake::new(host.server.clone());
    let mut signatures = 0;
    for _ in 0..100_000 {
        to_server(client, wire);
        match handshake.advance(wire).map_err(|error| error.to_string())? {
            Step::Sign => {
                assert!(handshake.wants_signature());
                signatures += 1;
                handshake.sign().map_err(|(error, _)| error.to_string())?;
            }
            Step::Done => {
                to_client(client, wire).map_err(|error| error.to_string())?;
                return Ok((handshake.finish().unwrap(), signatures));
            }
            Step::Read | Step::Write => {
                to_client(client, wire).map_err(|error| error.to_string())?;
            }
        }
    }
    panic!("a handshake without an end");
}

fn wire(step: usize) -> Wire {
    Wire {
        step,
        ..Wire::default()
    }
}

const WHOLE: usize = usize::MAX;

fn said(secured: &mut Secured, wire: &mut Wire) -> Vec<u8> {
    let mut said = Vec::new();
    let mut buffer = [0; 100];
    loop {
        match secured.read(wire, &mut buffer) {
            Ok(0) => return said,
            Ok(length) => said.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return said,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_client_is_spoken_to_however_its_bytes_come() {
    let pairs = [pair(&["mx.example.org"])];
    let host = host(&pairs, |_| ());
    let mut config = client_config(&[&pairs[0]]);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        config = ClientConfig::builder_with_provider(config.crypto_provider().clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates({
                let mut store = RootCertStore::empty();
                store.add(pairs[0].der.clone()).unwrap();
                store
            })
            .with_no_client_auth();
        let config = Arc::new(config.clone());
        for step in [1, 7, WHOLE] {
            let (mut client, mut wire) = (client(&config, "mx.example.org"), wire(step));
            let (mut secured, _) = shake(&host, &mut client, &mut wire).unwrap();
            let ciphers = &secured.facts().ciphers;
            assert!(
                ciphers.ends_with(":256") || ciphers.ends_with(":128"),
                "{ciphers}"
            );
            assert_eq!(secured.facts().peer, None);
            client.writer().write_all(b"EHLO there\r\n").unwrap();
            to_server(&mut client, &mut wire);
            assert_eq!(said(&mut secured, &mut wire), b"EHLO there\r\n");
            assert_eq!(secured.write(&mut wire, b"250 hello\r\n").unwrap(), 11);
            assert!(!secured.wants_write());
            to_client(&mut client, &mut wire).unwrap();
            let mut answer = [0; 11];
            client.reader().read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"250 hello\r\n");
            secured.finish(&mut wire);
            to_client(&mut client, &mut wire).unwrap();
            assert_eq!(
                client.reader().read(&mut answer).unwrap(),
                0,
                "close_notify"
            );
        }
    }
}

/// Records of a client that hold padding and no data (RFC 8446 §5.4), which no library sends.
fn records_without_data(client: ClientConnection, count: u64) -> Vec<u8> {
    let suite = client.negotiated_cipher_suite().unwrap().tls13().unwrap();
    let (number, secrets) = client.dangerous_extract_secrets().unwrap().tx;
    let (key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
        _ => panic!("an unknown cipher"),
    };
    let mut encrypter = suite.aead_alg.encrypter(key, iv);
    // The last byte that is not 0 is the type, the encrypter's own one is more padding.
    let mut padded = vec![0; 16 * 1024];
    padded[0] = u8::from(ContentType::ApplicationData);
    let record = |number| {
        let message = OutboundPlainMessage {
            typ: ContentType::Unknown(0),
            version: ProtocolVersion::TLSv1_3,
            payload: OutboundChunks::Single(&padded),
        };
        encrypter.encrypt(message, number).unwrap().encode()
    };
    (number..number + count).flat_map(record).collect()
}

#[test]
fn a_client_that_sends_nothing_but_padding_is_not_read_for_ever() {
    let pairs = [pair(&["mx.example.org"])];
    let host = host(&pairs, |_| ());
    let mut config = client_config(&[&pairs[0]]);
    config.enable_secret_extraction = true;
    let config = Arc::new(config);
    let read = |count, step| {
        let (mut client, mut wire) = (client(&config, "mx.example.org"), wire(step));
        let (mut secured, _) = shake(&host, &mut client, &mut wire).unwrap();
        wire.coming.extend(records_without_data(client, count));
        secured.read(&mut wire, &mut [0; 100]).unwrap_err()
    };
    for step in [1, WHOLE] {
        // A few are no fault: what comes next is waited for.
        assert_eq!(read(3, step).kind(), ErrorKind::WouldBlock);
        let error = read(20, step);
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(error.to_string(), "tls: too many records without data");
    }
}

// smtpd.conf(5), pki on a listener: the first is the default, others are chosen by name.
#[test]
fn the_certificate_is_that_of_the_name_that_is_asked_for() {
    let pairs = [
        pair(&["mx.example.org", "www.example.com"]),
        pair(&["imap.example.org"]),
        pair(&["*.example.com"]),
    ];
    let host = host(&pairs, |_| ());
    for (name, shown) in [
        ("mx.example.org", Some(0)),
        ("imap.example.org", Some(1)),
        ("IMAP.example.org", Some(1)),
        ("smtp.example.com", Some(2)),
        ("www.example.com", Some(2)),
        ("a.b.example.com", None),
        ("example.com", None),
        ("192.0.2.1", None),
    ] {
        let all: Vec<&Pair> = pairs.iter().collect();
        let config = Arc::new(client_config(&all));
        let (mut client, mut wire) = (client(&config, name), wire(WHOLE));
        match shown {
            Some(number) => {
                shake(&host, &mut client, &mut wire).unwrap();
                let leaf = &client.peer_certificates().unwrap()[0];
                assert_eq!(*leaf, pairs[number].der, "{name}");
            }
            // Somebody unknown is shown the default, which is not what this client wants.
            None => {
                let error = shake(&host, &mut client, &mut wire)
                    .map(|_| ())
                    .unwrap_err();
                assert!(error.contains("not valid for name"), "{name}: {error}");
            }
        }
    }
}

#[test]
fn another_key_share_is_asked_for_and_the_second_hello_signed() {
    let pairs = [pair(&["mx.example.org"])];
    let host = host(&pairs, |_| ());
    // A group that we do not have comes first, so the client has to try again.
    #[derive(Debug)]
    struct Strange;
    impl rustls::crypto::SupportedKxGroup for Strange {
        fn start(&self) -> Result<Box<dyn rustls::crypto::ActiveKeyExchange>, rustls::Error> {
            struct Share(Box<dyn rustls::crypto::ActiveKeyExchange>);
            impl rustls::crypto::ActiveKeyExchange for Share {
                fn complete(
                    self: Box<Self>,
                    share: &[u8],
                ) -> Result<rustls::crypto::SharedSecret, rustls::Error> {
                    self.0.complete(share)
                }
                fn pub_key(&self) -> &[u8] {
                    self.0.pub_key()
                }
                fn group(&self) -> rustls::NamedGroup {
                    rustls::NamedGroup::X448
                }
            }
            Ok(Box::new(Share(kx_group::X25519.start()?)))
        }
        fn name(&self) -> rustls::NamedGroup {
            rustls::NamedGroup::X448
        }
    }
    let provider = CryptoProvider {
        kx_groups: vec![&Strange, kx_group::SECP384R1],
        ..rustls::crypto::ring::default_provider()
    };
    let mut store = RootCertStore::empty();
    store.add(pairs[0].der.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    // A client remembers which group was wanted.
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    for step in [1, 50, WHOLE] {
        let (mut client, mut wire) = (client(&config, "mx.example.org"), wire(step));
        let (_, signatures) = shake(&host, &mut client, &mut wire).unwrap();
        assert!(signatures >= 2, "both hellos are answered elsewhere");
    }
}

#[test]
fn a_session_is_resumed_by_its_ticket() {
    let pairs = [pair(&["mx.example.org"])];
    let host = host(&pairs, |_| ());
    let config = Arc::new(client_config(&[&pairs[0]]));
    let kinds: Vec<_> = (0..2)
        .map(|_| {
            let (mut client, mut wire) = (client(&config, "mx.example.org"), wire(WHOLE));
            let (mut secured, _) = shake(&host, &mut client, &mut wire).unwrap();
            secured.write(&mut wire, b"220 \r\n").unwrap();
            to_client(&mut client, &mut wire).unwrap();
            client.handshake_kind().unwrap()
        })
        .collect();
    use rustls::HandshakeKind::{Full, Resumed};
    assert_eq!(kinds, [Full, Resumed]);
}

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "authority");
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

// smtpd.conf(5), tls-require verify and smtps verify.
#[test]
fn a_client_without_a_valid_certificate_is_refused_where_one_is_asked_for() {
    let (issuer, ca) = authority();
    let (stranger, _) = authority();
    let pairs = [pair(&["mx.example.org"])];
    let host = host(&pairs, |settings| {
        settings.clients = Some(Trust::from_pem(ca.as_bytes()).unwrap());
    });
    let with = |issuer: &Issuer<'_, KeyPair>| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["client.example.org".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (leaf.der().clone(), key)
    };
    let connect = |certificate: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>| {
        let mut store = RootCertStore::empty();
        store.add(pairs[0].der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(store);
        let config = match certificate {
            Some((leaf, key)) => builder.with_client_auth_cert(vec![leaf], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let (mut client, mut wire) = (client(&Arc::new(config), "mx.example.org"), wire(WHOLE));
        shake(&host, &mut client, &mut wire).map(|(secured, _)| secured.facts().clone())
    };
    let (leaf, key) = with(&issuer);
    let facts = connect(Some((leaf.clone(), key))).unwrap();
    let peer = facts.peer.unwrap();
    assert!(peer.valid && peer.fingerprint == fingerprint(&leaf));
    assert!(connect(Some(with(&stranger))).is_err());
    assert!(connect(None).is_err());
}

#[test]
fn what_is_no_handshake_ends_it_at_once_and_never_panics() {
    let pairs = [pair(&["mx.example.org"])];
    let host = host(&pairs, |_| ());
    let config = Arc::new(client_config(&[&pairs[0]]));
    let mut dice = crate::util::dice::Dice::new(11);
    let hello = {
        let (mut client, mut wire) = (client(&config, "mx.example.org"), wire(WHOLE));
        to_server(&mut client, &mut wire);
        Vec::from(wire.coming)
    };
    let attempt = |bytes: &[u8]| {
        let mut wire = wire(WHOLE);
        wire.coming.extend(bytes);
        wire.closed = true;
        let mut handshake = Handshake::new(host.server.clone());
        loop {
            match handshake.advance(&mut wire) {
                Ok(Step::Sign) => {
                    if let Err((failure, _)) = handshake.sign() {
                        return failure;
                    }
                }
                Ok(step) => panic!("{step:?} of a closed connection"),
                Err(failure) => return failure,
            }
        }
    };
    // Cut at every byte.
    for cut in 0..=hello.len() {
        assert!(
            matches!(attempt(&hello[..cut]), HandshakeError::HungUp),
            "{cut}"
        );
    }
    assert!(matches!(
        attempt(b"EHLO there\r\nQUIT\r\n"),
        HandshakeError::Protocol(_)
    ));
    for _ in 0..2000 {
        let mut bytes = hello.clone();
        for _ in 0..1 + dice.roll(4) {
            let at = dice.roll(bytes.len());
            bytes[at] = dice.roll(256) as u8;
        }
        attempt(&bytes);
    }
}

#[test]
fn a_handshake_fails_while_nobody_holds_the_key_and_works_when_somebody_does() {
    let pairs = [pair(&["mx.example.org"])];
    let served = testing::served(&[("p0", &pairs[0].key)]);
    let missing = Arc::new(
        Server::new(Settings {
            choice: Choice::default(),
            clients: None,
            certificates: vec![Shown {
                pki: "another".to_owned(),
                pem: Arc::from(pairs[0].pem.as_bytes()),
            }],
            keys: served.keys,
        })
        .unwrap(),
    );
    let host = Host {
        server: missing,
        _parent: served.parent,
    };
    let config = Arc::new(client_config(&[&pairs[0]]));
    let (mut client, mut wire) = (client(&config, "mx.example.org"), wire(WHOLE));
    let error = shake(&host, &mut client, &mut wire)
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error, "no key for pki another");
}

// smtpd.conf(5), protocols on a listener.
#[test]
fn old_versions_are_not_for_listeners() {
    let settings = |protocols: &str| Settings {
        choice: Choice::parse(Some(protocols), None).unwrap(),
        clients: None,
        certificates: Vec::new(),
        keys: Keys::new(|| None),
    };
    assert!(Server::new(settings("tlsv1.3")).is_ok());
    assert!(Server::new(settings("all")).is_ok());
    if cfg!(feature = "legacy-tls") {
        let why = Server::new(settings("tlsv1.1")).unwrap_err();
        assert!(why.contains("1.2 and 1.3 only"), "{why}");
    }
}

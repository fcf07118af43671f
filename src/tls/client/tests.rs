use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

use super::*;

/// An authority, and a certificate that it gave to `name`.
struct Ca {
    pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn ca(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // An issuer with its subject's name would be taken for the subject itself.
    params
        .distinguished_name
        .push(DnType::CommonName, "authority");
    let pem = params.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    change(&mut params);
    let leaf = params.signed_by(&key, &issuer).unwrap();
    Ca {
        pem,
        chain: vec![leaf.der().clone()],
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}

/// A server that answers one connection: it sends back what it is sent, until the end.
fn server(ca: &Ca, versions: &[&'static SupportedProtocolVersion]) -> (TcpStream, JoinHandle<()>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(ca.chain.clone(), ca.key.clone_key())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    let thread = std::thread::spawn(move || {
        let session = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = StreamOwned::new(session, socket);
        let mut buf = [0; 512];
        while let Ok(n @ 1..) = stream.read(&mut buf) {
            if stream
                .write_all(&buf[..n])
                .and_then(|()| stream.flush())
                .is_err()
            {
                break;
            }
        }
    });
    (client, thread)
}

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

fn settings(verify: Verify, ca: &Ca) -> Settings {
    Settings {
        verify,
        trust: Trust::from_pem(ca.pem.as_bytes()).unwrap(),
        choice: Choice::default(),
        identity: None,
        oldest: Version::Tls12,
    }
}

fn shake(
    settings: &Settings,
    stream: TcpStream,
    name: &str,
) -> Result<Stream<TcpStream>, TlsError> {
    let connector = Connector::new(settings).unwrap();
    connector.handshake(Library::Modern, stream, name)
}

fn speaks(stream: &mut Stream<TcpStream>) {
    stream.write_all(b"EHLO mail.example.org\r\n").unwrap();
    stream.flush().unwrap();
    let mut buf = [0; 23];
    stream.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"EHLO mail.example.org\r\n");
}

#[test]
fn a_peer_that_proves_its_name_is_spoken_to() {
    // smtpd.conf(5), relay tls: the certificate is verified.
    let ca = ca("mx.example.org", |_| ());
    for (versions, says) in [
        (BOTH, "TLSv1.3:TLS_AES_256_GCM_SHA384:256"),
        (&BOTH[1..], "TLSv1.2:ECDHE-ECDSA-AES256-GCM-SHA384:256"),
    ] {
        let (client, thread) = server(&ca, versions);
        let mut stream = shake(&settings(Verify::Always, &ca), client, "mx.example.org").unwrap();
        assert_eq!(stream.facts().ciphers, says);
        let peer = stream.facts().peer.clone().unwrap();
        assert!(peer.valid);
        assert_eq!(peer.fingerprint.len(), "SHA256:".len() + 64);
        speaks(&mut stream);
        drop(stream);
        thread.join().unwrap();
    }
}

#[test]
fn a_peer_that_cannot_prove_its_name_is_not() {
    // smtpd.conf(5), relay tls: what does not verify is refused; no-verify takes it.
    let right = ca("mx.example.org", |_| ());
    let expired = ca("mx.example.org", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let cases = [
        (&right, &right, "mx.example.com"),
        (&expired, &expired, "mx.example.org"),
        (&right, &right, "192.0.2.1"),
        (&right, &right, "[IPv6:2001:db8::1]"),
    ];
    for (shown, trusted, name) in cases {
        let (client, thread) = server(shown, BOTH);
        let failure = shake(&settings(Verify::Always, trusted), client, name).unwrap_err();
        assert!(
            matches!(failure, TlsError::Certificate(_)),
            "{name}: {failure:?}"
        );
        thread.join().unwrap();

        let (client, thread) = server(shown, BOTH);
        let mut stream = shake(&settings(Verify::Never, trusted), client, name).unwrap();
        assert!(!stream.facts().peer.as_ref().unwrap().valid, "{name}");
        speaks(&mut stream);
        drop(stream);
        thread.join().unwrap();
    }
}

#[test]
fn a_signature_that_is_not_right_is_believed_by_neither_library() {
    // To rustls one by another authority of this name looks like one that it cannot check.
    let (right, other) = (ca("mx.example.org", |_| ()), ca("mx.example.org", |_| ()));
    let connector = Connector::new(&settings(Verify::Always, &right)).unwrap();
    for library in connector.libraries() {
        let (client, thread) = server(&other, BOTH);
        let failure = connector
            .handshake(library, client, "mx.example.org")
            .unwrap_err();
        if library == Library::Modern {
            let TlsError::NoCommonGround(_) = failure else {
                panic!("{failure:?}");
            };
        }
        thread.join().unwrap();
    }
}

/// A certificate that its owner has signed, as openssl(1) makes it: one of an authority.
fn own(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let certificate = params.self_signed(&key).unwrap();
    Ca {
        pem: certificate.pem(),
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}

#[test]
fn a_certificate_that_is_itself_trusted_is_good_for_its_name_and_time() {
    // smtpd.conf(5), relay ca: the file holds the peer's own certificate.
    let pinned = own("mx.example.org", |_| ());
    let other = own("mx.example.org", |_| ());
    let expired = own("mx.example.org", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let plain = own("mx.example.org", |params| params.is_ca = IsCa::NoCa);
    for (shown, trusted, name, good) in [
        (&pinned, &pinned, "mx.example.org", true),
        (&plain, &plain, "mx.example.org", true),
        (&pinned, &pinned, "mx.example.com", false),
        (&other, &pinned, "mx.example.org", false),
        (&expired, &expired, "mx.example.org", false),
    ] {
        for versions in [BOTH, &BOTH[1..]] {
            let (client, thread) = server(shown, versions);
            match shake(&settings(Verify::Always, trusted), client, name) {
                Ok(mut stream) => {
                    assert!(good && stream.facts().peer.as_ref().unwrap().valid);
                    speaks(&mut stream);
                }
                Err(_) => assert!(!good, "{name}"),
            }
            thread.join().unwrap();
        }
    }
}

#[test]
fn an_opportunistic_stream_says_when_the_certificate_is_good() {
    let ca = ca("mx.example.org", |_| ());
    let (client, thread) = server(&ca, BOTH);
    let stream = shake(&settings(Verify::Never, &ca), client, "mx.example.org").unwrap();
    assert!(stream.facts().peer.as_ref().unwrap().valid);
    drop(stream);
    thread.join().unwrap();
}

#[test]
fn no_version_in_common_is_for_the_other_library() {
    let ca = ca("mx.example.org", |_| ());
    let (client, thread) = server(&ca, &BOTH[1..]);
    let mut settings = settings(Verify::Never, &ca);
    settings.choice = Choice::parse(Some("tlsv1.3"), None).unwrap();
    let failure = shake(&settings, client, "mx.example.org").unwrap_err();
    assert!(
        matches!(failure, TlsError::NoCommonGround(_)),
        "{failure:?}"
    );
    thread.join().unwrap();
}

#[test]
fn what_is_no_tls_is_an_error() {
    let ca = ca("mx.example.org", |_| ());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    socket.write_all(b"220 ready when you are\r\n").unwrap();
    let failure = shake(&settings(Verify::Never, &ca), client, "mx.example.org").unwrap_err();
    assert!(matches!(failure, TlsError::Protocol(_)), "{failure:?}");
}

#[test]
fn a_peer_that_hangs_up_may_like_the_other_library_better() {
    let ca = ca("mx.example.org", |_| ());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop(listener.accept().unwrap());
    let failure = shake(&settings(Verify::Never, &ca), client, "mx.example.org").unwrap_err();
    assert!(matches!(failure, TlsError::HungUp), "{failure:?}");
}

#[cfg(feature = "legacy-tls")]
#[test]
fn the_systems_library_speaks_too() {
    let ca = ca("mx.example.org", |_| ());
    for verify in [Verify::Always, Verify::Never] {
        let (client, thread) = server(&ca, BOTH);
        let connector = Connector::new(&settings(verify, &ca)).unwrap();
        assert_eq!(connector.libraries(), [Library::Modern, Library::Legacy]);
        let mut stream = connector
            .handshake(Library::Legacy, client, "mx.example.org")
            .unwrap();
        assert!(stream.facts().peer.is_some());
        speaks(&mut stream);
        drop(stream);
        thread.join().unwrap();
    }
    let (client, thread) = server(&ca, BOTH);
    let connector = Connector::new(&settings(Verify::Always, &ca)).unwrap();
    assert!(
        connector
            .handshake(Library::Legacy, client, "mx.example.com")
            .is_err()
    );
    thread.join().unwrap();
}

#[test]
fn what_was_taken_and_did_not_leave_is_known() {
    // TLS takes bytes that the connection does not, and tells of the error at the next call.
    let ca = ca("mx.example.org", |_| ());
    let (client, thread) = server(&ca, BOTH);
    let below = client.try_clone().unwrap();
    let mut stream = shake(&settings(Verify::Always, &ca), client, "mx.example.org").unwrap();
    speaks(&mut stream);
    assert!(stream.has_written_all());
    below.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(stream.write(b"the end\r\n.\r\n").unwrap(), 12);
    assert!(!stream.has_written_all());
    assert!(stream.flush().is_err());
    drop(stream);
    thread.join().unwrap();
}

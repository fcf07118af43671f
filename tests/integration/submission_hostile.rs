//! smtpd.conf(5), listen on: clients of a submission port that hang up, or send what nobody can
//! digest; with real processes.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection};
use tempfile::TempDir;

use crate::dice::Dice;
use crate::support::tls_client::{self, TlsClient};
use crate::support::tls_host::{Authority, Certificate};
use crate::support::{Instance, Setup, wait_for};

/// A filter that lets everything pass, but has to be asked.
const FILTER: &str = r#"#!/bin/sh
while read -r line; do [ "$line" = "config|ready" ] && break; done
for phase in connect ehlo mail-from rcpt-to data data-line commit; do
	echo "register|filter|smtp-in|$phase"
done
echo "register|ready"
while IFS= read -r line; do
	IFS='|' read -r f v t s phase session token rest <<END
$line
END
	case $phase in
	data-line) echo "filter-dataline|$session|$token|${line#filter|*|*|*|*|*|*|}" ;;
	*) echo "filter-result|$session|$token|proceed" ;;
	esac
done
"#;

/// "secret", by bcrypt with few rounds.
const HASH: &str = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";

const CONFIG: &str = "pki p cert \"$dir/p.crt\" key \"$dir/p.key\"\n\
    ca all cert \"$dir/ca.pem\"\n\
    table creds file:$dir/creds\n\
    table who { \"ann\" = \"ann@example.org\" }\n\
    table names { \"127.0.0.1\" = \"mx.example.org\" }\n\
    smtp limit max-auth-failures 10000\n\
    filter slow proc-exec \"$dir/filter\"\n\
    listen on 127.0.0.1 port $port tls pki p auth-optional <creds> senders <who> masquerade \
        hostnames <names> filter slow\n\
    listen on 127.0.0.2 port $port smtps verify pki p ca all\n\
    action \"in\" maildir \"$dir/mail\" virtual $all\n\
    match from any for any action \"in\"\n";

fn daemon() -> (Instance, Authority) {
    let authority = Authority::new();
    let dir = TempDir::new().expect("a temporary directory");
    let pair = authority.certify("mx.example.org");
    for (name, text, mode) in [
        ("p.crt", pair.pem.clone(), 0o644),
        ("p.key", pair.key_pem(), 0o600),
        ("ca.pem", authority.pem.clone(), 0o644),
        ("creds", format!("ann {HASH}\n"), 0o644),
        ("filter", FILTER.to_owned(), 0o755),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, text).expect(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    (Setup::new(CONFIG).start_in(dir), authority)
}

/// Sockets to the process that holds the keys, which are kept for the next handshakes, and what comes
/// and goes.
const KEPT: usize = 8;

/// How many sessions there are, as `smtpctl show stats` counts them.
fn sessions(daemon: &Instance) -> u64 {
    let output = daemon.ctl(["show", "stats"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("smtp.session="));
    line.map_or(0, |count| count.parse().expect("a number"))
}

#[test]
fn hanging_up_at_any_byte_of_a_submission_leaves_nothing() {
    // A client that goes while something is outstanding (its password, its sender, a filter, a
    // recipient, the disk) costs nothing.
    let (daemon, _) = daemon();
    let engine = daemon.engine_pid();
    let descriptors = || fs::read_dir(format!("/proc/{engine}/fd")).map_or(0, |dir| dir.count());
    let address = ([127, 0, 0, 1], daemon.port).into();
    drop(TlsClient::starttls(address));
    wait_for("the first session to end", || sessions(&daemon) == 0);
    let before = descriptors();
    let encode = |text: &str| STANDARD.encode(text);
    let dialogue = format!(
        "AUTH PLAIN {}\r\nAUTH LOGIN\r\n{}\r\n{}\r\nMAIL FROM:<ann@example.org>\r\n\
         RCPT TO:<x@example.org>\r\nDATA\r\nFrom: ann\r\nSubject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n",
        encode("\0ann\0wrong"),
        encode("ann"),
        encode("secret"),
    );
    let dialogue = dialogue.as_bytes();
    let next = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        for seed in 0..8 {
            let next = &next;
            scope.spawn(move || {
                let mut dice = Dice::new(seed);
                loop {
                    let cut = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if cut > dialogue.len() {
                        return;
                    }
                    let mut client = TlsClient::starttls(address);
                    client.send(&dialogue[..cut]);
                    // Some hear that the first password is wrong.
                    if cut > 60 && dice.roll(4) == 0 {
                        assert!(client.reply().starts_with("535 "));
                    }
                }
            });
        }
    });
    wait_for("all sessions to end", || sessions(&daemon) == 0);
    if cfg!(target_os = "linux") {
        wait_for("descriptors to be closed", || {
            descriptors() <= before + KEPT
        });
    }
    assert_eq!(daemon.engine_pid(), engine);
    // In clear text, and where nobody says a word.
    for cut in 0..30 {
        let mut stream = TcpStream::connect(address).expect("connect");
        let _ = stream.write_all(&b"EHLO c.example.net\r\nSTARTTLS\r\n"[..cut]);
        if cut % 2 == 0 {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    wait_for("all sessions to end", || sessions(&daemon) == 0);
    daemon.wait_settled();
    let had = daemon.maildir("mail").len();
    let mut client = TlsClient::starttls(address);
    client.ask(&format!("AUTH PLAIN {}", encode("\0ann\0secret")));
    let reply = client.mail("ann@example.org", "x@example.org", "From: ann\n\nx\n");
    assert!(reply.starts_with("250 "), "{reply}");
    daemon.wait_mail(had + 1);
}

/// A client that shows this certificate again and again, up to so many bytes.
fn long_chain(own: &Certificate, bytes: usize) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![own.der().clone(); bytes / own.der().len() + 1];
    let key = PrivateKeyDer::try_from(own.key_der()).expect("a key");
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(tls_client::Anybody))
        .with_client_auth_cert(chain, key)
        .expect("a pair");
    Arc::new(config)
}

#[test]
fn a_chain_of_certificates_without_end_is_refused() {
    // smtpd.conf(5), smtps verify: 1 MiB of certificates is more than a handshake may have.
    let (daemon, authority) = daemon();
    let friend = authority.certify("friend.example.net");
    let address: std::net::SocketAddr = ([127, 0, 0, 2], daemon.port).into();
    for bytes in [1 << 20, 60_000, 1 << 20] {
        let config = long_chain(&friend, bytes);
        let name = ServerName::try_from("mx.example.org").expect("a name");
        let mut session = ClientConnection::new(config, name).expect("a session");
        let mut stream = TcpStream::connect(address).expect("connect");
        stream
            .set_read_timeout(Some(crate::support::PATIENCE))
            .expect("a time-out");
        let mut met = Ok(());
        while session.is_handshaking() && met.is_ok() {
            met = session.complete_io(&mut stream).map(drop);
        }
        if bytes > 100_000 {
            // The client may be through with its part; then it hears of it now.
            let mut banner = [0; 4];
            let heard = rustls::Stream::new(&mut session, &mut stream).read(&mut banner);
            assert!(!matches!(heard, Ok(4)), "{banner:?}");
        }
    }
    let client = TlsClient::connect(address);
    let client = client.secure(&tls_client::config(Some(&friend)), "mx.example.org");
    assert!(client.expect("TLS").reply().starts_with("220 "));
    wait_for("all sessions to end", || sessions(&daemon) == 0);
}

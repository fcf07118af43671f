//! smtpctl(8), reload, with other certificates and private keys.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use crate::install::Started;
use crate::support::tls_client::TlsClient;
use crate::support::tls_host::{Authority, Certificate};
use crate::support::{Instance, Setup, processes, run, wait_for};

const CONFIG: &str = "pki p cert \"$dir/p.crt\" key \"$dir/p.key\"\n\
                      listen on 127.0.0.1 port $port tls pki p\n\
                      action \"in\" maildir \"$dir/mail\" virtual $all\n\
                      match from any for any action \"in\"\n";

/// Puts a pair where the configuration has it; a file that is there keeps owner and mode.
fn write(dir: &std::path::Path, certificate: &Certificate, key: &Certificate) {
    fs::write(dir.join("p.crt"), &certificate.pem).expect("a certificate");
    fs::write(dir.join("p.key"), key.key_pem()).expect("a key");
}

/// A client that trusts this authority and nobody else: only who has the key that belongs to the
/// certificate gets through a handshake.
fn trusting(authority: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("a root");
    roots.add(root).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder
        .with_safe_default_protocol_versions()
        .expect("versions");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

fn reload(daemon: &Instance) -> (bool, String) {
    let output = daemon.ctl(["reload"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

/// A session right behind the reply to STARTTLS.
fn about_to_shake_hands(daemon: &Instance) -> TlsClient {
    let mut client = TlsClient::connect(SocketAddr::from(([127, 0, 0, 1], daemon.port)));
    client.reply();
    client.ask("EHLO c.example.net");
    assert_eq!(client.ask("STARTTLS"), "220 2.0.0 Ready to start TLS");
    client
}

fn key_processes(daemon: &Instance) -> Vec<u32> {
    let mut all = processes::children(daemon.pid(), "-x keys");
    all.extend(processes::children(daemon.pid(), "smtpd: keys"));
    all
}

/// A directory with the pair, its key for its owner alone.
fn with_pair(certificate: &Certificate) -> TempDir {
    let dir = TempDir::new().expect("a temporary directory");
    write(dir.path(), certificate, certificate);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(dir.path().join("p.key"), mode).expect("chmod");
    dir
}

#[test]
fn new_certificates_and_keys_are_for_new_sessions_and_old_sessions_go_on() {
    let authority = Authority::new();
    let trust = trusting(&authority);
    let (old, new) = (
        authority.certify("mx.example.org"),
        authority.certify("mx.example.org"),
    );
    let daemon = Setup::new(CONFIG).start_in(with_pair(&old));
    let secure = |client: TlsClient| {
        let mut client = client.secure(&trust, "mx.example.org").expect("TLS");
        client.ask("EHLO c.example.net");
        client
    };
    let mail = |client: &mut TlsClient| {
        let reply = client.mail("a@example.net", "b@example.org", "Subject: x\n\nhi\n");
        assert!(reply.starts_with("250 "), "{reply}");
    };
    let mut open = secure(about_to_shake_hands(&daemon));
    assert_eq!(open.shown().as_deref(), Some(&**old.der()));
    let waiting = about_to_shake_hands(&daemon);
    let keys = key_processes(&daemon);
    assert_eq!(keys.len(), 1);

    // A certificate that does not go with the key is refused, and nothing changes.
    write(daemon.path(), &new, &old);
    let (done, said) = reload(&daemon);
    assert!(!done);
    assert!(
        said.contains("pki p: the key does not belong to the certificate"),
        "{said}"
    );
    assert_eq!(
        secure(about_to_shake_hands(&daemon)).shown().as_deref(),
        Some(&**old.der())
    );
    assert_eq!(key_processes(&daemon), keys);

    write(daemon.path(), &new, &new);
    let (done, said) = reload(&daemon);
    assert!(done, "{said}");
    let mut later = secure(about_to_shake_hands(&daemon));
    assert_eq!(later.shown().as_deref(), Some(&**new.der()));
    // Both the one that is encrypted with the old key and the one that was about to be.
    mail(&mut open);
    mail(&mut secure(waiting));
    mail(&mut later);
    daemon.wait_mail(3);

    // The keys are in a process of their own, which comes back with the new ones.
    let pid = key_processes(&daemon)
        .into_iter()
        .find(|pid| !keys.contains(pid));
    let pid = pid.expect("a process with the new keys");
    daemon.signal(pid, "KILL");
    daemon.wait_log("lost child: keys terminated");
    wait_for("another one", || {
        let now = key_processes(&daemon);
        now.iter()
            .any(|other| *other != pid && !keys.contains(other))
    });
    let mut last = secure(about_to_shake_hands(&daemon));
    assert_eq!(last.shown().as_deref(), Some(&**new.der()));
    mail(&mut last);
    // One that is encrypted needs no key any more.
    mail(&mut open);
    daemon.wait_mail(5);
    daemon.wait_empty();
}

// smtpd.conf(5), include: a relative path is looked up from the directory that smtpd(8) was started
// in. One in the background has left it.
#[test]
fn relative_paths_mean_the_same_when_a_daemon_in_the_background_reads_them_again() {
    let certificate = Authority::new().certify("mx.example.org");
    let daemon = Setup::new(
        "include \"called.conf\"\n\
         pki p cert \"p.crt\" key \"p.key\"\n\
         listen on 127.0.0.1 port $port tls pki p hostname $called\n\
         action \"in\" maildir \"$dir/mail\" virtual $all\n\
         match from any for any action \"in\"\n",
    )
    .prepare_in(with_pair(&certificate));
    let call_it = |name: &str| {
        let text = format!("called = {name}\n");
        fs::write(daemon.path().join("called.conf"), text).expect("a configuration file");
    };
    call_it("one.example.org");
    let mut command = daemon.program("smtpd");
    command.arg("-R").arg(daemon.path());
    command.current_dir(daemon.path());
    let started = Started(&daemon);
    let done = run(command, b"");
    assert!(done.status.success(), "{done:?}");
    assert!(started.banner().starts_with("220 one.example.org "));
    call_it("two.example.org");
    let (done, said) = reload(&daemon);
    assert!(done, "{said}");
    assert!(started.banner().starts_with("220 two.example.org "));
}

/// A handshake that takes a signature: with a client that remembers none.
fn shake_hands(daemon: &Instance, authority: &Authority) {
    let client = about_to_shake_hands(daemon);
    let secured = client.secure(&trusting(authority), "mx.example.org");
    assert!(secured.is_ok(), "{:?}\n{}", secured.err(), daemon.log());
}

#[test]
fn a_reload_that_keeps_the_keys_keeps_the_way_to_them() {
    // Nobody has needed the keys yet.
    let authority = Authority::new();
    let dir = with_pair(&authority.certify("mx.example.org"));
    let daemon = Setup::new(CONFIG).start_in(dir);
    daemon.configure(&CONFIG.replace("for any", "for domain \"one.org\""));
    let (done, said) = reload(&daemon);
    assert!(done, "{said}");
    shake_hands(&daemon, &authority);

    // The process with the keys is another one, which nobody has asked yet.
    let old = key_processes(&daemon);
    for pid in &old {
        daemon.signal(*pid, "KILL");
    }
    wait_for("another process", || {
        let now = key_processes(&daemon);
        !now.is_empty() && now.iter().all(|pid| !old.contains(pid))
    });
    let (done, said) = reload(&daemon);
    assert!(done, "{said}");
    shake_hands(&daemon, &authority);
}

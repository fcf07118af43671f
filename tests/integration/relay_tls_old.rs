//! smtpd.conf(5), relay: hosts with a TLS of old, which only the system's library speaks.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::relay_tls::{NAME, relay_in, root, submit};
use crate::support::not_run;
use crate::support::tls_host::Authority;

/// A host with a version and ciphers of the test's choice.
const OLD_HOST: &str = r#"
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.maximum_version = context.minimum_version = ssl.TLSVersion[sys.argv[3]]
context.set_ciphers(sys.argv[4] + ":@SECLEVEL=0")
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    wire, _ = listener.accept()
    try:
        wire.sendall(b"220 old ESMTP\r\n")
        lines = wire.makefile("rb")
        while line := lines.readline():
            word = line.split()[0].upper()
            if word == b"STARTTLS":
                wire.sendall(b"220 go on\r\n")
                wire = context.wrap_socket(wire, server_side=True)
                print("cipher", wire.cipher()[0], flush=True)
                lines = wire.makefile("rb")
            elif word == b"EHLO":
                wire.sendall(b"250-old\r\n250 STARTTLS\r\n")
            elif word == b"DATA":
                wire.sendall(b"354 go on\r\n")
                while lines.readline() != b".\r\n": pass
                print("message", flush=True)
                wire.sendall(b"250 taken\r\n")
            elif word == b"QUIT":
                wire.sendall(b"221 bye\r\n")
                break
            else:
                wire.sendall(b"250 ok\r\n")
    except (OSError, IndexError):
        pass
    wire.close()
"#;

/// Ends with the test.
struct OldHost {
    child: Child,
    port: u16,
}

impl OldHost {
    /// With a key such as `rsa:2048`.
    fn start(dir: &Path, key: &str, version: &str, ciphers: &str) -> Option<OldHost> {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", key, "-nodes", "-days", "30"])
            .args(["-subj", "/CN=mx.example.com"])
            .args(["-addext", "subjectAltName=DNS:mx.example.com"])
            .args(["-keyout", "old.key", "-out", "old.crt"])
            .current_dir(dir)
            .stderr(Stdio::null())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut child = Command::new("python3")
            .args(["-c", OLD_HOST, "old.crt", "old.key", version, ciphers])
            .current_dir(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = Vec::new();
        let output = child.stdout.as_mut()?;
        let mut byte = [0];
        while output.read(&mut byte).ok()? == 1 && byte != *b"\n" {
            line.extend(byte);
        }
        let port = String::from_utf8(line).ok()?.parse().ok();
        let host = OldHost {
            child,
            port: port.unwrap_or(0),
        };
        (host.port > 0).then_some(host)
    }

    /// What it has printed, once it has ended.
    fn end(mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        let mut output = self.child.stdout.take().expect("its output");
        output.read_to_string(&mut text).expect("text");
        text
    }
}

impl Drop for OldHost {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_host_with_nothing_but_old_ciphers_is_reached_by_the_systems_library() {
    if !cfg!(feature = "legacy-tls") {
        return not_run("old ciphers", "needs the feature legacy-tls");
    }
    let authority = Authority::new();
    // Whoever trusts the host's own certificate verifies it with the system's library, too.
    for option in ["", "tls no-verify", "ca old tls"] {
        let dir = root(&authority);
        // No forward secrecy, which rustls does not do without.
        let host = OldHost::start(dir.path(), "rsa:2048", "TLSv1_2", "AES128-SHA");
        let Some(host) = host else {
            return not_run("old ciphers", "needs python3 and openssl");
        };
        let daemon = relay_in(
            dir,
            "ca old cert \"$dir/old.crt\"",
            &format!("host smtp://{NAME}:{} {option}", host.port),
        );
        submit(&daemon, "bob@a.example");
        daemon.wait_log("result=\"Ok\" stat=\"250 taken\"");
        daemon.wait_log(" mta tls ciphers=");
        let result = if option.starts_with("ca") {
            "valid"
        } else {
            "unverified"
        };
        daemon.wait_log(&format!(
            " mta cert-check result=\"{result}\" fingerprint=\"SHA256:"
        ));
        assert_eq!(host.end(), "cipher AES128-SHA\nmessage\n");
    }
}

#[test]
fn a_host_with_a_small_key_is_reached_by_the_systems_library() {
    // RFC 7435: better than nothing. rustls checks no signature of fewer than 2048 bits.
    if !cfg!(feature = "legacy-tls") {
        return not_run("small keys", "needs the feature legacy-tls");
    }
    let authority = Authority::new();
    for (option, version) in [("", "TLSv1_3"), ("tls no-verify", "TLSv1_2")] {
        let dir = root(&authority);
        let Some(host) = OldHost::start(dir.path(), "rsa:1024", version, "DEFAULT") else {
            return not_run("small keys", "needs python3 and openssl");
        };
        let url = format!("host smtp://{NAME}:{} {option}", host.port);
        let daemon = relay_in(dir, "", &url);
        submit(&daemon, "bob@a.example");
        daemon.wait_log("result=\"Ok\" stat=\"250 taken\"");
        daemon.wait_log(" mta tls ciphers=system-library");
        daemon.wait_log(" mta cert-check result=\"unverified\" fingerprint=\"SHA256:");
        let said = host.end();
        assert!(
            said.starts_with("cipher ") && said.ends_with("\nmessage\n"),
            "{said}"
        );
    }
}

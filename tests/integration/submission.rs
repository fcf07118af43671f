//! smtpd.conf(5), listen on: `tls`, `tls-require`, `smtps`, `verify`, `pki`, `auth`, `senders` and
//! `proxy-v2`, with real processes.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::dice::Dice;
use crate::examples;
use crate::support::tls_client::{self, TlsClient};
use crate::support::tls_host::{Authority, Certificate};
use crate::support::{Client, Instance, Setup, field, is_root, not_run, run, wait_for};

/// An instance root with a pair `p` for mx.example.org, a pair `q` for *.example.com, and `ca.pem`.
pub struct World {
    pub dir: TempDir,
    pub p: Certificate,
    q: Certificate,
    authority: Authority,
}

pub fn world() -> World {
    let authority = Authority::new();
    let world = World {
        dir: TempDir::new().expect("a temporary directory"),
        p: authority.certify("mx.example.org"),
        q: authority.certify("*.example.com"),
        authority,
    };
    let path = |name: &str| world.dir.path().join(name);
    fs::write(path("ca.pem"), &world.authority.pem).expect("ca.pem");
    for (name, pair) in [("p", &world.p), ("q", &world.q)] {
        fs::write(path(&format!("{name}.crt")), &pair.pem).expect("a certificate");
        let key = path(&format!("{name}.key"));
        fs::write(&key, pair.key_pem()).expect("a key");
        fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("chmod");
    }
    let hash = hash("secret");
    fs::write(path("creds"), format!("ann {hash}\nbob bob:{hash}\n")).expect("creds");
    world
}

/// `smtpctl encrypt`.
pub fn hash(password: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smtpctl"));
    command.arg("encrypt");
    let output = run(command, format!("{password}\n").as_bytes());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .expect("a hash")
        .trim()
        .to_owned()
}

const HEAD: &str = "pki p cert \"$dir/p.crt\" key \"$dir/p.key\"\n\
                    pki q cert \"$dir/q.crt\" key \"$dir/q.key\"\n\
                    ca all cert \"$dir/ca.pem\"\n\
                    table creds file:$dir/creds\n";
const RULES: &str = "action \"in\" maildir \"$dir/mail\" virtual $all\n\
                     match from any for any action \"in\"\n";

pub fn config(listeners: &str) -> String {
    format!("{HEAD}{listeners}\n{RULES}")
}

/// A daemon with these listeners; the first is on 127.0.0.1 and $port, in clear text at first.
pub fn daemon(world: World, listeners: &str) -> Instance {
    Setup::new(&config(listeners)).start_in(world.dir)
}

pub const SUBMISSION: &str =
    "listen on 127.0.0.1 port $port tls pki p pki q auth-optional <creds> received-auth";

pub fn address(daemon: &Instance, host: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, host], daemon.port))
}

pub fn plain(user: &str, password: &str) -> String {
    STANDARD.encode(format!("\0{user}\0{password}"))
}

#[test]
fn a_user_logs_in_over_starttls_and_the_log_says_so_without_the_password() {
    // RFC 3207, RFC 4954; credentials stand in no log.
    let daemon = daemon(world(), SUBMISSION);
    let mut client = TlsClient::starttls(address(&daemon, 1));
    let wrong = client.ask(&format!("AUTH PLAIN {}", plain("ann", "wrong-password")));
    assert_eq!(wrong, "535 5.7.8 Authentication failed");
    assert_eq!(client.ask("AUTH LOGIN"), "334 VXNlcm5hbWU6");
    assert_eq!(client.ask(&STANDARD.encode("ann")), "334 UGFzc3dvcmQ6");
    let right = client.ask(&STANDARD.encode("secret"));
    assert_eq!(right, "235 2.0.0 Authentication succeeded");
    assert!(
        client
            .mail("ann@example.org", "x@example.org", "Subject: x\n\nhi\n")
            .starts_with("250 ")
    );
    assert_eq!(client.ask("QUIT"), "221 2.0.0 Bye");
    let mail = daemon.wait_mail(1);
    let text = String::from_utf8_lossy(&mail[0]);
    assert!(text.contains(" with ESMTPSA id "), "{text}");
    assert!(text.contains(":NO) auth=yes user=ann\n"), "{text}");
    for line in [
        "smtp tls ciphers=TLSv1.3:TLS_AES_256_GCM_SHA384:256\n",
        "smtp authentication user=ann result=permfail address=127.0.0.1\n",
        "command=\"AUTH PLAIN (...)\" result=\"535 5.7.8 Authentication failed\" address=127.0.0.1\n",
        "smtp authentication user=ann result=ok address=127.0.0.1\n",
    ] {
        daemon.wait_log(line);
    }
    let log = daemon.log();
    for secret in [
        "secret",
        "wrong-password",
        &plain("ann", "wrong-password"),
        "c2VjcmV0",
    ] {
        assert!(!log.contains(secret), "{secret}");
    }
}

#[test]
fn what_stands_behind_starttls_in_clear_text_is_never_a_command() {
    // CVE-2011-0411: in one segment with STARTTLS, and right behind it.
    let daemon = daemon(world(), SUBMISSION);
    for pause in [false, true] {
        let mut client = TlsClient::connect(address(&daemon, 1));
        client.reply();
        client.ask("EHLO c.example.net");
        let evil: &[u8] = b"EHLO evil\r\nMAIL FROM:<evil@example.org>\r\n";
        if pause {
            client.send(b"STARTTLS\r\n");
            client.send(evil);
        } else {
            client.send(&[b"STARTTLS\r\n", evil].concat())
        }
        assert_eq!(client.reply(), "220 2.0.0 Ready to start TLS");
        // What came later is no TLS; what came with it is forgotten.
        if let Ok(mut client) = client.secure(&tls_client::config(None), "mx.example.org") {
            assert!(
                client
                    .ask("RCPT TO:<x@example.org>")
                    .starts_with("503 5.5.1")
            );
            assert!(client.ask("RSET").starts_with("503 5.5.1"));
        }
    }
    assert!(!daemon.log().contains("evil@example.org"));
}

#[test]
fn certificates_are_shown_by_name_and_asked_of_clients() {
    // smtpd.conf(5): several pki; smtps verify and ca.
    let world = world();
    let (p, q) = (world.p.der().to_vec(), world.q.der().to_vec());
    let friend = world.authority.certify("friend.example.net");
    let stranger = Certificate::self_signed("stranger.example.net");
    let friends = |count| {
        world
            .authority
            .certify("friend.example.net")
            .followed_by(count)
    };
    let long = [10, 100, 160, 300, 3000].map(friends);
    let daemon = daemon(
        world,
        &format!("{SUBMISSION}\nlisten on 127.0.0.2 port $port smtps verify pki p pki q ca all"),
    );
    for (name, shown) in [
        ("mx.example.org", &p),
        ("smtp.example.com", &q),
        ("a.b.example.com", &p),
        ("nobody.example.net", &p),
    ] {
        let mut client = TlsClient::connect(address(&daemon, 1));
        client.reply();
        client.ask("EHLO c.example.net");
        client.ask("STARTTLS");
        let client = client.secure(&tls_client::config(None), name).expect("TLS");
        assert_eq!(client.shown().as_ref(), Some(shown), "{name}");
    }
    let greeted = |own: Option<&Certificate>| {
        let client = TlsClient::connect(address(&daemon, 2));
        match client.secure(&tls_client::config(own), "mx.example.org") {
            Ok(mut client) => client.reply().starts_with("220 "),
            Err(_) => false,
        }
    };
    assert!(greeted(Some(&friend)));
    assert!(!greeted(Some(&stranger)) && !greeted(None));
    // CVE-2015-7687: a chain of more than a megabyte, and some that are nearly too long.
    let engine = daemon.engine_pid();
    let answers = long
        .each_ref()
        .map(|certificate| greeted(Some(certificate)));
    assert!(answers[0] && !answers[4], "{answers:?}");
    assert!(greeted(Some(&friend)) && daemon.engine_pid() == engine);
    daemon.wait_log("smtp cert-check result=\"verified\" fingerprint=\"SHA256:");
    assert!(
        TlsClient::starttls(address(&daemon, 1))
            .ask("NOOP")
            .starts_with("250 ")
    );
}

#[test]
fn broken_handshakes_leave_nothing_and_disturb_nobody() {
    // smtpd.conf(5), tls: cut at each byte, garbage, names by chance, clients that go at any time.
    let daemon = daemon(
        world(),
        &format!("{SUBMISSION}\nlisten on 127.0.0.2 port $port smtps pki p pki q"),
    );
    let hello = {
        let name = "mx.example.org".try_into().expect("a name");
        let mut session =
            rustls::ClientConnection::new(tls_client::config(None), name).expect("a session");
        let mut bytes = Vec::new();
        session.write_tls(&mut bytes).expect("a hello");
        bytes
    };
    let engine = daemon.engine_pid();
    let descriptors = || fs::read_dir(format!("/proc/{engine}/fd")).map_or(0, |dir| dir.count());
    drop(TlsClient::starttls(address(&daemon, 1)));
    let before = descriptors();
    let mut dice = Dice::new(5);
    for cut in 0..=hello.len() {
        let mut stream = TcpStream::connect(address(&daemon, 2)).expect("connect");
        stream.write_all(&hello[..cut]).expect("write");
        if dice.roll(2) == 0 {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
    for _ in 0..100 {
        let mut stream = TcpStream::connect(address(&daemon, 2)).expect("connect");
        let mut bytes = hello.clone();
        for _ in 0..1 + dice.roll(5) {
            let at = dice.roll(bytes.len());
            bytes[at] = dice.roll(256) as u8;
        }
        let _ = stream.write_all(&bytes);
        if dice.roll(2) == 0 {
            let _ = stream.read(&mut [0; 64]);
        }
    }
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let address = address(&daemon, 2);
            thread::spawn(move || {
                let (mut dice, config) = (Dice::new(seed), tls_client::config(None));
                for _ in 0..20 {
                    let name = format!("n{}.example.com", dice.roll(1000));
                    let client = TlsClient::connect(address).secure(&config, &name);
                    let mut client = client.expect("TLS");
                    if dice.roll(2) == 0 {
                        assert!(client.reply().starts_with("220 "));
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a client");
    }
    if cfg!(target_os = "linux") {
        // Some sockets to the process that holds the keys are kept.
        wait_for("descriptors to be closed", || descriptors() <= before + 8);
    }
    assert_eq!(daemon.engine_pid(), engine);
    let mut client = TlsClient::starttls(address(&daemon, 1));
    assert!(
        client
            .mail("a@example.net", "x@example.org", "\nx\n")
            .starts_with("250 ")
    );
    daemon.wait_mail(1);
}

#[test]
fn guessing_is_given_up_and_others_log_in_meanwhile() {
    // smtpd.conf(5), smtp limit max-auth-failures: many connections of one address, and of many.
    let limit = "smtp limit max-auth-failures 8";
    let daemon = daemon(world(), &format!("{SUBMISSION}\n{limit}"));
    let to = address(&daemon, 1);
    let attempt = |from: u8, user: &str, password: &str| {
        let from = IpAddr::from([127, 0, 1, from]);
        let mut client = Client::connect_from(from, to).expect("connect");
        client.reply();
        client.ask("EHLO c.example.net");
        client.ask("STARTTLS");
        let stream = client.into_stream();
        let client = TlsClient::over(stream).secure(&tls_client::config(None), "mx.example.org");
        let mut client = client.expect("TLS");
        client.ask("EHLO c.example.net");
        client.ask(&format!("AUTH PLAIN {}", plain(user, password)))
    };
    assert!(attempt(250, "ann", "secret").starts_with("235 "));
    thread::scope(|scope| {
        // One source guesses the passwords of many, many sources that of one.
        let guess = |number: u8| {
            let one = attempt(1, &format!("user{number}"), "guess");
            let many = attempt(100 + number, "ann", &format!("guess{number}"));
            assert!(
                one.starts_with("535 ") && many.starts_with("535 "),
                "{one} {many}"
            );
        };
        let guesses: Vec<_> = (0..8)
            .map(|number| scope.spawn(move || guess(number)))
            .collect();
        for guess in guesses {
            guess.join().expect("a guess");
        }
    });
    let busy = "454 4.7.0 Too many failed attempts to log in, try again later";
    assert_eq!(attempt(1, "bob", "secret"), busy);
    assert_eq!(attempt(200, "ann", "secret"), busy);
    assert!(
        attempt(250, "ann", "secret").starts_with("235 "),
        "where she is known"
    );
    assert!(attempt(201, "bob", "secret").starts_with("235 "));
    let mut client = TlsClient::starttls(to);
    let last: Vec<String> = (0..6)
        .map(|_| client.ask(&format!("AUTH PLAIN {}", plain("carl", "x"))))
        .collect();
    assert_eq!(last[3], "535 5.7.8 Authentication failed");
    assert_eq!(last[4], "421 4.7.0 Too many failed attempts to log in");
    assert_eq!(last[5], "");
    // etc/fail2ban.conf: it sees each failure, and whose it is; what a client says bans nobody else.
    let forged = "smtp authentication user=x result=permfail address=192.0.2.66";
    let mut client = daemon.hello();
    client.say(forged, 500);
    daemon.wait_log(&format!("command=\"{forged}\""));
    let log = daemon.log();
    let hosts = examples::banned(&log);
    for line in log.lines() {
        let fails =
            line.contains(" result=permfail address=127.") || line.contains("result=\"454 ");
        if fails {
            let (_, address) = line.rsplit_once("address=").expect("an address");
            assert!(hosts.contains(address), "{line}");
        }
    }
    assert!(hosts.contains("127.0.0.1") || hosts.len() > 3, "{hosts:?}");
    assert!(
        hosts.iter().all(|host| host.starts_with("127.")),
        "{hosts:?}"
    );
}

#[test]
fn a_proxy_says_who_its_client_is_and_nobody_else_does() {
    // smtpd.conf(5), proxy-v2 from.
    let daemon = daemon(
        world(),
        "listen on 127.0.0.1 port $port\n\
         listen on 127.0.0.2 port $port proxy-v2 from { 127.0.0.9 } tls pki p\n\
         listen on 127.0.0.3 port $port smtps pki p proxy-v2 from { 127.0.0.9 }",
    );
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([192, 0, 2, 7, 127, 0, 0, 1, 0x12, 0x34, 0, 25]);
    let proxied = |host: u8| {
        let from = IpAddr::from([127, 0, 0, 9]);
        Client::connect_from(from, address(&daemon, host))
            .expect("connect")
            .into_stream()
    };
    // In pieces, and with a command in the same segment.
    let mut stream = proxied(2);
    for byte in &header {
        stream.write_all(&[*byte]).expect("write");
    }
    let mut client = TlsClient::over(stream);
    assert!(client.reply().starts_with("220 "));
    let mut stream = proxied(2);
    stream
        .write_all(&[&header[..], b"EHLO c.example.net\r\n"].concat())
        .expect("write");
    let mut client = TlsClient::over(stream);
    assert!(client.reply().starts_with("220 "));
    assert!(client.reply().contains("Hello c.example.net [192.0.2.7]"));
    assert!(
        client
            .mail("a@example.net", "x@example.org", "\nx\n")
            .starts_with("250 ")
    );
    let received = field(&daemon.wait_mail(1)[0], "Received").expect("Received");
    assert!(received.contains("[192.0.2.7]"), "{received}");
    let mut stream = proxied(3);
    stream.write_all(&header).expect("write");
    let client = TlsClient::over(stream).secure(&tls_client::config(None), "mx.example.org");
    let mut client = client.expect("TLS");
    assert!(client.reply().starts_with("220 "));
    assert!(client.ask("EHLO c.example.net").contains("[192.0.2.7]"));
    for bad in [
        &b"PROXY TCP4 192.0.2.7 127.0.0.1 4660 25\r\n"[..],
        b"EHLO c.example.net\r\nQUIT\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8",
        b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0",
    ] {
        let mut stream = proxied(2);
        stream.write_all(bad).expect("write");
        assert_eq!(TlsClient::over(stream).reply(), "", "{bad:?}");
    }
    let mut stream = TcpStream::connect(address(&daemon, 2)).expect("connect");
    let _ = stream.write_all(&header);
    assert_eq!(TlsClient::over(stream).reply(), "", "no proxy");
    daemon.wait_log("proxy event=refused address=127.0.0.1");
    daemon.wait_log(
        "proxy event=closed address=127.0.0.9 reason=\"protocol error (invalid signature)\"",
    );
}

#[test]
fn a_daemon_of_an_ordinary_user_cannot_ask_the_system_and_says_so() {
    let daemon = daemon(world(), "listen on 127.0.0.1 port $port tls pki p auth");
    let mut client = TlsClient::starttls(address(&daemon, 1));
    let reply = client.ask(&format!("AUTH PLAIN {}", plain("root", "x")));
    if is_root() || reply.starts_with("454 ") {
        assert_eq!(reply, "454 4.7.0 Temporary authentication failure");
        daemon.wait_log("smtpd does not run as root and cannot check the password of root");
    }
}

#[test]
fn smtpd_n_looks_at_keys_and_certificates() {
    // smtpd(8), -n: certificates and keys; smtpd.conf(5), pki.
    let world = world();
    let write = |name: &str, text: &str| {
        let path = world.dir.path().join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(path, Permissions::from_mode(0o600)).expect("chmod");
    };
    write(
        "smtpd.conf",
        &config(SUBMISSION)
            .replace("$dir", path_of(&world))
            .replace("$port", "2525")
            .replace("$all", "{ \"@\" = \"root\" }"),
    );
    write("mailname", "mx.example.org\n");
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smtpd"));
        command.args(["-n", "-R", path_of(&world)]);
        let output = run(command, b"");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (fits, said) = check();
    assert!(fits, "{said}");
    write("p.key", &world.q.key_pem());
    let (fits, said) = check();
    assert!(
        !fits && said.contains("pki p: the key does not belong to the certificate"),
        "{said}"
    );
    write("p.key", "no key\n");
    assert!(!check().0);
    write("p.key", &world.p.key_pem());
    let old = world.authority.certify_with("mx.example.org", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    write("p.crt", &old.pem);
    write("p.key", &old.key_pem());
    let (fits, said) = check();
    assert!(
        fits && said.contains("pki p: the certificate has expired"),
        "{said}"
    );
}

fn path_of(world: &World) -> &str {
    let path: &Path = world.dir.path();
    path.to_str().expect("a UTF-8 path")
}

#[test]
fn real_clients_submit() {
    // swaks(1) and msmtp(1), as their users run them.
    let test = "real_clients_submit";
    let daemon = daemon(world(), SUBMISSION);
    let there = |name: &str| {
        let mut command = Command::new(name);
        command.arg("--version");
        command.output().is_ok_and(|output| output.status.success())
    };
    let port = daemon.port.to_string();
    let mut sent = 0;
    if there("swaks") {
        for auth in ["PLAIN", "LOGIN"] {
            let mut command = Command::new("swaks");
            command.args([
                "--server",
                "127.0.0.1",
                "--port",
                &port,
                "--tls",
                "--auth",
                auth,
            ]);
            command.args(["--auth-user", "ann", "--auth-password", "secret"]);
            command.args(["--from", "ann@example.org", "--to", "x@example.org"]);
            let output = run(command, b"");
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stdout)
            );
            sent += 1;
        }
    } else {
        not_run(test, "swaks is not installed");
    }
    if there("msmtp") {
        for auth in ["plain", "login"] {
            let mut command = Command::new("msmtp");
            command.args(["--host=127.0.0.1", &format!("--port={port}"), "--tls=on"]);
            command.args([
                "--tls-certcheck=off",
                &format!("--auth={auth}"),
                "--user=ann",
            ]);
            command.args([
                "--passwordeval=echo secret",
                "--from=ann@example.org",
                "x@example.org",
            ]);
            let output = run(command, b"Subject: x\n\nhi\n");
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            sent += 1;
        }
    } else {
        not_run(test, "msmtp is not installed");
    }
    daemon.wait_mail(sent);
}

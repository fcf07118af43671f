//! smtpd.conf(5), relay: `tls`, `auth`, `pki`, `ca` and the schemes that ask for TLS, to hosts that
//! a test scripts.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::date_time_ymd;
use tempfile::TempDir;

use crate::support::processes;
use crate::support::tls_host::{Authority, Certificate, Manner, TlsHost};
use crate::support::{Instance, Setup, wait_for};

/// The name of every host.
pub const NAME: &str = "mx.example.com";

/// An instance root in which the name leads to loopback and `ca.pem` is this authority's.
pub fn root(authority: &Authority) -> TempDir {
    let dir = TempDir::new().expect("a temporary directory");
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("a file");
    write(
        "hosts",
        &format!("127.0.0.1 localhost {NAME} other.example.com\n"),
    );
    write(
        "resolv.conf",
        "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    );
    write("ca.pem", &authority.pem);
    dir
}

/// A daemon that relays everything with these options.
fn relay(authority: &Authority, options: &str) -> Instance {
    relay_in(root(authority), "", options)
}

pub fn relay_in(dir: TempDir, head: &str, options: &str) -> Instance {
    let config = format!(
        "{head}\nlisten on 127.0.0.1 port $port\naction \"out\" relay {options}\n\
         match from any for any action \"out\"\n"
    );
    Setup::new(&config).start_in(dir)
}

pub fn submit(daemon: &Instance, rcpt: &str) {
    let mut client = daemon.hello();
    client.mail("", &[rcpt], b"Subject: x\n\nhi\n");
}

fn url(scheme: &str, host: &TlsHost) -> String {
    format!("{scheme}://{NAME}:{}", host.port)
}

#[test]
fn tls_is_used_where_it_is_offered_and_the_log_says_what_it_is_worth() {
    // RFC 7435: better than nothing, whoever is at the other end; the log tells one from the other.
    let authority = Authority::new();
    let known = TlsHost::start(Manner::with(authority.certify(NAME)));
    let unknown = TlsHost::start(Manner::with(Certificate::self_signed(NAME)));
    let daemon = relay_in(
        root(&authority),
        "ca all cert \"$dir/ca.pem\"",
        &format!(
            "ca all domain {{ \"known.example\" = \"{}\", \"unknown.example\" = \"{}\" }}",
            url("smtp", &known),
            url("smtp", &unknown)
        ),
    );
    submit(&daemon, "bob@known.example");
    known.wait("tls: message");
    daemon.wait_log(" mta tls ciphers=TLSv1.3:TLS_");
    daemon.wait_log(" mta cert-check result=\"valid\" fingerprint=\"SHA256:");
    submit(&daemon, "bob@unknown.example");
    unknown.wait("tls: message");
    daemon.wait_log(" mta cert-check result=\"unverified\" fingerprint=\"SHA256:");
    daemon.wait_empty();
    assert!(
        known.has(&format!("tls: name {NAME}")),
        "{:?}",
        known.heard()
    );
    assert!(!known.has("plain: MAIL"));
    let log = daemon.log();
    let at = |text: &str| log.find(text).expect(text);
    assert!(
        at(" mta connected") < at(" mta tls ciphers")
            && at(" mta cert-check") < at("result=\"Ok\"")
    );
    // smtpctl(8), trace message: the handshake has a time of its own.
    let delays: Vec<&str> = log.lines().filter(|l| l.contains(" mta delays ")).collect();
    assert_eq!(delays.len(), 2, "{log}");
    for line in delays {
        assert!(
            line.contains(" tls=") && !line.contains(" tls=0.000 "),
            "{line}"
        );
    }
}

#[test]
fn a_certificate_that_does_not_hold_keeps_mail_back_only_where_tls_is_to_be_verified() {
    // smtpd.conf(5), relay: tls, tls no-verify, and neither.
    let (authority, stranger) = (Authority::new(), Authority::new());
    let expired = |params: &mut rcgen::CertificateParams| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    };
    let kinds: [(&str, &dyn Fn() -> Certificate); 5] = [
        ("good", &|| authority.certify(NAME)),
        ("name", &|| authority.certify("elsewhere.example.com")),
        ("expired", &|| authority.certify_with(NAME, expired)),
        ("self", &|| Certificate::self_signed(NAME)),
        ("unknown", &|| stranger.certify(NAME)),
    ];
    let policies = [("strict", "tls"), ("loose", "tls no-verify"), ("any", "")];
    let mut config = String::from("listen on 127.0.0.1 port $port\nca all cert \"$dir/ca.pem\"\n");
    let mut hosts = Vec::new();
    for (policy, option) in policies {
        let mut entries = Vec::new();
        for (kind, certificate) in kinds {
            let host = TlsHost::start(Manner::with(certificate()));
            let domain = format!("{kind}.{policy}");
            entries.push(format!("\"{domain}\" = \"{}\"", url("smtp", &host)));
            hosts.push((domain, host));
        }
        config += &format!(
            "action \"{policy}\" relay ca all {option} domain {{ {} }}\n\
             match from any for domain regex \"{policy}$\" action \"{policy}\"\n",
            entries.join(", ")
        );
    }
    let daemon = Setup::new(&config).start_in(root(&authority));
    for (domain, _) in &hosts {
        submit(&daemon, &format!("bob@{domain}"));
    }
    for (domain, host) in &hosts {
        let refused = domain.ends_with("strict") && domain != "good.strict";
        if refused {
            let to = format!("to=<bob@{domain}>");
            wait_for("the delivery line", || {
                let log = daemon.log();
                let line = log
                    .lines()
                    .find(|line| line.contains(&to) && line.contains(" mta "));
                line.is_some_and(|line| {
                    line.contains("result=\"TempFail\"")
                        && line.contains(" (127.0.0.1): IO Error: ")
                })
            });
            assert!(
                !host.has("tls: MAIL") && !host.has("plain: MAIL"),
                "{domain}"
            );
        } else {
            host.wait("tls: message")
        }
    }
    wait_for("what is refused to be left", || daemon.queue().len() == 4);
    daemon.wait_log("mta error reason=IO Error: invalid peer certificate");
}

#[test]
fn a_host_that_has_no_tls_gets_no_mail_that_needs_it() {
    // RFC 3207 §4: no downgrade. Each relay decides for itself what its URL means.
    let authority = Authority::new();
    let without = || {
        Manner::with(authority.certify(NAME))
            .script(|command| (command == "EHLO plain").then_some("250 mx.example.com"))
    };
    let refusing = || {
        Manner::with(authority.certify(NAME))
            .script(|command| (command == "STARTTLS").then_some("454 4.7.0 not now"))
    };
    let not_offered = "TLS required but not supported by remote host";
    let rejected = "STARTTLS rejected: 454 4.7.0 not now";
    let cases = [
        (TlsHost::start(without()), "smtp", "tls", Some(not_offered)),
        (TlsHost::start(without()), "smtp+tls", "", Some(not_offered)),
        (
            TlsHost::start(without()),
            "smtp",
            "tls no-verify",
            Some(not_offered),
        ),
        (TlsHost::start(without()), "smtp", "", None),
        (TlsHost::start(refusing()), "smtp", "tls", Some(rejected)),
        (TlsHost::start(refusing()), "smtp", "", None),
        (
            TlsHost::start(Manner::with(authority.certify(NAME))),
            "smtp+notls",
            "",
            None,
        ),
    ];
    for (host, scheme, option, error) in cases {
        let daemon = relay(&authority, &format!("host {} {option}", url(scheme, &host)));
        submit(&daemon, "bob@a.example");
        match error {
            None => {
                host.wait("plain: message");
                daemon.wait_empty();
                assert_eq!(host.count("plain: connected"), 1, "{:?}", host.heard());
            }
            Some(error) => {
                daemon.wait_log(&format!(" mta error reason={error}"));
                daemon.wait_log(&format!("stat=\"{NAME} (127.0.0.1): {error}"));
                assert!(!host.has("plain: MAIL"), "{:?}", host.heard());
            }
        }
    }
}

#[test]
fn a_handshake_that_fails_is_followed_by_plain_text_only_where_nothing_asked_for_tls() {
    let authority = Authority::new();
    let host = TlsHost::start(Manner::with(authority.certify(NAME)).broken());
    let daemon = relay(&authority, &format!("host {}", url("smtp", &host)));
    submit(&daemon, "bob@a.example");
    host.wait("plain: message");
    daemon.wait_log("smtp-out: Error on session ");
    daemon.wait_log(": opportunistic TLS failed, downgrading to plain");
    daemon.wait_log(" mta connecting address=smtp+notls://127.0.0.1:");
    daemon.wait_empty();
    let host = TlsHost::start(Manner::with(authority.certify(NAME)).broken());
    let daemon = relay(
        &authority,
        &format!("host {} tls no-verify", url("smtp", &host)),
    );
    submit(&daemon, "bob@a.example");
    daemon.wait_log(" mta error reason=IO Error: ");
    daemon.wait_log(&format!("stat=\"{NAME} (127.0.0.1): IO Error: "));
    assert!(!host.has("plain: MAIL"), "{:?}", host.heard());
}

#[test]
fn a_host_that_wants_a_certificate_of_ours_gets_plain_text_if_nothing_asked_for_tls() {
    // In TLS 1.3 the host says so when our half of the handshake is over.
    let authority = Authority::new();
    let host = || TlsHost::start(Manner::with(authority.certify(NAME)).asking(&authority));
    let (any, strict) = (host(), host());
    let daemon = relay(&authority, &format!("host {}", url("smtp", &any)));
    submit(&daemon, "bob@a.example");
    any.wait("plain: message");
    daemon.wait_log(": opportunistic TLS failed, downgrading to plain");
    let daemon = relay(
        &authority,
        &format!("host {} tls no-verify", url("smtp", &strict)),
    );
    submit(&daemon, "bob@a.example");
    daemon.wait_log(&format!("stat=\"{NAME} (127.0.0.1): IO Error: "));
    assert!(!strict.has("plain: MAIL") && !strict.has("tls: MAIL"));
}

#[test]
fn what_was_said_before_the_handshake_is_not_taken_for_an_answer_within_it() {
    // RFC 3207 §4.2, CVE-2011-0411: bytes behind the 220 end the session.
    let authority = Authority::new();
    for option in ["", "tls no-verify"] {
        let host = TlsHost::start(Manner::with(authority.certify(NAME)).script(|command| {
            (command == "STARTTLS").then_some("220 go on\n250-mx.example.com\n250 AUTH PLAIN")
        }));
        let daemon = relay(&authority, &format!("host {} {option}", url("smtp", &host)));
        submit(&daemon, "bob@a.example");
        daemon.wait_log(" mta error reason=Remote host sent too much data");
        daemon.wait_log(&format!(
            "stat=\"{NAME} (127.0.0.1): Remote host sent too much data\""
        ));
        assert!(!host.has("tls: MAIL") && !host.has("plain: MAIL"));
    }
}

#[test]
fn a_url_that_asks_for_tls_has_the_certificate_verified_and_no_other_url_of_its_table() {
    let authority = Authority::new();
    let strict = TlsHost::start(Manner::with(Certificate::self_signed(NAME)));
    let smtps = TlsHost::start(Manner::with(authority.certify(NAME)).at_once());
    let any = TlsHost::start(Manner::with(Certificate::self_signed(NAME)));
    let daemon = relay_in(
        root(&authority),
        "ca all cert \"$dir/ca.pem\"",
        &format!(
            "ca all domain {{ \"strict.example\" = \"{}\", \"smtps.example\" = \"{}\", \
             \"any.example\" = \"{}\" }}",
            url("smtp+tls", &strict),
            url("smtps", &smtps),
            url("smtp", &any)
        ),
    );
    submit(&daemon, "bob@strict.example");
    daemon.wait_log(" mta error reason=IO Error: invalid peer certificate");
    submit(&daemon, "bob@smtps.example");
    smtps.wait("tls: message");
    submit(&daemon, "bob@any.example");
    any.wait("tls: message");
    assert!(!strict.has("tls: MAIL") && !strict.has("plain: MAIL"));
    daemon.wait_log(" mta connecting address=smtps://127.0.0.1:");
}

#[test]
fn credentials_are_looked_up_by_label_and_go_over_tls_only() {
    // RFC 4954, RFC 4616; table(5), credentials tables.
    let authority = Authority::new();
    let plain = TlsHost::start(Manner::with(authority.certify(NAME)).script(|command| {
        (command == "AUTH PLAIN AGJvYgBzZWNyZXQtd29yZA==").then_some("235 2.7.0 welcome")
    }));
    let login = TlsHost::start(
        Manner::with(authority.certify(NAME))
            .at_once()
            .script(|command| match command {
                "EHLO tls" => Some("250-mx.example.com\n250 AUTH LOGIN CRAM-MD5"),
                "334" => Some("235 2.7.0 welcome"),
                _ => None,
            }),
    );
    let wrong = TlsHost::start(Manner::with(authority.certify(NAME)));
    let none = TlsHost::start(
        Manner::with(authority.certify(NAME))
            .script(|command| (command == "EHLO tls").then_some("250 mx.example.com")),
    );
    let dir = root(&authority);
    fs::write(
        dir.path().join("secrets"),
        "bob bob:secret-word\nalone hidden\n",
    )
    .expect("secrets");
    let with = |scheme: &str, label: &str, host: &TlsHost| {
        format!("\"{scheme}://{label}@{NAME}:{}\"", host.port)
    };
    let config = format!(
        "listen on 127.0.0.1 port $port\nca all cert \"$dir/ca.pem\"\n\
         table secrets file:$dir/secrets\n\
         action \"out\" relay ca all domain {{ \"plain.example\" = {}, \"login.example\" = {}, \
         \"wrong.example\" = {}, \"none.example\" = {}, \"nolabel.example\" = {} }} auth <secrets>\n\
         match from any for any action \"out\"\n",
        with("smtp+tls", "bob", &plain),
        with("smtps", "alone", &login),
        with("smtp+tls", "bob", &wrong),
        with("smtp+tls", "bob", &none),
        with("smtp+tls", "nobody", &none),
    );
    let daemon = Setup::new(&config).arg("-T").arg("mta").start_in(dir);
    submit(&daemon, "bob@plain.example");
    plain.wait("tls: message");
    assert!(!plain.has("plain: AUTH"), "{:?}", plain.heard());
    submit(&daemon, "bob@login.example");
    login.wait("tls: message");
    assert!(
        login.has("tls: AUTH LOGIN YWxvbmU= aGlkZGVu"),
        "{:?}",
        login.heard()
    );
    submit(&daemon, "bob@wrong.example");
    daemon.wait_log(" mta error reason=AUTH rejected: 535 5.7.8 who are you");
    submit(&daemon, "bob@none.example");
    daemon.wait_log(" mta error reason=AUTH not advertised");
    submit(&daemon, "bob@nolabel.example");
    daemon.wait_log("warn: credentials not found for secrets:nobody");
    daemon.wait_log("warn: Failed to retrieve secret for [relay:mx.example.com,port=");
    daemon.wait_log(",smtp+tls,auth=secrets:nobody,mx]");
    daemon.wait_log("result=\"TempFail\" stat=\"Could not retrieve credentials\"");
    assert!(!wrong.has("tls: MAIL") && !none.has("tls: MAIL"));
    daemon.wait_log("AUTH PLAIN ********");
    let log = daemon.log();
    for secret in ["secret-word", "AGJvYgBz", "hidden", "aGlkZGVu"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

/// The process that holds the daemon's keys.
fn keys_pid(daemon: &Instance, not: Option<u32>) -> u32 {
    let mut found = None;
    wait_for("the process of the keys", || {
        let all = processes::children(daemon.pid(), "-x keys");
        found = all.into_iter().find(|pid| Some(*pid) != not);
        found.is_some()
    });
    found.unwrap_or(0)
}

#[test]
fn a_certificate_of_ours_is_shown_to_hosts_that_ask_and_its_key_comes_back() {
    // smtpd.conf(5), relay: pki. The key is with a process of its own, which is started again.
    let authority = Authority::new();
    let host = || TlsHost::start(Manner::with(authority.certify(NAME)).asking(&authority));
    let (first, second) = (host(), host());
    let ours = authority.certify("client.example.org");
    let dir = root(&authority);
    fs::write(dir.path().join("our.crt"), &ours.pem).expect("a certificate");
    write_key(&dir.path().join("our.key"), &ours.key_pem());
    let daemon = relay_in(
        dir,
        "pki us cert \"$dir/our.crt\"\npki us key \"$dir/our.key\"\nca all cert \"$dir/ca.pem\"",
        &format!(
            "pki us ca all tls domain {{ \"a.example\" = \"{}\", \"b.example\" = \"{}\" }}",
            url("smtp", &first),
            url("smtp", &second)
        ),
    );
    submit(&daemon, "bob@a.example");
    first.wait("tls: message");
    assert!(first.has("tls: certificate"), "{:?}", first.heard());
    let keys = keys_pid(&daemon, None);
    daemon.signal(keys, "KILL");
    daemon.wait_log("lost child: keys terminated; signal 9");
    submit(&daemon, "bob@b.example");
    second.wait("tls: message");
    assert!(second.has("tls: certificate"), "{:?}", second.heard());
    assert_ne!(keys_pid(&daemon, Some(keys)), keys);
    daemon.wait_empty();
}

fn write_key(path: &Path, pem: &str) {
    fs::write(path, pem).expect("a key");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
}

#[test]
fn what_cannot_be_is_refused_before_anything_starts_with_the_line_that_asks_for_it() {
    let authority = Authority::new();
    let dir = root(&authority);
    fs::write(
        dir.path().join("none.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n",
    )
    .expect("a file");
    let daemon = Setup::new("match reject\n").prepare_in(dir);
    for (text, line, complaint) in [
        (
            "action a relay protocols sslv3",
            1,
            "failed to parse protocols \"sslv3\"",
        ),
        (
            "\naction a relay ciphers NOSUCH",
            2,
            "nothing is known as \"NOSUCH\"",
        ),
        (
            "smtp ciphers RC4\naction a relay",
            1,
            "smtp ciphers: failed to parse ciphers \"RC4\"",
        ),
        (
            "ca x cert \"$dir/none.pem\"\naction a relay ca x tls",
            2,
            "ca x: failed to load CA file",
        ),
    ] {
        daemon.configure(&format!("{text}\nmatch for any action a\n"));
        let mut command = daemon.program("smtpd");
        command.arg("-n").arg("-R").arg(daemon.path());
        let output = command.output().expect("smtpd -n");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{text}: {said}");
        let at = format!("smtpd.conf:{line}: ");
        assert!(
            said.contains(&at) && said.contains(complaint),
            "{text}: {said}"
        );
    }
}

#[test]
fn a_chain_of_any_length_costs_its_host_the_handshake_and_nobody_else() {
    // CVE-2015-7687 and its like. From half a kilobyte to more than a megabyte.
    let authority = Authority::new();
    let lengths = [0, 10, 100, 160, 300, 3000];
    let hosts = lengths.map(|count| {
        let certificate = authority.certify(NAME).followed_by(count);
        TlsHost::start(Manner::with(certificate))
    });
    let places: Vec<String> = hosts
        .iter()
        .zip(lengths)
        .map(|(host, count)| format!("\"d{count}.example\" = \"{}\"", url("smtp", host)))
        .collect();
    let daemon = relay(&authority, &format!("domain {{ {} }}", places.join(", ")));
    let engine = daemon.engine_pid();
    for count in lengths {
        submit(&daemon, &format!("bob@d{count}.example"));
    }
    for host in &hosts {
        wait_for("the message", || {
            host.has("tls: message") || host.has("plain: message")
        });
    }
    assert!(hosts[0].has("tls: message") && hosts[1].has("tls: message"));
    assert!(hosts[5].has("plain: message"), "{:?}", hosts[5].heard());
    daemon.wait_empty();
    assert_eq!(daemon.engine_pid(), engine);
}

#[test]
fn a_greeting_in_plain_text_is_no_handshake() {
    // smtps:// to a port of SMTP.
    let authority = Authority::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || {
        use std::io::Write;
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"220 mx.example.com ESMTP\r\n");
        }
    });
    let daemon = relay(&authority, &format!("host smtps://{NAME}:{port}"));
    submit(&daemon, "bob@a.example");
    daemon.wait_log(" mta error reason=IO Error: ");
    daemon.wait_log(&format!("stat=\"{NAME} (127.0.0.1): IO Error: "));
}

//! smtpd(8): the process that holds the private keys, and what must never be in the engine's memory.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::process::Command;

use crate::submission::{SUBMISSION, address, config, daemon, hash, plain, world};
use crate::support::tls_client::TlsClient;
use crate::support::{Setup, can_have_users, not_run, run, wait_for};

#[test]
fn keys_that_die_come_back() {
    // smtpd(8): a process that holds the keys and ends is started again.
    let daemon = daemon(world(), SUBMISSION);
    drop(TlsClient::starttls(address(&daemon, 1)));
    let find = || {
        let output = run(
            {
                let mut command = Command::new("pgrep");
                command.args([
                    "-P",
                    &daemon.pid().to_string(),
                    "-f",
                    "-x",
                    ".*-x keys.*|smtpd: keys",
                ]);
                command
            },
            b"",
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .next()
            .and_then(|line| line.parse::<u32>().ok())
    };
    let first = find().expect("the keys' process");
    daemon.signal(first, "KILL");
    daemon.wait_log("lost child: keys terminated");
    wait_for("another one", || find().is_some_and(|pid| pid != first));
    let mut client = TlsClient::starttls(address(&daemon, 1));
    assert!(client.ask("NOOP").starts_with("250 "));
}

/// Where in a process's memory `needle` is.
fn in_memory(pid: u32, needle: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let mut memory = File::open(format!("/proc/{pid}/mem")).expect("mem");
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else {
            continue;
        };
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        let parse = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
        let (start, end) = (parse(start), parse(end));
        if !rights.starts_with('r') || line.contains("[v") || end - start > 1 << 30 {
            continue;
        }
        let mut bytes = vec![0; (end - start) as usize];
        if memory.seek(SeekFrom::Start(start)).is_err() || memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        if bytes.windows(needle.len()).any(|window| window == needle) {
            return true;
        }
    }
    false
}

#[test]
fn no_private_key_and_no_hash_of_the_system_is_ever_in_the_engine() {
    // smtpd(8): keys are in a process of their own; the system's passwords are checked elsewhere.
    let test = "no_private_key_and_no_hash_of_the_system_is_ever_in_the_engine";
    if !can_have_users(test) {
        return;
    }
    let world = world();
    let (hash, key) = (hash("s3cret of the system"), world.p.key_der());
    let write = |name: &str, text: &str| fs::write(world.dir.path().join(name), text).expect(name);
    let passwd = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n\
                  sue:x:7001:7001::/nonexistent:/bin/false\n";
    write("passwd", passwd);
    write(
        "shadow",
        &format!("root:*:19000:0:99999:7:::\nsue:{hash}:19000:0:99999:7:::\n"),
    );
    write(
        "group",
        "root:x:0:\nnogroup:x:65534:\nshadow:x:42:\nsue:x:7001:\n",
    );
    let pem = world.p.key_pem();
    let daemon = Setup::new(&config("listen on 127.0.0.1 port $port tls pki p auth"))
        .with_users()
        .start_in(world.dir);
    let mut client = TlsClient::starttls(address(&daemon, 1));
    let wrong = client.ask(&format!("AUTH PLAIN {}", plain("sue", "wrong")));
    if wrong.starts_with("454 ") {
        return not_run(test, "this system checks no passwords");
    }
    assert!(wrong.starts_with("535 "), "{wrong}");
    let right = client.ask(&format!(
        "AUTH PLAIN {}",
        plain("sue", "s3cret of the system")
    ));
    assert!(right.starts_with("235 "), "{right}");
    let engine = daemon.engine_pid();
    // The number itself: PKCS #8 has it behind 36 bytes of a key for P-256.
    let scalar = &key[36..68];
    assert!(in_memory(engine, b"mx.example.org"), "memory can be read");
    for needle in [
        scalar,
        hash.as_bytes(),
        hash.rsplit('$').next().expect("a digest").as_bytes(),
        pem.lines().nth(1).expect("a line").as_bytes(),
    ] {
        assert!(!in_memory(engine, needle));
    }
}

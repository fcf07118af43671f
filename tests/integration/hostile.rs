//! Peers, local users and disks that mean harm: what they send stays data, and the daemon serves on.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use smtpd::sys::fdpass::{self, Wait};

use crate::dice::Dice;
use crate::mda::start_with_users;
use crate::support::{Client, Instance, Setup, alive, body, field, files, is_root, tree, wait_for};

/// Sends all of it, says nothing more, and returns whatever comes back.
fn all_replies(mut client: Client, script: &[u8]) -> Vec<String> {
    let _ = client.try_send(script);
    std::iter::from_fn(|| client.try_reply()).collect()
}

/// A new session still works, and nobody has died on the way.
fn still_serves(daemon: &Instance) {
    let mut client = daemon.hello();
    client.say("NOOP", 250);
    client.say("QUIT", 221);
    assert!(!daemon.log().contains("lost child"), "{}", daemon.log());
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

/// No line of the log holds a control character, and each one begins as ours do.
fn log_is_sound(daemon: &Instance) {
    for line in daemon.log().lines() {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let session = line.get(..16).is_some_and(|id| {
            id.bytes().all(|b| b.is_ascii_hexdigit()) && line[16..].starts_with(' ')
        });
        let ours = [
            "info: ",
            "warn: ",
            "debug: ",
            "delivery: ",
            "relay: ",
            "Exiting",
        ];
        assert!(
            session || ours.iter().any(|start| line.starts_with(start)),
            "{line:?}"
        );
    }
}

#[test]
fn what_follows_starttls_in_the_same_segment_is_not_taken_for_encrypted() {
    // CVE-2011-0411: a 220 to STARTTLS must be the last answer to anything sent in clear.
    let daemon = Setup::maildir().start();
    let script = b"EHLO client.example.net\r\nSTARTTLS\r\nRSET\r\nMAIL FROM:<a@example.net>\r\n\
                   RCPT TO:<b@example.org>\r\nQUIT\r\n";
    let replies = all_replies(daemon.client(), script);
    let offered = replies[0].lines().any(|line| line.ends_with("STARTTLS"));
    if replies[1].starts_with("220 ") {
        assert!(offered && replies.len() == 2, "{replies:?}");
    } else {
        let codes: Vec<&str> = replies[1..].iter().map(|reply| &reply[..3]).collect();
        assert!(!offered, "{replies:?}");
        assert_eq!(codes, ["503", "250", "250", "250", "221"], "{replies:?}");
    }
    still_serves(&daemon);
}

/// A session with `byte` in every place where a client may put text.
fn session_with(byte: u8) -> Vec<u8> {
    let text = b"\nSubject: x\n\nx\n.\n";
    let [local, domain, param] = [b"a?z".as_slice(), b"ex?mple.net", b"+3D?q"];
    let lines: [&[&[u8]]; 12] = [
        &[b"EHLO cl", b"?", b"ent.example.net"],
        &[b"EHLO client.example.net"],
        &[b"MAIL FROM:<", local, b"@example.net>"],
        &[b"RCPT TO:<", local, b"@example.org>"],
        &[b"DATA", text],
        &[b"RSET"],
        &[b"MAIL FROM:<a@", domain, b">"],
        &[b"RCPT TO:<b@", domain, b">"],
        &[b"DATA", text],
        &[b"RSET"],
        &[b"MAIL FROM:<p@example.net> RET=HDRS ENVID=", param],
        &[
            b"RCPT TO:<p@example.org> NOTIFY=FAILURE ORCPT=rfc822;",
            param,
        ],
    ];
    let mut script = Vec::new();
    for line in lines {
        for &part in line.concat().iter() {
            match part {
                b'?' => script.push(byte),
                b'\n' => script.extend_from_slice(b"\r\n"),
                part => script.push(part),
            }
        }
        script.extend_from_slice(b"\r\n");
    }
    script.extend_from_slice(b"DATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n");
    script
}

#[test]
fn no_byte_of_an_address_adds_a_line_anywhere() {
    // CVE-2020-8794: every byte in local part, domain, parameters and HELO.
    let daemon = Setup::maildir().arg("-Pmda").start();
    for byte in 0..=255 {
        all_replies(daemon.client(), &session_with(byte));
    }
    let envelopes = daemon.queue();
    // Letters, digits and what else a local part may hold, and the clean parameters.
    assert!(envelopes.len() > 200, "{}", envelopes.len());
    for line in &envelopes {
        let id = line.split('|').next().unwrap();
        let bytes = daemon.ctl(["show", "envelope", id]).stdout;
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.contains(['\r', '\0', '\x1b']), "{text:?}");
        let names: Vec<&str> = text
            .lines()
            .map(|line| line.split_once(": ").expect("a field").0)
            .collect();
        let distinct: BTreeSet<&&str> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{text}");
        for once in ["sender", "rcpt", "dest", "helo", "dispatcher"] {
            assert!(names.contains(&once), "{text}");
        }
        assert!(!names.contains(&"mda-exec"), "{text}");
    }
    daemon.ctl(["resume", "mda"]);
    for mail in daemon.wait_mail(envelopes.len()) {
        let end = mail.windows(9).position(|w| w == b"Subject: ").unwrap();
        let head = String::from_utf8(mail[..end].to_vec()).unwrap();
        let names: Vec<&str> = head
            .lines()
            .filter(|line| !line.starts_with('\t'))
            .map(|line| line.split(':').next().unwrap_or_default())
            .collect();
        assert_eq!(names, ["Return-Path", "Delivered-To", "Received"], "{head}");
        let odd = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!head.contains(odd), "{head:?}");
    }
    log_is_sound(&daemon);
    still_serves(&daemon);
}

#[test]
fn a_client_writes_no_line_of_its_own_into_the_log() {
    // ESC, CR/LF, NUL, 8-bit and quotes are escaped within one line.
    let daemon = Setup::maildir().start();
    let evil: [&[u8]; 9] = [
        b"\x1b[2J\x1b]0;title\x07",
        b"\r0123456789abcdef smtp connected address=forged host=forged",
        b"x\0y",
        b"\xff\xfe\xc3\x28",
        b"\" result=\"250 forged\" x=\"",
        b"\\\" result=\"250 forged",
        b"\xc2\x85\xe2\x80\xa8\xe2\x80\xae",
        b"%s%n%s%n {} \\n",
        b"\t\x08\x7f",
    ];
    for text in evil {
        for verb in [
            b"HELO ".as_slice(),
            b"EHLO client.example.net\r\nMAIL FROM:<",
            b"EHLO client.example.net\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<",
            b"",
            b"VRFY \r\nAUTH PLAIN ",
        ] {
            let script = [verb, text, b">\r\nQUIT\r\n"].concat();
            all_replies(daemon.client(), &script);
        }
    }
    daemon.wait_log("disconnected reason=quit");
    log_is_sound(&daemon);
    let log = daemon.log();
    for line in log.lines().filter(|line| line.contains("failed-command")) {
        // Without what is escaped, five quotes would be one too many.
        let bare = line.replace("\\\\", "").replace("\\\"", "");
        assert_eq!(bare.matches('"').count(), 4, "{line}");
    }
    let forged = |line: &&str| line.starts_with("0123456789abcdef");
    assert_eq!(log.lines().find(forged), None);
    still_serves(&daemon);
}

#[test]
fn endless_arguments_and_lines_end_the_session_only() {
    // The erratum of 2019-08-01: over-long input was fatal.
    let daemon = Setup::maildir().start();
    let long = "x".repeat(64 * 1024);
    for command in [
        "HELO ",
        "EHLO ",
        "MAIL FROM:<",
        "RCPT TO:<",
        "DATA ",
        "HELP ",
        "NOOP ",
        "",
    ] {
        for length in [2047, 2048, 65534, 65536] {
            let script = format!(
                "EHLO client.example.net\r\n{command}{}\r\nQUIT\r\n",
                &long[..length]
            );
            let replies = all_replies(daemon.client(), script.as_bytes());
            let last = replies.last().expect("an answer");
            assert!(
                last.starts_with("500 ") || last.starts_with("221 "),
                "{replies:?}"
            );
        }
    }
    let mut endless = daemon.hello();
    let piece = vec![b'x'; 64 * 1024];
    let refused = (0..32).any(|_| endless.try_send(&piece).is_err());
    let reply = endless.reply();
    assert!(
        refused || reply.starts_with("500 ") || reply.is_empty(),
        "{reply}"
    );
    let mut data = daemon.hello();
    data.say("MAIL FROM:<a@example.net>", 250);
    data.say("RCPT TO:<b@example.org>", 250);
    data.say("DATA", 354);
    let _ = (0..32).any(|_| data.try_send(&piece).is_err());
    let reply = data.reply();
    assert!(reply.starts_with("500 ") || reply.is_empty(), "{reply}");
    still_serves(&daemon);
    assert!(daemon.spooled().is_empty());
}

#[test]
fn commands_in_any_order_leave_a_daemon_that_serves() {
    // The erratum of 2016-10-03: session logic crashed on unexpected orders.
    const SEED: u64 = 0x5eed_0f5e_551d;
    const WORDS: [&[u8]; 22] = [
        b"EHLO client.example.net\r\n",
        b"HELO client.example.net\r\n",
        b"MAIL FROM:<a@example.net>\r\n",
        b"MAIL FROM:<>\r\n",
        b"MAIL FROM:<a@example.net> SIZE=9999999999999999999999\r\n",
        b"RCPT TO:<b@example.org>\r\n",
        b"RCPT TO:<>\r\n",
        b"DATA\r\n",
        b".\r\n",
        b"Subject: x\r\n\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"HELP\r\n",
        b"VRFY x\r\n",
        b"STARTTLS\r\n",
        b"AUTH PLAIN AGEAYg==\r\n",
        b"\r\n",
        b"\n",
        b"MAIL",
        b"\0\r\n",
        b"QUIT\r\n",
        b"BDAT 10 LAST\r\n",
    ];
    let daemon = Setup::maildir().start();
    let mut dice = Dice::new(SEED);
    for _ in 0..80 {
        let mut client = daemon.client();
        for _ in 0..dice.roll(50) {
            if client.try_send(WORDS[dice.roll(WORDS.len())]).is_err() {
                break;
            }
        }
        // Half of them go without a word, the others read to the end.
        if dice.roll(2) == 0 {
            all_replies(client, b"\r\n.\r\nQUIT\r\n");
        }
    }
    still_serves(&daemon);
    log_is_sound(&daemon);
}

#[test]
fn half_frames_hold_nobody_else_up() {
    // OpenSMTPD 5.7.2 ended it: a local user floods the control socket.
    let daemon = Setup::maildir().start();
    let half: [&[u8]; 4] = [b"", b"\x10", b"\x10\0\0\0\x01", b"\xff\xff\x03\0\x01\x09"];
    let flood: Vec<UnixStream> = (0..64)
        .filter_map(|n: usize| {
            let mut stream = UnixStream::connect(daemon.path().join("smtpd.sock")).ok()?;
            let _ = stream.write_all(half[n % half.len()]);
            Some(stream)
        })
        .collect();
    daemon.wait_log("too many connections to control socket from user with uid");
    still_serves(&daemon);
    drop(flood);
    wait_for("smtpctl to be heard", || {
        daemon.ctl(["show", "status"]).status.success()
    });
    // Each of these ends its connection at once.
    for bytes in [
        b"\0\0\0\0".to_vec(),
        b"\x01\0\0\0\x01".to_vec(),
        u32::MAX.to_le_bytes().to_vec(),
        [&[2, 0, 0, 0, 255, 1][..]].concat(),
        vec![0xff; 300 * 1024],
    ] {
        let mut stream = UnixStream::connect(daemon.path().join("smtpd.sock")).unwrap();
        let _ = stream.write_all(&bytes);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    daemon.wait_log("sent invalid imsg over control socket");
    still_serves(&daemon);
}

#[test]
fn descriptors_that_come_over_the_control_socket_are_not_kept() {
    // OpenSMTPD 5.7.2 ran out of them: a local user passes some with every frame.
    let daemon = Setup::maildir().start();
    if !cfg!(target_os = "linux") {
        return;
    }
    let engine = daemon.engine_pid();
    let open = || fs::read_dir(format!("/proc/{engine}/fd")).map_or(0, Iterator::count);
    let before = open();
    let file = fs::File::open("/dev/null").unwrap();
    let flood: Vec<UnixStream> = (0..16)
        .map(|_| {
            let stream = UnixStream::connect(daemon.path().join("smtpd.sock")).unwrap();
            // The first of these is a frame that has begun.
            for bytes in [&b""[..], b"x", b"xx", b"xxx"] {
                let _ = fdpass::send(stream.as_fd(), bytes, &[file.as_fd(); 16], Wait::No);
            }
            stream
        })
        .collect();
    still_serves(&daemon);
    assert!(open() < before + 64, "{before} before, {} after", open());
    drop(flood);
    wait_for("the connections to be closed", || open() < before + 16);
}

fn outcome(daemon: &Instance) -> String {
    let mut found = String::new();
    wait_for("an outcome", || {
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains(" mda delivery "));
        found = line
            .and_then(|line| line.split_once(" result="))
            .map_or("", |(_, result)| result)
            .to_string();
        !found.is_empty()
    });
    found
}

fn with_command(command: &str) -> Instance {
    let config = format!(
        "listen on 127.0.0.1 port $port\naction \"in\" mda \"{command}\" virtual $all\n\
         match from any for any action \"in\"\n"
    );
    Setup::new(&config).start()
}

/// A process id that a command has left in a file.
fn pid_in(daemon: &Instance, name: &str) -> u32 {
    let path = daemon.path().join(name);
    let mut found = None;
    wait_for(&format!("{name} to hold a process id"), || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        found = text
            .ends_with('\n')
            .then(|| text.trim().parse().ok())
            .flatten();
        found.is_some()
    });
    found.unwrap_or(0)
}

#[test]
fn a_descendant_that_keeps_the_pipes_open_delays_nothing() {
    let daemon = with_command("cat >/dev/null; sleep 600 & echo $! >$dir/pid; echo done; exit 0");
    daemon.hello().mail("", &["b@example.org"], b"\nx\n");
    assert_eq!(outcome(&daemon), "Ok stat=Delivered");
    let descendant = pid_in(&daemon, "pid");
    assert!(alive(descendant));
    daemon.signal(descendant, "KILL");
    daemon.wait_empty();
}

#[test]
fn a_flood_of_output_is_drained_and_its_end_kept() {
    let daemon =
        with_command("cat >/dev/null; head -c 20000000 /dev/zero; echo; echo at last; exit 77");
    daemon.hello().mail("", &["b@example.org"], b"\nx\n");
    assert_eq!(
        outcome(&daemon),
        "PermFail stat=Error (permission denied: \"at last\")"
    );
    daemon.wait_empty();
    log_is_sound(&daemon);
}

#[test]
fn a_delivery_that_ignores_signals_ends_with_the_daemon_and_is_not_lost() {
    let mut daemon = with_command(
        "trap '' TERM INT HUP; cat >/dev/null; echo $$ >$dir/pid; while :; do sleep 1; done",
    );
    daemon.hello().mail("", &["b@example.org"], b"\nx\n");
    let delivery = pid_in(&daemon, "pid");
    let engine = daemon.engine_pid();
    // Asked again, the daemon waits for nobody.
    while !daemon.log().contains("Exiting") {
        daemon.signal(daemon.pid(), "TERM");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(daemon.wait_end().code(), Some(0));
    wait_for("all of it to be gone", || {
        !alive(delivery) && !alive(engine)
    });
    assert_eq!(daemon.queue().len(), 1);
}

#[test]
fn a_killed_engine_makes_no_part_of_a_message_look_whole() {
    // The command must see the end of its input only behind the whole message.
    let mut daemon = with_command(
        "echo $$ >$dir/pid; while ! test -e $dir/go; do sleep 0.02; done; \
         cat >$dir/part.$$ && mv $dir/part.$$ $dir/whole.$$",
    );
    let text = [
        b"Subject: long\n\n".to_vec(),
        b"0123456789abcde\n".repeat(65536),
    ]
    .concat();
    daemon.hello().mail("", &["b@example.org"], &text);
    let first = pid_in(&daemon, "pid");
    let engine = daemon.engine_pid();
    daemon.signal(engine, "KILL");
    fs::write(daemon.path().join("go"), "").unwrap();
    wait_for("the first delivery to be gone", || !alive(first));
    daemon.wait_log("lost child: engine terminated; signal 9");
    let whole = || -> Vec<PathBuf> {
        let all = files(daemon.path());
        all.into_iter()
            .filter(|path| path.to_string_lossy().contains("/whole."))
            .collect()
    };
    wait_for("the message to be delivered again", || !whole().is_empty());
    for path in whole() {
        let got = fs::read(path).unwrap();
        assert!(body(&got) == body(&text), "{} bytes", got.len());
    }
    wait_for("the new engine", || daemon.queue().is_empty());
    assert_eq!(whole().len(), 1);
    daemon.stop();
}

fn mkfifo(path: &Path) {
    let status = Command::new("mkfifo").arg(path).status();
    assert!(status.is_ok_and(|status| status.success()));
}

/// Makes what stands in the daemon's own rooms its own.
fn hand_over(daemon: &Instance, path: &Path) {
    if is_root() {
        let owner = fs::metadata(daemon.path().join("spool/offline")).unwrap();
        lchown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

#[test]
fn only_plain_files_of_their_writers_are_replayed() {
    // OpenSMTPD 5.7.2, CVE-2020-8793: links, FIFOs and others' files in the offline queue.
    let mut daemon = Setup::maildir().start();
    daemon.stop();
    let send = |subject: &str| {
        let text = format!("Subject: {subject}\n\nx\n");
        let output = daemon.sendmail(["-f", "a@example.net", "b@example.org"], text.as_bytes());
        assert!(output.status.success(), "{output:?}");
    };
    let offline = daemon.path().join("spool/offline");
    send("linked");
    let stored = files(&offline).remove(0);
    let outside = daemon.path().join("outside");
    fs::rename(&stored, &outside).unwrap();
    let mut zoo = vec![
        "1.symlink",
        "1.hardlink",
        "1.fifo",
        "1.directory",
        "1.dangling",
    ];
    symlink(&outside, offline.join("1.symlink")).unwrap();
    symlink("/nonexistent", offline.join("1.dangling")).unwrap();
    fs::hard_link(&outside, offline.join("1.hardlink")).unwrap();
    mkfifo(&offline.join("1.fifo"));
    fs::create_dir(offline.join("1.directory")).unwrap();
    let mut said = vec!["not regular", "is hard-link"];
    if is_root() {
        let status = Command::new("mknod")
            .arg(offline.join("1.device"))
            .args(["c", "1", "5"])
            .status();
        if status.is_ok_and(|status| status.success()) {
            zoo.push("1.device");
        }
        for (name, uid, gid) in [("1.group", None, Some(0)), ("1.owner", Some(1), None)] {
            let path = offline.join(name);
            fs::copy(&outside, &path).unwrap();
            hand_over(&daemon, &path);
            chown(&path, uid, gid).unwrap();
            zoo.push(name);
        }
        said.extend(["has the wrong group", "1.owner: Permission denied"]);
    }
    for name in ["1.garbage", "1.arguments"] {
        let path = offline.join(name);
        let text = [b"-bi|-q|\xff\0|\n".to_vec(), vec![0xfe; 5000]].concat();
        fs::write(&path, text).unwrap();
        hand_over(&daemon, &path);
        zoo.push(name);
    }
    send("good one");
    send("good two");
    daemon.start();
    let mut subjects: Vec<String> = daemon
        .wait_mail(2)
        .iter()
        .map(|mail| field(mail, "Subject").unwrap())
        .collect();
    subjects.sort();
    assert_eq!(subjects, ["good one", "good two"]);
    for text in said {
        daemon.wait_log(text);
    }
    wait_for("the replayed files to go", || {
        files(&offline).len() == zoo.len()
    });
    for name in zoo {
        assert!(offline.join(name).symlink_metadata().is_ok(), "{name}");
    }
    still_serves(&daemon);
    assert_eq!(daemon.maildir("mail").len(), 2);
}

#[test]
fn a_stored_message_is_replayed_as_its_owner_or_not_at_all() {
    // sendmail(8): the owner of a stored file is who sent it; root's rights are nobody's.
    let setup = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"in\" maildir\n\
         match from any for local action \"in\"\n",
    );
    const NAME: &str = "a_stored_message_is_replayed_as_its_owner_or_not_at_all";
    let Some(mut daemon) = start_with_users(NAME, setup) else {
        return;
    };
    daemon.stop();
    let offline = daemon.path().join("spool/offline");
    let group = fs::metadata(&offline).unwrap().gid();
    for (name, uid) in [("1.alice", 54322), ("1.stranger", 4_000_000)] {
        let text = format!(
            "smtpd-offline 1\ndate: 1\nsender: {name}@example.net\n\
             rcpt: bob@mx.example.org\n\nSubject: {name}\n\nx\n"
        );
        fs::write(offline.join(name), text).unwrap();
        chown(offline.join(name), Some(uid), Some(group)).unwrap();
    }
    daemon.start();
    daemon.wait_log("getpwuid for uid 4000000 failed");
    let new = daemon.path().join("home/bob/Maildir/new");
    wait_for("alice's message", || files(&new).len() == 1);
    let mail = fs::read(&files(&new)[0]).unwrap();
    assert_eq!(field(&mail, "Subject").as_deref(), Some("1.alice"));
    wait_for("alice's file to go", || files(&offline).len() == 1);
    still_serves(&daemon);
}

#[test]
fn a_delivery_starts_with_a_clean_process() {
    // smtpd.conf(5), MDA COMMANDS: these variables and no others; nothing else is inherited.
    if !cfg!(target_os = "linux") {
        return;
    }
    let config = "listen on 127.0.0.1 port $port\naction \"in\" mda \"cat >/dev/null; \
                  cat /proc/self/status >$dir/status; ls /proc/self/fd >$dir/fds; \
                  (umask; env) >$dir/env\" virtual $all\nmatch from any for any action \"in\"\n";
    let daemon = Setup::new(config)
        .env("LD_LIBRARY_PATH", "/nonexistent")
        .env("BASH_ENV", "/nonexistent")
        .env("SECRET", "hush")
        .start();
    daemon.hello().mail("", &["b@example.org"], b"\nx\n");
    assert_eq!(outcome(&daemon), "Ok stat=Delivered");
    let read = |name: &str| fs::read_to_string(daemon.path().join(name)).unwrap();
    let status = read("status");
    let mask = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.unwrap_or("?").trim(), 16).expect("a mask")
    };
    assert_eq!(mask("SigBlk:"), 0, "{status}");
    // The C library keeps the signals behind 31 for itself.
    assert_eq!(mask("SigIgn:") & 0x7fff_ffff, 0, "{status}");
    assert_eq!(mask("Seccomp:"), 0, "{status}");
    // The fourth is the directory that ls(1) reads.
    assert_eq!(read("fds").lines().count(), 4, "{}", read("fds"));
    let env = read("env");
    let mut lines = env.lines();
    assert_eq!(lines.next(), Some("0077"));
    const KNOWN: [&str; 14] = [
        "PATH",
        "SHELL",
        "HOME",
        "LOGNAME",
        "USER",
        "DOMAIN",
        "LOCAL",
        "ORIGINAL_RECIPIENT",
        "RECIPIENT",
        "SENDER",
        "PWD",
        "OLDPWD",
        "_",
        "SHLVL",
    ];
    for line in lines {
        let name = line.split('=').next().unwrap_or_default();
        assert!(KNOWN.contains(&name), "{env}");
    }
    let environ = format!("/proc/{}/environ", daemon.engine_pid());
    // A process that has changed its user shows this to root alone.
    let environ = fs::read(environ).unwrap_or_default();
    for leaked in [b"SECRET".as_slice(), b"LD_", b"BASH_ENV"] {
        assert!(!environ.windows(leaked.len()).any(|part| part == leaked));
    }
}

/// Values for a field of an envelope file that nobody would write.
fn hostile_values() -> Vec<Vec<u8>> {
    [
        "",
        " ",
        "-1",
        "0",
        "1",
        "65536",
        "4294967296",
        "18446744073709551615",
        "99999999999999999999999",
        "@",
        "@@",
        "a@b@c",
        "[::1%lo]",
        "../../../../etc/passwd",
        "x: y",
        "\"",
        "\u{e9}\u{202e}",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([
        b"\0".to_vec(),
        b"\xff\xfe".to_vec(),
        b"a\rb".to_vec(),
        b"x\nmda-exec: true".to_vec(),
        vec![b'x'; 9000],
    ])
    .collect()
}

/// Every field of an envelope with every value, and files that are none.
fn hostile_envelopes(good: &str) -> Vec<Vec<u8>> {
    let lines: Vec<&str> = good
        .lines()
        .filter(|line| !line.starts_with("check:"))
        .collect();
    let with = |at: usize, line: &[u8]| -> Vec<u8> {
        let mut all = Vec::new();
        for (number, old) in lines.iter().enumerate() {
            all.extend_from_slice(if number == at { line } else { old.as_bytes() });
            all.push(b'\n');
        }
        all
    };
    let mut made = vec![
        Vec::new(),
        vec![0; 100],
        vec![b'x'; 1 << 20],
        b"version: 3\n".to_vec(),
        b"version: 4\n".repeat(400),
        good.replace("check: ", "check: 0").into_bytes(),
        good.as_bytes()[..good.len() / 2].to_vec(),
    ];
    for (at, line) in lines.iter().enumerate() {
        let name = line.split(':').next().unwrap_or_default();
        made.push(with(at, b""));
        for value in hostile_values() {
            made.push(with(at, &[name.as_bytes(), b": ", &value].concat()));
        }
    }
    made
}

#[test]
fn a_spool_full_of_hostile_envelopes_stops_nothing() {
    // OpenSMTPD#1046 and CVE-2023-29323: one bad envelope file ended the daemon.
    let mut daemon = Setup::maildir().arg("-Pmda").start();
    let id = daemon
        .hello()
        .mail("", &["b@example.org"], b"Subject: good\n\nx\n");
    daemon.stop();
    let queue = daemon.path().join("spool/queue");
    let good = daemon
        .spooled()
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name.len() == 16))
        .unwrap();
    let message = good.with_file_name("message");
    let good = fs::read_to_string(good).unwrap();
    let mut count = 0_u32;
    let mut place = |files: &mut dyn FnMut(&Path, u32)| {
        count += 1;
        let msgid = 0x1000_0000 + count * 0x0040_0000;
        let dir = queue.join(format!("{:02x}/{msgid:08x}", msgid >> 24));
        fs::create_dir_all(&dir).unwrap();
        files(&dir, msgid);
        dir
    };
    let mut dirs = Vec::new();
    for text in hostile_envelopes(&good) {
        dirs.push(place(&mut |dir, msgid| {
            fs::copy(&message, dir.join("message")).unwrap();
            fs::write(dir.join(format!("{msgid:08x}00000001")), &text).unwrap();
        }));
    }
    let good = good.as_bytes();
    dirs.push(place(&mut |dir, msgid| {
        fs::write(dir.join(format!("{msgid:08x}00000001")), good).unwrap();
    }));
    dirs.push(place(&mut |dir, msgid| {
        mkfifo(&dir.join("message"));
        fs::write(dir.join(format!("{msgid:08x}00000001")), good).unwrap();
    }));
    dirs.push(place(&mut |dir, msgid| {
        fs::copy(&message, dir.join("message")).unwrap();
        mkfifo(&dir.join(format!("{msgid:08x}00000001")));
        symlink("/etc/passwd", dir.join(format!("{msgid:08x}00000002"))).unwrap();
        fs::create_dir(dir.join(format!("{msgid:08x}00000003"))).unwrap();
    }));
    fs::write(queue.join("zz"), "stray").unwrap();
    fs::create_dir(queue.join("not a bucket")).unwrap();
    if is_root() {
        let status = Command::new("chown")
            .args(["-hR", "65534:65534"])
            .arg(&queue)
            .status();
        assert!(status.is_ok_and(|status| status.success()));
    }
    daemon.start();
    let corrupt = daemon.path().join("spool/corrupt");
    // Most values are wrong for most fields.
    wait_for("the unreadable to be set aside", || {
        files(&corrupt).len() > dirs.len() / 2 && daemon.queue().iter().any(|l| l.starts_with(&id))
    });
    assert!(daemon.ctl(["schedule", "all"]).status.success());
    assert!(daemon.ctl(["resume", "mda"]).status.success());
    let arrived = |subject: &str| {
        let mail = daemon.maildir("mail");
        mail.iter()
            .any(|mail| field(mail, "Subject").as_deref() == Some(subject))
    };
    wait_for("the good message", || arrived("good"));
    daemon.hello().mail(
        "a@example.net",
        &["b@example.org"],
        b"Subject: fresh\n\nx\n",
    );
    wait_for("a fresh message", || arrived("fresh"));
    still_serves(&daemon);
    log_is_sound(&daemon);
    assert!(!tree(&corrupt).is_empty());
    daemon.stop();
}

#[test]
fn strangers_are_relayed_nowhere() {
    // The classic forms of relaying, against the default rules.
    let daemon = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"local_mail\" maildir\n\
         match from local for local action \"local_mail\"\n",
    )
    .start();
    let forms = [
        "victim@relay.example",
        "victim%relay.example@mx.example.org",
        "victim%relay.example@[127.0.0.1]",
        "victim%relay.example",
        "\"victim@relay.example\"",
        "\"victim%relay.example\"",
        "\"victim@relay.example\"@mx.example.org",
        "\"victim@relay.example\"@[127.0.0.1]",
        "@mx.example.org:victim@relay.example",
        "@[127.0.0.1]:victim@relay.example",
        "@mx.example.org,@b.example:victim@relay.example",
        "relay.example!victim",
        "relay.example!victim@mx.example.org",
        "relay.example!victim@[127.0.0.1]",
        "victim@relay.example@mx.example.org",
        "victim@mx.example.org@relay.example",
        "victim@[192.0.2.1]",
        "victim@[IPv6:2001:db8::1]",
        "/etc/passwd@mx.example.org",
        "|id@mx.example.org",
        "../victim@mx.example.org",
    ];
    for sender in ["a@mx.example.org", "a@relay.example", "", "root@localhost"] {
        let mut client = daemon.hello();
        client.say(&format!("MAIL FROM:<{sender}>"), 250);
        for form in forms {
            let reply = client.ask(&format!("RCPT TO:<{form}>"));
            assert!(reply.starts_with('5'), "{form}: {reply}");
        }
        let reply = client.ask("DATA");
        assert!(reply.starts_with('5'), "{reply}");
    }
    assert!(daemon.spooled().is_empty());
}

//! smtpd-migration(7), From OpenSMTPD: queues as its 7.x writes them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::support::{Instance, Setup, body, field, give, is_root, wait_for};

const KEY: &str = "0123456789abcdef0123456789abcdef";
/// The user of another system's queue.
const OLD: u32 = 65_001;

/// How OpenSMTPD writes a file of its queue.
#[derive(Clone, Copy)]
struct Form {
    compressed: bool,
    encrypted: bool,
}

impl Form {
    fn options(self) -> String {
        let compression = if self.compressed {
            "queue compression\n"
        } else {
            ""
        };
        if self.encrypted {
            format!("{compression}queue encryption \"{KEY}\"\n")
        } else {
            compression.to_owned()
        }
    }

    fn write(self, path: &Path, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        if self.compressed {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
            gzip.write_all(&bytes).unwrap();
            bytes = gzip.finish().unwrap();
        }
        if self.encrypted {
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, KEY.as_bytes()).unwrap());
            let nonce = [bytes.len() as u8; 12];
            let sealed = Nonce::assume_unique_for_key(nonce);
            key.seal_in_place_append_tag(sealed, Aad::empty(), &mut bytes)
                .unwrap();
            bytes = [&[1][..], &nonce, &bytes].concat();
        }
        fs::write(path, bytes).unwrap();
    }
}

/// The lines that every envelope has; `kind` stands where they differ.
fn envelope(rcpt: &str, action: &str, kind: &str, more: &str) -> String {
    format!(
        "version: 3\ndispatcher: {action}\ntype: {kind}\nsmtpname: mx.example.org\n\
         helo: client.example.net\nhostname: client.example.net\nsockaddr: [2001:db8::7]\n\
         sender: alice@example.net\nrcpt: {rcpt}\ndest: {rcpt}\nctime: {}\nlast-try: 0\n\
         last-bounce: 0\nttl: 0\nretry: 3\nflags: authenticated enqueued\ndsn-notify: 0\n\
         esc-class: 4\nesc-code: 47\n{more}",
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
            - 3600
    )
}

fn message(n: u32) -> String {
    format!("Received: from client.example.net\nSubject: {n}\n\nold mail {n}\n.\n")
}

/// Messages `0..count`, a bucket for each of the first 256, and what else a queue may hold.
fn write_queue(dir: &Path, count: u32, form: Form) -> (usize, usize) {
    let queue = dir.join("spool/queue");
    let user = format!("mda-user: {}\n", user());
    let mut envelopes = 0;
    for n in 0..count {
        let id = format!("{:08x}", n << 24 | 0x0012_3400 | n >> 8);
        let message_dir = queue.join(&id[..2]).join(&id);
        fs::create_dir_all(&message_dir).unwrap();
        form.write(&message_dir.join("message"), &message(n));
        let mut add = |lower: u32, text: &str| {
            form.write(&message_dir.join(format!("{id}{lower:08x}")), text);
            envelopes += 1;
        };
        let box_of = |n: u32| envelope(&format!("box{n}@example.org"), "in", "mda", &user);
        match n {
            // Files and commands of its aliases are its own user's.
            0 => {
                let command = format!("cat >{}/command", dir.join("drop").display());
                let more = format!("mda-exec: {command}\nmda-user: opensmtpd\n");
                add(1, &envelope("command@example.org", "in", "mda", &more));
                let file = dir.join("drop/file").display().to_string();
                let more = format!(
                    "mda-exec: /gone/mail.mboxfile -f %{{mbox.from}} {file}\nmda-user: opensmtpd\n"
                );
                add(2, &envelope("file@example.org", "in", "mda", &more));
            }
            // A report that is still to be made.
            1 => {
                let more = "bounce-type: error\n".to_owned();
                let text = envelope("gone@example.org", "in", "bounce", &more);
                add(
                    1,
                    &text.replace("sender: alice@example.net", "sender: box@example.org"),
                );
            }
            2 => (1..=3).for_each(|n| add(n, &box_of(n))),
            n => add(1, &box_of(n)),
        }
    }
    (count as usize, envelopes)
}

/// Whom the deliveries of these tests are for.
fn user() -> String {
    let name = |uid: u32| {
        let all = fs::read_to_string("/etc/passwd").unwrap();
        let of = |line: &str| line.split(':').nth(2) == Some(uid.to_string().as_str());
        let line = all.lines().find(|line| of(line)).unwrap();
        line.split(':').next().unwrap().to_owned()
    };
    if is_root() {
        name(65_534)
    } else {
        name(fs::metadata("/proc/self").unwrap().uid())
    }
}

fn prepared(form: Form, count: u32) -> (Instance, usize, usize) {
    let config = "listen on 127.0.0.1 port $port\n\
                  action \"in\" maildir \"$dir/mail\" virtual $all\n\
                  match from any for any action \"in\"\n";
    let daemon = Setup::new(&format!("{}{config}", form.options()))
        .with_root()
        .prepare();
    let (messages, envelopes) = write_queue(daemon.path(), count, form);
    for (room, uid) in [("drop", 65_534), ("mail", 65_534), ("spool/queue", OLD)] {
        fs::create_dir_all(daemon.path().join(room)).unwrap();
        if is_root() {
            give(&daemon.path().join(room), uid);
        }
    }
    let mode = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(daemon.path().join("drop"), mode).unwrap();
    (daemon, messages, envelopes)
}

#[test]
fn a_queue_in_every_form_is_taken_over_and_delivered() {
    // smtpd-migration(7), From OpenSMTPD: plain, compressed, encrypted and both.
    for (compressed, encrypted) in [(false, false), (true, false), (false, true), (true, true)] {
        let form = Form {
            compressed,
            encrypted,
        };
        let (mut daemon, messages, envelopes) = prepared(form, 40);
        daemon.start();
        if is_root() {
            daemon.wait_log(&format!(
                "{messages} of {messages} messages with {envelopes} of {envelopes} envelopes of uid \
                 [{OLD}] taken over"
            ));
        }
        daemon.hello().mail(
            "a@example.net",
            &["b@example.org"],
            b"Subject: new\n\nnew\n",
        );
        // Two envelopes went elsewhere; the new message came.
        let found = daemon.wait_mail(envelopes - 2 + 1);
        for mail in &found {
            let subject = field(mail, "Subject").unwrap();
            if let Ok(n) = subject.parse() {
                let text = message(n);
                assert_eq!(body(mail), body(text.as_bytes()), "{subject}");
            }
        }
        let subjects = |what: &str| {
            let with = found
                .iter()
                .filter(|m| field(m, "Subject").unwrap() == what);
            with.count()
        };
        assert_eq!((subjects("2"), subjects("39"), subjects("new")), (3, 1, 1));
        daemon.wait_empty();
        let dropped = |name: &str| fs::read_to_string(daemon.path().join("drop").join(name));
        assert!(dropped("command").unwrap().ends_with("old mail 0\n.\n"));
        assert!(dropped("file").unwrap().contains("\nold mail 0\n.\n"));
        let corrupt = fs::read_dir(daemon.path().join("spool/corrupt"));
        assert_eq!(corrupt.unwrap().count(), 0);
    }
}

#[test]
fn what_was_taken_over_is_given_back_as_it_came() {
    // smtpd-migration(7), Back to OpenSMTPD: plain, and as its own files say.
    let form = Form {
        compressed: true,
        encrypted: true,
    };
    let (mut daemon, messages, envelopes) = prepared(form, 20);
    daemon.set_args(&["-P", "mda"]);
    daemon.start();
    daemon.stop();
    // One that nobody can read stops no other.
    let bad = daemon
        .path()
        .join("spool/queue/05/05123400/0512340000000001");
    fs::write(&bad, [1; 60]).unwrap();
    let out = daemon.path().join("out");
    let done = daemon.ctl(["export", out.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    let (messages, envelopes) = (messages - 1, envelopes - 1);
    assert_eq!(
        said,
        format!("{envelopes} envelopes exported in {messages} messages\n")
    );
    assert!(errors.contains("0512340000000001: "), "{errors}");
    assert!(
        errors.ends_with("1 files could not be read, and are not exported\n"),
        "{errors}"
    );
    assert_eq!(done.status.code(), Some(1));
    for n in [2u32, 19] {
        let id = format!("{:08x}", n << 24 | 0x0012_3400);
        let dir = out.join("queue").join(&id[..2]).join(&id);
        assert_eq!(fs::read_to_string(dir.join("message")).unwrap(), message(n));
        let given = fs::read_to_string(dir.join(format!("{id}00000001"))).unwrap();
        assert!(given.starts_with("version: 3\ndispatcher: in\ntype: mda\n"));
        assert!(!given.contains("check:"));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&dir), mode(&dir.join("message"))), (0o700, 0o600));
    }
    let first = out.join("queue/00/00123400");
    let file = fs::read_to_string(first.join("0012340000000002")).unwrap();
    assert!(file.contains("/mail.mboxfile -f %{mbox.from} /"), "{file}");
    assert!(!file.contains("/gone/"), "{file}");
    let owner = fs::metadata(out.join("queue")).unwrap().uid();
    let spool = fs::metadata(daemon.path().join("spool/queue")).unwrap();
    assert_eq!(owner, spool.uid());
}

#[test]
fn an_export_says_that_mail_of_local_users_still_waits() {
    // smtpd-migration(7), Back to OpenSMTPD: what sendmail(8) took meanwhile is not among it.
    let mut daemon = Setup::maildir().start();
    daemon.stop();
    let export = |to: &str| {
        let out = daemon.path().join(to);
        let done = daemon.ctl(["export", out.to_str().unwrap()]);
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    assert_eq!(export("one"), (Some(0), String::new()));
    let sent = daemon.sendmail(["b@example.org"], b"Subject: cron\n\nx\n");
    assert!(sent.status.success());
    let (code, said) = export("two");
    assert_eq!(code, Some(1));
    assert!(said.contains("1 messages that sendmail(8) took"), "{said}");
}

#[test]
fn what_cannot_be_read_at_the_start_is_counted_and_stops_nothing() {
    // spool-layout.md, X1 to X5; smtpctl(8), show stats: queue.corrupt, queue.unreadable.
    let plain = Form {
        compressed: false,
        encrypted: false,
    };
    let mut daemon = Setup::maildir().prepare();
    write_queue(daemon.path(), 20, plain);
    let queue = daemon.path().join("spool/queue");
    let message = |n: u32| {
        let id = format!("{:08x}", n << 24 | 0x0012_3400);
        queue.join(&id[..2]).join(id)
    };
    fs::write(message(3).join("0312340000000001"), "no envelope\n").unwrap();
    fs::remove_file(message(4).join("message")).unwrap();
    fs::write(queue.join("fe"), "no bucket\n").unwrap();
    if is_root() {
        give(&daemon.path().join("spool"), 65_534);
    }
    let closed = [queue.join("05"), message(6)];
    for path in &closed {
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
    }
    fs::create_dir(daemon.path().join("drop")).unwrap();
    fs::set_permissions(
        daemon.path().join("drop"),
        fs::Permissions::from_mode(0o1777),
    )
    .unwrap();
    daemon.start();
    daemon.hello().mail(
        "a@example.net",
        &["b@example.org"],
        b"Subject: new\n\nnew\n",
    );
    let stat = |name: &str| -> i64 {
        let shown = daemon.ctl(["show", "stats"]).stdout;
        let text = String::from_utf8(shown).unwrap();
        let line = text.lines().find(|l| l.starts_with(&format!("{name}=")));
        line.unwrap().split_once('=').unwrap().1.parse().unwrap()
    };
    wait_for("the walk over the spool", || {
        (stat("queue.corrupt"), stat("queue.unreadable")) == (2, 2)
    });
    assert!(stat("queue.sync") > 0);
    let found = daemon.wait_mail(20 - 5 + 2 + 1);
    let new = found
        .iter()
        .filter(|m| field(m, "Subject").unwrap() == "new");
    assert_eq!(new.count(), 1);
    let log = daemon.log();
    for text in [
        "message 03123400: 0312340000000001: ",
        "message 04123400: no body: moved to corrupt/04123400.0",
        "queue/05: ",
        "cannot read message 06123400: ",
    ] {
        assert!(log.contains(text), "{text}: {log}");
    }
    for path in &closed {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert!(closed[1].join("message").exists());
    daemon.stop();
}

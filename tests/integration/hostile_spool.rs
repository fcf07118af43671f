//! Local users and disks that mean harm: what lies in the spool stays data, and the daemon serves on.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;

use crate::hostile::{log_is_sound, still_serves};
use crate::mda::start_with_users;
use crate::support::{Instance, Setup, field, files, is_root, tree, wait_for};

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

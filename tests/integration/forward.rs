//! forward(5) and users of tables, as the parent and the confined engine carry them out.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::mda::start_with_users;
use crate::support::{Instance, Setup, files, not_run, processes, root_only, wait_for};

/// The ids of bob in the tests' own user database.
const BOB: u32 = 54323;

fn write_forward(home: &Path, uid: u32, text: &str) {
    let path = home.join(".forward");
    let _ = fs::remove_file(&path);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&path, Some(uid), Some(uid)).unwrap();
}

fn home(daemon: &Instance, name: &str) -> std::path::PathBuf {
    daemon.path().join("home").join(name)
}

fn count(daemon: &Instance, name: &str) -> usize {
    files(&home(daemon, name).join("Maildir/new")).len()
}

fn rcpt(daemon: &Instance, rcpt: &str) -> String {
    let mut client = daemon.hello();
    client.say("MAIL FROM:<s@example.net>", 250);
    client.ask(&format!("RCPT TO:<{rcpt}>"))
}

#[test]
fn a_forward_is_followed_with_the_rights_of_its_user() {
    // forward(5): a copy, another user, a command with the user's rights, and a file.
    let setup = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"dir\" maildir\nmatch from any for local action \"dir\"\n",
    );
    let test = "a_forward_is_followed_with_the_rights_of_its_user";
    let Some(daemon) = start_with_users(test, setup) else {
        return;
    };
    let bob = home(&daemon, "bob");
    let text = format!(
        "# mine\nbob, alice\n\"|(id -u; id -G) >{0}/ids; cat >/dev/null\"\n{0}/archive\n",
        bob.display()
    );
    write_forward(&bob, BOB, &text);
    // Nobody but bob may read it: neither the engine's user nor the world.
    fs::set_permissions(&bob, fs::Permissions::from_mode(0o700)).unwrap();
    daemon.hello().mail(
        "s@example.net",
        &["bob@mx.example.org"],
        b"Subject: x\n\nx\n",
    );
    wait_for("four deliveries", || {
        let log = daemon.log();
        log.matches("result=Ok stat=Delivered").count() == 4
    });
    assert_eq!((count(&daemon, "bob"), count(&daemon, "alice")), (1, 1));
    assert_eq!(
        fs::read_to_string(bob.join("ids")).unwrap(),
        format!("{BOB}\n{BOB}\n")
    );
    let archive = bob.join("archive");
    assert_eq!(fs::metadata(&archive).unwrap().uid(), BOB);
    assert!(
        fs::read_to_string(&archive)
            .unwrap()
            .contains("Subject: x\n")
    );
    daemon.wait_empty();
}

#[test]
fn a_forward_that_is_not_safe_makes_mail_wait() {
    // forward(5), who may have written it. A FIFO must not keep the parent waiting either.
    let setup = Setup::new(
        "listen on 127.0.0.1 port $port\naction \"dir\" maildir\naction \"fwd\" forward-only\n\
         match from any for domain \"fwd.example.org\" action \"fwd\"\n\
         match from any for local action \"dir\"\n",
    );
    let Some(daemon) = start_with_users("a_forward_that_is_not_safe_makes_mail_wait", setup) else {
        return;
    };
    let bob = home(&daemon, "bob");
    let path = bob.join(".forward");
    let refused = "424 4.2.4 Mailing list expansion problem: <bob@mx.example.org>";
    let ask = || rcpt(&daemon, "bob@mx.example.org");
    write_forward(&bob, BOB, "alice\n");
    assert!(ask().starts_with("250 "));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    assert_eq!(ask(), refused);
    daemon.wait_log("/home/bob/.forward: insecure file");
    write_forward(&bob, 0, "alice\n");
    assert_eq!(ask(), refused);
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert_eq!(ask(), refused);
    daemon.wait_log("/home/bob/.forward: cannot follow symbolic links");
    fs::remove_file(&path).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg("-m600")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    chown(&path, Some(BOB), Some(BOB)).unwrap();
    assert_eq!(ask(), refused);
    write_forward(&bob, BOB, &"#".repeat(4096));
    assert_eq!(ask(), refused);
    daemon.wait_log("info: forward file exceeds max size");
    write_forward(&bob, BOB, "<alice\n");
    assert_eq!(ask(), refused);
    daemon.wait_log("info: parse error in forward file");
    write_forward(&bob, BOB, "");
    assert!(ask().starts_with("250 "));
    // The parent has served all along, and other users have not noticed.
    assert!(rcpt(&daemon, "alice@mx.example.org").starts_with("250 "));
    // smtpd.conf(5), forward-only.
    let only = |expected: &str| {
        let reply = rcpt(&daemon, "bob@fwd.example.org");
        assert_eq!(reply, format!("{expected}: <bob@fwd.example.org>"));
    };
    only("550 Invalid recipient");
    write_forward(&bob, BOB, "|cat\n");
    only("451 Temporary failure");
}

#[test]
fn users_of_a_file_are_read_again_by_both_processes() {
    // smtpd.conf(5), userbase; smtpctl(8), update table.
    let setup = Setup::new(
        "table people file:$dir/people\nlisten on 127.0.0.1 port $port\n\
         action \"v\" maildir userbase <people> alias { owner = \"\\\"|id -u >$dir/owner/ids; cat >/dev/null\\\"\" }\n\
         match from any for any action \"v\"\n",
    );
    let test = "users_of_a_file_are_read_again_by_both_processes";
    if !crate::support::can_have_users(test) {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let place = |name: &str, uid: u32| {
        let home = dir.path().join(name);
        fs::create_dir(&home).unwrap();
        chown(&home, Some(uid), Some(uid)).unwrap();
        home
    };
    let (first, second, owner) = (
        place("one", 5000),
        place("two", 5001),
        place("owner", 54320),
    );
    let table = dir.path().join("people");
    let entry =
        |name: &str, uid: u32, home: &Path| format!("{name} {uid}:{uid}:{}\n", home.display());
    let old = entry("old", 5000, &first);
    fs::write(&table, format!("{old}{}", entry("virt", 5000, &first))).unwrap();
    let ids = "root:x:0:0:root:/root:/bin/sh\n_smtpd:x:54320:54320::/:/bin/sh\n";
    fs::write(dir.path().join("passwd"), ids).unwrap();
    fs::write(
        dir.path().join("group"),
        "root:x:0:\n_smtpd:x:54320:\n_smtpq:x:54321:\n",
    )
    .unwrap();
    let daemon = setup.with_users().start_in(dir);
    let mut client = daemon.hello();
    client.mail("s@example.net", &["old@example.org"], b"\nx\n");
    let arrived = |home: &Path| files(&home.join("Maildir/new"));
    wait_for("the first delivery", || arrived(&first).len() == 1);
    assert_eq!(fs::metadata(&arrived(&first)[0]).unwrap().uid(), 5000);
    let more = "more 5002:5002:/\n";
    fs::write(
        &table,
        format!("{old}{}{more}", entry("virt", 5001, &second)),
    )
    .unwrap();
    client.say("MAIL FROM:<s@example.net>", 250);
    client.say("RCPT TO:<more@example.org>", 550);
    client.say("RSET", 250);
    assert!(daemon.ctl(["update", "table", "people"]).status.success());
    client.mail("s@example.net", &["virt@example.org"], b"\nx\n");
    wait_for("the second delivery", || arrived(&second).len() == 1);
    assert_eq!(fs::metadata(&arrived(&second)[0]).unwrap().uid(), 5001);
    // A .forward of a user of the table is the table's user's.
    write_forward(&second, 5001, "owner\n");
    client.mail("s@example.net", &["virt@example.org"], b"\nx\n");
    wait_for("the command of the alias", || {
        fs::read_to_string(owner.join("ids")).is_ok_and(|text| text == "54320\n")
    });
    write_forward(&second, 5000, "owner\n");
    let reply = client.ask("MAIL FROM:<s@example.net>");
    assert!(reply.starts_with("250"));
    client.say("RCPT TO:<virt@example.org>", 424);
    client.say("RCPT TO:<root@example.org>", 550);
}

/// The user id of a process.
fn uid_of(pid: u32) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}")).unwrap())
}

#[test]
fn a_forged_envelope_runs_no_command_and_writes_no_file_of_a_user() {
    // smtpd(8), Processes and privileges: the engine is not the user of commands of aliases, and
    // what an envelope says of a user's command counts only if the user's .forward says it too.
    let test = "a_forged_envelope_runs_no_command_and_writes_no_file_of_a_user";
    let setup = Setup::new(
        "listen on 127.0.0.1 port $port\n\
         action \"l\" maildir alias { who = \"\\\"|(id -u; kill -0 $(cat $dir/engine) && echo could) >$dir/who 2>/dev/null; cat >/dev/null\\\"\" }\n\
         match from any for any action \"l\"\n",
    );
    let Some(mut daemon) = start_with_users(test, setup) else {
        return;
    };
    let dir = daemon.path().to_owned();
    let engine = daemon.engine_pid();
    assert_eq!(uid_of(engine), 54321);
    let queue = fs::metadata(dir.join("spool/queue")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&queue), 54321);
    // An alias' command runs as _smtpd and reaches no process of the engine's.
    fs::write(dir.join("engine"), engine.to_string()).unwrap();
    fs::write(dir.join("who"), "").unwrap();
    chown(dir.join("who"), Some(54320), Some(54320)).unwrap();
    let mut client = daemon.hello();
    client.mail("s@example.net", &["who@example.org"], b"\nx\n");
    wait_for("the command of the alias", || {
        fs::read_to_string(dir.join("who")).is_ok_and(|text| text == "54320\n")
    });
    daemon.wait_empty();
    // A command that is there runs.
    let home = dir.join("home/alice");
    write_forward(&home, 54322, "\"|cat >$HOME/ran\"\n");
    client.mail("s@example.net", &["alice@example.org"], b"\nx\n");
    wait_for("the command of the .forward", || home.join("ran").exists());
    daemon.wait_empty();
    // Envelopes that whoever owns the queue has planted.
    assert!(daemon.ctl(["pause", "mda"]).status.success());
    for _ in 0..3 {
        client.mail("s@example.net", &["bob@example.org"], b"\nx\n");
    }
    daemon.stop();
    let forged = [
        ("alice", "|touch $HOME/canary"),
        ("bob", "/home/x/../canary"),
        ("alice", "|cat >$HOME/ran #"),
    ];
    let envelopes: Vec<_> = daemon
        .spooled()
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name.len() == 16))
        .collect();
    assert_eq!(envelopes.len(), forged.len());
    for (path, (user, command)) in envelopes.iter().zip(forged) {
        let text = fs::read_to_string(path).unwrap();
        let mut lines: Vec<_> = text
            .lines()
            .filter(|line| !line.starts_with("check:") && !line.starts_with("mda-user:"))
            .map(str::to_owned)
            .collect();
        lines.push(format!("mda-exec: {command}"));
        lines.push(format!("mda-user: {user}"));
        fs::write(path, lines.join("\n") + "\n").unwrap();
    }
    daemon.start();
    for (user, _) in forged {
        daemon.wait_log(&format!(
            "the .forward of {user} does not name this command or file now"
        ));
    }
    wait_for("three refusals", || {
        daemon.log().matches("does not name this command").count() >= forged.len()
    });
    assert!(!home.join("canary").exists() && !dir.join("home/canary").exists());
}

/// A file system that never answers: FUSE with nobody behind it. Dropped, it is gone, and whoever
/// waits for it goes on.
struct Silent {
    dir: std::path::PathBuf,
    device: Option<fs::File>,
}

impl Silent {
    /// Over this directory; says the test's name where that cannot be.
    fn over(test: &str, dir: &Path) -> Option<Silent> {
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0,allow_other";
        let device = fs::File::options().read(true).write(true).open("/dev/fuse");
        let mounted = device.and_then(|device| {
            let mut mount = Command::new("mount");
            mount.args(["-i", "-t", "fuse", "-o", options, "silent"]);
            mount.arg(dir).stdin(device.try_clone()?);
            Ok((mount.status()?.success(), device))
        });
        match mounted {
            Ok((true, device)) => Some(Silent {
                dir: dir.to_owned(),
                device: Some(device),
            }),
            _ => {
                not_run(test, "needs FUSE");
                None
            }
        }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        drop(self.device.take());
        let mut umount = Command::new("umount");
        let _ = umount.args(["-i", "-l", "-c"]).arg(&self.dir).status();
    }
}

#[test]
fn a_home_that_does_not_answer_holds_up_its_own_mail_alone() {
    // smtpd(8), Processes and privileges: nobody waits for it but a process of its owner's.
    let test = "a_home_that_does_not_answer_holds_up_its_own_mail_alone";
    if !root_only(test) {
        return;
    }
    let far = tempfile::TempDir::new().unwrap();
    fs::set_permissions(far.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let Some(_silent) = Silent::over(test, far.path()) else {
        return;
    };
    let setup = Setup::new(&format!(
        "table people {{ ann = \"5001:5001:{0}/ann\", eve = \"5002:5002:{0}\" }}\n\
         listen on 127.0.0.1 port $port\naction \"far\" maildir userbase <people>\n\
         action \"dir\" maildir\nmatch from any for domain \"far.org\" action \"far\"\n\
         match from any for local action \"dir\"\n",
        far.path().display()
    ));
    let Some(mut daemon) = start_with_users(test, setup) else {
        return;
    };
    let ask = |user: &str| {
        let mut client = daemon.hello();
        client.say("MAIL FROM:<s@example.net>", 250);
        client.send(format!("RCPT TO:<{user}@far.org>\r\n").as_bytes());
        let place = format!("-x forward -- {}", far.path().display());
        wait_for("somebody who looks", || {
            let looking = processes::children(daemon.pid(), &place);
            !looking.is_empty()
        });
        client
    };
    let mut waiting = ask("ann");
    let bob = ["bob@mx.example.org"];
    daemon
        .hello()
        .mail("s@example.net", &bob, b"Subject: x\n\nx\n");
    wait_for("another's delivery", || count(&daemon, "bob") == 1);
    let reply = waiting.reply();
    assert!(reply.starts_with("424 "), "{reply}");
    daemon.wait_log("/ann: the home directory does not answer");
    drop(waiting);
    let waiting = ask("eve");
    assert_eq!(daemon.stop().code(), Some(0));
    drop(waiting);
}

#[test]
fn a_home_that_is_not_known_to_be_near_has_a_forward_like_others() {
    // forward(5). Nobody knows where a path leads that /proc makes up.
    if !cfg!(target_os = "linux") {
        return;
    }
    let home = tempfile::TempDir::new().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let facts = fs::metadata(home.path()).unwrap();
    let daemon = Setup::new(&format!(
        "table people {{ bob = \"{}:{}:/proc/{}/root{}\" }}\nlisten on 127.0.0.1 port $port\n\
         action \"dir\" maildir userbase <people>\nmatch from any for any action \"dir\"\n",
        facts.uid(),
        facts.gid(),
        std::process::id(),
        home.path().display(),
    ))
    .with_root()
    .start();
    let ask = || rcpt(&daemon, "bob@mx.example.org");
    assert!(ask().starts_with("250 "));
    let file = home.path().join(".forward");
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    fs::write(&file, "error:550 5.1.1 gone\n").unwrap();
    mode(0o644);
    assert_eq!(ask(), "550 5.1.1 gone: <bob@mx.example.org>");
    mode(0o666);
    assert!(ask().starts_with("424 "));
    daemon.wait_log("/.forward: insecure file");
    fs::remove_file(&file).unwrap();
    assert!(ask().starts_with("250 "));
}

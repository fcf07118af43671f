use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

struct Fixture {
    _dir: TempDir,
    paths: Paths,
    rights: Rights,
    offline: Offline,
    now: Instant,
}

impl Fixture {
    /// A spool, and a front end that is this shell script.
    fn new(script: &str) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = Paths::under(dir.path());
        fs::create_dir_all(paths.spool.join("offline")).unwrap();
        paths.smtpctl = dir.path().join("smtpctl");
        let program = format!(
            "#!/bin/sh\ncd '{}' || exit 1\n{script}\n",
            dir.path().display()
        );
        // Written by another process: one that this process has open for writing, or that a
        // child of another test has inherited, cannot be run.
        let written = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh"])
            .arg(program)
            .arg(&paths.smtpctl)
            .status()
            .unwrap();
        assert!(written.success());
        let now = Instant::now();
        Fixture {
            rights: Rights::find(&paths).unwrap(),
            offline: Offline::new(&paths, now),
            paths,
            now,
            _dir: dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.paths.spool.join("offline").join(name)
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn step(&mut self) {
        self.offline.step(&self.paths, &self.rights, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.step();
    }

    /// Waits for every replay that runs.
    fn settle(&mut self) {
        for pid in self.offline.pids() {
            loop {
                if let Some(how) = process::try_wait(pid).unwrap() {
                    self.offline.ended(pid, how, self.now);
                    break;
                }
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn a_stored_message_is_replayed_and_goes() {
    let mut fixture = Fixture::new("[ \"$*\" = --replay ] && cat > got && echo $SMTPD_ROOT > root");
    let file = fixture.put("1.abc", "stored\n");
    assert!(!fixture.offline.is_done());
    fixture.step();
    assert_eq!(fixture.offline.pids().len(), 1);
    fixture.settle();
    assert!(fixture.offline.is_done());
    assert!(!file.exists());
    let root = fixture.paths.root.clone().unwrap();
    assert_eq!(fs::read(root.join("got")).unwrap(), b"stored\n");
    let told = fs::read_to_string(root.join("root")).unwrap();
    assert_eq!(Path::new(told.trim_end()), root);
}

#[test]
fn what_fails_stays_and_is_tried_ever_more_rarely() {
    // smtpd(8), DIFFERENCES: offline messages are looked for all the time, not only at start.
    let mut fixture = Fixture::new("exit 75");
    let file = fixture.put("1.abc", "stored\n");
    fixture.step();
    fixture.settle();
    assert!(file.exists());
    fixture.pass(BETWEEN_SCANS);
    assert!(fixture.offline.pids().is_empty());
    fixture.pass(FIRST_RETRY);
    assert_eq!(fixture.offline.pids().len(), 1);
    fixture.settle();
    fixture.pass(FIRST_RETRY);
    assert!(fixture.offline.pids().is_empty());
    fixture.pass(FIRST_RETRY);
    assert_eq!(fixture.offline.pids().len(), 1);
    fixture.settle();
}

#[test]
fn a_replay_has_the_time_that_the_front_end_counts_on() {
    // spool-layout.md, offline.
    let mut fixture = Fixture::new("exec sleep 1000");
    fixture.put("1.abc", "stored\n");
    fixture.step();
    let pid = fixture.offline.pids()[0];
    fixture.pass(REPLAY_TIME - Duration::from_secs(1));
    assert_eq!(process::try_wait(pid).unwrap(), None);
    fixture.pass(Duration::from_secs(1));
    fixture.settle();
    assert_eq!(fixture.offline.failed.len(), 1);
}

#[test]
fn what_is_no_message_is_told_again_every_day() {
    // sendmail(8), When the daemon cannot take it: nothing stays there untold.
    let mut fixture = Fixture::new("echo sendmail: no message >&2; exit 65");
    let file = fixture.put("1.abc", "stored\n");
    fixture.step();
    fixture.settle();
    assert!(fixture.offline.is_done());
    fixture.pass(LAST_RETRY);
    assert!(fixture.offline.pids().is_empty());
    fixture.pass(NO_MESSAGE_RETRY);
    assert_eq!(fixture.offline.pids().len(), 1);
    fixture.settle();
    assert!(file.exists());
}

#[test]
fn while_the_daemon_takes_nothing_no_failure_is_counted() {
    // smtpctl(8), pause smtp: what is stored meanwhile comes in soon after it is resumed.
    const FILES: usize = MOST_WAITING_PER_OWNER + 12;
    let mut fixture = Fixture::new("exit 69");
    for n in 0..FILES {
        fixture.put(&format!("{n}.x"), "stored\n");
    }
    for _ in 0..20 {
        fixture.step();
        let running = fixture.offline.pids().len();
        assert_eq!(running, AT_A_TIME_PER_OWNER, "the others wait");
        fixture.settle();
        assert!(fixture.offline.is_done(), "smtpd -q does not wait for it");
        fixture.step();
        assert!(fixture.offline.pids().is_empty());
        fixture.now += NOT_TAKEN_RETRY;
    }
    assert!(fixture.offline.failed.is_empty());
    assert_eq!(fs::read_dir(fixture.path("")).unwrap().count(), FILES);
}

#[test]
fn it_is_done_when_all_is_taken_in_however_much_one_owner_has() {
    // smtpd(8), -q: what sendmail(8) has stored is taken in first.
    let mut fixture = Fixture::new("exit 0");
    for n in 0..MOST_WAITING_PER_OWNER + 50 {
        fixture.put(&format!("{n}.x"), "stored\n");
    }
    for _ in 0..200 {
        fixture.step();
        fixture.settle();
        if fixture.offline.is_done() {
            break;
        }
        fixture.now = fixture.offline.deadline();
    }
    assert!(fixture.offline.is_done());
    assert_eq!(fs::read_dir(fixture.path("")).unwrap().count(), 0);
}

#[test]
fn a_replay_marks_its_file_and_its_words_are_one_line() {
    let mut fixture = Fixture::new("printf done 1<>/dev/fd/0 >&0; exit 75");
    let file = fixture.put("1.abc", "rcpt: a@x\n");
    fixture.step();
    fixture.settle();
    assert_eq!(fs::read(&file).unwrap(), b"done: a@x\n");

    let said = |script: &str| {
        let (read, write) = io::pipe().unwrap();
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", script]).stderr(write);
        assert!(shell.status().unwrap().success());
        drop(shell);
        last_words(read)
    };
    assert_eq!(said("echo sendmail: no >&2"), "no");
    assert_eq!(said("exec 2>&-"), "");
    assert!(!said("printf 'a\\nwarn: b\\033[2J' >&2").contains(['\n', '\x1b']));
    assert_eq!(said("head -c 60000 /dev/zero | tr '\\0' x >&2").len(), 1024);
    // A child of the child may hold the pipe for as long as it likes.
    let (read, write) = io::pipe().unwrap();
    assert_eq!(last_words(read), "");
    drop(write);
}

#[test]
fn one_owner_never_holds_up_another() {
    // sendmail(8), When the daemon cannot take it: the owners take turns.
    let mut fixture = Fixture::new("exit 0");
    let candidate = |uid: u32, n: usize| Candidate {
        name: format!("{uid}.{n}").into(),
        uid,
        gid: 0,
    };
    let offline = &mut fixture.offline;
    for n in 0..5000 {
        offline.wait(candidate(1, n));
    }
    assert_eq!(
        offline.waiting, MOST_WAITING_PER_OWNER,
        "later scans find the others"
    );
    offline.wait(candidate(3, 0));
    offline.wait(candidate(2, 0));
    offline.wait(candidate(2, 1));
    let mut turns = Vec::new();
    while let Some(next) = offline.next_in_turn(fixture.now) {
        let line = offline.lines.get_mut(&next.uid).unwrap();
        // None of the first owner's ends.
        line.running += usize::from(next.uid == 1);
        turns.push(next.uid);
    }
    assert_eq!(turns, [1, 2, 3, 1, 2, 1, 1, 1]);
    assert_eq!(
        offline.lines[&1].waiting.len(),
        MOST_WAITING_PER_OWNER - AT_A_TIME_PER_OWNER
    );
}

#[test]
fn a_large_directory_is_looked_at_a_part_at_a_time() {
    let mut fixture = Fixture::new("exit 0");
    for n in 0..LOOKED_AT_ONCE + 10 {
        fixture.put(&format!(".{n}"), "");
    }
    fixture.put("1.abc", "stored\n");
    fixture.step();
    assert!(!fixture.offline.scanned && fixture.offline.deadline() <= fixture.now);
    fixture.step();
    assert!(fixture.offline.scanned);
    fixture.pass(BETWEEN_BATCHES);
    fixture.settle();
    assert!(!fixture.path("1.abc").exists());
}

#[test]
fn links_fifos_and_files_being_written_are_left_alone() {
    // OpenSMTPD 5.7.2 and CVE-2020-8793: FIFO, symlink and hard link in the offline spool.
    let mut fixture = Fixture::new("cat > got");
    let secret = fixture.paths.root.clone().unwrap().join("secret");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, fixture.path("symlink")).unwrap();
    fs::hard_link(&secret, fixture.path("hardlink")).unwrap();
    fs::create_dir(fixture.path("directory")).unwrap();
    let fifo = fixture.path("fifo");
    let made = std::process::Command::new("mkfifo")
        .arg(&fifo)
        .status()
        .unwrap();
    assert!(made.success());
    fixture.put(".being-written", "half");
    fixture.put("empty", "");
    fixture.step();
    assert!(fixture.offline.pids().is_empty());
    assert!(fixture.offline.waiting == 0);
    for name in [
        "symlink",
        "hardlink",
        "directory",
        "fifo",
        ".being-written",
        "empty",
    ] {
        assert!(fs::symlink_metadata(fixture.path(name)).is_ok(), "{name}");
    }
}

#[test]
fn what_a_killed_writer_left_goes_after_two_days() {
    let mut fixture = Fixture::new("exit 0");
    let (old, new) = (fixture.put(".1.old", "half"), fixture.put(".1.new", "half"));
    let long_ago = SystemTime::now() - WRITTEN_FOR;
    let file = File::options().write(true).open(&old).unwrap();
    file.set_modified(long_ago).unwrap();
    fixture.step();
    assert!(!old.exists() && new.exists());
}

#[test]
fn a_file_changed_between_look_and_open_is_not_replayed() {
    // CVE-2020-8793: an offline file swapped during the scan is rejected.
    let fixture = Fixture::new("exit 0");
    let file = fixture.put("1.abc", "stored\n");
    let found = fs::metadata(&file).unwrap();
    let candidate = Candidate {
        name: "1.abc".into(),
        uid: found.uid(),
        gid: found.gid(),
    };
    assert!(open_checked(&file, &candidate).is_ok());
    let other = Candidate {
        uid: candidate.uid + 1,
        ..candidate.clone()
    };
    assert!(
        open_checked(&file, &other)
            .unwrap_err()
            .contains("has bad uid")
    );
    let other = Candidate {
        gid: candidate.gid + 1,
        ..candidate.clone()
    };
    assert!(
        open_checked(&file, &other)
            .unwrap_err()
            .contains("has bad gid")
    );
    fs::hard_link(&file, fixture.path("second")).unwrap();
    assert!(
        open_checked(&file, &candidate)
            .unwrap_err()
            .contains("is hard-link")
    );
    fs::remove_file(&file).unwrap();
    symlink(fixture.path("second"), &file).unwrap();
    assert!(open_checked(&file, &candidate).is_err());
}

#[test]
fn five_of_one_owner_run_at_a_time() {
    let mut fixture = Fixture::new("cat > /dev/null");
    for n in 0..12 {
        fixture.put(&format!("{n}.x"), "stored\n");
    }
    fixture.step();
    let mut left = 12;
    while left > 0 {
        let running = fixture.offline.pids().len();
        assert_eq!(running, left.min(AT_A_TIME_PER_OWNER));
        fixture.settle();
        left -= running;
        fixture.pass(BETWEEN_BATCHES);
    }
    assert_eq!(fs::read_dir(fixture.path("")).unwrap().count(), 0);
}

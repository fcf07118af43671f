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
fn what_is_refused_for_good_stays_until_the_next_start() {
    // sendmail(8), When the daemon is not running.
    let mut fixture = Fixture::new("exit 70");
    let file = fixture.put("1.abc", "stored\n");
    fixture.step();
    fixture.settle();
    assert!(fixture.offline.is_done());
    fixture.pass(LAST_RETRY * 50);
    assert!(fixture.offline.pids().is_empty());
    assert!(file.exists());
    fixture.offline = Offline::new(&fixture.paths, fixture.now);
    fixture.step();
    assert_eq!(fixture.offline.pids().len(), 1);
    fixture.settle();
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
    assert!(fixture.offline.waiting.is_empty());
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
fn five_run_at_a_time() {
    let mut fixture = Fixture::new("cat > /dev/null");
    for n in 0..12 {
        fixture.put(&format!("{n}.x"), "stored\n");
    }
    fixture.step();
    let mut left = 12;
    while left > 0 {
        let running = fixture.offline.pids().len();
        assert_eq!(running, left.min(AT_A_TIME));
        fixture.settle();
        left -= running;
        fixture.pass(BETWEEN_BATCHES);
    }
    assert_eq!(fs::read_dir(fixture.path("")).unwrap().count(), 0);
}

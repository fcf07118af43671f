use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

/// A program in the place of ours, for the homes of users who all are ourselves.
struct Fixture {
    dir: TempDir,
    exe: PathBuf,
    rights: Rights,
    looks: Looks,
    now: Instant,
}

impl Fixture {
    fn new(script: &str) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("smtpd");
        // Written by another process: one that this process has open for writing, or that a child
        // of another test has inherited, cannot be run.
        let written = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh"])
            .arg(format!("#!/bin/sh\n{script}\n"))
            .arg(&exe)
            .status()
            .unwrap();
        assert!(written.success());
        let (uid, gid) = (user::effective_uid(), user::effective_gid());
        Fixture {
            dir,
            exe,
            rights: Rights::User { uid, gid },
            looks: Looks::default(),
            now: Instant::now(),
        }
    }

    fn start(&mut self, name: &str, id: u32) -> Result<(), String> {
        let owner = User {
            name: name.to_owned(),
            uid: user::effective_uid(),
            gid: user::effective_gid(),
            gecos: String::new(),
            home: format!("/far/{name}").into(),
        };
        let setting = (self.exe.as_path(), &self.rights);
        self.looks.start(setting, &owner, asked(id), self.now)
    }

    /// Waits for every child, and says what came of all.
    fn settle(&mut self) -> Vec<(u32, String)> {
        let mut all = Vec::new();
        for pid in self.looks.pids() {
            let how = loop {
                match process::try_wait(pid).unwrap() {
                    Some(how) => break how,
                    None => std::thread::yield_now(),
                }
            };
            for (asked, opened) in self.looks.ended(pid, how, self.dir.path()) {
                all.push((asked.id, said(opened)));
            }
        }
        all
    }
}

fn asked(id: u32) -> Asked {
    Asked { engine: 1, id }
}

fn said(opened: Opened) -> String {
    match opened {
        Opened::Absent(None) => "absent".to_owned(),
        Opened::Absent(Some(_)) => "absent, to be compared".to_owned(),
        Opened::File(mut file) => {
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            text
        }
        Opened::Unusable(why) => why,
    }
}

// smtpd(8), Processes and privileges: a home that does not answer holds up its own mail alone.
#[test]
fn a_home_that_does_not_answer_is_given_up_and_left_alone_for_a_while() {
    let mut fixture = Fixture::new("exec /bin/sleep 600");
    fixture.start("bob", 1).unwrap();
    fixture.start("eve", 2).unwrap();
    // There is one look, whoever waits for it.
    fixture.start("bob", 3).unwrap();
    assert_eq!(fixture.looks.pids().len(), 2);
    assert_eq!(fixture.looks.deadline(), Some(fixture.now + TIME));
    assert!(fixture.looks.overdue(fixture.now).0.is_empty());
    fixture.now += TIME;
    let (pids, given_up) = fixture.looks.overdue(fixture.now);
    assert_eq!((pids.len(), given_up.len()), (2, 3));
    let bobs = "/far/bob: the home directory does not answer";
    assert_eq!(given_up.iter().filter(|(_, why)| why == bobs).count(), 2);
    // A child that was killed may not end.
    assert_eq!(fixture.start("bob", 100).unwrap_err(), NO_ANSWER);
    fixture.now += SILENCE;
    assert_eq!(fixture.start("bob", 101).unwrap_err(), NO_ANSWER);
    let (pids, given_up) = fixture.looks.overdue(fixture.now);
    assert!(pids.len() == 2 && given_up.is_empty());
    pids.into_iter().for_each(process::kill);
    assert_eq!(fixture.settle(), []);
    fixture.start("bob", 102).unwrap();
    fixture.looks.pids().into_iter().for_each(process::kill);
    let why = "/far/bob: looking for a .forward ended by signal 9".to_owned();
    assert_eq!(fixture.settle(), [(102, why)]);
}

// smtpd(8), Processes and privileges: when many wait, half of the engine's threads are for others.
#[test]
fn many_wait_for_a_shorter_time() {
    let mut fixture = Fixture::new("exec /bin/sleep 600");
    for id in 0..MANY as u32 {
        fixture.start(["bob", "eve"][id as usize % 2], id).unwrap();
    }
    let late = fixture.now + TIME_OF_MANY;
    assert!(fixture.looks.overdue(late).0.is_empty());
    fixture.start("bob", 99).unwrap();
    assert_eq!(fixture.looks.deadline(), Some(late));
    fixture.now = late;
    fixture.start("ann", 100).unwrap();
    let (pids, given_up) = fixture.looks.overdue(late);
    assert_eq!((pids.len(), given_up.len()), (0, MANY + 1));
    // A slow disk goes on with what it does, and who comes next may have it; a dead one is given up
    // when all of its time is over.
    let start = late - TIME_OF_MANY;
    assert_eq!(fixture.looks.deadline(), Some(start + TIME));
    fixture.start("bob", 7).unwrap();
    let (pids, given_up) = fixture.looks.overdue(start + TIME);
    assert_eq!((pids.len(), given_up.len()), (2, 1));
    assert_eq!(fixture.start("bob", 8).unwrap_err(), NO_ANSWER);
    for id in 0..MOST_ASKED as u32 - 1 {
        fixture.start("ann", id).unwrap();
    }
    let refused = fixture.start("ann", 101).unwrap_err();
    assert_eq!(refused, "too many wait for the home directory");
    fixture.looks.pids().into_iter().for_each(process::kill);
    assert_eq!(fixture.settle().len(), MOST_ASKED);
}

#[test]
fn who_asked_for_an_engine_that_has_ended_waits_no_more() {
    let mut fixture = Fixture::new("exec /bin/sleep 600");
    for id in 0..=MANY as u32 {
        fixture.start("bob", id).unwrap();
    }
    fixture.looks.forget_askers();
    fixture.start("bob", 100).unwrap();
    assert_eq!(fixture.looks.deadline(), Some(fixture.now + TIME));
    fixture.looks.pids().into_iter().for_each(process::kill);
    assert_eq!(fixture.settle().len(), 1);
}

#[test]
fn looks_are_bounded_for_one_user_and_for_all() {
    let mut fixture = Fixture::new("exec /bin/sleep 600");
    for n in 0..MOST_OF_ONE as u32 {
        fixture.start(&n.to_string(), n).unwrap();
    }
    let refused = fixture.start("bob", 99).unwrap_err();
    assert_eq!(refused, "too many home directories are being looked at");
    fixture.looks.pids().into_iter().for_each(process::kill);
    assert_eq!(fixture.settle().len(), MOST_OF_ONE);
}

#[test]
fn what_a_child_says_is_told_to_each_who_waits_and_nothing_else_is() {
    let mut fixture = Fixture::new("printf '\\003\\006\\000\\000\\000alice\\n' >&3");
    fixture.start("bob", 1).unwrap();
    fixture.start("bob", 2).unwrap();
    let alice = || "alice\n".to_owned();
    assert_eq!(fixture.settle(), [(1, alice()), (2, alice())]);
    let mut fixture = Fixture::new("printf '\\001' >&3");
    fixture.start("bob", 1).unwrap();
    assert_eq!(fixture.settle(), [(1, "absent".to_owned())]);
    // It may be in the hands of its owner.
    for script in [
        "printf nonsense >&3",
        "printf '\\001\\001' >&3",
        "exit 0",
        "printf '\\003\\000\\060\\000\\000' >&3; head -c 12288 /dev/zero >&3",
    ] {
        let mut fixture = Fixture::new(script);
        fixture.start("bob", 1).unwrap();
        let why = "/far/bob: looking for a .forward ended with code 0".to_owned();
        assert_eq!(fixture.settle(), [(1, why)], "{script}");
    }
}

#[test]
fn the_other_end_may_stay_open() {
    let (read, mut write) = io::pipe().unwrap();
    write.write_all(&Told::NoFile.to_bytes()).unwrap();
    assert_eq!(words(read), Some(Told::NoFile));
    let (read, write) = io::pipe().unwrap();
    assert_eq!(words(read), None);
    drop(write);
}

#[test]
fn a_child_finds_what_there_is() {
    let home = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(home.path(), 0o755);
    let path = home.path().join(".forward");
    let find = || {
        let found = look(home.path(), user::effective_uid());
        assert_eq!(Told::from_bytes(&found.to_bytes()).as_ref(), Ok(&found));
        found
    };
    assert_eq!(find(), Told::NoFile);
    fs::write(&path, "alice\n").unwrap();
    mode(&path, 0o644);
    assert_eq!(find(), Told::Text(b"alice\n".to_vec()));
    // Too long a file is one for whoever reads it, and fits.
    fs::write(&path, [b'#'; 10_000]).unwrap();
    let long = Told::Text(vec![b'#'; FILE_BYTES as usize]);
    assert_eq!(find(), long);
    assert!(long.to_bytes().len() as u64 <= WORDS_MAX);
    mode(&path, 0o666);
    assert!(matches!(find(), Told::Unusable(why) if why.ends_with("insecure file")));
    let nowhere = look(&home.path().join("nowhere"), user::effective_uid());
    assert!(matches!(nowhere, Told::NoHome(_)));
}

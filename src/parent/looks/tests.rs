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
        self.start_of(user::effective_uid(), name, id)
    }

    fn start_of(&mut self, uid: u32, name: &str, id: u32) -> Result<(), String> {
        let owner = User {
            name: name.to_owned(),
            uid,
            gid: user::effective_gid(),
            gecos: String::new(),
            home: format!("/far/{name}").into(),
        };
        let setting = (self.exe.as_path(), &self.rights);
        self.looks.start(setting, &owner, asked(id), self.now)
    }

    /// Waits for every child, and says what came of all.
    fn settle(&mut self) -> Vec<(u32, String)> {
        self.settle_of(self.looks.pids())
    }

    /// Those that were killed, of whom it is not known that they have ended.
    fn killed(&self) -> Vec<Pid> {
        let running = self.looks.running.iter();
        let killed = running.filter(|(_, look)| look.again.is_some());
        killed.map(|(pid, _)| *pid).collect()
    }

    fn settle_of(&mut self, pids: Vec<Pid>) -> Vec<(u32, String)> {
        let mut all = Vec::new();
        for pid in pids {
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
    assert!(fixture.looks.overdue(fixture.now).kill.is_empty());
    fixture.now += TIME;
    let overdue = fixture.looks.overdue(fixture.now);
    assert_eq!((overdue.kill.len(), overdue.give_up.len()), (2, 3));
    let bobs = "/far/bob: the home directory does not answer";
    let of_bob = overdue.give_up.iter().filter(|(_, why)| why == bobs);
    assert_eq!(of_bob.count(), 2);
    // A child that was killed may not end.
    assert_eq!(fixture.start("bob", 100).unwrap_err(), NO_ANSWER);
    fixture.now += SILENCE;
    assert_eq!(fixture.start("bob", 101).unwrap_err(), NO_ANSWER);
    let overdue = fixture.looks.overdue(fixture.now);
    assert!(overdue.kill.len() == 2 && overdue.give_up.is_empty());
    overdue.kill.into_iter().for_each(process::kill);
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
    assert!(fixture.looks.overdue(late).give_up.is_empty());
    fixture.start("bob", 99).unwrap();
    assert_eq!(fixture.looks.deadline(), Some(late));
    fixture.now = late;
    fixture.start("ann", 100).unwrap();
    let overdue = fixture.looks.overdue(late);
    assert_eq!((overdue.kill.len(), overdue.give_up.len()), (0, MANY + 1));
    // The log has a line for each home.
    assert_eq!(overdue.log.len(), 2);
    // A slow disk goes on with what it does, and who comes next may have it; a dead one is given up
    // when all of its time is over.
    let start = late - TIME_OF_MANY;
    assert_eq!(fixture.looks.deadline(), Some(start + TIME));
    fixture.start("bob", 7).unwrap();
    let overdue = fixture.looks.overdue(start + TIME);
    assert_eq!((overdue.kill.len(), overdue.give_up.len()), (2, 1));
    // It has heard of that one.
    assert!(overdue.log.is_empty());
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

// smtpd(8), Processes and privileges: other mail goes on, however many homes do not answer.
#[test]
fn the_oldest_look_that_nobody_waits_for_makes_room() {
    let mut fixture = Fixture::new("exec /bin/sleep 600");
    let (one, other) = (1, 2);
    let tick = Duration::from_millis(1);
    fixture.start_of(other, "other", 0).unwrap();
    for n in 0..MOST_OF_ONE {
        fixture.now += tick;
        fixture.start_of(one, &n.to_string(), 0).unwrap();
    }
    fixture.now += TIME_OF_MANY;
    let overdue = fixture.looks.overdue(fixture.now);
    assert_eq!(overdue.give_up.len(), 1 + MOST_OF_ONE);
    assert!(overdue.kill.is_empty());
    // Among those of the user who has too many, and each of them in its turn.
    for n in 0..MOST_OF_ONE {
        fixture.start_of(one, &format!("new {n}"), 0).unwrap();
        let again = fixture.start_of(one, &n.to_string(), 0);
        assert_eq!(again.unwrap_err(), NO_ANSWER);
    }
    fixture.start_of(other, "other", 0).unwrap();
    // None of those that were killed has ended yet, as if none could be: they have no place of the
    // others, and there is a bound to them.
    let none = fixture.start_of(one, "one more", 0);
    assert_eq!(none.unwrap_err(), "too many home directories do not answer");
    fixture.start_of(other, "beside", 0).unwrap();
    let killed = fixture.killed();
    assert_eq!(killed.len(), MOST_OF_ONE);
    assert_eq!(fixture.settle_of(killed), []);
    assert_eq!(fixture.start_of(one, "0", 0).unwrap_err(), NO_ANSWER);
    // All who are left are waited for.
    let none = fixture.start_of(one, "one more", 0);
    let refused = "too many home directories are being looked at";
    assert_eq!(none.unwrap_err(), refused);
    // Where all have too many it may be anybody's.
    for n in fixture.looks.pids().len()..MOST {
        fixture.start_of(other, &format!("other {n}"), 0).unwrap();
    }
    assert_eq!(fixture.start_of(3, "third", 0).unwrap_err(), refused);
    fixture.now += TIME_OF_MANY;
    fixture.looks.overdue(fixture.now);
    for n in 0..MOST as u32 {
        fixture.start_of(3 + n, "third", 0).unwrap();
    }
    let none = fixture.start_of(99, "last", 0);
    assert_eq!(none.unwrap_err(), "too many home directories do not answer");
    assert_eq!(fixture.killed().len(), MOST);
    let killed = fixture.killed();
    assert_eq!(fixture.settle_of(killed), []);
    fixture.looks.pids().into_iter().for_each(process::kill);
    assert_eq!(fixture.settle().len(), MOST);
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

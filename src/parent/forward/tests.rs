use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::config::{Defaults, Sources};
use crate::mail::samples::line;
use crate::parent::userbase::Userbases;
use crate::privsep::Handover;
use crate::sys::user;

use super::*;

/// The file's name in a home directory.
const NAME: &str = ".forward";

fn look_for(owner: &User) -> Result<Verdict, String> {
    forward_file::open(&owner.home, owner.uid)
}

/// A home directory of ours with a .forward, and what is found in it.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        let home = Home(TempDir::new().unwrap());
        home.mode("", 0o755);
        fs::write(home.path(NAME), "alice\n").unwrap();
        home.mode(NAME, 0o644);
        home
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    fn owner(&self) -> User {
        User {
            name: "bob".into(),
            uid: user::effective_uid(),
            gid: user::effective_gid(),
            gecos: String::new(),
            home: self.0.path().into(),
        }
    }

    fn look(&self) -> String {
        said(look_for(&self.owner()), self.0.path())
    }
}

/// `none`, `no home: why`, the file's text, or what is wrong; the home is `H`.
fn said(verdict: Result<Verdict, String>, home: &Path) -> String {
    match verdict {
        Ok(Verdict::None) => "none".to_owned(),
        Ok(Verdict::NoHome(why)) => format!("no home: {why}"),
        Ok(Verdict::File(mut file)) => {
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            text
        }
        Err(text) => text.replace(home.to_str().unwrap(), "H"),
    }
}

// forward(5): a file that its owner alone can have written is used.
#[test]
fn a_safe_file_is_opened_and_a_missing_one_is_none() {
    let home = Home::new();
    assert_eq!(home.look(), "alice\n");
    for mode in [0o600, 0o444, 0o755] {
        home.mode(NAME, mode);
        assert_eq!(home.look(), "alice\n");
    }
    fs::remove_file(home.path(NAME)).unwrap();
    assert_eq!(home.look(), "none");
    // Only where there is a file, it matters who may write beside it.
    home.mode("", 0o777);
    assert_eq!(home.look(), "none");
}

// forward(5): one that others can write, or that lies where others can put it, is not.
#[test]
fn what_others_can_write_is_not_used() {
    const INSECURE: &str = "H/.forward: insecure file";
    let home = Home::new();
    for mode in [0o664, 0o646, 0o666] {
        home.mode(NAME, mode);
        assert_eq!(home.look(), INSECURE);
    }
    home.mode(NAME, 0o644);
    for mode in [0o775, 0o757, 0o777] {
        home.mode("", mode);
        assert_eq!(home.look(), INSECURE);
    }
    home.mode("", 0o755);
    assert_eq!(home.look(), "alice\n");
    home.mode("", 0o1755);
    assert_eq!(home.look(), "parent_forward_open: H is sticky");
    home.mode("", 0o755);
    let mut stranger = home.owner();
    stranger.uid += 1;
    assert_eq!(said(look_for(&stranger), home.0.path()), INSECURE);
}

// OpenSMTPD 5.7.3: a link, a FIFO, or somebody else's file in the place of a .forward.
#[test]
fn what_is_not_a_plain_file_is_not_used() {
    let home = Home::new();
    let put = |make: &dyn Fn(&Path)| {
        let path = home.path(NAME);
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        make(&path);
        home.look()
    };
    let target = home.path("target");
    fs::write(&target, "alice\n").unwrap();
    let links = "H/.forward: cannot follow symbolic links";
    assert_eq!(put(&|path| symlink(&target, path).unwrap()), links);
    assert_eq!(put(&|path| symlink("/nonexistent", path).unwrap()), links);
    assert_eq!(put(&|path| symlink(path, path).unwrap()), links);
    let insecure = "H/.forward: insecure file";
    let fifo = |path: &Path| {
        let made = Command::new("mkfifo").arg("-m600").arg(path).status();
        assert!(made.unwrap().success());
    };
    assert_eq!(put(&fifo), insecure);
    assert_eq!(put(&|path| fs::create_dir(path).unwrap()), insecure);
    let socket = put(&|path| drop(UnixListener::bind(path).unwrap()));
    assert!(socket.starts_with("H/.forward: "), "{socket}");
    // A hard link to a file of somebody else is somebody else's file.
    if user::effective_uid() == 0 {
        chown(&target, Some(65_534), None).unwrap();
        assert_eq!(put(&|path| fs::hard_link(&target, path).unwrap()), insecure);
    }
}

// forward(5): a user without a home has no .forward.
#[test]
fn no_home_is_no_forward() {
    let home = Home::new();
    let mut owner = home.owner();
    for (place, why) in [
        ("", "not an absolute path"),
        ("relative", "not an absolute path"),
        ("/dev/null", "not a directory"),
        ("/dev/null/x", "Not a directory"),
        ("/nonexistent/x", "No such file or directory"),
    ] {
        owner.home = place.into();
        assert_eq!(
            said(look_for(&owner), home.0.path()),
            format!("no home: {why}")
        );
    }
    // A home behind a link is a home.
    let link = home.path("link");
    symlink(home.0.path(), &link).unwrap();
    owner.home = link;
    assert_eq!(said(look_for(&owner), home.0.path()), "alice\n");
}

fn opened(rights: &Rights, action: &str, name: &str, home: &Path) -> Opened {
    let uid = user::effective_uid();
    let text = format!(
        "table people {{ bob = \"{uid}:1:{0}\", eve = \"{1}:1:{0}\", bad = \"x\" }}\n\
         action here maildir userbase <people>\naction system maildir\n\
         action vmail maildir userbase <people> user vmail\naction own maildir userbase <people> user bob\n\
         match for local action here\nmatch for domain a.org action vmail\n\
         match for domain b.org action own\nmatch for domain c.org action system\n",
        home.display(),
        uid + 1,
    );
    let handover = Handover {
        sources: Sources::from_text("test", &text, &[]),
        defaults: Defaults {
            server_name: line("localhost"),
            addresses: Vec::new(),
        },
    };
    let config = handover.load().unwrap().config;
    let users = Userbases::load(&config, &handover.sources).unwrap();
    open(&config, &users, rights, action, name)
}

// The engine gets the files of users that the action has, and no others.
#[test]
fn only_users_of_the_action_are_served() {
    let home = Home::new();
    let uid = user::effective_uid();
    let ours = Rights::User { uid, gid: 1 };
    let ask = |action: &str, name: &str| match opened(&ours, action, name, home.0.path()) {
        Opened::File(_) => "file".to_owned(),
        Opened::Absent(_) => "absent".to_owned(),
        Opened::Unusable(text) => text,
    };
    assert_eq!(ask("here", "bob"), "file");
    assert_eq!(ask("own", "bob"), "file");
    assert_eq!(ask("other", "bob"), "unknown action 'other'");
    assert_eq!(
        ask("vmail", "bob"),
        "action 'vmail' does not deliver as bob"
    );
    for name in ["root", "../bob", "", "bob/../bob"] {
        assert_eq!(ask("here", name), format!("no such user: {name}"));
    }
    assert_eq!(ask("system", "no-such-user"), "no such user: no-such-user");
    assert!(ask("here", "bad").contains("bad userinfo"));
    // smtpd(8), not started by root.
    assert_eq!(ask("here", "eve"), "absent");
}

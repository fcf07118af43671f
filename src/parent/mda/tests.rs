use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use crate::config::{Defaults, Sources, TableName};
use crate::mail::samples::line;
use crate::mail::{Command, MailAddr};
use crate::privsep::{Handover, Single};
use crate::sys::process::Ended;
use crate::sys::user;

use super::*;

struct Fixture {
    config: Config,
    paths: Paths,
}

const CONF: &str = "action \"local\" maildir\nmatch for local action \"local\"\n";

impl Fixture {
    fn new(delivery: Delivery) -> Fixture {
        let paths = Paths::under(Path::new("/nonexistent"));
        let handover = Handover {
            sources: Sources::from_text("test", CONF, &[]),
            defaults: Defaults {
                server_name: line("localhost"),
                addresses: Vec::new(),
            },
        };
        let mut fixture = Fixture {
            config: handover.load().unwrap().config,
            paths,
        };
        fixture.local().delivery = delivery;
        fixture
    }

    fn local(&mut self) -> &mut LocalAction {
        match &mut self.config.actions.get_mut("local").unwrap().method {
            Method::Local(local) => local,
            Method::Relay(_) => panic!("the action is local"),
        }
    }

    fn context<'a>(&'a self, rights: &'a Rights) -> DeliveryContext<'a> {
        DeliveryContext {
            config: &self.config,
            users: &People,
            paths: &self.paths,
            exe: Path::new("/usr/sbin/smtpd"),
            rights,
            umask: 0o027,
        }
    }

    fn plan(&self, rights: &Rights, job: MdaJob) -> Result<Plan, MdaRefusal> {
        plan(&self.context(rights), job)
    }
}

/// The system has these users; the userbase `people` has bob as another one, and root.
struct People;

impl Users for People {
    fn recipient(&self, action: &LocalAction, name: &str) -> Result<Option<User>, String> {
        match (action.userbase.as_deref(), name) {
            (None, name) => self.system(name),
            (Some(_), "bob") => Ok(Some(person(name, 5000, "/srv/bob"))),
            (Some(_), "toor") => Ok(Some(person(name, 0, "/srv/toor"))),
            (Some(_), "homeless") => Ok(Some(person(name, 5001, ""))),
            _ => Ok(None),
        }
    }

    fn system(&self, name: &str) -> Result<Option<User>, String> {
        let (uid, home) = match name {
            "root" => (0, "/root"),
            "_smtpd" => (500, "/var/empty"),
            "bob" => (1001, "/home/bob"),
            "vmail" => (1002, "/var/vmail"),
            "broken" => return Err("no answer".to_owned()),
            _ => return Ok(None),
        };
        Ok(Some(person(name, uid, home)))
    }
}

fn person(name: &str, uid: u32, home: &str) -> User {
    User {
        name: name.to_owned(),
        uid,
        gid: uid + 1000,
        gecos: String::new(),
        home: home.into(),
    }
}

fn job(user: &str) -> MdaJob {
    let addr = MailAddr::new(user, "example.org").unwrap();
    MdaJob {
        action: line("local"),
        user: line(user),
        task: MdaTask::Single(Box::new(Single {
            subaddress: None,
            command: None,
            sender: MailAddr::null(),
            rcpt: addr.clone(),
            dest: addr,
        })),
    }
}

/// The same with a command or file.
fn with_command(user: &str, command: Command) -> MdaJob {
    let mut job = job(user);
    if let MdaTask::Single(single) = &mut job.task {
        single.command = Some(command);
    }
    job
}

fn root() -> Rights {
    Rights::Root {
        engine: Identity::alone(499, 500),
        daemon: Identity::alone(500, 500),
        queue_gid: 501,
    }
}

const MAILDIR: Delivery = Delivery::Maildir {
    path: None,
    junk: false,
};

fn refused(result: Result<Plan, MdaRefusal>) -> (i32, String) {
    match result.unwrap_err() {
        MdaRefusal::Exit { code, text } => (code, text.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_recipient_gets_his_mail_as_himself_and_with_no_other_group() {
    // smtpd(8), local delivery: supplementary groups = {gid}, then gid, then uid.
    let plan = Fixture::new(MAILDIR).plan(&root(), job("bob")).unwrap();
    assert_eq!(plan.identity, Some(Identity::alone(1001, 2001)));
    assert_eq!(
        (plan.child.uid, plan.child.home.as_str()),
        (1001, "/home/bob")
    );
    assert_eq!(plan.mailbox, None);
}

#[test]
fn the_actions_user_comes_before_the_recipient() {
    // smtpd.conf(5), action: user, who the delivery runs as.
    let mut fixture = Fixture::new(MAILDIR);
    fixture.local().user = Some(line("vmail"));
    let plan = fixture.plan(&root(), job("bob")).unwrap();
    assert_eq!(
        (plan.child.uid, plan.home.as_path()),
        (1002, Path::new("/var/vmail"))
    );
    // %{user.directory} is the recipient's home all the same.
    assert_eq!(plan.child.user.as_str(), "vmail");
    assert_eq!(plan.child.home, "/home/bob");
    assert_eq!(fixture.plan(&root(), job("eve")), Err(MdaRefusal::NoUser));
}

#[test]
fn unknown_users_are_refused_for_good_and_failed_lookups_for_now() {
    let mut fixture = Fixture::new(MAILDIR);
    let plan = |user| fixture.plan(&root(), job(user));
    assert_eq!(plan("eve"), Err(MdaRefusal::NoUser));
    assert_eq!(plan("broken"), Err(MdaRefusal::NoLookup));
    fixture.local().user = Some(line("gone"));
    let text = "delivery user 'gone' does not exist";
    assert_eq!(
        refused(fixture.plan(&root(), job("bob"))),
        (67, text.into())
    );
}

#[test]
fn root_gets_mail_only_by_a_plain_mbox() {
    // smtpd(8): uid 0 is refused unless the action is mbox and the envelope has no command.
    let text = "MDA not allowed to deliver to: root";
    let answer = refused(Fixture::new(MAILDIR).plan(&root(), job("root")));
    assert_eq!(answer, (77, text.into()));
    let mbox = Fixture::new(Delivery::Mbox);
    let plan = mbox.plan(&root(), job("root")).unwrap();
    assert_eq!(plan.mailbox.unwrap().uid, 0);
    for command in [
        Command::Pipe(line("id")),
        Command::File(line("/etc/passwd")),
    ] {
        let job = with_command("root", command);
        assert_eq!(refused(mbox.plan(&root(), job)), (77, text.into()));
    }
    let mut fixture = Fixture::new(MAILDIR);
    fixture.local().user = Some(line("root"));
    let text = "MDA not allowed to deliver to: bob";
    assert_eq!(
        refused(fixture.plan(&root(), job("bob"))),
        (77, text.into())
    );
}

#[test]
fn an_ordinary_user_delivers_to_himself_only() {
    // smtpd(8), not started by root: deliveries to other users fail temporarily.
    let rights = Rights::User { uid: 1001, gid: 1 };
    let fixture = Fixture::new(Delivery::Mbox);
    let plan = fixture.plan(&rights, job("bob")).unwrap();
    assert_eq!((plan.identity, plan.mailbox), (None, None));
    let (code, text) = refused(fixture.plan(&rights, job("vmail")));
    assert_eq!(code, 75);
    assert!(text.contains("does not run as root"), "{text}");
}

#[test]
fn names_that_the_configuration_does_not_have_are_refused_for_now() {
    let fixture = Fixture::new(MAILDIR);
    let mut strange = job("bob");
    strange.action = line("other");
    let text = "unknown action 'other'";
    assert_eq!(refused(fixture.plan(&root(), strange)), (75, text.into()));
    let fixture = Fixture::new(Delivery::ExpandOnly);
    assert_eq!(refused(fixture.plan(&root(), job("bob"))).0, 75);
}

#[test]
fn a_child_for_more_than_a_message_is_for_plain_maildirs_and_lmtp() {
    let lmtp = Delivery::Lmtp {
        dest: line("/run/lmtp"),
        rcpt_to: false,
    };
    for (delivery, batch, connection) in [
        (MAILDIR, true, false),
        (lmtp, false, true),
        (Delivery::Mbox, false, false),
        (Delivery::Mda(line("cat")), false, false),
    ] {
        for wrapper in [None, Some("wrapped".into())] {
            let mut fixture = Fixture::new(delivery.clone());
            let plain = wrapper.is_none();
            fixture.local().wrapper = wrapper;
            for (task, fits) in [(MdaTask::Batch, batch), (MdaTask::Connection, connection)] {
                let job = MdaJob { task, ..job("bob") };
                assert_eq!(fixture.plan(&root(), job).is_ok(), fits && plain);
            }
        }
    }
}

#[test]
fn users_of_a_userbase_are_whom_the_table_makes_them() {
    // smtpd.conf(5), userbase: uid, gid and home are those of the table.
    let mut fixture = Fixture::new(MAILDIR);
    fixture.local().userbase = Some(TableName::from("people"));
    let plan = fixture.plan(&root(), job("bob")).unwrap();
    assert_eq!(plan.identity, Some(Identity::alone(5000, 6000)));
    assert_eq!(
        (plan.child.uid, plan.child.home.as_str()),
        (5000, "/srv/bob")
    );
    // Nobody of the system who is not in it, and no root by another name.
    assert_eq!(fixture.plan(&root(), job("vmail")), Err(MdaRefusal::NoUser));
    assert_eq!(refused(fixture.plan(&root(), job("toor"))).0, 77);
    let plan = fixture.plan(&root(), job("homeless")).unwrap();
    assert_eq!(plan.home, PathBuf::new());
    // The action's user is one of the system.
    fixture.local().user = Some(line("vmail"));
    let plan = fixture.plan(&root(), job("bob")).unwrap();
    assert_eq!(
        (plan.child.uid, plan.child.home.as_str()),
        (1002, "/srv/bob")
    );
}

#[test]
fn a_command_is_the_daemons_or_has_to_be_in_the_users_own_forward() {
    // smtpd(8): what the engine says of a command is believed of no other user.
    let command = |user: &str| with_command(user, Command::Pipe(line("id")));
    let mut fixture = Fixture::new(MAILDIR);
    let plan = fixture.plan(&root(), command("bob")).unwrap();
    assert!(plan.child.own_forward);
    let plan = fixture.plan(&root(), command("_smtpd")).unwrap();
    assert!(!plan.child.own_forward);
    assert!(!fixture.plan(&root(), job("bob")).unwrap().child.own_forward);
    // Of an action's user it runs nothing but what the action says.
    fixture.local().user = Some(line("vmail"));
    let plan = fixture.plan(&root(), command("_smtpd")).unwrap();
    assert_eq!(plan.identity, Some(Identity::alone(500, 500)));
    assert_eq!(refused(fixture.plan(&root(), command("bob"))).0, 75);
    let plan = fixture.plan(&root(), command("vmail")).unwrap();
    assert!(plan.child.own_forward);
}

#[test]
fn commands_of_aliases_are_the_daemons_whatever_the_userbase() {
    // aliases(5): commands run as _smtpd.
    let mut fixture = Fixture::new(MAILDIR);
    fixture.local().userbase = Some(TableName::from("people"));
    let mut command = with_command("_smtpd", Command::Pipe(line("id")));
    let plan = fixture.plan(&root(), command.clone()).unwrap();
    assert_eq!(plan.identity, Some(Identity::alone(500, 500)));
    // Only commands, and only that user.
    assert_eq!(
        fixture.plan(&root(), job("_smtpd")),
        Err(MdaRefusal::NoUser)
    );
    command.user = line("vmail");
    assert_eq!(fixture.plan(&root(), command), Err(MdaRefusal::NoUser));
}

/// Launches a plan with this mailbox; says how the process ended, and what it said.
fn launched(home: &Path, mailbox: Option<NewFile>) -> (Ended, String) {
    let fixture = Fixture::new(Delivery::Mbox);
    // With the words that our own program is given, the shell runs the file `mda` where it is.
    std::fs::write(home.join("mda"), "umask\n").unwrap();
    let rights = Rights::User {
        uid: user::effective_uid(),
        gid: user::effective_gid(),
    };
    let context = DeliveryContext {
        exe: Path::new("/bin/sh"),
        ..fixture.context(&rights)
    };
    let plan = Plan {
        home: home.to_owned(),
        identity: None,
        mailbox,
        ..fixture.plan(&root(), job("bob")).unwrap()
    };
    let input = File::open("/dev/null").unwrap();
    let mut output = tempfile::tempfile().unwrap();
    let theirs = output.try_clone().unwrap();
    let pid = launch(&context, &plan, input.into(), theirs.into()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let how = loop {
        if let Some(how) = process::try_wait(pid).unwrap() {
            break how;
        }
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    };
    let mut said = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut said).unwrap();
    (how, said)
}

#[test]
fn a_mailbox_is_made_once_and_never_through_a_link() {
    // mail.local(8) cannot make a file in root's spool: its process does before it is the user's,
    // O_EXCL, mode 0600.
    let home = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let owner = |name: &str| User {
        name: name.into(),
        uid: user::effective_uid(),
        gid: user::effective_gid(),
        gecos: String::new(),
        home: "/".into(),
    };
    let make = |dir: &Path, name: &str| {
        let mailbox = mailbox(dir, &owner(name)).unwrap();
        launched(home.path(), Some(mailbox))
    };
    let path = dir.path().join("someone");
    assert_eq!(make(dir.path(), "someone").0, Ended::Exited(0));
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    std::fs::write(&path, "mail").unwrap();
    assert_eq!(make(dir.path(), "someone").0, Ended::Exited(0));
    assert_eq!(std::fs::read(&path).unwrap(), b"mail");
    let target = dir.path().join("target");
    std::os::unix::fs::symlink(&target, dir.path().join("linked")).unwrap();
    assert_eq!(make(dir.path(), "linked").0, Ended::Exited(0));
    assert!(!target.exists());
    // The parent touches no mail directory: it is the process that finds out.
    let gone = dir.path().join("gone");
    let (how, said) = make(&gone, "someone");
    assert_eq!(how, Ended::Exited(75));
    let text = format!(
        "smtpd: could not make: {}/someone: error 002\n",
        gone.display()
    );
    assert_eq!(said, text);
    for climber in ["../x", "", ".x", "a\0b"] {
        let refused = mailbox(dir.path(), &owner(climber)).unwrap_err();
        assert!(matches!(refused, MdaRefusal::Exit { code: 75, .. }));
    }
}

#[test]
fn a_mailbox_that_was_not_given_to_its_user_is_given_later() {
    // As one whose process was killed between the two: the user can never write to it.
    if user::effective_uid() != 0 {
        eprintln!("NOT RUN: a_mailbox_that_was_not_given_…: only root gives files away");
        return;
    }
    let (home, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let owner = User {
        name: "someone".into(),
        uid: 12345,
        gid: 12345,
        gecos: String::new(),
        home: "/".into(),
    };
    let path = dir.path().join("someone");
    let owner_of = |text: &str, mode| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let made = mailbox(dir.path(), &owner).unwrap();
        assert_eq!(launched(home.path(), Some(made)).0, Ended::Exited(0));
        std::fs::metadata(&path).unwrap().uid()
    };
    assert_eq!(owner_of("mail", 0o600), 0);
    assert_eq!(owner_of("", 0o644), 0);
    let second = dir.path().join("second");
    std::fs::hard_link(&path, &second).unwrap();
    assert_eq!(owner_of("", 0o600), 0);
    std::fs::remove_file(second).unwrap();
    assert_eq!(owner_of("", 0o600), 12345);
}

#[test]
fn a_delivery_has_the_mask_that_smtpd_was_started_with() {
    // smtpd.conf(5), COMMANDS.
    let home = tempfile::tempdir().unwrap();
    let (how, said) = launched(home.path(), None);
    assert_eq!(how, Ended::Exited(0));
    // Shells differ in how many zeros they put in front.
    assert_eq!(said.lines().last().unwrap().trim_start_matches('0'), "27");
}

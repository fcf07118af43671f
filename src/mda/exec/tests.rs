use super::*;
use crate::mail::MailAddr;
use crate::mail::samples::line;
use crate::privsep::{MdaJob, MdaTask, Single};

fn job(delivery: Delivery) -> ChildJob {
    ChildJob {
        job: MdaJob {
            action: line("local"),
            user: line("bob"),
            task: MdaTask::Single(Box::new(Single {
                subaddress: Some(line("tag")),
                command: None,
                sender: MailAddr::new("al", "e.org").unwrap(),
                rcpt: MailAddr::new("bob+tag", "e.net").unwrap(),
                dest: MailAddr::new("bob", "host.e.net").unwrap(),
            })),
        },
        delivery,
        own_forward: false,
        wrapper: None,
        user: line("bob"),
        home: "/users/bob".into(),
        uid: sys::user::effective_uid(),
        libexec: PathBuf::from("/usr/libexec/smtpd"),
        delimiter: '+',
    }
}

fn single(job: &mut ChildJob) -> &mut Single {
    match &mut job.job.task {
        MdaTask::Single(single) => single,
        other => panic!("{other:?}"),
    }
}

fn plan(job: &ChildJob, home: &str) -> Result<Plan, MdaError> {
    super::plan(job, single(&mut job.clone()), home)
}

fn output(job: &ChildJob) -> String {
    let Ok(Plan::Program(program)) = plan(job, "/home/vmail") else {
        panic!("not a program: {:?}", plan(job, "/home/vmail"));
    };
    let output = command(&program).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_command_has_the_environment_of_the_manual_and_no_more() {
    // smtpd.conf(5), MDA COMMANDS.
    let mut job = job(Delivery::Mda(line("env | sort")));
    let text = output(&job);
    let mut names: Vec<_> = text.lines().collect();
    // What shells set for themselves.
    names.retain(|line| {
        !["PWD=", "OLDPWD=", "SHLVL=", "_="]
            .iter()
            .any(|n| line.starts_with(n))
    });
    let path = format!("PATH={}", sys::base::DEFAULT_PATH);
    assert_eq!(
        names,
        [
            "DOMAIN=e.net",
            "EXTENSION=tag",
            "HOME=/home/vmail",
            "LOCAL=bob+tag",
            "LOGNAME=bob",
            "ORIGINAL_RECIPIENT=bob+tag@e.net",
            &path,
            "RECIPIENT=bob@host.e.net",
            "SENDER=al@e.org",
            "SHELL=/bin/sh",
            "USER=bob",
        ]
    );
    single(&mut job).subaddress = None;
    single(&mut job).sender = MailAddr::null();
    let text = output(&job);
    assert!(!text.contains("EXTENSION") && text.contains("SENDER=\n"));
}

#[test]
fn a_maildir_is_below_the_recipients_home_or_where_the_action_says() {
    // smtpd.conf(5), maildir [pathname [junk]].
    let root = |path: Option<&str>| {
        let delivery = Delivery::Maildir {
            path: path.map(line),
            junk: false,
        };
        match plan(&job(delivery), "/home/vmail") {
            Ok(Plan::Maildir(target)) => target.root.display().to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(root(None), "/home/vmail/Maildir");
    assert_eq!(root(Some("~/Mail")), "/users/bob/Mail");
    assert_eq!(
        root(Some("/v/%{dest.domain}/%{rcpt.user:strip}")),
        "/v/host.e.net/bob"
    );
}

#[test]
fn a_wrapper_wraps_commands_maildirs_and_files_alike() {
    // smtpd.conf(5), mda wrapper.
    let mut job = job(Delivery::Maildir {
        path: Some(line("/v/%{rcpt.user}")),
        junk: true,
    });
    job.libexec = PathBuf::from("/bin/echo #");
    job.wrapper = Some(line("echo %{sender}; echo %{mda}"));
    assert_eq!(
        output(&job),
        "al@e.org\n/bin/echo #/mail.maildir -j /v/bob+tag\n"
    );
    single(&mut job).command = Some(mail::Command::File(line("/a b")));
    job.wrapper = Some(line("echo %{mda}"));
    assert_eq!(output(&job), "/bin/echo #/mail.mboxfile -f al@e.org /a b\n");
    single(&mut job).command = Some(mail::Command::Pipe(line("/bin/echo \"%{dest.user}\"")));
    job.wrapper = Some(line("%{mda}; %{mda}"));
    assert_eq!(output(&job), "bob\nbob\n");
    single(&mut job).command = Some(mail::Command::Pipe(line("true; echo \"%{dest.user}\"")));
    job.wrapper = Some(line("echo %{mda} \"%{mda}\""));
    assert_eq!(
        output(&job),
        "/bin/echo #/mail.mda smtpd_1='bob';true; echo \"${smtpd_1}\"\n"
    );
    single(&mut job).command = None;
    job.delivery = Delivery::Mbox;
    assert_eq!(plan(&job, "/").unwrap_err().code, 78);
}

#[test]
fn a_text_that_cannot_be_expanded_fails_for_good() {
    let job = job(Delivery::Mda(line("x %{extension}")));
    let failure = plan(&job, "/").unwrap_err();
    assert_eq!(failure.code, 1);
    assert_eq!(failure.text, "mda command line could not be expanded");
}

#[test]
fn files_and_mailboxes_need_no_shell() {
    let mut job = job(Delivery::Mbox);
    if system_mail_local().is_none() {
        assert_eq!(
            plan(&job, "/"),
            Ok(Plan::Mailbox {
                user: "bob".into(),
                from: "al@e.org".into()
            })
        );
    }
    single(&mut job).command = Some(mail::Command::File(line("/a b;c")));
    single(&mut job).sender = MailAddr::null();
    assert_eq!(
        plan(&job, "/"),
        Ok(Plan::File {
            path: PathBuf::from("/a b;c"),
            from: "MAILER-DAEMON".into()
        })
    );
}

#[test]
fn home_is_that_of_the_user_the_delivery_runs_as() {
    // smtpd.conf(5), MDA COMMANDS: HOME is the delivery user's login directory.
    let mut job = job(Delivery::Mbox);
    assert_eq!(home(&job).unwrap(), "/users/bob");
    job.user = line("root");
    let root = sys::user::by_name("root").unwrap().unwrap();
    assert_eq!(home(&job).unwrap(), root.home.to_str().unwrap());
    job.user = line("no-such-user");
    assert_eq!(home(&job).unwrap_err().code, TEMPFAIL);
    let one = single(&mut job).clone();
    assert_eq!(values(&job, &one).directory, "/users/bob");
}

#[test]
fn a_users_command_runs_only_if_the_users_own_forward_names_it() {
    // smtpd(8): neither a forged envelope nor a compromised engine runs a command as a user.
    let dir = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(dir.path(), mode(0o700)).unwrap();
    let mut job = job(Delivery::Mbox);
    job.home = dir.path().display().to_string();
    job.own_forward = true;
    let forward = |text: &str| {
        let path = dir.path().join(".forward");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, mode(0o600)).unwrap();
    };
    let pipe = |text: &str| Some(mail::Command::Pipe(line(text)));
    let file = |text: &str| Some(mail::Command::File(line(text)));
    single(&mut job).command = pipe("touch canary");
    assert_eq!(is_wanted(&job).unwrap_err().code, TEMPFAIL);
    forward("bob, \"|cat >x\"\n/home/bob/box\n|touch canary2\n:include:/x\n");
    for (command, wanted) in [
        (pipe("cat >x"), true),
        (file("/home/bob/box"), true),
        (pipe("touch canary2"), true),
        (pipe("touch canary"), false),
        (pipe("/home/bob/box"), false),
        (file("cat >x"), false),
        (file("/home/bob/.ssh/authorized_keys"), false),
        (None, true),
    ] {
        single(&mut job).command = command;
        assert_eq!(is_wanted(&job).is_ok(), wanted, "{:?}", job.job.command());
    }
    // One that others may have written says nothing.
    single(&mut job).command = pipe("cat >x");
    std::fs::set_permissions(dir.path().join(".forward"), mode(0o666)).unwrap();
    assert!(is_wanted(&job).is_err());
}

#[test]
fn a_child_that_is_not_the_recipient_does_nothing() {
    let mut job = job(Delivery::Mda(line("true")));
    job.uid = sys::user::effective_uid() + 1;
    assert_eq!(may_run(&job).unwrap_err().code, 71);
    job.uid = sys::user::effective_uid();
    let allowed = may_run(&job);
    assert_eq!(allowed.is_err(), job.uid == 0);
    job.delivery = Delivery::Mbox;
    assert!(may_run(&job).is_ok());
}

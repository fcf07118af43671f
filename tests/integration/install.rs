//! The Makefile's `install`, and the script for FreeBSD's rc(8).

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Client, Instance, Setup, not_run, processes, root_only, wait, wait_for};

/// A tree as `make` leaves it, with programs that are none, and `make` over it without Cargo.
pub(crate) struct Built {
    pub(crate) dir: tempfile::TempDir,
}

const VARIABLES: [&str; 3] = [
    "PREFIX=/opt/mail",
    "SYSCONFDIR=/opt/mail/etc",
    "LOCALSTATEDIR=/opt/mail/state",
];

impl Built {
    pub(crate) fn new(test: &str) -> Option<Built> {
        if Command::new("make").arg("--version").output().is_err() {
            not_run(test, "there is no make");
            return None;
        }
        let built = Built {
            dir: tempfile::tempdir().unwrap(),
        };
        let release = built.dir.path().join("target/release");
        fs::create_dir_all(&release).unwrap();
        for name in [
            "smtp",
            "smtpd",
            "smtpctl",
            "mail_local",
            "mail_lmtp",
            "mail_maildir",
            "mail_mboxfile",
            "mail_mda",
        ] {
            fs::write(release.join(name), "").unwrap();
        }
        built.note(&[]);
        Some(built)
    }

    /// What `build` notes down, without building.
    fn note(&self, more: &[&str]) {
        let done = self.make(&["-n", "build"], more);
        let script = String::from_utf8_lossy(&done.stdout).into_owned();
        let note = script
            .lines()
            .find(|line| line.contains("release/settings"))
            .unwrap_or_else(|| panic!("{done:?}"));
        assert!(
            Command::new("sh")
                .args(["-c", note])
                .status()
                .unwrap()
                .success()
        );
    }

    fn make(&self, words: &[&str], more: &[&str]) -> Output {
        let dir = self.dir.path().display();
        Command::new("make")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_remove("MAKEFLAGS")
            .args(words)
            .args(VARIABLES)
            .arg(format!("TARGETDIR={dir}/target"))
            .arg(format!("DESTDIR={dir}/dest"))
            .arg("CARGO=/nonexistent/cargo")
            .args(more)
            .output()
            .unwrap()
    }

    fn dest(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("dest/opt/mail").join(path)
    }
}

#[test]
fn what_is_built_is_installed_without_cargo_and_with_its_directories() {
    // README, Installing it: make as anybody, then make install as root, who may have no Rust.
    let Some(built) = Built::new("what_is_built_is_installed_without_cargo") else {
        return;
    };
    let done = built.make(&["install"], &[]);
    assert!(done.status.success(), "{done:?}");
    assert!(built.dest("sbin/smtpd").exists());
    for dir in ["state/spool", "state/run", "state/mail"] {
        assert!(built.dest(dir).is_dir(), "{dir}");
    }
    // Texts name the files where they are, and are not cut by a name that begins alike.
    let page = fs::read_to_string(built.dest("share/man/man5/smtpd.conf.5")).unwrap();
    assert!(page.contains("/opt/mail/etc/mailname") && !page.contains("/etc/mail/"));
    let lines = fs::read_to_string(built.dest("etc/mailer.conf")).unwrap();
    assert!(lines.contains("sendmail\t/opt/mail/sbin/smtpctl"));
    assert!(!lines.contains("etcer.conf"), "{lines}");
}

#[test]
fn a_file_that_is_there_is_kept_and_named() {
    // README, Installing it: an existing mailer.conf is another mail system's.
    let Some(built) = Built::new("a_file_that_is_there_is_kept_and_named") else {
        return;
    };
    fs::create_dir_all(built.dest("etc")).unwrap();
    fs::write(built.dest("etc/mailer.conf"), "sendmail /usr/libexec/dma\n").unwrap();
    let done = built.make(&["install"], &[]);
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        said.contains("kept: ") && said.contains("/etc/mailer.conf"),
        "{said}"
    );
    assert!(
        said.contains("goes on running another mail system"),
        "{said}"
    );
    let kept = fs::read_to_string(built.dest("etc/mailer.conf")).unwrap();
    assert_eq!(kept, "sendmail /usr/libexec/dma\n");
    assert!(built.dest("share/examples/smtpd/mailer.conf").exists());
    assert!(!said.contains("etc/aliases; ours"), "{said}");
}

#[test]
fn what_is_missing_of_users_and_groups_is_said_with_what_makes_it() {
    // README, Installing it: make users makes what is missing.
    let test = "what_is_missing_of_users_and_groups_is_said_with_what_makes_it";
    if !root_only(test) {
        return;
    }
    let Some(built) = Built::new(test) else {
        return;
    };
    let place = built.dir.path().join("alone").display().to_string();
    let mut more: Vec<String> = [
        ("PREFIX", ""),
        ("SYSCONFDIR", "/etc"),
        ("LOCALSTATEDIR", "/state"),
        ("RCDIR", "/rc.d"),
    ]
    .iter()
    .map(|(name, below)| format!("{name}={place}{below}"))
    .collect();
    for name in ["SMTPD_USER", "SMTPD_QUEUE_USER", "SMTPD_QUEUE_GROUP"] {
        more.push(format!("{name}=_nosuchsmtpd"));
    }
    more.push("DESTDIR=".to_owned());
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    built.note(&more);
    let done = built.make(&["install"], &more);
    assert!(done.status.success(), "{done:?}");
    let said = String::from_utf8_lossy(&done.stdout);
    for text in [
        "there is no user _nosuchsmtpd yet: make users makes what is missing",
        "smtpctl is not set-group-id: the group _nosuchsmtpd does not exist yet",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    // And the commands for that, which are not run here.
    let done = built.make(&["-n", "users"], &more);
    let said = String::from_utf8_lossy(&done.stdout);
    for text in ["useradd", "groupadd", "_nosuchsmtpd"] {
        assert!(said.contains(text), "{text}: {said}");
    }
}

#[test]
fn what_is_built_for_other_paths_is_not_installed() {
    // README, Installing it: the same variables for both.
    let Some(built) = Built::new("what_is_built_for_other_paths_is_not_installed") else {
        return;
    };
    let done = built.make(&["install"], &["SYSCONFDIR=/elsewhere"]);
    assert!(!done.status.success());
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("built with other values"), "{said}");
    assert!(!built.dir.path().join("dest").exists());
}

/// A stand-in for rc.subr(8) of FreeBSD: what its run_rc_command does with the hooks.
const RC_SUBR: &str = r#"
load_rc_config() { :; }
run_rc_command() {
	for file in $required_files; do [ -r "$file" ] || { echo "no $file"; exit 1; }; done
	eval "hook=\$${1}_precmd own=\$${1}_cmd"
	[ -z "$hook" ] || $hook || exit 1
	if [ -n "$own" ]; then $own; exit; fi
	echo "$1: $command $smtpd_flags"
}
"#;

#[test]
fn freebsds_script_restarts_only_with_a_good_file() {
    // rc(8): a restart with a bad file must not stop the service that runs.
    let dir = tempfile::tempdir().unwrap();
    let script =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("rc.d/smtpd.freebsd"));
    let at = dir.path().display();
    let script = script
        .unwrap()
        .replace(". /etc/rc.subr", RC_SUBR)
        .replace("/usr/local/sbin/smtpd", &format!("{at}/smtpd"))
        .replace("/etc/mail/smtpd.conf", &format!("{at}/smtpd.conf"));
    fs::write(dir.path().join("rc"), script).unwrap();
    let judge = |code: u8| {
        fs::write(
            dir.path().join("smtpd"),
            format!("#!/bin/sh\nexit {code}\n"),
        )
        .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path().join("smtpd"), mode).unwrap();
    };
    let run = |word: &str| {
        let done = Command::new("sh")
            .arg(dir.path().join("rc"))
            .arg(word)
            .output();
        let done = done.unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        (done.status.success(), text)
    };
    judge(0);
    assert_eq!(run("start"), (false, format!("no {at}/smtpd.conf\n")));
    fs::write(dir.path().join("smtpd.conf"), "").unwrap();
    let (ok, text) = run("restart");
    assert!(
        ok && text.starts_with(&format!("restart: {at}/smtpd -f {at}/smtpd.conf")),
        "{text}"
    );
    for word in ["start", "reload", "configtest"] {
        assert!(run(word).0, "{word}");
    }
    judge(1);
    for word in ["start", "restart", "reload", "configtest"] {
        assert_eq!(run(word), (false, String::new()), "{word}");
    }
    assert!(run("stop").0);
}

/// A stand-in for rc.subr(8) of OpenBSD: rc_cmd asks rc_configtest before it starts, reloads or
/// restarts, as that does.
const OPENBSD_RC_SUBR: &str = r#"
rc_start() { echo "start: ${daemon} ${daemon_flags}"; }
rc_stop() { echo stop; }
rc_reload() { echo reload; }
rc_cmd() {
	case "$1" in
	start|reload|restart) rc_configtest || { echo "$1 failed"; exit 1; };;
	esac
	case "$1" in
	restart) rc_stop && rc_start;;
	start|stop|reload|configtest) rc_$1;;
	*) exit 1;;
	esac
}
"#;

#[test]
fn openbsds_script_has_the_configuration_tested_first() {
    // rc.d(8): configtest, and start, reload and restart only with a good file.
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("rc.d/smtpd.openbsd");
    let daemon = dir.path().join("smtpd");
    let script = fs::read_to_string(script)
        .unwrap()
        .replace(". /etc/rc.d/rc.subr", OPENBSD_RC_SUBR)
        .replace("/usr/local/sbin/smtpd", daemon.to_str().unwrap());
    fs::write(dir.path().join("rc"), script).unwrap();
    let run = |word: &str, good: bool| {
        let text = format!("#!/bin/sh\n[ \"$1\" = -n ] && {good}\n");
        fs::write(&daemon, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&daemon, mode).unwrap();
        let done = Command::new("sh")
            .arg(dir.path().join("rc"))
            .arg(word)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        (done.status.success(), text)
    };
    let started = format!("start: {} \n", daemon.display());
    for (word, said) in [
        ("configtest", String::new()),
        ("start", started.clone()),
        ("stop", "stop\n".to_owned()),
        ("reload", "reload\n".to_owned()),
        ("restart", format!("stop\n{started}")),
    ] {
        assert_eq!(run(word, true), (true, said), "{word}");
    }
    for word in ["start", "reload", "restart"] {
        assert_eq!(run(word, false), (false, format!("{word} failed\n")));
    }
    assert_eq!(run("configtest", false), (false, String::new()));
    assert_eq!(run("stop", false), (true, "stop\n".to_owned()));
}

/// What both systems' rc.subr(8) do to a daemon, once the hooks have agreed; in a shell whose
/// `daemon`, `flags` and `pidfile` say which.
const TO_A_DAEMON: &str = r#"
to_the_daemon() {
	case "$1" in
	start) $daemon $flags ;;
	reload) kill -HUP "$(cat "$pidfile")" ;;
	stop) kill -TERM "$(cat "$pidfile")" && while [ -e "$pidfile" ]; do sleep 0.1; done ;;
	restart) to_the_daemon stop && to_the_daemon start ;;
	esac
}
"#;

/// A daemon in the background, which is no child of ours.
pub struct Started<'d>(pub &'d Instance);

impl Started<'_> {
    fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.0.path().join("smtpd.pid")).ok()?;
        text.trim().parse().ok()
    }

    pub fn banner(&self) -> String {
        let mut said = String::new();
        wait_for("a banner", || {
            let stream = std::net::TcpStream::connect(("127.0.0.1", self.0.port));
            said = stream.map_or_else(|_| String::new(), |_| Client::connect(self.0.port).reply());
            said.starts_with("220 ")
        });
        said
    }
}

/// Who takes notice of its end is not ours to say.
fn has_ended(pid: u32) -> bool {
    processes::find(pid).is_none_or(|process| process.state == 'Z')
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            processes::signal(pid, "TERM");
            wait(|| has_ended(pid));
        }
    }
}

#[test]
fn the_scripts_of_both_systems_carry_a_daemon_through_its_days() {
    // rc(8), rc.d(8): start, configtest, restart and reload with a bad file, which change nothing,
    // reload, restart, stop: with the real daemon.
    let freebsd = (
        "rc.d/smtpd.freebsd",
        ". /etc/rc.subr",
        "daemon=$command flags=$smtpd_flags\nto_the_daemon $1",
        RC_SUBR,
        "echo \"$1: $command $smtpd_flags\"",
    );
    let openbsd = (
        "rc.d/smtpd.openbsd",
        ". /etc/rc.d/rc.subr",
        "flags=$daemon_flags\nto_the_daemon $1",
        "rc_cmd() {\n\tcase \"$1\" in\n\tconfigtest) rc_configtest; exit;;\n\
         \tstart|reload|restart) rc_configtest || exit 1;;\n\tesac\n\techo\n}\n",
        "echo\n",
    );
    for (script, include, act, subr, acts_at) in [freebsd, openbsd] {
        let daemon = Setup::maildir().prepare();
        let at = daemon.path().display().to_string();
        let program = daemon.program("smtpd").get_program().to_owned();
        let subr = subr.replace(acts_at, &format!("{act}\n"));
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(script)).unwrap();
        let text = text
            .replace(
                include,
                &format!("pidfile={at}/smtpd.pid\n{TO_A_DAEMON}{subr}"),
            )
            .replace("/usr/local/sbin/smtpd", program.to_str().unwrap())
            .replace("/var/run/smtpd.pid", &format!("{at}/smtpd.pid"))
            .replace("/etc/mail/smtpd.conf", &format!("{at}/smtpd.conf"));
        fs::write(daemon.path().join("rc"), text).unwrap();
        let run = |word: &str| {
            let mut shell = daemon.shell();
            shell.arg(daemon.path().join("rc")).arg(word);
            for variable in ["smtpd_flags", "daemon_flags"] {
                shell.env(variable, format!("-R {at}"));
            }
            let done = shell.output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            (done.status.success(), said)
        };
        let config = |name: &str| {
            daemon.configure(&format!(
                "listen on 127.0.0.1 port $port hostname {name}\n\
                 action \"in\" maildir \"$dir/mail\" virtual $all\n\
                 match from any for any action \"in\"\n"
            ));
        };
        let started = Started(&daemon);
        config("one.example.org");
        assert!(run("configtest").0, "{script}");
        let (ok, said) = run("start");
        assert!(ok, "{script}: {said}");
        assert!(started.banner().starts_with("220 one.example.org "));
        let first = started.pid().unwrap();
        daemon.configure("listen on 127.0.0.1 port $port\nmatch form any\n");
        for word in ["configtest", "restart", "reload"] {
            let (ok, said) = run(word);
            assert!(
                !ok && said.contains("smtpd.conf:2:7:"),
                "{script} {word}: {said}"
            );
            assert_eq!(started.pid(), Some(first));
            assert!(started.banner().starts_with("220 one.example.org "));
        }
        config("two.example.org");
        assert!(run("reload").0, "{script}");
        wait_for("the new configuration", || {
            started.banner().starts_with("220 two.example.org ")
        });
        assert_eq!(started.pid(), Some(first));
        config("three.example.org");
        let (ok, said) = run("restart");
        assert!(ok, "{script}: {said}");
        assert!(started.banner().starts_with("220 three.example.org "));
        assert!(started.pid() != Some(first), "{script}");
        wait_for("the old one to be gone", || has_ended(first));
        assert!(run("stop").0, "{script}");
        wait_for("the pid file to be gone", || started.pid().is_none());
    }
}

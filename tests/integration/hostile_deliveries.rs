//! Commands that mean harm to the delivery that runs them, and what they find of ours.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use crate::hostile::log_is_sound;
use crate::support::{Instance, Setup, alive, not_run, processes, root_only, wait_for};

fn outcome(daemon: &Instance) -> String {
    let mut found = String::new();
    wait_for("an outcome", || {
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains(" mda delivery "));
        found = line
            .and_then(|line| line.split_once(" result="))
            .map_or("", |(_, result)| result)
            .to_string();
        !found.is_empty()
    });
    found
}

fn with_command(command: &str) -> Instance {
    let config = format!(
        "listen on 127.0.0.1 port $port\naction \"in\" mda \"{command}\" virtual $all\n\
         match from any for any action \"in\"\n"
    );
    Setup::new(&config).start()
}

/// A process id that a command has left in a file.
fn pid_in(daemon: &Instance, name: &str) -> u32 {
    let path = daemon.path().join(name);
    let mut found = None;
    wait_for(&format!("{name} to hold a process id"), || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        found = text
            .ends_with('\n')
            .then(|| text.trim().parse().ok())
            .flatten();
        found.is_some()
    });
    found.unwrap_or(0)
}

#[test]
fn a_descendant_that_keeps_the_pipes_open_delays_nothing() {
    let daemon = with_command("cat >/dev/null; sleep 600 & echo $! >$dir/pid; echo done; exit 0");
    daemon.hello().mail("", &["b@example.org"], b"\nx\n");
    assert_eq!(outcome(&daemon), "Ok stat=Delivered");
    let descendant = pid_in(&daemon, "pid");
    assert!(alive(descendant));
    daemon.signal(descendant, "KILL");
    daemon.wait_empty();
}

/// Who has started a daemon that is process 1, as in a container; dropped, both are killed.
struct First(Child);

impl First {
    fn start(daemon: &Instance) -> First {
        let log = File::create(daemon.path().join("log")).unwrap();
        let mut command = alone();
        command.arg(daemon.program("smtpd").get_program());
        command.args(["-d", "-R"]).arg(daemon.path());
        let first = First(command.stdin(Stdio::null()).stderr(log).spawn().unwrap());
        wait_for("the daemon to serve", || {
            daemon.ctl(["show", "status"]).status.success()
        });
        first
    }

    fn pid(&self) -> u32 {
        processes::children(self.0.id(), "smtpd")[0]
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let inside = processes::children(self.0.id(), "");
        inside.into_iter().for_each(|pid| {
            processes::signal(pid, "KILL");
        });
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command among no other processes.
fn alone() -> Command {
    let mut command = Command::new("unshare");
    command.args(["-pf", "--mount-proc"]);
    command
}

#[test]
fn a_descendant_that_is_left_to_process_1_is_waited_for() {
    // smtpd(8): it may be process 1 of a container.
    let test = "hostile_deliveries::a_descendant_that_is_left_to_process_1_is_waited_for";
    if !cfg!(target_os = "linux") || !root_only(test) {
        return;
    }
    let can = alone().arg("true").stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        return not_run(test, "needs a process namespace");
    }
    let config = "listen on 127.0.0.1 port $port\n\
                  action \"in\" mda \"cat >/dev/null; sleep 600 & exit 0\" virtual $all\n\
                  match from any for any action \"in\"\n";
    let daemon = Setup::new(config).with_root().prepare();
    let first = First::start(&daemon);
    let pid = first.pid();
    daemon.hello().mail("", &["b@example.org"], b"\nx\n");
    assert_eq!(outcome(&daemon), "Ok stat=Delivered");
    let mut orphan = None;
    wait_for("the orphan", || {
        let all = processes::all();
        let is = |process: &&processes::Process| process.command.trim() == "sleep 600";
        let found = all.iter().filter(|process| process.parent == pid).find(is);
        orphan = found.map(|process| process.pid);
        orphan.is_some()
    });
    let orphan = orphan.unwrap_or(0);
    daemon.signal(orphan, "KILL");
    wait_for("nothing to be left of it", || {
        processes::find(orphan).is_none()
    });
    daemon.wait_empty();
}

#[test]
fn a_flood_of_output_is_drained_and_its_end_kept() {
    let daemon =
        with_command("cat >/dev/null; head -c 20000000 /dev/zero; echo; echo at last; exit 77");
    daemon.hello().mail("", &["b@example.org"], b"\nx\n");
    assert_eq!(
        outcome(&daemon),
        "PermFail stat=Error (permission denied: \"at last\")"
    );
    daemon.wait_empty();
    log_is_sound(&daemon);
}

#[test]
fn a_delivery_that_ignores_signals_ends_with_the_daemon_and_is_not_lost() {
    let mut daemon = with_command(
        "trap '' TERM INT HUP; cat >/dev/null; echo $$ >$dir/pid; while :; do sleep 1; done",
    );
    daemon.hello().mail("", &["b@example.org"], b"\nx\n");
    let delivery = pid_in(&daemon, "pid");
    let engine = daemon.engine_pid();
    // Asked again, the daemon waits for nobody.
    while !daemon.log().contains("Exiting") {
        daemon.signal(daemon.pid(), "TERM");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(daemon.wait_end().code(), Some(0));
    wait_for("all of it to be gone", || {
        !alive(delivery) && !alive(engine)
    });
    assert_eq!(daemon.queue().len(), 1);
}

#[test]
fn a_delivery_starts_with_a_clean_process() {
    // smtpd.conf(5), COMMANDS: these variables and no others; of what the daemon was started with,
    // only the file mode mask.
    if !cfg!(target_os = "linux") {
        return;
    }
    let config = "listen on 127.0.0.1 port $port\naction \"in\" mda \"cat >/dev/null; \
                  cat /proc/self/status >$dir/status; ls /proc/self/fd >$dir/fds; \
                  (umask; env) >$dir/env\" virtual $all\nmatch from any for any action \"in\"\n";
    let daemon = Setup::new(config)
        .env("LD_LIBRARY_PATH", "/nonexistent")
        .env("BASH_ENV", "/nonexistent")
        .env("SECRET", "hush")
        .start();
    daemon.hello().mail("", &["b@example.org"], b"\nx\n");
    assert_eq!(outcome(&daemon), "Ok stat=Delivered");
    let read = |name: &str| fs::read_to_string(daemon.path().join(name)).unwrap();
    let status = read("status");
    let mask = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.unwrap_or("?").trim(), 16).expect("a mask")
    };
    assert_eq!(mask("SigBlk:"), 0, "{status}");
    // The C library keeps the signals behind 31 for itself.
    assert_eq!(mask("SigIgn:") & 0x7fff_ffff, 0, "{status}");
    assert_eq!(mask("Seccomp:"), 0, "{status}");
    // The fourth is the directory that ls(1) reads.
    assert_eq!(read("fds").lines().count(), 4, "{}", read("fds"));
    let env = read("env");
    let mut lines = env.lines();
    // Of what a command writes others may have to read: an archive that a web server shows.
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("Umask:\t"));
    assert_eq!(lines.next(), own);
    const KNOWN: [&str; 14] = [
        "PATH",
        "SHELL",
        "HOME",
        "LOGNAME",
        "USER",
        "DOMAIN",
        "LOCAL",
        "ORIGINAL_RECIPIENT",
        "RECIPIENT",
        "SENDER",
        "PWD",
        "OLDPWD",
        "_",
        "SHLVL",
    ];
    for line in lines {
        let name = line.split('=').next().unwrap_or_default();
        assert!(KNOWN.contains(&name), "{env}");
    }
    let environ = format!("/proc/{}/environ", daemon.engine_pid());
    // A process that has changed its user shows this to root alone.
    let environ = fs::read(environ).unwrap_or_default();
    for leaked in [b"SECRET".as_slice(), b"LD_", b"BASH_ENV"] {
        assert!(!environ.windows(leaked.len()).any(|part| part == leaked));
    }
}

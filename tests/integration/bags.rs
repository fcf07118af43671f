//! Small messages that share a file, and how each gets a directory of its own.

use crate::mda::start_with_users;
use crate::support::{Instance, Setup, files, text};

const WAITING: [&str; 3] = ["a@example.org", "b@example.org", "c@example.org"];

/// Leaves three messages in bags: nobody delivers them.
fn fill(daemon: &Instance) {
    assert!(daemon.ctl(["pause", "mda"]).status.success());
    let mut client = daemon.hello();
    for rcpt in WAITING {
        client.mail("s@example.net", &[rcpt], b"\nx\n");
    }
    daemon.wait_queue(&WAITING);
    assert!(in_bags(daemon) > 0, "{:?}", daemon.spooled());
}

fn in_bags(daemon: &Instance) -> usize {
    files(&daemon.path().join("spool/bags")).len()
}

#[test]
fn after_a_clean_stop_there_are_no_bags() {
    // spool-layout.md, Bags: at a clean stop everything is unpacked, also by an engine that does
    // not own the spool's root.
    let setup = Setup::new(
        "listen on 127.0.0.1 port $port\n\
         action \"in\" maildir \"$dir/home/alice/mail\" virtual { \"@\" = alice }\n\
         match from any for any action \"in\"\n",
    );
    let Some(mut daemon) = start_with_users("after_a_clean_stop_there_are_no_bags", setup) else {
        return;
    };
    fill(&daemon);
    assert!(daemon.stop().success());
    assert_eq!(in_bags(&daemon), 0, "{}", daemon.log());
    daemon.start();
    assert_eq!(daemon.wait_mail_in("home/alice/mail", 3).len(), 3);
    daemon.wait_settled();
}

#[test]
fn unpack_gives_messages_directories_while_no_daemon_runs() {
    // smtpctl(8), unpack.
    let mut daemon = Setup::maildir().start();
    fill(&daemon);
    let refused = daemon.ctl(["unpack"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(in_bags(&daemon) > 0);
    // One that is killed unpacks nothing.
    daemon.kill_parent();
    assert!(in_bags(&daemon) > 0);
    for _ in 0..2 {
        let done = daemon.ctl(["unpack"]);
        assert_eq!(text(&done), "no message is in a bag\n", "{done:?}");
        assert_eq!(in_bags(&daemon), 0);
        assert_eq!(daemon.spooled().len(), 2 * WAITING.len());
    }
    daemon.start();
    assert_eq!(daemon.wait_mail(3).len(), 3);
    daemon.wait_settled();
}

//! Small messages that share a file, and how each gets a directory of its own.

use std::path::Path;

use crate::limits::{Tmpfs, use_up_bytes, use_up_inodes};
use crate::mda::start_with_users;
use crate::support::{Client, Instance, Setup, files, not_run, root_only, text, wait_for};

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

#[test]
fn sessions_whose_bag_finds_no_room_hear_so_and_nothing_is_lost() {
    // spool-layout.md, guarantee 6; marks take no room that a full disk could refuse.
    let name = "sessions_whose_bag_finds_no_room_hear_so_and_nothing_is_lost";
    in_a_full_spool(name, "size=64m,mode=755", use_up_bytes);
}

#[test]
fn sessions_whose_bag_finds_no_inode_hear_so_and_nothing_is_lost() {
    let name = "sessions_whose_bag_finds_no_inode_hear_so_and_nothing_is_lost";
    in_a_full_spool(name, "size=256m,nr_inodes=4000,mode=755", use_up_inodes);
}

fn in_a_full_spool(name: &str, options: &str, use_up: fn(&Path)) {
    if !cfg!(target_os = "linux") || !root_only(name) {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let spool = dir.path().join("spool");
    let Some(_tmpfs) = Tmpfs::mount(&spool, options) else {
        not_run(name, "needs to mount a tmpfs");
        return;
    };
    let mut daemon = Setup::maildir().start_in(dir);
    fill(&daemon);
    let mut clients: Vec<Client> = (0..5).map(|_| daemon.hello()).collect();
    for client in &mut clients {
        client.say("MAIL FROM:<s@example.net>", 250);
        client.say("RCPT TO:<full@example.org>", 250);
        client.say("DATA", 354);
    }
    let filler = spool.join("filler");
    std::fs::create_dir(&filler).unwrap();
    use_up(&filler);
    for client in &mut clients {
        client.send(b"\r\nfull\r\n.\r\n");
    }
    for client in &mut clients {
        let reply = client.reply();
        assert!(reply.starts_with("452 4.3.1 "), "{reply}");
    }
    for room in ["incoming", "temporary"] {
        let left = files(&spool.join(room));
        assert!(left.is_empty(), "{left:?}");
    }
    // What was taken before survives a stop, is delivered and settled without any room.
    daemon.kill_parent();
    daemon.start();
    assert_eq!(daemon.wait_mail(3).len(), 3);
    daemon.wait_settled();
    assert_eq!(in_bags(&daemon), 0);
    std::fs::remove_dir_all(&filler).unwrap();
    wait_for("room to be noticed", || {
        Client::try_hello(daemon.port)
            .and_then(|mut c| c.try_mail("s@example.net", &["after@example.org"], b"\nx\n"))
            .is_some_and(|reply| reply.starts_with("250"))
    });
    assert_eq!(daemon.wait_mail(4).len(), 4);
}

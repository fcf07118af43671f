//! What is answered without waiting, and what is left to who may wait. That both find the same is
//! asked in every story: see `Bench::expand`.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

#[test]
fn a_user_who_has_just_had_mail_needs_no_waiting() {
    let bench = Bench::new(CONFIG);
    for rcpt in ["bob@example.com", "team@example.com"] {
        // Nobody knows yet that there is no .forward.
        assert!(!bench.is_at_once(rcpt), "{rcpt}");
    }
    bench.expand("bob@example.com").unwrap();
    for rcpt in ["bob@example.com", "Bob+tag@example.com", "root@example.com"] {
        assert!(bench.is_at_once(rcpt), "{rcpt}");
    }
    // Nor does a refusal that comes of the rules or of tables in memory.
    for rcpt in ["bob@rejected.org", "x@elsewhere.test", "gone@example.com"] {
        assert!(bench.is_at_once(rcpt), "{rcpt}");
    }
}

#[test]
fn files_the_log_and_tables_elsewhere_are_left_to_who_may_wait() {
    let bench = Bench::new(CONFIG);
    bench.expand("bob@example.com").unwrap();
    for rcpt in [
        "members@example.com",
        // A command of an alias, a broken value, too many levels: the log is told.
        "pipe@example.com",
        "bad@example.com",
        "deep0@example.com",
    ] {
        let _ = bench.expand(rcpt);
        assert!(!bench.is_at_once(rcpt), "{rcpt}");
    }
    let with_forward = Bench::new(CONFIG).forward("bob", "carol@ext.net");
    with_forward.expand("bob@example.com").unwrap();
    assert!(!with_forward.is_at_once("bob@example.com"));

    // A program is asked, and is not at hand.
    for rule in [
        "match from any for domain <t> action a",
        "match from any for any action b",
    ] {
        let bench = Bench::new(&format!(
            "table t proc:/bin/sh\ntable u {{ bob = \"1:1:/nonexistent\" }}\n\
             action a mbox userbase <u>\naction b mbox alias <t> userbase <u>\n{rule}\n"
        ));
        assert!(!bench.is_at_once("bob@example.com"), "{rule}");
    }
}

/// A parent that counts how often it is asked.
struct Counted<'h>(&'h Path, AtomicU32);

impl Forwards for Counted<'_> {
    fn open_forward(&self, _: &Line, _: &Line) -> io::Result<Forward> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(match fs::File::open(self.0.join(".forward")) {
            Ok(file) => Forward::File(file.into()),
            Err(_) => Forward::Absent,
        })
    }
}

// forward(5): a .forward counts for the next message, whatever came before it.
#[test]
fn the_parent_is_asked_again_when_something_has_changed_in_the_home() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let mut bench = Bench::new(&format!(
        "table users {{ bob = \"1000:1000:{}\" }}\naction l maildir userbase <users>\n\
         match from any for any action l\n",
        home.display()
    ));
    // Long after the directory was made.
    bench.now = Timestamp::now().plus(60);
    let parent = Counted(home, AtomicU32::new(0));
    let expand = || {
        let found = bench.expand_by("bob@example.com", |context, facts, rcpt| {
            let context = Context {
                forwards: &parent,
                ..*context
            };
            expand(&context, facts, rcpt)
        });
        let code = found.err().map_or(250, |refusal| refusal.code);
        (code, parent.1.load(Ordering::Relaxed))
    };
    assert_eq!([expand(), expand(), expand()], [(250, 1); 3]);
    fs::write(home.join(".forward"), "error:550 gone\n").unwrap();
    assert_eq!([expand(), expand()], [(550, 2), (550, 3)]);
    fs::remove_file(home.join(".forward")).unwrap();
    assert_eq!([expand(), expand()], [(250, 4); 2]);
}

//! What is answered without waiting, and what is left to who may wait. That both find the same is
//! asked in every story: see `Bench::expand`.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::{Criterion, Rule};
use crate::expansion::watch::{Event, Watch};
use crate::ruleset;
use crate::ruleset::watch::Lookup;
use crate::table::TableError;
use crate::util::cdb;

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
        "emptyfile@example.com",
        // A command of an alias, a broken value, a broken user, too many levels: the log is told.
        "pipe@example.com",
        "bad@example.com",
        "broken2@example.com",
        "deep0@example.com",
    ] {
        let _ = bench.expand(rcpt);
        assert!(!bench.is_at_once(rcpt), "{rcpt}");
    }
    let with_forward = Bench::new(CONFIG).forward("bob", "carol@ext.net");
    with_forward.expand("bob@example.com").unwrap();
    assert!(!with_forward.is_at_once("bob@example.com"));

    // A database is looked up on the disk, whether rules, aliases or a userbase ask it.
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("t.db");
    let mut writer = cdb::Writer::new(io::Cursor::new(Vec::new())).unwrap();
    writer.add(b"x.test", b"").unwrap();
    fs::write(&database, writer.finish().unwrap().into_inner()).unwrap();
    for rules in [
        "match from any for domain <t> action a\nmatch from any for any action a",
        "match from any for any action b",
        "match from any for any action c",
    ] {
        let bench = Bench::new(&format!(
            "table t db:{}\ntable u {{ bob = \"1:1:/nonexistent\" }}\n\
             action a mbox userbase <u>\naction b mbox alias <t> userbase <u>\n\
             action c mbox userbase <t>\n{rules}\n",
            database.display()
        ));
        let _ = bench.expand("bob@example.com");
        assert!(!bench.is_at_once("bob@example.com"), "{rules}");
    }
}

#[test]
fn whoever_watches_hears_of_every_step() {
    struct Deaf;
    impl ruleset::watch::Watch for Deaf {
        fn rule(&self, _: &Rule) {}
        fn criterion(&self, _: &Criterion, _: Result<bool, &TableError>) {}
        fn lookup(&self, _: &Lookup<'_>) {}
    }
    impl Watch for Deaf {
        fn event(&self, _: &Event<'_>) {}
    }
    let bench = Bench::new(CONFIG);
    let found = bench.expand_by("gone@example.com", |context, facts, rcpt| {
        let context = Context {
            watch: Some(&Deaf),
            ..*context
        };
        expand_at_once(&context, facts, rcpt)
    });
    assert!(found.is_none());
}

#[test]
fn a_user_of_the_system_is_known_for_a_second_and_to_no_other_userbase() {
    let mut bench = Bench::new(
        "table u { bob = \"1:1:/nonexistent\" }\naction s mbox\naction u mbox userbase <u>\n\
         match from any for domain s.org action s\nmatch from any for domain u.org action u\n",
    );
    // Long after root's home was changed.
    bench.now = Timestamp::now().plus(60);
    assert!(!bench.is_at_once("root@s.org"));
    bench.expand("root@s.org").unwrap();
    assert!(bench.is_at_once("root@s.org"));
    assert_eq!(bench.expand("root@u.org").unwrap_err().code, 550);
    bench.now = bench.now.plus(1);
    assert!(!bench.is_at_once("root@s.org"));
}

#[test]
fn a_home_that_nobody_has_looked_at_for_a_while_may_be_waited_for() {
    let mut bench = Bench::new(CONFIG);
    bench.expand("bob@example.com").unwrap();
    bench.now = bench.now.plus(11);
    assert!(!bench.is_at_once("bob@example.com"));
    bench.expand("bob@example.com").unwrap();
    assert!(bench.is_at_once("bob@example.com"));
}

/// A parent that counts how often it is asked.
struct Counted<'h>(&'h Path, AtomicU32);

impl Forwards for Counted<'_> {
    fn open_forward(&self, _: &Line, _: &Line) -> io::Result<Forward> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let home = HomeState::of(self.0);
        Ok(match fs::File::open(self.0.join(".forward")) {
            Ok(file) => Forward::File(file.into()),
            Err(_) => Forward::Absent(home),
        })
    }
}

fn home_of_bob(home: &Path) -> String {
    format!(
        "table users {{ bob = \"1000:1000:{}\" }}\naction l maildir userbase <users>\n\
         match from any for any action l\n",
        home.display()
    )
}

impl Bench {
    /// The reply to a recipient for whom this parent is asked.
    fn code_by(&self, rcpt: &str, parent: &dyn Forwards) -> u16 {
        let found = self.expand_by(rcpt, |context, facts, rcpt| {
            let context = Context {
                forwards: parent,
                ..*context
            };
            expand(&context, facts, rcpt)
        });
        found.err().map_or(250, |refusal| refusal.code)
    }
}

// forward(5): a .forward counts for the next message, whatever came before it.
#[test]
fn the_parent_is_asked_again_when_something_has_changed_in_the_home() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let mut bench = Bench::new(&home_of_bob(home));
    // Long after the directory was made.
    bench.now = Timestamp::now().plus(60);
    let parent = Counted(home, AtomicU32::new(0));
    let expand = || {
        let code = bench.code_by("bob@example.com", &parent);
        (code, parent.1.load(Ordering::Relaxed))
    };
    assert_eq!([expand(), expand(), expand()], [(250, 1); 3]);
    fs::write(home.join(".forward"), "error:550 gone\n").unwrap();
    assert_eq!([expand(), expand()], [(550, 2), (550, 3)]);
    fs::remove_file(home.join(".forward")).unwrap();
    assert_eq!([expand(), expand()], [(250, 4); 2]);
}

/// A parent behind whose back a .forward is made, right after it has found none.
struct Overtaken<'h>(&'h Path);

impl Forwards for Overtaken<'_> {
    fn open_forward(&self, _: &Line, _: &Line) -> io::Result<Forward> {
        let path = self.0.join(".forward");
        let home = HomeState::of(self.0);
        Ok(match fs::File::open(&path) {
            Ok(file) => Forward::File(file.into()),
            Err(_) => {
                fs::write(path, "error:550 gone\n")?;
                Forward::Absent(home)
            }
        })
    }
}

#[test]
fn a_forward_that_is_made_while_nobody_finds_one_counts_for_the_next_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(&home_of_bob(dir.path()));
    bench.now = Timestamp::now().plus(60);
    let parent = Overtaken(dir.path());
    let codes = [(); 2].map(|()| bench.code_by("bob@example.com", &parent));
    assert_eq!(codes, [250, 550]);
}

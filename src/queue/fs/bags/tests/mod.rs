use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::mail::samples::envelope;
use crate::mail::{Envelope, EvpId, MsgId};
use crate::queue::coding::{Coding, Key};
use crate::queue::fs::spool::Spool;
use crate::queue::fs::{Disk, Fs, Options, body_path, envelope_path, layout};
use crate::queue::{LoadError, commit_all};
use crate::util::Timestamp;

use super::form::{self, Parcel};
use watched::Watched;

mod many;
mod watched;

fn bagged() -> Options {
    Options {
        bags: true,
        ..Options::default()
    }
}

impl Spool {
    /// The only bag.
    fn bag(&self) -> PathBuf {
        let names = self.names("bags");
        assert_eq!(names.len(), 1, "{names:?}");
        self.at("bags").join(&names[0])
    }

    /// Commits a message for each user together; its text is the user's name.
    fn commit(&self, users: &[&str]) -> Vec<Envelope> {
        let messages = users.iter().map(|user| {
            let mut incoming = self.queue.begin().unwrap();
            incoming.add(envelope(user)).unwrap();
            incoming.write(user.as_bytes()).unwrap();
            incoming
        });
        let committed = commit_all(messages.collect());
        let envelopes = committed
            .into_iter()
            .map(|one| one.unwrap().into_envelopes());
        envelopes.flatten().collect()
    }

    fn text(&self, id: MsgId) -> String {
        let mut text = String::new();
        let mut body = self.queue.open_body(id).unwrap();
        assert_eq!(body.size_bytes().unwrap(), 3);
        body.read_to_string(&mut text).unwrap();
        text
    }

    fn messages(&self) -> Vec<MsgId> {
        let mut found: Vec<MsgId> = self.queue.messages().collect();
        found.sort_unstable();
        found
    }

    /// The users whose messages are there, whole.
    fn users(&self) -> Vec<String> {
        let whole = |id: MsgId| {
            // It may be in a bag that was set aside a moment ago.
            let envelopes = self.queue.envelopes(id).ok()?;
            let user = envelopes.first()?.rcpt.user().to_owned();
            let mut text = String::new();
            self.queue
                .open_body(id)
                .ok()?
                .read_to_string(&mut text)
                .ok()?;
            assert_eq!(text, user);
            Some(user)
        };
        let mut users: Vec<String> = self.messages().into_iter().filter_map(whole).collect();
        users.sort();
        users
    }

    fn has_dir(&self, id: EvpId) -> bool {
        self.at(layout::message_dir(id.msgid())).exists()
    }
}

#[test]
fn messages_that_are_committed_together_share_a_file() {
    let spool = Spool::with(bagged());
    let three = spool.commit(&["ann", "bob", "eve"]);
    spool.bag();
    assert!(!three.iter().any(|one| spool.has_dir(one.id)));
    assert_eq!(spool.messages().len(), 3);
    for (one, user) in three.iter().zip(["ann", "bob", "eve"]) {
        assert_eq!(spool.queue.load(one.id).unwrap(), *one);
        assert_eq!(spool.text(one.id.msgid()), user);
    }
    for one in &three {
        spool.queue.remove(one.id).unwrap();
        assert!(matches!(spool.queue.load(one.id), Err(LoadError::Missing)));
    }
    assert!(spool.names("bags").is_empty());
}

#[test]
fn a_mark_survives_the_death_of_the_process() {
    let spool = Spool::with(bagged());
    let three = spool.commit(&["ann", "bob", "eve"]);
    spool.queue.remove(three[1].id).unwrap();
    let spool = spool.reopened(bagged());
    assert_eq!(spool.users(), ["ann", "eve"]);
    spool.queue.remove(three[0].id).unwrap();
    spool.queue.remove(three[2].id).unwrap();
    let spool = spool.reopened(bagged());
    assert!(spool.names("bags").is_empty() && spool.messages().is_empty());
}

#[test]
fn a_message_that_is_changed_is_unpacked_and_the_others_stay() {
    let spool = Spool::with(bagged());
    let two = spool.commit(&["ann", "bob"]);
    let mut later = two[0].clone();
    later.retry = 7;
    spool.queue.update(&later).unwrap();
    assert!(spool.has_dir(later.id) && !spool.has_dir(two[1].id));
    let report = spool.queue.add(&two[1]).unwrap();
    assert!(spool.names("bags").is_empty(), "nothing is left in the bag");
    let spool = spool.reopened(bagged());
    assert_eq!(spool.queue.load(later.id).unwrap(), later);
    assert_eq!(spool.queue.envelopes(report.msgid()).unwrap().len(), 2);
    assert_eq!(spool.text(report.msgid()), "bob");
    let gone = Envelope {
        id: EvpId::new(two[0].id.msgid(), 7).unwrap(),
        ..two[0].clone()
    };
    assert!(spool.queue.update(&gone).is_err());
}

#[test]
fn after_unpacking_everything_lies_as_older_versions_expect_it() {
    // spool-layout.md, Bags: what is on the disk after a clean stop.
    let spool = Spool::with(bagged());
    let two = spool.commit(&["ann", "bob"]);
    let one = spool.commit(&["eve"]).remove(0);
    assert_eq!(spool.fs.unpack_all(Duration::MAX), 0);
    assert!(spool.names("bags").is_empty());
    for (one, user) in two.iter().chain([&one]).zip(["ann", "bob", "eve"]) {
        assert_eq!(
            fs::read(spool.at(body_path(one.id.msgid()))).unwrap(),
            user.as_bytes()
        );
        let file = fs::read(spool.at(envelope_path(one.id))).unwrap();
        let expected = crate::queue::envelope_file::encode(one).unwrap();
        assert_eq!(file, expected.as_bytes());
    }
    assert_eq!(spool.reopened(bagged()).users(), ["ann", "bob", "eve"]);
}

#[test]
fn everything_is_unpacked_with_three_syncs_where_the_system_can() {
    let disk = Watched::new();
    let spool = disk.spool(bagged());
    let mut all = spool.commit(&["ann", "bob", "eve"]);
    all.extend(spool.commit(&["joe", "kim"]));
    spool.queue.remove(all[1].id).unwrap();
    disk.forget();
    assert_eq!(spool.fs.unpack_all(Duration::MAX), 0);
    assert!(spool.names("bags").is_empty());
    if disk.real.can_sync_all() {
        // One more for `queue`, in which a bucket is new.
        assert_eq!(disk.count("sync all"), 3);
        assert!(disk.count("sync") <= 5, "{:?}", disk.done());
    }
    assert_eq!(spool.users(), ["ann", "eve", "joe", "kim"]);
}

#[test]
fn what_there_is_no_time_to_unpack_stays_in_its_bag() {
    let spool = Spool::with(bagged());
    spool.commit(&["ann", "bob"]);
    assert_eq!(spool.fs.unpack_all(Duration::ZERO), 2);
    let spool = spool.reopened(bagged());
    assert_eq!(spool.users(), ["ann", "bob"]);
    assert_eq!(spool.names("bags").len(), 1);
}

#[test]
fn a_stop_does_not_wait_for_tables_longer_than_it_may() {
    let spool = Spool::with(bagged());
    spool.commit(&["ann", "bob"]);
    let spool = spool.reopened(Options {
        read_bags_later: true,
        ..bagged()
    });
    assert_eq!(spool.fs.unpack_all(Duration::ZERO), 2);
    spool.fs.read_bags();
    assert_eq!(spool.fs.unpack_all(Duration::MAX), 0);
}

#[test]
fn a_bag_has_no_more_messages_than_a_start_believes() {
    let parcels: Vec<_> = (0..=form::MAX_PARCELS).map(|_| Parcel(vec![])).collect();
    assert!(form::build(&parcels[1..]).is_ok());
    assert!(form::build(&parcels).is_err());
}

#[test]
fn mail_is_received_before_tables_are_read_and_committed_after() {
    // spool-layout.md, Bags: only some tables are read before the first client is greeted.
    let spool = Spool::with(bagged());
    for _ in 0..40 {
        spool.commit(&["ann", "bob", "eve", "joe", "kim", "lea", "mia", "ned"]);
    }
    let old = spool.messages();
    let bags = spool.names("bags");
    let Spool { dir, fs, queue } = spool;
    drop((fs, queue));
    let disk = Watched::over(dir);
    let spool = disk.spool(Options {
        read_bags_later: true,
        ..bagged()
    });
    let read = |disk: &Watched| {
        let is_read = |bag: &&String| disk.done().contains(&format!("open bags/{bag}"));
        bags.iter().filter(is_read).count()
    };
    let at_once = read(&disk);
    assert!(
        at_once > 0 && at_once < bags.len(),
        "{at_once} of {}",
        bags.len()
    );
    let mut incoming = spool.queue.begin().unwrap();
    incoming.add(envelope("new")).unwrap();
    incoming.write(b"new").unwrap();
    thread::scope(|scope| {
        let commit = scope.spawn(|| incoming.commit().unwrap());
        let walk = scope.spawn(|| spool.messages());
        spool.fs.read_bags();
        let new = commit.join().unwrap().msgid();
        let mut found = walk.join().unwrap();
        found.retain(|id| *id != new);
        assert_eq!(found, old, "a walk shows all of them");
    });
    let done = disk.done();
    let new = done
        .iter()
        .position(|it| it.starts_with("create temporary/"));
    let is_late = |bag: &String| {
        let first = done.iter().position(|it| *it == format!("open bags/{bag}"));
        first.is_none() || first > new
    };
    assert!(!bags.iter().any(is_late), "a commit waits for all tables");
    assert_eq!(spool.messages().len(), old.len() + 1);
    assert!(
        spool.fs.0.is_unique(old[0]).is_err(),
        "no id is given twice"
    );
}

#[test]
fn a_bag_that_finds_no_descriptor_is_read_when_there_is_one() {
    // Clients may use up all descriptors while tables are read.
    let spool = Spool::with(bagged());
    // More envelopes in each than are looked at when the spool is opened.
    for user in ["ann", "bob"] {
        let mut incoming = spool.queue.begin().unwrap();
        for _ in 0..300 {
            incoming.add(envelope(user)).unwrap();
        }
        incoming.write(user.as_bytes()).unwrap();
        incoming.commit().unwrap();
    }
    let disk = Watched::over(spool.dir);
    let spool = disk.spool(Options {
        read_bags_later: true,
        ..bagged()
    });
    disk.refused.store(1, Ordering::Relaxed);
    spool.fs.read_bags();
    assert_eq!(spool.users(), ["ann", "bob"]);
}

#[test]
fn a_spool_comes_from_a_version_without_bags_and_goes_back_to_it() {
    let spool = Spool::with(Options::default());
    let mut first = spool.commit(&["ann"]).remove(0);
    // What never was there is made.
    fs::remove_dir(spool.at("bags")).unwrap();
    let spool = spool.reopened(bagged());
    spool.commit(&["bob", "eve"]);
    first.retry = 1;
    spool.queue.update(&first).unwrap();
    assert_eq!(spool.users(), ["ann", "bob", "eve"]);
    spool.bag();
    assert_eq!(spool.fs.unpack_all(Duration::MAX), 0);
    // Only an empty directory goes.
    fs::remove_dir(spool.at("bags")).unwrap();
    let Spool { dir, fs, queue } = spool;
    drop((fs, queue));
    let spool = Spool::over(dir, Options::default());
    assert_eq!(spool.users(), ["ann", "bob", "eve"]);
    assert_eq!(
        spool.queue.envelopes(first.id.msgid()).unwrap(),
        [first.clone()]
    );
}

#[test]
fn a_message_in_a_bag_and_in_a_directory_is_the_one_in_the_directory() {
    // A stop between the rename of the directory and the mark in the bag.
    let spool = Spool::with(bagged());
    let two = spool.commit(&["ann", "bob"]);
    let bag = spool.bag();
    let before = fs::read(&bag).unwrap();
    let mut later = two[0].clone();
    later.retry = 7;
    spool.queue.update(&later).unwrap();
    fs::write(&bag, before).unwrap();
    let spool = spool.reopened(bagged());
    assert_eq!(spool.users(), ["ann", "bob"]);
    assert_eq!(
        spool.queue.envelopes(later.id.msgid()).unwrap(),
        [later.clone()]
    );
    spool.queue.remove(later.id).unwrap();
    assert_eq!(
        spool.reopened(bagged()).users(),
        ["bob"],
        "it does not come back"
    );
}

/// What is damaged, how, given where the second body begins, and who is left.
type Damage = (
    &'static str,
    fn(&mut Vec<u8>, usize),
    &'static [&'static str],
);

#[test]
fn the_readable_messages_of_a_damaged_bag_survive() {
    // spool-layout.md, guarantee 5: nothing unreadable is deleted.
    let users = ["ann", "bob", "eve"];
    let damage: [Damage; 5] = [
        ("a body", |bag, body| bag[body] ^= 1, &["ann", "eve"]),
        (
            "an envelope",
            |bag, body| bag[body + 20] ^= 1,
            &["ann", "eve"],
        ),
        ("the end", |bag, body| bag.truncate(body), &["ann"]),
        ("a line", |bag, _| bag[45] ^= 1, &["bob", "eve"]),
        ("the first line", |bag, _| bag[14] ^= 1, &[]),
    ];
    for (what, spoil, left) in damage {
        let spool = Spool::with(bagged());
        spool.commit(&users);
        let path = spool.bag();
        let mut bag = fs::read(&path).unwrap();
        let body = bag.windows(3).position(|text| text == b"bob").unwrap();
        // The text of a body comes before any envelope that names it.
        spoil(&mut bag, body);
        fs::write(&path, bag).unwrap();
        let spool = spool.reopened(bagged());
        assert_eq!(spool.users(), left, "{what}");
        assert_eq!(spool.names("corrupt").len(), 1, "{what}");
        assert!(spool.names("bags").is_empty(), "{what}");
        assert_eq!(
            spool.reopened(bagged()).users(),
            left,
            "{what}, after a restart"
        );
    }
}

#[test]
fn no_damaged_byte_of_a_bag_makes_another_message() {
    let spool = Spool::with(bagged());
    spool.commit(&["ann", "bob"]);
    let path = spool.bag();
    let bag = fs::read(&path).unwrap();
    let end = bag
        .iter()
        .rposition(|byte| *byte != 0 && *byte != b'-')
        .unwrap();
    drop(spool);
    for at in (0..=end).step_by(7) {
        let dir = tempfile::tempdir().unwrap();
        drop(Fs::open(dir.path(), bagged()).unwrap());
        let mut spoiled = bag.clone();
        spoiled[at] ^= 0x10;
        fs::write(
            dir.path().join("bags").join(path.file_name().unwrap()),
            spoiled,
        )
        .unwrap();
        let users = Spool::over(dir, bagged()).users();
        assert!(users.len() < 2, "byte {at}: {users:?}");
    }
}

#[test]
fn a_bag_of_another_key_stops_the_start_and_stays() {
    let key = |text: &str| Options {
        coding: Coding {
            compress: true,
            key: Key::new(text),
        },
        ..bagged()
    };
    let right = "0123456789abcdef0123456789abcdef";
    let spool = Spool::with(key(right));
    let two = spool.commit(&["ann", "bob"]);
    let bag = fs::read(spool.bag()).unwrap();
    assert!(!bag.windows(7).any(|found| found == b"example"));
    let Spool { dir, fs, queue } = spool;
    drop((fs, queue));
    let wrong = Fs::open(dir.path(), key("another key of thirty-two bytes."));
    let text = wrong.map(drop).unwrap_err().to_string();
    assert!(
        text.contains("bags/") && text.ends_with("nothing has been changed"),
        "{text}"
    );
    let spool = Spool::over(dir, key(right));
    assert_eq!(spool.users(), ["ann", "bob"]);
    // Unpacked it is as it was.
    assert_eq!(spool.fs.unpack_all(Duration::MAX), 0);
    assert_eq!(spool.text(two[1].id.msgid()), "bob");
}

#[test]
fn what_is_left_of_an_old_bag_is_unpacked() {
    let second = Arc::new(AtomicU64::new(1000));
    let clock = second.clone();
    let spool = Spool::with(Options {
        clock: Arc::new(move || Timestamp(clock.load(Ordering::Relaxed))),
        ..bagged()
    });
    let four = spool.commit(&["ann", "bob", "eve", "joe"]);
    spool.queue.remove(four[0].id).unwrap();
    second.store(1100, Ordering::Relaxed);
    spool.fs.0.unpack_left_over();
    spool.bag();
    spool.queue.remove(four[1].id).unwrap();
    spool.queue.remove(four[2].id).unwrap();
    spool.fs.0.unpack_left_over();
    assert!(spool.names("bags").is_empty());
    assert!(spool.has_dir(four[3].id));
    assert_eq!(spool.users(), ["joe"]);
}

#[test]
fn a_message_that_does_not_fit_into_memory_goes_its_own_way() {
    let spool = Spool::with(Options {
        max_held_bytes: 20_000,
        ..bagged()
    });
    let mut large = spool.queue.begin().unwrap();
    let mut other = spool.queue.begin().unwrap();
    for incoming in [&mut large, &mut other] {
        incoming.add(envelope("ann")).unwrap();
    }
    large.write(&[b'x'; 15_000]).unwrap();
    assert!(large.is_small() && !large.is_full());
    other.write(&[b'x'; 6000]).unwrap();
    assert!(large.is_full() && other.is_full());
    large.spill().unwrap();
    assert!(!large.is_small() && !other.is_full());
    for committed in commit_all(vec![large, other]) {
        committed.unwrap();
    }
    spool.bag();
    assert_eq!(spool.messages().len(), 2);
}

#[test]
fn a_message_with_a_thousand_recipients_is_in_one_bag() {
    let disk = Watched::new();
    let spool = disk.spool(bagged());
    disk.forget();
    let mut incoming = spool.queue.begin().unwrap();
    for n in 0..1000 {
        incoming.add(envelope(&format!("user{n}"))).unwrap();
    }
    incoming.write(b"text").unwrap();
    let envelopes = incoming.commit().unwrap().into_envelopes();
    assert_eq!(disk.count("sync"), 2, "of the bag and of its directory");
    spool.bag();
    for one in &envelopes[1..] {
        spool.queue.remove(one.id).unwrap();
    }
    let spool = spool.reopened(bagged());
    assert_eq!(
        spool.queue.envelopes(envelopes[0].id.msgid()).unwrap(),
        envelopes[..1]
    );
}

#[test]
fn many_threads_commit_change_and_remove_in_bags_at_once() {
    let spool = Spool::with(bagged());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut four = spool.commit(&["ann", "bob", "eve", "joe"]);
                    four[0].retry = 1;
                    thread::scope(|scope| {
                        scope.spawn(|| spool.queue.update(&four[0]).unwrap());
                        scope.spawn(|| spool.queue.remove(four[1].id).unwrap());
                        scope.spawn(|| spool.queue.load(four[2].id).unwrap());
                    });
                    let extra = spool.queue.add(&four[2]).unwrap();
                    for id in [four[2].id, extra, four[3].id, four[0].id] {
                        spool.queue.load(id).unwrap();
                        spool.queue.remove(id).unwrap();
                    }
                }
            });
        }
    });
    assert!(spool.messages().is_empty());
    for room in ["bags", "incoming", "temporary", "purge", "corrupt"] {
        assert!(spool.names(room).is_empty(), "{room}");
    }
}

#[test]
fn envelopes_of_one_message_are_settled_while_it_is_unpacked() {
    let spool = Spool::with(bagged());
    for _ in 0..20 {
        let mut incoming = spool.queue.begin().unwrap();
        for user in ["ann", "bob", "eve"] {
            incoming.add(envelope(user)).unwrap();
        }
        let mut three = incoming.commit().unwrap().into_envelopes();
        three[0].retry = 1;
        three[1].retry = 1;
        thread::scope(|scope| {
            scope.spawn(|| spool.queue.update(&three[0]).unwrap());
            scope.spawn(|| spool.queue.update(&three[1]).unwrap());
            scope.spawn(|| spool.queue.remove(three[2].id).unwrap());
        });
        let mut left = spool.queue.envelopes(three[0].id.msgid()).unwrap();
        left.sort_by_key(|envelope| envelope.id);
        three.truncate(2);
        three.sort_by_key(|envelope| envelope.id);
        assert_eq!(left, three);
    }
}

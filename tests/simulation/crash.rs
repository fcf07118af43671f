//! Pulls the plug after every operation of a story, in every way the disk may then look, opens
//! the spool again and asks whether all promises are kept.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use smtpd::queue::Queue;
use smtpd::queue::coding::{Coding, Key};
use smtpd::queue::fs::Options;
use smtpd::util::Timestamp;

use crate::dice::Dice;
use crate::disk::{Fault, ROOMS, SimDisk, Step};
use crate::promise::{Failed, Promise, Teller};
use crate::tree::{Op, Tree, UNSYNCED, Unsynced};

/// A story: what happens to a queue.
pub type Story = fn(&Teller) -> Result<(), Failed>;

/// Every story, by name.
pub const STORIES: [(&str, Story); 14] = [
    ("commit of one envelope", one_envelope),
    ("commit of three envelopes", three_envelopes),
    ("commit of a large body", large_body),
    (
        "commit of a large body behind late fields",
        large_body_behind_late_fields,
    ),
    ("two commits into one bucket", two_commits),
    ("update", update),
    ("bounce, then removal of the failed envelope", bounce),
    ("removal of one of two envelopes", removal_of_one),
    ("removal of the last envelope", removal_of_last),
    ("three messages at once", three_messages),
    ("removal of two of three messages", removal_of_two),
    (
        "update, then removal, of one of two messages",
        update_of_one,
    ),
    ("unpacking", unpacking),
    ("unpacking with syncs of everything", unpacking_together),
];

fn one_envelope(teller: &Teller) -> Result<(), Failed> {
    teller.commit(&["ann"], b"Subject: x\n\ntext\n").map(|_| ())
}

fn three_envelopes(teller: &Teller) -> Result<(), Failed> {
    teller.commit(&["ann", "bob", "eve"], b"text\n").map(|_| ())
}

/// Nothing that compression could make small.
fn large() -> Vec<u8> {
    let mut dice = Dice::new(7);
    (0..150_000).map(|_| dice.roll(256) as u8).collect()
}

fn large_body(teller: &Teller) -> Result<(), Failed> {
    teller.commit(&["ann"], &large()).map(|_| ())
}

fn large_body_behind_late_fields(teller: &Teller) -> Result<(), Failed> {
    let body = &large()[..90_000];
    teller
        .commit_behind(b"X-Spam: Yes\n", &["ann"], body)
        .map(|_| ())
}

fn two_commits(teller: &Teller) -> Result<(), Failed> {
    teller.commit(&["ann"], b"one\n")?;
    teller.commit(&["bob"], b"two\n").map(|_| ())
}

fn update(teller: &Teller) -> Result<(), Failed> {
    let one = teller.commit(&["ann"], b"text\n")?.remove(0);
    let later = teller.retry(&one)?;
    teller.retry(&later).map(|_| ())
}

fn bounce(teller: &Teller) -> Result<(), Failed> {
    let one = teller.commit(&["ann"], b"text\n")?.remove(0);
    teller.bounce(&one)?;
    teller.remove(&one)
}

fn removal_of_one(teller: &Teller) -> Result<(), Failed> {
    let two = teller.commit(&["ann", "bob"], b"text\n")?;
    teller.remove(&two[0])
}

fn removal_of_last(teller: &Teller) -> Result<(), Failed> {
    let two = teller.commit(&["ann", "bob"], b"text\n")?;
    teller.remove(&two[1])?;
    teller.remove(&two[0])
}

fn three_messages(teller: &Teller) -> Result<(), Failed> {
    teller.commit_together(&["ann", "bob", "eve"]).map(|_| ())
}

fn removal_of_two(teller: &Teller) -> Result<(), Failed> {
    let three = teller.commit_together(&["ann", "bob", "eve"])?;
    teller.remove(&three[0])?;
    teller.remove(&three[2])
}

fn update_of_one(teller: &Teller) -> Result<(), Failed> {
    let two = teller.commit_together(&["ann", "bob"])?;
    let later = teller.retry(&two[1])?;
    teller.remove(&later)
}

fn unpacking(teller: &Teller) -> Result<(), Failed> {
    let two = teller.commit_together(&["ann", "bob"])?;
    teller.fs.unpack_all(Duration::MAX);
    teller.remove(&two[0])
}

fn unpacking_together(teller: &Teller) -> Result<(), Failed> {
    teller.disk.sync_at_once();
    let two = teller.commit_together(&["ann", "bob"])?;
    teller.fs.unpack_all(Duration::MAX);
    let later = teller.retry(&two[0])?;
    teller.remove(&later)
}

/// How files are written: as they are, or compressed and encrypted.
pub fn codings() -> [Coding; 2] {
    let both = Coding {
        compress: true,
        key: Key::new("0123456789abcdef0123456789abcdef"),
    };
    [Coding::default(), both]
}

/// How spools are written: in both codings, small messages with a directory each or in bags.
pub fn ways() -> Vec<Options> {
    let [plain, both] = codings();
    let bags = |coding| Options {
        bags: true,
        ..options(coding)
    };
    vec![options(&plain), options(&both), bags(&plain), bags(&both)]
}

pub fn options(coding: &Coding) -> Options {
    Options {
        clock: Arc::new(|| Timestamp(5)),
        coding: coding.clone(),
        ..Options::default()
    }
}

/// Opens a spool to write files as they are; it has the key to all it may find.
pub fn open(disk: &SimDisk) -> Queue {
    let [_, both] = codings();
    let reader = Coding {
        compress: false,
        ..both
    };
    Teller::new(disk, options(&reader)).unwrap().queue
}

fn honest(_: &Path) -> bool {
    false
}

/// Runs the story to its end and returns the record.
fn record_of(story: Story, lies: fn(&Path) -> bool, way: &Options) -> Vec<Step> {
    let disk = SimDisk::with(Tree::with_dirs(&ROOMS), lies, Fault::Never);
    let teller = Teller::new(&disk, way.clone()).unwrap();
    story(&teller).unwrap();
    disk.record()
}

/// Pulls the plug after every step of the record. Returns how many states were looked at, or what
/// was wrong with the first bad one.
fn crash_everywhere(record: &[Step]) -> Result<usize, String> {
    crash_from(Tree::with_dirs(&ROOMS), record)
}

fn crash_from(tree: Tree, record: &[Step]) -> Result<usize, String> {
    crash_with(tree, Promise::default(), record, Depth::AndTheRecovery)
}

/// The same from a spool that has been promised something already.
pub fn crash_with(
    mut tree: Tree,
    mut promise: Promise,
    record: &[Step],
    depth: Depth,
) -> Result<usize, String> {
    let mut states = check_crashes(&tree, &promise, depth)?;
    for (at, step) in record.iter().enumerate() {
        match step {
            Step::Op(op) => tree.apply(op).unwrap(),
            Step::Note(note) => promise.hear(note),
        }
        states += check_crashes(&tree, &promise, depth)
            .map_err(|why| format!("power cut after step {at}, {step:?}: {why}"))?;
    }
    Ok(states)
}

/// How much is looked at after a power cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every combination of changes, and another power cut during the next start.
    AndTheRecovery,
    /// None of the changes that were not synced, and all of them.
    Here,
}

fn check_crashes(tree: &Tree, promise: &Promise, depth: Depth) -> Result<usize, String> {
    let losses: &[Unsynced] = if tree.has_unsynced_bytes() {
        &UNSYNCED
    } else {
        &[Unsynced::Lost]
    };
    let mut states = 0;
    let choices = choices(&tree.changes(), depth);
    for kept in &choices {
        for unsynced in losses {
            let crashed = tree.crash(kept, *unsynced);
            states += check_state(crashed, promise, depth)
                .map_err(|why| format!("{unsynced:?}, directory changes {kept:?}: {why}"))?;
        }
    }
    Ok(states)
}

/// Opens what a power cut has left. Opening moves things about itself, so the plug is pulled
/// during that, too.
fn check_state(crashed: Tree, promise: &Promise, depth: Depth) -> Result<usize, String> {
    let disk = SimDisk::new(crashed.clone());
    promise.kept_by(&open(&disk))?;
    let mut states = 1;
    if depth == Depth::AndTheRecovery {
        let mut tree = crashed;
        for step in disk.record() {
            if let Step::Op(op) = step {
                tree.apply(&op).unwrap();
                states += check_crashes(&tree, promise, Depth::Here)
                    .map_err(|why| format!("in recovery after {op:?}: {why}"))?;
            }
        }
    }
    Ok(states)
}

/// Which directory changes a power cut keeps: every combination, or, where those are too many,
/// none, all, each alone, all but each, all up to each, and forty by chance.
fn choices(changes: &BTreeSet<usize>, depth: Depth) -> Vec<BTreeSet<usize>> {
    let changes: Vec<usize> = changes.iter().copied().collect();
    let pick = |bits: u64| -> BTreeSet<usize> {
        changes
            .iter()
            .enumerate()
            .filter(|(at, _)| bits >> at & 1 == 1)
            .map(|(_, change)| *change)
            .collect()
    };
    let all = (1u64 << changes.len()) - 1;
    if depth == Depth::Here {
        return vec![pick(0), pick(all)];
    }
    if changes.len() <= 6 {
        return (0..=all).map(pick).collect();
    }
    let mut bits = vec![0, all];
    for at in 0..changes.len() {
        bits.extend([1 << at, all & !(1 << at), (1 << at) - 1]);
    }
    let mut dice = Dice::new(1);
    for _ in 0..40 {
        bits.push(dice.roll(all as usize) as u64);
    }
    bits.into_iter().map(pick).collect()
}

#[test]
fn every_power_cut_keeps_every_promise() {
    // The crate's invariants 1 to 3, for every story, operation and kind of loss.
    for (way, (name, story)) in ways()
        .iter()
        .flat_map(|way| STORIES.map(|story| (way, story)))
    {
        match crash_everywhere(&record_of(story, honest, way)) {
            Ok(states) => assert!(states > 60, "{name}: only {states} states"),
            Err(why) => panic!("{name}, {:?}, bags: {}: {why}", way.coding, way.bags),
        }
    }
}

#[test]
fn a_commit_amid_another_keeps_every_promise() {
    // A commit that finds what another has begun (a bucket, a directory) does not rely on it.
    for way in ways().iter().filter(|way| !way.coding.compress) {
        let operations = run_amid(0, way).operations();
        assert!(operations > if way.bags { 5 } else { 12 });
        for number in 1..=operations {
            if let Err(why) = crash_everywhere(&run_amid(number, way).record()) {
                panic!("second commit after operation {number}: {why}");
            }
        }
    }
}

/// A commit with another one right after operation `number`.
fn run_amid(number: usize, way: &Options) -> SimDisk {
    let disk = SimDisk::new(Tree::with_dirs(&ROOMS));
    let teller = Arc::new(Teller::new(&disk, way.clone()).unwrap());
    let other = teller.clone();
    let amid = move || drop(other.commit(&["bob"], b"amid\n").unwrap());
    disk.meanwhile(number, Box::new(amid));
    teller.commit(&["ann"], b"around\n").unwrap();
    disk
}

#[test]
fn a_bucket_that_an_earlier_process_did_not_sync_is_synced() {
    // Killed between mkdir and fsync: the bucket is there, and a power cut would take it away.
    let mut tree = Tree::with_dirs(&ROOMS);
    tree.apply(&Op::Mkdir("queue/05".into())).unwrap();
    let disk = SimDisk::new(tree.clone());
    let teller = Teller::new(&disk, ways().remove(0)).unwrap();
    teller.commit(&["ann"], b"text\n").unwrap();
    crash_from(tree, &disk.record()).unwrap();
}

#[test]
fn a_start_over_what_a_dead_process_left_keeps_every_promise() {
    // A process that dies loses nothing yet and syncs nothing more; then power fails during the
    // next start, or after it.
    for way in ways().iter().filter(|way| !way.coding.compress) {
        for (name, story) in STORIES {
            let (mut tree, mut promise) = (Tree::with_dirs(&ROOMS), Promise::default());
            for (at, step) in record_of(story, honest, way).iter().enumerate() {
                match step {
                    Step::Op(op) => tree.apply(op).unwrap(),
                    Step::Note(note) => promise.hear(note),
                }
                let disk = SimDisk::new(tree.clone());
                Teller::new(&disk, way.clone()).unwrap();
                let (left, promise) = (tree.clone(), promise.clone());
                if let Err(why) = crash_with(left, promise, &disk.record(), Depth::Here) {
                    panic!(
                        "{name}, bags: {}, dead after step {at}, {step:?}: {why}",
                        way.bags
                    );
                }
            }
        }
    }
}

#[test]
fn a_settled_message_that_is_deleted_later_keeps_every_promise() {
    let disk = SimDisk::new(Tree::with_dirs(&ROOMS));
    let later = Options {
        delete_later: true,
        ..options(&Coding::default())
    };
    let teller = Teller::new(&disk, later).unwrap();
    let one = teller.commit(&["ann"], b"one\n").unwrap();
    teller.remove(&one[0]).unwrap();
    teller.commit(&["bob"], b"two\n").unwrap();
    teller.fs.delete_dropped();
    crash_everywhere(&disk.record()).unwrap();
}

#[test]
fn commits_of_several_threads_keep_every_promise() {
    // Group commit: a commit that relies on another's sync is as durable as one that does its own.
    for (threads, way) in [2, 2, 3]
        .into_iter()
        .flat_map(|n| ways().into_iter().map(move |way| (n, way)))
    {
        let disk = SimDisk::new(Tree::with_dirs(&ROOMS));
        disk.crowd();
        let teller = &Teller::new(&disk, way).unwrap();
        thread::scope(|scope| {
            for user in ["ann", "bob", "eve"].iter().take(threads) {
                scope.spawn(move || teller.commit(&[user], user.as_bytes()).unwrap());
            }
        });
        if let Err(why) = crash_everywhere(&disk.record()) {
            panic!("{threads} threads: {why}");
        }
    }
}

/// A disk that lies about one kind of sync, and a story that needs that sync.
type Lie = (&'static str, fn(&Path) -> bool, Story);

const LIES: [Lie; 8] = [
    ("body", |path| path.ends_with("message"), one_envelope),
    ("envelope", is_envelope, one_envelope),
    ("message directory", is_incoming_dir, three_envelopes),
    ("queue", |path| path == Path::new("queue"), one_envelope),
    ("bucket", is_bucket, one_envelope),
    (
        "updated envelope",
        |path| path.starts_with("temporary"),
        update,
    ),
    ("directory of an updated envelope", is_message_dir, update),
    ("directory of a bounce", is_message_dir, bounce),
];

/// The same where messages are in bags. Unpacking needs all syncs of a commit, and that of the mark:
/// without it the bag might bring back what has gone from the directory.
const BAG_LIES: [Lie; 11] = [
    ("bag", is_new_bag, three_messages),
    ("bags", |path| path == Path::new("bags"), three_messages),
    (
        "mark",
        |path| path.starts_with("bags") && depth(path) == 2,
        update_of_one,
    ),
    ("unpacked body", |path| path.ends_with("message"), update),
    ("unpacked envelope", is_envelope, bounce),
    ("directory of an unpacked message", is_incoming_dir, update),
    ("queue", |path| path == Path::new("queue"), update),
    ("bucket of an unpacked message", is_bucket, bounce),
    (
        "files of all",
        |path| path == Path::new("./1"),
        unpacking_together,
    ),
    (
        "places of all",
        |path| path == Path::new("./2"),
        unpacking_together,
    ),
    (
        "marks of all",
        |path| path == Path::new("./3"),
        unpacking_together,
    ),
];

fn is_new_bag(path: &Path) -> bool {
    path.starts_with("temporary")
}

fn depth(path: &Path) -> usize {
    path.components().count()
}

fn is_envelope(path: &Path) -> bool {
    path.starts_with("incoming") && depth(path) == 3 && !path.ends_with("message")
}

fn is_incoming_dir(path: &Path) -> bool {
    path.starts_with("incoming") && depth(path) == 2
}

fn is_bucket(path: &Path) -> bool {
    path.starts_with("queue") && depth(path) == 2
}

fn is_message_dir(path: &Path) -> bool {
    path.starts_with("queue") && depth(path) == 3
}

#[test]
fn a_store_that_leaves_out_one_sync_is_caught() {
    // The simulation proves something only if it fails when it should.
    for way in &ways() {
        for (name, lie, story) in if way.bags { &BAG_LIES[..] } else { &LIES } {
            let caught = crash_everywhere(&record_of(*story, *lie, way));
            assert!(caught.is_err(), "nobody missed the sync of the {name}");
        }
    }
}

#[test]
fn every_sync_comes_before_committed() {
    // spool-layout.md, guarantee 1: only a finished rename and fsync make a `Committed`.
    let record = record_of(three_envelopes, honest, &ways()[1]);
    let told: Vec<String> = record
        .iter()
        .filter_map(|step| match step {
            Step::Op(Op::SyncFileEnd(path, _)) if path.ends_with("message") => {
                Some("body synced".to_owned())
            }
            Step::Op(Op::SyncFileEnd(..)) => Some("envelope synced".to_owned()),
            Step::Op(Op::SyncDirEnd(path, _)) => Some(match depth(path) {
                1 => "queue synced".to_owned(),
                2 if path.starts_with("incoming") => "message directory synced".to_owned(),
                _ => "bucket synced".to_owned(),
            }),
            Step::Op(Op::Rename(..)) => Some("renamed".to_owned()),
            Step::Note(crate::promise::Note::Committed(_)) => Some("committed".to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(
        told,
        [
            "queue synced",
            "body synced",
            "envelope synced",
            "envelope synced",
            "envelope synced",
            "message directory synced",
            "queue synced",
            "renamed",
            "bucket synced",
            "committed",
        ]
    );
}

//! Pulls the plug after every operation of a story, in every way the disk may then look, opens
//! the spool again and asks whether all promises are kept.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use smtpd::queue::Queue;
use smtpd::queue::coding::{Coding, Key};
use smtpd::queue::fs::{Fs, Options};
use smtpd::util::Timestamp;

use crate::dice::Dice;
use crate::disk::{Fault, ROOMS, SimDisk, Step};
use crate::promise::{Failed, Promise, Teller};
use crate::tree::{Op, Tree, UNSYNCED, Unsynced};

/// A story: what happens to a queue.
pub type Story = fn(&Teller<'_>) -> Result<(), Failed>;

/// Every story, by name.
pub const STORIES: [(&str, Story); 8] = [
    ("commit of one envelope", one_envelope),
    ("commit of three envelopes", three_envelopes),
    ("commit of a large body", large_body),
    ("two commits into one bucket", two_commits),
    ("update", update),
    ("bounce, then removal of the failed envelope", bounce),
    ("removal of one of two envelopes", removal_of_one),
    ("removal of the last envelope", removal_of_last),
];

fn one_envelope(teller: &Teller<'_>) -> Result<(), Failed> {
    teller.commit(&["ann"], b"Subject: x\n\ntext\n").map(|_| ())
}

fn three_envelopes(teller: &Teller<'_>) -> Result<(), Failed> {
    teller.commit(&["ann", "bob", "eve"], b"text\n").map(|_| ())
}

fn large_body(teller: &Teller<'_>) -> Result<(), Failed> {
    // Nothing that compression could make small.
    let mut dice = Dice::new(7);
    let body: Vec<u8> = (0..150_000).map(|_| dice.roll(256) as u8).collect();
    teller.commit(&["ann"], &body).map(|_| ())
}

fn two_commits(teller: &Teller<'_>) -> Result<(), Failed> {
    teller.commit(&["ann"], b"one\n")?;
    teller.commit(&["bob"], b"two\n").map(|_| ())
}

fn update(teller: &Teller<'_>) -> Result<(), Failed> {
    let one = teller.commit(&["ann"], b"text\n")?.remove(0);
    let later = teller.retry(&one)?;
    teller.retry(&later).map(|_| ())
}

fn bounce(teller: &Teller<'_>) -> Result<(), Failed> {
    let one = teller.commit(&["ann"], b"text\n")?.remove(0);
    teller.bounce(&one)?;
    teller.remove(&one)
}

fn removal_of_one(teller: &Teller<'_>) -> Result<(), Failed> {
    let two = teller.commit(&["ann", "bob"], b"text\n")?;
    teller.remove(&two[0])
}

fn removal_of_last(teller: &Teller<'_>) -> Result<(), Failed> {
    let two = teller.commit(&["ann", "bob"], b"text\n")?;
    teller.remove(&two[1])?;
    teller.remove(&two[0])
}

/// How files are written: as they are, or compressed and encrypted.
pub fn codings() -> [Coding; 2] {
    let both = Coding {
        compress: true,
        key: Key::new("0123456789abcdef0123456789abcdef"),
    };
    [Coding::default(), both]
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
    open_to_write(disk, &reader)
}

pub fn open_to_write(disk: &SimDisk, coding: &Coding) -> Queue {
    Queue::new(Arc::new(
        Fs::with_disk(Arc::new(disk.clone()), options(coding)).unwrap(),
    ))
}

fn honest(_: &Path) -> bool {
    false
}

/// Runs the story to its end and returns the record.
fn record_of(story: Story, lies: fn(&Path) -> bool, coding: &Coding) -> Vec<Step> {
    let disk = SimDisk::with(Tree::with_dirs(&ROOMS), lies, Fault::Never);
    let queue = open_to_write(&disk, coding);
    let teller = Teller {
        queue: &queue,
        disk: &disk,
    };
    story(&teller).unwrap();
    disk.record()
}

/// Pulls the plug after every step of the record. Returns how many states were looked at, or what
/// was wrong with the first bad one.
fn crash_everywhere(record: &[Step]) -> Result<usize, String> {
    crash_from(Tree::with_dirs(&ROOMS), record)
}

fn crash_from(mut tree: Tree, record: &[Step]) -> Result<usize, String> {
    let mut promise = Promise::default();
    let mut states = check_crashes(&tree, &promise, Depth::AndTheRecovery)?;
    for (at, step) in record.iter().enumerate() {
        match step {
            Step::Op(op) => tree.apply(op).unwrap(),
            Step::Note(note) => promise.hear(note),
        }
        states += check_crashes(&tree, &promise, Depth::AndTheRecovery)
            .map_err(|why| format!("power cut after step {at}, {step:?}: {why}"))?;
    }
    Ok(states)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    AndTheRecovery,
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
    for (coding, (name, story)) in codings()
        .iter()
        .flat_map(|coding| STORIES.map(|story| (coding, story)))
    {
        match crash_everywhere(&record_of(story, honest, coding)) {
            Ok(states) => assert!(states > 100, "{name}: only {states} states"),
            Err(why) => panic!("{name}, {coding:?}: {why}"),
        }
    }
}

#[test]
fn a_commit_amid_another_keeps_every_promise() {
    // A commit that finds what another has begun (a bucket, a directory) does not rely on it.
    let operations = run_amid(0).operations();
    assert!(operations > 12);
    for number in 1..=operations {
        if let Err(why) = crash_everywhere(&run_amid(number).record()) {
            panic!("second commit after operation {number}: {why}");
        }
    }
}

/// A commit with another one right after operation `number`.
fn run_amid(number: usize) -> SimDisk {
    let disk = SimDisk::new(Tree::with_dirs(&ROOMS));
    let queue = open(&disk);
    let (other_queue, other_disk) = (queue.clone(), disk.clone());
    disk.meanwhile(
        number,
        Box::new(move || {
            let teller = Teller {
                queue: &other_queue,
                disk: &other_disk,
            };
            teller.commit(&["bob"], b"amid\n").unwrap();
        }),
    );
    let teller = Teller {
        queue: &queue,
        disk: &disk,
    };
    teller.commit(&["ann"], b"around\n").unwrap();
    disk
}

#[test]
fn a_bucket_that_an_earlier_process_did_not_sync_is_synced() {
    // Killed between mkdir and fsync: the bucket is there, and a power cut would take it away.
    let mut tree = Tree::with_dirs(&ROOMS);
    tree.apply(&Op::Mkdir("queue/05".into())).unwrap();
    let disk = SimDisk::new(tree.clone());
    let queue = open(&disk);
    let teller = Teller {
        queue: &queue,
        disk: &disk,
    };
    teller.commit(&["ann"], b"text\n").unwrap();
    crash_from(tree, &disk.record()).unwrap();
}

#[test]
fn a_settled_message_that_is_deleted_later_keeps_every_promise() {
    let disk = SimDisk::new(Tree::with_dirs(&ROOMS));
    let later = Options {
        delete_later: true,
        ..options(&Coding::default())
    };
    let fs = Fs::with_disk(Arc::new(disk.clone()), later).unwrap();
    let queue = Queue::new(Arc::new(fs.clone()));
    let teller = Teller {
        queue: &queue,
        disk: &disk,
    };
    let one = teller.commit(&["ann"], b"one\n").unwrap();
    teller.remove(&one[0]).unwrap();
    teller.commit(&["bob"], b"two\n").unwrap();
    fs.delete_dropped();
    crash_everywhere(&disk.record()).unwrap();
}

#[test]
fn commits_of_several_threads_keep_every_promise() {
    // Group commit: a commit that relies on another's sync is as durable as one that does its own.
    for threads in [2, 2, 3] {
        let disk = SimDisk::new(Tree::with_dirs(&ROOMS));
        let queue = open(&disk);
        thread::scope(|scope| {
            for user in ["ann", "bob", "eve"].iter().take(threads) {
                let teller = Teller {
                    queue: &queue,
                    disk: &disk,
                };
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
    for coding in &codings() {
        for (name, lie, story) in LIES {
            let caught = crash_everywhere(&record_of(story, lie, coding));
            assert!(caught.is_err(), "nobody missed the sync of the {name}");
        }
    }
}

#[test]
fn every_sync_comes_before_committed() {
    // spool-layout.md, guarantee 1: only a finished rename and fsync make a `Committed`.
    let record = record_of(three_envelopes, honest, &codings()[1]);
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

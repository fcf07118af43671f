//! Lets every operation of a story fail, once or from then on, without a crash: nothing is
//! promised that is not kept, nothing is left behind, and the queue goes on when the disk does.

use std::path::Path;
use std::time::Duration;

use smtpd::queue::fs::Options;

use crate::crash::{Depth, STORIES, Story, crash_with, open, ways};
use crate::damage::only;
use crate::disk::{Fault, ROOMS, SimDisk, Step};
use crate::promise::{Failed, Note, Promise, Teller};
use crate::tree::Tree;

/// Runs the story on a disk with this fault. `None` when the spool cannot even be opened.
fn run(story: Story, fault: Fault, way: &Options) -> Option<SimDisk> {
    let disk = SimDisk::with(Tree::with_dirs(&ROOMS), |_| false, fault);
    let teller = Teller::new(&disk, way.clone()).ok()?;
    let _ = story(&teller);
    Some(disk)
}

/// Every story, written in every way.
fn stories() -> Vec<(Options, (&'static str, Story))> {
    ways()
        .into_iter()
        .flat_map(|way| STORIES.map(|story| (way.clone(), story)))
        .collect()
}

fn promised(disk: &SimDisk) -> Promise {
    let mut promise = Promise::default();
    for step in disk.record() {
        if let Step::Note(note) = step {
            promise.hear(&note);
        }
    }
    promise
}

fn commits(disk: &SimDisk) -> (usize, usize) {
    let count = |wanted: fn(&Note) -> bool| {
        disk.record()
            .iter()
            .filter(|step| matches!(step, Step::Note(note) if wanted(note)))
            .count()
    };
    (
        count(|note| matches!(note, Note::Committing(..))),
        count(|note| matches!(note, Note::Committed(_))),
    )
}

#[test]
fn an_operation_that_fails_leaves_the_queue_whole() {
    for (way, (name, story)) in stories() {
        let way = &way;
        let operations = run(story, Fault::Never, way).unwrap().operations();
        for number in 1..=operations {
            let Some(disk) = run(story, Fault::Once(number), way) else {
                continue;
            };
            let place = format!("{name}: operation {number} of {operations} failed");
            // Where threads have shared a sync the fault may not have come yet.
            let healthy = SimDisk::new(disk.tree());
            if let Err(why) = promised(&disk).kept_by(&open(&healthy)) {
                panic!("{place}: {why}");
            }
        }
    }
}

#[test]
fn a_commit_that_fails_leaves_nothing() {
    let story = STORIES[1].1;
    for way in &ways() {
        fails_whole(story, way);
    }
}

fn fails_whole(story: Story, way: &Options) {
    let operations = run(story, Fault::Never, way).unwrap().operations();
    let mut failed = 0;
    for number in 1..=operations {
        let Some(disk) = run(story, Fault::Once(number), way) else {
            continue;
        };
        if commits(&disk) == (1, 0) {
            failed += 1;
            assert_eq!(open(&disk).messages().count(), 0, "operation {number}");
            for room in ["incoming", "temporary", "bags"] {
                let left = disk.tree().list(Path::new(room)).unwrap();
                assert!(left.is_empty(), "operation {number}: {left:?}");
            }
        }
    }
    let expected = if way.bags { 4 } else { 10 };
    assert!(failed > expected, "only {failed} operations matter");
}

#[test]
fn a_dead_disk_promises_nothing_more() {
    for (way, (name, story)) in stories() {
        let way = &way;
        let operations = run(story, Fault::Never, way).unwrap().operations();
        for number in 1..=operations {
            let Some(disk) = run(story, Fault::From(number), way) else {
                continue;
            };
            let rescued = SimDisk::new(disk.tree());
            if let Err(why) = promised(&disk).kept_by(&open(&rescued)) {
                panic!("{name}: dead from operation {number}: {why}");
            }
        }
    }
}

/// What fails is tried once more.
fn again<T>(call: impl Fn() -> Result<T, Failed>) -> Result<T, Failed> {
    call().or_else(|_| call())
}

/// All that happens to messages that are committed together: one is settled, one put off and then
/// returned to its sender, one unpacked.
fn all_that_happens(teller: &Teller) -> Result<(), Failed> {
    let three = again(|| teller.commit_together(&["ann", "bob", "eve"]))?;
    again(|| teller.remove(&three[0]))?;
    let later = again(|| teller.retry(&three[1]))?;
    let bounce = again(|| teller.bounce(&later))?;
    again(|| teller.remove(&later))?;
    again(|| teller.commit_together(&["joe", "kim"]))?;
    teller.fs.unpack_all(Duration::MAX);
    again(|| teller.remove(&bounce))?;
    again(|| teller.remove(&three[2]))
}

/// Pulls the plug after each step that came when operation `number` had failed. A record has a step
/// for each operation before that, and more.
fn power_fails_after(number: usize, record: &[Step]) -> Result<(), String> {
    let (before, after) = record.split_at(number - 1);
    let (mut tree, mut promise) = (Tree::with_dirs(&ROOMS), Promise::default());
    for step in before {
        match step {
            Step::Op(op) => tree.apply(op).unwrap(),
            Step::Note(note) => promise.hear(note),
        }
    }
    crash_with(tree, promise, after, Depth::Here).map(|_| ())
}

#[test]
fn after_an_operation_that_failed_the_queue_goes_on() {
    // spool-layout.md, guarantee 6: work goes on when the disk does, and a power cut that comes
    // then finds nothing half done.
    for way in ways().iter().filter(|way| !way.coding.compress) {
        let operations = run(all_that_happens, Fault::Never, way)
            .unwrap()
            .operations();
        for number in 1..=operations {
            let disk = SimDisk::with(Tree::with_dirs(&ROOMS), |_| false, Fault::Once(number));
            let Ok(teller) = Teller::new(&disk, way.clone()) else {
                continue;
            };
            let place = format!(
                "bags: {}, operation {number} of {operations} failed",
                way.bags
            );
            let end = all_that_happens(&teller);
            assert!(end.is_ok(), "{place}: and so did the next attempt");
            // Those of joe and kim; without bags some of those that fail may have been taken.
            let left = teller.queue.messages().count();
            assert!(left == 2 || !way.bags, "{place}: {left} messages are left");
            let record = disk.record();
            let mut kept = promised(&disk).kept_by(&teller.queue);
            if way.bags {
                kept = kept.and_then(|()| power_fails_after(number, &record));
            }
            if let Err(why) = kept {
                panic!("{place}: {why}");
            }
            for room in ["incoming", "temporary", "corrupt"] {
                let left = disk.tree().list(Path::new(room)).unwrap();
                assert!(left.is_empty(), "{place}: {room}: {left:?}");
            }
        }
    }
}

fn bagged() -> (SimDisk, Teller) {
    let disk = SimDisk::new(Tree::with_dirs(&ROOMS));
    let way = ways().into_iter().find(|way| way.bags).unwrap();
    let teller = Teller::new(&disk, way).unwrap();
    (disk, teller)
}

/// How many messages the next start finds.
fn found_at_the_next_start(disk: &SimDisk) -> usize {
    open(&SimDisk::new(disk.tree())).messages().count()
}

#[test]
fn the_last_removal_from_a_bag_is_not_done_before_it_is() {
    let (disk, teller) = bagged();
    let one = teller.commit(&["ann"], b"text\n").unwrap().remove(0);
    disk.break_at(Some(Path::new("bags")));
    for attempt in 1..=2 {
        assert!(teller.remove(&one).is_err(), "attempt {attempt}");
    }
    disk.break_at(None);
    teller.remove(&one).unwrap();
    assert_eq!(found_at_the_next_start(&disk), 0);
}

#[test]
fn a_bag_that_cannot_be_marked_holds_up_no_other_message() {
    let (disk, teller) = bagged();
    let other = teller.commit(&["kim"], b"text\n").unwrap().remove(0);
    let other = teller.retry(&other).unwrap();
    let two = teller.commit_together(&["ann", "bob"]).unwrap();
    let bag = only(&disk.tree(), "bags");
    disk.break_at(Some(&bag));
    let later = teller.retry(&two[0]).unwrap();
    teller.remove(&other).unwrap();
    for attempt in 1..=2 {
        // Its directory gone, the bag would bring it back.
        assert!(teller.remove(&later).is_err(), "attempt {attempt}");
    }
    assert_eq!(found_at_the_next_start(&disk), 2);
    disk.break_at(None);
    teller.remove(&later).unwrap();
    assert_eq!(found_at_the_next_start(&disk), 1);
}

#[test]
fn a_start_that_cannot_make_a_place_durable_leaves_the_bag_as_it_is() {
    let (disk, teller) = bagged();
    let one = teller.commit(&["ann"], b"text\n").unwrap().remove(0);
    let bag = only(&disk.tree(), "bags");
    // Unpacked, with the bag still there.
    disk.break_at(Some(&bag));
    teller.retry(&one).unwrap();
    let next = SimDisk::new(disk.tree());
    let bucket = Path::new("queue").join(&one.id.to_string()[..2]);
    next.break_at(Some(&bucket));
    assert_eq!(open(&next).messages().count(), 1);
    let bytes = |disk: &SimDisk| disk.tree().read(&bag).unwrap();
    assert_eq!(bytes(&next), bytes(&disk));
    assert_eq!(found_at_the_next_start(&next), 1);
}

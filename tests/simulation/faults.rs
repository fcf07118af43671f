//! Lets every operation of a story fail, once or from then on, without a crash: nothing is
//! promised that is not kept, nothing is left behind, and the queue goes on when the disk does.

use std::path::Path;

use smtpd::queue::fs::Options;

use crate::crash::{STORIES, Story, open, ways};
use crate::disk::{Fault, ROOMS, SimDisk, Step};
use crate::promise::{Note, Promise, Teller};
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

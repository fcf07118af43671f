//! Lets every operation of a story fail, once or from then on, without a crash: nothing is
//! promised that is not kept, nothing is left behind, and the queue goes on when the disk does.

use std::path::Path;

use smtpd::queue::coding::Coding;

use crate::crash::{STORIES, Story, codings, open, options};
use crate::disk::{Fault, ROOMS, SimDisk, Step};
use crate::promise::{Note, Promise, Teller};
use crate::tree::Tree;

/// Runs the story on a disk with this fault. `None` when the spool cannot even be opened.
fn run(story: Story, fault: Fault, coding: &Coding) -> Option<SimDisk> {
    let disk = SimDisk::with(Tree::with_dirs(&ROOMS), |_| false, fault);
    let fs = smtpd::queue::fs::Fs::with_disk(std::sync::Arc::new(disk.clone()), options(coding));
    let queue = smtpd::queue::Queue::new(std::sync::Arc::new(fs.ok()?));
    let teller = Teller {
        queue: &queue,
        disk: &disk,
    };
    let _ = story(&teller);
    Some(disk)
}

/// Every story, written in every way.
fn coded_stories() -> Vec<(Coding, (&'static str, Story))> {
    codings()
        .into_iter()
        .flat_map(|coding| STORIES.map(|story| (coding.clone(), story)))
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
    for (coding, (name, story)) in coded_stories() {
        let coding = &coding;
        let operations = run(story, Fault::Never, coding).unwrap().operations();
        for number in 1..=operations {
            let Some(disk) = run(story, Fault::Once(number), coding) else {
                continue;
            };
            let place = format!("{name}: operation {number} of {operations} failed");
            if let Err(why) = promised(&disk).kept_by(&open(&disk)) {
                panic!("{place}: {why}");
            }
        }
    }
}

#[test]
fn a_commit_that_fails_leaves_nothing() {
    let story = STORIES[1].1;
    let coding = &codings()[1];
    let operations = run(story, Fault::Never, coding).unwrap().operations();
    let mut failed = 0;
    for number in 1..=operations {
        let Some(disk) = run(story, Fault::Once(number), coding) else {
            continue;
        };
        if commits(&disk) == (1, 0) {
            failed += 1;
            assert_eq!(open(&disk).messages().count(), 0, "operation {number}");
            let incoming = disk.tree().list(Path::new("incoming")).unwrap();
            assert!(incoming.is_empty(), "operation {number}: {incoming:?}");
        }
    }
    assert!(failed > 10, "only {failed} operations matter");
}

#[test]
fn a_dead_disk_promises_nothing_more() {
    for (coding, (name, story)) in coded_stories() {
        let coding = &coding;
        let operations = run(story, Fault::Never, coding).unwrap().operations();
        for number in 1..=operations {
            let Some(disk) = run(story, Fault::From(number), coding) else {
                continue;
            };
            let rescued = SimDisk::new(disk.tree());
            if let Err(why) = promised(&disk).kept_by(&open(&rescued)) {
                panic!("{name}: dead from operation {number}: {why}");
            }
        }
    }
}

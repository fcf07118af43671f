//! A bag of which something cannot be read, on a disk that fails or loses power while what can be
//! read is unpacked: the readable messages survive, and the rest is not deleted.

use std::io::Read;
use std::path::{Path, PathBuf};

use smtpd::mail::Envelope;
use smtpd::queue::Queue;
use smtpd::queue::fs::Options;

use crate::crash::{Depth, crash_with, ways};
use crate::disk::{Fault, ROOMS, SimDisk, Step};
use crate::promise::{Note, Promise, Teller};
use crate::tree::{Op, Tree, Unsynced};

const TEXTS: [&str; 3] = ["ann", "bob", "eve"];

/// Which byte is spoiled, given where the second text lies.
type Damage = (&'static str, fn(usize) -> usize);

const DAMAGE: [Damage; 3] = [
    // A start finds it.
    ("a line of the table", |_| 44 + 2 * 44 + 1),
    // Whoever reads it does.
    ("an envelope", |text| text + 20),
    ("a body", |text| text),
];

/// A spool with a damaged bag: two messages are readable, the second is not.
struct Spoiled {
    tree: Tree,
    readable: Vec<Envelope>,
    options: Options,
}

impl Spoiled {
    fn new(damage: Damage) -> Spoiled {
        let options = ways()
            .into_iter()
            .find(|way| way.bags && !way.coding.compress);
        let options = options.unwrap();
        let disk = SimDisk::new(Tree::with_dirs(&ROOMS));
        let teller = Teller::new(&disk, options.clone()).unwrap();
        let mut three = teller.commit_together(&TEXTS).unwrap();
        three.remove(1);
        let mut tree = disk.tree();
        let bag = only(&tree, "bags");
        let bytes = tree.read(&bag).unwrap();
        let text = bytes.windows(3).position(|text| text == b"bob").unwrap();
        let at = damage.1(text);
        tree.apply(&Op::Overwrite(bag, at, vec![bytes[at] ^ 1]))
            .unwrap();
        Spoiled {
            tree: tree.crash(&tree.changes(), Unsynced::Kept),
            readable: three,
            options,
        }
    }

    /// Looks at everything, as an engine does. `None` when the spool cannot even be opened.
    fn looked_at(&self, fault: Fault) -> Option<Teller> {
        let disk = SimDisk::with(self.tree.clone(), |_| false, fault);
        let teller = Teller::new(&disk, self.options.clone()).ok()?;
        for _ in 0..2 {
            users(&teller.queue);
        }
        Some(teller)
    }

    fn promise(&self) -> Promise {
        let mut promise = Promise::default();
        for envelope in &self.readable {
            let text = envelope.rcpt.user().as_bytes().to_vec();
            promise.hear(&Note::Committing(vec![envelope.clone()], text));
            promise.hear(&Note::Committed(envelope.id.msgid()));
        }
        promise
    }
}

/// The only thing in a room.
pub fn only(tree: &Tree, room: &str) -> PathBuf {
    let names = tree.list(Path::new(room)).unwrap();
    assert_eq!(names.len(), 1, "{names:?}");
    Path::new(room).join(&names[0].0)
}

/// The users whose messages can be read.
fn users(queue: &Queue) -> Vec<String> {
    let whole = |id| {
        let envelopes = queue.envelopes(id).ok()?;
        let user = envelopes.first()?.rcpt.user().to_owned();
        let mut text = String::new();
        queue.open_body(id).ok()?.read_to_string(&mut text).ok()?;
        (text == user).then_some(user)
    };
    let mut users: Vec<String> = queue.messages().filter_map(whole).collect();
    users.sort();
    // What cannot be unpacked to its end, nor put back, is found in both places.
    users.dedup();
    users
}

/// Whether what was damaged is still somewhere.
fn is_kept(tree: &Tree) -> bool {
    ["bags", "corrupt"].into_iter().any(|room| {
        let names = tree.list(Path::new(room)).unwrap();
        let files = names.iter().filter(|(_, is_dir)| !is_dir);
        let mut bytes = files.map(|(name, _)| tree.read(&Path::new(room).join(name)).unwrap());
        // It may be the first letter that is another.
        bytes.any(|bytes| bytes.windows(3).any(|text| text[1..] == *b"ob"))
    })
}

#[test]
fn a_damaged_bag_loses_nothing_that_can_be_read_when_the_disk_fails() {
    // spool-layout.md, guarantees 1 and 5.
    for damage in DAMAGE {
        let spoiled = Spoiled::new(damage);
        let sound = spoiled.looked_at(Fault::Never).unwrap();
        assert_eq!(users(&sound.queue), ["ann", "eve"], "{}", damage.0);
        let _ = only(&sound.disk.tree(), "corrupt");
        let operations = sound.disk.operations();
        assert!(operations > 15, "{operations}");
        for fault in (1..=operations).flat_map(|n| [Fault::Once(n), Fault::From(n)]) {
            let Some(teller) = spoiled.looked_at(fault) else {
                continue;
            };
            let place = format!("{}, {fault:?}", damage.0);
            assert_eq!(users(&teller.queue), ["ann", "eve"], "{place}");
            // All that can be read is settled; what is left must not go with it.
            for envelope in &spoiled.readable {
                let _ = teller.queue.remove(envelope.id);
            }
            assert!(is_kept(&teller.disk.tree()), "{place}");
            let healthy = SimDisk::new(teller.disk.tree());
            let reopened = Teller::new(&healthy, spoiled.options.clone()).unwrap();
            if matches!(fault, Fault::Once(_)) {
                assert!(users(&reopened.queue).is_empty(), "{place}: it came back");
            }
            assert!(is_kept(&healthy.tree()), "{place}, after a restart");
        }
    }
}

#[test]
fn a_damaged_bag_loses_nothing_that_can_be_read_when_power_fails() {
    for damage in &DAMAGE[..2] {
        let spoiled = Spoiled::new(*damage);
        let seen = spoiled.looked_at(Fault::Never).unwrap();
        let operations: Vec<Step> = seen.disk.record();
        let (tree, promise) = (spoiled.tree.clone(), spoiled.promise());
        let states = crash_with(tree, promise, &operations, Depth::Here);
        match states {
            Ok(states) => assert!(states > 20, "{}: only {states} states", damage.0),
            Err(why) => panic!("{}: {why}", damage.0),
        }
    }
}

#[test]
fn the_last_removal_from_a_damaged_bag_is_not_done_before_it_is() {
    let spoiled = Spoiled::new(DAMAGE[0]);
    let disk = SimDisk::new(spoiled.tree.clone());
    // Nothing can be unpacked.
    disk.break_at(Some(Path::new("incoming")));
    let teller = Teller::new(&disk, spoiled.options.clone()).unwrap();
    let [first, last] = &spoiled.readable[..] else {
        panic!("two messages");
    };
    teller.remove(first).unwrap();
    disk.break_at(Some(Path::new("bags")));
    for attempt in 1..=2 {
        assert!(teller.remove(last).is_err(), "attempt {attempt}");
    }
    disk.break_at(None);
    teller.remove(last).unwrap();
    let healthy = SimDisk::new(disk.tree());
    let reopened = Teller::new(&healthy, spoiled.options.clone()).unwrap();
    assert!(users(&reopened.queue).is_empty(), "it came back");
    assert!(is_kept(&healthy.tree()));
}

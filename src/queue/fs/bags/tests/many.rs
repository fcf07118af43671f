//! Many envelopes, in bags and beside them, read together.

use std::fs;
use std::io;

use crate::mail::samples::line;
use crate::mail::{Envelope, EvpId, MsgId};
use crate::queue::LoadError;
use crate::queue::fs::{body_path, envelope_path, layout};

use super::{Spool, bagged};

/// Messages that have directories of their own, because something has changed.
fn unpacked(spool: &Spool, users: &[&str]) -> Vec<Envelope> {
    let mut envelopes = spool.commit(users);
    for envelope in &mut envelopes {
        envelope.errorline = Some(line("later"));
        spool.queue.update(envelope).unwrap();
    }
    envelopes
}

#[test]
fn many_envelopes_are_read_as_each_is_read_alone() {
    let spool = Spool::with(bagged());
    let mut all = spool.commit(&["ann", "bob", "cat"]);
    all.extend(spool.commit(&["dan", "eve"]));
    all.extend(unpacked(&spool, &["fay", "gil", "hal"]));
    // Bob's is unpacked, Dan's settled, Fay's and Hal's longer than what a single read takes, Gil's
    // damaged. Hal's has no checksum, and what a single read takes of it ends with a line.
    all[1].errorline = Some(line("later"));
    spool.queue.update(&all[1]).unwrap();
    spool.queue.remove(all[3].id).unwrap();
    all[5].helo = line(&"x".repeat(6000));
    spool.queue.update(&all[5]).unwrap();
    fs::write(spool.at(envelope_path(all[6].id)), "version: 9\n").unwrap();
    let hal = spool.at(envelope_path(all[7].id));
    let text = fs::read_to_string(&hal).unwrap();
    let unchecked = text.lines().filter(|line| !line.starts_with("check:"));
    let mut text: String = unchecked.map(|line| format!("{line}\n")).collect();
    let remote = "x".repeat(4096 - text.len() - "remote: \n".len());
    text += &format!("remote: {remote}\n");
    assert_eq!(text.len(), 4096);
    fs::write(&hal, text + "tag: late\n").unwrap();
    all[7].past.remote = Some(line(&remote));
    all[7].tag = Some(line("late"));
    all.reverse();
    let ids: Vec<EvpId> = all.iter().map(|envelope| envelope.id).collect();
    for damaged_is_gone in [false, true] {
        let read = spool.queue.load_these(&ids);
        assert_eq!(read.len(), all.len());
        for (read, envelope) in read.into_iter().zip(&all) {
            match (envelope.rcpt.user(), read) {
                ("gil", Err(LoadError::Corrupt(_))) if !damaged_is_gone => {}
                ("gil", Err(LoadError::Missing)) if damaged_is_gone => {}
                ("dan", Err(LoadError::Missing)) => {}
                (_, read) => assert_eq!(read.unwrap(), *envelope),
            }
        }
    }
}

#[test]
fn messages_are_read_together_as_each_is_read_alone() {
    let spool = Spool::with(bagged());
    let mut all = spool.commit(&["ann", "bob", "cat"]);
    all.extend(unpacked(&spool, &["dan", "eve", "fay"]));
    let begun = spool.queue.begin().unwrap();
    // It is being moved into the queue.
    let (whole, moving) = (all[5].id.msgid(), begun.msgid());
    let moving_dir = spool.at(layout::message_dir(moving));
    fs::create_dir_all(&moving_dir).unwrap();
    fs::copy(spool.at(body_path(whole)), spool.at(body_path(moving))).unwrap();
    let envelope = envelope_path(EvpId::new(moving, 1).unwrap());
    fs::copy(spool.at(envelope_path(all[5].id)), spool.at(envelope)).unwrap();
    // Bob's is settled, Dan's damaged, Eve's without a body.
    spool.queue.remove(all[1].id).unwrap();
    fs::write(spool.at(envelope_path(all[3].id)), "version: 9\n").unwrap();
    fs::remove_file(spool.at(body_path(all[4].id.msgid()))).unwrap();
    let mut ids: Vec<MsgId> = all.iter().map(|envelope| envelope.id.msgid()).collect();
    ids.push(begun.msgid());
    let read = spool.queue.envelopes_of(&ids);
    assert_eq!(read.len(), ids.len());
    for (nth, read) in read.into_iter().enumerate() {
        match nth {
            1 | 6 => assert_eq!(read.unwrap_err().kind(), io::ErrorKind::NotFound),
            3 | 4 => assert_eq!(read.unwrap(), []),
            _ => assert_eq!(read.unwrap(), [all[nth].clone()]),
        }
    }
    assert_eq!(spool.names("corrupt").len(), 2);
}

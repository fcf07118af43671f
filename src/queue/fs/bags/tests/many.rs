//! Many envelopes, in bags and beside them, read together.

use std::fs;

use crate::mail::samples::line;
use crate::mail::{Envelope, EvpId};
use crate::queue::LoadError;
use crate::queue::fs::envelope_path;

use super::Spool;

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
    let spool = Spool::new();
    let mut all = spool.commit(&["ann", "bob", "cat"]);
    all.extend(spool.commit(&["dan", "eve"]));
    all.extend(unpacked(&spool, &["fay", "gil", "hal"]));
    // Bob's is unpacked, Dan's settled, Fay's longer than what a single read takes, Gil's damaged.
    all[1].errorline = Some(line("later"));
    spool.queue.update(&all[1]).unwrap();
    spool.queue.remove(all[3].id).unwrap();
    all[5].helo = line(&"x".repeat(6000));
    spool.queue.update(&all[5]).unwrap();
    fs::write(spool.at(envelope_path(all[6].id)), "version: 9\n").unwrap();
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

//! What every [`Store`] does, as one test that each of them passes.

use std::io::{self, Read};
use std::sync::Arc;

use crate::mail::samples::{envelope, line};
use crate::mail::{BounceKind, Envelope, EvpId, Kind, MsgId, Status};
use crate::util::Timestamp;

use super::coding::{Coding, Key};
use super::fs::{Fs, Options};
use super::ram::Ram;
use super::{LoadError, Queue, Store};

/// Commits a message to `users` with this body.
pub(super) fn commit(queue: &Queue, users: &[&str], body: &[u8]) -> Vec<Envelope> {
    let mut incoming = queue.begin().unwrap();
    for user in users {
        incoming.add(envelope(user)).unwrap();
    }
    incoming.write(body).unwrap();
    let committed = incoming.commit().unwrap();
    committed.envelopes().to_vec()
}

fn body(queue: &Queue, id: MsgId) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = queue.open_body(id).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// RFC 6376 §5.6, RFC 8601 §5: fields that are known when the message is complete stand in front of
/// it, wherever it is by then.
fn fields_that_come_late_stand_in_front(queue: &Queue) {
    for text in [
        "small\n".to_owned(),
        "a line of a large body\n".repeat(20_000),
    ] {
        let mut incoming = queue.begin().unwrap();
        let id = incoming.add(envelope("ann")).unwrap();
        for piece in text.as_bytes().chunks(10_000) {
            incoming.write(piece).unwrap();
            if incoming.is_full() {
                incoming.spill().unwrap();
            }
        }
        incoming.put_in_front(b"B: 2\n").unwrap();
        incoming.put_in_front(b"A: 1\n").unwrap();
        let size_bytes = text.len() as u64 + 10;
        assert_eq!(incoming.size_bytes(), size_bytes);
        let msgid = incoming.commit().unwrap().msgid();
        assert!(body(queue, msgid) == format!("A: 1\nB: 2\n{text}").into_bytes());
        let size = queue.open_body(msgid).unwrap().size_bytes();
        assert_eq!(size.unwrap(), size_bytes);
        queue.remove(id).unwrap();
    }
}

fn sorted(mut envelopes: Vec<Envelope>) -> Vec<Envelope> {
    envelopes.sort_by_key(|envelope| envelope.id);
    envelopes
}

fn is_missing(queue: &Queue, id: EvpId) -> bool {
    matches!(queue.load(id), Err(LoadError::Missing))
}

#[test]
fn the_store_in_memory_keeps_the_contract() {
    contract(Arc::new(Ram::default()));
}

#[test]
fn the_store_on_disk_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    contract(Arc::new(Fs::open(root.path(), Options::default()).unwrap()));
}

#[test]
fn the_store_on_disk_keeps_the_contract_compressed_and_encrypted() {
    let key = Key::new("0123456789abcdef0123456789abcdef");
    for (compress, key) in [(true, None), (false, key.clone()), (true, key)] {
        let root = tempfile::tempdir().unwrap();
        let options = Options {
            coding: Coding { compress, key },
            ..Options::default()
        };
        contract(Arc::new(Fs::open(root.path(), options).unwrap()));
    }
}

#[test]
fn the_store_on_disk_keeps_the_contract_with_bags() {
    let key = Key::new("0123456789abcdef0123456789abcdef");
    for (compress, key) in [(false, None), (true, key)] {
        let root = tempfile::tempdir().unwrap();
        let options = Options {
            coding: Coding { compress, key },
            bags: true,
            ..Options::default()
        };
        contract(Arc::new(Fs::open(root.path(), options).unwrap()));
    }
}

fn contract(store: Arc<dyn Store>) {
    let queue = Queue::new(store);
    nothing_is_seen_before_the_commit(&queue);
    a_commit_keeps_every_envelope_and_byte(&queue);
    envelopes_are_replaced_added_and_removed(&queue);
    what_is_gone_is_missing(&queue);
    fields_that_come_late_stand_in_front(&queue);
    a_message_without_envelopes_is_none(&queue);
    assert_eq!(queue.messages().count(), 0);
}

fn nothing_is_seen_before_the_commit(queue: &Queue) {
    let mut incoming = queue.begin().unwrap();
    let other = queue.begin().unwrap();
    assert_ne!(incoming.msgid(), other.msgid());
    let id = incoming.add(envelope("ann")).unwrap();
    assert_eq!(id.msgid(), incoming.msgid());
    incoming.write(&vec![b'x'; 200_000]).unwrap();
    assert_eq!(incoming.size_bytes(), 200_000);
    assert_eq!(queue.messages().count(), 0);
    assert!(is_missing(queue, id));
    assert!(queue.open_body(id.msgid()).is_err());
    drop(incoming);
    assert_eq!(queue.messages().count(), 0);
    assert!(queue.envelopes(id.msgid()).is_err());
}

fn a_commit_keeps_every_envelope_and_byte(queue: &Queue) {
    let text: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    let mut incoming = queue.begin().unwrap();
    let msgid = incoming.msgid();
    incoming.add(envelope("ann")).unwrap();
    for piece in text.chunks(777) {
        incoming.write(piece).unwrap();
    }
    incoming.add(envelope("bob")).unwrap();
    let committed = incoming.commit().unwrap();
    assert_eq!(committed.msgid(), msgid);
    let envelopes = sorted(committed.envelopes().to_vec());
    assert_eq!(envelopes.len(), 2);
    assert_ne!(envelopes[0].id, envelopes[1].id);
    assert_eq!(queue.messages().collect::<Vec<_>>(), [msgid]);
    assert_eq!(sorted(queue.envelopes(msgid).unwrap()), envelopes);
    for envelope in &envelopes {
        assert_eq!(queue.load(envelope.id).unwrap(), *envelope);
    }
    assert_eq!(body(queue, msgid), text);
    assert_eq!(body(queue, msgid), text);
    for envelope in &envelopes {
        queue.remove(envelope.id).unwrap();
    }
    let empty = commit(queue, &["ann"], b"");
    assert_eq!(body(queue, empty[0].id.msgid()), b"");
    queue.remove(empty[0].id).unwrap();
}

fn envelopes_are_replaced_added_and_removed(queue: &Queue) {
    let envelopes = commit(queue, &["ann", "bob"], b"text\n");
    let msgid = envelopes[0].id.msgid();
    let retried = Envelope {
        retry: 3,
        last_try: Timestamp(1_700_000_500),
        errorline: Some(line("451 4.7.1 later")),
        status: Some(Status::new(4, 7, 1)),
        ..envelopes[0].clone()
    };
    queue.update(&retried).unwrap();
    assert_eq!(queue.load(retried.id).unwrap(), retried);
    let bounce = Envelope {
        kind: Kind::Bounce(BounceKind::Failed),
        ..retried.clone()
    };
    let id = queue.add(&bounce).unwrap();
    assert_eq!(id.msgid(), msgid);
    assert!(envelopes.iter().all(|envelope| envelope.id != id));
    assert_eq!(queue.load(id).unwrap(), Envelope { id, ..bounce });
    assert_eq!(queue.load(retried.id).unwrap(), retried);
    queue.remove(retried.id).unwrap();
    queue.remove(envelopes[1].id).unwrap();
    assert!(is_missing(queue, retried.id));
    assert_eq!(queue.envelopes(msgid).unwrap().len(), 1);
    let mut open = queue.open_body(msgid).unwrap();
    queue.remove(id).unwrap();
    assert!(queue.envelopes(msgid).is_err());
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text\n");
}

fn what_is_gone_is_missing(queue: &Queue) {
    let gone = commit(queue, &["ann"], b"text\n").remove(0);
    queue.remove(gone.id).unwrap();
    queue.remove(gone.id).unwrap();
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(queue.update(&gone)), io::ErrorKind::NotFound);
    assert_eq!(kind(queue.add(&gone).map(|_| ())), io::ErrorKind::NotFound);
    assert_eq!(
        kind(queue.open_body(gone.id.msgid()).map(|_| ())),
        io::ErrorKind::NotFound
    );
    assert!(is_missing(queue, gone.id));
    let kept = commit(queue, &["ann", "bob"], b"text\n");
    queue.remove(kept[0].id).unwrap();
    assert_eq!(
        kind(queue.update(&kept[0])),
        io::ErrorKind::NotFound,
        "an update does not bring back what was removed"
    );
    queue.remove(kept[1].id).unwrap();
}

fn a_message_without_envelopes_is_none(queue: &Queue) {
    let mut incoming = queue.begin().unwrap();
    incoming.write(b"text\n").unwrap();
    assert!(incoming.commit().is_err());
}

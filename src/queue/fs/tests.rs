use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;

use crate::mail::samples::envelope;
use crate::queue::Queue;
use crate::queue::coding::Key;
use crate::queue::contract::commit;

use super::spool::Spool;
use super::*;

#[test]
fn two_engines_never_share_a_spool() {
    let spool = Spool::with(Options::default());
    let Err(error) = Fs::open(spool.dir.path(), Options::default()) else {
        panic!("opened twice");
    };
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    let text = error.to_string();
    let pid = std::process::id();
    assert!(
        text.ends_with(&format!("in use by another smtpd (pid {pid})")),
        "{text}"
    );
    spool.reopened(Options::default());
}

#[test]
fn buckets_of_another_user_are_set_aside_and_block_no_mail() {
    // spool-layout.md, Directories: nothing old may block new mail.
    if crate::sys::user::effective_uid() != 0 {
        return eprintln!("NOT RUN: buckets_of_another_user_…: only root gives directories away");
    }
    let spool = Spool::with(Options::default());
    commit(&spool.queue, &["ann"], b"ours\n");
    let ours = spool.names("queue");
    for bucket in 0..=255u8 {
        let dir = spool.at(layout::bucket_dir(bucket));
        if fs::create_dir(&dir).is_ok() {
            fs::create_dir(dir.join("old")).unwrap();
            std::os::unix::fs::chown(&dir, Some(12345), None).unwrap();
        }
    }
    let mut spool = spool;
    for _ in 0..2 {
        spool = spool.reopened(Options::default());
        assert_eq!(spool.queue.messages().count(), 1);
        let names = spool.names("queue");
        let aside = names.iter().filter(|name| name.ends_with(".uid12345"));
        assert_eq!(aside.count(), 257 - ours.len());
    }
    assert!(
        spool
            .at("queue")
            .join(format!("{:02x}.uid12345/old", 0xfe))
            .exists()
            || ours.contains(&"fe".to_owned())
    );
    commit(&spool.queue, &["bob"], b"new\n");
}

#[test]
fn a_transaction_that_is_reset_touches_no_directory() {
    let spool = Spool::with(Options::default());
    let before = fs::metadata(spool.at("incoming"))
        .unwrap()
        .modified()
        .unwrap();
    for _ in 0..100 {
        let mut incoming = spool.queue.begin().unwrap();
        incoming.add(envelope("ann")).unwrap();
        incoming.write(b"small\n").unwrap();
    }
    let after = fs::metadata(spool.at("incoming"))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(before, after);
}

#[test]
fn a_dropped_large_message_leaves_no_file() {
    let spool = Spool::with(Options::default());
    let mut incoming = spool.queue.begin().unwrap();
    incoming.write(&vec![b'x'; 100_000]).unwrap();
    assert!(incoming.is_full() && spool.names("incoming").is_empty());
    incoming.spill().unwrap();
    assert!(!incoming.is_full());
    assert_eq!(spool.names("incoming"), [incoming.msgid().to_string()]);
    drop(incoming);
    assert!(spool.names("incoming").is_empty());
    assert!(spool.names("purge").is_empty());
}

#[test]
fn files_and_directories_are_private_and_where_the_layout_says() {
    let spool = Spool::with(Options::default());
    let one = commit(&spool.queue, &["ann"], b"text\n").remove(0);
    let mode = |path: PathBuf| fs::metadata(spool.at(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(body_path(one.id.msgid())), 0o600);
    assert_eq!(mode(envelope_path(one.id)), 0o600);
    assert_eq!(mode(layout::message_dir(one.id.msgid())), 0o700);
    assert_eq!(
        fs::read(spool.at(body_path(one.id.msgid()))).unwrap(),
        b"text\n"
    );
    assert!(spool.names("incoming").is_empty());
    spool.queue.remove(one.id).unwrap();
    assert!(!spool.at(layout::message_dir(one.id.msgid())).exists());
    assert!(spool.names("purge").is_empty());
}

#[test]
fn what_is_settled_is_deleted_by_whoever_has_time() {
    let spool = Spool::with(Options {
        delete_later: true,
        ..Options::default()
    });
    let one = commit(&spool.queue, &["ann"], b"text\n").remove(0);
    spool.queue.remove(one.id).unwrap();
    assert!(!spool.at(layout::message_dir(one.id.msgid())).exists());
    assert_eq!(spool.names("purge").len(), 1);
    spool.fs.delete_dropped();
    assert!(spool.names("purge").is_empty());
}

#[test]
fn leftovers_of_a_dead_engine_are_dropped_at_start() {
    // spool-layout.md, guarantee 2: what is in incoming/ at a start was never promised.
    let spool = Spool::with(Options::default());
    fs::create_dir(spool.at("incoming/0a000001")).unwrap();
    fs::write(spool.at("incoming/0a000001/message"), "half").unwrap();
    fs::write(spool.at("temporary/0a00000100000001.7"), "half").unwrap();
    let spool = spool.reopened(Options::default());
    assert!(spool.names("incoming").is_empty());
    assert!(spool.names("temporary").is_empty());
    assert_eq!(spool.names("purge").len(), 2);
    assert_eq!(spool.fs.purge().unwrap(), 2);
    assert!(spool.names("purge").is_empty());
    assert_eq!(spool.queue.messages().count(), 0);
}

#[test]
fn an_unreadable_envelope_goes_to_corrupt_with_a_copy_of_the_body() {
    let spool = Spool::with(Options::default());
    let two = commit(&spool.queue, &["ann", "bob"], b"text\n");
    let msgid = two[0].id.msgid();
    fs::write(spool.at(envelope_path(two[0].id)), "version: 9\n").unwrap();
    assert!(matches!(
        spool.queue.load(two[0].id),
        Err(LoadError::Corrupt(_))
    ));
    assert!(matches!(
        spool.queue.load(two[0].id),
        Err(LoadError::Missing)
    ));
    assert_eq!(spool.queue.envelopes(msgid).unwrap(), [two[1].clone()]);
    spool.queue.remove(two[1].id).unwrap();
    let room = format!("corrupt/{msgid}.0");
    assert_eq!(
        spool.names(&room),
        [two[0].id.to_string(), "message".to_owned()]
    );
    assert_eq!(fs::read(spool.at(room).join("message")).unwrap(), b"text\n");
}

#[test]
fn a_message_of_which_nothing_is_readable_goes_to_corrupt_whole() {
    let spool = Spool::with(Options::default());
    let two = commit(&spool.queue, &["ann", "bob"], b"text\n");
    let msgid = two[0].id.msgid();
    for envelope in &two {
        fs::write(spool.at(envelope_path(envelope.id)), "").unwrap();
    }
    assert_eq!(spool.queue.envelopes(msgid).unwrap(), []);
    assert_eq!(spool.names(&format!("corrupt/{msgid}.0")).len(), 3);
    assert!(spool.queue.envelopes(msgid).is_err());
}

#[test]
fn a_message_without_body_or_without_envelope_goes_to_corrupt() {
    let spool = Spool::with(Options::default());
    let one = commit(&spool.queue, &["ann"], b"text\n").remove(0);
    let other = commit(&spool.queue, &["bob"], b"text\n").remove(0);
    fs::remove_file(spool.at(body_path(one.id.msgid()))).unwrap();
    fs::remove_file(spool.at(envelope_path(other.id))).unwrap();
    for id in [one.id.msgid(), other.id.msgid()] {
        assert_eq!(spool.queue.envelopes(id).unwrap(), []);
    }
    assert_eq!(spool.names("corrupt").len(), 2);
    assert_eq!(spool.queue.messages().count(), 0);
}

#[test]
fn removing_the_last_readable_envelope_deletes_nothing_else() {
    // spool-layout.md, guarantee 5: nothing unreadable is deleted: it moves to corrupt/.
    let spool = Spool::with(Options::default());
    let two = commit(&spool.queue, &["ann", "bob"], b"text\n");
    let msgid = two[0].id.msgid();
    fs::write(spool.at(envelope_path(two[0].id)), "damaged").unwrap();
    spool.queue.remove(two[1].id).unwrap();
    assert_eq!(spool.queue.messages().collect::<Vec<_>>(), [msgid]);
    assert_eq!(spool.queue.envelopes(msgid).unwrap(), []);
    assert_eq!(spool.names(&format!("corrupt/{msgid}.0")).len(), 2);

    let one = commit(&spool.queue, &["ann"], b"text\n").remove(0);
    let stray = layout::message_dir(one.id.msgid()).join("notes");
    fs::write(spool.at(stray), "mine").unwrap();
    spool.queue.remove(one.id).unwrap();
    let room = format!("corrupt/{}.0", one.id.msgid());
    assert_eq!(spool.names(&room), ["message", "notes"]);
}

#[test]
fn an_envelope_that_may_not_be_read_stays_for_later() {
    if sys::user::effective_uid() == 0 {
        let name = "an_envelope_that_may_not_be_read_stays_for_later";
        let _ = writeln!(io::stderr(), "NOT RUN: {name}: needs an ordinary user");
        return;
    }
    let spool = Spool::with(Options::default());
    let one = commit(&spool.queue, &["ann"], b"text\n").remove(0);
    let path = spool.at(envelope_path(one.id));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(spool.queue.envelopes(one.id.msgid()).unwrap(), []);
    assert!(matches!(spool.queue.load(one.id), Err(LoadError::Io(_))));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(spool.queue.envelopes(one.id.msgid()).unwrap(), [one]);
}

#[test]
fn bogus_names_are_left_alone() {
    // spool-layout.md, Directories: any other name is left alone, with a debug line.
    let spool = Spool::with(Options::default());
    let one = commit(&spool.queue, &["ann"], b"text\n").remove(0);
    fs::create_dir(spool.at("queue/zz")).unwrap();
    fs::write(spool.at("queue/note"), "").unwrap();
    let bucket = layout::bucket_dir(layout::bucket_of(one.id.msgid()));
    fs::write(spool.at(bucket.join("0123")), "").unwrap();
    fs::create_dir_all(spool.at("queue/01/02000001")).unwrap();
    let found: Vec<MsgId> = spool.queue.messages().collect();
    assert_eq!(found, [one.id.msgid()]);
    assert!(spool.at("queue/01/02000001").exists());
}

#[test]
fn a_message_moved_in_by_hand_is_found() {
    // spool-layout.md, Transitions: a message's directory may be moved into its bucket by hand.
    let from = Spool::with(Options::default());
    let one = commit(&from.queue, &["ann"], b"text\n").remove(0);
    let to = Spool::with(Options::default());
    let msgid = one.id.msgid();
    fs::create_dir_all(to.at(layout::bucket_dir(layout::bucket_of(msgid)))).unwrap();
    fs::rename(
        from.at(layout::message_dir(msgid)),
        to.at(layout::message_dir(msgid)),
    )
    .unwrap();
    assert_eq!(to.queue.messages().collect::<Vec<_>>(), [msgid]);
    assert_eq!(
        to.queue.envelopes(msgid).unwrap(),
        std::slice::from_ref(&one)
    );
    assert_eq!(to.queue.load(one.id).unwrap(), one);
}

#[test]
fn a_message_with_many_envelopes_and_a_large_body_survives_a_restart() {
    let spool = Spool::with(Options::default());
    let users: Vec<String> = (0..100).map(|n| format!("user{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let body = vec![b'x'; 3_000_000];
    let mut sent = commit(&spool.queue, &users, &body);
    sent.sort_by_key(|envelope| envelope.id);
    let spool = spool.reopened(Options::default());
    let msgid = sent[0].id.msgid();
    assert_eq!(spool.queue.envelopes(msgid).unwrap(), sent);
    assert_eq!(fs::read(spool.at(body_path(msgid))).unwrap(), body);
}

#[test]
fn a_short_disk_refuses_messages_and_recovers() {
    // spool-layout.md, Room: the client hears 452, and the log says so once.
    let second = Arc::new(AtomicU64::new(1));
    let clock = second.clone();
    let starved = Options {
        clock: Arc::new(move || Timestamp(clock.load(Ordering::Relaxed))),
        min_free_percent: 100,
        min_free_bytes: u64::MAX,
        ..Options::default()
    };
    let spool = Spool::with(starved);
    assert!(matches!(spool.queue.begin(), Err(BeginError::Full)));
    second.store(2, Ordering::Relaxed);
    assert!(matches!(spool.queue.begin(), Err(BeginError::Full)));
    assert!(spool.names("incoming").is_empty());
}

#[test]
fn the_envelopes_of_one_message_are_bounded() {
    let spool = Spool::with(Options {
        max_envelopes: 2,
        ..Options::default()
    });
    let mut incoming = spool.queue.begin().unwrap();
    incoming.add(envelope("ann")).unwrap();
    incoming.add(envelope("bob")).unwrap();
    assert!(incoming.add(envelope("eve")).is_err());
    assert_eq!(incoming.commit().unwrap().envelopes().len(), 2);
}

#[test]
fn many_threads_commit_change_and_remove_at_once() {
    let spool = Spool::with(Options::default());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut two = commit(&spool.queue, &["ann", "bob"], b"text\n");
                    two[0].retry = 1;
                    spool.queue.update(&two[0]).unwrap();
                    let extra = spool.queue.add(&two[1]).unwrap();
                    spool.queue.remove(two[1].id).unwrap();
                    spool.queue.remove(two[0].id).unwrap();
                    let left = spool.queue.envelopes(extra.msgid()).unwrap();
                    assert_eq!(left.len(), 1);
                    spool.queue.remove(extra).unwrap();
                }
            });
        }
    });
    assert_eq!(spool.queue.messages().count(), 0);
    for room in ["incoming", "temporary", "purge", "corrupt"] {
        assert!(spool.names(room).is_empty(), "{room}");
    }
}

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn coded(compress: bool, key: Option<&str>) -> Options {
    Options {
        coding: Coding {
            compress,
            key: key.and_then(Key::new),
        },
        ..Options::default()
    }
}

/// Closes the spool and opens it with other options.
fn reopen(spool: Spool, options: Options) -> io::Result<Spool> {
    let Spool { dir, fs, queue } = spool;
    drop((fs, queue));
    let fs = Fs::open(dir.path(), options)?;
    let queue = Queue::new(Arc::new(fs.clone()));
    Ok(Spool { dir, fs, queue })
}

fn text_of(spool: &Spool, id: MsgId) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut spool.queue.open_body(id)?, &mut text)?;
    Ok(text)
}

#[test]
fn a_spool_stays_readable_when_its_options_change() {
    // spool-layout.md, Coded files: a file says itself what it is.
    let mut spool = Spool::with(Options::default());
    let mut written = Vec::new();
    for (compress, key) in [
        (false, None),
        (true, None),
        (false, Some(KEY)),
        (true, Some(KEY)),
    ] {
        // Until there is something sealed, no key is needed.
        spool = reopen(spool, coded(compress, key)).unwrap();
        let text = format!("Subject: {compress} {key:?}\n\ntext\n");
        let envelope = commit(&spool.queue, &["ann"], text.as_bytes()).remove(0);
        written.push((envelope, text));
        for (envelope, text) in &written {
            assert_eq!(spool.queue.load(envelope.id).unwrap(), *envelope);
            assert_eq!(text_of(&spool, envelope.id.msgid()).unwrap(), *text);
        }
    }
    let body = fs::read(spool.at(body_path(written[3].0.id.msgid()))).unwrap();
    assert!(body.starts_with(b"\x02SMTPD-Q"));
    assert!(!body.windows(7).any(|found| found == b"Subject"));
    let spool = reopen(spool, coded(false, Some(KEY))).unwrap();
    for (envelope, _) in &written {
        spool.queue.update(envelope).unwrap();
        spool.queue.remove(envelope.id).unwrap();
    }
    assert_eq!(spool.queue.messages().count(), 0);
}

#[test]
fn a_wrong_key_stops_the_start_and_moves_nothing() {
    // spool-layout.md, Coded files: never to corrupt for want of a key.
    let spool = Spool::with(coded(true, Some(KEY)));
    let envelope = commit(&spool.queue, &["ann", "bob"], b"text\n").remove(0);
    let dir = spool.dir.path().to_owned();
    let Spool {
        dir: keep,
        fs,
        queue,
    } = spool;
    drop((fs, queue));
    for key in [None, Some("another key of thirty-two bytes.")] {
        let error = Fs::open(&dir, coded(false, key)).map(drop).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("encrypted") && text.ends_with("nothing has been changed"),
            "{text}"
        );
    }
    let fs = Fs::open(&dir, coded(false, Some(KEY))).unwrap();
    let queue = Queue::new(Arc::new(fs.clone()));
    assert_eq!(queue.envelopes(envelope.id.msgid()).unwrap().len(), 2);
    drop(keep);
}

#[test]
fn what_another_key_has_sealed_is_held_among_the_rest() {
    let spool = Spool::with(coded(false, Some("another key of thirty-two bytes.")));
    let held = commit(&spool.queue, &["ann"], b"text\n").remove(0);
    let (from, aside) = (
        spool.at(layout::message_dir(held.id.msgid())),
        spool.at("aside"),
    );
    fs::rename(&from, &aside).unwrap();
    let spool = reopen(spool, coded(false, Some(KEY))).unwrap();
    fs::create_dir_all(from.parent().unwrap()).unwrap();
    fs::rename(&aside, &from).unwrap();
    let msgid = held.id.msgid();
    assert_eq!(spool.queue.envelopes(msgid).unwrap(), []);
    let Err(LoadError::Io(error)) = spool.queue.load(held.id) else {
        panic!("loaded");
    };
    assert!(
        error.to_string().ends_with("it stays where it is"),
        "{error}"
    );
    assert!(text_of(&spool, msgid).is_err());
    assert!(spool.names("corrupt").is_empty());
    assert!(from.join(held.id.to_string()).exists());
}

#[test]
fn a_damaged_sealed_envelope_goes_to_corrupt() {
    let spool = Spool::with(coded(false, Some(KEY)));
    let envelope = commit(&spool.queue, &["ann"], b"text\n").remove(0);
    let path = spool.at(envelope_path(envelope.id));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(spool.queue.envelopes(envelope.id.msgid()).unwrap(), []);
    assert_eq!(spool.names("corrupt").len(), 1);
}

#[test]
fn a_queue_that_opensmtpd_has_encrypted_is_taken_over() {
    // spool-layout.md, Coded files: 0x01, nonce, text, seal; the body passes on as ours.
    let spool = Spool::with(Options::default());
    let envelope = commit(&spool.queue, &["ann"], b"").remove(0);
    let old = |name: &str| {
        let digits = fs::read_to_string(format!("tests/spool/opensmtpd/{name}.hex")).unwrap();
        let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (0..digits.trim().len())
            .step_by(2)
            .map(digit)
            .collect::<Vec<u8>>()
    };
    fs::write(spool.at(body_path(envelope.id.msgid())), old("message")).unwrap();
    fs::write(spool.at(envelope_path(envelope.id)), old("envelope")).unwrap();
    assert!(reopen_fails(&spool));
    let spool = reopen(spool, coded(false, Some(KEY))).unwrap();
    let msgid = envelope.id.msgid();
    let found = spool.queue.envelopes(msgid).unwrap();
    assert_eq!(found[0].dest.to_string(), "bob@example.com");
    assert_eq!(text_of(&spool, msgid).unwrap(), "Subject: x\n\nold mail\n");
    assert!(spool.names("temporary").is_empty());
}

/// Whether the key check refuses a spool without a key. The lock is somebody's; the check comes
/// before anything is touched.
fn reopen_fails(spool: &Spool) -> bool {
    let disk = Arc::new(RealDisk::new(spool.dir.path()));
    Fs::with_disk(disk, Options::default()).is_err()
}

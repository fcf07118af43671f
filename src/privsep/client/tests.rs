use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use super::*;
use crate::privsep::MdaEnd;
use crate::privsep::MdaRefusal;
use crate::privsep::frame::tests::Chance;
use crate::privsep::{ForwardFound, Reply};
use crate::sys::fdpass::Wait;
use crate::util::Line;

const LONG: Duration = Duration::from_secs(20);

fn started() -> (Channel, Client, Receiver<Event>) {
    let (parent, engine) = Channel::pair().unwrap();
    let (sender, events) = sync_channel(8);
    let client = Client::start(engine, move |event| sender.send(event).unwrap()).unwrap();
    (parent, client, events)
}

fn start(client: &Client) -> Pending {
    let (stdin, output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let job = Chance::new(6).job();
    client.start_mda(job, stdin.into(), output.into()).unwrap()
}

fn next(parent: &Channel) -> (Request, Vec<OwnedFd>) {
    let packet = parent.receive(Wait::Yes).unwrap().unwrap();
    let request = Request::decode(&packet.frame).unwrap();
    assert_eq!(packet.fds.len(), request.descriptors());
    (request, packet.fds)
}

fn next_id(parent: &Channel) -> u32 {
    match next(parent).0 {
        Request::StartMda { id, .. } => id,
        other => panic!("{other:?}"),
    }
}

fn say(parent: &Channel, reply: &Reply) {
    parent
        .send(&reply.encode().unwrap(), &[], Wait::Yes)
        .unwrap();
}

#[test]
fn numbers_of_requests_start_over_past_those_that_are_in_use() {
    // OpenSMTPD 5.7.2 ended when its numbers of connections did.
    let (parent, client, _events) = started();
    let from = |last: u32| client.0.waiting().last_id = last;
    from(u32::MAX - 1);
    let old = [start(&client), start(&client), start(&client)];
    let ids: Vec<u32> = old.iter().map(|_| next_id(&parent)).collect();
    assert_eq!(ids, [u32::MAX, 0, 1]);
    from(u32::MAX - 1);
    let new = start(&client);
    assert_eq!(next_id(&parent), 2);
    let end = MdaEnd::Exited(9);
    say(&parent, &Reply::MdaDone { id: 2, end });
    assert_eq!(new.try_wait(LONG), Some(MdaResult::Done(end)));
    for (pending, id) in old.into_iter().zip(ids) {
        let end = MdaEnd::Exited(id as i32 & 3);
        say(&parent, &Reply::MdaDone { id, end });
        assert_eq!(pending.try_wait(LONG), Some(MdaResult::Done(end)));
    }
}

#[test]
fn answers_reach_the_one_who_asked_in_any_order() {
    let (parent, client, _events) = started();
    let (first, second) = (start(&client), start(&client));
    let (a, b) = (next_id(&parent), next_id(&parent));
    assert_ne!(a, b);
    say(
        &parent,
        &Reply::MdaDone {
            id: b,
            end: MdaEnd::TimedOut,
        },
    );
    let why = MdaRefusal::NoUser;
    say(
        &parent,
        &Reply::MdaRefused {
            id: a,
            why: why.clone(),
        },
    );
    say(
        &parent,
        &Reply::MdaDone {
            id: 99,
            end: MdaEnd::Exited(0),
        },
    );
    assert_eq!(first.try_wait(LONG), Some(MdaResult::Refused(why)));
    assert_eq!(
        second.try_wait(LONG),
        Some(MdaResult::Done(MdaEnd::TimedOut))
    );
}

#[test]
fn descriptors_arrive_in_their_order() {
    let (parent, client, _events) = started();
    let (mut stdin, mut output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    stdin.write_all(b"message").unwrap();
    output.write_all(b"output").unwrap();
    let job = Chance::new(7).job();
    let _pending = client
        .start_mda(job.clone(), stdin.into(), output.into())
        .unwrap();
    let (request, fds) = next(&parent);
    assert!(matches!(request, Request::StartMda { job: sent, .. } if sent == job));
    let texts: Vec<String> = fds
        .into_iter()
        .map(|fd| {
            let (mut file, mut text) = (std::fs::File::from(fd), String::new());
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        })
        .collect();
    assert_eq!(texts, ["message", "output"]);
}

#[test]
fn kill_names_the_delivery() {
    let (parent, client, _events) = started();
    let pending = start(&client);
    let id = next_id(&parent);
    assert_eq!(pending.try_wait(Duration::ZERO), None);
    pending.kill();
    assert_eq!(next(&parent).0, Request::KillMda { id });
}

#[test]
fn settings_are_told_by_whoever_is_sending() {
    // smtpctl(8), log verbose: it works however busy the wire is.
    let (parent, client, _events) = started();
    let set = |what, on| Request::Set { what, on };
    client.set(Setting::Verbose, true).unwrap();
    assert_eq!(next(&parent).0, set(Setting::Verbose, true));
    let busy = client.0.sending.lock().unwrap();
    client.set(Setting::PauseMta, true).unwrap();
    client.set(Setting::Verbose, true).unwrap();
    client.set(Setting::Verbose, false).unwrap();
    drop(busy);
    client.ready().unwrap();
    assert_eq!(next(&parent).0, Request::Ready);
    assert_eq!(next(&parent).0, set(Setting::Verbose, false));
    assert_eq!(next(&parent).0, set(Setting::PauseMta, true));
}

#[test]
fn a_parent_that_does_not_read_is_waited_for_so_long_and_no_longer() {
    let (parent, engine) = Channel::pair().unwrap();
    let patience = Duration::from_millis(50);
    let client = Client::with_patience(patience, engine, |_| {}).unwrap();
    let mut sent = 0;
    let error = loop {
        match client.ready() {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let asked = client.open_forward(&Line::new("l").unwrap(), &Line::new("bob").unwrap());
    assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::TimedOut);
    // What was sent is whole, and once it is read there is room.
    for _ in 0..sent {
        assert_eq!(next(&parent).0, Request::Ready);
    }
    client.finished().unwrap();
    assert_eq!(next(&parent).0, Request::Finished);
}

// A delivery that is not killed is made twice, and smtpctl(8) has said that the table is updated.
#[test]
fn what_must_not_be_lost_is_told_once_the_parent_reads_again() {
    let (parent, engine) = Channel::pair().unwrap();
    let patience = Duration::from_millis(50);
    let client = Client::with_patience(patience, engine, |_| {}).unwrap();
    let pending = start(&client);
    let id = next_id(&parent);
    let mut sent = 0;
    while client.ready().is_ok() {
        sent += 1;
    }
    pending.kill();
    pending.kill();
    client.update_table("users").unwrap();
    for _ in 0..sent {
        assert_eq!(next(&parent).0, Request::Ready);
    }
    // Whatever the parent says next, it reads.
    let end = MdaEnd::Exited(0);
    let other = id.wrapping_add(1);
    say(&parent, &Reply::MdaDone { id: other, end });
    assert_eq!(next(&parent).0, Request::KillMda { id });
    let table = Line::new("users").unwrap();
    assert_eq!(next(&parent).0, Request::UpdateTable { table });
    assert!(client.0.untold.lock().unwrap().is_empty());
}

// The map of the crate: no lock is taken under another one.
#[test]
fn a_helper_that_has_ended_is_not_to_be_killed_whoever_holds_the_promises() {
    let (parent, client, _events) = started();
    let (id, end) = (7, MdaEnd::Exited(0));
    let untold = || client.0.untold.lock().unwrap();
    untold().insert(wire::Matter::Kill(id), Request::KillHelper { id });
    let promises = client.0.waiting();
    say(&parent, &Reply::HelperEnded { id, end });
    let until = Instant::now() + LONG;
    while !untold().is_empty() {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    drop(promises);
}

#[test]
fn without_a_parent_everything_is_lost_and_the_engine_is_told() {
    let (parent, client, events) = started();
    let pending = start(&client);
    say(&parent, &Reply::Shutdown);
    assert_eq!(events.recv_timeout(LONG), Ok(Event::Shutdown));
    drop(parent);
    assert_eq!(pending.try_wait(LONG), Some(MdaResult::Lost));
    assert_eq!(events.recv_timeout(LONG), Ok(Event::ParentGone));
    let (stdin, output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let job = Chance::new(8).job();
    let again = client.start_mda(job, stdin.into(), output.into());
    assert!(again.is_err());
}

#[test]
fn a_forward_comes_as_a_descriptor_or_not_at_all() {
    let (parent, client, events) = started();
    let line = |text: &str| Line::new(text).unwrap();
    let asked = |client: Client| {
        let (action, user) = (line("local"), line("bob"));
        std::thread::spawn(move || client.open_forward(&action, &user))
    };
    let answer = |found: ForwardFound, file: Option<std::fs::File>| {
        let waiting = asked(client.clone());
        let (Request::OpenForward { id, action, user }, _) = next(&parent) else {
            panic!("something else was asked for");
        };
        assert_eq!((&*action, &*user), ("local", "bob"));
        let fds: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        let frame = Reply::Forward { id, found }.encode().unwrap();
        parent.send(&frame, &fds, Wait::Yes).unwrap();
        waiting.join().unwrap()
    };
    assert!(matches!(
        answer(ForwardFound::Absent { home: None }, None),
        Ok(Forward::Absent(None))
    ));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"alice\n").unwrap();
    file.rewind().unwrap();
    let Ok(Forward::File(opened)) = answer(ForwardFound::Opened, Some(file)) else {
        panic!("no file");
    };
    let mut text = String::new();
    std::fs::File::from(opened)
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "alice\n");
    let found = ForwardFound::Unusable { text: line("no") };
    assert!(matches!(answer(found, None), Ok(Forward::Unusable(text)) if text == line("no")));
    // A file where none should be, or none where one should be, is not what we started.
    assert!(answer(ForwardFound::Opened, None).is_err());
    assert_eq!(events.recv_timeout(LONG), Ok(Event::ParentGone));
    assert!(client.open_forward(&line("local"), &line("bob")).is_err());
}

#[test]
fn a_parent_that_speaks_nonsense_is_gone() {
    let (parent, _client, events) = started();
    parent.send(b"nonsense", &[], Wait::Yes).unwrap();
    assert_eq!(events.recv_timeout(LONG), Ok(Event::ParentGone));
}

//! The control socket: questions, their answers and who asks too much.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::control::message::{decode_answer, encode_ask, frame_length};
use crate::control::{Answer, Ask, Which};

use super::*;

/// Answers `Status` at once, leaves `Stats` open, refuses the rest.
pub(super) struct Questions(pub(super) Arc<Mutex<Vec<ConnId>>>);

impl Host for Questions {
    fn ask(&mut self, conn: ConnId, uid: u32, ask: Ask) -> Option<Answer> {
        assert_eq!(uid, crate::sys::user::effective_uid());
        match ask {
            Ask::Status => Some(Answer::Count(7)),
            Ask::Stats => {
                self.0.lock().unwrap().push(conn);
                None
            }
            _ => Some(Answer::Fail("no".to_owned())),
        }
    }
}

pub(super) fn ask(stream: &mut UnixStream, ask: &Ask) -> Option<Answer> {
    stream.write_all(&encode_ask(ask)).unwrap();
    answer(stream)
}

pub(super) fn answer(stream: &mut UnixStream) -> Option<Answer> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).ok()?;
    let mut body = vec![0; frame_length(head).unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some(decode_answer(&body).unwrap())
}

#[test]
fn an_answer_may_come_later_and_questions_keep_their_order() {
    // accept::Host: `None` means that the answer comes through the mailbox.
    let server = Server::start(Limits::default());
    let mut stream = server.control();
    stream
        .write_all(&[encode_ask(&Ask::Stats), encode_ask(&Ask::Status)].concat())
        .unwrap();
    until("the host is asked", || {
        !server.open_asks.lock().unwrap().is_empty()
    });
    let id = server.open_asks.lock().unwrap()[0];
    server.mailbox.answer(id, Answer::Count(1));
    assert_eq!(answer(&mut stream), Some(Answer::Count(1)));
    assert_eq!(answer(&mut stream), Some(Answer::Count(7)));
    // The next answer finds nobody, and its row may already belong to somebody else.
    drop(stream);
    let mut other = server.control();
    assert_eq!(ask(&mut other, &Ask::Status), Some(Answer::Count(7)));
    server.mailbox.answer(id, Answer::Count(2));
    assert_eq!(
        ask(&mut other, &Ask::Remove(Which::All)),
        Some(Answer::Fail("no".into()))
    );
}

#[test]
fn garbage_on_the_control_socket_costs_its_sender_the_connection() {
    // CVE-2025-62875: random bytes, replayed and cut frames end nothing else.
    let server = Server::start(Limits::default());
    let mut dice = Dice::new(1);
    let mut next = || dice.number();
    for round in 0..300 {
        let mut stream = server.control();
        let mut bytes: Vec<u8> = (0..next() % 200).map(|_| next() as u8).collect();
        match round % 4 {
            // A frame that is as long as it says, with anything in it.
            0 => bytes
                .splice(..0, (bytes.len() as u32).to_le_bytes())
                .for_each(drop),
            // A good frame with one byte changed.
            1 => {
                bytes = encode_ask(&Ask::UpdateTable("aliases".into()));
                let at = next() as usize % bytes.len();
                bytes[at] ^= (next() as u8).max(1);
            }
            // A frame that ends early.
            2 => {
                bytes = encode_ask(&Ask::Status);
                bytes.truncate(next() as usize % bytes.len());
            }
            _ => {}
        }
        // The server may have hung up before it has read all.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    let mut stream = server.control();
    assert_eq!(ask(&mut stream, &Ask::Status), Some(Answer::Count(7)));
    let mut long = server.control();
    long.write_all(&u32::MAX.to_le_bytes()).unwrap();
    assert!(matches!(answer(&mut long), Some(Answer::Fail(_))));
    assert_eq!(answer(&mut long), None);
}

#[test]
fn a_frame_that_is_never_finished_times_out() {
    // OpenSMTPD 5.7.2 ended a flood of half messages by local users: none is held for ever.
    let server = Server::start(Limits {
        frame: Duration::from_millis(100),
        ..Limits::default()
    });
    let mut stream = server.control();
    stream.write_all(&encode_ask(&Ask::Status)[..5]).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_byte_now_and_then_does_not_keep_a_frame_open() {
    // CVE-2025-62875, and its kin: what counts is a frame that ends, not that something moves.
    let server = Server::start(Limits {
        frame: Duration::from_millis(300),
        ..Limits::default()
    });
    let mut stream = server.control();
    stream.write_all(&60_000_u32.to_le_bytes()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(10)))
        .unwrap();
    let closed = (0..1000).any(|_| {
        let sent = stream.write_all(b"x");
        sent.is_err() || matches!(stream.read(&mut [0]), Ok(0))
    });
    assert!(closed);
}

#[test]
fn one_user_gets_32_control_connections() {
    // OpenSMTPD gives each uid 32 connections at a time; so do we.
    let server = Server::start(Limits::default());
    let mut held: Vec<UnixStream> = (0..32).map(|_| server.control()).collect();
    for stream in &mut held {
        assert_eq!(ask(stream, &Ask::Status), Some(Answer::Count(7)));
    }
    let mut excess = server.control();
    let _ = excess.write_all(&encode_ask(&Ask::Status));
    assert_eq!(answer(&mut excess), None);
    held.pop();
    until("a place is free", || {
        let mut stream = server.control();
        let _ = stream.write_all(&encode_ask(&Ask::Status));
        answer(&mut stream) == Some(Answer::Count(7))
    });
}

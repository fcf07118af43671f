//! In what pieces a message leaves, and how long a server may take for them.

use std::io::IoSlice;

use super::*;

/// A connection that takes so many bytes in one call, and notes what it was offered, and until when.
struct Watched {
    socket: Socket,
    at_once: usize,
    deadline: Instant,
    offered: mpsc::Sender<(usize, Instant)>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.offered.send((bytes.len(), self.deadline));
        let some = &bytes[..bytes.len().min(self.at_once)];
        self.socket.write_all(some).map(|()| some.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl Stream for Watched {
    fn set_deadline(&mut self, at: Instant) {
        self.deadline = at;
        self.socket.set_deadline(at);
    }

    fn is_silent(&self) -> bool {
        self.socket.is_silent()
    }

    fn has_written_all(&self) -> bool {
        self.socket.has_written_all()
    }
}

/// What the connection to a server is offered, and until when, of a message of 4 MiB.
fn offered(at_once: usize, timeouts: Timeouts) -> Vec<(usize, Instant)> {
    let server = |mut peer: Peer| {
        peer.greet();
        peer.serve(&[
            ("MAIL", "250 Ok\r\n"),
            ("RCPT", "250 Ok\r\n"),
            ("DATA", "354 go\r\n"),
        ]);
        peer.message();
        peer.say("250 2.0.0 Ok\r\n");
    };
    let (offered, seen) = mpsc::channel();
    let stream = Watched {
        socket: connect(server),
        at_once,
        deadline: Instant::now(),
        offered,
    };
    let mut session = Session::open(Box::new(stream), opening(timeouts)).unwrap();
    let large = || Ok(io::repeat(b'x').take(4 << 20));
    let transacted = session.transaction(&message(&large), recipients(1));
    assert_eq!(only(&transacted).0, Verdict::Delivered);
    drop(session);
    seen.into_iter().collect()
}

#[test]
fn a_server_that_takes_what_it_is_sent_gets_larger_blocks_and_no_other() {
    // The promise of `client`: memory is bounded whatever the server does.
    let largest = |at_once| {
        let offered = offered(at_once, Timeouts::default());
        offered.into_iter().map(|(bytes, _)| bytes).max().unwrap()
    };
    const MIB: usize = 1 << 20;
    assert!((MIB..MIB + MIB / 8).contains(&largest(usize::MAX)));
    assert!(largest(60_000) < MIB / 8);
}

#[test]
fn a_server_that_takes_a_block_in_parts_has_its_time_for_each_but_not_for_ever() {
    // RFC 5321 §4.5.3.2.5: the time is for each call that sends something.
    let long = Duration::from_secs(600);
    let timeouts = |block, dot| Timeouts {
        block,
        dot,
        ..Timeouts::default()
    };
    let seen = offered(1000, timeouts(long, long * 2));
    let parts = |two: &[(usize, Instant)]| two[1].0 + 1000 == two[0].0 && two[1].1 > two[0].1;
    let later = seen.windows(2).filter(|two| parts(two)).count();
    assert!(later > 4000, "{later}");
    let seen = offered(1000, timeouts(long * 2, long));
    let end = Instant::now() + long;
    // The commands before it have their own.
    let (_, last) = seen.last().unwrap();
    assert!(*last <= end);
}

#[test]
fn the_records_of_a_block_leave_together() {
    // RFC 8446 §5.1: a record has at most 16 KiB, so a block over TLS is many of them.
    let mut socket = connect(|mut peer| assert_eq!(peer.hear(), "one two"));
    socket.set_deadline(Instant::now() + Duration::from_secs(120));
    let records = [IoSlice::new(b"one "), IoSlice::new(b"two\r\n")];
    assert_eq!(socket.write_vectored(&records).unwrap(), 9);
}

/// A connection that breaks behind the end of the second message: what follows it in the same write
/// does not go out.
struct Cut {
    socket: Socket,
    ends: usize,
    is_broken: bool,
    /// As TLS does it, it takes all, passes nothing on, and tells of it at the next call.
    keeps_all: bool,
}

impl Cut {
    fn new(socket: Socket, keeps_all: bool) -> Cut {
        Cut {
            socket,
            ends: 0,
            is_broken: false,
            keeps_all,
        }
    }

    fn broken(&self) -> io::Error {
        // What the server has to say is there by then.
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.socket.is_silent() && Instant::now() < deadline {
            thread::yield_now();
        }
        io::ErrorKind::BrokenPipe.into()
    }
}

impl Read for Cut {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const END: &[u8] = b"\r\n.\r\n";
        if self.is_broken {
            return Err(self.broken());
        }
        let end = bytes.windows(END.len()).position(|part| part == END);
        self.ends += usize::from(end.is_some());
        let some = match end {
            Some(at) if self.ends == 2 => {
                self.is_broken = true;
                if self.keeps_all {
                    return Ok(bytes.len());
                }
                &bytes[..at + END.len()]
            }
            _ => bytes,
        };
        self.socket.write_all(some).map(|()| some.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.is_broken && self.keeps_all {
            true => Err(self.broken()),
            false => self.socket.flush(),
        }
    }
}

impl Stream for Cut {
    fn set_deadline(&mut self, at: Instant) {
        self.socket.set_deadline(at);
    }

    fn is_silent(&self) -> bool {
        self.socket.is_silent()
    }

    fn has_written_all(&self) -> bool {
        !(self.is_broken && self.keeps_all)
    }
}

#[test]
fn a_message_that_was_taken_is_not_sent_again_because_what_followed_it_broke() {
    // RFC 5321 §4.2.5: with 250 to the dot the message is the server's.
    for (reply, verdict) in [
        ("250 2.0.0 Ok\r\n", Verdict::Delivered),
        ("554 5.7.1 no\r\n", Verdict::PermFail),
    ] {
        let server = move |mut peer: Peer| {
            peer.greet();
            for reply in ["250 2.0.0 Ok\r\n", reply] {
                peer.serve(&[
                    ("MAIL", "250 Ok\r\n"),
                    ("RCPT", "250 Ok\r\n"),
                    ("DATA", "354 go\r\n"),
                ]);
                peer.message();
                peer.say(reply);
            }
            peer.hear();
        };
        let stream = Cut::new(connect(server), false);
        let opening = opening(Timeouts::default());
        let mut session = Session::open(Box::new(stream), opening).unwrap();
        let message = message(&text);
        let first = session.transaction(&message, recipients(1));
        assert_eq!(only(&first).0, Verdict::Delivered);
        let second = session.transaction_with(&message, recipients(1), Some(&mut After(true)));
        assert_eq!(only(&second).0, verdict);
        assert!(session.is_under_way());
        let third = session.transaction(&message, recipients(1));
        assert_eq!((third.settled.len(), third.untried.len()), (0, 1));
        assert!(!session.can_take_more());
    }
}

#[test]
fn a_message_that_did_not_leave_was_not_taken_whatever_the_server_says() {
    // RFC 8446 has no say in when records leave: TLS holds what the connection did not take.
    let server = |mut peer: Peer| {
        peer.greet();
        let commands = [
            ("MAIL", "250 Ok\r\n"),
            ("RCPT", "250 Ok\r\n"),
            ("DATA", "354 go\r\n"),
        ];
        peer.serve(&commands);
        peer.message();
        peer.say("250 2.0.0 Ok\r\n");
        peer.serve(&commands);
        // Without having heard the message.
        peer.say("250 2.0.0 Ok\r\n");
        peer.hear();
    };
    let stream = Cut::new(connect(server), true);
    let mut session = Session::open(Box::new(stream), opening(Timeouts::default())).unwrap();
    let message = message(&text);
    let first = session.transaction(&message, recipients(1));
    assert_eq!(only(&first).0, Verdict::Delivered);
    let second = session.transaction_with(&message, recipients(1), Some(&mut After(true)));
    assert_eq!(only(&second).0, Verdict::TempFail);
}

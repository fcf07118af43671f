//! Round trips, mutations and garbage.

use std::net::IpAddr;

use crate::mail::{MailAddr, MsgId, Peer};
use crate::util::Line;
use crate::util::dice::Dice;

use super::*;

/// Requests and answers by chance.
struct Chance(Dice);

impl Chance {
    fn new(seed: u64) -> Chance {
        Chance(Dice::new(seed))
    }

    fn next(&mut self) -> u64 {
        self.0.number()
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    fn msgid(&mut self) -> MsgId {
        MsgId::new(self.next() as u32 | 1).unwrap()
    }

    fn evpid(&mut self) -> EvpId {
        EvpId::new(self.msgid(), self.next() as u32 | 1).unwrap()
    }

    fn which(&mut self) -> Which {
        match self.below(3) {
            0 => Which::All,
            1 => Which::Message(self.msgid()),
            _ => Which::Envelope(self.evpid()),
        }
    }

    fn text(&mut self, longest: u64) -> String {
        let length = self.below(longest + 1);
        (0..length)
            .map(|_| ['a', '|', '@', 'é', '~', ' ', '\u{1f4e7}'][self.below(7) as usize])
            .collect()
    }

    fn ask(&mut self) -> Ask {
        match self.below(20) {
            0 => Ask::Submit,
            1 => Ask::Schedule(self.which()),
            2 => Ask::Remove(self.which()),
            3 => Ask::Suspend(self.which()),
            4 => Ask::Resume(self.which()),
            5 => Ask::Discover(self.which()),
            6 => Ask::Pause(
                [Subsystem::Mda, Subsystem::Mta, Subsystem::Smtp][self.below(3) as usize],
                self.flag(),
            ),
            7 => Ask::Verbose(self.flag()),
            8 => Ask::List {
                after: self.flag().then(|| self.evpid()),
                only: self.flag().then(|| self.msgid()),
            },
            9 => Ask::Stats,
            10 => Ask::Status,
            11 => Ask::Explain(Box::new(self.supposed())),
            12 => Ask::Trace(format!("t{}", self.text(20)), self.flag()),
            13 => Ask::Relaying(
                [
                    Listing::Hosts,
                    Listing::HostStats,
                    Listing::Blocks,
                    Listing::Relays,
                    Listing::Routes,
                    Listing::Filters,
                ][self.below(6) as usize],
                self.next() as u32,
            ),
            14 => Ask::ResumeRoute(self.next()),
            15 => Ask::Block(Block {
                source: if self.flag() {
                    IpAddr::from((self.next() as u32).to_be_bytes())
                } else {
                    IpAddr::from((u128::from(self.next()) << 64).to_be_bytes())
                },
                domain: format!("d{}", self.text(20)),
                on: self.flag(),
            }),
            16 => Ask::Requeue(
                (0..self.below(3)).map(|_| self.evpid()).collect(),
                Change {
                    sender: self.flag().then(|| MailAddr::new("a", "x.org").unwrap()),
                    rcpt: self
                        .flag()
                        .then(|| MailAddr::new(&self.text(9), "").unwrap()),
                },
            ),
            17 => {
                let whom = format!("w{}", self.text(20));
                let whom = match self.below(3) {
                    0 => TraceOf::From(whom),
                    1 => TraceOf::To(whom),
                    _ => TraceOf::Tag(whom),
                };
                Ask::TraceOf(format!("t{}", self.text(20)), whom)
            }
            18 => Ask::Profile(format!("p{}", self.text(20)), self.flag()),
            _ => Ask::UpdateTable(format!("t{}", self.text(20))),
        }
    }

    fn supposed(&mut self) -> Supposed {
        let mut line = || {
            let some = self.flag();
            some.then(|| Line::new(&self.text(20)).unwrap())
        };
        Supposed {
            sender: line(),
            rcpt: line(),
            rdns: line(),
            helo: line(),
            username: line(),
            tag: line(),
            peer: Peer::parse(
                ["local", "192.0.2.1", "[fe80::1%lo]", "none"][self.below(4) as usize],
            ),
            tls: self.flag(),
        }
    }

    fn answer(&mut self) -> Answer {
        match self.below(9) {
            0 => Answer::Ok,
            8 => Answer::Requeued(
                self.next() as u32,
                (0..self.below(3)).map(|_| self.text(40)).collect(),
            ),
            5 => Answer::Text(self.text(300)),
            1 => Answer::Fail(self.text(40)),
            2 => Answer::Count(self.next() as u32),
            3 => Answer::Envelopes(
                (0..self.below(5))
                    .map(|_| Listed {
                        id: self.evpid(),
                        text: self.text(200),
                        action: self.text(20),
                        remote: self.text(20),
                    })
                    .collect(),
            ),
            4 => Answer::Stats(
                (0..self.below(5))
                    .map(|_| (self.text(20), self.next() as i64))
                    .collect(),
            ),
            6 => Answer::Lines((0..self.below(5)).map(|_| self.text(200)).collect()),
            _ => Answer::Status {
                mda: self.flag(),
                mta: self.flag(),
                smtp: self.flag(),
                notes: (0..self.below(3)).map(|_| self.text(20)).collect(),
            },
        }
    }
}

fn body(frame: &[u8]) -> &[u8] {
    let (head, body) = frame.split_first_chunk::<4>().unwrap();
    assert_eq!(frame_length(*head), Ok(body.len()));
    body
}

fn encoded(answer: &Answer) -> Vec<u8> {
    let mut out = Vec::new();
    encode_answer(answer, &mut out);
    out
}

#[test]
fn what_is_encoded_decodes_to_itself() {
    let mut chance = Chance::new(0x5eed_0001);
    for _ in 0..5000 {
        let ask = chance.ask();
        assert_eq!(decode_ask(body(&encode_ask(&ask))), Ok(ask));
        let answer = chance.answer();
        assert_eq!(decode_answer(body(&encoded(&answer))), Ok(answer));
    }
}

#[test]
fn what_decodes_is_encoded_to_the_same_bytes_so_no_two_frames_mean_the_same() {
    let mut chance = Chance::new(0x5eed_0002);
    for _ in 0..20000 {
        let mut frame = encode_ask(&chance.ask());
        let at = 4 + chance.below(frame.len() as u64 - 4) as usize;
        frame[at] ^= 1 << chance.below(8);
        if let Ok(ask) = decode_ask(&frame[4..]) {
            assert_eq!(encode_ask(&ask), frame);
        }
        let mut frame = encoded(&chance.answer());
        let at = 4 + chance.below(frame.len() as u64 - 4) as usize;
        frame[at] ^= 1 << chance.below(8);
        if let Ok(answer) = decode_answer(&frame[4..]) {
            assert_eq!(encoded(&answer), frame);
        }
    }
}

#[test]
fn every_cut_and_every_addition_is_refused() {
    let mut chance = Chance::new(0x5eed_0003);
    for _ in 0..300 {
        let frame = encode_ask(&chance.ask());
        for end in 4..frame.len() {
            assert!(
                decode_ask(&frame[4..end]).is_err(),
                "{frame:?} cut at {end}"
            );
        }
        let longer = [&frame[4..], &[0]].concat();
        assert_eq!(decode_ask(&longer), Err(BadFrame::Trailing));
        let frame = encoded(&chance.answer());
        for end in 4..frame.len() {
            assert!(decode_answer(&frame[4..end]).is_err());
        }
    }
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let mut chance = Chance::new(0x5eed_0004);
    for _ in 0..20000 {
        let length = chance.below(64) as usize;
        let mut garbage: Vec<u8> = (0..length).map(|_| chance.next() as u8).collect();
        let _ = decode_ask(&garbage);
        let _ = decode_answer(&garbage);
        if let Some(first) = garbage.first_mut() {
            *first = VERSION;
        }
        let _ = decode_ask(&garbage);
        let _ = decode_answer(&garbage);
    }
    // A count of four thousand millions allocates nothing for what is not there.
    let lie = [VERSION, 132, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(decode_answer(&lie), Err(BadFrame::Short));
    let lie = [VERSION, 12, 0xff, 0xff, 0xff, 0xff, b'a'];
    assert_eq!(decode_ask(&lie), Err(BadFrame::Short));
}

#[test]
fn lengths_and_versions_are_checked_first() {
    assert_eq!(frame_length([0, 0, 0, 0]), Err(BadFrame::Short));
    assert_eq!(frame_length([1, 0, 0, 0]), Err(BadFrame::Short));
    assert_eq!(frame_length([2, 0, 0, 0]), Ok(2));
    assert_eq!(
        frame_length((MAX_FRAME as u32).to_le_bytes()),
        Ok(MAX_FRAME)
    );
    assert_eq!(
        frame_length((MAX_FRAME as u32 + 1).to_le_bytes()),
        Err(BadFrame::TooLong)
    );
    assert_eq!(frame_length([0xff; 4]), Err(BadFrame::TooLong));
    assert_eq!(
        decode_ask(&vec![VERSION; MAX_FRAME + 1]),
        Err(BadFrame::TooLong)
    );
    assert_eq!(
        decode_ask(&[VERSION + 1, 10]),
        Err(BadFrame::Version(VERSION + 1))
    );
    assert_eq!(decode_ask(&[VERSION, 0]), Err(BadFrame::Kind(0)));
    // A table name goes into log lines.
    for name in ["", "a\nb", "a\0b", "a\x1b[m"] {
        let frame = encode_ask(&Ask::UpdateTable(name.to_owned()));
        assert_eq!(decode_ask(&frame[4..]), Err(BadFrame::Value), "{name:?}");
    }
}

#[test]
fn an_answer_that_would_not_fit_is_shortened_and_still_decodes() {
    let mut chance = Chance::new(0x5eed_0005);
    let list: Vec<Listed> = (0..300)
        .map(|_| Listed {
            id: chance.evpid(),
            text: "x".repeat(2000),
            action: String::new(),
            remote: String::new(),
        })
        .collect();
    let frame = encoded(&Answer::Envelopes(list.clone()));
    assert!(frame.len() <= MAX_FRAME + 4);
    let Ok(Answer::Envelopes(got)) = decode_answer(body(&frame)) else {
        panic!("no list");
    };
    assert!(got.len() > 100 && got.len() < 300);
    assert_eq!(got[..], list[..got.len()]);

    let huge = vec![Listed {
        id: chance.evpid(),
        text: "é".repeat(MAX_FRAME),
        action: String::new(),
        remote: String::new(),
    }];
    let Ok(Answer::Envelopes(got)) = decode_answer(body(&encoded(&Answer::Envelopes(huge)))) else {
        panic!("no list");
    };
    assert_eq!(got.len(), 1);
    let frame = encoded(&Answer::Fail("é".repeat(MAX_FRAME)));
    assert!(
        matches!(decode_answer(body(&frame)), Ok(Answer::Fail(text)) if text.len() <= 16 * 1024)
    );
}

use crate::mail::{Command, MailAddr};
use crate::util::Line;
use crate::util::Secret;
use crate::util::dice::Dice;

use super::*;

/// Requests and replies by chance.
pub(crate) struct Chance(Dice);

impl Chance {
    pub(crate) fn new(seed: u64) -> Chance {
        Chance(Dice::new(seed))
    }

    fn next(&mut self) -> u64 {
        self.0.number()
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0.roll(n)
    }

    pub(crate) fn line(&mut self) -> Line {
        let bytes: Vec<u8> = (0..self.below(40)).map(|_| self.next() as u8).collect();
        Line::sanitize(&bytes)
    }

    fn addr(&mut self) -> MailAddr {
        MailAddr::new(&self.line(), &self.line()).unwrap()
    }

    pub(crate) fn job(&mut self) -> MdaJob {
        MdaJob {
            action: self.line(),
            user: self.line(),
            task: match self.below(4) {
                0 => MdaTask::Batch,
                1 => MdaTask::Connection,
                _ => MdaTask::Single(Box::new(self.single())),
            },
        }
    }

    fn single(&mut self) -> Single {
        Single {
            subaddress: (self.below(2) == 0).then(|| self.line()),
            command: match self.below(3) {
                0 => None,
                1 => Some(Command::Pipe(self.line())),
                _ => Some(Command::File(self.line())),
            },
            sender: self.addr(),
            rcpt: self.addr(),
            dest: self.addr(),
        }
    }

    fn request(&mut self) -> Request {
        match self.below(10) {
            0 => Request::StartMda {
                id: self.next() as u32,
                job: self.job(),
            },
            1 => Request::KillMda {
                id: self.next() as u32,
            },
            2 => Request::Set {
                what: match self.below(4) {
                    0 => Setting::Verbose,
                    1 => Setting::PauseMda,
                    2 => Setting::PauseMta,
                    _ => Setting::PauseSmtp,
                },
                on: self.below(2) == 0,
            },
            3 => Request::Ready,
            4 => Request::OpenForward {
                id: self.next() as u32,
                action: self.line(),
                user: self.line(),
            },
            5 => Request::UpdateTable { table: self.line() },
            6 => Request::CheckPassword {
                id: self.next() as u32,
                user: self.line(),
                password: Secret::new(self.line()),
            },
            7 => Request::StartHelper {
                id: self.next() as u32,
                helper: match self.below(2) {
                    0 => Helper::Table(self.line()),
                    _ => Helper::Proc(self.line()),
                },
            },
            8 => Request::KillHelper {
                id: self.next() as u32,
            },
            _ => Request::Finished,
        }
    }

    fn end(&mut self) -> MdaEnd {
        match self.below(3) {
            0 => MdaEnd::Exited(self.next() as i32),
            1 => MdaEnd::Signaled(self.next() as i32),
            _ => MdaEnd::TimedOut,
        }
    }

    fn reply(&mut self) -> Reply {
        match self.below(14) {
            0 => Reply::Config,
            1 => Reply::Listener {
                index: self.next() as u32,
            },
            2 => Reply::Control,
            3 => Reply::Start {
                verbose: self.below(2) == 0,
                pause_mda: self.below(2) == 0,
                pause_mta: self.below(2) == 0,
                pause_smtp: self.below(2) == 0,
                run_once: self.below(2) == 0,
            },
            4 => Reply::MdaRefused {
                id: self.next() as u32,
                why: match self.below(3) {
                    0 => MdaRefusal::NoUser,
                    1 => MdaRefusal::NoLookup,
                    _ => MdaRefusal::Exit {
                        code: self.next() as i32,
                        text: self.line(),
                    },
                },
            },
            5 => Reply::MdaDone {
                id: self.next() as u32,
                end: self.end(),
            },
            6 => Reply::Forward {
                id: self.next() as u32,
                found: match self.below(5) {
                    0 => ForwardFound::Absent { home: None },
                    1 => ForwardFound::Absent {
                        home: Some(HomeState::Missing),
                    },
                    2 => ForwardFound::Absent {
                        home: Some(HomeState::Is {
                            device: self.next(),
                            inode: self.next(),
                            changed: (self.next() as i64, self.next() as i64),
                        }),
                    },
                    3 => ForwardFound::Opened,
                    _ => ForwardFound::Unusable { text: self.line() },
                },
            },
            7 => Reply::QueueKey(Secret::new(self.line())),
            8 => Reply::Keys,
            9 => Reply::Password {
                id: self.next() as u32,
                verdict: match self.below(3) {
                    0 => PasswordVerdict::Right,
                    1 => PasswordVerdict::Wrong,
                    _ => PasswordVerdict::Unknown { text: self.line() },
                },
            },
            10 => Reply::HelperStarted {
                id: self.next() as u32,
                pid: self.next() as u32,
            },
            11 => Reply::HelperRefused {
                id: self.next() as u32,
                text: self.line(),
            },
            12 => Reply::HelperEnded {
                id: self.next() as u32,
                end: self.end(),
            },
            _ => Reply::Shutdown,
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut chance = Chance::new(1);
    for _ in 0..2000 {
        let (request, reply) = (chance.request(), chance.reply());
        assert_eq!(Request::decode(&request.encode().unwrap()), Ok(request));
        assert_eq!(Reply::decode(&reply.encode().unwrap()), Ok(reply));
    }
}

#[test]
fn a_byte_too_many_or_too_few_is_malformed() {
    let mut chance = Chance::new(2);
    for _ in 0..200 {
        let (request, reply) = (
            chance.request().encode().unwrap(),
            chance.reply().encode().unwrap(),
        );
        for cut in 0..request.len() {
            assert_eq!(Request::decode(&request[..cut]), Err(Malformed));
        }
        for cut in 0..reply.len() {
            assert_eq!(Reply::decode(&reply[..cut]), Err(Malformed));
        }
        // Also when the length admits to the surplus.
        let mut longer = [request.as_slice(), &[0]].concat();
        assert_eq!(Request::decode(&longer), Err(Malformed));
        let length = longer.len() as u32 - 4;
        longer[..4].copy_from_slice(&length.to_le_bytes());
        assert_eq!(Request::decode(&longer), Err(Malformed));
    }
}

#[test]
fn garbage_is_refused_and_what_is_taken_is_written_the_same() {
    let mut chance = Chance::new(3);
    for _ in 0..20000 {
        let mut frame = chance.request().encode().unwrap();
        for _ in 0..=chance.below(3) {
            let at = chance.below(frame.len());
            frame[at] = chance.next() as u8;
        }
        // Two forms of the same request would be two ways past a check.
        if let Ok(request) = Request::decode(&frame) {
            assert_eq!(request.encode().unwrap(), frame);
        }
        if let Ok(reply) = Reply::decode(&frame) {
            assert_eq!(reply.encode().unwrap(), frame);
        }
    }
}

#[test]
fn a_second_line_cannot_be_smuggled_in() {
    // CVE-2020-8794 was a line too many: a stranger's text never adds one to what we write.
    let mut w = Writer::frame(VERSION);
    w.u8(5);
    w.u32(1);
    w.u8(3);
    w.i32(75);
    w.text("one\ntwo");
    assert_eq!(Reply::decode(&w.into_frame()), Err(Malformed));
}

#[test]
fn what_does_not_fit_is_told_when_written() {
    let mut job = Chance::new(4).job();
    job.action = Line::new(&"x".repeat(MAX_FRAME)).unwrap();
    assert_eq!(Request::StartMda { id: 1, job }.encode(), Err(TooLong));
}

//! Bounces: the agent whose destination is our own front door.
//!
//! A bounce envelope lies beside the envelopes of the message that it tells of. [`BounceAgent`]
//! gathers those of one message for a second ([`collect`]), writes one RFC 3464 report for them
//! ([`report`]) and brings it in as new mail with a null sender ([`Inject`]), under the rules that
//! hold for a local user. It blocks on the disk, on a thread of its own, `bounce`.
//!
//! Promises: a bounce envelope is reported delivered only after the report is durable. A refusal
//! for good loses the report, with a line in the log; every other trouble is a temporary failure
//! and the scheduler brings the envelope again. A report never causes another report: its sender
//! is null.

#![forbid(unsafe_code)]

pub mod collect;
mod excerpt;
pub mod front_door;
pub mod report;
#[cfg(test)]
mod tests;

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::deliver::{Agent, HoldKey, Offer, Release, Report, Reports};
use crate::log::{self, Trace, stat};
use crate::mail::{Envelope, EvpId, MailAddr, MsgId, Outcome, Refusal, Status};
use crate::queue::Queue;
use crate::util::{Line, Timestamp};

pub use excerpt::excerpt;

use collect::{Collector, Group};
use report::DateText;

/// A report, ready to enter the queue.
#[derive(Debug)]
pub struct Dsn {
    /// The name under which the original message was received.
    pub smtpname: Line,
    /// Who gets it: the sender of the original.
    pub to: MailAddr,
    /// One of the bounce envelopes it answers; names the injection in the log.
    pub about: EvpId,
    /// Header and body, LF line ends.
    pub text: Vec<u8>,
}

/// The door through which reports become mail.
pub trait Inject: Send {
    /// Makes the report durable as a new message, or says why not.
    fn inject(&self, dsn: &Dsn, now: Timestamp) -> Result<MsgId, Refusal>;
}

/// What the agent is made of.
pub struct Setup {
    /// Where the original messages are.
    pub queue: Queue,
    /// The door.
    pub inject: Box<dyn Inject>,
    /// Where outcomes go.
    pub reports: Reports,
    /// Writes the date of a header field (RFC 5322 §3.3).
    pub date: DateText,
}

/// The agent of bounce envelopes, as the runner sees it.
pub struct BounceAgent {
    door: Option<Sender<Envelope>>,
    thread: Option<JoinHandle<()>>,
    waiting: usize,
    holding: bool,
}

/// Envelopes that may wait; further ones are held.
const HIGH_WATER: usize = 1000;
/// Envelopes waiting at which held ones may follow.
const LOW_WATER: usize = 500;
/// All bounces wait together.
const HOLD_KEY: HoldKey = HoldKey(0);

impl BounceAgent {
    /// Starts the thread `bounce`. It ends when the agent is dropped; what it has not done then is
    /// still in the queue.
    pub fn start(setup: Setup) -> io::Result<BounceAgent> {
        let (door, inbox) = bounded(HIGH_WATER);
        let thread = std::thread::Builder::new()
            .name("bounce".to_owned())
            .spawn(move || run(&setup, &inbox))?;
        Ok(BounceAgent {
            door: Some(door),
            thread: Some(thread),
            waiting: 0,
            holding: false,
        })
    }
}

impl Agent for BounceAgent {
    fn offer(&mut self, envelope: Envelope) -> Offer {
        let sent = match &self.door {
            Some(door) if self.waiting < HIGH_WATER => door.try_send(envelope).is_ok(),
            _ => false,
        };
        if !sent {
            self.holding = true;
            return Offer::Hold(HOLD_KEY);
        }
        self.waiting += 1;
        stat::BOUNCE_ENVELOPE.set(self.waiting as i64);
        Offer::Taken
    }

    fn finished(&mut self, _id: EvpId) -> Vec<Release> {
        self.waiting = self.waiting.saturating_sub(1);
        stat::BOUNCE_ENVELOPE.set(self.waiting as i64);
        if !self.holding || self.waiting > LOW_WATER {
            return Vec::new();
        }
        self.holding = false;
        vec![Release {
            key: HOLD_KEY,
            count: usize::MAX,
        }]
    }
}

impl Drop for BounceAgent {
    fn drop(&mut self) {
        self.door = None;
        if let Some(thread) = self.thread.take() {
            // A panic aborts the process, so there is nothing to learn here.
            let _ = thread.join();
        }
    }
}

fn run(setup: &Setup, inbox: &Receiver<Envelope>) {
    let start = Instant::now();
    let clock_ms = || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut collector = Collector::default();
    loop {
        let wait = collector.next_event().map_or(Duration::MAX, |at| {
            Duration::from_millis(at.saturating_sub(clock_ms()))
        });
        match inbox.recv_timeout(wait.min(Duration::from_secs(60))) {
            Ok(envelope) => collector.add(envelope, clock_ms()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while let Some(group) = collector.ready(clock_ms()) {
            stat::BOUNCE_MESSAGE.set(collector.groups() as i64);
            let outcome = settle(setup, &group, Timestamp::now());
            for envelope in &group.envelopes {
                // The runner may be gone; the envelopes are still in the queue then.
                let _ = setup
                    .reports
                    .send(Report::Done(envelope.id, outcome.clone()));
            }
        }
        stat::BOUNCE_MESSAGE.set(collector.groups() as i64);
    }
}

/// One report: what became of it is the outcome of all envelopes of the group.
fn settle(setup: &Setup, group: &Group, now: Timestamp) -> Outcome {
    let Some(first) = group.envelopes.first() else {
        return Outcome::delivered();
    };
    let original = match excerpt::read(&setup.queue, first) {
        Ok(original) => original,
        Err(error) => {
            let why = format!("Could not open message: {error}");
            return undone(group, first, &Refusal::new(451, &why));
        }
    };
    let dsn = Dsn {
        smtpname: first.smtpname.clone(),
        to: first.sender.clone(),
        about: first.id,
        text: report::compose(&group.envelopes, original.as_ref(), now, setup.date),
    };
    log::trace(
        Trace::Bounce,
        format_args!(
            "bounce: message {}: reporting {} envelopes to <{}>",
            first.id.msgid(),
            group.envelopes.len(),
            first.sender
        ),
    );
    stat::BOUNCE_SESSION.inc();
    let injected = setup.inject.inject(&dsn, now);
    stat::BOUNCE_SESSION.dec();
    match injected {
        Ok(msgid) => {
            log::trace(
                Trace::Bounce,
                format_args!("bounce: message {}: reported as {msgid}", first.id.msgid()),
            );
            Outcome::delivered()
        }
        Err(refusal) => undone(group, first, &refusal),
    }
}

fn undone(group: &Group, first: &Envelope, refusal: &Refusal) -> Outcome {
    let temporary = refusal.is_temporary();
    let count = group.envelopes.len();
    log::warn(format_args!(
        "{} injecting failure report on message {} to <{}> for {count} envelope{}: {} {}",
        if temporary { "TempFail" } else { "PermFail" },
        first.id.msgid(),
        first.sender,
        if count == 1 { "" } else { "s" },
        refusal.code,
        refusal.text,
    ));
    let text = Line::sanitize(format!("{} {}", refusal.code, refusal.text).as_bytes());
    if temporary {
        Outcome::temp(Status::new(4, 0, 0), text)
    } else {
        Outcome::perm(Status::new(5, 0, 0), text)
    }
}

//! From an outcome to the disk, in the order that a crash cannot hurt. The only deleter.
//!
//! A failed envelope is removed only after the bounce that tells of it is durable; where that
//! bounce cannot be stored, nothing is removed and the settling is tried again. A temporary
//! failure is written down before the envelope is timed anew. A crash between two steps means
//! that a report is sent twice or an envelope tried once more, never that either is lost.
//!
//! What is told to whom follows RFC 3461 §4.1 and §5.2: NOTIFY, where given, decides alone; without
//! it failures and delays are reported and successes are not.
//!
//! This blocks on the disk. It knows nothing of the scheduler: the runner carries the answer there.

use std::fmt::Arguments;
use std::io;

use crate::log::{self, maillog, stat};
use crate::mail::{
    BounceKind, DsnOffer, Envelope, EvpId, Kind, Notify, Outcome, Past, Status, Verdict,
};
use crate::queue::envelope_file::MAX_ERRORLINE_BYTES;
use crate::queue::{LoadError, Queue, is_shortage};
use crate::scheduler::backoff;
use crate::util::{Line, Live, Timestamp};

use super::Policy;

/// Why an envelope is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An agent's attempt.
    Tried(Outcome),
    /// Its life time is over.
    Expired,
    /// The administrator removed it.
    Removed,
    /// Everything is reported; only the removal is left.
    Finish,
}

/// What settling came to.
#[derive(Debug)]
pub enum Settled {
    /// The envelope is gone from the disk; these reports were added.
    Gone {
        /// Durable bounce envelopes.
        reports: Vec<Envelope>,
    },
    /// The envelope stays for another attempt; these reports were added.
    Again {
        /// As it is on the disk now.
        envelope: Box<Envelope>,
        /// Durable bounce envelopes.
        reports: Vec<Envelope>,
    },
    /// The disk refused: the envelope is still there, to be settled later as `cause` says.
    Stuck {
        envelope: Box<Envelope>,
        /// What is left to do.
        cause: Cause,
        /// Durable bounce envelopes.
        reports: Vec<Envelope>,
    },
}

/// Settles envelopes on the disk.
#[derive(Clone)]
pub struct Settler {
    queue: Queue,
    policy: Live<Policy>,
}

impl Settler {
    /// A settler for this queue.
    pub fn new(queue: Queue, policy: Live<Policy>) -> Settler {
        Settler { queue, policy }
    }

    /// Carries `cause` out on the disk.
    pub fn settle(&self, envelope: Box<Envelope>, cause: Cause, now: Timestamp) -> Settled {
        match cause {
            Cause::Tried(outcome) => match outcome.verdict {
                Verdict::Delivered => self.delivered(envelope, &outcome, now),
                Verdict::TempFail => self.failed_for_now(envelope, outcome, now),
                Verdict::PermFail | Verdict::Loop => {
                    let told = with_failure(&envelope, &outcome, now);
                    self.failed_for_good(envelope, told, Cause::Tried(outcome), now)
                }
            },
            Cause::Expired => {
                let told = expired(&envelope);
                self.failed_for_good(envelope, told, Cause::Expired, now)
            }
            Cause::Removed => self.remove(envelope, Cause::Removed, Vec::new(), now),
            Cause::Finish => self.remove(envelope, Cause::Finish, Vec::new(), now),
        }
    }

    fn delivered(&self, envelope: Box<Envelope>, outcome: &Outcome, now: Timestamp) -> Settled {
        let mut reports = Vec::new();
        if wants(&envelope, Notify::SUCCESS)
            && let Some(relayed) = ours_to_tell(&envelope, outcome)
        {
            let told = Envelope {
                status: Some(Status::new(2, 0, 0)),
                errorline: None,
                past: by(outcome),
                last_try: now,
                ..(*envelope).clone()
            };
            // The delivery has happened: without the report it must still not happen again.
            match self.add_report(&told, BounceKind::Delivered { relayed }, now) {
                Ok(report) => reports.push(report),
                Err(error) => cannot_bounce(envelope.id, &error),
            }
        }
        self.remove(envelope, Cause::Finish, reports, now)
    }

    fn failed_for_now(
        &self,
        mut envelope: Box<Envelope>,
        outcome: Outcome,
        now: Timestamp,
    ) -> Settled {
        let mut reports = Vec::new();
        envelope.retry = envelope.retry.saturating_add(1);
        envelope.last_try = now;
        // A bounce envelope keeps the failure that it reports; why it could not be reported yet
        // is in the log.
        if !matches!(envelope.kind, Kind::Bounce(_)) {
            envelope.errorline = Some(Line::shortened(&outcome.text, MAX_ERRORLINE_BYTES));
            envelope.past = by(&outcome);
            envelope.status = Some(Status {
                class: 4,
                ..outcome.status
            });
            reports.extend(self.warn_of_delay(&mut envelope, now));
        }
        if let Err(error) = self.queue.update(&envelope) {
            // It is tried again all the same; a restart would only forget this failure.
            let id = envelope.id;
            disk_refused(
                &error,
                format_args!("tempfail: cannot update envelope {id}"),
            );
        }
        Settled::Again { envelope, reports }
    }

    /// Adds the delay warning that is due, if one is, and marks it as sent.
    fn warn_of_delay(&self, envelope: &mut Envelope, now: Timestamp) -> Option<Envelope> {
        let policy = self.policy.get();
        let ttl_s = policy.ttl_s(envelope);
        let base_s = backoff::base_s(policy.class(envelope));
        let created = backoff::believable(envelope.created, base_s, envelope.retry, ttl_s, now);
        // After one warning, an age that is only a guess is no reason for another.
        if created != envelope.created && envelope.last_bounce > Timestamp(0) {
            return None;
        }
        let interval_s =
            backoff::warning_due(created, envelope.last_bounce, &policy.bounce_warn_s, now)?;
        if !wants(envelope, Notify::DELAY) {
            return None;
        }
        let kind = BounceKind::Delayed {
            delay_s: interval_s,
            ttl_s,
        };
        match self.add_report(envelope, kind, now) {
            Ok(report) => {
                envelope.last_bounce = created.plus(u64::from(interval_s));
                Some(report)
            }
            Err(error) => {
                cannot_bounce(envelope.id, &error);
                None
            }
        }
    }

    /// `told` is the envelope as the report describes it; `cause` is what a retry would repeat.
    fn failed_for_good(
        &self,
        envelope: Box<Envelope>,
        told: Envelope,
        cause: Cause,
        now: Timestamp,
    ) -> Settled {
        let mut reports = Vec::new();
        if may_bounce(&envelope, &cause) {
            match self.add_report(&told, BounceKind::Failed, now) {
                Ok(report) => reports.push(report),
                Err(error) => {
                    cannot_bounce(envelope.id, &error);
                    if self.is_taken_away(envelope.id) {
                        return Settled::Gone { reports };
                    }
                    return Settled::Stuck {
                        envelope,
                        cause,
                        reports,
                    };
                }
            }
        }
        if cause == Cause::Expired {
            maillog::queue_expired(&envelope, now);
            stat::SCHEDULER_ENVELOPE_EXPIRED.inc();
        }
        self.remove(envelope, Cause::Finish, reports, now)
    }

    /// Whether somebody has taken an envelope out of the spool, or it can be read no more and was set
    /// aside: then there is nothing that a report could stand beside, now or later.
    fn is_taken_away(&self, id: EvpId) -> bool {
        match self.queue.load(id) {
            Err(error @ (LoadError::Missing | LoadError::Corrupt(_))) => {
                log::warn(format_args!("queue: envelope {id}: {}", why(&error)));
                true
            }
            Ok(_) | Err(LoadError::Io(_)) => false,
        }
    }

    /// Removes the envelope; `cause` is what is left to do when that fails.
    fn remove(
        &self,
        envelope: Box<Envelope>,
        cause: Cause,
        reports: Vec<Envelope>,
        now: Timestamp,
    ) -> Settled {
        if let Err(error) = self.queue.remove(envelope.id) {
            let id = envelope.id;
            disk_refused(&error, format_args!("cannot remove envelope {id}"));
            return Settled::Stuck {
                envelope,
                cause,
                reports,
            };
        }
        if cause == Cause::Removed {
            maillog::queue_removed(&envelope, now);
            stat::SCHEDULER_ENVELOPE_REMOVED.inc();
        }
        Settled::Gone { reports }
    }

    /// Makes a bounce envelope durable beside the envelope that it tells of. `told` has the last
    /// attempt in `last_try`.
    fn add_report(
        &self,
        told: &Envelope,
        kind: BounceKind,
        now: Timestamp,
    ) -> io::Result<Envelope> {
        let mut report = Envelope {
            kind: Kind::Bounce(kind),
            created: now,
            last_try: Timestamp(0),
            last_bounce: Timestamp(0),
            ttl_s: 0,
            retry: 0,
            past: Past {
                arrived: told.created,
                tried: told.last_try,
                ..told.past.clone()
            },
            ..told.clone()
        };
        report.flags.suspended = false;
        report.id = self.queue.add(&report)?;
        stat::QUEUE_BOUNCE.inc();
        Ok(report)
    }
}

/// The envelope with the failure that its report tells of.
fn with_failure(envelope: &Envelope, outcome: &Outcome, now: Timestamp) -> Envelope {
    Envelope {
        errorline: Some(Line::shortened(&outcome.text, MAX_ERRORLINE_BYTES)),
        status: Some(Status {
            class: 5,
            ..outcome.status
        }),
        past: by(outcome),
        last_try: now,
        ..envelope.clone()
    }
}

/// The envelope as the report of its expiry describes it. OpenSMTPD forgets the last real error
/// here; the sender wants to know it.
fn expired(envelope: &Envelope) -> Envelope {
    let text = Outcome::expired(envelope.errorline.as_deref());
    Envelope {
        errorline: Some(Line::shortened(&text, MAX_ERRORLINE_BYTES)),
        status: Some(Status::new(5, 4, 7)),
        ..envelope.clone()
    }
}

/// Whose reply decided the outcome.
fn by(outcome: &Outcome) -> Past {
    Past {
        remote: outcome.remote.as_ref().map(|remote| remote.name.clone()),
        ..Past::default()
    }
}

/// Whether a success is ours to report, and then whether as relayed. A host that offered DSN has
/// taken that over (RFC 3461 §5.2).
fn ours_to_tell(envelope: &Envelope, outcome: &Outcome) -> Option<bool> {
    match (&envelope.kind, &outcome.remote) {
        (Kind::Local(_), _) => Some(false),
        (Kind::Relay, Some(remote)) if remote.dsn == DsnOffer::NotOffered => Some(true),
        (Kind::Relay | Kind::Bounce(_), _) => None,
    }
}

/// Whether a failure for good is told to the sender; says why not where that is worth a line.
fn may_bounce(envelope: &Envelope, cause: &Cause) -> bool {
    if matches!(envelope.kind, Kind::Bounce(_)) {
        if *cause == Cause::Expired {
            log::warn(format_args!("queue: double bounce!"));
        }
        return false;
    }
    if envelope.sender.user().is_empty() {
        if !envelope.dsn.notify.has(Notify::NEVER) {
            log::warn(format_args!("queue: no return path!"));
        }
        return false;
    }
    wants(envelope, Notify::FAILURE)
}

/// Whether the sender wants to hear of `event`. RFC 3461 §4.1: a given NOTIFY decides alone, and
/// without one failures and delays are reported.
fn wants(envelope: &Envelope, event: u8) -> bool {
    let asked = envelope.dsn.notify;
    if envelope.sender.user().is_empty() || asked.has(Notify::NEVER) {
        return false;
    }
    if asked == Notify::default() {
        return event != Notify::SUCCESS;
    }
    asked.has(event)
}

fn cannot_bounce(id: EvpId, error: &io::Error) {
    disk_refused(
        error,
        format_args!("cannot bounce! envelope {id}: storing the report"),
    );
}

/// Says what the disk refused. The queue itself has told the log of a shortage, once for all.
pub(super) fn disk_refused(error: &io::Error, what: Arguments<'_>) {
    let line = format_args!("queue: {what}: {error}");
    if is_shortage(error) {
        log::debug(line)
    } else {
        log::warn(line)
    }
}

/// The reason in words.
pub(super) fn why(error: &LoadError) -> String {
    match error {
        LoadError::Missing => "it is gone".to_owned(),
        LoadError::Corrupt(why) => why.clone(),
        LoadError::Io(error) => error.to_string(),
    }
}

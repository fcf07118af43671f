//! What came of a delivery attempt.

use std::fmt;

use crate::util::Line;

/// An enhanced status code, RFC 3463: class.subject.detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// 2, 4 or 5.
    pub class: u8,
    /// The second number.
    pub subject: u8,
    /// The third number.
    pub detail: u8,
}

impl Status {
    /// class.subject.detail.
    pub const fn new(class: u8, subject: u8, detail: u8) -> Status {
        Status {
            class,
            subject,
            detail,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

const EXPIRED: &str = "Envelope expired";

/// The kinds of outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Done; the envelope goes.
    Delivered,
    /// Try again later.
    TempFail,
    /// Never: a bounce is stored, then the envelope goes.
    PermFail,
    /// The message was here before: as [`Verdict::PermFail`], status 5.4.6.
    Loop,
}

/// The outcome of one attempt for one envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which kind.
    pub verdict: Verdict,
    /// Status for the report.
    pub status: Status,
    /// Why, for the envelope's error line, the log and the report.
    pub text: Line,
    /// Whose reply `text` is, if it is one.
    pub remote: Option<Box<Remote>>,
}

/// The host whose reply decided an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its name, or its address where it has none (Remote-MTA).
    pub name: Line,
    /// Whether it offered DSN.
    pub dsn: DsnOffer,
}

/// Whether a host that took a message also took over telling the sender (RFC 3461 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnOffer {
    /// It was given NOTIFY and the rest.
    Offered,
    /// It knows nothing of them: a success is ours to report, as `relayed`.
    NotOffered,
}

impl Outcome {
    /// What is said of an envelope whose life time is over, with its last error.
    pub fn expired(last: Option<&str>) -> String {
        match last {
            Some(last) => format!("{EXPIRED}: {last}"),
            None => EXPIRED.to_owned(),
        }
    }

    /// The last error in a text of [`Outcome::expired`]; another text is one itself.
    pub fn last_error(text: &str) -> &str {
        text.strip_prefix(EXPIRED)
            .and_then(|rest| rest.strip_prefix(": "))
            .unwrap_or(text)
    }

    /// Success.
    pub fn delivered() -> Outcome {
        Outcome {
            verdict: Verdict::Delivered,
            status: Status::new(2, 0, 0),
            text: Line::default(),
            remote: None,
        }
    }

    /// A temporary failure with this status and text.
    pub fn temp(status: Status, text: Line) -> Outcome {
        Outcome {
            verdict: Verdict::TempFail,
            status,
            text,
            remote: None,
        }
    }

    /// A permanent failure with this status and text.
    pub fn perm(status: Status, text: Line) -> Outcome {
        Outcome {
            verdict: Verdict::PermFail,
            status,
            text,
            remote: None,
        }
    }

    /// A delivery loop.
    pub fn looped() -> Outcome {
        Outcome {
            verdict: Verdict::Loop,
            status: Status::new(5, 4, 6),
            text: Line::sanitize(b"Loop detected"),
            remote: None,
        }
    }

    /// The outcome, decided by a reply of `remote`.
    pub fn by(self, remote: Remote) -> Outcome {
        Outcome {
            remote: Some(Box::new(remote)),
            ..self
        }
    }
}

//! From the end of a delivery process to an outcome, and the words for it in the log.

use crate::mail::{Outcome, Status};
use crate::privsep::{MdaEnd, MdaRefusal, MdaResult};
use crate::util::Line;
use crate::util::sysexits;
use crate::util::vis::{self, Style};

/// An outcome with its part of the log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// For the runner.
    pub outcome: Outcome,
    /// `Ok`, `TempFail` or `PermFail`.
    pub result: &'static str,
    /// What follows `stat=`.
    pub stat: String,
}

/// The end of what a program wrote.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
}

/// How much of a program's output is kept.
const TAIL_MAX: usize = 4096;

/// Longest text in a log line and a report.
const TEXT_MAX: usize = 253;

impl Settled {
    /// The message is with its recipient.
    pub fn delivered() -> Settled {
        Settled {
            outcome: Outcome::delivered(),
            result: "Ok",
            stat: "Delivered".to_string(),
        }
    }

    /// The message was delivered to this recipient before.
    pub fn looped() -> Settled {
        Settled {
            outcome: Outcome::looped(),
            result: "PermFail",
            stat: "Loop detected".to_string(),
        }
    }

    /// Something of ours failed before or around the delivery; trying again may help.
    pub fn not_started(text: &str) -> Settled {
        let line = Line::sanitize(text.as_bytes());
        Settled {
            stat: line.to_string(),
            outcome: Outcome::temp(Status::new(4, 3, 0), line),
            result: "TempFail",
        }
    }

    /// A process was ended by `signal` or gave up; always temporary.
    pub fn temporary(text: &str) -> Settled {
        Settled::failed(None, Line::sanitize(text.as_bytes()), Failing::Temporary)
    }

    /// A program's exit code. `said` is the last line it wrote, `otherwise` what to say without.
    pub fn exited(code: i32, said: Option<Line>, otherwise: &str) -> Settled {
        let text = said.unwrap_or_else(|| Line::sanitize(otherwise.as_bytes()));
        match code {
            0 => Settled::delivered(),
            sysexits::OSERR | sysexits::TEMPFAIL => {
                Settled::failed(sysexit(code), text, Failing::Temporary)
            }
            code if OF_SIGNALS.contains(&code) => Settled::failed(None, text, Failing::Temporary),
            _ => Settled::failed(sysexit(code), text, Failing::Permanent),
        }
    }

    /// What the parent says of a delivery. `said` is the last line of its output.
    pub fn of(result: &MdaResult, said: Option<Line>) -> Settled {
        match result {
            MdaResult::Refused(why) => Settled::refused(why),
            MdaResult::Done(MdaEnd::Exited(code)) => {
                Settled::exited(*code, said, "exited abnormally")
            }
            MdaResult::Done(MdaEnd::Signaled(signal)) => {
                let text = format!("terminated; signal {signal}");
                Settled::temporary(said.as_deref().unwrap_or(&text))
            }
            MdaResult::Done(MdaEnd::TimedOut) => {
                Settled::temporary(said.as_deref().unwrap_or(TIMED_OUT))
            }
            MdaResult::Lost => Settled::temporary("lost the parent process"),
        }
    }

    fn refused(why: &MdaRefusal) -> Settled {
        // A user that cannot be found has words and a status of its own.
        let (outcome, result) = match why {
            MdaRefusal::NoLookup => {
                let text = Line::sanitize(TEMPORARY_LOOKUP.as_bytes());
                (Outcome::temp(Status::new(4, 1, 0), text), "TempFail")
            }
            MdaRefusal::NoUser => {
                let text = Line::sanitize(PERMANENT_LOOKUP.as_bytes());
                (Outcome::perm(Status::new(5, 1, 6), text), "PermFail")
            }
            // A refusal is a failure whatever its code says.
            MdaRefusal::Exit { code: 0, text } => return Settled::temporary(text),
            MdaRefusal::Exit { code, text } => {
                return Settled::exited(*code, Some(text.clone()), "");
            }
        };
        Settled {
            stat: outcome.text.to_string(),
            outcome,
            result,
        }
    }

    fn failed(sysexit: Option<&str>, text: Line, failing: Failing) -> Settled {
        let stat = match sysexit {
            Some(sysexit) => format!("Error ({sysexit}: {text})"),
            None => format!("Error ({text})"),
        };
        let (outcome, result) = match failing {
            Failing::Temporary => (Outcome::temp(Status::new(4, 3, 0), text), "TempFail"),
            Failing::Permanent => (Outcome::perm(Status::new(5, 3, 0), text), "PermFail"),
        };
        Settled {
            outcome,
            result,
            stat,
        }
    }
}

/// What sh(1) exits with when a signal has ended the last thing that it ran: 128 and the signal.
const OF_SIGNALS: std::ops::RangeInclusive<i32> = 129..=159;

enum Failing {
    Temporary,
    Permanent,
}

/// What is said when the userbase could not be asked.
const TEMPORARY_LOOKUP: &str = "Temporary failure in user lookup";

/// What is said when the userbase has no such user.
pub const PERMANENT_LOOKUP: &str = "Permanent failure in user lookup";

/// What is said when a delivery's time was over.
pub const TIMED_OUT: &str = "terminated; timeout";

fn sysexit(code: i32) -> Option<&'static str> {
    Some(match code {
        64 => "command line usage error",
        65 => "data format error",
        66 => "cannot open input",
        67 => "user unknown",
        68 => "host name unknown",
        69 => "service unavailable",
        70 => "internal software error",
        71 => "system resource problem",
        72 => "critical OS file missing",
        73 => "can't create user output file",
        74 => "input/output error",
        75 => "temporary failure",
        76 => "remote error in protocol",
        77 => "permission denied",
        78 => "local configuration error",
        _ => return None,
    })
}

impl Tail {
    /// Takes output of a command; only the last of it is kept.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let surplus = self.bytes.len().saturating_sub(TAIL_MAX);
        self.bytes.drain(..surplus);
    }

    /// The last line that is not empty, in quotes, with whatever is not plain text spelled out.
    pub fn last_line(&self) -> Option<Line> {
        quote_last_line(&self.bytes)
    }
}

/// The last line of `bytes` that is not empty, encoded as vis(3) does and put in quotes.
pub fn quote_last_line(bytes: &[u8]) -> Option<Line> {
    let line = bytes
        .rsplit(|byte| *byte == b'\n')
        .find(|line| !line.trim_ascii().is_empty())?;
    let mut text = String::from("\"");
    for byte in line {
        let before = text.len();
        vis::push(&mut text, *byte, Style::C);
        if text.len() > TEXT_MAX + 1 {
            text.truncate(before);
            break;
        }
    }
    text.push('"');
    Some(Line::sanitize(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Verdict;

    fn said(text: &str) -> Option<Line> {
        let mut tail = Tail::default();
        tail.push(text.as_bytes());
        tail.last_line()
    }

    fn exited(code: i32, text: &str) -> Settled {
        Settled::of(&MdaResult::Done(MdaEnd::Exited(code)), said(text))
    }

    #[test]
    fn exit_codes_become_outcomes() {
        // smtpd.conf(5), COMMANDS: 0 is success, 71, 75 and those of signals are temporary, all
        // others permanent.
        assert_eq!(exited(0, "noise\n"), Settled::delivered());
        for code in 1..=255 {
            let settled = exited(code, "");
            // A shell whose command was killed says so with 128 and the signal.
            let temporary = code == 71 || code == 75 || (129..160).contains(&code);
            let verdict = if temporary {
                Verdict::TempFail
            } else {
                Verdict::PermFail
            };
            assert_eq!(settled.outcome.verdict, verdict, "{code}");
            let status = if temporary { "4.3.0" } else { "5.3.0" };
            assert_eq!(settled.outcome.status.to_string(), status);
            assert_eq!(settled.outcome.text.as_str(), "exited abnormally");
            assert_eq!(
                settled.stat.contains(": "),
                (64..=78).contains(&code),
                "{code}"
            );
        }
    }

    #[test]
    fn log_texts_are_those_parsers_know() {
        // OpenSMTPD's texts, which log parsers know.
        let settled = exited(75, "mail.maildir: Permission denied\n");
        assert_eq!(
            settled.stat,
            "Error (temporary failure: \"mail.maildir: Permission denied\")"
        );
        assert_eq!(
            settled.outcome.text.as_str(),
            "\"mail.maildir: Permission denied\""
        );
        let settled = exited(127, "first\nsh: 1: nosuch: not found");
        assert_eq!(settled.stat, "Error (\"sh: 1: nosuch: not found\")");
        let settled = Settled::of(
            &MdaResult::Refused(MdaRefusal::Exit {
                code: 77,
                text: Line::new("MDA not allowed to deliver to: root").unwrap(),
            }),
            None,
        );
        assert_eq!(
            settled.stat,
            "Error (permission denied: MDA not allowed to deliver to: root)"
        );
        for (end, stat) in [
            (MdaEnd::Signaled(11), "Error (terminated; signal 11)"),
            (MdaEnd::TimedOut, "Error (terminated; timeout)"),
        ] {
            let settled = Settled::of(&MdaResult::Done(end), None);
            assert_eq!((settled.result, settled.stat.as_str()), ("TempFail", stat));
        }
        assert_eq!(Settled::of(&MdaResult::Lost, None).result, "TempFail");
    }

    #[test]
    fn a_user_that_is_not_found_has_its_own_status() {
        // RFC 3463 §3.2, X.1.6: the mailbox has moved, or is there no more.
        let refused = |why| Settled::of(&MdaResult::Refused(why), None);
        let exit = |code, text: &str| {
            let text = Line::new(text).unwrap();
            refused(MdaRefusal::Exit { code, text }).result
        };
        let settled = refused(MdaRefusal::NoUser);
        assert_eq!(settled.outcome.status.to_string(), "5.1.6");
        assert_eq!(
            (settled.result, settled.stat.as_str()),
            ("PermFail", PERMANENT_LOOKUP)
        );
        let settled = refused(MdaRefusal::NoLookup);
        assert_eq!(settled.outcome.status.to_string(), "4.1.0");
        assert_eq!(exit(67, "delivery user 'x' does not exist"), "PermFail");
        assert_eq!(exit(0, "odd"), "TempFail");
    }

    #[test]
    fn output_is_spelled_out_and_bounded() {
        // RFC 3464 §2.3.6: what a program says goes into the log and the report, one line each.
        for (text, line) in [
            (
                &b"a\r\nb\x1b[31m\tc\\d\n\n \n"[..],
                "\"b\\^[[31m\\tc\\\\d\"",
            ),
            (b"caf\xc3\xa9\x00\xff", "\"caf\\M-C\\M-)\\000\\M^?\""),
            (b"say \"hi\"", "\"say \"hi\"\""),
        ] {
            assert_eq!(quote_last_line(text).unwrap().as_str(), line);
        }
        assert_eq!(quote_last_line(b"\n\n"), None);
        let mut tail = Tail::default();
        for _ in 0..1000 {
            tail.push(&[b'x'; 5000]);
        }
        assert!(tail.bytes.len() <= TAIL_MAX);
        assert_eq!(tail.last_line().unwrap().len(), TEXT_MAX + 2);
        assert!(quote_last_line(&[0x80; 400]).unwrap().len() <= TEXT_MAX + 2);
    }
}

//! mail.lmtp(8): arguments, exit codes, and one message from standard input to an LMTP server.

use std::cell::Cell;
use std::env;
use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::client::{
    Hello, Message, Opening, Protocol, Recipient, Session, SessionError, Socket, Timeouts,
};
use crate::config::LmtpDest;
use crate::mail::{EvpId, MailAddr, Notify, Outcome, Verdict};
use crate::mda::{MdaError, conclude, lmtp::NAME};
use crate::sys::errno::strerror;
use crate::util::Line;
use crate::util::sysexits::{TEMPFAIL, UNAVAILABLE};

use super::mail_options::{lossy, refuse_root, words};

/// Runs mail.lmtp(8) and returns its exit code.
pub fn main() -> i32 {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let variable = |name: &str| env::var_os(name).map(lossy);
    let result = refuse_root()
        .map_err(|failure| temporary(failure.text))
        .and_then(|()| Options::parse(&args, &variable))
        .and_then(|options| deliver(&options));
    conclude(NAME, result)
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    dest: String,
    lhlo: String,
    from: String,
    users: Vec<String>,
}

impl Options {
    fn parse(
        args: &[OsString],
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Options, MdaError> {
        let words = words(args, "dlf");
        let (mut dest, mut lhlo, mut from) = (None, None, variable("SENDER"));
        let mut user = None;
        for (letter, value) in &words.letters {
            let value = value.as_ref().map(lossy);
            match letter {
                b'd' => dest = value,
                b'l' => lhlo = value,
                b'f' => from = value,
                b'r' => user = variable("RECIPIENT"),
                b'u' => user = variable("USER"),
                _ => {}
            }
        }
        let users = match user {
            Some(user) => vec![user],
            None => words.operands.iter().map(lossy).collect(),
        };
        if users.is_empty() {
            return Err(temporary("no recipient was specified"));
        }
        Ok(Options {
            dest: dest.ok_or_else(|| temporary("no destination was specified with -d"))?,
            lhlo: lhlo.unwrap_or_else(|| "localhost".to_owned()),
            from: from.ok_or_else(|| temporary("sender must be specified with -f"))?,
            users,
        })
    }
}

fn temporary(text: impl Into<String>) -> MdaError {
    MdaError::new(TEMPFAIL, text)
}

/// smtpd(8) kills a delivery after 300 seconds; so that it can be said why, no phase takes so long.
const PHASE_MAX: Duration = Duration::from_secs(280);
const QUIT_MAX: Duration = Duration::from_secs(2);

fn deliver(options: &Options) -> Result<(), MdaError> {
    let timeouts = Timeouts {
        quit: QUIT_MAX,
        ..Timeouts::default().at_most(PHASE_MAX)
    };
    let (socket, name) = connect(&options.dest, &timeouts)?;
    let hello = Hello {
        timeouts,
        ..Hello::new(Protocol::Lmtp, Line::sanitize(options.lhlo.as_bytes()))
    };
    let opening = Opening {
        hello,
        name: Line::sanitize(name.as_bytes()),
        upgrade: None,
        tap: None,
    };
    let mut session =
        Session::open(Box::new(socket), opening).map_err(|failure| match failure.reply {
            Some(_) => temporary(format!("LMTP server error: {failure}")),
            None => temporary(failure.to_string()),
        })?;
    let result = send(&mut session, options);
    session.quit();
    result
}

fn connect(dest: &str, timeouts: &Timeouts) -> Result<(Socket, String), MdaError> {
    let failed = |failure: SessionError| temporary(format!("connect: {failure}"));
    match LmtpDest::parse(dest) {
        Ok(LmtpDest::Socket(path)) => Socket::unix(&path, timeouts.connect)
            .map(|socket| (socket, "localhost".to_owned()))
            .map_err(failed),
        Ok(LmtpDest::Host { name, port }) => {
            let addrs = (name.as_str(), port)
                .to_socket_addrs()
                .map_err(|error| temporary(format!("inet: {}", strerror(&error))))?;
            let mut last = temporary("inet: Name or service not known");
            for addr in addrs {
                match to_addr(addr, timeouts) {
                    Ok(socket) => return Ok((socket, name)),
                    Err(failure) => last = failed(failure),
                }
            }
            Err(last)
        }
        Err(_) => Err(temporary("inet: Name or service not known")),
    }
}

fn to_addr(addr: SocketAddr, timeouts: &Timeouts) -> Result<Socket, SessionError> {
    Socket::tcp(addr, None, timeouts.connect)
}

/// One message to all. Standard input can be read once; recipients that the server would have in
/// a transaction of their own are a temporary failure.
fn send(session: &mut Session, options: &Options) -> Result<(), MdaError> {
    let sender = match options.from.as_str() {
        "" | "@" => MailAddr::null(),
        // A sender without a domain passes as it is.
        from => MailAddr::from_stored(from)
            .or_else(|| MailAddr::new(from, "").ok())
            .ok_or_else(|| temporary("the sender is not an address"))?,
    };
    let unread = Cell::new(true);
    let content = || {
        if unread.replace(false) {
            Ok(io::stdin())
        } else {
            Err(io::Error::from(io::ErrorKind::UnexpectedEof))
        }
    };
    let message = Message {
        sender,
        size_bytes: None,
        // It is read only once.
        eight_bit: true,
        ret: None,
        envid: None,
        content: &content,
    };
    let recipients: Vec<Recipient> = (1..)
        .zip(&options.users)
        .filter_map(|(number, user)| recipient(number, user))
        .collect();
    if recipients.len() < options.users.len() {
        return Err(temporary("too many recipients"));
    }
    let transacted = session.transaction(&message, recipients);
    if !transacted.untried.is_empty() {
        return Err(temporary("LMTP server takes no more recipients"));
    }
    conclusion(transacted.settled.iter().map(|(_, outcome)| outcome))
}

fn recipient(number: u32, user: &str) -> Option<Recipient> {
    let id = EvpId::from_u64(1 << 32 | u64::from(number))?;
    Some(Recipient {
        id,
        to: Line::sanitize(user.as_bytes()),
        notify: Notify::default(),
        orcpt: None,
    })
}

/// One failure for all: a temporary one goes before one for good, so that nobody is left out.
fn conclusion<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Result<(), MdaError> {
    let mut result = Ok(());
    for outcome in outcomes {
        let code = match outcome.verdict {
            Verdict::Delivered => continue,
            Verdict::TempFail => TEMPFAIL,
            Verdict::PermFail | Verdict::Loop => UNAVAILABLE,
        };
        let said = match outcome.remote {
            Some(_) => format!("LMTP server error: {}", outcome.text),
            None => outcome.text.to_string(),
        };
        match &result {
            Err(MdaError { code: TEMPFAIL, .. }) => {}
            _ => result = Err(MdaError::new(code, said)),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Status;

    fn parse(args: &[&str], environment: &[(&str, &str)]) -> Result<Options, String> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Options::parse(&args, &variable).map_err(|failure| {
            assert_eq!(failure.code, 75);
            failure.text
        })
    }

    #[test]
    fn sender_and_recipient_come_from_options_or_the_environment() {
        // mail.lmtp(8).
        let environment = [
            ("SENDER", "al@e.org"),
            ("RECIPIENT", "bob@e.net"),
            ("USER", "bob"),
        ];
        let options = |from: &str, users: &[&str]| {
            Ok(Options {
                dest: "/s".to_owned(),
                lhlo: "localhost".to_owned(),
                from: from.to_owned(),
                users: users.iter().map(ToString::to_string).collect(),
            })
        };
        assert_eq!(
            parse(&["-d", "/s", "-u"], &environment),
            options("al@e.org", &["bob"])
        );
        assert_eq!(
            parse(&["-d/s", "-r"], &environment),
            options("al@e.org", &["bob@e.net"])
        );
        let given = parse(&["-d", "/s", "-f", "x@y", "a", "b"], &environment);
        assert_eq!(given, options("x@y", &["a", "b"]));
        let null = parse(&["-d", "/s", "a"], &[("SENDER", "")]);
        assert_eq!(null, options("", &["a"]));
        let error = |text: &str| Err(text.to_owned());
        assert_eq!(
            parse(&["-d", "/s", "a"], &[]),
            error("sender must be specified with -f")
        );
        assert_eq!(
            parse(&["-d", "/s"], &environment),
            error("no recipient was specified")
        );
        assert_eq!(
            parse(&["-u"], &environment),
            error("no destination was specified with -d")
        );
    }

    #[test]
    fn one_temporary_failure_makes_all_temporary() {
        // mail.lmtp(8), EXIT STATUS: 75 is tried again, 69 is not.
        let text = |text: &str| Line::new(text).unwrap();
        let good = Outcome::delivered();
        let later = Outcome::temp(Status::new(4, 0, 0), text("450 later"));
        let never = Outcome::perm(Status::new(5, 0, 0), text("550 never"));
        let code = |outcomes: &[&Outcome]| {
            conclusion(outcomes.iter().copied()).map_err(|failure| failure.code)
        };
        assert_eq!(code(&[&good, &good]), Ok(()));
        assert_eq!(code(&[&good, &never]), Err(69));
        assert_eq!(code(&[&never, &later, &never]), Err(75));
    }
}

//! `--replay`: a message that was stored while the daemon could not take it, by the daemon in its
//! writer's name.
//!
//! Promises: each recipient is judged alone. Those whom the daemon takes get the message, and are
//! marked in the file, so that they get it once; of those whom it refuses for good the writer gets
//! a report, or finds the message in `dead.letter` where that cannot be; the others are tried
//! again, for four days at most. Exit 0 means that the file has done its duty. It sends the message,
//! or the report, only while there is time to wait for the reply: the parent ends a replay that is
//! too old, and one that is ended then would send it twice.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::cli::caller::Environment;
use crate::cli::exit_error::ExitError;
use crate::cli::instance::server_name;
use crate::mail::Outcome;
use crate::parent::REPLAY_TIME;
use crate::util::{Timestamp, sysexits};

use super::offline::{self, Opened, Stored};
use super::options::{self, Mode, Options};
use super::report;
use super::submit::{self, Letter, Share};
use super::{Draft, Login, dead_letter, give_up};

/// How old a replay may be when it asks for one more recipient.
pub(super) const ASKS: Duration = Duration::from_secs(120);
/// The same when it ends the message: from then on nothing but the reply says who has it.
pub(super) const SENDS: Duration =
    Duration::from_secs(REPLAY_TIME.as_secs() - submit::REPLY_TIMEOUT.as_secs() - MARGIN_S);
/// For the last of the message to go out, and for marking who has it.
const MARGIN_S: u64 = 60;

/// Brings in the message that is stored in `file`.
pub fn run(env: &mut Environment<'_>, file: &File) -> Result<i32, ExitError> {
    let started = Instant::now();
    run_at(env, file, &|| started.elapsed())
}

/// The same in a process of this age.
pub(super) fn run_at(
    env: &mut Environment<'_>,
    file: &File,
    age: &dyn Fn() -> Duration,
) -> Result<i32, ExitError> {
    give_up(env)?;
    let now = Timestamp::now();
    let mut input = BufReader::new(file);
    match offline::read(&mut input)? {
        Stored::Letter(opened) => {
            let Opened {
                letter,
                date,
                places,
                message_at,
            } = opened;
            let caller = (env.caller)(Login::Ignored);
            let mut replay = Replay {
                env,
                letter,
                home: caller.home,
                marks: Some((file, places)),
                share: Share::Some,
                asks: ASKS,
                age,
                expired: is_expired(date, now),
                message: Box::new(move || {
                    let mut file = file;
                    file.seek(SeekFrom::Start(message_at))?;
                    Ok(Box::new(file))
                }),
            };
            replay.run(now)
        }
        Stored::Arguments(words) => {
            let options = Options {
                login: Login::Ignored,
                ..options::parse(words)?
            };
            if options.mode != Mode::Submit {
                return Err(ExitError::with(
                    sysexits::USAGE,
                    "offline file asks for no mail",
                ));
            }
            let mut draft = Draft::read(&options, env, &mut input)?;
            if let Err(failure) = draft.address(&options, env) {
                return kept(draft.save_dead_letter(failure));
            }
            let written = file.metadata().map_or(0, |found| found.mtime());
            let written = u64::try_from(written).unwrap_or_default();
            let expired = is_expired(Timestamp(written), now);
            // Nothing can be marked in such a file: there is no other part of it for the next time.
            let share = if expired {
                Share::Some
            } else {
                Share::AllOrNone
            };
            let mut replay = Replay {
                env,
                letter: draft.letter.clone(),
                home: draft.home.clone(),
                marks: None,
                share,
                asks: Duration::MAX,
                age,
                expired,
                message: Box::new(move || Ok(Box::new(draft.composed()?))),
            };
            replay.run(now)
        }
    }
}

/// A refused message that its writer has is no matter of the offline queue any more.
fn kept(failure: ExitError) -> Result<i32, ExitError> {
    let code = match failure.code {
        sysexits::TEMPFAIL => sysexits::TEMPFAIL,
        _ => sysexits::OK,
    };
    Err(ExitError { code, ..failure })
}

/// How long the daemon may put a recipient off: as long as its queue tries by default.
const LIFE_S: u64 = 4 * 86_400;

fn is_expired(written: Timestamp, now: Timestamp) -> bool {
    now.0.saturating_sub(written.0) >= LIFE_S
}

/// Opens the message.
type Message<'f> = Box<dyn FnMut() -> io::Result<Box<dyn Read + 'f>> + 'f>;

struct Replay<'a, 'w, 'f> {
    env: &'a Environment<'w>,
    letter: Letter,
    home: Option<std::path::PathBuf>,
    /// The file, and where it names each recipient.
    marks: Option<(&'f File, Vec<u64>)>,
    share: Share,
    /// At what age it leaves the others to the next replay.
    asks: Duration,
    age: &'a dyn Fn() -> Duration,
    expired: bool,
    message: Message<'f>,
}

impl Replay<'_, '_, '_> {
    fn run(&mut self, now: Timestamp) -> Result<i32, ExitError> {
        let mut open: Vec<usize> = (0..self.letter.recipients.len()).collect();
        let mut refused = Vec::new();
        let mut put_off = None;
        while !open.is_empty() {
            let pass = self.pass(&open)?;
            self.settle(&pass.accepted)?;
            let progress = !pass.accepted.is_empty() || !pass.refused.is_empty();
            refused.extend(pass.refused);
            open = pass.put_off.iter().map(|(at, _)| *at).collect();
            if open.is_empty() || (progress && (self.age)() < self.asks) {
                continue;
            }
            if self.expired && !progress {
                let late = |(at, why): (usize, String)| (at, Outcome::expired(Some(&why)));
                refused.extend(pass.put_off.into_iter().map(late));
            } else {
                put_off = pass.put_off.into_iter().next();
            }
            break;
        }
        let told = if refused.is_empty() {
            None
        } else {
            Some(self.tell_writer(&refused, now)?)
        };
        self.settle(&refused.iter().map(|(at, _)| *at).collect::<Vec<_>>())?;
        match (put_off, told) {
            (Some((_, why)), _) => Err(ExitError::with(sysexits::TEMPFAIL, why)),
            (None, Some(told)) => Err(ExitError::with(sysexits::OK, told)),
            (None, None) => Ok(0),
        }
    }

    fn pass(&mut self, open: &[usize]) -> Result<submit::Pass, ExitError> {
        let stream = submit::session(&self.env.paths.socket).map_err(not_now)?;
        let (message, age, asks) = (&mut self.message, self.age, self.asks);
        let body = |out: &mut dyn Write| {
            in_time(age)?;
            io::copy(&mut message()?, out)?;
            in_time(age)
        };
        Ok(submit::submit_each(
            &stream,
            &self.letter,
            open,
            self.share,
            &|| age() >= asks,
            body,
        ))
    }

    /// Marks recipients; where nothing can be marked, the file goes as a whole.
    fn settle(&self, recipients: &[usize]) -> Result<(), ExitError> {
        let Some((file, places)) = &self.marks else {
            return Ok(());
        };
        let marked = recipients
            .iter()
            .filter_map(|at| places.get(*at))
            .try_for_each(|place| offline::settle(file, *place))
            .and_then(|()| {
                if recipients.is_empty() {
                    Ok(())
                } else {
                    file.sync_data()
                }
            });
        marked.map_err(|e| ExitError::io("offline file", &e))
    }

    /// Sees to it that the writer hears of it; says how.
    fn tell_writer(
        &mut self,
        refused: &[(usize, String)],
        now: Timestamp,
    ) -> Result<String, ExitError> {
        let what = self.sum_up(refused);
        let broken = |e: io::Error| ExitError::with(sysexits::TEMPFAIL, e.to_string());
        if !report::is_wanted(&self.letter) {
            return Ok(format!("{what}; no report was asked for"));
        }
        if !self.letter.sender.is_empty() {
            let server = server_name(&self.env.paths).unwrap_or_default();
            let message = BufReader::new((self.message)().map_err(broken)?);
            let text = report::compose(&self.letter, refused, message, (&server, now));
            let letter = Letter {
                recipients: vec![self.letter.sender.clone()],
                ..Letter::default()
            };
            let age = self.age;
            let body = |out: &mut dyn Write| {
                in_time(age)?;
                out.write_all(&text)?;
                in_time(age)
            };
            let pass = submit::session(&self.env.paths.socket).map(|stream| {
                submit::submit_each(&stream, &letter, &[0], Share::Some, &|| false, body)
            });
            let writer = String::from_utf8_lossy(&self.letter.sender).into_owned();
            let why = match pass {
                Ok(pass) if !pass.accepted.is_empty() => {
                    return Ok(format!("{what}; reported to <{writer}>"));
                }
                Ok(pass) => pass.put_off.into_iter().next().map(|(_, why)| why),
                Err(why) => Some(why),
            };
            // Where nobody can be marked, those who have it would get it again with the next try.
            if let (Some(why), Some(_)) = (why, &self.marks) {
                let text = format!("{what}; not yet reported to <{writer}>: {why}");
                return Err(ExitError::with(sysexits::TEMPFAIL, text));
            }
        }
        let sender = String::from_utf8_lossy(&self.letter.sender).into_owned();
        let mut message = (self.message)().map_err(broken)?;
        let kept = match &self.home {
            Some(home) => dead_letter::append(home, &sender, now, &mut message),
            None => Err("no home directory".to_owned()),
        };
        match kept {
            Ok(()) => Ok(format!("{what}; left in dead.letter")),
            Err(why) => {
                let text = format!("{what}; dead.letter: {why}");
                Err(ExitError::with(sysexits::TEMPFAIL, text))
            }
        }
    }

    fn sum_up(&self, refused: &[(usize, String)]) -> String {
        let Some((at, reply)) = refused.first() else {
            return String::new();
        };
        let rcpt = self
            .letter
            .recipients
            .get(*at)
            .map(|rcpt| String::from_utf8_lossy(rcpt));
        let others = match refused.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        format!("<{}>{others}: {reply}", rcpt.unwrap_or_default())
    }
}

/// Whether there is time to wait for the reply to the end of a message.
fn in_time(age: &dyn Fn() -> Duration) -> io::Result<()> {
    match age() {
        age if age < SENDS => Ok(()),
        _ => Err(io::Error::other("the daemon was too slow")),
    }
}

/// The daemon takes nothing: it is no fault of this message.
fn not_now(why: String) -> ExitError {
    ExitError::with(sysexits::UNAVAILABLE, why)
}

//! sendmail(8): takes a message from a program or a person and gives it to the daemon.
//!
//! Promises: exit 0 means that the message is the daemon's, or safely stored for it; anything
//! else means that it is not, and that a refused one lies in `dead.letter`. Arguments and
//! environment are any caller's: none of them reaches a shell, a path or a second line.

pub mod address;
pub mod compose;
pub mod dead_letter;
pub mod intake;
pub mod offline;
pub mod options;
pub mod relay;
pub mod submit;

use std::ffi::OsStr;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::config::paths::Paths;
use crate::control::client::{Client, Error};
use crate::control::{Answer, Ask, Which};
use crate::sys::errno::strerror;
use crate::sys::localtime::rfc5322_date;
use crate::util::Timestamp;
use crate::util::sysexits;

use super::caller::{Caller, Login};
use super::failure::Failure;
use super::instance::{may_control, offline_dir, server_name};
use super::personality::{Group, World};
use super::{mailq, newaliases};
use compose::Author;
use intake::Message;
use offline::Stored;
use options::{Mode, Options};
use submit::{Letter, Undelivered, disallowed};

/// The command line of sendmail(8), without the program's name.
pub fn run(words: Vec<Vec<u8>>, world: &mut World<'_>) -> Result<i32, Failure> {
    let options = options::parse(words)?;
    if options.mode == Mode::Submit {
        return send(&options, world);
    }
    give_up(world)?;
    match &options.mode {
        Mode::Smtp => relay::run(world),
        Mode::PrintQueue => mailq::run(&world.paths, world.uid, world.output),
        Mode::InitAliases { source } => {
            let source = source.as_deref().map(OsStr::from_bytes).map(Path::new);
            newaliases::init(source, &world.paths, world.uid, world.output)
        }
        Mode::Flush | Mode::Submit => flush(&world.paths, world.uid),
    }
}

/// `--replay`: a stored message on standard input, by the daemon in its writer's name.
pub fn replay(world: &mut World<'_>) -> Result<i32, Failure> {
    give_up(world)?;
    let mut input = BufReader::new(take_input(world));
    let sent = match offline::read(&mut input)? {
        Stored::Letter(letter) => {
            let client = Client::connect(&world.paths.socket).map_err(later)?;
            let stream = client.submit().map_err(disallowed)?;
            let body = |out: &mut dyn Write| io::copy(&mut input, out).map(drop);
            submit::submit(&stream, &letter, body, None)
        }
        Stored::Arguments(words) => {
            let options = Options {
                login: Login::Ignored,
                ..options::parse(words)?
            };
            if options.mode != Mode::Submit {
                return Err(Failure::with(
                    sysexits::USAGE,
                    "offline file asks for no mail",
                ));
            }
            let mut draft = Draft::new(&options, world, &mut input)?;
            let client = Client::connect(&world.paths.socket).map_err(later)?;
            let stream = client.submit().map_err(disallowed)?;
            let letter = draft.letter.clone();
            submit::submit(&stream, &letter, |out| draft.write(out), None)
        }
    };
    match sent {
        Ok(()) => Ok(0),
        // Later the daemon may say otherwise.
        Err(Undelivered::Refused(reply)) if reply.starts_with('4') => Err(Failure {
            code: sysexits::TEMPFAIL,
            ..refusal(&reply)
        }),
        Err(Undelivered::Refused(reply)) => Err(refusal(&reply)),
        Err(Undelivered::Failed(failure)) => Err(failure),
    }
}

fn send(options: &Options, world: &mut World<'_>) -> Result<i32, Failure> {
    let mut input = take_input(world);
    let mut draft = Draft::new(options, world, &mut *input)?;
    match Client::connect(&world.paths.socket) {
        Ok(client) => {
            give_up(world)?;
            deliver(client, &mut draft, options.verbose, world.output)
        }
        Err(Error::Down) => {
            store(&mut draft, &world.paths, std::mem::take(&mut world.group))?;
            Ok(0)
        }
        Err(error) => Err(later(error)),
    }
}

fn deliver(
    client: Client,
    draft: &mut Draft,
    verbose: bool,
    output: &mut dyn Write,
) -> Result<i32, Failure> {
    let stream = client.submit().map_err(disallowed)?;
    let letter = draft.letter.clone();
    let dialogue = verbose.then_some(output);
    match submit::submit(&stream, &letter, |out| draft.write(out), dialogue) {
        Ok(()) => Ok(0),
        Err(Undelivered::Failed(failure)) => Err(failure),
        Err(Undelivered::Refused(reply)) => {
            let mut failure = refusal(&reply);
            if let Err(why) = draft.bury() {
                failure.text.push_str(&format!("; dead.letter: {why}"));
            }
            Err(failure)
        }
    }
}

fn store(draft: &mut Draft, paths: &Paths, group: Group) -> Result<(), Failure> {
    let dir = offline_dir(paths);
    let letter = draft.letter.clone();
    let now = Timestamp::now();
    group
        .spend(|| offline::store(&dir, &letter, now, &mut |out| draft.write(out)))
        .map_err(|e| Failure::io("setresgid", &e))?
}

/// `-q`: the daemon tries everything now.
fn flush(paths: &Paths, uid: u32) -> Result<i32, Failure> {
    if !may_control(paths, uid) {
        return Err(Failure::with(sysexits::NOPERM, "need root privileges"));
    }
    let mut client = Client::connect(&paths.socket).map_err(later)?;
    match client.ask(&Ask::Schedule(Which::All))? {
        Answer::Count(_) | Answer::Ok => Ok(0),
        Answer::Fail(why) => Err(Error::Refused(why).into()),
        _ => Err(Error::Unexpected.into()),
    }
}

/// A daemon that is down, or too busy to be reached, may be up later.
fn later(error: Error) -> Failure {
    match error {
        Error::Down | Error::Connect(_) => Failure::with(sysexits::TEMPFAIL, error.to_string()),
        other => other.into(),
    }
}

fn refusal(reply: &str) -> Failure {
    Failure::with(sysexits::SOFTWARE, format!("command failed: {reply}"))
}

fn give_up(world: &mut World<'_>) -> Result<(), Failure> {
    std::mem::take(&mut world.group)
        .give_up()
        .map_err(|e| Failure::io("setresgid", &e))
}

fn take_input(world: &mut World<'_>) -> Box<dyn Read + Send> {
    std::mem::replace(&mut world.input, Box::new(io::empty()))
}

/// A message that is ready to go, with its envelope.
struct Draft {
    letter: Letter,
    message: Message,
    author: Author,
    home: Option<PathBuf>,
}

impl Draft {
    /// Puts the command line, the caller and the message together.
    fn new(options: &Options, world: &World<'_>, input: &mut dyn Read) -> Result<Draft, Failure> {
        let server = server_name(&world.paths)
            .ok_or_else(|| Failure::with(sysexits::NOHOST, "no server name"))?;
        let given = options.sender.as_deref().map(address::sender).transpose()?;
        for (value, what) in [
            (&options.notify, "-N"),
            (&options.ret, "-R"),
            (&options.envid, "-V"),
        ] {
            address::check(value.as_deref().unwrap_or_default(), what)?;
        }
        let mut recipients = Vec::new();
        for word in &options.operands {
            recipients.append(&mut address::operand(word)?);
        }
        let mut message = Message::read(input, options.recipients)?;
        recipients.append(&mut message.recipients);
        match recipients.len() {
            0 => return Err(Failure::with(sysexits::SOFTWARE, "no recipients")),
            1..=address::MOST_ADDRESSES => {}
            _ => return Err(address::too_many()),
        }
        let caller = (world.caller)(options.login);
        let name = author_name(options, &caller);
        let sender = given
            .or(message.from.take())
            .unwrap_or_else(|| caller.login.clone().into_bytes());
        let qualify = |address| address::qualify(address, &server);
        let sender = qualify(sender);
        let author = match sender.is_empty() {
            true => qualify(b"MAILER-DAEMON".to_vec()),
            false => sender.clone(),
        };
        Ok(Draft {
            letter: Letter {
                sender,
                recipients: recipients.into_iter().map(qualify).collect(),
                ret: options.ret.clone(),
                envid: options.envid.clone(),
                notify: options.notify.clone(),
            },
            message,
            author: Author {
                name,
                address: author,
                date: rfc5322_date(Timestamp::now().0),
            },
            home: caller.home,
        })
    }

    fn write(&mut self, out: &mut dyn Write) -> io::Result<()> {
        compose::write(&mut self.message, &self.author, out)
    }

    /// Leaves the message with its writer.
    fn bury(&mut self) -> Result<(), String> {
        let home = self.home.clone().ok_or("no home directory")?;
        dead_letter::write(&home, &mut |out| self.write(out)).map_err(|e| strerror(&e))
    }
}

/// `-F`; without it and without `-f`, what passwd(5) says.
fn author_name(options: &Options, caller: &Caller) -> Vec<u8> {
    match (&options.full_name, &options.sender) {
        (Some(name), _) => name.clone(),
        (None, Some(_)) => Vec::new(),
        (None, None) => caller.full_name.clone().into_bytes(),
    }
}

#[cfg(test)]
mod tests;
